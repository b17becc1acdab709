//! `reset`, `shutdown`, `enable`: commands for one peer of one speaker.

use proto::speaker::v1::{
    CommandResponse, EnablePeerRequest, ResetPeerRequest, ShutdownPeerRequest,
};
use tonic::{Response, Status};

use crate::cli::{Enable, Reset, Shutdown};
use crate::client::{Connector, Speaker};
use crate::error::Failure;
use crate::output::Output;

pub(crate) async fn reset(
    arguments: &Reset,
    connector: &Connector<'_>,
    output: &Output,
) -> Result<(), Failure> {
    let mut speaker = connector.one_speaker("reset").await?;
    let request = ResetPeerRequest {
        peer: arguments.peer.clone(),
        soft: arguments.soft,
        message: arguments.message.clone(),
    };
    let answer = speaker.client.reset_peer(request).await;
    told(&speaker, answer, *output)
}

pub(crate) async fn shutdown(
    arguments: &Shutdown,
    connector: &Connector<'_>,
    output: &Output,
) -> Result<(), Failure> {
    let mut speaker = connector.one_speaker("shutdown").await?;
    let request = ShutdownPeerRequest {
        peer: arguments.peer.clone(),
        message: arguments.message.clone(),
    };
    let answer = speaker.client.shutdown_peer(request).await;
    told(&speaker, answer, *output)
}

pub(crate) async fn enable(
    arguments: &Enable,
    connector: &Connector<'_>,
    output: &Output,
) -> Result<(), Failure> {
    let mut speaker = connector.one_speaker("enable").await?;
    let request = EnablePeerRequest {
        peer: arguments.peer.clone(),
    };
    let answer = speaker.client.enable_peer(request).await;
    told(&speaker, answer, *output)
}

/// What the speaker said it did.
fn told(
    speaker: &Speaker,
    answer: Result<Response<CommandResponse>, Status>,
    output: Output,
) -> Result<(), Failure> {
    let text = answer
        .map_err(|status| speaker.refused(status))?
        .into_inner()
        .text;
    if output.is_table() {
        let mut writer = output.writer();
        std::io::Write::write_all(&mut writer, format!("{text}\n").as_bytes())?;
        return Ok(std::io::Write::flush(&mut writer)?);
    }
    output.print_value(&serde_json::json!({ "text": text }))
}

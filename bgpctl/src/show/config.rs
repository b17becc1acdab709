//! `show config`: what a node's speaker was told.

use plan::{NodeConfig, wire};
use proto::controller::v1::GetNodeConfigRequest;
use proto::speaker::v1::GetConfigRequest;

use crate::client::{Connector, controller_refused, nodes};
use crate::error::Failure;
use crate::output::Output;
use crate::show::Missing;

/// The speaker's own answer is what is in force; the controller's is what it has for the node,
/// connected or not. There are no columns for it: a table is YAML too.
pub(crate) async fn show(connector: &Connector<'_>, output: Output) -> Result<usize, Failure> {
    if !connector.asks_controller() {
        let mut speaker = connector.one_speaker("show config").await?;
        let answer = speaker.client.get_config(GetConfigRequest {}).await;
        let answer = answer.map_err(|status| speaker.refused(status))?;
        output.print_value(&config(answer.into_inner())?)?;
        return Ok(0);
    }
    let mut admin = connector.controller().await?;
    let names = match connector.named_nodes() {
        [] => nodes(&mut admin)
            .await?
            .into_iter()
            .map(|node| node.name)
            .collect(),
        names => names.to_vec(),
    };
    let alone = names.len() == 1;
    let mut missing = Missing::new(output, alone, Vec::new());
    let mut list = output.list();
    for node in names {
        let answer = admin.get_node_config(GetNodeConfigRequest { node }).await;
        let answer = answer
            .map_err(controller_refused)
            .and_then(|answer| config(answer.into_inner()));
        match answer {
            Ok(config) if alone => output.print_value(&config)?,
            Ok(config) => list.push(&config)?,
            Err(failure) => missing.note(failure)?,
        }
    }
    if !alone {
        list.finish()?;
    }
    Ok(missing.finish())
}

fn config(answer: proto::controller::v1::NodeConfig) -> Result<NodeConfig, Failure> {
    wire::from_proto(answer).map_err(|error| Failure::Answer(error.to_string()))
}

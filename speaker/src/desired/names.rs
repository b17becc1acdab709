//! Names of containers: ours to the controller, those of other nodes from it. See `ConfigService.Names`.

use std::sync::Arc;
use std::time::Duration;

use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::controller::{Caller, LARGEST_MESSAGE};
use crate::names::Exchange;

/// Between attempts; and where the controller is too old to know of names.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_OLD: Duration = Duration::from_secs(60);
/// What was heard is on disk so soon.
const KEEP: Duration = Duration::from_secs(2);

/// A stream of names that is kept open until this is dropped, while names are answered.
pub(super) struct Names(JoinHandle<()>);

impl Drop for Names {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Names {
    /// Tells and hears over this channel.
    pub(super) fn exchange(channel: Channel, caller: Caller, exchange: Arc<Exchange>) -> Names {
        Names(tokio::spawn(async move {
            let mut wanted = exchange.ours();
            loop {
                if wanted.wait_for(Option::is_some).await.is_err() {
                    return; // the speaker is stopping
                }
                let ended = tokio::select! {
                    ended = once(channel.clone(), &caller, &exchange) => ended,
                    Ok(_) = wanted.wait_for(Option::is_none) => Ok(()),
                };
                let Err(status) = ended else { continue };
                if status.code() == Code::Unimplemented {
                    tracing::info!(
                        "this controller is too old for names of other nodes' containers"
                    );
                    sleep(RETRY_OLD).await;
                } else {
                    tracing::warn!(%status, "names are not exchanged with other nodes");
                    sleep(RETRY).await;
                }
            }
        }))
    }
}

async fn once(channel: Channel, caller: &Caller, exchange: &Arc<Exchange>) -> Result<(), Status> {
    let ours = WatchStream::new(exchange.ours()).map(Option::unwrap_or_default);
    let mut client = ConfigServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let mut others = client.names(caller.request(ours)).await?.into_inner();
    let mut keep_at = None;
    loop {
        let heard = tokio::select! {
            heard = others.message() => heard?,
            () = sleep_until(keep_at.unwrap_or_else(Instant::now)), if keep_at.is_some() => {
                keep_at = None;
                keep(exchange).await;
                continue;
            }
        };
        let Some(heard) = heard else {
            return Err(Status::unavailable("the controller closed the stream"));
        };
        hear(exchange, heard);
        keep_at.get_or_insert_with(|| Instant::now() + KEEP);
    }
}

fn hear(exchange: &Exchange, heard: pb::OtherNames) {
    tracing::debug!(nodes = heard.changed.len(), "names of other nodes");
    exchange.hear(heard);
}

async fn keep(exchange: &Arc<Exchange>) {
    let exchange = Arc::clone(exchange);
    let kept = tokio::task::spawn_blocking(move || exchange.keep()).await;
    if let Ok(Err(error)) = kept {
        tracing::warn!(%error, "the next start will not know the names of other nodes");
    }
}

//! Keys out of Secrets, from the controller into the vault. See `ConfigService.Keys`.

use std::sync::Arc;
use std::time::Duration;

use keys::Receiver;
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::controller::Caller;
use crate::keys::{Sealed, Vault};

/// Between attempts.
const RETRY: Duration = Duration::from_secs(2);

/// A stream of keys that is kept open until this is dropped, while any are wanted.
pub(super) struct Keys(JoinHandle<()>);

impl Drop for Keys {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keys {
    /// Fills the vault over this channel.
    pub(super) fn fetch(channel: Channel, caller: Caller, vault: Arc<Vault>) -> Keys {
        Keys(tokio::spawn(async move {
            let mut wanted = vault.wanted();
            loop {
                if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
                    return; // the speaker is stopping
                }
                let fetched = tokio::select! {
                    fetched = once(channel.clone(), &caller, &vault) => fetched,
                    Ok(_) = wanted.wait_for(|wanted| wanted.is_empty()) => Ok(()),
                };
                if let Err(status) = fetched {
                    tracing::warn!(%status, "the controller sends no keys out of Secrets");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }))
    }
}

/// Takes answers until the stream ends; each is for a receiver of its own.
async fn once(channel: Channel, caller: &Caller, vault: &Vault) -> Result<(), Status> {
    let (requests, queue) = mpsc::channel(1);
    let ask = |receiver: &Receiver| {
        let public_key = receiver.public().to_vec();
        requests.try_send(pb::KeyRequest { public_key })
    };
    let mut receiver = new_receiver()?;
    // There is room for one, and one is asked for at a time.
    let _ = ask(&receiver);
    let mut client = ConfigServiceClient::new(channel);
    let request = caller.request(ReceiverStream::new(queue));
    let mut answers = client.keys(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let asked = std::mem::replace(&mut receiver, new_receiver()?);
        let opener = asked
            .opener(&answer.public_key)
            .map_err(|error| Status::internal(error.to_string()))?;
        let all = answer.keys.iter().zip(0..).map(|(key, number)| Sealed {
            number,
            name: (key.secret.clone(), key.key.clone()),
            sealed: match key.problem.as_str() {
                "" => Ok(key.sealed.as_slice()),
                problem => Err(problem.to_owned()),
            },
        });
        vault.take(&opener, all);
        let _ = ask(&receiver);
    }
    Err(Status::unavailable("the controller closed the stream"))
}

fn new_receiver() -> Result<Receiver, Status> {
    Receiver::new().map_err(|error| Status::internal(error.to_string()))
}

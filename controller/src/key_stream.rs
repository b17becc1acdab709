//! Keys out of Secrets for the nodes whose sessions need them: `ConfigService.Keys`.
//!
//! Which keys a node needs stands in its NodeConfig; a speaker cannot ask for any other. They are sealed
//! for the one that asks, so that no buffer on the way has them, and are in nothing that is kept, counted
//! or shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use bgp::config::KeySource;
use proto::controller::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::debug;

use crate::identity::Ending;
use crate::secrets::{Name, Secrets, Value};
use crate::standing::Lead;

/// What a stream of keys is made of.
pub(crate) struct Stream {
    pub(crate) node: String,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) config: watch::Receiver<Option<Arc<pb::NodeConfig>>>,
    pub(crate) lead: Lead,
    pub(crate) shutdown: CancellationToken,
    /// It has gone on for too long with what its speaker showed.
    pub(crate) outlived: Ending,
}

impl Stream {
    /// Answers each request when there is something new; the first one when anything is known.
    pub(crate) fn open(
        mut self,
        mut requests: Streaming<pb::KeyRequest>,
    ) -> ReceiverStream<Result<pb::SealedKeys, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut sent = None;
            loop {
                let request = tokio::select! {
                    () = sender.closed() => return,
                    request = requests.message() => request,
                };
                let Ok(Some(request)) = request else { return };
                let answer = tokio::select! {
                    () = sender.closed() => return,
                    answer = self.answer(&request.public_key, &mut sent) => answer,
                };
                let ends = answer.is_err();
                if sender.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Waits until there is something that was not sent yet, and seals all of it.
    async fn answer(
        &mut self,
        receiver: &[u8],
        sent: &mut Option<Vec<(Name, Value)>>,
    ) -> Result<pb::SealedKeys, Status> {
        let mut changes = self.secrets.changes();
        let all = loop {
            changes.mark_unchanged();
            let names = names(self.config.borrow_and_update().as_deref());
            let all = self.secrets.look(&names);
            if let Some(all) = all.filter(|all| sent.as_ref() != Some(all)) {
                break all;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(self.lead.stopping()),
                status = self.lead.ended() => return Err(status),
                status = &mut self.outlived => return Err(status),
                Ok(()) = changes.changed() => {}
                Ok(()) = self.config.changed() => {}
                else => return Err(Status::unavailable("the controller is stopping")),
            }
        };
        let (sealer, public_key) = keys::seal(receiver)
            .map_err(|error| Status::invalid_argument(format!("public_key: {error}")))?;
        let keys = all.iter().zip(0..).map(|((name, value), number)| {
            let (secret, key) = name;
            let label = format!("{secret}/{key}");
            let (sealed, problem) = match value {
                Value::Key(key) => (key.seal(&sealer, number, label.as_bytes()), String::new()),
                Value::Missing(problem) => (Vec::new(), problem.clone()),
            };
            pb::SealedKey {
                secret: secret.clone(),
                key: key.clone(),
                sealed,
                problem,
            }
        });
        let keys = keys.collect();
        debug!(node = self.node, keys = all.len(), "keys sent");
        *sent = Some(all);
        Ok(pb::SealedKeys { public_key, keys })
    }
}

/// The keys in Secrets that a configuration names.
fn names(config: Option<&pb::NodeConfig>) -> BTreeSet<Name> {
    let Some(config) = config else {
        return BTreeSet::new();
    };
    let peers = config.peers.iter().flat_map(|peer| {
        let ao = peer.ao_keys.iter().map(|key| key.file.as_str());
        ao.chain([peer.md5_key_file.as_str()])
    });
    let bfd = config.bfd.iter().filter_map(|bfd| {
        let authentication = bfd.session.as_ref()?.authentication.as_ref()?;
        Some(authentication.key_file.as_str())
    });
    peers
        .chain(bfd)
        .filter_map(|source| match source.parse() {
            Ok(KeySource::Secret { name, key }) => Some((name, key)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A stream that asks for nothing new, on which nothing happens.
    fn waiting(outlived: Ending) -> Stream {
        Stream {
            node: "n1".into(),
            secrets: Arc::new(Secrets::new("routeshare")),
            config: watch::channel(None).1,
            lead: Lead::alone(),
            shutdown: CancellationToken::new(),
            outlived,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_keys_ends_with_what_it_was_opened_with() {
        let end = Status::unauthenticated("the token of this stream has expired");
        let outlived = Box::pin(std::future::ready(end));
        let answer = waiting(outlived).answer(&[0; 32], &mut None).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unauthenticated);
        let mut waits = waiting(Box::pin(std::future::pending()));
        let hour = std::time::Duration::from_secs(3600);
        let answer = timeout(hour, waits.answer(&[0; 32], &mut None)).await;
        assert!(answer.is_err(), "{answer:?}");
    }

    #[test]
    fn only_what_a_configuration_names_is_looked_for() {
        let session = |key_file: &str| proto::bfd::v1::SessionConfig {
            authentication: Some(proto::bfd::v1::Authentication {
                key_file: key_file.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let config = pb::NodeConfig {
            peers: vec![
                pb::PeerConfig {
                    md5_key_file: "secret:bgp-keys/tor".into(),
                    ..Default::default()
                },
                pb::PeerConfig {
                    md5_key_file: "/etc/routeshare/tor.key".into(),
                    ..Default::default()
                },
                pb::PeerConfig {
                    ao_keys: vec![pb::AoKey {
                        file: "secret:bgp-keys/ao".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                },
            ],
            bfd: vec![pb::BfdSession {
                peer: "tor".into(),
                session: Some(session("secret:bfd-keys/tor")),
            }],
            ..Default::default()
        };
        let names = names(Some(&config));
        let names: Vec<String> = names.into_iter().map(|(a, b)| format!("{a}/{b}")).collect();
        assert_eq!(names, ["bfd-keys/tor", "bgp-keys/ao", "bgp-keys/tor"]);
        assert!(super::names(None).is_empty());
    }
}

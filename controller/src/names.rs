//! Names of containers, from every node to all others: `ConfigService.Names`.
//!
//! What a node's speaker says of names is kept while the node exists, whether the speaker is there or not:
//! its containers are. Nothing of it is stored, because every speaker says it again to the next
//! controller; until then the others go on with what they heard last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::IpNetwork;
use proto::controller::v1 as pb;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use crate::standing::Lead;

/// Attachments of one node, names of one, and letters of a name at most.
const ATTACHMENTS: usize = 1024;
const NAMES: usize = 64;
const LETTERS: usize = 253;
/// Attachments of all nodes together: every speaker keeps them.
const ATTACHMENTS_IN_ALL: usize = 65_536;
/// A speaker is told no more often, however much changes.
const BREATHE: Duration = Duration::from_millis(100);

/// What all nodes have said.
#[derive(Default)]
pub(crate) struct Names {
    state: Mutex<State>,
    /// Counts up with every change.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    last: u64,
    nodes: BTreeMap<String, Told>,
    /// Nodes there are; not known before the first plan.
    existing: Option<BTreeSet<String>>,
}

struct Told {
    at: u64,
    names: Arc<pb::NamesOfNode>,
}

impl Names {
    /// A speaker says what containers of its node are called. Only addresses out of the node's `subnets`
    /// are taken.
    fn tell(&self, node: &str, said: pb::NodeNames, subnets: &[IpNetwork]) -> Result<(), Status> {
        let attachments = checked(said, subnets)?;
        let mut state = self.lock();
        if state
            .existing
            .as_ref()
            .is_some_and(|nodes| !nodes.contains(node))
        {
            return Ok(());
        }
        let of_others: usize = (state.nodes.iter())
            .filter(|(other, _)| *other != node)
            .map(|(_, told)| told.names.attachments.len())
            .sum();
        if of_others + attachments.len() > ATTACHMENTS_IN_ALL {
            return Err(Status::resource_exhausted(format!(
                "the nodes have more than {ATTACHMENTS_IN_ALL} containers with names; those of this node are \
                 known on it alone"
            )));
        }
        let before = state.nodes.get(node).map(|told| &told.names.attachments);
        if before == Some(&attachments) {
            return Ok(());
        }
        state.set(node, attachments);
        self.news.send_replace(state.last);
        Ok(())
    }

    /// There are these nodes and no others.
    pub(crate) fn exist<T>(&self, nodes: &BTreeMap<String, T>) {
        let mut state = self.lock();
        let same = (state.existing.as_ref()).is_some_and(|known| known.iter().eq(nodes.keys()));
        if same {
            return;
        }
        state.existing = Some(nodes.keys().cloned().collect());
        let gone: Vec<String> = (state.nodes.iter())
            .filter(|(node, told)| !nodes.contains_key(*node) && !told.names.attachments.is_empty())
            .map(|(node, _)| node.clone())
            .collect();
        for node in gone {
            state.set(&node, Vec::new());
        }
        self.news.send_replace(state.last);
    }

    /// What has changed after `seen`, of other nodes than this one; with the nodes there are when nothing
    /// was seen yet. `None` while it is not known which nodes there are, and when nothing has changed.
    fn since(&self, seen: Option<u64>, node: &str) -> (u64, Option<pb::OtherNames>) {
        let state = self.lock();
        let Some(existing) = &state.existing else {
            return (0, None);
        };
        let changed = (state.nodes.iter())
            .filter(|(other, told)| *other != node && seen.is_none_or(|seen| told.at > seen));
        let changed: Vec<_> = changed
            .map(|(_, told)| told.names.as_ref().clone())
            .collect();
        let nodes = seen.is_none().then(|| pb::AllNodes {
            names: existing.iter().cloned().collect(),
        });
        let news =
            (nodes.is_some() || !changed.is_empty()).then_some(pb::OtherNames { nodes, changed });
        (state.last, news)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&mut self, node: &str, attachments: Vec<pb::NamedAttachment>) {
        self.last += 1;
        let names = Arc::new(pb::NamesOfNode {
            node: node.to_owned(),
            attachments,
        });
        let told = Told {
            at: self.last,
            names,
        };
        self.nodes.insert(node.to_owned(), told);
    }
}

/// What a node may say: of itself, and not too much.
fn checked(said: pb::NodeNames, subnets: &[IpNetwork]) -> Result<Vec<pb::NamedAttachment>, Status> {
    let attachments = said.attachments;
    let too_many = attachments.len() > ATTACHMENTS
        || attachments
            .iter()
            .any(|it| it.names.len() > NAMES || it.network.len() > LETTERS)
        || (attachments.iter().flat_map(|it| &it.names)).any(|name| name.len() > LETTERS);
    if too_many {
        return Err(Status::invalid_argument(format!(
            "more than {ATTACHMENTS} containers, {NAMES} names of one, or {LETTERS} letters of a name"
        )));
    }
    let is_its = |address: &String| {
        let address: Result<IpAddr, _> = address.parse();
        address.is_ok_and(|address| subnets.iter().any(|subnet| subnet.contains(address)))
    };
    let its = attachments.into_iter().filter_map(|mut attachment| {
        attachment.addresses.retain(is_its);
        (!attachment.addresses.is_empty()).then_some(attachment)
    });
    Ok(its.collect())
}

/// What a stream of names is made of.
pub(crate) struct Stream {
    pub(crate) node: String,
    pub(crate) registry: Arc<crate::registry::Registry>,
    pub(crate) config: watch::Receiver<Option<Arc<pb::NodeConfig>>>,
    pub(crate) lead: Lead,
    pub(crate) shutdown: CancellationToken,
}

impl Stream {
    /// Takes what the speaker says, and tells it of the others, until one side ends it.
    pub(crate) fn open(
        mut self,
        mut said: Streaming<pb::NodeNames>,
    ) -> ReceiverStream<Result<pb::OtherNames, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = sender.closed() => return,
                ended = self.run(&mut said, &sender) => ended,
            };
            if let Err(status) = ended {
                warn!(
                    node = self.node,
                    reason = status.message(),
                    "names of containers"
                );
                // The other side may have gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn run(
        &mut self,
        said: &mut Streaming<pb::NodeNames>,
        sender: &mpsc::Sender<Result<pb::OtherNames, Status>>,
    ) -> Result<(), Status> {
        let registry = Arc::clone(&self.registry);
        let mut news = registry.names.news.subscribe();
        let telling = async {
            let mut seen = None;
            loop {
                news.mark_unchanged();
                let (last, other) = registry.names.since(seen, &self.node);
                if let Some(other) = other {
                    debug!(node = self.node, nodes = other.changed.len(), "names told");
                    seen = Some(last);
                    if sender.send(Ok(other)).await.is_err() {
                        return;
                    }
                    sleep(BREATHE).await;
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        let config = &mut self.config;
        let hearing = async {
            // What a node's addresses are is known from its configuration.
            if config.wait_for(Option::is_some).await.is_err() {
                return Ok(());
            }
            while let Some(names) = said.message().await? {
                let subnets = subnets(config.borrow_and_update().as_deref());
                registry.names.tell(&self.node, names, &subnets)?;
            }
            Ok(())
        };
        tokio::select! {
            () = telling => Ok(()),
            heard = hearing => heard,
            () = self.shutdown.cancelled() => Err(self.lead.clone().stopping()),
            status = async { self.lead.clone().ended().await } => Err(status),
        }
    }
}

fn subnets(config: Option<&pb::NodeConfig>) -> Vec<IpNetwork> {
    let subnets = config.iter().flat_map(|config| &config.subnets);
    subnets
        .filter_map(|subnet| subnet.prefix.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(containers: &[(&str, &str)]) -> pb::NodeNames {
        let attachment = |(name, address): &(&str, &str)| pb::NamedAttachment {
            network: "front".into(),
            addresses: vec![(*address).into()],
            names: vec![(*name).into()],
        };
        pb::NodeNames {
            attachments: containers.iter().map(attachment).collect(),
        }
    }

    fn nodes(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    const SUBNET: &str = "10.64.0.0/24";

    fn subnet() -> [IpNetwork; 1] {
        [SUBNET.parse().unwrap()]
    }

    #[test]
    fn each_node_hears_of_the_others_and_then_of_what_changes() {
        let names = Names::default();
        names
            .tell("a", said(&[("web", "10.64.0.2")]), &subnet())
            .unwrap();
        assert_eq!(
            names.since(None, "b").1,
            None,
            "nobody knows which nodes there are"
        );
        names.exist(&nodes(&["a", "b"]));
        let (seen, first) = names.since(None, "b");
        let first = first.unwrap();
        assert_eq!(first.nodes.unwrap().names, ["a", "b"]);
        assert_eq!(
            first.changed[0].attachments,
            said(&[("web", "10.64.0.2")]).attachments
        );
        assert!(names.since(None, "a").1.unwrap().changed.is_empty());

        names
            .tell("a", said(&[("web", "10.64.0.2")]), &subnet())
            .unwrap();
        assert_eq!(names.since(Some(seen), "b"), (seen, None));
        names.tell("a", said(&[]), &subnet()).unwrap();
        let (_, then) = names.since(Some(seen), "b");
        let then = then.unwrap();
        assert_eq!(then.nodes, None);
        assert!(then.changed[0].attachments.is_empty());
    }

    #[test]
    fn a_node_that_is_removed_has_no_names_and_one_that_is_away_keeps_them() {
        let names = Names::default();
        names.exist(&nodes(&["a", "b"]));
        names
            .tell("a", said(&[("web", "10.64.0.2")]), &subnet())
            .unwrap();
        let (seen, _) = names.since(None, "b");
        names.exist(&nodes(&["b"]));
        let (seen, then) = names.since(Some(seen), "b");
        assert!(then.unwrap().changed[0].attachments.is_empty());
        names
            .tell("a", said(&[("web", "10.64.0.2")]), &subnet())
            .unwrap();
        assert_eq!(names.since(Some(seen), "b").1, None);
    }

    #[test]
    fn a_node_speaks_of_its_own_addresses_and_not_without_end() {
        let names = Names::default();
        names.exist(&nodes(&["a"]));
        let foreign = said(&[
            ("web", "10.64.0.2"),
            ("bank", "10.64.1.9"),
            ("x", "nonsense"),
        ]);
        names.tell("a", foreign, &subnet()).unwrap();
        let told = names.since(None, "b").1.unwrap().changed;
        assert_eq!(
            told[0].attachments,
            said(&[("web", "10.64.0.2")]).attachments
        );
        let many = vec![("web", "10.64.0.2"); ATTACHMENTS + 1];
        assert!(names.tell("a", said(&many), &subnet()).is_err());
        let long = "x".repeat(LETTERS + 1);
        assert!(
            names
                .tell("a", said(&[(&long, "10.64.0.2")]), &subnet())
                .is_err()
        );
    }
}

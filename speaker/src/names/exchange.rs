//! What this node tells the others of its names, and what they have told: between the resolver and the
//! stream to the controller (`desired/names.rs`). Kept on disk, so that a restart without a controller
//! knows the names of the whole network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message as _;
use proto::controller::v1 as pb;
use tokio::sync::watch;

use super::zone::Attachment;

const FILE: &str = "names";
/// The controller takes no more from one node.
const MOST_TOLD: usize = 1024;

/// By node.
type Others = BTreeMap<String, Vec<Attachment>>;

/// Both directions.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Of this node; `None` while names are not answered here.
    ours: watch::Sender<Option<pb::NodeNames>>,
    others: watch::Sender<Others>,
    file: PathBuf,
}

impl Exchange {
    /// Begins with what was heard in an earlier life.
    pub(crate) fn new(state_dir: &Path) -> Exchange {
        let file = state_dir.join(FILE);
        let others = match load(&file) {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(path = %file.display(), %error, "names of other nodes are not known yet");
                Others::new()
            }
        };
        Exchange {
            ours: watch::Sender::new(None),
            others: watch::Sender::new(others),
            file,
        }
    }

    /// What containers of this node are called, as far as others can reach them; `None`: names are not
    /// answered here, and those of others need not be known.
    pub(super) fn tell(&self, attachments: Option<&[Attachment]>) {
        let ours = attachments.map(|attachments| {
            let shared = attachments
                .iter()
                .filter(|it| it.of_node && !it.names.is_empty());
            pb::NodeNames {
                attachments: shared.take(MOST_TOLD).map(to_proto).collect(),
            }
        });
        self.ours.send_if_modified(|last| {
            let changed = *last != ours;
            *last = ours;
            changed
        });
    }

    /// What other nodes' containers are called, now and from now on.
    pub(super) fn others(&self) -> watch::Receiver<Others> {
        self.others.subscribe()
    }

    /// What the controller is told, now and from now on.
    pub(crate) fn ours(&self) -> watch::Receiver<Option<pb::NodeNames>> {
        self.ours.subscribe()
    }

    /// The controller has told this.
    pub(crate) fn hear(&self, news: pb::OtherNames) {
        self.others.send_modify(|others| hear(others, news));
    }

    /// Keeps what was heard; blocks on the disk.
    ///
    /// # Errors
    ///
    /// It cannot be written; the old file stays.
    pub(crate) fn keep(&self) -> io::Result<()> {
        let others = self.others.borrow().clone();
        let changed = others.iter().map(|(node, attachments)| pb::NamesOfNode {
            node: node.clone(),
            attachments: attachments.iter().map(to_proto).collect(),
        });
        let message = pb::OtherNames {
            nodes: None,
            changed: changed.collect(),
        };
        let next = self.file.with_extension("new");
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory)?;
        }
        // Lost with the power, it is heard again.
        fs::write(&next, message.encode_to_vec())?;
        fs::rename(&next, &self.file)
    }
}

fn load(file: &Path) -> io::Result<Others> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Others::new()),
        Err(error) => return Err(error),
    };
    let mut others = Others::new();
    hear(&mut others, pb::OtherNames::decode(bytes.as_slice())?);
    Ok(others)
}

fn hear(others: &mut Others, news: pb::OtherNames) {
    if let Some(nodes) = news.nodes {
        let nodes: BTreeSet<String> = nodes.names.into_iter().collect();
        others.retain(|node, _| nodes.contains(node));
    }
    for node in news.changed {
        let attachments: Vec<Attachment> = node.attachments.into_iter().map(from_proto).collect();
        match attachments.is_empty() {
            true => others.remove(&node.node),
            false => others.insert(node.node, attachments),
        };
    }
}

fn to_proto(attachment: &Attachment) -> pb::NamedAttachment {
    pb::NamedAttachment {
        network: attachment.network.clone(),
        addresses: attachment
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
        names: attachment.names.clone(),
    }
}

/// Addresses that are none are left out; so are, later, names that are none.
fn from_proto(attachment: pb::NamedAttachment) -> Attachment {
    let addresses = attachment.addresses.iter();
    Attachment {
        network: attachment.network,
        container: String::new(),
        of_node: true,
        addresses: addresses
            .filter_map(|address| address.parse().ok())
            .collect(),
        names: attachment.names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(node: &str, names: &[&str]) -> pb::NamesOfNode {
        let attachments = names.iter().map(|name| pb::NamedAttachment {
            network: "front".into(),
            addresses: vec!["10.64.1.2".into(), "nonsense".into()],
            names: vec![(*name).into()],
        });
        pb::NamesOfNode {
            node: node.into(),
            attachments: attachments.collect(),
        }
    }

    fn news(nodes: Option<&[&str]>, changed: Vec<pb::NamesOfNode>) -> pb::OtherNames {
        let nodes = nodes.map(|nodes| pb::AllNodes {
            names: nodes.iter().map(|it| (*it).to_owned()).collect(),
        });
        pb::OtherNames { nodes, changed }
    }

    #[test]
    fn what_other_nodes_said_outlives_a_restart_and_a_controller_that_has_not_heard_them_yet() {
        let directory = tempfile::tempdir().unwrap();
        let exchange = Exchange::new(directory.path());
        exchange.hear(news(
            Some(&["a", "b", "c"]),
            vec![of("b", &["web"]), of("c", &["db"])],
        ));
        exchange.keep().unwrap();

        let exchange = Exchange::new(directory.path());
        let known = |exchange: &Exchange| {
            exchange
                .others()
                .borrow()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(known(&exchange), ["b", "c"]);
        assert_eq!(exchange.others().borrow()["b"][0].addresses.len(), 1);
        // A new controller: node c is gone, and b has not spoken to it.
        exchange.hear(news(Some(&["a", "b"]), Vec::new()));
        assert_eq!(known(&exchange), ["b"]);
        exchange.hear(news(None, vec![of("b", &[])]));
        assert!(known(&exchange).is_empty());
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let exchange = Exchange::new(directory.path());
        let attachment = |of_node, name: &str| Attachment {
            network: "front".into(),
            container: "c1".into(),
            of_node,
            addresses: vec!["10.64.0.2".parse().unwrap()],
            names: vec![name.into()],
        };
        exchange.tell(Some(&[attachment(true, "web"), attachment(false, "local")]));
        let ours = exchange.ours().borrow().clone().unwrap();
        assert_eq!(ours.attachments.len(), 1);
        assert_eq!(ours.attachments[0].names, ["web"]);
        exchange.tell(None);
        assert_eq!(*exchange.ours().borrow(), None);
    }
}

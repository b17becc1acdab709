//! The last good version of every object, kept in the API server for the next leader.
//!
//! ConfigMap `routeshare-accepted`: one compressed JSON document, written by compare-and-swap, and only
//! when it changes. What another process wrote is replaced only by who was seen to hold the Lease after that,
//! and every leader begins with writing it: so one that has slept through its own end changes nothing of
//! its successor's. Of nodes it has only those of which another version is in force than the newest.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use crd::Kind;
use crd::names::{ACCEPTED, FIELD_MANAGER, LEASE, MANAGED_BY_LABEL};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::judge::Good;
use super::verdict::Key;

const ENTRY: &str = "accepted.json.gz";
/// No request may take longer.
const REQUEST: Duration = Duration::from_secs(5);
/// A document that unpacks to more than this is not ours.
const LARGEST: u64 = 64 << 20;
/// What older controllers must not touch is counted up here.
const FORMAT: u32 = 1;

/// What was right last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Accepted {
    pub(super) objects: BTreeMap<Key, Good>,
    /// Of nodes that are not in force as they are now.
    pub(super) nodes: BTreeMap<String, Arc<api::Node>>,
    /// By kind: the uid of the definition that its objects were seen under.
    pub(super) definitions: BTreeMap<Kind, String>,
}

/// Why it cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptedError {
    #[error("cannot {doing} ConfigMap {ACCEPTED}")]
    Api {
        doing: &'static str,
        source: kube::Error,
    },
    #[error("cannot {doing} ConfigMap {ACCEPTED}: no answer within {} s", REQUEST.as_secs())]
    Late { doing: &'static str },
    #[error(
        "ConfigMap {ACCEPTED} has the last good version of every object and cannot be read: {why}; if \
         every object is right as it is, delete it"
    )]
    Unreadable { why: String },
    #[error(
        "ConfigMap {ACCEPTED} was written by another controller, and is not written before it is seen that \
         this one has the Lease {LEASE}: {why}"
    )]
    NotLeading { why: String },
}

/// Where it is kept.
pub(super) struct Keeper {
    maps: Api<ConfigMap>,
    leases: Api<Lease>,
    /// Who this process is in the Lease.
    identity: String,
    /// As it is there; none before it was read, and after an error.
    stored: Option<Stored>,
}

#[derive(Default)]
struct Stored {
    accepted: Accepted,
    /// Its resourceVersion; none when there is none.
    version: Option<String>,
    /// This process wrote it.
    is_ours: bool,
}

impl Keeper {
    pub(super) fn new(client: Client, namespace: &str, identity: String) -> Keeper {
        Keeper {
            maps: Api::namespaced(client.clone(), namespace),
            leases: Api::namespaced(client, namespace),
            identity,
            stored: None,
        }
    }

    /// What is there; nothing when there never was anything.
    pub(super) async fn read(&mut self) -> Result<Accepted, AcceptedError> {
        let map = answer("read", self.maps.get_opt(ACCEPTED)).await?;
        let stored = match map {
            Some(map) => {
                let (accepted, writer) = unpack(&map)?;
                Stored {
                    accepted,
                    version: map.metadata.resource_version,
                    is_ours: writer == self.identity,
                }
            }
            None => Stored::default(),
        };
        let accepted = stored.accepted.clone();
        self.stored = Some(stored);
        Ok(accepted)
    }

    /// Writes what is not there yet.
    pub(super) async fn write(&mut self, accepted: &Accepted) -> Result<(), AcceptedError> {
        if self.stored.is_none() {
            self.read().await?; // after an error it is not known what is there
        }
        let stored = self.stored.take().unwrap_or_default();
        if stored.accepted == *accepted && stored.is_ours {
            self.stored = Some(stored);
            return Ok(());
        }
        if !stored.is_ours {
            self.must_lead().await?;
        }
        let version = stored.version;
        let map = pack(accepted, &self.identity, version.clone());
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match version {
            Some(_) => {
                let request = self.maps.replace(ACCEPTED, &parameters, &map);
                answer("write", request).await?
            }
            None => answer("create", self.maps.create(&parameters, &map)).await?,
        };
        self.stored = Some(Stored {
            accepted: accepted.clone(),
            version: written.metadata.resource_version,
            is_ours: true,
        });
        Ok(())
    }

    /// A process that has lost the Lease never holds it again.
    async fn must_lead(&self) -> Result<(), AcceptedError> {
        let lease = timeout(REQUEST, self.leases.get(LEASE)).await;
        let lease = match lease {
            Ok(lease) => lease.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", REQUEST.as_secs())),
        };
        let holder = lease.map(|lease| lease.spec.unwrap_or_default().holder_identity);
        match holder {
            Ok(Some(holder)) if holder == self.identity => Ok(()),
            Ok(holder) => Err(AcceptedError::NotLeading {
                why: format!("{} holds it", holder.as_deref().unwrap_or("nobody")),
            }),
            Err(why) => Err(AcceptedError::NotLeading { why }),
        }
    }
}

async fn answer<T>(
    doing: &'static str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, AcceptedError> {
    match timeout(REQUEST, request).await {
        Ok(answer) => answer.map_err(|source| AcceptedError::Api { doing, source }),
        Err(_) => Err(AcceptedError::Late { doing }),
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Which process wrote it; older controllers did not say.
    #[serde(default)]
    writer: String,
    objects: Vec<Entry>,
    nodes: Vec<api::Node>,
    /// Kind to uid.
    definitions: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    kind: String,
    name: String,
    #[serde(flatten)]
    good: Good,
}

fn pack(accepted: &Accepted, writer: &str, version: Option<String>) -> ConfigMap {
    let objects = accepted.objects.iter().map(|((kind, name), good)| Entry {
        kind: kind.name().to_owned(),
        name: name.clone(),
        good: good.clone(),
    });
    let definitions = accepted.definitions.iter();
    let definitions = definitions.map(|(kind, uid)| (kind.name().to_owned(), uid.clone()));
    let document = Document {
        format: FORMAT,
        writer: writer.to_owned(),
        objects: objects.collect(),
        nodes: accepted
            .nodes
            .values()
            .map(|node| node.as_ref().clone())
            .collect(),
        definitions: definitions.collect(),
    };
    let json = serde_json::to_vec(&document).expect("it has nothing that JSON cannot say");
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packed.write_all(&json).and_then(|()| packed.finish());
    let packed = packed.expect("writing to memory does not fail");
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(ACCEPTED.to_owned()),
            resource_version: version,
            labels: Some([(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        binary_data: Some([(ENTRY.to_owned(), ByteString(packed))].into()),
        ..ConfigMap::default()
    }
}

/// What is in it, and who wrote it.
fn unpack(map: &ConfigMap) -> Result<(Accepted, String), AcceptedError> {
    let unreadable = |why: String| AcceptedError::Unreadable { why };
    let packed = map.binary_data.as_ref().and_then(|data| data.get(ENTRY));
    let Some(packed) = packed else {
        return Ok(Default::default()); // made by an installation, empty
    };
    let mut json = Vec::new();
    let unpacked = GzDecoder::new(packed.0.as_slice())
        .take(LARGEST)
        .read_to_end(&mut json);
    unpacked.map_err(|error| unreadable(error.to_string()))?;
    let document: Document =
        serde_json::from_slice(&json).map_err(|error| unreadable(error.to_string()))?;
    if document.format > FORMAT {
        return Err(unreadable(format!(
            "it has format {}, and this controller understands {FORMAT}: use the newer controller",
            document.format
        )));
    }
    let mut accepted = Accepted::default();
    for Entry { kind, name, good } in document.objects {
        // A kind that this controller does not know it cannot put in force either.
        if let Some(kind) = Kind::of(&kind) {
            accepted.objects.insert((kind, name), good);
        }
    }
    for node in document.nodes {
        accepted
            .nodes
            .insert(node.metadata.name.clone(), Arc::new(node));
    }
    for (kind, uid) in document.definitions {
        if let Some(kind) = Kind::of(&kind) {
            accepted.definitions.insert(kind, uid);
        }
    }
    Ok((accepted, document.writer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_is_the_same_after_it_was_packed_and_unpacked() {
        let good = Good {
            uid: "u".to_owned(),
            generation: 3,
            created: crd::time(1_000),
            text: "{\"kind\":\"Peer\"}".to_owned(),
            held: true,
        };
        let mut node = api::Node {
            metadata: api::Metadata::default(),
            spec: api::NodeSpec::default(),
        };
        node.metadata.name = "a".to_owned();
        let accepted = Accepted {
            objects: [((Kind::Peer, "tor".to_owned()), good)].into(),
            nodes: [("a".to_owned(), Arc::new(node))].into(),
            definitions: [(Kind::Peer, "d".to_owned())].into(),
        };
        let map = pack(&accepted, "a_1", Some("7".to_owned()));
        assert_eq!(map.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(unpack(&map).unwrap(), (accepted, "a_1".to_owned()));
        let nothing = unpack(&ConfigMap::default()).unwrap();
        assert_eq!(nothing, (Accepted::default(), String::new()));
    }

    #[test]
    fn what_a_newer_controller_wrote_is_not_touched() {
        let mut map = pack(&Accepted::default(), "a_1", None);
        let json = br#"{"format":2,"objects":[],"nodes":[],"definitions":{}}"#;
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(json).unwrap();
        let data = [(ENTRY.to_owned(), ByteString(packed.finish().unwrap()))];
        map.binary_data = Some(data.into());
        let error = unpack(&map).unwrap_err();
        assert!(
            error.to_string().contains("use the newer controller"),
            "{error}"
        );
    }
}

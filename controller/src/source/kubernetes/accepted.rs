//! The last good version of every object, kept in the API server for the next leader.
//!
//! ConfigMap `routeshare-accepted`: one compressed JSON document, written by compare-and-swap, and only
//! when it changes. Of nodes it has only those of which another version is in force than the newest.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use crd::Kind;
use crd::names::{ACCEPTED, FIELD_MANAGER, MANAGED_BY_LABEL};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
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
}

/// Where it is kept.
pub(super) struct Keeper {
    maps: Api<ConfigMap>,
    /// As it is there, with its resourceVersion; none before it was read, and after an error.
    stored: Option<(Accepted, Option<String>)>,
}

impl Keeper {
    pub(super) fn new(client: Client, namespace: &str) -> Keeper {
        Keeper {
            maps: Api::namespaced(client, namespace),
            stored: None,
        }
    }

    /// What is there; nothing when there never was anything.
    pub(super) async fn read(&mut self) -> Result<Accepted, AcceptedError> {
        let map = answer("read", self.maps.get_opt(ACCEPTED)).await?;
        let (accepted, version) = match map {
            Some(map) => {
                let version = map.metadata.resource_version.clone();
                (unpack(&map)?, version)
            }
            None => (Accepted::default(), None),
        };
        self.stored = Some((accepted.clone(), version));
        Ok(accepted)
    }

    /// Writes what is not there yet.
    pub(super) async fn write(&mut self, accepted: &Accepted) -> Result<(), AcceptedError> {
        if self.stored.is_none() {
            self.read().await?; // after an error it is not known what is there
        }
        let (stored, version) = self.stored.take().unwrap_or_default();
        if stored == *accepted && version.is_some() {
            self.stored = Some((stored, version));
            return Ok(());
        }
        let map = pack(accepted, version.clone());
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
        self.stored = Some((accepted.clone(), written.metadata.resource_version));
        Ok(())
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

fn pack(accepted: &Accepted, version: Option<String>) -> ConfigMap {
    let objects = accepted.objects.iter().map(|((kind, name), good)| Entry {
        kind: kind.name().to_owned(),
        name: name.clone(),
        good: good.clone(),
    });
    let definitions = accepted.definitions.iter();
    let definitions = definitions.map(|(kind, uid)| (kind.name().to_owned(), uid.clone()));
    let document = Document {
        format: FORMAT,
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

fn unpack(map: &ConfigMap) -> Result<Accepted, AcceptedError> {
    let unreadable = |why: String| AcceptedError::Unreadable { why };
    let packed = map.binary_data.as_ref().and_then(|data| data.get(ENTRY));
    let Some(packed) = packed else {
        return Ok(Accepted::default()); // made by an installation, empty
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
    Ok(accepted)
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
        let map = pack(&accepted, Some("7".to_owned()));
        assert_eq!(map.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(unpack(&map).unwrap(), accepted);
        assert_eq!(unpack(&ConfigMap::default()).unwrap(), Accepted::default());
    }

    #[test]
    fn what_a_newer_controller_wrote_is_not_touched() {
        let mut map = pack(&Accepted::default(), None);
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

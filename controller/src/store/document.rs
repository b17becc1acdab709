//! The ledger as it stands in its ConfigMap: compressed JSON, a checksum, and a word to who looks at it.
//!
//! ```text
//! data:
//!   about:  what this is
//!   schema: "1"
//!   sha256: of what is compressed
//! binaryData:
//!   ledger.json.gz
//! ```
//!
//! What belongs to a node stands together: its name is then written once, and what repeats is near
//! enough for the compression to see it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ipam::Millis;
use ipam::numbers::NumberLease;
use ipam::pool::{Lease, Ledger, State};
use ipnetwork::IpNetwork;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Contents, NODE_KEY, StoredResources, Version, hex};

/// Counts up when the form changes so that an older controller must not touch it.
pub(super) const SCHEMA: u64 = 1;
/// What a ConfigMap takes, keys and values together.
pub(super) const LIMIT: usize = 1 << 20;
/// More than this is refused when it is unpacked: no ledger that fits is so large.
const UNPACKED_LIMIT: u64 = 256 << 20;

const LEDGER: &str = "ledger.json.gz";
const SHA_256: &str = "sha256";
const SCHEMA_KEY: &str = "schema";
const ABOUT: &str = "about";
const ABOUT_TEXT: &str = "\
Which node holds which subnet and AS number. Written by the leading routeshare-controller only, with \
compare-and-swap; nothing is given out that does not stand here. Do not edit, do not restore an old \
copy. To read it: \
kubectl get configmap routeshare-ledger -o 'jsonpath={.binaryData.ledger\\.json\\.gz}' | base64 -d | gunzip
";

/// All that is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// What the controller knows.
    pub(super) contents: Contents,
    /// Counts up with every commit.
    pub(super) generation: u64,
    /// Which process wrote it.
    pub(super) writer: String,
}

/// Why a ConfigMap is not a ledger that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(
        "it has schema {0}, which is newer than this controller ({SCHEMA}) understands: use the newer one"
    )]
    Newer(u64),
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl Document {
    /// What to put in the ConfigMap, without its metadata.
    pub(super) fn encode(&self) -> ConfigMap {
        let json = serde_json::to_vec(&Stored::of(self)).expect("nothing that JSON cannot say");
        let packed = pack(&json).expect("writing to memory does not fail");
        let sha256 = hex(digest(&SHA256, &packed).as_ref());
        let data = [
            (ABOUT, ABOUT_TEXT.to_owned()),
            (SCHEMA_KEY, SCHEMA.to_string()),
            (SHA_256, sha256),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), value));
        ConfigMap {
            data: Some(data.into()),
            binary_data: Some([(LEDGER.to_owned(), ByteString(packed))].into()),
            ..ConfigMap::default()
        }
    }

    /// What stands in the ConfigMap.
    pub(super) fn decode(map: &ConfigMap) -> Result<Document, Unreadable> {
        let damaged = |what: String| Unreadable::Damaged(what);
        let data = map.data.as_ref();
        let text = |key: &str| {
            let value = data.and_then(|data| data.get(key));
            value.ok_or_else(|| damaged(format!("data.{key} is missing")))
        };
        let schema = text(SCHEMA_KEY)?;
        let schema: u64 = schema
            .parse()
            .map_err(|_| damaged(format!("data.{SCHEMA_KEY} is `{schema}`")))?;
        if schema > SCHEMA {
            return Err(Unreadable::Newer(schema));
        }
        let packed = map.binary_data.as_ref().and_then(|data| data.get(LEDGER));
        let packed = packed.ok_or_else(|| damaged(format!("binaryData.{LEDGER} is missing")))?;
        if hex(digest(&SHA256, &packed.0).as_ref()) != *text(SHA_256)? {
            return Err(damaged(format!(
                "binaryData.{LEDGER} does not have the checksum data.{SHA_256}"
            )));
        }
        let json = unpack(&packed.0).map_err(|error| damaged(error.to_string()))?;
        let stored: Stored =
            serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        stored.document().map_err(damaged)
    }
}

/// How much of [`LIMIT`] a ConfigMap takes.
pub(super) fn size(map: &ConfigMap) -> usize {
    let texts = map.data.iter().flatten();
    let texts = texts.map(|(key, value)| key.len() + value.len());
    let bytes = map.binary_data.iter().flatten();
    let bytes = bytes.map(|(key, value)| key.len() + value.0.len());
    texts.chain(bytes).sum()
}

fn pack(json: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(json)?;
    packer.finish()
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    let read = GzDecoder::new(packed)
        .take(UNPACKED_LIMIT)
        .read_to_end(&mut json)?;
    if read as u64 == UNPACKED_LIMIT {
        return Err(io::Error::other("it is larger than any ledger can be"));
    }
    Ok(json)
}

/// The JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    generation: u64,
    writer: String,
    clock: Millis,
    last_version: u64,
    resources: Resources,
    nodes: BTreeMap<String, Node>,
    /// Those that are not a node's, by their key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    numbers: BTreeMap<String, NumberLease>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Resources {
    generation: u64,
    loaded: Millis,
    digest: String,
}

/// What one node holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    subnets: BTreeMap<IpNetwork, Subnet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<NumberLease>,
}

/// A [`Lease`] without its node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subnet {
    pool: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fixed: bool,
    since: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    free_at: Option<Millis>,
}

impl Stored {
    fn of(document: &Document) -> Stored {
        let contents = &document.contents;
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        for (subnet, lease) in contents.ledger.iter() {
            let free_at = match lease.state {
                State::Assigned => None,
                State::Waiting { free_at } => Some(free_at),
            };
            let stored = Subnet {
                pool: lease.pool.clone(),
                fixed: lease.fixed,
                since: lease.since,
                free_at,
            };
            let node = nodes.entry(lease.node.clone()).or_default();
            node.subnets.insert(subnet, stored);
        }
        for (node, version) in &contents.versions {
            nodes.entry(node.clone()).or_default().version = Some(version.clone());
        }
        let mut numbers = BTreeMap::new();
        for (key, number) in &contents.numbers {
            match key.strip_prefix(NODE_KEY) {
                Some(node) => nodes.entry(node.to_owned()).or_default().number = Some(*number),
                None => {
                    numbers.insert(key.clone(), *number);
                }
            }
        }
        let resources = &contents.resources;
        Stored {
            generation: document.generation,
            writer: document.writer.clone(),
            clock: contents.clock,
            last_version: contents.last_version,
            resources: Resources {
                generation: resources.generation,
                loaded: resources.loaded,
                digest: resources.digest.clone(),
            },
            nodes,
            numbers,
        }
    }

    fn document(self) -> Result<Document, String> {
        let mut contents = Contents {
            numbers: self.numbers,
            last_version: self.last_version,
            clock: self.clock,
            resources: StoredResources {
                files: Vec::new(),
                digest: self.resources.digest,
                generation: self.resources.generation,
                loaded: self.resources.loaded,
            },
            ..Contents::default()
        };
        let mut leases: BTreeMap<IpNetwork, Lease> = BTreeMap::new();
        for (name, node) in self.nodes {
            if let Some(number) = node.number {
                contents.numbers.insert(format!("{NODE_KEY}{name}"), number);
            }
            if let Some(version) = node.version {
                contents.versions.insert(name.clone(), version);
            }
            for (subnet, stored) in node.subnets {
                let state = match stored.free_at {
                    None => State::Assigned,
                    Some(free_at) => State::Waiting { free_at },
                };
                let lease = Lease {
                    pool: stored.pool,
                    node: name.clone(),
                    fixed: stored.fixed,
                    state,
                    since: stored.since,
                };
                if let Some(other) = leases.insert(subnet, lease) {
                    return Err(format!("{subnet} is held by {} and by {name}", other.node));
                }
            }
        }
        contents.ledger = Ledger::new(leases).map_err(|overlap| overlap.to_string())?;
        Ok(Document {
            contents,
            generation: self.generation,
            writer: self.writer,
        })
    }
}

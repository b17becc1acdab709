//! Which objects concern which nodes, and from which version of a node's configuration on each is in
//! it as it is now. A node that has this version in force, or a later one, has done what the object
//! says, whatever else has changed since: so an object is not "waiting" because of another one.
//!
//! An object that is in a configuration no more concerns the node until the node has taken it out.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use api::Resources;
use crd::Kind;
use prost::Message as _;
use proto::controller::v1 as pb;

/// An object that a user wrote: what it is, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

impl Object {
    /// The object of this kind and name.
    pub(crate) fn new(kind: Kind, name: &str) -> Object {
        Object {
            kind,
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Of every node, what is in its configuration.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    nodes: BTreeMap<String, NodeCoverage>,
}

#[derive(Debug, Default)]
struct NodeCoverage {
    version: u64,
    in_force: u64,
    /// Its speaker has not said anything to this controller yet, and may have a later version.
    is_unheard: bool,
    parts: BTreeMap<Arc<Object>, Part>,
}

/// Whether a node does what an object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Yes,
    /// Nobody has told this controller.
    Unheard,
    No,
}

/// What an object has become in a node's configuration.
#[derive(Clone, Copy, Debug)]
struct Part {
    digest: u64,
    /// The version from which on it is so.
    since: u64,
}

impl Coverage {
    /// Takes in newer configurations.
    pub(crate) fn update(
        &mut self,
        configs: &BTreeMap<String, Arc<pb::NodeConfig>>,
        resources: &Resources,
    ) {
        self.nodes.retain(|node, _| configs.contains_key(node));
        let mut names: BTreeMap<Object, Arc<Object>> = BTreeMap::new();
        for (node, config) in configs {
            let covered = self.nodes.entry(node.clone()).or_default();
            if covered.version == config.version {
                continue;
            }
            covered.version = config.version;
            let present = parts(config, resources);
            for (object, part) in &mut covered.parts {
                let digest = present.get(object.as_ref()).copied().unwrap_or(GONE);
                if part.digest != digest {
                    part.digest = digest;
                    part.since = config.version;
                }
            }
            for (object, digest) in present {
                if covered.parts.contains_key(&object) {
                    continue;
                }
                let shared = names
                    .entry(object.clone())
                    .or_insert_with(|| Arc::new(object));
                let part = Part {
                    digest,
                    since: config.version,
                };
                covered.parts.insert(Arc::clone(shared), part);
            }
        }
    }

    /// The node has this version in force: what it has taken out concerns it no more. `is_unheard`: so
    /// its NodeStatus says, and its speaker, which may have a later one, has not been heard yet.
    pub(crate) fn in_force(&mut self, node: &str, version: u64, is_unheard: bool) {
        if let Some(covered) = self.nodes.get_mut(node) {
            (covered.in_force, covered.is_unheard) = (version, is_unheard);
            covered
                .parts
                .retain(|_, part| part.digest != GONE || part.since > version);
        }
    }

    /// Every node and object that concern one another, and whether the one does what the other says.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Object, Does)> {
        self.nodes.iter().flat_map(|(node, covered)| {
            let does = |part: &Part| match covered.in_force >= part.since {
                true => Does::Yes,
                false if covered.is_unheard => Does::Unheard,
                false => Does::No,
            };
            let parts = covered.parts.iter();
            parts.map(move |(object, part)| (node.as_str(), object.as_ref(), does(part)))
        })
    }
}

/// The digest of what is not there any more.
const GONE: u64 = 0;

/// What is in a configuration, and a digest of it.
fn parts(config: &pb::NodeConfig, resources: &Resources) -> BTreeMap<Object, u64> {
    let mut hashers: BTreeMap<Object, DefaultHasher> = BTreeMap::new();
    let mut add = |kind, name: &str, bytes: &[u8]| {
        let hasher = hashers.entry(Object::new(kind, name)).or_default();
        bytes.hash(hasher);
    };
    for peer in &config.peers {
        if resources.peers.contains_key(&peer.name) {
            add(Kind::Peer, &peer.name, &peer.encode_to_vec());
        }
    }
    for bfd in &config.bfd {
        if resources.peers.contains_key(&bfd.peer) {
            add(Kind::Peer, &bfd.peer, &bfd.encode_to_vec());
        }
    }
    for policy in &config.policies {
        if resources.policies.contains_key(&policy.name) {
            add(Kind::RoutePolicy, &policy.name, &policy.encode_to_vec());
        }
    }
    let mut advertised: BTreeSet<(&String, &String)> = BTreeSet::new();
    for advertisement in &config.advertisements {
        if resources.advertisements.contains_key(&advertisement.name) {
            let bytes = advertisement.encode_to_vec();
            add(Kind::Advertisement, &advertisement.name, &bytes);
        }
    }
    for originated in &config.originate {
        let names = originated.advertisements.iter();
        advertised.extend(names.map(|name| (name, &originated.prefix)));
    }
    for (name, prefix) in advertised {
        if resources.advertisements.contains_key(name) {
            add(Kind::Advertisement, name, prefix.as_bytes());
        }
    }
    for subnet in config.subnets.iter().filter(|it| !it.pool.is_empty()) {
        add(Kind::Pool, &subnet.pool, &subnet.encode_to_vec());
    }
    // All that a node does is in the Fabric's name.
    let fabric = &resources.fabric.metadata.name;
    add(Kind::Fabric, fabric, &config.version.to_be_bytes());
    let digests = hashers.into_iter();
    digests
        .map(|(object, hasher)| (object, hasher.finish().max(1)))
        .collect()
}

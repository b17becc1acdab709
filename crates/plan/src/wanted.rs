//! What the controller has to give out before a plan is complete.

use api::{AsnRange, AsnSource, FromNode, Node, Resources, SubnetSource};
use bgp::types::{Family, Prefix};

/// A node should have at least one subnet of this family out of this pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedSubnet {
    /// The node's name.
    pub node: String,
    /// The pool's name.
    pub pool: String,
    /// Of which family.
    pub family: Family,
    /// Bits of the subnet's prefix.
    pub length: u8,
}

/// An AS number out of `range` should be kept under `key`, different from every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedNumber {
    /// `node/NAME` or `rack/VALUE`.
    pub key: String,
    /// Where to take it from.
    pub range: AsnRange,
}

/// Which subnets the nodes should have, in a fixed order. Once for every node, pool and family the
/// pool has prefixes of; none where the Fabric adopts what the nodes say.
pub fn wanted_subnets(resources: &Resources) -> Vec<WantedSubnet> {
    let mut wanted = Vec::new();
    if resources.fabric.spec.node_subnets == SubnetSource::Adopt {
        return wanted;
    }
    for node in resources.nodes.values() {
        for pool in resources.pools.values() {
            if !pool.spec.node_selector.selects(&node.metadata) {
                continue;
            }
            let has = |family| {
                pool.spec
                    .prefixes
                    .iter()
                    .any(|p: &Prefix| p.family() == family)
            };
            for family in Family::ALL.into_iter().filter(|family| has(*family)) {
                wanted.push(WantedSubnet {
                    node: node.metadata.name.clone(),
                    pool: pool.metadata.name.clone(),
                    family,
                    length: pool.spec.node_subnet_length.get(family),
                });
            }
        }
    }
    wanted
}

/// Which AS numbers have to be given out, in a fixed order; none unless the Fabric has a range.
/// Those of [`fixed_numbers`] must not be given out.
pub fn wanted_numbers(resources: &Resources) -> Vec<WantedNumber> {
    let nodes = resources.nodes.values();
    let wanted = nodes.filter_map(|node| wanted_number(resources, node));
    let mut wanted: Vec<WantedNumber> = wanted.collect();
    wanted.sort_by(|a, b| a.key.cmp(&b.key));
    wanted.dedup();
    wanted
}

/// The AS number that has to be given out for this node; none where it is named outright.
pub fn wanted_number(resources: &Resources, node: &Node) -> Option<WantedNumber> {
    if node.spec.asn.is_some() {
        return None;
    }
    match &resources.fabric.spec.asn {
        AsnSource::Value(_) => None,
        AsnSource::PerNode(per_node) => Some(WantedNumber {
            key: node_key(&node.metadata.name),
            range: per_node.range,
        }),
        AsnSource::PerRack(per_rack) => {
            let rack = node.metadata.labels.get(&per_rack.label)?;
            let is_named = per_rack.values.contains_key(rack);
            Some(WantedNumber {
                key: rack_key(rack),
                range: per_rack.range.filter(|_| !is_named)?,
            })
        }
    }
}

/// AS numbers of the range that must not be given out because a resource says them outright.
pub fn fixed_numbers(resources: &Resources) -> std::collections::BTreeSet<bgp::types::Asn> {
    let nodes = resources.nodes.values().filter_map(|node| node.spec.asn);
    let racks: Vec<api::AsNumber> = match &resources.fabric.spec.asn {
        AsnSource::PerRack(per_rack) => per_rack.values.values().copied().collect(),
        AsnSource::Value(_) | AsnSource::PerNode(_) => Vec::new(),
    };
    let peers = resources.peers.values().flat_map(|peer| {
        let from = peer.spec.remote_asn_from.as_ref();
        let listed = from.into_iter().flat_map(FromNode::listed);
        let listed = listed.map(|(_, asn)| *asn);
        let own = from.filter(|from| from.values.is_none()).into_iter();
        let nodes = || resources.nodes.values();
        let own = own.flat_map(|from| nodes().filter_map(|node| from.get(&node.metadata).ok()));
        peer.spec
            .remote_asn
            .into_iter()
            .chain(listed)
            .chain(own)
            .collect::<Vec<_>>()
    });
    nodes
        .chain(racks)
        .chain(peers)
        .map(api::AsNumber::get)
        .collect()
}

/// Under which key a node's own number is kept.
pub(crate) fn node_key(node: &str) -> String {
    format!("node/{node}")
}

/// Under which key a rack's number is kept.
pub(crate) fn rack_key(rack: &str) -> String {
    format!("rack/{rack}")
}

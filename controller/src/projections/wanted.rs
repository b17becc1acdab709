//! What the objects should say: the ledger, node by node.

use std::collections::{BTreeMap, BTreeSet};

use bgp::types::Family;
use crd::{Family as ShownFamily, GivenAsn, NodeSubnet, State as Shown};
use ipam::Millis;
use ipam::pool::{Lease, State};
use ipnetwork::IpNetwork;

use crate::reconcile::View;
use crate::source::kubernetes::Nodes;
use crate::store::NODE_KEY;

/// A subnet that no object shows any more, as its last holder had it.
pub(super) type Released = (IpNetwork, String, Millis);

/// What should stand in the objects of all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) nodes: BTreeMap<String, WantedNode>,
    /// The generation of the ledger at which this controller began to lead.
    pub(super) since: i64,
}

/// What should stand in the object of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WantedNode {
    /// The Kubernetes Node; empty when there is none.
    pub(super) uid: String,
    /// What it holds, without what is to be freed. In the order of the addresses.
    pub(super) subnets: Vec<NodeSubnet>,
    /// The AS number that was given out for it.
    pub(super) given_asn: Option<GivenAsn>,
    /// Whether something of it is to be freed.
    pub(super) releasing: bool,
    /// The ledger that says so.
    pub(super) generation: i64,
}

impl WantedNode {
    /// Whether there is anything to say.
    pub(super) fn holds_something(&self) -> bool {
        !self.subnets.is_empty() || self.given_asn.is_some()
    }
}

/// What the ledger says of every node that holds something.
pub(super) fn wanted(view: &View, nodes: &Nodes) -> Wanted {
    let generation = i64::try_from(view.ledger_generation).unwrap_or(i64::MAX);
    let mut wanted = Wanted {
        nodes: BTreeMap::new(),
        since: i64::try_from(view.leads_since).unwrap_or(i64::MAX),
    };
    let empty = |node: &str| WantedNode {
        uid: nodes
            .get(node)
            .and_then(|node| node.metadata.uid.clone())
            .unwrap_or_default(),
        generation,
        ..WantedNode::default()
    };
    for (subnet, lease) in view.ledger.iter() {
        let node = wanted.nodes.entry(lease.node.clone());
        let node = node.or_insert_with(|| empty(&lease.node));
        if view.due.contains(&subnet) {
            node.releasing = true;
        } else {
            node.subnets.push(shown(subnet, lease));
        }
    }
    for (node, given) in given_numbers(view) {
        let wanted = wanted.nodes.entry(node.clone());
        wanted.or_insert_with(|| empty(&node)).given_asn = Some(given);
    }
    wanted
}

/// The AS number that was given out for each node: its own, or its rack's. Who is gone has his own until
/// that is free.
fn given_numbers(view: &View) -> BTreeMap<String, GivenAsn> {
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    for key in view.numbers.keys() {
        if let Some(node) = key.strip_prefix(NODE_KEY) {
            keys.insert(node.to_owned(), key.clone());
        }
    }
    if let Some(loaded) = &view.loaded {
        for (name, node) in &loaded.resources.nodes {
            if let Some(wanted) = plan::wanted_number(&loaded.resources, node) {
                keys.insert(name.clone(), wanted.key);
            }
        }
    }
    let given = keys.into_iter().filter_map(|(node, key)| {
        let asn = view.numbers.get(&key)?.asn.into();
        Some((node, GivenAsn { asn, to: key }))
    });
    given.collect()
}

fn shown(subnet: IpNetwork, lease: &Lease) -> NodeSubnet {
    let time = |millis: Millis| crd::time(i64::try_from(millis).unwrap_or(i64::MAX));
    let (state, free_at) = match lease.state {
        State::Assigned => (Shown::Assigned, None),
        State::Waiting { free_at } => (Shown::Waiting, time(free_at)),
    };
    NodeSubnet {
        prefix: subnet,
        pool: lease.pool.clone(),
        family: ShownFamily::of(subnet),
        state,
        since: time(lease.since),
        free_at,
        fixed: lease.fixed,
    }
}

/// What to write into `spec.podCIDRs` of Nodes that have none, with their uid: the first subnet of each
/// family, IPv4 first. It can be written once only, so a node for which a family is missing waits.
pub(super) fn pod_cidrs(view: &View, nodes: &Nodes) -> BTreeMap<String, (String, Vec<IpNetwork>)> {
    let Some(loaded) = &view.loaded else {
        return BTreeMap::new();
    };
    let resources = &loaded.resources;
    let without: BTreeMap<&str, &str> = nodes
        .iter()
        .filter(|(name, node)| {
            node.spec.pod_cidrs.is_empty()
                && node.metadata.deletion_timestamp.is_none()
                && resources.nodes.contains_key(*name)
        })
        .filter_map(|(name, node)| Some((name.as_str(), node.metadata.uid.as_deref()?)))
        .collect();
    if without.is_empty() {
        return BTreeMap::new();
    }
    let mut families: BTreeMap<String, BTreeSet<Family>> = BTreeMap::new();
    for wanted in plan::wanted_subnets(resources) {
        if without.contains_key(wanted.node.as_str()) {
            families
                .entry(wanted.node)
                .or_default()
                .insert(wanted.family);
        }
    }
    // The first that was given, so that it does not depend on what came later.
    let mut first: BTreeMap<(&str, bool), (Millis, IpNetwork)> = BTreeMap::new();
    for (subnet, lease) in view.ledger.iter() {
        if lease.state != State::Assigned || !without.contains_key(lease.node.as_str()) {
            continue;
        }
        let key = (lease.node.as_str(), subnet.is_ipv6());
        let candidate = (lease.since, subnet);
        let best = first.entry(key).or_insert(candidate);
        *best = candidate.min(*best);
    }
    let mut written = BTreeMap::new();
    for (node, families) in families {
        let subnets = families.iter().map(|family| {
            let key = (node.as_str(), *family == Family::Ipv6);
            first.get(&key).map(|(_, subnet)| *subnet)
        });
        let Some(mut subnets) = subnets.collect::<Option<Vec<_>>>() else {
            continue;
        };
        subnets.sort_by_key(IpNetwork::is_ipv6);
        let uid = without[node.as_str()].to_owned();
        written.insert(node, (uid, subnets));
    }
    written
}

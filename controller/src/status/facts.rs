//! What the controller itself knows of each node, taken from the view once per change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipam::pool::{Family, State};
use ipnetwork::IpNetwork;
use proto::controller::v1 as pb;

use crate::planning::family_of;
use crate::reconcile::View;

/// One node, as far as the controller decides about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFacts {
    /// Whether the cluster has it.
    pub(crate) exists: bool,
    /// Its addresses, the main ones first.
    pub(crate) addresses: Vec<String>,
    /// What its speaker is told; none when it cannot have a configuration.
    pub(crate) config: Option<Arc<pb::NodeConfig>>,
    /// What it holds, in the order of the prefixes.
    pub(crate) subnets: Vec<Held>,
    /// The families that some pool has for it.
    pub(crate) families: BTreeSet<Family>,
    /// Pools that select it and have given it nothing of that family.
    pub(crate) without: Vec<(String, Family)>,
    /// What the controller has to say about it.
    pub(crate) problems: Vec<String>,
}

/// A subnet of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) subnet: IpNetwork,
    /// Empty for a static one.
    pub(crate) pool: String,
    /// Not waiting for its grace time to end.
    pub(crate) assigned: bool,
}

impl NodeFacts {
    /// Whether nothing has changed.
    pub(crate) fn is_same(&self, other: &NodeFacts) -> bool {
        let version = |facts: &NodeFacts| facts.config.as_ref().map(|config| config.version);
        self.exists == other.exists
            && version(self) == version(other)
            && self.addresses == other.addresses
            && self.subnets == other.subnets
            && self.families == other.families
            && self.without == other.without
            && self.problems == other.problems
    }

    /// Whether there is to be a NodeStatus of it.
    pub(crate) fn has_status(&self) -> bool {
        self.exists || !self.subnets.is_empty()
    }

    /// Its session with this peer is down on purpose.
    pub(crate) fn is_shut_down(&self, peer: &str) -> bool {
        let config = self.config.iter();
        let mut peers = config.flat_map(|config| &config.peers);
        peers.any(|it| it.name == peer && it.shutdown.is_some())
    }
}

/// All nodes that there are, and those that are gone and still hold something.
pub(crate) fn facts(view: &View) -> BTreeMap<String, NodeFacts> {
    let mut nodes: BTreeMap<String, NodeFacts> = BTreeMap::new();
    for (name, node) in &view.nodes {
        let facts = nodes.entry(name.clone()).or_default();
        facts.exists = node.exists;
        facts.problems.clone_from(&node.problems);
        facts.config = view.configs.get(name).cloned();
    }
    for (subnet, lease) in view.ledger.iter() {
        let facts = nodes.entry(lease.node.clone()).or_default();
        facts.subnets.push(Held {
            subnet,
            pool: lease.pool.clone(),
            assigned: lease.state == State::Assigned,
        });
    }
    let Some(loaded) = &view.loaded else {
        return nodes;
    };
    for (name, node) in &loaded.resources.nodes {
        if let Some(facts) = nodes.get_mut(name) {
            let addresses = node.spec.addresses.iter();
            facts.addresses = addresses.map(ToString::to_string).collect();
        }
    }
    for wanted in plan::wanted_subnets(&loaded.resources) {
        let Some(facts) = nodes.get_mut(&wanted.node) else {
            continue;
        };
        let family = family_of(wanted.family);
        facts.families.insert(family);
        let has = facts.subnets.iter().any(|held| {
            let of_pool = held.pool == wanted.pool || held.pool.is_empty();
            of_pool && held.assigned && Family::of(held.subnet) == family
        });
        if !has {
            facts.without.push((wanted.pool, family));
        }
    }
    nodes
}

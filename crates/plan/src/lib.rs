//! Snapshot of the cluster → one [`NodeConfig`] per node. Pure: the same input gives the same output.
//!
//! The controller calls [`plan`] after every change of the resources or of what was given to whom; a
//! standalone speaker and `bgpctl check` call it with files alone. In reading order:
//!
//! - [`config`]: what a node's speaker is told;
//! - [`plan`]: from the snapshot to all configurations, with the problems of nodes that get none;
//! - [`wanted_subnets`], [`wanted_numbers`]: what the controller has to give out first;
//! - [`wire`]: to and from the gRPC contract.

pub mod config;
pub mod wire;

mod bfd;
mod masquerade;
mod node;
mod policy;
mod subnets;
mod topology;
mod wanted;

use std::collections::BTreeMap;

use api::Resources;
use bgp::types::{Asn, RouterId};

pub use config::{
    BfdAuthentication, BfdSession, KernelConfig, Masquerade, MasqueradedPool, NamesConfig,
    NodeConfig, PodsConfig, Purpose, Subnet,
};
pub use wanted::{
    WantedNumber, WantedSubnet, fixed_numbers, wanted_number, wanted_numbers, wanted_subnets,
};

/// What a plan is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What users wrote.
    pub resources: Resources,
    /// What the controller gave to each node, by the node's name. A Node's static subnets are not
    /// in here; the plan adds them.
    pub subnets: BTreeMap<String, Vec<Subnet>>,
    /// AS numbers the controller gave out, by [`WantedNumber::key`].
    pub numbers: BTreeMap<String, Asn>,
}

/// Everything the controller has to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By node name; version 0, for the controller to number them.
    pub configs: BTreeMap<String, NodeConfig>,
    /// What keeps a node from having its configuration or a part of it.
    pub problems: Vec<Problem>,
}

/// Something a person should know about one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The node's name.
    pub node: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node `{}`: {}", self.node, self.message)
    }
}

/// One configuration per node.
///
/// A node that cannot have a configuration (no AS number) has none, one of whose sessions cannot be
/// planned has the others; each such case is a [`Problem`].
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut configs = BTreeMap::new();
    let problems = plan_each(snapshot, |config| {
        configs.insert(config.node.clone(), config);
    });
    Plan { configs, problems }
}

/// As [`plan`], for who needs no two configurations at once: `take` gets each when it is made, in the order
/// of the nodes' names. Those of thousands of nodes take more room than all that they are made of.
pub fn plan_each(snapshot: &Snapshot, mut take: impl FnMut(NodeConfig)) -> Vec<Problem> {
    let mut all_problems = Vec::new();
    let generated = topology::Generated::of(snapshot);
    let direct = masquerade::direct(snapshot);
    let for_all = node::ForAll {
        generated: generated.as_ref(),
        direct: direct.as_ref(),
    };
    let mut identifiers: BTreeMap<RouterId, &String> = BTreeMap::new();
    for node in snapshot.resources.nodes.values() {
        let name = &node.metadata.name;
        let mut problems = Vec::new();
        if let Some(config) = node::config(snapshot, for_all, node, &mut problems) {
            let identifier = config.bgp.router_id;
            if let Some(other) = identifiers.insert(identifier, name) {
                problems.push(format!(
                    "its router id {identifier} is that of node `{other}` too, and sessions between the two \
                     are refused; say Node spec.routerId"
                ));
            }
            take(config);
        }
        let problems = problems.into_iter().map(|message| Problem {
            node: name.clone(),
            message,
        });
        all_problems.extend(problems);
    }
    all_problems
}

//! What one node's speaker is told: the whole of it, every time.

use bgp::types::Prefix;
use serde::Serialize;

/// Everything one node's speaker does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The node's name.
    pub node: String,
    /// Grows with every change of content; 0 until the controller has numbered it.
    pub version: u64,
    /// The engine's part.
    pub bgp: bgp::config::Config,
    /// Where the speaker listens for BGP.
    pub listen_port: u16,
    /// The node's subnets, in the order of their prefixes.
    pub subnets: Vec<Subnet>,
    /// Where learned routes go.
    pub kernel: KernelConfig,
}

/// A subnet of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subnet {
    /// The addresses.
    pub prefix: Prefix,
    /// The Pool it is out of; empty for a Node's static subnet.
    pub pool: String,
    /// What the addresses are for.
    pub purpose: Purpose,
}

/// What a subnet's addresses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Purpose {
    /// Containers on the node.
    Pods,
}

impl From<api::Purpose> for Purpose {
    fn from(purpose: api::Purpose) -> Purpose {
        match purpose {
            api::Purpose::Pods => Purpose::Pods,
        }
    }
}

/// Where learned routes go on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KernelConfig {
    /// The routing table; 254 is `main`.
    pub table: u32,
    /// The protocol number our routes carry, by which we know them again.
    pub protocol: u8,
    /// Their metric.
    pub metric: u32,
    /// Whether learned routes are installed at all.
    pub install: bool,
}

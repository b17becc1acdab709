//! What [`crate::pool::settle`] has to say besides its changes.

use ipnetwork::IpNetwork;

use crate::pool::{Family, MAX_PER_NODE};

/// What could not be done, or was kept although it is no longer wanted so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No free subnet is left.
    #[error(
        "pool {pool} has no free {family} subnet of /{length} for node {node}: {used} of {total} \
         are assigned and {waiting} wait for their grace time to end; add a prefix to the pool"
    )]
    PoolFull {
        /// The pool.
        pool: String,
        /// The family asked for.
        family: Family,
        /// Mask bits asked for.
        length: u8,
        /// Who goes without.
        node: String,
        /// Subnets of that length in the pool, without those reserved.
        total: u64,
        /// Of them, how many nodes hold.
        used: u64,
        /// Of them, how many wait.
        waiting: u64,
    },
    /// The wish names a pool that is not there.
    #[error("node {node} wants a subnet of pool {pool}, which does not exist")]
    NoPool {
        /// Who asks.
        node: String,
        /// For what.
        pool: String,
    },
    /// What a person wrote down for a node is in other hands.
    #[error(
        "subnet {subnet} written down for node {node} overlaps {held}, which node {holder} holds; \
         it is given when that is free"
    )]
    Taken {
        /// What was asked for.
        subnet: IpNetwork,
        /// For whom.
        node: String,
        /// What is in the way.
        held: IpNetwork,
        /// Whose it is.
        holder: String,
    },
    /// The pool no longer has the prefix (or is gone); the node keeps its subnet.
    #[error(
        "node {node} keeps subnet {subnet}, which pool {pool} no longer has; it is freed when the \
         node is removed"
    )]
    OutsidePool {
        /// The subnet.
        subnet: IpNetwork,
        /// Whose it is.
        node: String,
        /// Where it came from.
        pool: String,
    },
    /// The range was reserved after the subnet was given; the node keeps it.
    #[error("node {node} keeps subnet {subnet}, a part of which pool {pool} now reserves")]
    Reserved {
        /// The subnet.
        subnet: IpNetwork,
        /// Whose it is.
        node: String,
        /// Where it came from.
        pool: String,
    },
    /// The grace time is over, and the speaker of the former holder still uses the subnet.
    #[error(
        "subnet {subnet} is not freed: it is no longer that of node {node}, but the speaker there \
         still uses it; stop that speaker"
    )]
    StillUsed {
        /// The subnet.
        subnet: IpNetwork,
        /// Whose it was.
        node: String,
    },
    /// What another allocator gave a node is in other hands.
    #[error(
        "node {node} has podCIDR {subnet}, which overlaps {held} of node {holder}: it is not used here. \
         Another allocator gave it; stop that one (kube-controller-manager \
         --allocate-node-cidrs=false), delete the Node {node} and let it register again; or set Fabric \
         spec.nodeSubnets to Adopt"
    )]
    FoundTaken {
        /// What the node has.
        subnet: IpNetwork,
        /// The node.
        node: String,
        /// What is in the way.
        held: IpNetwork,
        /// Whose it is.
        holder: String,
    },
    /// What another allocator gave a node is in no pool.
    #[error(
        "node {node} has podCIDR {subnet}, which no Pool contains: it is not used here; add it to a Pool, \
         or delete the Node and let it register again"
    )]
    FoundOutside {
        /// What the node has.
        subnet: IpNetwork,
        /// The node.
        node: String,
    },
    /// What another allocator gave a node has another length than the pool gives.
    #[error(
        "node {node} has podCIDR {subnet}, but pool {pool} gives subnets of /{length}: it is not used \
         here; set the pool's nodeSubnetLength, or delete the Node and let it register again"
    )]
    FoundLength {
        /// What the node has.
        subnet: IpNetwork,
        /// The node.
        node: String,
        /// The pool it lies in.
        pool: String,
        /// Mask bits the pool gives.
        length: u8,
    },
    /// What another allocator gave a node is in a pool that is not for this node.
    #[error(
        "node {node} has podCIDR {subnet} of pool {pool}, whose nodeSelector does not select it: it is \
         not used here; change the selector, or delete the Node and let it register again"
    )]
    FoundOther {
        /// What the node has.
        subnet: IpNetwork,
        /// The node.
        node: String,
        /// The pool it lies in.
        pool: String,
    },
    /// A node asked for more than [`MAX_PER_NODE`].
    #[error("node {node} holds {MAX_PER_NODE} {family} subnets of pool {pool} and gets no more")]
    TooMany {
        /// Who asks.
        node: String,
        /// Of which pool.
        pool: String,
        /// Of which family.
        family: Family,
    },
}

impl Problem {
    /// The node it is about.
    pub fn node(&self) -> &str {
        match self {
            Problem::PoolFull { node, .. }
            | Problem::NoPool { node, .. }
            | Problem::Taken { node, .. }
            | Problem::OutsidePool { node, .. }
            | Problem::Reserved { node, .. }
            | Problem::StillUsed { node, .. }
            | Problem::FoundTaken { node, .. }
            | Problem::FoundOutside { node, .. }
            | Problem::FoundLength { node, .. }
            | Problem::FoundOther { node, .. }
            | Problem::TooMany { node, .. } => node,
        }
    }
}

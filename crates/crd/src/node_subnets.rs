//! NodeSubnets: the subnets of a node, written by the controller for everybody to read.

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::object;

object! {
    /// The subnets of one node; it has the node's name. The controller's ledger says what is so; this
    /// object repeats it.
    NodeSubnets {
        /// What the ledger says.
        spec: NodeSubnetsSpec,
    }
}

/// What the ledger says of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSubnetsSpec {
    /// The Kubernetes Node that holds or held the subnets; empty when none is known. Another node of
    /// the same name has another one.
    #[serde(rename = "nodeUID", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub node_uid: String,
    /// The generation of the ledger that this repeats; it only grows.
    #[schemars(range(min = 0))]
    pub ledger_generation: i64,
    /// Each with the pool it came from; those of a node that is gone stay until they are free.
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["prefix"]))]
    pub subnets: Vec<NodeSubnet>,
    /// The AS number that was given out for the node; absent where the Fabric or the node names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_asn: Option<GivenAsn>,
}

/// An AS number out of the range of the Fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenAsn {
    /// The AS number.
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub asn: i64,
    /// To whom it was given: `node/NAME`, or `rack/VALUE` for all nodes of a rack.
    #[schemars(length(max = 320))]
    pub to: String,
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSubnet {
    /// Its addresses, such as `10.64.3.0/24`.
    #[schemars(with = "String", length(max = 43))]
    pub prefix: IpNetwork,
    /// The Pool it came from; for one that was written down for the node, the Pool it lies in, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Assigned while the node exists; Waiting from then until freeAt.
    pub state: State,
    /// Since when it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When a waiting subnet may be given to another node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_at: Option<Time>,
    /// Whether somebody else decided that the node has it: a person, or another allocator.
    #[serde(default)]
    pub fixed: bool,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    Ipv6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(prefix: IpNetwork) -> Family {
        match prefix {
            IpNetwork::V4(_) => Family::Ipv4,
            IpNetwork::V6(_) => Family::Ipv6,
        }
    }
}

/// Where a subnet is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Its node exists.
    Assigned,
    /// Its node is gone; nobody else gets it before `freeAt`.
    Waiting,
}

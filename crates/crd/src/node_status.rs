//! NodeStatus: how a node fares, written by the controller from what its speaker reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::object;

object! {
    /// How one node fares; it has the node's name.
    ///
    /// Only the controller writes it, so its status is no subresource: one request makes or changes it.
    NodeStatus {
        /// What is known.
        status: NodeState,
    }
}

/// What is known of a node. Empty fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeState {
    /// When the controller last learned something that stands here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Since when its speaker is connected; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<Time>,
    /// Since when it is not; absent while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away_since: Option<Time>,
    /// Its speaker's version, as `routeshare-speaker --version` prints it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub software: String,
    /// Its AS number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_u64))]
    pub asn: Option<i64>,
    /// Its BGP Identifier.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub router_id: String,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 45)), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<String>,
    /// Which configuration it has, and which it should have.
    pub version: Version,
    /// Why it refused the newest configuration; the one before stays in force. Absent when it did not.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32768))]
    pub refused: String,
    /// Its sessions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8192), extend("x-kubernetes-list-type" = "atomic"))]
    pub sessions: Vec<SessionState>,
    /// How many of them are Established, and how many there are: `2/2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub sessions_established: String,
    /// Its subnets, and their use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub subnets: Vec<SubnetState>,
    /// What a person should know of, most serious first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<Problem>,
    /// Connected: its speaker is. Programmed: it has the newest configuration. Degraded: it has problems.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Versions of a node's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Version {
    /// What the speaker has in force; 0 when it has none.
    #[schemars(range(min = 0))]
    pub in_force: i64,
    /// What the controller has for it; 0 when it has none.
    #[schemars(range(min = 0))]
    pub desired: i64,
}

/// A session, as its node has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionState {
    /// The `Peer` it comes from, or the name that the topology gave it.
    #[schemars(length(max = 512))]
    pub peer: String,
    /// The other side.
    #[schemars(length(max = 64))]
    pub address: String,
    /// The AS number of the other side.
    #[schemars(range(min = 0, max = 4294967295_u64))]
    pub remote_asn: i64,
    /// A state of RFC 4271 §8.2.2: Idle, Connect, Active, OpenSent, OpenConfirm, Established.
    #[schemars(length(max = 32))]
    pub state: String,
    /// Since when it is in that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The last NOTIFICATION or error, in words; absent when there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub last_error: String,
    /// How many prefixes the other side sent.
    #[schemars(range(min = 0))]
    pub prefixes_received: i64,
    /// How many of them the import policies accepted.
    #[schemars(range(min = 0))]
    pub prefixes_accepted: i64,
    /// How many were sent to the other side.
    #[schemars(range(min = 0))]
    pub prefixes_advertised: i64,
}

/// How much of a subnet is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubnetState {
    /// Its addresses.
    #[schemars(length(max = 43))]
    pub prefix: String,
    /// The `Pool` it came from.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// How many of its addresses are taken.
    #[schemars(range(min = 0))]
    pub used: i64,
    /// How many it has; 9223372036854775807 when there are more.
    #[schemars(range(min = 0))]
    pub size: i64,
}

/// Something that a person should know of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Problem {
    /// A stable word, such as ForeignRoute or NextHopUnresolved.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// What is wrong, and what to do.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// The session it is about; absent when it is about none, or several.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub peer: String,
}

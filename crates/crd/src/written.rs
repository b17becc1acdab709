//! Objects that users write, as the API server has them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object of one of the kinds in [`WRITTEN_BY_USERS`](crate::WRITTEN_BY_USERS), to be had by
/// `Api::<Written>::all_with(client, &Kind::Peer.api_resource())`.
///
/// Its spec is not read here: an object that somebody stored before there was a rule must not end the
/// watch of all the others. `api::parse` reads it and says what is wrong.
pub type Written = kube::core::Object<serde_json::Value, WrittenStatus>;

/// What the controller says of an object that a user wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WrittenStatus {
    /// The generation that the conditions are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted: it is right, and in force. Programmed: the nodes have done what it says. Degraded:
    /// something that it asks for does not work somewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many nodes it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub nodes: Option<i64>,
    /// Of a Fabric: on how many of them the speaker is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub connected: Option<i64>,
    /// Of a Peer: how many of its sessions are Established, and how many there are: `498/500`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub sessions: String,
    /// Of a Pool: its subnets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<SubnetCounts>,
}

/// How full a Pool is, in subnets of a node's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SubnetCounts {
    /// Those in its prefixes, without the reserved ones.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// Those that nodes hold.
    #[schemars(range(min = 0))]
    pub used: i64,
    /// Those whose node is gone and whose grace time runs.
    #[schemars(range(min = 0))]
    pub waiting: i64,
}

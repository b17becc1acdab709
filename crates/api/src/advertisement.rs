//! Advertisement: what is announced to whom.

use bgp::types::Prefix;
use serde::{Deserialize, Serialize};

use crate::{Selector, SetSpec};

/// What is announced to whom with which attributes. The peers' export policies still decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdvertisementSpec {
    /// Which nodes announce; all when not given.
    #[serde(default)]
    pub node_selector: Selector,
    /// Which `Peer`s hear it; all when not given.
    #[serde(default)]
    pub peer_selector: Selector,
    /// Announce the node's own subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_subnets: Option<NodeSubnets>,
    /// Announce these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Prefix>"))]
    pub prefixes: Vec<Prefix>,
    /// Attributes, set before the export policies are asked.
    #[serde(default)]
    pub set: SetSpec,
}

/// Which of the node's subnets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSubnets {
    /// Those out of these `Pool`s; all subnets, the Node's static ones too, when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<String>>,
}

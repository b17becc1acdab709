//! Pool: address space that nodes get subnets out of.

use bgp::types::{Family, Prefix};
use serde::{Deserialize, Serialize};

use crate::Selector;
use crate::values::Number;

/// Address space that nodes get subnets out of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// The address space; at least one, of either family.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Prefix>"))]
    pub prefixes: Vec<Prefix>,
    /// How long the prefix of a node's subnet is.
    #[serde(default)]
    pub node_subnet_length: NodeSubnetLength,
    /// What the addresses are for.
    #[serde(default)]
    pub purpose: Purpose,
    /// Which nodes get subnets; all when not given.
    #[serde(default)]
    pub node_selector: Selector,
    /// Parts of the prefixes that are never given out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Prefix>"))]
    pub reserved: Vec<Prefix>,
    /// Whether packets between nodes are wrapped.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// What leaves the cluster does so with the node's own address as its source; `{}` for all of it.
    /// When not given, pods keep their addresses everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<MasqueradeSpec>,
}

/// Which packets of a Pool's pods leave a node with the node's own address as their source. Those to
/// pods, nodes and the node's BGP peers never do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MasqueradeSpec {
    /// Towards these, pods keep their own addresses: networks that know the way back to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Prefix>"))]
    pub exempt: Vec<Prefix>,
}

/// How long the prefix of a node's subnet is, for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeSubnetLength {
    /// Bits of an IPv4 subnet.
    pub ipv4: Number<u8, 1, 32>,
    /// Bits of an IPv6 subnet.
    pub ipv6: Number<u8, 1, 128>,
}

impl NodeSubnetLength {
    /// Bits of a subnet of `family`.
    pub fn get(self, family: Family) -> u8 {
        match family {
            Family::Ipv4 => self.ipv4.get(),
            Family::Ipv6 => self.ipv6.get(),
        }
    }
}

impl Default for NodeSubnetLength {
    fn default() -> NodeSubnetLength {
        NodeSubnetLength {
            ipv4: Number::new(24).expect("24 is between 1 and 32"),
            ipv6: Number::new(64).expect("64 is between 1 and 128"),
        }
    }
}

/// What a subnet's addresses are for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Purpose {
    /// Containers on the node.
    #[default]
    Pods,
}

/// Whether packets between nodes are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Encapsulation {
    /// Never: plain routes.
    #[default]
    None,
}

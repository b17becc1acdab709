//! Node: a machine that runs a speaker.

use std::net::{IpAddr, Ipv4Addr};

use bgp::types::Prefix;
use serde::{Deserialize, Serialize};

use crate::values::AsNumber;

/// A machine that runs a speaker. Its labels (such as `rack`) are in its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Its own addresses; the first one of a family is the main one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its AS number, where it is not what the Fabric says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<AsNumber>,
    /// Its BGP Identifier, where it is not its first IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// Subnets it holds besides those given out by the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Prefix>,
}

//! RoutePolicy: rules for routes received or sent.

use std::net::IpAddr;

use bgp::types::{Community, ExtendedCommunity, Family, LargeCommunity, Prefix};
use serde::{Deserialize, Serialize};

use crate::values::{AnyCommunity, AsNumber, Number};

/// Rules for routes received or sent, in order. The first rule that matches and does not continue
/// decides; a route that none decides is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutePolicySpec {
    /// In order.
    pub rules: Vec<RuleSpec>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleSpec {
    /// What `bgpctl explain` calls it; `rule 1` and so on when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it applies to; every route when not given.
    #[serde(default, rename = "match")]
    pub matches: MatchSpec,
    /// What becomes of a route it applies to.
    pub action: ActionSpec,
    /// Changes made to a route that is not rejected.
    #[serde(default)]
    pub set: SetSpec,
}

/// What becomes of a matching route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ActionSpec {
    /// Accepted by this policy.
    Accept,
    /// Refused.
    Reject,
    /// Changed; the next rule is looked at.
    Continue,
}

/// Conditions; all that are given must hold, each list holds when one of its members does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MatchSpec {
    /// The destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PrefixSpec>,
    /// Family of the destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Family>"))]
    pub families: Vec<Family>,
    /// Any of these communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Community>"))]
    pub communities: Vec<Community>,
    /// Any of these large communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<crate::schema::LargeCommunity>")
    )]
    pub large_communities: Vec<LargeCommunity>,
    /// Any of these extended communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Vec<crate::schema::ExtendedCommunity>")
    )]
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Any of these stands in AS_PATH.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub as_path_contains: Vec<AsNumber>,
    /// The first AS of AS_PATH is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbor_asns: Vec<AsNumber>,
    /// The last AS of AS_PATH is one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origin_asns: Vec<AsNumber>,
    /// How long AS_PATH is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_path_length: Option<LengthSpec>,
    /// Where the route came from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceSpec>,
    /// Originated by one of these `Advertisement`s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advertisements: Vec<String>,
    /// Received from one of these `Peer`s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// A destination and the lengths allowed within it: `prefix` alone means exactly this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixSpec {
    /// Holds the destination.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Prefix"))]
    pub prefix: Prefix,
    /// Shortest length allowed; that of `prefix` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_length: Option<Number<u8, 0, 128>>,
    /// Longest length allowed. When not given: that of `prefix`, or the family's longest when
    /// `min_length` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<Number<u8, 0, 128>>,
}

impl PrefixSpec {
    /// Shortest and longest length matched.
    pub fn lengths(&self) -> (u8, u8) {
        let own = self.prefix.length();
        let longest = match self.prefix.family() {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        };
        let min = self.min_length.map_or(own, Number::get);
        let max = match (self.max_length, self.min_length) {
            (Some(max), _) => max.get(),
            (None, Some(_)) => longest,
            (None, None) => own,
        };
        (min, max)
    }
}

/// Bounds of a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LengthSpec {
    /// At least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Number<u32, 0, 1000>>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Number<u32, 0, 1000>>,
}

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SourceSpec {
    /// Ourselves.
    Local,
    /// An external peer.
    #[serde(rename = "eBGP")]
    Ebgp,
    /// An internal peer.
    #[serde(rename = "iBGP")]
    Ibgp,
}

/// Changes made to a route. Communities are cleared first, then removed, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SetSpec {
    /// LOCAL_PREF; higher wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<Number<u32, 0, 4_294_967_295>>,
    /// MULTI_EXIT_DISC; lower wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<Number<u32, 0, 4_294_967_295>>,
    /// Take MULTI_EXIT_DISC away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove_med: bool,
    /// Take all communities of every kind away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clear_communities: bool,
    /// Take these communities away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_communities: Vec<AnyCommunity>,
    /// Add these communities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_communities: Vec<AnyCommunity>,
    /// Make AS_PATH longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend: Option<PrependSpec>,
    /// NEXT_HOP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<SetNextHop>,
    /// ORIGIN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginSpec>,
}

/// An AS number put in front of AS_PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrependSpec {
    /// Which; the node's own when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<AsNumber>,
    /// How often.
    pub count: Number<u8, 1, 20>,
}

/// What NEXT_HOP becomes: `Self` or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetNextHop {
    /// Our own address of the session; only in export.
    Self_,
    /// This address.
    Address(IpAddr),
}

/// ORIGIN. RFC 4271 §5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OriginSpec {
    /// Interior to the originating AS.
    #[serde(rename = "IGP")]
    Igp,
    /// Learned by EGP.
    #[serde(rename = "EGP")]
    Egp,
    /// Learned by other means.
    Incomplete,
}

impl std::fmt::Display for SetNextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SetNextHop::Self_ => f.write_str("Self"),
            SetNextHop::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for SetNextHop {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SetNextHop {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "Self" {
            return Ok(SetNextHop::Self_);
        }
        text.parse().map(SetNextHop::Address).map_err(|_| {
            serde::de::Error::custom(format!("found `{text}`; allowed: `Self`, or an IP address"))
        })
    }
}

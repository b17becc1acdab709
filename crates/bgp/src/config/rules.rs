//! Policies: rules that accept, refuse and change routes. `policy.rs` applies them.

use std::net::IpAddr;

use serde::Serialize;

use crate::types::{Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix};

/// Ordered rules. The first rule that matches and does not continue decides; none: reject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What a person calls it.
    pub name: String,
    /// In order.
    pub rules: Vec<Rule>,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What a person calls it; unique in its policy.
    pub name: String,
    /// What it applies to.
    pub matches: Match,
    /// What becomes of a route it applies to.
    pub action: Action,
    /// Changes made to a route that is not rejected, in order.
    pub set: Vec<Set>,
}

/// What becomes of a matching route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Done: the route is accepted by this policy (and goes to the next policy of the list).
    Accept,
    /// Done: the route is refused.
    Reject,
    /// Changes are made, and the next rule is looked at.
    Continue,
}

/// Conditions; all that are set must hold, each list holds when one of its members does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The destination.
    pub prefixes: Vec<PrefixMatch>,
    /// Family of the destination.
    pub families: Vec<Family>,
    /// Any of these standard communities.
    pub communities: Vec<Community>,
    /// Any of these large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Any of these extended communities.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Any of these stands in AS_PATH.
    pub as_path_contains: Vec<Asn>,
    /// The first AS of AS_PATH is one of these.
    pub neighbor_asns: Vec<Asn>,
    /// The last AS of AS_PATH is one of these.
    pub origin_asns: Vec<Asn>,
    /// AS_PATH has at least this length (an AS_SET counts one).
    pub as_path_min_length: Option<u32>,
    /// AS_PATH has at most this length.
    pub as_path_max_length: Option<u32>,
    /// Where the route came from.
    pub sources: Vec<Source>,
    /// Originated by one of these advertisements.
    pub advertisements: Vec<String>,
    /// Received from one of these peers.
    pub peers: Vec<String>,
}

/// A destination and the lengths allowed within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixMatch {
    /// Holds the destination.
    pub prefix: Prefix,
    /// Shortest length allowed; at least that of `prefix`.
    pub min_length: u8,
    /// Longest length allowed; at least `min_length`.
    pub max_length: u8,
}

/// Where a route came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Source {
    /// Ourselves.
    Local,
    /// An external peer.
    Ebgp,
    /// An internal peer.
    Ibgp,
}

/// A change made to a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Set {
    /// LOCAL_PREF.
    LocalPreference(u32),
    /// MULTI_EXIT_DISC; `None` takes it away.
    Med(Option<u32>),
    /// Add a standard community.
    AddCommunity(Community),
    /// Add a large community.
    AddLargeCommunity(LargeCommunity),
    /// Add an extended community.
    AddExtendedCommunity(ExtendedCommunity),
    /// Take a standard community away.
    RemoveCommunity(Community),
    /// Take a large community away.
    RemoveLargeCommunity(LargeCommunity),
    /// Take an extended community away.
    RemoveExtendedCommunity(ExtendedCommunity),
    /// Take all communities of every kind away.
    ClearCommunities,
    /// Put an AS in front of AS_PATH, `count` times (1 to 20).
    Prepend {
        /// Which.
        asn: Asn,
        /// How often.
        count: u8,
    },
    /// NEXT_HOP becomes our own address of the session; only in export.
    NextHopSelf,
    /// NEXT_HOP becomes this address.
    NextHop(IpAddr),
    /// ORIGIN.
    Origin(Origin),
}

/// ORIGIN. RFC 4271 §5.1.1; the better one is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp = 0,
    /// Learned by EGP.
    Egp = 1,
    /// Learned by other means.
    Incomplete = 2,
}

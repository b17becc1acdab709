//! What an engine is told to do: the whole of it, every time.
//!
//! `plan` makes these values from the resources a user writes; they cannot be wrong in themselves,
//! and [`Config::check`] finds what can be wrong between them. They serialise for `bgpctl show
//! config`; the wire form between controller and speaker is `proto`'s.

mod authentication;
mod key_source;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

pub use authentication::{AoAlgorithm, AoKey, Authentication};
pub use key_source::{KeySource, NoKeySource};

use crate::types::{Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix, RouterId};

/// One speaker, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Our AS number, where a peer does not say otherwise.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: RouterId,
    /// The cluster whose routes we reflect; the router id when absent. RFC 4456 §7.
    pub cluster_id: Option<Ipv4Addr>,
    /// Names are unique, and so are addresses.
    pub peers: Vec<PeerConfig>,
    /// Names are unique.
    pub policies: Vec<Policy>,
    /// Names are unique.
    pub advertisements: Vec<Advertisement>,
    /// Prefixes are unique.
    pub originate: Vec<Originated>,
    /// How the best route is chosen.
    pub decision: DecisionConfig,
    /// Our own subnets: a received route for one of them or for a part of one is refused.
    pub own_subnets: Vec<Prefix>,
}

/// A session template made concrete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerConfig {
    /// What a person calls it.
    pub name: String,
    /// Free text; may be empty.
    pub description: String,
    /// The other side.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Our side; the kernel chooses when absent.
    pub local_address: Option<IpAddr>,
    /// The AS number we speak as on this session.
    pub local_asn: Asn,
    /// The AS number the other side must have.
    pub remote_asn: Asn,
    /// Wait for the other side to connect, never connect.
    pub passive: bool,
    /// Administratively down, with the text the peer is sent (may be empty). RFC 9003.
    pub shutdown: Option<String>,
    /// IP time to live of what we send: 1 for a directly connected eBGP peer.
    pub ttl: u8,
    /// How many hops away the peer is at most, if that is looked at; then `ttl` is 255. RFC 5082.
    pub ttl_security: Option<u8>,
    /// How TCP segments are signed; `None`: they are not.
    pub authentication: Option<Authentication>,
    /// Families offered; at least one.
    pub families: Vec<Family>,
    /// Offer IPv4 routes with IPv6 next hops. RFC 8950.
    pub extended_next_hop: bool,
    /// How many prefixes it may send; `None`: as many as it likes. RFC 4271 §6.7.
    pub max_prefixes: Option<PrefixLimits>,
    /// Timers.
    pub timers: Timers,
    /// Names of policies for routes received, in order. On eBGP none means: accept nothing.
    pub import: Vec<String>,
    /// Names of policies for routes sent, in order. On eBGP none means: send nothing.
    pub export: Vec<String>,
    /// What NEXT_HOP says in routes sent.
    pub next_hop: NextHopMode,
    /// How often our own AS may stand in a received AS_PATH.
    pub allow_own_as: u8,
    /// It is told the routes of our other internal peers, and these are told its: we are its route
    /// reflector. Only on iBGP. RFC 4456 §6.
    pub reflector_client: bool,
    /// Graceful restart, ours and the peer's; `None`: not offered. RFC 4724.
    pub graceful_restart: Option<GracefulRestart>,
}

impl PeerConfig {
    /// Whether the session is external: the two AS numbers differ.
    pub fn is_ebgp(&self) -> bool {
        self.local_asn != self.remote_asn
    }

    /// How many hops away it may be.
    pub fn hops(&self) -> u8 {
        self.ttl_security.unwrap_or(self.ttl)
    }
}

/// A session's timers, in whole seconds. RFC 4271 §10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timers {
    /// Offered hold time: 0 (never expires) or at least 3.
    pub hold: u16,
    /// Time between KEEPALIVEs; brought down to a third of the negotiated hold time where larger.
    pub keepalive: u16,
    /// Time between attempts to connect; at least 1.
    pub connect_retry: u16,
}

impl Default for Timers {
    /// 90 s, 30 s, 5 s. (RFC 4271 §10 suggests 120 s for ConnectRetry; a node that comes up
    /// should not wait for two minutes.)
    fn default() -> Timers {
        Timers {
            hold: 90,
            keepalive: 30,
            connect_retry: 5,
        }
    }
}

/// How many prefixes a peer may send, counted as received: before import policy.
/// RFC 4271 §6.7, RFC 4486 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixLimits {
    /// Of IPv4; `None`: any number.
    pub ipv4: Option<u32>,
    /// Of IPv6; `None`: any number.
    pub ipv6: Option<u32>,
    /// From which part of a limit on people are warned: 1 to 100.
    pub warn_at_percent: u8,
    /// What becomes of a session whose peer sends more.
    pub action: LimitAction,
    /// How long such a session stays down, in seconds, at least 1; `None`: until a person enables
    /// it.
    pub restart_seconds: Option<u32>,
}

impl PrefixLimits {
    /// The limit of a family.
    pub fn of(&self, family: Family) -> Option<u32> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// How many prefixes of a family are too close to its limit.
    pub fn warn_from(&self, family: Family) -> Option<u64> {
        let limit = u64::from(self.of(family)?);
        Some((limit * u64::from(self.warn_at_percent)).div_ceil(100))
    }
}

/// What becomes of a session whose peer sends more prefixes than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LimitAction {
    /// It is ended, and stays down for a while.
    Drop,
    /// People are told; everything is kept.
    Warn,
}

/// Graceful restart with one peer. RFC 4724, RFC 8538.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GracefulRestart {
    /// How long we need at most to come back after a restart, in seconds: 1 to 4095. The peer keeps
    /// our routes for so long, and we wait for so long for the peers that we had.
    pub restart_seconds: u16,
    /// How long routes of a peer that is back are kept at most if it does not repeat them, in
    /// seconds; at least 1.
    pub stale_seconds: u16,
    /// What follows once a restart time is up; `None`: routes go. RFC 9494.
    pub long_lived: Option<LongLived>,
}

/// Long-lived graceful restart with one peer. RFC 9494.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LongLived {
    /// How long the peer is to keep our routes once our restart time is up, in seconds: 1 to
    /// 16,777,215.
    pub stale_seconds: u32,
    /// How long we keep the peer's at most, whatever it asks for, in seconds; at least 1; `None`: as
    /// long as it asks for.
    pub at_most_seconds: Option<u32>,
    /// Routes kept for so long are told to this peer even if it does not know what that means, with
    /// the lowest preference and not to be told to others; only on iBGP. §4.6.
    pub tell_unaware: bool,
}

impl Default for GracefulRestart {
    /// 120 s, 360 s.
    fn default() -> GracefulRestart {
        GracefulRestart {
            restart_seconds: 120,
            stale_seconds: 360,
            long_lived: None,
        }
    }
}

/// What NEXT_HOP says in routes sent to a peer. RFC 4271 §5.1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum NextHopMode {
    /// Ourselves towards eBGP and for routes of our own; unchanged towards iBGP.
    Auto,
    /// Ourselves, but for routes that we reflect (RFC 4456 §10), which only policy changes so.
    Self_,
    /// Never changed, except for routes of our own.
    Unchanged,
}

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

/// A set of routes of our own, told to some peers with some attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advertisement {
    /// What a person calls it.
    pub name: String,
    /// Names of the peers that hear it.
    pub peers: Vec<String>,
    /// Changes made before the peer's export policies are asked.
    pub set: Vec<Set>,
}

/// A route of our own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Originated {
    /// The destination.
    pub prefix: Prefix,
    /// Names of the advertisements that ask for it; where several of them select a peer, the first
    /// one's changes are made.
    pub advertisements: Vec<String>,
}

/// How the best route is chosen among several. RFC 4271 §9.1.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DecisionConfig {
    /// Compare MED between routes of different neighbour ASes too.
    pub always_compare_med: bool,
    /// Compare routes of one neighbour AS with one another first, so that the outcome does not
    /// depend on their order.
    pub deterministic_med: bool,
    /// Between eBGP routes let the lower BGP Identifier win; otherwise the older route stays.
    pub compare_router_id: bool,
    /// How many equal routes are used at once; 1 switches multipath off.
    pub max_paths: u16,
    /// Use equal routes of different neighbour ASes together.
    pub multipath_different_as: bool,
    /// Where packets have one next hop only, keep that of the second best route ready for them.
    pub backup_paths: bool,
}

impl Default for DecisionConfig {
    fn default() -> DecisionConfig {
        DecisionConfig {
            always_compare_med: false,
            deterministic_med: true,
            compare_router_id: true,
            max_paths: 8,
            multipath_different_as: true,
            backup_paths: false,
        }
    }
}

/// Why a [`Config`] cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two things of one kind have one name.
    #[error("two {kind} are named `{name}`; names must be unique")]
    Twice {
        /// `peers`, `policies`, `advertisements` or `originated prefixes`.
        kind: String,
        /// The name.
        name: String,
    },
    /// A name that nothing has.
    #[error("{by} names the {kind} `{name}`, which is not there")]
    Missing {
        /// What holds the name.
        by: String,
        /// `policy`, `peer` or `advertisement`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A value out of its range.
    #[error("{field} is {found}; allowed: {allowed}")]
    Value {
        /// Which, with the names of what it is in.
        field: String,
        /// As given.
        found: String,
        /// In words.
        allowed: &'static str,
    },
}

impl Config {
    /// The cluster whose routes we reflect.
    pub fn cluster_id(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id.0)
    }

    /// Whether any peer is our client.
    pub fn is_reflector(&self) -> bool {
        self.peers.iter().any(|peer| peer.reflector_client)
    }

    /// Whether everything named is there, names and addresses are unique, and values are in range.
    ///
    /// # Errors
    ///
    /// The first mistake found.
    pub fn check(&self) -> Result<(), ConfigError> {
        unique("peers", self.peers.iter().map(|peer| &peer.name))?;
        unique(
            "peer addresses",
            self.peers.iter().map(|peer| &peer.address),
        )?;
        unique("policies", self.policies.iter().map(|policy| &policy.name))?;
        unique(
            "advertisements",
            self.advertisements.iter().map(|adv| &adv.name),
        )?;
        unique(
            "originated prefixes",
            self.originate.iter().map(|route| &route.prefix),
        )?;
        if self.router_id.0.is_unspecified() {
            return Err(ConfigError::Value {
                field: "the router id".into(),
                found: self.router_id.to_string(),
                allowed: "any IPv4 address but 0.0.0.0",
            });
        }
        if self.cluster_id.is_some_and(|id| id.is_unspecified()) {
            return Err(ConfigError::Value {
                field: "the cluster id".into(),
                found: "0.0.0.0".into(),
                allowed: "any IPv4 address but 0.0.0.0",
            });
        }
        for peer in &self.peers {
            self.check_peer(peer)?;
        }
        // A reflector has thousands.
        let peers: HashSet<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        let has_peer = |name: &String| peers.contains(name.as_str());
        for advertisement in &self.advertisements {
            let by = format!("advertisement `{}`", advertisement.name);
            named(&by, "peer", advertisement.peers.iter(), has_peer)?;
        }
        let has_advertisement =
            |name: &String| self.advertisements.iter().any(|adv| adv.name == *name);
        for route in &self.originate {
            let by = format!("originated prefix {}", route.prefix);
            named(
                &by,
                "advertisement",
                route.advertisements.iter(),
                has_advertisement,
            )?;
        }
        Ok(())
    }

    fn check_peer(&self, peer: &PeerConfig) -> Result<(), ConfigError> {
        let by = format!("peer `{}`", peer.name);
        let has_policy = |name: &String| self.policies.iter().any(|policy| policy.name == *name);
        named(
            &by,
            "policy",
            peer.import.iter().chain(&peer.export),
            has_policy,
        )?;
        let value = |field: &str, found: &dyn std::fmt::Display, allowed| ConfigError::Value {
            field: format!("{field} of {by}"),
            found: found.to_string(),
            allowed,
        };
        if matches!(peer.timers.hold, 1 | 2) {
            return Err(value(
                "the hold time",
                &peer.timers.hold,
                "0 s or at least 3 s",
            ));
        }
        if peer.timers.connect_retry == 0 {
            return Err(value("the connect-retry time", &0, "at least 1 s"));
        }
        if peer.remote_asn.0 == 0 || peer.local_asn.0 == 0 {
            return Err(value("an AS number", &0, "1 to 4294967295"));
        }
        if peer.reflector_client && peer.is_ebgp() {
            let allowed = "only with peers of our own AS";
            return Err(value("being a reflector's client", &"eBGP", allowed));
        }
        if peer.families.is_empty() {
            return Err(value(
                "the list of families",
                &"empty",
                "at least one family",
            ));
        }
        if peer.port == 0 {
            return Err(value("the port", &0, "1 to 65535"));
        }
        match (peer.ttl, peer.ttl_security) {
            (0, _) => return Err(value("the TTL", &0, "1 to 255")),
            (_, Some(hops @ (0 | 255))) => {
                return Err(value("the hops of TTL security", &hops, "1 to 254"));
            }
            (255, _) | (_, None) => {}
            (ttl, _) => return Err(value("the TTL", &ttl, "255 with TTL security")),
        }
        if let Some(authentication) = &peer.authentication {
            authentication.check(&by)?;
        }
        if let Some(limits) = peer.max_prefixes {
            if !(1..=100).contains(&limits.warn_at_percent) {
                let found = &limits.warn_at_percent;
                return Err(value("the prefix limits' warning", found, "1 to 100 %"));
            }
            if limits.restart_seconds == Some(0) {
                let allowed = "at least 1 s, or never";
                return Err(value("the prefix limits' restart time", &0, allowed));
            }
        }
        if let Some(restart) = peer.graceful_restart {
            let most = crate::message::GracefulRestart::MAX_SECONDS;
            if !(1..=most).contains(&restart.restart_seconds) {
                let found = &restart.restart_seconds;
                return Err(value("the restart time", found, "1 to 4095 s"));
            }
            if restart.stale_seconds == 0 {
                return Err(value("the stale time", &0, "at least 1 s"));
            }
            if let Some(long_lived) = restart.long_lived {
                let most = crate::message::LongLived::MAX_SECONDS;
                let found = &long_lived.stale_seconds;
                if !(1..=most).contains(found) {
                    return Err(value("the long-lived stale time", found, "1 to 16777215 s"));
                }
                if long_lived.at_most_seconds == Some(0) {
                    let allowed = "at least 1 s, or none";
                    return Err(value("the most of a long-lived stale time", &0, allowed));
                }
                if long_lived.tell_unaware && peer.is_ebgp() {
                    let allowed = "only with peers of our own AS";
                    return Err(value("telling long-lived stale routes", &"eBGP", allowed));
                }
            }
        }
        Ok(())
    }
}

fn unique<T: Ord + std::fmt::Display>(
    kind: &str,
    names: impl Iterator<Item = T>,
) -> Result<(), ConfigError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(ConfigError::Twice {
                kind: kind.to_owned(),
                name: name.to_string(),
            });
        }
        seen.insert(name);
    }
    Ok(())
}

fn named<'a>(
    by: &str,
    kind: &'static str,
    mut names: impl Iterator<Item = &'a String>,
    exists: impl Fn(&String) -> bool,
) -> Result<(), ConfigError> {
    match names.find(|name| !exists(name)) {
        Some(name) => Err(ConfigError::Missing {
            by: by.to_owned(),
            kind,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

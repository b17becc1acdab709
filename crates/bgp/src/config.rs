//! What an engine is told to do: the whole of it, every time.
//!
//! `plan` makes these values from the resources a user writes; they cannot be wrong in themselves,
//! and [`Config::check`] finds what can be wrong between them. They serialise for `bgpctl show
//! config`; the wire form between controller and speaker is `proto`'s.

mod authentication;
mod check;
mod key_source;
mod rules;

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

pub use authentication::{AoAlgorithm, AoKey, Authentication};
pub use check::ConfigError;
pub use key_source::{KeySource, NoKeySource};
pub use rules::{Action, Match, Origin, Policy, PrefixMatch, Rule, Set, Source};

use crate::types::{Asn, Family, Prefix, RouterId};

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
    #[serde(rename = "Self")]
    Self_,
    /// Never changed, except for routes of our own.
    Unchanged,
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

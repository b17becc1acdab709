//! Questions to the engine and their answers: peers, routes, and the whole story of one prefix.
//!
//! The engine answers in bounded pages and copies no table; the daemon turns these values into
//! `proto`'s and instants into wall-clock times.

mod explanation;
mod page;
mod routes;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attributes::Attributes;
use crate::config::{Authentication, PrefixLimits, Source};
use crate::engine::NextHopState;
use crate::types::{Asn, Family, PeerId, Prefix, RouterId};
pub use explanation::{
    Candidate, Explanation, Export, ExportState, Outcome, PolicyTrace, Withheld,
};
pub use page::{AttributeSets, Cursor, PackedSet, PageOrigin, PageRoute, Remark, RoutePage};
pub use routes::{Destinations, Reason, Refusal, RouteQuery, RouteRow, Step, View};

/// The engine as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Our AS number and BGP Identifier; `None` before the first configuration.
    pub speaker: Option<(Asn, RouterId)>,
    /// Prefixes with a best route, by family.
    pub best: BTreeMap<Family, u64>,
    /// Paths of all peers, by family.
    pub paths: BTreeMap<Family, u64>,
    /// Different attribute sets held.
    pub attribute_sets: u64,
    /// Changes that wait for the kernel's side.
    pub fib_pending: u64,
    /// Established sessions.
    pub established: u64,
}

/// We have restarted and wait for our peers before anything is told. RFC 4724 §4.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// When we stop to wait.
    pub until: Instant,
    /// Names of the peers whose End-of-RIB has yet to come.
    pub waiting_for: Vec<String>,
}

/// One peer: its configuration in short, its session, and what was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Which.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The other side.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Our address of the session; the configured one while there is no connection.
    pub local_address: Option<IpAddr>,
    /// The AS number it must have.
    pub remote_asn: Asn,
    /// The AS number we speak as.
    pub local_asn: Asn,
    /// From its OPEN.
    pub remote_router_id: Option<RouterId>,
    /// Idle, Connect, Active, OpenSent, OpenConfirm or Established. RFC 4271 §8.2.2.
    pub state: &'static str,
    /// Since when it is in this state.
    pub since: Option<Instant>,
    /// Negotiated; `None`: the session never expires, or is not established.
    pub hold: Option<Duration>,
    /// In use; `None` as for `hold`.
    pub keepalive: Option<Duration>,
    /// One for each family configured.
    pub families: Vec<FamilyStatus>,
    /// In words.
    pub capabilities_sent: Vec<String>,
    /// In words.
    pub capabilities_received: Vec<String>,
    /// Messages we sent.
    pub sent: MessageCounts,
    /// Messages that came.
    pub received: MessageCounts,
    /// How often the session was established.
    pub established_count: u64,
    /// The last NOTIFICATION or transport error in words, and when.
    pub last_error: Option<(Instant, String)>,
    /// What was wrong with what it sent, counted by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// The last fault in words, with the message's first octets.
    pub last_fault: Option<String>,
    /// Waits for the other side to connect.
    pub passive: bool,
    /// We reflect the routes of our other internal peers to it. RFC 4456.
    pub reflector_client: bool,
    /// The shutdown text while administratively down.
    pub shutdown: Option<String>,
    /// Names of import policies.
    pub import: Vec<String>,
    /// Names of export policies.
    pub export: Vec<String>,
    /// When the next attempt to connect is due.
    pub retry_at: Option<Instant>,
    /// How many hops away it is at most, where what comes from farther is dropped. RFC 5082.
    pub ttl_security: Option<u8>,
    /// How its TCP segments are signed, where they are.
    pub authentication: Option<Authentication>,
    /// How many prefixes it may send.
    pub max_prefixes: Option<PrefixLimits>,
    /// It sent more, and the session is down for that.
    pub over_limit: bool,
    /// Graceful restart, where it is configured.
    pub graceful_restart: Option<GracefulStatus>,
}

/// Graceful restart with one peer. RFC 4724.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulStatus {
    /// What we offer, in seconds.
    pub restart_seconds: u16,
    /// What the peer offers, in seconds; `None`: it does not, or there is no session.
    pub peer_seconds: Option<u16>,
    /// A NOTIFICATION does not end it, but for Hard Reset. RFC 8538.
    pub notification: bool,
    /// The peer said in its OPEN that it had restarted.
    pub peer_restarted: bool,
    /// Until when its routes are kept: while it is away, that it come back; once it is back, that it
    /// repeat them.
    pub stale_until: Option<Instant>,
    /// What follows the restart time, where it is configured. RFC 9494.
    pub long_lived: Option<LongLivedStatus>,
}

/// Long-lived graceful restart with one peer. RFC 9494.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongLivedStatus {
    /// How long the peer is asked to keep our routes, in seconds.
    pub stale_seconds: u32,
    /// How long the peer asks us to keep its routes, in seconds, the longest of its families;
    /// `None`: it does not offer it, or there is no session.
    pub peer_seconds: Option<u32>,
    /// Its routes are kept for longer than its restart time now: they are the last choice.
    pub began: bool,
}

/// One family of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Which.
    pub family: Family,
    /// Both sides offered it.
    pub negotiated: bool,
    /// Routes in Adj-RIB-In.
    pub received: u64,
    /// Those that import policy and checks let in.
    pub accepted: u64,
    /// Those that are the best route.
    pub best: u64,
    /// Routes the peer has been sent.
    pub advertised: u64,
    /// Prefixes of which the peer has yet to be sent the present state.
    pub pending: u64,
    /// The peer's first End-of-RIB has come.
    pub end_of_rib_received: bool,
    /// Ours has been sent.
    pub end_of_rib_sent: bool,
    /// IPv4 routes may have IPv6 next hops. RFC 8950.
    pub extended_next_hop: bool,
    /// Of the routes in Adj-RIB-In: those kept from a session that was lost, and not repeated yet.
    pub stale: u64,
    /// Of those: kept for longer than the peer's restart time, and the last choice. RFC 9494.
    pub long_lived_stale: u64,
    /// The peer's routes are kept when the session is lost.
    pub graceful_restart: bool,
}

/// Messages by kind, and their octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
    /// Octets of all of them, headers included.
    pub bytes: u64,
}

/// What was wrong with something a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A malformed UPDATE whose routes count as withdrawn. RFC 7606 §2.
    TreatAsWithdraw,
    /// A malformed attribute that was discarded. RFC 7606 §2.
    AttributeDiscard,
    /// A malformed UPDATE that ended the session. RFC 7606 §2.
    SessionReset,
    /// Our own AS stands in AS_PATH more often than allowed. RFC 4271 §9.1.2.
    OwnAs,
    /// We are the route's originator. RFC 4456 §8.
    OwnRouterId,
    /// Our cluster stands in CLUSTER_LIST: we reflected it before. RFC 4456 §8.
    ClusterLoop,
    /// NEXT_HOP is an address of ours. RFC 4271 §5.1.3.
    OwnNextHop,
    /// NEXT_HOP is no address that packets can be sent to.
    BadNextHop,
    /// The destination is, or is within, one of our own subnets.
    OwnSubnet,
    /// The destination is no place that may be routed to.
    Martian,
    /// Routes of a family that was not negotiated.
    FamilyNotNegotiated,
}

impl Fault {
    /// The name that metrics and `bgpctl` use, e.g. `treat-as-withdraw`.
    pub fn name(self) -> &'static str {
        match self {
            Fault::TreatAsWithdraw => "treat-as-withdraw",
            Fault::AttributeDiscard => "attribute-discard",
            Fault::SessionReset => "session-reset",
            Fault::OwnAs => "own-as",
            Fault::OwnRouterId => "own-router-id",
            Fault::ClusterLoop => "cluster-loop",
            Fault::OwnNextHop => "own-next-hop",
            Fault::BadNextHop => "bad-next-hop",
            Fault::OwnSubnet => "own-subnet",
            Fault::Martian => "martian",
            Fault::FamilyNotNegotiated => "family-not-negotiated",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a question about routes cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing by this name or address.
    #[error("no peer has the name or address `{peer}`; the peers are: {known}")]
    NoPeer {
        /// As given.
        peer: String,
        /// Names of all peers.
        known: String,
    },
}

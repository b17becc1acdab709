//! Questions to the engine and their answers: peers, routes, and the whole story of one prefix.
//!
//! The engine answers in bounded pages and copies no table; the daemon turns these values into
//! `proto`'s and instants into wall-clock times.

mod page;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attributes::Attributes;
use crate::config::{Authentication, PrefixLimits, Source};
use crate::engine::NextHopState;
use crate::types::{Asn, Family, PeerId, Prefix, RouterId};
pub use page::{AttributeSets, Cursor, PackedSet, PageOrigin, PageRoute, Remark, RoutePage};

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

/// Which routes are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// Which of the tables.
    pub view: View,
    /// Which destinations.
    pub destinations: Destinations,
    /// Only this family.
    pub family: Option<Family>,
}

/// A table, or a view of one. RFC 4271 §3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The Loc-RIB.
    Best,
    /// Every path, used or not.
    All,
    /// Adj-RIB-In of this peer (name or address), as received.
    Received {
        /// Name or address.
        peer: String,
    },
    /// Adj-RIB-Out of this peer (name or address), as sent.
    Advertised {
        /// Name or address.
        peer: String,
    },
}

/// Which destinations are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// All.
    All,
    /// This one.
    Exact(Prefix),
    /// This one and all within it.
    Longer(Prefix),
    /// The longest prefix there is (in the view asked for) that holds this one.
    LongestMatch(Prefix),
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The destination.
    pub prefix: Prefix,
    /// The peer it came from; `None` for our own.
    pub peer: Option<Arc<str>>,
    /// What kind of peer.
    pub source: Source,
    /// As received in `Received`, as sent in `Advertised`, else as accepted (as received where the
    /// route was refused).
    pub attributes: Arc<Attributes>,
    /// It is the best route.
    pub best: bool,
    /// It is used together with the best route.
    pub multipath: bool,
    /// Its next hop is kept ready for when packets cannot go to that of the best any more.
    pub backup: bool,
    /// Why it is not used; `None` when it is.
    pub reason: Option<Reason>,
    /// It is kept from a session that was lost, and has not been repeated. RFC 4724 §4.2.
    pub stale: bool,
    /// Until when, if it is.
    pub stale_until: Option<Instant>,
    /// It is kept for longer than its peer's restart time, and is the last choice. RFC 9494.
    pub long_lived_stale: bool,
    /// When it came, or changed last.
    pub since: Option<Instant>,
    /// For our own: the advertisements that ask for it.
    pub advertisements: Vec<String>,
}

/// Why a route is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was not let in.
    Refused(Refusal),
    /// Another was better.
    Lost {
        /// The step of the decision process that told them apart.
        step: Step,
        /// The peer whose route won at that step; `None`: our own.
        to: Option<Arc<str>>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Refused(refusal) => refusal.fmt(f),
            Reason::Lost { step, to } => {
                write!(f, "{step} (to {})", to.as_deref().unwrap_or("local"))
            }
        }
    }
}

/// Why a received route is not a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// An eBGP peer without import policy. RFC 8212.
    NoImportPolicy,
    /// Import policy rejected it; [`Candidate::import`] tells which rule.
    ImportPolicy,
    /// Our own AS stands in AS_PATH more often than allowed. RFC 4271 §9.1.2.
    OwnAs,
    /// We are its originator. RFC 4456 §8.
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
    /// The kernel has no route to NEXT_HOP, or has not told yet. RFC 4271 §9.1.2.1.
    NextHopUnresolved,
    /// The peer is directly connected (its TTL is 1), and NEXT_HOP is on no network of ours: the way
    /// there leads over another router, perhaps by the default route. RFC 4271 §5.1.3, §6.3.
    NextHopNotConnected,
    /// The session it came over has ended, and it is about to be removed.
    SessionDown,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoImportPolicy => "no import policy (RFC 8212)",
            Refusal::ImportPolicy => "rejected by import policy",
            Refusal::OwnAs => "our own AS is in the AS path",
            Refusal::OwnRouterId => "we are the originator",
            Refusal::ClusterLoop => "our cluster id is in the cluster list",
            Refusal::OwnNextHop => "the next hop is our own address",
            Refusal::BadNextHop => "the next hop is no unicast address",
            Refusal::OwnSubnet => "within one of our own subnets",
            Refusal::Martian => "martian prefix",
            Refusal::NextHopUnresolved => "next hop unresolved",
            Refusal::NextHopNotConnected => {
                "the peer is directly connected and the next hop is not"
            }
            Refusal::SessionDown => "the session has ended, it is about to be removed",
        })
    }
}

/// A step of the decision process, in order. RFC 4271 §9.1.2.2, RFC 4456 §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A route of our own goes before every received one.
    Local,
    /// A route of a session that was lost long ago goes behind every other. RFC 9494 §4.4.
    LongLivedStale,
    /// Higher LOCAL_PREF.
    LocalPreference,
    /// Shorter AS_PATH.
    AsPathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MULTI_EXIT_DISC.
    Med,
    /// eBGP before iBGP.
    Ebgp,
    /// Lower metric to NEXT_HOP.
    IgpMetric,
    /// Between eBGP routes: the one that came first.
    Oldest,
    /// Lower BGP Identifier (ORIGINATOR_ID where there is one).
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterListLength,
    /// Lower peer address.
    PeerAddress,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Local => "local route",
            Step::LongLivedStale => "long-lived stale",
            Step::LocalPreference => "local preference",
            Step::AsPathLength => "AS path length",
            Step::Origin => "origin",
            Step::Med => "MED",
            Step::Ebgp => "eBGP over iBGP",
            Step::IgpMetric => "IGP metric to the next hop",
            Step::Oldest => "oldest route",
            Step::RouterId => "router id",
            Step::ClusterListLength => "cluster list length",
            Step::PeerAddress => "peer address",
        })
    }
}

/// The whole story of one prefix in this speaker.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Asked for.
    pub prefix: Prefix,
    /// Every path known, the best first.
    pub candidates: Vec<Candidate>,
    /// Every peer, and what it is told.
    pub exports: Vec<Export>,
    /// What the kernel's side was last told to use.
    pub next_hops: Vec<IpAddr>,
    /// The kernel's side has yet to be told of a change.
    pub fib_pending: bool,
    /// The longest other prefix that has a best route and holds `prefix`.
    pub covering: Option<Prefix>,
}

/// One path of a prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The route, with attributes as received.
    pub route: RouteRow,
    /// After import policy; `None` when it was refused.
    pub accepted: Option<Arc<Attributes>>,
    /// What became of it.
    pub outcome: Outcome,
    /// What import policy said; `None` for our own routes and where policy was not asked.
    pub import: Option<PolicyTrace>,
    /// Its next hop and how it is reached; `None` for our own routes.
    pub next_hop: Option<(IpAddr, Option<NextHopState>)>,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The best route.
    Best,
    /// Used together with the best.
    Multipath,
    /// Another was better.
    Lost {
        /// By which step.
        step: Step,
        /// Whose route won at that step; `None`: our own.
        to: Option<Arc<str>>,
    },
    /// Not let in.
    Refused(Refusal),
}

/// Which rule of which policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrace {
    /// It was let through.
    pub accepted: bool,
    /// The policy that decided; `None` where there is none at all.
    pub policy: Option<String>,
    /// The rule; `None` when no rule matched.
    pub rule: Option<String>,
}

impl fmt::Display for PolicyTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.accepted {
            "accepted"
        } else {
            "rejected"
        };
        match (&self.policy, &self.rule) {
            (Some(policy), Some(rule)) => write!(f, "{verdict} by policy {policy}, rule {rule}"),
            (Some(policy), None) => write!(f, "{verdict}: no rule of policy {policy} matched"),
            (None, _) => write!(f, "{verdict}: there is no policy"),
        }
    }
}

/// What one peer is told about a prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// The peer.
    pub peer: Arc<str>,
    /// Where it stands.
    pub state: ExportState,
    /// What export policy said; `None` where it was not asked.
    pub policy: Option<PolicyTrace>,
    /// As sent, or as it will be sent.
    pub attributes: Option<Arc<Attributes>>,
}

/// Whether a peer has a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// The peer has been sent it.
    Advertised,
    /// It will be sent; or what was sent will be changed or withdrawn.
    Pending,
    /// It is not sent.
    NotAdvertised(Withheld),
}

/// Why a peer is not sent a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Withheld {
    /// There is no best route.
    NoRoute,
    /// The session is not established.
    SessionDown,
    /// The session does not carry the family.
    FamilyNotNegotiated,
    /// The route came from this peer.
    SplitHorizon,
    /// Learned over iBGP, the peer is internal, and neither is our route reflection client. RFC 4271
    /// §9.2, RFC 4456 §6.
    IbgpToIbgp,
    /// Community NO_ADVERTISE. RFC 1997.
    NoAdvertise,
    /// Community NO_EXPORT (or NO_EXPORT_SUBCONFED), and the peer is external. RFC 1997.
    NoExport,
    /// An eBGP peer without export policy. RFC 8212.
    NoExportPolicy,
    /// Export policy rejected it.
    ExportPolicy,
    /// Our own route, and no advertisement that asks for it names the peer.
    NotAdvertisedTo,
    /// Kept from a session that was lost long ago, and the peer does not know what that means.
    /// RFC 9494 §4.3.
    LongLivedStale,
    /// No address of ours can be its next hop: the session's interface has none of the family.
    NoNextHop,
    /// The route with its attributes does not fit into a message.
    TooLong,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Withheld::NoRoute => "there is no best route",
            Withheld::SessionDown => "the session is not established",
            Withheld::FamilyNotNegotiated => "the session does not carry the family",
            Withheld::SplitHorizon => "the route came from this peer",
            Withheld::IbgpToIbgp => {
                "learned over iBGP and not sent to an internal peer: neither is our reflector client"
            },
            Withheld::NoAdvertise => "community no-advertise",
            Withheld::NoExport => "community no-export",
            Withheld::NoExportPolicy => "no export policy (RFC 8212)",
            Withheld::ExportPolicy => "rejected by export policy",
            Withheld::NotAdvertisedTo => "no advertisement of it names this peer",
            Withheld::LongLivedStale => {
                "long-lived stale, and the peer does not take such routes (RFC 9494)"
            }
            Withheld::NoNextHop => "no address of ours can be the next hop of this family",
            Withheld::TooLong => "the attributes do not fit into a message",
        })
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

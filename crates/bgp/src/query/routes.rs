//! Routes of a table: which are wanted, what a row says, and why a route is not the best or refused.

use super::*;

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

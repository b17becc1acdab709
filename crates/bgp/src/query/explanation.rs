//! The whole story of one prefix.

use super::*;

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

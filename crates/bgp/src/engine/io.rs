//! What goes into the engine and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::query::RouteRow;
use crate::types::{ConnId, Family, PeerId, Prefix};

/// Something that happened outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Another speaker connected to us. The connection's number is the transport's (at least 2⁶³).
    Accepted {
        /// Its number from now on.
        conn: ConnId,
        /// The addresses of our end.
        local: LocalAddresses,
        /// The other end.
        remote: SocketAddr,
    },
    /// A connection asked for by [`Output::Connect`] stands.
    Connected {
        /// Which.
        conn: ConnId,
        /// The addresses of our end.
        local: LocalAddresses,
        /// The other end.
        remote: SocketAddr,
    },
    /// A connection asked for by [`Output::Connect`] did not come about.
    ConnectFailed {
        /// Which; its number is not used again.
        conn: ConnId,
        /// Why, in words.
        error: String,
    },
    /// A connection ended by the other side or by an error. Not sent for one that we closed.
    Closed {
        /// Which; its number is not used again.
        conn: ConnId,
        /// Why, in words; `None` when the other side closed it in order.
        error: Option<String>,
    },
    /// Our end of a connection has other addresses than were told before: one of the other family
    /// came late, as IPv6 addresses do, or was renumbered.
    Readdressed {
        /// Which.
        conn: ConnId,
        /// All of them, as they are now.
        local: LocalAddresses,
    },
    /// How the kernel reaches a next hop that [`Output::TrackNextHop`] named; sent at first as
    /// soon as it is known, then on each change.
    NextHop {
        /// Which.
        address: IpAddr,
        /// How; `None` when there is no route to it.
        state: Option<NextHopState>,
    },
}

/// The addresses of our end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddresses {
    /// The one the connection uses: the next hop of routes of its family.
    pub address: IpAddr,
    /// A global address of the other family on the interface that holds `address`: the next hop of
    /// routes of that family. `None` when there is none; then such routes are not sent (IPv4
    /// routes go out with an IPv6 next hop where RFC 8950 was negotiated).
    pub other_family: Option<IpAddr>,
}

/// How the kernel reaches a next hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHopState {
    /// Metric of the route used, 0 for a connected one: the IGP metric of the decision process.
    pub metric: u32,
    /// The gateway; `None` when the next hop is on a connected network.
    pub via: Option<IpAddr>,
    /// Name of the interface.
    pub interface: String,
}

/// Something to be done outside.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a TCP connection, with the TTL and the protection that the peer's configuration asks for;
    /// answered by [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect {
        /// Its number from now on (below 2⁶³).
        conn: ConnId,
        /// For which peer.
        peer: PeerId,
        /// Where to.
        remote: SocketAddr,
        /// Our address; the kernel chooses when absent.
        local: Option<IpAddr>,
    },
    /// Send what [`Engine::poll_send`](crate::engine::Engine::poll_send) still gives for the
    /// connection, then close it; give up a connection attempt. It is not answered.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// [`Engine::poll_send`](crate::engine::Engine::poll_send) has something again. Told once,
    /// until `poll_send` has returned false.
    Send {
        /// Which.
        conn: ConnId,
    },
    /// Tell how this next hop is reached, until it is untracked.
    TrackNextHop(IpAddr),
    /// No route uses this next hop any more.
    UntrackNextHop(IpAddr),
    /// No packets can go to these next hops any more: they cannot be reached, or the only sessions
    /// whose routes have them are over. Every route with one of them is about to change; until then
    /// the kernel's side takes them out of the sets told so far that have others.
    NextHopsDown {
        /// Which; at least one.
        hops: Vec<IpAddr>,
        /// The newest of the sets concerned: one with a higher number (wrapping round) has a next
        /// hop because it is in use again.
        last_set: u32,
    },
    /// [`Engine::poll_fib`](crate::engine::Engine::poll_fib) has something again. Told once, until
    /// `poll_fib` has given less than was asked for.
    FibPending,
    /// The state of a session, or a thing it reports, changed.
    SessionChanged(PeerId),
    /// The best route of a prefix changed; only while
    /// [`Engine::watch_routes`](crate::engine::Engine::watch_routes) is on.
    BestChanged(RouteChange),
}

/// A new best route, or none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The destination.
    pub prefix: Prefix,
    /// The best route now; `None` when there is none any more.
    pub best: Option<RouteRow>,
}

/// A change of what the kernel should forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibChange {
    /// The destination.
    pub prefix: Prefix,
    /// Where to; `None`: remove it. Equal sets are one `Arc` with one id.
    pub next_hops: Option<Arc<NextHopSet>>,
}

/// BGP next hops used together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopSet {
    /// Its number: two sets that exist at the same time have different ones.
    pub id: u32,
    /// Sorted, each once, at least one.
    pub hops: Vec<IpAddr>,
    /// Used as soon as packets can go to none of `hops`; sorted, each once, none of `hops`. Empty
    /// unless backup paths are configured and there is one.
    pub backups: Vec<IpAddr>,
}

/// What the process that was here before us left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restart {
    /// Families whose kernel routes are still there, so that packets have been forwarded all the
    /// while.
    pub preserved: Vec<Family>,
    /// Names of the peers it had Established sessions with, with graceful restart agreed on. Others
    /// are not waited for: they have nothing of ours to lose.
    pub peers: Vec<String>,
}

/// What a person may ask of a session. Peers are given by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the session with Cease/Administrative Reset and start again. RFC 4486, RFC 9003.
    Reset {
        /// Name or address.
        peer: String,
        /// Sent to the peer; may be empty.
        message: String,
    },
    /// Ask the peer for its routes again and send ours again; the session stays. RFC 2918.
    SoftReset {
        /// Name or address.
        peer: String,
    },
    /// End the session with Cease/Administrative Shutdown and keep it down. RFC 9003.
    Shutdown {
        /// Name or address.
        peer: String,
        /// Sent to the peer; may be empty.
        message: String,
    },
    /// Undo `Shutdown`, and start at once a session that waits.
    Enable {
        /// Name or address.
        peer: String,
    },
}

/// Why a [`Command`] was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing by this name or address.
    #[error("no peer has the name or address `{peer}`; the peers are: {known}")]
    NoPeer {
        /// As given.
        peer: String,
        /// Names of all peers.
        known: String,
    },
    /// The session is not established, so nothing can be asked over it.
    #[error("the session with `{peer}` is {state}; a soft reset needs an established session")]
    NotEstablished {
        /// Its name.
        peer: String,
        /// Its state.
        state: String,
    },
    /// The configuration keeps the peer shut down.
    #[error(
        "peer `{peer}` is shut down by its configuration; take `shutdown` out of the Peer resource"
    )]
    ShutDownByConfig {
        /// Its name.
        peer: String,
    },
}

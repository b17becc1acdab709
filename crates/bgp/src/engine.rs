//! The engine: every peer and table of one speaker.
//!
//! This file is its interface and the order in which things happen; `peers` has the sessions' side
//! (connections, what comes over them), `graceful` what outlives them, `deferral`
//! what our own restart holds back, `configure` finds what a new configuration changes,
//! `queries`, `pages` and `explain` answer questions. The tables are in `rib`.

mod configure;
mod deferral;
mod explain;
mod graceful;
mod io;
mod limits;
mod pages;
mod peers;
mod queries;
mod roster;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use self::deferral::Deferred;
pub use self::io::{
    Command, CommandError, FibChange, Input, LocalAddresses, NextHopSet, NextHopState, Output,
    Restart, RouteChange,
};
use self::peers::Conn;
use self::roster::Roster;
use crate::codec::{self, FamilySet};
use crate::config::{Advertisement, Config, Policy};
use crate::message::Message;
use crate::rib::Shared;
use crate::rib::loc::FamilyRib;
use crate::session::Received;
use crate::types::{ConnId, Family, PeerId, Prefix, Prefix4, Prefix6};

/// About how many octets [`Engine::poll_send`] gives at once. With a hundred peers that are all sent a
/// table, what is on its way to them is a good part of all memory.
const SEND_AT_ONCE: usize = 16 * 1024;

/// How long a prefix without routes keeps its place in the tables at most: finding out whether
/// anybody still speaks of it is done for many at once.
const BURY_AFTER: Duration = Duration::from_secs(5);
/// How many of them are too many to wait for that, beside twice those that had to be kept the last
/// time: while peers and the kernel are slow to hear of a full table's end, looking at all of it
/// again and again would take longer than anything else.
const BURY_AT: usize = 65_536;

/// One speaker.
///
/// Call in any order, from one task; after every call, take all of [`poll_output`](Self::poll_output)
/// and look at [`poll_timeout`](Self::poll_timeout) again. Every call does a bounded piece of work;
/// what is left over is done in `handle_timeout`, for which `poll_timeout` then gives a time that
/// has come.
pub struct Engine {
    seed: u64,
    /// When the first configuration came: paths count their seconds from here.
    began: Option<Instant>,
    now: Option<Instant>,
    config: Option<Config>,
    /// Of the configuration.
    cluster_id: Ipv4Addr,
    policies: BTreeMap<String, Arc<Policy>>,
    advertisements: Vec<Arc<Advertisement>>,
    /// The names of those that each peer hears, in the order of the configuration.
    heard_by: HashMap<String, Vec<String>>,
    peers: Roster,
    /// In the order of the configuration.
    order: Vec<PeerId>,
    by_address: HashMap<IpAddr, PeerId>,
    last_peer: u32,
    conns: HashMap<ConnId, Conn>,
    shared: Shared,
    v4: FamilyRib<Prefix4>,
    v6: FamilyRib<Prefix6>,
    outputs: VecDeque<Output>,
    fib_told: bool,
    bury_at: Option<Instant>,
    /// Prefixes without routes that had to be kept the last time.
    not_buried: usize,
    /// Families in which we have gone on forwarding through our own restart.
    preserved: FamilySet,
    /// Peers to be waited for after it, until the first configuration.
    expected: BTreeSet<String>,
    deferred: Option<Deferred>,
}

impl Engine {
    /// An engine without configuration: it connects to nobody and closes what is accepted.
    ///
    /// `seed` is what its timers' jitter comes from; two engines with the same seed and the same
    /// inputs do the same.
    pub fn new(seed: u64) -> Engine {
        Engine {
            seed,
            began: None,
            now: None,
            config: None,
            cluster_id: Ipv4Addr::UNSPECIFIED,
            policies: BTreeMap::new(),
            advertisements: Vec::new(),
            heard_by: HashMap::new(),
            peers: Roster::default(),
            order: Vec::new(),
            by_address: HashMap::new(),
            last_peer: 0,
            conns: HashMap::new(),
            shared: Shared::new(seed),
            v4: FamilyRib::new(),
            v6: FamilyRib::new(),
            outputs: VecDeque::new(),
            fib_told: false,
            bury_at: None,
            not_buried: 0,
            preserved: FamilySet::default(),
            expected: BTreeSet::new(),
            deferred: None,
        }
    }

    /// Something happened outside.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.tick(now);
        match input {
            Input::Accepted {
                conn,
                local,
                remote,
            } => self.accepted(now, conn, local, remote.ip().to_canonical()),
            Input::Connected { conn, local, .. } => self.connected(now, conn, local),
            Input::ConnectFailed { conn, error } => self.lost(now, conn, |session| {
                session.connect_failed(now, conn, error);
            }),
            Input::Closed { conn, error } => self.lost(now, conn, |session| {
                session.closed(now, conn, error);
            }),
            Input::Readdressed { conn, local } => self.readdressed(conn, local),
            Input::NextHop { address, state } => {
                if let Some(hop) = self.shared.hop_state(address, state) {
                    self.v4.hop_changed(hop);
                    self.v6.hop_changed(hop);
                }
            }
        }
        self.settle();
    }

    /// Bytes came from the other side. Takes the whole messages from the front of `data` and
    /// leaves what is not whole yet; give at most 256 KiB at a time. Unknown connections' bytes are
    /// thrown away.
    pub fn receive(&mut self, now: Instant, conn: ConnId, data: &mut BytesMut) {
        self.tick(now);
        while let Some(id) = self.conns.get(&conn).and_then(Conn::listening)
            && let Some(peer) = self.peers.get_mut(&id)
        {
            let before = data.len();
            let message = codec::next_message(data, peer.session.max_message(conn));
            peer.session.counters_mut().received.bytes += (before - data.len()) as u64;
            match message {
                Ok(None) => return self.settle(),
                Ok(Some(message)) => self.on_message(now, id, conn, message),
                Err(error) => {
                    peer.session
                        .fail(now, conn, error.notification, &error.reason);
                    self.carry_out(now, id);
                    break;
                }
            }
        }
        data.clear();
        self.settle();
    }

    /// One message. What a route goes through from here on: `on_update`, then
    /// `rib::adj_in`, `rib::loc`, `rib::adj_out`.
    fn on_message(&mut self, now: Instant, id: PeerId, conn: ConnId, message: Message) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match peer.session.receive(now, conn, message) {
            Received::Nothing => {}
            Received::Update(body) => self.on_update(now, id, conn, &body),
            Received::RouteRefresh { family, kind } => self.on_refresh(id, family, kind),
        }
        self.carry_out(now, id);
    }

    /// Time passed: runs what is due, and a piece of the work put off.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        for id in self.peers.due(now) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.session.handle_timeout(now);
            }
            self.carry_out(now, id);
        }
        self.handle_restart_timers(now);
        self.v4.work(&mut self.shared);
        self.v6.work(&mut self.shared);
        if self.bury_at.is_some_and(|at| at <= now) {
            self.bury_at = None;
            self.v4.bury();
            self.v6.bury();
            self.not_buried = self.v4.dying() + self.v6.dying();
        }
        self.settle();
    }

    /// When `handle_timeout` is to be called; a time in the past means at once (after reading what
    /// there is to read); `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.v4.has_jobs() || self.v6.has_jobs() {
            return self.now;
        }
        let sessions = self.peers.first_timer();
        let restarts = self.restart_timeout();
        let all = [sessions, self.bury_at, restarts];
        all.into_iter().flatten().min()
    }

    /// The next thing to be done outside; `None` when there is nothing now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Appends some tens of KiB of whole messages for the connection to `buf`; perhaps none, when
    /// much had to be looked at and none of it may be told. False: there is nothing more now, and
    /// [`Output::Send`] will tell when there is.
    pub fn poll_send(&mut self, now: Instant, conn: ConnId, buf: &mut BytesMut) -> bool {
        self.tick(now);
        let before = buf.len();
        let more = self.send(conn, buf);
        let peer = self.conns.get(&conn).map(|conn| conn.peer);
        if let Some(peer) = peer.and_then(|id| self.peers.get_mut(&id)) {
            peer.session.counters_mut().sent.bytes += (buf.len() - before) as u64;
        }
        if !more && let Some(this) = self.conns.get_mut(&conn) {
            this.told = false;
            if this.closing {
                self.conns.remove(&conn);
            }
        }
        self.settle();
        more
    }

    /// Appends up to `max` changes for the kernel to `out`, the present state of each prefix once.
    /// Fewer: there is nothing more now, and [`Output::FibPending`] will tell when there is.
    pub fn poll_fib(&mut self, max: usize, out: &mut Vec<FibChange>) {
        let enough = out.len() + max;
        self.v4.poll_fib(&mut self.shared, enough, out);
        self.v6.poll_fib(&mut self.shared, enough, out);
        if out.len() < enough {
            self.fib_told = false;
        }
        self.settle();
    }

    /// The longest prefix with a best route that holds the address.
    pub fn lookup(&self, address: IpAddr) -> Option<Prefix> {
        self.covering(Prefix::new(address, u8::MAX), true)
    }

    /// Whether [`Output::BestChanged`] is wanted.
    pub fn watch_routes(&mut self, on: bool) {
        self.shared.watched = on;
    }

    /// Takes note of the time.
    fn tick(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        self.now = Some(now);
        let seconds = now.saturating_duration_since(began).as_secs();
        self.shared.clock = u32::try_from(seconds).unwrap_or(u32::MAX);
    }

    /// After every call: tells outside what has piled up.
    fn settle(&mut self) {
        self.review_deferral();
        self.outputs.extend(self.shared.hops.outputs.drain(..));
        for peer in std::mem::take(&mut self.shared.wake) {
            let conn = self.peers.get(&peer).and_then(|peer| peer.session.conn());
            if let Some(conn) = conn {
                self.tell_to_send(conn);
            }
        }
        if !self.fib_told && self.v4.fib_pending() + self.v6.fib_pending() > 0 {
            self.fib_told = true;
            self.outputs.push_back(Output::FibPending);
        }
        for prefix in std::mem::take(&mut self.shared.changed) {
            let best = self.best_row(prefix);
            let change = RouteChange { prefix, best };
            self.outputs.push_back(Output::BestChanged(change));
        }
        let dying = self.v4.dying() + self.v6.dying();
        if dying > 0
            && let Some(now) = self.now
        {
            let at = now
                + if dying > BURY_AT + 2 * self.not_buried {
                    Duration::ZERO
                } else {
                    BURY_AFTER
                };
            self.bury_at = Some(self.bury_at.map_or(at, |sooner| sooner.min(at)));
        }
        self.peers.settle();
    }

    fn tell_to_send(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.told
        {
            conn.told = true;
            self.outputs.push_back(Output::Send { conn: id });
        }
    }

    /// Runs `act` on the tables of one family.
    fn for_family<T>(
        &mut self,
        family: Family,
        v4: impl FnOnce(&mut FamilyRib<Prefix4>, &mut Shared) -> T,
        v6: impl FnOnce(&mut FamilyRib<Prefix6>, &mut Shared) -> T,
    ) -> T {
        match family {
            Family::Ipv4 => v4(&mut self.v4, &mut self.shared),
            Family::Ipv6 => v6(&mut self.v6, &mut self.shared),
        }
    }
}

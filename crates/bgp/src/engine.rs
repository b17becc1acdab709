//! The engine: every peer and table of one speaker. See the crate's documentation for the way of a
//! route; this file names each of its steps.

mod io;
mod links;

use std::net::IpAddr;
use std::time::Instant;

use bytes::BytesMut;

pub use self::io::{
    Command, CommandError, FibChange, Input, LocalAddresses, NextHopSet, NextHopState, Output,
    RouteChange,
};
use self::links::{Links, Next};
use crate::config::{Config, ConfigError};
use crate::query::{
    Cursor, EngineStatus, Explanation, PeerStatus, QueryError, RoutePage, RouteQuery,
};
use crate::types::{ConnId, PeerId, Prefix};

/// One speaker.
///
/// Call in any order, from one task; after every call, take all of [`poll_output`](Self::poll_output)
/// and look at [`poll_timeout`](Self::poll_timeout) again. Every call does a bounded piece of work;
/// what is left over is done in `handle_timeout`, for which `poll_timeout` then gives a time that
/// has come.
pub struct Engine {
    config: Option<Config>,
    links: Links,
    watched: bool,
}

impl Engine {
    /// An engine without configuration: it connects to nobody and closes what is accepted.
    ///
    /// `seed` is what its timers' jitter comes from; two engines with the same seed and the same
    /// inputs do the same.
    pub fn new(seed: u64) -> Engine {
        Engine {
            config: None,
            links: Links::new(seed),
            watched: false,
        }
    }

    /// Puts a configuration in force, whole; the difference to the last one is found here. Sessions
    /// are reset only where something changed that was told in OPEN or decides about the connection;
    /// changed policies are applied to the routes already there, in bounded turns.
    ///
    /// # Errors
    ///
    /// What is wrong in `config`; then everything stays as it was.
    pub fn configure(&mut self, now: Instant, config: Config) -> Result<(), ConfigError> {
        config.check()?;
        self.links.configure(now, &config);
        self.follow_sessions();
        self.config = Some(config);
        Ok(())
    }

    /// Something happened outside.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Accepted {
                conn,
                local,
                remote,
            } => self.links.accepted(now, conn, local, remote),
            Input::Connected { conn, local, .. } => self.links.connected(now, conn, local),
            Input::ConnectFailed { conn, error } => self.links.closed(now, conn, Some(error)),
            Input::Closed { conn, error } => self.links.closed(now, conn, error),
            Input::NextHop { .. } => {}
        }
        self.follow_sessions();
    }

    /// Bytes came from the other side. Takes the whole messages from the front of `data` and
    /// leaves what is not whole yet; give at most 256 KiB at a time. Unknown connections' bytes are
    /// thrown away.
    pub fn receive(&mut self, now: Instant, conn: ConnId, data: &mut BytesMut) {
        loop {
            let next = self.links.next(now, conn, data);
            self.follow_sessions();
            match next {
                Next::Done => return,
                Next::Session | Next::Update { .. } | Next::Refresh { .. } => {}
            }
        }
    }

    /// Sessions that came up or went down since the last look.
    fn follow_sessions(&mut self) {
        while self.links.poll_event().is_some() {}
    }

    /// Time passed: runs what is due, and a piece of the work put off.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.links.handle_timeout(now);
        self.follow_sessions();
    }

    /// When `handle_timeout` is to be called; a time in the past means at once (after reading what
    /// there is to read); `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.links.poll_timeout()
    }

    /// The next thing to be done outside; `None` when there is nothing now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.links.poll_output()
    }

    /// Appends up to about 64 KiB of whole messages for the connection to `buf`. False: there is
    /// nothing more now, and [`Output::Send`] will tell when there is.
    pub fn poll_send(&mut self, _now: Instant, conn: ConnId, buf: &mut BytesMut) -> bool {
        self.links.poll_control(conn, buf);
        self.links.nothing_more(conn);
        false
    }

    /// Appends up to `max` changes for the kernel to `out`, the present state of each prefix once.
    /// Fewer: there is nothing more now, and [`Output::FibPending`] will tell when there is.
    pub fn poll_fib(&mut self, _max: usize, _out: &mut Vec<FibChange>) {}

    /// Carries out a command; the answer is a sentence for the person who gave it.
    ///
    /// # Errors
    ///
    /// See [`CommandError`]; nothing was done then.
    pub fn command(&mut self, now: Instant, command: Command) -> Result<String, CommandError> {
        let (_, answer) = self.links.command(now, &command)?;
        self.follow_sessions();
        Ok(answer)
    }

    /// Every peer, in the order of the configuration.
    pub fn peers(&self, _now: Instant) -> Vec<PeerStatus> {
        let ids = self.links.ids().iter();
        ids.filter_map(|id| self.links.status(*id)).collect()
    }

    /// One peer; `None` once it is configured no longer.
    pub fn peer(&self, _now: Instant, peer: PeerId) -> Option<PeerStatus> {
        self.links.status(peer)
    }

    /// Up to about `limit` routes, in order of prefix, IPv4 first, behind `after`.
    ///
    /// # Errors
    ///
    /// When the query names a peer that is not there.
    pub fn routes(
        &self,
        _query: &RouteQuery,
        _after: Option<Cursor>,
        _limit: usize,
    ) -> Result<RoutePage, QueryError> {
        Ok(RoutePage::default())
    }

    /// The whole story of one prefix.
    pub fn explain(&self, prefix: Prefix) -> Explanation {
        Explanation {
            prefix,
            candidates: Vec::new(),
            exports: Vec::new(),
            next_hops: Vec::new(),
            fib_pending: false,
            covering: None,
        }
    }

    /// The longest prefix with a best route that holds the address.
    pub fn lookup(&self, _address: IpAddr) -> Option<Prefix> {
        None
    }

    /// The engine as a whole.
    pub fn status(&self) -> EngineStatus {
        EngineStatus {
            speaker: self.config.as_ref().map(|own| (own.asn, own.router_id)),
            established: self.links.established(),
            ..EngineStatus::default()
        }
    }

    /// Whether [`Output::BestChanged`] is wanted.
    pub fn watch_routes(&mut self, on: bool) {
        self.watched = on;
    }
}

//! The engine: every peer and table of one speaker. See the crate's documentation for the way of a
//! route; this file names each of its steps.

mod io;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use bytes::BytesMut;

pub use self::io::{
    Command, CommandError, FibChange, Input, LocalAddresses, NextHopSet, NextHopState, Output,
    RouteChange,
};
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
    seed: u64,
    config: Option<Config>,
    outputs: VecDeque<Output>,
    watched: bool,
}

impl Engine {
    /// An engine without configuration: it connects to nobody and closes what is accepted.
    ///
    /// `seed` is what its timers' jitter comes from; two engines with the same seed and the same
    /// inputs do the same.
    pub fn new(seed: u64) -> Engine {
        Engine {
            seed,
            config: None,
            outputs: VecDeque::new(),
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
    pub fn configure(&mut self, _now: Instant, config: Config) -> Result<(), ConfigError> {
        config.check()?;
        self.config = Some(config);
        Ok(())
    }

    /// Something happened outside.
    pub fn handle(&mut self, _now: Instant, input: Input) {
        if let Input::Accepted { conn, .. } = input {
            self.outputs.push_back(Output::Close { conn });
        }
    }

    /// Bytes came from the other side. Takes the whole messages from the front of `data` and
    /// leaves what is not whole yet; give at most 256 KiB at a time. Unknown connections' bytes are
    /// thrown away.
    pub fn receive(&mut self, _now: Instant, _conn: ConnId, data: &mut BytesMut) {
        data.clear();
    }

    /// Time passed: runs what is due, and a piece of the work put off.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When `handle_timeout` is to be called; a time in the past means at once (after reading what
    /// there is to read); `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to be done outside; `None` when there is nothing now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Appends up to about 64 KiB of whole messages for the connection to `buf`. False: there is
    /// nothing more now, and [`Output::Send`] will tell when there is.
    pub fn poll_send(&mut self, _now: Instant, _conn: ConnId, _buf: &mut BytesMut) -> bool {
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
    pub fn command(&mut self, _now: Instant, command: Command) -> Result<String, CommandError> {
        let (Command::Reset { peer, .. }
        | Command::SoftReset { peer }
        | Command::Shutdown { peer, .. }
        | Command::Enable { peer }) = command;
        Err(CommandError::NoPeer {
            peer,
            known: String::new(),
        })
    }

    /// Every peer, in the order of the configuration.
    pub fn peers(&self, _now: Instant) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// One peer; `None` once it is configured no longer.
    pub fn peer(&self, _now: Instant, _peer: PeerId) -> Option<PeerStatus> {
        None
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
            attribute_sets: self.seed.min(0),
            ..EngineStatus::default()
        }
    }

    /// Whether [`Output::BestChanged`] is wanted.
    pub fn watch_routes(&mut self, on: bool) {
        self.watched = on;
    }
}

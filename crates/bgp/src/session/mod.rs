//! The session with one peer: RFC 4271 §8, without I/O.
//!
//! The [engine](crate::engine) reports what happened ([`Session::accepted`], [`Session::receive`],
//! …) and carries out what [`Session::poll_action`] asks for. In reading order: [`fsm`] is the
//! state machine of one connection; this file holds one or, while two collide, two of them, and
//! what outlives a connection; [`negotiate`] compares OPENs; [`collision`] says which connection
//! stays; [`timers`] has jitter and back-off. Routes are unknown here: an UPDATE is handed on.

mod collision;
mod context;
mod fsm;
mod negotiate;
mod timers;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::codec::{FamilySet, STANDARD_MESSAGE};
use crate::config::PeerConfig;
use crate::message::{Capabilities, Cease, Message, Notification, Open, RefreshKind};
use crate::types::{ConnId, Family, PeerId, RouterId};

use collision::Survivor;
use context::{Context, Settings};
use fsm::{Event, Fsm};
use timers::Backoff;

pub use context::{Counters, DownReason};
pub use fsm::State;
pub use negotiate::Negotiated;

/// What the engine is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the peer.
    Connect {
        /// The name it will have.
        conn: ConnId,
    },
    /// Send what is queued, then close; nothing more is to be reported about it.
    Close {
        /// Which; it may still be an attempt.
        conn: ConnId,
    },
    /// Queue an OPEN, KEEPALIVE or NOTIFICATION, ahead of UPDATEs.
    Send {
        /// Where.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// The session is Established on this connection: exchange routes.
    Up {
        /// The connection.
        conn: ConnId,
        /// What was agreed.
        negotiated: Negotiated,
    },
    /// The session is no longer Established. Comes once for each [`Action::Up`].
    Down {
        /// The connection; already closed.
        conn: ConnId,
        /// Why.
        reason: DownReason,
    },
    /// What a person is shown has changed.
    Changed,
}

/// What a received message means to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing: it was the session's business, or its connection is no longer the session's.
    Nothing,
    /// The body of an UPDATE of the Established session.
    Update(Bytes),
    /// A ROUTE-REFRESH of the Established session, for a family that was negotiated.
    RouteRefresh {
        /// Of which routes.
        family: Family,
        /// Asks, begins or ends.
        kind: RefreshKind,
    },
}

/// The session with one peer. Whatever is called, [`Session::poll_action`] is to be drained before
/// the next call.
#[derive(Debug)]
pub struct Session {
    cx: Context,
    main: Fsm,
    /// While two connections collide: the other one.
    second: Option<Fsm>,
    backoff: Backoff,
    /// IdleHoldTimer: when a session that fell starts again.
    idle_hold: Option<Instant>,
    /// Until when the peer's own attempts are refused, too: as long as `idle_hold` when routes were
    /// exchanged before, so that a session that flaps does not shake the tables; soon after an attempt
    /// that came to nothing, which costs nobody anything and is mended at the other side.
    closed_until: Option<Instant>,
    /// The peer sent more prefixes than it may, and is not sought before `idle_hold`; without that,
    /// not before a person asks.
    over_limit: bool,
    /// Administratively down, with the text the peer was sent.
    shutdown: Option<String>,
    /// What the configuration said of that when it was last put in force.
    configured_shutdown: Option<String>,
    shown: State,
    since: Option<Instant>,
}

/// How long after a session is Established another connection may still be one that was opened at
/// the same moment; later it means that the peer has restarted, if it can restart gracefully.
const NO_COLLISION: Duration = Duration::from_secs(5);

/// How long a peer's own attempts are refused at most after one that came to nothing.
const CLOSED: Duration = Duration::from_secs(5);

/// One of a session's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Main,
    Second,
}

impl Session {
    /// In Idle until [`Session::start`]. `peer` numbers the connections that the session opens;
    /// `seed` makes its jitter repeatable.
    pub fn new(peer: PeerId, config: &PeerConfig, router_id: RouterId, seed: u64) -> Session {
        Session {
            cx: Context::new(peer, Settings::new(config, router_id), seed),
            main: Fsm::new(),
            second: None,
            backoff: Backoff::default(),
            idle_hold: None,
            closed_until: None,
            over_limit: false,
            shutdown: config.shutdown.clone(),
            configured_shutdown: config.shutdown.clone(),
            shown: State::Idle,
            since: None,
        }
    }

    /// What the next OPENs say of our own restart: whether it is going on, and in which families we
    /// have gone on forwarding. Once the session has been Established, that is all of them: its
    /// loss alone changes nothing in what we forward. RFC 4724 §3.
    pub fn set_restart(&mut self, restarting: bool, preserved: FamilySet) {
        self.cx.restart.restarting = restarting;
        if self.cx.times_established == 0 {
            self.cx.restart.preserved = preserved;
        }
    }

    /// Begins to seek the peer, unless administratively down. Events 1, 3 to 7.
    pub fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        if self.shutdown.is_none() {
            self.idle_hold = None;
            self.over_limit = false;
            self.feed(now, Slot::Main, Event::Start);
        }
    }

    /// Puts another configuration of the same peer in force. The session is reset only where the
    /// two sides have to speak of the change, or where it needs another connection.
    pub fn reconfigure(&mut self, now: Instant, config: &PeerConfig, router_id: RouterId) {
        let settings = Settings::new(config, router_id);
        let old = std::mem::replace(&mut self.cx.settings, settings);
        let changed = old != self.cx.settings;
        let switched = self.configured_shutdown != config.shutdown;
        if switched {
            self.configured_shutdown.clone_from(&config.shutdown);
            if let Some(text) = &config.shutdown {
                return self.shutdown(now, text);
            }
            // A person may have enabled it before; what else has changed counts all the same.
            self.shutdown = None;
            self.cx.actions.push_back(Action::Changed);
        }
        let state = self.state();
        if (changed && state <= State::Active) || (switched && state == State::Idle) {
            self.backoff.forget();
            self.stop(now, Cease::OtherConfigurationChange, "");
            self.start(now);
        } else if old.needs_new_session(&self.cx.settings) {
            self.backoff.forget();
            self.stop(now, Cease::OtherConfigurationChange, "");
        } else if changed {
            for fsm in [Some(&mut self.main), self.second.as_mut()] {
                if let Some(fsm) = fsm.filter(|fsm| fsm.state >= State::OpenConfirm) {
                    fsm.restart_keepalive(now, &mut self.cx);
                }
            }
        }
    }

    /// The peer is configured no more: ends the session for good.
    pub fn deconfigure(&mut self, now: Instant) {
        self.shutdown.get_or_insert_default();
        self.stop(now, Cease::PeerDeConfigured, "");
    }

    /// A person stops the session; `text` is sent to the peer and may be empty. RFC 9003.
    pub fn shutdown(&mut self, now: Instant, text: &str) {
        self.shutdown = Some(text.to_owned());
        self.stop(now, Cease::AdministrativeShutdown, text);
        self.cx.actions.push_back(Action::Changed);
    }

    /// A person lets the session be sought again, at once.
    pub fn enable(&mut self, now: Instant) {
        self.shutdown = None;
        self.backoff.forget();
        self.start(now);
        self.cx.actions.push_back(Action::Changed);
    }

    /// A person restarts the session; `text` is sent to the peer and may be empty. RFC 9003.
    /// A session that is waiting after a failure stops waiting.
    pub fn reset(&mut self, now: Instant, text: &str) {
        self.backoff.forget();
        let connected = self.state() >= State::OpenSent;
        self.stop(now, Cease::AdministrativeReset, text);
        if !connected {
            self.start(now);
        }
    }

    /// The peer opened a connection. Event 17.
    pub fn accepted(&mut self, now: Instant, conn: ConnId) {
        match (self.main.state, &self.second) {
            (State::Idle, _) if !self.is_welcome(now) => return self.cx.close(conn),
            (State::Idle, _) => {
                self.idle_hold = None;
                self.main = Fsm::listening();
                return self.feed(now, Slot::Main, Event::TcpConnectionConfirmed(conn));
            }
            (State::Active, _) => {
                return self.feed(now, Slot::Main, Event::TcpConnectionConfirmed(conn));
            }
            (_, Some(second)) if second.opened_by == fsm::Side::Ours => {
                return self.cx.close(conn);
            }
            // A peer that opens another connection has given up its last one.
            (_, Some(_)) => self.feed(now, Slot::Second, Event::OpenCollisionDump),
            (_, None) => {}
        }
        self.second = Some(Fsm::listening());
        self.feed(now, Slot::Second, Event::TcpConnectionConfirmed(conn));
    }

    /// Whether a waiting session takes the peer's attempt.
    fn is_welcome(&self, now: Instant) -> bool {
        let waits = self.shutdown.is_none() && !self.over_limit && self.idle_hold.is_some();
        waits && self.closed_until.is_some_and(|until| until <= now)
    }

    /// An attempt at a connection succeeded. Event 16.
    pub fn connected(&mut self, now: Instant, conn: ConnId) {
        if let Some(slot) = self.slot(conn) {
            self.feed(now, slot, Event::TcpCrAcked);
        }
    }

    /// An attempt at a connection failed, `error` says why in words. Event 18.
    pub fn connect_failed(&mut self, now: Instant, conn: ConnId, error: String) {
        if let Some(slot) = self.slot(conn) {
            self.feed(now, slot, Event::TcpConnectionFails(error));
        }
    }

    /// A connection is gone; `error` says why in words, none: the peer closed it. Event 18.
    pub fn closed(&mut self, now: Instant, conn: ConnId, error: Option<String>) {
        let error = error.unwrap_or_else(|| "the peer closed it".into());
        self.connect_failed(now, conn, error);
    }

    /// A message arrived. Events 19 and 22 to 27.
    pub fn receive(&mut self, now: Instant, conn: ConnId, message: Message) -> Received {
        let Some(slot) = self.slot(conn) else {
            return Received::Nothing;
        };
        let counts = &mut self.cx.counters.received;
        match message {
            Message::Open(open) => {
                counts.open += 1;
                self.on_open(now, slot, open);
            }
            Message::Keepalive => {
                counts.keepalive += 1;
                self.feed(now, slot, Event::KeepAliveMsg);
            }
            Message::Notification(notification) => {
                counts.notification += 1;
                self.feed(now, slot, Event::NotifMsg(notification));
            }
            Message::Update(body) => {
                counts.update += 1;
                self.feed(now, slot, Event::UpdateMsg);
                if self.conn() == Some(conn) {
                    return Received::Update(body);
                }
            }
            Message::RouteRefresh { family, kind } => {
                counts.route_refresh += 1;
                self.feed(now, slot, Event::RouteRefreshMsg);
                let negotiated = self.negotiated().filter(|_| self.conn() == Some(conn));
                match (negotiated, family) {
                    (Some(negotiated), Some(family)) if negotiated.families.contains(&family) => {
                        return Received::RouteRefresh { family, kind };
                    }
                    _ => {} // ignored, RFC 2918 §4
                }
            }
        }
        Received::Nothing
    }

    /// A message was malformed or an UPDATE unacceptable: the peer is told, and the session ends.
    /// `why` has the details for our own people and may be empty. Events 21, 22 and 28.
    pub fn fail(&mut self, now: Instant, conn: ConnId, notification: Notification, why: &str) {
        if let Some(slot) = self.slot(conn) {
            let event = Event::MessageError(notification, why.to_owned());
            self.feed(now, slot, event);
        }
    }

    /// The peer sent more prefixes than it may: it is told, and the session stays down for `wait`
    /// (`None`: until a person asks for it). Not part of RFC 4271 §8's events; ends like event 8.
    pub fn exceeded(
        &mut self,
        now: Instant,
        notification: Notification,
        why: &str,
        wait: Option<Duration>,
    ) {
        self.over_limit = true;
        if self.second.is_some() {
            self.feed(now, Slot::Second, Event::OpenCollisionDump);
        }
        let event = Event::MessageError(notification, why.to_owned());
        self.feed(now, Slot::Main, event);
        self.idle_hold = wait.map(|wait| now + wait);
    }

    /// Whether it is down because the peer sent more prefixes than it may.
    pub fn is_over_limit(&self) -> bool {
        self.over_limit
    }

    /// All control messages queued for `conn` have left for the transport.
    pub fn sent(&mut self, conn: ConnId) {
        if let Some(slot) = self.slot(conn)
            && let Some(fsm) = self.fsm(slot)
        {
            fsm.timers.send_hold = None;
        }
    }

    /// How long a message arriving on `conn` may be, in octets. RFC 8654.
    pub fn max_message(&self, conn: ConnId) -> u16 {
        let fsms = [Some(&self.main), self.second.as_ref()];
        let fsm = fsms
            .into_iter()
            .flatten()
            .find(|fsm| fsm.conn == Some(conn));
        let negotiated = fsm.and_then(|fsm| fsm.negotiated.as_ref());
        negotiated.map_or(STANDARD_MESSAGE, |agreed| agreed.max_message)
    }

    /// Timers that are due. Events 9 to 11, 13 and 29.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, slot, event)) = self.next_timer()
            && deadline <= now
        {
            if event == Event::Start {
                self.idle_hold = None;
                self.over_limit = false;
            }
            self.feed(now, slot, event);
        }
    }

    /// When [`Session::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer().map(|(deadline, _, _)| deadline)
    }

    /// What is to be done next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.cx.actions.pop_front()
    }

    /// Where the session is; of two connections, the one that got further.
    pub fn state(&self) -> State {
        let second = self.second.as_ref().map_or(State::Idle, |fsm| fsm.state);
        self.main.state.max(second)
    }

    /// Since when it is there; `None` before [`Session::start`].
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The connection of an Established session.
    pub fn conn(&self) -> Option<ConnId> {
        self.main.established_conn()
    }

    /// What an Established session agreed on.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.conn().and(self.main.negotiated.as_deref())
    }

    /// Time between KEEPALIVEs in an Established session, before jitter; `None`: there are none.
    pub fn keepalive_time(&self) -> Option<Duration> {
        let hold_time = self.negotiated()?.hold_time?;
        let configured = self.cx.settings.keepalive;
        Some(negotiate::keepalive_time(configured, hold_time))
    }

    /// What our OPEN says we can do.
    pub fn our_capabilities(&self) -> Capabilities {
        negotiate::our_open(&self.cx.settings, self.cx.restart).capabilities
    }

    /// Administratively down, with the text the peer was sent.
    pub fn shutdown_text(&self) -> Option<&str> {
        self.shutdown.as_deref()
    }

    /// How often it was Established.
    pub fn times_established(&self) -> u64 {
        self.cx.times_established
    }

    /// Why the session was last refused or lost, and when; and why it has not been possible to
    /// connect since.
    pub fn last_error(&self) -> Option<(Instant, String)> {
        match (&self.cx.fault, &self.cx.connect_error) {
            (Some((at, fault)), Some((_, error))) => {
                Some((*at, format!("{fault}; since then: {error}")))
            }
            (fault, error) => fault.as_ref().or(error.as_ref()).cloned(),
        }
    }

    /// When it will be sought next, if it is waiting for that.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.main.state {
            State::Idle => self.idle_hold,
            _ => self.main.timers.connect_retry,
        }
    }

    /// What was sent and received in the life of the session.
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// For the engine, which sends UPDATEs and ROUTE-REFRESHes and counts bytes.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.cx.counters
    }

    /// The peer's OPEN: is it acceptable, and does this connection stay? RFC 4271 §6.2, §6.8.
    fn on_open(&mut self, now: Instant, slot: Slot, open: Open) {
        let theirs = (open.router_id, open.asn);
        let negotiated = match negotiate::negotiate(&self.cx.settings, open) {
            Ok(negotiated) => negotiated,
            Err(refusal) => {
                let event = Event::MessageError(refusal.notification, refusal.why);
                return self.feed(now, slot, event);
            }
        };
        let (this, other, other_slot) = match (slot, &self.second) {
            (Slot::Main, Some(second)) => (&self.main, second, Slot::Second),
            (Slot::Second, Some(second)) => (second, &self.main, Slot::Main),
            (_, None) => return self.feed(now, slot, Event::BgpOpen(Box::new(negotiated))),
        };
        if this.state != State::OpenSent {
            return self.feed(now, slot, Event::BgpOpen(Box::new(negotiated)));
        }
        let restarted = |other: &Fsm| {
            let graceful = other
                .negotiated
                .as_ref()
                .is_some_and(|n| n.graceful_restart.is_some());
            let long = other
                .established
                .is_some_and(|since| now - since >= NO_COLLISION);
            other.state == State::Established
                && this.opened_by == fsm::Side::Theirs
                && graceful
                && long
        };
        if restarted(other) {
            let conn = this.conn;
            self.feed(now, other_slot, Event::PeerRestarted);
            if let Some(slot) = conn.and_then(|conn| self.slot(conn)) {
                self.feed(now, slot, Event::BgpOpen(Box::new(negotiated)));
            }
            return;
        }
        let ours = (self.cx.settings.router_id, self.cx.settings.local_asn);
        match collision::resolve(this, other, ours, theirs) {
            Survivor::Other => self.feed(now, slot, Event::OpenCollisionDump),
            Survivor::Both => self.feed(now, slot, Event::BgpOpen(Box::new(negotiated))),
            Survivor::This => {
                let conn = this.conn;
                self.feed(now, other_slot, Event::OpenCollisionDump);
                // The survivor may have moved into the other's place.
                if let Some(slot) = conn.and_then(|conn| self.slot(conn)) {
                    self.feed(now, slot, Event::BgpOpen(Box::new(negotiated)));
                }
            }
        }
    }

    /// Ends both connections; whoever calls says whether and when they are sought again.
    fn stop(&mut self, now: Instant, cease: Cease, text: &str) {
        self.idle_hold = None;
        self.over_limit = false;
        let event = Event::Stop(Notification::cease(cease, text));
        if self.second.is_some() {
            self.feed(now, Slot::Second, event.clone());
        }
        self.feed(now, Slot::Main, event);
    }

    fn feed(&mut self, now: Instant, slot: Slot, event: Event) {
        let fsm = match (slot, &mut self.second) {
            (Slot::Main, _) => &mut self.main,
            (Slot::Second, Some(second)) => second,
            (Slot::Second, None) => return,
        };
        fsm.handle(now, event, &mut self.cx);
        self.settle(now);
    }

    /// After every event: which connection is the session's, and what if none is.
    fn settle(&mut self, now: Instant) {
        if let Some(mut second) = self.second.take() {
            match (self.main.state, second.state) {
                // It is over, and a second connection is not sought again.
                (_, State::Idle | State::Connect | State::Active) => {}
                (State::Idle | State::Active, _) => self.main = second,
                (State::Connect, State::Established) => {
                    self.main.abandon(&mut self.cx);
                    self.main = second;
                }
                (_, State::Established) => {
                    std::mem::swap(&mut self.main, &mut second);
                    self.second = Some(second);
                }
                _ => self.second = Some(second),
            }
        }
        let waiting = self.shutdown.is_some() || self.idle_hold.is_some() || self.over_limit;
        if self.main.state == State::Idle && self.since.is_some() && !waiting {
            let lasted = self.main.established.take();
            let time = self.backoff.fell(lasted.map(|since| now - since));
            let time = self.cx.random.jitter(time);
            self.idle_hold = Some(now + time);
            let closed = if lasted.is_some() {
                time
            } else {
                time.min(CLOSED)
            };
            self.closed_until = Some(now + closed);
        }
        if self.shown != self.state() {
            self.shown = self.state();
            self.since = Some(now);
            self.cx.actions.push_back(Action::Changed);
        }
    }

    fn next_timer(&self) -> Option<(Instant, Slot, Event)> {
        let of = |slot, fsm: &Fsm| {
            let (deadline, event) = fsm.timers.next()?;
            Some((deadline, slot, event))
        };
        [
            self.idle_hold.map(|at| (at, Slot::Main, Event::Start)),
            of(Slot::Main, &self.main),
            self.second.as_ref().and_then(|fsm| of(Slot::Second, fsm)),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|(deadline, _, _)| *deadline)
    }

    fn slot(&self, conn: ConnId) -> Option<Slot> {
        if self.main.conn == Some(conn) {
            return Some(Slot::Main);
        }
        let second = self.second.as_ref()?;
        (second.conn == Some(conn)).then_some(Slot::Second)
    }

    fn fsm(&mut self, slot: Slot) -> Option<&mut Fsm> {
        match slot {
            Slot::Main => Some(&mut self.main),
            Slot::Second => self.second.as_mut(),
        }
    }
}

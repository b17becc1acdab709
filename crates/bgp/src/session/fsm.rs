//! The state machine of one connection. RFC 4271 §8.2.2, state by state.
//!
//! A session has one of these, and a second one while two connections collide. What the RFC leaves
//! open, and where we go another way than its text:
//!
//! - Start events 1 and 3 to 7 are one, [`Event::Start`]: whether to wait for the peer is
//!   configured, and oscillation damping is always on ([`Backoff`](super::timers::Backoff)).
//! - DelayOpen (events 12 and 20) is optional and not offered.
//! - Events 14 and 15 are the engine's: a connection from an address nobody configured never gets
//!   here.
//! - Event 13, IdleHoldTimer_Expires, is the session's: it outlives connections.
//! - A failed attempt leads from Connect to Active, not to Idle: a speaker that cannot reach its
//!   peer should at least listen to it.
//! - A NOTIFICATION is never answered with another.
//! - A hold time of zero ends with the handshake: OPENs that nothing follows are not waited on for
//!   ever, but for as long as for an OPEN.
//! - A passive session never connects, also not when it has waited for ConnectRetryTime.

use std::fmt;
use std::time::{Duration, Instant};

use crate::message::{Cease, FsmError, Notification};
use crate::types::ConnId;

use super::negotiate::Negotiated;
use super::timers::{OPEN_HOLD_TIME, SEND_HOLD_TIME, Timers};
use super::{Context, DownReason};

/// RFC 4271 §8.2.2; ordered from nothing to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Refuses connections: stopped, or waiting after a failure.
    Idle,
    /// Waits for its own attempt at a connection to succeed or fail.
    Connect,
    /// Waits for the peer to connect, and for the time of its own next attempt.
    Active,
    /// Has a connection and has sent OPEN.
    OpenSent,
    /// Has the peer's OPEN, waits for its KEEPALIVE.
    OpenConfirm,
    /// Exchanges routes.
    Established,
}

impl State {
    /// As the RFC writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "Idle",
            State::Connect => "Connect",
            State::Active => "Active",
            State::OpenSent => "OpenSent",
            State::OpenConfirm => "OpenConfirm",
            State::Established => "Established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happens to a connection. RFC 4271 §8.1; the numbers are its.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// ManualStart (1), AutomaticStart (3) and their variants (4 to 7).
    Start,
    /// ManualStop (2) and AutomaticStop (8), with what the peer is told.
    Stop(Notification),
    /// ConnectRetryTimer_Expires (9).
    ConnectRetryTimerExpires,
    /// HoldTimer_Expires (10).
    HoldTimerExpires,
    /// KeepaliveTimer_Expires (11).
    KeepaliveTimerExpires,
    /// Tcp_CR_Acked (16): our attempt succeeded.
    TcpCrAcked,
    /// TcpConnectionConfirmed (17): the peer's attempt succeeded.
    TcpConnectionConfirmed(ConnId),
    /// TcpConnectionFails (18), with the reason in words.
    TcpConnectionFails(String),
    /// BGPOpen (19), already found acceptable.
    BgpOpen(Box<Negotiated>),
    /// BGPHeaderErr (21), BGPOpenMsgErr (22) and UpdateMsgErr (28), with what the peer is told and
    /// the details that our own people want.
    MessageError(Notification, String),
    /// OpenCollisionDump (23).
    OpenCollisionDump,
    /// NotifMsgVerErr (24) and NotifMsg (25).
    NotifMsg(Notification),
    /// The peer has opened another connection although this one is Established: it has restarted.
    /// RFC 4724 §5.
    PeerRestarted,
    /// KeepAliveMsg (26).
    KeepAliveMsg,
    /// UpdateMsg (27).
    UpdateMsg,
    /// ROUTE-REFRESH, which counts as one. RFC 2918 §4.
    RouteRefreshMsg,
    /// SendHoldTimer_Expires (29). RFC 9687 §4.
    SendHoldTimerExpires,
}

/// Which side opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Theirs,
}

/// One connection's state machine; it does what it does through [`Context`].
#[derive(Debug)]
pub(super) struct Fsm {
    pub(super) state: State,
    /// The connection; in Connect the attempt at it.
    pub(super) conn: Option<ConnId>,
    pub(super) opened_by: Side,
    /// When it was opened.
    pub(super) opened: Option<Instant>,
    pub(super) timers: Timers,
    /// Known from OpenConfirm on.
    pub(super) negotiated: Option<Box<Negotiated>>,
    /// Since when it is Established.
    pub(super) established: Option<Instant>,
}

/// A message of this type has no place in the state. RFC 6608 §4.
fn unexpected_message(state: FsmError, kind: u8) -> DownReason {
    DownReason::sent(Notification::fsm(state, Some(kind)))
}

impl Fsm {
    /// In Idle.
    pub(super) fn new() -> Fsm {
        Fsm {
            state: State::Idle,
            conn: None,
            opened_by: Side::Ours,
            opened: None,
            timers: Timers::default(),
            negotiated: None,
            established: None,
        }
    }

    /// A second machine for a connection the peer opened while the first one is busy.
    pub(super) fn listening() -> Fsm {
        Fsm {
            state: State::Active,
            ..Fsm::new()
        }
    }

    pub(super) fn handle(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match self.state {
            State::Idle => self.idle(now, event, cx),
            State::Connect => self.connect(now, event, cx),
            State::Active => self.active(now, event, cx),
            State::OpenSent => self.open_sent(now, event, cx),
            State::OpenConfirm => self.open_confirm(now, event, cx),
            State::Established => self.in_established(now, event, cx),
        }
    }

    fn idle(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start if cx.settings.passive => self.state = State::Active,
            Event::Start => self.attempt(now, cx),
            _ => {} // Idle refuses connections and has nothing else to lose
        }
    }

    fn connect(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start => {}
            Event::ConnectRetryTimerExpires => {
                let why = match cx.settings.signed {
                    Some(_) => "no answer; a wrong or missing key on either side looks like this",
                    None => "no answer",
                };
                cx.connect_error(now, why.into());
                self.close(cx);
                self.seek(now, cx);
            }
            Event::TcpCrAcked => self.open(now, Side::Ours, cx),
            Event::TcpConnectionFails(error) => {
                self.conn = None;
                cx.connect_error(now, error);
                self.listen(now, cx);
            }
            // Stop; and events that need a connection, so that they never come here.
            _ => self.fall(cx),
        }
    }

    fn active(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start => {}
            Event::ConnectRetryTimerExpires => self.seek(now, cx),
            Event::TcpConnectionConfirmed(conn) => {
                self.conn = Some(conn);
                self.open(now, Side::Theirs, cx);
            }
            _ => self.fall(cx), // as in Connect
        }
    }

    fn open_sent(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start | Event::TcpCrAcked | Event::TcpConnectionConfirmed(_) => {}
            Event::TcpConnectionFails(error) => {
                self.conn = None;
                cx.connect_error(now, error);
                self.listen(now, cx);
            }
            Event::BgpOpen(negotiated) => {
                cx.send_keepalive(self.conn);
                // Also where KEEPALIVEs are not agreed on, the first one has to come.
                let hold_time = negotiated.hold_time.unwrap_or(OPEN_HOLD_TIME);
                self.timers.hold = Some(now + hold_time);
                self.negotiated = Some(negotiated);
                self.restart_keepalive(now, cx);
                self.state = State::OpenConfirm;
            }
            event => self.leave(now, event, FsmError::OpenSent, cx),
        }
    }

    fn open_confirm(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start | Event::TcpCrAcked | Event::TcpConnectionConfirmed(_) => {}
            Event::KeepaliveTimerExpires => self.keep_alive(now, cx),
            Event::KeepAliveMsg => {
                self.restart_hold(now);
                self.state = State::Established;
                self.established = Some(now);
                if let (Some(conn), Some(negotiated)) = (self.conn, &self.negotiated) {
                    cx.up(conn, negotiated);
                }
            }
            event => self.leave(now, event, FsmError::OpenConfirm, cx),
        }
    }

    fn in_established(&mut self, now: Instant, event: Event, cx: &mut Context) {
        match event {
            Event::Start | Event::TcpCrAcked | Event::TcpConnectionConfirmed(_) => {}
            Event::KeepaliveTimerExpires => self.keep_alive(now, cx),
            Event::KeepAliveMsg | Event::UpdateMsg | Event::RouteRefreshMsg => {
                self.restart_hold(now);
            }
            event => self.leave(now, event, FsmError::Established, cx),
        }
    }

    /// The events that end a connection whatever its state, and those that must not happen in it.
    fn leave(&mut self, now: Instant, event: Event, unexpected: FsmError, cx: &mut Context) {
        let conn = self.conn;
        let reason = match event {
            Event::Stop(notification) => DownReason::sent(self.for_good(notification)),
            Event::MessageError(notification, why) => DownReason::Sent { notification, why },
            Event::HoldTimerExpires => DownReason::sent(Notification::hold_timer_expired()),
            Event::SendHoldTimerExpires => DownReason::SendHoldTimerExpired,
            Event::OpenCollisionDump => DownReason::sent(Notification::cease(
                Cease::ConnectionCollisionResolution,
                "",
            )),
            Event::NotifMsg(notification) => DownReason::Received(notification),
            Event::PeerRestarted => {
                DownReason::ConnectionLost("the peer has restarted and opened another one".into())
            }
            Event::TcpConnectionFails(error) => {
                self.conn = None;
                DownReason::ConnectionLost(error)
            }
            Event::BgpOpen(_) => unexpected_message(unexpected, 1),
            Event::UpdateMsg => unexpected_message(unexpected, 2),
            Event::KeepAliveMsg => unexpected_message(unexpected, 4),
            Event::RouteRefreshMsg => unexpected_message(unexpected, 5),
            _ => DownReason::sent(Notification::fsm(unexpected, None)),
        };
        if let DownReason::Sent { notification, .. } = &reason {
            cx.send_notification(conn, notification);
        }
        self.close(cx);
        cx.lost(now, conn, self.state == State::Established, reason);
        self.fall(cx);
    }

    /// Where a NOTIFICATION alone would not end graceful restart, and we are not going to be back
    /// soon, it has to be a Hard Reset. RFC 8538 §3.1.
    fn for_good(&self, notification: Notification) -> Notification {
        let survives = self
            .negotiated
            .as_ref()
            .is_some_and(|n| n.survives_notification());
        let for_good = [
            Cease::MaximumPrefixes,
            Cease::AdministrativeShutdown,
            Cease::PeerDeConfigured,
        ];
        match survives
            && for_good
                .iter()
                .any(|cease| *cease as u8 == notification.subcode)
        {
            true => notification.into_hard_reset(),
            false => notification,
        }
    }

    /// To Idle, with nothing left.
    fn fall(&mut self, cx: &mut Context) {
        self.close(cx);
        *self = Fsm {
            established: self.established,
            ..Fsm::new()
        };
    }

    /// Gives the attempt up: the peer's own connection has made it.
    pub(super) fn abandon(&mut self, cx: &mut Context) {
        self.fall(cx);
    }

    /// The connection, if it is Established.
    pub(super) fn established_conn(&self) -> Option<ConnId> {
        self.conn.filter(|_| self.state == State::Established)
    }

    fn close(&mut self, cx: &mut Context) {
        if let Some(conn) = self.conn.take() {
            cx.close(conn);
        }
    }

    /// Initiates a connection: Connect.
    fn attempt(&mut self, now: Instant, cx: &mut Context) {
        self.conn = Some(cx.connect());
        self.opened_by = Side::Ours;
        self.restart_connect_retry(now, cx);
        self.state = State::Connect;
    }

    /// The next attempt is due. The session may have become passive since it was set.
    fn seek(&mut self, now: Instant, cx: &mut Context) {
        match cx.settings.passive {
            true => self.listen(now, cx),
            false => self.attempt(now, cx),
        }
    }

    /// Waits for the peer, and unless passive for the next attempt: Active.
    fn listen(&mut self, now: Instant, cx: &mut Context) {
        *self = Fsm::listening();
        if !cx.settings.passive {
            self.restart_connect_retry(now, cx);
        }
    }

    /// Has a connection: sends OPEN.
    fn open(&mut self, now: Instant, opened_by: Side, cx: &mut Context) {
        self.opened_by = opened_by;
        self.opened = Some(now);
        self.timers = Timers {
            hold: Some(now + OPEN_HOLD_TIME),
            ..Timers::default()
        };
        self.state = State::OpenSent;
        cx.send_open(self.conn);
    }

    fn keep_alive(&mut self, now: Instant, cx: &mut Context) {
        // One that has not left yet says all that a second one would.
        if self.timers.send_hold.is_none() {
            cx.send_keepalive(self.conn);
            let hold_time = self.negotiated.as_ref().and_then(|n| n.hold_time);
            let send_hold_time = hold_time.map_or(Duration::ZERO, |time| time * 2);
            self.timers.send_hold = Some(now + send_hold_time.max(SEND_HOLD_TIME));
        }
        self.restart_keepalive(now, cx);
    }

    fn restart_connect_retry(&mut self, now: Instant, cx: &mut Context) {
        let time = cx.random.jitter(cx.settings.connect_retry);
        self.timers.connect_retry = Some(now + time);
    }

    fn restart_hold(&mut self, now: Instant) {
        let hold_time = self.negotiated.as_ref().and_then(|n| n.hold_time);
        self.timers.hold = hold_time.map(|time| now + time);
    }

    /// Also when the configured time has changed.
    pub(super) fn restart_keepalive(&mut self, now: Instant, cx: &mut Context) {
        let hold_time = self.negotiated.as_ref().and_then(|n| n.hold_time);
        self.timers.keepalive = hold_time.map(|time| {
            let time = super::negotiate::keepalive_time(cx.settings.keepalive, time);
            now + cx.random.jitter(time)
        });
    }
}

//! What the state machines of a session share: its settings, and the ways to act on the world.

use std::collections::VecDeque;
use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::codec::FamilySet;
use crate::config::{Authentication, PeerConfig, PrefixLimits};
use crate::message::{Cease, Message, Notification, code};
use crate::query::MessageCounts;
use crate::types::{Asn, ConnId, Family, PeerId, RouterId};

use super::Action;
use super::negotiate::{Negotiated, our_open};
use super::timers::Random;

/// The part of a peer's configuration that is the session's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) router_id: RouterId,
    pub(super) local_asn: Asn,
    pub(super) remote_asn: Asn,
    pub(super) families: Vec<Family>,
    pub(super) extended_next_hop: bool,
    /// Whole seconds, as OPEN carries it.
    pub(super) hold_time: u16,
    pub(super) keepalive: Duration,
    pub(super) connect_retry: Duration,
    pub(super) passive: bool,
    pub(super) max_prefixes: Option<PrefixLimits>,
    /// The restart time that we offer, in seconds; `None`: no graceful restart.
    pub(super) restart_seconds: Option<u16>,
    /// How long our routes are to be kept after that, in seconds; `None`: they are not.
    pub(super) long_lived_seconds: Option<u32>,
    transport: (IpAddr, u16, Option<IpAddr>, u8, Option<u8>),
    /// Which key is used may change while a connection stands, how it is used may not.
    pub(super) signed: Option<Discriminant<Authentication>>,
}

impl Settings {
    pub(super) fn new(config: &PeerConfig, router_id: RouterId) -> Settings {
        let mut families = config.families.clone();
        families.sort_unstable();
        families.dedup();
        Settings {
            router_id,
            local_asn: config.local_asn,
            remote_asn: config.remote_asn,
            families,
            extended_next_hop: config.extended_next_hop,
            hold_time: config.timers.hold,
            keepalive: Duration::from_secs(config.timers.keepalive.into()),
            connect_retry: Duration::from_secs(config.timers.connect_retry.into()),
            passive: config.passive,
            max_prefixes: config.max_prefixes,
            restart_seconds: config.graceful_restart.map(|gr| gr.restart_seconds),
            long_lived_seconds: (config.graceful_restart)
                .and_then(|gr| gr.long_lived)
                .map(|long_lived| long_lived.stale_seconds),
            signed: config.authentication.as_ref().map(discriminant),
            transport: (
                config.address,
                config.port,
                config.local_address,
                config.ttl,
                config.ttl_security,
            ),
        }
    }

    /// Whether a session made with these settings cannot go on with `new` ones: what OPEN says or
    /// what the connection is made of differs.
    pub(super) fn needs_new_session(&self, new: &Settings) -> bool {
        let kept = Settings {
            keepalive: new.keepalive,
            connect_retry: new.connect_retry,
            passive: new.passive,
            max_prefixes: new.max_prefixes,
            ..self.clone()
        };
        kept != *new
    }
}

/// What was exchanged with a peer since it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// From the peer.
    pub received: MessageCounts,
    /// To the peer.
    pub sent: MessageCounts,
}

/// Why a session ended, or did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// We ended it.
    Sent {
        /// What the peer was told.
        notification: Notification,
        /// Details for our own people; may be empty.
        why: String,
    },
    /// The peer ended it, and said why.
    Received(Notification),
    /// The connection broke, with the reason in words.
    ConnectionLost(String),
    /// The peer took nothing from us for too long. RFC 9687.
    SendHoldTimerExpired,
}

impl DownReason {
    pub(super) fn sent(notification: Notification) -> DownReason {
        DownReason::Sent {
            notification,
            why: String::new(),
        }
    }

    fn is_collision(&self) -> bool {
        match self {
            DownReason::Sent { notification, .. } | DownReason::Received(notification) => {
                notification.code == code::CEASE
                    && notification.subcode == Cease::ConnectionCollisionResolution as u8
            }
            DownReason::ConnectionLost(_) | DownReason::SendHoldTimerExpired => false,
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Sent { notification, why } if why.is_empty() => {
                write!(f, "sent {notification}")
            }
            DownReason::Sent { notification, why } => write!(f, "sent {notification} ({why})"),
            DownReason::Received(notification) => write!(f, "received {notification}"),
            DownReason::ConnectionLost(error) => write!(f, "connection lost: {error}"),
            DownReason::SendHoldTimerExpired => {
                f.write_str("the peer takes nothing from us (Send Hold Timer Expired)")
            }
        }
    }
}

/// What an OPEN says of our own restart. RFC 4724 §3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Restart {
    /// R: we have restarted and do not know yet what our peers know.
    pub(super) restarting: bool,
    /// F: families in which we have gone on forwarding.
    pub(super) preserved: FamilySet,
}

/// What the state machines of one session share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    /// What OPEN says of our own restart.
    pub(super) restart: Restart,
    pub(super) random: Random,
    pub(super) counters: Counters,
    pub(super) actions: VecDeque<Action>,
    pub(super) times_established: u64,
    /// Why the session was last refused or lost, and when.
    pub(super) fault: Option<(Instant, String)>,
    /// Why the last attempt at a connection failed, and when, if none has led further since.
    pub(super) connect_error: Option<(Instant, String)>,
    /// The name of the next connection that we open.
    next_conn: u64,
}

impl Context {
    pub(super) fn new(peer: PeerId, settings: Settings, seed: u64) -> Context {
        Context {
            settings,
            restart: Restart::default(),
            random: Random::new(seed),
            counters: Counters::default(),
            actions: VecDeque::new(),
            times_established: 0,
            fault: None,
            connect_error: None,
            next_conn: u64::from(peer.0) << 31,
        }
    }

    pub(super) fn connect(&mut self) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.actions.push_back(Action::Connect { conn });
        conn
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        self.actions.push_back(Action::Close { conn });
    }

    pub(super) fn send_open(&mut self, conn: Option<ConnId>) {
        self.counters.sent.open += 1;
        self.send(conn, Message::Open(our_open(&self.settings, self.restart)));
    }

    pub(super) fn send_keepalive(&mut self, conn: Option<ConnId>) {
        self.counters.sent.keepalive += 1;
        self.send(conn, Message::Keepalive);
    }

    pub(super) fn send_notification(&mut self, conn: Option<ConnId>, notification: &Notification) {
        self.counters.sent.notification += 1;
        self.send(conn, Message::Notification(notification.clone()));
    }

    fn send(&mut self, conn: Option<ConnId>, message: Message) {
        if let Some(conn) = conn {
            self.actions.push_back(Action::Send { conn, message });
        }
    }

    pub(super) fn up(&mut self, conn: ConnId, negotiated: &Negotiated) {
        self.times_established += 1;
        // What we forward does not suffer when this session is lost.
        self.restart.preserved = Family::ALL.into_iter().collect();
        self.connect_error = None;
        self.actions.push_back(Action::Up {
            conn,
            negotiated: negotiated.clone(),
        });
    }

    /// A connection that had got as far as OPEN is gone.
    pub(super) fn lost(
        &mut self,
        now: Instant,
        conn: Option<ConnId>,
        established: bool,
        reason: DownReason,
    ) {
        // That one of two connections goes is no fault.
        if established || !reason.is_collision() {
            self.fault = Some((now, reason.to_string()));
            self.connect_error = None;
            self.actions.push_back(Action::Changed);
        }
        if let (Some(conn), true) = (conn, established) {
            self.actions.push_back(Action::Down { conn, reason });
        }
    }

    pub(super) fn connect_error(&mut self, now: Instant, error: String) {
        self.connect_error = Some((now, error));
        self.actions.push_back(Action::Changed);
    }
}

//! One session, whatever happens to it: RFC 4271 §8, RFC 6608, RFC 9687.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bgp::config::{GracefulRestart, NextHopMode, PeerConfig, Timers};
use bgp::message::{self, Capabilities, Cease, Message, Notification, Open, RefreshKind};
use bgp::session::{Action, Received, Session, State};
use bgp::types::{Asn, ConnId, Family, PeerId, RouterId};
use bytes::Bytes;

use crate::input::Input;

const OUR_ASN: Asn = Asn(65000);
const THEIR_ASN: Asn = Asn(65001);

/// How long a handshake may take. RFC 4271 §8.2.2.
const HANDSHAKE: Duration = Duration::from_secs(240);
/// How long a peer may take nothing at least. RFC 9687 §3.1.
const SEND_HOLD: Duration = Duration::from_secs(480);
/// How long a session that fell waits at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The first two octets choose the configuration, each one behind them what happens next.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let config = peer(&mut input);
    let own_id = RouterId([10, 0, 0, if input.flag() { 200 } else { 1 }].into());
    let now = Instant::now();
    let mut session = Session::new(PeerId(3), &config, own_id, 7);
    session.start(now);
    let mut caller = Caller {
        session,
        own_id,
        config,
        now,
        conns: BTreeMap::new(),
        accepted: 0,
        up: None,
        gone: false,
    };
    caller.carry_out();
    while !input.is_empty() {
        caller.step(&mut input);
        caller.carry_out();
        caller.check();
    }
}

fn peer(input: &mut Input<'_>) -> PeerConfig {
    let choice = input.byte();
    PeerConfig {
        name: "peer".into(),
        description: String::new(),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)),
        port: 179,
        local_address: None,
        local_asn: OUR_ASN,
        remote_asn: THEIR_ASN,
        passive: choice & 1 != 0,
        shutdown: (choice & 2 != 0).then(String::new),
        ttl: 1,
        ttl_security: None,
        authentication: None,
        families: Family::ALL.to_vec(),
        extended_next_hop: false,
        max_prefixes: None,
        timers: Timers {
            hold: [0, 3, 9, 90][usize::from(choice >> 2 & 3)],
            ..Timers::default()
        },
        import: vec![],
        export: vec![],
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: (choice & 16 != 0).then(GracefulRestart::default),
    }
}

/// What has gone over one connection, as its far end and the transport see it.
struct Wire {
    stands: bool,
    /// The transport takes nothing.
    stuck: bool,
    since: Instant,
    open_sent: bool,
    /// An OPEN that suits.
    open_received: bool,
    keepalive_received: bool,
    notified: bool,
    was_notified: bool,
    last_received: Instant,
    last_keepalive: Instant,
    /// Since when something of ours has waited for the transport.
    waiting: Option<Instant>,
}

struct Caller {
    session: Session,
    own_id: RouterId,
    config: PeerConfig,
    now: Instant,
    /// Neither closed by the session nor reported as gone.
    conns: BTreeMap<ConnId, Wire>,
    accepted: u64,
    up: Option<ConnId>,
    /// Not configured any more.
    gone: bool,
}

impl Caller {
    fn wire(&self, stands: bool) -> Wire {
        Wire {
            stands,
            stuck: false,
            since: self.now,
            open_sent: false,
            open_received: false,
            keepalive_received: false,
            notified: false,
            was_notified: false,
            last_received: self.now,
            last_keepalive: self.now,
            waiting: None,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.below(24);
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        let conn = match conns.is_empty() {
            true => ConnId(u64::MAX), // one that nobody knows
            false => *input.pick(&conns),
        };
        let now = self.now;
        match what {
            0 | 1 => {
                let conn = ConnId(1 << 63 | self.accepted);
                self.accepted += 1;
                let wire = self.wire(true);
                self.conns.insert(conn, wire);
                self.session.accepted(now, conn);
            }
            2 | 3 => {
                if let Some(wire) = self.conns.get_mut(&conn) {
                    if wire.stands {
                        return; // it is told once
                    }
                    wire.stands = true;
                    wire.since = now;
                }
                self.session.connected(now, conn);
            }
            4 => {
                self.conns.remove(&conn);
                self.session.connect_failed(now, conn, "refused".into());
                self.is_gone(conn);
            }
            5 => {
                self.conns.remove(&conn);
                self.session.closed(now, conn, None);
                self.is_gone(conn);
            }
            6 | 7 => self.hear(conn, Message::Open(open(0, self.own_id)), 1),
            8 => {
                let choice = input.byte();
                let open = open(choice, self.own_id);
                let suits = open.asn == THEIR_ASN && choice & 3 != 3;
                self.hear(conn, Message::Open(open), u8::from(suits));
            }
            9 | 10 => self.hear(conn, Message::Keepalive, 0),
            11 => self.hear(conn, Message::Update(Bytes::from_static(&[0; 4])), 0),
            12 => {
                let kind = *input.pick(&[RefreshKind::Request, RefreshKind::Begin]);
                let family = *input.pick(&[None, Some(Family::Ipv4)]);
                self.hear(conn, Message::RouteRefresh { family, kind }, 0);
            }
            13 => {
                let cease = *input.pick(&[Cease::OutOfResources, Cease::HardReset]);
                let notification = Notification::cease(cease, "");
                self.hear(conn, Message::Notification(notification), 0);
            }
            14 => {
                let notification = Notification::update(1, Bytes::new());
                self.session.fail(now, conn, notification, "bad");
            }
            15 => {
                if let Some(wire) = self.conns.get_mut(&conn) {
                    wire.stuck ^= true;
                }
            }
            16 | 17 => self.wait(Duration::from_millis(u64::from(input.byte()) * 40), input),
            18 | 19 => self.wait(Duration::from_secs(u64::from(input.byte())), input),
            20 => self.session.shutdown(now, "stop"),
            21 => {
                if !self.gone {
                    self.session.enable(now);
                }
            }
            22 => match input.below(4) {
                0 => self.session.reset(now, "again"),
                1 if self.up.is_some() => {
                    let notification = Notification::maximum_prefixes(Family::Ipv4, 10);
                    let wait = input.flag().then_some(Duration::from_secs(30));
                    self.session.exceeded(now, notification, "many", wait);
                }
                _ => {
                    let config = PeerConfig {
                        port: self.config.port,
                        ..peer(input)
                    };
                    self.config = config.clone();
                    if !self.gone {
                        self.session.reconfigure(now, &config, self.own_id);
                    }
                }
            },
            _ => {
                if input.below(8) == 7 {
                    self.gone = true;
                    self.session.deconfigure(now);
                }
            }
        }
    }

    /// A message arrives; `suits`: it is an OPEN that must be acceptable.
    fn hear(&mut self, conn: ConnId, message: Message, suits: u8) {
        let established = self.up == Some(conn);
        if let Some(wire) = self.conns.get_mut(&conn) {
            if !wire.stands {
                return; // nothing comes before it stands
            }
            wire.last_received = self.now;
            match &message {
                Message::Open(_) => wire.open_received |= suits == 1,
                Message::Keepalive => wire.keepalive_received |= wire.open_received,
                Message::Notification(_) => wire.was_notified = true,
                _ => {}
            }
        }
        let is_update = matches!(message, Message::Update(_));
        let ends = matches!(message, Message::Notification(_) | Message::Open(_));
        let is_refresh = matches!(
            message,
            Message::RouteRefresh {
                family: Some(_),
                ..
            }
        );
        let received = self.session.receive(self.now, conn, message);
        match received {
            Received::Nothing => assert!(!established || (!is_update && !is_refresh)),
            Received::Update(_) => assert!(established && is_update),
            Received::RouteRefresh { .. } => assert!(established && is_refresh),
        }
        assert!(!established || !ends || self.session.conn() != Some(conn));
    }

    fn wait(&mut self, time: Duration, input: &mut Input<'_>) {
        let until = self.now + time;
        // A caller that is busy comes late.
        let late = input.flag();
        let mut calls = 0;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= until) {
            self.now = if late { until } else { self.now.max(at) };
            self.session.handle_timeout(self.now);
            self.carry_out();
            let next = self.session.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a timer stays due");
            calls += 1;
            // The shortest there are: KEEPALIVEs of a hold time of 3 s, with jitter.
            assert!(calls <= 4 * (2 + time.as_secs()), "timers never rest");
            self.check();
        }
        self.now = until;
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Connect { conn } => {
                    let wire = self.wire(false);
                    assert!(!self.config.passive, "a passive session connects");
                    assert!(self.conns.insert(conn, wire).is_none());
                }
                Action::Close { conn } => {
                    assert!(
                        self.conns.remove(&conn).is_some(),
                        "closes what is not open"
                    );
                }
                Action::Send { conn, message } => self.said(conn, &message),
                Action::Up { conn, .. } => {
                    let wire = &self.conns[&conn];
                    assert!(wire.open_sent && wire.open_received && wire.keepalive_received);
                    assert!(!wire.notified && !wire.was_notified);
                    assert_eq!(self.up.replace(conn), None, "up twice");
                }
                Action::Down { conn, .. } => assert_eq!(self.up.take(), Some(conn)),
                Action::Changed => {}
            }
        }
        for (conn, wire) in &mut self.conns {
            if !wire.stuck {
                wire.waiting = None;
                self.session.sent(*conn);
            }
        }
    }

    fn said(&mut self, conn: ConnId, message: &Message) {
        let now = self.now;
        let wire = self.conns.get_mut(&conn).expect("sends where nothing is");
        assert!(wire.stands && !wire.notified, "sends {message:?}");
        wire.waiting.get_or_insert(now);
        match message {
            Message::Open(_) => {
                assert!(!wire.open_sent, "a second OPEN");
                wire.open_sent = true;
            }
            Message::Keepalive => {
                assert!(wire.open_sent && wire.open_received);
                wire.last_keepalive = now;
            }
            Message::Notification(notification) => {
                assert!(!wire.was_notified, "answers a NOTIFICATION");
                if notification.code == message::code::FSM {
                    assert!((1..=3).contains(&notification.subcode));
                    assert!(notification.data.len() <= 1);
                }
                wire.notified = true;
            }
            other => panic!("a session does not send {other:?}"),
        }
    }

    /// What must hold whenever the session rests.
    fn check(&self) {
        let session = &self.session;
        assert!(self.conns.len() <= 2, "never more than two connections");
        assert_eq!(session.conn(), self.up);
        assert_eq!(session.state() == State::Established, self.up.is_some());
        assert_eq!(session.negotiated().is_some(), self.up.is_some());
        for wire in self.conns.values() {
            assert!(!wire.notified, "a NOTIFICATION, and the connection is kept");
        }
        if session.shutdown_text().is_some() {
            assert!(self.conns.is_empty() && session.poll_timeout().is_none());
            return;
        }
        let now = self.now;
        let due = session.poll_timeout();
        match self.up.map(|conn| &self.conns[&conn]) {
            Some(wire) => self.check_established(wire),
            // It is never lost, whatever state it is in.
            None if session.is_over_limit() => {}
            None if self.config.passive && session.state() == State::Active => {}
            None => assert!(due.is_some(), "nothing gets it out of {}", session.state()),
        }
        if session.state() == State::Idle && !session.is_over_limit() {
            assert!(due.is_some_and(|at| at <= now + LONGEST_WAIT));
        }
        let unfinished = self.conns.iter().filter(|(conn, wire)| {
            wire.stands && Some(**conn) != self.up && now.duration_since(wire.since) > HANDSHAKE * 2
        });
        assert_eq!(unfinished.count(), 0, "a handshake without end");
    }

    fn check_established(&self, wire: &Wire) {
        let negotiated = self.session.negotiated().expect("it is Established");
        let Some(hold) = negotiated.hold_time else {
            return;
        };
        let now = self.now;
        let is_late = self.session.poll_timeout().is_some_and(|at| at <= now);
        assert!(
            is_late || now < wire.last_received + hold,
            "a silent peer is kept"
        );
        let keepalive = self.session.keepalive_time().expect("there is a hold time");
        assert!(keepalive <= hold / 3);
        if !wire.stuck {
            let since = now.duration_since(wire.last_keepalive);
            // One that was stuck until now sends the next one when it is due.
            assert!(is_late || since <= SEND_HOLD.max(hold * 2) + 2 * keepalive);
        }
        if let Some(waiting) = wire.waiting {
            let most = SEND_HOLD.max(hold * 2) + 2 * keepalive;
            assert!(
                is_late || now <= waiting + most,
                "a peer that takes nothing"
            );
        }
    }

    fn is_gone(&mut self, conn: ConnId) {
        // Reported as gone: the session may not close it any more, `carry_out` looks after that.
        debug_assert!(!self.conns.contains_key(&conn));
    }
}

/// An OPEN of theirs; 0 is a good one.
fn open(choice: u8, own_id: RouterId) -> Open {
    let asn = match choice & 3 {
        1 => Asn(65002),
        _ => THEIR_ASN,
    };
    let family = match choice & 3 {
        2 => vec![],
        _ => Family::ALL.to_vec(),
    };
    Open {
        asn,
        hold_time: match (choice & 3, choice >> 2 & 3) {
            (3, _) => 1,
            (_, 0) => 90,
            (_, 1) => 0,
            (_, 2) => 3,
            _ => 600,
        },
        router_id: match choice & 0x10 {
            0 => RouterId([10, 0, 0, 100].into()),
            _ => own_id,
        },
        capabilities: Capabilities {
            families: family,
            four_octet_as: Some(asn),
            graceful_restart: (choice & 0x20 != 0).then(Default::default),
            ..Capabilities::default()
        },
    }
}

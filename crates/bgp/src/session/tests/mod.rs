//! What the tests of a session share. `table`: the state machine of one connection, every event in
//! every state; `open`: what two OPENs agree on; `session`: one session from start to end;
//! `collision`: two connections at once; `anything`: calls in any order.

mod anything;
mod collision;
mod open;
mod session;
mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::context::Settings;
use super::negotiate::negotiate;
use super::*;
use crate::config::{NextHopMode, Timers};
use crate::message::Capabilities;
use crate::types::Asn;

const THEIR_CONN: ConnId = ConnId(1 << 63);

/// The configuration of the peer that has identifier 10.0.0.`remote`.
fn config(remote: u8, remote_asn: u32, local_asn: u32) -> PeerConfig {
    PeerConfig {
        name: format!("peer-{remote}"),
        description: String::new(),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, remote)),
        port: 179,
        local_address: None,
        local_asn: Asn(local_asn),
        remote_asn: Asn(remote_asn),
        passive: false,
        shutdown: None,
        ttl: 1,
        families: Family::ALL.to_vec(),
        extended_next_hop: true,
        ttl_security: None,
        authentication: None,
        max_prefixes: None,
        timers: Timers::default(),
        import: Vec::new(),
        export: Vec::new(),
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: None,
    }
}

fn router_id(last: u8) -> RouterId {
    RouterId(Ipv4Addr::new(10, 0, 0, last))
}

/// Of speaker 10.0.0.`own` in AS `asn`, towards 10.0.0.9 in AS 65009.
fn settings(own: u8, asn: u32) -> Settings {
    Settings::new(&config(9, 65009, asn), router_id(own))
}

/// An OPEN as 10.0.0.9 in AS 65009 would send it.
fn their_open() -> Open {
    Open {
        asn: Asn(65009),
        hold_time: 180,
        router_id: router_id(9),
        capabilities: Capabilities {
            families: Family::ALL.to_vec(),
            four_octet_as: Some(Asn(65009)),
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: true,
            extended_next_hop: vec![Family::Ipv4],
            graceful_restart: None,
            long_lived: None,
            unknown: Vec::new(),
        },
    }
}

fn agreed() -> Negotiated {
    negotiate(&settings(1, 65001), their_open()).unwrap()
}

/// Drives one session by hand.
struct Rig {
    session: Session,
    now: Instant,
}

impl Rig {
    fn new(config: &PeerConfig) -> Rig {
        let now = Instant::now();
        let mut session = Session::new(PeerId(3), config, router_id(1), 7);
        session.start(now);
        Rig { session, now }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.session.poll_action())
            .filter(|action| *action != Action::Changed)
            .collect()
    }

    /// The connection that the session is about to open.
    fn attempt(&mut self) -> ConnId {
        match self.actions().as_slice() {
            [.., Action::Connect { conn }] => *conn,
            other => panic!("no attempt to connect: {other:?}"),
        }
    }

    fn open(&mut self, conn: ConnId) {
        self.session
            .receive(self.now, conn, Message::Open(their_open()));
    }

    fn keepalive(&mut self, conn: ConnId) {
        self.session.receive(self.now, conn, Message::Keepalive);
    }

    fn established(config: &PeerConfig) -> (Rig, ConnId) {
        let mut rig = Rig::new(config);
        let conn = rig.establish();
        (rig, conn)
    }

    fn establish(&mut self) -> ConnId {
        let conn = self.attempt();
        self.session.connected(self.now, conn);
        self.open(conn);
        self.keepalive(conn);
        assert_eq!(self.session.state(), State::Established);
        self.actions();
        conn
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.session.poll_timeout()
            && deadline <= end
        {
            self.now = deadline;
            self.session.handle_timeout(deadline);
        }
        self.now = end;
    }

    fn ceases(&mut self) -> Vec<(ConnId, u8)> {
        let cease = |action| match action {
            Action::Send {
                conn,
                message: Message::Notification(n),
            } => Some((conn, n.subcode)),
            _ => None,
        };
        self.actions().into_iter().filter_map(cease).collect()
    }
}

fn peer() -> PeerConfig {
    config(9, 65009, 65001)
}

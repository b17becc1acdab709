//! Calls in any order: what must hold however they come.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// Something that a caller may do at any time.
#[derive(Clone, Debug)]
enum Call {
    Accept,
    /// The outcome of an attempt, of the connection of this number among those open.
    Connected(usize),
    ConnectFailed(usize),
    Closed(usize),
    Open(usize),
    WrongOpen(usize),
    Keepalive(usize),
    Update(usize),
    Notification(usize),
    Fail(usize),
    Sent(usize),
    Wait(u64),
    Shutdown,
    Enable,
    Reset,
    Reconfigure(u16),
    Deconfigure,
}

fn call() -> impl Strategy<Value = Call> {
    let which = 0..3_usize;
    prop_oneof![
        3 => Just(Call::Accept),
        6 => which.clone().prop_map(Call::Connected),
        1 => which.clone().prop_map(Call::ConnectFailed),
        1 => which.clone().prop_map(Call::Closed),
        6 => which.clone().prop_map(Call::Open),
        1 => which.clone().prop_map(Call::WrongOpen),
        6 => which.clone().prop_map(Call::Keepalive),
        2 => which.clone().prop_map(Call::Update),
        1 => which.clone().prop_map(Call::Notification),
        1 => which.clone().prop_map(Call::Fail),
        2 => which.prop_map(Call::Sent),
        6 => (0..90_000_u64).prop_map(Call::Wait),
        1 => Just(Call::Shutdown),
        2 => Just(Call::Enable),
        1 => Just(Call::Reset),
        1 => (3..9_u16).prop_map(Call::Reconfigure),
        1 => Just(Call::Deconfigure),
    ]
}

/// What the caller knows, and checks.
struct Caller {
    rig: Rig,
    /// Neither closed by the session nor reported as gone.
    open: Vec<ConnId>,
    up: Option<ConnId>,
    accepted: u64,
    numbers: BTreeSet<ConnId>,
}

impl Caller {
    fn carry_out(&mut self) {
        for action in self.rig.actions() {
            match action {
                Action::Connect { conn } => {
                    assert!(self.numbers.insert(conn), "a number is used twice");
                    self.open.push(conn);
                }
                Action::Close { conn } => {
                    assert!(self.open.contains(&conn), "closes what is not open");
                    self.open.retain(|other| *other != conn);
                }
                Action::Send { conn, .. } => assert!(self.open.contains(&conn)),
                Action::Up { conn, .. } => {
                    assert!(self.open.contains(&conn));
                    assert_eq!(self.up.replace(conn), None, "up twice");
                }
                Action::Down { conn, .. } => assert_eq!(self.up.take(), Some(conn)),
                Action::Changed => {}
            }
        }
        let session = &self.rig.session;
        assert!(self.open.len() <= 2, "never more than two connections");
        assert_eq!(session.conn(), self.up);
        assert_eq!(session.state() == State::Established, self.up.is_some());
        let stopped = session.shutdown_text().is_some();
        assert!(!stopped || (self.open.is_empty() && session.poll_timeout().is_none()));
        // Whatever state a session is in, something gets it out of there.
        assert!(stopped || session.poll_timeout().is_some());
    }

    fn call(&mut self, call: Call) {
        let now = self.rig.now;
        let open = self.open.clone();
        let conn = |which: usize| open.get(which).copied().unwrap_or(ConnId(u64::MAX));
        let gone = |caller: &mut Caller, which| caller.open.retain(|c| *c != conn(which));
        let session = &mut self.rig.session;
        match call {
            Call::Accept => {
                let conn = ConnId(1 << 63 | self.accepted);
                self.accepted += 1;
                self.open.push(conn);
                session.accepted(now, conn);
            }
            Call::Connected(which) => session.connected(now, conn(which)),
            Call::ConnectFailed(which) => {
                session.connect_failed(now, conn(which), "refused".into());
                gone(self, which);
            }
            Call::Closed(which) => {
                session.closed(now, conn(which), None);
                gone(self, which);
            }
            Call::Open(which) => {
                session.receive(now, conn(which), Message::Open(their_open()));
            }
            Call::WrongOpen(which) => {
                let asn = Asn(1);
                let open = Open {
                    asn,
                    ..their_open()
                };
                session.receive(now, conn(which), Message::Open(open));
            }
            Call::Keepalive(which) => {
                session.receive(now, conn(which), Message::Keepalive);
            }
            Call::Update(which) => {
                let received = session.receive(now, conn(which), Message::Update(Bytes::new()));
                let established = self.up.is_some() && self.up == Some(conn(which));
                assert_eq!(established, received != Received::Nothing);
            }
            Call::Notification(which) => {
                let notification = Notification::cease(Cease::OutOfResources, "");
                session.receive(now, conn(which), Message::Notification(notification));
            }
            Call::Fail(which) => {
                let notification = Notification::update(1, Bytes::new());
                session.fail(now, conn(which), notification, "");
            }
            Call::Sent(which) => session.sent(conn(which)),
            Call::Wait(millis) => self.rig.advance(Duration::from_millis(millis)),
            Call::Shutdown => session.shutdown(now, "stop"),
            Call::Enable => session.enable(now),
            Call::Reset => session.reset(now, ""),
            Call::Reconfigure(hold) => {
                let mut config = peer();
                config.timers.hold = hold;
                session.reconfigure(now, &config, router_id(1));
            }
            Call::Deconfigure => session.deconfigure(now),
        }
        self.carry_out();
    }
}

proptest! {
    #[test]
    fn in_any_order_of_calls_connections_and_ups_and_downs_stay_paired(
        calls in prop::collection::vec(call(), 1..120),
        own_id in prop::sample::select(vec![1_u8, 10]),
    ) {
        let now = Instant::now();
        let mut session = Session::new(PeerId(3), &peer(), router_id(own_id), 7);
        session.start(now);
        let mut caller = Caller {
            rig: Rig { session, now },
            open: Vec::new(),
            up: None,
            accepted: 0,
            numbers: BTreeSet::new(),
        };
        caller.carry_out();
        for call in calls {
            caller.call(call);
        }
    }
}

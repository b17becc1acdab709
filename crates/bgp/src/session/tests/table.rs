//! The state machine of one connection as a table over (event, state).

use bytes::Bytes;

use super::*;
use crate::message::OpenError;

/// Event by event, what becomes of each state. After the new state: C connects, X closes, O sends
/// OPEN, K sends KEEPALIVE, Nc/s sends a NOTIFICATION with code c and subcode s; U is up, D down.
/// A dot: nothing happens at all.
const TABLE: &str = "
 event                        | Idle      | Connect      | Active      | OpenSent         | OpenConfirm      | Established
 Start (1)                    | Connect C | .            | .           | .                | .                | .
 Stop (2)                     | .         | Idle X       | Idle        | Idle N6/4 X      | Idle N6/4 X      | Idle N6/4 X D
 ConnectRetryTimerExpires (9) | .         | Connect X C  | Connect C   | Idle N5/1 X      | Idle N5/2 X      | Idle N5/3 X D
 HoldTimerExpires (10)        | .         | Idle X       | Idle        | Idle N4/0 X      | Idle N4/0 X      | Idle N4/0 X D
 KeepaliveTimerExpires (11)   | .         | Idle X       | Idle        | Idle N5/1 X      | OpenConfirm K    | Established K
 TcpCrAcked (16)              | .         | OpenSent O   | Idle        | .                | .                | .
 TcpConnectionConfirmed (17)  | .         | Idle X       | OpenSent O  | .                | .                | .
 TcpConnectionFails (18)      | .         | Active       | Idle        | Active           | Idle             | Idle D
 BgpOpen (19)                 | .         | Idle X       | Idle        | OpenConfirm K    | Idle N5/2 X      | Idle N5/3 X D
 BgpHeaderErr (21)            | .         | Idle X       | Idle        | Idle N1/2 X      | Idle N1/2 X      | Idle N1/2 X D
 BgpOpenMsgErr (22)           | .         | Idle X       | Idle        | Idle N2/2 X      | Idle N2/2 X      | Idle N2/2 X D
 OpenCollisionDump (23)       | .         | Idle X       | Idle        | Idle N6/7 X      | Idle N6/7 X      | Idle N6/7 X D
 NotifMsgVerErr (24)          | .         | Idle X       | Idle        | Idle X           | Idle X           | Idle X D
 NotifMsg (25)                | .         | Idle X       | Idle        | Idle X           | Idle X           | Idle X D
 KeepAliveMsg (26)            | .         | Idle X       | Idle        | Idle N5/1 X      | Established U    | .
 UpdateMsg (27)               | .         | Idle X       | Idle        | Idle N5/1 X      | Idle N5/2 X      | .
 RouteRefreshMsg              | .         | Idle X       | Idle        | Idle N5/1 X      | Idle N5/2 X      | .
 UpdateMsgErr (28)            | .         | Idle X       | Idle        | Idle N3/1 X      | Idle N3/1 X      | Idle N3/1 X D
 SendHoldTimerExpires (29)    | .         | Idle X       | Idle        | Idle X           | Idle X           | Idle X D
";

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

fn event(name: &str) -> Event {
    let text = |cease| Notification::cease(cease, "");
    match name.split(' ').next().unwrap() {
        "Start" => Event::Start,
        "Stop" => Event::Stop(text(Cease::AdministrativeReset)),
        "ConnectRetryTimerExpires" => Event::ConnectRetryTimerExpires,
        "HoldTimerExpires" => Event::HoldTimerExpires,
        "KeepaliveTimerExpires" => Event::KeepaliveTimerExpires,
        "TcpCrAcked" => Event::TcpCrAcked,
        "TcpConnectionConfirmed" => Event::TcpConnectionConfirmed(THEIR_CONN),
        "TcpConnectionFails" => Event::TcpConnectionFails("reset".into()),
        "BgpOpen" => Event::BgpOpen(Box::new(agreed())),
        "BgpHeaderErr" => error(Notification::new(1, 2, Bytes::new())),
        "BgpOpenMsgErr" => error(Notification::open(OpenError::BadPeerAs, Bytes::new())),
        "OpenCollisionDump" => Event::OpenCollisionDump,
        "NotifMsgVerErr" => Event::NotifMsg(Notification::open(
            OpenError::UnsupportedVersionNumber,
            vec![0, 4],
        )),
        "NotifMsg" => Event::NotifMsg(text(Cease::OutOfResources)),
        "KeepAliveMsg" => Event::KeepAliveMsg,
        "UpdateMsg" => Event::UpdateMsg,
        "RouteRefreshMsg" => Event::RouteRefreshMsg,
        "UpdateMsgErr" => error(Notification::update(1, Bytes::new())),
        "SendHoldTimerExpires" => Event::SendHoldTimerExpires,
        other => panic!("no event is called {other}"),
    }
}

fn error(notification: Notification) -> Event {
    Event::MessageError(notification, String::new())
}

fn in_state(state: State, now: Instant, cx: &mut Context) -> Fsm {
    let mut fsm = Fsm::new();
    let way = [
        Event::Start,
        Event::TcpCrAcked,
        Event::BgpOpen(Box::new(agreed())),
        Event::KeepAliveMsg,
    ];
    if state == State::Active {
        fsm.handle(now, Event::Start, cx);
        fsm.handle(now, Event::TcpConnectionFails("refused".into()), cx);
    }
    for event in way {
        if fsm.state != state {
            fsm.handle(now, event, cx);
        }
    }
    assert_eq!(fsm.state, state);
    cx.actions.clear();
    fsm
}

fn letters(cx: &mut Context) -> String {
    let letter = |action| match action {
        Action::Connect { .. } => " C".into(),
        Action::Close { .. } => " X".into(),
        Action::Send { message, .. } => match message {
            Message::Open(_) => " O".into(),
            Message::Keepalive => " K".into(),
            Message::Notification(n) => format!(" N{}/{}", n.code, n.subcode),
            other => panic!("a session does not send {other:?}"),
        },
        Action::Up { .. } => " U".into(),
        Action::Down { .. } => " D".into(),
        Action::Changed => String::new(),
    };
    cx.actions.drain(..).map(letter).collect()
}

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let now = Instant::now();
    for line in TABLE.lines().skip(2) {
        let mut cells = line.split('|').map(str::trim);
        let name = cells.next().unwrap();
        for (state, expected) in STATES.into_iter().zip(cells.by_ref()) {
            let mut cx = Context::new(PeerId(1), settings(1, 65001), 1);
            let mut fsm = in_state(state, now, &mut cx);
            fsm.handle(now, event(name), &mut cx);
            let found = format!("{}{}", fsm.state.name(), letters(&mut cx));
            let expected = if expected == "." {
                state.name()
            } else {
                expected
            };
            assert_eq!(found, expected, "{name} in {}", state.name());
            let idle = fsm.state == State::Idle;
            assert!(!idle || (fsm.conn.is_none() && fsm.timers.next().is_none()));
        }
        assert!(cells.next().is_none());
    }
}

#[test]
fn each_state_runs_its_own_timers() {
    let now = Instant::now();
    for state in STATES {
        let mut cx = Context::new(PeerId(1), settings(1, 65001), 1);
        let timers = in_state(state, now, &mut cx).timers;
        let running = (
            timers.connect_retry.is_some(),
            timers.hold.map(|at| (at - now).as_secs()),
            timers.keepalive.is_some(),
        );
        let expected = match state {
            State::Idle => (false, None, false),
            State::Connect | State::Active => (true, None, false),
            State::OpenSent => (false, Some(240), false),
            State::OpenConfirm | State::Established => (false, Some(90), true),
        };
        assert_eq!(running, expected, "{}", state.name());
    }
}

/// RFC 6608 §4: the data is the type of the message.
#[test]
fn a_message_that_must_not_arrive_is_named() {
    let now = Instant::now();
    for (state, subcode, messages) in [
        (
            State::OpenSent,
            1,
            &[
                ("UpdateMsg", 2),
                ("KeepAliveMsg", 4),
                ("RouteRefreshMsg", 5),
            ][..],
        ),
        (
            State::OpenConfirm,
            2,
            &[("BgpOpen", 1), ("UpdateMsg", 2), ("RouteRefreshMsg", 5)],
        ),
        (State::Established, 3, &[("BgpOpen", 1)]),
    ] {
        for (name, kind) in messages {
            let mut cx = Context::new(PeerId(1), settings(1, 65001), 1);
            let mut fsm = in_state(state, now, &mut cx);
            fsm.handle(now, event(name), &mut cx);
            let told = cx.actions.iter().find_map(|action| match action {
                Action::Send {
                    message: Message::Notification(told),
                    ..
                } => Some(told.clone()),
                _ => None,
            });
            let expected = Notification::new(5, subcode, vec![*kind]);
            assert_eq!(told, Some(expected), "{name} in {}", state.name());
        }
    }
    // A timer is no message.
    let mut cx = Context::new(PeerId(1), settings(1, 65001), 1);
    let mut fsm = in_state(State::OpenSent, now, &mut cx);
    fsm.handle(now, event("KeepaliveTimerExpires"), &mut cx);
    let silent = Notification::new(5, 1, Bytes::new());
    let sent = |action: &Action| matches!(action, Action::Send { message: Message::Notification(told), .. } if *told == silent);
    assert!(cx.actions.iter().any(sent));
}

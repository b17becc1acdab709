//! One session, from start to end.

use bytes::Bytes;

use super::*;
use crate::config::{Authentication, KeySource};
use crate::message::FsmError;

#[test]
fn a_session_is_up_once_and_down_once() {
    let mut rig = Rig::new(&peer());
    let conn = rig.attempt();
    rig.session.connected(rig.now, conn);
    rig.open(conn);
    rig.actions();
    rig.keepalive(conn);
    assert!(matches!(rig.actions()[..], [Action::Up { .. }]));
    assert_eq!(rig.session.times_established(), 1);
    assert_eq!(rig.session.max_message(conn), 65535);
    rig.session.closed(rig.now, conn, None);
    let reason = DownReason::ConnectionLost("the peer closed it".into());
    assert_eq!(rig.actions(), [Action::Down { conn, reason }]);
    assert_eq!(rig.session.conn(), None);
    let (_, error) = rig.session.last_error().unwrap();
    assert_eq!(error, "connection lost: the peer closed it");
}

#[test]
fn updates_are_handed_on_only_when_established() {
    let mut rig = Rig::new(&peer());
    let conn = rig.attempt();
    rig.session.connected(rig.now, conn);
    let update = Message::Update(Bytes::from_static(&[0; 4]));
    let received = rig.session.receive(rig.now, conn, update.clone());
    assert_eq!(received, Received::Nothing);
    assert_eq!(rig.ceases(), [(conn, FsmError::OpenSent as u8)]);

    let (mut rig, conn) = Rig::established(&peer());
    let received = rig.session.receive(rig.now, conn, update);
    assert_eq!(received, Received::Update(Bytes::from_static(&[0; 4])));
    let refresh = |family| Message::RouteRefresh {
        family,
        kind: RefreshKind::Request,
    };
    let received = rig.session.receive(rig.now, conn, refresh(None));
    assert_eq!(received, Received::Nothing);
    let received = rig
        .session
        .receive(rig.now, conn, refresh(Some(Family::Ipv6)));
    assert!(matches!(received, Received::RouteRefresh { .. }));
    assert_eq!(rig.session.counters().received.route_refresh, 2);
}

#[test]
fn a_shutdown_sends_its_text_and_lasts_until_enabled() {
    let (mut rig, conn) = Rig::established(&peer());
    rig.session.shutdown(rig.now, "new line card");
    let notification = Notification::cease(Cease::AdministrativeShutdown, "new line card");
    let sent = Action::Send {
        conn,
        message: Message::Notification(notification),
    };
    assert_eq!(rig.actions()[0], sent);
    rig.advance(Duration::from_secs(3600));
    assert_eq!(rig.session.state(), State::Idle);
    rig.session.accepted(rig.now, THEIR_CONN);
    assert_eq!(rig.actions(), [Action::Close { conn: THEIR_CONN }]);
    rig.session.reset(rig.now, "");
    rig.session.reconfigure(rig.now, &peer(), router_id(1));
    assert_eq!(rig.session.shutdown_text(), Some("new line card"));
    assert_eq!(rig.actions(), []);
    rig.session.enable(rig.now);
    rig.establish();
}

#[test]
fn a_shutdown_that_is_configured_comes_and_goes_with_the_configuration() {
    let down = PeerConfig {
        shutdown: Some("not yet".into()),
        ..peer()
    };
    let mut rig = Rig::new(&down);
    assert_eq!(rig.actions(), []);
    rig.session.reconfigure(rig.now, &peer(), router_id(1));
    let conn = rig.establish();
    rig.session.reconfigure(rig.now, &down, router_id(1));
    assert_eq!(rig.ceases(), [(conn, Cease::AdministrativeShutdown as u8)]);
    assert_eq!(rig.session.shutdown_text(), Some("not yet"));
}

fn md5(file: &str) -> Authentication {
    let key = KeySource::File(file.to_owned());
    Authentication::Md5 { key }
}

#[test]
fn only_what_the_peer_must_hear_of_resets_the_session() {
    type Change = fn(&mut PeerConfig);
    let harmless: [Change; 7] = [
        |peer| peer.description = "x".into(),
        |peer| peer.import = vec!["a".into()],
        |peer| peer.export = vec!["a".into()],
        |peer| peer.allow_own_as = 1,
        |peer| peer.next_hop = NextHopMode::Self_,
        |peer| peer.passive = true,
        |peer| {
            peer.timers.keepalive = 7;
            peer.timers.connect_retry = 9;
        },
    ];
    for change in harmless {
        let (mut rig, conn) = Rig::established(&peer());
        let mut new = peer();
        change(&mut new);
        rig.session.reconfigure(rig.now, &new, router_id(1));
        assert_eq!(rig.actions(), []);
        assert_eq!(rig.session.conn(), Some(conn));
    }
    let resets: [Change; 12] = [
        |peer| peer.address = Ipv4Addr::new(10, 0, 0, 8).into(),
        |peer| peer.port = 1790,
        |peer| peer.local_address = Some(Ipv4Addr::new(10, 0, 0, 2).into()),
        |peer| peer.local_asn = Asn(65002),
        |peer| peer.remote_asn = Asn(65008),
        |peer| peer.ttl = 2,
        |peer| peer.ttl_security = Some(1),
        |peer| peer.authentication = Some(md5("/a")),
        |peer| {
            let keys = Vec::new();
            peer.authentication = Some(Authentication::Ao { keys });
        },
        |peer| peer.families = vec![Family::Ipv4],
        |peer| peer.extended_next_hop = false,
        |peer| peer.timers.hold = 30,
    ];
    let [first, second] = ["/a", "/b"].map(|file| {
        let mut peer = peer();
        peer.authentication = Some(md5(file));
        peer
    });
    let (mut rig, conn) = Rig::established(&first);
    rig.session.reconfigure(rig.now, &second, router_id(1));
    assert_eq!(rig.session.conn(), Some(conn), "a key changes in place");
    for change in resets {
        let (mut rig, conn) = Rig::established(&peer());
        let mut new = peer();
        change(&mut new);
        rig.session.reconfigure(rig.now, &new, router_id(1));
        let cease = Cease::OtherConfigurationChange as u8;
        assert_eq!(rig.ceases(), [(conn, cease)]);
        rig.advance(Duration::from_secs(1));
        rig.attempt();
    }
    let (mut rig, _) = Rig::established(&peer());
    rig.session.reconfigure(rig.now, &peer(), router_id(2));
    assert_eq!(rig.session.state(), State::Idle);
}

#[test]
fn a_keepalive_time_that_changes_is_used_at_once() {
    let (mut rig, _) = Rig::established(&peer());
    let mut new = peer();
    new.timers.keepalive = 4;
    rig.session.reconfigure(rig.now, &new, router_id(1));
    rig.advance(Duration::from_secs(4));
    assert_eq!(rig.session.counters().sent.keepalive, 2);
}

#[test]
fn a_change_while_nobody_is_connected_is_tried_at_once() {
    let mut rig = Rig::new(&peer());
    let conn = rig.attempt();
    rig.session
        .connect_failed(rig.now, conn, "connection refused".into());
    let mut new = peer();
    new.port = 1790;
    rig.session.reconfigure(rig.now, &new, router_id(1));
    rig.attempt();
}

#[test]
fn a_peer_that_is_no_longer_configured_is_told_so_and_left_alone() {
    let (mut rig, conn) = Rig::established(&peer());
    rig.session.deconfigure(rig.now);
    assert_eq!(rig.ceases(), [(conn, Cease::PeerDeConfigured as u8)]);
    assert_eq!(rig.session.poll_timeout(), None);
}

#[test]
fn a_passive_session_waits_however_long_it_takes() {
    let passive = PeerConfig {
        passive: true,
        ..peer()
    };
    let mut rig = Rig::new(&passive);
    rig.advance(Duration::from_secs(3600));
    assert_eq!(rig.actions(), []);
    assert_eq!(rig.session.state(), State::Active);
    rig.session.accepted(rig.now, THEIR_CONN);
    rig.open(THEIR_CONN);
    rig.keepalive(THEIR_CONN);
    assert_eq!(rig.session.conn(), Some(THEIR_CONN));
}

#[test]
fn attempts_to_connect_come_in_jittered_steps() {
    let mut rig = Rig::new(&peer());
    let mut times = Vec::new();
    for _ in 0..50 {
        let conn = rig.attempt();
        let start = rig.now;
        let error = "connection refused".into();
        rig.session.connect_failed(rig.now, conn, error);
        let wait = rig.session.poll_timeout().unwrap() - start;
        times.push(wait);
        rig.advance(wait);
    }
    let (least, most) = (Duration::from_millis(3750), Duration::from_secs(5));
    assert!(times.iter().all(|time| (least..=most).contains(time)));
    times.dedup();
    assert!(times.len() > 40);
    assert_eq!(rig.session.last_error().unwrap().1, "connection refused");
}

#[test]
fn an_attempt_that_is_never_answered_is_given_up_and_made_again() {
    let mut rig = Rig::new(&peer());
    let first = rig.attempt();
    rig.advance(Duration::from_secs(5));
    let actions = rig.actions();
    assert_eq!(actions[0], Action::Close { conn: first });
    assert!(matches!(actions[1], Action::Connect { conn } if conn != first));
    rig.session.connected(rig.now, first); // too late
    assert_eq!(rig.actions(), []);
}

#[test]
fn a_flapping_session_stays_idle_for_longer_each_time() {
    let mut rig = Rig::new(&peer());
    let mut idle = Vec::new();
    for _ in 0..8 {
        let conn = rig.establish();
        rig.advance(Duration::from_secs(2));
        rig.session.closed(rig.now, conn, None);
        rig.actions();
        let wait = rig.session.retry_at().unwrap() - rig.now;
        rig.session.accepted(rig.now, THEIR_CONN);
        assert_eq!(rig.actions(), [Action::Close { conn: THEIR_CONN }]);
        idle.push(wait.as_secs_f64());
        rig.advance(wait);
    }
    let whole: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
    for (found, whole) in idle.iter().zip(whole) {
        assert!((whole * 0.75..=whole).contains(found), "{idle:?}");
    }
    let conn = rig.establish();
    rig.session.closed(rig.now, conn, None);
    rig.actions();
    rig.session.reset(rig.now, ""); // a person does not wait
    rig.establish();
}

#[test]
fn a_peer_that_takes_nothing_is_dropped_and_meanwhile_costs_one_keepalive() {
    let (mut rig, conn) = Rig::established(&peer());
    for _ in 0..60 {
        rig.advance(Duration::from_secs(10));
        rig.keepalive(conn);
    }
    assert_eq!(rig.session.counters().sent.keepalive, 2);
    assert_eq!(rig.session.conn(), None);
    let (_, error) = rig.session.last_error().unwrap();
    assert!(error.contains("Send Hold Timer Expired"), "{error}");
}

#[test]
fn a_silent_peer_is_dropped_when_the_hold_time_ends() {
    let (mut rig, conn) = Rig::established(&peer());
    rig.advance(Duration::from_secs(89));
    rig.session.sent(conn);
    assert_eq!(rig.session.conn(), Some(conn));
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.session.conn(), None);
    assert_eq!(
        rig.session.last_error().unwrap().1,
        "sent Hold Timer Expired"
    );
}

#[test]
fn an_unacceptable_open_says_why_and_connection_trouble_does_not_hide_it() {
    let mut rig = Rig::new(&peer());
    let conn = rig.attempt();
    rig.session.connected(rig.now, conn);
    let open = Open {
        asn: Asn(65008),
        ..their_open()
    };
    rig.session.receive(rig.now, conn, Message::Open(open));
    rig.advance(Duration::from_secs(1));
    let conn = rig.attempt();
    let error = "connection refused".into();
    rig.session.connect_failed(rig.now, conn, error);
    assert_eq!(
        rig.session.last_error().unwrap().1,
        "sent OPEN Message Error, Bad Peer AS (it is AS 65008, expected 65009); \
         since then: connection refused"
    );
}

/// Found by the fuzzer: without a hold time nothing ended it.
#[test]
fn a_handshake_without_a_hold_time_does_not_last_for_ever() {
    let mut config = peer();
    config.timers.hold = 0;
    let mut rig = Rig::new(&config);
    let conn = rig.attempt();
    rig.session.connected(rig.now, conn);
    rig.open(conn);
    assert_eq!(rig.session.state(), State::OpenConfirm);
    rig.advance(Duration::from_secs(239));
    assert_eq!(rig.session.state(), State::OpenConfirm);
    rig.advance(Duration::from_secs(1));
    assert_eq!(rig.session.state(), State::Idle);
    let last = rig.session.last_error().unwrap().1;
    assert!(last.contains("Hold Timer Expired"), "{last}");

    // One that is complete stays, silent as it is.
    let (mut rig, _) = Rig::established(&config);
    rig.advance(Duration::from_secs(86_400));
    assert_eq!(rig.session.state(), State::Established);
}

/// Found by the fuzzer: while a connection of the peer's was there, its own attempt went on.
#[test]
fn a_session_that_has_become_passive_makes_no_further_attempt() {
    let mut rig = Rig::new(&peer());
    rig.attempt();
    rig.session.accepted(rig.now, THEIR_CONN);
    assert_eq!(rig.session.state(), State::OpenSent);
    let passive = PeerConfig {
        passive: true,
        ..peer()
    };
    rig.session.reconfigure(rig.now, &passive, router_id(1));
    rig.actions();
    rig.advance(Duration::from_secs(60));
    let connects = |action: &Action| matches!(action, Action::Connect { .. });
    assert!(!rig.actions().iter().any(connects));
    assert_eq!(rig.session.state(), State::OpenSent);
}

/// Found by the fuzzer: a person had enabled the session that the configuration had shut down, and
/// when the configuration enabled it too, what else it said was not put in force.
#[test]
fn a_configuration_that_enables_a_session_is_put_in_force_whole() {
    let shut = PeerConfig {
        shutdown: Some("for now".into()),
        passive: true,
        ..peer()
    };
    let mut rig = Rig::new(&shut);
    rig.session.enable(rig.now);
    assert_eq!(rig.session.state(), State::Active);
    rig.actions();
    rig.session.reconfigure(rig.now, &peer(), router_id(1));
    rig.attempt();

    let mut rig = Rig::new(&PeerConfig {
        passive: false,
        ..shut
    });
    rig.session.enable(rig.now);
    rig.establish();
    let other = config(9, 65010, 65001);
    rig.session.reconfigure(rig.now, &other, router_id(1));
    assert_eq!(rig.session.state(), State::Idle);
}

#[test]
fn a_session_that_flaps_a_hundred_times_spends_its_time_waiting() {
    let passive = PeerConfig {
        passive: true,
        ..peer()
    };
    let mut rig = Rig::new(&passive);
    let began = rig.now;
    for flap in 0..100 {
        // The peer tries every second, and is refused while the session waits.
        let mut conn = ConnId(1 << 63 | flap << 16);
        while rig.session.state() != State::OpenSent {
            rig.advance(Duration::from_secs(1));
            conn.0 += 1;
            rig.session.accepted(rig.now, conn);
        }
        rig.open(conn);
        rig.keepalive(conn);
        assert_eq!(rig.session.state(), State::Established);
        let close = Notification::cease(Cease::AdministrativeReset, "");
        rig.session
            .receive(rig.now, conn, Message::Notification(close));
        assert_eq!(rig.session.state(), State::Idle);
    }
    let took = (rig.now - began).as_secs();
    // 94 waits of at least three quarters of a minute, and the shorter ones before them.
    assert!(took > 94 * 45, "{took} s");
    assert!(rig.session.poll_timeout().unwrap() <= rig.now + Duration::from_secs(60));
    // What lasts is not remembered against it.
    rig.advance(Duration::from_secs(60));
    rig.session.accepted(rig.now, THEIR_CONN);
    rig.open(THEIR_CONN);
    rig.keepalive(THEIR_CONN);
    for _ in 0..30 {
        rig.advance(Duration::from_secs(20));
        rig.keepalive(THEIR_CONN);
        rig.session.sent(THEIR_CONN);
    }
    rig.session.closed(rig.now, THEIR_CONN, None);
    assert!(rig.session.poll_timeout().unwrap() <= rig.now + Duration::from_secs(1));
}

/// An operator who has mended the other side is not kept waiting.
#[test]
fn a_peer_whose_attempts_came_to_nothing_may_try_again_soon() {
    let mut rig = Rig::new(&peer());
    let wrong = Open {
        asn: Asn(1),
        ..their_open()
    };
    for attempt in 0..8 {
        let conn = ConnId(1 << 63 | attempt << 16);
        rig.session.accepted(rig.now, conn);
        rig.session
            .receive(rig.now, conn, Message::Open(wrong.clone()));
        rig.advance(Duration::from_secs(61));
        rig.actions();
    }
    let conn = ConnId(1 << 63 | 99 << 16);
    rig.session.accepted(rig.now, conn);
    rig.session.receive(rig.now, conn, Message::Open(wrong));
    rig.advance(Duration::from_secs(5));
    rig.actions();
    rig.session.accepted(rig.now, THEIR_CONN);
    rig.open(THEIR_CONN);
    rig.keepalive(THEIR_CONN);
    assert_eq!(rig.session.state(), State::Established);
}

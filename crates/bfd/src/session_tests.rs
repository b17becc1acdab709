//! One session, packet by packet.

use super::*;
use crate::auth::{AuthFault, AuthKind, Key};
use crate::engine::{Hops, SessionKey};
use State::{AdminDown, Down, Init, Up};

const MS: Duration = Duration::from_millis(1);

fn config() -> SessionConfig {
    SessionConfig {
        key_of: SessionKey {
            remote: [192, 0, 2, 1].into(),
            local: None,
            hops: Hops::Single,
        },
        min_tx: 300 * MS,
        min_rx: 200 * MS,
        detect_mult: 3,
        admin_down: false,
        key: None,
        echo_tx: None,
        echo_rx: None,
    }
}

fn session(now: Instant) -> Session {
    Session::new(now, config(), 77, true, 1)
}

/// What the other side says: 100 ms × 5.
fn says(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        final_: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 5,
        my_discriminator: 9,
        your_discriminator: 77,
        desired_min_tx: 100_000,
        required_min_rx: 100_000,
        required_min_echo_rx: 0,
    }
}

fn hears(session: &mut Session, now: Instant, packet: Packet) {
    session.receive(now, &[], &packet, None).unwrap();
}

fn sent(session: &mut Session) -> Vec<Packet> {
    std::iter::from_fn(|| session.transmit())
        .map(|wire| Packet::decode(wire.as_bytes()).unwrap().0)
        .collect()
}

/// Both sides Up, the Poll Sequence over, and nothing left to send.
fn up(now: Instant) -> Session {
    let mut session = session(now);
    hears(&mut session, now, says(Init));
    hears(
        &mut session,
        now,
        Packet {
            final_: true,
            ..says(Up)
        },
    );
    sent(&mut session);
    assert_eq!((session.state, session.poll), (Up, Poll::Idle));
    session
}

#[test]
fn every_state_moves_as_the_rfc_says_on_every_state_received() {
    let now = Instant::now();
    // RFC 5880 §6.8.6: ours, theirs, ours then.
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
    ];
    for (ours, theirs, then) in table {
        let mut session = session(now);
        match ours {
            Init => hears(&mut session, now, says(Down)),
            Up => hears(&mut session, now, says(Init)),
            _ => {}
        }
        assert_eq!(session.state, ours);
        hears(&mut session, now, says(theirs));
        assert_eq!(session.state, then, "{ours} hears {theirs}");
        if matches!(ours, Init | Up) && then == Down {
            assert_eq!(session.diagnostic, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
        }
        let told = sent(&mut session);
        assert!(
            told.iter().all(|packet| packet.state == then),
            "told at once"
        );
    }
}

#[test]
fn a_session_held_in_admin_down_hears_nothing_and_says_so() {
    let now = Instant::now();
    let held = SessionConfig {
        admin_down: true,
        ..config()
    };
    let mut session = Session::new(now, held, 77, true, 1);
    for state in [AdminDown, Down, Init, Up] {
        let heard = session.receive(
            now,
            &[],
            &Packet {
                poll: true,
                ..says(state)
            },
            None,
        );
        assert_eq!(heard, Err(Discard::AdminDown));
        assert_eq!(session.state, AdminDown);
    }
    let told = sent(&mut session);
    assert_eq!(told.len(), 1, "no answer to a poll: {told:?}");
    assert_eq!(told[0].diagnostic, Diagnostic::ADMINISTRATIVELY_DOWN);
    session.reconfigure(now, config());
    assert_eq!(session.state, Down);
}

#[test]
fn a_session_that_is_not_up_sends_no_faster_than_once_a_second() {
    let now = Instant::now();
    let mut session = session(now);
    assert_eq!(sent(&mut session)[0].desired_min_tx, 1_000_000);
    let next = session.deadline().unwrap() - now;
    assert!((750 * MS..=1000 * MS).contains(&next), "{next:?}");
    hears(&mut session, now, says(Down));
    assert_eq!(session.tx_interval(), Some(1000 * MS));
    hears(&mut session, now, says(Init));
    assert_eq!(session.state, Up);
    assert_eq!(session.tx_interval(), Some(300 * MS), "ours is the slower");
    let told = sent(&mut session);
    assert!(
        told.iter()
            .all(|packet| packet.poll && packet.desired_min_tx == 300_000)
    );
}

#[test]
fn silence_for_the_detection_time_takes_the_session_down() {
    let now = Instant::now();
    let mut session = up(now);
    // Five of theirs, at the 200 ms that we ask for.
    assert_eq!(session.detection_time(), 1000 * MS);
    session.handle_timeout(now + 999 * MS);
    assert_eq!(session.state, Up);
    session.handle_timeout(now + 1000 * MS);
    assert_eq!(session.state, Down);
    assert_eq!(session.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
    let told = sent(&mut session).pop().unwrap();
    assert_eq!(
        told.your_discriminator, 0,
        "the other side may have another name now"
    );
    assert_eq!(told.desired_min_tx, 1_000_000);
}

#[test]
fn a_poll_is_answered_at_once_and_never_with_another_poll() {
    let now = Instant::now();
    let mut session = up(now);
    session.poll = Poll::Active { again: false };
    session.send_due = true;
    hears(
        &mut session,
        now,
        Packet {
            poll: true,
            ..says(Up)
        },
    );
    let told = sent(&mut session);
    let bits: Vec<_> = told.iter().map(|it| (it.poll, it.final_)).collect();
    assert_eq!(bits, [(false, true), (true, false)]);
}

#[test]
fn who_becomes_slower_waits_until_the_other_side_has_heard_of_it() {
    let now = Instant::now();
    let mut session = up(now);
    let slower = SessionConfig {
        min_tx: 900 * MS,
        min_rx: 100 * MS,
        ..config()
    };
    session.reconfigure(now, slower);
    assert_eq!(session.state, Up);
    assert_eq!(session.tx_interval(), Some(300 * MS), "not yet slower");
    assert_eq!(session.detection_time(), 1000 * MS, "not yet stricter");
    let told = sent(&mut session).pop().unwrap();
    assert!(told.poll);
    assert_eq!(
        (told.desired_min_tx, told.required_min_rx),
        (900_000, 100_000)
    );
    hears(
        &mut session,
        now,
        Packet {
            final_: true,
            ..says(Up)
        },
    );
    assert_eq!(session.tx_interval(), Some(900 * MS));
    assert_eq!(session.detection_time(), 500 * MS);
    assert!(
        sent(&mut session).iter().all(|packet| !packet.poll),
        "the sequence is over"
    );
}

#[test]
fn who_becomes_faster_is_so_at_once() {
    let now = Instant::now();
    let mut session = up(now);
    let faster = SessionConfig {
        min_tx: 100 * MS,
        min_rx: 400 * MS,
        ..config()
    };
    session.reconfigure(now, faster);
    assert_eq!(session.tx_interval(), Some(100 * MS));
    assert_eq!(session.detection_time(), 2000 * MS);
}

#[test]
fn a_change_during_a_poll_sequence_is_followed_by_another_sequence() {
    let now = Instant::now();
    let mut session = up(now);
    session.reconfigure(
        now,
        SessionConfig {
            min_tx: 900 * MS,
            ..config()
        },
    );
    session.reconfigure(
        now,
        SessionConfig {
            min_tx: 950 * MS,
            ..config()
        },
    );
    hears(
        &mut session,
        now,
        Packet {
            final_: true,
            ..says(Up)
        },
    );
    assert_eq!(
        session.tx_interval(),
        Some(300 * MS),
        "the first F may be older"
    );
    hears(
        &mut session,
        now,
        Packet {
            final_: true,
            ..says(Up)
        },
    );
    assert_eq!(session.tx_interval(), Some(950 * MS));
}

#[test]
fn demand_mode_of_the_other_side_stops_our_packets_until_we_have_to_poll() {
    let now = Instant::now();
    let mut session = up(now);
    hears(
        &mut session,
        now,
        Packet {
            demand: true,
            ..says(Up)
        },
    );
    assert_eq!(session.tx_interval(), None);
    hears(
        &mut session,
        now,
        Packet {
            demand: true,
            poll: true,
            ..says(Up)
        },
    );
    assert!(sent(&mut session)[0].final_, "its polls are answered");
    session.reconfigure(
        now,
        SessionConfig {
            min_rx: 500 * MS,
            ..config()
        },
    );
    assert_eq!(
        session.tx_interval(),
        Some(300 * MS),
        "our poll goes on until answered"
    );
    hears(
        &mut session,
        now,
        Packet {
            demand: true,
            final_: true,
            ..says(Up)
        },
    );
    assert_eq!(session.tx_interval(), None);
    session.handle_timeout(now + 10_000 * MS);
    assert_eq!(session.state, Down, "its silence is noticed all the same");
}

#[test]
fn who_wants_no_packets_gets_none() {
    let now = Instant::now();
    let mut session = up(now);
    hears(
        &mut session,
        now,
        Packet {
            required_min_rx: 0,
            ..says(Up)
        },
    );
    assert_eq!(session.tx_interval(), None);
    session.handle_timeout(now + 500 * MS);
    assert!(sent(&mut session).is_empty());
    session.handle_timeout(now + 5000 * MS);
    assert_eq!(
        session.tx_interval(),
        Some(1000 * MS),
        "forgotten with the rest"
    );
}

#[test]
fn jitter_takes_0_to_25_percent_and_10_at_least_where_one_packet_counts() {
    let mut random = 1;
    for (detect_mult, least, most) in [(3, 225, 300), (1, 225, 270)] {
        let mut next = || jittered(300_000, detect_mult, splitmix(&mut random));
        let between: Vec<_> = (0..2000).map(|_| next()).collect();
        let (min, max) = (between.iter().min().unwrap(), between.iter().max().unwrap());
        assert!(*min >= least * MS && *max <= most * MS, "{min:?} {max:?}");
        assert!(
            *max - *min > (most - least) * MS * 9 / 10,
            "{min:?} {max:?}"
        );
    }
}

#[test]
fn a_session_taken_away_says_so_for_the_detection_time() {
    let now = Instant::now();
    let mut session = up(now);
    session.leave(now);
    assert_eq!(sent(&mut session)[0].state, AdminDown);
    assert_eq!(session.leaves_at, Some(now + 3000 * MS));
}

#[test]
fn authentication_is_all_or_nothing_and_a_silent_side_may_begin_its_numbers_anew() {
    let start = Instant::now();
    let key = Key::new(AuthKind::MeticulousKeyedSha1, 1, b"key").unwrap();
    let with_key = SessionConfig {
        key: Some(key.clone()),
        ..config()
    };
    let mut session = Session::new(start, with_key, 77, true, 1);
    let hear = |session: &mut Session, now, sequence| {
        let wire = key.sign(&says(Down), sequence);
        let (packet, section) = Packet::decode(wire.as_bytes()).unwrap();
        session.receive(now, wire.as_bytes(), &packet, section)
    };
    let plain = session.receive(start, &[], &says(Down), None);
    assert_eq!(plain, Err(Discard::Auth(AuthFault::Mode)));
    assert_eq!(hear(&mut session, start, 1000), Ok(()));
    let replayed = hear(&mut session, start + MS, 1000);
    assert_eq!(replayed, Err(Discard::Auth(AuthFault::Sequence)));
    assert_eq!(hear(&mut session, start + MS, 1001), Ok(()));
    // Its detection time is 5 × 200 ms.
    let other_life = hear(&mut session, start + 1999 * MS, 5);
    assert_eq!(other_life, Err(Discard::Auth(AuthFault::Sequence)));
    assert_eq!(hear(&mut session, start + 2001 * MS, 5), Ok(()));
}

#[test]
fn packets_near_an_alarm_and_own_ones_sent_late_are_counted() {
    let now = Instant::now();
    let mut session = up(now);
    // 5 × 200 ms, the slower of the two sides.
    assert_eq!(session.detection_time(), 1000 * MS);
    hears(&mut session, now + 150 * MS, says(Up));
    hears(&mut session, now + 700 * MS, says(Up));
    let counts = session.counts;
    assert_eq!((counts.late_received, counts.longest_silence), (1, 550_000));
    // At another pace the old silence says nothing.
    let slower = Packet {
        desired_min_tx: 400_000,
        ..says(Up)
    };
    hears(&mut session, now + 900 * MS, slower);
    hears(&mut session, now + 1300 * MS, slower);
    assert_eq!(session.counts.longest_silence, 400_000);
    assert_eq!(session.counts.late_received, 1);

    let due = session.next_tx.unwrap();
    session.handle_timeout(due + 75 * MS);
    assert_eq!(session.counts.late_sent, 0, "a quarter of 300 ms");
    let due = session.next_tx.unwrap();
    session.handle_timeout(due + 76 * MS);
    assert_eq!(session.counts.late_sent, 1);
}

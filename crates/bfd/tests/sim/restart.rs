//! A process takes the place of another one.

use bfd::{AuthKind, Key, State};

use crate::net::{MS, Net, wanted};

#[test]
fn a_process_replaced_within_the_detection_time_is_missed_by_nobody() {
    for kind in [
        None,
        Some(AuthKind::KeyedSha1),
        Some(AuthKind::MeticulousKeyedSha1),
    ] {
        let with_key = |side| {
            let mut sessions = wanted(side, 5, 300 * MS, 3);
            for session in &mut sessions {
                session.key = kind.map(|kind| Key::new(kind, 1, b"key").unwrap());
            }
            sessions
        };
        let mut net = Net::new(0, 300 * MS, 3);
        for side in [0, 1] {
            net.configure(side, with_key(side));
        }
        net.advance(5000 * MS);
        net.changes.clear();
        assert_eq!(net.engines[0].sessions().next().unwrap().counts.downs, 0);
        let names = |net: &Net| -> Vec<_> {
            let sessions = net.engines[0].sessions();
            sessions
                .map(|it| (it.discriminator, it.since, it.counts.ups))
                .collect()
        };
        let before = names(&net);
        // Ten crashes, among them one right after the other.
        for after in [550, 0, 1, 299, 300, 301, 500, 20, 100, 560] {
            net.replace(0, with_key(0), after * MS);
            net.advance(if after == 0 { MS } else { 1000 * MS });
            assert_eq!(net.changes, [], "{kind:?} after {after} ms");
            assert!(net.all(State::Up), "{kind:?} after {after} ms");
        }
        assert_eq!(names(&net), before);
        // And it still notices a dead path, as the other side does.
        net.cut = [true; 2];
        net.advance(1000 * MS);
        assert!(net.changes.iter().all(|it| it.2.is_failure()));
        assert_eq!(net.changes.len(), 10);
    }
}

#[test]
fn a_process_replaced_too_late_begins_anew_and_says_of_no_path_that_it_failed() {
    let mut net = Net::up(1, 300 * MS, 3);
    net.replace(0, wanted(0, 1, 300 * MS, 3), 950 * MS);
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
    let failed = |side| {
        net.changes
            .iter()
            .any(|it| it.1 == side && it.2.is_failure())
    };
    assert!(!failed(0), "{:?}", net.changes);
    assert!(failed(1), "it heard nothing for 900 ms");
}

#[test]
fn a_process_replaced_while_the_path_dies_notices_it() {
    let mut net = Net::up(1, 300 * MS, 3);
    net.replace(0, wanted(0, 1, 300 * MS, 3), 100 * MS);
    net.cut = [true; 2];
    net.advance(901 * MS);
    let of_ours = net.changes.iter().find(|it| it.1 == 0).unwrap().2;
    assert!(of_ours.is_failure(), "{of_ours:?}");
}

#[test]
fn other_intervals_of_the_next_process_are_agreed_on_without_taking_the_session_down() {
    let mut net = Net::up(1, 300 * MS, 3);
    net.replace(0, wanted(0, 1, 700 * MS, 5), 100 * MS);
    net.advance(10_000 * MS);
    assert_eq!(net.changes, []);
    let status = net.engines[0].sessions().next().unwrap();
    assert_eq!(status.tx_interval, Some(700 * MS));
}

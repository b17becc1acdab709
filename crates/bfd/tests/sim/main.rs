//! Systems on a virtual network with a virtual clock.

// The clock has to begin somewhere.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod echo;
mod net;
mod restart;

use bfd::{AuthKind, Diagnostic, Discard, Engine, Hops, Key, Output, State, Wire};
use proptest::prelude::*;

use net::{MS, Net, address, wanted};

#[test]
fn two_systems_find_each_other_and_go_to_the_intervals_negotiated() {
    let mut net = Net::up(1, 300 * MS, 3);
    net.sent = [0; 2];
    net.advance(30_000 * MS);
    for sent in net.sent {
        // 100 without jitter; jitter makes it 100 to 134.
        assert!((100..=136).contains(&sent), "{sent}");
    }
    let status = net.engines[0].sessions().next().unwrap();
    assert_eq!(status.tx_interval, Some(300 * MS));
    assert_eq!(status.detection_time, 900 * MS);
    assert!(status.remote_control_plane_independent);
}

#[test]
fn the_slower_side_decides_how_fast_it_is_sent_to() {
    let mut net = Net::new(1, 50 * MS, 3);
    net.configure(1, wanted(1, 1, 400 * MS, 5));
    net.advance(5000 * MS);
    let [a, b] = [0, 1].map(|side| net.engines[side].sessions().next().unwrap());
    assert_eq!((a.state, b.state), (State::Up, State::Up));
    assert_eq!(
        (a.tx_interval, b.tx_interval),
        (Some(400 * MS), Some(400 * MS))
    );
    assert_eq!((a.detection_time, b.detection_time), (2000 * MS, 1200 * MS));
}

#[test]
fn a_link_cut_silently_is_noticed_by_both_within_the_detection_time() {
    let mut net = Net::up(20, 50 * MS, 3);
    net.cut = [true; 2];
    let cut_at = net.now - net.start;
    net.advance(151 * MS + net.delay);
    assert!(net.all(State::Down));
    for (at, _, change) in &net.changes {
        assert!(change.is_failure(), "{change:?}");
        assert!(change.remote_independent, "as it was said last");
        assert_eq!(change.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
        assert!(
            *at - cut_at >= 100 * MS,
            "not before two could have been missed"
        );
    }
}

#[test]
fn a_link_cut_in_one_direction_is_noticed_by_both() {
    let mut net = Net::up(1, 50 * MS, 3);
    net.cut = [true, false];
    net.advance(200 * MS);
    assert!(net.all(State::Down));
    let of = |side| net.changes.iter().find(|it| it.1 == side).unwrap().2;
    assert_eq!(of(1).diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
    assert_eq!(of(0).diagnostic, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
    assert!(of(0).is_failure(), "the other side does not hear us");
    net.cut = [false; 2];
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
}

#[test]
fn sessions_taken_down_by_a_person_are_no_failure_on_either_side() {
    let mut net = Net::up(2, 50 * MS, 3);
    let mut held = wanted(0, 2, 50 * MS, 3);
    held[0].admin_down = true;
    held.truncate(1); // and the other one is wanted no more
    net.configure(0, held);
    net.advance(2500 * MS);
    assert_eq!(net.states(1), [State::Down; 2]);
    assert!(
        net.changes
            .iter()
            .all(|(_, _, change)| !change.is_failure()),
        "{:?}",
        net.changes
    );
    net.advance(1000 * MS);
    assert_eq!(net.sockets[0].len(), 1, "the one taken away has gone");
}

#[test]
fn a_session_wanted_again_while_it_is_leaving_comes_up_again() {
    let mut net = Net::up(1, 50 * MS, 3);
    net.configure(0, Vec::new());
    net.advance(1000 * MS);
    net.configure(0, wanted(0, 1, 50 * MS, 3));
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
}

#[test]
fn a_system_that_starts_anew_within_the_detection_time_comes_up_again() {
    let mut net = Net::up(1, 50 * MS, 3);
    net.engines[0] = Engine::new(99, true);
    net.sockets[0].clear();
    net.configure(0, wanted(0, 1, 50 * MS, 3));
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
}

#[test]
fn other_intervals_and_another_multiplier_do_not_take_a_session_down() {
    let mut net = Net::up(3, 300 * MS, 3);
    for (interval, mult) in [(50, 3), (700, 5), (10, 10), (300, 3), (1500, 3), (20, 4)] {
        net.configure(0, wanted(0, 3, interval * MS, mult));
        net.advance(10_000 * MS);
        let status = net.engines[0].sessions().next().unwrap();
        assert_eq!(status.tx_interval, Some(interval.max(300) * MS));
    }
    assert_eq!(net.changes, []);
}

#[test]
fn losing_every_tenth_packet_is_survived_with_a_multiplier_of_ten() {
    let mut net = Net::up(10, 50 * MS, 10);
    net.loss = 100;
    net.advance(60_000 * MS);
    assert_eq!(net.changes, []);
}

#[test]
fn five_hundred_sessions_run_for_a_minute_without_a_false_alarm() {
    let mut net = Net::up(500, 50 * MS, 3);
    net.advance(60_000 * MS);
    assert_eq!(net.changes, []);
}

#[test]
fn packets_that_came_over_a_router_are_refused_on_single_hop() {
    let mut net = Net::new(1, 300 * MS, 3);
    net.ttl = 254;
    net.advance(10_000 * MS);
    assert!(net.all(State::Down));
    assert!(net.discards.iter().all(|it| *it == Discard::Ttl(254)));
    net.ttl = 255;
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
}

#[test]
fn multihop_sessions_take_any_ttl_and_are_not_mixed_up_with_single_hop() {
    let mut net = Net::new(0, 300 * MS, 3);
    for side in [0, 1] {
        let mut both = wanted(side, 1, 300 * MS, 3);
        both.push(both[0].clone());
        both[1].key_of.hops = Hops::Multi;
        net.configure(side, both);
    }
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
    net.changes.clear();
    net.ttl = 250;
    net.advance(5000 * MS);
    let fell: Vec<Hops> = net.changes.iter().map(|it| it.2.key.hops).collect();
    assert!(!fell.is_empty() && fell.iter().all(|hops| *hops == Hops::Single));
    assert_eq!(
        net.states(0).iter().filter(|it| **it == State::Up).count(),
        1
    );
}

#[test]
fn a_session_without_an_own_address_takes_any() {
    let mut net = Net::new(1, 300 * MS, 3);
    let mut any = wanted(1, 1, 300 * MS, 3);
    any[0].key_of.local = None;
    net.engines[1] = Engine::new(3, true);
    net.sockets[1].clear();
    net.engines[1].configure(net.now, any);
    while let Some(output) = net.engines[1].poll_output() {
        if let Output::Open { session, mut key } = output {
            key.local = Some(address(1, 0)); // as the kernel would choose
            net.sockets[1].insert(session, key);
        }
    }
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
}

#[test]
fn both_kinds_of_sha1_come_up_and_another_key_does_not() {
    for kind in [AuthKind::KeyedSha1, AuthKind::MeticulousKeyedSha1] {
        let mut net = Net::new(0, 300 * MS, 3);
        let with = |side, secret: &[u8]| {
            let mut sessions = wanted(side, 1, 50 * MS, 3);
            sessions[0].key = Some(Key::new(kind, 1, secret).unwrap());
            sessions
        };
        net.configure(0, with(0, b"one"));
        net.configure(1, with(1, b"other"));
        net.advance(10_000 * MS);
        assert!(net.all(State::Down));
        net.configure(1, with(1, b"one"));
        net.advance(5000 * MS);
        assert!(net.all(State::Up));
        net.changes.clear();
        net.advance(60_000 * MS);
        assert_eq!(net.changes, []);
        // A restart begins with other sequence numbers.
        net.engines[0] = Engine::new(1234, true);
        net.sockets[0].clear();
        net.configure(0, with(0, b"one"));
        net.advance(10_000 * MS);
        assert!(net.all(State::Up));
    }
}

#[test]
fn a_stranger_who_guesses_a_discriminator_is_not_heard() {
    let mut net = Net::up(2, 50 * MS, 3);
    let victim = net.engines[0].sessions().next().unwrap();
    let forged = bfd::Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        final_: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 1,
        your_discriminator: victim.discriminator,
        desired_min_tx: 1,
        required_min_rx: 1,
        required_min_echo_rx: 0,
    };
    let mut from = victim.key;
    std::mem::swap(&mut from.remote, from.local.as_mut().unwrap());
    from.local = Some(address(7, 7));
    net.deliver(0, from, Wire::plain(&forged).as_bytes());
    assert_eq!(net.discards, [Discard::NoSession]);
    assert!(net.all(State::Up));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever arrives, and whenever: no panic, no more packets out than in (but for those a timer
    /// or a change of state asks for), and the session comes up once the noise is over.
    #[test]
    fn no_noise_keeps_a_session_from_coming_up_again(
        noise in proptest::collection::vec(
            (0u8..2, 0u64..400, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..60
        )
    ) {
        let mut net = Net::new(1, 50 * MS, 3);
        for (side, wait, plausible, mut bytes) in noise {
            let side = usize::from(side);
            net.advance(wait as u32 * MS);
            let status = net.engines[side].sessions().next().unwrap();
            if plausible && bytes.len() >= 24 {
                bytes[0] = 0x20 | bytes[0] & 0x1f;
                bytes[1] &= 0xfa;
                bytes[3] = 24;
                let ours = if bytes[2] % 3 == 0 { 0 } else { status.discriminator };
                bytes[8..12].copy_from_slice(&ours.to_be_bytes());
                // Whoever can speak for the other side can ask for silence on both sides, and
                // promise to be silent for long: here for at most 255 × 66 ms.
                bytes[12..14].fill(0);
            }
            let mut from = status.key;
            std::mem::swap(&mut from.remote, from.local.as_mut().unwrap());
            net.deliver(side, from, &bytes);
        }
        net.advance(30_000 * MS);
        prop_assert!(net.all(State::Up), "{:?} {:?}", net.states(0), net.states(1));
    }
}

//! Systems on a virtual network with a virtual clock.

// The clock has to begin somewhere.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bfd::{
    AuthKind, Change, Datagram, Diagnostic, Discard, EchoWire, Engine, Hops, Key, Memory, Output,
    SessionConfig, SessionId, SessionKey, State, Wire,
};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// Two systems, a and b (0 and 1), with any number of sessions between them.
struct Net {
    now: Instant,
    engines: [Engine; 2],
    sockets: [BTreeMap<SessionId, SessionKey>; 2],
    /// On the way: when it arrives, where, from and to which address, how far, what.
    flying: Vec<(Instant, usize, SessionKey, Wire)>,
    delay: Duration,
    ttl: u8,
    /// Packets from this side are lost.
    cut: [bool; 2],
    /// Of 1,000 packets how many are lost.
    loss: u64,
    random: u64,
    changes: Vec<(Duration, usize, Change)>,
    start: Instant,
    sent: [u64; 2],
    discards: Vec<Discard>,
    /// What the next process of a side will read.
    written: [BTreeMap<SessionId, Memory>; 2],
    /// Whether this side's forwarding plane loops Echo packets.
    loops: [bool; 2],
    looped: Vec<(Instant, usize, EchoWire)>,
    echoes: [u64; 2],
}

fn address(side: usize, session: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | (side as u32) << 16 | session as u32).into()
}

fn wanted(side: usize, count: usize, interval: Duration, detect_mult: u8) -> Vec<SessionConfig> {
    let one = |session| SessionConfig {
        key_of: SessionKey {
            remote: address(1 - side, session),
            local: Some(address(side, session)),
            hops: Hops::Single,
        },
        min_tx: interval,
        min_rx: interval,
        detect_mult,
        admin_down: false,
        key: None,
        echo_tx: None,
        echo_rx: None,
    };
    (0..count).map(one).collect()
}

impl Net {
    fn new(count: usize, interval: Duration, detect_mult: u8) -> Net {
        let start = Instant::now();
        let mut net = Net {
            now: start,
            engines: [Engine::new(1, true), Engine::new(2, true)],
            sockets: Default::default(),
            flying: Vec::new(),
            delay: MS,
            ttl: 255,
            cut: [false; 2],
            loss: 0,
            random: 42,
            changes: Vec::new(),
            start,
            sent: [0; 2],
            discards: Vec::new(),
            written: Default::default(),
            loops: [true; 2],
            looped: Vec::new(),
            echoes: [0; 2],
        };
        for side in [0, 1] {
            net.configure(side, wanted(side, count, interval, detect_mult));
        }
        net
    }

    /// Every session Up at the intervals configured.
    fn up(count: usize, interval: Duration, detect_mult: u8) -> Net {
        let mut net = Net::new(count, interval, detect_mult);
        net.advance(5000 * MS);
        assert!(net.all(State::Up), "{:?}", net.states(0));
        net.changes.clear();
        net
    }

    fn configure(&mut self, side: usize, wanted: Vec<SessionConfig>) {
        self.engines[side].configure(self.now, wanted);
        self.drain(side);
    }

    fn states(&self, side: usize) -> Vec<State> {
        self.engines[side].sessions().map(|it| it.state).collect()
    }

    fn all(&self, state: State) -> bool {
        let both = [0, 1].into_iter().flat_map(|side| self.states(side));
        both.into_iter().all(|it| it == state)
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrivals = self.flying.iter().map(|it| it.0);
            let arrival = arrivals.chain(self.looped.iter().map(|it| it.0)).min();
            let timers = self.engines.iter().filter_map(Engine::poll_timeout);
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            // What arrived is read before a timer may say that nothing did.
            while let Some(at) = self.flying.iter().position(|it| it.0 <= self.now) {
                let (_, to, from, wire) = self.flying.swap_remove(at);
                self.deliver(to, from, wire.as_bytes());
            }
            while let Some(at) = self.looped.iter().position(|it| it.0 <= self.now) {
                let (_, side, wire) = self.looped.swap_remove(at);
                if let Err(discard) = self.engines[side].handle_echo(self.now, wire.as_bytes()) {
                    self.discards.push(discard);
                }
                self.drain(side);
            }
            for side in [0, 1] {
                self.engines[side].handle_timeout(self.now);
                self.drain(side);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, to: usize, from: SessionKey, bytes: &[u8]) {
        let datagram = Datagram {
            remote: from.local.unwrap(),
            local: from.remote,
            ttl: self.ttl,
            hops: from.hops,
            bytes,
        };
        if let Err(discard) = self.engines[to].handle(self.now, datagram) {
            self.discards.push(discard);
        }
        self.drain(to);
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.engines[side].poll_output() {
            match output {
                Output::Open { session, key } => {
                    assert_eq!(self.sockets[side].insert(session, key), None);
                }
                Output::Close { session } => {
                    assert!(self.sockets[side].remove(&session).is_some());
                }
                Output::Send { session, packet } => {
                    let from = self.sockets[side][&session];
                    self.sent[side] += 1;
                    self.random = self
                        .random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let lost = (self.random >> 33) % 1000 < self.loss;
                    if !self.cut[side] && !lost {
                        self.flying
                            .push((self.now + self.delay, 1 - side, from, packet));
                    }
                }
                Output::Changed(change) => {
                    self.changes.push((self.now - self.start, side, change));
                }
                Output::Echo { packet, .. } => {
                    self.echoes[side] += 1;
                    // Over the other side's forwarding plane, whatever its BFD does.
                    if self.loops[1 - side] {
                        let at = self.now + 2 * self.delay;
                        self.looped.push((at, side, packet));
                    }
                }
                Output::Remember { session } => {
                    match self.engines[side].memory(session) {
                        Some(memory) => self.written[side].insert(session, memory),
                        None => self.written[side].remove(&session),
                    };
                }
            }
        }
    }

    /// The process of this side dies; after a while another one takes its place.
    fn replace(&mut self, side: usize, wanted: Vec<SessionConfig>, after: Duration) {
        self.cut[1 - side] = true; // nobody is there to hear
        self.engines[side] = Engine::new(0, true);
        self.sockets[side].clear();
        self.advance(after);
        self.cut[1 - side] = false;
        let seed = 7 + self.changes.len() as u64;
        self.engines[side] = Engine::new(seed, true);
        let written = std::mem::take(&mut self.written[side]).into_values();
        let octets = written.map(|it| it.encode(|at| (at - self.start).as_nanos() as u64));
        let at = |nanos| Some(self.start + Duration::from_nanos(nanos));
        let memories = octets.map(|it| Memory::decode(&it, at).unwrap());
        self.engines[side].recall(memories);
        self.configure(side, wanted);
    }
}

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

/// Side 0 sends Echo packets every 20 ms, side 1 loops them as it says.
fn with_echo() -> Net {
    let mut net = Net::new(0, 300 * MS, 3);
    let [mut a, mut b] = [0, 1].map(|side| wanted(side, 2, 300 * MS, 3));
    for session in a.iter_mut() {
        session.echo_tx = Some(20 * MS);
    }
    for session in b.iter_mut() {
        session.echo_rx = Some(10 * MS);
    }
    net.configure(0, a);
    net.configure(1, b);
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
    net.changes.clear();
    net
}

#[test]
fn echo_packets_notice_a_forwarding_plane_that_stops_long_before_control_packets_could() {
    let mut net = with_echo();
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert_eq!(status.interval, Some(20 * MS));
    assert!(status.relied_on && status.returned > 100, "{status:?}");
    assert_eq!(net.echoes[1], 0);
    assert_eq!(net.engines[1].sessions().next().unwrap().echo, None);
    // BFD itself is well over there, but packets are not forwarded any more.
    net.loops[1] = false;
    net.advance(70 * MS);
    let failures: Vec<Change> = (net.changes.iter())
        .filter(|(_, side, change)| *side == 0 && change.is_failure())
        .map(|it| it.2)
        .collect();
    assert_eq!(failures.len(), 2, "{:?}", net.changes);
    assert!(
        failures
            .iter()
            .all(|it| it.diagnostic == Diagnostic::ECHO_FAILED)
    );
    net.advance(5000 * MS);
    assert!(
        net.all(State::Up),
        "Control packets flow; it is not relied on any more"
    );
    assert!(
        !net.engines[0]
            .sessions()
            .next()
            .unwrap()
            .echo
            .unwrap()
            .relied_on
    );
    assert_eq!(net.discards, []);
}

#[test]
fn echo_packets_that_never_come_back_take_nothing_down_and_others_are_not_sent() {
    let mut net = with_echo();
    net.loops[1] = false;
    net.advance(2000 * MS);
    net.advance(3000 * MS);
    assert!(net.all(State::Up));
    net.changes.clear();
    net.advance(60_000 * MS);
    assert_eq!(net.changes, []);
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert!(status.sent > 1000 && status.returned == 0 && !status.relied_on);
    // Over there nobody loops them any more, and says so.
    net.configure(1, wanted(1, 2, 300 * MS, 3));
    net.advance(1000 * MS);
    let before = net.echoes[0];
    net.advance(1000 * MS);
    assert_eq!(net.echoes[0], before);
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert!(!status.looped && status.interval.is_none());
    assert!(net.all(State::Up));
}

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

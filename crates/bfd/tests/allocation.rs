//! The hot path allocates nothing: counted by an allocator of our own.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the clock has to begin somewhere, and a test that cannot go on fails"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bfd::{
    AuthKind, Datagram, EchoWire, Engine, Hops, Key, Output, SessionConfig, SessionKey, State, Wire,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SESSIONS: u32 = 100;

fn address(side: u32, session: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | side << 16 | session).into()
}

/// Control packets on their way, and Echo packets.
type Way = (Vec<(u32, Wire)>, Vec<EchoWire>);

/// Moves both systems on in steps of a millisecond; packets arrive at once.
fn run(engines: &mut [Engine; 2], now: &mut Instant, millis: u64, way: &mut Way) {
    let (way, echoes) = way;
    for _ in 0..millis {
        *now += Duration::from_millis(1);
        for side in [0, 1] {
            engines[side].handle_timeout(*now);
            while let Some(output) = engines[side].poll_output() {
                match output {
                    Output::Send { session, packet } => way.push((session.0, packet)),
                    Output::Remember { session } => {
                        let memory = engines[side].memory(session).unwrap();
                        std::hint::black_box(memory.encode(|_| 0));
                    }
                    Output::Echo { packet, .. } => echoes.push(packet),
                    _ => {}
                }
            }
            for packet in echoes.drain(..) {
                engines[side].handle_echo(*now, packet.as_bytes()).unwrap();
            }
            for (session, packet) in way.drain(..) {
                let datagram = Datagram {
                    remote: address(side as u32, session),
                    local: address(1 - side as u32, session),
                    ttl: 255,
                    hops: Hops::Single,
                    bytes: packet.as_bytes(),
                };
                engines[1 - side].handle(*now, datagram).unwrap();
            }
        }
    }
}

#[test]
fn packets_and_timers_of_sessions_that_are_up_allocate_nothing() {
    let mut now = Instant::now();
    let mut engines = [Engine::new(1, true), Engine::new(2, true)];
    for side in [0, 1] {
        let wanted = (0..SESSIONS).map(|session| SessionConfig {
            key_of: SessionKey {
                remote: address(1 - side, session),
                local: Some(address(side, session)),
                hops: Hops::Single,
            },
            min_tx: Duration::from_millis(50),
            min_rx: Duration::from_millis(50),
            detect_mult: 3,
            admin_down: false,
            key: (session % 2 == 0)
                .then(|| Key::new(AuthKind::MeticulousKeyedSha1, 1, b"key").unwrap()),
            echo_tx: Some(Duration::from_millis(50)),
            echo_rx: Some(Duration::from_millis(50)),
        });
        engines[side as usize].configure(now, wanted.collect());
    }
    let mut way = (Vec::with_capacity(10_000), Vec::with_capacity(10_000));
    run(&mut engines, &mut now, 5_000, &mut way);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    run(&mut engines, &mut now, 5_000, &mut way);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    for engine in &engines {
        assert!(
            engine
                .sessions()
                .all(|it| it.state == State::Up && it.counts.ups == 1)
        );
        assert!(engine.sessions().all(|it| it.counts.received > 100));
    }
}

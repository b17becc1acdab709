//! A full table through the engine: from one external peer to another and to the kernel's side.
//!
//! ```text
//! cargo run --release -p bgp --example table [-- PREFIXES [announce]]
//! ```
//!
//! Prints the time spent in the engine (not in making UPDATEs up and counting them) and the peak
//! memory of the process. The table has the shape of the public one: about six prefixes to a set of
//! attributes, half of them /24, in no order.

// The engine may not ask for the time; who measures it must.
#![allow(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::attributes::{AsPath, Attributes, NextHop};
use bgp::codec::{UpdateBuilder, encode_block, encode_keepalive, encode_open};
use bgp::config::{
    Action, Config, DecisionConfig, Match, NextHopMode, PeerConfig, Policy, Rule, Timers,
};
use bgp::engine::{Engine, Input, LocalAddresses, NextHopState, Output};
use bgp::message::{Capabilities, Open};
use bgp::types::{Asn, Community, ConnId, Family, Prefix4, RouterId};
use bytes::BytesMut;

const SENDER: ConnId = ConnId(1 << 63);
const RECEIVER: ConnId = ConnId((1 << 63) + 1);
const OURS: [u8; 4] = [192, 0, 2, 1];

fn main() {
    let prefixes = std::env::args().nth(1);
    let prefixes: u32 = prefixes.map_or(1_000_000, |n| n.parse().expect("a number of prefixes"));
    let before = memory("VmRSS");
    let mut bench = Bench::new();
    bench.establish(SENDER, 65001, [192, 0, 2, 2]);
    bench.establish(RECEIVER, 65002, [192, 0, 2, 3]);

    let mut feed = Feed::new(prefixes);
    let mut chunk = BytesMut::new();
    while feed.fill(&mut chunk) {
        bench.receive(SENDER, &mut chunk);
        bench.turn();
    }
    bench.turn();
    let sets = bench.engine.status().attribute_sets;
    report("announced", prefixes, sets, bench.take(), before);

    if std::env::args()
        .nth(2)
        .is_some_and(|what| what == "announce")
    {
        return;
    }
    feed = Feed::withdrawal(prefixes);
    while feed.fill(&mut chunk) {
        bench.receive(SENDER, &mut chunk);
        bench.turn();
    }
    bench.turn();
    let sets = bench.engine.status().attribute_sets;
    report("withdrawn", prefixes, sets, bench.take(), before);
}

fn report(what: &str, prefixes: u32, sets: u64, measured: Measured, before: u64) {
    let per_prefix = measured.total().as_secs_f64() * 1e9 / f64::from(prefixes);
    println!(
        "{prefixes} prefixes {what}, {sets} attribute sets: {:.3} s in the engine, {per_prefix:.0} ns a prefix \
         (receive {:.3} s, send {:.3} s, fib {:.3} s); {} octets sent, {} changes for the kernel; \
         peak memory {} KiB, now {} KiB, {before} KiB at the start",
        measured.total().as_secs_f64(),
        measured.receive.as_secs_f64(),
        measured.send.as_secs_f64(),
        measured.fib.as_secs_f64(),
        measured.octets,
        measured.changes,
        memory("VmHWM"),
        memory("VmRSS"),
    );
}

#[derive(Default)]
struct Measured {
    receive: Duration,
    send: Duration,
    fib: Duration,
    octets: usize,
    changes: usize,
}

impl Measured {
    fn total(&self) -> Duration {
        self.receive + self.send + self.fib
    }
}

struct Bench {
    engine: Engine,
    now: Instant,
    measured: Measured,
    buffer: BytesMut,
    changes: Vec<bgp::engine::FibChange>,
}

impl Bench {
    fn new() -> Bench {
        let now = Instant::now();
        let mut engine = Engine::new(1);
        let config = Config {
            asn: Asn(65000),
            router_id: RouterId(OURS.into()),
            peers: vec![peer("sender", 65001, 2), peer("receiver", 65002, 3)],
            policies: vec![Policy {
                name: "all".into(),
                rules: vec![Rule {
                    name: "all".into(),
                    matches: Match::default(),
                    action: Action::Accept,
                    set: Vec::new(),
                }],
            }],
            advertisements: Vec::new(),
            originate: Vec::new(),
            decision: DecisionConfig::default(),
            own_subnets: Vec::new(),
        };
        engine
            .configure(now, config)
            .expect("a valid configuration");
        Bench {
            engine,
            now,
            measured: Measured::default(),
            buffer: BytesMut::with_capacity(128 * 1024),
            changes: Vec::new(),
        }
    }

    /// The other side's part in the beginning of a session.
    fn establish(&mut self, conn: ConnId, asn: u32, address: [u8; 4]) {
        let input = Input::Accepted {
            conn,
            local: LocalAddresses {
                address: IpAddr::from(OURS),
                other_family: None,
            },
            remote: SocketAddr::new(address.into(), 40_000),
        };
        self.engine.handle(self.now, input);
        let open = Open {
            asn: Asn(asn),
            hold_time: 0,
            router_id: RouterId(address.into()),
            capabilities: Capabilities {
                families: vec![Family::Ipv4],
                four_octet_as: Some(Asn(asn)),
                ..Capabilities::default()
            },
        };
        let mut bytes = BytesMut::new();
        encode_open(&open, &mut bytes);
        encode_keepalive(&mut bytes);
        self.receive(conn, &mut bytes);
        self.turn();
        self.measured = Measured::default();
    }

    fn receive(&mut self, conn: ConnId, bytes: &mut BytesMut) {
        let begin = Instant::now();
        self.engine.receive(self.now, conn, bytes);
        self.measured.receive += begin.elapsed();
    }

    /// What the daemon's loop does: everything the engine asks for.
    fn turn(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.engine.poll_output() {
                quiet = false;
                self.carry_out(output);
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                let begin = Instant::now();
                self.engine.handle_timeout(self.now);
                self.measured.receive += begin.elapsed();
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { conn } => loop {
                let begin = Instant::now();
                let more = self.engine.poll_send(self.now, conn, &mut self.buffer);
                self.measured.send += begin.elapsed();
                self.measured.octets += self.buffer.len();
                self.buffer.clear();
                if !more {
                    break;
                }
            },
            Output::FibPending => loop {
                let begin = Instant::now();
                self.engine.poll_fib(1024, &mut self.changes);
                self.measured.fib += begin.elapsed();
                let full = self.changes.len() == 1024;
                self.measured.changes += self.changes.len();
                self.changes.clear();
                if !full {
                    break;
                }
            },
            Output::TrackNextHop(address) => {
                let state = NextHopState {
                    metric: 0,
                    via: None,
                    interface: "eth0".into(),
                };
                let input = Input::NextHop {
                    address,
                    state: Some(state),
                };
                self.engine.handle(self.now, input);
            }
            _ => {}
        }
    }

    fn take(&mut self) -> Measured {
        std::mem::take(&mut self.measured)
    }
}

fn peer(name: &str, asn: u32, last_octet: u8) -> PeerConfig {
    PeerConfig {
        name: name.into(),
        description: String::new(),
        address: IpAddr::from([192, 0, 2, last_octet]),
        port: 179,
        local_address: None,
        local_asn: Asn(65000),
        remote_asn: Asn(asn),
        passive: true,
        shutdown: None,
        ttl: 1,
        families: vec![Family::Ipv4],
        extended_next_hop: false,
        timers: Timers {
            hold: 0,
            ..Timers::default()
        },
        import: vec!["all".into()],
        export: vec!["all".into()],
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
    }
}

/// UPDATEs made up as they are wanted, the same ones each time.
struct Feed {
    next: u32,
    end: u32,
    withdraw: bool,
    random: u64,
}

impl Feed {
    fn new(prefixes: u32) -> Feed {
        Feed {
            next: 0,
            end: prefixes,
            withdraw: false,
            random: 1,
        }
    }

    fn withdrawal(prefixes: u32) -> Feed {
        Feed {
            withdraw: true,
            ..Feed::new(prefixes)
        }
    }

    /// Puts about 200 KiB of UPDATEs into `out`; false: there are no more.
    fn fill(&mut self, out: &mut BytesMut) -> bool {
        if self.next == self.end {
            return false;
        }
        out.clear();
        while out.len() < 200 * 1024 && self.next < self.end {
            let attributes = self.attributes();
            let count = (1 + self.random(11)).min(self.end - self.next);
            let prefixes = self.next..self.next + count;
            self.next += count;
            let mut block = Vec::new();
            encode_block(&attributes, true, &mut block);
            let next_hop = NextHop::from(IpAddr::from([192, 0, 2, 2]));
            let mut update = match self.withdraw {
                true => UpdateBuilder::withdraw(Family::Ipv4, 4096, out),
                false => UpdateBuilder::announce(&block, next_hop, Family::Ipv4, 4096, out)
                    .expect("a short block fits"),
            };
            for index in prefixes {
                update.push(prefix(index));
            }
        }
        true
    }

    fn attributes(&mut self) -> Attributes {
        let path = 1 + self.random(7);
        let communities = self.random(8);
        let mut attributes = Attributes {
            as_path: std::iter::once(Asn(65001))
                .chain((0..path).map(|_| Asn(1000 + self.random(60_000))))
                .collect::<AsPath>(),
            communities: (0..communities)
                .map(|_| Community(65001 << 16 | self.random(65_536)))
                .collect(),
            ..Attributes::default()
        };
        attributes.canonicalize();
        attributes
    }

    /// Below `below`.
    fn random(&mut self, below: u32) -> u32 {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1);
        (self.random >> 33) as u32 % below
    }
}

/// A different prefix for each index, scattered over 16.0.0.0 to 79.255.255.255.
fn prefix(index: u32) -> Prefix4 {
    let scattered = index.wrapping_mul(2_654_435_769) & 0x3F_FFFF;
    let length = 24 - scattered.trailing_zeros().min(5) as u8;
    Prefix4::new(Ipv4Addr::from((scattered + 0x10_0000) << 8), length)
}

/// KiB, by `/proc/self/status`.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

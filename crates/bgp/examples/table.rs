//! A full table through the engine: from external peers to others and to the kernel's side.
//!
//! ```text
//! cargo run --release -p bgp --example table [-- table|two-tables|many-peers [PREFIXES]]
//! ```
//!
//! Prints the time spent in the engine (not in making UPDATEs up and counting them) and the peak
//! memory of the process. The table has the shape of the public one: about six prefixes to a set of
//! attributes, half of them /24, in no order.

// The engine may not ask for the time; who measures it must.
#![allow(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
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

const OURS: [u8; 4] = [192, 0, 2, 1];

fn main() {
    let scenario = std::env::args().nth(1).unwrap_or_else(|| "table".into());
    let prefixes = std::env::args().nth(2);
    let prefixes = prefixes.map(|n| n.parse().expect("a number of prefixes"));
    match &*scenario {
        "table" => table(prefixes.unwrap_or(1_000_000), 1),
        "two-tables" => table(prefixes.unwrap_or(1_000_000), 2),
        "many-peers" => many_peers(100, prefixes.unwrap_or(1_000)),
        other => panic!("no scenario {other}; there are table, two-tables, many-peers"),
    }
}

/// The same prefixes from each of the senders to one receiver, and all of them taken back.
fn table(prefixes: u32, senders: u8) {
    let before = memory("VmRSS");
    let mut bench = Bench::new(senders + 1);
    for peer in 0..=senders {
        bench.establish(peer);
    }
    for withdraw in [false, true] {
        for sender in 0..senders {
            bench.feed(sender, 0..prefixes, withdraw);
            let what = if withdraw { "withdrawn" } else { "announced" };
            bench.report(
                &format!("peer {sender}: {prefixes} prefixes {what}"),
                prefixes,
                before,
            );
        }
    }
}

/// Every peer has prefixes of its own, and everybody gets everybody's.
fn many_peers(peers: u8, prefixes: u32) {
    let before = memory("VmRSS");
    let mut bench = Bench::new(peers);
    for peer in 0..peers {
        bench.establish(peer);
    }
    for peer in 0..peers {
        let first = u32::from(peer) * prefixes;
        bench.feed(peer, first..first + prefixes, false);
    }
    let what = format!("{peers} peers, {prefixes} prefixes of each");
    bench.report(&what, u32::from(peers) * prefixes, before);
}

/// A peer's connection.
fn conn(peer: u8) -> ConnId {
    ConnId((1 << 63) + u64::from(peer))
}

/// A peer's address.
fn address(peer: u8) -> [u8; 4] {
    [192, 0, 2, peer + 2]
}

/// A peer's AS.
fn asn(peer: u8) -> Asn {
    Asn(65001 + u32::from(peer))
}

#[derive(Default)]
struct Measured {
    receive: Duration,
    send: Duration,
    fib: Duration,
    octets: usize,
    changes: usize,
}

struct Bench {
    engine: Engine,
    now: Instant,
    measured: Measured,
    buffer: BytesMut,
    changes: Vec<bgp::engine::FibChange>,
}

impl Bench {
    fn new(peers: u8) -> Bench {
        let now = Instant::now();
        let mut engine = Engine::new(1);
        let config = Config {
            asn: Asn(65000),
            router_id: RouterId(OURS.into()),
            cluster_id: None,
            peers: (0..peers).map(peer_config).collect(),
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
    fn establish(&mut self, peer: u8) {
        let conn = conn(peer);
        let input = Input::Accepted {
            conn,
            local: LocalAddresses {
                address: IpAddr::from(OURS),
                other_family: None,
            },
            remote: SocketAddr::new(address(peer).into(), 40_000),
        };
        self.engine.handle(self.now, input);
        let open = Open {
            asn: asn(peer),
            hold_time: 0,
            router_id: RouterId(address(peer).into()),
            capabilities: Capabilities {
                families: vec![Family::Ipv4],
                four_octet_as: Some(asn(peer)),
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

    /// A peer announces or withdraws prefixes, and everything happens that follows from that.
    fn feed(&mut self, peer: u8, prefixes: Range<u32>, withdraw: bool) {
        let mut feed = Feed {
            peer,
            prefixes,
            withdraw,
            random: 1 + u64::from(peer),
        };
        let mut chunk = BytesMut::new();
        while feed.fill(&mut chunk) {
            self.receive(conn(peer), &mut chunk);
            self.turn();
        }
    }

    fn report(&mut self, what: &str, prefixes: u32, before: u64) {
        let measured = std::mem::take(&mut self.measured);
        let total = measured.receive + measured.send + measured.fib;
        println!(
            "{what}, {} attribute sets: {:.3} s in the engine, {:.0} ns a prefix (receive {:.3} s, \
             send {:.3} s, fib {:.3} s); {} octets sent, {} changes for the kernel; peak memory \
             {} KiB, now {} KiB, {before} KiB at the start",
            self.engine.status().attribute_sets,
            total.as_secs_f64(),
            total.as_secs_f64() * 1e9 / f64::from(prefixes),
            measured.receive.as_secs_f64(),
            measured.send.as_secs_f64(),
            measured.fib.as_secs_f64(),
            measured.octets,
            measured.changes,
            memory("VmHWM"),
            memory("VmRSS"),
        );
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
}

fn peer_config(peer: u8) -> PeerConfig {
    PeerConfig {
        name: format!("peer {peer}"),
        description: String::new(),
        address: address(peer).into(),
        port: 179,
        local_address: None,
        local_asn: Asn(65000),
        remote_asn: asn(peer),
        passive: true,
        shutdown: None,
        ttl: 1,
        families: vec![Family::Ipv4],
        extended_next_hop: false,
        ttl_security: None,
        authentication: None,
        max_prefixes: None,
        timers: Timers {
            hold: 0,
            ..Timers::default()
        },
        import: vec!["all".into()],
        export: vec!["all".into()],
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: None,
    }
}

/// UPDATEs made up as they are wanted, the same ones each time.
struct Feed {
    peer: u8,
    prefixes: Range<u32>,
    withdraw: bool,
    random: u64,
}

impl Feed {
    /// Puts about 200 KiB of UPDATEs into `out`; false: there are no more.
    fn fill(&mut self, out: &mut BytesMut) -> bool {
        if self.prefixes.is_empty() {
            return false;
        }
        out.clear();
        while out.len() < 200 * 1024 && !self.prefixes.is_empty() {
            let attributes = self.attributes();
            let count = 1 + self.random(11) as usize;
            let prefixes: Vec<u32> = self.prefixes.by_ref().take(count).collect();
            let mut block = Vec::new();
            encode_block(&attributes, true, &mut block);
            let next_hop = NextHop::from(IpAddr::from(address(self.peer)));
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
            as_path: std::iter::once(asn(self.peer))
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

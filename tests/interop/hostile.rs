//! Attacks with real sockets on a real speaker, each beside a session that must not notice.
//!
//! ```text
//!  tor (BIRD, AS 65101) ──10.1.0.0/24── node (AS 65201) ──10.1.9.0/24── wire: attackers and `bad`
//! ```
//!
//! What each of them costs is in docs/hostile-neighbours.md; the limits here are those figures with
//! some room.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::flood::SynFlood;
use lab::raw::{self, KEEPALIVE, NOTIFICATION, OPEN, Raw, UPDATE, message};
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number};
use crate::tor::{BirdTor, Sessions, Tor};

const WIRE: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 1);
/// A second peer there.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 3);
/// An address there that is no peer's.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 2);
const ASN: u32 = 65301;
const OTHER_ASN: u32 = 65302;
const PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 9, 11), 179);
const LISTENING: SocketAddr = SocketAddr::V4(PORT);

/// Memory in KiB.
const MIB: u64 = 1024;

struct Attacked<'a> {
    wire: &'a Namespace,
    node: &'a Namespace,
    speaker: Speaker<'a>,
}

/// With `more` in the resource of the peer `bad`.
fn with(more: &'static str, test: fn(&Attacked<'_>)) {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let wire = lab.machine("wire").unwrap();
    wire.cable("eth0", &["10.1.9.1/24"], &node, "eth1", &["10.1.9.11/24"])
        .unwrap();
    wire.raise("eth0", &["10.1.9.2/24", "10.1.9.3/24"]).unwrap();
    let sessions = Sessions::new(65101, NODE, 65201);
    let _bird = BirdTor::start(&tor, lab.directory(), &sessions).unwrap();
    let mut host = Host {
        // What comes by the wire goes on to the others.
        export: "    - {name: from the wire, match: {sources: [eBGP]}, action: Accept}\n".into(),
        fabric: "  gracefulRestart: {enabled: false}\n".into(),
        ..host()
    };
    host.addresses.push("10.1.9.11");
    host.peers
        .push(Peer::new("bad", "10.1.9.1", ASN).with(more));
    host.peers
        .push(Peer::new("other", "10.1.9.3", OTHER_ASN).with("passive: true\n"));
    let speaker = host.start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    let attacked = Attacked {
        wire: &wire,
        node: &node,
        speaker,
    };
    test(&attacked);
    let tor = attacked.speaker.peer("tor").unwrap();
    assert_eq!(tor["state"], "Established", "{tor}");
    assert_eq!(number(&tor, "establishedCount"), 1, "{tor}");
}

impl Attacked<'_> {
    #[track_caller]
    fn establish(&self, from: Ipv4Addr, asn: u32, name: &str) -> Raw {
        let mut raw = wait_for("the node to take a connection", SOON, || {
            let mut raw = Raw::connect_from(self.wire, from, LISTENING)?;
            raw.expect(OPEN)?;
            Ok(raw)
        });
        raw.send(&raw::open(asn, from)).unwrap();
        raw.send(&message(KEEPALIVE, &[])).unwrap();
        raw.expect(KEEPALIVE).unwrap();
        self.speaker.wait_for_state(name, "Established");
        raw
    }

    fn memory(&self) -> u64 {
        self.speaker.proc_status("VmRSS").unwrap()
    }

    fn refused(&self, reason: &str) -> u64 {
        let name = format!("routeshare_speaker_connections_refused_total{{reason=\"{reason}\"}}");
        self.speaker.metric(&name).unwrap()
    }

    #[track_caller]
    fn received(&self, name: &str, count: u64) {
        wait_for(&format!("{count} prefixes of {name}"), 4 * SOON, || {
            let peer = self.speaker.peer(name)?;
            let received = number(&peer["families"][0], "received");
            anyhow::ensure!(received == count, "{received}; {}", peer["lastError"]);
            Ok(())
        });
    }
}

/// UPDATEs of /32s from `first` on, each message full.
fn table(asn: u32, next_hop: Ipv4Addr, path: &[u32], first: u32, count: u32) -> Vec<u8> {
    let path = [&[asn], path].concat();
    let attributes = raw::attributes(&path, next_hop);
    let in_one = (4096 - 23 - attributes.len() as u32) / 5;
    let mut bytes = Vec::new();
    for start in (0..count).step_by(in_one as usize) {
        let prefixes: Vec<_> = (start..count.min(start + in_one))
            .map(|n| (Ipv4Addr::from(first + n), 32))
            .collect();
        bytes.extend(raw::update(&attributes, &prefixes));
    }
    bytes
}

/// 11.0.0.0.
const FIRST: u32 = 0x0b00_0000;

#[test]
fn ten_million_prefixes_cost_their_limit_and_no_more() {
    const LIMIT: u64 = 50_000;
    with("passive: true\nmaxPrefixes: {ipv4: 50000}\n", |attacked| {
        // What the limit itself takes.
        let mut good = attacked.establish(WIRE, ASN, "bad");
        let empty = attacked.memory();
        good.send(&table(ASN, WIRE, &[], FIRST, LIMIT as u32))
            .unwrap();
        attacked.received("bad", LIMIT);
        let limit = attacked.memory();
        good.send(&message(NOTIFICATION, &[6, 4])).unwrap();
        attacked.received("bad", 0);
        drop(good);

        // As fast as the socket takes them.
        let mut bad = attacked.establish(WIRE, ASN, "bad");
        // For as long as the connection is drained, so that the NOTIFICATION arrives; that may be all.
        for start in (0..10_000_000).step_by(100_000) {
            let bytes = table(ASN, WIRE, &[], FIRST + start, 100_000);
            if bad.send(&bytes).is_err() {
                break;
            }
        }
        wait_for("the session to be dropped", SOON, || {
            let peer = attacked.speaker.peer("bad")?;
            anyhow::ensure!(peer["overLimit"] == true, "{peer}");
            let error = peer["lastError"].as_str().unwrap_or_default();
            anyhow::ensure!(error.contains("Maximum Number of Prefixes"), "{peer}");
            Ok(())
        });
        attacked.received("bad", 0);
        // It knocks again and again: nothing is taken from it.
        for _ in 0..20 {
            let mut raw = Raw::connect_from(attacked.wire, WIRE, LISTENING).unwrap();
            assert!(raw.is_closed());
        }
        let most = attacked.speaker.proc_status("VmHWM").unwrap();
        println!("empty {empty} KiB, at the limit {limit} KiB, most ever {most} KiB");
        assert!(most < limit + 8 * MIB, "{empty}, {limit}, {most} KiB");
    });
}

#[test]
fn a_receiver_that_stops_reading_costs_a_buffer_and_then_has_the_present_state() {
    const ROUTES: u32 = 100_000;
    with("passive: true\n", |attacked| {
        let mut stalled = attacked.establish(WIRE, ASN, "bad");
        let mut talker = attacked.establish(OTHER, OTHER_ASN, "other");
        // Nobody reads `stalled` from here on; it says that it is alive, as a slow one does.
        let mut memory = Vec::new();
        for round in 1..=6_u32 {
            let path = vec![64_000 + round; round as usize];
            talker
                .send(&table(OTHER_ASN, OTHER, &path, FIRST, ROUTES))
                .unwrap();
            let last = Ipv4Addr::from(FIRST + ROUTES - 1);
            wait_for("all of the table to have changed", 4 * SOON, || {
                stalled.send(&message(KEEPALIVE, &[]))?;
                talker.send(&message(KEEPALIVE, &[]))?;
                let routes = attacked.speaker.routes(&format!("{last}/32"))?;
                let path = routes.first().map(|route| route["asPath"].to_string());
                let path = path.unwrap_or_default();
                anyhow::ensure!(path.contains(&(64_000 + round).to_string()), "{routes:?}");
                Ok(())
            });
            memory.push(attacked.memory());
        }
        println!("after each change of the whole table: {memory:?} KiB");
        let growth = memory[5].saturating_sub(memory[1]);
        assert!(growth < 8 * MIB, "{memory:?} KiB");
        assert_eq!(
            attacked.speaker.peer("bad").unwrap()["state"],
            "Established"
        );

        // It reads again: at most what was on its way, and then each route as it is now.
        let mut known = vec![0_u32; ROUTES as usize];
        let (mut up_to_date, mut heard) = (0, 0_u64);
        stalled.set_patience(SOON).unwrap();
        while up_to_date < ROUTES {
            let update = stalled.expect(UPDATE).unwrap();
            heard += update.body.len() as u64;
            let (path, prefixes) = read(&update.body);
            for prefix in prefixes {
                let place = &mut known[(prefix - FIRST) as usize];
                up_to_date += u32::from(path == 64_006 && *place != path);
                *place = path;
            }
        }
        println!("{heard} octets heard");
        // The whole table six times would be 3 MB; it is once, and what was in the socket.
        assert!(heard < 2_800_000, "{heard} octets");
    });
}

/// The last AS of the path, and the IPv4 prefixes, of an UPDATE of ours.
fn read(body: &[u8]) -> (u32, Vec<u32>) {
    assert_eq!(body[..2], [0, 0], "nothing is withdrawn");
    let end = 4 + usize::from(u16::from_be_bytes([body[2], body[3]]));
    let (mut attributes, mut path) = (&body[4..end], 0);
    while let [flags, kind, length, ..] = *attributes {
        assert_eq!(flags & 0x10, 0, "a short attribute");
        let (attribute, rest) = attributes.split_at(3 + usize::from(length));
        if kind == 2 {
            path = u32::from_be_bytes(*attribute.last_chunk().unwrap());
        }
        attributes = rest;
    }
    let prefixes = body[end..].chunks_exact(5);
    let prefix = |p: &[u8]| u32::from_be_bytes(*p.last_chunk().unwrap());
    (path, prefixes.map(prefix).collect())
}

#[test]
fn half_open_connections_by_the_hundred_thousand_keep_nobody_out() {
    const SYNS: u32 = 200_000;
    with("passive: true\n", |attacked| {
        let flood = SynFlood::new(attacked.wire).unwrap();
        let (memory, files) = (attacked.memory(), attacked.speaker.open_files().unwrap());
        let done = AtomicBool::new(false);
        let (mut sessions, mut half_open) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..SYNS {
                    // Addresses of the wire that nobody has, so that nobody answers for them.
                    let from = Ipv4Addr::new(10, 1, 9, 20 + (n % 200) as u8);
                    let port = 1024 + (n / 200 * 61 % 60_000) as u16;
                    flood.send(SocketAddrV4::new(from, port), PORT).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            // The peer comes and goes all the while, and at least once after it began.
            while sessions == 0 || !done.load(Ordering::Relaxed) {
                let counted = half_opened(attacked.node);
                half_open = half_open.max(counted);
                let mut raw = attacked.establish(WIRE, ASN, "bad");
                raw.send(&message(NOTIFICATION, &[6, 4])).unwrap();
                sessions += 1;
            }
        });
        println!("{SYNS} SYNs; {sessions} sessions meanwhile; at most {half_open} half open");
        // And when all of it has been sent.
        drop(attacked.establish(WIRE, ASN, "bad"));
        assert!(half_open > 0, "no SYN has got there");
        assert!(
            half_open <= 512,
            "{half_open} half-open connections are kept"
        );
        assert!(attacked.speaker.open_files().unwrap() <= files + 4);
        let now = attacked.memory();
        assert!(now < memory + 4 * MIB, "{memory} KiB became {now} KiB");
    });
}

/// Connections of a machine that were begun from outside and are not there yet.
fn half_opened(machine: &Namespace) -> usize {
    let table = machine.run("cat /proc/net/tcp").unwrap();
    let state = |line: &&str| line.split_whitespace().nth(3) == Some("03");
    table.lines().filter(state).count()
}

#[test]
fn a_thousand_connections_from_unknown_addresses_are_reset_and_counted() {
    with("passive: true\n", |attacked| {
        let (memory, files) = (attacked.memory(), attacked.speaker.open_files().unwrap());
        let mut bad = attacked.establish(WIRE, ASN, "bad");
        let began = Instant::now();
        for _ in 0..1_000 {
            let mut raw = Raw::connect_from(attacked.wire, STRANGER, LISTENING).unwrap();
            assert!(raw.is_closed());
        }
        let took = began.elapsed();
        wait_for("all of them to be counted", SOON, || {
            let refused = attacked.refused("unknown-address");
            anyhow::ensure!(refused == 1_000, "{refused}");
            Ok(())
        });
        println!("1,000 refused in {took:?}");
        let log = attacked.speaker.log();
        let lines = log.lines().filter(|line| line.contains("that no peer has"));
        assert!(lines.count() <= 10, "{log}");
        assert!(attacked.speaker.open_files().unwrap() <= files + 4);
        let now = attacked.memory();
        assert!(now < memory + 4 * MIB, "{memory} KiB became {now} KiB");
        // The peer beside them has lost nothing.
        bad.send(&table(ASN, WIRE, &[], FIRST, 10)).unwrap();
        attacked.received("bad", 10);
        assert_eq!(
            number(&attacked.speaker.peer("bad").unwrap(), "establishedCount"),
            1
        );
    });
}

#[test]
fn connections_that_say_nothing_are_few_and_do_not_keep_their_peer_out() {
    with("passive: true\n", |attacked| {
        let files = attacked.speaker.open_files().unwrap();
        let silent: Vec<TcpStream> = (0..200)
            .filter_map(|_| {
                let connect = || TcpStream::connect_timeout(&LISTENING, Duration::from_secs(10));
                match attacked.wire.within(connect).unwrap() {
                    Ok(connection) => Some(connection),
                    // Refused so soon that we hear of it while we connect.
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
                    Err(error) => panic!("{error}"),
                }
            })
            .collect();
        wait_for("most of them to be refused", SOON, || {
            let refused = attacked.refused("too-many");
            let open = attacked.speaker.open_files()?;
            anyhow::ensure!(
                open <= files + 4,
                "{open} of {files} files, {refused} refused"
            );
            Ok(())
        });
        // While they are there, the peer comes in; they hold what they hold for four minutes.
        let mut raw = attacked.establish(WIRE, ASN, "bad");
        raw.send(&table(ASN, WIRE, &[], FIRST, 10)).unwrap();
        attacked.received("bad", 10);
        drop(silent);
    });
}

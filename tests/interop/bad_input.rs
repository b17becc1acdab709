//! Bad input over the wire: each costs what the RFCs say, is counted, is visible in
//! `bgpctl show peers NAME`, and disturbs no other session.
//!
//! ```text
//!  tor (BIRD, AS 65101) ──10.1.0.0/24── node (AS 65201) ──10.1.9.0/24── wire: whatever bytes we like
//! ```

use std::net::{Ipv4Addr, SocketAddr};

use lab::raw::{self, KEEPALIVE, NOTIFICATION, OPEN, Raw, Received, UPDATE, message};
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::{Value, json};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number};
use crate::tor::{BirdTor, Sessions, Tor};

const WIRE: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 1);
/// An address there that is no peer's.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 2);
/// The AS that the node expects on the wire.
const ASN: u32 = 65301;
const LISTENING: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 1, 9, 11)), 179);

struct Bad<'a> {
    wire: &'a Namespace,
    speaker: Speaker<'a>,
    tor: BirdTor,
}

fn with(asn: u32, test: fn(&Bad<'_>)) {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let wire = lab.machine("wire").unwrap();
    wire.cable("eth0", &["10.1.9.1/24"], &node, "eth1", &["10.1.9.11/24"])
        .unwrap();
    wire.raise("eth0", &["10.1.9.2/24"]).unwrap();
    let sessions = Sessions::new(65101, NODE, 65201);
    let tor = BirdTor::start(&tor, lab.directory(), &sessions).unwrap();
    let mut host = Host {
        // What comes by the wire goes on to the ToR.
        export: "    - {name: everything, action: Accept}\n".into(),
        ..host()
    };
    host.addresses.push("10.1.9.11");
    host.peers
        .push(Peer::new("bad", "10.1.9.1", asn).with("passive: true\n"));
    let speaker = host.start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    let bad = Bad {
        wire: &wire,
        speaker,
        tor,
    };
    test(&bad);
    let tor = bad.speaker.peer("tor").unwrap();
    assert_eq!(tor["state"], "Established", "{tor}");
    assert_eq!(number(&tor, "establishedCount"), 1, "{tor}");
    assert_eq!(tor["faults"], json!({}), "{tor}");
}

impl Bad<'_> {
    /// A connection on which the node has said its OPEN; it may rest for a while after an error.
    #[track_caller]
    fn connect(&self) -> Raw {
        wait_for("the node to take a connection", SOON, || {
            let mut raw = Raw::connect(self.wire, LISTENING)?;
            raw.expect(OPEN)?;
            Ok(raw)
        })
    }

    /// An established session.
    #[track_caller]
    fn establish(&self) -> Raw {
        let mut raw = self.connect();
        raw.send(&raw::open(ASN, WIRE)).unwrap();
        raw.send(&message(KEEPALIVE, &[])).unwrap();
        raw.expect(KEEPALIVE).unwrap();
        self.speaker.wait_for_state("bad", "Established");
        raw
    }

    fn peer(&self) -> Value {
        self.speaker.peer("bad").unwrap()
    }

    /// Waits until a kind of fault has been counted so often.
    #[track_caller]
    fn counted(&self, fault: &str, count: u64) -> Value {
        wait_for(&format!("{count} times {fault}"), SOON, || {
            let peer = self.speaker.peer("bad")?;
            anyhow::ensure!(peer["faults"][fault] == count, "{peer}");
            Ok(peer)
        })
    }

    /// The node's NOTIFICATION has this code and subcode, and `show peers` says it in words.
    #[track_caller]
    fn is_refused(&self, raw: &mut Raw, code: u8, subcode: u8, words: &str) -> Received {
        let before = self.peer();
        let notification = raw.expect(NOTIFICATION).unwrap();
        assert_eq!(notification.body[..2], [code, subcode], "{words}");
        wait_for(&format!("`{words}` in `show peers bad`"), SOON, || {
            let peer = self.speaker.peer("bad")?;
            let error = peer["lastError"].as_str().unwrap_or_default();
            anyhow::ensure!(error.contains(words), "{peer}");
            anyhow::ensure!(
                number(&peer, "sent.notification") >= number(&before, "sent.notification").max(1),
                "{peer}"
            );
            Ok(())
        });
        notification
    }

    /// The route is refused for this reason, and the session lives.
    #[track_caller]
    fn is_not_accepted(&self, prefix: &str, reason: &str) {
        let rows = self.speaker.json("show routes --received bad").unwrap();
        let rows = rows.as_array().unwrap();
        let row = rows.iter().find(|row| row["prefix"] == prefix);
        let row = row.unwrap_or_else(|| panic!("{prefix} is not among {rows:?}"));
        assert!(row["reason"].as_str().unwrap().contains(reason), "{row}");
        assert_eq!(self.peer()["state"], "Established");
        let best = self.speaker.routes(prefix).unwrap();
        assert!(best.iter().all(|route| route["peer"] != "bad"), "{best:?}");
    }
}

/// An UPDATE of the wire's AS that announces one prefix with a next hop.
fn announcing(path: &[u32], next_hop: Ipv4Addr, prefix: [u8; 4], length: u8) -> Vec<u8> {
    let attributes = raw::attributes(path, next_hop);
    raw::update(&attributes, &[(prefix.into(), length)])
}

/// An OPEN of the wire's AS with something wrong in it: `change` is given the whole message.
fn bad_open(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = raw::open(ASN, WIRE);
    change(&mut bytes);
    bytes
}

/// Says this instead of an OPEN, and hears what is wrong with it.
#[track_caller]
fn opens_with(bad: &Bad<'_>, bytes: &[u8], (code, subcode): (u8, u8), words: &str) -> Received {
    let mut raw = bad.connect();
    raw.send(bytes).unwrap();
    let notification = bad.is_refused(&mut raw, code, subcode, words);
    assert_eq!(bad.peer()["establishedCount"], 0);
    notification
}

#[test]
fn a_peer_of_another_as_is_refused_and_then_the_right_one_is_taken() {
    with(ASN, |bad| {
        opens_with(bad, &raw::open(65999, WIRE), (2, 2), "Bad Peer AS");
        drop(bad.establish());
    });
}

#[test]
fn another_version_is_told_ours() {
    with(ASN, |bad| {
        let open = bad_open(|open| open[19] = 3);
        let told = opens_with(bad, &open, (2, 1), "Unsupported Version Number");
        assert_eq!(told.body[2..], [0, 4]);
    });
}

#[test]
fn a_hold_time_of_a_second_is_refused() {
    with(ASN, |bad| {
        let open = bad_open(|open| open[22..24].copy_from_slice(&[0, 1]));
        opens_with(bad, &open, (2, 6), "Unacceptable Hold Time");
    });
}

#[test]
fn a_router_id_of_zero_is_refused() {
    with(ASN, |bad| {
        let open = bad_open(|open| open[24..28].fill(0));
        opens_with(bad, &open, (2, 3), "Bad BGP Identifier");
    });
}

#[test]
fn a_parameter_that_ends_behind_its_open_is_refused() {
    with(ASN, |bad| {
        let open = bad_open(|open| open[30] += 9);
        opens_with(bad, &open, (2, 0), "OPEN Message Error");
    });
}

#[test]
fn a_keepalive_before_the_open_is_an_error_of_the_state_machine() {
    with(ASN, |bad| {
        let keepalive = message(KEEPALIVE, &[]);
        let told = opens_with(bad, &keepalive, (5, 1), "Finite State Machine Error");
        assert_eq!(told.body[2..], [KEEPALIVE]);
    });
}

#[test]
fn our_own_router_id_within_our_as_is_refused() {
    with(65201, |bad| {
        let mut raw = bad.connect();
        raw.send(&raw::open(65201, NODE.parse().unwrap())).unwrap();
        let notification = bad.is_refused(&mut raw, 2, 3, "Bad BGP Identifier");
        assert_eq!(notification.body[2..], [10, 1, 0, 11]);
    });
}

#[test]
fn garbage_on_the_port_ends_that_connection_only() {
    with(ASN, |bad| {
        let mut raw = bad.connect();
        raw.send(b"GET / HTTP/1.1\r\nHost: routers.example\r\n\r\n")
            .unwrap();
        bad.is_refused(&mut raw, 1, 1, "Connection Not Synchronized");

        // From an address that is no peer's: the connection is closed without a word.
        let mut raw = Raw::connect_from(bad.wire, STRANGER, LISTENING).unwrap();
        raw.send(&raw::open(ASN, WIRE)).ok();
        assert!(raw.receive().is_err());
        // The peer itself is welcome still.
        drop(bad.establish());
    });
}

/// A header says something else than what can be, once the session is up. RFC 4271 §6.1.
#[track_caller]
fn lies(bad: &Bad<'_>, length: u16, kind: u8, subcode: u8, data: &[u8]) {
    let mut raw = bad.establish();
    let mut header = vec![0xff; 16];
    header.extend(length.to_be_bytes());
    header.push(kind);
    raw.send(&header).unwrap();
    let notification = bad.is_refused(&mut raw, 1, subcode, "Message Header Error");
    assert_eq!(notification.body[2..], *data);
}

#[test]
fn a_length_below_the_header_s_own_ends_the_session() {
    with(ASN, |bad| lies(bad, 18, UPDATE, 2, &[0, 18]));
}

#[test]
fn a_keepalive_with_a_body_ends_the_session() {
    with(ASN, |bad| lies(bad, 20, KEEPALIVE, 2, &[0, 20]));
}

#[test]
fn an_oversized_message_ends_the_session_where_nobody_agreed_on_extended_ones() {
    with(ASN, |bad| lies(bad, 4097, UPDATE, 2, &[16, 1]));
}

#[test]
fn a_message_of_no_known_type_ends_the_session() {
    with(ASN, |bad| lies(bad, 19, 9, 3, &[9]));
}

#[test]
fn a_connection_that_ends_within_a_message_ends_its_session_and_routes() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        raw.send(&announcing(&[ASN], WIRE, [10, 90, 0, 0], 24))
            .unwrap();
        bad.speaker.wait_for_route("10.90.0.0/24");
        let update = announcing(&[ASN], WIRE, [10, 91, 0, 0], 24);
        raw.send(&update[..30]).unwrap();
        drop(raw);
        bad.speaker.wait_for_no_route("10.90.0.0/24");
        assert!(bad.speaker.routes("10.91.0.0/24").unwrap().is_empty());
        drop(bad.establish());
    });
}

#[test]
fn an_update_that_can_not_be_taken_apart_resets_the_session() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        // Path attributes that end behind the message.
        raw.send(&message(UPDATE, &[0, 0, 0xff, 0xff, 0x40]))
            .unwrap();
        bad.is_refused(&mut raw, 3, 1, "Malformed Attribute List");
        bad.counted("session-reset", 1);
    });
}

#[test]
fn a_malformed_attribute_takes_its_routes_away_and_the_session_lives() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        raw.send(&announcing(&[ASN], WIRE, [10, 90, 0, 0], 24))
            .unwrap();
        raw.send(&announcing(&[ASN], WIRE, [10, 91, 0, 0], 24))
            .unwrap();
        bad.speaker.wait_for_route("10.90.0.0/24");
        bad.speaker.wait_for_route("10.91.0.0/24");
        // ORIGIN 9 for the first of them. RFC 7606 §7.1.
        let mut attributes = raw::attributes(&[ASN], WIRE);
        attributes[3] = 9;
        raw.send(&raw::update(&attributes, &[([10, 90, 0, 0].into(), 24)]))
            .unwrap();
        let peer = bad.counted("treat-as-withdraw", 1);
        let fault = peer["lastFault"].as_str().unwrap();
        assert!(fault.contains("ORIGIN"), "{fault}");
        bad.speaker.wait_for_no_route("10.90.0.0/24");
        // A next hop that no host can have, and none at all. RFC 4271 §6.3, RFC 7606 §3 (d).
        let nowhere = announcing(&[ASN], Ipv4Addr::LOCALHOST, [10, 91, 0, 0], 24);
        raw.send(&nowhere).unwrap();
        bad.counted("treat-as-withdraw", 2);
        bad.speaker.wait_for_no_route("10.91.0.0/24");
        let without = &raw::attributes(&[ASN], WIRE)[..13];
        raw.send(&raw::update(without, &[([10, 91, 0, 0].into(), 24)]))
            .unwrap();
        bad.counted("treat-as-withdraw", 3);
        assert!(bad.speaker.routes("10.91.0.0/24").unwrap().is_empty());
        // AGGREGATOR of three octets goes, the route stays. RFC 7606 §7.7.
        let mut attributes = raw::attributes(&[ASN], WIRE);
        attributes.extend([0xc0, 7, 3, 1, 2, 3]);
        raw.send(&raw::update(&attributes, &[([10, 92, 0, 0].into(), 24)]))
            .unwrap();
        bad.counted("attribute-discard", 1);
        bad.speaker.wait_for_route("10.92.0.0/24");
        assert_eq!(number(&bad.peer(), "establishedCount"), 1);
    });
}

#[test]
fn an_unknown_attribute_goes_on_if_it_is_transitive_and_no_further_if_not() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        let mut attributes = raw::attributes(&[ASN], WIRE);
        attributes.extend([0xc0, 0xc8, 3, 1, 2, 3]);
        attributes.extend([0x80, 0xc9, 1, 7]);
        raw.send(&raw::update(&attributes, &[([10, 90, 0, 0].into(), 24)]))
            .unwrap();
        let route = bad.speaker.wait_for_route("10.90.0.0/24");
        // Optional, transitive, and partial from here on.
        let known = json!([{"flags": 0xe0, "type": 0xc8, "value": "010203"}]);
        assert_eq!(route["unknown"], known, "{route}");
        let at_tor = wait_for("the ToR to have it", SOON, || {
            bad.tor.bird.ask("show route 10.90.0.0/24 all")
        });
        assert!(at_tor.contains("c8 [t]: 01 02 03"), "{at_tor}");
        assert!(!at_tor.contains("c9"), "{at_tor}");

        // One that says it is well-known, and is not. RFC 4271 §6.3.
        let mut attributes = raw::attributes(&[ASN], WIRE);
        attributes.extend([0x40, 0xca, 1, 7]);
        raw.send(&raw::update(&attributes, &[([10, 91, 0, 0].into(), 24)]))
            .unwrap();
        let notification = bad.is_refused(&mut raw, 3, 2, "Unrecognized Well-known Attribute");
        assert_eq!(notification.body[2..], [0x40, 0xca, 1, 7]);
    });
}

#[test]
fn routes_that_must_not_be_used_are_refused_with_their_reason_and_counted() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        let ours = Ipv4Addr::new(10, 1, 9, 11);
        let (alone, looped) = (vec![ASN], vec![ASN, 65201]);
        let subnets = "our own subnets";
        let cases = [
            (&alone, ours, [10, 90, 0, 0], 24, "own-next-hop", "our own"),
            (&alone, WIRE, [10, 64, 1, 0], 24, "own-subnet", subnets),
            (&alone, WIRE, [10, 64, 1, 128], 25, "own-subnet", subnets),
            (&looped, WIRE, [10, 91, 0, 0], 24, "own-as", "our own AS"),
            (&alone, WIRE, [127, 0, 0, 0], 8, "martian", "martian"),
            (&alone, WIRE, [224, 0, 0, 0], 4, "martian", "martian"),
        ];
        let mut counts = std::collections::BTreeMap::new();
        for (path, next_hop, prefix, length, fault, reason) in cases {
            raw.send(&announcing(path, next_hop, prefix, length))
                .unwrap();
            let count = counts.entry(fault).or_insert(0);
            *count += 1;
            let peer = bad.counted(fault, *count);
            let prefix = format!("{}/{length}", Ipv4Addr::from(prefix));
            let told = peer["lastFault"].as_str().unwrap();
            assert!(told.contains(&prefix), "{told}");
            bad.is_not_accepted(&prefix, reason);
        }
        // Our own subnet is ours still, with the ToR too.
        let own = bad.tor.route("10.64.1.0/24").unwrap();
        assert_eq!(own.as_path, "65201");
        assert_eq!(number(&bad.peer(), "establishedCount"), 1);
    });
}

#[test]
fn a_silent_peer_is_told_that_its_hold_time_is_over() {
    with(ASN, |bad| {
        let mut raw = bad.establish();
        raw.send(&announcing(&[ASN], WIRE, [10, 90, 0, 0], 24))
            .unwrap();
        bad.speaker.wait_for_route("10.90.0.0/24");
        bad.is_refused(&mut raw, 4, 0, "Hold Timer Expired");
        bad.speaker.wait_for_no_route("10.90.0.0/24");
    });
}

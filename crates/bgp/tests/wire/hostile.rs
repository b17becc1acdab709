//! Bytes that no speaker should send.

use std::collections::BTreeMap;
use std::time::Duration;

use bgp::attributes::Attributes;
use bgp::query::{Fault, View};
use bgp::types::{Prefix, Prefix4, Prefix6};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::rig::{Rig, Who, announce, withdraw};

fn prefixes(of: u8, count: u8) -> Vec<Prefix> {
    (0..count)
        .flat_map(|n| {
            let v4 = Prefix4::new([10, of, n, 0].into(), 24);
            let v6 = Prefix6::new(
                std::net::Ipv6Addr::new(0x2001, 0xdb8, of.into(), n.into(), 0, 0, 0, 0),
                64,
            );
            [Prefix::V4(v4), Prefix::V6(v6)]
        })
        .collect()
}

/// Both sessions have routes.
fn populated() -> Rig {
    let mut rig = Rig::established();
    rig.say(Who::Alice, &announce(Who::Alice, 10, &prefixes(1, 5)));
    rig.say(Who::Mallory, &announce(Who::Mallory, 20, &prefixes(2, 5)));
    // Both have these.
    rig.say(Who::Alice, &announce(Who::Alice, 10, &prefixes(3, 2)));
    rig.say(Who::Mallory, &announce(Who::Mallory, 20, &prefixes(3, 2)));
    rig.heard(Who::Alice);
    rig.heard(Who::Mallory);
    rig
}

/// Mallory says `bytes`; nothing of Alice's may suffer, and Mallory either keeps the session or
/// loses it in order.
fn attack(bytes: &[u8], chunk: usize) {
    let mut rig = populated();
    let before: BTreeMap<Prefix, Attributes> = rig.received(Who::Alice);
    assert_eq!(before.len(), 14);
    for chunk in bytes.chunks(chunk.max(1)) {
        rig.say(Who::Mallory, chunk);
    }

    assert_eq!(rig.state(Who::Alice), "Established");
    assert!(!rig.is_closed(Who::Alice));
    assert_eq!(rig.received(Who::Alice), before);
    assert_eq!(rig.notification(Who::Alice), None);
    if rig.is_closed(Who::Mallory) {
        assert_ne!(rig.state(Who::Mallory), "Established");
        assert_eq!(rig.received(Who::Mallory), BTreeMap::new());
        // Mallory may have been the one to end it.
        if let Some(notification) = rig.notification(Who::Mallory) {
            assert!((1..=7).contains(&notification.code), "{notification}");
        }
        let best: Vec<Prefix> = rig.routes(View::Best).into_keys().collect();
        let mut expected = [prefixes(1, 5), prefixes(3, 2)].concat();
        expected.sort_unstable();
        assert_eq!(best, expected);
        // A better behaved Mallory is welcome after a while.
        rig.wait(Duration::from_secs(61));
        rig.connect(Who::Mallory);
    }
    assert_eq!(rig.state(Who::Mallory), "Established");
    // Whatever came in can be asked for.
    for prefix in rig.routes(View::All).into_keys() {
        let _ = rig.engine.explain(prefix);
    }
    let _ = rig.engine.peers(rig.now);
}

/// A message around `body`.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (19 + body.len() as u16).to_be_bytes();
    [&[0xFF; 16], &length[..], &[kind], body].concat()
}

/// Good UPDATEs of Mallory, as bytes.
fn updates() -> BytesMut {
    let mut bytes = announce(Who::Mallory, 30, &prefixes(2, 3));
    bytes.unsplit(withdraw(&prefixes(3, 2)));
    bytes.unsplit(announce(Who::Mallory, 40, &prefixes(4, 3)));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_cost_only_the_session_they_came_on(
        bytes in vec(any::<u8>(), 1..200),
        chunk in 1..300usize,
    ) {
        attack(&bytes, chunk);
    }

    #[test]
    fn random_messages_cost_only_the_session_they_came_on(
        bodies in vec((0..=6u8, vec(any::<u8>(), 0..100)), 1..5),
        chunk in 1..300usize,
    ) {
        let messages = bodies.iter().map(|(kind, body)| message(*kind, body));
        attack(&messages.collect::<Vec<_>>().concat(), chunk);
    }

    #[test]
    fn damaged_updates_cost_only_the_session_they_came_on(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        chunk in 1..1000usize,
    ) {
        let mut bytes = updates();
        for (at, with) in damage {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        attack(&bytes, chunk);
    }

    /// Damage that leaves headers alone gets into path attributes more often.
    #[test]
    fn damaged_attributes_cost_only_the_session_they_came_on(
        damage in vec((19..120usize, any::<u8>()), 1..4),
    ) {
        let mut bytes = updates();
        for (at, with) in damage {
            bytes[at] = with;
        }
        attack(&bytes, usize::MAX);
    }
}

#[test]
fn messages_in_the_wrong_state_cost_the_session() {
    for (kind, body) in [
        (1, &[4, 0xFD, 0xE9, 0, 0, 10, 0, 0, 1, 0][..]), // a second OPEN
        (2, &[0, 0, 0, 0]),                              // End-of-RIB: no harm
        (3, &[6, 2]),                                    // the end
        (4, &[]),                                        // a KEEPALIVE: no harm
        (5, &[0, 1, 0, 1]),                              // a ROUTE-REFRESH: no harm
        (5, &[0, 1, 2, 1]),                              // an end that had no beginning: no harm
        (5, &[9, 9, 9, 9]),                              // of nothing that we know: no harm
    ] {
        let mut rig = populated();
        rig.say(Who::Mallory, &message(kind, body));
        let ends = matches!(kind, 1 | 3);
        assert_eq!(rig.is_closed(Who::Mallory), ends, "{kind} {body:?}");
        assert_eq!(rig.received(Who::Mallory).is_empty(), ends);
        assert_eq!(rig.state(Who::Alice), "Established");
    }
    attack(&message(1, &[4, 0xFD, 0xE9, 0, 0, 10, 0, 0, 1, 0]), 7);
}

#[test]
fn nothing_behind_a_malformed_message_is_read() {
    let mut rig = populated();
    let mut bytes = BytesMut::from(&message(2, &[0, 1, 33, 0, 0])[..]); // a prefix of 33 bits
    bytes.unsplit(announce(Who::Mallory, 1, &prefixes(9, 9)));
    rig.say(Who::Mallory, &bytes);
    let notification = rig.notification(Who::Mallory).unwrap();
    assert_eq!((notification.code, notification.subcode), (3, 10));
    assert!(rig.is_closed(Who::Mallory));
    let best = rig.routes(View::Best);
    assert!(
        prefixes(9, 9)
            .iter()
            .all(|prefix| !best.contains_key(prefix))
    );
}

/// The body of an UPDATE that announces 10.2.0.0/24 and 2001:db8:2::/64, both of which Mallory has
/// announced before, with `attributes` beside those of the IPv6 route.
fn both_families(attributes: &[u8]) -> Vec<u8> {
    let next_hop = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let nlri6 = [64, 0x20, 1, 0x0D, 0xB8, 0, 2, 0, 0];
    let reach = [&[0, 2, 1, 16][..], &next_hop, &[0], &nlri6].concat();
    let origin_and_path = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xFD, 0xE9];
    let head = [0x80, 14, reach.len() as u8];
    let block = [&head[..], &reach, &origin_and_path, attributes].concat();
    let length = (block.len() as u16).to_be_bytes();
    [&[0, 0], &length[..], &block, &[24, 10, 2, 0]].concat()
}

/// RFC 7606 §2.
#[test]
fn routes_with_malformed_attributes_are_gone_and_the_session_stays() {
    let next_hop = [0x40, 3, 4, 192, 0, 2, 1];
    let bad_med = [0x80, 4, 1, 0];
    let all = [&next_hop[..], &bad_med].concat();
    for (attributes, expected) in [
        (&next_hop[..], 14),
        (&all, 12),
        // The IPv6 route lacks nothing, but it is the UPDATE that counts.
        (&[], 12),
    ] {
        let mut rig = populated();
        rig.say(Who::Mallory, &message(2, &both_families(attributes)));
        assert_eq!(rig.state(Who::Mallory), "Established");
        assert_eq!(rig.received(Who::Mallory).len(), expected, "{attributes:?}");
        let peers = rig.engine.peers(rig.now);
        let mallory = peers.iter().find(|peer| peer.name == "mallory").unwrap();
        let counted = mallory.faults.contains_key(&Fault::TreatAsWithdraw);
        assert_eq!(counted, expected == 12, "{attributes:?}");
    }
}

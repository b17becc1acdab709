//! Malformed UPDATEs, each with what the RFCs say that it costs.

use super::*;

/// What an UPDATE costs.
#[derive(Debug, PartialEq, Eq)]
enum Price {
    /// Nothing, or at most ignored parts.
    Nothing,
    /// "Attribute discard" of this attribute. RFC 7606 §2.
    Attribute(u8),
    /// "Treat as withdraw" because of this attribute. RFC 7606 §2.
    Routes(u8),
    /// "Session reset" with an UPDATE Message Error of this subcode and data. RFC 4271 §6.3.
    Session(u8, Vec<u8>),
}

use Price::{Attribute, Nothing, Routes, Session};

fn price(body: &[u8], context: &Context) -> Price {
    let update = match Update::decode(body, context) {
        Ok(update) => update,
        Err(error) => {
            assert!(!error.reason.is_empty());
            let Notification {
                code,
                subcode,
                data,
            } = error.notification;
            assert_eq!(code, crate::message::code::UPDATE);
            return Session(subcode, data.to_vec());
        }
    };
    let mut price = Nothing;
    for announced in &update.announced {
        match decode_attributes(&announced.attributes, context) {
            Ok(decoded) => {
                if let Some(fault) = decoded.discarded.first() {
                    price = Attribute(fault.attribute);
                }
            }
            Err(fault) => return Routes(fault.attribute),
        }
    }
    price
}

/// Attributes of a good IPv4 route with one more.
fn and(more: &[u8]) -> Vec<u8> {
    body(&[], &[ORIGIN, AS_PATH, NEXT_HOP, more], NLRI)
}

/// Attributes of a good IPv4 route, one of them replaced.
fn origin(origin: &[u8]) -> Vec<u8> {
    body(&[], &[origin, AS_PATH, NEXT_HOP], NLRI)
}

fn as_path(path: &[u8]) -> Vec<u8> {
    body(&[], &[ORIGIN, path, NEXT_HOP], NLRI)
}

fn next_hop(next_hop: &[u8]) -> Vec<u8> {
    body(&[], &[ORIGIN, AS_PATH, next_hop], NLRI)
}

/// A good IPv6 route but for its MP_REACH_NLRI.
fn reach(reach: &[u8]) -> Vec<u8> {
    body(&[], &[reach, ORIGIN, AS_PATH], &[])
}

fn check(table: Vec<(&str, Context, Vec<u8>, Price)>) {
    let mut wrong = Vec::new();
    for (what, context, body, expected) in table {
        let found = price(&body, &context);
        if found != expected {
            wrong.push(format!("{what}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[rustfmt::skip] // one line a case
fn good_updates_cost_nothing() {
    let both = [&GLOBAL[..], &LINK_LOCAL].concat();
    check(vec![
        ("IPv4", ebgp(), and(&[]), Nothing),
        ("IPv4, internal, empty AS_PATH", ibgp(), as_path(&[0x40, 2, 0]), Nothing),
        ("attributes in any order", ebgp(), body(&[], &[NEXT_HOP, AS_PATH, ORIGIN], NLRI), Nothing),
        ("extended length where it need not be", ebgp(), origin(&[0x50, 1, 0, 1, 0]), Nothing),
        ("unused flag bits are ignored", ebgp(), origin(&[0x4F, 1, 1, 0]), Nothing),
        ("IPv6 needs no NEXT_HOP", ebgp(), reach(&mp_reach(2, &GLOBAL, NLRI6)), Nothing),
        ("IPv6, internal", ibgp(), reach(&mp_reach(2, &GLOBAL, NLRI6)), Nothing),
        ("IPv6 with both next hops", ebgp(), reach(&mp_reach(2, &both, NLRI6)), Nothing),
        ("IPv6 with a link-local next hop alone", ebgp(), reach(&mp_reach(2, &LINK_LOCAL, NLRI6)), Nothing),
        ("IPv4 over IPv6", ebgp(), reach(&mp_reach(1, &GLOBAL, NLRI)), Nothing),
        ("IPv4 over IPv6, both next hops", ebgp(), reach(&mp_reach(1, &both, NLRI)), Nothing),
        ("IPv4 over IPv4 in MP_REACH_NLRI", ebgp(), reach(&mp_reach(1, &[192, 0, 2, 1], NLRI)), Nothing),
        ("a default route", ebgp(), body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[0]), Nothing),
        ("a speaker of 2-octet AS numbers", old(), as_path(AS_PATH2), Nothing),
        ("withdrawn routes alone", ebgp(), body(NLRI, &[], &[]), Nothing),
        ("withdrawn IPv6 routes alone", ebgp(), body(&[], &[&mp_unreach(2, NLRI6)], &[]), Nothing),
        ("withdrawn routes with idle attributes", ebgp(), body(NLRI, &[ORIGIN], &[]), Nothing),
        ("an unknown optional attribute", ebgp(), and(&attr(0xC0, 99, &[1, 2])), Nothing),
        ("a malformed attribute that we do not use", ebgp(), and(&attr(0xC0, 40, &[1, 0, 99])), Nothing),
        ("ONLY_TO_CUSTOMER is handed on", ebgp(), and(&attr(0xC0, 35, &[0, 0, 0xFD, 0xE9])), Nothing),
        ("an unknown attribute of one link", ebgp(), and(&attr(0x80, 99, &[1])), Nothing),
    ]);
}

/// RFC 7606 §7, and RFC 4271 §6.3 as far as RFC 7606 §3 has made it cheaper.
#[test]
#[rustfmt::skip] // one line a case
fn malformed_attributes_cost_the_routes() {
    let sets = [0x40, 2, 6, 1, 1, 0, 0, 0xFD, 0xE9];
    let zero = [0x40, 2, 6, 2, 1, 0, 0, 0, 0];
    let confed = [0x40, 2, 6, 3, 1, 0, 0, 0xFD, 0xE9];
    let both = [&GLOBAL[..], &GLOBAL].concat();
    check(vec![
        ("ORIGIN missing", ebgp(), body(&[], &[AS_PATH, NEXT_HOP], NLRI), Routes(1)),
        ("AS_PATH missing", ebgp(), body(&[], &[ORIGIN, NEXT_HOP], NLRI), Routes(2)),
        ("NEXT_HOP missing", ebgp(), body(&[], &[ORIGIN, AS_PATH], NLRI), Routes(3)),
        ("NEXT_HOP missing, internal", ibgp(), body(&[], &[ORIGIN, AS_PATH], NLRI), Routes(3)),
        ("all missing", ibgp(), body(&[], &[], NLRI), Routes(1)),
        ("ORIGIN missing beside MP_REACH_NLRI", ebgp(), body(&[], &[&mp_reach(2, &GLOBAL, NLRI6), AS_PATH], &[]), Routes(1)),
        ("ORIGIN of 3", ebgp(), origin(&[0x40, 1, 1, 3]), Routes(1)),
        ("ORIGIN of no octets", ebgp(), origin(&[0x40, 1, 0]), Routes(1)),
        ("ORIGIN of two octets", ebgp(), origin(&[0x40, 1, 2, 0, 0]), Routes(1)),
        ("ORIGIN optional", ebgp(), origin(&[0xC0, 1, 1, 0]), Routes(1)),
        ("ORIGIN not transitive", ebgp(), origin(&[0x00, 1, 1, 0]), Routes(1)),
        ("AS_PATH with half a number", ebgp(), as_path(&[0x40, 2, 5, 2, 1, 0, 0, 0xFD]), Routes(2)),
        ("AS_PATH with more numbers than octets", ebgp(), as_path(&[0x40, 2, 6, 2, 2, 0, 0, 0xFD, 0xE9]), Routes(2)),
        ("AS_PATH with an octet too many", ebgp(), as_path(&[0x40, 2, 7, 2, 1, 0, 0, 0xFD, 0xE9, 2]), Routes(2)),
        ("AS_PATH with a segment of nothing", ebgp(), as_path(&[0x40, 2, 2, 2, 0]), Routes(2)),
        ("AS_PATH with a segment of type 9", ebgp(), as_path(&[0x40, 2, 6, 9, 1, 0, 0, 0xFD, 0xE9]), Routes(2)),
        ("AS_SET (RFC 9774)", ebgp(), as_path(&sets), Routes(2)),
        ("AS_CONFED_SEQUENCE (RFC 5065 §5)", ebgp(), as_path(&confed), Routes(2)),
        ("AS 0 (RFC 7607)", ebgp(), as_path(&zero), Routes(2)),
        ("four octets where two are agreed", old(), as_path(AS_PATH), Routes(2)),
        ("NEXT_HOP of three octets", ebgp(), next_hop(&[0x40, 3, 3, 192, 0, 2]), Routes(3)),
        ("NEXT_HOP of sixteen octets", ebgp(), next_hop(&attr(0x40, 3, &GLOBAL)), Routes(3)),
        ("NEXT_HOP 0.0.0.0", ebgp(), next_hop(&[0x40, 3, 4, 0, 0, 0, 0]), Routes(3)),
        ("NEXT_HOP 127.0.0.1", ebgp(), next_hop(&[0x40, 3, 4, 127, 0, 0, 1]), Routes(3)),
        ("NEXT_HOP 224.0.0.5", ebgp(), next_hop(&[0x40, 3, 4, 224, 0, 0, 5]), Routes(3)),
        ("NEXT_HOP 255.255.255.255", ibgp(), next_hop(&[0x40, 3, 4, 255, 255, 255, 255]), Routes(3)),
        ("next hop ::", ebgp(), reach(&mp_reach(2, &[0; 16], NLRI6)), Routes(14)),
        ("next hop ff02::", ebgp(), reach(&mp_reach(2, &[0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], NLRI6)), Routes(14)),
        ("second next hop global", ebgp(), reach(&mp_reach(2, &both, NLRI6)), Routes(14)),
        ("next hop 127.0.0.1 in MP_REACH_NLRI", ebgp(), reach(&mp_reach(1, &[127, 0, 0, 1], NLRI)), Routes(14)),
        ("MULTI_EXIT_DISC of three octets", ebgp(), and(&attr(0x80, 4, &[0, 0, 1])), Routes(4)),
        ("MULTI_EXIT_DISC transitive", ebgp(), and(&attr(0xC0, 4, &[0, 0, 0, 1])), Routes(4)),
        ("LOCAL_PREF of five octets", ibgp(), and(&attr(0x40, 5, &[0; 5])), Routes(5)),
        ("LOCAL_PREF optional", ibgp(), and(&attr(0xC0, 5, &[0; 4])), Routes(5)),
        ("ATOMIC_AGGREGATE optional", ebgp(), and(&attr(0xC0, 6, &[])), Routes(6)),
        ("COMMUNITIES of five octets", ebgp(), and(&attr(0xC0, 8, &[0; 5])), Routes(8)),
        ("COMMUNITIES of none", ebgp(), and(&attr(0xC0, 8, &[])), Routes(8)),
        ("COMMUNITIES not transitive", ebgp(), and(&attr(0x80, 8, &[0; 4])), Routes(8)),
        ("ORIGINATOR_ID of three octets", ibgp(), and(&attr(0x80, 9, &[0; 3])), Routes(9)),
        ("CLUSTER_LIST of six octets", ibgp(), and(&attr(0x80, 10, &[0; 6])), Routes(10)),
        ("EXTENDED COMMUNITIES of nine octets", ebgp(), and(&attr(0xC0, 16, &[0; 9])), Routes(16)),
        ("LARGE_COMMUNITY of eleven octets", ebgp(), and(&attr(0xC0, 32, &[0; 11])), Routes(32)),
        ("LARGE_COMMUNITY of none", ebgp(), and(&attr(0xC0, 32, &[])), Routes(32)),
        ("an attribute registered as optional that says to be well-known", ebgp(), and(&attr(0x40, 35, &[0; 4])), Routes(35)),
        ("ONLY_TO_CUSTOMER of three octets (RFC 9234 §5)", ebgp(), and(&attr(0xC0, 35, &[0; 3])), Routes(35)),
        ("ONLY_TO_CUSTOMER of none", ibgp(), and(&attr(0xC0, 35, &[])), Routes(35)),
        ("an unknown attribute cut off", ebgp(), and(&[0xC0, 99, 4, 0]), Routes(99)),
        ("the last attribute cut off", ebgp(), and(&[0x80, 4, 4, 0, 0]), Routes(4)),
        ("the last attribute without a length", ebgp(), and(&[0x80, 4]), Routes(4)),
        ("half an extended length", ebgp(), and(&[0x90, 4, 0]), Routes(4)),
        ("one octet left over", ebgp(), and(&[0x40]), Routes(0)),
        ("IPv6, last attribute cut off", ebgp(), body(&[], &[&mp_reach(2, &GLOBAL, NLRI6), ORIGIN, AS_PATH, &[0x80, 4, 4]], &[]), Routes(4)),
        ("two faults: the dearer counts", ebgp(), body(&[], &[ORIGIN, AS_PATH, NEXT_HOP, &attr(0x40, 6, &[1]), &attr(0x80, 4, &[])], NLRI), Routes(4)),
    ]);
}

/// RFC 7606 §3 g, §7.5 to §7.10; RFC 6793 §6.
#[test]
#[rustfmt::skip] // one line a case
fn some_attributes_are_only_discarded() {
    let as4_path = attr(0xC0, 17, &[2, 1, 0, 0, 0xFD, 0xE9]);
    check(vec![
        ("ATOMIC_AGGREGATE with a value", ebgp(), and(&attr(0x40, 6, &[1])), Attribute(6)),
        ("AGGREGATOR of seven octets", ebgp(), and(&attr(0xC0, 7, &[0; 7])), Attribute(7)),
        ("AGGREGATOR of AS 0", ebgp(), and(&attr(0xC0, 7, &[0, 0, 0, 0, 1, 1, 1, 1])), Attribute(7)),
        ("LOCAL_PREF from outside", ebgp(), and(&attr(0x40, 5, &[0; 4])), Attribute(5)),
        ("LOCAL_PREF from outside, malformed", ebgp(), and(&attr(0x40, 5, &[0; 3])), Attribute(5)),
        ("ORIGINATOR_ID from outside", ebgp(), and(&attr(0x80, 9, &[1; 4])), Attribute(9)),
        ("ORIGINATOR_ID from outside, malformed", ebgp(), and(&attr(0x80, 9, &[1; 5])), Attribute(9)),
        ("CLUSTER_LIST from outside", ebgp(), and(&attr(0x80, 10, &[1; 8])), Attribute(10)),
        ("CLUSTER_LIST from outside, malformed", ebgp(), and(&attr(0x80, 10, &[1; 7])), Attribute(10)),
        ("ORIGIN twice", ebgp(), and(ORIGIN), Attribute(1)),
        ("an unknown attribute twice", ebgp(), and(&[attr(0xC0, 99, &[1]), attr(0xC0, 99, &[2])].concat()), Attribute(99)),
        ("AS4_PATH where AS numbers have four octets", ebgp(), and(&as4_path), Attribute(17)),
        ("AS4_PATH malformed", old(), body(&[], &[ORIGIN, AS_PATH2, NEXT_HOP, &attr(0xC0, 17, &[2, 2, 0, 0, 1, 1])], NLRI), Attribute(17)),
        ("AS4_AGGREGATOR malformed", old(), body(&[], &[ORIGIN, AS_PATH2, NEXT_HOP, &attr(0xC0, 18, &[0; 6])], NLRI), Attribute(18)),
    ]);
}

/// RFC 7606 §3 j, §5, §7.11; RFC 4271 §6.3.
#[test]
#[rustfmt::skip] // one line a case
fn prefixes_that_cannot_be_found_cost_the_session() {
    let twice = |attribute: Vec<u8>| attribute.repeat(2);
    let good = mp_reach(2, &GLOBAL, NLRI6);
    let flags = [&[0xC0], &good[1..]].concat();
    let partial = [&[0xA0], &good[1..]].concat();
    let flags15 = [&[0x40], &mp_unreach(2, NLRI6)[1..]].concat();
    let wide = mp_reach(2, &GLOBAL, &[129, 0]);
    let short = mp_reach(2, &GLOBAL, &[64, 1, 2]);
    let cut = &good[..good.len() - 1];
    let four = mp_reach(2, &[192, 0, 2, 1], NLRI6);
    let eight = mp_reach(1, &[0; 8], NLRI);
    let not_agreed = mp_reach(1, &GLOBAL, NLRI);
    let no_room = attr(0x80, 14, &[0, 2, 1, 16, 1, 2, 3]);
    let no_reserved = attr(0x80, 14, &[&[0, 2, 1, 16][..], &GLOBAL].concat());
    let well_known = attr(0x40, 99, &[1, 2]);
    check(vec![
        ("no lengths", ebgp(), vec![0, 0, 0], Session(1, vec![])),
        ("withdrawn routes beyond the end", ebgp(), vec![0, 9, 24, 10, 0, 0], Session(1, vec![])),
        ("no room for the second length", ebgp(), vec![0, 4, 24, 10, 1, 2, 0], Session(1, vec![])),
        ("attributes beyond the end", ebgp(), vec![0, 0, 0, 9, 0x40, 1, 1, 0], Session(1, vec![])),
        ("a prefix of 33 bits", ebgp(), body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[33, 10, 0, 0, 0, 0]), Session(10, vec![])),
        ("a prefix cut off", ebgp(), body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[24, 10, 1]), Session(10, vec![])),
        ("a withdrawn prefix of 255 bits", ebgp(), body(&[255], &[], &[]), Session(10, vec![])),
        ("a withdrawn prefix cut off", ebgp(), body(&[32, 10, 1, 2], &[], &[]), Session(10, vec![])),
        ("MP_REACH_NLRI twice", ebgp(), reach(&twice(good.clone())), Session(1, vec![])),
        ("MP_UNREACH_NLRI twice", ebgp(), body(&[], &[&twice(mp_unreach(2, NLRI6))], &[]), Session(1, vec![])),
        ("MP_REACH_NLRI transitive", ebgp(), reach(&flags), Session(4, flags.clone())),
        ("MP_REACH_NLRI partial", ebgp(), reach(&partial), Session(4, partial.clone())),
        ("MP_UNREACH_NLRI well-known", ebgp(), body(&[], &[&flags15], &[]), Session(4, flags15.clone())),
        ("MP_REACH_NLRI of four octets", ebgp(), reach(&attr(0x80, 14, &[0, 2, 1, 0])), Session(5, attr(0x80, 14, &[0, 2, 1, 0]))),
        ("MP_UNREACH_NLRI of two octets", ebgp(), body(&[], &[&attr(0x80, 15, &[0, 2])], &[]), Session(5, attr(0x80, 15, &[0, 2]))),
        ("IPv6 prefix of 129 bits", ebgp(), reach(&wide), Session(9, wide.clone())),
        ("IPv6 prefix cut off", ebgp(), reach(&short), Session(9, short.clone())),
        ("withdrawn IPv6 prefix of 200 bits", ebgp(), body(&[], &[&mp_unreach(2, &[200])], &[]), Session(9, mp_unreach(2, &[200]))),
        ("MP_REACH_NLRI cut off", ebgp(), body(&[], &[ORIGIN, AS_PATH, cut], &[]), Session(9, cut.to_vec())),
        ("IPv6 with an IPv4 next hop", ebgp(), reach(&four), Session(9, four.clone())),
        ("a next hop of eight octets", ebgp(), reach(&eight), Session(9, eight.clone())),
        ("IPv4 over IPv6 where it is not agreed", Context {extended_next_hop: FamilySet::default(), ..ebgp() }, reach(&not_agreed), Session(9, not_agreed.clone())),
        ("a next hop longer than its attribute", ebgp(), reach(&no_room), Session(9, no_room.clone())),
        ("no reserved octet", ebgp(), reach(&no_reserved), Session(9, no_reserved.clone())),
        ("an unknown well-known attribute", ebgp(), and(&well_known), Session(2, well_known.clone())),
        ("malformed attributes and no prefixes", ebgp(), body(&[], &[&[0x40, 1, 1, 7]], &[]), Session(6, vec![0x40, 1, 1, 7])),
        ("malformed attributes beside withdrawn routes", ebgp(), body(NLRI, &[&attr(0x80, 4, &[1])], &[]), Session(5, attr(0x80, 4, &[1]))),
    ]);
}

#[test]
fn routes_of_families_that_are_not_agreed_are_ignored_and_said() {
    let evpn = attr(0x80, 14, &[0, 25, 70, 4, 192, 0, 2, 1, 0, 2, 33, 1, 2, 3]);
    let body = body(&[], &[ORIGIN, AS_PATH, NEXT_HOP, &evpn], NLRI);
    let update = Update::decode(&body, &ebgp()).unwrap();
    assert_eq!(update.announced.len(), 1);
    assert_eq!(
        update.faults[0].to_string(),
        "MP_REACH_NLRI: ignored: AFI 25, SAFI 70 is not for this session"
    );

    let ipv6_only = Context {
        families: [Family::Ipv6].into_iter().collect(),
        ..ebgp()
    };
    let update = Update::decode(&body, &ipv6_only).unwrap();
    assert!(update.announced.is_empty() && update.withdrawn.is_empty());
    assert_eq!(update.faults.len(), 2);
}

#[test]
fn a_fault_behind_a_cut_is_not_mended_by_what_is_put_together() {
    // The attribute that is cut off stands behind MP_REACH_NLRI and would be completed by it, were
    // that attribute put behind the others.
    let cut: &[u8] = &[0x80, 4, 4, 0];
    let body = body(
        &[],
        &[ORIGIN, AS_PATH, &mp_reach(2, &GLOBAL, NLRI6), cut],
        &[],
    );
    assert_eq!(price(&body, &ebgp()), Routes(4));
}

#[test]
fn twenty_thousand_faults_of_one_update_are_told_in_few_words() {
    for again in [&[0xC0, 99, 0][..], ORIGIN] {
        let block = [
            ORIGIN,
            AS_PATH,
            NEXT_HOP,
            &again.repeat(60_000 / again.len()),
        ]
        .concat();
        let decoded = decode_attributes(&block, &ebgp()).unwrap();
        assert_eq!(decoded.discarded.len(), MOST_FAULTS);
    }
}

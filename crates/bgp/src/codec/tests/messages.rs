//! Headers, OPENs, NOTIFICATIONs and ROUTE-REFRESHes: what they say and which of them are refused.

use bytes::BytesMut;

use super::*;
use crate::message::{ForwardingState, GracefulRestart, Message, RefreshKind};
use crate::types::Asn;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (19 + body.len() as u16).to_be_bytes();
    [&[0xFF; 16], &length[..], &[kind], body].concat()
}

fn decode(bytes: &[u8]) -> Result<Option<Message>, WireError> {
    next_message(&mut BytesMut::from(bytes), STANDARD_MESSAGE)
}

/// Code, subcode and data of the NOTIFICATION that answers `bytes`.
fn refusal(bytes: &[u8]) -> (u8, u8, Vec<u8>) {
    let error = decode(bytes).expect_err("refused");
    assert!(!error.reason.is_empty());
    let notification = error.notification;
    (
        notification.code,
        notification.subcode,
        notification.data.to_vec(),
    )
}

/// The body of an OPEN of AS 65001 with these optional parameters.
fn open(parameters: &[u8]) -> Vec<u8> {
    let head = [4, 0xFD, 0xE9, 0, 90, 192, 0, 2, 1, parameters.len() as u8];
    [&head, parameters].concat()
}

fn decode_open(body: &[u8]) -> crate::message::Open {
    match decode(&message(1, body)) {
        Ok(Some(Message::Open(open))) => open,
        other => panic!("{other:?}"),
    }
}

/// RFC 4271 §6.1.
#[test]
fn a_bad_header_is_refused_as_soon_as_it_can_be_seen() {
    assert_eq!(refusal(b"GET / HTTP/1.1\r\n\r\n"), (1, 1, vec![]));
    assert_eq!(refusal(b"\xFF\xFF\x00"), (1, 1, vec![]));
    let header = |length: u16, kind: u8| {
        let length = length.to_be_bytes();
        [&[0xFF; 16], &length[..], &[kind]].concat()
    };
    assert_eq!(refusal(&header(18, 4)), (1, 2, vec![0, 18]));
    assert_eq!(refusal(&header(0, 2)), (1, 2, vec![0, 0]));
    assert_eq!(refusal(&header(4097, 2)), (1, 2, vec![0x10, 0x01]));
    assert_eq!(refusal(&header(65535, 3)), (1, 2, vec![0xFF, 0xFF]));
    assert_eq!(refusal(&header(20, 4)), (1, 2, vec![0, 20]));
    assert_eq!(refusal(&header(28, 1)), (1, 2, vec![0, 28]));
    assert_eq!(refusal(&header(22, 2)), (1, 2, vec![0, 22]));
    assert_eq!(refusal(&header(20, 3)), (1, 2, vec![0, 20]));
    assert_eq!(refusal(&header(22, 5)), (1, 2, vec![0, 22]));
    assert_eq!(refusal(&header(23, 0)), (1, 3, vec![0]));
    assert_eq!(refusal(&header(23, 6)), (1, 3, vec![6]));
    assert_eq!(refusal(&header(5000, 6)), (1, 2, vec![0x13, 0x88]));
}

/// RFC 8654 §4.
#[test]
fn extended_messages_are_taken_when_they_are_agreed() {
    let mut update = BytesMut::from(&message(2, &vec![0; 60_000])[..]);
    assert!(next_message(&mut update.clone(), STANDARD_MESSAGE).is_err());
    let taken = next_message(&mut update, EXTENDED_MESSAGE).unwrap();
    assert!(matches!(taken, Some(Message::Update(body)) if body.len() == 60_000));
    let mut long = BytesMut::from(&message(1, &vec![0; 5000])[..]);
    assert!(next_message(&mut long, EXTENDED_MESSAGE).is_err());
}

#[test]
fn half_a_message_is_waited_for() {
    let whole = message(4, &[]);
    for end in 0..whole.len() {
        assert_eq!(decode(&whole[..end]), Ok(None));
    }
    assert_eq!(decode(&whole), Ok(Some(Message::Keepalive)));
}

/// RFC 4271 §6.2.
#[test]
fn a_malformed_open_is_refused() {
    let refused = |body: &[u8]| refusal(&message(1, body));
    let with = |at: usize, octets: &[u8]| {
        let mut body = open(&[]);
        body[at..at + octets.len()].copy_from_slice(octets);
        body
    };
    assert_eq!(refused(&with(0, &[3])), (2, 1, vec![0, 4]));
    assert_eq!(refused(&with(1, &[0, 0])), (2, 2, vec![]));
    assert_eq!(refused(&with(5, &[0; 4])), (2, 3, vec![]));
    assert_eq!(refused(&with(3, &[0, 1])), (2, 6, vec![]));
    assert_eq!(refused(&with(3, &[0, 2])), (2, 6, vec![]));
    assert_eq!(refused(&with(9, &[5])), (2, 0, vec![]));
    // Authentication, long gone.
    assert_eq!(refused(&open(&[1, 1, 0])), (2, 4, vec![]));
    // A parameter and a capability that are longer than what holds them.
    assert_eq!(refused(&open(&[2, 9, 2, 0])), (2, 0, vec![]));
    assert_eq!(refused(&open(&[2, 2, 65, 4])), (2, 0, vec![]));
    assert_eq!(refused(&open(&[2])), (2, 0, vec![]));
    // AS 0 in the capability (RFC 7607), and another AS than in the OPEN itself.
    assert_eq!(refused(&open(&[2, 6, 65, 4, 0, 0, 0, 0])), (2, 2, vec![]));
    assert_eq!(
        refused(&open(&[2, 6, 65, 4, 0, 0, 0xFD, 0xEA])),
        (2, 2, vec![])
    );
}

#[test]
fn an_open_without_capabilities_is_plain_bgp() {
    let plain = decode_open(&open(&[]));
    assert_eq!(plain.asn, Asn(65001));
    assert_eq!(plain.hold_time, 90);
    assert_eq!(plain.router_id.to_string(), "192.0.2.1");
    assert_eq!(plain.capabilities, Default::default());
}

#[test]
fn capabilities_are_read_one_a_parameter_or_many_and_unknown_ones_are_named() {
    let many = decode_open(&open(&[
        2, 6, 1, 4, 0, 1, 0, 1, // IPv4
        2, 14, 1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0xFD, 0xE9, 2, 0, // IPv6, 4-octet AS, refresh
        2, 14, 64, 10, 0xC0, 120, 0, 2, 1, 0x80, 0, 25, 70, 0x80, 6,
        0, // graceful restart of IPv6 (and of EVPN), extended message
        2, 6, 1, 4, 0, 25, 0, 70, // EVPN
        2, 2, 199, 0,
    ]));
    let capabilities = many.capabilities;
    assert_eq!(capabilities.families, Family::ALL);
    assert_eq!(capabilities.four_octet_as, Some(Asn(65001)));
    assert!(capabilities.route_refresh && capabilities.extended_message);
    assert!(!capabilities.enhanced_route_refresh);
    let restart = GracefulRestart {
        restarting: true,
        notification: true,
        seconds: 120,
        families: vec![ForwardingState {
            family: Family::Ipv6,
            preserved: true,
        }],
    };
    assert_eq!(capabilities.graceful_restart, Some(restart));
    assert_eq!(capabilities.unknown, [1, 199]);
}

#[test]
fn extended_next_hops_are_found_among_families_that_nobody_knows() {
    let with_unknown = decode_open(&open(&[
        2, 14, 5, 12, 0x40, 0, 0, 1, 0, 2, // AFI 16384
        0, 1, 0, 1, 0, 2,
    ]));
    assert_eq!(with_unknown.capabilities.extended_next_hop, [Family::Ipv4]);
    let other = decode_open(&open(&[2, 8, 5, 6, 0, 1, 0, 1, 0, 1]));
    assert_eq!(other.capabilities.extended_next_hop, []);
}

/// RFC 9072.
#[test]
fn an_open_may_have_long_parameters() {
    let mut body = open(&[]);
    body[9] = 255;
    body.extend_from_slice(&[255, 0, 9, 2, 0, 6, 65, 4, 0, 0, 0xFD, 0xE9]);
    let open = decode_open(&body);
    assert_eq!(open.capabilities.four_octet_as, Some(Asn(65001)));
}

#[test]
fn an_as_number_of_four_octets_hides_behind_as_trans() {
    let mut body = open(&[2, 6, 65, 4, 0, 1, 0x86, 0xA0]);
    body[1..3].copy_from_slice(&[0x5B, 0xA0]);
    assert_eq!(decode_open(&body).asn, Asn(100_000));
}

/// RFC 2918 §3, RFC 7313 §5.
#[test]
fn route_refresh_is_read_and_its_bad_lengths_are_refused() {
    let refresh = |family, kind| Ok(Some(Message::RouteRefresh { family, kind }));
    let ipv4 = Some(Family::Ipv4);
    assert_eq!(
        decode(&message(5, &[0, 1, 0, 1])),
        refresh(ipv4, RefreshKind::Request)
    );
    assert_eq!(
        decode(&message(5, &[0, 1, 1, 1])),
        refresh(ipv4, RefreshKind::Begin)
    );
    assert_eq!(
        decode(&message(5, &[0, 1, 2, 1])),
        refresh(ipv4, RefreshKind::End)
    );
    // An unknown kind or family is ignored.
    assert_eq!(
        decode(&message(5, &[0, 1, 9, 1])),
        refresh(None, RefreshKind::Request)
    );
    assert_eq!(
        decode(&message(5, &[0, 9, 0, 1])),
        refresh(None, RefreshKind::Request)
    );
    let long = message(5, &[0, 1, 1, 1, 0]);
    assert_eq!(refusal(&long), (7, 1, long.clone()));
}

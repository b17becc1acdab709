//! What no speaker should send, and what it costs: at most the session it came on.

use bgp::message::{HeaderError, Notification, code};
use proptest::prelude::*;

use crate::net::{Id, Net};
use crate::world::{own_prefix, seconds};

/// `a` with a session to `b`, which misbehaves, and one to `c`, which must not notice.
fn three() -> (Net, Id, Id, Id) {
    let mut net = Net::new(1);
    let (a, b, c) = (net.speaker(65000), net.speaker(65001), net.speaker(65002));
    net.peer(a, b);
    net.peer(a, c);
    net.begin();
    net.advance(seconds(10));
    (net, a, b, c)
}

/// A header with this length and type.
fn header(length: u16, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes
}

/// The session with `b` ends with this and comes back; the one with `c` goes on.
fn assert_costs_only_itself(bytes: &[u8], error: (u8, u8)) {
    let (mut net, a, b, c) = three();
    net.inject(b, a, bytes);
    net.advance(seconds(1) / 10);
    let told = net.notifications(a, b);
    let told: Vec<_> = told.iter().map(|n| (n.code, n.subcode)).collect();
    assert_eq!(told, [error]);
    assert_eq!(net.path(c, own_prefix(b)[0]), None, "its routes are gone");
    net.advance(seconds(10));
    assert_eq!(net.status(a, b).established_count, 2);
    assert_eq!(net.status(a, c).established_count, 1);
    net.assert_all_reachable();
}

#[test]
fn garbage_ends_the_session_it_comes_on_and_no_other() {
    let error = (code::HEADER, HeaderError::ConnectionNotSynchronized as u8);
    assert_costs_only_itself(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", error);
}

#[test]
fn a_message_of_an_impossible_length_ends_the_session() {
    let error = (code::HEADER, HeaderError::BadMessageLength as u8);
    assert_costs_only_itself(&header(18, 4), error);
    assert_costs_only_itself(&header(20, 4), error);
    assert_costs_only_itself(&header(22, 2), error);
}

#[test]
fn a_message_of_an_unknown_type_ends_the_session() {
    let error = (code::HEADER, HeaderError::BadMessageType as u8);
    assert_costs_only_itself(&header(19, 77), error);
}

#[test]
fn a_second_open_ends_the_session() {
    let mut open = header(29, 1);
    open.extend([4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 2, 0]);
    assert_costs_only_itself(&open, (code::FSM, 3));
}

#[test]
fn a_message_that_never_ends_is_a_silent_peer() {
    let (mut net, a, b, c) = three();
    net.inject(b, a, &header(4096, 2));
    net.advance(seconds(31)); // what follows is taken for the rest of it
    assert_eq!(net.state(a, b), "Established");
    net.advance(seconds(600));
    assert_eq!(net.status(a, c).established_count, 1);
    assert_eq!(net.state(a, b), "Established");
    assert!(net.status(a, b).established_count > 1);
    net.assert_all_reachable();
}

#[test]
fn a_notification_is_never_answered() {
    let (mut net, a, b, _) = three();
    let mut notification = header(21, 3);
    notification.extend([6, 9]);
    net.inject(b, a, &notification);
    net.advance(seconds(1) / 10);
    assert_eq!(net.notifications(a, b), []);
    let error = net.last_error(a, b);
    let hard_reset = Notification::new(6, 9, Vec::new()).to_string();
    assert_eq!(error, format!("received {hard_reset}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_bytes_come_other_sessions_and_their_routes_stay(
        kind in 0..7_u8,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (mut net, a, b, c) = three();
        let length = u16::try_from(19 + body.len()).unwrap();
        net.inject(b, a, &[header(length, kind), body].concat());
        net.advance(seconds(120));
        prop_assert_eq!(net.status(a, c).established_count, 1);
        prop_assert!(net.path(c, own_prefix(a)[0]).is_some());
        prop_assert_eq!(net.state(a, b), "Established");
        net.assert_fib(a);
        net.assert_fib(c);
    }
}

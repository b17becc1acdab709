//! Two connections at once.

use super::super::fsm::Side;
use super::*;

/// Both connections are open, none has an OPEN yet.
fn collision(own_id: u8) -> (Rig, ConnId) {
    let now = Instant::now();
    let mut session = Session::new(PeerId(3), &peer(), router_id(own_id), 7);
    session.start(now);
    let mut rig = Rig { session, now };
    let ours = rig.attempt();
    rig.session.accepted(now, THEIR_CONN);
    rig.session.connected(now, ours);
    (rig, ours)
}

#[test]
fn in_a_collision_the_connection_of_the_higher_identifier_stays_whichever_open_is_first() {
    let dumped = Cease::ConnectionCollisionResolution as u8;
    for own_id in [1, 10] {
        for ours_first in [true, false] {
            let (mut rig, ours) = collision(own_id);
            let order = match ours_first {
                true => [ours, THEIR_CONN],
                false => [THEIR_CONN, ours],
            };
            rig.open(order[0]);
            rig.actions();
            rig.open(order[1]);
            let (stays, goes) = match own_id > 9 {
                true => (ours, THEIR_CONN),
                false => (THEIR_CONN, ours),
            };
            assert_eq!(rig.ceases(), [(goes, dumped)]);
            rig.keepalive(stays);
            assert_eq!(rig.session.conn(), Some(stays));
            assert_eq!(rig.session.last_error(), None);
        }
    }
}

#[test]
fn in_a_collision_with_an_established_session_the_session_stays() {
    for own_id in [1, 10] {
        let (mut rig, ours) = collision(own_id);
        rig.open(ours);
        rig.keepalive(ours);
        rig.actions();
        rig.open(THEIR_CONN);
        let dumped = Cease::ConnectionCollisionResolution as u8;
        assert_eq!(rig.ceases(), [(THEIR_CONN, dumped)]);
        assert_eq!(rig.session.conn(), Some(ours));
    }
}

#[test]
fn when_the_peers_connection_makes_it_our_own_attempt_is_given_up() {
    let mut rig = Rig::new(&peer());
    let ours = rig.attempt();
    rig.session.accepted(rig.now, THEIR_CONN);
    rig.open(THEIR_CONN);
    rig.actions();
    rig.keepalive(THEIR_CONN);
    let actions = rig.actions();
    assert!(matches!(actions[0], Action::Up { conn, .. } if conn == THEIR_CONN));
    assert_eq!(actions[1], Action::Close { conn: ours });
    assert_eq!(rig.session.conn(), Some(THEIR_CONN));
}

#[test]
fn when_one_of_two_connections_breaks_the_other_goes_on() {
    let (mut rig, ours) = collision(1);
    rig.session.closed(rig.now, ours, Some("reset".into()));
    rig.open(THEIR_CONN);
    rig.keepalive(THEIR_CONN);
    assert_eq!(rig.session.conn(), Some(THEIR_CONN));
    let (mut rig, ours) = collision(1);
    rig.session.closed(rig.now, THEIR_CONN, None);
    rig.open(ours);
    rig.keepalive(ours);
    assert_eq!(rig.session.conn(), Some(ours));
}

#[test]
fn a_peer_that_connects_again_has_given_up_its_last_connection() {
    let (mut rig, _) = collision(1);
    rig.actions();
    let again = ConnId(THEIR_CONN.0 + 1);
    rig.session.accepted(rig.now, again);
    let dumped = Cease::ConnectionCollisionResolution as u8;
    assert_eq!(rig.ceases(), [(THEIR_CONN, dumped)]);
    rig.open(again);
    rig.keepalive(again);
    assert_eq!(rig.session.conn(), Some(again));
}

#[test]
fn a_connection_that_got_further_takes_the_first_place_and_the_other_is_still_watched() {
    let (mut rig, ours) = collision(10);
    rig.open(THEIR_CONN);
    rig.keepalive(THEIR_CONN);
    assert_eq!(rig.session.conn(), Some(THEIR_CONN));
    assert_eq!(
        rig.session.second.as_ref().map(|fsm| fsm.opened_by),
        Some(Side::Ours)
    );
    rig.session.closed(rig.now, THEIR_CONN, None);
    rig.open(ours);
    rig.keepalive(ours);
    assert_eq!(rig.session.conn(), Some(ours));
    assert_eq!(rig.session.times_established(), 2);
}

#[test]
fn a_shutdown_ends_both_connections() {
    let (mut rig, ours) = collision(1);
    rig.actions();
    rig.session.shutdown(rig.now, "");
    let cease = Cease::AdministrativeShutdown as u8;
    assert_eq!(rig.ceases(), [(THEIR_CONN, cease), (ours, cease)]);
    assert_eq!(rig.session.poll_timeout(), None);
}

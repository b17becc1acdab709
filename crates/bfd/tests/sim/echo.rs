//! Echo packets over the other side's forwarding plane.

use bfd::{Change, Diagnostic, State};

use crate::net::{MS, Net, wanted};

/// Side 0 sends Echo packets every 20 ms, side 1 loops them as it says.
fn with_echo() -> Net {
    let mut net = Net::new(0, 300 * MS, 3);
    let [mut a, mut b] = [0, 1].map(|side| wanted(side, 2, 300 * MS, 3));
    for session in a.iter_mut() {
        session.echo_tx = Some(20 * MS);
    }
    for session in b.iter_mut() {
        session.echo_rx = Some(10 * MS);
    }
    net.configure(0, a);
    net.configure(1, b);
    net.advance(5000 * MS);
    assert!(net.all(State::Up));
    net.changes.clear();
    net
}

#[test]
fn echo_packets_notice_a_forwarding_plane_that_stops_long_before_control_packets_could() {
    let mut net = with_echo();
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert_eq!(status.interval, Some(20 * MS));
    assert!(status.relied_on && status.returned > 100, "{status:?}");
    assert_eq!(net.echoes[1], 0);
    assert_eq!(net.engines[1].sessions().next().unwrap().echo, None);
    // BFD itself is well over there, but packets are not forwarded any more.
    net.loops[1] = false;
    net.advance(70 * MS);
    let failures: Vec<Change> = (net.changes.iter())
        .filter(|(_, side, change)| *side == 0 && change.is_failure())
        .map(|it| it.2)
        .collect();
    assert_eq!(failures.len(), 2, "{:?}", net.changes);
    assert!(
        failures
            .iter()
            .all(|it| it.diagnostic == Diagnostic::ECHO_FAILED)
    );
    net.advance(5000 * MS);
    assert!(
        net.all(State::Up),
        "Control packets flow; it is not relied on any more"
    );
    assert!(
        !net.engines[0]
            .sessions()
            .next()
            .unwrap()
            .echo
            .unwrap()
            .relied_on
    );
    assert_eq!(net.discards, []);
}

#[test]
fn echo_packets_that_never_come_back_take_nothing_down_and_others_are_not_sent() {
    let mut net = with_echo();
    net.loops[1] = false;
    net.advance(2000 * MS);
    net.advance(3000 * MS);
    assert!(net.all(State::Up));
    net.changes.clear();
    net.advance(60_000 * MS);
    assert_eq!(net.changes, []);
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert!(status.sent > 1000 && status.returned == 0 && !status.relied_on);
    // Over there nobody loops them any more, and says so.
    net.configure(1, wanted(1, 2, 300 * MS, 3));
    net.advance(1000 * MS);
    let before = net.echoes[0];
    net.advance(1000 * MS);
    assert_eq!(net.echoes[0], before);
    let status = net.engines[0].sessions().next().unwrap().echo.unwrap();
    assert!(!status.looped && status.interval.is_none());
    assert!(net.all(State::Up));
}

//! Sessions that come up, collide, fall silent, flap, or must not come up at all.

use bgp::message::{Notification, OpenError, code};
use bgp::types::{Asn, RouterId};

use crate::net::{Link, Net};
use crate::world::{address, collision, established_pair, seconds};

#[test]
fn two_speakers_that_connect_at_the_same_moment_keep_the_connection_of_the_higher_identifier() {
    // Both attempts are under way before either arrives, whatever the seed.
    for seed in 0..20 {
        for first_is_higher in [true, false] {
            let mut net = Net::new(seed);
            let (a, b) = (net.speaker(65000), net.speaker(65001));
            net.peer(a, b);
            if first_is_higher {
                net.speakers[a].config.router_id = RouterId([10, 9, 9, 9].into());
            }
            net.begin();
            net.advance(seconds(5));
            assert_eq!(net.state(a, b), "Established");
            assert_eq!(net.state(b, a), "Established");
            let sent = [net.all_notifications(a, b), net.all_notifications(b, a)].concat();
            assert!(!sent.is_empty() && sent.iter().all(|sent| *sent == collision()));
            for (here, there) in [(a, b), (b, a)] {
                let status = net.status(here, there);
                assert_eq!((status.established_count, status.last_error), (1, None));
                assert_eq!(net.speakers[here].attempts, 1);
            }
            net.assert_all_reachable();
        }
    }
}

#[test]
fn a_collision_is_resolved_however_late_and_lossy_the_link_is() {
    for seed in 0..60 {
        let mut net = Net::new(seed);
        let (a, b) = (net.speaker(65000), net.speaker(65001));
        net.peer(a, b);
        let link = Link {
            delay: seconds(1) / 50,
            jitter: seconds(1) / 10,
            loss: 0.3,
        };
        net.link(a, b, link);
        net.begin();
        net.advance(seconds(60));
        assert_eq!(net.state(a, b), "Established", "seed {seed}");
        assert_eq!(net.state(b, a), "Established", "seed {seed}");
        assert!(net.status(a, b).established_count <= 3, "seed {seed}");
        net.assert_all_reachable();
    }
}

#[test]
fn a_silent_peer_is_dropped_when_the_hold_time_ends() {
    let (mut net, a, b) = established_pair(1);
    net.cut(a, b); // bytes are lost, TCP stays up
    let before = net.time();
    net.advance(seconds(59));
    assert_eq!(net.state(a, b), "Established");
    net.advance(seconds(31));
    assert_ne!(net.state(a, b), "Established");
    assert_eq!(
        net.notifications(a, b),
        [Notification::hold_timer_expired()]
    );
    assert!(net.last_error(a, b).contains("Hold Timer Expired"));
    let told = net.sent.iter().filter(|sent| sent.from == a);
    let at = told.map(|sent| sent.at).next_back().unwrap();
    assert!((before + seconds(60)..before + seconds(90)).contains(&at));
    net.assert_fib(a);
    assert!(net.speakers[a].fib.is_empty(), "its routes are gone");

    net.mend(a, b);
    net.advance(seconds(90));
    assert_eq!(net.state(a, b), "Established");
    net.assert_all_reachable();
}

#[test]
fn a_session_without_hold_time_outlives_any_silence() {
    let mut net = Net::new(3);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.config_of(b, a).timers.hold = 0;
    net.begin();
    net.advance(seconds(5));
    assert_eq!(net.status(a, b).hold, None);
    net.cut(a, b);
    net.advance(seconds(86_400));
    assert_eq!(net.state(a, b), "Established");
    assert_eq!(net.status(a, b).established_count, 1);
}

#[test]
fn a_quiet_session_stays_up_by_keepalives_alone() {
    let (mut net, a, b) = established_pair(2);
    net.advance(seconds(3600));
    assert_eq!(net.status(a, b).established_count, 1);
    let keepalives = net.status(a, b).sent.keepalive;
    assert!((120..=162).contains(&keepalives), "{keepalives}");
}

#[test]
fn a_flapping_session_backs_off_and_forgets_it_after_a_stable_time() {
    let (mut net, a, b) = established_pair(4);
    let mut waits = Vec::new();
    for _ in 0..8 {
        net.reset_connections(a, b);
        let down = net.time();
        net.advance(seconds(1) / 100);
        assert_ne!(net.state(a, b), "Established");
        while net.state(a, b) != "Established" {
            net.advance(seconds(1) / 10);
        }
        waits.push((net.time() - down).as_secs_f64());
    }
    assert!(waits[0] < 2.0, "{waits:?}");
    assert!(waits[7] > 30.0 && waits[7] < 70.0, "{waits:?}");
    assert!(waits.is_sorted_by(|a, b| *b > a / 2.0), "{waits:?}");

    net.advance(seconds(301));
    net.reset_connections(a, b);
    net.advance(seconds(2));
    assert_eq!(net.state(a, b), "Established");
    net.assert_all_reachable();
}

#[test]
fn a_peer_with_the_wrong_as_is_refused_and_disturbs_no_other_session() {
    let mut net = Net::new(5);
    let (a, b, c) = (net.speaker(65000), net.speaker(65001), net.speaker(65002));
    net.peer(a, b);
    net.peer(a, c);
    net.config_of(a, b).remote_asn = Asn(65009);
    net.begin();
    net.advance(seconds(600));
    assert_ne!(net.state(a, b), "Established");
    let refused = net.notifications(a, b);
    assert_eq!(refused[0].code, code::OPEN);
    assert_eq!(refused[0].subcode, OpenError::BadPeerAs as u8);
    assert!(refused.len() < 60, "backs off: {}", refused.len());
    let error = net.last_error(a, b);
    assert!(error.contains("it is AS 65001, expected 65009"), "{error}");
    assert!(net.last_error(b, a).contains("Bad Peer AS"));
    assert_eq!(net.status(a, c).established_count, 1);

    net.reconfigure(a, b, |peer| peer.remote_asn = Asn(65001));
    net.advance(seconds(70));
    assert_eq!(net.state(a, b), "Established");
}

#[test]
fn our_own_router_id_is_refused_within_an_as_and_allowed_between_two() {
    for (asn, comes_up) in [(65000, false), (65001, true)] {
        let mut net = Net::new(6);
        let (a, b) = (net.speaker(65000), net.speaker(asn));
        net.peer(a, b);
        net.speakers[b].config.router_id = RouterId(address(a));
        net.begin();
        net.advance(seconds(60));
        assert_eq!(net.state(a, b) == "Established", comes_up);
        if !comes_up {
            let refused = &net.notifications(a, b)[0];
            assert_eq!(refused.subcode, OpenError::BadBgpIdentifier as u8);
            assert!(net.last_error(a, b).contains("10.0.0.1 is our own"));
        }
    }
}

#[test]
fn two_passive_sides_wait_for_each_other_and_one_passive_side_is_found() {
    let mut net = Net::new(7);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.config_of(a, b).passive = true;
    net.config_of(b, a).passive = true;
    net.begin();
    net.advance(seconds(3600));
    assert_eq!((net.state(a, b), net.state(b, a)), ("Active", "Active"));
    assert_eq!(net.speakers[a].attempts + net.speakers[b].attempts, 0);

    net.reconfigure(b, a, |peer| peer.passive = false);
    net.advance(seconds(1));
    assert_eq!(net.state(a, b), "Established");
    assert_eq!(net.speakers[a].attempts, 0);
}

#[test]
fn a_peer_that_does_not_listen_yet_is_found_once_it_does() {
    let mut net = Net::new(8);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.config_of(b, a).passive = true;
    net.speakers[b].listening = false;
    net.begin();
    net.advance(seconds(60));
    assert!((12..=17).contains(&net.speakers[a].attempts));
    assert!(net.last_error(a, b).contains("connection refused"));
    net.speakers[b].listening = true;
    net.advance(seconds(6));
    assert_eq!(net.state(a, b), "Established");
}

#[test]
fn a_speaker_that_nobody_configured_is_turned_away() {
    let mut net = Net::new(9);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.speakers[a].config.peers.clear();
    net.speakers[a].config.advertisements[0].peers.clear();
    net.begin();
    net.advance(seconds(60));
    assert_ne!(net.state(b, a), "Established");
    assert!(net.speakers[a].engine.peers(net.now).is_empty());
}

#[test]
fn peers_without_a_common_family_say_so() {
    let mut net = Net::new(10);
    let (a, b) = (net.speaker(65000), net.speaker(65001));
    net.peer(a, b);
    net.config_of(a, b).families.remove(0);
    net.config_of(b, a).families.remove(1);
    net.begin();
    net.advance(seconds(20));
    assert_ne!(net.state(a, b), "Established");
    let error = net.last_error(a, b) + &net.last_error(b, a);
    assert!(error.contains("no common family"), "{error}");
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        let (mut net, a, b) = established_pair(seed);
        net.advance(seconds(100));
        net.reset_connections(a, b);
        net.advance(seconds(100));
        net.sent
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

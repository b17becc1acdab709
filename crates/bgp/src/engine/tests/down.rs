//! Which next hops are told to be down at once when a session or the way to one ends, and that the
//! routes follow.

use std::net::IpAddr;

use super::rig::{Rig, config, nth, peer};
use crate::attributes::{Attributes, NextHop};
use crate::engine::Input;
use crate::query::Refusal;
use crate::types::Asn;

fn hop(last_octet: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last_octet])
}

/// As `own`, with a third party's next hop.
fn by(rig: &mut Rig, name: &str, next_hop: u8) -> Attributes {
    Attributes {
        next_hop: Some(NextHop::from(hop(next_hop))),
        ..rig.own(name)
    }
}

/// Sessions that are over, with nothing else done yet.
fn end_sessions(rig: &mut Rig, names: &[&str]) {
    for name in names {
        let conn = rig.script(name).conn;
        let input = Input::Closed { conn, error: None };
        rig.engine.handle(rig.now, input);
    }
}

#[test]
fn the_next_hop_of_a_session_that_ends_is_down_before_any_route_changes() {
    let mut rig = Rig::with_peers(2);
    for name in ["p2", "p3"] {
        let own = rig.own(name);
        rig.announce(name, &[nth(0), nth(1)], &own);
    }
    assert_eq!(rig.fib[&nth(0)], [hop(2), hop(3)]);
    rig.fib_blocked = true;
    rig.disconnect("p2");
    assert_eq!(rig.down, [[hop(2)]]);
    assert_eq!(rig.fib[&nth(0)], [hop(3)], "no change was taken yet");
    rig.fib_blocked = false;
    rig.run();
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
}

#[test]
fn a_next_hop_that_another_peer_s_routes_have_stays() {
    let mut rig = Rig::with_peers(3);
    // A route server and another one with the same next hops, one of which only the first has.
    for (name, index, next_hop) in [("p2", 0, 9), ("p3", 1, 9), ("p2", 2, 8), ("p2", 3, 2)] {
        let attributes = by(&mut rig, name, next_hop);
        rig.announce(name, &[nth(index)], &attributes);
    }
    rig.disconnect("p2");
    rig.down[0].sort_unstable();
    assert_eq!(rig.down, [[hop(2), hop(8)]]);
    assert_eq!(rig.fib[&nth(1)], [hop(9)]);
    rig.disconnect("p3");
    assert_eq!(rig.down[1], [hop(9)]);
}

#[test]
fn of_sessions_that_end_together_the_last_one_takes_their_next_hop_down() {
    let mut rig = Rig::with_peers(3);
    for name in ["p2", "p3"] {
        let attributes = by(&mut rig, name, 9);
        rig.announce(name, &[nth(0)], &attributes);
    }
    let own = rig.own("p4");
    rig.announce("p4", &[nth(0)], &own);
    end_sessions(&mut rig, &["p2", "p3"]);
    rig.run();
    assert_eq!(rig.down, [[hop(9)]]);
    assert_eq!(rig.fib[&nth(0)], [hop(4)]);
}

#[test]
fn a_next_hop_that_cannot_be_reached_or_only_by_a_default_route_is_down() {
    let mut rig = Rig::with_peers(2);
    for name in ["p2", "p3"] {
        let own = rig.own(name);
        rig.announce(name, &[nth(0)], &own);
    }
    rig.hop(hop(2), false);
    assert_eq!(rig.down, [[hop(2)]]);
    rig.hop(hop(2), true);
    assert_eq!(rig.fib[&nth(0)], [hop(2), hop(3)]);
    rig.gateways.insert(hop(3), IpAddr::from([198, 51, 100, 1]));
    rig.hop(hop(3), true);
    assert_eq!(rig.down, [[hop(2)], [hop(3)]]);
    assert_eq!(rig.fib[&nth(0)], [hop(2)]);
}

#[test]
fn a_next_hop_comes_back_only_with_the_routes_that_have_it_again() {
    let mut rig = Rig::with_peers(2);
    for name in ["p2", "p3"] {
        let own = rig.own(name);
        rig.announce(name, &[nth(0), nth(1)], &own);
    }
    rig.fib_blocked = true;
    // Back before any route was taken out, and with one of its two routes.
    end_sessions(&mut rig, &["p2"]);
    rig.wait(std::time::Duration::from_secs(2));
    rig.establish("p2");
    let own = rig.own("p2");
    rig.announce("p2", &[nth(1)], &own);
    assert_eq!(rig.fib[&nth(1)], [hop(3)]);
    rig.fib_blocked = false;
    rig.run();
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
    assert_eq!(rig.fib[&nth(1)], [hop(2), hop(3)]);
}

#[test]
fn routes_of_a_session_that_is_over_count_no_more_even_while_they_are_there() {
    let mut rig = Rig::with_peers(2);
    for name in ["p2", "p3"] {
        let own = rig.own(name);
        rig.announce(name, &[nth(0)], &own);
    }
    let conn = rig.script("p2").conn;
    let input = Input::Closed { conn, error: None };
    rig.engine.handle(rig.now, input);
    // Said before the table is gone through.
    let mut longer = rig.own("p3");
    longer.as_path = [Asn(65003), Asn(1), Asn(2)].into_iter().collect();
    rig.say("p3", &[nth(0)], &longer);
    let candidates = rig.engine.explain(nth(0)).candidates;
    let best: Vec<bool> = candidates.iter().map(|c| c.route.best).collect();
    assert_eq!(best, [true, false]);
    assert_eq!(candidates[0].route.peer.as_deref(), Some("p3"));
    let refused = crate::query::Outcome::Refused(Refusal::SessionDown);
    assert_eq!(candidates[1].outcome, refused);
    rig.run();
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
}

#[test]
fn what_graceful_restart_keeps_is_down_when_its_time_is_up_and_not_before() {
    use crate::message::{ForwardingState, GracefulRestart};
    use crate::types::Family;
    let mut peers: Vec<_> = [2, 3]
        .map(|n| peer(&format!("p{n}"), 65000 + u32::from(n), n))
        .into();
    peers[0].graceful_restart = Some(crate::config::GracefulRestart::default());
    let mut rig = Rig::new(config(peers));
    rig.graceful = Some(GracefulRestart {
        restarting: false,
        notification: true,
        seconds: 60,
        families: vec![ForwardingState {
            family: Family::Ipv4,
            preserved: true,
        }],
    });
    rig.establish_all();
    for name in ["p2", "p3"] {
        let own = rig.own(name);
        rig.announce(name, &[nth(0)], &own);
    }
    rig.disconnect("p2");
    rig.wait(std::time::Duration::from_secs(59));
    assert!(rig.down.is_empty());
    assert_eq!(rig.fib[&nth(0)], [hop(2), hop(3)]);
    rig.wait(std::time::Duration::from_secs(2));
    assert_eq!(rig.down, [[hop(2)]]);
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
}

/// Three peers, of which the later ones have longer paths, with backup paths.
fn with_backups() -> Rig {
    let peers = (2..5).map(|n| peer(&format!("p{n}"), 65000 + u32::from(n), n));
    let mut config = config(peers.collect());
    config.decision.backup_paths = true;
    let mut rig = Rig::new(config);
    rig.establish_all();
    for (name, length) in [("p4", 3), ("p3", 2), ("p2", 1)] {
        say(&mut rig, name, length);
    }
    rig
}

fn say(rig: &mut Rig, name: &str, length: u32) {
    let mut attributes = rig.own(name);
    let path = attributes.as_path.first().into_iter();
    attributes.as_path = path.chain((1..length).map(Asn)).collect();
    rig.announce(name, &[nth(0)], &attributes);
}

fn backups(rig: &Rig) -> Vec<String> {
    let candidates = rig.engine.explain(nth(0)).candidates;
    let backups = candidates.iter().filter(|it| it.route.backup);
    let names = backups.filter_map(|it| it.route.peer.as_deref().map(str::to_owned));
    names.collect()
}

#[test]
fn the_second_best_next_hop_is_kept_ready_and_follows_what_the_peers_say() {
    let mut rig = with_backups();
    assert_eq!(rig.fib[&nth(0)], [hop(2)]);
    assert_eq!(rig.backups[&nth(0)], [hop(3)]);
    assert_eq!(backups(&rig), ["p3"]);
    // The best stays as it is; only the second changes.
    say(&mut rig, "p4", 2);
    say(&mut rig, "p3", 3);
    assert_eq!(rig.backups[&nth(0)], [hop(4)]);
    rig.withdraw("p4", &[nth(0)]);
    assert_eq!(rig.backups[&nth(0)], [hop(3)]);
    rig.hop(hop(3), false);
    assert!(rig.backups[&nth(0)].is_empty(), "it cannot be reached");
    rig.hop(hop(3), true);
    assert_eq!(rig.backups[&nth(0)], [hop(3)]);
    // Another route with the same next hop is no backup.
    let mut same = by(&mut rig, "p3", 2);
    same.as_path = [Asn(65003), Asn(1)].into_iter().collect();
    rig.announce("p3", &[nth(0)], &same);
    assert!(rig.backups[&nth(0)].is_empty());
    // Several next hops that are used together need none.
    say(&mut rig, "p3", 1);
    assert_eq!(rig.fib[&nth(0)], [hop(2), hop(3)]);
    say(&mut rig, "p4", 2);
    assert!(rig.backups[&nth(0)].is_empty());
}

#[test]
fn a_backup_is_gone_over_to_before_any_route_changes() {
    let mut rig = with_backups();
    rig.fib_blocked = true;
    rig.disconnect("p2");
    assert_eq!(rig.down, [[hop(2)]]);
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
    rig.fib_blocked = false;
    rig.run();
    assert_eq!(rig.fib[&nth(0)], [hop(3)]);
    assert_eq!(rig.backups[&nth(0)], [hop(4)]);
    rig.wait(std::time::Duration::from_secs(2));
    rig.establish("p2");
    say(&mut rig, "p2", 1);
    assert_eq!(rig.fib[&nth(0)], [hop(2)]);
    assert_eq!(rig.backups[&nth(0)], [hop(3)]);
}

#[test]
fn backups_come_and_go_with_the_configuration() {
    let mut rig = with_backups();
    rig.config.decision.backup_paths = false;
    rig.configure();
    rig.run();
    assert!(rig.backups[&nth(0)].is_empty());
    assert!(backups(&rig).is_empty());
    rig.config.decision.backup_paths = true;
    rig.configure();
    rig.run();
    assert_eq!(rig.backups[&nth(0)], [hop(3)]);
}

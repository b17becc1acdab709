//! Graceful restart: what outlives a session, on both sides. RFC 4724, RFC 8538.

use std::time::Duration;

use bgp::config::GracefulRestart;
use bgp::engine::{Command, Restart};
use bgp::message::{self, Message};
use bgp::query::View;
use bgp::types::{Family, Prefix};

use crate::net::{Id, Link, Net};
use crate::world::{name, originated, own_prefix, seconds};

const MS: Duration = Duration::from_millis(1);

/// `left` – `middle` – `right`, three ASes, everything known everywhere.
fn line(seed: u64) -> (Net, [Id; 3]) {
    let mut net = Net::new(seed);
    let [left, middle, right] = [65000, 65001, 65002].map(|asn| net.speaker(asn));
    net.peer(left, middle);
    net.peer(middle, right);
    net.graceful();
    net.begin();
    net.advance(seconds(10));
    net.assert_all_reachable();
    (net, [left, middle, right])
}

/// Lets time pass, and notes whether `here` went on forwarding to `to` all the while.
fn forwards_for(net: &mut Net, here: Id, to: &[Prefix], time: Duration) -> bool {
    let end = net.time() + time;
    let mut always = true;
    while net.time() < end {
        net.advance(MS * 10);
        always &= to.iter().all(|prefix| net.forwards(here, *prefix));
    }
    always
}

/// Every pair of speakers forwards to each other for so long.
fn all_forward_for(net: &mut Net, time: Duration) -> bool {
    let end = net.time() + time;
    let count = net.speakers.len();
    let mut always = true;
    while net.time() < end {
        net.advance(MS * 10);
        for here in 0..count {
            for there in (0..count).filter(|there| *there != here) {
                always &= own_prefix(there).iter().all(|p| net.forwards(here, *p));
            }
        }
    }
    always
}

fn stale(net: &Net, here: Id, there: Id) -> [u64; 2] {
    let families = net.status(here, there).families;
    [families[0].stale, families[1].stale]
}

/// What the last OPEN from one to another said of restarts.
fn last_open(net: &Net, from: Id, to: Id) -> message::GracefulRestart {
    let opens = net.sent.iter().filter_map(|sent| match &sent.message {
        Message::Open(open) if (sent.from, sent.to) == (from, to) => Some(open),
        _ => None,
    });
    let last = opens.last().unwrap();
    last.capabilities.graceful_restart.clone().unwrap()
}

/// When `from` first told `to` of a route, or of the end of its routes, after `since`.
fn first_update(net: &Net, from: Id, to: Id, since: Duration) -> Option<Duration> {
    let mut sent = net.sent.iter();
    let update = sent.find(|sent| {
        let update = matches!(sent.message, Message::Update(_));
        update && (sent.from, sent.to) == (from, to) && sent.at >= since
    });
    update.map(|sent| sent.at)
}

#[test]
fn routes_of_a_peer_that_is_away_are_kept_for_its_restart_time_and_no_longer() {
    let (mut net, [left, middle, right]) = line(1);
    let behind = [own_prefix(middle), own_prefix(right)].concat();
    net.kill(middle);
    assert!(forwards_for(&mut net, left, &behind, seconds(119)));
    assert_eq!(stale(&net, left, middle), [2, 2]);
    assert!(
        net.rows(left, View::All)
            .iter()
            .all(|row| row.stale == row.peer.is_some())
    );
    let status = net.status(left, middle);
    let until = status.graceful_restart.unwrap().stale_until.unwrap();
    assert!(until > net.now && until <= net.now + seconds(1) + MS * 10);
    assert_eq!(status.families[0].received, 2, "they are still counted");
    net.advance(seconds(2));
    assert!(behind.iter().all(|prefix| !net.forwards(left, *prefix)));
    assert_eq!(stale(&net, left, middle), [0, 0]);
    assert_eq!(
        net.status(left, middle)
            .graceful_restart
            .unwrap()
            .stale_until,
        None
    );
}

#[test]
fn a_speaker_that_is_killed_and_comes_back_costs_nobody_a_route() {
    for seed in 0..10 {
        let (mut net, [_, middle, _]) = line(seed);
        let before = net.outcome();
        let legacy = net.legacy(middle);
        net.kill(middle);
        assert!(
            all_forward_for(&mut net, seconds(seed * 3)),
            "while it is away"
        );
        net.start_again(middle, Some(legacy));
        assert!(all_forward_for(&mut net, seconds(60)), "when it is back");
        assert_eq!(net.outcome(), before);
        for other in [0, 2] {
            assert_eq!(stale(&net, other, middle), [0, 0]);
            assert_eq!(net.speakers[middle].engine.deferral(), None);
        }
        net.assert_all_reachable();
    }
}

#[test]
fn what_a_peer_that_is_back_does_not_repeat_goes_at_its_end_of_rib() {
    let (mut net, [left, middle, right]) = line(2);
    let gone = own_prefix(right)[0];
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.advance(seconds(5));
    net.configure(right, |config| {
        config.originate = vec![originated(own_prefix(right)[1])]
    });
    let since = net.time();
    net.start_again(middle, Some(legacy));
    while net.end_of_ribs(middle, left).len() < 4 {
        assert!(net.forwards(left, gone), "before its End-of-RIB");
        assert!(net.time() < since + seconds(60));
        net.advance(MS / 2);
    }
    net.advance(seconds(1));
    assert!(!net.forwards(left, gone));
    assert!(net.forwards(left, own_prefix(right)[1]));
    assert_eq!(stale(&net, left, middle), [0, 0]);
}

#[test]
fn a_family_that_is_no_longer_spoken_goes_when_the_peer_is_back() {
    let (mut net, [left, middle, _]) = line(3);
    let [v4, v6] = own_prefix(middle);
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.advance(seconds(5));
    net.config_of(middle, left).families = vec![Family::Ipv4];
    net.start_again(middle, Some(legacy));
    assert!(forwards_for(&mut net, left, &[v4], seconds(20)));
    assert!(!net.forwards(left, v6));
    assert_eq!(net.state(left, middle), "Established");
}

#[test]
fn a_peer_that_has_not_gone_on_forwarding_loses_its_routes_when_it_is_back() {
    let (mut net, [left, middle, right]) = line(4);
    // So that there is time to look between OPEN and the routes that follow it.
    net.link(
        left,
        middle,
        Link {
            delay: MS * 100,
            ..Link::default()
        },
    );
    net.kill(middle);
    net.advance(seconds(5));
    net.speakers[middle].fib.clear();
    let legacy = Restart {
        preserved: vec![Family::Ipv6],
        ..net.legacy(middle)
    };
    net.start_again(middle, Some(legacy));
    let [kept, lost] = [own_prefix(right)[1], own_prefix(right)[0]];
    let mut seen_without = false;
    for _ in 0..2000 {
        net.advance(MS * 10);
        assert!(net.forwards(left, kept));
        seen_without |= !net.forwards(left, lost);
    }
    assert!(seen_without);
    net.assert_all_reachable();
    let said = last_open(&net, middle, left);
    assert!(said.restarting && said.preserved(Family::Ipv6) && !said.preserved(Family::Ipv4));
}

#[test]
fn a_second_failure_takes_what_was_still_stale() {
    let (mut net, [left, middle, right]) = line(5);
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.advance(seconds(5));
    // It is back and would repeat everything, but it waits for somebody who does not come.
    net.speakers[right].listening = false;
    net.cut(middle, right);
    net.start_again(middle, Some(legacy));
    net.advance(seconds(20));
    assert_eq!(net.state(left, middle), "Established");
    assert_eq!(stale(&net, left, middle), [2, 2]);
    net.kill(middle);
    net.advance(seconds(1));
    assert_eq!(stale(&net, left, middle), [0, 0]);
    assert!(!net.forwards(left, own_prefix(middle)[0]));
}

#[test]
fn what_was_repeated_survives_a_second_failure() {
    let (mut net, [left, middle, right]) = line(6);
    let behind = [own_prefix(middle), own_prefix(right)].concat();
    for _ in 0..5 {
        let legacy = net.legacy(middle);
        net.kill(middle);
        assert!(forwards_for(&mut net, left, &behind, seconds(7)));
        net.start_again(middle, Some(legacy));
        assert!(forwards_for(&mut net, left, &behind, seconds(40)));
    }
    net.assert_all_reachable();
}

#[test]
fn a_notification_leaves_the_routes_and_a_hard_reset_takes_them() {
    let (mut net, [left, middle, _]) = line(7);
    let peer = name(left);
    let message = String::new();
    net.command(
        middle,
        Command::Reset {
            peer: peer.clone(),
            message: message.clone(),
        },
    );
    assert!(all_forward_for(&mut net, seconds(30)));
    assert_eq!(net.notifications(middle, left).len(), 1);
    net.assert_all_reachable();

    net.command(middle, Command::Shutdown { peer, message });
    net.advance(seconds(1));
    let said = net.notifications(middle, left);
    assert!(said[1].is_hard_reset(), "{}", said[1]);
    assert!(!net.forwards(left, own_prefix(middle)[0]));
    assert!(!net.forwards(middle, own_prefix(left)[0]));
}

#[test]
fn shutting_down_or_removing_a_peer_that_is_away_takes_its_routes() {
    for removed in [false, true] {
        let (mut net, [left, middle, _]) = line(8);
        net.kill(middle);
        net.advance(seconds(5));
        assert!(net.forwards(left, own_prefix(middle)[0]));
        if removed {
            net.configure(left, |config| {
                config.peers.clear();
                config.advertisements[0].peers.clear();
            });
        } else {
            let peer = name(middle);
            net.command(
                left,
                Command::Shutdown {
                    peer,
                    message: String::new(),
                },
            );
        }
        net.advance(seconds(1));
        assert!(!net.forwards(left, own_prefix(middle)[0]));
        assert!(
            net.rows(left, View::All)
                .iter()
                .all(|row| row.peer.is_none())
        );
    }
}

#[test]
fn a_peer_that_falls_silent_keeps_its_routes() {
    let (mut net, [left, middle, _]) = line(9);
    net.cut(left, middle);
    assert!(
        all_forward_for(&mut net, seconds(100)),
        "the hold time is 90 s"
    );
    assert_eq!(stale(&net, left, middle), [2, 2]);
    net.mend(left, middle);
    assert!(all_forward_for(&mut net, seconds(60)));
    assert_eq!(stale(&net, left, middle), [0, 0]);
    net.assert_all_reachable();
}

#[test]
fn a_machine_that_comes_back_before_anybody_noticed_takes_its_old_connections_place() {
    let (mut net, [left, middle, right]) = line(10);
    let legacy = net.legacy(middle);
    net.vanish(middle);
    net.advance(seconds(20));
    assert_eq!(net.state(left, middle), "Established", "nobody has noticed");
    net.start_again(middle, Some(legacy));
    assert!(all_forward_for(&mut net, seconds(30)));
    for other in [left, right] {
        assert_eq!(net.state(other, middle), "Established");
        assert_eq!(net.status(other, middle).established_count, 2);
        assert!(net.notifications(other, middle).is_empty());
    }
    net.assert_all_reachable();
}

#[test]
fn a_peer_that_is_back_and_never_comes_to_an_end_is_not_waited_for_for_ever() {
    let (mut net, [left, middle, right]) = line(11);
    let times = GracefulRestart {
        restart_seconds: 4095,
        stale_seconds: 50,
        long_lived: None,
    };
    for (here, there) in [
        (left, middle),
        (middle, left),
        (middle, right),
        (right, middle),
    ] {
        net.reconfigure(here, there, |peer| peer.graceful_restart = Some(times));
    }
    net.advance(seconds(30));
    net.assert_all_reachable();
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.cut(middle, right);
    net.start_again(middle, Some(legacy));
    net.advance(seconds(40));
    assert_eq!(net.state(left, middle), "Established");
    assert_eq!(stale(&net, left, middle), [2, 2]);
    net.advance(seconds(20));
    assert_eq!(stale(&net, left, middle), [0, 0]);
    assert!(!net.forwards(left, own_prefix(middle)[0]));
}

#[test]
fn open_tells_the_truth_about_a_restart() {
    let (mut net, [left, middle, _]) = line(12);
    let first = last_open(&net, middle, left);
    assert!(!first.restarting && first.notification && first.seconds == 120);
    assert!(
        Family::ALL
            .iter()
            .all(|f| first.covers(*f) && !first.preserved(*f))
    );

    net.reset_connections(left, middle);
    net.advance(seconds(20));
    let lost = last_open(&net, middle, left);
    assert!(!lost.restarting, "losing a session is no restart");
    assert!(Family::ALL.iter().all(|f| lost.preserved(*f)));

    let legacy = net.legacy(middle);
    net.kill(middle);
    net.start_again(middle, Some(legacy));
    net.advance(seconds(20));
    let back = last_open(&net, middle, left);
    assert!(back.restarting && Family::ALL.iter().all(|f| back.preserved(*f)));

    net.reset_connections(left, middle);
    net.advance(seconds(20));
    assert!(!last_open(&net, middle, left).restarting, "it is over");
}

#[test]
fn nothing_is_told_before_all_peers_have_said_all() {
    let (mut net, [left, middle, right]) = line(13);
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.link(
        middle,
        right,
        Link {
            delay: MS * 700,
            ..Link::default()
        },
    );
    let since = net.time();
    net.start_again(middle, Some(legacy));
    let fib = net.speakers[middle].adopted.clone();
    while net.end_of_ribs(right, middle).len() < 4 {
        net.advance(MS);
        assert!(net.time() < since + seconds(60));
    }
    // Sent, but 700 ms away.
    net.advance(MS * 600);
    assert_eq!(net.state(left, middle), "Established");
    assert_eq!(first_update(&net, middle, left, since), None);
    assert_eq!(net.speakers[middle].adopted, fib);
    assert!(net.speakers[middle].fib.is_empty());
    let deferral = net.speakers[middle].engine.deferral().unwrap();
    assert_eq!(deferral.waiting_for, [name(right)]);
    net.advance(MS * 200);
    assert!(first_update(&net, middle, left, since).is_some());
    assert_eq!(net.speakers[middle].fib, fib);
    net.advance(seconds(10));
    net.assert_all_reachable();
}

#[test]
fn a_peer_that_does_not_come_back_is_waited_for_until_our_restart_time_is_up() {
    let (mut net, [left, middle, right]) = line(14);
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.kill(right);
    let since = net.time();
    net.start_again(middle, Some(legacy));
    net.advance(seconds(119));
    assert_eq!(first_update(&net, middle, left, since), None);
    net.advance(seconds(2));
    assert!(first_update(&net, middle, left, since).is_some());
    assert_eq!(net.end_of_ribs(middle, left).len(), 4);
    assert_eq!(net.speakers[middle].engine.deferral(), None);
    assert!(!net.forwards(left, own_prefix(right)[0]));
    assert!(net.forwards(left, own_prefix(middle)[0]));
}

#[test]
fn peers_that_were_not_there_or_did_not_offer_it_or_have_restarted_themselves_are_not_waited_for() {
    // One that was away before the restart.
    let (mut net, [left, middle, right]) = line(15);
    net.kill(right);
    net.advance(seconds(5));
    net.kill(middle);
    let since = net.time();
    let legacy = Restart {
        peers: vec![name(left)],
        ..net.legacy(middle)
    };
    net.start_again(middle, Some(legacy));
    net.advance(seconds(15));
    assert!(first_update(&net, middle, left, since).is_some());

    // One that does not offer it any more.
    let (mut net, [left, middle, right]) = line(16);
    let legacy = net.legacy(middle);
    net.kill(middle);
    net.reconfigure(right, middle, |peer| peer.graceful_restart = None);
    net.configure(right, |config| config.originate.clear());
    let since = net.time();
    net.start_again(middle, Some(legacy));
    net.advance(seconds(15));
    assert!(first_update(&net, middle, left, since).is_some());

    // All at once.
    let (mut net, ids) = line(17);
    let legacies = ids.map(|id| net.legacy(id));
    ids.into_iter().for_each(|id| net.kill(id));
    for (id, legacy) in ids.into_iter().zip(legacies) {
        net.start_again(id, Some(legacy));
    }
    assert!(all_forward_for(&mut net, seconds(30)));
    assert!(
        ids.iter()
            .all(|id| net.speakers[*id].engine.deferral().is_none())
    );
    net.assert_all_reachable();
}

#[test]
fn a_first_start_holds_nothing_back() {
    let mut net = Net::new(18);
    let [left, middle, right] = [65000, 65001, 65002].map(|asn| net.speaker(asn));
    net.peer(left, middle);
    net.peer(middle, right);
    net.graceful();
    net.speakers[right].listening = false;
    net.cut(middle, right);
    net.begin();
    net.advance(seconds(2));
    assert!(net.forwards(left, own_prefix(middle)[0]));
    assert!(net.forwards(middle, own_prefix(left)[0]));
    assert_eq!(net.end_of_ribs(middle, left).len(), 2);
    // Neither does a start after too long a time: to the engine it is a first one.
    net.kill(middle);
    net.advance(seconds(200));
    net.start_again(middle, None);
    net.advance(seconds(20));
    assert!(net.forwards(left, own_prefix(middle)[0]));
}

#[test]
fn without_graceful_restart_routes_go_with_the_session() {
    let (mut net, [left, middle, _]) = line(19);
    net.reconfigure(left, middle, |peer| peer.graceful_restart = None);
    net.advance(seconds(30));
    net.assert_all_reachable();
    net.kill(middle);
    net.advance(seconds(1));
    assert!(!net.forwards(left, own_prefix(middle)[0]));
}

#[test]
fn policies_are_asked_again_about_routes_of_a_peer_that_is_away() {
    let (mut net, [left, middle, _]) = line(20);
    net.kill(middle);
    net.advance(seconds(5));
    net.reconfigure(left, middle, |peer| peer.import.clear());
    net.advance(seconds(1));
    assert!(!net.forwards(left, own_prefix(middle)[0]));
    net.reconfigure(left, middle, |peer| {
        peer.import = vec![crate::world::OPEN.into()]
    });
    net.advance(seconds(1));
    assert!(net.forwards(left, own_prefix(middle)[0]));
}

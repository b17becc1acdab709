//! What a person and a new configuration do to a session.

use bgp::config::{NextHopMode, Set};
use bgp::engine::Command;
use bgp::message::{Cease, Message, Notification, RefreshKind};
use bgp::types::{Asn, Community};

use crate::net::{Id, Net};
use crate::world::{OPEN, established_pair, name, own_prefix, seconds};

fn shutdown(peer: Id, message: &str) -> Command {
    Command::Shutdown {
        peer: name(peer),
        message: message.into(),
    }
}

fn reset(peer: Id, message: &str) -> Command {
    Command::Reset {
        peer: name(peer),
        message: message.into(),
    }
}

#[test]
fn a_shutdown_tells_the_peer_why_and_lasts_until_it_is_undone() {
    let (mut net, a, b) = established_pair(1);
    net.command(a, shutdown(b, "new line card, back at 10"));
    net.advance(seconds(600));
    let told = Notification::cease(Cease::AdministrativeShutdown, "new line card, back at 10");
    assert_eq!(net.notifications(a, b), [told]);
    assert!(net.last_error(b, a).contains("new line card, back at 10"));
    assert_eq!(net.state(a, b), "Idle");
    assert_ne!(net.state(b, a), "Established");
    assert!(net.speakers[b].fib.is_empty());

    net.command(a, Command::Enable { peer: name(b) });
    net.advance(seconds(10));
    assert_eq!(net.state(a, b), "Established");
    net.assert_all_reachable();
}

#[test]
fn a_shutdown_by_configuration_carries_its_text_too() {
    let (mut net, a, b) = established_pair(2);
    net.reconfigure(a, b, |peer| peer.shutdown = Some("maintenance".into()));
    net.advance(seconds(60));
    assert_eq!(
        net.notifications(a, b),
        [Notification::cease(
            Cease::AdministrativeShutdown,
            "maintenance"
        )]
    );
    assert_eq!(net.status(a, b).shutdown.as_deref(), Some("maintenance"));
    net.reconfigure(a, b, |peer| peer.shutdown = None);
    net.advance(seconds(10));
    assert_eq!(net.state(a, b), "Established");
}

#[test]
fn a_session_that_either_side_resets_comes_back_within_seconds() {
    for first in [true, false] {
        let (mut net, a, b) = established_pair(3);
        let (here, there) = if first { (a, b) } else { (b, a) };
        net.command(here, reset(there, "again"));
        assert_ne!(net.state(here, there), "Established");
        net.advance(seconds(8));
        assert_eq!(
            net.notifications(here, there),
            [Notification::cease(Cease::AdministrativeReset, "again")]
        );
        for (here, there) in [(a, b), (b, a)] {
            let status = net.status(here, there);
            assert_eq!((status.state, status.established_count), ("Established", 2));
        }
        net.assert_all_reachable();
    }
}

#[test]
fn a_speaker_that_is_killed_and_started_again_ends_in_the_same_state() {
    let mut net = Net::new(4);
    let ids: Vec<_> = (0..3).map(|i| net.speaker(65000 + i)).collect();
    net.peer(ids[0], ids[1]);
    net.peer(ids[1], ids[2]);
    net.begin();
    net.advance(seconds(10));
    let (before, fib) = (net.outcome(), net.speakers[1].fib.clone());
    net.restart(ids[1]);
    net.advance(seconds(1) / 100);
    assert!(net.speakers[0].fib.is_empty());
    net.advance(seconds(20));
    assert_eq!(net.outcome(), before);
    assert_eq!(net.speakers[1].fib, fib);
    net.assert_all_reachable();
}

#[test]
fn a_soft_reset_asks_for_all_routes_again_and_keeps_the_session() {
    let (mut net, a, b) = established_pair(5);
    let before = net.outcome();
    net.command(a, Command::SoftReset { peer: name(b) });
    net.advance(seconds(5));
    let kinds = |from, to| -> Vec<RefreshKind> {
        let sent = net.sent.iter();
        let sent = sent.filter(|sent| (sent.from, sent.to) == (from, to));
        sent.filter_map(|sent| match sent.message {
            Message::RouteRefresh { kind, .. } => Some(kind),
            _ => None,
        })
        .collect()
    };
    let of = |kind, kinds: &[RefreshKind]| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(of(RefreshKind::Request, &kinds(a, b)), 2, "one a family");
    assert_eq!(of(RefreshKind::Begin, &kinds(b, a)), 2);
    assert_eq!(of(RefreshKind::End, &kinds(b, a)), 2);
    assert_eq!(net.status(a, b).established_count, 1);
    assert_eq!(net.outcome(), before);
}

#[test]
fn a_policy_change_is_applied_without_resetting_anything() {
    let (mut net, a, b) = established_pair(6);
    let community: Community = "65000:7".parse().unwrap();
    net.configure(a, |config| {
        config.policies[0].rules[0].set = vec![Set::AddCommunity(community)];
    });
    net.advance(seconds(5));
    for prefix in own_prefix(a) {
        let rows = net.rows(b, bgp::query::View::Best);
        let row = rows.iter().find(|row| row.prefix == prefix).unwrap();
        assert_eq!(row.attributes.communities, [community]);
    }
    net.reconfigure(b, a, |peer| peer.import.clear()); // closed: RFC 8212
    net.advance(seconds(5));
    assert_eq!(net.path(b, own_prefix(a)[0]), None);
    net.assert_fib(b);
    net.reconfigure(b, a, |peer| peer.import = vec![OPEN.into()]);
    net.reconfigure(a, b, |peer| peer.export.clear());
    net.advance(seconds(5));
    assert_eq!(net.path(b, own_prefix(a)[0]), None);
    net.reconfigure(a, b, |peer| peer.export = vec![OPEN.into()]);
    net.advance(seconds(5));
    net.assert_all_reachable();
    assert_eq!(net.status(a, b).established_count, 1);
    assert_eq!(net.notifications(a, b), []);
}

#[test]
fn a_configuration_change_resets_only_the_sessions_that_it_must() {
    let mut net = Net::new(7);
    let (a, b, c) = (net.speaker(65000), net.speaker(65001), net.speaker(65002));
    net.peer(a, b);
    net.peer(a, c);
    net.begin();
    net.advance(seconds(5));
    net.reconfigure(a, b, |peer| peer.description = "the other rack".into());
    net.reconfigure(a, b, |peer| peer.timers.keepalive = 5);
    net.reconfigure(a, b, |peer| peer.timers.connect_retry = 9);
    net.reconfigure(a, b, |peer| peer.passive = true);
    net.reconfigure(a, b, |peer| peer.passive = false);
    net.reconfigure(a, b, |peer| peer.next_hop = NextHopMode::Self_);
    net.reconfigure(a, b, |peer| peer.allow_own_as = 1);
    net.advance(seconds(60));
    assert_eq!(net.status(a, b).established_count, 1);

    net.reconfigure(a, b, |peer| peer.timers.hold = 30);
    net.advance(seconds(10));
    let status = net.status(a, b);
    assert_eq!(status.established_count, 2);
    assert_eq!(status.hold, Some(seconds(30)));
    let cease = Notification::cease(Cease::OtherConfigurationChange, "");
    assert_eq!(net.notifications(a, b), [cease]);
    assert_eq!(net.status(a, c).established_count, 1);
    net.assert_all_reachable();
}

#[test]
fn a_peer_taken_out_of_the_configuration_is_told_so_and_its_routes_go() {
    let (mut net, a, b) = established_pair(8);
    net.configure(a, |config| {
        config.peers.clear();
        config.advertisements[0].peers.clear();
    });
    net.advance(seconds(60));
    let told = &net.notifications(a, b)[0];
    assert_eq!(*told, Notification::cease(Cease::PeerDeConfigured, ""));
    assert!(net.speakers[a].fib.is_empty() && net.speakers[b].fib.is_empty());
    assert!(
        net.rows(a, bgp::query::View::All).len() <= 2,
        "only its own"
    );
}

#[test]
fn a_configuration_with_a_mistake_changes_nothing() {
    let (mut net, a, b) = established_pair(9);
    let mut wrong = net.speakers[a].config.clone();
    wrong.asn = Asn(64999);
    wrong.peers[0].import = vec!["no such policy".into()];
    let result = net.with(a, |engine, now| engine.configure(now, wrong));
    assert!(result.is_err());
    net.advance(seconds(60));
    assert_eq!(net.status(a, b).established_count, 1);
    net.assert_all_reachable();
}

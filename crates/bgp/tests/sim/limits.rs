//! How many prefixes a peer may send, and what becomes of one that sends more.

use bgp::codec::UpdateBuilder;
use bgp::config::{LimitAction, PrefixLimits};
use bgp::engine::Command;
use bgp::message::Notification;
use bgp::types::{Family, Prefix};
use bytes::BytesMut;

use crate::net::{Id, Net};
use crate::world::{established_pair, name, originated, seconds};

fn limit(ipv4: u32) -> PrefixLimits {
    PrefixLimits {
        ipv4: Some(ipv4),
        ipv6: None,
        warn_at_percent: 75,
        action: LimitAction::Drop,
        restart_seconds: Some(300),
    }
}

/// Speaker `id` originates so many IPv4 prefixes and its one of IPv6.
fn originate(net: &mut Net, id: Id, count: u8) {
    let prefix = |n| Prefix::new(std::net::Ipv4Addr::new(10, 80, n, 0).into(), 24);
    net.configure(id, |config| {
        config
            .originate
            .retain(|own| own.prefix.family() == Family::Ipv6);
        config
            .originate
            .extend((0..count).map(|n| originated(prefix(n))));
    });
}

fn received(net: &Net, here: Id, there: Id) -> u64 {
    net.status(here, there).families[0].received
}

#[test]
fn a_peer_that_sends_one_prefix_too_many_is_told_its_limit_and_stays_away_for_the_time_given() {
    let (mut net, a, b) = established_pair(1);
    originate(&mut net, b, 20);
    net.advance(seconds(5));
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(limit(20)));
    net.advance(seconds(5));
    assert_eq!((net.state(a, b), received(&net, a, b)), ("Established", 20));

    originate(&mut net, b, 21);
    net.advance(seconds(5));
    let told = Notification::maximum_prefixes(Family::Ipv4, 20);
    assert_eq!(&told.data[..], [0, 1, 1, 0, 0, 0, 20]);
    assert_eq!(net.notifications(a, b), std::slice::from_ref(&told));
    assert_eq!(net.state(a, b), "Idle");
    assert!(net.status(a, b).over_limit);
    assert!(net.last_error(a, b).contains("more than 20 IPv4 prefixes"));
    assert!(
        net.last_error(b, a)
            .contains("Maximum Number of Prefixes Reached (20 of IPv4)")
    );
    assert!(net.speakers[a].fib.is_empty(), "its routes go with it");

    // It knocks, and is not let in.
    net.advance(seconds(290));
    assert_eq!(net.state(a, b), "Idle");
    assert_eq!(net.notifications(a, b).len(), 1);

    // It still sends too many: away again. It has learnt its lesson: welcome.
    net.advance(seconds(60));
    assert_eq!(net.notifications(a, b), [told.clone(), told]);
    originate(&mut net, b, 5);
    net.advance(seconds(400));
    assert_eq!((net.state(a, b), received(&net, a, b)), ("Established", 5));
    assert!(!net.status(a, b).over_limit);
    net.assert_fib(a);
}

#[test]
fn a_limit_without_a_restart_time_waits_for_a_person() {
    let (mut net, a, b) = established_pair(2);
    let never = PrefixLimits {
        restart_seconds: None,
        ..limit(3)
    };
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(never));
    originate(&mut net, b, 4);
    net.advance(seconds(100_000));
    assert_eq!((net.state(a, b), net.status(a, b).retry_at), ("Idle", None));
    assert!(net.status(a, b).over_limit);
    originate(&mut net, b, 3);
    net.command(a, Command::Enable { peer: name(b) });
    net.advance(seconds(10));
    assert_eq!((net.state(a, b), received(&net, a, b)), ("Established", 3));
}

#[test]
fn with_warn_the_session_goes_on() {
    let (mut net, a, b) = established_pair(3);
    let warn = PrefixLimits {
        action: LimitAction::Warn,
        ..limit(3)
    };
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(warn));
    originate(&mut net, b, 50);
    net.advance(seconds(20));
    assert_eq!((net.state(a, b), received(&net, a, b)), ("Established", 50));
    assert!(!net.status(a, b).over_limit);
}

#[test]
fn a_limit_below_what_a_peer_has_sent_already_holds_at_once_and_a_higher_one_lets_it_back() {
    let (mut net, a, b) = established_pair(4);
    originate(&mut net, b, 10);
    net.advance(seconds(5));
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(limit(9)));
    assert_eq!(net.state(a, b), "Idle");
    net.advance(seconds(20));
    assert_eq!(net.state(a, b), "Idle");
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(limit(10)));
    net.advance(seconds(10));
    assert_eq!((net.state(a, b), received(&net, a, b)), ("Established", 10));
}

#[test]
fn prefixes_said_again_changed_or_withdrawn_do_not_count_twice() {
    let (mut net, a, b) = established_pair(5);
    originate(&mut net, b, 10);
    net.advance(seconds(5));
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(limit(10)));
    for round in 0..20 {
        originate(&mut net, b, 10 - round % 2 * 9);
        net.advance(seconds(2));
        net.command(a, Command::SoftReset { peer: name(b) });
        net.advance(seconds(2));
    }
    assert_eq!(net.status(a, b).established_count, 1);
}

#[test]
fn ten_million_prefixes_cost_the_limit_and_a_message() {
    let (mut net, a, b) = established_pair(6);
    net.reconfigure(a, b, |peer| peer.max_prefixes = Some(limit(1000)));
    let block = [
        &[0x40, 1, 1, 0][..],                  // ORIGIN
        &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9], // AS_PATH 65001
    ]
    .concat();
    let next_hop = bgp::attributes::NextHop {
        address: net.speakers[b].v4.into(),
        link_local: None,
    };
    let before = net.status(a, b).received.update;
    let mut most = 0;
    for million in 0..10_u32 {
        let mut bytes = BytesMut::new();
        let builder = UpdateBuilder::announce(&block, next_hop, Family::Ipv4, 4096, &mut bytes);
        let mut builder = builder.unwrap();
        for n in 0..1_000_000_u32 {
            let address = 0x2000_0000 + (million * 1_000_000 + n) * 16;
            builder.push(Prefix::new(std::net::Ipv4Addr::from(address).into(), 28));
        }
        builder.finish();
        for piece in bytes.chunks(4096) {
            net.inject(b, a, piece);
            net.advance(std::time::Duration::from_millis(1));
            let status = net.speakers[a].engine.status();
            most = most.max(status.paths[&Family::Ipv4]);
        }
    }
    assert_eq!(net.notifications(a, b).len(), 1, "{}", net.last_error(a, b));
    assert_eq!(net.state(a, b), "Idle");
    // A message of 4,096 octets has 812 such prefixes: the second is the one too many, and nothing
    // behind it is looked at.
    assert_eq!(net.status(a, b).received.update - before, 2);
    assert!(most <= 1000 + 812, "{most} paths");
}

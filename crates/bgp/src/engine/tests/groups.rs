use std::time::Duration;

use super::rig::{Rig, config, nth, peer, policy, prefix, rule};
use crate::attributes::Attributes;
use crate::config::{Action, Advertisement, Match, Originated, PrefixMatch, Set};
use crate::engine::Input;
use crate::message::RefreshKind;
use crate::types::{Community, Family, Prefix};

/// Enough for several batches.
const MANY: u32 = 5_000;

fn many(count: u32) -> Vec<Prefix> {
    (0..count).map(nth).collect()
}

#[test]
fn members_of_a_group_are_sent_the_same_bytes() {
    let mut rig = Rig::with_peers(4);
    for peer in ["p3", "p4", "p5"] {
        rig.script(peer).raw.clear();
    }
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    let first = rig.script("p3").raw.clone();
    assert!(!first.is_empty());
    assert_eq!(rig.script("p4").raw, first);
    assert_eq!(rig.script("p5").raw, first);
    assert_eq!(rig.script("p5").heard.len(), MANY as usize);
}

#[test]
fn a_route_does_not_go_back_to_the_peer_it_came_from() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    assert!(rig.script("p2").heard.is_empty());
    // The other one's route is better now: the first peer hears of it, the other one no more.
    let better = Attributes {
        origin: crate::config::Origin::Igp,
        ..rig.own("p3")
    };
    let worse = Attributes {
        origin: crate::config::Origin::Egp,
        ..attributes
    };
    assert!(rig.script("p3").heard.contains_key(&nth(1)));
    rig.announce("p3", &[nth(1)], &better);
    rig.announce("p2", &[nth(1)], &worse);
    assert!(rig.script("p2").heard.contains_key(&nth(1)));
    assert!(rig.script("p3").heard.is_empty());
    rig.withdraw("p3", &[nth(1)]);
    assert!(rig.script("p2").heard.is_empty());
    assert!(rig.script("p3").heard.contains_key(&nth(1)));
    assert!(rig.script("p2").superfluous.is_empty() && rig.script("p3").superfluous.is_empty());
}

#[test]
fn two_peers_with_the_very_same_attributes_are_told_apart_as_sources() {
    // Two sessions to one AS with the same next hop: the sets are one, the sources are not.
    let mut rig = Rig::new(config(vec![
        peer("p2", 65002, 2),
        peer("p3", 65002, 3),
        peer("p4", 65004, 4),
    ]));
    rig.establish_all();
    let attributes = rig.own("p2");
    rig.announce("p3", &[nth(1)], &attributes);
    assert!(rig.script("p2").heard.contains_key(&nth(1)));
    rig.script("p4").announced.clear();
    rig.announce("p2", &[nth(1)], &attributes); // lower router id: the best one now
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p2"));
    assert!(rig.script("p2").heard.is_empty());
    assert!(rig.script("p3").heard.contains_key(&nth(1)));
    assert!(
        rig.script("p4").announced.is_empty(),
        "nothing changed for others"
    );
}

#[test]
fn a_burst_of_changes_is_told_once() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    for med in 0..50 {
        let attributes = Attributes {
            communities: vec![Community(med)],
            ..attributes.clone()
        };
        rig.say("p2", &[nth(1)], &attributes);
    }
    rig.run();
    // The next hop's state came in between, so that the first may have gone out by itself.
    assert!(rig.script("p3").announced.len() <= 2);
    assert_eq!(rig.script("p3").heard[&nth(1)].communities, [Community(49)]);
}

#[test]
fn what_was_never_told_is_not_withdrawn() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(0)], &attributes); // the next hop is known from here on
    rig.script("p3").raw.clear();
    rig.say("p2", &[nth(1)], &attributes);
    rig.withdraw("p2", &[nth(1)]);
    assert!(rig.script("p3").raw.is_empty());
}

#[test]
fn a_slow_member_costs_bounded_memory_and_ends_up_with_the_present_state() {
    let mut rig = Rig::with_peers(3);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    rig.script("p4").blocked = true;
    let before = rig.script("p4").announced.len();
    for round in 0..40 {
        let attributes = Attributes {
            communities: (0..200).map(|n| Community(round << 16 | n)).collect(),
            ..attributes.clone()
        };
        rig.announce("p2", &many(MANY), &attributes);
        let kept = rig
            .engine
            .v4
            .groups
            .iter()
            .flatten()
            .map(|group| group.kept());
        assert!(kept.sum::<usize>() <= 1024 * 1024 + 64 * 1024);
    }
    rig.withdraw("p2", &many(10));
    assert_eq!(rig.script("p3").heard.len(), MANY as usize - 10);
    assert_eq!(rig.script("p4").announced.len(), before);
    assert!(rig.status("p4").families[0].pending > 0);
    rig.unblock("p4");
    assert_eq!(rig.status("p4").families[0].pending, 0);
    let (fast, slow) = (
        rig.script("p3").heard.clone(),
        rig.script("p4").heard.clone(),
    );
    assert_eq!(fast, slow);
    let told = rig.script("p4").announced.len() - before;
    assert!(told < 3 * MANY as usize, "not all forty rounds: {told}");
    assert!(rig.script("p4").superfluous.is_empty());
}

#[test]
fn a_member_that_joins_during_churn_gets_everything_once_and_an_end_of_rib() {
    let mut rig = Rig::with_peers(2);
    let mut with_late = rig.config.clone();
    with_late.peers.push(peer("late", 65009, 9));
    rig.config = with_late;
    rig.configure();
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    // Changes are waiting when it joins.
    let changed = Attributes {
        med: Some(1),
        communities: vec![Community(5)],
        ..attributes.clone()
    };
    rig.say("p2", &many(100), &changed);
    rig.establish("late");
    rig.announce("p2", &many(200), &changed);
    let present = rig.script("p3").heard.clone();
    assert_eq!(rig.script("late").heard, present);
    assert_eq!(rig.script("late").ends_of_rib, [Family::Ipv4, Family::Ipv6]);
    assert!(rig.script("late").superfluous.is_empty());
    assert!(rig.status("late").families[0].end_of_rib_sent);
    assert_eq!(rig.status("late").families[0].advertised, u64::from(MANY));
}

#[test]
fn the_end_of_rib_comes_after_all_routes() {
    let mut rig = Rig::with_peers(1);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    rig.config.peers.push(peer("late", 65009, 9));
    rig.configure();
    rig.establish("late");
    let raw = rig.script("late").raw.to_vec();
    let end = [[0xFF; 16].as_slice(), &[0, 23, 2, 0, 0, 0, 0]].concat();
    let at = raw.windows(23).position(|w| w == end).unwrap();
    // Behind it there is only the End-of-RIB of IPv6.
    assert_eq!(raw.len() - at, 23 + 29);
}

#[test]
fn a_session_that_ends_has_its_routes_withdrawn_everywhere() {
    let mut rig = Rig::with_peers(3);
    let (two, three) = (rig.own("p2"), rig.own("p3"));
    rig.announce("p2", &many(MANY), &two);
    rig.announce("p3", &many(10), &three);
    assert_eq!(rig.fib.len(), MANY as usize);
    rig.disconnect("p2");
    assert_eq!(rig.fib.len(), 10);
    assert_eq!(rig.script("p4").heard.len(), 10);
    assert_eq!(rig.engine.status().paths[&Family::Ipv4], 10);
    rig.disconnect("p3");
    assert!(rig.fib.is_empty());
    assert!(rig.script("p4").heard.is_empty() && rig.script("p4").superfluous.is_empty());
    assert!(rig.tracked.is_empty());
}

#[test]
fn a_session_that_comes_back_at_once_keeps_what_it_says_again() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    let conn = rig.script("p2").conn;
    let input = crate::engine::Input::Closed { conn, error: None };
    rig.engine.handle(rig.now, input);
    // The removal has not run yet.
    rig.wait(Duration::from_secs(60));
    rig.establish("p2");
    rig.announce("p2", &many(100), &attributes);
    assert_eq!(rig.fib.len(), 100);
    assert_eq!(rig.script("p3").heard.len(), 100);
    assert_eq!(rig.status("p2").families[0].received, 100);
}

#[test]
fn memory_is_given_back_when_routes_are_gone() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    for round in 0..5 {
        for index in 0..MANY {
            let attributes = Attributes {
                communities: vec![Community(index)],
                ..attributes.clone()
            };
            rig.say("p2", &[nth(round * MANY + index)], &attributes);
        }
        rig.run();
        let all: Vec<Prefix> = (0..MANY).map(|index| nth(round * MANY + index)).collect();
        rig.withdraw("p2", &all);
        rig.wait(Duration::from_secs(10));
        // Other prefixes each round take the places of those before them.
        assert_eq!(rig.engine.v4.table.entries.len(), 0);
    }
    assert_eq!(rig.engine.status().paths[&Family::Ipv4], 0);
    assert!(
        rig.engine.status().attribute_sets <= 1100,
        "only what was decoded lately"
    );
    rig.disconnect("p2");
    rig.disconnect("p3");
    assert_eq!(rig.engine.status().attribute_sets, 0);
}

#[test]
fn what_a_group_was_to_tell_is_let_go_of_piece_by_piece() {
    let mut rig = Rig::with_peers(2);
    let (two, three) = (rig.own("p2"), rig.own("p3"));
    let many: Vec<Prefix> = (0..20_000).map(nth).collect();
    rig.announce("p2", &many, &two);
    rig.announce("p3", &many[..1], &three);
    // Both are in the group that has all of it.
    rig.disconnect("p3");
    assert!(
        rig.engine.poll_timeout() > Some(rig.now),
        "nothing is left to be done"
    );
    let conn = rig.script("p2").conn;
    let closed = Input::Closed { conn, error: None };
    rig.engine.handle(rig.now, closed);
    let mut turns = 0;
    while rig.engine.poll_timeout() <= Some(rig.now) {
        assert!(
            rig.engine.status().attribute_sets > 0,
            "after {turns} turns"
        );
        rig.engine.handle_timeout(rig.now);
        turns += 1;
    }
    assert!(turns > 2, "{turns} turns for a whole table");
    rig.run();
    assert_eq!(rig.engine.status().attribute_sets, 0);
}

#[test]
fn the_places_of_dead_prefixes_are_used_again_although_a_member_does_not_read() {
    let mut rig = Rig::with_peers(3);
    let attributes = rig.own("p2");
    rig.script("p4").blocked = true;
    for round in 0..20 {
        let all: Vec<Prefix> = (0..1000).map(|index| nth(round * 1000 + index)).collect();
        rig.announce("p2", &all, &attributes);
        rig.withdraw("p2", &all);
        rig.wait(Duration::from_secs(10));
    }
    assert!(rig.engine.v4.table.entries.end() <= 2000);
    rig.announce("p2", &[nth(7)], &attributes);
    rig.unblock("p4");
    assert_eq!(rig.script("p4").heard.len(), 1);
    assert!(rig.script("p4").superfluous.is_empty());
}

#[test]
fn a_policy_change_is_applied_without_the_peers_help() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    rig.script("p3").raw.clear();
    let half = Match {
        prefixes: vec![PrefixMatch {
            prefix: prefix("16.0.0.0/13"), // 2048 of them
            min_length: 24,
            max_length: 24,
        }],
        ..Match::default()
    };
    let established = rig.status("p2").established_count;

    // Import: half of them are refused, but still there as received.
    let all = rig.config.policies[0].clone();
    let rules = vec![
        rule("not these", half.clone(), Action::Reject),
        rule("any", Match::default(), Action::Accept),
    ];
    rig.config.policies[0] = policy("all", rules);
    rig.configure();
    assert_eq!(rig.fib.len(), MANY as usize - 2048);
    assert_eq!(rig.script("p3").heard.len(), MANY as usize - 2048);
    let counts = rig.status("p2").families[0].clone();
    assert_eq!((counts.received, counts.accepted), (5000, 5000 - 2048));
    rig.config.policies[0] = all;
    rig.configure();
    assert_eq!(rig.fib.len(), MANY as usize);
    assert_eq!(rig.script("p3").heard.len(), MANY as usize);

    // Export: changed attributes, of these prefixes only.
    rig.script("p3").announced.clear();
    let mut tag = rule("tag", half, Action::Accept);
    tag.set = vec![Set::AddCommunity(Community(77))];
    let out = policy(
        "out",
        vec![tag, rule("any", Match::default(), Action::Accept)],
    );
    rig.config.policies.push(out);
    rig.config.peers[1].export = vec!["out".into()];
    rig.configure();
    let tagged = |rig: &mut Rig| {
        let heard = rig.script("p3").heard.values();
        heard.filter(|a| a.communities == [Community(77)]).count()
    };
    assert_eq!(tagged(&mut rig), 2048);
    // The same peer, other rules behind the same name: only what differs is sent.
    rig.script("p3").announced.clear();
    rig.config.policies[1].rules[0].set.clear();
    rig.configure();
    assert_eq!(tagged(&mut rig), 0);
    assert_eq!(rig.script("p3").announced.len(), 2048);
    assert_eq!(rig.script("p3").heard.len(), MANY as usize);
    assert_eq!(rig.status("p3").established_count, established);
    assert!(rig.script("p3").superfluous.is_empty());
}

#[test]
fn a_peer_whose_export_closes_has_everything_withdrawn() {
    let mut rig = Rig::with_peers(3);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    rig.config.peers[1].export.clear();
    rig.configure();
    assert!(rig.script("p3").heard.is_empty());
    assert_eq!(rig.script("p4").heard.len(), MANY as usize);
    rig.config.peers[1].export = vec!["all".into()];
    rig.configure();
    assert_eq!(rig.script("p3").heard.len(), MANY as usize);
    assert!(rig.script("p3").superfluous.is_empty());
}

#[test]
fn a_refresh_is_answered_between_its_marks() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(MANY), &attributes);
    rig.script("p3").announced.clear();
    rig.refresh("p3", RefreshKind::Request);
    let script = rig.script("p3");
    assert_eq!(script.announced.len(), MANY as usize);
    assert_eq!(script.refreshes, [RefreshKind::Begin, RefreshKind::End]);
}

#[test]
fn what_a_peer_does_not_repeat_in_an_enhanced_refresh_is_gone() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(100), &attributes);
    rig.refresh("p2", RefreshKind::Begin);
    rig.announce("p2", &many(60), &attributes);
    assert_eq!(rig.fib.len(), 100);
    rig.refresh("p2", RefreshKind::End);
    assert_eq!(rig.fib.len(), 60);
    assert_eq!(rig.script("p3").heard.len(), 60);
}

#[test]
fn what_comes_behind_the_end_of_a_refresh_stays() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(100), &attributes);
    rig.refresh("p2", RefreshKind::Begin);
    rig.say_refresh("p2", RefreshKind::End);
    rig.say("p2", &many(10), &attributes); // before anything was swept
    rig.say_refresh("p2", RefreshKind::Begin); // and again
    rig.say("p2", &many(20), &attributes);
    rig.say_refresh("p2", RefreshKind::End);
    rig.run();
    assert_eq!(rig.fib.len(), 20);
    assert!(rig.engine.v4.refreshing.is_empty());
}

#[test]
fn a_peer_that_refreshes_over_and_over_causes_one_sweep_not_a_thousand() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &many(100), &attributes);
    for _ in 0..1000 {
        rig.say_refresh("p2", RefreshKind::Begin);
        rig.say_refresh("p2", RefreshKind::End);
    }
    let mut turns = 0;
    while rig.engine.v4.has_jobs() {
        rig.engine.handle_timeout(rig.now);
        turns += 1;
    }
    assert!(turns <= 2, "{turns}");
    rig.run();
    assert!(rig.fib.is_empty());
}

#[test]
fn a_large_table_of_which_a_peer_may_know_nothing_is_gone_through_in_pieces() {
    let mut closed = peer("p3", 65003, 3);
    closed.export = vec!["none".into()];
    let mut config = config(vec![peer("p2", 65002, 2), closed]);
    let none = rule("none", Match::default(), Action::Reject);
    config.policies.push(policy("none", vec![none]));
    let mut rig = Rig::new(config);
    rig.establish_all();
    rig.script("p3").blocked = true;
    let attributes = rig.own("p2");
    for part in many(100_000).chunks(500) {
        rig.say("p2", part, &attributes);
    }
    rig.run();
    let conn = rig.script("p3").conn;
    let mut turns = 1;
    let mut bytes = bytes::BytesMut::new();
    while rig.engine.poll_send(rig.now, conn, &mut bytes) {
        turns += 1;
    }
    assert!(turns > 1 && bytes.is_empty(), "{turns}");
}

#[test]
fn an_address_that_comes_late_or_is_renumbered_is_the_next_hop_from_then_on() {
    let mut rig = Rig::with_peers(2);
    let route = prefix("2001:db8:77::/48");
    let six = "2001:db8::2".parse().unwrap();
    let attributes = Attributes {
        next_hop: Some(crate::attributes::NextHop {
            address: six,
            link_local: None,
        }),
        ..rig.own("p2")
    };
    rig.announce("p2", &[route], &attributes);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    let conn = rig.script("p3").conn;
    let next_hop = |rig: &mut Rig| {
        let heard = rig.script("p3").heard.get(&route);
        heard.map(|attributes| attributes.next_hop.unwrap().address.to_string())
    };
    assert_eq!(next_hop(&mut rig).unwrap(), "2001:db8::1");
    for other in [None, Some("2001:db8::99"), Some("2001:db8::1")] {
        let local = crate::engine::LocalAddresses {
            address: std::net::IpAddr::from([192, 0, 2, 1]),
            other_family: other.map(|text| text.parse().unwrap()),
        };
        let input = crate::engine::Input::Readdressed { conn, local };
        rig.engine.handle(rig.now, input);
        rig.run();
        assert_eq!(next_hop(&mut rig).as_deref(), other);
        assert!(rig.script("p3").heard.contains_key(&nth(1)));
        assert!(rig.script("p3").superfluous.is_empty());
    }
}

#[test]
fn own_routes_go_to_the_peers_their_advertisements_name() {
    let mut rig = Rig::with_peers(2);
    let pods = |peers: &[&str], set: Vec<Set>| Advertisement {
        name: "pods".into(),
        peers: peers.iter().map(|name| (*name).to_owned()).collect(),
        set,
    };
    rig.config.originate = vec![
        Originated {
            prefix: prefix("10.64.1.0/24"),
            advertisements: vec!["pods".into()],
        },
        Originated {
            prefix: prefix("fd00:64:1::/64"),
            advertisements: vec!["pods".into()],
        },
    ];
    let tag = vec![Set::AddCommunity(Community(1))];
    rig.config.advertisements = vec![pods(&["p2"], tag)];
    rig.configure();
    let heard = &rig.script("p2").heard;
    assert_eq!(heard.len(), 2);
    let v4 = &heard[&prefix("10.64.1.0/24")];
    assert_eq!(v4.as_path.to_string(), "65000");
    assert_eq!(v4.communities, [Community(1)]);
    assert_eq!(v4.next_hop.unwrap().to_string(), "192.0.2.1");
    // The session is over IPv4; IPv6 packets go to the interface's IPv6 address.
    let v6 = &heard[&prefix("fd00:64:1::/64")];
    assert_eq!(v6.next_hop.unwrap().to_string(), "2001:db8::1");
    assert!(rig.script("p3").heard.is_empty());
    assert!(rig.fib.is_empty());

    rig.config.advertisements = vec![pods(&["p3"], vec![])];
    rig.configure();
    assert!(rig.script("p2").heard.is_empty());
    assert_eq!(rig.script("p3").heard.len(), 2);
    rig.config.originate.clear();
    rig.configure();
    assert!(rig.script("p3").heard.is_empty());
}

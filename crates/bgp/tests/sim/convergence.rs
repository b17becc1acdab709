//! Many speakers, bad links, and the same end whatever the way.

use std::collections::BTreeSet;

use bgp::config::Set;
use proptest::prelude::*;

use crate::net::{Id, Link, Net, Random};
use crate::world::{OPEN, name, own_prefix, seconds};

/// Ten speakers, each in an AS of its own and with two neighbours.
fn ring(seed: u64) -> Net {
    let mut net = Net::new(seed);
    for id in 0..10 {
        net.speaker(65000 + id);
    }
    for id in 0..10 {
        net.peer(id, (id + 1) % 10);
    }
    net
}

fn hops(net: &Net, from: Id, to: Id) -> usize {
    let path = net.path(from, own_prefix(to)[0]);
    path.unwrap_or_else(|| panic!("{} does not know {}", name(from), name(to)))
        .split_whitespace()
        .count()
}

#[test]
fn ten_speakers_in_a_ring_converge_and_reconverge_after_a_cut() {
    let mut net = ring(1);
    net.begin();
    net.advance(seconds(30));
    net.assert_all_reachable();
    for from in 0..10 {
        for to in 0..10 {
            let around = (from + 10 - to) % 10;
            assert_eq!(hops(&net, from, to), around.min(10 - around));
        }
    }
    let whole = net.outcome();

    net.cut(0, 9);
    net.advance(seconds(120));
    net.assert_all_reachable();
    for from in 0..10_usize {
        for to in 0..10 {
            assert_eq!(hops(&net, from, to), from.abs_diff(to), "the long way");
        }
    }

    net.mend(0, 9);
    net.advance(seconds(120));
    assert_eq!(net.outcome(), whole);
    net.assert_all_reachable();
}

#[test]
fn loss_and_delay_cost_time_and_nothing_else() {
    let mut good = ring(2);
    good.begin();
    good.advance(seconds(30));
    for seed in 3..8 {
        let mut bad = ring(seed);
        for id in 0..10 {
            let link = Link {
                delay: seconds(1) / 20,
                jitter: seconds(1) / 5,
                loss: 0.25,
            };
            bad.link(id, (id + 1) % 10, link);
        }
        bad.begin();
        bad.advance(seconds(120));
        assert_eq!(bad.outcome(), good.outcome(), "seed {seed}");
        bad.assert_all_reachable();
    }
}

#[test]
fn a_network_whose_connections_are_reset_again_and_again_ends_as_if_nothing_had_been() {
    let mut net = ring(9);
    net.begin();
    net.advance(seconds(30));
    let before = net.outcome();
    for _ in 0..60 {
        let a = net.random.below(10);
        net.reset_connections(a, (a + 1) % 10);
        let time = net.random.below(3000);
        net.advance(seconds(1) / 1000 * u32::try_from(time).unwrap());
    }
    net.advance(seconds(120));
    assert_eq!(net.outcome(), before);
    net.assert_all_reachable();
}

/// A connected network of 2 to 7 speakers in as many ASes or in fewer, each AS meshed within;
/// nothing but `shape` decides who peers with whom.
fn network(shape: u64, seed: u64) -> (Net, Vec<(Id, Id)>) {
    let mut choice = Random::new(shape);
    let mut net = Net::new(seed);
    let size = 2 + choice.below(6);
    let ases = 1 + choice.below(size);
    let as_of = |id: Id| id % ases;
    for id in 0..size {
        net.speaker(65000 + u32::try_from(as_of(id)).unwrap());
        net.speakers[id].config.decision.backup_paths = choice.below(2) == 0;
    }
    let mut pairs: BTreeSet<(Id, Id)> = (1..size).map(|id| (choice.below(id), id)).collect();
    for _ in 0..choice.below(size * 2) {
        let (a, b) = (choice.below(size), choice.below(size));
        if a != b {
            pairs.insert((a.min(b), a.max(b)));
        }
    }
    let all = (0..size).flat_map(|a| (a + 1..size).map(move |b| (a, b)));
    pairs.extend(all.filter(|(a, b)| as_of(*a) == as_of(*b)));
    for (a, b) in &pairs {
        net.peer(*a, *b);
    }
    (net, pairs.into_iter().collect())
}

/// Something happens between two peers, and is undone a moment later.
fn disturb(net: &mut Net, a: Id, b: Id) {
    let moment = seconds(1) / 4 * u32::try_from(net.random.below(2)).unwrap();
    match net.random.below(11) {
        0 => net.reset_connections(a, b),
        1 => net.restart(a),
        2 => {
            let kept = net.speakers[b].config.originate.clone();
            net.configure(b, |config| config.originate.clear());
            net.advance(moment);
            net.configure(b, |config| config.originate = kept);
        }
        3 => {
            net.reconfigure(a, b, |peer| peer.import.clear());
            net.advance(moment);
            net.reconfigure(a, b, |peer| peer.import = vec![OPEN.into()]);
        }
        4 => {
            net.reconfigure(a, b, |peer| peer.export.clear());
            net.advance(moment);
            net.reconfigure(a, b, |peer| peer.export = vec![OPEN.into()]);
        }
        5 => {
            let set = vec![Set::Med(Some(9)), Set::LocalPreference(7)];
            net.configure(a, |config| config.policies[0].rules[0].set = set);
            net.advance(moment);
            net.configure(a, |config| config.policies[0].rules[0].set.clear());
        }
        6 => {
            let next_hop = net.speakers[b].v4.into();
            net.set_next_hop(a, next_hop, false);
            net.advance(moment);
            net.set_next_hop(a, next_hop, true);
        }
        7 => {
            let family = net.config_of(a, b).families.clone();
            net.reconfigure(a, b, |peer| peer.families.truncate(1));
            net.advance(moment);
            net.reconfigure(a, b, |peer| peer.families = family);
        }
        8 => {
            let legacy = net.legacy(a);
            net.kill(a);
            net.advance(moment);
            net.start_again(a, Some(legacy));
        }
        9 => {
            let legacy = net.legacy(b);
            net.vanish(b);
            net.advance(moment);
            net.start_again(b, Some(legacy));
        }
        _ => {
            net.cut(a, b);
            net.advance(seconds(100));
            net.mend(a, b);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_change_the_outcome(
        shape in any::<u64>(),
        one in any::<u64>(),
        other in any::<u64>(),
    ) {
        let outcome = |seed| {
            let (mut net, pairs) = network(shape, seed);
            for (a, b) in pairs {
                let millis = u32::try_from(1 + net.random.below(400)).unwrap();
                let jitter = seconds(1) / 1000 * millis;
                net.link(a, b, Link { jitter, ..Link::default() });
            }
            net.begin();
            net.advance(seconds(60));
            net.assert_all_reachable();
            net.outcome()
        };
        prop_assert_eq!(outcome(one), outcome(other));
    }

    #[test]
    fn whatever_happened_on_the_way_the_outcome_is_that_of_the_present_network(
        shape in any::<u64>(),
        seed in any::<u64>(),
        graceful: bool,
    ) {
        let (mut fresh, _) = network(shape, seed);
        fresh.begin();
        fresh.advance(seconds(60));

        let (mut net, pairs) = network(shape, seed);
        if graceful {
            net.graceful();
        }
        net.begin();
        net.advance(seconds(20));
        for _ in 0..8 {
            let (a, b) = pairs[net.random.below(pairs.len())];
            disturb(&mut net, a, b);
            net.advance(seconds(1) / 3);
        }
        net.advance(seconds(200));
        prop_assert_eq!(net.outcome(), fresh.outcome());
        net.assert_all_reachable();
    }
}

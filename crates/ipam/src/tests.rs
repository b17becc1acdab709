//! Properties of [`crate::pool`] over random histories, and its rules one by one.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use crate::pool::{
    Change, Desired, Family, Lease, Ledger, MAX_PER_NODE, Pool, Problem, State, Wish, settle, usage,
};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn pool(prefixes: &[&str], reserved: &[&str]) -> Pool {
    Pool {
        name: "pods".to_owned(),
        prefixes: prefixes.iter().map(|text| net(text)).collect(),
        ipv4_length: 26,
        ipv6_length: 64,
        reserved: reserved.iter().map(|text| net(text)).collect(),
    }
}

fn wish(node: &str, family: Family, count: usize) -> Wish {
    Wish {
        node: node.to_owned(),
        pool: "pods".to_owned(),
        family,
        count,
    }
}

/// Nodes that want one IPv4 subnet each.
fn desired(pool: Pool, nodes: &[&str]) -> Desired {
    Desired {
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        pools: vec![pool],
        wishes: nodes.iter().map(|n| wish(n, Family::Ipv4, 1)).collect(),
        grace: 100,
        fixed_grace: 100,
        may_free: true,
        ..Desired::default()
    }
}

fn step(ledger: &mut Ledger, desired: &Desired, now: u64) -> Vec<Problem> {
    let (changes, problems) = settle(ledger, desired, now);
    ledger.apply(&changes);
    problems
}

fn of(ledger: &Ledger, node: &str) -> Vec<String> {
    let held = ledger.iter().filter(|(_, lease)| lease.node == node);
    held.filter(|(_, lease)| lease.state == State::Assigned)
        .map(|(subnet, _)| subnet.to_string())
        .collect()
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

#[test]
fn the_lowest_free_subnet_is_given_in_the_order_of_names() {
    let mut ledger = Ledger::default();
    let desired = desired(pool(&["10.0.0.0/24"], &["10.0.0.70/32"]), &["b", "a", "c"]);
    assert_eq!(step(&mut ledger, &desired, 0), []);
    assert_eq!(of(&ledger, "a"), ["10.0.0.0/26"]);
    assert_eq!(
        of(&ledger, "b"),
        ["10.0.0.128/26"],
        "10.0.0.64/26 is reserved"
    );
    assert_eq!(of(&ledger, "c"), ["10.0.0.192/26"]);
    assert_eq!(settle(&ledger, &desired, 1), (vec![], vec![]));
}

#[test]
fn a_full_pool_says_so_with_its_numbers_and_the_rest_still_get_theirs() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/25", "fd00::/63"], &[]), &["a", "b", "c"]);
    wanted.wishes.push(wish("c", Family::Ipv6, 1));
    let problems = step(&mut ledger, &wanted, 0);
    let text = problems.iter().map(ToString::to_string).collect::<String>();
    assert_eq!(
        text,
        "pool pods has no free IPv4 subnet of /26 for node c: 2 of 2 are assigned and 0 wait for \
         their grace time to end; add a prefix to the pool"
    );
    assert_eq!(of(&ledger, "c"), ["fd00::/64"]);
}

#[test]
fn a_subnet_waits_for_the_grace_time_and_is_then_given_to_another() {
    let mut ledger = Ledger::default();
    let small = || pool(&["10.0.0.0/26"], &[]);
    step(&mut ledger, &desired(small(), &["a"]), 0);
    assert_eq!(step(&mut ledger, &desired(small(), &["b"]), 10).len(), 1);
    let (_, lease) = ledger.iter().next().unwrap();
    assert_eq!(lease.state, State::Waiting { free_at: 110 });
    assert_eq!(step(&mut ledger, &desired(small(), &["b"]), 109).len(), 1);
    step(&mut ledger, &desired(small(), &["b"]), 110);
    step(&mut ledger, &desired(small(), &["b"]), 110);
    assert_eq!(of(&ledger, "b"), ["10.0.0.0/26"]);
}

#[test]
fn a_node_that_comes_back_within_the_grace_time_has_its_subnets_again() {
    let mut ledger = Ledger::default();
    let wide = || pool(&["10.0.0.0/24"], &[]);
    let mut two = desired(wide(), &["a", "b"]);
    two.wishes[0].count = 2;
    step(&mut ledger, &two, 0);
    let before = of(&ledger, "a");
    step(&mut ledger, &desired(wide(), &["b"]), 10);
    assert_eq!(of(&ledger, "a"), Vec::<String>::new());
    step(&mut ledger, &desired(wide(), &["a", "b"]), 90);
    assert_eq!(of(&ledger, "a"), before, "both, although it asks for one");
}

#[test]
fn a_subnet_still_in_use_is_not_freed_and_neither_is_any_before_the_users_are_known() {
    let mut ledger = Ledger::default();
    let small = || pool(&["10.0.0.0/26"], &[]);
    step(&mut ledger, &desired(small(), &["a"]), 0);
    step(&mut ledger, &desired(small(), &[]), 0);
    let mut unknown = desired(small(), &["b"]);
    unknown.may_free = false;
    step(&mut ledger, &unknown, 1000);
    let mut used = desired(small(), &["b"]);
    used.in_use.insert(net("10.0.0.0/26"));
    let problems = step(&mut ledger, &used, 1000);
    assert!(matches!(&problems[0], Problem::StillUsed { node, .. } if node == "a"));
    assert_eq!(of(&ledger, "b"), Vec::<String>::new());
    step(&mut ledger, &desired(small(), &["b"]), 1001);
    step(&mut ledger, &desired(small(), &["b"]), 1001);
    assert_eq!(of(&ledger, "b"), ["10.0.0.0/26"]);
}

#[test]
fn what_a_pool_loses_is_kept_and_reported() {
    let mut ledger = Ledger::default();
    step(
        &mut ledger,
        &desired(pool(&["10.0.0.0/24"], &[]), &["a", "b"]),
        0,
    );
    let changed = pool(&["10.1.0.0/24"], &[]);
    let problems = step(&mut ledger, &desired(changed, &["a", "b"]), 1);
    assert_eq!(of(&ledger, "a"), ["10.0.0.0/26"]);
    assert_eq!(problems.len(), 2);
    assert!(problems[0].to_string().contains("keeps subnet 10.0.0.0/26"));
    let reserving = pool(&["10.0.0.0/24"], &["10.0.0.0/26"]);
    let problems = step(&mut ledger, &desired(reserving, &["a", "b"]), 2);
    assert!(matches!(&problems[..], [Problem::Reserved { node, .. }] if node == "a"));
}

#[test]
fn a_subnet_written_down_is_the_nodes_and_nobody_elses() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/24"], &[]), &["a", "b"]);
    wanted.wishes.remove(1); // `b` has one written down
    wanted.fixed = vec![("b".to_owned(), net("10.0.0.0/26"))];
    assert_eq!(step(&mut ledger, &wanted, 0), []);
    assert_eq!(of(&ledger, "a"), ["10.0.0.64/26"]);
    assert_eq!(of(&ledger, "b"), ["10.0.0.0/26"]);
    // Written down for another: only after the first holder's grace time.
    wanted.fixed = vec![("a".to_owned(), net("10.0.0.0/25"))];
    let problems = step(&mut ledger, &wanted, 1);
    assert!(problems[0].to_string().contains("overlaps 10.0.0.64/26"));
    wanted.fixed = vec![("a".to_owned(), net("10.0.0.0/26"))];
    assert!(matches!(
        step(&mut ledger, &wanted, 50)[0],
        Problem::Taken { .. }
    ));
    step(&mut ledger, &wanted, 101);
    assert_eq!(step(&mut ledger, &wanted, 101), []);
    assert_eq!(of(&ledger, "a"), ["10.0.0.0/26", "10.0.0.64/26"]);
}

#[test]
fn a_subnet_that_others_give_out_follows_them_at_once_but_not_while_it_is_used() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/24"], &[]), &["a"]);
    (wanted.wishes, wanted.fixed_grace) = (Vec::new(), 0);
    wanted.fixed = vec![("a".to_owned(), net("10.0.0.0/26"))];
    assert_eq!(step(&mut ledger, &wanted, 0), []);
    // `a` is gone, and the allocator has given its subnet to `b`.
    wanted.nodes = BTreeSet::from(["b".to_owned()]);
    wanted.fixed = vec![("b".to_owned(), net("10.0.0.0/26"))];
    wanted.in_use = BTreeSet::from([net("10.0.0.0/26")]);
    for _ in 0..3 {
        step(&mut ledger, &wanted, 1);
        assert_eq!(of(&ledger, "b"), <[&str; 0]>::default());
    }
    wanted.in_use.clear();
    step(&mut ledger, &wanted, 1);
    assert_eq!(step(&mut ledger, &wanted, 1), []);
    assert_eq!(of(&ledger, "b"), ["10.0.0.0/26"]);
}

#[test]
fn first_subnets_come_before_further_ones_and_nobody_gets_without_limit() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/25"], &[]), &["a", "b"]);
    wanted.wishes[0].count = 2;
    let problems = step(&mut ledger, &wanted, 0);
    assert_eq!(of(&ledger, "b").len(), 1);
    assert!(matches!(&problems[..], [Problem::PoolFull { node, .. }] if node == "a"));

    let mut wanted = desired(pool(&["10.0.0.0/16"], &[]), &["a"]);
    wanted.wishes[0].count = 1000;
    let mut ledger = Ledger::default();
    let problems = step(&mut ledger, &wanted, 0);
    assert_eq!(of(&ledger, "a").len(), MAX_PER_NODE);
    assert!(matches!(&problems[..], [Problem::TooMany { .. }]));
}

#[test]
fn the_whole_address_space_and_its_end_are_no_trouble() {
    let mut all = pool(&["0.0.0.0/0", "::/0"], &["0.0.0.0/1"]);
    (all.ipv4_length, all.ipv6_length) = (1, 0);
    let mut wanted = desired(all.clone(), &["a"]);
    wanted.wishes.push(wish("a", Family::Ipv6, 2));
    let mut ledger = Ledger::default();
    let problems = step(&mut ledger, &wanted, 0);
    assert_eq!(of(&ledger, "a"), ["128.0.0.0/1", "::/0"]);
    assert!(matches!(
        &problems[..],
        [Problem::PoolFull {
            total: 1,
            used: 1,
            ..
        }]
    ));
    assert_eq!(usage(&all, &ledger)[0].total, 1);
}

#[test]
fn a_ledger_with_overlapping_leases_is_refused() {
    let lease = |node: &str| Lease {
        pool: "pods".to_owned(),
        node: node.to_owned(),
        fixed: false,
        state: State::Assigned,
        since: 0,
    };
    let leases = [
        (net("10.0.0.0/24"), lease("a")),
        (net("10.0.0.64/26"), lease("b")),
    ];
    let error = Ledger::new(leases).unwrap_err().to_string();
    assert_eq!(
        error,
        "subnet 10.0.0.0/24 of node a overlaps subnet 10.0.0.64/26 of node b"
    );
}

#[test]
fn five_thousand_nodes_get_their_subnets_in_one_pass() {
    let mut all = pool(&["10.0.0.0/8"], &[]);
    all.ipv4_length = 24;
    let names: Vec<String> = (0..5000).map(|n| format!("node-{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = desired(all, &names);
    let mut ledger = Ledger::default();
    assert_eq!(step(&mut ledger, &wanted, 0), []);
    assert_eq!(ledger.iter().count(), 5000);
    assert_eq!(of(&ledger, "node-4999"), ["10.19.135.0/24"]);
}

/// One turn of a random history.
#[derive(Clone, Debug)]
struct Turn {
    nodes: BTreeSet<u8>,
    count: usize,
    prefixes: BTreeSet<u8>,
    reserved: BTreeSet<u8>,
    fixed: BTreeMap<u8, u8>,
    found: Vec<(u8, u8, u8)>,
    length: u8,
    pause: u64,
}

fn turn() -> impl Strategy<Value = Turn> {
    (
        prop::collection::btree_set(0_u8..12, 0..10),
        1_usize..4,
        prop::collection::btree_set(0_u8..4, 1..4),
        prop::collection::btree_set(any::<u8>(), 0..4),
        prop::collection::btree_map(0_u8..12, any::<u8>(), 0..3),
        prop::collection::vec((0_u8..12, any::<u8>(), 25_u8..29), 0..3),
        26_u8..30,
        0_u64..80,
    )
        .prop_map(
            |(nodes, count, prefixes, reserved, fixed, found, length, pause)| Turn {
                nodes,
                count,
                prefixes,
                reserved,
                fixed,
                found,
                length,
                pause,
            },
        )
}

fn desired_at(turn: &Turn) -> Desired {
    let name = |n: &u8| format!("n{n}");
    Desired {
        nodes: turn.nodes.iter().map(name).collect(),
        pools: vec![Pool {
            name: "pods".to_owned(),
            prefixes: turn
                .prefixes
                .iter()
                .map(|p| net(&format!("10.0.{p}.0/25")))
                .collect(),
            ipv4_length: turn.length,
            ipv6_length: 64,
            reserved: turn
                .reserved
                .iter()
                .map(|r| net(&format!("10.0.{}.{}/29", r % 4, r & 0xF8)))
                .collect(),
        }],
        wishes: turn
            .nodes
            .iter()
            .map(|n| wish(&name(n), Family::Ipv4, turn.count))
            .collect(),
        fixed: turn
            .fixed
            .iter()
            .map(|(n, at)| (name(n), net(&format!("10.0.{}.{}/28", at % 4, at & 0xF0))))
            .filter(|(node, _)| turn.nodes.iter().map(name).any(|n| n == *node))
            .collect(),
        found: turn
            .found
            .iter()
            .map(|(n, at, length)| (name(n), (at % 4, at & 0xF0), *length))
            .map(|(n, (third, fourth), length)| {
                let subnet = IpNetwork::new([10, 0, third, fourth].into(), length).unwrap();
                (n, IpNetwork::new(subnet.network(), length).unwrap())
            })
            .collect(),
        grace: 100,
        fixed_grace: 100,
        may_free: true,
        ..Desired::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens to nodes, pools and reserved ranges: no two leases overlap, no subnet
    /// changes hands before its grace time is over, nothing reserved is newly given, and the same
    /// history ends in the same ledger.
    #[test]
    fn no_history_gives_an_address_twice(turns in prop::collection::vec(turn(), 1..25)) {
        let mut ledger = Ledger::default();
        let mut again = Ledger::default();
        let mut released: BTreeMap<IpNetwork, (String, u64)> = BTreeMap::new();
        let mut now = 1000;
        for turn in &turns {
            now += turn.pause;
            let desired = desired_at(turn);
            let before = ledger.clone();
            let (changes, _) = settle(&ledger, &desired, now);
            for change in &changes {
                let Change::Set(subnet, lease) = change else { continue };
                if matches!(lease.state, State::Waiting { .. }) {
                    released.insert(*subnet, (lease.node.clone(), now));
                    continue;
                }
                if before.get(*subnet).is_some_and(|old| old.node == lease.node) {
                    released.remove(subnet);
                    continue; // its own again
                }
                for (other, (node, at)) in &released {
                    prop_assert!(
                        !overlap(*subnet, *other) || *node == lease.node || now >= at + 100,
                        "{subnet} to {} at {now}, but {node} let go of {other} at {at}", lease.node
                    );
                }
                let own = desired.found.contains(&(lease.node.clone(), *subnet));
                let others = desired.found.iter().filter(|(node, _)| desired.nodes.contains(node));
                for (node, found) in others.filter(|(node, _)| *node != lease.node) {
                    prop_assert!(
                        lease.fixed || own || !overlap(*subnet, *found),
                        "{subnet} to {}, but {node} has {found}", lease.node
                    );
                }
                if !lease.fixed && !own {
                    prop_assert!(!desired.pools[0].reserved.iter().any(|r| overlap(*r, *subnet)));
                    prop_assert!(desired.pools[0].prefixes.iter().any(|p| overlap(*p, *subnet)));
                }
            }
            ledger.apply(&changes);
            prop_assert!(Ledger::new(ledger.iter().map(|(s, l)| (s, l.clone()))).is_ok());
            again.apply(&settle(&again, &desired, now).0);
            prop_assert_eq!(&ledger, &again);
            for node in &desired.nodes {
                for (subnet, lease) in before.iter().filter(|(_, l)| l.node == *node && !l.fixed) {
                    let kept = ledger.get(subnet).is_some_and(|l| l.node == lease.node);
                    prop_assert!(kept, "{node} lost {subnet}");
                }
            }
        }
    }

    /// A pool gives exactly as many subnets as `usage` counts, and then says that it is full.
    #[test]
    fn exhaustion_is_exact(
        length in 24_u8..30,
        reserved in prop::collection::vec((any::<u8>(), 24_u8..=32), 0..5),
    ) {
        let mut all = pool(&["10.0.0.0/24", "10.0.1.0/26"], &[]);
        all.ipv4_length = length;
        all.reserved = reserved
            .iter()
            .map(|(at, bits)| IpNetwork::new([10, 0, 0, *at].into(), *bits).unwrap())
            .map(|network| IpNetwork::new(network.network(), network.prefix()).unwrap())
            .collect();
        let total: u64 = usage(&all, &Ledger::default()).iter().map(|u| u.total).sum();
        let names: Vec<String> = (0..total + 3).map(|n| format!("n{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut ledger = Ledger::default();
        let problems = step(&mut ledger, &desired(all.clone(), &names), 0);
        prop_assert_eq!(ledger.iter().count() as u64, total);
        prop_assert_eq!(problems.len(), 3);
        let used: u64 = usage(&all, &ledger).iter().map(|u| u.used).sum();
        prop_assert_eq!(used, total);
    }
}

#[test]
fn what_another_allocator_gave_a_node_becomes_its_own_where_a_pool_would_have_given_it() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/24"], &[]), &["a", "b"]);
    wanted.found = vec![("b".to_owned(), net("10.0.0.0/26"))];
    assert_eq!(step(&mut ledger, &wanted, 0), []);
    assert_eq!(of(&ledger, "b"), ["10.0.0.0/26"]);
    assert_eq!(of(&ledger, "a"), ["10.0.0.64/26"], "not that of b");
    assert_eq!(settle(&ledger, &wanted, 1), (vec![], vec![]));
    assert!(ledger.iter().all(|(_, lease)| !lease.fixed));
}

#[test]
fn what_another_allocator_gave_wrongly_is_told_and_given_to_nobody() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(
        pool(&["10.0.0.0/24"], &[]),
        &["a", "b", "c", "d", "e", "out"],
    );
    wanted.wishes.retain(|wish| wish.node != "out");
    step(&mut ledger, &desired(wanted.pools[0].clone(), &["a"]), 0);
    let found = [
        ("b", "10.0.0.0/26"),     // that of a
        ("c", "10.0.0.64/27"),    // too small
        ("d", "10.9.0.0/26"),     // nobody's
        ("out", "10.0.0.128/26"), // of a pool that is not for it
        ("gone", "10.0.0.192/26"),
    ];
    let found = found.map(|(node, subnet)| (node.to_owned(), net(subnet)));
    wanted.found = found.to_vec();
    let problems = step(&mut ledger, &wanted, 1);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "node b has podCIDR 10.0.0.0/26, which overlaps 10.0.0.0/26 of node a",
        "pool pods gives subnets of /26",
        "node d has podCIDR 10.9.0.0/26, which no Pool contains",
        "node out has podCIDR 10.0.0.128/26 of pool pods, whose nodeSelector",
    ] {
        let told = texts.iter().any(|text| text.contains(part));
        assert!(told, "{part}: {texts:?}");
    }
    assert_eq!(of(&ledger, "a"), ["10.0.0.0/26"]);
    assert_eq!(
        of(&ledger, "b"),
        ["10.0.0.192/26"],
        "the only one nobody uses"
    );
    assert_eq!(of(&ledger, "c"), [""; 0]);
}

#[test]
fn a_subnet_that_a_person_wrote_down_stays_with_a_node_that_has_it_anyway() {
    let mut ledger = Ledger::default();
    let mut wanted = desired(pool(&["10.0.0.0/24"], &[]), &["a"]);
    let subnet = ("a".to_owned(), net("10.0.0.64/26"));
    wanted.fixed = vec![subnet.clone()];
    wanted.wishes.clear();
    step(&mut ledger, &wanted, 0);
    wanted.fixed.clear();
    wanted.found = vec![subnet];
    step(&mut ledger, &wanted, 1);
    let lease = ledger.get(net("10.0.0.64/26")).unwrap();
    assert_eq!((lease.fixed, lease.state), (false, State::Assigned));
}

#[test]
fn nothing_is_freed_while_it_still_stands_somewhere() {
    let mut ledger = Ledger::default();
    let wide = || pool(&["10.0.0.0/24"], &[]);
    step(&mut ledger, &desired(wide(), &["a"]), 0);
    let mut gone = desired(wide(), &[]);
    gone.shown.insert(net("10.0.0.0/26"));
    step(&mut ledger, &gone, 0);
    assert_eq!(step(&mut ledger, &gone, 1000), []);
    assert_eq!(ledger.iter().count(), 1);
    gone.shown.clear();
    step(&mut ledger, &gone, 1000);
    assert_eq!(ledger.iter().count(), 0);
}

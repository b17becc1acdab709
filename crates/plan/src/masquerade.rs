//! Whose packets leave the cluster under their node's own address, and where to they never do.

use std::sync::Arc;

use api::Node;
use bgp::types::Prefix;

use crate::{Masquerade, MasqueradedPool, Snapshot, Subnet};

/// What every node is told of the cluster's own addresses; `None` when no Pool asks for masquerade.
///
/// Which routes a node has learned does not come into it: the source address of a connection must
/// not depend on a session that comes and goes.
pub(crate) fn direct(snapshot: &Snapshot) -> Option<Arc<[Prefix]>> {
    let resources = &snapshot.resources;
    let pools = resources.pools.values();
    let exempt: Vec<&[Prefix]> = pools
        .filter_map(|pool| Some(&pool.spec.masquerade.as_ref()?.exempt[..]))
        .collect();
    if exempt.is_empty() {
        return None;
    }
    // What every Pool exempts need not be said once more: who exempts the nodes' networks has
    // configurations that another node does not change.
    let said = |prefix: &Prefix| {
        let has = |exempt: &&[Prefix]| exempt.iter().any(|it| it.contains(*prefix));
        exempt.iter().all(has)
    };
    let pools = resources.pools.values();
    let pools = pools.flat_map(|pool| pool.spec.prefixes.iter().copied());
    // Of a Pool that was made smaller, too.
    let given = snapshot.subnets.values().flatten();
    let given = given.map(|subnet| subnet.prefix);
    let nodes = resources.nodes.values().flat_map(|node| {
        let addresses = node.spec.addresses.iter();
        let addresses = addresses.map(|address| Prefix::new(*address, 128));
        addresses.chain(node.spec.subnets.iter().copied())
    });
    let nodes = nodes.filter(|prefix| !said(prefix));
    Some(merged(pools.chain(given).chain(nodes).collect()).into())
}

/// The part of `node`, which has these subnets.
pub(crate) fn masquerade(
    snapshot: &Snapshot,
    direct: Option<&Arc<[Prefix]>>,
    node: &Node,
    subnets: &[Subnet],
) -> Option<Masquerade> {
    let pools = snapshot.resources.pools.values().filter_map(|pool| {
        let masquerade = pool.spec.masquerade.as_ref()?;
        let name = &pool.metadata.name;
        // Adopted subnets are of no Pool; the one that they lie in says what holds for them.
        let within = |subnet: Prefix| pool.spec.prefixes.iter().any(|it| it.contains(subnet));
        let is_of_pool = |subnet: &&Subnet| match node.spec.subnets.contains(&subnet.prefix) {
            true => within(subnet.prefix),
            false => subnet.pool == *name,
        };
        let own = subnets.iter().filter(is_of_pool);
        let subnets: Vec<Prefix> = own.map(|subnet| subnet.prefix).collect();
        (!subnets.is_empty()).then(|| MasqueradedPool {
            pool: name.clone(),
            subnets,
            exempt: merged(masquerade.exempt.clone()),
        })
    });
    let pools: Vec<MasqueradedPool> = pools.collect();
    let direct = direct?.clone();
    (!pools.is_empty()).then_some(Masquerade { pools, direct })
}

/// The same addresses in as few prefixes as possible, in their order.
fn merged(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable(); // a prefix goes before those in it
    let mut merged: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if merged.last().is_some_and(|last| last.contains(prefix)) {
            continue;
        }
        merged.push(prefix);
        while let [.., lower, upper] = merged.as_slice()
            && let Some(both) = parent(*lower).filter(|it| Some(*it) == parent(*upper))
        {
            merged.truncate(merged.len() - 2);
            merged.push(both);
        }
    }
    merged
}

/// The prefix that is one bit shorter; none for that of all addresses.
fn parent(prefix: Prefix) -> Option<Prefix> {
    let length = prefix.length().checked_sub(1)?;
    Some(Prefix::new(prefix.address(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(text: &str) -> Vec<Prefix> {
        let words = text.split_whitespace();
        words
            .map(|word| word.parse().expect("a prefix of the test"))
            .collect()
    }

    #[test]
    fn what_is_inside_another_one_goes_and_neighbours_become_one() {
        let cases = [
            ("", ""),
            ("10.0.0.1/32 10.0.0.0/32", "10.0.0.0/31"),
            ("10.0.0.1/32 10.0.0.2/32", "10.0.0.1/32 10.0.0.2/32"),
            ("10.0.0.7/32 10.0.0.0/29", "10.0.0.0/29"),
            (
                "10.0.0.3/32 10.0.0.0/32 10.0.0.2/32 10.0.0.1/32 10.0.0.4/30",
                "10.0.0.0/29",
            ),
            ("128.0.0.0/1 0.0.0.0/1", "0.0.0.0/0"),
            ("fd00::1/128 fd00::/128 0.0.0.0/0", "0.0.0.0/0 fd00::/127"),
        ];
        for (given, expected) in cases {
            assert_eq!(merged(prefixes(given)), prefixes(expected), "{given}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_addresses_are_the_same(
            given in proptest::collection::vec((0_u8..16, 28_u8..=32), 0..12),
        ) {
            let given: Vec<Prefix> = given
                .into_iter()
                .map(|(last, length)| Prefix::new([10, 0, 0, last].into(), length))
                .collect();
            let after = merged(given.clone());
            for last in 0..32 {
                let address = Prefix::new([10, 0, 0, last].into(), 32);
                let in_one = |list: &[Prefix]| list.iter().any(|it| it.contains(address));
                assert_eq!(in_one(&given), in_one(&after), "{address}");
            }
            assert_eq!(merged(after.clone()), after);
        }
    }
}

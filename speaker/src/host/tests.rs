//! What is wanted → the table. With the kernel: `tests/interop/host_side.rs`.

use kernel::nft::{Element, Expression};
use plan::MasqueradedPool;

use super::ruleset::table;
use super::*;

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    let texts = texts.iter();
    texts
        .map(|text| text.parse().expect("a prefix of the test"))
        .collect()
}

fn wanted() -> Wanted {
    Wanted {
        on: true,
        subnets: prefixes(&["10.64.1.0/24", "10.65.1.0/24", "fd00:64:1::/64"]),
        masquerade: Some(Masquerade {
            pools: vec![MasqueradedPool {
                pool: "hidden".into(),
                subnets: prefixes(&["10.64.1.0/24", "fd00:64:1::/64"]),
                exempt: prefixes(&["172.16.0.0/12", "2001:db8::/32"]),
            }],
            direct: prefixes(&["10.64.0.0/15", "fd00:64::/48"]).into(),
        }),
        peers: ["192.0.2.1".parse().expect("an address")].into(),
    }
}

/// What is in a set of ranges, as addresses.
fn ranges(table: &kernel::nft::Table, set: &str) -> Vec<String> {
    let address = |bytes: &[u8]| -> IpAddr {
        match <[u8; 4]>::try_from(bytes) {
            Ok(four) => four.into(),
            Err(_) => <[u8; 16]>::try_from(bytes).expect("an address").into(),
        }
    };
    let part = |(first, last): &(Vec<u8>, Vec<u8>)| format!("{}-{}", address(first), address(last));
    let element = |Element(parts): &Element| parts.iter().map(part).collect::<Vec<_>>().join(" ");
    table.sets[set].elements.iter().map(element).collect()
}

#[test]
fn a_host_without_pods_has_no_table() {
    assert_eq!(table(&Wanted::default()), None);
}

#[test]
fn connections_are_only_tracked_where_something_is_masqueraded() {
    let mut wanted = wanted();
    let names = |wanted: &Wanted| {
        let table = table(wanted).expect("a table");
        table.chains.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&wanted), "clamp forward postrouting prerouting");
    wanted.masquerade = None;
    assert_eq!(names(&wanted), "clamp forward prerouting");
}

#[test]
fn only_the_pools_that_say_so_are_sources_and_peers_are_never_a_destination() {
    let table = table(&wanted()).expect("a table");
    assert_eq!(ranges(&table, "masquerade4"), ["10.64.1.0-10.64.1.255"]);
    assert_eq!(
        ranges(&table, "masquerade6"),
        ["fd00:64:1::-fd00:64:1:0:ffff:ffff:ffff:ffff"]
    );
    assert_eq!(
        ranges(&table, "direct4"),
        ["10.64.0.0-10.65.255.255", "192.0.2.1-192.0.2.1"]
    );
    assert_eq!(
        ranges(&table, "exempt4"),
        ["10.64.1.0-10.64.1.255 172.16.0.0-172.31.255.255"]
    );
    assert_eq!(table.sets["exempt6"].elements.len(), 1);
    assert_eq!(
        ranges(&table, "pods4"),
        ["10.64.1.0-10.64.1.255", "10.65.1.0-10.65.1.255"]
    );
}

#[test]
fn every_set_that_a_rule_looks_into_is_there() {
    let table = table(&wanted()).expect("a table");
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    let looked: BTreeSet<&String> = rules
        .flat_map(|rule| &rule.expressions)
        .filter_map(|expression| match expression {
            Expression::Lookup { set, .. } => Some(set),
            _ => None,
        })
        .collect();
    assert!(looked.into_iter().eq(table.sets.keys()));
}

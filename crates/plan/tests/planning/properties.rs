//! What holds for every cluster.

use std::collections::BTreeMap;

use api::Resources;
use bgp::types::Asn;
use plan::{Purpose, Snapshot, Subnet, wire};
use proptest::prelude::*;

use super::{document, fabric, resources};

/// Documents that are right on their own and often together.
fn cluster() -> impl Strategy<Value = Vec<String>> {
    let fabric = prop_oneof![
        Just("{asn: {value: 64512}}"),
        Just("{asn: {value: 64512}, topology: Mesh, timers: {holdSeconds: 0}}"),
        Just("{asn: {value: 64512}, topology: Reflectors, reflectors: {nodeSelector: {matchLabels: {rack: a}}, clusterId: 10.0.0.1}}"),
        Just("{asn: {value: 64512}, topology: Reflectors, reflectors: {nodeSelector: {matchLabels: {rack: b}}}}"),
        Just("{asn: {perRack: {values: {a: 65201, b: 65202}}}, kernel: {install: false}}"),
        Just("{asn: {perRack: {values: {a: 65201}, range: 65210-65219}}, listenPort: 1790}"),
        Just("{asn: {perNode: {range: 4200000000-4200000999}}, decision: {maxPaths: 1, backupPaths: true}}"),
    ]
    .prop_map(fabric);
    let node = (0_u8..40, "[abc]", any::<bool>(), any::<bool>()).prop_map(|(n, rack, v4, v6)| {
        let mut addresses = Vec::new();
        addresses.extend(v4.then(|| format!("192.0.2.{}", n + 1)));
        addresses.extend(v6.then(|| format!("\"2001:db8::{:x}\"", n + 1)));
        let subnets = if n % 3 == 0 {
            format!(", subnets: [10.9.{n}.0/24]")
        } else {
            String::new()
        };
        let spec = format!("{{addresses: [{}]{subnets}}}", addresses.join(", "));
        document("Node", &format!("n{n}"), &format!("rack: {rack}"), &spec)
    });
    let peer = (0_u8..6, "[abc]", 0_u8..4).prop_map(|(n, rack, kind)| {
        let side = match kind {
            0 => format!("address: 198.51.100.{n}, remoteAsn: 65000, ttl: 3, allowOwnAs: 2"),
            1 => format!("addressFrom: {{label: rack, values: {{a: 198.51.100.{n}, b: \"2001:db8:1::{n}\"}}}}, remoteAsn: 64512, extendedNextHop: true, reflectorClient: true"),
            2 => format!("address: \"2001:db8:2::{n}\", remoteAsnFrom: {{label: rack, values: {{a: 65101, b: 65201}}}}, families: [IPv6], nextHop: Self"),
            _ => format!("address: 198.51.100.{}, remoteAsn: 65001, localAddress: 192.0.2.0/24, passive: true, shutdown: {{message: café}}", n + 100),
        };
        let spec = format!("{{nodeSelector: {{matchExpressions: [{{key: rack, operator: NotIn, values: [{rack}]}}]}}, {side}, import: [in], export: [out]}}");
        document("Peer", &format!("p{n}"), "role: tor", &spec)
    });
    let advertisement = (0_u8..3).prop_map(|n| {
        let spec = format!("{{nodeSubnets: {{}}, prefixes: [203.0.113.{n}/32], peerSelector: {{matchLabels: {{role: tor}}}}, set: {{med: {n}}}}}");
        document("Advertisement", &format!("ad{n}"), "", &spec)
    });
    let policies = [
        document(
            "RoutePolicy",
            "in",
            "",
            "{rules: [{name: x, match: {communities: [no-export, \"65000:1\"], largeCommunities: [\"1:2:3\"], extendedCommunities: [\"rt:65000:1\"], asPathContains: [65000], neighborAsns: [65001], originAsns: [65002], asPathLength: {min: 1, max: 9}, sources: [eBGP, iBGP], families: [IPv4]}, action: Continue, set: {localPreference: 200, removeMed: true, clearCommunities: true, removeCommunities: [\"65000:1\", \"1:2:3\"], addCommunities: [\"rt:192.0.2.1:5\", blackhole], prepend: {asn: 65009, count: 3}, origin: Incomplete}}, {action: Accept}]}",
        ),
        document(
            "RoutePolicy",
            "out",
            "",
            "{rules: [{match: {prefixes: [{prefix: 10.64.0.0/16, minLength: 24}]}, action: Reject}, {action: Accept, set: {med: 5, nextHop: \"2001:db8::9\", addCommunities: [\"1:2:3\"], removeCommunities: [\"so:65000:1\"]}}]}",
        ),
        document(
            "Pool",
            "pods",
            "",
            "{prefixes: [10.64.0.0/16, \"fd00:64::/48\"]}",
        ),
    ];
    let nodes = prop::collection::vec(node, 0..6);
    let peers = prop::collection::vec(peer, 0..4);
    let advertisements = prop::collection::vec(advertisement, 0..3);
    (fabric, nodes, peers, advertisements).prop_map(
        move |(fabric, nodes, peers, advertisements)| {
            let mut all = vec![fabric];
            all.extend(policies.clone());
            all.extend(nodes);
            all.extend(peers);
            all.extend(advertisements);
            all
        },
    )
}

fn with_given_out(resources: Resources) -> Snapshot {
    let numbers = plan::wanted_numbers(&resources).into_iter().zip(0..);
    let numbers = numbers
        .map(|(it, n)| (it.key, Asn(it.range.first.0 + n)))
        .collect();
    let mut subnets: BTreeMap<String, Vec<Subnet>> = BTreeMap::new();
    for (wanted, n) in plan::wanted_subnets(&resources).into_iter().zip(0_u8..) {
        let prefix = match wanted.length {
            24 => format!("10.64.{n}.0/24"),
            _ => format!("fd00:64:0:{n:x}::/64"),
        };
        let prefix = prefix.parse().expect("a prefix");
        let subnet = Subnet::new(prefix, wanted.pool, Purpose::Pods);
        subnets.entry(wanted.node).or_default().push(subnet);
    }
    Snapshot {
        resources,
        subnets,
        numbers,
    }
}

#[test]
fn most_generated_clusters_are_right_so_that_the_properties_below_say_something() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let right = (0..200)
        .filter(|_| resources(&cluster().new_tree(&mut runner).unwrap().current()).is_ok())
        .count();
    assert!(right > 40, "only {right} of 200");
}

proptest! {
    #[test]
    fn every_configuration_passes_the_engine_s_check_and_survives_the_wire(documents in cluster()) {
        let Ok(resources) = resources(&documents) else { return Ok(()) };
        for config in plan::plan(&with_given_out(resources)).configs.into_values() {
            prop_assert_eq!(config.bgp.check(), Ok(()));
            let sent = wire::to_proto(&config);
            prop_assert_eq!(wire::from_proto(sent).unwrap(), config);
        }
    }

    #[test]
    fn the_order_of_documents_changes_nothing(
        (documents, shuffled) in cluster().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle()))
    ) {
        let (Ok(one), Ok(other)) = (resources(&documents), resources(&shuffled)) else {
            prop_assert_eq!(resources(&documents).is_ok(), resources(&shuffled).is_ok());
            return Ok(());
        };
        prop_assert_eq!(plan::plan(&with_given_out(one)), plan::plan(&with_given_out(other)));
    }
}

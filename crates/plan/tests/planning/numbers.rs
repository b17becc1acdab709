//! AS numbers and subnets: what is wanted, and what a plan makes of what was given out.

use bgp::types::Asn;

use super::{document, fabric, planned, resources, snapshot};

#[test]
fn a_node_without_a_number_has_no_configuration_and_the_others_have_theirs() {
    let plan = planned(&[
        fabric("{asn: {perRack: {values: {a: 65201}}}}"),
        document("Node", "a1", "rack: a", "{addresses: [192.0.2.1]}"),
        document("Node", "b1", "rack: b", "{addresses: [192.0.2.2]}"),
        document("Node", "c1", "", "{addresses: [192.0.2.3]}"),
    ]);
    assert_eq!(plan.configs.keys().collect::<Vec<_>>(), ["a1"]);
    let told: Vec<String> = plan.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "node `b1`: no AS number: Fabric spec.asn.perRack.values does not list rack `b`; it lists `a`",
            "node `c1`: no AS number: the node has no label `rack`, by which Fabric spec.asn.perRack finds \
             it; add the label, or say Node spec.asn",
        ]
    );
}

#[test]
fn numbers_given_out_are_used_and_those_not_given_out_are_told() {
    let documents = [
        fabric("{asn: {perNode: {range: 4200000000-4200000009}}}"),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
        document("Node", "n2", "", "{addresses: [192.0.2.2]}"),
        document(
            "Node",
            "n3",
            "",
            "{addresses: [192.0.2.3], asn: 4200000005}",
        ),
    ];
    let mut snapshot = snapshot(&documents);
    let wanted = plan::wanted_numbers(&snapshot.resources);
    assert_eq!(
        wanted.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(),
        ["node/n1", "node/n2"]
    );
    assert!(plan::fixed_numbers(&snapshot.resources).contains(&Asn(4_200_000_005)));
    snapshot
        .numbers
        .insert("node/n1".into(), Asn(4_200_000_000));
    let plan = plan::plan(&snapshot);
    assert_eq!(plan.configs["n1"].bgp.asn, Asn(4_200_000_000));
    assert_eq!(plan.configs["n3"].bgp.asn, Asn(4_200_000_005));
    assert_eq!(plan.problems.len(), 1);
    assert!(
        plan.problems[0]
            .message
            .starts_with("no AS number: none was given out")
    );
}

#[test]
fn subnets_are_wanted_by_the_nodes_a_pool_selects_once_for_each_family() {
    let resources = resources(&[
        fabric("{asn: {value: 64512}}"),
        document("Node", "n1", "rack: a", "{}"),
        document("Node", "n2", "rack: b", "{}"),
        document("Pool", "p", "", "{prefixes: [10.64.0.0/16, 10.65.0.0/16, \"fd00::/48\"], nodeSubnetLength: {ipv4: 26}, nodeSelector: {matchLabels: {rack: b}}}"),
    ])
    .unwrap();
    let wanted: Vec<String> = plan::wanted_subnets(&resources)
        .iter()
        .map(|it| format!("{} {} {} /{}", it.node, it.pool, it.family, it.length))
        .collect();
    assert_eq!(wanted, ["n2 p IPv4 /26", "n2 p IPv6 /64"]);
}

#[test]
fn numbers_that_peers_have_by_labels_are_not_given_out() {
    let resources = resources(&[
        fabric("{asn: {perNode: {range: 65100-65109}}}"),
        document("Node", "n1", "tor-asn: \"65100\"", "{}"),
        document(
            "Peer",
            "tor",
            "",
            "{address: 192.0.2.1, remoteAsnFrom: {label: tor-asn}}",
        ),
    ])
    .unwrap();
    assert_eq!(plan::fixed_numbers(&resources), [Asn(65100)].into());
}

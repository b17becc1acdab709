//! Meshes and reflectors.

use super::{document, fabric, planned};

#[test]
fn a_mesh_accepts_what_nodes_can_hold_and_nothing_else() {
    let plan = planned(&[
        fabric("{asn: {value: 64512}, topology: Mesh}"),
        document(
            "Pool",
            "pods",
            "",
            "{prefixes: [10.64.0.0/16], nodeSubnetLength: {ipv4: 26}}",
        ),
        document(
            "Node",
            "n1",
            "",
            "{addresses: [192.0.2.1], subnets: [10.9.0.0/24]}",
        ),
        document(
            "Node",
            "n2",
            "",
            "{addresses: [192.0.2.2, \"2001:db8::2\"]}",
        ),
        document("Node", "n3", "", "{addresses: [\"2001:db8::3\"]}"),
        document("Advertisement", "vip", "", "{prefixes: [198.51.100.7/32]}"),
    ]);
    let accepted: Vec<String> = plan.configs["n1"].bgp.policies[1].rules[0]
        .matches
        .prefixes
        .iter()
        .map(|it| format!("{} {}-{}", it.prefix, it.min_length, it.max_length))
        .collect();
    assert_eq!(
        accepted,
        [
            "10.9.0.0/24 24-24",
            "10.64.0.0/16 26-26",
            "198.51.100.7/32 32-32"
        ]
    );
    // n2 speaks with both, over different families; n1 and n3 have no common one, and say so.
    assert_eq!(plan.configs["n2"].bgp.peers.len(), 2);
    assert_eq!(plan.problems.len(), 2);
    assert!(
        plan.problems[0]
            .message
            .contains("no addresses of one family")
    );
}

#[test]
fn a_mesh_without_address_space_accepts_nothing() {
    let plan = planned(&[
        fabric("{asn: {value: 64512}, topology: Mesh}"),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
        document("Node", "n2", "", "{addresses: [192.0.2.2]}"),
    ]);
    assert!(
        plan.configs["n1"]
            .bgp
            .policies
            .iter()
            .all(|policy| policy.rules.is_empty())
    );
}

#[test]
fn without_a_reflector_every_node_is_told() {
    let reflectors = "{asn: {value: 64512}, topology: Reflectors, reflectors: {nodeSelector: \
                      {matchLabels: {role: reflector}}}}";
    let plan = planned(&[
        fabric(reflectors),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
    ]);
    assert_eq!(
        plan.problems[0].to_string(),
        "node `n1`: no session with any node: Fabric spec.reflectors.nodeSelector selects no node; label \
         two nodes or more so that it does"
    );
}

#[test]
fn a_cluster_id_is_for_reflectors_alone() {
    let plan = planned(&[
        fabric(
            "{asn: {value: 64512}, topology: Reflectors, reflectors: {nodeSelector: {names: [r1, r2]}, \
             clusterId: 10.0.0.77}}",
        ),
        document("Node", "r1", "", "{addresses: [192.0.2.1]}"),
        document("Node", "r2", "", "{addresses: [192.0.2.2]}"),
        document("Node", "n1", "", "{addresses: [192.0.2.3]}"),
    ]);
    let id = |node: &str| plan.configs[node].bgp.cluster_id.map(|id| id.to_string());
    assert_eq!(id("r1").as_deref(), Some("10.0.0.77"));
    assert_eq!(id("r2").as_deref(), Some("10.0.0.77"));
    assert_eq!(id("n1"), None);
}

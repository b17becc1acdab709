//! Policies and advertisements.

use bgp::types::Asn;
use plan::{Purpose, Subnet};

use super::{document, fabric, planned, snapshot};

#[test]
fn policies_are_carried_only_where_they_are_used() {
    let plan = planned(&[
        fabric("{asn: {value: 64512}}"),
        document("Node", "n1", "rack: a", "{}"),
        document("Node", "n2", "rack: b", "{}"),
        document("RoutePolicy", "one", "", "{rules: [{action: Accept}]}"),
        document(
            "RoutePolicy",
            "two",
            "",
            "{rules: [{action: Accept, set: {prepend: {count: 2}}}]}",
        ),
        document(
            "Peer",
            "p",
            "",
            "{nodeSelector: {matchLabels: {rack: a}}, address: 192.0.2.1, remoteAsn: 65001, import: [two], export: [one]}",
        ),
    ]);
    let names: Vec<&String> = plan.configs["n1"]
        .bgp
        .policies
        .iter()
        .map(|it| &it.name)
        .collect();
    assert_eq!(names, ["one", "two"]);
    let own = bgp::config::Set::Prepend {
        asn: Asn(64512),
        count: 2,
    };
    assert_eq!(plan.configs["n1"].bgp.policies[1].rules[0].set, [own]);
    assert_eq!(plan.configs["n2"].bgp.policies, []);
}

#[test]
fn advertisements_reach_the_peers_they_select_and_no_others() {
    let peer = |name: &str, role: &str, address: &str| {
        document(
            "Peer",
            name,
            &format!("role: {role}"),
            &format!("{{address: {address}, remoteAsn: 64512}}"),
        )
    };
    let mut snapshot = snapshot(&[
        fabric("{asn: {value: 64512}}"),
        document(
            "Node",
            "n1",
            "",
            "{addresses: [192.0.2.1], subnets: [10.9.0.0/24]}",
        ),
        document("Pool", "pods", "", "{prefixes: [10.64.0.0/16]}"),
        document("Pool", "more", "", "{prefixes: [10.65.0.0/16]}"),
        peer("up", "tor", "192.0.2.254"),
        peer("side", "other", "192.0.2.253"),
        document("Advertisement", "all", "", "{nodeSubnets: {}}"),
        document(
            "Advertisement",
            "pods-up",
            "",
            "{nodeSubnets: {pools: [pods]}, peerSelector: {matchLabels: {role: tor}}, prefixes: [198.51.100.0/24]}",
        ),
    ]);
    let subnet =
        |prefix: &str, pool: &str| Subnet::new(prefix.parse().unwrap(), pool, Purpose::Pods);
    let given = vec![
        subnet("10.65.3.0/24", "more"),
        subnet("10.64.3.0/24", "pods"),
    ];
    snapshot.subnets.insert("n1".into(), given);
    let config = &plan::plan(&snapshot).configs["n1"];
    let heard: Vec<(&str, &[String])> = config
        .bgp
        .advertisements
        .iter()
        .map(|it| (it.name.as_str(), &it.peers[..]))
        .collect();
    assert_eq!(
        heard,
        [
            ("all", &["side".to_owned(), "up".to_owned()][..]),
            ("pods-up", &["up".to_owned()][..])
        ]
    );
    let told: Vec<(String, String)> = config
        .bgp
        .originate
        .iter()
        .map(|it| (it.prefix.to_string(), it.advertisements.join(" ")))
        .collect();
    let expected = [
        ("10.9.0.0/24", "all"),
        ("10.64.3.0/24", "all pods-up"),
        ("10.65.3.0/24", "all"),
        ("198.51.100.0/24", "pods-up"),
    ];
    assert_eq!(
        told,
        expected.map(|(prefix, by)| (prefix.to_owned(), by.to_owned()))
    );
}

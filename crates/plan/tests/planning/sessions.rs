//! What a session is made of, and which cannot be planned.

use bgp::types::Asn;

use super::{document, fabric, planned};

#[test]
fn a_session_that_cannot_be_planned_leaves_the_others() {
    let peer = |name: &str, spec: &str| document("Peer", name, "", spec);
    let plan = planned(&[
        fabric("{asn: {value: 64512}}"),
        document("Node", "n1", "rack: b", "{addresses: [192.0.2.1]}"),
        peer("good", "{address: 192.0.2.254, remoteAsn: 64512}"),
        peer(
            "other",
            "{addressFrom: {label: rack, values: {a: 192.0.2.253}}, remoteAsn: 64512}",
        ),
    ]);
    let names: Vec<&String> = plan.configs["n1"]
        .bgp
        .peers
        .iter()
        .map(|it| &it.name)
        .collect();
    assert_eq!(names, ["good"]);
    assert_eq!(
        plan.problems[0].to_string(),
        "node `n1`: no session with Peer `other`: spec.addressFrom finds no address: its values have \
         nothing for rack `b`; they list `a`"
    );
}

#[test]
fn timers_come_from_the_peer_then_the_fabric_then_the_defaults() {
    let peer = |name: &str, address: &str, timers: &str| {
        document(
            "Peer",
            name,
            "",
            &format!("{{address: {address}, remoteAsn: 64512, timers: {timers}}}"),
        )
    };
    let plan = planned(&[
        fabric("{asn: {value: 64512}, timers: {holdSeconds: 30, connectRetrySeconds: 7}}"),
        document("Node", "n1", "", "{}"),
        peer("a", "192.0.2.1", "{}"),
        peer("b", "192.0.2.2", "{holdSeconds: 9}"),
        peer("c", "192.0.2.3", "{holdSeconds: 0, keepaliveSeconds: 20}"),
    ]);
    let timers: Vec<_> = plan.configs["n1"]
        .bgp
        .peers
        .iter()
        .map(|peer| {
            (
                peer.timers.hold,
                peer.timers.keepalive,
                peer.timers.connect_retry,
            )
        })
        .collect();
    assert_eq!(timers, [(30, 10, 7), (9, 3, 7), (0, 20, 7)]);
}

#[test]
fn the_local_address_is_the_node_s_one_address_within_the_prefix() {
    let plan = planned(&[
        fabric("{asn: {value: 64512}}"),
        document(
            "Node",
            "n1",
            "",
            "{addresses: [198.51.100.1, 192.0.2.11, \"2001:db8::1\"]}",
        ),
        document(
            "Peer",
            "p",
            "",
            "{address: 192.0.2.1, remoteAsn: 64512, localAddress: 192.0.2.0/24}",
        ),
    ]);
    let peer = &plan.configs["n1"].bgp.peers[0];
    assert_eq!(peer.local_address, Some("192.0.2.11".parse().unwrap()));
    assert_eq!(peer.ttl, 255, "iBGP may be several hops away");
}

#[test]
fn what_a_node_says_wrong_is_its_own_problem_told_with_label_and_value() {
    let node = |name: &str, n: u8, labels: &str| {
        document(
            "Node",
            name,
            labels,
            &format!("{{addresses: [192.0.2.{n}]}}"),
        )
    };
    let plan = planned(&[
        fabric("{asn: {perRack: {label: asn}}}"),
        node("n1", 1, "asn: \"65201\", tor: rack-7, tor-asn: \"65101\""),
        node("n2", 2, "asn: \"65201\", tor: 192.0.2.254, tor-asn: \"0\""),
        node("n3", 3, "asn: rack-7"),
        node(
            "n4",
            4,
            "asn: \"65201\", tor: 192.0.2.254, tor-asn: \"65101\"",
        ),
        document(
            "Peer",
            "tor",
            "",
            "{addressFrom: {label: tor}, remoteAsnFrom: {label: tor-asn}}",
        ),
    ]);
    let problems: Vec<String> = plan.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "node `n1`: no session with Peer `tor`: spec.addressFrom finds no address: the node's label \
             `tor` is `rack-7`, which is no IP address; allowed: such as 192.0.2.1, or in an annotation \
             2001:db8::1",
            "node `n2`: no session with Peer `tor`: spec.remoteAsnFrom finds no AS number: the node's \
             label `tor-asn` is `0`, which is no AS number; allowed: 1 to 4294967294, as one number, \
             except the reserved 23456 and 65535",
            "node `n3`: no AS number: Fabric spec.asn.perRack, without values and range, looks for it in \
             the node's label `asn`, which is `rack-7` and is no AS number; allowed: 1 to 4294967294, as \
             one number, except the reserved 23456 and 65535",
        ]
    );
    assert_eq!(plan.configs["n4"].bgp.peers[0].remote_asn, Asn(65101));
}

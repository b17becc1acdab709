//! What holds for every plan.

use std::collections::BTreeMap;

use api::{Resources, SourceFile};
use bgp::config::{AoKey, Authentication};
use bgp::types::Asn;
use plan::{Plan, Purpose, Snapshot, Subnet, wire};
use proptest::prelude::*;

fn document(kind: &str, name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {spec}\n---\n"
    )
}

fn resources(documents: &[String]) -> Result<Resources, Vec<String>> {
    let files = documents.iter().map(|text| SourceFile {
        name: "a.yaml".into(),
        text: text.clone(),
    });
    match api::parse(&files.collect::<Vec<_>>()) {
        Ok(parsed) => Ok(parsed.resources),
        Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
    }
}

fn snapshot(documents: &[String]) -> Snapshot {
    Snapshot {
        resources: resources(documents).expect("the documents are right"),
        subnets: BTreeMap::new(),
        numbers: BTreeMap::new(),
    }
}

fn planned(documents: &[String]) -> Plan {
    plan::plan(&snapshot(documents))
}

fn fabric(spec: &str) -> String {
    document("Fabric", "fabric", "", spec)
}

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
fn bfd_of_the_fabric_is_beside_every_session_that_does_not_say_otherwise_also_of_a_mesh() {
    let peer = |name: &str, more: &str| {
        let spec = format!("{{remoteAsn: 64512, {more}}}");
        document("Peer", name, "", &spec)
    };
    let plan = planned(&[
        fabric(
            "{asn: {value: 64512}, topology: Mesh, bfd: {minTxMillis: 100, multiplier: 5, authentication: \
             {kind: KeyedSha1, keyFile: /etc/key}}}",
        ),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
        document("Node", "n2", "", "{addresses: [192.0.2.2]}"),
        peer("as-the-fabric", "address: 192.0.2.10"),
        peer("not", "address: 192.0.2.11, bfd: {enabled: false}"),
        peer(
            "slower",
            "address: 192.0.2.12, bfd: {minTxMillis: 1000, multihop: false}",
        ),
    ]);
    assert_eq!(plan.problems, []);
    let told = |node: &str| -> Vec<String> {
        let sessions = plan.configs[node].bfd.iter();
        let words = |it: &plan::BfdSession| {
            let key = it.authentication.is_some();
            format!(
                "{} {} multihop {} {} {} {} key {key}",
                it.peer, it.remote, it.multihop, it.min_tx_millis, it.min_rx_millis, it.multiplier
            )
        };
        sessions.map(words).collect()
    };
    assert_eq!(
        told("n1"),
        [
            "as-the-fabric 192.0.2.10 multihop true 100 300 5 key true",
            "slower 192.0.2.12 multihop false 1000 300 5 key true",
            "mesh-n2 192.0.2.2 multihop true 100 300 5 key true",
        ]
    );
    assert_eq!(
        told("n2")[2],
        "mesh-n1 192.0.2.1 multihop true 100 300 5 key true"
    );

    // Without the Fabric's a Peer can still ask, and its `enabled: false` means nothing more.
    let plan = planned(&[
        fabric("{asn: {value: 64512}, bfd: {enabled: false, minTxMillis: 50}}"),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
        peer("asks", "address: 192.0.2.10, bfd: {}"),
        peer("says-nothing", "address: 192.0.2.11"),
    ]);
    let sessions = plan.configs["n1"].bfd.iter();
    let told: Vec<_> = sessions
        .map(|it| (it.peer.as_str(), it.min_tx_millis))
        .collect();
    assert_eq!(told, [("asks", 50)]);
}

#[test]
fn bfd_is_off_unless_asked_for_and_follows_its_peer() {
    let peer = |name: &str, more: &str| {
        let spec = format!("{{remoteAsn: 65101, import: [p], export: [p], {more}}}");
        document("Peer", name, "", &spec)
    };
    let plan = planned(&[
        fabric("{asn: {value: 64512}}"),
        document("Node", "n1", "", "{addresses: [192.0.2.1]}"),
        document("RoutePolicy", "p", "", "{rules: []}"),
        peer("a-without", "address: 192.0.2.10"),
        peer(
            "b-plain",
            "address: 192.0.2.11, localAddress: 192.0.2.1, bfd: {}",
        ),
        peer(
            "c-far",
            "address: 198.51.100.1, ttl: 3, bfd: {minRxMillis: 50}, shutdown: {}",
        ),
        peer(
            "d-near",
            "address: 192.0.2.13, ttl: 3, bfd: {multihop: false, multiplier: 5}",
        ),
        peer("e-guarded", "address: 192.0.2.14, ttlSecurity: {}, bfd: {}"),
        peer(
            "g-signed",
            "address: 192.0.2.16, tcpAo: {keys: [{sendId: 2, receiveId: 12, algorithm: Aes128Cmac, \
             file: /b}, {sendId: 1, receiveId: 11, file: /a}]}",
        ),
        peer(
            "f-guarded-far",
            "address: 192.0.2.15, ttlSecurity: {hops: 2}, bfd: {}",
        ),
    ]);
    assert_eq!(plan.problems, []);
    let config = &plan.configs["n1"];
    let told: Vec<String> = config
        .bfd
        .iter()
        .map(|it| {
            format!(
                "{} {} {:?} multihop {} {} {} {} down {}",
                it.peer,
                it.remote,
                it.local.map(|local| local.to_string()),
                it.multihop,
                it.min_tx_millis,
                it.min_rx_millis,
                it.multiplier,
                it.admin_down
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "b-plain 192.0.2.11 Some(\"192.0.2.1\") multihop false 300 300 3 down false",
            "c-far 198.51.100.1 None multihop true 300 50 3 down true",
            "d-near 192.0.2.13 None multihop false 300 300 5 down false",
            "e-guarded 192.0.2.14 None multihop false 300 300 3 down false",
            "f-guarded-far 192.0.2.15 None multihop true 300 300 3 down false",
        ]
    );
    let ao = config.bgp.peers.iter().find(|peer| peer.name == "g-signed");
    let Some(Authentication::Ao { keys }) = &ao.unwrap().authentication else {
        panic!("{ao:?}")
    };
    let told = |key: &AoKey| format!("{} {} {:?}", key.send_id, key.receive_id, key.algorithm);
    let told: Vec<String> = keys.iter().map(told).collect();
    assert_eq!(told, ["2 12 Aes128Cmac", "1 11 HmacSha1"]);
    let guarded = config.bgp.peers.iter();
    let guarded = guarded.filter(|peer| peer.ttl_security.is_some());
    let guarded: Vec<_> = guarded.map(|peer| (peer.ttl, peer.hops())).collect();
    assert_eq!(guarded, [(255, 1), (255, 2)]);
    assert_eq!(&wire::from_proto(wire::to_proto(config)).unwrap(), config);
}

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

#[test]
fn every_node_with_subnets_of_a_pool_that_says_so_masquerades_them_and_nothing_of_the_cluster() {
    let node = |name: &str, address: &str, subnet: &str| {
        let spec = format!("{{addresses: [{address}], subnets: [{subnet}]}}");
        document("Node", name, "", &spec)
    };
    let documents = [
        fabric("{asn: {value: 64512}, nodeSubnets: Adopt}"),
        document(
            "Pool",
            "hidden",
            "",
            "{prefixes: [10.64.0.0/16], masquerade: {exempt: [172.16.0.0/13, 172.24.0.0/13]}}",
        ),
        document("Pool", "plain", "", "{prefixes: [10.65.0.0/16]}"),
        node("n1", "192.0.2.0", "10.64.1.0/24"),
        node("n2", "192.0.2.1", "10.65.1.0/24"),
        node("n3", "2001:db8::3", "10.64.3.0/24"),
    ];
    let plan = planned(&documents);
    assert_eq!(plan.problems, []);
    let texts = |prefixes: &[bgp::types::Prefix]| -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    };
    let first = plan.configs["n1"].masquerade.as_ref().unwrap();
    assert_eq!(first.pools.len(), 1);
    assert_eq!(first.pools[0].pool, "hidden");
    assert_eq!(texts(&first.pools[0].subnets), ["10.64.1.0/24"]);
    assert_eq!(texts(&first.pools[0].exempt), ["172.16.0.0/12"]);
    assert_eq!(
        texts(&first.direct),
        ["10.64.0.0/15", "192.0.2.0/31", "2001:db8::3/128"]
    );
    assert_eq!(plan.configs["n2"].masquerade, None);
    assert!(plan.configs["n3"].masquerade.is_some());
    let without: Vec<String> = documents
        .iter()
        .map(|text| text.replace("masquerade: {exempt: [172.16.0.0/13, 172.24.0.0/13]}", ""))
        .collect();
    let plan = planned(&without);
    assert!(
        plan.configs
            .values()
            .all(|config| config.masquerade.is_none())
    );
}

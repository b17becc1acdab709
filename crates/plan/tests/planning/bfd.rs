//! BFD beside sessions.

use bgp::config::{AoKey, Authentication};
use plan::wire;

use super::{document, fabric, planned};

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

//! What only some of the daemons can do: IPv6 next hops for IPv4, and messages of up to 65535 octets.

use lab::bird::Bird;
use lab::{Lab, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number, wait_for_kernel};
use crate::tor::{BirdTor, FrrTor, Sessions, Tor};

/// IPv4 routes over an IPv6 session, with IPv6 next hops, and packets along them. RFC 8950.
fn ipv4_goes_over_ipv6_next_hops<T: Tor>() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    // The ToR's own end of the announced prefix; it has no IPv4 address in common with the node.
    tor.ip([
        "address flush dev eth0 scope global",
        "address add 10.77.0.1/32 dev lo",
    ])
    .unwrap();
    node.ip([
        "address flush dev eth0 scope global",
        "address add 10.64.1.1/32 dev lo",
    ])
    .unwrap();
    tor.raise("eth0", &["fd00:1::1/64"]).unwrap();
    node.raise("eth0", &["fd00:1::11/64"]).unwrap();
    let sessions = Sessions {
        extended_next_hop: true,
        ..Sessions::new(65101, "fd00:1::11", 65201)
    };
    let mut router = T::start(&tor, lab.directory(), &sessions).unwrap();
    let host = Host {
        addresses: vec!["fd00:1::11"],
        peers: vec![Peer::new("tor", "fd00:1::1", 65101).with("extendedNextHop: true\n")],
        ..host()
    };
    let speaker = host.start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    router.announce("10.77.0.0/24").unwrap();
    router.announce("fd00:77::/64").unwrap();
    wait_for_kernel(&node, "10.77.0.0/24", "by an IPv6 next hop", |route| {
        route.contains("via inet6 fd00:1::1 dev eth0")
    });
    wait_for_kernel(&node, "fd00:77::/64", "there", |route| {
        route.contains("via fd00:1::1 dev eth0")
    });
    for own in ["10.64.1.0/24", "fd00:64:1::/64"] {
        let route = wait_for("the ToR to have it", SOON, || router.route(own));
        assert_eq!(route.next_hop, "fd00:1::11");
    }
    wait_for("packets both ways", SOON, || {
        node.run("ping -c 1 -W 1 -I 10.64.1.1 10.77.0.1")
    });
    let peer = speaker.peer("tor").unwrap();
    assert_eq!(peer["families"][0]["extendedNextHop"], true, "{peer}");
}

#[test]
fn ipv4_goes_over_ipv6_next_hops_with_bird() {
    ipv4_goes_over_ipv6_next_hops::<BirdTor>();
}

#[test]
fn ipv4_goes_over_ipv6_next_hops_with_frr() {
    ipv4_goes_over_ipv6_next_hops::<FrrTor>();
}

/// How many prefixes make several ordinary messages.
const MANY: usize = 4000;

/// 10.128.0.0/24 and those behind it.
fn many() -> impl Iterator<Item = String> {
    (0..MANY).map(|n| format!("10.{}.{}.0/24", 128 + n / 256, n % 256))
}

/// The host announces many prefixes with one set of attributes.
fn talkative() -> Host {
    let prefixes: Vec<String> = many().collect();
    Host {
        advertisement: format!("{{prefixes: [{}]}}", prefixes.join(", ")),
        ..host()
    }
}

#[test]
fn extended_messages_go_both_ways_with_bird() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    // 4400 octets in one attribute: no ordinary message can carry them.
    let communities = |asn: u32| (0..1100).map(move |n| (asn, n));
    let added: String = communities(65101)
        .map(|(asn, n)| format!("bgp_community.add(({asn},{n}));\n"))
        .collect();
    let config = format!(
        "router id 10.1.0.1;\nprotocol device {{}}\n\
         protocol bgp node {{ local as 65101; neighbor {NODE} as 65201;\n\
         enable extended messages yes; connect delay time 1;\n\
         ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n\
         protocol static {{ ipv4; route 10.77.0.0/24 blackhole {{ {added} }}; }}\n"
    );
    let bird = Bird::start(&tor, lab.directory(), "tor", &config).unwrap();
    let speaker = talkative().start(&lab, &node);
    let route = speaker.wait_for_route("10.77.0.0/24");
    let received: Vec<String> = communities(65101)
        .map(|(asn, n)| format!("{asn}:{n}"))
        .collect();
    assert_eq!(route["communities"], serde_json::json!(received));
    wait_for("all routes there", SOON, || {
        let count = bird.ask("show route count protocol node")?;
        anyhow::ensure!(count.contains(&format!("{MANY} of ")), "{count}");
        Ok(())
    });
    // Four octets a prefix: at most 4096 octets each would be four messages, and End-of-RIB.
    let peer = speaker.peer("tor").unwrap();
    assert!(number(&peer, "sent.update") <= 3, "{peer}");
    assert_eq!(number(&peer, "establishedCount"), 1, "{peer}");
}

#[test]
fn many_routes_fit_into_one_extended_message_with_frr() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let sessions = Sessions::new(65101, NODE, 65201);
    let router = FrrTor::start(&tor, lab.directory(), &sessions).unwrap();
    let speaker = talkative().start(&lab, &node);
    wait_for("all routes there", SOON, || {
        let summary = router.frr.ask("show bgp ipv4 unicast summary json")?;
        let summary: serde_json::Value = serde_json::from_str(&summary)?;
        let received = &summary["peers"][NODE]["pfxRcd"];
        anyhow::ensure!(*received == MANY, "{summary}");
        Ok(())
    });
    let peer = speaker.peer("tor").unwrap();
    assert!(number(&peer, "sent.update") <= 4, "{peer}");
    assert_eq!(number(&peer, "received.notification"), 0, "{peer}");
}

//! TTL security (GTSM, RFC 5082): with BIRD and FRR, and with somebody who comes from too far.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::bird::Bird;
use lab::frr::Frr;
use lab::raw::{self, Raw};
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number};

/// The ToR's and the node's addresses on their cable.
const CABLE: [(&str, &str); 2] = [("10.1.0.1", NODE), ("fd00:1::1", "fd00:1::11")];

/// A node with TTL security, and with more of the Peer's `spec`.
fn strict(tor: &'static str, more: &'static str) -> Host {
    Host {
        peers: vec![Peer::new("tor", tor, 65101).with(more)],
        ..host()
    }
}

fn bird(machine: &Namespace, lab: &Lab, node: &str, more: &str) -> Bird {
    let family = if node.contains(':') { "ipv6" } else { "ipv4" };
    let route = match family {
        "ipv6" => "fd00:77::/64",
        _ => "10.77.0.0/24",
    };
    let config = format!(
        "router id 10.1.0.1;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol static {{ {family}; route {route} blackhole; }}\n\
         protocol bgp node {{ local as 65101; neighbor {node} as 65201; direct; connect delay time 1;\n\
         connect retry time 1; error wait time 1, 2; {more}\n{family} {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    Bird::start(machine, lab.directory(), "tor", &config).unwrap()
}

fn frr(machine: &Namespace, lab: &Lab, node: &str, more: &str) -> Frr {
    let (family, route) = match node.contains(':') {
        true => ("ipv6", "fd00:77::/64"),
        false => ("ipv4", "10.77.0.0/24"),
    };
    let config = format!(
        "router bgp 65101\n bgp router-id 10.1.0.1\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n no bgp network import-check\n \
         neighbor {node} remote-as 65201\n neighbor {node} timers connect 1\n{more}\
         address-family {family} unicast\n  neighbor {node} activate\n  network {route}\n \
         exit-address-family\n"
    );
    Frr::start(machine, lab.directory(), "tor", &config).unwrap()
}

/// Waits until the session is up and routes come, whoever has opened the connection.
#[track_caller]
fn goes_well(speaker: &Speaker<'_>, node: &str) {
    speaker.wait_for_state("tor", "Established");
    let prefix = match node.contains(':') {
        true => "fd00:77::/64",
        false => "10.77.0.0/24",
    };
    speaker.wait_for_route(prefix);
    let text = speaker.bgpctl("show peers tor").unwrap();
    let line = "ttl security  sends TTL 255, drops what has less than 255";
    assert!(text.contains(line), "{text}");
}

#[test]
fn sessions_with_bird_come_up_whichever_side_connects() {
    for (tor_address, node_address) in CABLE {
        for (ours, theirs) in [
            ("ttlSecurity: {}\n", "ttl security on; passive on;"),
            ("ttlSecurity: {}\npassive: true\n", "ttl security on;"),
        ] {
            let lab = Lab::new().unwrap();
            let (tor, node) = cabled(&lab);
            let _bird = bird(&tor, &lab, node_address, theirs);
            let speaker = strict(tor_address, ours).start(&lab, &node);
            goes_well(&speaker, node_address);
        }
    }
}

#[test]
fn sessions_with_frr_come_up_whichever_side_connects() {
    for (tor_address, node_address) in CABLE {
        for (ours, passive) in [
            ("ttlSecurity: {hops: 1}\n", true),
            ("ttlSecurity: {hops: 1}\npassive: true\n", false),
        ] {
            let lab = Lab::new().unwrap();
            let (tor, node) = cabled(&lab);
            let mut theirs = format!(" neighbor {node_address} ttl-security hops 1\n");
            if passive {
                theirs += &format!(" neighbor {node_address} passive\n");
            }
            let _frr = frr(&tor, &lab, node_address, &theirs);
            let speaker = strict(tor_address, ours).start(&lab, &node);
            goes_well(&speaker, node_address);
        }
    }
}

#[test]
fn a_session_comes_up_once_both_sides_have_it_and_not_before() {
    for (tor_address, node_address) in CABLE {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        // An eBGP neighbour on the link sends with TTL 1.
        let bird = bird(&tor, &lab, node_address, "");
        let speaker = strict(tor_address, "ttlSecurity: {}\n").start(&lab, &node);
        // Its listening socket answers with TTL 255; what BIRD then says does not arrive.
        wait_for("an OPEN of BIRD, repeated and dropped", SOON, || {
            let dropped = dropped(&node)?;
            anyhow::ensure!(dropped >= 2, "{dropped} segments dropped");
            Ok(())
        });
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "establishedCount"), 0, "{peer}");
        assert_eq!(number(&peer, "received.open"), 0, "{peer}");
        drop(bird);
        let _bird = self::bird(&tor, &lab, node_address, "ttl security on;");
        goes_well(&speaker, node_address);
    }
}

/// Segments that the node's kernel has dropped because of a connection's minimum TTL.
fn dropped(node: &Namespace) -> anyhow::Result<u64> {
    let text = node.run("nstat -asz TcpExtTCPMinTTLDrop")?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "TcpExtTCPMinTTLDrop");
    Ok(words.next().unwrap_or_default().parse()?)
}

/// Connects from the ToR, if that is answered within a second and a half: two SYNs.
fn dial(tor: &Namespace, to: &str) -> anyhow::Result<Raw> {
    let to = SocketAddr::new(to.parse()?, 179);
    let patience = Duration::from_millis(1500);
    Raw::over(tor.within(|| TcpStream::connect_timeout(&to, patience))??)
}

/// What the ToR's kernel sends with, and the hop limit for IPv6.
fn send_with(tor: &Namespace, ttl: &str) {
    tor.set(&[
        ("net/ipv4/ip_default_ttl", ttl),
        ("net/ipv6/conf/all/hop_limit", ttl),
        ("net/ipv6/conf/eth0/hop_limit", ttl),
    ])
    .unwrap();
}

#[test]
fn what_has_come_over_a_router_establishes_nothing_and_keeps_nothing_alive() {
    for (tor_address, node_address) in CABLE {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        let host = strict(tor_address, "ttlSecurity: {}\npassive: true\n");
        let speaker = host.start(&lab, &node);
        speaker.wait_for_state("tor", "Active");
        send_with(&tor, "254");
        let refused = dial(&tor, node_address).unwrap_err();
        assert!(format!("{refused:#}").contains("timed out"), "{refused:#}");

        send_with(&tor, "255");
        let mut near = dial(&tor, node_address).unwrap();
        near.establish(65101, Ipv4Addr::new(10, 1, 0, 1)).unwrap();
        speaker.wait_for_state("tor", "Established");
        let before = number(&speaker.peer("tor").unwrap(), "received.keepalive");
        // From now on it is somewhere else, and says that it is alive three times as often as it has to.
        send_with(&tor, "254");
        wait_for("the hold time to be over", SOON, || {
            let _ = near.send(&raw::message(raw::KEEPALIVE, &[]));
            let peer = speaker.peer("tor")?;
            let error = peer["lastError"].as_str().unwrap_or_default();
            anyhow::ensure!(error.contains("Hold Timer Expired"), "{peer}");
            Ok(())
        });
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "received.keepalive"), before, "{peer}");
    }
}

#[test]
fn a_neighbour_two_hops_away_may_be_so_far_and_no_farther() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let far = lab.machine("far").unwrap();
    far.cable("eth0", &["10.2.0.1/24"], &tor, "eth1", &["10.2.0.2/24"])
        .unwrap();
    tor.set(&[("net/ipv4/ip_forward", "1")]).unwrap();
    far.ip(["route add 10.1.0.0/24 via 10.2.0.2"]).unwrap();
    node.ip(["route add 10.2.0.0/24 via 10.1.0.1"]).unwrap();
    let config = "router id 10.2.0.1;\nprotocol device {}\n\
         protocol static { ipv4; route 10.77.0.0/24 blackhole; }\n\
         protocol bgp node { local 10.2.0.1 as 65101; neighbor 10.1.0.11 as 65201; multihop 2;\n\
         ttl security on; connect delay time 1;\n\
         ipv4 { import all; export where source = RTS_STATIC; }; }\n";
    let _bird = Bird::start(&far, lab.directory(), "far", config).unwrap();
    let mut host = strict("10.2.0.1", "ttlSecurity: {hops: 2}\nfamilies: [IPv4]\n");
    let speaker = host.start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    speaker.wait_for_route("10.77.0.0/24");
    host.peers[0].more = "ttlSecurity: {hops: 1}\nfamilies: [IPv4]\n";
    speaker.edit(&host.yaml()).unwrap();
    wait_for("the session to be lost", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["state"] != "Established", "{}", peer["state"]);
        anyhow::ensure!(peer["ttlSecurity"] == 1, "{peer}");
        Ok(())
    });
    // It would have come back a second later.
    let error = |peer: &serde_json::Value| peer["lastError"].as_str().unwrap_or("").to_owned();
    wait_for("attempts without an answer", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(error(&peer).contains("no answer"), "{peer}");
        Ok(())
    });
    let peer = speaker.peer("tor").unwrap();
    assert_eq!(number(&peer, "establishedCount"), 1, "{peer}");
}

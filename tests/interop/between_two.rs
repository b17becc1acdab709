//! Our speaker as a router between others, and sessions of other shapes than a cable to a ToR.

use std::time::Duration;

use lab::bird::Bird;
use lab::{Lab, Namespace, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number, wait_for_kernel};
use crate::tor::{BirdTor, FrrTor, Route, Sessions, Tor};

/// A second neighbour of the node: 10.1.5.1 at 10.1.5.11.
fn second(lab: &Lab, node: &Namespace) -> Namespace {
    let second = lab.machine("second").unwrap();
    second
        .cable(
            "eth0",
            &["10.1.5.1/24", "fd00:1:5::1/64"],
            node,
            "eth1",
            &["10.1.5.11/24", "fd00:1:5::11/64"],
        )
        .unwrap();
    second
}

/// Sessions of the second neighbour.
fn second_sessions(asn: u32) -> Sessions {
    Sessions {
        router_id: "10.1.5.1",
        ..Sessions::new(asn, "10.1.5.11", 65201)
    }
}

/// A node that passes on what it hears.
fn transit(second_asn: u32) -> Host {
    let mut host = Host {
        export: "    - {name: everything, action: Accept}\n".into(),
        ..host()
    };
    host.addresses.extend(["10.1.5.11", "fd00:1:5::11"]);
    host.peers.push(Peer::new("second", "10.1.5.1", second_asn));
    host
}

#[test]
fn what_bird_says_reaches_frr_through_us_whole_and_the_other_way_round() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let second = second(&lab, &node);
    let mut bird =
        BirdTor::start(&tor, lab.directory(), &Sessions::new(65101, NODE, 65201)).unwrap();
    let mut frr = FrrTor::start(&second, lab.directory(), &second_sessions(65102)).unwrap();
    let speaker = transit(65102).start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    speaker.wait_for_state("second", "Established");

    let passed_on = |as_path: &str, next_hop: &str| Route {
        as_path: as_path.into(),
        next_hop: next_hop.into(),
        communities: vec!["65101:7".into()],
        large: vec!["65101:7:7".into()],
        extended: vec!["rt:65101:7".into()],
    };
    for (prefix, next_hop) in [
        ("10.77.0.0/24", "10.1.5.11"),
        ("fd00:77::/64", "fd00:1:5::11"),
    ] {
        bird.announce(prefix).unwrap();
        let route = wait_for("FRR to have BIRD's route", SOON, || frr.route(prefix));
        assert_eq!(route, passed_on("65201 65101", next_hop));
        bird.withdraw(prefix).unwrap();
        wait_for("FRR to forget it", SOON, || {
            anyhow::ensure!(frr.route(prefix).is_err(), "still there");
            Ok(())
        });
    }
    for (prefix, next_hop) in [("10.78.0.0/24", NODE), ("fd00:78::/64", "fd00:1::11")] {
        frr.announce(prefix).unwrap();
        let route = wait_for("BIRD to have FRR's route", SOON, || bird.route(prefix));
        assert_eq!(route, passed_on("65201 65102", next_hop));
    }
    // A neighbour that is gone takes its routes along.
    drop(frr);
    wait_for("BIRD to forget FRR's routes", SOON, || {
        for prefix in ["10.78.0.0/24", "fd00:78::/64"] {
            anyhow::ensure!(bird.route(prefix).is_err(), "{prefix} is still there");
        }
        Ok(())
    });
}

#[test]
fn within_one_as_next_hops_stay_and_routes_go_no_further() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let second = second(&lab, &node);
    let sessions = Sessions::new(65101, NODE, 65201);
    let mut outside = BirdTor::start(&tor, lab.directory(), &sessions).unwrap();
    let mut inside = FrrTor::start(&second, lab.directory(), &second_sessions(65201)).unwrap();
    let speaker = transit(65201).start(&lab, &node);
    speaker.wait_for_state("second", "Established");

    // From eBGP to iBGP: the outside's address, which the inside's kernel must know.
    second.ip(["route add 10.1.0.0/24 via 10.1.5.11"]).unwrap();
    outside.announce("10.77.0.0/24").unwrap();
    let route = wait_for("the inside to have it", SOON, || {
        inside.route("10.77.0.0/24")
    });
    assert_eq!(
        (route.as_path.as_str(), route.next_hop.as_str()),
        ("65101", "10.1.0.1")
    );
    // From iBGP to eBGP: our address and our AS.
    inside.announce("10.78.0.0/24").unwrap();
    let route = wait_for("the outside to have it", SOON, || {
        outside.route("10.78.0.0/24")
    });
    assert_eq!(
        (route.as_path.as_str(), route.next_hop.as_str()),
        ("65201", NODE)
    );
    let route = speaker.wait_for_route("10.78.0.0/24");
    assert_eq!(route["source"], "Ibgp", "{route}");
    assert_eq!(route["localPreference"], 100, "{route}");
    assert_eq!(route["asPath"], "", "{route}");
}

#[test]
fn a_session_between_loopbacks_on_another_port_goes_over_several_hops() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    tor.ip([
        "address add 10.255.0.1/32 dev lo",
        "route add 10.255.0.11 via 10.1.0.11",
    ])
    .unwrap();
    node.ip([
        "address add 10.255.0.11/32 dev lo",
        "route add 10.255.0.1 via 10.1.0.1",
    ])
    .unwrap();
    let config = "router id 10.255.0.1;\nprotocol device {}\n\
        protocol static { ipv4; route 10.77.0.0/24 blackhole; }\n\
        protocol bgp node { local 10.255.0.1 port 1179 as 65101; neighbor 10.255.0.11 as 65201;\n\
        multihop 3; passive on; ipv4 { import all; export where source = RTS_STATIC; }; }\n";
    let bird = Bird::start(&tor, lab.directory(), "tor", config).unwrap();
    let mut host = host();
    host.addresses.push("10.255.0.11");
    host.peers = vec![
        Peer::new("tor", "10.255.0.1", 65101)
            .with("localAddress: 10.255.0.11\nport: 1179\nttl: 3\nfamilies: [IPv4]\n"),
    ];
    let speaker = host.start(&lab, &node);
    // The next hop is the loopback, reached by the address on the cable.
    wait_for_kernel(&node, "10.77.0.0/24", "over the cable", |route| {
        route.contains("via 10.1.0.1 dev eth0")
    });
    wait_for("our subnet at the ToR", SOON, || {
        let routes = bird.ask("show route 10.64.1.0/24 all")?;
        anyhow::ensure!(routes.contains("BGP.next_hop: 10.255.0.11"), "{routes}");
        Ok(())
    });
    let peer = speaker.peer("tor").unwrap();
    assert_eq!(peer["localAddress"], "10.255.0.11", "{peer}");
    assert_eq!(peer["port"], 1179, "{peer}");
}

#[test]
fn a_peer_taken_out_of_the_files_is_told_so_and_its_routes_go() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let mut bird =
        BirdTor::start(&tor, lab.directory(), &Sessions::new(65101, NODE, 65201)).unwrap();
    let mut host = host();
    let speaker = host.start(&lab, &node);
    bird.announce("10.77.0.0/24").unwrap();
    wait_for_kernel(&node, "10.77.0.0/24", "there", |route| {
        route.contains("proto 149")
    });
    let peers = std::mem::take(&mut host.peers);
    speaker.edit(&host.yaml()).unwrap();
    wait_for("BIRD to be told", SOON, || {
        let words = bird.last_words(NODE)?;
        anyhow::ensure!(words.contains("Peer de-configured"), "{words}");
        Ok(())
    });
    wait_for_kernel(&node, "10.77.0.0/24", "gone", str::is_empty);
    host.peers = peers;
    speaker.edit(&host.yaml()).unwrap();
    wait_for_kernel(&node, "10.77.0.0/24", "back", |route| {
        route.contains("proto 149")
    });
}

#[test]
fn a_speaker_that_is_stopped_is_missed_at_once_and_leaves_the_kernel_s_routes() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let mut bird =
        BirdTor::start(&tor, lab.directory(), &Sessions::new(65101, NODE, 65201)).unwrap();
    let mut speaker = host().start(&lab, &node);
    bird.announce("10.77.0.0/24").unwrap();
    let ours = |route: &str| route.contains("proto 149");
    wait_for_kernel(&node, "10.77.0.0/24", "there", ours);
    speaker.stop().unwrap();
    wait_for("BIRD to know", Duration::from_secs(5), || {
        let words = bird.last_words(NODE)?;
        anyhow::ensure!(!words.contains("Established"), "{words}");
        Ok(())
    });
    wait_for_kernel(&node, "10.77.0.0/24", "there still", ours);
    wait_for_kernel(&node, "10.64.1.0/24", "there still", ours);
    speaker.start_again().unwrap();
    speaker.wait_for_state("tor", "Established");
    wait_for("our subnet at the ToR", SOON, || bird.route("10.64.1.0/24"));
}

#[test]
fn a_peer_that_stops_reading_costs_only_itself() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let second = second(&lab, &node);
    let mut stuck =
        BirdTor::start(&tor, lab.directory(), &Sessions::new(65101, NODE, 65201)).unwrap();
    let mut frr = FrrTor::start(&second, lab.directory(), &second_sessions(65102)).unwrap();
    let speaker = transit(65102).start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    speaker.wait_for_state("second", "Established");
    stuck.announce("10.76.0.0/24").unwrap();
    wait_for(
        "FRR to have the route of the one that will stop",
        SOON,
        || frr.route("10.76.0.0/24"),
    );
    stuck.bird.freeze().unwrap();
    frr.announce("10.77.0.0/24").unwrap();
    speaker.wait_for_route("10.77.0.0/24");
    wait_for("the hold time to be over", SOON, || {
        let peer = speaker.peer("tor")?;
        let error = peer["lastError"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains("Hold Timer Expired"), "{peer}");
        Ok(())
    });
    wait_for("FRR to forget its route", Duration::from_secs(5), || {
        anyhow::ensure!(frr.route("10.76.0.0/24").is_err(), "still there");
        Ok(())
    });
    let peer = speaker.peer("second").unwrap();
    assert_eq!(number(&peer, "establishedCount"), 1, "{peer}");
    stuck.bird.thaw().unwrap();
    wait_for("both routes on both sides", SOON, || {
        stuck.route("10.77.0.0/24")?;
        frr.route("10.76.0.0/24")
    });
}

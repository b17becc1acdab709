//! Route reflection (RFC 4456) with real daemons: our speaker as the reflector of BIRD, FRR and GoBGP,
//! our nodes as clients of BIRD and of FRR, and two reflectors of ours, one of which is killed.

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::Value;

use crate::host::{Host, Peer, SOON, wait_for_kernel};
use crate::tor::{BirdTor, FrrTor, GobgpTor, Sessions, Tor};

const ASN: u32 = 65000;

/// Machines on one network: each a name and the last number of its addresses 10.1.0.N and fd00:1::N.
fn network(lab: &Lab, machines: &[(&str, u8)]) -> (Namespace, Vec<Namespace>) {
    let switch = lab.machine("switch").unwrap();
    let mut all = Vec::new();
    for (name, number) in machines {
        let machine = lab.machine(name).unwrap();
        let addresses = [
            format!("10.1.0.{number}/24"),
            format!("fd00:1::{number}/64"),
        ];
        let addresses = addresses.each_ref().map(String::as_str);
        machine
            .cable("eth0", &addresses, &switch, &format!("p{number}"), &[])
            .unwrap();
        all.push(machine);
    }
    let ports: Vec<String> = machines
        .iter()
        .map(|(_, number)| format!("p{number}"))
        .collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    switch.bridge("br0", &ports, &[]).unwrap();
    (switch, all)
}

/// A speaker of ours that tells and accepts everything, with sessions to some addresses.
fn host(name: &'static str, addresses: [&'static str; 2], peers: Vec<Peer>) -> Host {
    Host {
        addresses: addresses.to_vec(),
        export: "    - {name: everything, action: Accept}\n".into(),
        peers,
        ..Host::new(name, ASN)
    }
}

/// The kernel's route for a prefix leads to this address.
#[track_caller]
fn leads_to(machine: &Namespace, prefix: &str, via: &str) {
    wait_for_kernel(machine, prefix, &format!("via {via}"), |route| {
        route.contains(&format!("via {via} "))
    });
}

#[test]
fn our_speaker_reflects_to_bird_frr_and_gobgp() {
    let lab = Lab::new().unwrap();
    let machines = [("gobgp", 1), ("reflector", 2), ("bird", 11), ("frr", 12)];
    let (_switch, machines) = network(&lab, &machines);
    let [gobgp, reflector, bird, frr] = &machines[..] else {
        unreachable!("four machines were asked for")
    };
    let client = "reflectorClient: true";
    let clients = [
        ("gobgp", "10.1.0.1"),
        ("bird", "10.1.0.11"),
        ("frr", "10.1.0.12"),
    ];
    let clients = clients.map(|(name, address)| Peer::new(name, address, ASN).with(client));
    let host = host("r1", ["10.1.0.2", "fd00:1::2"], clients.into());
    let sessions = |router_id| Sessions {
        router_id,
        ..Sessions::new(ASN, "10.1.0.2", ASN)
    };
    let mut gobgp = GobgpTor::start(gobgp, lab.directory(), &sessions("10.1.0.1")).unwrap();
    let mut bird = BirdTor::start(bird, lab.directory(), &sessions("10.1.0.11")).unwrap();
    let mut frr = FrrTor::start(frr, lab.directory(), &sessions("10.1.0.12")).unwrap();
    let speaker = host.start(&lab, reflector);
    for peer in ["gobgp", "bird", "frr"] {
        speaker.wait_for_state(peer, "Established");
        assert_eq!(speaker.peer(peer).unwrap()["reflectorClient"], true);
    }
    gobgp.announce("10.77.1.0/24").unwrap();
    bird.announce("10.77.11.0/24").unwrap();
    frr.announce("10.77.12.0/24").unwrap();
    let from = [
        ("10.77.1.0/24", "10.1.0.1"),
        ("10.77.11.0/24", "10.1.0.11"),
        ("10.77.12.0/24", "10.1.0.12"),
    ];
    let all: [&dyn Tor; 3] = [&gobgp, &bird, &frr];
    for (of, tor) in all.into_iter().enumerate() {
        for (prefix, next_hop) in from
            .into_iter()
            .enumerate()
            .filter(|(i, _)| *i != of)
            .map(|(_, it)| it)
        {
            let what = format!("client {of} to have {prefix}");
            let route = wait_for(&what, SOON, || tor.route(prefix));
            assert_eq!(
                (route.as_path.as_str(), route.next_hop.as_str()),
                ("", next_hop)
            );
        }
    }
    // What the reflector wrote into it, in FRR's words.
    let text = frr
        .frr
        .ask("show bgp ipv4 unicast 10.77.11.0/24 json")
        .unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let path = &answer["paths"][0];
    assert_eq!(path["originatorId"], "10.1.0.11", "{text}");
    assert_eq!(path["clusterList"]["list"][0], "10.1.0.2", "{text}");
    // Nobody has his own route back, and nobody had to refuse one.
    for (peer, prefix) in [("bird", "10.77.11.0/24"), ("frr", "10.77.12.0/24")] {
        let exports = speaker.json(&format!("explain {prefix}")).unwrap();
        assert!(
            exports
                .to_string()
                .contains("the route came from this peer"),
            "{peer}: {exports}"
        );
    }
    bird.withdraw("10.77.11.0/24").unwrap();
    wait_for("FRR to forget BIRD's route", SOON, || {
        anyhow::ensure!(frr.route("10.77.11.0/24").is_err(), "still there");
        Ok(())
    });
}

/// Nodes 10.1.0.11 and 10.1.0.12 with a subnet each, both clients of 10.1.0.1.
fn clients(lab: &Lab, nodes: [&'_ Namespace; 2], check: impl FnOnce([&Speaker<'_>; 2])) {
    let reflector = || vec![Peer::new("reflector", "10.1.0.1", ASN)];
    let mut one = host("n1", ["10.1.0.11", "fd00:1::11"], reflector());
    one.subnets = vec!["10.64.1.0/24", "fd00:64:1::/64"];
    let mut two = host("n2", ["10.1.0.12", "fd00:1::12"], reflector());
    two.subnets = vec!["10.64.2.0/24", "fd00:64:2::/64"];
    let (one, two) = (one.start(lab, nodes[0]), two.start(lab, nodes[1]));
    for speaker in [&one, &two] {
        speaker.wait_for_state("reflector", "Established");
    }
    leads_to(nodes[0], "10.64.2.0/24", "10.1.0.12");
    leads_to(nodes[1], "10.64.1.0/24", "10.1.0.11");
    leads_to(nodes[0], "fd00:64:2::/64", "fd00:1::12");
    let route = one.wait_for_route("10.64.2.0/24");
    assert_eq!(route["originatorId"], "10.1.0.12", "{route}");
    assert_eq!(route["clusterList"][0], "10.1.0.1", "{route}");
    check([&one, &two]);
}

#[test]
fn our_nodes_are_clients_of_bird() {
    let lab = Lab::new().unwrap();
    let (_switch, machines) = network(&lab, &[("bird", 1), ("n1", 11), ("n2", 12)]);
    let mut config = "router id 10.1.0.1;\nprotocol device {}\n".to_owned();
    for number in [11, 12] {
        config.push_str(&format!(
            "protocol bgp c{number} {{ local as {ASN}; neighbor 10.1.0.{number} as {ASN}; rr client; hold \
             time 9; connect retry time 1; connect delay time 1; error wait time 1, 2; ipv4 {{ import all; \
             export all; }}; ipv6 {{ import all; export all; }}; }}\n"
        ));
    }
    let _bird = Bird::start(&machines[0], lab.directory(), "bird", &config).unwrap();
    clients(&lab, [&machines[1], &machines[2]], |_| {});
}

#[test]
fn our_nodes_are_clients_of_frr() {
    let lab = Lab::new().unwrap();
    let (_switch, machines) = network(&lab, &[("frr", 1), ("n1", 11), ("n2", 12)]);
    let mut config = format!(
        "router bgp {ASN}\n bgp router-id 10.1.0.1\n no bgp default ipv4-unicast\n timers bgp 3 9\n"
    );
    for number in [11, 12] {
        config.push_str(&format!(
            " neighbor 10.1.0.{number} remote-as {ASN}\n neighbor 10.1.0.{number} timers connect 1\n"
        ));
    }
    for family in ["ipv4", "ipv6"] {
        config.push_str(&format!(" address-family {family} unicast\n"));
        for number in [11, 12] {
            config.push_str(&format!(
                "  neighbor 10.1.0.{number} activate\n  neighbor 10.1.0.{number} route-reflector-client\n"
            ));
        }
        config.push_str(" exit-address-family\n");
    }
    let _frr = Frr::start(&machines[0], lab.directory(), "frr", &config).unwrap();
    clients(&lab, [&machines[1], &machines[2]], |_| {});
}

#[test]
fn one_of_two_reflectors_is_killed_and_no_kernel_s_route_changes() {
    let lab = Lab::new().unwrap();
    let (_switch, machines) = network(&lab, &[("r1", 1), ("r2", 2), ("n1", 11), ("n2", 12)]);
    let client = "reflectorClient: true\ngracefulRestart: {enabled: false}";
    let peers = |other| {
        vec![
            Peer::new("n1", "10.1.0.11", ASN).with(client),
            Peer::new("n2", "10.1.0.12", ASN).with(client),
            Peer::new("other", other, ASN).with("gracefulRestart: {enabled: false}"),
        ]
    };
    let mut first =
        host("r1", ["10.1.0.1", "fd00:1::1"], peers("10.1.0.2")).start(&lab, &machines[0]);
    let _second =
        host("r2", ["10.1.0.2", "fd00:1::2"], peers("10.1.0.1")).start(&lab, &machines[1]);
    let reflectors = || {
        let off = "gracefulRestart: {enabled: false}";
        vec![
            Peer::new("r1", "10.1.0.1", ASN).with(off),
            Peer::new("r2", "10.1.0.2", ASN).with(off),
        ]
    };
    let mut one = host("n1", ["10.1.0.11", "fd00:1::11"], reflectors());
    one.subnets = vec!["10.64.1.0/24"];
    let mut two = host("n2", ["10.1.0.12", "fd00:1::12"], reflectors());
    two.subnets = vec!["10.64.2.0/24"];
    let (one, _two) = (one.start(&lab, &machines[2]), two.start(&lab, &machines[3]));
    let n1 = &machines[2];
    // Two ways to hear of one way to go.
    wait_for("n1 to hear of it from both", SOON, || {
        let routes = one.routes("10.64.2.0/24")?;
        anyhow::ensure!(!routes.is_empty(), "no route");
        for reflector in ["r1", "r2"] {
            let heard = one.json(&format!("show routes --received {reflector} 10.64.2.0/24"))?;
            anyhow::ensure!(
                heard.to_string().contains("10.64.2.0/24"),
                "{reflector}: {heard}"
            );
        }
        Ok(())
    });
    leads_to(n1, "10.64.2.0/24", "10.1.0.12");
    machines[3].ip(["address add 10.64.2.1/32 dev lo"]).unwrap();
    machines[2].ip(["address add 10.64.1.1/32 dev lo"]).unwrap();
    let log = lab.directory().join("monitor.log");
    let mut monitor = n1.command("ip");
    monitor.args(["monitor", "route", "nexthop"]);
    let _monitor = n1.start("ip monitor", monitor, &log).unwrap();
    let mut ping = n1.command("ping");
    ping.args([
        "-q",
        "-i",
        "0.005",
        "-c",
        "2000",
        "-I",
        "10.64.1.1",
        "10.64.2.1",
    ]);
    let ping = ping.stdout(std::process::Stdio::piped()).spawn().unwrap();
    first.kill().unwrap();
    wait_for("n1 to lose the session", SOON, || {
        let state = one.peer("r1")?["state"].clone();
        anyhow::ensure!(state != "Established", "{state}");
        Ok(())
    });
    let summary = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        summary.contains("2000 packets transmitted, 2000 received"),
        "{summary}"
    );
    let changes = std::fs::read_to_string(&log).unwrap();
    assert!(!changes.contains("10.64.2.0"), "{changes}");
    leads_to(n1, "10.64.2.0/24", "10.1.0.12");
}

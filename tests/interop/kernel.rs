//! What becomes of routes in the node's kernel, and of packets.
//!
//! ```text
//!              10.1.1.0/24      ┌─ one (BIRD, AS 65101) ─┐  10.2.1.0/24
//!  pod ── node (AS 65201) ──────┤                        ├────── far: 10.77.0.0/24, fd00:77::/64
//!              10.1.2.0/24      └─ two (FRR, AS 65102) ──┘  10.2.2.0/24
//! ```

use std::fs;

use lab::speaker::Speaker;
use lab::{Lab, Namespace, Pinging, wait_for};
use serde_json::Value;

use crate::host::{Host, Peer, SOON, kernel_route, wait_for_kernel};
use crate::tor::{BirdTor, FrrTor, Sessions, Tor};

const FAR: [&str; 2] = ["10.77.0.0/24", "fd00:77::/64"];

/// All machines of the picture.
struct Machines {
    pod: Namespace,
    node: Namespace,
    one: Namespace,
    two: Namespace,
    far: Namespace,
}

impl Machines {
    fn new(lab: &Lab) -> Machines {
        let machine = |name| lab.machine(name).unwrap();
        let (pod, node, far) = (machine("pod"), machine("node"), machine("far"));
        let tors = [machine("one"), machine("two")];
        for (index, tor) in tors.iter().enumerate() {
            let n = index + 1;
            let address = |link: &str, last: u8| {
                [
                    format!("10.{link}.{n}.{last}/24"),
                    format!("fd00:{link}:{n}::{last}/64"),
                ]
            };
            let cable = |from: &Namespace, from_port: &str, to: &Namespace, to_port: &str, link| {
                let (from_end, to_end) = (address(link, 11), address(link, 1));
                let from_end = [from_end[0].as_str(), &from_end[1]];
                from.cable(from_port, &from_end, to, to_port, &[&to_end[0], &to_end[1]])
                    .unwrap();
            };
            cable(&node, &format!("eth{index}"), tor, "eth0", "1");
            cable(&far, &format!("eth{index}"), tor, "eth1", "2");
            tor.ip([
                format!("route add 10.77.0.0/24 via 10.2.{n}.11").as_str(),
                format!("route add fd00:77::/64 via fd00:2:{n}::11").as_str(),
            ])
            .unwrap();
        }
        far.ip([
            "address add 10.77.0.1/24 dev lo",
            "route add local fd00:77::/64 dev lo",
            "route add default nexthop via 10.2.1.1 nexthop via 10.2.2.1",
            "route add ::/0 nexthop via fd00:2:1::1 nexthop via fd00:2:2::1",
        ])
        .unwrap();
        plug_in(&pod, &node, "10.64.1.10", "fd00:64:1::10");
        let [one, two] = tors;
        Machines {
            pod,
            node,
            one,
            two,
            far,
        }
    }

    fn tor_one(&self, lab: &Lab) -> BirdTor {
        let sessions = Sessions {
            router_id: "10.1.1.1",
            ..Sessions::new(65101, "10.1.1.11", 65201)
        };
        let mut tor = BirdTor::start(&self.one, lab.directory(), &sessions).unwrap();
        FAR.iter().for_each(|prefix| tor.announce(prefix).unwrap());
        tor
    }

    fn tor_two(&self, lab: &Lab) -> FrrTor {
        let sessions = Sessions {
            router_id: "10.1.2.1",
            ..Sessions::new(65102, "10.1.2.11", 65201)
        };
        let mut tor = FrrTor::start(&self.two, lab.directory(), &sessions).unwrap();
        FAR.iter().for_each(|prefix| tor.announce(prefix).unwrap());
        tor
    }
}

/// A pod on a node, as the plugin sets one up: no addresses are shared, the node is the gateway.
fn plug_in(pod: &Namespace, node: &Namespace, ipv4: &str, ipv6: &str) {
    node.cable("pod0", &["169.254.1.1/32", "fe80::1/64"], pod, "eth0", &[])
        .unwrap();
    pod.ip([
        format!("address add {ipv4}/32 dev eth0").as_str(),
        &format!("address add {ipv6}/128 dev eth0 nodad"),
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
        "route add ::/0 via fe80::1 dev eth0",
    ])
    .unwrap();
    node.ip([
        format!("route add {ipv4} dev pod0").as_str(),
        &format!("route add {ipv6} dev pod0"),
    ])
    .unwrap();
}

fn host() -> Host {
    Host {
        addresses: vec!["10.1.1.11", "10.1.2.11", "fd00:1:1::11", "fd00:1:2::11"],
        subnets: vec!["10.64.1.0/24", "fd00:64:1::/64"],
        peers: vec![
            Peer::new("one", "10.1.1.1", 65101),
            Peer::new("two", "10.1.2.1", 65102),
        ],
        ..Host::new("n1", 65201)
    }
}

/// A host with a session to the first ToR only.
fn host_of_one() -> Host {
    let mut host = host();
    host.peers.truncate(1);
    host
}

fn is_through(one: bool, two: bool) -> impl Fn(&str) -> bool {
    move |route: &str| {
        let has = |port: &str| route.contains(&format!("dev {port} "));
        route.contains("proto 149") && has("eth0") == one && has("eth1") == two
    }
}

/// All routes and nexthop objects that carry our protocol number.
fn ours(machine: &Namespace) -> String {
    ["-4 route", "route", "nexthop"]
        .map(|what| machine.run(&format!("ip {what} show proto 149")).unwrap())
        .concat()
}

fn problems(speaker: &Speaker<'_>) -> anyhow::Result<Vec<Value>> {
    let status = speaker.json("show status")?;
    // One speaker was asked: one answer, or a list with it.
    let status = status.get(0).unwrap_or(&status);
    Ok(status["problems"].as_array().cloned().unwrap_or_default())
}

#[test]
fn two_tors_are_one_nexthop_group_and_one_is_left_when_one_dies() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let (mut one, _two) = (machines.tor_one(&lab), machines.tor_two(&lab));
    let speaker = host().start(&lab, &machines.node);
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    let groups = machines.node.run("ip nexthop show proto 149").unwrap();
    let groups: Vec<&str> = groups
        .lines()
        .filter(|line| line.contains("group"))
        .collect();
    assert_eq!(groups.len(), 2, "one group for each family: {groups:?}");
    assert!(groups.iter().all(|group| group.contains('/')), "{groups:?}");

    for to in [
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.3",
        "10.77.0.4",
        "fd00:77::1",
        "fd00:77::2",
    ] {
        wait_for(&format!("the pod to reach {to}"), SOON, || {
            machines.pod.run(&format!("ping -c 1 -W 1 {to}"))
        });
    }
    let pings = Pinging::start(lab.directory(), &machines.pod, "10.77.0.9").unwrap();
    one.bird.kill().unwrap();
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through the other",
            is_through(false, true),
        );
    }
    pings.answered(10);
    // Packets are on their way by the dead one until its end is known; its machine forwards still.
    let lost = pings.lost();
    assert!(lost.len() < 50, "{lost:?}");
    assert_eq!(speaker.peer("two").unwrap()["establishedCount"], 1);
}

#[test]
fn a_dead_link_takes_its_member_out_of_the_group_at_once_and_a_live_one_brings_it_back() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let (_one, _two) = (machines.tor_one(&lab), machines.tor_two(&lab));
    let speaker = host().start(&lab, &machines.node);
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    let since = std::time::Instant::now();
    machines.one.ip(["link set eth0 down"]).unwrap();
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through the other",
            is_through(false, true),
        );
    }
    // Long before the hold time of nine seconds is over.
    assert!(since.elapsed().as_secs() < 6, "{:?}", since.elapsed());
    // The way back is static here.
    machines
        .far
        .ip(["route replace default via 10.2.2.1"])
        .unwrap();
    machines.pod.run("ping -c 1 -W 1 10.77.0.1").unwrap();

    machines.one.raise("eth0", &["fd00:1:1::1/64"]).unwrap();
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    drop(speaker);
}

#[test]
fn a_killed_speaker_leaves_its_routes_and_finds_them_again() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let (_one, _two) = (machines.tor_one(&lab), machines.tor_two(&lab));
    let mut speaker = host().start(&lab, &machines.node);
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    let before = ours(&machines.node);
    let log = lab.directory().join("monitor.log");
    let mut command = machines.node.command("ip");
    command.args(["monitor", "route", "nexthop"]);
    let _monitor = machines.node.start("ip monitor", command, &log).unwrap();
    // From the pod, whose addresses both ToRs know: the node's own belong to one cable each, and an answer may come
    // through the other.
    let pings = ["10.77.0.1", "fd00:77::1"]
        .map(|to| Pinging::start(lab.directory(), &machines.pod, to).unwrap());

    speaker.kill().unwrap();
    pings.iter().for_each(|pinging| pinging.answered(10));
    assert_eq!(ours(&machines.node), before, "while it is away");
    speaker.start_again().unwrap();
    for peer in ["one", "two"] {
        speaker.wait_for_state(peer, "Established");
        wait_for("the routes to be there again", SOON, || {
            let peer = speaker.peer(peer)?;
            let families = peer["families"].as_array().cloned().unwrap_or_default();
            anyhow::ensure!(families.iter().all(|one| one["accepted"] == 1), "{peer}");
            Ok(())
        });
    }
    wait_for("the same kernel state", SOON, || {
        let now = ours(&machines.node);
        anyhow::ensure!(now == before, "{now}\ninstead of\n{before}");
        Ok(())
    });
    for pinging in pings {
        pinging.answered(10);
        assert_eq!(pinging.lost(), Vec::<String>::new());
    }
    // With one of the ToRs back before the other the group changes, but never is there no route.
    let heard = fs::read_to_string(log).unwrap();
    for prefix in FAR {
        let mut routes = 1;
        for line in heard.lines() {
            if line.starts_with(prefix) {
                routes += 1;
            } else if line.starts_with(&format!("Deleted {prefix}")) {
                routes -= 1;
            }
            assert!(routes > 0, "{prefix} at `{line}`:\n{heard}");
        }
    }
}

#[test]
fn what_nobody_announces_any_more_is_removed_after_a_start() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let mut one = machines.tor_one(&lab);
    let mut speaker = host_of_one().start(&lab, &machines.node);
    for prefix in FAR {
        wait_for_kernel(&machines.node, prefix, "there", is_through(true, false));
    }
    speaker.kill().unwrap();
    one.withdraw(FAR[0]).unwrap();
    speaker.start_again().unwrap();
    wait_for_kernel(&machines.node, FAR[0], "gone", str::is_empty);
    assert!(is_through(true, false)(
        &kernel_route(&machines.node, FAR[1]).unwrap()
    ));
}

#[test]
fn a_route_of_somebody_else_is_reported_and_left_alone() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let _one = machines.tor_one(&lab);
    // Just where ours would stand.
    let foreign = "route add blackhole 10.77.0.0/24 proto static metric 512";
    machines.node.ip([foreign]).unwrap();
    let before = kernel_route(&machines.node, FAR[0]).unwrap();
    let speaker = host_of_one().start(&lab, &machines.node);
    wait_for_kernel(&machines.node, FAR[1], "there", is_through(true, false));
    wait_for("the problem in `show status`", SOON, || {
        let problems = problems(&speaker)?;
        let told = problems.iter().any(|problem| {
            let message = problem["message"].as_str().unwrap_or_default();
            problem["reason"] == "ForeignRoute" && message.contains(FAR[0])
        });
        anyhow::ensure!(told, "{problems:?}");
        Ok(())
    });
    let explained = speaker.json(&format!("explain {}", FAR[0])).unwrap();
    assert_eq!(explained["kernel"]["state"], "Foreign", "{explained}");
    let words = explained["kernel"]["text"].as_str().unwrap();
    assert!(words.contains("static"), "{words}");
    assert_eq!(kernel_route(&machines.node, FAR[0]).unwrap(), before);

    machines
        .node
        .ip(["route delete blackhole 10.77.0.0/24 metric 512"])
        .unwrap();
    wait_for_kernel(&machines.node, FAR[0], "ours", is_through(true, false));
    wait_for("the problem to be gone", SOON, || {
        let problems = problems(&speaker)?;
        anyhow::ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    });
}

#[test]
fn what_somebody_else_removes_comes_back() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let (_one, _two) = (machines.tor_one(&lab), machines.tor_two(&lab));
    let _speaker = host().start(&lab, &machines.node);
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    machines
        .node
        .ip(["route delete 10.77.0.0/24", "route delete fd00:77::/64"])
        .unwrap();
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    // With the nexthop objects the kernel removes all routes that point at them.
    machines.node.run("ip nexthop flush proto 149").unwrap();
    for prefix in FAR {
        wait_for_kernel(
            &machines.node,
            prefix,
            "through both",
            is_through(true, true),
        );
    }
    machines
        .node
        .ip(["route delete unreachable 10.64.1.0/24"])
        .unwrap();
    wait_for_kernel(&machines.node, "10.64.1.0/24", "there again", |route| {
        route.contains("unreachable")
    });
}

#[test]
fn an_unused_address_of_a_node_is_unreachable_and_does_not_leave_by_the_default_route() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    machines
        .node
        .ip([
            "route add default via 10.1.2.1",
            "route add ::/0 via fd00:1:2::1",
        ])
        .unwrap();
    let _one = machines.tor_one(&lab);
    let _speaker = host_of_one().start(&lab, &machines.node);
    for prefix in ["10.64.1.0/24", "fd00:64:1::/64"] {
        wait_for_kernel(&machines.node, prefix, "unreachable", |route| {
            route.contains("unreachable") && route.contains("proto 149")
        });
    }
    for unused in ["10.64.1.99", "fd00:64:1::99"] {
        let error = machines
            .pod
            .run(&format!("ping -c 1 -W 2 {unused}"))
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("nreachable"), "{error}");
    }
    // Where a pod is, its own route wins.
    machines.node.run("ping -c 1 -W 2 10.64.1.10").unwrap();
    machines.node.run("ping -c 1 -W 2 fd00:64:1::10").unwrap();
}

#[test]
fn a_next_hop_that_can_not_be_reached_any_more_takes_its_routes_away() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    // One AS: next hops stay as they are, here one behind the second link.
    let config = "router id 10.1.1.1;\n\
        protocol device {}\n\
        protocol static announced { ipv4; route 10.78.0.0/24 blackhole; }\n\
        protocol bgp node { local 10.1.1.1 as 65201; neighbor 10.1.1.11 as 65201; connect delay time 1;\n\
        ipv4 { import all; export filter { bgp_next_hop = 10.1.2.1; accept; }; }; }\n";
    let bird = lab::bird::Bird::start(&machines.one, lab.directory(), "ibgp", config).unwrap();
    let host = Host {
        peers: vec![Peer::new("one", "10.1.1.1", 65201)],
        ..host()
    };
    let speaker = host.start(&lab, &machines.node);
    wait_for_kernel(
        &machines.node,
        "10.78.0.0/24",
        "there",
        is_through(false, true),
    );
    machines.two.ip(["link set eth0 down"]).unwrap();
    wait_for_kernel(&machines.node, "10.78.0.0/24", "gone", str::is_empty);
    speaker.wait_for_no_route("10.78.0.0/24");
    let explained = speaker.bgpctl("explain 10.78.0.0/24").unwrap();
    assert!(explained.contains("next hop"), "{explained}");
    machines.two.ip(["link set eth0 up"]).unwrap();
    wait_for_kernel(
        &machines.node,
        "10.78.0.0/24",
        "there",
        is_through(false, true),
    );
    assert_eq!(speaker.peer("one").unwrap()["establishedCount"], 1);
    drop(bird);
}

/// Two nodes with a pod each, and nothing but a ToR between them.
fn pods_talk_through<T: Tor>() {
    let lab = Lab::new().unwrap();
    let machine = |name| lab.machine(name).unwrap();
    let tor = machine("tor");
    let (nodes, pods) = (
        [machine("n1"), machine("n2")],
        [machine("p1"), machine("p2")],
    );
    let links = [
        (
            ["10.1.1.1/24", "fd00:1:1::1/64"],
            ["10.1.1.11/24", "fd00:1:1::11/64"],
        ),
        (
            ["10.1.2.1/24", "fd00:1:2::1/64"],
            ["10.1.2.11/24", "fd00:1:2::11/64"],
        ),
    ];
    let addresses = [
        ("10.64.1.10", "fd00:64:1::10"),
        ("10.64.2.10", "fd00:64:2::10"),
    ];
    for (index, (tor_end, node_end)) in links.iter().enumerate() {
        let node = &nodes[index];
        tor.cable(&format!("eth{index}"), tor_end, node, "eth0", node_end)
            .unwrap();
        plug_in(&pods[index], node, addresses[index].0, addresses[index].1);
    }
    let sessions = Sessions {
        nodes: vec![("10.1.1.11", 65201), ("10.1.2.11", 65202)],
        ..Sessions::new(65101, "10.1.1.11", 65201)
    };
    let _tor = T::start(&tor, lab.directory(), &sessions).unwrap();
    let hosts = [
        Host {
            addresses: vec!["10.1.1.11", "fd00:1:1::11"],
            subnets: vec!["10.64.1.0/24", "fd00:64:1::/64"],
            peers: vec![Peer::new("tor", "10.1.1.1", 65101)],
            ..Host::new("n1", 65201)
        },
        Host {
            addresses: vec!["10.1.2.11", "fd00:1:2::11"],
            subnets: vec!["10.64.2.0/24", "fd00:64:2::/64"],
            peers: vec![Peer::new("tor", "10.1.2.1", 65101)],
            ..Host::new("n2", 65202)
        },
    ];
    let _speakers = [
        hosts[0].start(&lab, &nodes[0]),
        hosts[1].start(&lab, &nodes[1]),
    ];
    for (from, to) in [(0, 1), (1, 0)] {
        for to in [addresses[to].0, addresses[to].1] {
            let answer = wait_for(&format!("a pod to reach {to}"), SOON, || {
                pods[from].run(&format!("ping -n -c 1 -W 1 {to}"))
            });
            // Three routers on the way back: a node, the ToR, a node.
            assert!(answer.contains("ttl=61"), "{answer}");
        }
    }
}

#[test]
fn pods_on_two_nodes_talk_through_bird() {
    pods_talk_through::<BirdTor>();
}

#[test]
fn pods_on_two_nodes_talk_through_frr() {
    pods_talk_through::<FrrTor>();
}

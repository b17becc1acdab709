//! What the speaker writes for the plugin and the runtime: when it appears, what follows changes, and that
//! it stays.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use lab::cni::CniNode;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::{Value, json};

use crate::host::{Host, Peer, SOON};

/// Two nodes on a cable, each the other's only peer.
const NODES: [(&str, &str, &str); 2] = [
    ("n1", "10.1.0.11", "10.64.1.0/24"),
    ("n2", "10.1.0.12", "10.64.2.0/24"),
];

fn host(number: usize) -> Host {
    let (name, address, subnet) = NODES[number];
    let (other, other_address, _) = NODES[1 - number];
    let asn = |number: usize| 65201 + u32::try_from(number).unwrap();
    Host {
        addresses: vec![address],
        subnets: vec![subnet],
        peers: vec![Peer::new(other, other_address, asn(1 - number))],
        ..Host::new(name, asn(number))
    }
}

fn machines(lab: &Lab) -> [Namespace; 2] {
    let [first, second] = NODES.map(|(name, ..)| lab.machine(name).unwrap());
    first
        .cable(
            "eth0",
            &["10.1.0.11/24"],
            &second,
            "eth0",
            &["10.1.0.12/24"],
        )
        .unwrap();
    [first, second]
}

/// A speaker that writes for the plugins of a node.
fn start<'a>(lab: &Lab, node: &CniNode<'a>, host: &Host) -> Speaker<'a> {
    let directory = |flag: &str, path: PathBuf| [flag.to_owned(), path.display().to_string()];
    let arguments = [
        directory("--cni-conf-dir", node.conf_dir()),
        directory("--cni-data-dir", node.data_dir()),
    ];
    let machine = node.machine();
    let yaml = host.yaml();
    Speaker::start_saying(
        machine,
        lab.directory(),
        host.name,
        &yaml,
        &arguments.concat(),
    )
    .unwrap()
}

fn conflist(node: &CniNode<'_>) -> PathBuf {
    node.conf_dir().join("10-routeshare.conflist")
}

/// The file itself: another one has another number.
fn inode(node: &CniNode<'_>) -> anyhow::Result<u64> {
    let path = conflist(node);
    let data = fs::metadata(&path).with_context(|| format!("{}", path.display()))?;
    Ok(data.ino())
}

#[track_caller]
fn wait_for_configuration(node: &CniNode<'_>) -> Value {
    wait_for("the network configuration", SOON, || {
        Ok(serde_json::from_slice(&fs::read(conflist(node))?)?)
    })
}

#[track_caller]
fn wait_for_node_file(node: &CniNode<'_>, what: &str, right: impl Fn(&Value) -> bool) {
    wait_for(&format!("the node file to say {what}"), SOON, || {
        let file: Value = serde_json::from_slice(&fs::read(node.data_dir().join("node.json"))?)?;
        ensure!(right(&file), "{file:#}");
        Ok(())
    });
}

/// What the speaker says of pods among its problems.
fn says(speaker: &Speaker<'_>, reason: &str, words: &str) -> anyhow::Result<()> {
    let status = speaker.json("show status")?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let said = problems.iter().any(|problem| {
        let message = problem["message"].as_str().unwrap_or_default();
        problem["reason"] == reason && message.contains(words)
    });
    ensure!(said, "{problems:#?}");
    Ok(())
}

#[test]
fn the_configuration_appears_when_the_route_stands_and_stays_through_all_that_follows() {
    let lab = Lab::new().unwrap();
    let machines = machines(&lab);
    let node = CniNode::new(&lab, &machines[0], "n1").unwrap();
    let foreign = node.conf_dir().join("87-bridge.conflist");
    fs::write(&foreign, "{}").unwrap();
    let without_subnet = Host {
        subnets: Vec::new(),
        advertisement: "{prefixes: [192.0.2.0/24]}".into(),
        ..host(0)
    };
    let mut n1 = start(&lab, &node, &without_subnet);
    let mut n2 = host(1).start(&lab, &machines[1]);

    n1.wait_for_state("n2", "Established");
    wait_for("the speaker to say that a subnet is missing", SOON, || {
        says(&n1, "PodNetworkWaits", "a subnet")
    });
    wait_for_node_file(&node, "no subnets", |file| file["subnets"] == json!([]));
    assert!(inode(&node).is_err(), "without subnet no pod may start");

    n2.kill().unwrap();
    n1.edit(&host(0).yaml()).unwrap();
    wait_for_node_file(&node, "the subnet", |file| {
        file["subnets"][0]["prefix"] == "10.64.1.0/24" && file["mtu"] == 1500
    });
    wait_for(
        "the speaker to say that the session is missing",
        SOON,
        || {
            says(
                &n1,
                "PodNetworkWaits",
                "an Established session for IPv4 (peer n2)",
            )
        },
    );
    assert!(inode(&node).is_err(), "without a route no pod may start");

    n2.start_again().unwrap();
    let configuration = wait_for_configuration(&node);
    assert_eq!(configuration["plugins"][0]["type"], "routeshare-cni");
    let route = machines[0].run("ip route show 10.64.2.0/24").unwrap();
    assert!(
        route.contains("proto 149"),
        "before the route stood: {route:?}"
    );
    wait_for(
        "the speaker to have nothing to say of pods any more",
        SOON,
        || {
            ensure!(says(&n1, "PodNetworkWaits", "").is_err());
            Ok(())
        },
    );
    let written = inode(&node).unwrap();

    // The session is lost, the controller's side too (there is none), the speaker restarts.
    n2.kill().unwrap();
    n1.wait_for_state("n2", "Active");
    n1.kill().unwrap();
    assert_eq!(inode(&node).unwrap(), written);
    n1.start_again().unwrap();
    wait_for("the configuration to be in force again", SOON, || {
        let status = n1.json("show status")?;
        ensure!(status["configSource"] == "files", "{status:#}");
        Ok(())
    });
    machines[0].run("ip link set eth0 mtu 1400").unwrap();
    wait_for_node_file(&node, "the path's MTU", |file| file["mtu"] == 1400);
    assert_eq!(inode(&node).unwrap(), written, "it was not even touched");

    // What the Fabric says of pods is followed, also while no session is there.
    let chained = Host {
        fabric:
            "  pods: {mtu: 1380, chained: [tuning, portmap], sysctls: {net.core.somaxconn: '8'}}\n"
                .into(),
        ..host(0)
    };
    n1.edit(&chained.yaml()).unwrap();
    wait_for_node_file(&node, "the MTU that was asked for", |file| {
        file["mtu"] == 1380
    });
    let configuration = wait_for("the chained plugins", SOON, || {
        let configuration: Value = serde_json::from_slice(&fs::read(conflist(&node))?)?;
        ensure!(
            configuration["plugins"][2]["type"] == "portmap",
            "{configuration:#}"
        );
        Ok(configuration)
    });
    assert_eq!(
        configuration["plugins"][1]["sysctl"]["net.core.somaxconn"],
        "8"
    );

    // Somebody removes it, though the session is still lost.
    fs::remove_file(conflist(&node)).unwrap();
    assert_eq!(wait_for_configuration(&node), configuration);
    assert_eq!(fs::read(foreign).unwrap(), b"{}");
}

/// No IPv4 anywhere, and one of two ToRs is down for maintenance.
#[test]
fn in_a_fabric_of_ipv6_alone_one_of_two_peers_is_enough() {
    let lab = Lab::new().unwrap();
    let [machine, t1, t2] = ["n1", "t1", "t2"].map(|name| lab.machine(name).unwrap());
    for (interface, tor, ends) in [
        ("eth0", &t1, ["fd00:1::11/64", "fd00:1::1/64"]),
        ("eth1", &t2, ["fd00:2::11/64", "fd00:2::1/64"]),
    ] {
        machine
            .cable(interface, &ends[..1], tor, "eth0", &ends[1..])
            .unwrap();
    }
    let node = CniNode::new(&lab, &machine, "n1").unwrap();
    let host = Host {
        addresses: vec!["fd00:1::11", "fd00:2::11"],
        subnets: vec!["fd00:64:0:1::/64"],
        peers: vec![
            Peer::new("t1", "fd00:1::1", 65202),
            Peer::new("t2", "fd00:2::1", 65203),
        ],
        ..Host::new("n1", 65201)
    };
    let n1 = start(&lab, &node, &host);
    wait_for("the speaker to say what is missing", SOON, || {
        let missing = "one Established session for IPv6 (of 2 peers)";
        says(&n1, "PodNetworkWaits", missing)
    });
    assert!(inode(&node).is_err(), "without a route no pod may start");
    let tor = Host {
        addresses: vec!["fd00:2::1"],
        subnets: vec!["fd00:64:0:2::/64"],
        peers: vec![Peer::new("n1", "fd00:2::11", 65201)],
        ..Host::new("t2", 65203)
    };
    let mut t2_speaker = tor.start(&lab, &t2);
    wait_for_configuration(&node);
    let route = machine.run("ip -6 route show fd00:64:0:2::/64").unwrap();
    assert!(route.contains("proto 149"), "before it stood: {route:?}");
    let written = inode(&node).unwrap();
    t2_speaker.kill().unwrap();
    n1.wait_for_state("t2", "Active");
    assert_eq!(inode(&node).unwrap(), written);
    says(&n1, "PodNetworkWaits", "").unwrap_err();
}

#[test]
fn a_directory_that_is_not_there_is_said_and_tried_again() {
    let lab = Lab::new().unwrap();
    let machines = machines(&lab);
    let node = CniNode::new(&lab, &machines[0], "n1").unwrap();
    fs::remove_dir(node.conf_dir()).unwrap();
    let n1 = start(&lab, &node, &host(0));
    let _n2 = host(1).start(&lab, &machines[1]);
    wait_for("the speaker to say so", SOON, || {
        says(&n1, "CniConfiguration", "--cni-conf-dir")
    });
    fs::create_dir(node.conf_dir()).unwrap();
    wait_for_configuration(&node);
    wait_for("the speaker to say so no more", SOON, || {
        ensure!(says(&n1, "CniConfiguration", "").is_err());
        Ok(())
    });
}

#[test]
fn pods_start_by_the_written_configuration_and_talk_across_also_while_the_speaker_is_away() {
    let lab = Lab::new().unwrap();
    let machines = machines(&lab);
    let nodes = [0, 1].map(|n| CniNode::new(&lab, &machines[n], NODES[n].0).unwrap());
    let mut n1 = start(&lab, &nodes[0], &host(0));
    let _n2 = start(&lab, &nodes[1], &host(1));
    nodes
        .iter()
        .for_each(|node| drop(wait_for_configuration(node)));
    let address = |result: &Value| {
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        address.split('/').next().unwrap_or_default().to_owned()
    };
    let reaches = |from: &lab::cni::Container, to: &str| {
        wait_for(&format!("{to} to answer"), SOON, || {
            from.run(&format!("ping -n -q -c 1 -W 1 {to}"))
        });
    };
    let [first, far, later] = ["c1", "c2", "c3"].map(|name| lab.container(name).unwrap());
    let first_address = address(&nodes[0].add("routeshare", &first).unwrap());
    let far_address = address(&nodes[1].add("routeshare", &far).unwrap());
    assert!(first_address.starts_with("10.64.1."), "{first_address}");
    assert!(far_address.starts_with("10.64.2."), "{far_address}");
    reaches(&first, &far_address);
    reaches(&far, &first_address);

    n1.kill().unwrap();
    nodes[0].status("routeshare").unwrap();
    let later_address = address(&nodes[0].add("routeshare", &later).unwrap());
    reaches(&later, &far_address);
    reaches(&far, &later_address);
    nodes[0].check("routeshare", &later).unwrap();
    nodes[0].del("routeshare", &first).unwrap();

    n1.start_again().unwrap();
    n1.wait_for_state("n2", "Established");
    nodes[0].check("routeshare", &later).unwrap();
    reaches(&far, &later_address);
    nodes[0].del("routeshare", &later).unwrap();
    let left = machines[0].run("ip route show proto 150").unwrap();
    assert_eq!(left, "", "routes of pods that are gone");
}

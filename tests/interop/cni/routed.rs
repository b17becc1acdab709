//! Mode `routed` with real traffic: on one node, with its host, and across two nodes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lab::cni::{CniNode, Container, With};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

/// A machine whose uplink has these addresses, and pods of these subnets.
struct Node<'a> {
    cni: CniNode<'a>,
}

impl<'a> Node<'a> {
    fn new(lab: &Lab, machine: &'a Namespace, subnets: &[&str], more: Value) -> Node<'a> {
        let cni = CniNode::new(lab, machine, machine.name()).unwrap();
        cni.write_node_file(subnets, more).unwrap();
        cni.network("pods", &[cni.plugin(json!({"mode": "routed"}))])
            .unwrap();
        Node { cni }
    }

    /// The pod's addresses.
    fn add(&self, container: &Container) -> Vec<IpAddr> {
        addresses(&self.cni.add("pods", container).unwrap())
    }
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    let texts = ips.iter().map(|ip| ip["address"].as_str().unwrap());
    texts
        .map(|text| text.split_once('/').unwrap().0.parse().unwrap())
        .collect()
}

/// What the server sees as the client's address, and says over the connection.
#[track_caller]
fn seen_from(client: &Namespace, server: &Namespace, at: IpAddr) -> IpAddr {
    let bound = server.within(|| TcpListener::bind(SocketAddr::new(at, 0)));
    let listener = bound.unwrap().unwrap();
    let to = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(from.ip().to_string().as_bytes()).unwrap();
    });
    let answer = client.within(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let answer = answer.unwrap().unwrap();
    serving.join().unwrap();
    answer.parse().unwrap()
}

const SUBNETS: [&str; 2] = ["10.64.0.0/24", "fd00:64::/64"];

#[test]
fn pods_of_one_node_reach_each_other_and_their_host_with_their_own_addresses() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let far = lab.machine("far").unwrap();
    machine
        .cable(
            "wan0",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &far,
            "wan0",
            &[],
        )
        .unwrap();
    let node = Node::new(&lab, &machine, &SUBNETS, json!({}));
    let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
    let (of_a, of_b) = (node.add(&a), node.add(&b));
    let host: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    for family in 0..2 {
        let (from, to, host) = (of_a[family], of_b[family], host[family]);
        assert_eq!(seen_from(a.namespace(), b.namespace(), to), from);
        assert_eq!(seen_from(b.namespace(), a.namespace(), from), to);
        assert_eq!(seen_from(a.namespace(), &machine, host), from);
        assert_eq!(seen_from(&machine, a.namespace(), from), host);
    }
    // Nobody was asked who has an address: all entries are those of ADD.
    for machine in [&machine, a.namespace(), b.namespace()] {
        let known = machine.run("ip neigh show").unwrap();
        let learned = known.lines().filter(|line| !line.contains("PERMANENT"));
        let learned: Vec<_> = learned.filter(|line| !line.contains("dev wan0")).collect();
        assert!(
            learned.iter().all(|line| line.starts_with("fe80")),
            "{known}"
        );
    }
    for container in [&a, &b] {
        node.cni.check("pods", container).unwrap();
        node.cni.del("pods", container).unwrap();
    }
    let left = machine.run("ip route show proto 150").unwrap();
    assert_eq!(left.trim(), "");
}

#[test]
fn pods_of_two_nodes_reach_each_other_over_plain_routes_with_their_own_addresses() {
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.machine("left").unwrap(), lab.machine("right").unwrap());
    left.cable(
        "wan0",
        &["10.1.0.1/24", "fd01::1/64"],
        &right,
        "wan0",
        &["10.1.0.2/24", "fd01::2/64"],
    )
    .unwrap();
    // As a speaker has them from the other one.
    left.ip([
        "route add 10.64.1.0/24 via 10.1.0.2",
        "route add fd00:64:0:1::/64 via fd01::2",
    ])
    .unwrap();
    right
        .ip([
            "route add 10.64.0.0/24 via 10.1.0.1",
            "route add fd00:64::/64 via fd01::1",
        ])
        .unwrap();
    let nodes = [
        Node::new(&lab, &left, &SUBNETS, json!({})),
        Node::new(
            &lab,
            &right,
            &["10.64.1.0/24", "fd00:64:0:1::/64"],
            json!({}),
        ),
    ];
    let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
    let (of_a, of_b) = (nodes[0].add(&a), nodes[1].add(&b));
    for family in 0..2 {
        let (from, to) = (of_a[family], of_b[family]);
        assert_eq!(seen_from(a.namespace(), b.namespace(), to), from);
        assert_eq!(seen_from(b.namespace(), a.namespace(), from), to);
        // And the other node's host, which is not the pod's own.
        let other: IpAddr = ["10.1.0.2", "fd01::2"][family].parse().unwrap();
        assert_eq!(seen_from(a.namespace(), &right, other), from);
    }
}

#[test]
fn a_pod_has_the_mtu_of_the_node_file_unless_the_network_says_another() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = Node::new(&lab, &machine, &SUBNETS, json!({"mtu": 1400}));
    let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
    node.add(&a);
    let to = node.add(&b)[0];
    let ping = |size| a.run(&format!("ping -c 1 -W 5 -M do -s {size} {to}"));
    ping(1400 - 28).unwrap();
    assert!(ping(1400 - 27).is_err());

    let own = node.cni.plugin(json!({"mtu": 9000}));
    node.cni.network("jumbo", &[own]).unwrap();
    let c = lab.container("c").unwrap();
    let result = node.cni.add("jumbo", &c).unwrap();
    assert_eq!(result["interfaces"][1]["mtu"], 9000);
    assert_eq!(c.ip_json("link show eth0").unwrap()[0]["mtu"], 9000);
    let host = result["interfaces"][0]["name"].as_str().unwrap();
    assert!(
        machine
            .run(&format!("ip link show {host}"))
            .unwrap()
            .contains("mtu 9000")
    );
}

#[test]
fn a_pod_has_the_families_of_the_nodes_subnets() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    for (subnet, other) in [(SUBNETS[0], "-6"), (SUBNETS[1], "-4")] {
        let node = Node::new(&lab, &machine, &[subnet], json!({}));
        let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
        let from = node.add(&a);
        let to = node.add(&b);
        assert_eq!((from.len(), to.len()), (1, 1));
        assert_eq!(seen_from(a.namespace(), b.namespace(), to[0]), from[0]);
        let default = a.run(&format!("ip {other} route show default")).unwrap();
        assert_eq!(default.trim(), "");
        for container in [&a, &b] {
            node.cni.check("pods", container).unwrap();
            node.cni.del("pods", container).unwrap();
        }
    }
}

#[test]
fn addresses_can_be_used_at_once_and_ipv6_even_where_the_runtime_switched_it_off() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = Node::new(&lab, &machine, &SUBNETS, json!({}));
    let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
    a.namespace()
        .set(&[
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
        ])
        .unwrap();
    let of_a = node.add(&a);
    for container in [&a, &b] {
        if container.path() == b.path() {
            node.add(&b);
        }
        let shown = container.run("ip -6 address show dev eth0").unwrap();
        assert!(
            shown.contains("fd00:64::") && !shown.contains("tentative"),
            "{shown}"
        );
        node.cni.check("pods", container).unwrap();
    }
    assert!(seen_from(b.namespace(), a.namespace(), of_a[1]).is_ipv6());
    // A second network there, whose default routes of both families stand behind those of the first.
    let with = With {
        ifname: Some("net1"),
        ..With::default()
    };
    let second = node.cni.add_with("pods", &a, &with).unwrap();
    let behind = |route: &Value| route["priority"].as_u64() > Some(2048);
    let routes = second["routes"].as_array().unwrap();
    assert!(routes.len() == 2 && routes.iter().all(behind), "{second}");
    node.cni.check_with("pods", &a, &with).unwrap();
    node.cni.check("pods", &a).unwrap();
}

#[test]
fn a_second_network_of_a_container_stands_behind_the_first_and_leaves_alone() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = Node::new(&lab, &machine, &SUBNETS, json!({}));
    let plugin = node
        .cni
        .plugin(json!({"ipam": {"routes": [{"dst": "10.64.0.0/24"}]}}));
    node.cni.network("narrow", &[plugin]).unwrap();
    node.cni
        .network("second", &[node.cni.plugin(json!({}))])
        .unwrap();
    let (a, b) = (lab.container("a").unwrap(), lab.container("b").unwrap());
    let first = node.add(&a);
    let to = node.add(&b);
    for (network, ifname) in [("narrow", "net1"), ("second", "net2")] {
        let with = With {
            ifname: Some(ifname),
            ..With::default()
        };
        node.cni.add_with(network, &a, &with).unwrap();
        node.cni.check_with(network, &a, &with).unwrap();
    }
    let routes = a.run("ip route show").unwrap();
    assert!(
        routes.contains("10.64.0.0/24 via 169.254.1.1 dev net1"),
        "{routes}"
    );
    let default = a.run("ip route get 192.0.2.9").unwrap();
    assert!(default.contains("dev eth0"), "{default}");
    // The first network's route is the more general one.
    a.run(&format!("ping -c 1 -W 5 -I {} {}", first[0], to[0]))
        .unwrap();
    for (network, ifname) in [("second", "net2"), ("narrow", "net1")] {
        let with = With {
            ifname: Some(ifname),
            ..With::default()
        };
        node.cni.del_with(network, &a, &with).unwrap();
        assert!(a.run(&format!("ip link show {ifname}")).is_err());
    }
    node.cni.check("pods", &a).unwrap();
    assert_eq!(seen_from(a.namespace(), b.namespace(), to[0]), first[0]);
}

#[test]
fn all_containers_of_a_sandbox_have_one_interface_that_outlives_each_of_them() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = Node::new(&lab, &machine, &SUBNETS, json!({}));
    let (sandbox, other) = (
        lab.container("sandbox").unwrap(),
        lab.container("other").unwrap(),
    );
    let of_sandbox = node.add(&sandbox)[0];
    node.add(&other);
    // Containers of the sandbox come and go: processes in its namespace.
    for round in 0..3 {
        let (inside, outside) = (sandbox.namespace(), other.namespace());
        assert!(seen_from(outside, inside, of_sandbox).is_ipv4(), "{round}");
        // One container reaches another by the address they share.
        assert_eq!(seen_from(inside, inside, of_sandbox), of_sandbox);
    }
    let routes = machine.run(&format!("ip route show {of_sandbox}")).unwrap();
    assert_eq!(routes.lines().count(), 1, "{routes}");
    node.cni.check("pods", &sandbox).unwrap();
}

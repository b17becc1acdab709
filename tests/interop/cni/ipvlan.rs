//! Containers that share the MAC address of their host's interface.

use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

use super::traffic::{addresses, does_not_reach, reaches};
use crate::drivers;

/// A host with a router at its interface.
struct Site {
    lab: Lab,
    host: Namespace,
    router: Namespace,
}

/// Behind the router's other side.
const BEHIND: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

impl Site {
    fn new() -> Site {
        let lab = Lab::new().unwrap();
        let [host, router] = ["host", "router"].map(|it| lab.machine(it).unwrap());
        host.cable(
            "eth0",
            &["10.94.0.2/24", "fd94::2/64"],
            &router,
            "eth0",
            &["10.94.0.1/24", "fd94::1/64"],
        )
        .unwrap();
        router
            .raise("lo", &["192.0.2.1/32", "2001:db8::1/128"])
            .unwrap();
        Site { lab, host, router }
    }

    fn node(&self) -> CniNode<'_> {
        CniNode::new(&self.lab, &self.host, "host").unwrap()
    }

    fn containers<const N: usize>(&self, names: [&str; N]) -> [Container; N] {
        names.map(|name| self.lab.container(name).unwrap())
    }
}

fn network(node: &CniNode<'_>, name: &str, mode: &str, subnets: Value) {
    let plugin = json!({
        "mode": "ipvlan", "parent": "eth0", "ipvlanMode": mode, "ipam": {"subnets": subnets},
    });
    node.network(name, &[node.plugin(plugin)]).unwrap();
}

fn mode_and_mac(container: &Container) -> (String, String) {
    let link = container.ip_json("link show eth0").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&link[0]["linkinfo"]["info_data"]["mode"]),
        text(&link[0]["address"]),
    )
}

#[test]
fn in_l2_containers_are_on_the_fabrics_own_link() {
    let site = Site::new();
    if !drivers::there("ipvlan") {
        return;
    }
    site.host.run("ip link set eth0 mtu 1400").unwrap();
    let node = site.node();
    let subnets = json!([
        {"subnet": "10.94.0.0/24", "rangeStart": "10.94.0.10", "gateway": "10.94.0.1"},
        {"subnet": "fd94::/64", "rangeStart": "fd94::10", "gateway": "fd94::1"},
    ]);
    network(&node, "l2", "l2", subnets);
    let [a, b] = site.containers(["a", "b"]);
    let first = node.add("l2", &a).unwrap();
    let second = node.add("l2", &b).unwrap();
    for (container, others) in [(&a, &second), (&b, &first)] {
        reaches(container, &BEHIND);
        reaches(container, &addresses(others));
        let (mode, mac) = mode_and_mac(container);
        assert_eq!(mode, "l2");
        let host = site.host.run("ip -o link show eth0").unwrap();
        assert!(host.contains(&mac), "{host} has not {mac}");
        assert_eq!(container.ip_json("link show eth0").unwrap()[0]["mtu"], 1400);
        node.check("l2", container).unwrap();
    }
    node.del("l2", &a).unwrap();
    assert!(a.run("ip link show eth0").is_err());
    reaches(&b, &BEHIND);
}

/// The subnet is routed to the host, and no container asks who is where.
fn routed(mode: &str) {
    let site = Site::new();
    if !drivers::there("ipvlan") {
        return;
    }
    let node = site.node();
    network(
        &node,
        "l3",
        mode,
        json!([{"subnet": "10.95.0.0/24"}, {"subnet": "fd95::/64"}]),
    );
    site.router
        .ip([
            "route add 10.95.0.0/24 via 10.94.0.2",
            "route add fd95::/64 via fd94::2",
        ])
        .unwrap();
    site.host
        .ip([
            "route add default via 10.94.0.1",
            "route add default via fd94::1",
        ])
        .unwrap();
    let [a, b] = site.containers(["a", "b"]);
    let first = node.add("l3", &a).unwrap();
    let second = node.add("l3", &b).unwrap();
    assert_eq!(first["ips"][0]["address"], "10.95.0.1/32", "{first}");
    for (container, others) in [(&a, &second), (&b, &first)] {
        reaches(container, &BEHIND);
        reaches(container, &addresses(others));
        assert_eq!(mode_and_mac(container).0, mode);
        node.check("l3", container).unwrap();
    }
    for address in addresses(&first) {
        site.router
            .run(&format!("ping -n -c 1 -W 2 {address}"))
            .unwrap();
    }
    node.del("l3", &a).unwrap();
    does_not_reach(&b, &addresses(&first));
    reaches(&b, &BEHIND);
    if mode == "l3s" {
        // What the host's own firewall says counts for them.
        site.host
            .run("iptables-legacy -A INPUT -d 10.95.0.0/24 -j DROP")
            .unwrap();
        does_not_reach(&b, &BEHIND[..1]);
        reaches(&b, &BEHIND[1..]);
    }
}

#[test]
fn in_l3_containers_are_reached_by_a_route_to_their_host() {
    routed("l3");
}

#[test]
fn in_l3s_containers_pass_the_netfilter_of_their_host() {
    routed("l3s");
}

#[test]
fn a_network_of_another_mode_does_not_change_the_containers_that_are_there() {
    let site = Site::new();
    if !drivers::there("ipvlan") {
        return;
    }
    let node = site.node();
    network(&node, "first", "l3", json!([{"subnet": "10.95.0.0/24"}]));
    let l2 = json!([{"subnet": "10.94.0.0/24", "rangeStart": "10.94.0.10"}]);
    network(&node, "second", "l2", l2.clone());
    let [a, b] = site.containers(["a", "b"]);
    node.add("first", &a).unwrap();
    let error = format!("{:#}", node.add("second", &b).unwrap_err());
    let words = "containers of the network first have \"l3\" on eth0";
    assert!(error.contains(words), "{error}");
    let error = format!("{:#}", node.status("second").unwrap_err());
    assert!(error.contains(words), "{error}");
    // Nor does the network itself, with another one than before.
    network(&node, "first", "l2", l2);
    assert!(node.add("first", &b).is_err());
    assert_eq!(mode_and_mac(&a).0, "l3");
    node.status("first").unwrap_err();
    // On its own, it may.
    node.del("first", &a).unwrap();
    node.add("second", &b).unwrap();
    assert_eq!(mode_and_mac(&b).0, "l2");
}

#[test]
fn a_kernel_without_the_driver_is_told_so() {
    let site = Site::new();
    if drivers::has("ipvlan") {
        return; // the tests above tell how it works
    }
    let node = site.node();
    network(&node, "l3", "l3", json!([{"subnet": "10.95.0.0/24"}]));
    let [a] = site.containers(["a"]);
    let error = format!("{:#}", node.add("l3", &a).unwrap_err());
    assert!(
        error.contains("ipvlan") && error.contains("CONFIG_IPVLAN"),
        "{error}"
    );
    assert!(a.run("ip link show eth0").is_err());
}

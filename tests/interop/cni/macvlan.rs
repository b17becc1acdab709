//! Containers with MAC addresses of their own on the fabric's L2.

use std::time::Duration;

use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace, wait_for};
use serde_json::{Value, json};

use super::traffic::{addresses, does_not_reach, reaches};

/// A host on a switch, with a server on another port of it.
struct Site {
    lab: Lab,
    host: Namespace,
    switch: Namespace,
    server: Namespace,
}

const SERVER: [&str; 2] = ["10.92.0.1", "fd92::1"];

impl Site {
    fn new() -> Site {
        let lab = Lab::new().unwrap();
        let [host, switch, server] =
            ["host", "switch", "server"].map(|it| lab.machine(it).unwrap());
        host.cable("eth0", &[], &switch, "p1", &[]).unwrap();
        server
            .cable("eth0", &["10.92.0.1/24", "fd92::1/64"], &switch, "p2", &[])
            .unwrap();
        switch.bridge("sw", &["p1", "p2"], &[]).unwrap();
        Site {
            lab,
            host,
            switch,
            server,
        }
    }

    fn node(&self) -> CniNode<'_> {
        CniNode::new(&self.lab, &self.host, "host").unwrap()
    }

    fn containers<const N: usize>(&self, names: [&str; N]) -> [Container; N] {
        names.map(|name| self.lab.container(name).unwrap())
    }
}

fn network(node: &CniNode<'_>, name: &str, more: Value) {
    let mut plugin = json!({
        "mode": "macvlan",
        "parent": "eth0",
        "ipam": {"subnets": [
            {"subnet": "10.92.0.0/24", "rangeStart": "10.92.0.10", "gateway": "10.92.0.1"},
            {"subnet": "fd92::/64", "rangeStart": "fd92::10", "gateway": "fd92::1"},
        ]},
    });
    let fields = plugin.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    node.network(name, &[node.plugin(plugin)]).unwrap();
}

#[test]
fn containers_of_a_parent_reach_the_fabric_and_each_other() {
    let site = Site::new();
    site.host.run("ip link set eth0 mtu 1400").unwrap();
    let node = site.node();
    network(&node, "l2", json!({}));
    let [a, b] = site.containers(["a", "b"]);
    let first = node.add("l2", &a).unwrap();
    let second = node.add("l2", &b).unwrap();
    assert_eq!(first["ips"][0]["address"], "10.92.0.10/24");
    assert_eq!(first["ips"][1]["gateway"], "fd92::1");
    for (container, others) in [(&a, &second), (&b, &first)] {
        reaches(container, &SERVER);
        reaches(container, &addresses(others));
        let link = container.ip_json("link show eth0").unwrap();
        assert_eq!(link[0]["mtu"], 1400, "that of its parent");
        assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "bridge");
        node.check("l2", container).unwrap();
    }
    a.run("ip address del 10.92.0.10/24 dev eth0").unwrap();
    let error = format!("{:#}", node.check("l2", &a).unwrap_err());
    assert!(error.contains("10.92.0.10"), "{error}");
    node.del("l2", &a).unwrap();
    node.del("l2", &a).unwrap();
    assert!(a.run("ip link show eth0").is_err());
    reaches(&b, &SERVER);
}

#[test]
fn private_containers_do_not_reach_each_other_even_by_a_switch_that_sends_back() {
    let site = Site::new();
    let node = site.node();
    site.switch
        .run("ip link set p1 type bridge_slave hairpin on")
        .unwrap();
    network(&node, "private", json!({"macvlanMode": "private"}));
    let [a, b] = site.containers(["a", "b"]);
    node.add("private", &a).unwrap();
    let second = node.add("private", &b).unwrap();
    reaches(&a, &SERVER);
    reaches(&b, &SERVER);
    does_not_reach(&a, &addresses(&second));
}

#[test]
fn vepa_containers_reach_each_other_by_a_switch_that_sends_back() {
    let site = Site::new();
    let node = site.node();
    network(&node, "vepa", json!({"macvlanMode": "vepa"}));
    let [a, b] = site.containers(["a", "b"]);
    node.add("vepa", &a).unwrap();
    let second = node.add("vepa", &b).unwrap();
    reaches(&a, &SERVER);
    does_not_reach(&a, &addresses(&second));
    site.switch
        .run("ip link set p1 type bridge_slave hairpin on")
        .unwrap();
    reaches(&a, &addresses(&second));
}

#[test]
fn passthru_gives_the_parent_to_one_container() {
    let site = Site::new();
    let node = site.node();
    network(&node, "passthru", json!({"macvlanMode": "passthru"}));
    let [a, b] = site.containers(["a", "b"]);
    let result = node.add("passthru", &a).unwrap();
    reaches(&a, &SERVER);
    let parent: Value =
        serde_json::from_str(&site.host.run("ip -json link show eth0").unwrap()).unwrap();
    assert_eq!(
        result["interfaces"][0]["mac"], parent[0]["address"],
        "the parent's"
    );
    node.check("passthru", &a).unwrap();
    let error = format!("{:#}", node.add("passthru", &b).unwrap_err());
    assert!(
        error.contains("eth0") && error.contains("passthru"),
        "{error}"
    );
    node.del("passthru", &a).unwrap();
    node.add("passthru", &b).unwrap();
    reaches(&b, &SERVER);
}

/// Who had the address before is forgotten at once, by packets that nobody asked for.
#[test]
fn the_fabric_is_told_who_has_the_address_now() {
    let site = Site::new();
    let node = site.node();
    network(&node, "l2", json!({}));
    let before = "02:00:00:00:00:99";
    for address in ["10.92.0.10", "fd92::10"] {
        let line = format!("ip neigh add {address} lladdr {before} dev eth0 nud stale");
        site.server.run(&line).unwrap();
    }
    let [a] = site.containers(["a"]);
    let result = node.add("l2", &a).unwrap();
    let mac = result["interfaces"][0]["mac"].as_str().unwrap();
    for address in ["10.92.0.10", "fd92::10"] {
        wait_for("the new MAC address", Duration::from_secs(5), || {
            let shown = site.server.run(&format!("ip neigh show {address}"))?;
            anyhow::ensure!(shown.contains(mac), "{shown}, not {mac}");
            Ok(())
        });
    }
}

#[test]
fn a_vlan_of_the_parent_is_made_when_it_is_not_there() {
    let site = Site::new();
    if !crate::drivers::there("vlan") {
        return;
    }
    let node = site.node();
    site.server
        .ip(["link add link eth0 name eth0.7 type vlan id 7"])
        .unwrap();
    site.server
        .raise("eth0.7", &["10.93.0.1/24", "fd93::1/64"])
        .unwrap();
    let subnets = json!([{"subnet": "10.93.0.0/24", "rangeStart": "10.93.0.10"}, {"subnet": "fd93::/64", "rangeStart": "fd93::10"}]);
    network(
        &node,
        "seven",
        json!({"vlan": 7, "ipam": {"subnets": subnets}}),
    );
    let [a, b] = site.containers(["a", "b"]);
    for container in [&a, &b] {
        node.add("seven", container).unwrap();
        reaches(container, &["10.93.0.1", "fd93::1"]);
        node.check("seven", container).unwrap();
    }
    // It stays: other networks may have links on it.
    node.del("seven", &a).unwrap();
    node.del("seven", &b).unwrap();
    node.gc("seven").unwrap();
    let shown = site.host.run("ip -d link show eth0.7").unwrap();
    assert!(shown.contains("vlan protocol 802.1Q id 7"), "{shown}");
}

#[test]
fn a_configuration_that_cannot_be_is_refused_and_changes_nothing() {
    let site = Site::new();
    let node = site.node();
    let [container] = site.containers(["a"]);
    let cases = [
        (json!({"parent": null}), "parent"),
        (json!({"parent": "eth9"}), "eth9"),
        (json!({"parent": "lo"}), "lo"),
        (
            json!({"parent": "eth0", "macvlanMode": "source"}),
            "macvlanMode",
        ),
        (json!({"parent": "eth0", "vlan": 4095}), "vlan"),
        (json!({"parent": "eth0", "mtu": 9000}), "mtu"),
        (json!({"parent": "eth0", "isolated": true}), "isolated"),
    ];
    for (more, told) in cases {
        let mut configuration = json!({
            "cniVersion": "1.1.0", "name": "l2", "type": "routeshare-cni", "mode": "macvlan",
            "dataDir": node.data_dir(), "ipam": {"subnets": [{"subnet": "10.92.0.0/24"}]},
        });
        let fields = configuration.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let outcome = node.ours("ADD", &container, &configuration).unwrap();
        let error = outcome.error().unwrap();
        assert_eq!(error.code, 7, "{more}: {error}");
        assert!(error.to_string().contains(told), "{more}: {error}");
        assert!(container.run("ip link show eth0").is_err(), "{more}");
        let written = std::fs::read_dir(node.data_dir()).unwrap().count();
        assert_eq!(written, 0, "{more}: something was written");
    }
}

//! Every network configuration in `examples/cni`, used as it is: two containers reach each other, are found to be
//! as they should be, and go again.

use std::path::Path;

use lab::Lab;
use lab::cni::CniNode;
use serde_json::{Value, json};

use super::traffic::{addresses, reaches};
use crate::drivers;

/// On a host with an `eth0`, and subnets of two Pools.
fn attach(files: [&str; 2]) {
    let lab = Lab::new().unwrap();
    let [host, router] = ["host", "router"].map(|it| lab.machine(it).unwrap());
    host.cable(
        "eth0",
        &[],
        &router,
        "eth0",
        &["10.92.0.1/24", "fd92::1/64"],
    )
    .unwrap();
    let node = CniNode::new(&lab, &host, "host").unwrap();
    let subnet = |prefix: &str, pool: &str| json!({"prefix": prefix, "pool": pool, "purpose": "Pods", "state": "Active"});
    let subnets = json!([
        subnet("10.64.0.0/24", "pods"),
        subnet("fd64::/64", "pods"),
        subnet("10.95.0.0/24", "edge"),
        subnet("fd95::/64", "edge"),
    ]);
    node.write_node_file(&[], json!({"subnets": subnets}))
        .unwrap();
    let networks = files.map(|file| configure(&node, file));
    let containers = ["one", "two"].map(|name| lab.container(name).unwrap());
    let both: Vec<_> = networks.iter().zip(&containers).collect();
    let results = both
        .iter()
        .map(|(network, container)| node.add(network, container).unwrap());
    let results: Vec<Value> = results.collect();
    reaches(&containers[0], &addresses(&results[1]));
    reaches(&containers[1], &addresses(&results[0]));
    for (network, container) in &both {
        node.status(network).unwrap();
        node.check(network, container).unwrap();
        node.del(network, container).unwrap();
    }
    for network in &networks {
        node.gc(network).unwrap();
    }
    let bridges = host.run("ip -o link show type bridge").unwrap();
    assert_eq!(bridges, "", "all are gone");
}

/// Takes the file over, with nothing but the test's own directory for leases added; the network's name.
fn configure(node: &CniNode<'_>, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cni");
    let text = std::fs::read(path.join(format!("{file}.conflist"))).unwrap();
    let mut list: Value = serde_json::from_slice(&text).unwrap();
    list["plugins"][0]["dataDir"] = json!(node.data_dir());
    let name = list["name"].as_str().unwrap().to_owned();
    let to = node.conf_dir().join(format!("{file}.conflist"));
    std::fs::write(to, list.to_string()).unwrap();
    name
}

#[test]
fn pods() {
    attach(["pods", "pods"]);
}

#[test]
fn bridge() {
    attach(["bridge", "bridge"]);
}

#[test]
fn front_and_back() {
    attach(["front", "back"]);
}

#[test]
fn macvlan() {
    attach(["macvlan", "macvlan"]);
}

#[test]
fn vlan() {
    if drivers::there("vlan") {
        attach(["vlan", "vlan"]);
    }
}

#[test]
fn ipvlan() {
    if drivers::there("ipvlan") {
        attach(["ipvlan", "ipvlan"]);
    }
}

#[test]
fn all_are_tried() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cni");
    let files = std::fs::read_dir(path).unwrap().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".conflist")).collect();
    names.sort();
    let tried = [
        "back", "bridge", "front", "ipvlan", "macvlan", "pods", "vlan",
    ];
    assert_eq!(names, tried.map(|name| format!("{name}.conflist")));
}

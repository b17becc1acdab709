//! What the tests of the plugin begin with: a node with the network `pods` of mode `routed`, both families.

use std::collections::BTreeSet;

use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

/// The subnets of the node.
pub(crate) const SUBNETS: [&str; 2] = ["10.64.0.0/23", "fd00:64::/64"];

/// A node of its own machine.
pub(crate) fn node<'a>(lab: &Lab, machine: &'a Namespace) -> CniNode<'a> {
    let node = CniNode::new(lab, machine, "node").unwrap();
    node.write_node_file(&SUBNETS, json!({})).unwrap();
    node.network("pods", &[routed(&node)]).unwrap();
    node
}

/// Our plugin's part of the network `pods`.
pub(crate) fn routed(node: &CniNode<'_>) -> Value {
    node.plugin(json!({"mode": "routed", "capabilities": {"ips": true}}))
}

/// The network `pods` as a runtime hands it to the plugin.
pub(crate) fn configuration(node: &CniNode<'_>, version: &str) -> Value {
    let mut configuration = node.plugin(json!({"mode": "routed"}));
    configuration["cniVersion"] = version.into();
    configuration["name"] = "pods".into();
    configuration
}

/// The addresses in a result of version 0.3.0 and later, without the lengths of their subnets.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let list = result["ips"].as_array().expect("a result has ips").iter();
    list.map(|ip| {
        let text = ip["address"].as_str().expect("an address is a text");
        text.split('/').next().unwrap_or_default().to_owned()
    })
    .collect()
}

/// Sends a packet to each address.
#[track_caller]
pub(crate) fn reaches(from: &Container, addresses: &[String]) {
    for address in addresses {
        from.run(&format!("ping -c 1 -W 5 {address}"))
            .unwrap_or_else(|error| panic!("no answer from {address}: {error:#}"));
    }
}

/// What the machine has for containers: its interfaces that are ours, and all routes over them. Read from
/// /proc, so that it can be asked a thousand times.
pub(crate) fn on_host(machine: &Namespace) -> BTreeSet<String> {
    let texts = machine.within(|| {
        ["dev", "route", "ipv6_route"]
            .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
    });
    let [links, four, six] = texts.unwrap();
    let ours = |word: &&str| word.starts_with("rs") && word.len() == 15;
    let mut all = BTreeSet::new();
    for line in links.lines() {
        let name = line.split(':').next().unwrap_or_default().trim();
        all.extend(Some(name).filter(ours).map(str::to_owned));
    }
    for line in four.lines().chain(six.lines()) {
        let mut words = line.split_whitespace();
        all.extend(words.any(|word| ours(&word)).then(|| route(line)));
    }
    all
}

/// Without what counts up.
fn route(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [first, second, ..] = words[..] else {
        return line.to_owned();
    };
    format!("{first} {second} {}", words[words.len() - 1])
}

/// That nothing of any container is left, on the host or in the leases.
#[track_caller]
pub(crate) fn nothing_is_left(node: &CniNode<'_>) {
    let left = on_host(node.machine());
    assert!(left.is_empty(), "{left:#?}");
    let veths = node.machine().run("ip -br link show type veth").unwrap();
    let mut veths = veths.lines().filter(|line| !line.starts_with("up"));
    assert_eq!(veths.next(), None, "it is no cable");
    for family in ["-4", "-6"] {
        let routes = node
            .machine()
            .run(&format!("ip {family} route show proto 150"));
        assert_eq!(routes.unwrap(), "");
    }
    assert_eq!(leases(node), BTreeSet::new());
}

/// The leases in force: `CONTAINER/IFNAME ADDRESS…`.
pub(crate) fn leases(node: &CniNode<'_>) -> BTreeSet<String> {
    let now = cni::leases::Now::read().unwrap();
    let snapshot = cni::leases::Snapshot::read(&node.data_dir(), &now).unwrap();
    let leases = snapshot.leases.into_iter();
    leases
        .map(|lease| {
            let addresses: Vec<String> = lease.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{}/{} {}",
                lease.owner.container,
                lease.owner.ifname,
                addresses.join(" ")
            )
        })
        .collect()
}

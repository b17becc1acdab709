//! What the other tests of the plugin stand on: the same calls with the reference plugins.

use lab::Lab;
use lab::cni::{CniNode, Invoked, With};
use serde_json::{Value, json};

fn bridge() -> Value {
    json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "capabilities": {"ips": true},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}]]},
    })
}

#[test]
fn cnitool_attaches_checks_and_detaches_with_the_reference_plugins() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    node.network("bridged", &[bridge()]).unwrap();
    node.status("bridged").unwrap();

    let container = lab.container("c1").unwrap();
    let result = node.add("bridged", &container).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    let shown = container.ip_json("address show eth0").unwrap();
    assert_eq!(shown[0]["addr_info"][0]["local"], "10.9.0.2");
    container.run("ping -c 1 -W 5 10.9.0.1").unwrap();
    node.check("bridged", &container).unwrap();

    let with = With {
        ifname: Some("net1"),
        args: Some("IgnoreUnknown=1"),
        capabilities: json!({"ips": ["10.9.0.77"]}),
    };
    let second = node.add_with("bridged", &container, &with).unwrap();
    assert_eq!(second["ips"][0]["address"], "10.9.0.77/24");
    node.check_with("bridged", &container, &with).unwrap();
    node.del_with("bridged", &container, &with).unwrap();
    node.del("bridged", &container).unwrap();
    assert!(container.run("ip link show eth0").is_err());
    assert!(node.check("bridged", &container).is_err());
}

#[test]
fn cnitool_gc_collects_what_this_node_knows_and_no_other() {
    let lab = Lab::new().unwrap();
    let machines = ["a", "b"].map(|name| lab.machine(name).unwrap());
    let nodes = ["a", "b"].map(|name| {
        let machine = &machines[usize::from(name == "b")];
        CniNode::new(&lab, machine, name).unwrap()
    });
    let containers = ["ca", "cb"].map(|name| lab.container(name).unwrap());
    for (node, container) in nodes.iter().zip(&containers) {
        node.network("bridged", &[bridge()]).unwrap();
        // Each has leases of its own.
        let result = node.add("bridged", container).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    }
    nodes[0].gc("bridged").unwrap();
    assert!(containers[0].run("ip link show eth0").is_err());
    containers[1].run("ip link show eth0").unwrap();
}

#[test]
fn a_plugin_started_with_bytes_says_what_it_thinks_of_them() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    let version = node.invoke(
        "bridge",
        &[("CNI_COMMAND", "VERSION")],
        br#"{"cniVersion": "1.1.0"}"#,
    );
    let result = version.unwrap().result().unwrap();
    assert_eq!(result["cniVersion"], "1.1.0");
    let nonsense = node.invoke("bridge", &[("CNI_COMMAND", "ADD")], b"{");
    let error = nonsense.as_ref().map(Invoked::error).unwrap().unwrap();
    assert_eq!(error.code, 4, "{error}"); // the required variables are looked at first
}

//! As Multus uses it: several networks for one container, each added and removed by itself.

use lab::Lab;
use lab::cni::With;
use serde_json::json;

use super::scene::{addresses, node, nothing_is_left, reaches};

#[test]
fn a_container_has_two_networks_and_loses_either_without_the_other() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let second = node.plugin(json!({"mode": "routed", "ipam": {"pool": "pods"}}));
    node.network("second", &[second]).unwrap();
    let (pod, other) = (
        lab.container("pod").unwrap(),
        lab.container("other").unwrap(),
    );
    let others = addresses(&node.add("pods", &other).unwrap());
    // Multus hands the pod's names on, and asks for net1, net2, …
    let pods_names = Some("IgnoreUnknown=true;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0");
    let eth0 = With {
        args: pods_names,
        ..With::default()
    };
    let net1 = With {
        ifname: Some("net1"),
        ..eth0.clone()
    };
    for first_to_go in ["second", "pods"] {
        let first = addresses(&node.add_with("pods", &pod, &eth0).unwrap());
        let more = addresses(&node.add_with("second", &pod, &net1).unwrap());
        assert_eq!(first.len() + more.len(), 4);
        reaches(&other, &first);
        reaches(&other, &more);
        reaches(&pod, &others);
        node.check_with("pods", &pod, &eth0).unwrap();
        node.check_with("second", &pod, &net1).unwrap();
        let (stays, stays_with) = match first_to_go {
            "pods" => {
                node.del_with("pods", &pod, &eth0).unwrap();
                (&more, ("second", &net1))
            }
            _ => {
                node.del_with("second", &pod, &net1).unwrap();
                (&first, ("pods", &eth0))
            }
        };
        reaches(&other, stays);
        reaches(&pod, &others);
        node.check_with(stays_with.0, &pod, stays_with.1).unwrap();
        node.del_with(stays_with.0, &pod, stays_with.1).unwrap();
    }
    node.del("pods", &other).unwrap();
    nothing_is_left(&node);
}

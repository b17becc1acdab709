//! What a container cannot do to its host, and to others by it, with the rights that runtimes give (`CAP_NET_RAW`)
//! and those they may give (`CAP_NET_ADMIN` in its own namespace).

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::ensure;
use lab::cni::CniNode;
use lab::{Lab, Namespace, advertise, wait_for};
use serde_json::{Value, json};

use super::scene::{SUBNETS, on_host};

const SOON: Duration = Duration::from_secs(20);

/// "Your addresses are of this prefix." RFC 4861 §4.6.2.
fn prefix() -> Vec<u8> {
    let mut option = vec![3, 4, 64, 0xc0];
    option.extend([0, 1, 0, 0].repeat(2));
    option.extend([0; 4]);
    option.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    option
}

/// How many advertisements the machine has been sent.
fn heard(machine: &Namespace) -> anyhow::Result<u64> {
    let text = machine.run("cat /proc/net/snmp6")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Icmp6InRouterAdvertisements"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.ok_or_else(|| anyhow::anyhow!("{text}"))
}

/// `forwarding`: of IPv6 on the host, which heeds advertisements by `accept_ra` then.
fn a_container_is_no_router_of_its_host(mode: Value, forwarding: &str, accept_ra: &str) {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    machine
        .set(&[
            ("net/ipv6/conf/all/forwarding", forwarding),
            ("net/ipv6/conf/default/accept_ra", accept_ra),
        ])
        .unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    node.write_node_file(&SUBNETS, json!({})).unwrap();
    node.network("pods", &[node.plugin(mode)]).unwrap();
    let container = lab.container("a").unwrap();
    node.add("pods", &container).unwrap();
    let before = heard(&machine).unwrap();
    container
        .run("ip -6 addr replace fe80::bad/64 dev eth0 nodad")
        .unwrap();
    wait_for("the host to hear the container", SOON, || {
        advertise(container.namespace(), "eth0", &prefix())?;
        ensure!(heard(&machine)? > before);
        Ok(())
    });
    // It is worked off where it is heard.
    for what in ["route show proto ra", "address show dynamic"] {
        let learned = machine.run(&format!("ip -6 {what}")).unwrap();
        assert_eq!(learned, "", "ip -6 {what}");
    }
    if forwarding == "1" {
        node.check("pods", &container).unwrap();
    }
    assert!(!on_host(&machine).is_empty());
}

#[test]
fn a_container_is_no_router_of_a_host_that_forwards_ipv6_and_heeds_routers() {
    a_container_is_no_router_of_its_host(json!({"mode": "routed"}), "1", "2");
    let bridge = json!({"mode": "bridge", "ipam": {"pool": "pods"}});
    a_container_is_no_router_of_its_host(bridge, "1", "2");
}

#[test]
fn a_container_is_no_router_of_a_host_that_forwards_no_ipv6() {
    a_container_is_no_router_of_its_host(json!({"mode": "routed"}), "0", "1");
    let bridge = json!({"mode": "bridge", "ipam": {"pool": "pods"}});
    a_container_is_no_router_of_its_host(bridge, "0", "1");
}

//! With which addresses containers send: their own, and by the network that each address is of.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::ensure;
use lab::cni::{CniNode, Container, With};
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::{Value, json};

use super::scene::{addresses, reaches};
use crate::host::{Host, SOON};

const SUBNETS: [&str; 2] = ["10.64.1.0/24", "fd00:64:0:1::/64"];
const SECOND: With<'_> = With {
    ifname: Some("net1"),
    args: None,
    capabilities: Value::Null,
};

/// A node with a speaker, which has written the network `routeshare`, and its table of nftables. `fabric`: more
/// of the Fabric's `spec`.
pub(super) fn start<'a>(lab: &Lab, node: &CniNode<'a>, fabric: &str) -> Speaker<'a> {
    let host = Host {
        addresses: vec!["10.1.0.11"],
        subnets: SUBNETS.into(),
        fabric: fabric.into(),
        ..Host::new("n1", 65201)
    };
    let directory = |flag: &str, path: PathBuf| [flag.to_owned(), path.display().to_string()];
    let arguments = [
        directory("--cni-conf-dir", node.conf_dir()),
        directory("--cni-data-dir", node.data_dir()),
    ];
    let machine = node.machine();
    let yaml = host.yaml();
    let arguments = arguments.concat();
    let speaker =
        Speaker::start_saying(machine, lab.directory(), host.name, &yaml, &arguments).unwrap();
    wait_for("the network and the table", SOON, || {
        let written = node.conf_dir().join("10-routeshare.conflist");
        ensure!(written.exists(), "{}", speaker.bgpctl("show status")?);
        ensure!(table(machine)?.contains("chain prerouting"));
        Ok(())
    });
    speaker
}

fn table(machine: &Namespace) -> anyhow::Result<String> {
    machine.run("nft list table inet routeshare")
}

/// A socket of a machine or container, at this address, once that can be used: the kernel's workers see to it.
fn socket(of: &Namespace, address: &str) -> UdpSocket {
    let at = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0);
    wait_for(&format!("{address} to be there"), SOON, || {
        Ok(of.within(|| UdpSocket::bind(at))??)
    })
}

/// Whom the receiver hears first when `liar` sends first, and then `honest`.
fn heard_first(to: &UdpSocket, liar: &UdpSocket, honest: &UdpSocket) -> IpAddr {
    let address = to.local_addr().unwrap();
    to.set_read_timeout(Some(SOON)).unwrap();
    for from in [liar, honest] {
        from.send_to(b"it is me", address).unwrap();
    }
    to.recv_from(&mut [0; 64]).unwrap().1.ip()
}

fn first(container: &Container) -> [String; 2] {
    ["-4", "-6"].map(|family| {
        let line = format!("ip {family} -o address show dev eth0 scope global");
        let shown = container.run(&line).unwrap();
        let address = shown.split_whitespace().nth(3).unwrap();
        address.split('/').next().unwrap().to_owned()
    })
}

#[test]
fn a_pod_sends_with_its_own_addresses_and_those_that_are_routed_to_it() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    machine
        .raise("lo", &["10.1.0.11/32", "fd00:1::11/128"])
        .unwrap();
    let node = CniNode::new(&lab, &machine, "n1").unwrap();
    let _speaker = start(&lab, &node, "");
    let [pod, other] = ["pod", "other"].map(|name| lab.container(name).unwrap());
    for container in [&pod, &other] {
        node.add("routeshare", container).unwrap();
    }
    let (of_pod, of_other) = (first(&pod), first(&other));
    reaches(&pod, &of_other);
    reaches(&pod, &["10.1.0.11".into(), "fd00:1::11".into()]);
    // Another pod's, one of nobody, and the host's own.
    let lies = [
        ["10.64.1.77", "fd00:64:0:1::77"],
        ["192.0.2.9", "2001:db8::9"],
        ["10.1.0.11", "fd00:1::11"],
    ];
    for lie in lies {
        for (family, lie) in lie.into_iter().enumerate() {
            let length = if family == 0 { 32 } else { 128 };
            pod.run(&format!("ip address add {lie}/{length} dev lo"))
                .unwrap();
            let liar = socket(pod.namespace(), lie);
            let honest = socket(pod.namespace(), &of_pod[family]);
            let host = ["10.1.0.11", "fd00:1::11"][family];
            let mut receivers = vec![socket(other.namespace(), &of_other[family])];
            // A pod with the host's own address reaches only itself by it.
            receivers.extend((lie != host).then(|| socket(&machine, host)));
            for receiver in &receivers {
                let heard = heard_first(receiver, &liar, &honest);
                assert_eq!(heard.to_string(), of_pod[family], "{lie}");
            }
            pod.run(&format!("ip address del {lie}/{length} dev lo"))
                .unwrap();
        }
    }
    // What somebody routes to the pod is its own.
    let name = machine
        .run(&format!("ip -o route get {}", of_pod[0]))
        .unwrap();
    let name = name.split(" dev ").nth(1).unwrap();
    let name = name.split(' ').next().unwrap();
    for (family, more) in ["192.0.2.9", "2001:db8::9"].into_iter().enumerate() {
        let length = if family == 0 { 32 } else { 128 };
        machine
            .run(&format!("ip route add {more}/{length} dev {name}"))
            .unwrap();
        pod.run(&format!("ip address add {more}/{length} dev lo"))
            .unwrap();
        let also = socket(pod.namespace(), more);
        let honest = socket(pod.namespace(), &of_pod[family]);
        let receiver = socket(other.namespace(), &of_other[family]);
        assert_eq!(heard_first(&receiver, &also, &honest).to_string(), more);
    }
    // Whoever flushes nftables does not open it for long.
    let before = table(&machine).unwrap().lines().count();
    machine.run("nft flush ruleset").unwrap();
    wait_for("the table to be there again", SOON, || {
        let now = table(&machine)?;
        ensure!(now.lines().count() == before, "{now}");
        Ok(())
    });
}

#[test]
fn a_container_of_two_networks_answers_by_the_one_it_was_asked_by() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "n1").unwrap();
    let _speaker = start(&lab, &node, "");
    let outside = lab.machine("outside").unwrap();
    machine
        .cable(
            "up0",
            &["10.1.0.1/24", "fd00:1::1/64"],
            &outside,
            "up0",
            &["10.1.0.2/24", "fd00:1::2/64"],
        )
        .unwrap();
    outside
        .ip([
            "route add default via 10.1.0.1",
            "route add default via fd00:1::1",
        ])
        .unwrap();
    let bridge = json!({"mode": "bridge", "ipam": {"subnets": [
        {"subnet": "10.90.0.0/24"}, {"subnet": "fd90::/64"}]}});
    let narrow = json!({"mode": "routed", "ipam": {"routes": [{"dst": "10.64.1.0/24"}]}});
    for (name, fields) in [
        ("bridge", bridge),
        ("second", json!({"mode": "routed"})),
        ("narrow", narrow),
    ] {
        node.network(name, &[node.plugin(fields)]).unwrap();
    }
    let pod = lab.container("pod").unwrap();
    let asks = |addresses: &[String]| {
        for address in addresses {
            outside
                .run(&format!("ping -n -c 1 -W 5 {address}"))
                .unwrap_or_else(|error| panic!("{address}: {error:#}"));
        }
    };
    let rules = || {
        let shown = ["-4", "-6"].map(|family| pod.run(&format!("ip {family} rule show")).unwrap());
        let lines = shown.iter().flat_map(|text| text.lines());
        lines.filter(|line| line.starts_with("2048:")).count()
    };
    let of_first = addresses(&node.add("routeshare", &pod).unwrap());
    asks(&of_first);
    for round in 0..3 {
        for network in ["bridge", "second", "narrow"] {
            let result = node.add_with(network, &pod, &SECOND).unwrap();
            asks(&addresses(&result));
            asks(&of_first);
            node.check_with(network, &pod, &SECOND).unwrap();
            assert_eq!(rules(), 2, "{network}, {round}");
            if network != "narrow" {
                pod.run("ip -6 rule del pref 2048").unwrap();
                let error = node.check_with(network, &pod, &SECOND).unwrap_err();
                assert!(format!("{error:#}").contains("no rule from"), "{error:#}");
            }
            node.del_with(network, &pod, &SECOND).unwrap();
            asks(&of_first);
        }
    }
    node.check("routeshare", &pod).unwrap();
    node.del("routeshare", &pod).unwrap();

    // The one without another has the routes that it says and no more.
    let result = node.add("narrow", &pod).unwrap();
    let from = &addresses(&result)[0];
    assert!(
        pod.run(&format!("ip route get 192.0.2.1 from {from}"))
            .is_err()
    );
}

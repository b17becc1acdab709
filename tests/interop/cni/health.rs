//! CHECK, STATUS and GC: each does what it says.

use lab::Lab;
use lab::cni::Container;
use serde_json::{Value, json};

use super::lifecycle::{SUBNETS, add, host_ends, node, pods, with_result};

#[test]
fn check_says_everything_that_is_not_as_add_left_it() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    // What is done to the host (H: its end of the pair) or the container, and what CHECK says.
    let cases = [
        (
            "container",
            "ip link set eth0 mtu 1300",
            vec!["eth0 has MTU 1300 instead of 1500"],
        ),
        (
            "container",
            "ip link set eth0 address 02:00:00:00:00:99",
            vec!["02:00:00:00:00:99 instead of"],
        ),
        (
            "container",
            "ip route del default",
            vec!["no route to 0.0.0.0/0 via 169.254.1.1 out of eth0"],
        ),
        (
            "container",
            "ip -6 route del default",
            vec!["no route to ::/0 via fe80::1"],
        ),
        (
            "container",
            "ip addr del ADDRESS4/32 dev eth0",
            vec!["eth0 does not have ADDRESS4/32", "no route to 0.0.0.0/0"],
        ),
        (
            "container",
            "ip -6 addr del ADDRESS6/128 dev eth0",
            vec!["eth0 does not have ADDRESS6/128"],
        ),
        (
            "container",
            "ip neigh del 169.254.1.1 dev eth0",
            vec!["no permanent neighbour 169.254.1.1"],
        ),
        (
            "container",
            "ip link set lo down",
            vec!["interface lo is switched off"],
        ),
        (
            "container",
            "ip link set eth0 down",
            vec!["the container's eth0 is switched off"],
        ),
        ("container", "ip link set eth0 name eth9", vec![]),
        ("host", "ip link set H mtu 1400", vec!["H has MTU 1400"]),
        (
            "host",
            "ip link set H alias nobody",
            vec!["H bears the note \"nobody\""],
        ),
        (
            "host",
            "ip link set H down",
            vec!["H is switched off", "no route to ADDRESS4"],
        ),
        (
            "host",
            "ip route del ADDRESS4",
            vec!["the host has no route to ADDRESS4 out of H"],
        ),
        (
            "host",
            "ip -6 route del ADDRESS6",
            vec!["the host has no route to ADDRESS6 out of H"],
        ),
        (
            "host",
            "ip route change ADDRESS4 dev H proto static",
            vec!["is not of protocol 150"],
        ),
        (
            "host",
            "ip neigh del ADDRESS6 dev H",
            vec!["the host has no permanent neighbour ADDRESS6"],
        ),
        (
            "host",
            "sysctl -qw net.ipv4.conf.H.forwarding=0",
            vec!["/proc/sys/net/ipv4/conf/H/forwarding of the host is not 1"],
        ),
        (
            "host",
            "sysctl -qw net.ipv6.conf.H.accept_ra=2",
            vec!["/proc/sys/net/ipv6/conf/H/accept_ra of the host is 2"],
        ),
        (
            "host",
            "sysctl -qw net.ipv6.conf.all.forwarding=0",
            vec!["/proc/sys/net/ipv6/conf/all/forwarding of the host is not 1"],
        ),
        ("host", "ip link del H", vec!["the host has no interface H"]),
    ];
    for (number, (where_, damage, words)) in cases.into_iter().enumerate() {
        let container = lab.container(&format!("c{number}")).unwrap();
        let result = add(&node, &container);
        let check = || {
            let config = with_result(&node, &result);
            node.ours("CHECK", &container, &config).unwrap()
        };
        assert_eq!(check().stdout, "", "before {damage}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let address = |place: usize| {
            let address = text(&result["ips"][place]["address"]);
            address.split_once('/').unwrap().0.to_owned()
        };
        let host = text(&result["interfaces"][0]["name"]);
        let put = |text: &str| {
            let text = text
                .replace("ADDRESS4", &address(0))
                .replace("ADDRESS6", &address(1));
            // Words of ours have no H but this one.
            text.split(' ')
                .map(|word| {
                    word.replace("conf.H.", &format!("conf.{host}."))
                        .replace("conf/H/", &format!("conf/{host}/"))
                })
                .map(|word| if word == "H" { host.clone() } else { word })
                .collect::<Vec<_>>()
                .join(" ")
        };
        match where_ {
            "host" => machine.run(&put(damage)),
            _ => container.run(&put(damage)),
        }
        .unwrap();
        let error = check().error().unwrap();
        assert_eq!(error.code, 102, "{damage}: {error}");
        for words in words {
            assert!(error.msg.contains(&put(words)), "{damage}: {error}");
        }
        node.ours("DEL", &container, &pods(&node, json!({})))
            .unwrap()
            .result()
            .unwrap();
        machine
            .set(&[("net/ipv6/conf/all/forwarding", "1")])
            .unwrap();
    }
}

#[test]
fn check_knows_that_an_address_is_not_the_containers_any_more() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let result = add(&node, &container);
    let other = json!({"prevResult": {"interfaces": result["interfaces"], "ips":
        [{"address": "10.64.0.77/32", "interface": 1}]}});
    let check = node.ours("CHECK", &container, &pods(&node, other)).unwrap();
    let error = check.error().unwrap();
    assert!(
        error.msg.contains("10.64.0.77") && error.msg.contains("lease"),
        "{error}"
    );
    let without = node
        .ours("CHECK", &container, &pods(&node, json!({})))
        .unwrap();
    let error = without.error().unwrap();
    assert!(
        error.code == 7 && error.msg.contains("prevResult"),
        "{error}"
    );

    // What the node says by now is no matter of a container that has its address.
    let check = || {
        let config = with_result(&node, &result);
        node.ours("CHECK", &container, &config).unwrap()
    };
    let file = node.data_dir().join("node.json");
    node.write_node_file(&["10.77.0.0/24"], json!({})).unwrap();
    check().result().unwrap();
    std::fs::write(&file, "{").unwrap();
    check().result().unwrap();
    std::fs::remove_file(&file).unwrap();
    check().result().unwrap();

    node.ours("DEL", &container, &pods(&node, json!({})))
        .unwrap()
        .result()
        .unwrap();
    let error = check().error().unwrap();
    assert!(error.code == 3 && error.msg.contains("no lease"), "{error}");
}

#[test]
fn status_says_why_no_container_can_come() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let status = || {
        let config = pods(&node, json!({}));
        node.ours("STATUS", &container, &config).unwrap()
    };
    let refused = |code: u64, words: &str| {
        let error = status().error().unwrap();
        assert!(
            error.code == code && error.to_string().contains(words),
            "{error}"
        );
    };
    assert_eq!(status().stdout, "");
    machine.set(&[("net/ipv4/ip_forward", "0")]).unwrap();
    refused(51, "/proc/sys/net/ipv4/ip_forward");
    machine
        .set(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])
        .unwrap();
    assert_eq!(status().stdout, "");

    node.write_node_file(&[], json!({})).unwrap();
    refused(50, "no subnet for pods");
    let draining = json!([{"prefix": "10.64.0.0/24", "purpose": "Pods", "state": "Draining"}]);
    node.write_node_file(&[], json!({"subnets": draining}))
        .unwrap();
    refused(50, "drained");
    let services = json!([{"prefix": "10.64.0.0/24", "purpose": "Services", "state": "Active"}]);
    node.write_node_file(&[], json!({"subnets": services}))
        .unwrap();
    refused(50, "no subnet for pods");
    node.write_node_file(&[], json!({"version": 2})).unwrap();
    refused(50, "version 2");
    std::fs::remove_file(node.data_dir().join("node.json")).unwrap();
    refused(50, "routeshare-speaker");
    let error = node
        .ours("ADD", &container, &pods(&node, json!({})))
        .unwrap()
        .error()
        .unwrap();
    assert!(
        error.code == 11 && error.msg.contains("routeshare-speaker"),
        "{error}"
    );

    node.write_node_file(&SUBNETS, json!({})).unwrap();
    add(&node, &container);
    assert_eq!(status().stdout, "");
    let log = node.data_dir().join("leases/log");
    let good = std::fs::read(&log).unwrap();
    std::fs::write(&log, b"what is this?\nand this\nand that\n").unwrap();
    refused(50, "log");
    std::fs::write(&log, good).unwrap();
    assert_eq!(status().stdout, "");
}

#[test]
fn gc_removes_exactly_what_the_runtime_does_not_name() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let mut containers: Vec<Container> = (0..6)
        .map(|n| lab.container(&format!("c{n}")).unwrap())
        .collect();
    let results: Vec<Value> = containers.iter().map(|c| add(&node, c)).collect();
    // Another network's, which this one's GC must not touch.
    let mut other = pods(&node, json!({}));
    other["name"] = json!("others");
    let stranger = lab.container("stranger").unwrap();
    node.ours("ADD", &stranger, &other)
        .unwrap()
        .result()
        .unwrap();
    // A route of ours that somebody made outlive its container.
    machine
        .ip(["route add 10.64.0.200/32 dev lo proto 150"])
        .unwrap();

    let gc = |key: &str, valid: &[&Container]| {
        let valid: Vec<Value> = valid
            .iter()
            .map(|c| json!({"containerID": c.namespace().name(), "ifname": "eth0"}))
            .collect();
        let mut config = pods(&node, json!({}));
        config[key] = json!(valid);
        let done = node.ours("GC", &stranger, &config).unwrap();
        assert_eq!(done.result().unwrap(), Value::Null);
    };
    let here = |container: &Container| container.run("ip link show eth0").is_ok();
    gc(
        "cni.dev/valid-attachments",
        &[&containers[1], &containers[3], &containers[5]],
    );
    for (number, (container, result)) in containers.iter().zip(&results).enumerate() {
        assert_eq!(here(container), number % 2 == 1);
        let check = node
            .ours("CHECK", container, &with_result(&node, result))
            .unwrap();
        assert_eq!(check.code == Some(0), number % 2 == 1, "{check:?}");
    }
    assert!(here(&stranger));
    assert_eq!(host_ends(&machine).len(), 3);
    assert_eq!(machine.run("ip route show 10.64.0.200").unwrap().trim(), "");

    // The name that the first runtimes had; then one that does not say, when a namespace is gone.
    gc("cni.dev/attachments", &[&containers[1], &containers[3]]);
    assert!(!here(&containers[5]));
    drop(containers.remove(3));
    let done = node.ours("GC", &stranger, &pods(&node, json!({}))).unwrap();
    done.result().unwrap();
    assert!(here(&containers[1]) && here(&stranger));
    let log = std::fs::read_to_string(node.data_dir().join("leases/log")).unwrap();
    let count = |word: &str| log.lines().filter(|line| line.contains(word)).count();
    assert_eq!((count("{\"lease\""), count("{\"free\"")), (7, 5), "{log}");
    gc("cni.dev/valid-attachments", &[]);
    assert_eq!(host_ends(&machine), [""; 0]);
    let left = machine.run("ip route show proto 150").unwrap();
    assert!(left.lines().count() == 1 && here(&stranger), "{left}");
}

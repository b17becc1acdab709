//! What the commands say and do when things are not as usual: repeated, too late, changed, half there.

use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

const SUBNETS: [&str; 2] = ["10.64.0.0/24", "fd00:64::/64"];

fn node<'a>(lab: &Lab, machine: &'a Namespace) -> CniNode<'a> {
    let node = CniNode::new(lab, machine, "node").unwrap();
    node.write_node_file(&SUBNETS, json!({})).unwrap();
    node
}

/// A network configuration as a runtime hands it to the plugin.
fn pods(node: &CniNode<'_>, more: Value) -> Value {
    let mut config = node.plugin(more);
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("pods");
    config
}

#[track_caller]
fn add(node: &CniNode<'_>, container: &Container) -> Value {
    let added = node.ours("ADD", container, &pods(node, json!({})));
    added.unwrap().result().unwrap()
}

fn with_result(node: &CniNode<'_>, result: &Value) -> Value {
    pods(node, json!({"prevResult": result}))
}

/// Names of the host's ends of containers' interfaces.
fn host_ends(machine: &Namespace) -> Vec<String> {
    let links = machine
        .run("ip -json -details link show type veth")
        .unwrap();
    let links: Value = serde_json::from_str(&links).unwrap_or_default();
    let links = links.as_array().cloned().unwrap_or_default();
    let marked = links.into_iter().filter(|link| {
        let alias = link["ifalias"].as_str().unwrap_or_default();
        alias.starts_with("routeshare pods ")
    });
    marked
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn nothing_is_left(node: &CniNode<'_>) {
    assert_eq!(host_ends(node.machine()), [""; 0]);
    for family in ["-4", "-6"] {
        let routes = node
            .machine()
            .run(&format!("ip {family} route show proto 150"))
            .unwrap();
        assert_eq!(routes.trim(), "");
    }
    // Whoever comes next may have what was freed, once it is cool.
    node.write_node_file(&SUBNETS, json!({"cooldownSeconds": 0}))
        .unwrap();
}

#[test]
fn del_is_content_with_whatever_is_left() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let del = |config: &Value| node.ours("DEL", &container, config).unwrap();
    let usual = pods(&node, json!({}));
    assert_eq!(del(&usual).result().unwrap(), Value::Null, "never attached");

    // Twice.
    add(&node, &container);
    assert_eq!(del(&usual).stdout, "");
    del(&usual).result().unwrap();
    nothing_is_left(&node);

    // With another mode, with what ADD would refuse, and without a node file.
    for config in [
        json!({"mode": "macvlan", "parent": "nowhere"}),
        json!({"mode": "unheard-of", "hairpn": 7, "prevResult": "?"}),
    ] {
        add(&node, &container);
        del(&pods(&node, config)).result().unwrap();
        nothing_is_left(&node);
    }
    add(&node, &container);
    std::fs::remove_file(node.data_dir().join("node.json")).unwrap();
    del(&usual).result().unwrap();
    nothing_is_left(&node);

    // Without CNI_NETNS, and with one that is gone.
    let id = container.namespace().name().to_owned();
    let gone = "/run/netns/gone";
    for netns in [None, Some(gone)] {
        add(&node, &container);
        let mut variables = vec![
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", id.as_str()),
            ("CNI_IFNAME", "eth0"),
        ];
        variables.extend(netns.map(|netns| ("CNI_NETNS", netns)));
        let config = usual.to_string();
        let deleted = node.invoke(lab::cni::PLUGIN, &variables, config.as_bytes());
        deleted.unwrap().result().unwrap();
        nothing_is_left(&node);
    }

    // With the interface gone, on either side.
    for side in ["eth0", "host"] {
        let result = add(&node, &container);
        match side {
            "eth0" => container.run("ip link del eth0").unwrap(),
            _ => {
                let name = result["interfaces"][0]["name"].as_str().unwrap();
                machine.run(&format!("ip link del {name}")).unwrap()
            }
        };
        del(&usual).result().unwrap();
        nothing_is_left(&node);
    }
}

#[test]
fn an_attachment_that_is_there_is_refused_and_stays_as_it_is() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let result = add(&node, &container);
    let again = node
        .ours("ADD", &container, &pods(&node, json!({})))
        .unwrap();
    let error = again.error().unwrap();
    assert!(
        error.msg.contains("eth0") && error.msg.contains("exists"),
        "{error}"
    );
    assert!(error.details.contains("DEL"), "{error}");
    let check = node.ours("CHECK", &container, &with_result(&node, &result));
    check.unwrap().result().unwrap();

    // An interface that is not ours.
    let other = lab.container("b").unwrap();
    other.run("ip link add eth0 type veth peer name x").unwrap();
    let refused = node.ours("ADD", &other, &pods(&node, json!({}))).unwrap();
    assert!(refused.error().unwrap().msg.contains("eth0"));
    let gone = node.ours("DEL", &other, &pods(&node, json!({}))).unwrap();
    gone.result().unwrap();
    other.run("ip link show eth0").unwrap();
    assert_eq!(host_ends(&machine).len(), 1);
}

#[test]
fn a_container_that_comes_back_in_another_namespace_gets_its_interface_there() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let (before, after) = (
        lab.container("before").unwrap(),
        lab.container("after").unwrap(),
    );
    let config = pods(&node, json!({})).to_string();
    let add = |netns: &Container| {
        let path = netns.path().display().to_string();
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "same"),
            ("CNI_NETNS", path.as_str()),
            ("CNI_IFNAME", "eth0"),
        ];
        let added = node.invoke(lab::cni::PLUGIN, &variables, config.as_bytes());
        added.unwrap().result().unwrap()
    };
    let first = add(&before);
    let second = add(&after);
    assert_eq!(first["ips"], second["ips"]);
    assert!(before.run("ip link show eth0").is_err());
    after.run("ip link show eth0").unwrap();
    assert_eq!(host_ends(&machine).len(), 1);
}

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

    node.ours("DEL", &container, &pods(&node, json!({})))
        .unwrap()
        .result()
        .unwrap();
    let check = node
        .ours("CHECK", &container, &with_result(&node, &result))
        .unwrap();
    let error = check.error().unwrap();
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

#[test]
fn what_plugins_before_this_one_made_stays_in_the_result() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    container.ip_json("link show lo").unwrap();
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": container.path(), "socketPath": "/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let config = pods(&node, json!({"prevResult": before}));
    let result = node
        .ours("ADD", &container, &config)
        .unwrap()
        .result()
        .unwrap();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!(result["ips"][0], before["ips"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["nameservers"], json!(["192.0.2.53"]));
    let check = node
        .ours("CHECK", &container, &with_result(&node, &result))
        .unwrap();
    check.result().unwrap();
}

#[test]
fn requested_addresses_are_given_and_names_come_from_the_node_file() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let names = json!({"address4": "169.254.1.1", "address6": "fd72::53", "domain": "Demo"});
    node.write_node_file(&SUBNETS, json!({"names": names}))
        .unwrap();
    let container = lab.container("a").unwrap();
    let wanted = json!({"runtimeConfig": {"ips": ["10.64.0.99/24"], "mac": "02:aa:bb:cc:dd:ee"}});
    let config = pods(&node, wanted);
    let result = node
        .ours("ADD", &container, &config)
        .unwrap()
        .result()
        .unwrap();
    assert_eq!(result["ips"][0]["address"], "10.64.0.99/32");
    assert_eq!(result["interfaces"][1]["mac"], "02:aa:bb:cc:dd:ee");
    assert_eq!(
        result["dns"]["nameservers"],
        json!(["169.254.1.1", "fd72::53"])
    );
    assert_eq!(result["dns"]["domain"], "pods.demo");

    let other = lab.container("b").unwrap();
    let taken = node.ours("ADD", &other, &config).unwrap().error().unwrap();
    assert!(
        taken.code == 100 && taken.msg.contains("10.64.0.99"),
        "{taken}"
    );
    let mac = pods(
        &node,
        json!({"runtimeConfig": {"mac": "03:00:00:00:00:01"}}),
    );
    let error = node.ours("ADD", &other, &mac).unwrap().error().unwrap();
    assert!(
        error.code == 7 && error.msg.contains("03:00:00:00:00:01"),
        "{error}"
    );
    assert_eq!(host_ends(&machine).len(), 1);
}

#[test]
fn modes_host_and_none_make_no_interface() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let none = pods(&node, json!({"mode": "none"}));
    let result = node
        .ours("ADD", &container, &none)
        .unwrap()
        .result()
        .unwrap();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    container.run("ping -c 1 -W 5 127.0.0.1").unwrap();
    let mut check = none.clone();
    check["prevResult"] = result;
    node.ours("CHECK", &container, &check)
        .unwrap()
        .result()
        .unwrap();
    container.run("ip link set lo down").unwrap();
    let error = node
        .ours("CHECK", &container, &check)
        .unwrap()
        .error()
        .unwrap();
    assert!(error.msg.contains("lo is switched off"), "{error}");
    node.ours("DEL", &container, &none)
        .unwrap()
        .result()
        .unwrap();

    // The host's own namespace is a mistake in every mode but one.
    let host = machine.path().display().to_string();
    let call = |config: &Value| {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "h"),
            ("CNI_NETNS", host.as_str()),
            ("CNI_IFNAME", "eth0"),
        ];
        node.invoke(lab::cni::PLUGIN, &variables, config.to_string().as_bytes())
            .unwrap()
    };
    let result = call(&pods(&node, json!({"mode": "host"})))
        .result()
        .unwrap();
    assert_eq!(result["interfaces"], json!([]));
    let error = call(&pods(&node, json!({}))).error().unwrap();
    assert!(
        error.code == 4 && error.details.contains("\"host\""),
        "{error}"
    );
    nothing_is_left(&node);
}

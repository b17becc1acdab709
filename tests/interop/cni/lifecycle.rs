//! What the commands say and do when things are not as usual: repeated, too late, changed, half there.

use lab::cni::{CniNode, Container};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

pub(super) const SUBNETS: [&str; 2] = ["10.64.0.0/24", "fd00:64::/64"];

pub(super) fn node<'a>(lab: &Lab, machine: &'a Namespace) -> CniNode<'a> {
    let node = CniNode::new(lab, machine, "node").unwrap();
    node.write_node_file(&SUBNETS, json!({})).unwrap();
    node
}

/// A network configuration as a runtime hands it to the plugin.
pub(super) fn pods(node: &CniNode<'_>, more: Value) -> Value {
    let mut config = node.plugin(more);
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("pods");
    config
}

#[track_caller]
pub(super) fn add(node: &CniNode<'_>, container: &Container) -> Value {
    let added = node.ours("ADD", container, &pods(node, json!({})));
    added.unwrap().result().unwrap()
}

pub(super) fn with_result(node: &CniNode<'_>, result: &Value) -> Value {
    pods(node, json!({"prevResult": result}))
}

/// Names of the host's ends of containers' interfaces.
pub(super) fn host_ends(machine: &Namespace) -> Vec<String> {
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

/// By its name in the container an interface is one, whatever the networks are called.
#[test]
fn an_interface_is_of_one_network_and_goes_also_when_that_is_called_otherwise_by_then() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    machine
        .ip([
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "link set up1 up",
        ])
        .unwrap();
    let node = node(&lab, &machine);
    let of = |name: &str, more: Value| {
        let mut config = pods(&node, more);
        config["name"] = json!(name);
        config
    };
    for mode in [
        json!({"mode": "routed"}),
        json!({"mode": "macvlan", "parent": "up0", "ipam": {"pool": "pods"}}),
    ] {
        let container = lab.container("a").unwrap();
        let call = |command: &str, config: &Value| node.ours(command, &container, config).unwrap();
        let result = call("ADD", &of("pods", mode.clone())).result().unwrap();
        let error = call("ADD", &of("others", mode.clone())).error().unwrap();
        assert!(error.code == 4, "{error}");
        assert!(error.msg.contains("to the network pods already"), "{error}");
        // Nothing of the first was touched.
        let mut check = of("pods", mode.clone());
        check["prevResult"] = result;
        call("CHECK", &check).result().unwrap();

        call("DEL", &of("renamed", mode.clone())).result().unwrap();
        assert!(container.run("ip link show eth0").is_err());
        nothing_is_left(&node);
        // Its lease, too: another network may have the name.
        call("ADD", &of("others", mode.clone())).result().unwrap();
        call("DEL", &of("others", mode.clone())).result().unwrap();
    }
}

/// A runtime may have no umask: what is written is nobody else's to change.
#[test]
fn nobody_else_may_write_where_the_plugin_keeps_what_it_knows() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("a").unwrap();
    let kept = node.data_dir().join("not/there/yet");
    let subnets = json!([{"subnet": "10.90.0.0/24"}]);
    let more = json!({"mode": "bridge", "dataDir": kept, "ipam": {"subnets": subnets}});
    let plugin = lab::cni::find_plugin(lab::cni::PLUGIN).unwrap();
    let mut command = node.command("sh");
    command
        .args(["-c", "umask 0; exec \"$0\""])
        .arg(plugin)
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", "a")
        .env("CNI_NETNS", container.path())
        .env("CNI_IFNAME", "eth0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, pods(&node, more).to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for path in ["..", ".", "leases", "leases/log", "leases/lock"] {
        let mode = std::fs::metadata(kept.join(path)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o022, 0, "{path}: {:o}", mode.mode());
    }
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
    let call = |command: &str, config: &Value| {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "h"),
            ("CNI_NETNS", host.as_str()),
            ("CNI_IFNAME", "eth0"),
        ];
        node.invoke(lab::cni::PLUGIN, &variables, config.to_string().as_bytes())
            .unwrap()
    };
    let of_host = pods(&node, json!({"mode": "host"}));
    let result = call("ADD", &of_host).result().unwrap();
    assert_eq!(result["interfaces"], json!([]));
    assert_eq!(call("DEL", &of_host).result().unwrap(), Value::Null);
    let error = call("ADD", &pods(&node, json!({}))).error().unwrap();
    assert!(
        error.code == 4 && error.details.contains("\"host\""),
        "{error}"
    );
    nothing_is_left(&node);
}

#[test]
fn of_many_adds_of_one_container_at_once_one_succeeds_and_keeps_its_addresses() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    node.write_node_file(&SUBNETS, json!({"cooldownSeconds": 0}))
        .unwrap();
    let config = pods(&node, json!({}));
    for round in 0..5 {
        let container = lab.container(&format!("c{round}")).unwrap();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let adding = (0..10).map(|_| scope.spawn(|| node.ours("ADD", &container, &config)));
            let adding: Vec<_> = adding.collect();
            let outcomes = adding.into_iter().map(|thread| thread.join().unwrap());
            outcomes.map(|outcome| outcome.unwrap().result()).collect()
        });
        let results: Vec<_> = outcomes.iter().flatten().collect();
        assert_eq!(results.len(), 1, "{outcomes:?}");
        // Its lease is there, though the others gave up.
        let check = node.ours("CHECK", &container, &with_result(&node, results[0]));
        check.unwrap().result().unwrap();
        let del = node.ours("DEL", &container, &config).unwrap();
        del.result().unwrap();
        nothing_is_left(&node);
    }
}

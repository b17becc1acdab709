//! Addresses as a user meets them: subnets that fill up, addresses asked for, a disk that is full.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use lab::cni::{CniNode, Container, With};
use lab::{Daemon, Lab, Namespace, output, program, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn who_gets_no_address_is_told_what_to_do() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    node.write_node_file(&["10.64.0.0/31"], json!({})).unwrap();
    let own = json!({"mode": "bridge", "ipam": {"subnets": [{"subnet": "10.90.0.0/30"}]}});
    for (name, more, room, advice) in [
        (
            "pods",
            json!({"mode": "routed"}),
            2,
            "add a prefix to the Pool",
        ),
        ("blue", own, 1, "ipam.subnets"),
    ] {
        let mut network = node.plugin(more);
        network["cniVersion"] = "1.1.0".into();
        network["name"] = name.into();
        let containers: Vec<Container> = (0..=room)
            .map(|number| lab.container(&format!("{name}{number}")).unwrap())
            .collect();
        for container in &containers[..room] {
            node.ours("ADD", container, &network)
                .unwrap()
                .result()
                .unwrap();
        }
        let refused = node.ours("ADD", &containers[room], &network).unwrap();
        let error = refused.error().unwrap();
        assert_eq!(error.code, 100, "{error}");
        assert!(error.msg.contains("is free in 10."), "{error}");
        assert!(error.details.contains(advice), "{error}");
    }
}

/// A pool of eight subnets of thirty-two addresses, and one node.
const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: Mesh, pods: {cooldownSeconds: 600}}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/24, 'fd00:64::/56'], nodeSubnetLength: {ipv4: 27, ipv6: 64}}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n1}
spec: {addresses: [192.0.2.11]}
";

/// A controller and the speaker of its one node, whose pods `node` attaches.
struct Cluster<'a> {
    node: &'a CniNode<'a>,
    directory: PathBuf,
    _daemons: [Daemon; 2],
}

impl<'a> Cluster<'a> {
    fn start(lab: &Lab, machine: &Namespace, node: &'a CniNode<'a>) -> Cluster<'a> {
        let directory = lab.directory().to_owned();
        fs::create_dir(directory.join("resources")).unwrap();
        fs::write(directory.join("resources/all.yaml"), RESOURCES).unwrap();
        let start = |name: &str, arguments: &str| {
            let mut command = machine.command(program(name).unwrap());
            for argument in arguments.split_whitespace() {
                let argument = argument.replace("DIR", &directory.display().to_string());
                command.arg(argument.replace("DATA", &node.data_dir().display().to_string()));
            }
            let log = directory.join(format!("{name}.log"));
            machine.start(name, command, &log).unwrap()
        };
        let controller = start(
            "routeshare-controller",
            "--resources DIR/resources --state DIR/state.redb --insecure-listen 127.0.0.1:7443 \
             --socket DIR/controller.sock",
        );
        let speaker = start(
            "routeshare-speaker",
            "--node n1 --controller http://127.0.0.1:7443 --insecure --state-dir DIR/state \
             --socket DIR/speaker.sock --cni-data-dir DATA",
        );
        Cluster {
            node,
            directory,
            _daemons: [controller, speaker],
        }
    }

    fn bgpctl(&self, line: &str) -> anyhow::Result<String> {
        let line = line.replace("DIR", &self.directory.display().to_string());
        let mut command = self.node.machine().command(program("bgpctl")?);
        output(command.args(line.split_whitespace()))
    }

    /// What a command lists, asked of the controller.
    fn list(&self, line: &str) -> anyhow::Result<Vec<Value>> {
        let line = format!("--controller unix:DIR/controller.sock --output json {line}");
        Ok(serde_json::from_str(&self.bgpctl(&line)?)?)
    }

    /// The node's IPv4 subnets, and how many of their addresses are used.
    fn used(&self) -> anyhow::Result<Vec<u64>> {
        let subnets = self.list("show subnets")?;
        let ipv4 = subnets
            .iter()
            .filter(|it| it["prefix"].as_str().is_some_and(|it| it.contains('.')));
        Ok(ipv4.map(|it| it["used"].as_u64().unwrap_or(0)).collect())
    }
}

#[test]
fn a_node_that_fills_up_gets_its_next_subnets_in_time_for_every_pod() {
    const PODS: usize = 100;
    const AT_ONCE: usize = 4;
    let lab = Lab::new().unwrap();
    let machine = lab.machine("n1").unwrap();
    let other = lab.machine("other").unwrap();
    machine
        .cable("eth0", &["192.0.2.11/24"], &other, "eth0", &[])
        .unwrap();
    let node = CniNode::new(&lab, &machine, "n1").unwrap();
    node.network("pods", &[node.plugin(json!({"mode": "routed"}))])
        .unwrap();
    let cluster = Cluster::start(&lab, &machine, &node);
    wait_for("the node file", SOON, || {
        let text = fs::read_to_string(node.data_dir().join("node.json"))?;
        ensure!(text.contains("10.64.0.0/27"), "{text}");
        Ok(())
    });

    let containers: Vec<Container> = (0..PODS)
        .map(|number| lab.container(&format!("c{number}")).unwrap())
        .collect();
    let next = AtomicUsize::new(0);
    let attach = || {
        let mut given = Vec::new();
        while let Some(container) = containers.get(next.fetch_add(1, Ordering::Relaxed)) {
            // None may fail.
            given.extend(addresses(&node.add("pods", container).unwrap()));
        }
        given
    };
    let given: BTreeSet<String> = std::thread::scope(|scope| {
        let threads = [(); AT_ONCE].map(|()| scope.spawn(attach));
        let given = threads.into_iter().flat_map(|it| it.join().unwrap());
        given.collect()
    });
    assert_eq!(given.len(), 2 * PODS, "{given:?}");

    wait_for("all pods to be counted, each once", SOON, || {
        let used = cluster.used()?;
        // Three full ones of 31, and of the others at least one.
        ensure!(
            used.len() >= 4 && used.iter().sum::<u64>() == PODS as u64,
            "{used:?}"
        );
        Ok(())
    });
    pods_are_shown(&cluster, &containers[7]);

    for container in &containers[..60] {
        node.del("pods", container).unwrap();
    }
    wait_for("what is left", SOON, || {
        let used: u64 = cluster.used()?.iter().sum();
        ensure!(used == PODS as u64 - 60, "{used}");
        Ok(())
    });
    let status = cluster.bgpctl("--socket DIR/speaker.sock --output json show status");
    let status: Value = serde_json::from_str(&status.unwrap()).unwrap();
    let subnets = status["subnets"].as_array().expect("subnets").iter();
    let ipv4 = subnets.filter(|it| it["prefix"].as_str().unwrap().contains('.'));
    let cooling: u64 = ipv4.map(|it| it["cooling"].as_u64().unwrap()).sum();
    assert_eq!(cooling, 60, "{status}");
}

/// `show pods` says the same by the speaker and through the controller.
#[track_caller]
fn pods_are_shown(cluster: &Cluster<'_>, one: &Container) {
    let all = cluster.list("show pods --all").unwrap();
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|pod| pod["node"] == "n1"), "{all:?}");
    let here = cluster.bgpctl("--socket DIR/speaker.sock --output json show pods");
    let here: Vec<Value> = serde_json::from_str(&here.unwrap()).unwrap();
    assert_eq!(here.len(), 100);
    assert_eq!(here[0]["container"], all[0]["container"]);

    let shown = here.iter().find(|pod| {
        let netns = pod["netns"].as_str().unwrap_or_default();
        Path::new(netns) == one.path()
    });
    let shown = shown.unwrap_or_else(|| panic!("{} is in none of {here:?}", one.path().display()));
    let inside = one.ip_json("address show eth0 scope global").unwrap();
    let inside = inside[0]["addr_info"].as_array().unwrap().iter();
    let inside: BTreeSet<&str> = inside.filter_map(|it| it["local"].as_str()).collect();
    let addresses = shown["addresses"].as_array().unwrap().iter();
    let addresses = addresses.map(|it| it.as_str().unwrap().split('/').next().unwrap());
    assert_eq!(addresses.collect::<BTreeSet<_>>(), inside);
    assert_eq!(shown["mode"], "routed");
    assert_eq!(shown["interface"], "eth0");

    let address = inside.first().unwrap();
    let table = cluster.bgpctl(&format!("--socket DIR/speaker.sock show pods {address}"));
    let table = table.unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    let column = lines[0].find("ADDRESSES").unwrap();
    assert!(lines[1][column..].starts_with("10.64."), "{table}");
    let nobody = cluster.bgpctl("--socket DIR/speaker.sock show pods nobody");
    let nobody = format!("{:#}", nobody.unwrap_err());
    assert!(
        nobody.contains("no container whose id begins with `nobody`"),
        "{nobody}"
    );
}

#[test]
fn addresses_that_are_asked_for_are_given_or_refused_with_the_reason() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    node.write_node_file(&["10.64.0.0/24", "fd00:64::/64"], json!({}))
        .unwrap();
    let plugin = node.plugin(json!({"mode": "routed", "capabilities": {"ips": true}}));
    node.network("pods", &[plugin]).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.container(name).unwrap());

    let by_capability = With {
        capabilities: json!({"ips": ["10.64.0.77/24", "fd00:64::77"]}),
        ..With::default()
    };
    let given = node.add_with("pods", &a, &by_capability).unwrap();
    assert_eq!(addresses(&given), ["10.64.0.77/32", "fd00:64::77/128"]);
    let by_args = |args| With {
        args: Some(args),
        ..With::default()
    };
    let given = node
        .add_with("pods", &b, &by_args("IP=10.64.0.78"))
        .unwrap();
    assert_eq!(addresses(&given), ["10.64.0.78/32", "fd00:64::78/128"]);

    let refused = |args| {
        let error = node.add_with("pods", &c, &by_args(args)).unwrap_err();
        format!("{error:#}")
    };
    for (args, why) in [
        ("IP=10.64.0.77", "has it in the network pods"),
        ("IP=10.65.0.1", "it is not in 10.64.0.0/24, fd00:64::/64"),
        ("IP=10.64.0.0", "it is the network's own address"),
        ("IP=here", "IP in CNI_ARGS"),
    ] {
        let text = refused(args);
        assert!(text.contains(why), "{args}: {text}");
    }
    // Nothing is left of what was refused.
    assert_eq!(
        machine
            .run("ip route show proto 150")
            .unwrap()
            .lines()
            .count(),
        2
    );
    for container in [&a, &b] {
        node.del("pods", container).unwrap();
    }
    let text = refused("IP=10.64.0.77");
    assert!(text.contains("is given to nobody else before"), "{text}");
}

/// A small file system in memory, until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf, size: &str) -> SmallDisk {
        let options = format!("size={size}");
        let flags = MsFlags::empty();
        mount(
            Some("small"),
            &at,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        SmallDisk(at)
    }

    fn remount(&self, flags: MsFlags) {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(Some("small"), &self.0, Some("tmpfs"), flags, None::<&str>).unwrap();
    }

    /// Leaves no room.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("others");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

#[test]
fn on_a_full_disk_no_lease_begins_and_every_one_can_end() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    let disk = SmallDisk::new(node.data_dir(), "256k");
    node.write_node_file(&["10.64.0.0/24"], json!({})).unwrap();
    node.network("pods", &[node.plugin(json!({"mode": "routed"}))])
        .unwrap();
    // A long line for each: what the plugin has taken in advance is soon used up.
    let args = format!("K8S_POD_NAME={}", "long".repeat(700));
    let with = With {
        args: Some(&args),
        ..With::default()
    };
    let mut attached = vec![lab.container("c0").unwrap()];
    node.add_with("pods", &attached[0], &with).unwrap();
    let others = disk.fill();
    let error = loop {
        let container = lab.container(&format!("c{}", attached.len())).unwrap();
        assert!(attached.len() < 40, "the disk is full");
        match node.add_with("pods", &container, &with) {
            Ok(_) => attached.push(container),
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!(error.contains("No space left on device"), "{error}");
    assert!(
        error.contains("no lease can begin until there is room"),
        "{error}"
    );
    let marked = || {
        machine
            .run("ip route show proto 150")
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(
        marked(),
        attached.len(),
        "nothing is left of what was refused"
    );

    for container in &attached {
        node.del_with("pods", container, &with).unwrap();
    }
    assert_eq!(marked(), 0);
    fs::remove_file(others).unwrap();
    node.add_with("pods", &attached[0], &with).unwrap();
    node.check_with("pods", &attached[0], &with).unwrap();
}

/// As a kernel makes a disk that fails.
#[test]
fn on_a_disk_that_cannot_be_written_status_says_so() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    let disk = SmallDisk::new(node.data_dir(), "256k");
    node.write_node_file(&["10.64.0.0/24"], json!({})).unwrap();
    node.network("pods", &[node.plugin(json!({"mode": "routed"}))])
        .unwrap();
    let container = lab.container("a").unwrap();
    node.add("pods", &container).unwrap();
    node.status("pods").unwrap();
    disk.remount(MsFlags::MS_RDONLY);
    let error = format!("{:#}", node.status("pods").unwrap_err());
    assert!(error.contains("Read-only file system"), "{error}");
    node.check("pods", &container).unwrap();
    disk.remount(MsFlags::empty());
    node.status("pods").unwrap();
    node.del("pods", &container).unwrap();
}

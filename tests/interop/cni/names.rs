//! Names of containers: asked for by `dig` and by the C library in containers that the plugin attached, answered
//! by the speaker of their node.

mod crowd;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::cni::{CniNode, Container, With};
use lab::controller::Controller;
use lab::speaker::Speaker;
use lab::{Daemon, Lab, Namespace, output, packages, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Where the resolver answers.
const IPV4: &str = "169.254.1.1";
const IPV6: &str = "fd72:6f75:7465::53";

const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec:
  asn: {value: 64512}
  pods: {cooldownSeconds: 0, names: {forward: [192.0.2.53]}}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n1}
spec:
  addresses: [192.0.2.11]
  subnets: [10.64.0.0/24, 'fd00:64::/64']
";

/// A node whose speaker answers names, and a world around it that has a resolver.
struct Site<'a> {
    lab: &'a Lab,
    world: &'a Namespace,
    cni: CniNode<'a>,
    speaker: Speaker<'a>,
    _resolver: Daemon,
}

impl<'a> Site<'a> {
    fn new(lab: &'a Lab, machine: &'a Namespace, world: &'a Namespace) -> Site<'a> {
        let ours = ["192.0.2.11/24"];
        let theirs = ["192.0.2.53/24"];
        machine
            .cable("eth0", &ours, world, "eth0", &theirs)
            .unwrap();
        world.ip(["route add 10.64.0.0/24 via 192.0.2.11"]).unwrap();
        let resolver = resolver(lab, world);
        let cni = CniNode::new(lab, machine, "n1").unwrap();
        let files = lab.directory().join("resources");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("all.yaml"), RESOURCES).unwrap();
        let told = [
            "--standalone",
            "--resources",
            &files.display().to_string(),
            "--cni-data-dir",
            &cni.data_dir().display().to_string(),
        ];
        let told = told.map(str::to_owned).into();
        let speaker = Speaker::start_with(machine, lab.directory(), "n1", told).unwrap();
        wait_for("the node file", SOON, || {
            let file = std::fs::read_to_string(cni.data_dir().join("node.json"))?;
            ensure!(file.contains("pods.internal"), "{file}");
            Ok(())
        });
        for network in ["front", "back"] {
            let plugin = json!({"mode": "routed", "capabilities": {"aliases": true}});
            cni.network(network, &[cni.plugin(plugin)]).unwrap();
        }
        Site {
            lab,
            world,
            cni,
            speaker,
            _resolver: resolver,
        }
    }

    /// A container of a network, with a name and aliases.
    fn container(&self, network: &str, name: &str, aliases: &[&str]) -> Host {
        attached(self.lab, &self.cni, network, name, aliases)
    }
}

fn attached(lab: &Lab, cni: &CniNode<'_>, network: &str, name: &str, aliases: &[&str]) -> Host {
    let container = lab.container(name).unwrap();
    let result = attach(cni, &container, network, "eth0", name, aliases);
    // As a runtime writes it for the container.
    let dns = &result["dns"];
    let servers = dns["nameservers"].as_array().unwrap().iter();
    let servers = servers.map(|it| format!("nameserver {}\n", it.as_str().unwrap()));
    let search = format!("search {}\n", dns["search"][0].as_str().unwrap());
    let resolv_conf = lab.directory().join(format!("{name}.resolv.conf"));
    std::fs::write(&resolv_conf, servers.collect::<String>() + &search).unwrap();
    Host {
        container,
        resolv_conf: resolv_conf.display().to_string(),
        result,
    }
}

fn attach(
    cni: &CniNode<'_>,
    container: &Container,
    network: &str,
    ifname: &str,
    name: &str,
    aliases: &[&str],
) -> Value {
    let args = format!("IgnoreUnknown=1;K8S_POD_NAME={name}");
    let with = With {
        ifname: Some(ifname),
        args: Some(&args),
        capabilities: json!({"aliases": aliases}),
    };
    cni.add_with(network, container, &with).unwrap()
}

/// Debian's dnsmasq: knows one name, and that there is nothing else.
fn resolver(lab: &Lab, machine: &Namespace) -> Daemon {
    let program = packages::DNSMASQ
        .find()
        .expect("apt-get install dnsmasq-base");
    let mut command = machine.command(program);
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--bind-interfaces",
        "--listen-address=192.0.2.53",
        "--host-record=outside.example,203.0.113.7,2001:db8::7",
        "--local=/#/",
    ]);
    let log = lab.directory().join("dnsmasq.log");
    machine.start("dnsmasq", command, &log).unwrap()
}

/// A container with the resolv.conf that its runtime would have written.
struct Host {
    container: Container,
    resolv_conf: String,
    result: Value,
}

impl Host {
    fn address(&self, family: usize) -> &str {
        let address = self.result["ips"][family]["address"].as_str().unwrap();
        address.split_once('/').unwrap().0
    }

    /// What the C library finds, sorted and each once.
    fn lookup(&self, database: &str, name: &str) -> anyhow::Result<Vec<String>> {
        let mut command = self.container.namespace().command("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/resolv.conf && exec getent \"$@\"")
            .arg(&self.resolv_conf)
            .args([database, name]);
        let text = output(&mut command)?;
        let mut found: Vec<String> = (text.lines())
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn dig(&self, line: &str) -> anyhow::Result<String> {
        dig(self.container.namespace(), line)
    }
}

fn dig(from: &Namespace, line: &str) -> anyhow::Result<String> {
    from.run(&format!("dig +time=2 +tries=1 {line}"))
}

/// The status of a full answer of `dig`.
fn status(answer: &str) -> &str {
    let (_, rest) = answer.split_once("status: ").unwrap_or(("", "none"));
    rest.split(',').next().unwrap_or_default()
}

#[track_caller]
fn wait_for_answer(host: &Host, line: &str, expected: &str) {
    wait_for("an answer", SOON, || {
        let answer = host.dig(&format!("+short {line}"))?;
        ensure!(answer.trim() == expected, "{line}: {answer}");
        Ok(())
    });
}

#[test]
fn containers_of_a_network_find_each_other_by_name_and_alias_and_no_others() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let web1 = site.container("front", "web1", &["web"]);
    let web2 = site.container("front", "web2", &["web"]);
    let db = site.container("back", "db", &[]);
    assert_eq!(web1.result["dns"]["nameservers"], json!([IPV4, IPV6]));
    assert_eq!(web1.result["dns"]["search"], json!(["front.pods.internal"]));
    wait_for_answer(&web1, &format!("@{IPV4} web2"), web2.address(0));

    // As programs ask: both families, by the search domain, backwards.
    let both = |host: &Host| {
        let mut both = vec![host.address(0).to_owned(), host.address(1).to_owned()];
        both.sort();
        both
    };
    assert_eq!(web1.lookup("ahosts", "web2").unwrap(), both(&web2));
    assert_eq!(
        web2.lookup("ahosts", "web1.front.pods.internal").unwrap(),
        both(&web1)
    );
    let backwards = web1
        .dig(&format!("+short @{IPV4} -x {}", web2.address(1)))
        .unwrap();
    assert_eq!(backwards.trim(), "web2.front.pods.internal.");
    // Over every way there is.
    for server in [IPV4, IPV6] {
        for way in ["+notcp", "+tcp"] {
            let answer = web1
                .dig(&format!("+short @{server} {way} AAAA web2"))
                .unwrap();
            assert_eq!(answer.trim(), web2.address(1), "{server} {way}");
        }
    }

    // Several under one alias, in turn.
    let first = |_| {
        let answer = web1.dig(&format!("+short @{IPV4} web")).unwrap();
        answer.lines().next().unwrap().to_owned()
    };
    let firsts: Vec<String> = (0..4).map(first).collect();
    assert_eq!(firsts[0], firsts[2]);
    assert_eq!(firsts[1], firsts[3]);
    assert_ne!(firsts[0], firsts[1]);

    // Nothing of another network, whatever it is called by.
    let of_back = [
        "db".to_owned(),
        "db.back.pods.internal".to_owned(),
        "back.pods.internal".to_owned(),
        format!("-x {}", db.address(0)),
    ];
    for name in &of_back {
        let answer = web1.dig(&format!("@{IPV4} {name}")).unwrap();
        assert_eq!(status(&answer), "NXDOMAIN", "{answer}");
        assert!(
            !answer.contains(&format!("\t{}", db.address(0))),
            "{answer}"
        );
    }
    assert!(web1.lookup("ahosts", "db").is_err());
    // There is one, and nothing of this type.
    let answer = web1.dig(&format!("@{IPV4} MX web2")).unwrap();
    assert_eq!(status(&answer), "NOERROR", "{answer}");
    assert!(answer.contains("ANSWER: 0"), "{answer}");

    // Attached to the other network while it runs, and detached again.
    attach(&site.cni, &web1.container, "back", "net1", "web1", &[]);
    wait_for_answer(&web1, &format!("@{IPV4} db"), db.address(0));
    wait_for_answer(
        &web1,
        &format!("@{IPV4} db.back.pods.internal"),
        db.address(0),
    );
    let with = With {
        ifname: Some("net1"),
        ..With::default()
    };
    site.cni.del_with("back", &web1.container, &with).unwrap();
    wait_for_answer(&web1, &format!("@{IPV4} db"), "");
    site.cni.del("front", &web2.container).unwrap();
    wait_for_answer(&web1, &format!("@{IPV4} web2"), "");
    wait_for_answer(&web1, &format!("@{IPV4} web"), web1.address(0));
}

#[test]
fn other_names_are_asked_for_outside_and_nobody_outside_is_answered() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let mut site = Site::new(&lab, &machine, &world);
    let web = site.container("front", "web", &[]);
    wait_for_answer(&web, &format!("@{IPV4} outside.example"), "203.0.113.7");
    wait_for_answer(
        &web,
        &format!("@{IPV6} +tcp AAAA outside.example"),
        "2001:db8::7",
    );
    assert_eq!(
        web.lookup("ahostsv4", "outside.example").unwrap(),
        ["203.0.113.7"]
    );
    let answer = web.dig(&format!("@{IPV4} nobody.example")).unwrap();
    assert_eq!(status(&answer), "NXDOMAIN", "{answer}");

    // This host may ask for containers, and asks its own resolvers for the rest.
    let short = dig(&machine, &format!("+short @{IPV4} web.front.pods.internal")).unwrap();
    assert_eq!(short.trim(), web.address(0));
    let answer = dig(&machine, &format!("@{IPV4} outside.example")).unwrap();
    assert_eq!(status(&answer), "REFUSED", "{answer}");

    // The world may ask for nothing, even if it finds the way.
    world
        .ip(["route add 169.254.1.1/32 via 192.0.2.11"])
        .unwrap();
    for name in ["web.front.pods.internal", "outside.example"] {
        let answer = dig(site.world, &format!("@{IPV4} {name}")).unwrap();
        assert_eq!(status(&answer), "REFUSED", "{answer}");
    }

    // Back at once, from the leases on disk.
    site.speaker.kill().unwrap();
    assert!(web.dig(&format!("+short @{IPV4} web")).is_err());
    site.speaker.start_again().unwrap();
    wait_for_answer(&web, &format!("@{IPV4} web"), web.address(0));

    // When nobody answers outside, containers still find each other, and are told the rest in time.
    world.ip(["link set eth0 down"]).unwrap();
    let begun = Instant::now();
    let answer = web
        .container
        .run(&format!("dig +time=5 +tries=1 @{IPV4} outside.example"));
    assert_eq!(status(&answer.unwrap()), "SERVFAIL");
    assert!(begun.elapsed() < Duration::from_secs(5));
    wait_for_answer(&web, &format!("@{IPV4} web"), web.address(0));
    let count = |outcome: &str| {
        let name = format!("routeshare_speaker_name_queries_total{{outcome=\"{outcome}\"}}");
        site.speaker.metric(&name).unwrap()
    };
    assert!(
        count("answered") > 0 && count("unanswered") > 0,
        "{}",
        site.speaker.log()
    );
}

#[test]
fn switched_off_nothing_is_left_of_it() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let web = site.container("front", "web", &[]);
    wait_for_answer(&web, &format!("@{IPV4} web"), web.address(0));
    let off = RESOURCES.replace(", names: {forward: [192.0.2.53]}", "");
    let file = lab.directory().join("resources/all.yaml");
    replace(&file, &off);
    wait_for("lo without our addresses", SOON, || {
        let shown = machine.run("ip address show dev lo")?;
        ensure!(!shown.contains(IPV4) && !shown.contains(IPV6), "{shown}");
        let node = std::fs::read_to_string(site.cni.data_dir().join("node.json"))?;
        ensure!(!node.contains("pods.internal"), "{node}");
        Ok(())
    });
    assert!(web.dig(&format!("+short @{IPV4} web")).is_err());
    replace(&file, RESOURCES);
    wait_for_answer(&web, &format!("@{IPV4} web"), web.address(0));
}

/// As an editor does.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_bridges_gateway_answers_its_containers_also_where_it_leads_nowhere() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let subnets = json!([{"subnet": "10.5.0.0/24"}, {"subnet": "fd00:5::/64"}]);
    let plugin = json!({
        "mode": "bridge",
        "bridge": "lan0",
        "internal": true,
        "capabilities": {"aliases": true},
        "ipam": {"subnets": subnets},
    });
    site.cni.network("lan", &[site.cni.plugin(plugin)]).unwrap();
    let one = site.container("lan", "one", &["all"]);
    let two = site.container("lan", "two", &["all"]);
    let gateways = one.result["dns"]["nameservers"].as_array().unwrap();
    assert_eq!(gateways.len(), 2, "{gateways:?}");
    for gateway in gateways {
        let gateway = gateway.as_str().unwrap();
        wait_for_answer(&one, &format!("@{gateway} two"), two.address(0));
        wait_for_answer(&two, &format!("@{gateway} AAAA one"), one.address(1));
    }
    assert_eq!(
        one.lookup("ahostsv4", "all").unwrap(),
        [one.address(0), two.address(0)]
    );
}

#[test]
fn names_of_other_nodes_are_known_and_stay_while_the_controller_is_away() {
    const CLUSTER: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: Mesh, pods: {names: {forward: []}}}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16], nodeSubnetLength: {ipv4: 24}}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n1}
spec: {addresses: [192.0.2.11]}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n2}
spec: {addresses: [192.0.2.12]}
";
    let lab = Lab::new().unwrap();
    let machines = ["n1", "n2"].map(|name| lab.machine(name).unwrap());
    let addresses = ["192.0.2.11/24", "192.0.2.12/24"];
    let [n1, n2] = &machines;
    n1.cable("eth0", &[addresses[0]], n2, "eth0", &[addresses[1]])
        .unwrap();
    let mut controller =
        Controller::start(n1, lab.directory(), &["192.0.2.11"], &["n1", "n2"], CLUSTER).unwrap();
    let nodes = machines.each_ref().map(|machine| {
        let name = if machine.name() == n1.name() {
            "n1"
        } else {
            "n2"
        };
        let cni = CniNode::new(&lab, machine, name).unwrap();
        let mut told = controller.arguments(name, "192.0.2.11");
        told.extend([
            "--cni-data-dir".to_owned(),
            cni.data_dir().display().to_string(),
        ]);
        let speaker = Speaker::start_with(machine, lab.directory(), name, told).unwrap();
        wait_for("the node's subnet", SOON, || {
            let file = std::fs::read_to_string(cni.data_dir().join("node.json"))?;
            ensure!(
                file.contains("10.64.") && file.contains("pods.internal"),
                "{file}"
            );
            Ok(())
        });
        for network in ["front", "back"] {
            let plugin = json!({"mode": "routed", "capabilities": {"aliases": true}});
            cni.network(network, &[cni.plugin(plugin)]).unwrap();
        }
        (cni, speaker)
    });
    let [(cni1, mut speaker1), (cni2, speaker2)] = nodes;
    let one = attached(&lab, &cni1, "front", "one", &["all"]);
    let two = attached(&lab, &cni2, "front", "two", &["all"]);
    let db = attached(&lab, &cni2, "back", "db", &[]);
    let begun = Instant::now();
    wait_for_answer(&one, &format!("@{IPV4} two"), two.address(0));
    println!(
        "a name of the other node was known {:?} after its container was attached",
        begun.elapsed()
    );
    wait_for_answer(
        &two,
        &format!("@{IPV4} one.front.pods.internal"),
        one.address(0),
    );
    wait_for_answer(
        &two,
        &format!("@{IPV4} -x {}", one.address(0)),
        "one.front.pods.internal.",
    );
    let mut both = [one.address(0), two.address(0)];
    both.sort();
    assert_eq!(one.lookup("ahostsv4", "all").unwrap(), both);
    let answer = one.dig(&format!("@{IPV4} db.back.pods.internal")).unwrap();
    assert_eq!(status(&answer), "NXDOMAIN", "{answer}");
    wait_for("a packet to the other node", SOON, || {
        one.container
            .run(&format!("ping -c 1 -W 1 {}", two.address(0)))
    });

    // What is gone there is gone here.
    cni2.del("back", &db.container).unwrap();
    let third = attached(&lab, &cni2, "front", "third", &[]);
    wait_for_answer(&one, &format!("@{IPV4} third"), third.address(0));
    cni2.del("front", &third.container).unwrap();
    wait_for_answer(&one, &format!("@{IPV4} third.front.pods.internal"), "");

    // Known without a controller, also to a speaker that starts then.
    wait_for("names on disk", SOON, || {
        let kept = std::fs::read(lab.directory().join("n1/state/names"))?;
        let has = |name: &[u8]| kept.windows(name.len()).any(|it| it == name);
        ensure!(has(b"two") && !has(b"third"), "{kept:?}");
        Ok(())
    });
    controller.kill().unwrap();
    speaker1.kill().unwrap();
    speaker1.start_again().unwrap();
    wait_for_answer(&one, &format!("@{IPV4} two"), two.address(0));
    drop(speaker2);
}

#[test]
fn a_container_that_floods_the_resolver_keeps_nobody_else_from_it() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let web = site.container("front", "web", &[]);
    let hostile = site.container("front", "hostile", &[]);
    wait_for_answer(&web, &format!("@{IPV4} hostile"), hostile.address(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            hostile
                .container
                .namespace()
                .within(|| flood(&stop))
                .unwrap()
        });
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let begun = Instant::now();
            let answer = web
                .dig(&format!("+short +tries=3 @{IPV4} hostile"))
                .unwrap();
            assert_eq!(answer.trim(), hostile.address(0));
            slowest = slowest.max(begun.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap();
        println!(
            "{sent} questions in the flood; the slowest of 50 of another container took {slowest:?}"
        );
        assert!(sent > 10_000, "{sent}");
    });
    let limited = "routeshare_speaker_name_queries_total{outcome=\"limited\"}";
    assert!(site.speaker.metric(limited).unwrap() > 1000);
}

/// Sends questions for names outside, and bytes that are none, as fast as it can.
fn flood(stop: &AtomicBool) -> u64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect(SocketAddr::new(IPV4.parse().unwrap(), 53))
        .unwrap();
    let mut question = b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07outside\x07example\x00\x00\x01\x00\x01".to_vec();
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        for number in 0_u16..64 {
            question[..2].copy_from_slice(&number.to_be_bytes());
            let length = if number % 4 == 0 {
                usize::from(number) % question.len()
            } else {
                question.len()
            };
            sent += u64::from(socket.send(&question[..length]).is_ok());
        }
    }
    sent
}

//! Our plugin with others behind it in a network's list: the reference plugins portmap (by iptables and by
//! nftables), bandwidth and tuning.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lab::cni::{CniNode, Container, With};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

use super::scene::{addresses, node, nothing_is_left, reaches, routed};
use super::sources::start;

const SOON: Duration = Duration::from_secs(10);

/// Answers one connection to port 80, in both families, with where it came from.
fn serve_once(container: &Container) -> std::thread::JoinHandle<()> {
    let work = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap();
    let listener = container.namespace().within(work).unwrap();
    std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let from = from.ip().to_canonical();
        stream.write_all(from.to_string().as_bytes()).unwrap();
    })
}

/// What the other end saw of a connection from `machine`.
fn ask(machine: &Namespace, to: SocketAddr) -> std::io::Result<String> {
    machine
        .within(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(SOON))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
        .unwrap()
}

fn a_host_port_leads_to_the_container(backend: &str) {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let client = lab.machine("client").unwrap();
    let (near, far) = (
        ["10.1.0.1/24", "fd00:1::1/64"],
        ["10.1.0.2/24", "fd00:1::2/64"],
    );
    machine.cable("up0", &near, &client, "up0", &far).unwrap();
    let node = node(&lab, &machine);
    let portmap = json!({
        "type": "portmap",
        "backend": backend,
        "snat": true,
        "capabilities": {"portMappings": true},
    });
    node.network("mapped", &[routed(&node), portmap]).unwrap();
    let container = lab.container("c1").unwrap();
    let with = With {
        capabilities: json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]}),
        ..With::default()
    };
    node.add_with("mapped", &container, &with).unwrap();
    node.check_with("mapped", &container, &with).unwrap();
    let four: SocketAddr = (Ipv4Addr::new(10, 1, 0, 1), 8080).into();
    let six: SocketAddr = ("fd00:1::1".parse::<IpAddr>().unwrap(), 8080).into();
    for (to, from) in [(four, "10.1.0.2"), (six, "fd00:1::2")] {
        let server = serve_once(&container);
        assert_eq!(ask(&client, to).unwrap(), from, "the client's own address");
        server.join().unwrap();
    }
    // From the node itself, and from another container on it.
    let server = serve_once(&container);
    ask(&machine, four).unwrap();
    server.join().unwrap();
    let neighbour = lab.container("c2").unwrap();
    let result = node.add("pods", &neighbour).unwrap();
    let server = serve_once(&container);
    let seen = ask(neighbour.namespace(), four).unwrap();
    assert_eq!(seen, addresses(&result)[0]);
    server.join().unwrap();
    node.del("pods", &neighbour).unwrap();

    node.del_with("mapped", &container, &with).unwrap();
    assert!(ask(&client, four).is_err());
    let rules = machine.run("nft list ruleset").unwrap();
    assert!(!rules.contains("8080"), "{rules}");
    nothing_is_left(&node);
}

#[test]
fn a_host_port_leads_to_the_container_by_iptables() {
    a_host_port_leads_to_the_container("iptables");
}

#[test]
fn a_host_port_leads_to_the_container_by_nftables() {
    a_host_port_leads_to_the_container("nftables");
}

/// Sends so many bytes from one container to another and gives the time until the last is there.
fn transfer(from: &Container, to: &Container, address: &str, bytes: usize) -> Duration {
    let work = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 81)).unwrap();
    let listener = to.namespace().within(work).unwrap();
    let to: SocketAddr = format!("{address}:81").parse().unwrap();
    let begun = Instant::now();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let sent = from.namespace().within(|| {
        let mut stream = TcpStream::connect_timeout(&to, SOON).unwrap();
        stream.write_all(&vec![7; bytes]).unwrap();
    });
    sent.unwrap();
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    begun.elapsed()
}

#[test]
fn bandwidth_slows_both_directions_and_is_taken_away_again() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    node.network("slow", &[routed(&node), bandwidth]).unwrap();
    let (slow, fast) = (
        lab.container("slow").unwrap(),
        lab.container("fast").unwrap(),
    );
    let with = With {
        capabilities: json!({"bandwidth": {
            "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 16_000_000, "egressBurst": 800_000,
        }}),
        ..With::default()
    };
    let slows = addresses(&node.add_with("slow", &slow, &with).unwrap());
    let fasts = addresses(&node.add("pods", &fast).unwrap());
    node.check_with("slow", &slow, &with).unwrap();
    // 500 kB beyond the burst of 100 kB: at 1 and 2 MB/s no sooner than in 0.5 and 0.25 s.
    let into = transfer(&fast, &slow, &slows[0], 600_000);
    assert!(into > Duration::from_millis(450), "{into:?}");
    let out = transfer(&slow, &fast, &fasts[0], 600_000);
    assert!(out > Duration::from_millis(220), "{out:?}");
    node.del_with("slow", &slow, &with).unwrap();
    node.del("pods", &fast).unwrap();
    assert_eq!(machine.run("ip -br link show type ifb").unwrap(), "");
    nothing_is_left(&node);
}

#[test]
fn tuning_changes_what_we_made_and_both_checks_agree() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let tuning = json!({
        "type": "tuning",
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"},
        "allmulti": true,
    });
    node.network("tuned", &[routed(&node), tuning]).unwrap();
    let (tuned, other) = (lab.container("c1").unwrap(), lab.container("c2").unwrap());
    let result = node.add("tuned", &tuned).unwrap();
    node.add("pods", &other).unwrap();
    node.check("tuned", &tuned).unwrap();
    let read = |key: &str| tuned.run(&format!("cat /proc/sys/net/{key}")).unwrap();
    assert_eq!(read("core/somaxconn").trim(), "500");
    assert_eq!(read("ipv4/conf/eth0/arp_filter").trim(), "1");
    reaches(&other, &addresses(&result));
    node.del("tuned", &tuned).unwrap();
    node.del("pods", &other).unwrap();
    nothing_is_left(&node);
}

/// The host's permanent neighbour is the MAC address that ADD gave, and the container's are lost when somebody switches
/// its interface off: asked for by the capability it is ours to give, also with `tuning` behind us; changed behind
/// our back nothing reaches the container, and CHECK is what says so.
#[test]
fn a_mac_address_is_ours_to_give_and_one_that_tuning_gives_is_told() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    let _speaker = start(&lab, &node, "  pods: {chained: [tuning]}\n");
    let other = lab.container("other").unwrap();
    node.add("routeshare", &other).unwrap();
    let container = lab.container("c1").unwrap();
    let with = With {
        capabilities: json!({"mac": "02:00:00:00:00:77"}),
        ..With::default()
    };
    let result = node.add_with("routeshare", &container, &with).unwrap();
    let shown = container.run("ip link show eth0").unwrap();
    assert!(shown.contains("02:00:00:00:00:77"), "{shown}");
    node.check_with("routeshare", &container, &with).unwrap();
    reaches(&other, &addresses(&result));
    node.del_with("routeshare", &container, &with).unwrap();

    let tuning = json!({"type": "tuning", "mac": "02:00:00:00:00:78"});
    node.network("changed", &[routed(&node), tuning]).unwrap();
    node.add("changed", &container).unwrap();
    let error = format!("{:#}", node.check("changed", &container).unwrap_err());
    assert!(
        error.contains("the host has no permanent neighbour")
            && error.contains("the container has no permanent neighbour"),
        "{error}"
    );
    node.del("changed", &container).unwrap();
    node.del("routeshare", &other).unwrap();
    nothing_is_left(&node);
}

#[test]
fn all_of_them_behind_us_in_one_list() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let list: [Value; 4] = [
        routed(&node),
        json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "600"}}),
    ];
    node.network("all", &list).unwrap();
    let container = lab.container("c1").unwrap();
    let with = With {
        capabilities: json!({
            "portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000},
        }),
        args: Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"),
        ..With::default()
    };
    node.status("all").unwrap();
    let result = node.add_with("all", &container, &with).unwrap();
    assert_eq!(addresses(&result).len(), 2);
    node.check_with("all", &container, &with).unwrap();
    // Garbage collection detaches what cnitool's cache has, through the whole list.
    node.gc("all").unwrap();
    nothing_is_left(&node);
}

//! Networks with a bridge of their own on a host.

use std::time::Duration;

use lab::cni::{CniNode, Container, With};
use lab::{Lab, Namespace, Pinging, wait_for};
use serde_json::{Value, json};

use super::traffic::{addresses, does_not_reach, reaches};

/// A host with a router behind it that knows the way to what is in 10.90.0.0/16 and fd90::/32.
struct Site {
    lab: Lab,
    host: Namespace,
    router: Namespace,
}

const ROUTER: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// An interface of a container beside its first one.
const SECOND: With<'_> = With {
    ifname: Some("net1"),
    args: None,
    capabilities: Value::Null,
};

impl Site {
    fn new() -> Site {
        let lab = Lab::new().unwrap();
        let (host, router) = (lab.machine("host").unwrap(), lab.machine("router").unwrap());
        host.cable(
            "eth0",
            &["192.0.2.2/30", "2001:db8::2/64"],
            &router,
            "eth0",
            &["192.0.2.1/30", "2001:db8::1/64"],
        )
        .unwrap();
        host.ip([
            "route add default via 192.0.2.1",
            "route add default via 2001:db8::1",
        ])
        .unwrap();
        router
            .ip([
                "route add 10.90.0.0/16 via 192.0.2.2",
                "route add fd90::/32 via 2001:db8::2",
            ])
            .unwrap();
        Site { lab, host, router }
    }

    fn node(&self) -> CniNode<'_> {
        CniNode::new(&self.lab, &self.host, "host").unwrap()
    }
}

/// The network number `n` in both families, with fields of its own.
fn network(node: &CniNode<'_>, name: &str, n: u8, more: Value) {
    let mut plugin = json!({
        "mode": "bridge",
        "ipam": {"subnets": [
            {"subnet": format!("10.90.{n}.0/24"), "rangeStart": format!("10.90.{n}.100"), "rangeEnd": format!("10.90.{n}.120"), "gateway": format!("10.90.{n}.254"), "reserved": [format!("10.90.{n}.100/31")]},
            {"subnet": format!("fd90:0:0:{n}::/64"), "rangeStart": format!("fd90:0:0:{n}::100")},
        ]},
    });
    plugin
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    node.network(name, &[node.plugin(plugin)]).unwrap();
}

/// The links of a machine, as `ip -details` tells them.
fn links(machine: &Namespace) -> Vec<Value> {
    let text = machine.run("ip -json -details link show").unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ports(machine: &Namespace, bridge: &str) -> Vec<Value> {
    let mut links = links(machine);
    links.retain(|link| link["master"] == bridge);
    links
}

#[test]
fn containers_of_a_bridge_reach_each_other_their_host_and_what_is_behind_it() {
    let site = Site::new();
    let node = site.node();
    network(&node, "blue", 1, json!({"mtu": 1450}));
    let (a, b) = (
        site.lab.container("a").unwrap(),
        site.lab.container("b").unwrap(),
    );
    let first = node.add("blue", &a).unwrap();
    let second = node.add("blue", &b).unwrap();
    // The first two of the range are reserved.
    assert_eq!(first["ips"][0]["address"], "10.90.1.102/24");
    assert_eq!(first["ips"][0]["gateway"], "10.90.1.254");
    assert_eq!(first["ips"][1]["address"], "fd90:0:0:1::100/64");
    assert_eq!(first["ips"][1]["gateway"], "fd90:0:0:1::1");
    assert_eq!(second["ips"][0]["address"], "10.90.1.103/24");
    for (container, others) in [(&a, &second), (&b, &first)] {
        reaches(container, &addresses(others));
        reaches(container, &["10.90.1.254", "fd90:0:0:1::1"]);
        reaches(container, &ROUTER);
        let link = container.ip_json("link show eth0").unwrap();
        assert_eq!(link[0]["mtu"], 1450);
        node.check("blue", container).unwrap();
    }
    // The containers' own addresses arrive: nothing is rewritten.
    let [v4, v6] = addresses(&first);
    for address in [&v4, &v6] {
        wait_for("the way from outside", Duration::from_secs(10), || {
            site.router.run(&format!("ping -n -c 1 -W 1 {address}"))
        });
    }
    // Packets as large as the link takes pass, larger ones do not.
    reaches(&a, &["-M do -s 1422 10.90.1.103"]);
    assert!(
        a.run("ping -n -c 1 -W 1 -M do -s 1423 10.90.1.103")
            .is_err()
    );

    // A bridge that takes the MAC address of a port changes it when ports go: ours has its own.
    let mac = |machine| {
        let mut links: Vec<Value> = links(machine);
        links.retain(|link| link["ifname"] == "br-blue");
        links[0]["address"].as_str().unwrap().to_owned()
    };
    let before = mac(&site.host);
    node.del("blue", &a).unwrap();
    assert_eq!(ports(&site.host, "br-blue").len(), 1);
    assert_eq!(mac(&site.host), before);
    node.del("blue", &b).unwrap();
    node.del("blue", &b).unwrap();
    assert_eq!(ports(&site.host, "br-blue").len(), 0);
    // The bridge stays for the next container, until the network has none for good.
    assert_eq!(mac(&site.host), before);
    node.gc("blue").unwrap();
    assert!(
        links(&site.host)
            .iter()
            .all(|link| link["ifname"] != "br-blue")
    );
}

#[test]
fn check_finds_what_somebody_changed() {
    let site = Site::new();
    let node = site.node();
    network(&node, "blue", 1, json!({"isolated": true}));
    let container = site.lab.container("a").unwrap();
    node.add("blue", &container).unwrap();
    node.check("blue", &container).unwrap();
    let port = ports(&site.host, "br-blue")[0]["ifname"].clone();
    let port = port.as_str().unwrap();
    let host = |line: &str| site.host.run(line).map(drop);
    let inside = |line: &str| container.run(line).map(drop);
    type Run<'a> = &'a dyn Fn(&str) -> anyhow::Result<()>;
    let cases: [(Run<'_>, String, String, &str); 5] = [
        (
            &host,
            format!("ip link set {port} type bridge_slave isolated off"),
            format!("ip link set {port} type bridge_slave isolated on"),
            "isolated",
        ),
        (
            &host,
            format!("ip link set {port} nomaster"),
            format!("ip link set {port} master br-blue"),
            "br-blue",
        ),
        (
            &host,
            "ip address del 10.90.1.254/24 dev br-blue".to_owned(),
            "ip address add 10.90.1.254/24 dev br-blue".to_owned(),
            "10.90.1.254",
        ),
        (
            &inside,
            "ip address del 10.90.1.102/24 dev eth0".to_owned(),
            "ip address add 10.90.1.102/24 dev eth0".to_owned(),
            "10.90.1.102",
        ),
        (
            &inside,
            "ip route replace default dev lo".to_owned(),
            "ip route replace default via 10.90.1.254".to_owned(),
            "0.0.0.0/0",
        ),
    ];
    for (run, change, back, told) in cases {
        run(&change).unwrap();
        let error = format!("{:#}", node.check("blue", &container).unwrap_err());
        assert!(error.contains(told), "after {change}: {error}");
        run(&back).unwrap();
        // A port that left its bridge comes back with the flags of a new one; the default route of a
        // container goes with its address.
        run(&format!("true {back}")).unwrap();
        host(&format!(
            "ip link set {port} type bridge_slave isolated on hairpin on"
        ))
        .unwrap();
        container
            .run("ip route replace default via 10.90.1.254")
            .unwrap();
        node.check("blue", &container).unwrap();
    }
}

#[test]
fn isolated_ports_reach_their_host_and_what_is_behind_it_but_not_each_other() {
    let site = Site::new();
    let node = site.node();
    network(&node, "apart", 2, json!({"isolated": true}));
    let (a, b) = (
        site.lab.container("a").unwrap(),
        site.lab.container("b").unwrap(),
    );
    node.add("apart", &a).unwrap();
    let second = node.add("apart", &b).unwrap();
    reaches(&a, &["10.90.2.254", "fd90:0:0:2::1"]);
    reaches(&a, &ROUTER);
    does_not_reach(&a, &addresses(&second));
    for port in ports(&site.host, "br-apart") {
        assert_eq!(
            port["linkinfo"]["info_slave_data"]["isolated"], true,
            "{port}"
        );
    }
}

#[test]
fn an_internal_network_reaches_nothing_but_itself() {
    let site = Site::new();
    let node = site.node();
    let subnets = json!([{"subnet": "10.90.3.0/24"}, {"subnet": "fd90:0:0:3::/64"}]);
    network(
        &node,
        "inside",
        3,
        json!({"internal": true, "ipam": {"subnets": subnets}}),
    );
    let (a, b) = (
        site.lab.container("a").unwrap(),
        site.lab.container("b").unwrap(),
    );
    let first = node.add("inside", &a).unwrap();
    let second = node.add("inside", &b).unwrap();
    reaches(&a, &addresses(&second));
    reaches(&b, &addresses(&first));
    does_not_reach(&a, &ROUTER);
    assert_eq!(a.ip_json("route show default").unwrap(), json!([]));
    node.check("inside", &a).unwrap();
    // A container that helps itself does not get any further.
    a.run("ip route add default via 10.90.3.1").unwrap();
    a.run("ip route add default via fd90:0:0:3::1").unwrap();
    does_not_reach(&a, &ROUTER);
    // Nor is it reached.
    for address in addresses(&first) {
        let line = format!("ping -n -c 3 -i 0.3 -W 1 {address}");
        assert!(site.router.run(&line).is_err(), "{line}");
    }
    // Its own host is on the network.
    reaches(&a, &["10.90.3.1", "fd90:0:0:3::1"]);
}

/// Two links with MAC addresses of their own on a container's interface reach each other only through a port
/// that sends frames back to where they came from (802.1Qbg, reflective relay).
#[test]
fn a_hairpin_port_sends_frames_back_to_where_they_came_from() {
    let site = Site::new();
    let node = site.node();
    network(&node, "back", 4, json!({}));
    network(&node, "straight", 5, json!({"hairpin": false}));
    for (name, hairpin) in [("back", true), ("straight", false)] {
        let container = site.lab.container(name).unwrap();
        node.add(name, &container).unwrap();
        let guests = ["1", "2"].map(|n| site.lab.container(&format!("{name}-{n}")).unwrap());
        for (guest, n) in guests.iter().zip([1, 2]) {
            let inside = guest.namespace().name();
            container
                .run(&format!(
                    "ip link add link eth0 name m{n} netns {inside} type macvlan mode vepa"
                ))
                .unwrap();
            guest
                .namespace()
                .raise(
                    &format!("m{n}"),
                    &[&format!("10.99.0.{n}/24"), &format!("fd99::{n}/64")],
                )
                .unwrap();
        }
        match hairpin {
            true => reaches(&guests[0], &["10.99.0.2", "fd99::2"]),
            false => does_not_reach(&guests[0], &["10.99.0.2", "fd99::2"]),
        }
    }
}

/// As with a hostPort. Where bridged frames pass netfilter (`br_netfilter`, which Kubernetes wants), the packet never
/// leaves the bridge and goes back out of the port that it came from.
#[test]
fn a_container_reaches_itself_by_an_address_that_the_host_translates() {
    let site = Site::new();
    let node = site.node();
    network(&node, "back", 4, json!({}));
    let container = site.lab.container("a").unwrap();
    let [v4, v6] = addresses(&node.add("back", &container).unwrap());
    let rules = format!(
        "add table inet lab
         add chain inet lab before {{ type nat hook prerouting priority -100; }}
         add chain inet lab after {{ type nat hook postrouting priority 100; }}
         add rule inet lab before ip daddr 203.0.113.9 dnat ip to {v4}
         add rule inet lab before ip6 daddr 2001:db8:9::9 dnat ip6 to {v6}
         add rule inet lab after ip saddr 10.90.4.0/24 ip daddr 10.90.4.0/24 masquerade
         add rule inet lab after ip6 saddr fd90:0:0:4::/64 ip6 daddr fd90:0:0:4::/64 masquerade\n"
    );
    let file = site.lab.directory().join("rules");
    std::fs::write(&file, rules).unwrap();
    site.host
        .run(&format!("nft -f {}", file.display()))
        .unwrap();
    reaches(&container, &["203.0.113.9", "2001:db8:9::9"]);
}

/// The first containers of two networks come at once: one bridge each, an address each, and the rules of both.
#[test]
fn many_containers_at_once_make_one_bridge_of_each_network() {
    let site = Site::new();
    let node = site.node();
    let networks = [("blue", 1), ("red", 2)];
    for (name, n) in networks {
        let subnets = json!([{"subnet": format!("10.90.{n}.0/24")}, {"subnet": format!("fd90:0:0:{n}::/64")}]);
        network(&node, name, n, json!({"ipam": {"subnets": subnets}}));
    }
    let containers: Vec<_> = (0..40)
        .map(|n| site.lab.container(&format!("c{n}")).unwrap())
        .collect();
    let each = |work: &(dyn Fn(&str, &Container) + Sync)| {
        std::thread::scope(|scope| {
            for (n, container) in containers.iter().enumerate() {
                scope.spawn(move || work(networks[n % 2].0, container));
            }
        });
    };
    let given = std::sync::Mutex::new(Vec::new());
    each(&|network, container| {
        let result = node.add(network, container).unwrap();
        given.lock().unwrap().extend(addresses(&result));
    });
    let mut given = given.into_inner().unwrap();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 80);
    for (name, _) in networks {
        assert_eq!(ports(&site.host, &format!("br-{name}")).len(), 20);
    }
    each(&|network, container| node.check(network, container).unwrap());
    let last = |network: usize| &containers[containers.len() - 2 + network];
    reaches(&containers[0], &["10.90.1.1", "fd90:0:0:1::1"]);
    let red = last(1).run("ip -4 -o address show eth0").unwrap();
    let red = red.split_whitespace().nth(3).unwrap();
    does_not_reach(last(0), &[red.split_once('/').unwrap().0]);
    each(&|network, container| node.del(network, container).unwrap());
    for (name, _) in networks {
        assert_eq!(ports(&site.host, &format!("br-{name}")).len(), 0);
        node.gc(name).unwrap();
    }
    // The table goes with the last bridge.
    let tables = site.host.run("nft list tables").unwrap();
    assert!(!tables.contains("routeshare-bridges"), "{tables}");
}

#[test]
fn bridges_of_one_host_do_not_reach_each_other_unless_both_are_connected() {
    let site = Site::new();
    let node = site.node();
    network(&node, "blue", 1, json!({}));
    network(&node, "red", 2, json!({}));
    let (blue, red) = (
        site.lab.container("blue").unwrap(),
        site.lab.container("red").unwrap(),
    );
    let blues = addresses(&node.add("blue", &blue).unwrap());
    let reds = addresses(&node.add("red", &red).unwrap());
    let apart = || {
        for container in [&blue, &red] {
            reaches(container, &ROUTER);
        }
        does_not_reach(&blue, &reds);
        does_not_reach(&red, &blues);
    };
    apart();

    // What one of them says is not enough: the other one is asked, too.
    network(&node, "blue", 1, json!({"connected": ["br-red"]}));
    let further = site.lab.container("blue-2").unwrap();
    node.add("blue", &further).unwrap();
    apart();

    network(&node, "red", 2, json!({"connected": ["br-blue"]}));
    let further_red = site.lab.container("red-2").unwrap();
    node.add("red", &further_red).unwrap();
    reaches(&blue, &reds);
    reaches(&red, &blues);
    node.check("red", &further_red).unwrap();

    // And apart again, once one of them says so.
    network(&node, "blue", 1, json!({}));
    node.del("blue", &further).unwrap();
    node.add("blue", &further).unwrap();
    apart();

    // A firewall that is loaded anew takes our rules with it: CHECK finds that, the next ADD makes them again.
    site.host.run("nft flush ruleset").unwrap();
    let error = format!("{:#}", node.check("blue", &blue).unwrap_err());
    assert!(error.contains("routeshare-bridges"), "{error}");
    node.del("blue", &further).unwrap();
    node.add("blue", &further).unwrap();
    node.check("blue", &blue).unwrap();
    does_not_reach(&blue, &reds);
}

#[test]
fn a_running_container_is_attached_to_a_second_network_and_detached_again() {
    let site = Site::new();
    let node = site.node();
    network(&node, "blue", 1, json!({}));
    network(&node, "red", 2, json!({}));
    let [container, other] = ["both", "red"].map(|name| site.lab.container(name).unwrap());
    node.add("blue", &container).unwrap();
    let reds = addresses(&node.add("red", &other).unwrap());
    reaches(&container, &ROUTER);
    let mut pings: Vec<Pinging> = ROUTER
        .iter()
        .map(|router| Pinging::start(site.lab.directory(), container.namespace(), router).unwrap())
        .collect();
    does_not_reach(&container, &reds);
    for _ in 0..3 {
        let second = node.add_with("red", &container, &SECOND).unwrap();
        assert_eq!(second["interfaces"][2]["name"], "net1", "{second}");
        reaches(&container, &reds);
        reaches(&other, &addresses(&second));
        node.check("blue", &container).unwrap();
        node.check_with("red", &container, &SECOND).unwrap();
        node.del_with("red", &container, &SECOND).unwrap();
        assert!(container.run("ip link show net1").is_err());
        does_not_reach(&container, &reds[..1]);
        node.check("blue", &container).unwrap();
    }
    for ping in &mut pings {
        ping.answered(10);
        assert_eq!(ping.lost(), Vec::<String>::new());
        ping.stop().unwrap();
    }
}

/// The second network takes over the way out when the first one is left.
#[test]
fn the_default_route_of_a_second_network_stands_behind_that_of_the_first() {
    let site = Site::new();
    let node = site.node();
    network(&node, "blue", 1, json!({}));
    network(&node, "red", 2, json!({}));
    let container = site.lab.container("both").unwrap();
    node.add("blue", &container).unwrap();
    node.add_with("red", &container, &SECOND).unwrap();
    for family in ["-4", "-6"] {
        let way = |to: &str| {
            container
                .run(&format!("ip {family} route get {to}"))
                .unwrap()
        };
        let to = ROUTER[usize::from(family == "-6")];
        assert!(way(to).contains("dev eth0"), "{}", way(to));
    }
    reaches(&container, &ROUTER);
    node.del("blue", &container).unwrap();
    reaches(&container, &ROUTER);
    node.check_with("red", &container, &SECOND).unwrap();
}

/// The fabric's own L2: a bridge that somebody made, with a port to the outside. It gets our ports and nothing
/// else, and stays.
#[test]
fn a_bridge_of_somebody_else_is_used_as_it_is() {
    let site = Site::new();
    let (host, router) = (&site.host, &site.router);
    host.cable("eth1", &[], router, "eth1", &["10.91.0.1/24", "fd91::1/64"])
        .unwrap();
    host.bridge("fabric", &["eth1"], &["10.91.0.2/24", "fd91::2/64"])
        .unwrap();
    let node = site.node();
    let subnets = json!([
        {"subnet": "10.91.0.0/24", "rangeStart": "10.91.0.10", "gateway": "10.91.0.1"},
        {"subnet": "fd91::/64", "rangeStart": "fd91::10", "gateway": "fd91::1"},
    ]);
    network(
        &node,
        "l2",
        1,
        json!({"bridge": "fabric", "ipam": {"subnets": subnets}}),
    );
    let container = site.lab.container("a").unwrap();
    let result = node.add("l2", &container).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.91.0.10/24");
    reaches(&container, &ROUTER);
    node.check("l2", &container).unwrap();
    let shown = host
        .run("ip -o address show dev fabric scope global")
        .unwrap();
    assert_eq!(
        shown.lines().count(),
        2,
        "nothing beside what it had: {shown}"
    );
    // It may be the host's way out: it is kept apart from no other.
    network(&node, "blue", 1, json!({}));
    let blue = site.lab.container("blue").unwrap();
    node.add("blue", &blue).unwrap();
    reaches(&blue, &addresses(&result));
    node.del("l2", &container).unwrap();
    node.gc("l2").unwrap();
    assert_eq!(ports(host, "fabric").len(), 1);
}

#[test]
fn a_configuration_that_cannot_be_is_refused_and_changes_nothing() {
    let site = Site::new();
    let node = site.node();
    let container = site.lab.container("a").unwrap();
    site.host.bridge("others", &[], &[]).unwrap();
    let before = links(&site.host).len();
    let good = json!({"subnet": "10.90.1.0/24"});
    let with = |field: &str, value: Value| {
        let mut subnet = good.clone();
        subnet[field] = value;
        json!({"ipam": {"subnets": [subnet]}})
    };
    let cases = [
        (with("subnet", json!("10.90.1.0")), "10.90.1.0"),
        (with("subnet", json!("10.90.1.7/24")), "10.90.1.7/24"),
        (with("rangeStart", json!("10.90.2.1")), "rangeStart"),
        (with("rangeEnd", json!("fd90::1")), "rangeEnd"),
        (with("gateway", json!("10.90.9.1")), "gateway"),
        (with("gateway", json!("10.90.1.255")), "gateway"),
        (with("reserved", json!(["10.1.0.0/24"])), "reserved"),
        (with("netmask", json!(24)), "netmask"),
        (json!({"ipam": {"subnets": [good, good]}}), "10.90.1.0/24"),
        (json!({"bridge": "a-name-that-is-too-long"}), "15"),
        (json!({"bridge": "eth0"}), "eth0"),
        (json!({"mtu": 40}), "mtu"),
        (json!({"connected": ["br-blue"]}), "connected"),
        (json!({"parent": "eth0"}), "parent"),
        (json!({"bridge": "others", "internal": true}), "others"),
        (
            json!({"ipam": {"subnets": [{"subnet": "10.90.1.0/24"}, {"subnet": "192.0.2.0/24"}]}}),
            "eth0 has 192.0.2.2",
        ),
    ];
    for (more, told) in cases {
        let mut configuration = json!({
            "cniVersion": "1.1.0", "name": "blue", "type": "routeshare-cni", "mode": "bridge",
            "dataDir": node.data_dir(), "ipam": {"subnets": [good]},
        });
        let fields = configuration.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let error = node
            .ours("ADD", &container, &configuration)
            .unwrap()
            .error()
            .unwrap();
        assert_eq!(error.code, 7, "{more}: {error}");
        assert!(error.to_string().contains(told), "{more}: {error}");
        assert_eq!(links(&site.host).len(), before, "{more}");
        assert!(container.run("ip link show eth0").is_err(), "{more}");
        let leases = std::fs::read_dir(node.data_dir()).unwrap().count();
        assert_eq!(leases, 0, "{more}: something was written");
    }
}

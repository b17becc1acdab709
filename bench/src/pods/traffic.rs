//! `--scenario pods`: throughput and latency between two containers, over interfaces of our plugin and beside
//! them over what the kernel has at its simplest. The paths take turns (A B C D, B C D A, …), many short ones, and
//! ratios are those within a turn: what else the machine does changes from second to second.
//!
//! On one node:
//! - `veth`: one veth pair from one container to the other, with nothing between;
//! - `by hand`: two veth pairs and the machine's forwarding between them, with nothing of ours: what any
//!   routed path costs;
//! - `routed`: mode `routed` of our plugin; `bridge`: mode `bridge`.
//!
//! Across two nodes, joined by a veth pair as their cable:
//! - `veth`: from machine to machine, with no containers;
//! - `by hand`, `routed`, `bridge`: from a container on one to a container on the other. A speaker would have
//!   written the two routes that `routed` needs; here they are static.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::cni::{CniNode, Container};
use lab::packages::{IPERF, IPROUTE, NSENTER};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

use super::paths::Rows;
use super::plugin::{Plugin, network};
use super::stream::{round_trips, throughput};
use crate::measure;
use crate::network::strs;

/// For how long one connection sends all it can.
const SECONDS: u32 = 1;
/// For how long one byte goes there and back.
const PING_PONG: Duration = Duration::from_millis(400);
/// How often each path has its turn in a round.
const TURNS: usize = 4;

/// A way between two containers.
struct Way<'a> {
    nodes: usize,
    name: &'static str,
    from: &'a Namespace,
    to: &'a Namespace,
    /// The other end's, IPv4 and IPv6.
    addresses: Vec<IpAddr>,
}

/// Measures in so many rounds, prints the figures and writes them as JSON.
///
/// # Errors
///
/// When something is missing, or two containers do not reach each other.
pub(crate) fn run(binaries: &Path, rounds: usize, json: &Path) -> Result<()> {
    lab::packages::ensure(&[IPROUTE, NSENTER, IPERF], |doing| println!("{doing}"))?;
    let ours = super::ours(binaries)?;
    println!("{}", measure::machine());
    let lab = Lab::new()?;
    let stage = Stage::new(&lab, &ours)?;
    let ways = stage.ways();
    let mut rows = Rows::default();
    for way in &ways {
        for address in &way.addresses {
            way.from
                .run(&format!("ping -c 1 -W 5 {address}"))
                .with_context(|| format!("{} on {} nodes connects nothing", way.name, way.nodes))?;
        }
    }
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for turn in 0..TURNS {
            for (nodes, family) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
                let beside: Vec<&Way<'_>> = ways.iter().filter(|way| way.nodes == nodes).collect();
                for place in super::order((round - 1) * TURNS + turn, beside.len()) {
                    let way = beside[place];
                    let address = way.addresses[family];
                    let load = throughput(way.from, way.to, address, SECONDS)?;
                    let trips = round_trips(way.from, way.to, address, PING_PONG)?;
                    rows.row(nodes, address, way.name).add(load, &trips);
                }
            }
        }
    }
    println!("\n{}\n{}", rows.table(), rows.goals());
    let report = json!({
        "date": jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
        "machine": measure::machine(),
        "rounds": rounds,
        "rows": rows.0,
    });
    crate::write(json, &(serde_json::to_string(&report)? + "\n"))?;
    println!("figures: {}", json.display());
    Ok(())
}

/// Two nodes with a cable between them, and containers on both.
struct Stage {
    machines: [Namespace; 2],
    /// Joined by nothing but a veth pair.
    bare: [Container; 2],
    /// Two on the first node and one on the second, by hand, of mode `routed`, of mode `bridge`.
    by_hand: Vec<Pod>,
    routed: Vec<Pod>,
    bridged: Vec<Pod>,
}

struct Pod {
    container: Container,
    addresses: Vec<IpAddr>,
}

/// The node that each of three containers is on.
const PLACES: [usize; 3] = [0, 0, 1];

impl Stage {
    fn new(lab: &Lab, ours: &Path) -> Result<Stage> {
        let machines = [lab.machine("n1")?, lab.machine("n2")?];
        let bare = [lab.container("bare1")?, lab.container("bare2")?];
        let [first, second] = &bare;
        first.namespace().cable(
            "eth0",
            &["10.9.0.1/24", "fd00:9::1/64"],
            second.namespace(),
            "eth0",
            &["10.9.0.2/24", "fd00:9::2/64"],
        )?;
        let [one, two] = &machines;
        for (cable, number) in [("up0", 1), ("up1", 2)] {
            let end = |host: u8| {
                [
                    format!("10.{number}.0.{host}/24"),
                    format!("fd00:{number}::{host}/64"),
                ]
            };
            let (here, there) = (end(1), end(2));
            one.cable(cable, &strs(&here), two, cable, &strs(&there))?;
        }
        let by_hand = by_hand(lab, &machines)?;
        let nodes = [CniNode::new(lab, one, "n1")?, CniNode::new(lab, two, "n2")?];
        let routed = routed(lab, &nodes, ours)?;
        let bridged = bridged(lab, &nodes, ours)?;
        Ok(Stage {
            machines,
            bare,
            by_hand,
            routed,
            bridged,
        })
    }

    fn ways(&self) -> Vec<Way<'_>> {
        let [one, two] = &self.machines;
        let [first, second] = &self.bare;
        let parse = |texts: [&str; 2]| texts.iter().filter_map(|it| it.parse().ok()).collect();
        let mut ways = vec![Way {
            nodes: 1,
            name: "veth",
            from: first.namespace(),
            to: second.namespace(),
            addresses: parse(["10.9.0.2", "fd00:9::2"]),
        }];
        let mut across = Some(Way {
            nodes: 2,
            name: "veth",
            from: one,
            to: two,
            addresses: parse(["10.1.0.2", "fd00:1::2"]),
        });
        for (nodes, other) in [(1, 1), (2, 2)] {
            ways.extend((nodes == 2).then(|| across.take()).flatten());
            let kinds = [
                ("by hand", &self.by_hand),
                ("routed", &self.routed),
                ("bridge", &self.bridged),
            ];
            ways.extend(kinds.map(|(name, pods)| Way {
                nodes,
                name,
                from: pods[0].container.namespace(),
                to: pods[other].container.namespace(),
                addresses: pods[other].addresses.clone(),
            }));
        }
        ways
    }
}

/// Containers whose way is made of nothing but the kernel's own means.
fn by_hand(lab: &Lab, machines: &[Namespace; 2]) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for (number, place) in (0..).zip(PLACES) {
        let container = lab.container(&format!("hand{number}"))?;
        let end = |host: u8| {
            [
                format!("10.66.{number}.{host}/24"),
                format!("fd00:66:{number}::{host}/64"),
            ]
        };
        let (inside, outside) = (end(2), end(1));
        container.namespace().cable(
            "eth0",
            &strs(&inside),
            &machines[place],
            &format!("hand{number}"),
            &strs(&outside),
        )?;
        container.namespace().ip([
            format!("route add default via 10.66.{number}.1").as_str(),
            format!("route add default via fd00:66:{number}::1").as_str(),
        ])?;
        let address = |text: &String| text.split('/').next()?.parse().ok();
        pods.push(Pod {
            addresses: inside.iter().filter_map(address).collect(),
            container,
        });
    }
    routes(
        [&machines[0], &machines[1]],
        ["10.66.2.0/24", "fd00:66:2::/64"],
        ["10.66.0.0/24", "fd00:66:0::/64"],
    )?;
    Ok(pods)
}

/// Routes over the first cable: from the first machine to `there`, from the second to `back`.
fn routes(machines: [&Namespace; 2], there: [&str; 2], back: [&str; 2]) -> Result<()> {
    for ((machine, prefixes), gateway) in machines.into_iter().zip([there, back]).zip([2, 1]) {
        let [four, six] = prefixes;
        machine.ip([
            format!("route add {four} via 10.1.0.{gateway}").as_str(),
            format!("route add {six} via fd00:1::{gateway}").as_str(),
        ])?;
    }
    Ok(())
}

fn routed(lab: &Lab, nodes: &[CniNode<'_>; 2], ours: &Path) -> Result<Vec<Pod>> {
    for (number, node) in nodes.iter().enumerate() {
        let subnets = [
            format!("10.64.{number}.0/24"),
            format!("fd00:64:{number}::/64"),
        ];
        node.write_node_file(&strs(&subnets), json!({}))?;
    }
    let pods = attach(lab, nodes, ours, "routed", |_| json!({"mode": "routed"}))?;
    routes(
        [nodes[0].machine(), nodes[1].machine()],
        ["10.64.1.0/24", "fd00:64:1::/64"],
        ["10.64.0.0/24", "fd00:64:0::/64"],
    )?;
    Ok(pods)
}

/// One bridge on each node, and the second cable a port of both.
fn bridged(lab: &Lab, nodes: &[CniNode<'_>; 2], ours: &Path) -> Result<Vec<Pod>> {
    let pods = attach(lab, nodes, ours, "bridged", |node| {
        json!({"mode": "bridge", "bridge": "br0", "ipam": {"subnets": [
            {
                "subnet": "10.65.0.0/16",
                "rangeStart": format!("10.65.{node}.10"),
                "rangeEnd": format!("10.65.{node}.200"),
                "gateway": format!("10.65.{node}.1"),
            },
            {
                "subnet": "fd00:65::/64",
                "rangeStart": format!("fd00:65::{node}:10"),
                "rangeEnd": format!("fd00:65::{node}:200"),
                "gateway": format!("fd00:65::{node}:1"),
            },
        ]}})
    })?;
    for node in nodes {
        node.machine().ip(["link set up1 master br0"])?;
    }
    Ok(pods)
}

/// Two containers on the first node and one on the second, attached by our plugin.
fn attach(
    lab: &Lab,
    nodes: &[CniNode<'_>; 2],
    ours: &Path,
    name: &str,
    more: impl Fn(usize) -> Value,
) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for (number, place) in PLACES.into_iter().enumerate() {
        let container = lab.container(&format!("{name}{number}"))?;
        let node = &nodes[place];
        let mut configuration = network(&node.plugin(more(place)));
        configuration["name"] = name.into();
        let plugin = Plugin {
            program: ours.to_owned(),
            directory: lab.directory().to_owned(),
            configuration,
        };
        let called = node.machine().within(|| {
            plugin.call("ADD", container.namespace().name(), container.path(), None)
        })??;
        let addresses = Plugin::addresses(&called.result);
        pods.push(Pod {
            addresses: addresses.iter().filter_map(|it| it.parse().ok()).collect(),
            container,
        });
    }
    Ok(pods)
}

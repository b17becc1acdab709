//! Nodes on one network which peer with one another, both families: the smallest whole cluster.
//!
//! ```text
//!   control (API server, etcd, controller) ── LAN ── n1, n2, … (a speaker each, and a pod's addresses)
//! ```

use std::time::Duration;

use anyhow::ensure;
use lab::cluster::{Cluster, ClusterNode, Controller, Replica, Settings};
use lab::speaker::Speaker;
use lab::{Pinging, wait_for};

/// For what is not measured; the machines of the tests are busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: Mesh}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16, 'fd00:64::/48']}
";

/// A cluster with our kinds and [`RESOURCES`], and nobody who looks at them yet.
pub(crate) fn cluster(settings: &Settings<'_>) -> Cluster {
    let cluster = Cluster::start_with(settings).unwrap();
    cluster.apply_directory("deploy/crds").unwrap();
    cluster.apply(RESOURCES).unwrap();
    cluster
}

/// The only controller, with the rights of an installation.
pub(crate) fn controller(cluster: &Cluster) -> Controller {
    controller_with(cluster, &[], &[])
}

/// One of several controllers.
pub(crate) fn replica(cluster: &Cluster, number: u8) -> Controller {
    let pod = format!("controller-{number}");
    let replica = Replica {
        pod: &pod,
        number,
        kubeconfig: Some(cluster.install_rights().unwrap()),
        ..Replica::default()
    };
    cluster.controller(&replica).unwrap()
}

/// The only controller, with further arguments and something in its environment.
pub(crate) fn controller_with(
    cluster: &Cluster,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Controller {
    let replica = Replica {
        pod: "controller-a",
        number: 1,
        kubeconfig: Some(cluster.install_rights().unwrap()),
        arguments,
        environment,
        ..Replica::default()
    };
    let controller = cluster.controller(&replica).unwrap();
    wait_for("the controller to lead", SOON, || {
        controller.bgpctl("show nodes")
    });
    controller
}

/// Waits until a node has a subnet of each family, and gives them.
#[track_caller]
pub(crate) fn subnets(controller: &Controller, node: &str) -> Vec<String> {
    wait_for(&format!("{node}'s subnets"), SOON, || {
        let subnets = controller.subnets(node)?;
        ensure!(subnets.len() == 2, "{subnets:?}");
        Ok(subnets)
    })
}

/// An address of each subnet: a pod's.
pub(crate) fn pods(subnets: &[String]) -> Vec<String> {
    let pod = |subnet: &String| {
        let network = subnet.split('/').next().unwrap_or_default();
        format!("{}7", network.trim_end_matches('0'))
    };
    subnets.iter().map(pod).collect()
}

/// Gives a node a pod's addresses out of its subnets.
pub(crate) fn add_pod(node: &ClusterNode, subnets: &[String]) {
    let add = |pod: String| format!("address add {pod} dev lo");
    let lines: Vec<String> = pods(subnets).into_iter().map(add).collect();
    node.machine.ip(lines.iter().map(String::as_str)).unwrap();
}

/// Two nodes with speakers and pods that reach each other, and packets that go on.
pub(crate) struct Pair<'a> {
    pub(crate) one: Speaker<'a>,
    _two: Speaker<'a>,
    pub(crate) subnets_of_two: Vec<String>,
    pings: Vec<Pinging>,
}

impl<'a> Pair<'a> {
    /// Starts the speakers, and waits until packets go both families.
    pub(crate) fn start(
        cluster: &Cluster,
        controller: &Controller,
        nodes: &'a [ClusterNode; 2],
    ) -> Pair<'a> {
        Pair::start_at(cluster, controller, controller, nodes)
    }

    /// The same where `controller` leads, and speakers know of the one they `ask`.
    pub(crate) fn start_at(
        cluster: &Cluster,
        controller: &Controller,
        ask: &Controller,
        nodes: &'a [ClusterNode; 2],
    ) -> Pair<'a> {
        let speaker = |node: &'a ClusterNode| cluster.speaker(node, ask).unwrap();
        let (one, two) = (speaker(&nodes[0]), speaker(&nodes[1]));
        let [_, subnets_of_two] = nodes.each_ref().map(|node| {
            let subnets = subnets(controller, &node.name);
            add_pod(node, &subnets);
            subnets
        });
        for subnet in &subnets_of_two {
            one.wait_for_route(subnet);
        }
        let mut pair = Pair {
            one,
            _two: two,
            subnets_of_two,
            pings: Vec::new(),
        };
        let pods = pods(&pair.subnets_of_two);
        let start = |pod: &String| {
            let reach = || nodes[0].machine.run(&format!("ping -c 1 -W 1 {pod}"));
            wait_for(&format!("{pod} to be reached"), SOON, reach);
            Pinging::start(cluster.lab().directory(), &nodes[0].machine, pod).unwrap()
        };
        pair.pings = pods.iter().map(start).collect();
        pair
    }

    /// Nothing was lost so far, sessions are the same ones, and packets go on.
    #[track_caller]
    pub(crate) fn nothing_was_lost(&self) {
        for ping in &self.pings {
            ping.answered(10);
            assert_eq!(ping.lost(), Vec::<String>::new());
        }
        self.one.wait_for_state("mesh-n2", "Established");
        for subnet in &self.subnets_of_two {
            self.one.wait_for_route(subnet);
        }
    }

    /// When the session of the two came up.
    pub(crate) fn since(&self) -> serde_json::Value {
        self.one.peer("mesh-n2").unwrap()["since"].clone()
    }
}

/// A third node comes: it gets subnets, and the others its routes. It can only if all of it works:
/// API server, watch, ledger, streams.
pub(crate) fn a_node_comes(
    cluster: &Cluster,
    controller: &Controller,
    name: &str,
    number: u8,
    seen_by: &Speaker<'_>,
) {
    let node = cluster.node(name, number, &[]).unwrap();
    let subnets = subnets(controller, name);
    let _speaker = cluster.speaker(&node, controller).unwrap();
    for subnet in &subnets {
        seen_by.wait_for_route(subnet);
    }
}

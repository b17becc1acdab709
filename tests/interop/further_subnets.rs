//! A controller and a speaker: a node whose subnet is nearly used up is given another one.

use std::time::Duration;

use anyhow::ensure;
use lab::{Lab, Namespace, output, program, wait_for};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A pool of two subnets of sixteen addresses, and one node.
const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: Mesh}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/27], nodeSubnetLength: {ipv4: 28}}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n1}
spec: {addresses: [192.0.2.11]}
";

struct Cluster<'a> {
    node: &'a Namespace,
    lab: &'a Lab,
}

impl Cluster<'_> {
    /// What `bgpctl` answers when it asks the controller.
    fn ask(&self, line: &str) -> anyhow::Result<Value> {
        let mut command = self.node.command(program("bgpctl")?);
        command
            .arg("--controller")
            .arg(format!("unix:{}", self.file("controller.sock")))
            .args(["--output", "json"])
            .args(line.split_whitespace());
        Ok(serde_json::from_str(&output(&mut command)?)?)
    }

    fn file(&self, name: &str) -> String {
        self.lab.directory().join(name).display().to_string()
    }

    /// The subnets given out and how many of their addresses are used.
    fn subnets(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let rows = self.ask("show subnets")?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let row = |row: &Value| {
            let used = row["used"].as_u64().unwrap_or(0);
            (row["prefix"].as_str().unwrap_or_default().to_owned(), used)
        };
        Ok(rows.iter().map(row).collect())
    }

    /// Gives pods addresses: a route for each, as the CNI plugin and other managers of pods make.
    fn pods(&self, numbers: std::ops::Range<u8>) {
        let lines = numbers.map(|number| format!("route add 10.64.0.{number}/32 dev eth0"));
        let lines: Vec<String> = lines.collect();
        self.node.ip(lines.iter().map(String::as_str)).unwrap();
    }

    #[track_caller]
    fn wait_for_subnets(&self, expected: &[(&str, u64)]) {
        wait_for("the subnets and their use", SOON, || {
            let subnets = self.subnets()?;
            let as_expected = subnets.iter().map(|(name, used)| (name.as_str(), *used));
            ensure!(as_expected.eq(expected.iter().copied()), "{subnets:?}");
            Ok(())
        });
    }
}

#[test]
fn a_node_whose_subnet_is_nearly_used_up_is_given_another_until_the_pool_is_full() {
    let lab = Lab::new().unwrap();
    let (node, other) = (lab.machine("n1").unwrap(), lab.machine("other").unwrap());
    node.cable("eth0", &["192.0.2.11/24"], &other, "eth0", &[])
        .unwrap();
    let cluster = Cluster {
        node: &node,
        lab: &lab,
    };
    std::fs::create_dir(cluster.file("resources")).unwrap();
    std::fs::write(cluster.file("resources/all.yaml"), RESOURCES).unwrap();
    let start = |name: &str, arguments: &str| {
        let mut command = node.command(program(name).unwrap());
        for argument in arguments.split_whitespace() {
            command.arg(argument.replace("DIR", &lab.directory().display().to_string()));
        }
        let log = lab.directory().join(format!("{name}.log"));
        node.start(name, command, &log).unwrap()
    };
    let _controller = start(
        "routeshare-controller",
        "--resources DIR/resources --state DIR/state.redb --insecure-listen 127.0.0.1:7443 \
         --socket DIR/controller.sock",
    );
    let _speaker = start(
        "routeshare-speaker",
        "--node n1 --controller http://127.0.0.1:7443 --insecure --state-dir DIR/state \
         --socket DIR/speaker.sock",
    );
    cluster.wait_for_subnets(&[("10.64.0.0/28", 0)]);

    cluster.pods(1..13);
    cluster.wait_for_subnets(&[("10.64.0.0/28", 12)]);
    cluster.pods(13..14);
    cluster.wait_for_subnets(&[("10.64.0.0/28", 13), ("10.64.0.16/28", 0)]);
    wait_for("the new subnet in the kernel", SOON, || {
        let routes = node.run("ip route show proto 149")?;
        ensure!(routes.contains("unreachable 10.64.0.16/28"), "{routes}");
        Ok(())
    });

    cluster.pods(17..31);
    cluster.wait_for_subnets(&[("10.64.0.0/28", 13), ("10.64.0.16/28", 14)]);
    wait_for("the pool to be called full", SOON, || {
        let nodes = cluster.ask("show nodes")?;
        ensure!(nodes.to_string().contains("no free IPv4 subnet"), "{nodes}");
        Ok(())
    });
    // What is used stays, whatever else happens.
    cluster.wait_for_subnets(&[("10.64.0.0/28", 13), ("10.64.0.16/28", 14)]);
}

//! Nodes come, go, come back under the same name, and come a thousand at a time.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use lab::cluster::{Settings, node};
use lab::wait_for;

use crate::mesh::{self, Pair, SOON};

#[test]
fn a_node_that_goes_and_comes_back_has_its_subnets_and_routes_again() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    let controller = mesh::controller(&cluster);
    let pair = Pair::start(&cluster, &controller, &nodes);
    let since = pair.since();

    let third = cluster.node("n3", 3, &[]).unwrap();
    let _speaker = cluster.speaker(&third, &controller).unwrap();
    let subnets = mesh::subnets(&controller, "n3");
    mesh::add_pod(&third, &subnets);
    let all: Api<Node> = Api::all(cluster.client());
    for round in 0..2 {
        for subnet in &subnets {
            pair.one.wait_for_route(subnet);
        }
        for pod in mesh::pods(&subnets) {
            let reach = || nodes[0].machine.run(&format!("ping -c 1 -W 1 {pod}"));
            wait_for(&format!("{pod} to be reached, round {round}"), SOON, reach);
        }
        cluster
            .block_on(all.delete("n3", &DeleteParams::default()))
            .unwrap();
        for subnet in &subnets {
            pair.one.wait_for_no_route(subnet);
        }
        // Kept for it, and for nobody else.
        let other = format!("other{round}");
        let address = format!("10.99.1.{}", 90 + round);
        cluster.create_node(&other, &[&address], &[]).unwrap();
        let others: BTreeSet<String> = mesh::subnets(&controller, &other).into_iter().collect();
        assert!(
            subnets.iter().all(|subnet| !others.contains(subnet)),
            "{others:?}"
        );
        let addresses = [third.v4.to_string(), third.v6.to_string()];
        let addresses = addresses.each_ref().map(String::as_str);
        cluster.create_node("n3", &addresses, &[]).unwrap();
        assert_eq!(mesh::subnets(&controller, "n3"), subnets, "round {round}");
    }
    for subnet in &subnets {
        pair.one.wait_for_route(subnet);
    }
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

/// How many nodes a large cluster grows by at once.
const MANY: usize = 1000;

/// In place of the mesh: a thousand nodes have a router; here two of them peer with each other.
const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: ToR}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: mesh-n2}
spec: {nodeSelector: {matchLabels: {side: one}}, address: 10.99.1.2, remoteAsn: 64512}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: mesh-n1}
spec: {nodeSelector: {matchLabels: {side: two}}, address: 10.99.1.1, remoteAsn: 64512}
---
apiVersion: routeshare.io/v1alpha1
kind: Advertisement
metadata: {name: pods}
spec: {nodeSubnets: {}}
";

#[test]
fn a_thousand_nodes_that_come_at_once_all_get_subnets_of_their_own() {
    let cluster = mesh::cluster(&Settings::default());
    cluster.apply(RESOURCES).unwrap();
    let nodes = [("n1", 1, "one"), ("n2", 2, "two")]
        .map(|(name, number, side)| cluster.node(name, number, &[("side", side)]).unwrap());
    cluster
        .apply("{apiVersion: routeshare.io/v1alpha1, kind: Pool, metadata: {name: pods}, spec: {prefixes: [10.64.0.0/13, 'fd00:64::/48']}}")
        .unwrap();
    let controller = mesh::controller(&cluster);
    let pair = Pair::start(&cluster, &controller, &nodes);
    let since = pair.since();

    let start = Instant::now();
    let all: Api<Node> = Api::all(cluster.client());
    let create = |number: usize| {
        let all = all.clone();
        let v4 = format!("10.99.{}.{}", 10 + number / 250, 1 + number % 250);
        let v6 = format!("fd99::2:{number:x}");
        let node = node(&format!("many{number}"), &[&v4, &v6], &[("rack", "a")]);
        async move { all.create(&PostParams::default(), &node).await }
    };
    let creating = futures::stream::iter((0..MANY).map(create)).buffer_unordered(50);
    cluster
        .block_on(creating.try_collect::<Vec<Node>>())
        .unwrap();
    let created = start.elapsed();
    let given: Vec<String> = wait_for("subnets for all", SOON, || {
        let subnets = controller.json("show subnets")?;
        let subnets = subnets.as_array().cloned().unwrap_or_default();
        anyhow::ensure!(subnets.len() == 2 * (MANY + 2), "{} subnets", subnets.len());
        Ok(subnets
            .iter()
            .map(|subnet| subnet["prefix"].to_string())
            .collect())
    });
    let done = start.elapsed();
    println!(
        "{MANY} nodes: created after {:.1} s, all subnets given after {:.1} s",
        created.as_secs_f64(),
        done.as_secs_f64()
    );
    let different: BTreeSet<&String> = given.iter().collect();
    assert_eq!(different.len(), given.len(), "a subnet has two owners");
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
    // They do not go for good by a mistake of somebody: all of them deleted, and made again.
    let delete = |number: usize| {
        let all = all.clone();
        async move {
            all.delete(&format!("many{number}"), &DeleteParams::default())
                .await
        }
    };
    let deleting = futures::stream::iter((0..MANY).map(delete)).buffer_unordered(50);
    cluster.block_on(deleting.try_collect::<Vec<_>>()).unwrap();
    let creating = futures::stream::iter((0..MANY).map(create)).buffer_unordered(50);
    cluster
        .block_on(creating.try_collect::<Vec<Node>>())
        .unwrap();
    wait_for("all nodes to be there again", SOON, || {
        let nodes = controller.json("show nodes")?;
        let with_both = nodes.as_array().map_or(0, |nodes| {
            let both =
                |node: &&serde_json::Value| node["subnets"].as_array().map_or(0, Vec::len) == 2;
            nodes.iter().filter(both).count()
        });
        anyhow::ensure!(with_both == MANY + 2, "{with_both} nodes have both subnets");
        Ok(())
    });
    let again = controller.json("show subnets").unwrap();
    let again: BTreeSet<String> = again
        .as_array()
        .unwrap()
        .iter()
        .map(|subnet| subnet["prefix"].to_string())
        .collect();
    assert_eq!(again, given.into_iter().collect());
    pair.nothing_was_lost();
}

//! The controller's wall clock is set while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use lab::cluster::{Cluster, Settings};
use lab::{FalseClock, wait_for};
use serde_json::Value;

use crate::mesh::{self, Pair, SOON, a_node_comes};

/// Far more than any grace time or lease: forwards everything would be over, backwards nothing ever.
const JUMPS: [&str; 2] = ["+40d", "-40d"];

/// Certificates that are renewed every ten seconds.
const LIFE: [&str; 2] = ["--certificate-validity", "15s"];
/// What the controller says of each.
const NEW_CERTIFICATE: &str = "a new certificate for TLS";

#[test]
fn a_clock_that_jumps_frees_nothing_and_cuts_nobody_off() {
    let cluster = mesh::cluster(&Settings::default());
    let clock = FalseClock::new(cluster.lab().directory()).unwrap();
    let environment = clock.environment();
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    cluster.create_node("away", &["10.99.1.99"], &[]).unwrap();
    let controller = mesh::controller_with(&cluster, &LIFE, &environment);
    let pair = Pair::start(&cluster, &controller, &nodes);
    let subnets = mesh::subnets(&controller, "away");
    let all: Api<Node> = Api::all(cluster.client());
    let lease_before = lease(&cluster);
    let connected = || controller.json("show nodes").map(|nodes| since(&nodes));
    let since_before = connected().unwrap();

    for (round, jump) in JUMPS.into_iter().enumerate() {
        let delete = DeleteParams::default();
        cluster.block_on(all.delete("away", &delete)).unwrap();
        one_knows_of(&pair, "away", false);
        let seen = controller.log().len();
        clock.set(jump).unwrap();
        // It works on: a node that comes now gets its subnets, and the others hear of it.
        let name = format!("new{round}");
        let address = format!("10.99.1.{}", 90 + round);
        cluster.create_node(&name, &[&address], &[]).unwrap();
        mesh::subnets(&controller, &name);
        one_knows_of(&pair, &name, true);
        assert_eq!(controller.subnets("away").unwrap(), subnets, "{jump}");
        // Its Lease is renewed, and by nobody else.
        let renewals = lease(&cluster).1;
        wait_for("the Lease to be renewed", SOON, || {
            anyhow::ensure!(lease(&cluster).1 != renewals, "still {renewals}");
            Ok(())
        });
        assert_eq!(lease(&cluster).0, lease_before.0, "{jump}");
        // A certificate made by the wrong clock is replaced when the clock is right again.
        controller.wait_until_it_says(NEW_CERTIFICATE, seen);
        let seen = controller.log().len();
        clock.set("+0").unwrap();
        controller.wait_until_it_says(NEW_CERTIFICATE, seen);
        cluster.create_node("away", &["10.99.1.99"], &[]).unwrap();
        one_knows_of(&pair, "away", true);
        assert_eq!(controller.subnets("away").unwrap(), subnets, "{jump}");
    }
    let log = controller.log();
    // Its own log shows that it saw the jumps: lines of three months.
    let months: BTreeSet<&str> = log.lines().filter_map(|line| line.get(..7)).collect();
    assert_eq!(months.len(), 3, "{months:?}");
    for said in ["cannot renew", "nothing is decided"] {
        assert!(!log.contains(said), "{said}");
    }
    assert_eq!(
        connected().unwrap(),
        since_before,
        "the speakers' streams are the same"
    );
    pair.nothing_was_lost();
    a_node_comes(&cluster, &controller, "n3", 3, &pair.one);
}

/// Waits until the first node's speaker has a session configured with another node, or none.
#[track_caller]
fn one_knows_of(pair: &Pair<'_>, node: &str, known: bool) {
    let what = format!("n1 to know of {node}: {known}");
    wait_for(&what, Duration::from_secs(60), || {
        let found = pair.one.peer(&format!("mesh-{node}"));
        anyhow::ensure!(found.is_ok() == known, "{found:?}");
        Ok(())
    });
}

/// Who holds the Lease and since when, and when it was renewed last.
fn lease(cluster: &Cluster) -> ((Option<String>, Option<i32>), String) {
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "routeshare");
    let lease = cluster
        .block_on(leases.get("routeshare-controller"))
        .unwrap();
    let spec = lease.spec.unwrap_or_default();
    let version = lease.metadata.resource_version.unwrap_or_default();
    ((spec.holder_identity, spec.lease_transitions), version)
}

/// Since when the two speakers are connected.
fn since(nodes: &Value) -> Vec<Value> {
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let connected = nodes.iter().filter(|node| node["connected"] == true);
    connected
        .map(|node| node["connectedSince"].clone())
        .collect()
}

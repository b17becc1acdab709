//! The API server or etcd is killed, hangs, forgets: what runs goes on, and afterwards all is as it
//! should be.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, WatchParams};
use lab::cluster::{Cluster, Controller, Settings};
use lab::wait_for;
use nix::sys::signal::Signal;

use crate::mesh::{self, Pair, SOON, a_node_comes};

/// What the leader says when it can no longer renew its Lease.
const CUT: &str = "nothing is decided until it is";

/// Goes through an outage which `begin` makes and `end` ends, with a node's crash in the middle.
/// It lasts for `least` at least.
fn outage(
    settings: &Settings<'_>,
    least: Duration,
    begin: impl Fn(&Cluster),
    end: impl Fn(&Cluster),
) {
    let cluster = mesh::cluster(settings);
    let nodes = ["n1", "n2"].map(|name| {
        let number = name[1..].parse().unwrap();
        cluster.node(name, number, &[]).unwrap()
    });
    let controller = mesh::controller(&cluster);
    let mut pair = Pair::start(&cluster, &controller, &nodes);
    let since = pair.since();

    let seen = controller.log().len();
    let begun = Instant::now();
    begin(&cluster);
    controller.wait_until_it_says(CUT, seen);
    pair.nothing_was_lost();
    // Operators see what there is all the while.
    let show = controller.bgpctl("show nodes").unwrap();
    assert!(show.contains("n2"), "{show}");
    // A speaker that starts anew while nobody can tell it anything.
    pair.one.kill().unwrap();
    pair.one.start_again().unwrap();
    pair.nothing_was_lost();
    wait_for("the outage to have lasted", 2 * SOON, || {
        anyhow::ensure!(begun.elapsed() >= least, "{:?}", begun.elapsed());
        Ok(())
    });
    pair.nothing_was_lost();

    let seen = controller.log().len();
    end(&cluster);
    cluster.wait_until_ready().unwrap();
    controller.wait_until_it_says("leading again", seen);
    a_node_comes(&cluster, &controller, "n3", 3, &pair.one);
    pair.nothing_was_lost();
    assert_ne!(pair.since(), since, "the speaker's crash ended its session");
}

#[test]
fn an_api_server_that_is_killed_stops_changes_and_nothing_else() {
    outage(
        &Settings::default(),
        Duration::from_secs(60),
        |cluster| cluster.api_server.kill().unwrap(),
        |cluster| cluster.api_server.start_again().unwrap(),
    );
}

#[test]
fn an_etcd_that_is_killed_stops_changes_and_nothing_else() {
    let durable = Settings {
        durable: true,
        ..Settings::default()
    };
    outage(
        &durable,
        Duration::ZERO,
        |cluster| cluster.etcd.kill().unwrap(),
        |cluster| cluster.etcd.start_again().unwrap(),
    );
}

/// Its connections stay open, and no request is ever answered.
#[test]
fn an_api_server_that_hangs_stops_changes_and_nothing_else() {
    outage(
        &Settings::default(),
        Duration::ZERO,
        |cluster| cluster.api_server.signal(Signal::SIGSTOP).unwrap(),
        |cluster| cluster.api_server.signal(Signal::SIGCONT).unwrap(),
    );
}

#[test]
fn an_etcd_that_is_restarted_is_hardly_noticed() {
    let cluster = mesh::cluster(&Settings {
        durable: true,
        ..Settings::default()
    });
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    let controller = mesh::controller(&cluster);
    let pair = Pair::start(&cluster, &controller, &nodes);
    let since = pair.since();
    cluster.etcd.stop().unwrap();
    cluster.etcd.start_again().unwrap();
    a_node_comes(&cluster, &controller, "n3", 3, &pair.one);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

/// What was changed while nobody looked is found by listing anew: what came, and what went.
#[test]
fn a_watch_that_has_expired_begins_anew_with_what_came_and_went() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    cluster.create_node("gone", &["10.99.1.99"], &[]).unwrap();
    let controller = mesh::controller(&cluster);
    mesh::subnets(&controller, "gone");
    let pair = Pair::start(&cluster, &controller, &nodes);

    // While the controller hears nothing, one node goes and another comes; then all is forgotten that
    // was before.
    controller.signal(Signal::SIGSTOP).unwrap();
    let all: Api<Node> = Api::all(cluster.client());
    let before = cluster.block_on(all.list_metadata(&Default::default()));
    let before = before.unwrap().metadata.resource_version.unwrap();
    let delete = DeleteParams::default();
    cluster.block_on(all.delete("gone", &delete)).unwrap();
    cluster.create_node("new", &["10.99.1.98"], &[]).unwrap();
    cluster.api_server.kill().unwrap();
    cluster.compact().unwrap();
    cluster.api_server.start_again().unwrap();
    cluster.wait_until_ready().unwrap();
    expired(&cluster, &all, &before);
    controller.signal(Signal::SIGCONT).unwrap();

    mesh::subnets(&controller, "new");
    wait_for("the node that went to be away", SOON, || {
        let away = state(&controller, "gone")?;
        anyhow::ensure!(away.iter().all(|state| state != "InUse"), "{away:?}");
        Ok(())
    });
    a_node_comes(&cluster, &controller, "n3", 3, &pair.one);
    pair.nothing_was_lost();
}

/// Whoever follows from this version is told that it is expired.
#[track_caller]
fn expired(cluster: &Cluster, nodes: &Api<Node>, version: &str) {
    use futures::TryStreamExt as _;
    let code = cluster.block_on(async {
        let events = nodes.watch(&WatchParams::default(), version).await;
        let first = match events {
            Ok(events) => std::pin::pin!(events).try_next().await,
            Err(error) => Err(error),
        };
        match first {
            Ok(Some(kube::api::WatchEvent::Error(status))) => Some(status.code),
            Err(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    });
    assert_eq!(code, Some(410));
}

/// The states of a node's subnets.
fn state(controller: &Controller, node: &str) -> anyhow::Result<Vec<String>> {
    let all = controller.json("show subnets")?;
    let all = all.as_array().cloned().unwrap_or_default();
    let of_node = all.iter().filter(|subnet| subnet["node"] == node);
    Ok(of_node.map(|subnet| subnet["state"].to_string()).collect())
}

/// A Lease that somebody deletes is made again by whoever leads.
#[test]
fn a_lease_that_is_deleted_is_made_again() {
    let cluster = mesh::cluster(&Settings::default());
    let controller = mesh::controller(&cluster);
    let leases: Api<Lease> = Api::namespaced(cluster.client(), "routeshare");
    let name = "routeshare-controller";
    let holder = |lease: Lease| lease.spec.unwrap_or_default().holder_identity;
    let before = cluster.block_on(leases.get(name)).unwrap();
    cluster
        .block_on(leases.delete(name, &DeleteParams::default()))
        .unwrap();
    let after = wait_for(
        "the Lease",
        SOON,
        || Ok(cluster.block_on(leases.get(name))?),
    );
    assert_ne!(before.metadata.uid, after.metadata.uid);
    assert_eq!(holder(before), holder(after));
    controller.bgpctl("show nodes").unwrap();
}

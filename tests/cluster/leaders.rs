//! Two controllers, of which one leads: it is killed, stopped, or hangs, and the other one goes on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::cluster::{Cluster, ClusterNode, Controller, Settings};
use lab::speaker::Speaker;
use lab::wait_for;
use nix::sys::signal::Signal;

use crate::mesh::{self, Pair, SOON, a_node_comes};

/// A fail-over takes no longer: ten seconds of the Lease, and the speakers' way.
const FAIL_OVER: Duration = Duration::from_secs(15);

/// One that leads and one that stands by.
fn two(cluster: &Cluster) -> [Controller; 2] {
    let leader = mesh::replica(cluster, 1);
    wait_for("the first one to lead", SOON, || {
        leader.bgpctl("show nodes")
    });
    let standby = mesh::replica(cluster, 2);
    wait_for("the second one to know that", SOON, || {
        let error = standby.bgpctl("show nodes").err();
        let error = format!("{:#}", error.expect("one leads"));
        ensure!(error.contains("10.99.0.11:7443"), "{error}");
        Ok(())
    });
    [leader, standby]
}

fn two_nodes(cluster: &Cluster) -> [ClusterNode; 2] {
    [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap())
}

/// Waits until all speakers are with this controller, and have what it says.
#[track_caller]
fn wait_until_all_are_with(controller: &Controller) {
    wait_for("the speakers to be with the other one", SOON, || {
        let nodes = controller.json("show nodes")?;
        let all = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let told = |node: &&serde_json::Value| {
            node["connected"] == true && node["version"] == node["desiredVersion"]
        };
        ensure!(all.iter().filter(told).count() == 2, "{nodes:#}");
        Ok(())
    });
}

fn version(speaker: &Speaker<'_>) -> u64 {
    let status = speaker.json("show status").unwrap();
    status["version"].as_u64().unwrap()
}

#[test]
fn when_the_leader_is_killed_another_one_leads_within_fifteen_seconds() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes = two_nodes(&cluster);
    let [mut first, second] = two(&cluster);
    // Speakers ask who stands by, and are sent to the leader.
    let pair = Pair::start_at(&cluster, &first, &second, &nodes);
    let (since, before) = (pair.since(), version(&pair.one));

    let begun = Instant::now();
    first.kill().unwrap();
    wait_until_all_are_with(&second);
    let took = begun.elapsed();
    eprintln!("fail-over after a kill: {took:?}");
    assert!(took < FAIL_OVER, "{took:?}");
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
    // The same configuration has the same version, and the next one a higher one.
    assert_eq!(version(&pair.one), before);
    a_node_comes(&cluster, &second, "n3", 3, &pair.one);
    assert!(version(&pair.one) > before);
    pair.nothing_was_lost();
}

#[test]
fn a_leader_that_is_stopped_hands_over_at_once() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes = two_nodes(&cluster);
    let [mut first, second] = two(&cluster);
    let pair = Pair::start_at(&cluster, &first, &second, &nodes);
    let since = pair.since();
    let begun = Instant::now();
    first.stop().unwrap();
    wait_until_all_are_with(&second);
    let took = begun.elapsed();
    eprintln!("hand-over: {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}"); // nobody waits for the Lease to end
    a_node_comes(&cluster, &second, "n3", 3, &pair.one);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

/// As a virtual machine that is halted: its connections stay open, and it knows nothing of it.
#[test]
fn a_leader_that_hangs_ends_when_it_wakes_up_and_another_one_leads() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes = two_nodes(&cluster);
    let [mut first, second] = two(&cluster);
    let pair = Pair::start_at(&cluster, &first, &second, &nodes);
    let since = pair.since();
    first.signal(Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    wait_until_all_are_with(&second);
    let took = begun.elapsed();
    eprintln!("fail-over while the leader hangs: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}"); // its silence has to be noticed first
    a_node_comes(&cluster, &second, "n3", 3, &pair.one);
    first.signal(Signal::SIGCONT).unwrap();
    first.wait_for_end().unwrap();
    assert!(first.log().contains("another controller leads"));
    wait_until_all_are_with(&second);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

//! Two controllers, of which one leads: it is killed, stopped, or hangs, and the other one goes on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::cluster::{Cluster, ClusterNode, Controller, Settings};
use lab::speaker::Speaker;
use lab::wait_for;
use nix::sys::signal::Signal;

use crate::mesh::{self, Pair, SOON, a_node_comes};

/// A fail-over takes no longer: ten seconds of the Lease, and the speakers' way.
const FAIL_OVER: Duration = Duration::from_secs(15);
/// The machine may be busy with something else at that very moment, but not so often.
const ATTEMPTS: usize = 3;

/// One that leads and one that stands by.
fn two(cluster: &Cluster) -> [Controller; 2] {
    let leader = mesh::replica(cluster, 1);
    wait_for("the first one to lead", SOON, || {
        leader.bgpctl("show nodes")
    });
    let standby = standby(cluster, 2, &leader);
    [leader, standby]
}

/// One that knows who leads.
fn standby(cluster: &Cluster, number: u8, leader: &Controller) -> Controller {
    let standby = mesh::replica(cluster, number);
    let address = leader.address().to_string();
    wait_for("it to know who leads", SOON, || {
        let error = standby.bgpctl("show nodes").err();
        let error = format!("{:#}", error.context("it leads")?);
        ensure!(error.contains(&address), "{error}");
        Ok(())
    });
    standby
}

/// Has the leader `end`, and waits until its speakers are with the other one. Where that took longer than
/// `limit`, the other one ends too, and one that stands by in its place goes on. Gives who ended last and who
/// leads then.
#[track_caller]
fn hand_over(
    cluster: &Cluster,
    [mut leader, mut other]: [Controller; 2],
    limit: Duration,
    end: impl Fn(&mut Controller),
) -> [Controller; 2] {
    let mut all = Vec::new();
    for number in [1, 2].into_iter().cycle().take(ATTEMPTS) {
        let begun = Instant::now();
        end(&mut leader);
        wait_until_all_are_with(&other);
        let took = begun.elapsed();
        eprintln!("the other one leads after {took:?}");
        if took < limit {
            return [leader, other];
        }
        all.push(took);
        drop(leader);
        leader = other;
        other = standby(cluster, number, &leader);
    }
    panic!("it took {all:?}; at most {limit:?}");
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
    let both = two(&cluster);
    // Speakers ask who stands by, and are sent to the leader.
    let pair = Pair::start_at(&cluster, &both[0], &both[1], &nodes);
    let (since, before) = (pair.since(), version(&pair.one));

    let [_, second] = hand_over(&cluster, both, FAIL_OVER, |leader| leader.kill().unwrap());
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
    let both = two(&cluster);
    let pair = Pair::start_at(&cluster, &both[0], &both[1], &nodes);
    let since = pair.since();
    let limit = Duration::from_secs(8); // nobody waits for the Lease to end
    let [_, second] = hand_over(&cluster, both, limit, |leader| leader.stop().unwrap());
    a_node_comes(&cluster, &second, "n3", 3, &pair.one);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

/// As a virtual machine that is halted: its connections stay open, and it knows nothing of it.
#[test]
fn a_leader_that_hangs_ends_when_it_wakes_up_and_another_one_leads() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes = two_nodes(&cluster);
    let both = two(&cluster);
    let pair = Pair::start_at(&cluster, &both[0], &both[1], &nodes);
    let since = pair.since();
    let limit = Duration::from_secs(20); // its silence has to be noticed first
    let [mut first, second] = hand_over(&cluster, both, limit, |leader| {
        leader.signal(Signal::SIGSTOP).unwrap();
    });
    a_node_comes(&cluster, &second, "n3", 3, &pair.one);
    first.signal(Signal::SIGCONT).unwrap();
    first.wait_for_end().unwrap();
    assert!(first.log().contains("another controller leads"));
    wait_until_all_are_with(&second);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

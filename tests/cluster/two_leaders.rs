//! Two controllers that both lead, all the time, against one API server: no subnet ever has two owners.
//!
//! Both are the real program. Each talks to the API server through a proxy that gives every start of it
//! a Lease of its own (so the election lets both of them work), and that delays requests, loses answers,
//! lets requests arrive after the controller gave up, or twice. Processes are stopped in the middle of
//! what they do, go on later, are killed, and begin again. Nodes come, go and come back.
//!
//! Meanwhile every version of the ledger, of every NodeSubnets and of every Node is recorded. In the order
//! in which the API server made them (there is one for all kinds), no address may be one node's in one
//! place and another node's in the same or another place, at any moment.

mod proxy;
mod record;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crd::{NodeSubnets, State};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::DeleteParams;
use lab::cluster::{Cluster, Controller, Replica};
use lab::wait_for;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::subnets::install;
use proxy::{Faults, Proxy};
use record::Recorder;

/// Nodes that come or go.
const CHANGES: usize = 400;
/// Names of nodes; more than there are subnets.
const NODES: u8 = 20;

#[test]
fn two_controllers_that_both_lead_never_give_one_subnet_to_two_nodes() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let cluster = Cluster::start().unwrap();
    // 16 subnets of each family for 20 names, and a short grace time: everything is used again soon.
    install(&cluster, 1, &["10.64.0.0/22", "fd64::/60"]);
    let recorder = Recorder::start(&cluster);
    let fight = Fight {
        cluster: &cluster,
        faults: Arc::default(),
        starts: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    };
    let mut random = StdRng::seed_from_u64(seed);
    let nodes = std::thread::scope(|scope| {
        for number in 1..=2 {
            let (fight, seed) = (&fight, random.random());
            scope.spawn(move || fight.lead(number, seed));
        }
        let nodes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            change_nodes(&cluster, &mut random)
        }));
        fight.over.store(true, Ordering::Relaxed);
        nodes.unwrap()
    });

    // One that is left alone brings everything in order.
    let survivor = cluster
        .controller(&Replica {
            pod: "survivor",
            number: 3,
            ..Replica::default()
        })
        .unwrap();
    wait_for(
        "everything to be in order",
        Duration::from_secs(120),
        || in_order(&cluster, &nodes).with_context(|| survivor.log()),
    );
    let seen = recorder.finish(&cluster);
    let faults = &fight.faults;
    println!(
        "{CHANGES} nodes came or went, {} starts; requests: {} slow, {} late, {} answers lost, {} twice, \
         {} by a broken gateway; {} versions, {} of the ledger by {} processes, {} changes of hands",
        fight.starts.load(Ordering::Relaxed),
        faults.slow.load(Ordering::Relaxed),
        faults.late.load(Ordering::Relaxed),
        faults.answer_lost.load(Ordering::Relaxed),
        faults.twice.load(Ordering::Relaxed),
        faults.gateway.load(Ordering::Relaxed),
        seen.versions,
        seen.ledgers,
        seen.writers,
        seen.changes_of_hands,
    );
    assert_eq!(seen.contradictions, [""; 0], "seed {seed}");
    assert!(seen.writers >= 10, "they hardly fought");
    assert!(
        seen.changes_of_hands >= 10,
        "hardly anything was used again"
    );
    for (count, what) in [
        (&faults.late, "late"),
        (&faults.answer_lost, "lost"),
        (&faults.twice, "twice"),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "no request was {what}");
    }
}

struct Fight<'a> {
    cluster: &'a Cluster,
    faults: Arc<Faults>,
    starts: AtomicUsize,
    over: AtomicBool,
}

impl Fight<'_> {
    /// One of the two: started again whenever it ends, as kubelet does.
    fn lead(&self, number: u8, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.over.load(Ordering::Relaxed) {
            let start = self.starts.fetch_add(1, Ordering::Relaxed);
            let proxy = Proxy::start(self.cluster, start, random.random(), &self.faults);
            let pod = format!("controller-{number}-{start}");
            let kubeconfig = self.cluster.lab().directory().join(format!("{pod}.proxy"));
            std::fs::write(&kubeconfig, proxy.kubeconfig()).unwrap();
            let replica = Replica {
                pod: &pod,
                number,
                kubeconfig: Some(kubeconfig),
                ..Replica::default()
            };
            let mut controller = self.cluster.controller(&replica).unwrap();
            self.live(&mut controller, &mut random);
            controller.kill().unwrap();
        }
    }

    /// Until it ends by itself, or its time is up.
    fn live(&self, controller: &mut Controller, random: &mut StdRng) {
        let end = Instant::now() + Duration::from_millis(random.random_range(2_000..20_000));
        while !self.over.load(Ordering::Relaxed) && Instant::now() < end {
            if controller.check().is_err() {
                return; // it has seen that the other one leads
            }
            pause(random, 50..400);
            if random.random_bool(0.1) && controller.check().is_ok() {
                controller.signal(Signal::SIGSTOP).unwrap();
                pause(random, 100..3_000);
                controller.signal(Signal::SIGCONT).unwrap();
            }
        }
    }
}

/// Lets nodes come and go; returns those that are there in the end.
fn change_nodes(cluster: &Cluster, random: &mut StdRng) -> BTreeSet<String> {
    let nodes: Api<Node> = Api::all(cluster.client());
    let mut there: BTreeSet<String> = BTreeSet::new();
    for _ in 0..CHANGES {
        let number = random.random_range(0..NODES);
        let name = format!("n{number:02}");
        // About half of the names at a time: fewer than there are subnets, with what waits.
        let goes = there.contains(&name);
        if goes {
            let parameters = DeleteParams::default();
            cluster.block_on(nodes.delete(&name, &parameters)).unwrap();
            there.remove(&name);
        } else {
            cluster
                .create_node(&name, &[&format!("10.99.1.{number}")], &[])
                .unwrap();
            there.insert(name);
        }
        pause(random, 20..300);
    }
    // What is left must fit into the pool.
    while there.len() > 12 {
        let name = there.iter().choose(random).unwrap().clone();
        cluster
            .block_on(nodes.delete(&name, &DeleteParams::default()))
            .unwrap();
        there.remove(&name);
    }
    there
}

/// Whether every node has its subnets, in all places the same, and no other has any.
fn in_order(cluster: &Cluster, expected: &BTreeSet<String>) -> anyhow::Result<()> {
    let objects: Api<NodeSubnets> = Api::all(cluster.client());
    let objects = cluster.block_on(objects.list(&Default::default()))?.items;
    let names = objects.iter().filter_map(|o| o.metadata.name.clone());
    let names: BTreeSet<String> = names.collect();
    ensure!(
        names == *expected,
        "objects of {names:?}, nodes {expected:?}"
    );
    let nodes: Api<Node> = Api::all(cluster.client());
    for object in objects {
        let name = object.metadata.name.unwrap_or_default();
        let subnets = object.spec.subnets.iter();
        let assigned = subnets.filter(|subnet| subnet.state == State::Assigned);
        let assigned: BTreeSet<String> = assigned.map(|s| s.prefix.to_string()).collect();
        ensure!(assigned.len() >= 2, "{name} has {assigned:?}");
        let spec = cluster.block_on(nodes.get(&name))?.spec.unwrap_or_default();
        let cidrs: BTreeSet<String> = spec.pod_cidrs.unwrap_or_default().into_iter().collect();
        ensure!(
            cidrs.len() == 2 && cidrs.is_subset(&assigned),
            "{name}: podCIDRs {cidrs:?}, NodeSubnets {assigned:?}"
        );
    }
    Ok(())
}

/// The time between two things that happen to the cluster; nothing is waited for.
fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    std::thread::sleep(Duration::from_millis(random.random_range(millis)));
}

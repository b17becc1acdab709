//! kill -9 at random points while nodes come and go: no address is ever in two hands, and nothing
//! that a speaker has seen is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::controller::v1 as pb;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::bench::{Bench, DEADLINE, Speaker, wait_for};

const ROUNDS: usize = 80;

/// Everything any speaker was ever told.
#[derive(Default)]
struct Record {
    configs: usize,
    /// Who was told which subnet.
    subnets: BTreeMap<String, String>,
    of_node: BTreeMap<String, Node>,
    asns: BTreeMap<u32, String>,
    faults: Vec<String>,
}

#[derive(Default)]
struct Node {
    subnets: BTreeSet<String>,
    asn: u32,
    last: pb::NodeConfig,
}

impl Record {
    /// Takes down what `node` was told, and checks it against all that was told before. Subnets are
    /// of one length per family, so two that are not the same do not overlap.
    fn told(&mut self, node: &str, config: &pb::NodeConfig) {
        self.configs += 1;
        let mut faults = Vec::new();
        let mut check = |holds: bool, fault: String| {
            if !holds {
                faults.push(format!("{node}, version {}: {fault}", config.version));
            }
        };
        check(
            config.node == node,
            format!("is told what is for {}", config.node),
        );
        let told: BTreeSet<String> = config.subnets.iter().map(|s| s.prefix.clone()).collect();
        for subnet in &told {
            let other = self.subnets.insert(subnet.clone(), node.to_owned());
            let other = other.unwrap_or_else(|| node.to_owned());
            check(other == node, format!("{subnet} was given to {other} too"));
        }
        let other = self.asns.insert(config.asn, node.to_owned());
        let other = other.unwrap_or_else(|| node.to_owned());
        check(
            other == node,
            format!("AS {} was given to {other} too", config.asn),
        );
        let known = self.of_node.entry(node.to_owned()).or_default();
        let forgotten: Vec<_> = known.subnets.difference(&told).collect();
        check(forgotten.is_empty(), format!("lost {forgotten:?}"));
        let same_asn = known.asn == 0 || known.asn == config.asn;
        check(same_asn, format!("was AS {} before", known.asn));
        let last = &known.last;
        check(
            last.version <= config.version,
            format!("after version {}", last.version),
        );
        let one_content = last.version != config.version || last == config;
        check(one_content, "has had another content".to_owned());
        self.faults.extend(faults);
        known.subnets = told;
        known.asn = config.asn;
        known.last = config.clone();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subnets_outlive_kill_9_at_any_moment_and_never_have_two_owners() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let bench = Bench::new();
    let record = Arc::new(Mutex::new(Record::default()));
    let mut nodes: BTreeSet<usize> = (0..4).collect();
    let mut next = 4;
    bench.nodes(nodes.iter().map(name));
    let mut rounds: usize = 0;
    // On a machine that is busy with other things a controller is often killed before it has told anybody
    // anything: then there are more rounds, each with more time.
    while rounds < ROUNDS || (record.lock().unwrap().configs <= ROUNDS && rounds < 8 * ROUNDS) {
        let longest = 250_000 * (1 + rounds as u64 / ROUNDS as u64);
        rounds += 1;
        // Before the start, so that there is always something to do.
        turn(&bench, &mut random, &mut nodes, &mut next);
        let mut controller = bench.start(&[]);
        let enough = random.random_range(0..nodes.len() * 2);
        let patience = Duration::from_micros(random.random_range(0..longest));
        let (told, mut count) = watch::channel(0);
        let playing = tokio::time::timeout(patience, async {
            let channel = controller.connect().await;
            // The turns of rounds that ended early may add up to more than half of the nodes.
            controller.signal(Signal::SIGHUP);
            let _speakers: Vec<Abort> = (0..next)
                .map(|node| speaker(channel.clone(), name(&node), &record, &told))
                .collect();
            for part in [enough / 2, enough] {
                let _ = count.wait_for(|count| *count >= part).await;
                turn(&bench, &mut random, &mut nodes, &mut next);
            }
            // Killed while it works on the last change, or when `patience` ends.
            let _ = count.wait_for(|count| *count > enough).await;
        });
        let _ = playing.await;
        controller.kill();
        assert_eq!(record.lock().unwrap().faults, [""; 0]);
    }

    let controller = bench.start(&[]);
    let (told, _) = watch::channel(0);
    let channel = controller.connect().await;
    controller.signal(Signal::SIGHUP);
    let _speakers: Vec<Abort> = (0..next)
        .map(|node| speaker(channel.clone(), name(&node), &record, &told))
        .collect();
    let mut admin = controller.admin().await;
    wait_for("every node's configuration", || {
        let mut admin = admin.clone();
        let (record, nodes) = (Arc::clone(&record), nodes.clone());
        async move {
            let answer = admin.list_nodes(pb::ListNodesRequest {}).await.unwrap();
            let desired = answer.into_inner().nodes.into_iter();
            let desired: BTreeMap<String, u64> = desired
                .map(|node| (node.name, node.desired_version))
                .collect();
            let record = record.lock().unwrap();
            let behind = nodes.iter().map(name).filter(|node| {
                let told = record.of_node.get(node).map(|told| told.last.version);
                told.is_none() || told != desired.get(node).copied()
            });
            match behind.collect::<Vec<_>>() {
                behind if behind.is_empty() => Ok(()),
                behind => Err(behind),
            }
        }
    })
    .await;
    let leases = admin
        .list_subnets(pb::ListSubnetsRequest {})
        .await
        .unwrap()
        .into_inner();
    let leases: BTreeMap<String, String> = leases
        .subnets
        .into_iter()
        .map(|lease| (lease.prefix, lease.node))
        .collect();
    let record = record.lock().unwrap();
    assert_eq!(record.faults, [""; 0]);
    for (subnet, node) in &record.subnets {
        assert_eq!(leases.get(subnet), Some(node), "{subnet}");
    }
    for node in &nodes {
        assert_eq!(record.of_node[&name(node)].subnets.len(), 2);
    }
    println!(
        "{rounds} rounds, {} configurations, {} nodes, {} subnets",
        record.configs,
        record.of_node.len(),
        record.subnets.len()
    );
    assert!(record.configs > ROUNDS, "too little happened");
}

/// Some nodes come (new ones, and ones that were there before), some go.
fn turn(bench: &Bench, random: &mut StdRng, nodes: &mut BTreeSet<usize>, next: &mut usize) {
    let all: Vec<usize> = nodes.iter().copied().collect();
    // Fewer than half: more at once is held back as an accident.
    let going = random.random_range(0..=all.len() / 3);
    for node in all.choose_multiple(random, going) {
        nodes.remove(node);
    }
    for _ in 0..random.random_range(1..3) {
        let back = random.random_bool(0.5) || *next >= 120;
        let node = if back {
            random.random_range(0..*next)
        } else {
            *next
        };
        *next = (*next).max(node + 1);
        nodes.insert(node);
    }
    bench.nodes(nodes.iter().map(name));
}

fn name(node: &usize) -> String {
    format!("n{node:03}")
}

/// Ends the task when it is dropped.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A speaker that writes down what it is told until the connection breaks.
fn speaker(
    channel: Channel,
    node: String,
    record: &Arc<Mutex<Record>>,
    told: &watch::Sender<usize>,
) -> Abort {
    let (record, told) = (Arc::clone(record), told.clone());
    Abort(tokio::spawn(async move {
        let opening = tokio::time::timeout(DEADLINE, Speaker::open(channel, &node));
        let Ok(Ok(mut speaker)) = opening.await else {
            return;
        };
        while let Ok(Some(config)) = speaker.configs.message().await {
            record.lock().unwrap().told(&node, &config);
            told.send_modify(|count| *count += 1);
            speaker.report(&config, 1);
        }
    }))
}

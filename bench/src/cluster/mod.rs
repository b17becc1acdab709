//! A controller with thousands of nodes: the load is one stream a node, as their speakers would hold
//! it, each on a connection of its own, and each says what it has in force as soon as it is told.
//!
//! Measured are memory and CPU of the controller, the time from its start until the last node has its
//! first configuration, from one more node in the resources until everybody who has to know of it has been
//! told, and from a change that concerns all until all have been told. The nodes' resources are files and
//! the connections plain TCP on loopback; or all is in a real API server, which shares the machine's processors, and the
//! connections are those of a Unix socket. Neither has TLS. The speakers share the processors too.

mod site;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::measure;
use site::{Controller, Site, Target};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the controller may take to come to rest: it writes three objects of each node first, a hundred
/// a second at most.
const REST_PATIENCE: Duration = Duration::from_secs(1800);
/// Nodes that reflect: they have a session with every other node, so an added node concerns them.
const REFLECTORS: usize = 3;
/// How often a change is made.
const CHANGES: usize = 10;
/// A controller with files has come to rest when it uses less CPU than this for a second,
const REST: f64 = 0.05;
/// and one in a cluster when nothing waits to be written and the API server was asked no more than this
/// for two: it asks itself now and then, and a number in a status may be written at any time.
const REST_REQUESTS: u64 = 4;
/// For so long it is counted what the API server is asked while nothing changes.
const QUIET: Duration = Duration::from_secs(60);

/// What each node was told last, and when.
#[derive(Default)]
struct Told {
    nodes: Mutex<Vec<Option<Config>>>,
    /// Counts up with every configuration.
    count: watch::Sender<u64>,
}

#[derive(Clone)]
struct Config {
    at: Instant,
    peers: usize,
    hold: u32,
}

impl Told {
    fn note(&self, node: usize, config: &pb::NodeConfig) {
        let config = Config {
            at: Instant::now(),
            peers: config.peers.len(),
            hold: config.peers.first().map_or(0, |peer| peer.hold_seconds),
        };
        self.lock()[node] = Some(config);
        self.count.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<Config>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long after `begun` each of these nodes came to be as `right` wants it.
    async fn wait(
        &self,
        of: impl Fn(usize) -> bool,
        begun: Instant,
        right: impl Fn(&Config) -> bool,
    ) -> Result<Vec<Duration>> {
        let mut count = self.count.subscribe();
        let all = async {
            loop {
                count.mark_unchanged();
                let times = {
                    let nodes = self.lock();
                    let mut nodes = (0..).zip(nodes.iter()).filter(|(index, _)| of(*index));
                    let time = |config: &Config| right(config).then(|| config.at - begun);
                    let times = nodes.by_ref().map(|(_, it)| it.as_ref().and_then(time));
                    times.collect::<Option<Vec<Duration>>>()
                };
                match times {
                    Some(mut times) => {
                        times.sort_unstable();
                        return Ok(times);
                    }
                    None => count.changed().await?,
                }
            }
        };
        timeout(PATIENCE, all)
            .await
            .context("not everybody was told in time")?
    }
}

/// Waits until it has nothing to do any more.
async fn rest(site: &Site, controller: &Controller) -> Result<()> {
    let all = async {
        loop {
            if site.is_api() {
                let before = sum(&site.requests().await?);
                sleep(Duration::from_secs(2)).await;
                let asked = sum(&site.requests().await?) - before;
                if asked <= REST_REQUESTS && controller.waiting()? == 0 {
                    return Ok(());
                }
            } else {
                let before = controller.cost().cpu_seconds;
                sleep(Duration::from_secs(1)).await;
                if controller.cost().cpu_seconds - before < REST {
                    return Ok(());
                }
            }
        }
    };
    timeout(REST_PATIENCE, all)
        .await
        .context("the controller did not come to rest")?
}

fn sum(requests: &BTreeMap<String, u64>) -> u64 {
    requests.values().sum()
}

/// Measures with so many nodes and prints the figures; with a real API server or with files.
pub(crate) fn run(binaries: &Path, nodes: usize, api_server: bool) -> Result<()> {
    ensure!(
        (10..=20_000).contains(&nodes),
        "10 to 20000 nodes, not {nodes}"
    );
    let directory = tempfile::tempdir()?;
    let site = match api_server {
        true => Site::api()?,
        false => Site::files(directory.path())?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure_all(&site, binaries, nodes))
}

async fn measure_all(site: &Site, binaries: &Path, nodes: usize) -> Result<()> {
    println!("{}", measure::machine());
    println!("{nodes} nodes, {REFLECTORS} of them reflectors, one stream each");
    println!("{}", site.describe());
    site.fabric(90).await?;
    site.add(0..nodes).await?;
    let told = Arc::new(Told::default());
    told.lock().resize(nodes + CHANGES, None);

    let requests = site.requests().await?;
    let begun = Instant::now();
    let controller = site.start(binaries)?;
    for node in 0..nodes + CHANGES {
        tokio::spawn(speaker(controller.target.clone(), node, Arc::clone(&told)));
    }
    let first = told.wait(|node| node < nodes, begun, |_| true).await?;
    row("cold start: first NodeConfig", &first, 0.0);
    rest(site, &controller).await?;
    let cost = controller.cost();
    println!(
        "  controller afterwards: {:.1} s of CPU, {} MiB, at most {} MiB",
        cost.cpu_seconds,
        cost.memory >> 20,
        cost.peak_memory >> 20
    );
    let mut requests = asked(&requests, site.requests().await?, begun.elapsed());
    if site.is_api() {
        println!("nothing changes");
        let begun = Instant::now();
        sleep(QUIET).await;
        requests = asked(&requests, site.requests().await?, begun.elapsed());
    }

    let mut times = Vec::new();
    let before = controller.cost().cpu_seconds;
    let all = Instant::now();
    for added in 0..CHANGES {
        let node = nodes + added;
        let begun = Instant::now();
        site.add(node..node + 1).await?;
        let concerned = |it: usize| it < REFLECTORS || it == node;
        let peers = node; // a reflector has a session with every other node
        let right = |config: &Config| config.peers == REFLECTORS || config.peers == peers;
        let fresh = |config: &Config| config.at >= begun && right(config);
        times.extend(told.wait(concerned, begun, fresh).await?);
        rest(site, &controller).await?;
    }
    times.sort_unstable();
    row(
        "one more node: reflectors and itself",
        &times,
        (controller.cost().cpu_seconds - before) / CHANGES as f64,
    );
    let requests = asked(&requests, site.requests().await?, all.elapsed());

    let mut times = Vec::new();
    let before = controller.cost().cpu_seconds;
    let all = Instant::now();
    for hold in (0..CHANGES as u32).map(|n| 91 + n) {
        let begun = Instant::now();
        site.fabric(hold).await?;
        let right = |config: &Config| config.hold == hold;
        times.extend(told.wait(|_| true, begun, right).await?);
        rest(site, &controller).await?;
    }
    times.sort_unstable();
    row(
        "a change for all",
        &times,
        (controller.cost().cpu_seconds - before) / CHANGES as f64,
    );
    asked(&requests, site.requests().await?, all.elapsed());
    let cost = controller.cost();
    println!(
        "  controller at the end: {} MiB, at most {} MiB",
        cost.memory >> 20,
        cost.peak_memory >> 20
    );
    Ok(())
}

/// Tells what the API server was asked since, by anybody, and gives what it has been asked in all.
fn asked(
    before: &BTreeMap<String, u64>,
    now: BTreeMap<String, u64>,
    time: Duration,
) -> BTreeMap<String, u64> {
    let since = now.iter().filter_map(|(what, count)| {
        let new = count - before.get(what).copied().unwrap_or(0);
        (new > 0).then(|| format!("{new} {what}"))
    });
    let since: Vec<String> = since.collect();
    if !since.is_empty() {
        let seconds = time.as_secs_f64();
        println!("  requests in these {seconds:.0} s: {}", since.join(", "));
    }
    now
}

/// Times in order, as a person wants to read them.
fn row(what: &str, times: &[Duration], cpu: f64) {
    let at = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, Duration::as_secs_f64)
    };
    let cpu = match cpu > 0.0 {
        true => format!("; {cpu:.2} s of CPU each"),
        false => String::new(),
    };
    println!(
        "{what}: half after {:.2} s, 99 % after {:.2} s, all after {:.2} s{cpu}",
        at(50),
        at(99),
        at(100)
    );
}

/// Holds the stream of a node until the program ends; begins again when it breaks.
async fn speaker(controller: Target, node: usize, told: Arc<Told>) {
    loop {
        // What went wrong is seen by who waits in vain for a configuration.
        let _ = stream(&controller, node, &told).await;
        sleep(Duration::from_millis(100)).await;
    }
}

async fn stream(controller: &Target, node: usize, told: &Told) -> Result<()> {
    let channel = controller.connect().await?;
    let (reports, receiver) = mpsc::unbounded_channel();
    let report = |config: Option<&pb::NodeConfig>| pb::NodeReport {
        node: name(node),
        version: config.map_or(0, |config| config.version),
        subnets: config
            .map(|config| config.subnets.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|subnet| pb::SubnetUse {
                prefix: subnet.prefix.clone(),
                used: 10,
                size: 256,
                cooling: 0,
            })
            .collect(),
        ..pb::NodeReport::default()
    };
    reports.send(report(None))?;
    let mut configs = ConfigServiceClient::new(channel)
        .max_decoding_message_size(64 << 20)
        .watch(UnboundedReceiverStream::new(receiver))
        .await?
        .into_inner();
    while let Some(config) = configs.message().await? {
        told.note(node, &config);
        reports.send(report(Some(&config)))?;
    }
    Ok(())
}

fn name(node: usize) -> String {
    format!("node-{node:05}")
}

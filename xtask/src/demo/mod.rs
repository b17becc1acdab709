//! `cargo xtask demo`: two racks with a ToR each under one spine, two nodes a rack, two pods a node,
//! one controller. Everything is real but the cables: namespaces and veth pairs.
//!
//! - `topology`: names, numbers, machines and cables; `programs`: what runs on them; `tor`: what runs
//!   on the ToRs; `pods`: pods and pings; `runtime`: who calls the CNI plugin; `site`: where all of it stands; `capture`: what is on a cable; `picture`: all of it drawn.

mod capture;
mod picture;
mod pods;
mod programs;
mod runtime;
mod site;
mod topology;
mod tor;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use lab::{Namespace, packages, require_root, try_wait_for};
use serde_json::Value;

use crate::cargo;
use crate::progress::{dim, good, step, title};
use capture::Capture;
use picture::Router;
use pods::Pod;
use programs::Programs;
use runtime::Runtime;
use site::Site;
use topology::{Machines, NEWCOMER, NODES, Node, RACKS, SPINE_ASN, machine};

/// On every node.
pub(crate) const PODS: usize = 2;
/// Longest wait for sessions, subnets, answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two racks of nodes under a spine
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What the ToR routers run; Debian's packages are installed when they are missing
    #[arg(long, value_enum, default_value_t)]
    tor: tor::Kind,
    /// Only remove what an earlier demo left
    #[arg(long, conflicts_with_all = ["tor", "exit"])]
    down: bool,
    /// Remove everything again once all is checked; what the tests do
    #[arg(long)]
    exit: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    require_root().context(
        "the demo makes network namespaces with addresses and routes in them, and nothing outside of \
         them",
    )?;
    if arguments.exit {
        // Beside a demo that somebody explores.
        let site = Site::of_this_process();
        let result = up(arguments.tor, &site);
        let removed = step("Removing the demo", |_| down(&[site]));
        return result.and(removed);
    }
    let site = Site::to_stay();
    let _lock =
        site.lock(|| println!("Another demo is being built or removed; waiting for it."))?;
    if arguments.down {
        return step("Removing the demo", |_| {
            let mut sites = Site::orphans()?;
            sites.push(site);
            down(&sites)
        });
    }
    let result = up(arguments.tor, &site);
    if result.is_err() {
        println!(
            "\nEverything is left as it is, to be looked at: logs are in {}/log;\n{} removes it.",
            site.directory().display(),
            title("cargo xtask demo --down")
        );
    }
    result
}

/// Removes every machine of these demos and their files; what is not there is no error.
fn down(sites: &[Site]) -> anyhow::Result<String> {
    let mut removed = 0;
    for site in sites {
        removed += site.remove()?;
    }
    Ok(match removed {
        0 => "there was nothing".into(),
        removed => format!("{removed} machines and their files"),
    })
}

fn up(kind: tor::Kind, site: &Site) -> anyhow::Result<()> {
    let start = Instant::now();
    step("Looking for what is needed", |step| {
        let mut tools = vec![
            packages::IPROUTE,
            packages::NSENTER,
            packages::PING,
            packages::TCPDUMP,
        ];
        match kind {
            tor::Kind::Routeshare => {}
            tor::Kind::Bird => tools.push(packages::BIRD),
            tor::Kind::Frr => tools.push(packages::FRR),
        }
        packages::ensure(&tools, |text| step.say(text))?;
        Ok(String::new())
    })?;
    step("Building our programs", |_| {
        cargo::build_programs(true).map(|()| String::new())
    })?;
    step("Removing what an earlier demo left", |_| {
        Ok(match site.remove()? {
            0 => "there was nothing".into(),
            removed => format!("{removed} machines"),
        })
    })?;

    let mut machines = None;
    step("Machines and cables", |step| {
        machines = Some(Machines::build(site, |what| step.now(what))?);
        Ok("two racks, a spine, a management network".into())
    })?;
    let machines = machines.context("there are no machines")?;
    let programs = Programs::new(site.directory())?;
    let outcome = converge(kind, site, &machines, &programs, start);
    if outcome.is_err() {
        eprintln!("\n{}", programs.log_tails());
    }
    outcome
}

fn converge(
    kind: tor::Kind,
    site: &Site,
    machines: &Machines,
    programs: &Programs,
    start: Instant,
) -> anyhow::Result<()> {
    step("Certificates", |_| {
        let nodes = NODES.iter().chain([&NEWCOMER]).map(|node| node.name);
        programs.certificates(nodes)?;
        Ok("an authority, the controller, five nodes".into())
    })?;
    step("Starting programs", |_| {
        programs.controller(&machines.controller)?;
        let spine = programs.copy_example("tor/spine")?;
        programs.standalone(&machines.spine, "spine", &spine)?;
        for (rack, machine) in RACKS.into_iter().zip(&machines.tors) {
            tor::start(kind, rack, machine, programs)?;
        }
        for (node, machine) in NODES.into_iter().zip(&machines.nodes) {
            programs.node(machine, node.name)?;
        }
        Ok(format!(
            "controller, spine, two ToRs ({}), four nodes",
            kind.name()
        ))
    })?;

    step("Sessions", |step| {
        let count = established(programs, &NODES, |text| step.now(text))?;
        Ok(format!("all {count} established"))
    })?;
    let mut pods = Vec::new();
    step("Pods, attached by the CNI plugin", |step| {
        for (node, machine) in NODES.into_iter().zip(&machines.nodes) {
            step.now(node.name);
            pods.extend(pods_of(site, node, machine, programs)?);
        }
        Ok(format!("{PODS} on each of {} nodes", NODES.len()))
    })?;
    let capture = Capture::start(&machines.spine, &RACKS[0].tor(), programs.directory())?;
    step("Every pod pings every other", |step| {
        let ways = pods::ways(pods.iter(), pods.iter());
        pods::reach_all(&ways, PATIENCE, |text| step.now(text))?;
        let half = ways.len() / 2;
        Ok(format!(
            "{half} of {half} in IPv4, {half} of {half} in IPv6"
        ))
    })?;
    step("Every pod finds every other by name", |step| {
        let count = pods::find_all(&pods, PATIENCE, |text| step.now(text))?;
        Ok(format!("{count} of {count}"))
    })?;
    step("On the cable between tor-a and the spine", |step| {
        let packets = capture.finish()?;
        for line in packets.check()? {
            step.say(&dim(line));
        }
        Ok("bare pod addresses, no encapsulation, no address translation".into())
    })?;
    step("An address no pod has", |_| unused(&pods, programs))?;
    let mut took = Duration::ZERO;
    step("Adding node b3 to the file", |step| {
        let newcomer = newcomer(site, machines, programs, &pods, &mut took, |text| {
            step.now(text)
        })?;
        pods.extend(newcomer);
        Ok(good(&format!(
            "reachable from every pod after {:.2} s",
            took.as_secs_f64()
        )))
    })?;
    let ready = start.elapsed();
    show(kind, programs, &pods)?;
    println!(
        "\n{} {:.0} s from the command to here; {:.2} s from “b3 in the file” to “every pod reaches b3's pods”.",
        good("✔"),
        ready.as_secs_f64(),
        took.as_secs_f64()
    );
    if site.stays() {
        commands(site, programs, &pods);
    }
    Ok(())
}

/// Waits until a node takes pods, and makes them.
fn pods_of(
    site: &Site,
    node: Node,
    machine: &Namespace,
    programs: &Programs,
) -> anyhow::Result<Vec<Pod>> {
    let directory = programs.directory();
    let check = || programs.check();
    let runtime = Runtime::wait(machine, directory, node.name, PATIENCE, check)?;
    pods::create_pods(site, directory, node.name, &runtime)
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}

/// Waits until every session of these nodes and of the spine is established; gives their number.
fn established(programs: &Programs, wanted: &[Node], now: impl Fn(&str)) -> anyhow::Result<usize> {
    let count = try_wait_for("every session to be Established", PATIENCE, || {
        programs.check()?;
        let nodes = programs.json("show nodes")?;
        let mut sessions: Vec<(String, Value)> = Vec::new();
        for node in wanted {
            let found = find(&nodes, node.name)?;
            let own = found["sessions"].as_array().cloned().unwrap_or_default();
            ensure!(!own.is_empty(), "{} has no session yet", node.name);
            sessions.extend(
                own.into_iter()
                    .map(|session| (node.name.to_owned(), session)),
            );
        }
        let spine = programs
            .peers_of("spine")?
            .as_array()
            .cloned()
            .unwrap_or_default();
        sessions.extend(
            spine
                .into_iter()
                .map(|session| ("spine".to_owned(), session)),
        );
        let down = sessions
            .iter()
            .filter(|(_, session)| session["state"] != "Established");
        let down: Vec<String> = down
            .map(|(node, session)| {
                let peer = session.get("peer").or(session.get("name"));
                let peer = peer.and_then(Value::as_str).unwrap_or_default();
                let state = session["state"].as_str().unwrap_or_default();
                let error = session["lastError"].as_str().unwrap_or("no error");
                format!("{node} with {peer}: {state} ({error})")
            })
            .collect();
        now(&format!(
            "{} of {}",
            sessions.len() - down.len(),
            sessions.len()
        ));
        ensure!(down.is_empty(), "{}", down.join("; "));
        Ok(sessions.len())
    })?;
    Ok(count)
}

fn find<'a>(nodes: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let mut list = nodes.as_array().into_iter().flatten();
    list.find(|node| node["name"] == name)
        .with_context(|| format!("the controller does not know {name}"))
}

/// What is not in use of a node's subnet must be said to be unreachable, not sent round in circles.
fn unused(pods: &[Pod], programs: &Programs) -> anyhow::Result<String> {
    let nodes = programs.json("show nodes --node b1")?;
    let from = pods.first().context("no pods")?;
    for subnet in strings(&nodes[0]["subnets"]) {
        let address = pods::host(&subnet, 200)?;
        let answer = from.machine.run(&format!("ping -n -c 1 -W 2 {address}"));
        match answer {
            Ok(_) => bail!("{address} answers, though no pod has it"),
            Err(error) => {
                let text = format!("{error:#}").to_lowercase();
                ensure!(
                    text.contains("unreachable") || text.contains("no route"),
                    "{address} is not said to be unreachable: {text}"
                );
            }
        }
    }
    Ok("is unreachable, and the sender is told".into())
}

/// Adds a node to the file while everything runs: its machine is cabled and its speaker waits.
fn newcomer(
    site: &Site,
    machines: &Machines,
    programs: &Programs,
    others: &[Pod],
    took: &mut Duration,
    now: impl Fn(&str) + Sync,
) -> anyhow::Result<Vec<Pod>> {
    let machine = machines
        .nodes
        .last()
        .context("no machine for the new node")?;
    programs.node(machine, NEWCOMER.name)?;
    try_wait_for("b3's speaker to run", PATIENCE, || {
        programs.check()?;
        ensure!(programs.socket(NEWCOMER.name).exists(), "no socket yet");
        Ok(())
    })?;
    let file = programs.nodes_file();
    let mut text = std::fs::read_to_string(&file)?;
    text += &NEWCOMER.resource();
    let start = Instant::now();
    programs::replace(&file, &text)?;
    now("waiting until it takes pods");
    let pods = pods_of(site, NEWCOMER, machine, programs)?;
    now("waiting for answers of its pods");
    let ways = pods::ways(others.iter(), pods.iter());
    pods::reach_all(&ways, PATIENCE, |text| now(text))?;
    *took = start.elapsed();
    Ok(pods)
}

/// What a person would look at first.
fn show(kind: tor::Kind, programs: &Programs, pods: &[Pod]) -> anyhow::Result<()> {
    let color = match crate::progress::in_color() {
        true => "always",
        false => "never",
    };
    for command in ["show nodes", "show peers", "show routes --node a1"] {
        println!("\n{} {}", dim("$"), title(&format!("bgpctl {command}")));
        print!(
            "{}",
            programs.bgpctl(&format!("{command} --color {color}"))?
        );
    }
    println!();
    for line in picture::draw(&picture(kind, programs, pods)?) {
        println!("  {line}");
    }
    Ok(())
}

/// Asks everybody how the sessions stand, from above and from below.
fn picture(kind: tor::Kind, programs: &Programs, pods: &[Pod]) -> anyhow::Result<Router> {
    let nodes = programs.json("show nodes")?;
    let spine = programs.peers_of("spine")?;
    let state = |sessions: &Value, peer: &str, key: &str| {
        let mut list = sessions.as_array().into_iter().flatten();
        let session = list.find(|session| session[key] == peer);
        session
            .and_then(|session| session["state"].as_str())
            .map(str::to_owned)
    };
    let racks = RACKS.into_iter().enumerate().map(|(index, rack)| {
        let below = NODES
            .into_iter()
            .chain([NEWCOMER])
            .filter(|node| node.rack == index);
        let below = below.map(|node| {
            let found = find(&nodes, node.name)?;
            let mut text = vec![format!("{} · AS {}", node.name, rack.node_asn)];
            text.extend(strings(&found["subnets"]));
            let own = pods
                .iter()
                .filter(|pod| pod.name.starts_with(&format!("pod-{}-", node.name)));
            text.push(format!("{} pods", own.count()));
            Ok(Router {
                text,
                session: state(&found["sessions"], "tor", "peer"),
                below: Vec::new(),
            })
        });
        Ok(Router {
            text: vec![
                format!("{} · AS {}", rack.tor(), rack.tor_asn),
                kind.name().to_owned(),
            ],
            session: state(&spine, &rack.tor(), "name"),
            below: below.collect::<anyhow::Result<_>>()?,
        })
    });
    Ok(Router {
        text: vec![format!("spine · AS {SPINE_ASN}"), "routeshare".to_owned()],
        session: None,
        below: racks.collect::<anyhow::Result<_>>()?,
    })
}

/// What to try now.
fn commands(site: &Site, programs: &Programs, pods: &[Pod]) {
    let (Some(near), Some(far)) = (pods.first(), pods.last()) else {
        return;
    };
    let bin = lab::program("bgpctl").ok();
    let bin = bin
        .as_deref()
        .and_then(std::path::Path::parent)
        .unwrap_or("".as_ref());
    let tor = programs.socket("tor-a");
    let directory = programs.directory().display();
    let node = machine(NODES[0]);
    println!("\n{}", title("It stays up. In this shell (as root) first:"));
    println!(
        "  export PATH={}:$PATH ROUTESHARE_CONTROLLER={}",
        bin.display(),
        programs.controller_socket()
    );
    println!("{}", title("Then try:"));
    let tries = [
        (
            "bgpctl show nodes --output wide".to_owned(),
            "subnets, sessions, versions",
        ),
        (
            format!("bgpctl --node a1 explain {}", far.v4),
            "why it is reached, step by step",
        ),
        (
            "bgpctl --all show routes --longer-prefixes 10.64.0.0/16".to_owned(),
            "on every node",
        ),
        (
            "bgpctl --node a1 show peers tor".to_owned(),
            "one session in full",
        ),
        (
            format!("bgpctl --socket {} show peers", tor.display()),
            "the ToR's side",
        ),
        (
            "bgpctl --node a1 shutdown tor -m 'gone fishing'".to_owned(),
            "then show nodes; then enable",
        ),
        (
            format!("ip netns exec {} ping {}", near.machine.name(), far.v4),
            "from pod to pod",
        ),
        (
            format!(
                "ip netns exec {} tcpdump -ni tor-a",
                site.namespace("spine")
            ),
            "what is on the cable",
        ),
        (
            format!("ip -n {} route show proto 149", site.namespace(&node)),
            "the kernel's routes of a1",
        ),
        (
            format!("ip netns pids {} | xargs kill -9", site.namespace(&node)),
            "packets still flow",
        ),
        (
            format!("$EDITOR {directory}/two-racks/nodes.yaml"),
            "remove b3, break the file, …",
        ),
        ("cargo xtask demo --down".to_owned(), "the end"),
    ];
    let widest = tries
        .iter()
        .map(|(command, _)| command.chars().count())
        .max();
    for (command, what) in &tries {
        let padding = widest.unwrap_or(0) - command.chars().count();
        println!(
            "  {command}{}   {}",
            " ".repeat(padding),
            dim(&format!("# {what}"))
        );
    }
    println!("{}", dim(&format!("Logs are in {directory}/log.")));
}

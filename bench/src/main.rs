//! The same work, given to this program and to its peers, one after the other.
//!
//! `cargo xtask bench` builds the release programs and runs this. Peers of our own play BGP against
//! one daemon at a time in network namespaces; measured are the time until the last prefix is at
//! the receiver and in the kernel, CPU seconds, and memory; and beside them the kernel's own floor.
//! Machines are noisy: compare within a run.
//!
//! - `cluster`: a controller and thousands of nodes, which no other program is compared with;
//! - `pods`: containers' networks, beside other CNI plugins and beside the kernel alone;
//! - `scenario`: what there is to do; `churn`, `failover`, `bfd`: three of them, at length;
//! - `work`: sends, hears and watches the kernel until all is done; `network`: on which machines;
//! - `table`, `bgp`: what is sent, and how; `daemons`, `configs`: to whom;
//! - `measure`, `floor`: what it costs, and what the kernel alone takes;
//! - `outcome`, `summary`, `plot`: rows, their table, their picture.

mod bfd;
mod bgp;
mod churn;
mod cluster;
mod configs;
mod daemons;
mod failover;
mod floor;
mod measure;
mod network;
mod outcome;
mod plot;
mod pods;
mod scenario;
mod summary;
mod table;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::daemons::{Engine, Programs};
use crate::scenario::{Order, Scenario};
use crate::summary::Report;

/// Compares routeshare with other BGP daemons on the same work. Needs root.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    /// What to do; all of them when not given.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// Which daemons; those of Debian, and those whose program is named, when not given.
    #[arg(long, value_enum)]
    peer: Vec<Engine>,
    /// How often each daemon does the work, in turns (A B A B).
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many prefixes, instead of the scenario's own number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    prefixes: Option<u32>,
    /// How many nodes the controller has in the scenario `cluster`.
    #[arg(long, default_value_t = 5000)]
    nodes: usize,
    /// Have them in a real API server (root), not in files.
    #[arg(long)]
    api_server: bool,
    /// How long to churn.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    churn: u32,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// Measure nothing: make docs/performance.svg from the figures in this file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    programs: Programs,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(file) = &arguments.plot {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let report: Report = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a report of this program", file.display()))?;
        println!("{}", report.summary());
        return write(Path::new("docs/performance.svg"), &plot::svg(&report));
    }
    lab::require_root()?;
    let mut programs = arguments.programs.clone();
    programs.binaries = programs.binaries.canonicalize().with_context(|| {
        format!(
            "no folder {}; `cargo build --release` first",
            programs.binaries.display()
        )
    })?;
    if let Some(scenario) = arguments.scenario.iter().find(|it| it.is_apart()) {
        anyhow::ensure!(
            arguments.scenario.len() == 1,
            "--scenario {} compares no BGP daemons; ask for it alone",
            scenario.name()
        );
        let binaries = &programs.binaries;
        return match scenario {
            Scenario::Cni => pods::attach::run(binaries, arguments.rounds, &arguments.json),
            Scenario::Pods => pods::traffic::run(binaries, arguments.rounds, &arguments.json),
            _ => cluster::run(binaries, arguments.nodes, arguments.api_server),
        };
    }
    let engines = match arguments.peer.is_empty() {
        true => Engine::all(&programs),
        false => arguments.peer.clone(),
    };
    let mut tools: Vec<_> = engines.iter().filter_map(|e| e.package()).collect();
    // Answers BFD in one of them.
    tools.push(lab::packages::BIRD);
    lab::packages::ensure(&tools, |doing| println!("{doing}"))?;
    let report = measure_all(&arguments, &engines, &programs)?;
    println!("\n{}", report.summary());
    Ok(())
}

/// Every scenario, round by round, daemon after daemon. What has been measured is written after
/// each, so that a run that is ended early is not lost.
fn measure_all(arguments: &Arguments, engines: &[Engine], programs: &Programs) -> Result<Report> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let mut report = Report {
        date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
        machine: measure::machine(),
        command: format!("cargo xtask bench {}", given.join(" ")),
        versions: engines.iter().map(|e| e.version(programs)).collect(),
        outcomes: Vec::new(),
    };
    println!("{}", report.machine);
    let scenarios = match arguments.scenario.is_empty() {
        true => scenario::ALL.to_vec(),
        false => arguments.scenario.clone(),
    };
    let prefixes = arguments.prefixes.map(|number| number as usize);
    for scenario in scenarios {
        for round in 1..=arguments.rounds {
            for engine in engines.iter().filter(|e| scenario.is_for(**e)) {
                let order = Order {
                    engine: *engine,
                    programs,
                    prefixes,
                    churn: Duration::from_secs(arguments.churn.into()),
                    round,
                };
                // One daemon that cannot do one thing is a result, and no reason to stop.
                let rows = scenario.run(order).unwrap_or_else(|error| {
                    let mut row =
                        order.outcome(scenario.name(), prefixes.unwrap_or(scenario.prefixes()));
                    row.error = Some(format!("{error:#}"));
                    vec![row]
                });
                add(&mut report, rows, &arguments.json)?;
            }
            let rows = scenario.floor(prefixes, round)?;
            add(&mut report, rows, &arguments.json)?;
        }
    }
    println!("figures: {}", arguments.json.display());
    Ok(report)
}

fn add(report: &mut Report, rows: Vec<outcome::Outcome>, json: &Path) -> Result<()> {
    for row in &rows {
        println!("{row}");
    }
    report.outcomes.extend(rows);
    write(json, &(serde_json::to_string_pretty(report)? + "\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

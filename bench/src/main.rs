//! The same work, given to this program and to its peers, one after the other.
//!
//! `cargo xtask bench` builds the release binaries and runs this. A sender and a receiver play BGP
//! against one daemon at a time in network namespaces; measured are the time until the last prefix
//! is at the receiver and in the kernel, CPU seconds, and memory; and beside them the kernel's own
//! floor. Machines are noisy: compare within a run.

mod bgp;
mod daemons;
mod floor;
mod measure;
mod scenario;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use crate::daemons::Engine;
use crate::scenario::{Outcome, Scenario};

/// Compares routeshare with other BGP daemons on the same work. Needs root.
#[derive(Parser)]
struct Arguments {
    /// What to do; all of them when not given.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// Which daemons; all of them when not given.
    #[arg(long, value_enum)]
    peer: Vec<Engine>,
    /// How often each daemon does the work, in turns (A B A B).
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many prefixes, instead of the scenario's own number.
    #[arg(long)]
    prefixes: Option<usize>,
    /// Where this program's release binaries are.
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// Where the figures go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// Everything one run measured.
#[derive(Serialize)]
struct Report {
    date: String,
    machine: String,
    command: String,
    versions: Vec<String>,
    outcomes: Vec<Outcome>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    lab::require_root()?;
    let all = |given: &[Scenario]| {
        if given.is_empty() {
            scenario::ALL.to_vec()
        } else {
            given.to_vec()
        }
    };
    let daemons = if arguments.peer.is_empty() {
        vec![Engine::Routeshare, Engine::Bird]
    } else {
        arguments.peer.clone()
    };
    let binaries = arguments.binaries.canonicalize().with_context(|| {
        format!(
            "no folder {}; `cargo build --release` first",
            arguments.binaries.display()
        )
    })?;
    let mut report = Report {
        date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
        machine: measure::machine(),
        command: format!(
            "cargo xtask bench {}",
            std::env::args().skip(1).collect::<Vec<_>>().join(" ")
        ),
        versions: daemons
            .iter()
            .map(|daemon| daemon.version(&binaries))
            .collect(),
        outcomes: Vec::new(),
    };
    println!("{}", report.machine);
    for scenario in all(&arguments.scenario) {
        for round in 1..=arguments.rounds {
            for daemon in &daemons {
                let outcome = scenario.run(*daemon, arguments.prefixes, &binaries, round)?;
                println!("{outcome}");
                report.outcomes.push(outcome);
            }
            let outcome = scenario.floor(arguments.prefixes, round)?;
            println!("{outcome}");
            report.outcomes.push(outcome);
        }
    }
    if let Some(folder) = arguments.json.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(
        &arguments.json,
        serde_json::to_string_pretty(&report)? + "\n",
    )
    .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    println!("figures: {}", arguments.json.display());
    Ok(())
}

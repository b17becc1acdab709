//! `cargo xtask …`: what cargo alone cannot do.
//!
//! - `demo`: two racks in network namespaces, to look at;
//! - `test`: every check and every test, as CI runs them;
//! - `crds`: the CustomResourceDefinitions, made of the Rust types;
//! - `bench`: this program and others, measured on the same work;
//! - `fuzz`: bytes and orders of events that nobody thought of;
//! - `cargo`, `progress`: running cargo and its tools, and telling what is done.

mod again;
mod bench;
mod cargo;
mod crds;
mod demo;
mod fuzz;
mod progress;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// What cargo alone cannot do
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Two racks of nodes under a spine, in network namespaces: real programs, real packets
    Demo(demo::Arguments),
    /// Every check and every test, as CI runs them
    Test(test::Arguments),
    /// Write the CustomResourceDefinitions to deploy/crds
    Crds(crds::Arguments),
    /// This program and other BGP daemons, measured on the same work
    Bench(bench::Arguments),
    /// Look for bytes, and orders of events, that break the BGP engine
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Crds(arguments) => crds::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{} {error:#}", progress::bad("error:"));
            ExitCode::FAILURE
        }
    }
}

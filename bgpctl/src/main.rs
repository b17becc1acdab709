//! `bgpctl`: asks speakers and the controller, and tells them what to do.

mod pki;

use clap::Parser;

/// Ask speakers and the controller, and tell them what to do
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Make an authority, and certificates for the controller, nodes and operators
    #[command(subcommand)]
    Pki(pki::Command),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Pki(command) => Ok(pki::run(&command)?),
    }
}

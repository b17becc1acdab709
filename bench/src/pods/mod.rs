//! Containers' networks: how long a runtime waits for one ([`attach`]), and how fast it is ([`traffic`]).
//!
//! Containers are network namespaces. Everything takes turns within one run.

pub(crate) mod attach;
mod estimate;
mod figures;
mod paths;
mod percentile;
mod plugin;
mod stream;
pub(crate) mod traffic;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// In which order so many take their turns: each is first as often as another, and behind each of the others.
fn order(turn: usize, number: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..number).map(|place| (place + turn) % number).collect();
    if (turn / number) % 2 == 1 {
        order.reverse();
    }
    order
}

/// Where the static release build of our plugin is: what an installation has.
///
/// # Errors
///
/// When it is not there, with the command that builds it.
fn ours(binaries: &Path) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let program = binaries
        .with_file_name(&target)
        .join("release")
        .join(lab::cni::PLUGIN);
    ensure!(
        program.is_file(),
        "{} is not there; cargo build --release --target {target} -p {} (rustup target add {target})",
        program.display(),
        lab::cni::PLUGIN
    );
    Ok(program)
}

//! `routeshare-bfd`: keeps a node's BFD sessions, apart from the speaker so that they go on while
//! the speaker restarts. Arguments, logging, signals.
//!
//! - `hot.rs`: the thread that packets go through;
//! - `udp.rs`: its sockets; `realtime.rs`: its priority;
//! - `control.rs`: the speaker's side; `desired.rs`: what it wants; `socket.rs`: where it asks.

mod control;
mod desired;
mod hot;
mod realtime;
mod socket;
mod udp;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;

/// Keeps the BFD sessions (RFC 5880) that a speaker on this host wants.
#[derive(Debug, Parser)]
#[command(name = "routeshare-bfd", version)]
struct Args {
    /// Where the speaker subscribes.
    #[arg(long, value_name = "PATH", default_value = "/run/routeshare/bfd.sock")]
    socket: PathBuf,
    /// How long sessions stay when the speaker is away.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    grace_seconds: u32,
    /// Real-time priority (SCHED_FIFO) of the thread that packets go through; 0: none.
    #[arg(long, value_name = "1-99", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=99))]
    realtime_priority: u8,
    /// Log as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    start_logging(args.log_json);
    // Packets have a thread of their own; here is only the speaker's side.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let listener = socket::bind(&args.socket).await?;
    // The C bit: sessions that outlive their subscriber do not share its fate.
    let independent = args.grace_seconds > 0;
    let (hot, told, thread) = hot::start(args.realtime_priority, independent)
        .context("cannot receive BFD packets; another BFD daemon may be running on this host")?;
    let grace = Duration::from_secs(args.grace_seconds.into());
    let (service, keeper) = control::start(hot.clone(), told, grace);
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        result = server => result.context("the socket is closed")?,
        _ = keeper => anyhow::bail!("the thread of the packets has ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Left behind, it is replaced at the next start.
    let _ = std::fs::remove_file(&args.socket);
    hot.order(hot::Order::Stop);
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread of the packets has panicked"))?;
    tracing::info!("stopped; the other sides were told AdminDown");
    Ok(())
}

/// To standard error; `RUST_LOG` chooses what.
fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if json {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }
}

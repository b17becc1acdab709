//! `routeshare-bfd`: keeps a node's BFD sessions, apart from the speaker so that they go on while
//! the speaker restarts. Arguments, logging, signals.
//!
//! - `hot.rs`: the thread that packets go through;
//! - `udp.rs`: its sockets; `echo.rs`: those of the Echo function; `realtime.rs`: its priority;
//! - `last_life.rs`: what the next process needs to go on with the sessions;
//! - `control.rs`: the speaker's side; `desired.rs`: what it wants; `socket.rs`: where it asks;
//! - `turn.rs`: one process at a time.

mod control;
mod desired;
mod echo;
mod hot;
mod last_life;
mod realtime;
mod socket;
mod turn;
mod udp;

use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;

use last_life::{Place, Store};

/// Exit code of one that has left for good, so that systemd does not start it again.
const LEFT: u8 = 100;

/// Keeps the BFD sessions (RFC 5880) that a speaker on this host wants
///
/// The log goes to standard error; RUST_LOG filters it (such as `debug`).
#[derive(Debug, Parser)]
#[command(name = "routeshare-bfd", version)]
struct Args {
    /// Where the speaker subscribes.
    #[arg(long, value_name = "PATH", default_value = "/run/routeshare/bfd.sock")]
    socket: PathBuf,
    /// How many seconds sessions stay when the speaker is away; 0: they end with it.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    grace_seconds: u32,
    /// Real-time priority (SCHED_FIFO) of the thread that packets go through; 0: none.
    #[arg(long, value_name = "0-99", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=99))]
    realtime_priority: u8,
    /// What the other sides are told on SIGTERM and SIGINT: nothing, because another process goes on
    /// with the sessions, or AdminDown. (SIGHUP: this process makes room for the program that has its
    /// name now. SIGUSR1: AdminDown, exit code 100.)
    #[arg(long, value_enum, default_value = "coming-back")]
    on_stop: Departure,
    /// Where another process serves the socket, wait until it ends and go on with its sessions, as the
    /// pods of a rolling update do.
    #[arg(long)]
    take_turns: bool,
    /// Log as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    // Its name now: later it may be the name of another build.
    let program = std::env::current_exe().context("cannot find the running program")?;
    let args = Args::parse();
    start_logging(args.log_json);
    // Packets have a thread of their own; here is only the speaker's side.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(args, program))
}

/// Why this process ends, which decides what the other sides are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Departure {
    /// Nothing: another process goes on with the sessions before anybody misses them.
    ComingBack,
    /// AdminDown.
    Leaving,
    /// As `ComingBack`; this process is replaced by the program that now has its name.
    #[value(skip)]
    Again,
}

async fn run(args: Args, program: PathBuf) -> anyhow::Result<ExitCode> {
    // Before anything is opened, so that no signal finds us unprepared.
    let mut stop = std::pin::pin!(stop_signal(args.on_stop)?);
    let turn = tokio::select! {
        turn = turn::Turn::take(&args.socket, args.take_turns) => turn?,
        _ = &mut stop => {
            tracing::info!("stopped before its turn came");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let listener = socket::bind(&args.socket).await?;
    let place = Place::beside(&args.socket);
    let last_life = place.read();
    let receivers = turn
        .after_the_last(udp::Receiver::all)
        .context("cannot receive BFD packets; another BFD daemon may be running on this host")?;
    let store = Store::create(&place);
    if let Err(error) = &store {
        tracing::warn!(%error, "sessions are not remembered: after a restart they begin anew");
    }
    // The C bit: sessions that outlive their subscriber do not share its fate.
    let independent = args.grace_seconds > 0;
    let records = &last_life.records;
    let priority = args.realtime_priority;
    let (hot, told, thread) = hot::start(receivers, priority, independent, records, store.ok())
        .context("cannot start the thread that packets go through")?;
    if let Some(wanted) = &last_life.wanted {
        tracing::info!(
            sessions = wanted.sessions.len(),
            silent_millis = last_life.silence().as_millis(),
            "going on with the sessions of the last process"
        );
    }
    let grace = Duration::from_secs(args.grace_seconds.into());
    let wanted = last_life.wanted;
    let (service, keeper) = control::start(hot.clone(), told, grace, place.clone(), wanted);
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    let departure = tokio::select! {
        result = server => return result.map(|()| ExitCode::FAILURE).context("the socket is closed"),
        _ = keeper => anyhow::bail!("the thread of the packets has ended"),
        departure = &mut stop => departure,
    };
    let leaving = departure == Departure::Leaving;
    hot.order(hot::Order::Stop { leaving });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the thread of the packets has panicked"))?;
    if departure == Departure::Again {
        tracing::info!(program = %program.display(), "another process takes our place");
        // Returns only if it cannot be started.
        let error = Command::new(&program)
            .args(std::env::args_os().skip(1))
            .exec();
        return Err(error).with_context(|| format!("cannot start {}", program.display()));
    }
    // Left behind, it is replaced at the next start.
    let _ = std::fs::remove_file(&args.socket);
    if leaving {
        place.forget();
        tracing::info!("stopped; the other sides were told AdminDown");
        return Ok(ExitCode::from(LEFT));
    }
    tracing::info!("stopped; the next process goes on with the sessions");
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal that ends us.
fn stop_signal(on_stop: Departure) -> anyhow::Result<impl Future<Output = Departure>> {
    let wait = |kind, name| signal(kind).with_context(|| format!("cannot wait for {name}"));
    let mut terminate = wait(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = wait(SignalKind::interrupt(), "SIGINT")?;
    let mut hang_up = wait(SignalKind::hangup(), "SIGHUP")?;
    let mut user = wait(SignalKind::user_defined1(), "SIGUSR1")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => on_stop,
            _ = interrupt.recv() => on_stop,
            _ = hang_up.recv() => Departure::Again,
            _ = user.recv() => Departure::Leaving,
        }
    })
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

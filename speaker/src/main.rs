//! `routeshare-speaker`: makes one node's configuration true. Arguments, logging, signals.

mod admin;
mod bfd;
mod clock;
mod cni_conf;
mod daemon;
mod desired;
mod fib;
mod health;
mod host;
mod keys;
mod last_life;
mod leases;
mod limits;
mod memory;
mod metrics;
mod names;
mod nexthops;
mod report;
mod speaker;
mod transport;

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use daemon::Departure;
use desired::Origin;
use desired::controller::{Address, Options};
use speaker::{Settings, Speaker};

/// Threads beside the loop (main thread) and the kernel's side: they move bytes and answer questions.
const WORKERS: usize = 2;

/// Speaks BGP for one node and installs what it learns, as its configuration says
///
/// SIGTERM and SIGINT stop it; kernel routes stay. The log goes to standard error; RUST_LOG filters it
/// (such as `debug` or `info,routeshare_speaker=debug`).
#[derive(Debug, Parser)]
#[command(name = "routeshare-speaker", version)]
#[command(group(clap::ArgGroup::new("source").args(["controller", "standalone"]).required(true)))]
struct Args {
    /// This node's name.
    #[arg(long, env = "NODE_NAME")]
    node: String,

    /// Where the configuration comes from: https://HOST:PORT (or tcp://HOST:PORT, as kubelet writes a
    /// Service's address), or with --insecure http://127.0.0.1:PORT or unix:PATH.
    #[arg(long, value_name = "URL")]
    controller: Option<String>,
    /// The authority that signed the controller's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "controller")]
    ca: Option<PathBuf>,
    /// This node's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "controller")]
    cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, value_name = "FILE", requires = "controller")]
    key: Option<PathBuf>,
    /// Instead of a certificate: this pod's service-account token for the controller (audience
    /// routeshare-controller). It is read again when it is replaced.
    #[arg(long, value_name = "FILE", requires = "controller", conflicts_with_all = ["cert", "key"])]
    token: Option<PathBuf>,
    /// What the controller's certificate must say, where that is not the URL's host.
    #[arg(long, value_name = "NAME", requires = "controller")]
    controller_name: Option<String>,
    /// Allow a controller without TLS, on this host.
    #[arg(long, requires = "controller", conflicts_with_all = ["ca", "cert", "key", "token"])]
    insecure: bool,

    /// No controller: plan from local files, for this host alone.
    #[arg(long, requires = "resources")]
    standalone: bool,
    /// Directory of resource files (.yaml, .yml), watched.
    #[arg(long, value_name = "DIR", requires = "standalone")]
    resources: Option<PathBuf>,

    /// Where the last configuration in force is kept, and what the next start has to know of this one.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/routeshare")]
    state_dir: PathBuf,
    /// Where `bgpctl` asks.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/routeshare/speaker.sock"
    )]
    socket: PathBuf,
    /// Where keys out of Kubernetes Secrets are kept; made when it is needed, and only used on a tmpfs.
    #[arg(long, value_name = "DIR", default_value = "/run/routeshare/keys")]
    keys: PathBuf,
    /// Where routeshare-bfd keeps the BFD sessions of peers that ask for them.
    #[arg(long, value_name = "PATH", default_value = "/run/routeshare/bfd.sock")]
    bfd_socket: PathBuf,
    /// Serve Prometheus metrics here, at /metrics, and answers for probes, at /healthz (its loop takes its
    /// turns) and /readyz (it works by a configuration, and has told its peers everything after a restart).
    /// Nowhere when not given.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Listen for BGP on this address only; may be given more than once. All addresses of both families when
    /// not given. The port is the configuration's (Fabric spec.listenPort; 179).
    #[arg(long, value_name = "ADDR")]
    listen: Vec<IpAddr>,
    /// Where the container runtime looks for network configurations (/etc/cni/net.d): one for the plugin
    /// routeshare-cni is written there once the node has a subnet and the route towards the fabric stands.
    /// Without this pods get no network from us.
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Where the plugin finds what it has to know of the node, and keeps who has which address; the folder
    /// cni of the state directory when not given. The plugin's configuration names it.
    #[arg(long, value_name = "DIR")]
    cni_data_dir: Option<PathBuf>,
    /// Where the kernel's settings for the network are, which are set and checked for pods; in a pod, where
    /// /proc/sys is read-only, a mount of the host's /proc/sys/net.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys/net")]
    sysctl_dir: PathBuf,
    /// What peers are told on SIGTERM and SIGINT: nothing, or that this node leaves for good. Kernel
    /// routes stay in both cases.
    #[arg(long, value_enum, default_value = "coming-back")]
    on_stop: Departure,
    /// Log as JSON, one object a line.
    #[arg(long)]
    log_json: bool,
}

fn main() -> anyhow::Result<()> {
    memory::give_large_blocks_back();
    let args = Args::parse();
    start_logging(args.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(2)
        .thread_name("io")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // The loop runs here, on the main thread, and so never waits behind other tasks.
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let origin = origin(&args)?;
    let data_dir = (args.cni_data_dir).unwrap_or_else(|| args.state_dir.join("cni"));
    let host = host::Settings {
        pods: args.cni_conf_dir.is_some(),
        sysctls: args.sysctl_dir,
    };
    let cni = cni_conf::Settings {
        conf_dir: args.cni_conf_dir,
        // The plugin is started somewhere else.
        data_dir: std::path::absolute(data_dir).context("cannot use --cni-data-dir")?,
    };
    let settings = Settings {
        node: args.node,
        origin,
        state_dir: args.state_dir,
        socket: args.socket,
        bfd_socket: args.bfd_socket,
        keys: args.keys,
        metrics: args.metrics,
        listen: args.listen,
        cni,
        host,
    };
    // Before anything is opened, so that no signal finds us unprepared.
    let stop = stop_signal(args.on_stop)?;
    tracing::info!(node = %settings.node, software = report::SOFTWARE, "starting");
    let speaker = Speaker::start(settings).await?;
    speaker.run(stop).await;
    tracing::info!("stopped");
    Ok(())
}

fn origin(args: &Args) -> anyhow::Result<Origin> {
    if let Some(directory) = &args.resources {
        return Ok(Origin::Files(directory.clone()));
    }
    let text = args
        .controller
        .as_deref()
        .context("give --controller or --standalone")?;
    let options = Options {
        ca: args.ca.clone(),
        cert: args.cert.clone(),
        key: args.key.clone(),
        token: args.token.clone(),
        name: args.controller_name.clone(),
        insecure: args.insecure,
    };
    Ok(Origin::Controller(
        Address::new(text, options).context("cannot use --controller")?,
    ))
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal(departure: Departure) -> anyhow::Result<impl Future<Output = Departure>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        departure
    })
}

/// To standard error; `RUST_LOG` chooses what.
fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        let colours = std::io::stderr().is_terminal();
        builder.with_target(false).with_ansi(colours).init();
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

    #[test]
    fn a_speaker_has_a_controller_or_files_and_not_both() {
        let parse = |words: &[&str]| {
            Args::try_parse_from(["speaker", "--node", "a"].iter().chain(words))
                .map_err(|error| error.to_string())
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--controller", "https://c:1"]).is_ok());
        assert!(
            parse(&["--standalone"])
                .unwrap_err()
                .contains("--resources")
        );
        assert!(parse(&["--standalone", "--resources", "r"]).is_ok());
        let with_token = ["--controller", "https://c:1", "--token", "t"];
        assert!(parse(&with_token).is_ok());
        assert!(parse(&[&with_token[..], &["--cert", "c"]].concat()).is_err());
        assert!(parse(&[&with_token[..], &["--insecure"]].concat()).is_err());
        assert!(parse(&["--standalone", "--resources", "r", "--controller", "x"]).is_err());
    }
}

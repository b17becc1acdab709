//! `routeshare-controller`: gives every node its subnets and its configuration.
//!
//! ```text
//!  directory ──► source::files ──────┐
//!                                  watch─► reconcile ─commit─► store
//!  API server ─► source::kubernetes ─┘      │  ▲ reports
//!       ▲                   view (watch) ◄──┤  │
//!       └─ leader                │          ▼  │
//!                admin, metrics ◄┘         registry ◄─► serve: one stream and one tunnel per speaker
//! ```
//!
//! Tasks of our own: a source reads the resources, `reconcile` decides and writes the store, and for
//! each stream one reads the speaker's reports. All else runs in gRPC handlers, which only look at what
//! these tasks publish. In a cluster (`kubernetes`) there may be several controllers, of which `leader`
//! lets one work; the others only say who does.

mod admin;
mod authority;
mod clock;
mod gates;
mod identity;
mod key_stream;
mod kubernetes;
mod leader;
mod listen;
mod memory;
mod metrics;
mod names;
mod pauses;
mod planning;
mod projections;
mod reconcile;
mod registry;
mod secrets;
mod serve;
mod source;
mod standing;
mod status;
mod store;
mod tls;
mod tunnel;

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::identity::Trust;
use crate::listen::Services;
use crate::reconcile::Reconciler;
use crate::registry::Registry;
use crate::source::files::Files;
use crate::standing::Lead;
use crate::store::Store;
use crate::store::file::FileStore;
use crate::tls::{Tls, TlsFiles};

/// What `--listen` needs.
const NO_CERTIFICATES: &str = "--listen needs --ca, --cert and --key (`bgpctl pki` makes them); only with \
    --kubernetes the controller keeps an authority itself";

/// How long open requests have to end after SIGTERM.
const STOP: Duration = Duration::from_secs(5);

/// Gives every node of a cluster its subnets and its BGP configuration
///
/// SIGTERM stops it. SIGHUP reads the resources again and accepts removals that were held back
/// because they look like an accident. The log goes to standard error; RUST_LOG filters it (such as
/// `debug` or `info,routeshare_controller=debug`).
#[derive(Debug, Parser)]
#[command(name = "routeshare-controller", version)]
#[command(group(clap::ArgGroup::new("source").args(["resources", "kubernetes"]).required(true)))]
struct Args {
    /// Directory of YAML files (.yaml, .yml) with the resources; watched
    #[arg(long, value_name = "DIR", requires = "state")]
    resources: Option<PathBuf>,
    /// File that keeps what was given to whom; made when it is not there
    #[arg(long, value_name = "FILE", requires = "resources")]
    state: Option<PathBuf>,
    /// Take nodes and resources from a Kubernetes cluster, and keep there what was given to whom
    #[arg(long, conflicts_with_all = ["resources", "state"])]
    kubernetes: bool,
    #[command(flatten)]
    cluster: kubernetes::Options,
    /// Where speakers and operators connect, with TLS, such as 0.0.0.0:7443 or [::]:7443 (all addresses of
    /// both families); may be given again. Without it only --socket is there
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// The authority's certificate; those of clients must be of it
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// The controller's certificate
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// The key of the controller's certificate
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"])]
    key: Option<PathBuf>,
    /// Where anybody can connect without TLS and do everything; loopback addresses only; may be given again
    #[arg(long, value_name = "ADDR:PORT")]
    insecure_listen: Vec<SocketAddr>,
    /// Allow --insecure-listen on other than loopback addresses
    #[arg(long)]
    insecure_allow_remote: bool,
    /// Unix socket for operators on this host, for its owner only
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/routeshare/controller.sock"
    )]
    socket: PathBuf,
    /// Where Prometheus asks for /metrics, and probes for /healthz (it answers) and /readyz; nowhere when not
    /// given
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

fn main() -> anyhow::Result<()> {
    memory::keep_pages_small();
    let args = Args::parse();
    start_logging(args.log_json);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run(args))
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
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_target(false).with_ansi(colours).init();
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    // An error only says that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(address) = args.insecure_listen.iter().find(|a| !a.ip().is_loopback())
        && !args.insecure_allow_remote
    {
        bail!(
            "--insecure-listen {address} would let the whole network command this cluster; use \
             --listen with certificates (bgpctl pki), or say --insecure-allow-remote as well"
        );
    }
    let mut signals = Signals::new().context("cannot handle signals")?;
    match (&args.resources, &args.state) {
        (Some(resources), Some(state)) if !args.kubernetes => {
            let (resources, state) = (resources.clone(), state.clone());
            with_files(args, resources, &state, &mut signals).await
        }
        _ => kubernetes::run(args, &mut signals).await,
    }
}

/// Alone, with resources in a directory.
async fn with_files(
    args: Args,
    directory: PathBuf,
    state: &Path,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    // Before a state file is made: that there was none is told once.
    let tls = args.tls_files(false).map(tls::Files::new).transpose()?;
    if tls.is_none() && !args.listen.is_empty() {
        bail!(NO_CERTIFICATES);
    }
    // The lock on the state file comes before the socket: a second controller must not take that over.
    let (store, contents) = FileStore::open(state)?;
    let shutdown = CancellationToken::new();
    let registry = Arc::new(Registry::default());
    let stored = &contents.resources;
    let stored = (stored.generation > 0).then(|| (stored.files.clone(), stored.loaded));
    let files = tokio::task::spawn_blocking(|| Files::new(directory, stored)).await?;
    let source = files.subscribe();
    let view = watch::Sender::default();
    let services = Services {
        registry: Arc::clone(&registry),
        view: view.subscribe(),
        source: source.clone(),
        lead: Lead::alone(),
        secrets: None,
        written: None,
        shutdown: shutdown.clone(),
    };
    let tls = tls.map(|files| Arc::new(Tls::Files(files)));
    let guard = Guard {
        tls,
        trust: Trust::Certificates,
    };
    let lead = services.lead.clone();
    let store = Store::File(store);
    let reconciler = Reconciler::new(store, Some(contents), registry, source, view, lead, None);
    let mut tasks = JoinSet::new();
    listen(&args, &services, &guard, &mut tasks).await?;
    let (confirm, confirmed) = mpsc::channel(1);
    let watching = tokio::spawn(files.run(confirmed, shutdown.clone()));
    let reconciling = tokio::spawn(reconciler.run(shutdown.clone()));

    let outcome = supervise(&mut tasks, signals, &confirm, &shutdown).await;
    shutdown.cancel();
    // A commit that has begun is finished.
    let working = async { drop(tokio::join!(watching, reconciling)) };
    stop(&args, tasks, working).await;
    outcome
}

impl Args {
    /// The certificates that were given.
    fn tls_files(&self, may_lack_certificates: bool) -> Option<TlsFiles> {
        Some(TlsFiles {
            ca: self.ca.clone()?,
            cert: self.cert.clone()?,
            key: self.key.clone()?,
            may_lack_certificates,
        })
    }
}

/// How the TLS ports find out who is there, and show who we are.
struct Guard {
    tls: Option<Arc<Tls>>,
    trust: Trust,
}

/// Starts every listener.
async fn listen(
    args: &Args,
    services: &Services,
    guard: &Guard,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let shutdown = &services.shutdown;
    for address in &args.listen {
        let tls = guard.tls.clone().context(NO_CERTIFICATES)?;
        let listener = bind(*address).await?;
        let server = services.server(&guard.trust).await?;
        info!(address = %listener.local_addr()?, "listening with TLS");
        tasks.spawn(listen::tcp(server, listener, Some(tls), shutdown.clone()));
    }
    for address in &args.insecure_listen {
        let listener = bind(*address).await?;
        let server = services.server(&Trust::Everybody).await?;
        warn!(address = %listener.local_addr()?, "listening without TLS: anybody who can connect may do everything");
        tasks.spawn(listen::tcp(server, listener, None, shutdown.clone()));
    }
    let socket = listen::bind_unix(&args.socket)
        .with_context(|| format!("cannot listen on {}", args.socket.display()))?;
    let server = services.server(&Trust::Everybody).await?;
    info!(socket = %args.socket.display(), "listening");
    tasks.spawn(listen::unix(server, socket, shutdown.clone()));
    if let Some(address) = args.metrics {
        let numbers = metrics::Numbers {
            registry: Arc::clone(&services.registry),
            view: services.view.clone(),
            source: services.source.clone(),
            written: services.written.clone(),
        };
        let listener = bind(address).await?;
        info!(address = %listener.local_addr()?, "metrics");
        let serving = metrics::serve(listener, numbers, shutdown.clone());
        tasks.spawn(async { serving.await.context("metrics") });
    }
    Ok(())
}

/// Waits for what was told to end.
async fn stop(args: &Args, mut tasks: Tasks, working: impl Future<Output = ()>) {
    let stopping = async {
        while tasks.join_next().await.is_some() {}
        working.await;
    };
    if tokio::time::timeout(STOP, stopping).await.is_err() {
        warn!("some connections did not end in time");
    }
    let _ = std::fs::remove_file(&args.socket); // the next start removes it otherwise
    info!("stopped");
}

/// Listeners; none of them ends by itself.
type Tasks = JoinSet<anyhow::Result<()>>;

/// Signals we act on; without this each of them would end the program at once.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

/// Returns when the controller is to stop: it was told to, or a listener failed.
async fn supervise(
    tasks: &mut Tasks,
    signals: &mut Signals,
    confirm: &mpsc::Sender<()>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.reload.recv() => {
                info!("SIGHUP: reading the resources again, removals are meant");
                let _ = confirm.try_send(()); // full: one is waiting already
            }
            () = shutdown.cancelled() => bail!("a part of the controller failed; see the log"),
            Some(ended) = tasks.join_next() => {
                ended.context("a listener panicked")??;
                bail!("a listener ended");
            }
        }
    }
}

/// Listens on `address`; `[::]` means all addresses of both families, also on a host without IPv6.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            info!(%address, "this host has no IPv6: listening on all its IPv4 addresses");
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}"))
}

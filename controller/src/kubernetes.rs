//! The controller in a Kubernetes cluster: the API server has the nodes, the resources and what was
//! given to whom; of several controllers one leads.
//!
//! ```text
//!  leader ─► leading ─► store ─► source::kubernetes ─► reconcile
//!     └─ Standing ─► every service: answer, or say who leads
//! ```
//!
//! A controller that stands by has listeners and a watch on the Lease, and nothing else. Who stops
//! leading without having been told to ends: a process that begins anew cannot act on what it knew.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::authority::{Keeper, Limits};
use crate::identity::{Tokens, Trust};
use crate::leader::{Candidate, Elector, Lost, Standing};
use crate::listen::Services;
use crate::projections::Projections;
use crate::reconcile::{Reconciler, View};
use crate::registry::Registry;
use crate::secrets::Secrets;
use crate::source::SourceState;
use crate::source::kubernetes::Cluster;
use crate::standing::Lead;
use crate::status::{self, Status};
use crate::store::Store;
use crate::store::kubernetes::KubernetesStore;
use crate::tls::{self, Tls};
use crate::{Args, Guard, Signals};

/// How long a leader that stops waits for the next one, to tell its speakers where to go.
const SUCCESSOR: Duration = Duration::from_secs(3);

/// How long a leader in which something failed looks whether somebody else leads: two requests about the
/// Lease may take so long.
const VERDICT: Duration = Duration::from_secs(4);

/// What is said of the cluster on the command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How to reach the API server; default: KUBECONFIG, else the pod's service account
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the controller's own objects
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = crd::names::NAMESPACE,
    )]
    namespace: String,
    /// This controller's name in the election; default: the host's name
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod: Option<String>,
    /// Where speakers and operators reach this controller while it leads; default: POD_IP and the
    /// port of the first --listen
    #[arg(long, value_name = "HOST:PORT", requires = "kubernetes")]
    advertise: Option<String>,
    /// This pod's address
    #[arg(long, env = "POD_IP", hide = true)]
    pod_ip: Option<IpAddr>,
    /// A further name or address by which speakers and operators reach the controllers, for the
    /// certificate that is made where --ca, --cert and --key are not given; may be given again
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    serving_name: Vec<String>,
    /// How long an authority for such certificates is good; the next one is made in time
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = duration)]
    ca_validity: Duration,
    /// How long such a certificate is good; another one is made in time
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    certificate_validity: Duration,
    /// How long everybody has to learn of the next authority before it is used (kubelet takes up to two
    /// minutes)
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    ca_publish: Duration,
}

/// Reads `30s`, `10m`, `24h` or `365d`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let read = units.into_iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(seconds)
    });
    match read {
        Some(seconds @ 1..=3_153_600_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("allowed: a whole number and s, m, h or d, such as 30s or 365d".to_owned()),
    }
}

/// Runs until it is told to stop, or must not go on.
pub(crate) async fn run(args: Args, signals: &mut Signals) -> anyhow::Result<()> {
    let options = &args.cluster;
    let client = client(options).await?;
    let namespace = options.namespace.as_str();
    let candidate = Candidate::new(options.pod()?, options.address(&args)?);
    let identity = candidate.identity().to_owned();
    info!(identity, namespace, "standing by");
    let elector = Elector::new(candidate, Api::namespaced(client.clone(), namespace));
    let standing = elector.standing();

    let (view, source) = (watch::Sender::default(), watch::Sender::default());
    let written = status::Numbers::default();
    let services = Services {
        registry: Arc::new(Registry::default()),
        view: watch::Sender::subscribe(&view),
        source: watch::Sender::subscribe(&source),
        lead: Lead::new(standing.clone()),
        secrets: Some(Arc::new(Secrets::new(namespace))),
        written: Some(written.clone()),
        shutdown: CancellationToken::new(),
    };
    let mut tasks = JoinSet::new();
    let guard = guard(&args, &client, &services.shutdown, &mut tasks)?;
    crate::listen(&args, &services, &guard, &mut tasks).await?;
    let resign = CancellationToken::new();
    let electing = elector.run(resign.clone(), services.shutdown.clone());
    tasks.spawn(async move { Ok(electing.await?) });

    let work = Work {
        client,
        namespace: namespace.to_owned(),
        identity,
        lead: services.lead.clone(),
        registry: Arc::clone(&services.registry),
        secrets: services.secrets.clone(),
        view,
        source,
        written,
        stop: CancellationToken::new(),
    };
    let stop = work.stop.clone();
    let mut working = tokio::spawn(work.run(standing.clone()));
    let (confirm, _never) = mpsc::channel(1);
    let (outcome, worked) = tokio::select! {
        outcome = crate::supervise(&mut tasks, signals, &confirm, &stop) => (outcome, None),
        ended = &mut working => {
            let unasked = Err(anyhow::anyhow!("a part of the controller ended; see the log"));
            (unasked, Some(joined(ended)))
        }
    };
    // First nothing is decided any more, then the Lease is free, then the speakers go to whoever has
    // it: nobody acts on what two say.
    stop.cancel();
    let led = matches!(*standing.borrow(), Standing::Leading);
    let worked = match worked {
        Some(worked) => worked,
        None => match tokio::time::timeout(crate::STOP, &mut working).await {
            Ok(ended) => joined(ended),
            Err(_) => Ok(()), // what it would say is not worth more waiting
        },
    };
    let outcome = match outcome {
        Ok(()) => Ok(()),
        Err(error) => Err(cause(error, worked, &mut tasks).await),
    };
    resign.cancel();
    if led && outcome.is_ok() {
        successor(standing).await;
    }
    services.shutdown.cancel();
    crate::stop(&args, tasks, std::future::ready(())).await;
    outcome
}

fn joined(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.context("a part of the controller panicked")?
}

/// Why this process really ends: a part of it that failed says more than that one did, and that somebody
/// else leads by now explains whatever failed.
async fn cause(
    error: anyhow::Error,
    worked: anyhow::Result<()>,
    tasks: &mut crate::Tasks,
) -> anyhow::Error {
    if error.is::<Lost>() {
        return error;
    }
    match tokio::time::timeout(VERDICT, tasks.join_next()).await {
        Ok(Some(Ok(Err(lost)))) if lost.is::<Lost>() => lost,
        _ => worked.err().unwrap_or(error),
    }
}

/// Tokens say who is there, or certificates of the authority that was given; without one the controllers
/// keep their own.
fn guard(
    args: &Args,
    client: &Client,
    shutdown: &CancellationToken,
    tasks: &mut crate::Tasks,
) -> anyhow::Result<Guard> {
    let options = &args.cluster;
    let tls = match args.tls_files(true) {
        Some(files) => Tls::Files(tls::Files::new(files)?),
        None => {
            let limits = Limits {
                authority: options.ca_validity,
                certificate: options.certificate_validity,
                publish: options.ca_publish,
            };
            let addresses = args.listen.iter().map(SocketAddr::ip);
            let addresses = addresses.filter(|ip| !ip.is_unspecified());
            let addresses = addresses.chain(options.pod_ip).map(|ip| ip.to_string());
            let names = options.serving_name.iter().cloned().chain(addresses);
            let (keeper, issued) =
                Keeper::new(client.clone(), &options.namespace, names.collect(), limits);
            let shutdown = shutdown.clone();
            tasks.spawn(async {
                keeper.run(shutdown).await;
                Ok(())
            });
            Tls::Issued(issued)
        }
    };
    let tokens = Tokens::new(client.clone(), options.namespace.clone());
    Ok(Guard {
        tls: Some(Arc::new(tls)),
        trust: Trust::Tokens(Arc::new(tokens)),
    })
}

/// Returns when somebody else leads, or nobody does for a while.
async fn successor(mut standing: watch::Receiver<Standing>) {
    let known = |standing: &Standing| matches!(standing, Standing::Standby { leader: Some(_) });
    let _ = tokio::time::timeout(SUCCESSOR, standing.wait_for(known)).await;
}

/// What only the leader does.
struct Work {
    client: Client,
    namespace: String,
    /// Who we are in the Lease.
    identity: String,
    lead: Lead,
    registry: Arc<Registry>,
    secrets: Option<Arc<Secrets>>,
    view: watch::Sender<View>,
    source: watch::Sender<SourceState>,
    /// How many writes of status there were.
    written: status::Numbers,
    stop: CancellationToken,
}

impl Work {
    /// Waits until this controller leads, and works until it is told to stop.
    async fn run(self, mut standing: watch::Receiver<Standing>) -> anyhow::Result<()> {
        tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            leading = standing.wait_for(|standing| *standing == Standing::Leading) => drop(leading?),
        }
        let identity = self.identity;
        let store = KubernetesStore::new(
            self.client.clone(),
            &self.namespace,
            identity.clone(),
            Handle::current(),
        );
        let cluster = Cluster::new(
            self.client.clone(),
            &self.namespace,
            identity.clone(),
            self.source,
        );
        let published = cluster.subscribe();
        let projections = Projections::new(
            self.client.clone(),
            store.check(),
            self.view.subscribe(),
            published.nodes.clone(),
        );
        let status = Status {
            client: self.client.clone(),
            pod: identity.clone(),
            registry: Arc::clone(&self.registry),
            view: self.view.subscribe(),
            verdicts: published.verdicts,
            nodes: published.nodes,
            numbers: self.written,
        };
        let reconciler = Reconciler::new(
            Store::Kubernetes(Box::new(store)),
            None,
            self.registry,
            published.state,
            self.view,
            self.lead,
            Some(projections.feedback()),
        );
        let mut tasks = JoinSet::new();
        let (watching, reconciling) = (self.stop.clone(), self.stop.clone());
        tasks.spawn(cluster.run(watching).map(Ok));
        tasks.spawn(reconciler.run(reconciling).map(Ok));
        tasks.spawn(projections.run(self.stop.clone()));
        if let Some(secrets) = self.secrets {
            tasks.spawn(secrets.run(self.client, self.stop.clone()).map(Ok));
        }
        tasks.spawn(status.run(self.stop.clone()).map(Ok));
        let ended = tasks.join_next().await;
        self.stop.cancel();
        tasks.join_all().await;
        ended
            .transpose()
            .context("a part of the controller panicked")?
            .unwrap_or(Ok(()))
    }
}

async fn client(options: &Options) -> anyhow::Result<Client> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::infer().await.context(
            "cannot tell how to reach the API server: there is neither --kubeconfig, nor KUBECONFIG, \
             nor a pod's service account",
        )?,
    };
    config.connect_timeout = Some(Duration::from_secs(3));
    let server = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("cannot talk to the API server {server}"))
}

impl Options {
    fn pod(&self) -> anyhow::Result<String> {
        if let Some(pod) = &self.pod {
            return Ok(pod.clone());
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host's name; give this controller one by --pod")?;
        Ok(name.trim().to_owned())
    }

    /// Where the others are told to come.
    fn address(&self, args: &Args) -> anyhow::Result<String> {
        if let Some(address) = &self.advertise {
            return Ok(address.clone());
        }
        let Some(listen) = args.listen.first().or(args.insecure_listen.first()) else {
            bail!("--kubernetes needs --listen: speakers connect there");
        };
        let ip = match (self.pod_ip, listen.ip()) {
            (Some(ip), _) => ip,
            (None, ip) if !ip.is_unspecified() => ip,
            (None, _) => bail!(
                "where do speakers reach this controller? --listen {listen} does not say: give \
                 --advertise HOST:PORT, or POD_IP in the environment"
            ),
        };
        Ok(SocketAddr::new(ip, listen.port()).to_string())
    }
}

//! Puts the parts together: opens what can fail at the start, then runs the loop.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::admin::{self, socket::Socket};
use crate::bfd::{Bfd, BfdEvent};
use crate::cni_conf::{self, CniConf};
use crate::daemon::{Daemon, Departure, ForPods, Questions, questions};
use crate::desired::{self, Desired, Origin};
use crate::fib::FibEvent;
use crate::host::{self, Host};
use crate::keys::Vault;
use crate::last_life::Note;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::names::{Exchange, Names};
use crate::report::Reporter;

/// What one speaker is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The node's name.
    pub(crate) node: String,
    /// Where its configuration comes from.
    pub(crate) origin: Origin,
    /// Where the last one in force is kept.
    pub(crate) state_dir: PathBuf,
    /// Where `bgpctl` asks.
    pub(crate) socket: PathBuf,
    /// Where `routeshare-bfd` answers.
    pub(crate) bfd_socket: PathBuf,
    /// Where keys out of Secrets are kept, on a tmpfs.
    pub(crate) keys: PathBuf,
    /// Where Prometheus asks.
    pub(crate) metrics: Option<SocketAddr>,
    /// Addresses to listen on for BGP; all when empty.
    pub(crate) listen: Vec<IpAddr>,
    /// Where the files for pods are.
    pub(crate) cni: cni_conf::Settings,
    /// What the host does for pods.
    pub(crate) host: host::Settings,
}

/// A speaker with everything open, before its first turn.
pub(crate) struct Speaker {
    daemon: Daemon,
    desired: Desired,
    questions: Questions,
    kernel_events: mpsc::UnboundedReceiver<FibEvent>,
    bfd_events: mpsc::Receiver<BfdEvent>,
    services: Vec<JoinHandle<()>>,
}

impl Speaker {
    /// Opens the sockets for questions and starts the tasks around the loop.
    ///
    /// # Errors
    ///
    /// What cannot be opened, and what to do about it. Nothing of the network's state has been
    /// touched then.
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Speaker> {
        let socket = Socket::bind(&settings.socket).await?;
        let metrics = match settings.metrics {
            Some(address) => Some(Metrics::bind(address).await?),
            None => None,
        };
        let (asker, questions) = questions();
        let admin = admin::routes(asker.clone()).await?;
        let (bfd, bfd_events) = Bfd::start(settings.bfd_socket);
        let (reporter, reports) = Reporter::new(&settings.node);
        let last_life = Note::new(&settings.state_dir);
        let vault = Arc::new(Vault::new(settings.keys));
        let exchange = Arc::new(Exchange::new(&settings.state_dir));
        let names = Names::start(settings.cni.data_dir.clone(), Arc::clone(&exchange))
            .context("cannot start a thread for names of containers")?;
        let for_pods = ForPods {
            cni_conf: CniConf::start(settings.cni.clone()),
            names,
            leases: Leases::start(settings.cni.data_dir),
            host: Host::start(settings.host),
        };
        let (daemon, kernel_events) = Daemon::new(
            settings.listen,
            bfd,
            reporter,
            last_life,
            Arc::clone(&vault),
            for_pods,
        );
        let source = desired::Settings {
            node: settings.node,
            origin: settings.origin,
            state_dir: settings.state_dir,
            vault,
            names: exchange,
        };
        let desired = desired::start(source, reports, admin.clone());
        let mut services = vec![tokio::spawn(async move {
            if let Err(error) = socket.serve(admin).await {
                tracing::error!(%error, "the admin socket is closed");
            }
        })];
        if let Some(metrics) = metrics {
            services.push(tokio::spawn(async move {
                if let Err(error) = metrics.serve(asker).await {
                    tracing::error!(%error, "metrics are closed");
                }
            }));
        }
        Ok(Speaker {
            daemon,
            desired,
            questions,
            kernel_events,
            bfd_events,
            services,
        })
    }

    /// Runs until `stop` says how to go.
    pub(crate) async fn run(self, stop: impl Future<Output = Departure>) {
        let Speaker {
            daemon,
            desired,
            questions,
            kernel_events,
            bfd_events,
            services,
        } = self;
        let events = (kernel_events, bfd_events);
        daemon.run(desired, questions, events, stop).await;
        for service in services {
            service.abort();
            // Its socket file goes with it; only a panic would be an error, and it was printed.
            let _ = service.await;
        }
    }
}

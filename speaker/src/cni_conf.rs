//! What the CNI plugin and the runtime find on this node: the node file and the network configuration.
//!
//! The daemon says what is wanted and, once, that pods may start; a task of its own keeps the files so
//! (`cni_conf/files.rs`), because a disk may be slow. What is there is looked at again now and then:
//! files that somebody removed come back, and a directory that was missing is tried again.
//!
//! The network configuration is written when the node has its subnets and the route towards the fabric
//! stands (`daemon/pods.rs`), and from then on it is there, whatever becomes of sessions, the
//! controller, or this program.

mod conflist;
mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ::cni::node::{self, State};
use plan::NodeConfig;
use tokio::sync::watch;

use files::Files;

/// How often what is there is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the runtime looks for network configurations; none is written when not given.
    pub(crate) conf_dir: Option<PathBuf>,
    /// Where the plugin finds the node file.
    pub(crate) data_dir: PathBuf,
}

/// What the files are to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    subnets: Vec<node::Subnet>,
    /// When it is not known, what the node file says stays.
    mtu: Option<u32>,
    cooldown_seconds: u64,
    chained: Vec<String>,
    sysctls: BTreeMap<String, String>,
    /// The domain of the resolver for names of containers, where there is one.
    names: Option<String>,
    /// Pods may start; never false again.
    ready: bool,
}

/// How the files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    /// The network configuration is there.
    stands: bool,
    problems: Vec<(&'static str, String)>,
}

/// The daemon's end.
pub(crate) struct CniConf {
    writes: bool,
    wanted: watch::Sender<Option<Wanted>>,
    found: watch::Receiver<Found>,
    /// The MTU that the Fabric says, and that of the path.
    said_mtu: Option<u32>,
    path_mtu: Option<u32>,
    /// What pods wait for, as last looked at.
    waits: Option<String>,
}

impl CniConf {
    /// Starts the task. Nothing is written before [`CniConf::configure`].
    pub(crate) fn start(settings: Settings) -> CniConf {
        let (wanted, wanted_by) = watch::channel(None);
        let (finds, found) = watch::channel(Found::default());
        let writes = settings.conf_dir.is_some();
        tokio::spawn(keep(Files::new(settings), wanted_by, finds));
        CniConf {
            writes,
            wanted,
            found,
            said_mtu: None,
            path_mtu: None,
            waits: None,
        }
    }

    /// What is in force says this of pods.
    pub(crate) fn configure(&mut self, config: &NodeConfig) {
        self.said_mtu = config.pods.mtu;
        let mtu = self.mtu();
        let pods = &config.pods;
        let ready = self.wanted.borrow().as_ref().is_some_and(|it| it.ready);
        self.want(Wanted {
            subnets: config.subnets.iter().map(subnet).collect(),
            mtu,
            cooldown_seconds: pods.cooldown_seconds.into(),
            names: pods.names.as_ref().map(|names| names.domain.clone()),
            chained: pods.chained.clone(),
            sysctls: pods.sysctls.clone(),
            ready,
        });
    }

    /// The MTU of the path changed, or is not known any more.
    pub(crate) fn path_mtu(&mut self, mtu: Option<u32>) {
        self.path_mtu = mtu;
        let mtu = self.mtu();
        self.change(|wanted| wanted.mtu = mtu);
    }

    /// Whether somebody has to find out if pods may start.
    pub(crate) fn asks(&mut self) -> bool {
        if !self.writes {
            return false;
        }
        // What a life before has written is there for good, too.
        if self.found.borrow().stands {
            self.may_start(None);
        }
        let wanted = self.wanted.borrow();
        wanted.as_ref().is_none_or(|wanted| !wanted.ready)
    }

    /// Pods may start, or what they wait for. Returns whether that is news.
    pub(crate) fn may_start(&mut self, waits: Option<String>) -> bool {
        if waits.is_none() {
            self.change(|wanted| wanted.ready = true);
        }
        let news = self.waits != waits;
        self.waits = waits;
        news
    }

    /// Resolves when [`CniConf::problems`] may say something else.
    pub(crate) async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending().await // the runtime is ending
        }
    }

    /// What a person should know: reason and message.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let waits = self.waits.iter().map(|waits| {
            let message = format!(
                "no pod can start yet: the network configuration is written when there is {waits}"
            );
            ("PodNetworkWaits", message)
        });
        let found = self.found.borrow();
        waits.chain(found.problems.iter().cloned()).collect()
    }

    fn mtu(&self) -> Option<u32> {
        self.said_mtu.or(self.path_mtu)
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let wanted = self.wanted.borrow().clone();
        if let Some(mut wanted) = wanted {
            change(&mut wanted);
            self.want(wanted);
        }
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|last| {
            let changed = last.as_ref() != Some(&wanted);
            *last = Some(wanted);
            changed
        });
    }
}

fn subnet(subnet: &plan::Subnet) -> node::Subnet {
    node::Subnet {
        prefix: subnet.prefix.into(),
        pool: subnet.pool.clone(),
        purpose: match subnet.purpose {
            plan::Purpose::Pods => node::PODS.into(),
        },
        reserved: subnet.reserved.iter().map(|it| (*it).into()).collect(),
        state: match subnet.draining {
            true => State::Draining,
            false => State::Active,
        },
    }
}

/// Keeps the files as they are wanted, until the daemon ends. Not to be given up half way: a file is
/// written whole or not at all in any case.
async fn keep(
    files: Files,
    mut wanted: watch::Receiver<Option<Wanted>>,
    found: watch::Sender<Found>,
) {
    let files = std::sync::Arc::new(files);
    loop {
        let now = wanted.borrow_and_update().clone();
        if let Some(now) = now {
            let files = files.clone();
            let outcome = tokio::task::spawn_blocking(move || files.put_right(&now)).await;
            // It does not panic, and it is given up only when the runtime ends.
            let Ok(outcome) = outcome else { return };
            found.send_if_modified(|last| {
                let news = *last != outcome;
                let told = |problem: &&(_, String)| !last.problems.contains(problem);
                for (reason, message) in outcome.problems.iter().filter(told) {
                    tracing::warn!(reason, "{message}");
                }
                if outcome.stands && !last.stands {
                    tracing::info!("the network configuration for pods is in its place");
                }
                *last = outcome;
                news
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

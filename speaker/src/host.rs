//! The host's own part in the network of its pods: masquerade, TCP segments that fit the path, and
//! the kernel's settings for forwarding.
//!
//! The daemon says what is wanted, the whole of it; a task of its own keeps it so. What is there is
//! listed, the steps follow from a pure plan, and are one transaction. It looks again when somebody
//! else changes our table of nftables, when forwarding is switched, and now and then.
//!
//! | file | |
//! |---|---|
//! | `host/ruleset.rs` | what is wanted → the table `inet routeshare`; pure |
//! | `host/tables.rs` | the table as wanted → nftables |
//! | `host/bridges.rs` | the plugin's table `inet routeshare-bridges`, when it is lost |
//! | `host/sysctls.rs` | settings under /proc/sys/net |
//!
//! All of it stays when the speaker ends: connections go on under the addresses they have.

mod bridges;
mod ruleset;
mod sysctls;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bgp::types::Prefix;
use plan::{Masquerade, NodeConfig};
use tokio::sync::watch;
use tokio::time::Instant;

use sysctls::Sysctls;
use tables::Tables;

/// How often what is there is looked at without a reason.
const LOOK: Duration = Duration::from_secs(10);
/// Between two repairs, when somebody else changes our table, or forwarding, again and again.
const GAP: Duration = Duration::from_millis(200);

/// Reason and message, for a person.
type Problem = (&'static str, String);

/// What the host's side is started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Pods of this host get their network from us.
    pub(crate) pods: bool,
    /// Where the kernel's settings for the network are: `/proc/sys/net`, or where it is mounted.
    pub(crate) sysctls: PathBuf,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// This host forwards for pods.
    on: bool,
    /// The pods' subnets.
    subnets: Vec<Prefix>,
    masquerade: Option<Masquerade>,
    /// BGP peers, which know the subnets.
    peers: BTreeSet<IpAddr>,
}

impl Wanted {
    fn of(config: &NodeConfig, pods: bool) -> Wanted {
        let peers = config.bgp.peers.iter();
        Wanted {
            on: pods || config.masquerade.is_some(),
            subnets: config.subnets.iter().map(|subnet| subnet.prefix).collect(),
            masquerade: config.masquerade.clone(),
            peers: peers.map(|peer| peer.address).collect(),
        }
    }
}

/// The daemon's end.
pub(crate) struct Host {
    pods: bool,
    wanted: watch::Sender<Option<Wanted>>,
    found: watch::Receiver<Vec<Problem>>,
}

impl Host {
    /// Starts the task. Nothing is touched before [`Host::configure`].
    pub(crate) fn start(settings: Settings) -> Host {
        let (wanted, wanted_by) = watch::channel(None);
        let (finds, found) = watch::channel(Vec::new());
        let pods = settings.pods;
        tokio::spawn(keep(Side::new(&settings), wanted_by, finds));
        Host {
            pods,
            wanted,
            found,
        }
    }

    /// What is in force says this of the host.
    pub(crate) fn configure(&self, config: &NodeConfig) {
        let wanted = Wanted::of(config, self.pods);
        self.wanted.send_if_modified(|last| {
            let news = last.as_ref() != Some(&wanted);
            *last = Some(wanted);
            news
        });
    }

    /// Resolves when [`Host::problems`] says something else.
    pub(crate) async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending().await // the runtime is ending
        }
    }

    /// What a person should know.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.found.borrow().clone()
    }
}

/// What the task has.
struct Side {
    tables: Tables,
    sysctls: Sysctls,
}

impl Side {
    fn new(settings: &Settings) -> Side {
        Side {
            tables: Tables::default(),
            sysctls: Sysctls::new(settings.sysctls.clone()),
        }
    }

    /// Makes it so, and says what is not. Blocks for as long as the kernel works.
    fn put_right(&mut self, wanted: &Wanted) -> Vec<Problem> {
        let mut problems = Vec::new();
        let table = ruleset::table(wanted);
        problems.extend(self.tables.put_right(table.as_ref()));
        problems.extend(bridges::put_back(self.tables.nft()));
        if wanted.on {
            self.sysctls.put_right(wanted, &mut problems);
        }
        problems
    }
}

/// Keeps it as it is wanted, until the daemon ends.
async fn keep(
    mut side: Side,
    mut wanted: watch::Receiver<Option<Wanted>>,
    found: watch::Sender<Vec<Problem>>,
) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let looked = Instant::now();
        if let Some(now) = now {
            side.tables.open();
            side.sysctls.open();
            let work = tokio::task::spawn_blocking(move || {
                let problems = side.put_right(&now);
                (side, problems)
            });
            // It does not panic, and it is given up only when the runtime ends.
            let Ok((back, problems)) = work.await else {
                return;
            };
            side = back;
            tell(&found, problems);
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = side.tables.changed_by_others() => tokio::time::sleep_until(looked + GAP).await,
            () = side.sysctls.changed() => tokio::time::sleep_until(looked + GAP).await,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn tell(found: &watch::Sender<Vec<Problem>>, problems: Vec<Problem>) {
    found.send_if_modified(|last| {
        for (reason, message) in problems.iter().filter(|problem| !last.contains(problem)) {
            tracing::warn!(reason, "{message}");
        }
        let news = *last != problems;
        *last = problems;
        news
    });
}

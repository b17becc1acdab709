//! Which container has which address, as the CNI plugin writes it down: read whenever that changes.
//!
//! The log is looked at a few times a second, which costs one `stat`; the plugin needs no way to us. It
//! is read as well when a cool-down may have ended, which nobody writes down.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bgp::types::Prefix;
use cni::leases::{Lease, Now, Range, Snapshot};
use ipnetwork::IpNetwork;
use plan::Subnet;
use proto::controller::v1 as pb;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is read while addresses cool down, and while it cannot be read.
const AGAIN: Duration = Duration::from_secs(2);

/// The leases as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// In the order in which they began.
    pub(crate) leases: Vec<Lease>,
    /// Freed, and given to nobody else yet.
    pub(crate) cooling: Vec<IpAddr>,
    /// Why the rest is as it was before.
    pub(crate) problem: Option<String>,
}

/// The daemon's end.
pub(crate) struct Leases(watch::Receiver<Arc<Known>>);

impl Leases {
    /// Starts the task that reads what is in the plugin's data directory.
    pub(crate) fn start(data_dir: PathBuf) -> Leases {
        let (sender, receiver) = watch::channel(Arc::default());
        tokio::spawn(read(data_dir, sender));
        Leases(receiver)
    }

    /// Resolves when they are others.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await // the runtime is ending
        }
    }

    /// What is known now.
    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.borrow())
    }
}

impl Known {
    /// Addresses that running containers have.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = IpAddr> {
        let running = self.leases.iter().filter(|lease| !lease.earlier_boot);
        running.flat_map(|lease| lease.addresses.iter().map(|it| it.ip()))
    }

    /// How much of a subnet is taken. `used`: addresses that are leased or have a route of their own.
    pub(crate) fn use_of(&self, subnet: &Subnet, used: u64) -> pb::SubnetUse {
        let within = |address: &IpAddr| subnet.prefix.contains(host(*address));
        pb::SubnetUse {
            prefix: subnet.prefix.to_string(),
            used,
            size: self.usable(subnet),
            cooling: self.cooling.iter().filter(|it| within(it)).count() as u64,
        }
    }

    /// How many addresses pods can have of a subnet; what does not fit counts as the largest number.
    fn usable(&self, subnet: &Subnet) -> u64 {
        let Some(prefix) = network(subnet.prefix) else {
            return 0;
        };
        let of_subnet = |lease: &&Lease| lease.addresses.iter().any(|it| prefix.contains(it.ip()));
        let on_link = |lease: &Lease| !matches!(&*lease.owner.mode, "" | "routed");
        let range = match self.leases.iter().filter(of_subnet).any(on_link) {
            // The link has a gateway as a rule, by default the first host.
            true => Range::on_link(prefix, prefix.iter().nth(1)),
            false => Range::routed(prefix),
        };
        let reserved = subnet.reserved.iter().copied().filter_map(network);
        let usable = reserved.fold(range, Range::reserve).usable();
        u64::try_from(usable).unwrap_or(u64::MAX)
    }
}

fn network(prefix: Prefix) -> Option<IpNetwork> {
    IpNetwork::new(prefix.address(), prefix.length()).ok()
}

/// The prefix of one address.
pub(crate) fn host(address: IpAddr) -> Prefix {
    Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })
}

async fn read(data_dir: PathBuf, sender: watch::Sender<Arc<Known>>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    let mut again_at: Option<Instant> = None;
    while !sender.is_closed() {
        ticks.tick().await;
        let look = look(&data_dir);
        let due = again_at.is_some_and(|at| at <= Instant::now());
        if !due && seen.as_ref() == Some(&look) {
            continue;
        }
        let directory = data_dir.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || read_now(&directory)).await else {
            return; // the runtime is ending
        };
        seen = Some(look);
        let known = match read {
            Ok(known) => known,
            Err(problem) => Known {
                problem: Some(problem),
                ..(**sender.borrow()).clone()
            },
        };
        let again = !known.cooling.is_empty() || known.problem.is_some();
        again_at = again.then(|| Instant::now() + AGAIN);
        sender.send_if_modified(|last| {
            if **last == known {
                return false;
            }
            if let Some(problem) = known
                .problem
                .as_ref()
                .filter(|it| last.problem.as_ref() != Some(it))
            {
                tracing::warn!("leases of containers: {problem}");
            }
            *last = Arc::new(known);
            true
        });
    }
}

/// What tells one state of the log from another; `None` when there is none.
fn look(data_dir: &Path) -> Option<(u64, u64, Option<SystemTime>)> {
    let found = fs::metadata(Snapshot::path(data_dir)).ok()?;
    Some((found.ino(), found.len(), found.modified().ok()))
}

fn read_now(data_dir: &Path) -> Result<Known, String> {
    let now = Now::read().map_err(|error| error.to_string())?;
    let Snapshot { leases, freed } =
        Snapshot::read(data_dir, &now).map_err(|error| error.to_string())?;
    let in_use: BTreeSet<IpAddr> = {
        let addresses = leases.iter().flat_map(|lease| &lease.addresses);
        addresses.map(|it| it.ip()).collect()
    };
    let cooling = freed.iter().filter(|freed| freed.is_cooling_down());
    let cooling = cooling.map(|freed| freed.address.ip());
    let cooling: BTreeSet<IpAddr> = cooling.filter(|it| !in_use.contains(it)).collect();
    Ok(Known {
        leases,
        cooling: cooling.into_iter().collect(),
        problem: None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cni::leases::{Owner, Request};
    use plan::Purpose;

    use super::*;

    fn open(directory: &Path) -> cni::leases::Leases {
        cni::leases::Leases::open(directory, "pods", Now::read().unwrap()).unwrap()
    }

    fn add(directory: &Path, container: &str, mode: &str, cooldown: u64) {
        let owner = Owner {
            container: container.into(),
            ifname: "eth0".into(),
            mode: mode.into(),
            ..Owner::default()
        };
        let request = Request {
            ranges: vec![Range::routed("10.64.0.0/28".parse().unwrap()).of_node()],
            cooldown: Duration::from_secs(cooldown),
            ..Request::default()
        };
        let (_, durable) = open(directory).allocate(owner, &request).unwrap();
        durable.wait().unwrap();
    }

    #[test]
    fn the_use_of_a_subnet_is_what_pods_can_have_of_it_and_have_or_had() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut subnet = Subnet::new("10.64.0.0/28".parse().unwrap(), "pods", Purpose::Pods);
        let seen = |subnet: &Subnet| {
            let seen = read_now(path).unwrap().use_of(subnet, 7);
            assert_eq!((&*seen.prefix, seen.used), ("10.64.0.0/28", 7));
            (seen.size, seen.cooling)
        };
        assert_eq!(seen(&subnet), (15, 0), "not the one that ends in 0");
        subnet.reserved = vec!["10.64.0.8/30".parse().unwrap()];
        add(path, "a", "routed", 60);
        add(path, "b", "routed", 0);
        assert_eq!(seen(&subnet), (11, 0));
        for container in ["a", "b"] {
            open(path).release(container, "eth0").unwrap().unwrap();
        }
        assert_eq!(seen(&subnet), (11, 1), "the other one has no cool-down");
        add(path, "c", "bridge", 60);
        assert_eq!(
            seen(&subnet),
            (9, 1),
            "network, broadcast and gateway are the link's"
        );
    }

    #[tokio::test]
    async fn what_the_plugin_writes_is_heard_of_and_a_damaged_log_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut leases = Leases::start(path.to_owned());
        add(path, "a", "routed", 60);
        while leases.known().leases.is_empty() {
            leases.changed().await;
        }
        let in_use: Vec<IpAddr> = leases.known().in_use().collect();
        assert_eq!(in_use, ["10.64.0.1".parse::<IpAddr>().unwrap()]);
        let log = Snapshot::path(path);
        let whole = fs::read(&log).unwrap();
        fs::write(&log, b"something else").unwrap();
        while leases.known().problem.is_none() {
            leases.changed().await;
        }
        let known = leases.known();
        assert_eq!(known.leases.len(), 1);
        let problem = known.problem.clone().unwrap();
        assert!(problem.contains("is no log of leases"), "{problem}");
        fs::write(&log, whole).unwrap();
        open(path).release("a", "eth0").unwrap().unwrap();
        while leases.known().problem.is_some() || leases.known().cooling.is_empty() {
            leases.changed().await;
        }
        assert!(leases.known().leases.is_empty());
    }
}

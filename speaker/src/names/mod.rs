//! Names of containers on plain hosts: a small resolver for the containers of this node.
//!
//! ```text
//!   leases on disk ──inotify──► attachments.rs ──► zone.rs ◄── who asks, and what may it know?
//!                                                    ▲
//!   container ──UDP, TCP port 53──► listen.rs ──► server.rs ──► forward.rs ──► the host's resolvers
//!                                     message.rs: bytes ⇄ questions and answers
//!                                     limits.rs: what one container may ask
//! ```
//!
//! It has a thread of its own, so that containers that ask and ask hold up nobody's BGP. It needs no
//! controller: what it answers is on this node's disk.

mod addresses;
mod attachments;
mod counts;
mod exchange;
mod forward;
mod limits;
mod listen;
mod message;
mod server;
mod spread;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cni::names::{ADDRESS4, ADDRESS6};
use tokio::sync::{Notify, watch};

use attachments::Attachments;
use counts::Counts;
pub(crate) use exchange::Exchange;
use forward::{Forward, HOST_RESOLVERS, Upstream};
use limits::Limits;
use listen::Listeners;
use server::{Own, Server};
use zone::{Attachment, Zone};

/// How often what is missing is tried again, and the leases are read without having been told to.
const RETRY: Duration = Duration::from_secs(5);

/// What the thread is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// Nobody has said yet: what an earlier life has left stays.
    NotYet,
    Off,
    On(plan::NamesConfig),
}

/// The loop's end of the resolver.
#[derive(Debug)]
pub(crate) struct Names {
    wanted: watch::Sender<Wanted>,
    shared: Arc<Shared>,
}

/// What both sides see.
#[derive(Debug, Default)]
struct Shared {
    counts: Arc<Counts>,
    /// Addresses of this host have changed.
    readdressed: Notify,
    problems: Mutex<Vec<String>>,
}

impl Names {
    /// Starts the thread; it does nothing before it is configured. The leases are in `data_dir`, and other
    /// nodes hear and tell over `exchange`.
    ///
    /// # Errors
    ///
    /// There can be no further thread.
    pub(crate) fn start(data_dir: PathBuf, exchange: Arc<Exchange>) -> io::Result<Names> {
        let (wanted, receiver) = watch::channel(Wanted::NotYet);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || runtime.block_on(run(receiver, &theirs, data_dir, &exchange)))?;
        Ok(Names { wanted, shared })
    }

    /// What is to be answered from now on; `None`: nothing.
    pub(crate) fn configure(&self, config: Option<&plan::NamesConfig>) {
        let wanted = config.map_or(Wanted::Off, |config| Wanted::On(config.clone()));
        self.wanted.send_if_modified(|last| {
            let changed = *last != wanted;
            *last = wanted;
            changed
        });
    }

    /// Addresses of this host have changed: there may be another gateway.
    pub(crate) fn readdressed(&self) {
        self.shared.readdressed.notify_one();
    }

    /// Why names are not answered, or not everywhere.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.shared.problems.lock();
        problems.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many questions ended in which way.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.shared.counts.read()
    }
}

impl Shared {
    fn tell(&self, problems: Vec<String>) {
        let mut told = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|new| !told.contains(new)) {
            tracing::warn!(%problem, "names");
        }
        *told = problems;
    }
}

/// The thread's work, until the loop is gone.
async fn run(
    mut wanted: watch::Receiver<Wanted>,
    shared: &Shared,
    data_dir: PathBuf,
    exchange: &Exchange,
) {
    loop {
        let now = wanted.borrow_and_update().clone();
        let work = async {
            match now {
                Wanted::NotYet => std::future::pending().await,
                Wanted::Off => turn_off(shared, exchange).await,
                Wanted::On(config) => serve(config, shared, data_dir.clone(), exchange).await,
            }
        };
        tokio::select! {
            () = work => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

async fn turn_off(shared: &Shared, exchange: &Exchange) {
    shared.tell(Vec::new());
    exchange.tell(None);
    if let Err(problem) = addresses::remove(&own_addresses()).await {
        tracing::warn!(%problem, "names");
    }
    std::future::pending().await
}

fn own_addresses() -> [IpAddr; 2] {
    [ADDRESS4.into(), ADDRESS6.into()]
}

/// Answers until it is dropped; its tasks end with it.
async fn serve(config: plan::NamesConfig, shared: &Shared, data_dir: PathBuf, exchange: &Exchange) {
    let own = Own::default();
    let forward = match config.forward {
        Some(addresses) => Forward::To(addresses),
        None => Forward::File(HOST_RESOLVERS.into()),
    };
    let mut attachments = Attachments::new(data_dir);
    let mut here = attachments.read();
    exchange.tell(Some(&here));
    let mut others = exchange.others();
    let mut elsewhere: Vec<Attachment> = all(&others.borrow_and_update());
    let server = Arc::new(Server {
        zone: watch::Sender::new(Arc::new(zone(&config.domain, &here, &elsewhere))),
        upstream: Upstream::new(forward, own.clone()),
        own: own.clone(),
        limits: Limits::default(),
        counts: Arc::clone(&shared.counts),
        reread: Notify::new(),
    });
    let mut listeners = Listeners::default();
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut problems: Vec<String> = attachments.problem().into_iter().collect();
        let failed = addresses::put(&own_addresses()).await;
        problems.extend(failed.iter().map(ToString::to_string));
        let containers: BTreeSet<IpAddr> =
            here.iter().flat_map(|it| &it.addresses).copied().collect();
        let mut wanted = listen::gateways(&containers).unwrap_or_else(|error| {
            problems.push(format!("gateways of bridges do not answer names: {error}"));
            BTreeSet::new()
        });
        wanted.extend(own_addresses());
        own.replace(wanted.clone());
        let closed = listeners.settle(&wanted, &server);
        let closed = closed.iter();
        problems.extend(closed.map(|(address, error)| cannot_listen(*address, error)));
        if server.upstream.resolvers().is_empty() {
            problems.push(
                "nobody to ask for names that are not of containers: no other resolver in \
                 Fabric.spec.pods.names.forward or /etc/resolv.conf"
                    .to_owned(),
            );
        }
        shared.tell(problems);
        tokio::select! {
            () = attachments.changed() => {}
            () = server.reread.notified() => {}
            () = shared.readdressed.notified() => {}
            _ = retry.tick() => {}
            Ok(()) = others.changed() => others.mark_changed(),
        }
        let now = attachments.read();
        let heard = others.has_changed().unwrap_or(false);
        if now != here || heard {
            here = now;
            elsewhere = all(&others.borrow_and_update());
            exchange.tell(Some(&here));
            let zone = Arc::new(self::zone(&config.domain, &here, &elsewhere));
            tracing::debug!(names = zone.len(), "names of containers");
            server.zone.send_replace(zone);
        }
    }
}

/// What keeps us from listening, and what to do about it.
fn cannot_listen(address: IpAddr, error: &io::Error) -> String {
    let port = forward::PORT;
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another resolver listens on all addresses: `ss -lntup sport = :{port}` says which one; let it \
             listen only on those it needs"
        ),
        io::ErrorKind::PermissionDenied => "; this needs CAP_NET_BIND_SERVICE".to_owned(),
        _ => String::new(),
    };
    format!(
        "cannot answer names at {address} port {port}: {error}{advice}; tried again every {} s",
        RETRY.as_secs()
    )
}

fn zone(domain: &str, here: &[Attachment], elsewhere: &[Attachment]) -> Zone {
    Zone::new(
        domain,
        here,
        elsewhere,
        rand::random_range(0..usize::from(u16::MAX)),
    )
}

fn all(others: &BTreeMap<String, Vec<Attachment>>) -> Vec<Attachment> {
    others.values().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_listen_is_told_what_is_in_the_way() {
        let told = |kind: io::ErrorKind| cannot_listen([169, 254, 1, 1].into(), &kind.into());
        let in_use = told(io::ErrorKind::AddrInUse);
        assert!(in_use.contains("`ss -lntup sport = :53` says"), "{in_use}");
        assert!(!in_use.contains("CAP_"), "{in_use}");
        let forbidden = told(io::ErrorKind::PermissionDenied);
        assert!(forbidden.contains("CAP_NET_BIND_SERVICE"), "{forbidden}");
    }
}

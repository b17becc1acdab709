//! Which container holds which address, on disk: one log for all networks of a machine, appended to
//! by one process at a time and read by anybody.
//!
//! `LEASES/log` has a line for every lease and every end of one; `LEASES/lock` is locked (flock) by
//! whoever appends, and the kernel frees it when that process dies. See decision 0023.
//!
//! - Killed at any point: a line is written or it is not. A part of a line at the end is cut off by
//!   the next process; nobody was told of it.
//! - Power lost at any point: what was told to the runtime is on disk ([`Durable::wait`]), and every
//!   line before it. A torn end is set aside by the first process after the boot. No container
//!   outlives the boot it was started in, so what is lost there was nobody's address any more.
//! - Disk full: blocks are taken in advance, so that leases can still end when none can begin.
//! - Anything else that is not as it was written is an error, never an empty store.
//!
//! The plugin: [`Leases::open`], then [`Leases::allocate`] before an interface is made, or
//! [`Leases::release`] after it was removed. The speaker: [`Snapshot::read`].

mod allocate;
mod error;
mod now;
mod range;
mod record;
mod state;
mod store;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use allocate::Request;
pub use error::{AllocateError, Ends, Exhausted, LogError, Unavailable};
pub use now::{Now, NowError};
pub use range::{Exclusion, Range, RangeError};
use record::{Free, Record};
use state::State;
pub use store::Durable;
use store::Store;

/// Who wants an address, or has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Owner {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The mode of the attachment, as in the network configuration: `routed`, `bridge`, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// What people and other containers call it: in Kubernetes the pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In Kubernetes the pod's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Names that it may share with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// A container's attachment to a network, and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lease {
    /// `name` of the network configuration.
    pub network: String,
    /// Each with the length of its subnet: `10.64.0.5/24`. None where the mode gives none.
    pub addresses: Vec<IpNetwork>,
    /// Of subnets of the node ([`Range::of_node`]), not of the network's own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_node: bool,
    /// Whose it is.
    pub owner: Owner,
    /// When it began, by the clock on the wall.
    #[serde(with = "record::timestamp")]
    pub since: Timestamp,
    /// How long its addresses are given to nobody else once it is over, as configured when it began.
    pub cooldown_seconds: u64,
    /// It began before the machine was booted last. Its container is not running any more: no
    /// network namespace outlives the kernel. The lease stays until somebody else needs the address,
    /// or DEL or GC end it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub earlier_boot: bool,
}

impl Lease {
    /// [`Lease::since`] in milliseconds since the Unix epoch.
    #[must_use]
    pub fn since_ms(&self) -> i64 {
        self.since.as_millisecond()
    }

    /// Whether it is of this attachment.
    #[must_use]
    pub fn is_of(&self, network: &str, container: &str, ifname: &str) -> bool {
        self.network == network && self.is_for(container, ifname)
    }

    /// Whether it is for this interface of this container, in whatever network.
    #[must_use]
    pub fn is_for(&self, container: &str, ifname: &str) -> bool {
        self.owner.container == container && self.owner.ifname == ifname
    }
}

/// An address that was freed and is not given to anybody else yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// With the length of its subnet.
    pub address: IpNetwork,
    /// `name` of the network configuration.
    pub network: String,
    /// For how long it has been free at least, by a clock that nobody can set.
    pub ago: Duration,
    /// How long it is given to nobody else, as configured when it was given last.
    pub cooldown: Duration,
}

impl Freed {
    /// Nobody else can have it yet.
    #[must_use]
    pub fn is_cooling_down(&self) -> bool {
        state::is_cooling_down(self.ago, self.cooldown)
    }
}

/// All leases of the machine at one moment, read without a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order in which they began.
    pub leases: Vec<Lease>,
    /// Those that are cooling down, and some that were, the oldest first.
    pub freed: Vec<Freed>,
}

impl Snapshot {
    /// The file that is read: it changes whenever a lease does. It is replaced from time to time, so
    /// who watches it watches its directory.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        store::log_path(data_dir)
    }

    /// Whether a lease could begin as far as the file system is concerned, without trying: it can be written to.
    ///
    /// # Errors
    ///
    /// [`LogError::Io`] when it cannot.
    pub fn check_writable(data_dir: &Path) -> Result<(), LogError> {
        store::check_writable(data_dir)
    }

    /// The leases in `data_dir`; none when no network has ever been used.
    ///
    /// # Errors
    ///
    /// [`LogError`] when they cannot be read, or are not as they were written.
    pub fn read(data_dir: &Path, now: &Now) -> Result<Snapshot, LogError> {
        let mut state = store::read(data_dir, now)?;
        state.enter(now);
        let leases = state.leases().cloned().collect();
        let freed = state.cooling().map(|cooling| Freed {
            address: cooling.address,
            network: cooling.network.clone(),
            ago: state::ago(cooling.uptime_ms, now),
            cooldown: Duration::from_secs(cooling.cooldown_seconds),
        });
        let mut freed: Vec<Freed> = freed.collect();
        freed.sort_by(|a, b| b.ago.cmp(&a.ago).then(a.address.cmp(&b.address)));
        Ok(Snapshot { leases, freed })
    }
}

/// The leases, locked: nobody else changes them until this is dropped. Never keep it while an
/// interface is made or removed.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    state: State,
    network: String,
    now: Now,
}

impl Leases {
    /// Waits for the lock and reads the log in `data_dir`, which is made when there is none.
    ///
    /// # Errors
    ///
    /// [`LogError`] when it cannot be made, locked or read, or is not as it was written.
    pub fn open(data_dir: &Path, network: &str, now: Now) -> Result<Leases, LogError> {
        let (store, mut state) = Store::open(data_dir, &now)?;
        state.enter(&now);
        Ok(Leases {
            store,
            state,
            network: network.to_owned(),
            now,
        })
    }

    /// Gives the container an address of each family that has ranges, all or none, and frees the
    /// lock. The same ones again if it has some already. The lease is in the log when this returns, so
    /// it outlives this process; that it outlives a power failure has to be waited for before
    /// anybody is told ([`Durable::wait`]), and that can be after the interface was made.
    ///
    /// # Errors
    ///
    /// [`AllocateError`] says what is not to be had and why; nothing is changed then.
    pub fn allocate(
        mut self,
        owner: Owner,
        request: &Request,
    ) -> Result<(Lease, Durable), AllocateError> {
        let records = allocate::decide(&self.state, &self.network, &owner, request, &self.now)?;
        self.store.reserve()?;
        self.append(&records)?;
        let lease = self.of(&owner.container, &owner.ifname);
        let lease = lease.expect("it was there, or was just applied").clone();
        Ok((lease, self.store.make_durable()))
    }

    /// What an attachment to this network has.
    #[must_use]
    pub fn of(&self, container: &str, ifname: &str) -> Option<&Lease> {
        self.state.of(&self.network, container, ifname)
    }

    /// What an attachment of this name has in another network, begun in this boot: a container has an
    /// interface of a name once.
    #[must_use]
    pub fn elsewhere(&self, container: &str, ifname: &str) -> Option<&Lease> {
        self.state.leases().find(|lease| {
            lease.is_for(container, ifname) && lease.network != self.network && !lease.earlier_boot
        })
    }

    /// All attachments to this network, in the order in which they began.
    pub fn all(&self) -> impl Iterator<Item = &Lease> {
        let of_network = |lease: &&Lease| lease.network == self.network;
        self.state.leases().filter(of_network)
    }

    /// Who has this address of the network's ranges, or of the node's subnets in any network.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Lease> {
        self.all()
            .chain(self.state.leases().filter(|lease| lease.of_node))
            .find(|lease| lease.addresses.iter().any(|it| it.ip() == address))
    }

    /// Ends the lease of an attachment, whose addresses begin to cool down; `None` when it has none,
    /// which is no error. Only after its interfaces are gone.
    ///
    /// The end of a lease need not survive a power failure: no container does, and the next boot
    /// treats all that were there before as freed when it began.
    ///
    /// # Errors
    ///
    /// [`LogError`] when it cannot be written; the lease stays.
    pub fn release(mut self, container: &str, ifname: &str) -> Result<Option<Lease>, LogError> {
        let Some(lease) = self.of(container, ifname).cloned() else {
            return Ok(None);
        };
        self.append(&[self.end_of(&lease)])?;
        self.compact_when_worth_it()?;
        Ok(Some(lease))
    }

    /// [`Leases::release`] in whatever networks: what the network was called at ADD may be forgotten.
    ///
    /// # Errors
    ///
    /// [`LogError`] when it cannot be written; the leases stay.
    pub fn release_everywhere(
        mut self,
        container: &str,
        ifname: &str,
    ) -> Result<Vec<Lease>, LogError> {
        let of_it = |lease: &&Lease| lease.is_for(container, ifname);
        let over: Vec<Lease> = self.state.leases().filter(of_it).cloned().collect();
        let records: Vec<Record> = over.iter().map(|lease| self.end_of(lease)).collect();
        self.append(&records)?;
        self.compact_when_worth_it()?;
        Ok(over)
    }

    /// Ends the leases of all attachments to this network but those of which `keep`, given container
    /// and interface name, is true; says which. Only after their interfaces are gone.
    ///
    /// # Errors
    ///
    /// [`LogError`] when it cannot be written; all leases stay.
    pub fn retain(mut self, keep: impl Fn(&str, &str) -> bool) -> Result<Vec<Lease>, LogError> {
        let over = |lease: &&Lease| !keep(&lease.owner.container, &lease.owner.ifname);
        let over: Vec<Lease> = self.all().filter(over).cloned().collect();
        let records: Vec<Record> = over.iter().map(|lease| self.end_of(lease)).collect();
        self.append(&records)?;
        self.compact_when_worth_it()?;
        Ok(over)
    }

    /// Where the end of the log went that a power failure had torn, if this process found one.
    #[must_use]
    pub fn torn(&self) -> Option<&Path> {
        self.store.torn()
    }

    fn end_of(&self, lease: &Lease) -> Record {
        Record::Free(Free {
            network: lease.network.clone(),
            container: lease.owner.container.clone(),
            ifname: lease.owner.ifname.clone(),
            at: self.now.wall,
            uptime_ms: self.now.uptime_ms(),
        })
    }

    /// Writes the records, all or none, and applies them.
    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        if let Some(boot) = self.state.boot_to_write(&self.now) {
            boot.write(&mut lines);
        }
        for record in records {
            record.write(&mut lines);
        }
        self.store.append(&lines)?;
        self.state.boot_is_written();
        for record in records {
            self.state.apply(record.clone());
        }
        Ok(())
    }

    /// Writes the log anew when most of it is history.
    fn compact_when_worth_it(&mut self) -> Result<(), LogError> {
        match self.state.is_mostly_history(&self.now) {
            true => self.store.replace(&self.state.compact(&self.now)),
            false => Ok(()),
        }
    }
}

//! What was given to whom, kept across restarts: subnets, AS numbers, versions.
//!
//! Two stores do this. [`file`] is a file that one controller has to itself. [`kubernetes`] is one
//! object in the API server, changed by compare-and-swap, so that of two controllers that both take
//! themselves for the leader only one can give anything out. The reconcile loop knows neither: it
//! commits, and after an error it opens the store again to see what is so.

mod document;
pub(crate) mod file;
pub(crate) mod kubernetes;
mod rebuild;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use api::SourceFile;
use ipam::Millis;
use ipam::numbers::{self, NumberLease};
use ipam::pool::{self, Ledger, State};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use file::{FileError, FileStore};
use kubernetes::{KubernetesStore, LedgerError};

/// What the key of a node's own number begins with; `plan::wanted_numbers` makes the keys.
pub(crate) const NODE_KEY: &str = "node/";

/// All that is in the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// Subnets and who holds them.
    pub(crate) ledger: Ledger,
    /// AS numbers and who holds them, by [`plan::WantedNumber::key`].
    pub(crate) numbers: BTreeMap<String, NumberLease>,
    /// Which version each node's configuration has.
    pub(crate) versions: BTreeMap<String, Version>,
    /// The highest version ever given, to any node.
    pub(crate) last_version: u64,
    /// The resources in force.
    pub(crate) resources: StoredResources,
    /// What the clock of the last commit said; 0 when it is not known.
    pub(crate) clock: Millis,
}

/// The version of a node's configuration, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The version.
    pub(crate) version: u64,
    /// The first octets of the SHA-256 of the configuration's encoding, in hexadecimal.
    pub(crate) digest: String,
}

/// The resources last found to be good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredResources {
    /// As text, in the order of their names; empty when there never were any, and where somebody else
    /// keeps them (in Kubernetes).
    pub(crate) files: Vec<SourceFile>,
    /// [`resources_digest`] of what was in force.
    pub(crate) digest: String,
    /// Counts up with every accepted change.
    pub(crate) generation: u64,
    /// When they were read.
    pub(crate) loaded: Millis,
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub(crate) struct Commit<'a> {
    pub(crate) subnets: &'a [pool::Change],
    pub(crate) numbers: &'a [numbers::Change],
    /// `None` forgets the node's version.
    pub(crate) versions: &'a [(String, Option<Version>)],
    pub(crate) last_version: u64,
    pub(crate) resources: Option<&'a StoredResources>,
    /// The clock by which grace times are counted.
    pub(crate) clock: Millis,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Kubernetes(#[from] LedgerError),
}

impl StoreError {
    /// Whether another controller has taken over, so that this one must stop.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, StoreError::Kubernetes(LedgerError::Lost { .. }))
    }
}

/// Where it is kept what was given to whom.
pub(crate) enum Store {
    /// In a file.
    File(FileStore),
    /// In the API server.
    Kubernetes(Box<KubernetesStore>),
}

impl Store {
    /// Reads all of it again, as after an error, or the first time.
    pub(crate) fn reopen(&mut self) -> Result<Contents, StoreError> {
        Ok(match self {
            Store::File(store) => store.reopen()?,
            Store::Kubernetes(store) => store.reopen()?,
        })
    }

    /// Makes the changes durable, all or none; returns after they are.
    ///
    /// After an error it is not known which of the two happened: [`Store::reopen`] says. Nothing else
    /// may be done with the store before.
    pub(crate) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), StoreError> {
        match self {
            Store::File(store) => store.commit(commit)?,
            Store::Kubernetes(store) => store.commit(commit)?,
        }
        Ok(())
    }

    /// What it is, for people.
    pub(crate) fn place(&self) -> String {
        match self {
            Store::File(store) => format!("the state file {}", store.path().display()),
            Store::Kubernetes(store) => store.place(),
        }
    }

    /// Whether nobody else can commit to it from when it was opened, even before this process has.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self, Store::File(_))
    }

    /// How long to wait before the next commit, so that commits do not fill the disk behind it.
    pub(crate) fn rest(&self) -> Duration {
        match self {
            Store::File(_) => Duration::ZERO,
            Store::Kubernetes(store) => store.rest(),
        }
    }

    /// Counts up with every commit, of whichever controller; 0 where nobody counts.
    pub(crate) fn generation(&self) -> u64 {
        match self {
            Store::File(_) => 0,
            Store::Kubernetes(store) => store.generation(),
        }
    }

    /// How much of its room is taken; none where there is no limit.
    pub(crate) fn size(&self) -> Option<Size> {
        match self {
            Store::File(_) => None,
            Store::Kubernetes(store) => Some(store.size()),
        }
    }
}

/// How much room a store has and needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Octets that are taken.
    pub(crate) used: usize,
    /// Octets that there are.
    pub(crate) limit: usize,
}

/// SHA-256 of the texts and their names, in hexadecimal.
pub(crate) fn resources_digest(files: &[SourceFile]) -> String {
    let mut context = Context::new(&SHA256);
    for file in files {
        for text in [&file.name, &file.text] {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
    }
    hex(context.finish().as_ref())
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // writing to a String does not fail
    }
    text
}

/// Moves what waits so that it waits for as long as it did when the contents were committed. `now` is
/// the clock of this run.
///
/// The time between two runs does not count, because nobody can say how long it was: only the wall
/// clock knows, and that may have been set meanwhile.
pub(crate) fn rebased(
    contents: &Contents,
    now: Millis,
) -> (Vec<pool::Change>, Vec<numbers::Change>) {
    if contents.clock == 0 || contents.clock == now {
        return (Vec::new(), Vec::new());
    }
    let moved = |free_at: Millis| now.saturating_add(free_at.saturating_sub(contents.clock));
    let subnets = contents.ledger.iter().filter_map(|(subnet, lease)| {
        let State::Waiting { free_at } = lease.state else {
            return None;
        };
        let mut lease = lease.clone();
        lease.state = State::Waiting {
            free_at: moved(free_at),
        };
        Some(pool::Change::Set(subnet, lease))
    });
    let numbers = contents.numbers.iter().filter_map(|(key, lease)| {
        let free_at = Some(moved(lease.free_at?));
        let lease = NumberLease { free_at, ..*lease };
        Some(numbers::Change::Set(key.clone(), lease))
    });
    (subnets.collect(), numbers.collect())
}

impl Contents {
    /// What is there once `commit` is.
    pub(crate) fn apply(&mut self, commit: &Commit<'_>) {
        self.ledger.apply(commit.subnets);
        apply_numbers(&mut self.numbers, commit.numbers);
        for (node, version) in commit.versions {
            match version {
                Some(version) => self.versions.insert(node.clone(), version.clone()),
                None => self.versions.remove(node),
            };
        }
        self.last_version = commit.last_version;
        self.clock = commit.clock;
        if let Some(resources) = commit.resources {
            self.resources = resources.clone();
        }
    }

    /// Whether somebody waits for the end of a grace time.
    pub(crate) fn waits(&self) -> bool {
        let mut subnets = self.ledger.iter();
        let waiting = |state| matches!(state, State::Waiting { .. });
        subnets.any(|(_, lease)| waiting(lease.state))
            || self.numbers.values().any(|n| n.free_at.is_some())
    }
}

/// Carries out changes of numbers.
pub(crate) fn apply_numbers(
    numbers: &mut BTreeMap<String, NumberLease>,
    changes: &[numbers::Change],
) {
    for change in changes {
        match change {
            numbers::Change::Set(key, lease) => numbers.insert(key.clone(), *lease),
            numbers::Change::Free(key) => numbers.remove(key),
        };
    }
}

#[cfg(test)]
mod tests;

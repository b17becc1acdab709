//! Keys of peers, out of files on this node.
//!
//! The configuration says where a key is. One that is in a Secret comes from the controller, sealed for
//! us, and is a file in the [`Vault`] from then on. A task looks at the files once a second while any is wanted, and reads those that look different. The loop hears of every
//! change and tells the transport, which signs with the new key at once, also on connections that
//! stand.
//!
//! A key lives in one page of memory that is in no core dump ([`Key`]), and goes from there to the
//! kernel. Nothing here prints one.

pub(crate) mod ao;
pub(crate) mod md5;
mod secret;
mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bgp::config::KeySource;
use nix::libc;
use tokio::sync::watch;

pub(crate) use secret::Key;
pub(crate) use vault::{Sealed, Vault};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A file that was written so short a time ago may be written again without looking different.
const FRESH: Duration = Duration::from_secs(2);

/// What is known of each file that is wanted; one that is not here has not been looked at yet.
pub(crate) type Keys = BTreeMap<KeySource, KeyFile>;

/// What is known of one file.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile {
    /// The key, or why there is none.
    pub(crate) key: Result<Arc<Key>, Arc<KeyError>>,
    /// Since when that has been so.
    pub(crate) since: SystemTime,
    /// Every user of this host can read it.
    pub(crate) is_exposed: bool,
    /// How the file looked when it was read; `None`: it is to be read again.
    looks: Option<Looks>,
}

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("cannot read the key in {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("there is no key of {file}: {problem}")]
    NotGiven { file: String, problem: String },
    #[error("{file} is no file that could hold a key")]
    NoFile { file: String },
    #[error("{file} holds no key: it is empty")]
    Empty { file: String },
    #[error("{file} holds more than {most} octets, and no key has more than that")]
    TooLong { file: String, most: usize },
    #[error("cannot keep the key in {file} in memory: {source}")]
    Memory { file: String, source: io::Error },
}

/// A `sockaddr_storage` that holds a `sockaddr_in` or `sockaddr_in6` of any port.
fn address(ip: IpAddr) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    match ip {
        IpAddr::V4(ip) => {
            put(0, &(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
            put(4, &ip.octets());
        }
        IpAddr::V6(ip) => {
            put(0, &(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
            put(8, &ip.octets());
        }
    }
    bytes
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looks {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Looks {
    fn of(meta: &Metadata) -> Looks {
        Looks {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mode: meta.mode(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The loop's end: says which files are wanted, hears what is in them.
pub(crate) struct KeyRing {
    vault: Arc<Vault>,
    wanted: watch::Sender<BTreeSet<KeySource>>,
    keys: watch::Receiver<Arc<Keys>>,
}

impl KeyRing {
    /// Nothing is wanted yet.
    pub(crate) fn start(vault: Arc<Vault>) -> KeyRing {
        let (wanted, changes) = watch::channel(BTreeSet::new());
        let (sender, keys) = watch::channel(Arc::default());
        // Ends with the loop.
        tokio::spawn(run(Arc::clone(&vault), changes, sender));
        KeyRing {
            vault,
            wanted,
            keys,
        }
    }

    /// Where on this node a key is, or would be.
    pub(crate) fn path(&self, source: &KeySource) -> String {
        self.vault.path(source).display().to_string()
    }

    /// The keys wanted, all of them.
    pub(crate) fn want(&self, files: BTreeSet<KeySource>) {
        self.vault.want(files.iter());
        self.wanted.send_if_modified(|last| {
            let changed = *last != files;
            *last = files;
            changed
        });
    }

    /// Waits until something of [`KeyRing::now`] changes. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.keys.changed().await.is_err() {
            std::future::pending::<()>().await; // the runtime is shutting down
        }
    }

    /// What is known now.
    pub(crate) fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.borrow())
    }
}

async fn run(
    vault: Arc<Vault>,
    mut wanted: watch::Receiver<BTreeSet<KeySource>>,
    keys: watch::Sender<Arc<Keys>>,
) {
    let mut known = Keys::new();
    loop {
        let files = wanted.borrow_and_update().clone();
        let last = known.clone();
        // A file system may hang; then nobody waits for it but we.
        let Ok(now) = tokio::task::spawn_blocking({
            let vault = Arc::clone(&vault);
            move || look(&vault, files, &last)
        })
        .await
        else {
            return; // the runtime is shutting down
        };
        if !same(&known, &now) {
            log(&known, &now);
            keys.send_replace(Arc::new(now.clone()));
        }
        known = now;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(LOOK), if !known.is_empty() => {}
        }
    }
}

fn look(vault: &Vault, files: BTreeSet<KeySource>, last: &Keys) -> Keys {
    let looked = files.into_iter().map(|file| {
        let state = look_at(vault, &file, last.get(&file));
        (file, state)
    });
    looked.collect()
}

fn look_at(vault: &Vault, source: &KeySource, last: Option<&KeyFile>) -> KeyFile {
    let path = vault.path(source);
    let seen = fs::metadata(&path).ok();
    if let (Some(seen), Some(last)) = (&seen, last)
        && last.looks == Some(Looks::of(seen))
    {
        return last.clone();
    }
    let read = read(&path, &source.to_string()).map_err(|error| match error {
        KeyError::Read { file, .. } if matches!(source, KeySource::Secret { .. }) => {
            let problem = vault.problem(source);
            KeyError::NotGiven { file, problem }
        }
        other => other,
    });
    let (key, meta) = match read {
        Ok((key, meta)) => (Ok(key), Some(meta)),
        Err(error) => (Err(error), seen),
    };
    let is_fresh = |meta: &Metadata| {
        let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
        age.is_none_or(|age| age < FRESH)
    };
    let looks = meta.as_ref().filter(|meta| !is_fresh(meta) && key.is_ok());
    let mut state = KeyFile {
        looks: looks.map(Looks::of),
        is_exposed: meta.as_ref().is_some_and(|meta| meta.mode() & 0o004 != 0),
        key: key.map(Arc::new).map_err(Arc::new),
        since: SystemTime::now(),
    };
    // Written anew is not changed.
    if let Some(last) = last.filter(|last| last.says_the_same(&state)) {
        state.key = last.key.clone();
        state.since = last.since;
    }
    state
}

impl KeyFile {
    fn says_the_same(&self, other: &KeyFile) -> bool {
        match (&self.key, &other.key) {
            (Ok(ours), Ok(theirs)) => Arc::ptr_eq(ours, theirs) || ours.is_same(theirs),
            (Err(ours), Err(theirs)) => ours.to_string() == theirs.to_string(),
            _ => false,
        }
    }
}

/// The key, and how its file was before it was read.
fn read(path: &Path, file: &str) -> Result<(Key, Metadata), KeyError> {
    let named = || file.to_owned();
    let failed = |source| KeyError::Read {
        file: named(),
        source,
    };
    // Opening a pipe would wait for somebody who writes.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyError::NoFile { file: named() });
    }
    let mut open = File::open(path).map_err(failed)?;
    let meta = open.metadata().map_err(failed)?;
    let mut key = Key::empty().map_err(|source| KeyError::Memory {
        file: named(),
        source,
    })?;
    match key.read_from(&mut open).map_err(failed)? {
        0 => Err(KeyError::Empty { file: named() }),
        length if length > Key::MOST => Err(KeyError::TooLong {
            file: named(),
            most: Key::MOST,
        }),
        _ => Ok((key, meta)),
    }
}

fn same(one: &Keys, other: &Keys) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((file, a), (name, b))| {
            file == name && a.since == b.since && a.is_exposed == b.is_exposed
        })
}

fn log(before: &Keys, now: &Keys) {
    for (file, state) in now {
        let last = before.get(file);
        if last.is_none_or(|last| last.since != state.since) {
            match (&state.key, last) {
                (Ok(_), None) => tracing::info!(%file, "key read"),
                (Ok(_), Some(_)) => {
                    tracing::info!(%file, "key changed; connections use the new one")
                }
                (Err(error), _) => tracing::warn!(%file, %error, "no key"),
            }
        }
        if state.is_exposed && last.is_none_or(|last| !last.is_exposed) {
            tracing::warn!(
                %file,
                "every user of this host can read this key; chmod o-rwx it"
            );
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Keys out of Secrets, as the controller sent them: files on a tmpfs, of which nothing is on any disk.
//!
//! They outlive this process, so that it comes back with its sessions while nobody else is there, and
//! `routeshare-bfd` reads those for BFD. From here on such a key is a file like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bgp::config::KeySource;
use keys::Opener;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use tokio::sync::watch;

use super::Key;

/// `RAMFS_MAGIC` of `linux/magic.h`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// A key by Secret: the Secret's name, and the key of its data.
pub(crate) type Name = (String, String);

/// One key as the controller sent it.
pub(crate) struct Sealed<'a> {
    /// Which one it is in its answer.
    pub(crate) number: u32,
    pub(crate) name: Name,
    /// The key, or why there is none.
    pub(crate) sealed: Result<&'a [u8], String>,
}

/// Why a key was not taken.
#[derive(Debug, thiserror::Error)]
enum VaultError {
    #[error("cannot keep it in {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not on a tmpfs, and no key is written to a disk; give the speaker a --keys directory on one \
         (in Kubernetes a hostPath below /run)"
    )]
    Disk { path: PathBuf },
    #[error("{0}")]
    Sealed(#[from] keys::SealError),
    #[error("it is empty")]
    Empty,
    #[error("it has more than {most} octets, and no key has more than that", most = Key::MOST)]
    TooLong,
}

/// The place of these keys.
#[derive(Debug)]
pub(crate) struct Vault {
    directory: PathBuf,
    wanted: watch::Sender<BTreeSet<Name>>,
    /// Why there is none of those that are wanted.
    problems: Mutex<BTreeMap<Name, String>>,
}

impl Vault {
    /// In a directory that is made when it is needed.
    pub(crate) fn new(directory: PathBuf) -> Vault {
        Vault {
            directory,
            wanted: watch::Sender::default(),
            problems: Mutex::default(),
        }
    }

    /// Where on this node a key is, or would be.
    pub(crate) fn path(&self, source: &KeySource) -> PathBuf {
        match source {
            KeySource::File(path) => path.into(),
            KeySource::Secret { name, key } => self.directory.join(name).join(key),
        }
    }

    /// The keys wanted from now on, all of them; the others are thrown away.
    pub(super) fn want<'a>(&self, sources: impl Iterator<Item = &'a KeySource>) {
        let wanted: BTreeSet<Name> = sources
            .filter_map(|source| match source {
                KeySource::File(_) => None,
                KeySource::Secret { name, key } => Some((name.clone(), key.clone())),
            })
            .collect();
        let changed = self.wanted.send_if_modified(|last| {
            let changed = *last != wanted;
            last.clone_from(&wanted);
            changed
        });
        if changed || wanted.is_empty() {
            self.lock().retain(|name, _| wanted.contains(name));
            self.sweep(&wanted);
        }
    }

    /// Which keys are wanted, now and from now on.
    pub(crate) fn wanted(&self) -> watch::Receiver<BTreeSet<Name>> {
        self.wanted.subscribe()
    }

    /// Why there is no key, as far as the controller said so.
    pub(super) fn problem(&self, source: &KeySource) -> String {
        let KeySource::Secret { name, key } = source else {
            return String::new();
        };
        let problems = self.lock();
        let problem = problems.get(&(name.clone(), key.clone()));
        problem.map_or_else(
            || "the controller has not sent it yet".to_owned(),
            String::clone,
        )
    }

    /// Takes an answer of the controller.
    pub(crate) fn take<'a>(&self, opener: &Opener, answer: impl Iterator<Item = Sealed<'a>>) {
        for it in answer {
            if !self.wanted.borrow().contains(&it.name) {
                continue;
            }
            let (name, key) = &it.name;
            let path = self.directory.join(name).join(key);
            let outcome = match it.sealed {
                Ok(sealed) => self
                    .open(opener, it.number, &it.name, sealed)
                    .and_then(|key| self.write(&path, &key))
                    .map_err(|error| error.to_string()),
                Err(problem) => {
                    // What stands goes on with the key it has; it does not come back without.
                    remove(&path);
                    Err(problem)
                }
            };
            let mut problems = self.lock();
            match outcome {
                Ok(()) => drop(problems.remove(&it.name)),
                Err(problem) => {
                    tracing::warn!(secret = name, key, problem, "no key out of this Secret");
                    problems.insert(it.name, problem);
                }
            }
        }
    }

    fn open(
        &self,
        opener: &Opener,
        number: u32,
        name: &Name,
        sealed: &[u8],
    ) -> Result<Key, VaultError> {
        let mut key = Key::empty().map_err(|source| self.failed(&self.directory, source))?;
        let label = format!("{}/{}", name.0, name.1);
        match key.open_from(opener, number, &label, sealed)? {
            0 => Err(VaultError::Empty),
            length if length > Key::MOST => Err(VaultError::TooLong),
            _ => Ok(key),
        }
    }

    /// Replaces a file; nobody but its owner can ever read it.
    fn write(&self, path: &Path, key: &Key) -> Result<(), VaultError> {
        let parent = path.parent().unwrap_or(&self.directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|source| self.failed(parent, source))?;
        let kind = statfs(parent).map_err(|error| self.failed(parent, error.into()))?;
        if ![TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind.filesystem_type()) {
            return Err(VaultError::Disk {
                path: self.directory.clone(),
            });
        }
        // `:` is in no name of a key.
        let new = parent.join(":new");
        remove(&new);
        let write = || -> io::Result<()> {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            key.write_to(&mut file)?;
            fs::rename(&new, path)
        };
        write().map_err(|source| self.failed(path, source))
    }

    fn failed(&self, path: &Path, source: io::Error) -> VaultError {
        VaultError::Write {
            path: path.to_path_buf(),
            source,
        }
    }

    /// Removes what nobody wants.
    fn sweep(&self, wanted: &BTreeSet<Name>) {
        let names = |directory: &Path| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.collect::<Vec<_>>()
        };
        for secret in names(&self.directory) {
            let directory = self.directory.join(&secret);
            for key in names(&directory) {
                if !wanted.contains(&(secret.clone(), key.clone())) {
                    remove(&directory.join(key));
                }
            }
            let _ = fs::remove_dir(&directory); // fails while something is in it
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, String>> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a key cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use keys::{Receiver, seal};

    use super::*;

    fn name() -> Name {
        ("bgp-keys".to_owned(), "tor".to_owned())
    }

    fn source() -> KeySource {
        "secret:bgp-keys/tor".parse().unwrap()
    }

    /// Gives the vault an answer with this key in it.
    fn give(vault: &Vault, key: Result<&[u8], &str>) {
        let receiver = Receiver::new().unwrap();
        let (sealer, public) = seal(receiver.public()).unwrap();
        let opener = receiver.opener(&public).unwrap();
        let sealed = key.map(|key| sealer.seal(0, b"bgp-keys/tor", key));
        let one = Sealed {
            number: 0,
            name: name(),
            sealed: sealed.as_deref().map_err(|problem| (*problem).to_owned()),
        };
        vault.take(&opener, [one].into_iter());
    }

    #[test]
    fn a_key_is_a_file_of_its_owner_on_a_tmpfs_while_it_is_wanted() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let vault = Vault::new(directory.path().join("keys"));
        let path = vault.path(&source());
        give(&vault, Ok(b"correct horse"));
        assert!(!path.exists(), "nobody wants it");
        vault.want([&source()].into_iter());
        give(&vault, Ok(b"correct horse\n"));
        assert_eq!(fs::read(&path).unwrap(), b"correct horse");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        give(&vault, Ok(b"battery"));
        assert_eq!(fs::read(&path).unwrap(), b"battery");
        give(&vault, Err("there is no Secret bgp-keys"));
        assert!(!path.exists());
        assert_eq!(vault.problem(&source()), "there is no Secret bgp-keys");
        give(&vault, Ok(b"battery"));
        vault.want([].into_iter());
        assert!(!path.exists() && !path.parent().unwrap().exists());
    }

    #[test]
    fn what_cannot_be_a_key_is_told_and_not_written() {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let vault = Vault::new(directory.path().join("keys"));
        vault.want([&source()].into_iter());
        for (key, words) in [
            (&b""[..], "it is empty"),
            (&[b'x'; 81], "more than 80 octets"),
            (&[b'x'; 5000], "more than 80 octets"),
        ] {
            give(&vault, Ok(key));
            let problem = vault.problem(&source());
            assert!(problem.contains(words), "{problem}");
            assert!(!vault.path(&source()).exists());
        }
    }

    #[test]
    fn no_key_is_written_to_a_disk() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let kind = statfs(directory.path()).unwrap().filesystem_type();
        assert!(kind != TMPFS_MAGIC, "this test needs a directory on a disk");
        let vault = Vault::new(directory.path().join("keys"));
        vault.want([&source()].into_iter());
        give(&vault, Ok(b"correct horse"));
        let problem = vault.problem(&source());
        assert!(problem.contains("is not on a tmpfs"), "{problem}");
        assert!(!vault.path(&source()).exists());
    }
}

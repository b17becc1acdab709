//! Whose turn it is: one process on a host has the sessions. In a rolling update of pods the next one is
//! there, and waits, before the last one ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::oneshot;

/// The kernel frees the lock of a process that was killed a moment before its ports.
const REST: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(1);

/// Why it is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    #[error(
        "another routeshare-bfd has {path}; stop it, give this one another --socket, or let it wait \
         (--take-turns)"
    )]
    Taken { path: PathBuf },
    #[error("cannot lock {path}; give another place by --socket")]
    Lock { path: PathBuf, source: io::Error },
}

/// Held for as long as this process has the sessions; the kernel gives it back however we end.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: Flock<File>,
    waited: bool,
}

impl Turn {
    /// Takes the turn of the processes that serve `socket`. With `wait` another one may have it, and is
    /// waited for. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Without `wait` when another process has it; when the file beside the socket cannot be made.
    pub(crate) async fn take(socket: &Path, wait: bool) -> Result<Turn, TurnError> {
        let path = socket.with_extension("lock");
        let cannot = |source| TurnError::Lock {
            path: path.clone(),
            source,
        };
        let file = open(&path).map_err(cannot)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                return Ok(Turn {
                    _lock: lock,
                    waited: false,
                });
            }
            Err((file, nix::Error::EWOULDBLOCK)) if wait => file,
            Err((_, nix::Error::EWOULDBLOCK)) => {
                return Err(TurnError::Taken { path });
            }
            Err((_, error)) => return Err(cannot(error.into())),
        };
        tracing::info!("another process has the sessions; going on with them when it ends");
        let (tell, told) = oneshot::channel();
        // A thread of its own: when we are told to end before, nobody waits for it.
        std::thread::spawn(move || tell.send(lock(file)));
        let lock = told.await.unwrap_or(Err(nix::Error::EINTR));
        let lock = lock.map_err(|error| cannot(error.into()))?;
        Ok(Turn {
            _lock: lock,
            waited: true,
        })
    }

    /// Opens what the last process may be about to lose.
    ///
    /// # Errors
    ///
    /// Those of `open`; that an address is in use only if it stays so.
    pub(crate) fn after_the_last<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        loop {
            match open() {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && self.waited
                        && begun.elapsed() < REST =>
                {
                    std::thread::sleep(AGAIN);
                }
                result => return result,
            }
        }
    }
}

fn lock(mut file: File) -> Result<Flock<File>, nix::Error> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Err((again, nix::Error::EINTR)) => file = again,
            result => return result.map_err(|(_, error)| error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_one_waits_or_is_refused_and_has_its_turn_when_the_last_one_ends() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/bfd.sock");
        let first = Turn::take(&socket, false).await.unwrap();
        let error = Turn::take(&socket, false).await.unwrap_err();
        assert!(error.to_string().contains("--take-turns"), "{error}");
        let mut next = std::pin::pin!(Turn::take(&socket, true));
        tokio::select! {
            biased;
            _ = &mut next => panic!("two at once"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        assert!(next.await.unwrap().waited);
    }
}

//! A container's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cni::spec::{Code, Error};
use kernel::Netlink;
use nix::sched::{CloneFlags, setns};

use crate::answer::unheard;

/// As the kernel counts it; enough for the answers to some hundred requests.
const RECEIVE: usize = 512 * 1024;

/// A network namespace other than ours.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    file: File,
    own: File,
}

impl Netns {
    /// Opens the namespace at `path`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When it is the host's, or cannot be opened.
    pub(crate) fn find(path: &Path) -> Result<Option<Netns>, Error> {
        let failed = |error: io::Error| {
            Error::new(
                Code::Io,
                format!(
                    "cannot open the network namespace {}: {error}",
                    path.display()
                ),
            )
        };
        let file = match File::open(path) {
            Ok(file) => file,
            // A process that is gone, a directory that is gone.
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let own = File::open("/proc/thread-self/ns/net").map_err(failed)?;
        let (there, here) = (
            file.metadata().map_err(failed)?,
            own.metadata().map_err(failed)?,
        );
        // An empty file is left where a namespace was mounted.
        if there.dev() != here.dev() {
            return Ok(None);
        }
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            return Err(Error::new(
                Code::InvalidEnvironment,
                format!(
                    "CNI_NETNS is {}, the network namespace of the host itself",
                    path.display()
                ),
            )
            .details("a container with the host's network has mode \"host\""));
        }
        Ok(Some(Netns {
            path: path.to_owned(),
            file,
            own,
        }))
    }

    /// Opens the namespace at `path` to take something away in it; `None` when there is none, and when it is the
    /// host's: nothing of ours is in that.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(crate) fn find_to_remove(path: &Path) -> Result<Option<Netns>, Error> {
        match Netns::find(path) {
            Err(error) if error.code == Code::InvalidEnvironment => Ok(None),
            found => found,
        }
    }

    /// Opens the namespace at `path`.
    ///
    /// # Errors
    ///
    /// [`Code::UnknownContainer`] when there is none; those of [`Netns::find`].
    pub(crate) fn open(path: &Path) -> Result<Netns, Error> {
        Netns::find(path)?.ok_or_else(|| {
            let shown = path.display();
            Error::new(
                Code::UnknownContainer,
                match path.exists() {
                    false => format!("there is no network namespace {shown} (CNI_NETNS)"),
                    true => format!(
                        "{shown} (CNI_NETNS) is no network namespace: where the plugin runs, nothing is mounted \
                         on this file; the namespace is gone, or it was made in another mount namespace"
                    ),
                },
            )
        })
    }

    /// As the runtime named it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A socket in it.
    pub(crate) fn netlink(&self) -> Result<Netlink, Error> {
        self.inside(host_netlink)?
    }

    /// Does something in it: sockets opened and files below `/proc/sys/net` are its own.
    pub(crate) fn inside<T>(&self, act: impl FnOnce() -> T) -> Result<T, Error> {
        let enter = |file: &File| {
            setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| {
                Error::new(
                    Code::Kernel,
                    format!(
                        "cannot enter the network namespace {}: {error}",
                        self.path.display()
                    ),
                )
                .details("the plugin needs CAP_SYS_ADMIN on the host")
            })
        };
        enter(&self.file)?;
        let outcome = act();
        enter(&self.own)?;
        Ok(outcome)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A socket in the host's namespace.
pub(crate) fn host_netlink() -> Result<Netlink, Error> {
    Netlink::open(RECEIVE).map_err(|error| unheard(&error))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)
    )
}

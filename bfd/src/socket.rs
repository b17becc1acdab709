//! The Unix socket: mode 0600, so the file system says who may ask.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("another routeshare-bfd answers on {path}; stop it, or give this one another --socket")]
    Taken { path: PathBuf },
    #[error("cannot make the socket {path}; give another place by --socket")]
    Make { path: PathBuf, source: io::Error },
}

/// Makes the socket, and its directory if need be. One that nobody answers on is replaced.
pub(crate) async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(SocketError::Taken {
            path: path.to_path_buf(),
        });
    }
    let make = || -> io::Result<UnixListener> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Made under another name and moved, so that it is never there with a wider mode.
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&new); // of a crashed start
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(listener)
    };
    make().map_err(|source| SocketError::Make {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_and_replaces_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/bfd.sock");
        let first = bind(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = bind(&path).await.unwrap_err();
        assert!(
            error.to_string().contains("another routeshare-bfd"),
            "{error}"
        );
        drop(first); // as after a crash: the file is still there
        bind(&path).await.unwrap();
    }
}

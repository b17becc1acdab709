//! The Unix socket for `bgpctl`: mode 0600, so the file system says who may ask.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("another speaker answers on {path}; stop it, or give this one another --socket")]
    Taken { path: PathBuf },
    #[error("cannot make the socket {path}; give another place by --socket")]
    Make { path: PathBuf, source: io::Error },
}

/// A listening socket, which is removed with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket, and its directory if need be. One that nobody answers on is replaced.
    pub(crate) async fn bind(path: &Path) -> Result<Socket, SocketError> {
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
        let listener = make().map_err(|source| SocketError::Make {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Socket {
            listener,
            path: path.to_path_buf(),
        })
    }

    /// Answers until the task is ended.
    pub(crate) async fn serve(self, admin: Routes) -> Result<(), tonic::transport::Error> {
        let Socket { listener, path } = self;
        let _remove = Remove(path);
        Server::builder()
            .add_routes(admin)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
    }
}

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        // Left behind, it is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_only_and_replaces_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/speaker.sock");
        let first = Socket::bind(&path).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = Socket::bind(&path).await.unwrap_err();
        assert!(error.to_string().contains("another speaker"), "{error}");
        drop(first); // as after a crash: the file is still there
        assert!(path.exists());
        Socket::bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let error = Socket::bind(&directory.path().join("file/speaker.sock"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("file/speaker.sock"), "{error}");
    }
}

//! On which terms connections with a peer are made, whichever side opens them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::watch;

use super::distance::Distance;
use crate::keys::ao::{self, AoKey};
use crate::keys::{Key, md5};

/// Who may connect, and on which terms.
pub(crate) type Known = HashMap<IpAddr, Terms>;

/// The terms of one peer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Terms {
    /// How far packets go and may come.
    pub(crate) distance: Distance,
    /// With what segments are signed.
    pub(crate) signing: Signing,
}

/// With what segments are signed.
#[derive(Clone, Debug)]
pub(crate) enum Signing {
    /// Nothing.
    Plain,
    /// A key that nobody has looked for yet.
    NotYet,
    /// A key that is not there, for this reason: no connection is made.
    Missing(String),
    /// This key (TCP MD5, RFC 2385).
    Md5(Arc<Key>),
    /// One of these, preferably the first (TCP-AO, RFC 5925); never empty.
    Ao(Arc<[AoKey]>),
}

impl PartialEq for Signing {
    fn eq(&self, other: &Signing) -> bool {
        match (self, other) {
            (Signing::Plain, Signing::Plain) | (Signing::NotYet, Signing::NotYet) => true,
            (Signing::Missing(ours), Signing::Missing(theirs)) => ours == theirs,
            (Signing::Md5(ours), Signing::Md5(theirs)) => Arc::ptr_eq(ours, theirs),
            (Signing::Ao(ours), Signing::Ao(theirs)) => ours == theirs,
            _ => false,
        }
    }
}

impl Signing {
    /// Whether a connection can be made now.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Signing::Plain | Signing::Md5(_) | Signing::Ao(_))
    }

    /// Gives the key to a socket that is to be connected.
    pub(super) fn set(&self, socket: &Socket, remote: IpAddr) -> io::Result<()> {
        match self {
            Signing::Plain => Ok(()),
            Signing::Md5(key) => md5::sign(key, socket, remote),
            Signing::Ao(keys) => ao::sign(keys, socket, remote, true),
            Signing::NotYet | Signing::Missing(_) => Err(io::Error::other("there is no key")),
        }
    }

    /// Says which key is preferred on a connection that has those of its listening socket.
    pub(super) fn set_on_accepted(&self, socket: &Socket, remote: IpAddr) -> io::Result<()> {
        match self {
            Signing::Ao(keys) => keys.first().map_or(Ok(()), |first| first.request(socket)),
            other => other.set(socket, remote),
        }
    }

    /// Brings a listening socket from what it was given (`used`) to what is wanted now; `used` is what
    /// it has been given afterwards. One that has no key now keeps what it had: with nothing else could
    /// anybody get an answer.
    pub(super) fn set_on_listener(
        &self,
        used: &mut Option<Signing>,
        socket: &Socket,
        remote: IpAddr,
    ) -> io::Result<()> {
        match (self, &*used) {
            (Signing::NotYet | Signing::Missing(_), _) | (Signing::Plain, None) => return Ok(()),
            (now, Some(before)) if now == before => return Ok(()),
            // In place, so that there is no moment without.
            (Signing::Md5(key), Some(Signing::Md5(_)) | None) => md5::sign(key, socket, remote)?,
            (Signing::Ao(keys), Some(Signing::Ao(before))) => {
                ao::change(&mut before.to_vec(), keys, socket, remote)?;
            }
            (Signing::Ao(keys), None) => ao::sign(keys, socket, remote, false)?,
            (_, Some(before)) => {
                match before {
                    Signing::Md5(_) => md5::unsign(socket, remote)?,
                    Signing::Ao(keys) => {
                        ao::change(&mut keys.to_vec(), &[], socket, remote)?;
                    }
                    _ => {}
                }
                *used = None;
                return self.set_on_listener(used, socket, remote);
            }
        }
        *used = Some(self.clone());
        Ok(())
    }
}

/// Between attempts to take a key off a connection that the other side still uses.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the key of a connection up to date for as long as it is polled. A key that is gone is kept:
/// the connection was made with it.
pub(super) async fn follow(
    socket: OwnedFd,
    remote: IpAddr,
    mut known: watch::Receiver<Arc<Known>>,
) -> std::convert::Infallible {
    let mut applied = Signing::Plain;
    let mut on_socket = Vec::new();
    loop {
        let now = known
            .borrow_and_update()
            .get(&remote)
            .map(|terms| terms.signing.clone());
        let now = now
            .filter(Signing::is_ready)
            .unwrap_or_else(|| applied.clone());
        let outcome = match &now {
            Signing::Md5(key) if now != applied => md5::sign(key, &socket, remote),
            Signing::Ao(keys) => {
                let changed = ao::change(&mut on_socket, keys, &socket, remote);
                // The kernel knows nothing of one that was not added.
                let first = keys.iter().find(|key| on_socket.contains(key));
                changed.and(first.map_or(Ok(()), |first| first.request(&socket)))
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) if now == applied || applied == Signing::Plain => {}
            Ok(()) => tracing::info!(peer = %remote, "a connection is signed with the new key"),
            Err(error) => {
                tracing::error!(peer = %remote, %error, "cannot give a connection its new key");
            }
        }
        let still_used = match &now {
            Signing::Ao(keys) => on_socket.iter().any(|key| !keys.contains(key)),
            _ => false,
        };
        applied = now;
        tokio::select! {
            changed = known.changed() => if changed.is_err() {
                return std::future::pending().await; // the transport is gone; `close` follows
            },
            () = tokio::time::sleep(RETRY), if still_used => {}
        }
    }
}

#[cfg(test)]
mod tests;

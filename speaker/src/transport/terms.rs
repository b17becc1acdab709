//! On which terms connections with a peer are made, whichever side opens them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::Socket;
use tokio::sync::watch;

use super::distance::Distance;
use crate::keys::Key;

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
    /// This key.
    With(Arc<Key>),
}

impl PartialEq for Signing {
    fn eq(&self, other: &Signing) -> bool {
        match (self, other) {
            (Signing::Plain, Signing::Plain) | (Signing::NotYet, Signing::NotYet) => true,
            (Signing::Missing(ours), Signing::Missing(theirs)) => ours == theirs,
            (Signing::With(ours), Signing::With(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

impl Signing {
    /// Whether a connection can be made now.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Signing::Plain | Signing::With(_))
    }

    pub(super) fn set(&self, socket: &Socket, remote: IpAddr) -> io::Result<()> {
        match self {
            Signing::With(key) => key.sign(socket, remote),
            Signing::Plain => Ok(()),
            Signing::NotYet | Signing::Missing(_) => Err(io::Error::other("there is no key")),
        }
    }
}

/// Keeps the key of a connection up to date for as long as it is polled. A key that is gone is kept:
/// the connection was made with it.
pub(super) async fn follow(
    socket: OwnedFd,
    remote: IpAddr,
    mut known: watch::Receiver<Arc<Known>>,
) -> std::convert::Infallible {
    let mut used: Option<Arc<Key>> = None;
    loop {
        let signing = known
            .borrow_and_update()
            .get(&remote)
            .map(|it| it.signing.clone());
        if let Some(Signing::With(key)) = signing
            && !used.as_ref().is_some_and(|used| Arc::ptr_eq(used, &key))
        {
            match key.sign(&socket, remote) {
                Ok(()) if used.is_none() => {}
                Ok(()) => tracing::info!(peer = %remote, "a connection is signed with the new key"),
                Err(error) => {
                    tracing::error!(peer = %remote, %error, "cannot sign with the new key");
                }
            }
            used = Some(key);
        }
        if known.changed().await.is_err() {
            return std::future::pending().await; // the transport is gone; `close` follows
        }
    }
}

#[cfg(test)]
mod tests;

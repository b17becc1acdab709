//! Network interfaces.

use std::io;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tokio::runtime::{Builder, Runtime};

use crate::message::{Message, attributes, text, u32_at};

pub(crate) const NEW: u16 = libc::RTM_NEWLINK;
pub(crate) const DELETE: u16 = libc::RTM_DELLINK;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// What a person calls it.
    pub name: String,
    /// Switched on and with a carrier: packets can leave by it.
    pub up: bool,
}

impl Link {
    pub(crate) fn read(message: Message<'_>) -> Option<Link> {
        // struct ifinfomsg: family, padding, type, index, flags, change
        let index = u32_at(message.body, 4)?;
        let flags = u32_at(message.body, 8)?;
        let name = attributes(message.body, 16)
            .find(|(kind, _)| *kind == libc::IFLA_IFNAME)
            .map(|(_, value)| text(value))?;
        let needed = libc::IFF_UP as u32 | libc::IFF_LOWER_UP as u32;
        Some(Link {
            index,
            name,
            up: flags & needed == needed,
        })
    }
}

/// Lists interfaces with `rtnetlink`: they are few, so its one request at a time costs nothing.
pub struct Links {
    runtime: Runtime,
    handle: rtnetlink::Handle,
}

/// Why interfaces cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No socket, or nothing to wait for it with.
    #[error("cannot open a netlink socket to list interfaces")]
    Open(#[source] io::Error),
    /// The kernel did not answer.
    #[error("the kernel does not list interfaces")]
    List(#[source] rtnetlink::Error),
}

impl Links {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`LinksError::Open`].
    pub fn open() -> Result<Links, LinksError> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(LinksError::Open)?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(LinksError::Open)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Links { runtime, handle })
    }

    /// All interfaces. Waits for the kernel's answer; not to be called from within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`LinksError::List`].
    pub fn list(&self) -> Result<Vec<Link>, LinksError> {
        let messages = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> = self
            .runtime
            .block_on(messages.try_collect())
            .map_err(LinksError::List)?;
        Ok(messages
            .into_iter()
            .filter_map(Link::from_message)
            .collect())
    }
}

impl Link {
    fn from_message(message: LinkMessage) -> Option<Link> {
        let name = message
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })?;
        let needed = LinkFlags::Up | LinkFlags::LowerUp;
        Some(Link {
            index: message.header.index,
            name,
            up: message.header.flags.contains(needed),
        })
    }
}

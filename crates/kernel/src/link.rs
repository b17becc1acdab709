//! Network interfaces.

use crate::message::{Message, Requests, attributes, text, u32_at};

pub(crate) const NEW: u16 = libc::RTM_NEWLINK;
pub(crate) const DELETE: u16 = libc::RTM_DELLINK;
const GET: u16 = libc::RTM_GETLINK;

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

impl Requests {
    pub(crate) fn list_links(&mut self) {
        self.begin(GET, crate::message::DUMP);
        self.body(&[0; 16]);
        self.end();
    }
}

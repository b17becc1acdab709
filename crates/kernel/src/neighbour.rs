//! Neighbours: who answers at which address of a link, as ARP and neighbour discovery find out
//! (`linux/neighbour.h`).

use std::net::IpAddr;

use crate::link::Mac;
use crate::message::{
    CREATE, DUMP, Message, REPLACE, Requests, address, address_family, attributes, u16_at, u32_at,
};

pub(crate) const NEW: u16 = libc::RTM_NEWNEIGH;
const GET: u16 = libc::RTM_GETNEIGH;

/// Bytes of `struct ndmsg`: family, padding (3), interface (4), state (2), flags, type.
const BODY: usize = 12;
const NDA_DST: u16 = 1;
const NUD_FAILED: u16 = 0x20;
/// Reachable, stale, delay, probe, noarp, permanent.
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
const NTF_USE: u8 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;

/// A neighbour as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// The link it is on.
    pub interface: u32,
    /// Whether packets can be sent to it; `None`: that is being found out, or was never asked.
    pub answers: Option<bool>,
    /// Written by hand: the kernel asks nobody, and never forgets it.
    pub permanent: bool,
    /// Its MAC address.
    pub mac: Option<Mac>,
}

impl Neighbour {
    pub(crate) fn read(message: Message<'_>) -> Option<Neighbour> {
        let state = u16_at(message.body, 8)?;
        let find = |wanted| {
            let mut all = attributes(message.body, BODY);
            all.find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value)
        };
        Some(Neighbour {
            address: address(find(NDA_DST)?)?,
            interface: u32_at(message.body, 4)?,
            answers: match state {
                NUD_FAILED => Some(false),
                state if state & NUD_VALID != 0 => Some(true),
                _ => None,
            },
            permanent: state & NUD_PERMANENT != 0,
            mac: find(NDA_LLADDR).and_then(Mac::read),
        })
    }
}

impl Requests {
    /// Has the kernel find out whether somebody answers at an address, as a packet to it would.
    pub fn probe(&mut self, address: IpAddr, interface: u32) {
        self.begin(NEW, CREATE);
        self.body(&[address_family(address), 0, 0, 0]);
        self.body(&interface.to_ne_bytes());
        self.body(&[0, 0, NTF_USE, 0]);
        self.attribute_address(NDA_DST, address);
        self.end();
    }

    /// Says once and for all who answers at an address, in the place of what was known of it.
    pub fn add_permanent_neighbour(&mut self, address: IpAddr, interface: u32, mac: Mac) {
        self.begin(NEW, CREATE | REPLACE);
        self.body(&[address_family(address), 0, 0, 0]);
        self.body(&interface.to_ne_bytes());
        self.body(&NUD_PERMANENT.to_ne_bytes());
        self.body(&[0, 0]);
        self.attribute_address(NDA_DST, address);
        self.attribute(NDA_LLADDR, &mac.0);
        self.end();
    }

    pub(crate) fn list_neighbours(&mut self, interface: u32) {
        self.begin(GET, DUMP);
        self.body(&[0; BODY]);
        self.attribute_u32(NDA_IFINDEX, interface);
        self.end();
    }
}

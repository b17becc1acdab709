//! Addresses of links (`linux/if_addr.h`).

use std::net::IpAddr;

use crate::message::{
    CREATE, DUMP, EXCLUSIVE, Message, Requests, address, address_family, attributes, u32_at,
};

pub(crate) const NEW: u16 = libc::RTM_NEWADDR;
const GET: u16 = libc::RTM_GETADDR;

/// Bytes of `struct ifaddrmsg`: family, prefix length, flags, scope, interface (4).
const BODY: usize = 8;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the link.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its subnet.
    pub length: u8,
    /// IPv6: others were asked and one of them has it, or they are still being asked.
    pub unusable: bool,
}

impl Address {
    pub(crate) fn read(message: Message<'_>) -> Option<Address> {
        let mut flags = u32::from(*message.body.get(2)?);
        let (mut local, mut other) = (None, None);
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                libc::IFA_LOCAL => local = address(value),
                libc::IFA_ADDRESS => other = address(value),
                libc::IFA_FLAGS => flags = u32_at(value, 0)?,
                _ => {}
            }
        }
        Some(Address {
            interface: u32_at(message.body, 4)?,
            // IPv4 calls the other end of a link without subnet IFA_ADDRESS.
            address: local.or(other)?,
            length: *message.body.get(1)?,
            unusable: flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0,
        })
    }
}

impl Requests {
    /// A further address of a link, usable at once: nobody is asked whether it is free (no duplicate
    /// address detection). Fails with `EEXIST` when the link has it, and with `EACCES` for IPv6 on a
    /// link where that is switched off.
    pub fn add_address(&mut self, interface: u32, address: IpAddr, length: u8) {
        let scope = match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        self.begin(NEW, CREATE | EXCLUSIVE);
        self.body(&[
            address_family(address),
            length,
            libc::IFA_F_NODAD as u8,
            scope,
        ]);
        self.body(&interface.to_ne_bytes());
        self.attribute_address(libc::IFA_LOCAL, address);
        self.attribute_address(libc::IFA_ADDRESS, address);
        if let (IpAddr::V4(address), true) = (address, length < 31) {
            let broadcast = u32::from(address) | (u32::MAX >> length);
            self.attribute(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        self.end();
    }

    pub(crate) fn list_addresses(&mut self, interface: u32) {
        self.begin(GET, DUMP);
        self.body(&[0; 4]);
        self.body(&interface.to_ne_bytes());
        self.end();
    }
}

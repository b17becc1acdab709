//! Changes of settings under `/proc/sys/net/ipv4/conf/all` and `ipv6/conf/all`, such as forwarding, whoever makes
//! them: `RTM_NEWNETCONF`, `linux/netconf.h`.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::message;
use crate::socket::{Netlink, NetlinkError};

/// `RTNLGRP_IPV4_NETCONF`, `RTNLGRP_IPV6_NETCONF`.
const GROUPS: [u32; 2] = [24, 25];
/// `RTM_NEWNETCONF`.
const NEW: u16 = 80;
/// `struct netconfmsg` with what aligns it.
const HEADER: usize = 4;
/// `NETCONFA_IFINDEX`, and its value for all interfaces together (`NETCONFA_IFINDEX_ALL`).
const INTERFACE: u16 = 1;
const ALL: i32 = -1;

/// A socket that hears of changes for all interfaces together. Those of one alone are passed over: every interface
/// that comes has some.
#[derive(Debug)]
pub struct NetconfMonitor {
    netlink: Netlink,
}

impl NetconfMonitor {
    /// `receive` bytes may wait, as the kernel counts them.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open(receive: usize) -> Result<NetconfMonitor, NetlinkError> {
        let netlink = Netlink::open(receive)?;
        for group in GROUPS {
            let joined = netlink.socket().add_membership(group);
            joined.map_err(|source| NetlinkError::Open {
                step: "multicast groups",
                source,
            })?;
        }
        Ok(NetconfMonitor { netlink })
    }

    /// Reads all there is, and says whether something of it is a change for all interfaces together.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Overrun`] when changes were lost.
    pub fn read(&mut self) -> Result<bool, NetlinkError> {
        let (mut any, mut overrun) = (false, false);
        while let Some(length) = self.netlink.receive(&mut overrun)? {
            let mut messages = message::messages(self.netlink.received(length));
            any |= messages.any(|message| message.kind == NEW && is_of_all(message.body));
        }
        match overrun {
            true => Err(NetlinkError::Overrun),
            false => Ok(any),
        }
    }

    /// For whoever waits with more than this crate has.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.fd()
    }
}

impl AsRawFd for NetconfMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

fn is_of_all(body: &[u8]) -> bool {
    let mut attributes = message::attributes(body, HEADER);
    attributes.any(|(kind, value)| kind == INTERFACE && value == ALL.to_ne_bytes())
}

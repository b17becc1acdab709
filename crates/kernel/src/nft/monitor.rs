//! Changes that others make to a table.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::message;
use crate::monitor::ignore_sender;
use crate::socket::{Netlink, NetlinkError};

use super::{GENERIC, Nft, find_name, find_number, kind};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// A socket that hears of every change of nftables but those made through one other socket.
#[derive(Debug)]
pub struct NftMonitor {
    netlink: Netlink,
    table: String,
}

/// Somebody changed the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who, by number and name; as far as the kernel says.
    pub process: Option<(u32, String)>,
}

impl NftMonitor {
    /// Hears what others than `own` do to the table of this name. `receive` bytes may wait, as the
    /// kernel counts them.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open(own: &Nft, table: &str, receive: usize) -> Result<NftMonitor, NetlinkError> {
        let protocol = netlink_sys::protocols::NETLINK_NETFILTER;
        let netlink = Netlink::open_to(protocol, receive)?;
        let open = |step| move |source| NetlinkError::Open { step, source };
        ignore_sender(&netlink, own.netlink.port()).map_err(open("filter"))?;
        netlink
            .socket()
            .add_membership(GROUP)
            .map_err(open("multicast groups"))?;
        Ok(NftMonitor {
            netlink,
            table: table.to_owned(),
        })
    }

    /// For [`wait`](crate::socket::wait).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.fd()
    }

    /// Reads all there is, and says whether something of it concerns the table.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Overrun`] when changes were lost: the table must be listed again.
    pub fn read(&mut self) -> Result<Option<Change>, NetlinkError> {
        let mut concerned = false;
        let mut change = None;
        let mut overrun = false;
        while let Some(length) = self.netlink.receive(&mut overrun)? {
            for message in message::messages(self.netlink.received(length)) {
                // Who it was is told at the end of a transaction.
                if message.kind == kind::NEW_GENERATION {
                    if std::mem::take(&mut concerned) {
                        let process = process(message.body);
                        change = Some(Change { process });
                    }
                } else if find_name(message.body, GENERIC, 1).as_deref() == Some(&self.table) {
                    concerned = true;
                }
            }
        }
        if overrun {
            return Err(NetlinkError::Overrun);
        }
        if concerned {
            change = Some(Change { process: None });
        }
        Ok(change)
    }
}

/// For whoever waits with more than this crate has.
impl AsRawFd for NftMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

fn process(body: &[u8]) -> Option<(u32, String)> {
    let number = find_number(body, GENERIC, 2)?;
    Some((number, find_name(body, GENERIC, 3)?))
}

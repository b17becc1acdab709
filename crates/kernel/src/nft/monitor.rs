//! Changes that others make to tables.

use std::collections::BTreeSet;
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
    tables: Vec<String>,
}

/// Somebody changed one of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Which ones, by name.
    pub tables: BTreeSet<String>,
    /// Who, by number and name; as far as the kernel says.
    pub process: Option<(u32, String)>,
}

impl NftMonitor {
    /// Hears what others than `own` do to the tables of these names. `receive` bytes may wait, as the
    /// kernel counts them.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open(own: &Nft, tables: &[&str], receive: usize) -> Result<NftMonitor, NetlinkError> {
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
            tables: tables.iter().map(|it| (*it).to_owned()).collect(),
        })
    }

    /// For [`wait`](crate::socket::wait).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.fd()
    }

    /// Reads all there is, and says whether something of it concerns the tables.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Overrun`] when changes were lost: the tables must be listed again.
    pub fn read(&mut self) -> Result<Option<Change>, NetlinkError> {
        let mut concerned = BTreeSet::new();
        let mut change: Option<Change> = None;
        let mut overrun = false;
        while let Some(length) = self.netlink.receive(&mut overrun)? {
            for message in message::messages(self.netlink.received(length)) {
                // Who it was is told at the end of a transaction.
                if message.kind == kind::NEW_GENERATION {
                    if !concerned.is_empty() {
                        let change = change.get_or_insert_default();
                        change.tables.append(&mut concerned);
                        change.process = process(message.body);
                    }
                } else if let Some(name) = find_name(message.body, GENERIC, 1)
                    && self.tables.contains(&name)
                {
                    concerned.insert(name);
                }
            }
        }
        if overrun {
            return Err(NetlinkError::Overrun);
        }
        if !concerned.is_empty() {
            change.get_or_insert_default().tables.append(&mut concerned);
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

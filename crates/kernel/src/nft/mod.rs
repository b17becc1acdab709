//! nftables by netlink: a table of ours, written in one transaction and listed back.
//!
//! In reading order:
//!
//! - [`expression`]: the steps that a rule is made of;
//! - [`set`]: sets of addresses, ranges and interfaces, and concatenations of these;
//! - [`table`]: a table as data, and the steps from what is there to what is wanted; pure;
//! - [`batch`]: requests that are carried out together or not at all;
//! - [`list`]: a table as the kernel has it;
//! - [`monitor`]: changes that others make.
//!
//! Tables are of the family `inet`, which sees IPv4 and IPv6. What is listed back equals what was
//! written, so that a difference is a change made by somebody else. `linux/netfilter/nf_tables.h`;
//! numbers there are big-endian, other than in `rtnetlink`.

pub mod batch;
pub mod expression;
pub mod list;
pub mod monitor;
pub mod set;
pub mod table;

#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use expression::{Comparison, Expression, Header, Meta, Register, Verdict};
pub use monitor::{Change, NftMonitor};
pub use set::{Element, Field, Set};
pub use table::{Base, Chain, Hook, Rule, Table};

use crate::message::{self, Requests};
use crate::socket::{Failure, Netlink, NetlinkError, outcome};

/// `NFNL_SUBSYS_NFTABLES`, as the high byte of a message's kind.
const NFTABLES: u16 = 10 << 8;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NFT_MSG_*`.
mod kind {
    use super::NFTABLES;
    pub(super) const NEW_TABLE: u16 = NFTABLES;
    pub(super) const GET_TABLE: u16 = NFTABLES | 1;
    pub(super) const DELETE_TABLE: u16 = NFTABLES | 2;
    pub(super) const NEW_CHAIN: u16 = NFTABLES | 3;
    pub(super) const GET_CHAIN: u16 = NFTABLES | 4;
    pub(super) const NEW_RULE: u16 = NFTABLES | 6;
    pub(super) const GET_RULE: u16 = NFTABLES | 7;
    pub(super) const NEW_SET: u16 = NFTABLES | 9;
    pub(super) const GET_SET: u16 = NFTABLES | 10;
    pub(super) const NEW_ELEMENTS: u16 = NFTABLES | 12;
    pub(super) const GET_ELEMENTS: u16 = NFTABLES | 13;
    pub(super) const DELETE_ELEMENTS: u16 = NFTABLES | 14;
    pub(super) const NEW_GENERATION: u16 = NFTABLES | 15;
    pub(super) const GET_GENERATION: u16 = NFTABLES | 16;
    /// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
    pub(super) const BATCH_BEGIN: u16 = 16;
    pub(super) const BATCH_END: u16 = 17;
}

/// Room for answers to a batch of which every request fails, and for lists.
const RECEIVE: usize = 1 << 20;

/// A socket to nftables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nft {
    netlink: Netlink,
}

/// The number of the ruleset's state, of all tables together: each transaction makes a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub(crate) u32);

/// Why nftables is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket.
    #[error("cannot talk to the kernel about nftables")]
    Netlink(#[from] NetlinkError),
    /// The kernel refused a part of a transaction, so that nothing of it was carried out.
    #[error("the kernel refuses {what}: {}; nothing of the transaction was carried out", .failure.reason())]
    Refused {
        /// Of the first part that was refused.
        what: String,
        /// As the kernel said.
        failure: Failure,
    },
    /// Somebody changed nftables since it was listed. Nothing was carried out.
    #[error("nftables was changed by somebody else meanwhile")]
    Changed,
}

impl NftError {
    /// The kernel has no nftables, or lacks a part that we need.
    pub fn says_unsupported(&self) -> bool {
        let errno = match self {
            NftError::Refused { failure, .. }
            | NftError::Netlink(NetlinkError::List { failure, .. }) => Some(failure.errno),
            NftError::Netlink(NetlinkError::Open { source, .. }) => source.raw_os_error(),
            NftError::Netlink(_) | NftError::Changed => None,
        };
        let unsupported = [
            libc::EPROTONOSUPPORT,
            libc::EOPNOTSUPP,
            libc::EAFNOSUPPORT,
            libc::ENOSYS,
        ];
        errno.is_some_and(|errno| unsupported.contains(&errno))
    }
}

impl Nft {
    /// Opens a socket.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Nft, NetlinkError> {
        let netlink = Netlink::open_to(netlink_sys::protocols::NETLINK_NETFILTER, RECEIVE)?;
        Ok(Nft { netlink })
    }

    /// Carries out all requests of `batch`, or none. With `since`, none if anything of nftables has
    /// changed since then.
    ///
    /// # Errors
    ///
    /// [`NftError::Refused`] with the first part that the kernel does not take, and
    /// [`NftError::Changed`]: nothing was carried out. After [`NetlinkError::Overrun`] it is unknown
    /// whether it was.
    pub fn commit(&mut self, batch: &Batch, since: Option<Generation>) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.encode(since);
        self.netlink.set_send_buffer(bytes.len())?;
        self.forget()?;
        self.netlink.send(&bytes, batch.len())?;
        self.outcome(batch)
    }

    /// All answers are there when the send is over; the last request asked for one.
    fn outcome(&mut self, batch: &Batch) -> Result<(), NftError> {
        let (mut done, mut overrun, mut changed) = (false, false, false);
        let mut first: Option<Failure> = None;
        while let Some(length) = self.netlink.receive(&mut overrun)? {
            for message in message::messages(self.netlink.received(length)) {
                if message.kind != message::ERROR {
                    continue;
                }
                let Some((errno, text)) = outcome(message) else {
                    done = true;
                    continue;
                };
                changed |= errno == ERESTART;
                // The first request of the bytes is the beginning of the batch.
                let request = (message.sequence as usize).saturating_sub(1);
                if first.as_ref().is_none_or(|it| request < it.request) {
                    first = Some(Failure {
                        request,
                        errno,
                        text,
                    });
                }
            }
        }
        match first {
            _ if changed => Err(NftError::Changed),
            Some(failure) => Err(NftError::Refused {
                what: batch.what(failure.request),
                failure,
            }),
            None if overrun || !done => Err(NetlinkError::Overrun.into()),
            None => Ok(()),
        }
    }

    /// Answers to what was given up.
    fn forget(&mut self) -> Result<(), NetlinkError> {
        let mut overrun = false;
        while self.netlink.receive(&mut overrun)?.is_some() {}
        Ok(())
    }
}

/// What the kernel says when the generation is another one; it is not meant for programs, and not in
/// `libc`.
const ERESTART: i32 = 85;

impl Requests {
    /// A request about nftables: its header, and the family of the tables.
    fn begin_nft(&mut self, kind: u16, flags: u16) {
        self.begin(kind, flags);
        self.body(&[INET, 0, 0, 0]); // struct nfgenmsg
    }

    fn nft_nested(&mut self, kind: u16, fill: impl FnOnce(&mut Requests)) {
        self.nested(kind | NESTED, fill);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// With the NUL that the kernel wants.
    fn name(&mut self, kind: u16, name: &str) {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// `struct nft_data` with a value.
    fn value(&mut self, kind: u16, value: &[u8]) {
        self.nft_nested(kind, |it| it.attribute(DATA_VALUE, value));
    }
}

/// `NFTA_DATA_VALUE`, `NFTA_LIST_ELEM`.
const DATA_VALUE: u16 = 1;
const LIST_ELEMENT: u16 = 1;

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// The first attribute of this kind.
fn find(body: &[u8], skip: usize, kind: u16) -> Option<&[u8]> {
    message::attributes(body, skip)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

fn find_number(body: &[u8], skip: usize, kind: u16) -> Option<u32> {
    find(body, skip, kind).and_then(number)
}

fn find_name(body: &[u8], skip: usize, kind: u16) -> Option<String> {
    find(body, skip, kind).map(message::text)
}

/// The value in a `struct nft_data`.
fn find_value(body: &[u8], skip: usize, kind: u16) -> Option<&[u8]> {
    find(find(body, skip, kind)?, 0, DATA_VALUE)
}

/// Bytes of `struct nfgenmsg`.
const GENERIC: usize = 4;

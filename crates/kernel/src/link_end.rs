//! Hearing that one link is gone, while the kernel is still busy with what it leaves behind.

use std::io;
use std::os::fd::BorrowedFd;

use crate::link;
use crate::message;
use crate::socket::{Netlink, NetlinkError, set_filter};

/// There is one message to hear.
const RECEIVE: usize = 16 * 1024;

/// A socket that hears of the end of one link in its namespace, and of nothing else.
///
/// The kernel says so when the link has no name, address, neighbour or route any more and its slaves and masters
/// have let it go. Whoever asked for its removal is answered later: when every processor has gone through a
/// grace period of RCU, after which nothing can point to the memory of the link.
#[derive(Debug)]
pub struct LinkEnd {
    netlink: Netlink,
    is_gone: bool,
}

impl LinkEnd {
    /// Begins to listen, for the link of this number. Whether it is there still is not looked at.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn watch(link: u32) -> Result<LinkEnd, NetlinkError> {
        let netlink = Netlink::open(RECEIVE)?;
        let open = |step| move |source| NetlinkError::Open { step, source };
        only_end_of(&netlink, link).map_err(open("filter"))?;
        let joined = netlink.socket().add_membership(libc::RTNLGRP_LINK);
        joined.map_err(open("multicast group"))?;
        Ok(LinkEnd {
            netlink,
            is_gone: false,
        })
    }

    /// For [`wait`](crate::socket::wait): there is something to read when the link is gone.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.fd()
    }

    /// Whether it has gone since [`LinkEnd::watch`].
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn is_gone(&mut self) -> Result<bool, NetlinkError> {
        let mut overrun = false;
        if let Some(length) = self.netlink.receive(&mut overrun)? {
            let mut messages = message::messages(self.netlink.received(length));
            self.is_gone |= messages.any(|message| message.kind == link::DELETE);
        }
        Ok(self.is_gone)
    }
}

/// A classic BPF program that lets nothing pass but the end of this link: a bridge also says `RTM_DELLINK`, in a
/// family of its own, when a port leaves it.
fn only_end_of(netlink: &Netlink, link: u32) -> io::Result<()> {
    // Behind the header of 16 octets a `struct ifinfomsg`: family (1), padding, type (2), index (4).
    const KIND: u32 = 4;
    const FAMILY: u32 = 16;
    const INDEX: u32 = 20;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // On to the next statement, or over so many.
    let unless = |value: u32, over: u8| libc::sock_filter {
        jf: over,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    // A load takes the octets in network order; the kernel wrote them in ours.
    let kind = u16::from_be_bytes(link::DELETE.to_ne_bytes());
    let index = u32::from_be_bytes(link.to_ne_bytes());
    set_filter(
        netlink.socket(),
        &mut [
            statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, KIND),
            unless(u32::from(kind), 5),
            statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FAMILY),
            unless(libc::AF_UNSPEC as u32, 3),
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, INDEX),
            unless(index, 1),
            statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
            statement(libc::BPF_RET | libc::BPF_K, 0),
        ],
    )
}

//! Changes that others make: links, addresses, routes, nexthop objects.

use std::os::fd::BorrowedFd;

use crate::link::Link;
use crate::message::{self, Message};
use crate::neighbour::Neighbour;
use crate::nexthop::NextHop;
use crate::route::Route;
use crate::socket::{Netlink, NetlinkError, set_filter};
use crate::{link, neighbour, nexthop, route};

const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    32, // RTNLGRP_NEXTHOP
];

/// A socket that hears of every change in its namespace but those made through one other socket.
#[derive(Debug)]
pub struct Monitor {
    netlink: Netlink,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or different.
    Link(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// An address came, went or changed.
    Addresses,
    /// A neighbour was found, lost, or is looked for.
    Neighbour(Neighbour),
    /// A route is new.
    Route {
        /// As it is now.
        route: Route,
        /// It took the place of another with the same destination, table and metric.
        replaced: bool,
    },
    /// A route is gone.
    RouteGone {
        /// As it was.
        route: Route,
        /// It went with something else (its link, its nexthop object): nobody took it away.
        by_kernel: bool,
    },
    /// A nexthop object is new, different or gone.
    NextHop(NextHop),
}

impl Monitor {
    /// Hears everything but what comes of requests sent through `own`: those are dropped before
    /// they are queued. `receive` bytes may wait, as the kernel counts them.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`].
    pub fn open(own: &Netlink, receive: usize) -> Result<Monitor, NetlinkError> {
        let netlink = Netlink::open(receive)?;
        let open = |step| move |source| NetlinkError::Open { step, source };
        ignore_sender(&netlink, own.port()).map_err(open("filter"))?;
        for group in GROUPS {
            netlink
                .socket()
                .add_membership(group)
                .map_err(open("multicast groups"))?;
        }
        Ok(Monitor { netlink })
    }

    /// For [`wait`](crate::socket::wait).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.fd()
    }

    /// Reads what there is, `datagrams` at most, and hands it to `each`. False when nothing was
    /// there.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Overrun`] when changes were lost: everything must be listed again.
    pub fn read(
        &mut self,
        datagrams: usize,
        mut each: impl FnMut(Event),
    ) -> Result<bool, NetlinkError> {
        let mut any = false;
        let mut overrun = false;
        for _ in 0..datagrams {
            let Some(length) = self.netlink.receive(&mut overrun)? else {
                break;
            };
            any = true;
            let events = message::messages(self.netlink.received(length)).filter_map(event);
            events.for_each(&mut each);
        }
        if overrun {
            return Err(NetlinkError::Overrun);
        }
        Ok(any)
    }
}

fn event(message: Message<'_>) -> Option<Event> {
    Some(match message.kind {
        link::NEW => Event::Link(Link::read(message)?),
        link::DELETE => Event::LinkGone(Link::read(message)?),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Event::Addresses,
        // One that is forgotten may still be there or not.
        neighbour::NEW => Event::Neighbour(Neighbour::read(message)?),
        route::NEW => Event::Route {
            route: Route::read(message)?,
            replaced: message.flags & message::REPLACE != 0,
        },
        route::DELETE => Event::RouteGone {
            route: Route::read(message)?,
            by_kernel: message.port == 0,
        },
        nexthop::NEW | nexthop::DELETE => Event::NextHop(NextHop::read(message)?),
        _ => return None,
    })
}

/// A classic BPF program that drops every message whose `nlmsg_pid` is `port`.
pub(crate) fn ignore_sender(netlink: &Netlink, port: u32) -> std::io::Result<()> {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        // A load takes the bytes in network order; the kernel wrote them in ours.
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::from_be_bytes(port.to_ne_bytes()),
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    set_filter(netlink.socket(), &mut program)
}

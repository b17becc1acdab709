//! Everything there is of a kind.

use crate::address::{self, Address};
use crate::link::{self, LinkDetails};
use crate::message::{self, Message, Requests};
use crate::neighbour::{self, Neighbour};
use crate::nexthop::NextHop;
use crate::route::Route;
use crate::rule::{self, SourceRule};
use crate::socket::{Failure, Netlink, NetlinkError, outcome};
use crate::{nexthop, route};

/// All nexthop objects, whoever made them.
///
/// # Errors
///
/// Those of the socket; `EOPNOTSUPP` from a kernel without nexthop objects (before 5.3).
pub fn next_hops(netlink: &mut Netlink) -> Result<Vec<NextHop>, NetlinkError> {
    all(
        netlink,
        "nexthop objects",
        Requests::list_next_hops,
        |message| (message.kind == nexthop::NEW).then(|| NextHop::read(message))?,
    )
}

/// All links, whoever made them.
///
/// # Errors
///
/// Those of the socket.
pub fn links(netlink: &mut Netlink) -> Result<Vec<LinkDetails>, NetlinkError> {
    all(netlink, "links", Requests::list_links, |message| {
        (message.kind == link::NEW).then(|| LinkDetails::read(message))?
    })
}

/// The addresses of a link, or of all links for 0.
///
/// # Errors
///
/// Those of the socket; `ENODEV` when there is no such link.
pub fn addresses(netlink: &mut Netlink, interface: u32) -> Result<Vec<Address>, NetlinkError> {
    all(
        netlink,
        "addresses",
        |requests| requests.list_addresses(interface),
        |message| {
            let read = (message.kind == address::NEW).then(|| Address::read(message))?;
            read.filter(|address| interface == 0 || address.interface == interface)
        },
    )
}

/// The neighbours on a link.
///
/// # Errors
///
/// Those of the socket; `ENODEV` when there is no such link.
pub fn neighbours(netlink: &mut Netlink, interface: u32) -> Result<Vec<Neighbour>, NetlinkError> {
    all(
        netlink,
        "neighbours",
        |requests| requests.list_neighbours(interface),
        |message| {
            let read = (message.kind == neighbour::NEW).then(|| Neighbour::read(message))?;
            read.filter(|neighbour| neighbour.interface == interface)
        },
    )
}

/// The rules of both families that look at one source address and at nothing else, whoever made them.
///
/// # Errors
///
/// Those of the socket.
pub fn source_rules(netlink: &mut Netlink) -> Result<Vec<SourceRule>, NetlinkError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        found.extend(all(
            netlink,
            "rules",
            |requests| requests.list_rules(family as u8),
            |message| (message.kind == rule::NEW).then(|| SourceRule::read(message))?,
        )?);
    }
    Ok(found)
}

/// The routes of a table that `wanted` takes.
///
/// # Errors
///
/// Those of the socket.
pub fn routes(
    netlink: &mut Netlink,
    table: u32,
    wanted: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, NetlinkError> {
    let mut list = RouteList::start(netlink, table)?;
    let mut found = Vec::new();
    let mut each = |route| {
        if wanted(&route) {
            found.push(route);
        }
    };
    while list.step(netlink, &mut each)? == Progress::More {}
    Ok(found)
}

/// Lists again when the list changed while it was read, but not for ever.
fn all<T>(
    netlink: &mut Netlink,
    what: &'static str,
    request: impl Fn(&mut Requests),
    read: impl Fn(Message<'_>) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let mut found = Vec::new();
    for _ in 0..10 {
        found.clear();
        let mut listing = Listing::start(netlink, what, &request)?;
        while listing.step(netlink, |message| found.extend(read(message)))? == Progress::More {}
        if !listing.interrupted {
            break;
        }
    }
    Ok(found)
}

/// Whether a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// [`RouteList::step`] gives more.
    More,
    /// That was all.
    Done,
}

/// A list of the routes of a table, or of all tables, that is read piece by piece, so that other
/// work is not held up.
///
/// Changes made meanwhile may or may not be in it.
#[derive(Debug)]
pub struct RouteList {
    listing: Listing,
    table: Option<u32>,
    family: i32,
}

impl RouteList {
    /// Begins to list the routes of `table`, IPv4 first. The socket must not be used for anything
    /// else until it is done.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn start(netlink: &mut Netlink, table: u32) -> Result<RouteList, NetlinkError> {
        RouteList::begin(netlink, Some(table))
    }

    /// [`RouteList::start`] for the routes of every table.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn start_everywhere(netlink: &mut Netlink) -> Result<RouteList, NetlinkError> {
        RouteList::begin(netlink, None)
    }

    fn begin(netlink: &mut Netlink, table: Option<u32>) -> Result<RouteList, NetlinkError> {
        let family = libc::AF_INET;
        let listing = list_family(netlink, family, table)?;
        Ok(RouteList {
            listing,
            table,
            family,
        })
    }

    /// Hands the next few hundred routes at most to `each`.
    ///
    /// # Errors
    ///
    /// Those of the socket. The list is then over.
    pub fn step(
        &mut self,
        netlink: &mut Netlink,
        mut each: impl FnMut(Route),
    ) -> Result<Progress, NetlinkError> {
        let table = self.table;
        let outcome = self.listing.step(netlink, |message| {
            if message.kind == route::NEW
                && let Some(route) = Route::read(message)
                && table.is_none_or(|table| route.owner.table == table)
            {
                each(route);
            }
        });
        let done = match outcome {
            Ok(Progress::More) => return Ok(Progress::More),
            Ok(Progress::Done) => true,
            // A table is made with its first route.
            Err(NetlinkError::List { failure, .. }) if failure.errno == libc::ENOENT => true,
            Err(error) => return Err(error),
        };
        if done && self.family == libc::AF_INET {
            self.family = libc::AF_INET6;
            self.listing = list_family(netlink, libc::AF_INET6, table)?;
            return Ok(Progress::More);
        }
        Ok(Progress::Done)
    }
}

fn list_family(
    netlink: &mut Netlink,
    family: i32,
    table: Option<u32>,
) -> Result<Listing, NetlinkError> {
    Listing::start(netlink, "routes", |requests| {
        requests.list_routes(family as u8, table);
    })
}

/// A list of any kind under way.
#[derive(Debug)]
pub(crate) struct Listing {
    what: &'static str,
    sequence: u32,
    interrupted: bool,
}

impl Listing {
    pub(crate) fn start(
        netlink: &mut Netlink,
        what: &'static str,
        request: impl FnOnce(&mut Requests),
    ) -> Result<Listing, NetlinkError> {
        let mut overrun = false;
        while netlink.receive(&mut overrun)?.is_some() {} // rest of a list given up
        let mut requests = Requests::new();
        request(&mut requests);
        let sequence = requests.first;
        netlink.send(&requests.bytes, 1)?;
        Ok(Listing {
            what,
            sequence,
            interrupted: false,
        })
    }

    /// Reads one datagram. The kernel fills the next one while we take the last, so that one is
    /// always there until the list is done.
    pub(crate) fn step(
        &mut self,
        netlink: &mut Netlink,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<Progress, NetlinkError> {
        let mut overrun = false;
        let Some(length) = netlink.receive(&mut overrun)? else {
            return Err(NetlinkError::Overrun);
        };
        if overrun {
            return Err(NetlinkError::Overrun);
        }
        for message in message::messages(netlink.received(length)) {
            if message.sequence != self.sequence {
                continue;
            }
            self.interrupted |= message.flags & message::INTERRUPTED != 0;
            match message.kind {
                // The body of DONE begins like that of ERROR.
                message::DONE | message::ERROR => {
                    return match outcome(message) {
                        None => Ok(Progress::Done),
                        Some((errno, text)) => Err(NetlinkError::List {
                            what: self.what,
                            failure: Failure {
                                request: 0,
                                errno,
                                text,
                            },
                        }),
                    };
                }
                _ => each(message),
            }
        }
        Ok(Progress::More)
    }
}

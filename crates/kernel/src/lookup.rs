//! Which route the kernel takes to an address.

use std::net::IpAddr;

use crate::message::{Requests, address_family};
use crate::route::{self, Route};
use crate::socket::{Netlink, NetlinkError};

/// The answer is the entry of the table, not what a packet would be given (linux/rtnetlink.h). `libc` has it for
/// glibc only.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// How many questions are asked at once.
const AT_ONCE: usize = 128;

/// For each address the route that packets from this host would take (rules and all tables are
/// gone through), as it stands in its table; `None` where there is none.
///
/// # Errors
///
/// Those of the socket. That there is no route is none.
pub fn lookup(
    netlink: &mut Netlink,
    addresses: &[IpAddr],
) -> Result<Vec<Option<Route>>, NetlinkError> {
    let mut found = ask(netlink, addresses, RTM_F_FIB_MATCH)?;
    for (address, route) in addresses.iter().zip(&mut found) {
        // An entry that only names somebody's nexthop object: ask for the way a packet takes.
        if let Some(route) = route
            && route.paths.is_empty()
            && route.next_hop.is_some()
            && let Some(Some(way)) = ask(netlink, &[*address], 0)?.pop()
        {
            route.paths = way.paths;
        }
    }
    Ok(found)
}

fn ask(
    netlink: &mut Netlink,
    addresses: &[IpAddr],
    flags: u32,
) -> Result<Vec<Option<Route>>, NetlinkError> {
    let mut found = vec![None; addresses.len()];
    let mut requests = Requests::new();
    let mut failures = Vec::new();
    for (chunk, found) in addresses.chunks(AT_ONCE).zip(found.chunks_mut(AT_ONCE)) {
        for address in chunk {
            requests.look_up(*address, flags);
        }
        let first = requests.first;
        netlink.exchange(&mut requests, &mut failures, |message| {
            let place = message.sequence.wrapping_sub(first) as usize;
            if message.kind == route::NEW
                && let Some(slot) = found.get_mut(place)
            {
                *slot = Route::read(message);
            }
        })?;
    }
    Ok(found)
}

impl Requests {
    fn look_up(&mut self, address: IpAddr, flags: u32) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        self.begin(route::GET, 0);
        self.body(&[address_family(address), length, 0, 0, 0, 0, 0, 0]);
        self.body(&flags.to_ne_bytes());
        self.attribute_address(libc::RTA_DST, address);
        self.end();
    }
}

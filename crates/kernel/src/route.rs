//! Routes: how one of ours is written, and what is told of one.

use std::net::IpAddr;

use crate::message::{
    APPEND, CREATE, DUMP, EXCLUSIVE, Message, Requests, address, address_family, attributes, u32_at,
};

pub(crate) const NEW: u16 = libc::RTM_NEWROUTE;
pub(crate) const DELETE: u16 = libc::RTM_DELROUTE;
pub(crate) const GET: u16 = libc::RTM_GETROUTE;

/// Bytes of `struct rtmsg`: family, destination length, source length, TOS, table, protocol,
/// scope, type, flags (4).
const BODY: usize = 12;
/// `RTNH_F_DEAD`, `RTNH_F_ONLINK`, `RTNH_F_LINKDOWN`.
const NEXT_HOP_DEAD: u32 = 1;
pub(crate) const NEXT_HOP_ON_LINK: u32 = 4;
const NEXT_HOP_LINK_DOWN: u32 = 16;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;

/// Where packets are for: an address whose host bits are zero, and how many bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The network address.
    pub address: IpAddr,
    /// Bits, at most 32 or 128.
    pub length: u8,
}

/// What tells a route of ours from every other for the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// 254 is the main table.
    pub table: u32,
    /// Who made it, as in `/etc/iproute2/rt_protos`.
    pub protocol: u8,
    /// The lower one wins.
    pub metric: u32,
}

/// What becomes of packets that take a route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// They go to this nexthop object or group.
    NextHop(u32),
    /// They are refused with an ICMP message.
    Unreachable,
}

/// A route as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where packets are for.
    pub destination: Destination,
    /// Table, protocol and metric.
    pub owner: Owner,
    /// What becomes of packets.
    pub kind: RouteKind,
    /// The nexthop object it points at, if it does.
    pub next_hop: Option<u32>,
    /// Ways out that can be used now; empty when the route has none, or when the kernel tells only
    /// the nexthop object (`net.ipv4.nexthop_compat_mode=0`).
    pub paths: Vec<Path>,
    /// The interface that it leads out of, usable or not, when it says one.
    pub interface: Option<u32>,
    /// It only counts for packets of one type of service, or is a cache entry: not for us.
    pub special: bool,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwarded.
    Unicast,
    /// Ours: delivered to this host.
    Local,
    /// Refused with an ICMP message.
    Unreachable,
    /// Anything else: broadcast, multicast, blackhole, prohibit, …
    Other,
}

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The next router; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Number of the interface.
    pub interface: u32,
    /// The gateway is on the link even though no route says so.
    pub on_link: bool,
}

impl Route {
    pub(crate) fn read(message: Message<'_>) -> Option<Route> {
        let body: &[u8; BODY] = message.body.get(..BODY)?.try_into().ok()?;
        let flags = u32_at(body, 8)?;
        let unspecified = match i32::from(body[0]) {
            libc::AF_INET => address(&[0; 4]),
            libc::AF_INET6 => address(&[0; 16]),
            _ => None,
        }?;
        let mut route = Route {
            destination: Destination {
                address: unspecified,
                length: body[1],
            },
            owner: Owner {
                table: u32::from(body[4]),
                protocol: body[5],
                metric: 0,
            },
            kind: match body[7] {
                libc::RTN_UNICAST => RouteKind::Unicast,
                libc::RTN_LOCAL => RouteKind::Local,
                libc::RTN_UNREACHABLE => RouteKind::Unreachable,
                _ => RouteKind::Other,
            },
            next_hop: None,
            paths: Vec::new(),
            interface: None,
            special: body[3] != 0 || body[2] != 0 || flags & libc::RTM_F_CLONED != 0,
        };
        let mut gateway = None;
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                libc::RTA_DST => route.destination.address = address(value)?,
                libc::RTA_TABLE => route.owner.table = u32_at(value, 0)?,
                libc::RTA_PRIORITY => route.owner.metric = u32_at(value, 0)?,
                libc::RTA_OIF => route.interface = u32_at(value, 0),
                libc::RTA_GATEWAY => gateway = address(value),
                RTA_VIA => gateway = address(value.get(2..)?),
                libc::RTA_MULTIPATH => route.paths = read_multipath(value),
                RTA_NH_ID => route.next_hop = u32_at(value, 0),
                _ => {}
            }
        }
        if let (true, Some(interface)) = (route.paths.is_empty(), route.interface)
            && usable(flags)
        {
            route.paths.push(Path {
                gateway,
                interface,
                on_link: on_link(flags),
            });
        }
        Some(route)
    }
}

/// `struct rtnexthop` (length 2, flags 1, hops 1, interface 4) and its attributes, repeated.
fn read_multipath(mut bytes: &[u8]) -> Vec<Path> {
    let mut paths = Vec::new();
    while let (Some(length), Some(interface)) = (crate::message::u16_at(bytes, 0), u32_at(bytes, 4))
    {
        let length = usize::from(length);
        if length < 8 || length > bytes.len() {
            break;
        }
        let flags = u32::from(bytes[2]);
        let gateway = attributes(&bytes[..length], 8).find_map(|(kind, value)| match kind {
            libc::RTA_GATEWAY => address(value),
            RTA_VIA => address(value.get(2..)?),
            _ => None,
        });
        if usable(flags) {
            paths.push(Path {
                gateway,
                interface,
                on_link: on_link(flags),
            });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    paths
}

fn usable(flags: u32) -> bool {
    flags & (NEXT_HOP_DEAD | NEXT_HOP_LINK_DOWN) == 0
}

fn on_link(flags: u32) -> bool {
    flags & NEXT_HOP_ON_LINK != 0
}

impl Requests {
    /// A new route. Fails with `EEXIST` when any route has the same destination, table and metric,
    /// whoever made it; nothing is ever replaced.
    pub fn add_route(&mut self, owner: &Owner, destination: Destination, target: Target) {
        self.write_route(NEW, CREATE | EXCLUSIVE, owner, destination, Some(target));
    }

    /// A further route beside those with the same destination, table and metric: it takes over when
    /// the ones before it go. Fails with `EEXIST` only when it is there already, ours and equal.
    ///
    /// This, followed by [`Requests::remove_route`] of the old one, changes a route without a gap
    /// and without the danger of `NLM_F_REPLACE`, which replaces whatever it finds there.
    pub fn append_route(&mut self, owner: &Owner, destination: Destination, target: Target) {
        self.write_route(NEW, CREATE | APPEND, owner, destination, Some(target));
    }

    /// Takes away a route with this destination, table, metric and protocol; with `target` only
    /// one that has it. Fails with `ESRCH` when there is none.
    pub fn remove_route(
        &mut self,
        owner: &Owner,
        destination: Destination,
        target: Option<Target>,
    ) {
        self.write_route(DELETE, 0, owner, destination, target);
    }

    /// A route to a host or link of ours that needs no nexthop object: it goes with its link. Fails
    /// as [`Requests::add_route`] does; `EEXIST` also when it is there already.
    pub fn add_path_route(&mut self, owner: &Owner, destination: Destination, path: &Path) {
        let scope = match path.gateway {
            None if destination.address.is_ipv4() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        self.begin(NEW, CREATE | EXCLUSIVE);
        self.body(&[
            address_family(destination.address),
            destination.length,
            0,
            0,
            u8::try_from(owner.table).unwrap_or(libc::RT_TABLE_UNSPEC),
            owner.protocol,
            scope,
            libc::RTN_UNICAST,
        ]);
        let flags = if path.on_link { NEXT_HOP_ON_LINK } else { 0 };
        self.body(&flags.to_ne_bytes());
        if destination.length > 0 {
            self.attribute_address(libc::RTA_DST, destination.address);
        }
        self.attribute_u32(libc::RTA_OIF, path.interface);
        if let Some(gateway) = path.gateway {
            self.attribute_address(libc::RTA_GATEWAY, gateway);
        }
        if owner.metric > 0 {
            self.attribute_u32(libc::RTA_PRIORITY, owner.metric);
        }
        if owner.table > u32::from(u8::MAX) {
            self.attribute_u32(libc::RTA_TABLE, owner.table);
        }
        self.end();
    }

    fn write_route(
        &mut self,
        kind: u16,
        flags: u16,
        owner: &Owner,
        destination: Destination,
        target: Option<Target>,
    ) {
        let route_type = match target {
            Some(Target::NextHop(_)) => libc::RTN_UNICAST,
            Some(Target::Unreachable) => libc::RTN_UNREACHABLE,
            None => 0,
        };
        // A removal with this scope matches every scope.
        let scope = match kind {
            DELETE => libc::RT_SCOPE_NOWHERE,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        self.begin(kind, flags);
        self.body(&[
            address_family(destination.address),
            destination.length,
            0,
            0,
            u8::try_from(owner.table).unwrap_or(libc::RT_TABLE_UNSPEC),
            owner.protocol,
            scope,
            route_type,
            0,
            0,
            0,
            0,
        ]);
        self.attribute_address(libc::RTA_DST, destination.address);
        self.attribute_u32(libc::RTA_PRIORITY, owner.metric);
        if owner.table > u32::from(u8::MAX) {
            self.attribute_u32(libc::RTA_TABLE, owner.table);
        }
        if let Some(Target::NextHop(id)) = target {
            self.attribute_u32(RTA_NH_ID, id);
        }
        self.end();
    }

    /// All routes of a family in a table, or in all tables, whoever made them.
    pub(crate) fn list_routes(&mut self, family: u8, table: Option<u32>) {
        self.begin(GET, DUMP);
        let short = table.map_or(0, |table| u8::try_from(table).unwrap_or(0));
        self.body(&[family, 0, 0, 0, short, 0, 0, 0, 0, 0, 0, 0]);
        if let Some(table) = table {
            self.attribute_u32(libc::RTA_TABLE, table);
        }
        self.end();
    }
}

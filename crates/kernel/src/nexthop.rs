//! Nexthop objects and groups (`linux/nexthop.h`): what routes point at, so that one change of an
//! object serves all of them.

use std::net::IpAddr;

use crate::message::{
    CREATE, DUMP, EXCLUSIVE, Message, REPLACE, Requests, address, address_family, attributes,
    u32_at,
};
use crate::route::{NEXT_HOP_ON_LINK as ON_LINK, Path};

pub(crate) const NEW: u16 = 104;
pub(crate) const DELETE: u16 = 105;
const GET: u16 = 106;

/// Bytes of `struct nhmsg`: family, scope, protocol, reserved, flags (4).
const BODY: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// Bytes of `struct nexthop_grp`: id (4), weight less one, reserved (3).
const MEMBER: usize = 8;

/// A nexthop object as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Its number, unique in the namespace.
    pub id: u32,
    /// Who made it, the same numbers as for routes.
    pub protocol: u8,
    /// What it is.
    pub kind: NextHopKind,
}

/// What a nexthop object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopKind {
    /// One way out.
    Path(Path),
    /// Several objects used together; ids in the kernel's order.
    Group(Vec<u32>),
    /// Blackhole, bridge entry: nothing that we make.
    Other,
}

impl NextHop {
    pub(crate) fn read(message: Message<'_>) -> Option<NextHop> {
        let protocol = *message.body.get(2)?;
        let flags = u32_at(message.body, 4)?;
        let (mut id, mut interface, mut gateway, mut group) = (None, None, None, None);
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                NHA_ID => id = u32_at(value, 0),
                NHA_OIF => interface = u32_at(value, 0),
                NHA_GATEWAY => gateway = address(value),
                NHA_GROUP => {
                    let members = value.chunks_exact(MEMBER);
                    group = Some(members.filter_map(|member| u32_at(member, 0)).collect());
                }
                _ => {}
            }
        }
        Some(NextHop {
            id: id?,
            protocol,
            kind: match (group, interface) {
                (Some(members), _) => NextHopKind::Group(members),
                (None, Some(interface)) => NextHopKind::Path(Path {
                    gateway,
                    interface,
                    on_link: flags & ON_LINK != 0,
                }),
                (None, None) => NextHopKind::Other,
            },
        })
    }
}

impl Requests {
    /// A new object for one way out by a gateway. Fails with `EEXIST` when the id is taken, by
    /// whomever.
    pub fn add_path(&mut self, protocol: u8, id: u32, gateway: IpAddr, path: &Path) {
        let flags = if path.on_link { ON_LINK } else { 0 };
        self.begin(NEW, CREATE | EXCLUSIVE);
        self.next_hop_body(address_family(gateway), protocol, flags);
        self.attribute_u32(NHA_ID, id);
        self.attribute_u32(NHA_OIF, path.interface);
        self.attribute_address(NHA_GATEWAY, gateway);
        self.end();
    }

    /// A new group of objects, each with the same weight. Fails with `EEXIST` when the id is taken,
    /// by whomever.
    pub fn add_group(&mut self, protocol: u8, id: u32, members: &[u32]) {
        self.write_group(CREATE | EXCLUSIVE, protocol, id, members);
    }

    /// Other members for a group of ours; every route that points at it follows at once.
    pub fn replace_group(&mut self, protocol: u8, id: u32, members: &[u32]) {
        self.write_group(REPLACE, protocol, id, members);
    }

    fn write_group(&mut self, flags: u16, protocol: u8, id: u32, members: &[u32]) {
        self.begin(NEW, flags);
        self.next_hop_body(libc::AF_UNSPEC as u8, protocol, 0);
        self.attribute_u32(NHA_ID, id);
        let mut group = Vec::with_capacity(members.len() * MEMBER);
        for member in members {
            group.extend_from_slice(&member.to_ne_bytes());
            group.extend_from_slice(&[0; 4]);
        }
        self.attribute(NHA_GROUP, &group);
        self.end();
    }

    /// Takes an object away. It leaves every group it is in at once; a group left empty goes with
    /// its routes, and so do routes that point at the object itself.
    pub fn remove_next_hop(&mut self, id: u32) {
        self.begin(DELETE, 0);
        self.next_hop_body(0, 0, 0);
        self.attribute_u32(NHA_ID, id);
        self.end();
    }

    pub(crate) fn list_next_hops(&mut self) {
        self.begin(GET, DUMP);
        self.next_hop_body(0, 0, 0);
        self.end();
    }

    fn next_hop_body(&mut self, family: u8, protocol: u8, flags: u32) {
        self.body(&[family, 0, protocol, 0]);
        self.body(&flags.to_ne_bytes());
    }
}

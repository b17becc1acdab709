//! Nexthop objects and groups (`linux/nexthop.h`): what routes point at, so that one change of an
//! object serves all of them.

use std::net::IpAddr;

use crate::message::{
    CREATE, DUMP, EXCLUSIVE, Message, REPLACE, Requests, address, address_family, attributes,
    u16_at, u32_at,
};
use crate::route::{NEXT_HOP_ON_LINK as ON_LINK, Path};

pub(crate) const NEW: u16 = 104;
pub(crate) const DELETE: u16 = 105;
const GET: u16 = 106;

/// Bytes of `struct nhmsg`: family, scope, protocol, reserved, flags (4).
const BODY: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_RES_GROUP: u16 = 12 | libc::NLA_F_NESTED as u16;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
const NHA_RES_GROUP_UNBALANCED_TIMER: u16 = 3;
/// `NEXTHOP_GRP_TYPE_RES`.
const RESILIENT: u16 = 1;
/// Bytes of `struct nexthop_grp`: id (4), weight less one, reserved (3).
const MEMBER: usize = 8;
/// Buckets of a group with backups, and the weight less one of what is no backup. A backup's weight
/// is one: with these numbers it gets no bucket, so no packet, while anything else is in the group,
/// and all of them as soon as nothing else is; the kernel sees to that by itself.
const BUCKETS: u16 = 32;
const MEMBER_WEIGHT: u8 = 254;
/// More would be so many that they get a bucket.
const MOST_BACKUPS: usize = 3;

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
    /// Several objects used together.
    Group(Group),
    /// Blackhole, bridge entry: nothing that we make.
    Other,
}

/// Several objects used together, by their ids, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Used together, each as much as the other.
    pub members: Vec<u32>,
    /// Used as soon as none of `members` is in the group any more, for whatever reason; at most
    /// three count.
    pub backups: Vec<u32>,
    /// It may have backups. That cannot be changed afterwards, and needs Linux 5.13.
    pub has_backups: bool,
}

/// Members only.
impl FromIterator<u32> for Group {
    fn from_iter<T: IntoIterator<Item = u32>>(members: T) -> Group {
        Group {
            members: members.into_iter().collect(),
            ..Group::default()
        }
    }
}

impl NextHop {
    pub(crate) fn read(message: Message<'_>) -> Option<NextHop> {
        let protocol = *message.body.get(2)?;
        let flags = u32_at(message.body, 4)?;
        let (mut id, mut interface, mut gateway, mut group) = (None, None, None, None);
        let mut kind_of_group = 0;
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                NHA_ID => id = u32_at(value, 0),
                NHA_OIF => interface = u32_at(value, 0),
                NHA_GATEWAY => gateway = address(value),
                NHA_GROUP => group = Some(value),
                NHA_GROUP_TYPE => kind_of_group = u16_at(value, 0)?,
                _ => {}
            }
        }
        Some(NextHop {
            id: id?,
            protocol,
            kind: match (group, interface) {
                (Some(members), _) => {
                    NextHopKind::Group(Group::read(members, kind_of_group == RESILIENT))
                }
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

impl Group {
    fn read(members: &[u8], has_backups: bool) -> Group {
        let mut group = Group {
            has_backups,
            ..Group::default()
        };
        for member in members.chunks_exact(MEMBER) {
            if let Some(id) = u32_at(member, 0) {
                match has_backups && member[4] == 0 {
                    true => group.backups.push(id),
                    false => group.members.push(id),
                }
            }
        }
        group
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

    /// A new group of objects. Fails with `EEXIST` when the id is taken, by whomever.
    pub fn add_group(&mut self, protocol: u8, id: u32, group: &Group) {
        self.write_group(CREATE | EXCLUSIVE, protocol, id, group);
    }

    /// Other members for a group of ours; every route that points at it follows at once.
    pub fn replace_group(&mut self, protocol: u8, id: u32, group: &Group) {
        self.write_group(REPLACE, protocol, id, group);
    }

    fn write_group(&mut self, flags: u16, protocol: u8, id: u32, group: &Group) {
        self.begin(NEW, flags);
        self.next_hop_body(libc::AF_UNSPEC as u8, protocol, 0);
        self.attribute_u32(NHA_ID, id);
        let weight = if group.has_backups { MEMBER_WEIGHT } else { 0 };
        let members = group.members.iter().map(|id| (id, weight));
        let backups = group.backups.iter().take(MOST_BACKUPS).map(|id| (id, 0));
        let mut list = Vec::new();
        for (id, weight) in members.chain(backups) {
            list.extend_from_slice(&id.to_ne_bytes());
            list.extend_from_slice(&[weight, 0, 0, 0]);
        }
        self.attribute(NHA_GROUP, &list);
        if group.has_backups {
            self.attribute(NHA_GROUP_TYPE, &RESILIENT.to_ne_bytes());
            // A bucket moves as soon as it is another's, not only when it is idle for a while.
            self.nested(NHA_RES_GROUP, |it| {
                it.attribute(NHA_RES_GROUP_BUCKETS, &BUCKETS.to_ne_bytes());
                it.attribute_u32(NHA_RES_GROUP_IDLE_TIMER, 0);
                it.attribute_u32(NHA_RES_GROUP_UNBALANCED_TIMER, 0);
            });
        }
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

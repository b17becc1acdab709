//! A page of routes, as it leaves the engine: each set of path attributes once, in the bytes in
//! which the tables keep it. So a page costs the engine little; who asked for it takes it apart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Reason, RouteRow};
use crate::attributes::{Attributes, NextHop};
use crate::codec;
use crate::config::Source;
use crate::types::{Asn, Prefix};

/// Where the next page begins: behind this prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(pub Prefix);

/// Some of the routes asked for, of one family and in order of prefix; the paths of one prefix are
/// not torn apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutePage {
    /// The routes.
    pub routes: Vec<PageRoute>,
    /// Where they come from: `PageRoute::origin` counts these.
    pub origins: Vec<PageOrigin>,
    /// Their attributes: `PageRoute::set` counts these.
    pub sets: AttributeSets,
    /// What only some of them have, in their order.
    pub remarks: Vec<Remark>,
    /// When the engine began, from where `PageRoute::since` counts.
    pub began: Option<Instant>,
    /// Ask again with this; `None` at the end.
    pub next: Option<Cursor>,
}

/// One route of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRoute {
    /// The destination.
    pub prefix: Prefix,
    /// Its attributes, as [`RouteRow::attributes`].
    pub set: u32,
    /// Where it comes from.
    pub origin: u16,
    /// When it came, or changed last, in seconds.
    pub since: u32,
    /// It is the best route.
    pub best: bool,
    /// It is used together with the best route.
    pub multipath: bool,
    /// As [`RouteRow::backup`].
    pub backup: bool,
    /// It is kept from a session that was lost, and has not been repeated. RFC 4724 §4.2.
    pub stale: bool,
    /// As [`RouteRow::long_lived_stale`].
    pub long_lived_stale: bool,
}

/// Where routes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOrigin {
    /// The peer; `None`: ourselves.
    pub peer: Option<Arc<str>>,
    /// What kind of peer.
    pub source: Source,
    /// Until when its stale routes are kept, where it can have some.
    pub stale_until: Option<Instant>,
}

/// More about a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Which of the page's routes.
    pub route: u32,
    /// Why it is not used; `None` when it is.
    pub reason: Option<Reason>,
    /// For our own: the advertisements that ask for it.
    pub advertisements: Vec<String>,
}

impl RoutePage {
    /// The routes one by one, each with all there is about it.
    pub fn rows(&self) -> Vec<RouteRow> {
        let sets: Vec<Arc<Attributes>> =
            self.sets.iter().map(|set| Arc::new(set.decode())).collect();
        let mut remarks = self.remarks.iter().peekable();
        let rows = self.routes.iter().zip(0..).map(|(route, number)| {
            let origin = &self.origins[usize::from(route.origin)];
            let remark = remarks.next_if(|remark| remark.route == number);
            RouteRow {
                prefix: route.prefix,
                peer: origin.peer.clone(),
                source: origin.source,
                attributes: sets[route.set as usize].clone(),
                best: route.best,
                multipath: route.multipath,
                backup: route.backup,
                reason: remark.and_then(|remark| remark.reason.clone()),
                stale: route.stale,
                stale_until: origin.stale_until.filter(|_| route.stale),
                long_lived_stale: route.long_lived_stale,
                since: self.since(route),
                advertisements: remark.map_or_else(Vec::new, |it| it.advertisements.clone()),
            }
        });
        rows.collect()
    }

    /// When a route came, or changed last.
    pub fn since(&self, route: &PageRoute) -> Option<Instant> {
        Some(self.began? + Duration::from_secs(route.since.into()))
    }
}

/// Sets of path attributes, one behind the other in one piece of memory.
///
/// Each is: the length of the next hop in octets (one octet: 0, 4, 16, or 32 with a link-local
/// address), the next hop, the length of the rest (four octets), and all other attributes as in an
/// UPDATE with 4-octet AS numbers (RFC 4271 §4.3, RFC 6793).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeSets {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl AttributeSets {
    /// Finds the sets in `bytes`; `None` when they are not laid out as above.
    pub fn read(bytes: Vec<u8>) -> Option<AttributeSets> {
        let mut starts = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            starts.push(u32::try_from(bytes.len() - rest.len()).ok()?);
            rest = split_set(rest)?.1;
        }
        Some(AttributeSets { bytes, starts })
    }

    /// A set; `None` when there are not so many.
    pub fn get(&self, index: u32) -> Option<PackedSet<'_>> {
        let start = *self.starts.get(index as usize)?;
        let (set, _) = split_set(self.bytes.get(start as usize..)?)?;
        Some(set)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = PackedSet<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (set, others) = split_set(rest)?;
            rest = others;
            Some(set)
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many octets they take.
    pub(crate) fn octets(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that [`AttributeSets::read`] reads.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends a set.
    pub(crate) fn add(&mut self, attributes: &Attributes) {
        let (mut next_hop, mut block) = (Vec::new(), Vec::new());
        codec::encode_next_hop(attributes.next_hop.as_ref(), &mut next_hop);
        codec::encode_block(attributes, true, &mut block);
        self.push(&next_hop, &block);
    }

    /// Appends a set that is encoded already. `next_hop` has its length in front.
    pub(crate) fn push(&mut self, next_hop: &[u8], block: &[u8]) {
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(next_hop);
        self.bytes
            .extend_from_slice(&(block.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(block);
    }
}

impl<'a> FromIterator<&'a Attributes> for AttributeSets {
    fn from_iter<I: IntoIterator<Item = &'a Attributes>>(all: I) -> AttributeSets {
        let mut sets = AttributeSets::default();
        for attributes in all {
            sets.add(attributes);
        }
        sets
    }
}

/// One of [`AttributeSets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedSet<'a> {
    next_hop: &'a [u8],
    block: &'a [u8],
}

impl<'a> PackedSet<'a> {
    /// NEXT_HOP.
    pub fn next_hop(self) -> Option<NextHop> {
        codec::decode_next_hop(self.next_hop)
    }

    /// AS_PATH, without taking anything else apart; nearest first.
    pub fn as_path(self) -> impl Iterator<Item = Asn> + use<'a> {
        codec::as_path_of_block(self.block)
    }

    /// All of it.
    pub fn decode(self) -> Attributes {
        Attributes {
            next_hop: self.next_hop(),
            ..codec::decode_block(self.block)
        }
    }
}

fn split_set(bytes: &[u8]) -> Option<(PackedSet<'_>, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (next_hop, rest) = rest.split_at_checked(usize::from(length))?;
    let (&length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let (block, rest) = rest.split_at_checked(length)?;
    Some((PackedSet { next_hop, block }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Community;

    fn attributes(number: u32) -> Attributes {
        Attributes {
            as_path: (0..=number).map(|n| Asn(65000 + n)).collect(),
            next_hop: Some(std::net::IpAddr::from([192, 0, 2, number as u8]).into()),
            communities: vec![Community(number)],
            ..Attributes::default()
        }
    }

    #[test]
    fn sets_come_back_from_their_bytes_as_they_were() {
        let all = [
            attributes(1),
            Attributes::default(),
            Attributes {
                next_hop: Some(NextHop {
                    address: "2001:db8::1".parse().unwrap(),
                    link_local: Some("fe80::1".parse().unwrap()),
                }),
                ..attributes(300)
            },
        ];
        let sets: AttributeSets = all.iter().collect();
        let read = AttributeSets::read(sets.clone().into_bytes()).unwrap();
        assert_eq!((&read, read.len(), read.is_empty()), (&sets, 3, false));
        for (index, attributes) in all.iter().enumerate() {
            let set = read.get(index as u32).unwrap();
            assert_eq!(set.decode(), *attributes);
            assert_eq!(set.next_hop(), attributes.next_hop);
            assert_eq!(set.as_path().collect::<Vec<_>>(), attributes.as_path.asns);
        }
        assert_eq!(read.get(3), None);
        assert_eq!(read.iter().count(), 3);
    }

    #[test]
    fn bytes_that_end_too_soon_are_no_sets() {
        let bytes_of = |all: &[Attributes]| all.iter().collect::<AttributeSets>().into_bytes();
        let bytes = bytes_of(&[attributes(1), attributes(2)]);
        let whole: Vec<usize> = (0..=bytes.len())
            .filter(|end| AttributeSets::read(bytes[..*end].to_vec()).is_some())
            .collect();
        let first = bytes_of(&[attributes(1)]).len();
        assert_eq!(whole, [0, first, bytes.len()]);
    }
}

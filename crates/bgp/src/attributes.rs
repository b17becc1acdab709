//! Path attributes as the engine sees them: decoded, checked, and in one canonical order.
//!
//! The codec makes them from bytes and bytes from them; policies change them; the tables keep each
//! content once. RFC 4271 §5.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::config::Origin;
use crate::types::{Asn, Community, ExtendedCommunity, LargeCommunity, RouterId};

/// All path attributes of a route.
///
/// Two values are equal exactly when they say the same: the lists that are sets by their meaning
/// (communities of every kind, unknown attributes) are sorted and hold nothing twice. Whoever adds
/// to one of them calls [`Attributes::canonicalize`] afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH of a 2-octet speaker already merged in. RFC 6793 §4.2.3.
    pub as_path: AsPath,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI; absent only on routes of our own that have not
    /// been given one yet.
    pub next_hop: Option<NextHop>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never present in what an external peer sent.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR: who aggregated, by AS number and BGP Identifier.
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// COMMUNITIES. RFC 1997.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY. RFC 8092.
    pub large_communities: Vec<LargeCommunity>,
    /// EXTENDED COMMUNITIES. RFC 4360.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// ORIGINATOR_ID; never present in what an external peer sent. RFC 4456.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST, nearest cluster first; never present in what an external peer sent. RFC 4456.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Optional transitive attributes that mean nothing to us and are handed on.
    pub unknown: Vec<UnknownAttribute>,
    /// Which optional transitive attributes came with the Partial bit, which must stay set.
    /// RFC 4271 §5.
    pub partial: Partial,
}

impl Default for Attributes {
    /// A route of our own before anybody said anything about it: ORIGIN IGP, an empty AS_PATH.
    fn default() -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            extended_communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            unknown: Vec::new(),
            partial: Partial::default(),
        }
    }
}

impl Attributes {
    /// Puts the lists that are sets into their one order and drops what stands in them twice.
    ///
    /// A Partial bit of an attribute that is gone goes with it.
    pub fn canonicalize(&mut self) {
        self.communities.sort_unstable();
        self.communities.dedup();
        self.large_communities.sort_unstable();
        self.large_communities.dedup();
        self.extended_communities.sort_unstable();
        self.extended_communities.dedup();
        self.unknown.sort_by_key(|attribute| attribute.kind);
        self.unknown.dedup_by_key(|attribute| attribute.kind);
        self.partial.aggregator &= self.aggregator.is_some();
        self.partial.communities &= !self.communities.is_empty();
        self.partial.large_communities &= !self.large_communities.is_empty();
        self.partial.extended_communities &= !self.extended_communities.is_empty();
    }
}

/// The Partial bit of the optional transitive attributes that we know: some router on the way did
/// not. Unknown attributes carry theirs in their flags. RFC 4271 §5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Partial {
    /// Of AGGREGATOR.
    pub aggregator: bool,
    /// Of COMMUNITIES.
    pub communities: bool,
    /// Of LARGE_COMMUNITY.
    pub large_communities: bool,
    /// Of EXTENDED COMMUNITIES.
    pub extended_communities: bool,
}

/// The ASes a route has passed, nearest first.
///
/// Only AS_SEQUENCEs are left once an UPDATE is decoded, so this is one list: AS_SET costs the route
/// (RFC 9774 §3), and so do confederation segments, because we are in no confederation
/// (RFC 5065 §5). Sequences that follow one another mean the same as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath {
    /// Nearest first. Never holds AS 0 when received (RFC 7607).
    pub asns: Vec<Asn>,
}

impl AsPath {
    /// What the decision process counts. RFC 4271 §9.1.2.2 a.
    pub fn length(&self) -> u32 {
        u32::try_from(self.asns.len()).unwrap_or(u32::MAX)
    }

    /// The neighbour AS; none when the route began in our own AS.
    pub fn first(&self) -> Option<Asn> {
        self.asns.first().copied()
    }

    /// The AS in which the route began; none when that is our own.
    pub fn last(&self) -> Option<Asn> {
        self.asns.last().copied()
    }

    /// Whether `asn` stands in it.
    pub fn contains(&self, asn: Asn) -> bool {
        self.asns.contains(&asn)
    }

    /// How often `asn` stands in it.
    pub fn count(&self, asn: Asn) -> usize {
        self.asns.iter().filter(|other| **other == asn).count()
    }

    /// Puts `asn` in front, `times` times. RFC 4271 §5.1.2.
    pub fn prepend(&mut self, asn: Asn, times: usize) {
        self.asns.splice(0..0, std::iter::repeat_n(asn, times));
    }
}

impl FromIterator<Asn> for AsPath {
    fn from_iter<I: IntoIterator<Item = Asn>>(asns: I) -> AsPath {
        AsPath {
            asns: asns.into_iter().collect(),
        }
    }
}

impl fmt::Display for AsPath {
    /// `65001 65002`, nearest first; nothing for an empty path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, asn) in self.asns.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            asn.fmt(f)?;
        }
        Ok(())
    }
}

/// Where packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// An IPv4 or IPv6 address; an IPv4 route may have an IPv6 one (RFC 8950), never the other way
    /// round. Link-local when the sender has no other.
    pub address: IpAddr,
    /// The link-local address sent with a global IPv6 one, for a peer on the same link.
    /// RFC 2545 §3.
    pub link_local: Option<Ipv6Addr>,
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> NextHop {
        NextHop {
            address,
            link_local: None,
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match self.link_local {
            Some(link_local) => write!(f, " ({link_local})"),
            None => Ok(()),
        }
    }
}

/// An optional transitive attribute that means nothing to us. RFC 4271 §5, §9.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Optional (0x80), Transitive (0x40) and Partial (0x20) are set, and nothing else.
    pub flags: u8,
    /// Attribute type code.
    pub kind: u8,
    /// The bytes behind the length.
    pub value: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(asns: &[u32]) -> AsPath {
        asns.iter().copied().map(Asn).collect()
    }

    #[test]
    fn prepending_puts_the_as_in_front_and_counts_in_the_length() {
        let mut as_path = path(&[65001, 65002]);
        as_path.prepend(Asn(65000), 2);
        assert_eq!(as_path, path(&[65000, 65000, 65001, 65002]));
        assert_eq!(as_path.length(), 4);
        assert_eq!(as_path.count(Asn(65000)), 2);
        assert_eq!(as_path.first(), Some(Asn(65000)));
        assert_eq!(as_path.last(), Some(Asn(65002)));
        assert!(as_path.contains(Asn(65001)) && !as_path.contains(Asn(1)));
        assert_eq!(as_path.to_string(), "65000 65000 65001 65002");
    }

    #[test]
    fn the_order_in_which_communities_were_added_does_not_matter() {
        let with = |communities: &[u32]| {
            let mut attributes = Attributes {
                communities: communities.iter().copied().map(Community).collect(),
                ..Attributes::default()
            };
            attributes.canonicalize();
            attributes
        };
        assert_eq!(with(&[3, 1, 2]), with(&[1, 2, 3, 3]));
    }

    #[test]
    fn a_partial_bit_goes_with_its_attribute() {
        let mut attributes = Attributes {
            partial: Partial {
                communities: true,
                ..Partial::default()
            },
            ..Attributes::default()
        };
        attributes.canonicalize();
        assert_eq!(attributes, Attributes::default());
    }
}

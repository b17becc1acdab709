//! Path attributes in the one form in which we keep and send them.
//!
//! A block holds everything but the next hop, in ascending order of type, as RFC 4271 §5 asks of
//! those who send. It is made and read without the codec library: it is on the way of every route
//! sent, and nothing in it needs judging.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;

use super::update::{RawAttribute, split_attribute};
use super::{attribute, flags};
use crate::attributes::{AsPath, Attributes, NextHop, UnknownAttribute};
use crate::config::Origin;
use crate::types::{Asn, Community, ExtendedCommunity, LargeCommunity, RouterId};

/// Segment type AS_SEQUENCE. RFC 4271 §4.3.
const SEQUENCE: u8 = 2;

const WELL_KNOWN: u8 = flags::TRANSITIVE;
const OPTIONAL: u8 = flags::OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = flags::OPTIONAL | flags::TRANSITIVE;

/// Appends all attributes but the next hop.
///
/// Nothing is left out for the kind of peer: what an external one must not hear is the caller's to
/// remove. Without `four_octet_as`, AS numbers that do not fit stand as AS_TRANS, and AS4_PATH and
/// AS4_AGGREGATOR say them in full (RFC 6793 §4.2.2).
pub fn encode_block(attributes: &Attributes, four_octet_as: bool, out: &mut Vec<u8>) {
    let partial = |set: bool| OPTIONAL_TRANSITIVE | if set { flags::PARTIAL } else { 0 };
    let mut unknown = attributes.unknown.iter().peekable();
    let mut put = |flags: u8, kind: u8, value: &[u8]| {
        while let Some(before) = unknown.next_if(|unknown| unknown.kind < kind) {
            put_attribute(before.flags, before.kind, &before.value, out);
        }
        put_attribute(flags, kind, value, out);
    };
    let too_big = |asn: &Asn| !four_octet_as && asn.0 > u32::from(u16::MAX);

    put(WELL_KNOWN, attribute::ORIGIN, &[attributes.origin as u8]);
    let path = encode_path(&attributes.as_path, four_octet_as);
    put(WELL_KNOWN, attribute::AS_PATH, &path);
    if let Some(med) = attributes.med {
        put(OPTIONAL, attribute::MED, &med.to_be_bytes());
    }
    if let Some(preference) = attributes.local_pref {
        put(WELL_KNOWN, attribute::LOCAL_PREF, &preference.to_be_bytes());
    }
    if attributes.atomic_aggregate {
        put(WELL_KNOWN, attribute::ATOMIC_AGGREGATE, &[]);
    }
    let aggregator = |(asn, id): (Asn, Ipv4Addr), four_octets: bool| {
        let mut value = Vec::with_capacity(8);
        put_asn(asn, four_octets, &mut value);
        value.extend_from_slice(&id.octets());
        value
    };
    if let Some(who) = attributes.aggregator {
        let flags = partial(attributes.partial.aggregator);
        put(
            flags,
            attribute::AGGREGATOR,
            &aggregator(who, four_octet_as),
        );
    }
    if !attributes.communities.is_empty() {
        let flags = partial(attributes.partial.communities);
        let list = attributes.communities.iter();
        let value: Vec<u8> = list
            .flat_map(|community| community.0.to_be_bytes())
            .collect();
        put(flags, attribute::COMMUNITIES, &value);
    }
    if let Some(id) = attributes.originator_id {
        put(OPTIONAL, attribute::ORIGINATOR_ID, &id.0.octets());
    }
    if !attributes.cluster_list.is_empty() {
        let list = attributes.cluster_list.iter();
        let value: Vec<u8> = list.flat_map(Ipv4Addr::octets).collect();
        put(OPTIONAL, attribute::CLUSTER_LIST, &value);
    }
    if !attributes.extended_communities.is_empty() {
        let flags = partial(attributes.partial.extended_communities);
        let list = attributes.extended_communities.iter();
        let value: Vec<u8> = list.flat_map(|community| community.0).collect();
        put(flags, attribute::EXTENDED_COMMUNITIES, &value);
    }
    if attributes.as_path.asns.iter().any(too_big) {
        let path = encode_path(&attributes.as_path, true);
        put(OPTIONAL_TRANSITIVE, attribute::AS4_PATH, &path);
    }
    if let Some(who) = attributes.aggregator.filter(|(asn, _)| too_big(asn)) {
        let flags = partial(attributes.partial.aggregator);
        put(flags, attribute::AS4_AGGREGATOR, &aggregator(who, true));
    }
    if !attributes.large_communities.is_empty() {
        let flags = partial(attributes.partial.large_communities);
        let list = attributes.large_communities.iter();
        let value: Vec<u8> = list
            .flat_map(|LargeCommunity(a, b, c)| [*a, *b, *c])
            .flat_map(u32::to_be_bytes)
            .collect();
        put(flags, attribute::LARGE_COMMUNITIES, &value);
    }
    for behind in unknown {
        put_attribute(behind.flags, behind.kind, &behind.value, out);
    }
}

/// Reads what [`encode_block`] made with `four_octet_as`; the next hop stays absent.
///
/// What it would not have made is passed over.
pub fn decode_block(mut block: &[u8]) -> Attributes {
    let mut attributes = Attributes::default();
    while let Some((raw, rest)) = split_attribute(block) {
        take(&raw, &mut attributes);
        block = rest;
    }
    attributes
}

fn take(raw: &RawAttribute<'_>, attributes: &mut Attributes) {
    let partial = raw.flags & flags::PARTIAL != 0;
    let number = || raw.value.try_into().ok().map(u32::from_be_bytes);
    let numbers = || raw.value.as_chunks::<4>().0.iter().copied();
    match raw.kind {
        attribute::ORIGIN => {
            attributes.origin = match raw.value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                _ => Origin::Incomplete,
            };
        }
        attribute::AS_PATH => attributes.as_path = path_numbers(raw.value).collect(),
        attribute::MED => attributes.med = number(),
        attribute::LOCAL_PREF => attributes.local_pref = number(),
        attribute::ATOMIC_AGGREGATE => attributes.atomic_aggregate = true,
        attribute::AGGREGATOR => {
            if let ([asn, id], []) = raw.value.as_chunks::<4>() {
                attributes.aggregator = Some((Asn(u32::from_be_bytes(*asn)), (*id).into()));
                attributes.partial.aggregator = partial;
            }
        }
        attribute::COMMUNITIES => {
            let list = numbers().map(u32::from_be_bytes);
            attributes.communities = list.map(Community).collect();
            attributes.partial.communities = partial;
        }
        attribute::ORIGINATOR_ID => {
            attributes.originator_id = number().map(|id| RouterId(id.into()));
        }
        attribute::CLUSTER_LIST => {
            attributes.cluster_list = numbers().map(Ipv4Addr::from).collect();
        }
        attribute::EXTENDED_COMMUNITIES => {
            let list = raw.value.as_chunks::<8>().0.iter();
            attributes.extended_communities = list.copied().map(ExtendedCommunity).collect();
            attributes.partial.extended_communities = partial;
        }
        attribute::LARGE_COMMUNITIES => {
            let list: Vec<u32> = numbers().map(u32::from_be_bytes).collect();
            let list = list.as_chunks::<3>().0.iter();
            attributes.large_communities =
                list.map(|[a, b, c]| LargeCommunity(*a, *b, *c)).collect();
            attributes.partial.large_communities = partial;
        }
        kind => attributes.unknown.push(UnknownAttribute {
            flags: OPTIONAL_TRANSITIVE | flags::PARTIAL,
            kind,
            value: Bytes::copy_from_slice(raw.value),
        }),
    }
}

/// Sequences of at most 255; none for an empty path. RFC 4271 §4.3.
fn encode_path(path: &AsPath, four_octets: bool) -> Vec<u8> {
    let mut value = Vec::with_capacity(2 + 4 * path.asns.len());
    for asns in path.asns.chunks(usize::from(u8::MAX)) {
        value.extend_from_slice(&[SEQUENCE, asns.len() as u8]);
        for asn in asns {
            put_asn(*asn, four_octets, &mut value);
        }
    }
    value
}

/// The AS numbers of a path, over the borders of its segments.
fn path_numbers(mut value: &[u8]) -> impl Iterator<Item = Asn> {
    let segments = std::iter::from_fn(move || {
        let (&[_, count], rest) = value.split_first_chunk::<2>()?;
        let (asns, rest) = rest.split_at_checked(4 * usize::from(count))?;
        value = rest;
        Some(asns.as_chunks::<4>().0)
    });
    segments.flatten().map(|asn| Asn(u32::from_be_bytes(*asn)))
}

/// AS_PATH of a block, without taking the other attributes apart.
pub(crate) fn as_path_of_block(mut block: &[u8]) -> impl Iterator<Item = Asn> {
    let mut path: &[u8] = &[];
    while let Some((raw, rest)) = split_attribute(block) {
        if raw.kind == attribute::AS_PATH {
            path = raw.value;
            break;
        }
        block = rest;
    }
    path_numbers(path)
}

/// Appends the next hop in octets with their number in front: 0, 4, 16, or 32 where a link-local
/// address goes with a global one.
pub(crate) fn encode_next_hop(next_hop: Option<&NextHop>, out: &mut Vec<u8>) {
    let Some(next_hop) = next_hop else {
        return out.push(0);
    };
    let start = out.len();
    out.push(0);
    match next_hop.address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
    if let Some(link_local) = next_hop.link_local {
        out.extend_from_slice(&link_local.octets());
    }
    out[start] = (out.len() - start - 1) as u8;
}

/// Reads the octets that [`encode_next_hop`] made, without their number.
pub(crate) fn decode_next_hop(bytes: &[u8]) -> Option<NextHop> {
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map(Into::into).ok();
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| NextHop {
            address: IpAddr::V4(b.into()),
            link_local: None,
        }),
        16 | 32 => v6(&bytes[..16]).map(|address| NextHop {
            address: IpAddr::V6(address),
            link_local: v6(&bytes[16..]),
        }),
        _ => None,
    }
}

fn put_asn(asn: Asn, four_octets: bool, out: &mut Vec<u8>) {
    match u16::try_from(asn.0) {
        _ if four_octets => out.extend_from_slice(&asn.0.to_be_bytes()),
        Ok(asn) => out.extend_from_slice(&asn.to_be_bytes()),
        Err(_) => out.extend_from_slice(&Asn::TRANS.0.to_be_bytes()[2..]),
    }
}

/// A value longer than 65535 octets is cut off, so that the block stays readable; it fits in no
/// message, which [`UpdateBuilder`](super::UpdateBuilder) reports.
fn put_attribute(flags: u8, kind: u8, value: &[u8], out: &mut Vec<u8>) {
    let flags = flags & !flags::EXTENDED;
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    match u8::try_from(value.len()) {
        Ok(length) => out.extend_from_slice(&[flags, kind, length]),
        Err(_) => {
            out.extend_from_slice(&[flags | flags::EXTENDED, kind]);
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(value);
}

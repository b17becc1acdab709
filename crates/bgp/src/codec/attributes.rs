//! Path attributes: what they say, and what it costs when they say it wrong.
//!
//! `rustbgpd-wire` decodes and applies RFC 7606 §7 to each; here its findings become our types,
//! and what it leaves open is checked.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use rustbgpd_wire::attribute::decode_path_attributes_revised;
use rustbgpd_wire::validate::validate_update_attributes_with_context;
use rustbgpd_wire::{
    AsPathSegment, ErrorDisposition, MalformedAttribute, PathAttribute, UpdateValidationOptions,
};

use super::update::split_attribute;
use super::{Context, Fault, WireError, attribute, flags, subcode};
use crate::attributes::{AsPath, Attributes, NextHop, UnknownAttribute};
use crate::config::Origin;
use crate::message::Notification;
use crate::types::{Asn, Community, ExtendedCommunity, LargeCommunity, RouterId};

/// Path attributes that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What they say.
    pub attributes: Attributes,
    /// Those that were dropped, at most [`MOST_FAULTS`]. RFC 7606 §2, "attribute discard".
    pub discarded: Vec<Fault>,
}

/// How many discarded attributes of one UPDATE are told: a hostile one may have twenty thousand.
pub const MOST_FAULTS: usize = 8;

/// Decodes [`Announced::attributes`](super::Announced::attributes).
///
/// From an external peer LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are discarded; optional
/// attributes that mean nothing to us are kept with the Partial bit when they are transitive, and
/// dropped in silence otherwise (RFC 4271 §5, RFC 7606 §7.5, §7.9, §7.10). AS4_PATH of a 2-octet
/// speaker is merged into AS_PATH (RFC 6793 §4.2.3).
///
/// # Errors
///
/// The first fault that costs the routes: they count as withdrawn. RFC 7606 §2,
/// "treat-as-withdraw".
pub fn decode_attributes(key: &[u8], context: &Context) -> Result<Decoded, Fault> {
    let (next_hop, block) = match split_attribute(key) {
        Some((raw, rest)) if raw.kind == attribute::MP_REACH => {
            (Some(mp_next_hop(raw.value)?), rest)
        }
        _ => (None, key),
    };
    let need = match next_hop {
        Some(_) => Need::AllButNextHop,
        None => Need::All,
    };
    let mut decoded = decode_block_of(block, context, need).map_err(|malformed| malformed.fault)?;
    if next_hop.is_some() {
        // RFC 4760 §3: beside MP_REACH_NLRI, NEXT_HOP says nothing.
        decoded.attributes.next_hop = next_hop;
    }
    Ok(decoded)
}

/// Which attributes must be there. RFC 4271 §5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// None: nothing is announced.
    Nothing,
    /// ORIGIN and AS_PATH: the next hop is in MP_REACH_NLRI.
    AllButNextHop,
    /// ORIGIN, AS_PATH and NEXT_HOP.
    All,
}

/// What is wrong with a block of path attributes, and how RFC 4271 would have put it.
#[derive(Debug)]
pub(super) struct Malformed {
    subcode: u8,
    data: Bytes,
    fault: Fault,
}

impl Malformed {
    pub(super) fn into_wire_error(self) -> WireError {
        WireError::new(
            Notification::update(self.subcode, self.data),
            format!("{} (and no prefixes)", self.fault),
        )
    }
}

impl From<MalformedAttribute> for Malformed {
    fn from(malformed: MalformedAttribute) -> Malformed {
        let (_, subcode, data) = malformed.error.to_notification();
        Malformed {
            subcode,
            data,
            fault: Fault::new(malformed.type_code, malformed.error.to_string()),
        }
    }
}

/// Decodes a block without MP_REACH_NLRI and MP_UNREACH_NLRI.
///
/// # Errors
///
/// The first fault that costs more than its attribute.
pub(super) fn decode_block_of(
    block: &[u8],
    context: &Context,
    need: Need,
) -> Result<Decoded, Malformed> {
    let mut discarded = Vec::new();
    let (known, unknown) = sort_out(block, &mut discarded)?;
    let revised = decode_path_attributes_revised(&known, context.four_octet_as, !context.ebgp, &[])
        .map_err(
            // Only the two attributes that are not in here end up there.
            |error| {
                let (_, subcode, data) = error.to_notification();
                Malformed {
                    subcode,
                    data,
                    fault: Fault::new(0, error.to_string()),
                }
            },
        )?;
    for malformed in revised.malformed {
        if malformed.disposition > ErrorDisposition::AttributeDiscard {
            return Err(malformed.into());
        }
        if discarded.len() < MOST_FAULTS {
            discarded.push(Malformed::from(malformed).fault);
        }
    }
    // The library asks for NEXT_HOP on eBGP only; RFC 4271 §5.1.3 does everywhere, so it is told
    // that every session is one.
    validate_update_attributes_with_context(
        &revised.attributes,
        need != Need::Nothing,
        need == Need::All,
        true,
        UpdateValidationOptions::default(),
    )
    .map_err(|wrong| Malformed {
        subcode: wrong.error.subcode,
        fault: Fault::new(wrong.type_code, invalid(wrong.error.subcode)),
        data: wrong.error.data.into(),
    })?;
    let mut decoded = Decoded {
        attributes: Attributes {
            unknown,
            ..Attributes::default()
        },
        discarded,
    };
    for attribute in revised.attributes {
        take(attribute, context, &mut decoded);
    }
    decoded.attributes.canonicalize();
    decoded.discarded.truncate(MOST_FAULTS);
    Ok(decoded)
}

/// What the library's validation says by its subcode.
fn invalid(subcode: u8) -> &'static str {
    match subcode {
        subcode::UNRECOGNIZED_WELL_KNOWN => "a well-known attribute that is not known",
        subcode::INVALID_NEXT_HOP => "not the address of a host",
        subcode::MALFORMED_ATTRIBUTE_LIST => "there twice",
        MISSING_WELL_KNOWN => "missing",
        _ => "malformed",
    }
}

const MISSING_WELL_KNOWN: u8 = 3;

/// Puts one attribute of the library into ours.
fn take(attribute: PathAttribute, context: &Context, decoded: &mut Decoded) {
    let kind = attribute.type_code();
    let attributes = &mut decoded.attributes;
    let internal_only = matches!(
        kind,
        attribute::LOCAL_PREF | attribute::ORIGINATOR_ID | attribute::CLUSTER_LIST
    );
    if internal_only && context.ebgp {
        let fault = Fault::new(kind, "ignored: an external peer sent it");
        decoded.discarded.push(fault);
        return;
    }
    match attribute {
        PathAttribute::Origin(origin) => {
            attributes.origin = match origin {
                rustbgpd_wire::Origin::Igp => Origin::Igp,
                rustbgpd_wire::Origin::Egp => Origin::Egp,
                rustbgpd_wire::Origin::Incomplete => Origin::Incomplete,
            };
        }
        PathAttribute::AsPath(path) => {
            let segments = path.segments.into_iter();
            attributes.as_path = segments
                .flat_map(|segment| match segment {
                    AsPathSegment::AsSequence(asns) => asns,
                    // A set has cost the routes already. RFC 9774 §3.
                    AsPathSegment::AsSet(asns) => asns,
                })
                .map(Asn)
                .collect::<AsPath>();
        }
        PathAttribute::NextHop(address) => {
            attributes.next_hop = Some(NextHop::from(IpAddr::V4(address)));
        }
        PathAttribute::Med(med) => attributes.med = Some(med),
        PathAttribute::LocalPref(preference) => attributes.local_pref = Some(preference),
        PathAttribute::AtomicAggregate => attributes.atomic_aggregate = true,
        PathAttribute::Aggregator(aggregator) => {
            attributes.aggregator = Some((Asn(aggregator.asn), aggregator.router_id));
            attributes.partial.aggregator = aggregator.partial;
        }
        PathAttribute::Communities(list) => attributes.communities = communities(list),
        PathAttribute::CommunitiesPartial(list) => {
            attributes.communities = communities(list);
            attributes.partial.communities = true;
        }
        PathAttribute::LargeCommunities(list) => {
            attributes.large_communities = large_communities(&list);
        }
        PathAttribute::LargeCommunitiesPartial(list) => {
            attributes.large_communities = large_communities(&list);
            attributes.partial.large_communities = true;
        }
        PathAttribute::ExtendedCommunities(list) => {
            attributes.extended_communities = extended_communities(&list);
        }
        PathAttribute::ExtendedCommunitiesPartial(list) => {
            attributes.extended_communities = extended_communities(&list);
            attributes.partial.extended_communities = true;
        }
        PathAttribute::OriginatorId(id) => attributes.originator_id = Some(RouterId(id)),
        PathAttribute::ClusterList(list) => attributes.cluster_list = list,
        // `sort_out` has kept everything else from the library.
        _ => {}
    }
}

fn communities(list: Vec<u32>) -> Vec<Community> {
    list.into_iter().map(Community).collect()
}

fn large_communities(list: &[rustbgpd_wire::LargeCommunity]) -> Vec<LargeCommunity> {
    let ours = |c: &rustbgpd_wire::LargeCommunity| {
        LargeCommunity(c.global_admin, c.local_data1, c.local_data2)
    };
    list.iter().map(ours).collect()
}

fn extended_communities(list: &[rustbgpd_wire::ExtendedCommunity]) -> Vec<ExtendedCommunity> {
    list.iter()
        .map(|community| ExtendedCommunity(community.as_u64().to_be_bytes()))
        .collect()
}

/// Takes attributes that mean nothing to us out of a block; what is left is for the library, which
/// would judge more attributes than we use. A malformed one of those is no business of ours, and
/// must not cost us a route: such an attribute may come from far away, through speakers that do
/// not know it either.
///
/// Transitive ones are kept as they will be handed on, with the Partial bit; others are dropped.
/// RFC 4271 §5, §9.
///
/// # Errors
///
/// An attribute that says to be well-known although it is registered as optional, or an
/// ONLY_TO_CUSTOMER that is none. (One that nobody knows has reset the session already.)
fn sort_out<'a>(
    block: &'a [u8],
    discarded: &mut Vec<Fault>,
) -> Result<(Cow<'a, [u8]>, Vec<UnknownAttribute>), Malformed> {
    let mut unknown: Vec<UnknownAttribute> = Vec::new();
    let mut seen = [false; 256];
    let mut known = Cow::Borrowed(block);
    let mut rest = block;
    while let Some((raw, behind)) = split_attribute(rest) {
        let start = block.len() - rest.len();
        let whole = &rest[..rest.len() - behind.len()];
        rest = behind;
        if is_ours(raw.kind) {
            if let Cow::Owned(known) = &mut known {
                known.extend_from_slice(whole);
            }
            continue;
        }
        if let Cow::Borrowed(_) = known {
            known = Cow::Owned(block[..start].to_vec());
        }
        if raw.flags & flags::OPTIONAL == 0 {
            return Err(Malformed {
                subcode: subcode::ATTRIBUTE_FLAGS,
                data: Bytes::copy_from_slice(whole),
                fault: Fault::new(raw.kind, format!("flags {:#04x}", raw.flags)),
            });
        }
        // RFC 9234 §5: it would be a promise that nobody can read any more.
        if raw.kind == attribute::ONLY_TO_CUSTOMER && raw.value.len() != 4 {
            return Err(Malformed {
                subcode: subcode::ATTRIBUTE_LENGTH,
                data: Bytes::copy_from_slice(whole),
                fault: Fault::new(raw.kind, format!("{} octets; allowed: 4", raw.value.len())),
            });
        }
        if std::mem::replace(&mut seen[usize::from(raw.kind)], true) {
            if discarded.len() < MOST_FAULTS {
                discarded.push(Fault::new(raw.kind, "there twice"));
            }
        } else if raw.flags & flags::TRANSITIVE != 0 {
            unknown.push(UnknownAttribute {
                flags: flags::OPTIONAL | flags::TRANSITIVE | flags::PARTIAL,
                kind: raw.kind,
                value: Bytes::copy_from_slice(raw.value),
            });
        }
    }
    // An attribute that is cut off: the library finds out what that costs.
    if let Cow::Owned(known) = &mut known {
        known.extend_from_slice(rest);
    }
    Ok((known, unknown))
}

/// Whether the attribute means something to us.
fn is_ours(kind: u8) -> bool {
    matches!(
        kind,
        attribute::ORIGIN..=attribute::CLUSTER_LIST
            | attribute::EXTENDED_COMMUNITIES..=attribute::AS4_AGGREGATOR
            | attribute::LARGE_COMMUNITIES
    )
}

/// The next hop of an MP_REACH_NLRI, given without its prefixes. RFC 2545 §3, RFC 4760 §3,
/// RFC 8950 §3.
fn mp_next_hop(value: &[u8]) -> Result<NextHop, Fault> {
    let wrong = |reason: String| Err(Fault::new(attribute::MP_REACH, reason));
    let octets = value.get(4..).unwrap_or_default();
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        let address = Ipv4Addr::from(octets);
        if !is_host4(address) {
            return wrong(format!("next hop {address} is not the address of a host"));
        }
        return Ok(IpAddr::V4(address).into());
    }
    let Some((address, second)) = octets.split_first_chunk::<16>() else {
        return wrong(format!("a next hop of {} octets", octets.len()));
    };
    let address = Ipv6Addr::from(*address);
    let second = <[u8; 16]>::try_from(second).ok().map(Ipv6Addr::from);
    // Some speakers fill the place of the second address with zeros.
    let link_local = second.filter(|second| !second.is_unspecified());
    if let Some(second) = link_local.filter(|second| !second.is_unicast_link_local()) {
        return wrong(format!("second next hop {second} is not link-local"));
    }
    // A speaker without a global address sends `::` or the link-local one in its place.
    match link_local {
        Some(link_local) if address.is_unspecified() || address == link_local => {
            Ok(IpAddr::V6(link_local).into())
        }
        _ if address.is_unspecified() || address.is_loopback() || address.is_multicast() => {
            wrong(format!("next hop {address} is not the address of a host"))
        }
        _ => Ok(NextHop {
            address: IpAddr::V6(address),
            link_local,
        }),
    }
}

fn is_host4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

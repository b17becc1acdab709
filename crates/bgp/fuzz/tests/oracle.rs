//! A decoder that others have written, `bgpkit-parser`, reads the same in what both accept.
//!
//! What "accept" means here: we find nothing that costs anything (RFC 7606), and it has no warning.
//! Where one of the two accepts what the other one does not, there is nothing to compare; these are
//! counted, and the reasons are those of [`ONLY_THEY_ACCEPT`] and [`ONLY_WE_ACCEPT`].

// Clippy's exception is for the bodies of tests, not for what they call.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use bgp::attributes::{Attributes, NextHop};
use bgp::codec::{
    Context, FamilySet, Nlri, STANDARD_MESSAGE, Update, UpdateBuilder, decode_attributes,
    encode_block, next_message,
};
use bgp::config::Origin;
use bgp::message::Message;
use bgp::types::{Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix, RouterId};
use bgp_fuzz::update_of;
use bgpkit_parser::models::{
    AsPathSegment, AsnLength, AttributeValue, BgpUpdateMessage, Community as TheirCommunity,
    ExtendedCommunity as TheirExtended, MetaCommunity, NetworkPrefix, NextHopAddress,
    Origin as TheirOrigin,
};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use bytes::{Bytes, BytesMut};

/// Reasons for which we refuse what `bgpkit-parser` reads without a warning: what our reason holds,
/// and why. It reads archives, where all that was ever announced has to be shown; a speaker has to
/// follow RFCs that forbid it to use some of that.
const ONLY_THEY_ACCEPT: &[(&str, &str)] = &[
    (
        "truncated",
        "an attribute that ends behind all of them is left out (RFC 7606 §4)",
    ),
    (
        "cut off",
        "the same for one that may hold prefixes (RFC 7606 §5.3)",
    ),
    (
        "a well-known attribute that is not known",
        "it is kept as it is (RFC 4271 §6.3)",
    ),
    (
        "not the address of a host",
        "next hops that nobody can be at (RFC 4271 §6.3)",
    ),
    (
        "is not link-local",
        "a second next hop of another kind (RFC 2545 §3)",
    ),
    (
        "non-zero multiple",
        "a list of nothing (RFC 7606 §7.8, §7.14; RFC 8092 §6)",
    ),
    (
        "flags 0x",
        "an optional attribute that says to be well-known (RFC 7606 §3 c)",
    ),
    (
        "AS_PATH",
        "AS_SET, confederations, AS 0, empty segments (RFC 9774, 5065, 7607, 7606 §7.2)",
    ),
    (
        "external peer",
        "attributes that are for internal peers only (RFC 7606 §7.5, §7.9, §7.10)",
    ),
    (
        "is not for this session",
        "families that were not agreed on (RFC 4760 §8)",
    ),
    (
        "are not for this session",
        "families that were not agreed on (RFC 4760 §8)",
    ),
    (
        "there twice",
        "the first one counts, and it is told (RFC 7606 §3 g)",
    ),
    (
        "AS4_",
        "no place for it between speakers of four octets (RFC 6793 §4.1)",
    ),
    (
        "a next hop of",
        "its length does not fit what was agreed on (RFC 7606 §7.11)",
    ),
    (
        "missing",
        "NEXT_HOP is needed on iBGP too (RFC 4271 §5.1.3)",
    ),
];

/// Reasons for which `bgpkit-parser` refuses, or warns of, what we take.
const ONLY_WE_ACCEPT: &[(&str, &str)] = &[
    (
        "path identifier",
        "where a default route stands it guesses that RFC 7911 was agreed on",
    ),
    (
        "Optional attribute error",
        "attributes that mean nothing to us are handed on and not looked into (RFC 4271 §9)",
    ),
    (
        "Attribute flags error",
        "a Partial bit where none belongs; only Optional and Transitive count (RFC 7606 §3 c)",
    ),
    (
        "Attribute length error",
        "beside withdrawn routes alone, of attributes that would only be discarded",
    ),
    (
        "AS4_AGGREGATOR beside",
        "RFC 6793 §4.2.3 has both ignored, which it leaves to whoever asks",
    ),
    (
        "FlowSpec",
        "flow specifications are taken apart, and bits get lost",
    ),
    (
        "LinkBandwidth",
        "bandwidths become numbers, and bits get lost",
    ),
];

/// What an UPDATE says, in our words.
#[derive(Debug, Default, PartialEq)]
struct Said {
    withdrawn: BTreeSet<Prefix>,
    announced: BTreeMap<Prefix, Attributes>,
}

/// As we read it; the error or the fault where it costs anything.
fn ours(context: &Context, body: &[u8]) -> Result<Said, String> {
    let update = Update::decode(body, context).map_err(|error| error.reason)?;
    if let Some(fault) = update.faults.first() {
        return Err(fault.to_string());
    }
    let mut said = Said::default();
    said.withdrawn
        .extend(update.withdrawn.iter().flat_map(Nlri::iter));
    for announced in &update.announced {
        let decoded =
            decode_attributes(&announced.attributes, context).map_err(|fault| fault.to_string())?;
        if let Some(fault) = decoded.discarded.first() {
            return Err(fault.to_string());
        }
        // Attributes that mean nothing to us are handed on; the other one reads some of them.
        let attributes = Attributes {
            unknown: vec![],
            partial: Default::default(),
            ..decoded.attributes
        };
        let prefixes = announced.nlri.iter();
        said.announced
            .extend(prefixes.map(|prefix| (prefix, attributes.clone())));
    }
    said.withdrawn
        .retain(|prefix| !said.announced.contains_key(prefix));
    Ok(said)
}

/// As the other one reads it.
fn theirs(context: &Context, body: &[u8]) -> Result<Said, String> {
    let asn_length = match context.four_octet_as {
        true => AsnLength::Bits32,
        false => AsnLength::Bits16,
    };
    let update = parse_bgp_update_message(Bytes::copy_from_slice(body), false, &asn_length)
        .map_err(|error| error.to_string())?;
    if let Some(warning) = update.attributes.validation_warnings().first() {
        return Err(warning.to_string());
    }
    let lists = [
        update.attributes.get_reachable_nlri(),
        update.attributes.get_unreachable_nlri(),
    ];
    let lists = lists.into_iter().flatten().flat_map(|nlri| &nlri.prefixes);
    let mut lists = (lists.chain(&update.withdrawn_prefixes)).chain(&update.announced_prefixes);
    if lists.any(|prefix| prefix.path_id.is_some()) {
        return Err("it takes a default route for a path identifier".into());
    }
    let mut attributes = their_attributes(&update)?;
    attributes.canonicalize();
    let mut said = Said::default();
    said.withdrawn
        .extend(update.withdrawn_prefixes.iter().map(prefix));
    if let Some(unreach) = update.attributes.get_unreachable_nlri() {
        said.withdrawn.extend(unreach.prefixes.iter().map(prefix));
    }
    if let Some(reach) = update.attributes.get_reachable_nlri() {
        let next_hop = reach.next_hop.ok_or("no next hop")?;
        let attributes = Attributes {
            next_hop: Some(their_next_hop(next_hop)?),
            ..attributes.clone()
        };
        let prefixes = reach.prefixes.iter().map(prefix);
        said.announced
            .extend(prefixes.map(|prefix| (prefix, attributes.clone())));
    }
    let prefixes = update.announced_prefixes.iter().map(prefix);
    said.announced
        .extend(prefixes.map(|prefix| (prefix, attributes.clone())));
    said.withdrawn
        .retain(|prefix| !said.announced.contains_key(prefix));
    Ok(said)
}

fn prefix(theirs: &NetworkPrefix) -> Prefix {
    Prefix::new(theirs.prefix.addr(), theirs.prefix.prefix_len())
}

fn their_next_hop(theirs: NextHopAddress) -> Result<NextHop, String> {
    match theirs {
        NextHopAddress::Ipv4(address) => Ok(NextHop::from(IpAddr::V4(address))),
        NextHopAddress::Ipv6(address) => Ok(NextHop::from(IpAddr::V6(address))),
        // RFC 2545 §3; a place that nobody has filled, and one filled twice, are ours to see.
        NextHopAddress::Ipv6LinkLocal(address, link_local) => {
            let unfilled = address.is_unspecified() || address == link_local;
            Ok(match (unfilled, link_local.is_unspecified()) {
                (_, true) => NextHop::from(IpAddr::V6(address)),
                (true, false) => NextHop::from(IpAddr::V6(link_local)),
                (false, false) => NextHop {
                    address: IpAddr::V6(address),
                    link_local: Some(link_local),
                },
            })
        }
        other => Err(format!("{other:?}")),
    }
}

fn their_attributes(update: &BgpUpdateMessage) -> Result<Attributes, String> {
    let theirs = &update.attributes;
    let mut ours = Attributes::default();
    for value in theirs.iter() {
        match value {
            AttributeValue::Origin(origin) => {
                ours.origin = match origin {
                    TheirOrigin::IGP => Origin::Igp,
                    TheirOrigin::EGP => Origin::Egp,
                    TheirOrigin::INCOMPLETE => Origin::Incomplete,
                }
            }
            AttributeValue::NextHop(address) => ours.next_hop = Some(NextHop::from(*address)),
            AttributeValue::MultiExitDiscriminator(med) => ours.med = Some(*med),
            AttributeValue::LocalPreference(value) => ours.local_pref = Some(*value),
            AttributeValue::AtomicAggregate => ours.atomic_aggregate = true,
            AttributeValue::OriginatorId(id) => ours.originator_id = Some(RouterId(*id)),
            AttributeValue::Clusters(list) => {
                ours.cluster_list = list.iter().map(|id| (*id).into()).collect();
            }
            _ => {}
        }
    }
    let mut old = None;
    for value in theirs.iter() {
        match value {
            AttributeValue::Aggregator { asn, .. } => old = Some(*asn),
            // RFC 6793 §4.2.3: then both are to be ignored, which is left to whoever asks it.
            AttributeValue::As4Aggregator { .. }
                if old.is_some_and(|asn| asn.to_u32() != Asn::TRANS.0) =>
            {
                return Err("AS4_AGGREGATOR beside an AGGREGATOR of two octets".into());
            }
            _ => {}
        }
    }
    if let Some(path) = theirs.effective_as_path() {
        for segment in path.iter_segments() {
            let AsPathSegment::AsSequence(asns) = segment else {
                return Err(format!("{segment:?}"));
            };
            ours.as_path
                .asns
                .extend(asns.iter().map(|asn| Asn(asn.to_u32())));
        }
    }
    ours.aggregator = theirs.aggregator().map(|(asn, id)| (Asn(asn.to_u32()), id));
    for community in theirs.iter_communities() {
        match community {
            MetaCommunity::Plain(community) => ours.communities.push(Community(match community {
                TheirCommunity::NoExport => 0xFFFF_FF01,
                TheirCommunity::NoAdvertise => 0xFFFF_FF02,
                TheirCommunity::NoExportSubConfed => 0xFFFF_FF03,
                TheirCommunity::Custom(asn, value) => asn.to_u32() << 16 | u32::from(value),
            })),
            MetaCommunity::Large(c) => {
                let [one, two] = c.local_data;
                ours.large_communities
                    .push(LargeCommunity(c.global_admin, one, two));
            }
            MetaCommunity::Extended(community) => {
                ours.extended_communities.push(extended(community)?);
            }
            MetaCommunity::Ipv6Extended(_) => {}
        }
    }
    Ok(ours)
}

/// Flow specifications and bandwidths are taken apart so that not all of their bits are left.
fn extended(theirs: TheirExtended) -> Result<ExtendedCommunity, String> {
    let two = |kind: u8, c: bgpkit_parser::models::TwoOctetAsExtCommunity| {
        let [.., high, low] = c.global_admin.to_u32().to_be_bytes();
        let [a, b, d, e] = c.local_admin;
        [kind, c.subtype, high, low, a, b, d, e]
    };
    let v4 = |kind: u8, c: bgpkit_parser::models::Ipv4AddrExtCommunity| {
        let [a, b, d, e] = c.global_admin.octets();
        let [high, low] = c.local_admin;
        [kind, c.subtype, a, b, d, e, high, low]
    };
    let four = |kind: u8, c: bgpkit_parser::models::FourOctetAsExtCommunity| {
        let [a, b, d, e] = c.global_admin.to_u32().to_be_bytes();
        let [high, low] = c.local_admin;
        [kind, c.subtype, a, b, d, e, high, low]
    };
    let opaque = |kind: u8, c: bgpkit_parser::models::OpaqueExtCommunity| {
        let [a, b, d, e, f, g] = c.value;
        [kind, c.subtype, a, b, d, e, f, g]
    };
    Ok(ExtendedCommunity(match theirs {
        TheirExtended::TransitiveTwoOctetAs(c) => two(0x00, c),
        TheirExtended::TransitiveIpv4Addr(c) => v4(0x01, c),
        TheirExtended::TransitiveFourOctetAs(c) => four(0x02, c),
        TheirExtended::TransitiveOpaque(c) => opaque(0x03, c),
        TheirExtended::NonTransitiveTwoOctetAs(c) => two(0x40, c),
        TheirExtended::NonTransitiveIpv4Addr(c) => v4(0x41, c),
        TheirExtended::NonTransitiveFourOctetAs(c) => four(0x42, c),
        TheirExtended::NonTransitiveOpaque(c) => opaque(0x43, c),
        TheirExtended::Raw(octets) => octets,
        other => return Err(format!("{other:?}")),
    }))
}

/// What the two made of many UPDATEs.
#[derive(Debug, Default)]
struct Tally {
    both: usize,
    neither: usize,
    only_we: BTreeMap<&'static str, usize>,
    only_they: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn compare(&mut self, context: &Context, body: &[u8]) {
        match (ours(context, body), theirs(context, body)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours, theirs, "{context:?} {body:02x?}");
                self.both += 1;
            }
            (Ok(_), Err(theirs)) => note(&mut self.only_we, theirs, ONLY_WE_ACCEPT, body),
            (Err(ours), Ok(_)) => note(&mut self.only_they, ours, ONLY_THEY_ACCEPT, body),
            (Err(_), Err(_)) => self.neither += 1,
        }
    }
}

/// Counts a reason, which has to be among those that are known.
fn note(
    counts: &mut BTreeMap<&'static str, usize>,
    found: String,
    known: &[(&'static str, &'static str)],
    body: &[u8],
) {
    let reason = known.iter().find(|(holds, _)| found.contains(holds));
    let (reason, _) = reason.unwrap_or_else(|| panic!("{found}: {body:02x?}"));
    *counts.entry(reason).or_default() += 1;
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn list<T>(&mut self, most: u64, mut item: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(most)).map(|_| item(self)).collect()
    }
}

/// A route as the public tables have it, and as they might have it.
fn attributes(random: &mut Random, context: &Context) -> Attributes {
    let asn = |random: &mut Random| match random.one_in(3) {
        true => Asn(1 + random.below(400_000) as u32),
        false => Asn(1 + random.below(23_000) as u32),
    };
    let mut path = random.list(9, asn);
    if path.is_empty() && context.ebgp {
        path.push(Asn(64999));
    }
    let mut attributes = Attributes {
        origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][random.below(3) as usize],
        as_path: path.into_iter().collect(),
        med: random.one_in(2).then(|| random.next() as u32),
        local_pref: (!context.ebgp).then(|| random.next() as u32),
        atomic_aggregate: random.one_in(5),
        communities: random.list(20, |r| Community(r.next() as u32)),
        large_communities: random.list(5, |r| {
            LargeCommunity(r.next() as u32, r.next() as u32, r.next() as u32)
        }),
        extended_communities: random.list(5, |r| {
            let [_, kind, rest @ ..] = r.next().to_be_bytes();
            let kind = [0, 1, 2, 3, 0x40, 0x41, 0x42, 0x43, 0x80, kind][r.below(10) as usize];
            let [a, b, c, d, e, f] = rest;
            ExtendedCommunity([kind, 0x10 + a % 8, a, b, c, d, e, f])
        }),
        originator_id: (!context.ebgp && random.one_in(3))
            .then(|| RouterId((random.next() as u32).into())),
        ..Attributes::default()
    };
    if random.one_in(4) {
        attributes.aggregator = Some((asn(random), (random.next() as u32).into()));
    }
    if !context.ebgp {
        attributes.cluster_list = random.list(3, |r| (r.next() as u32).into());
    }
    attributes.canonicalize();
    attributes
}

fn next_hop(random: &mut Random, family: Family) -> NextHop {
    match family {
        Family::Ipv4 => NextHop::from(IpAddr::from([192, 0, 2, random.next() as u8])),
        Family::Ipv6 => {
            let [.., last] = random.next().to_be_bytes();
            let global = [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)];
            NextHop {
                address: IpAddr::from(global),
                link_local: random.one_in(2).then(|| "fe80::1".parse().unwrap()),
            }
        }
    }
}

/// Bodies of UPDATEs made by ourselves.
fn updates(random: &mut Random, context: &Context) -> Vec<Bytes> {
    let family = Family::ALL[random.below(2) as usize];
    let mut block = Vec::new();
    encode_block(
        &attributes(random, context),
        context.four_octet_as,
        &mut block,
    );
    let prefixes = random.list(40, |r| match family {
        Family::Ipv4 => Prefix::new(IpAddr::V4((r.next() as u32).into()), 1 + r.below(32) as u8),
        Family::Ipv6 => {
            let address = u128::from(r.next()) << 64 | u128::from(r.next());
            Prefix::new(IpAddr::V6(address.into()), 1 + r.below(128) as u8)
        }
    });
    let mut out = BytesMut::new();
    let hop = next_hop(random, family);
    let mut builder = match random.one_in(4) {
        true => UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut out),
        false => UpdateBuilder::announce(&block, hop, family, STANDARD_MESSAGE, &mut out).unwrap(),
    };
    prefixes.iter().for_each(|prefix| builder.push(*prefix));
    builder.finish();
    let mut bodies = Vec::new();
    while let Some(Message::Update(body)) = next_message(&mut out, STANDARD_MESSAGE).unwrap() {
        bodies.push(body);
    }
    bodies
}

fn sessions() -> [Context; 3] {
    let both: FamilySet = Family::ALL.into_iter().collect();
    let ebgp = Context {
        ebgp: true,
        four_octet_as: true,
        families: both,
        extended_next_hop: FamilySet::default(),
        max_message: STANDARD_MESSAGE,
    };
    let ibgp = Context {
        ebgp: false,
        ..ebgp
    };
    let old = Context {
        four_octet_as: false,
        ..ebgp
    };
    [ebgp, ibgp, old]
}

#[test]
fn what_is_well_formed_is_read_the_same() {
    let mut random = Random(1);
    let mut tally = Tally::default();
    for context in sessions() {
        for _ in 0..2_000 {
            for body in updates(&mut random, &context) {
                tally.compare(&context, &body);
            }
        }
    }
    assert!(tally.both > 5_000, "{tally:?}");
    assert_eq!(tally.neither, 0, "{tally:?}");
    assert_eq!(
        tally.only_they,
        BTreeMap::new(),
        "of what we made ourselves"
    );
}

#[test]
fn what_is_damaged_is_read_the_same_or_not_at_all() {
    let mut random = Random(2);
    let mut tally = Tally::default();
    for context in sessions() {
        for _ in 0..2_000 {
            for body in updates(&mut random, &context) {
                let mut body = body.to_vec();
                for _ in 0..1 + random.below(3) {
                    let at = random.below(body.len() as u64) as usize;
                    body[at] = random.next() as u8;
                }
                tally.compare(&context, &body);
            }
        }
    }
    assert!(tally.both > 1_000, "{tally:?}");
}

#[test]
fn the_kept_corpus_is_read_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/decoder");
    let mut tally = Tally::default();
    for entry in fs::read_dir(folder).unwrap() {
        let data = fs::read(entry.unwrap().path()).unwrap();
        if let Some((context, body)) = update_of(&data) {
            tally.compare(&context, body);
        }
    }
    assert!(tally.both >= 20);
}

//! What is encoded is what is decoded, and no bytes make a decoder panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::attributes::{AsPath, Attributes, NextHop, Partial, UnknownAttribute};
use crate::config::Origin;
use crate::message::{
    Capabilities, ForwardingState, GracefulRestart, LongLived, LongLivedState, Message,
    Notification, Open, RefreshKind,
};
use crate::types::{
    Asn, Community, ExtendedCommunity, LargeCommunity, Prefix, Prefix4, Prefix6, RouterId,
};

fn any_asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..=u32::MAX, 1..65536u32, Just(23456)].prop_map(Asn)
}

fn any_prefix(family: Family) -> BoxedStrategy<Prefix> {
    match family {
        Family::Ipv4 => (any::<u32>(), 0..=32u8)
            .prop_map(|(a, l)| Prefix4::new(a.into(), l).into())
            .boxed(),
        Family::Ipv6 => (any::<u128>(), 0..=128u8)
            .prop_map(|(a, l)| Prefix6::new(a.into(), l).into())
            .boxed(),
    }
}

fn any_next_hop(family: Family) -> BoxedStrategy<NextHop> {
    let v4 =
        (0x0100_0000..0x7F00_0000u32).prop_map(|address| NextHop::from(IpAddr::V4(address.into())));
    let global = (0..u128::MAX >> 8).prop_map(|low| Ipv6Addr::from(0x20 << 120 | low));
    let link_local = any::<u64>().prop_map(|low| Ipv6Addr::from(0xFE80 << 112 | u128::from(low)));
    let v6 = (global, option::of(link_local.clone())).prop_map(|(global, link_local)| NextHop {
        address: IpAddr::V6(global),
        link_local,
    });
    let alone = link_local.prop_map(|address| NextHop::from(IpAddr::V6(address)));
    match family {
        Family::Ipv4 => prop_oneof![3 => v4, 1 => v6, 1 => alone].boxed(),
        Family::Ipv6 => prop_oneof![3 => v6, 1 => alone].boxed(),
    }
}

fn any_unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    // Everything that is not ours.
    let kinds = prop_oneof![Just(0u8), 11..14u8, 19..32u8, 33..35u8, 36..=255u8];
    btree_set(kinds, 0..4).prop_flat_map(|kinds| {
        let count = kinds.len();
        vec(vec(any::<u8>(), 0..300), count).prop_map(move |values| {
            let unknown = kinds.iter().zip(values);
            unknown
                .map(|(kind, value)| UnknownAttribute {
                    flags: 0xE0,
                    kind: *kind,
                    value: Bytes::from(value),
                })
                .collect()
        })
    })
}

/// Anything that an internal peer may say, next hop left open.
fn any_attributes() -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![
        Just(Origin::Igp),
        Just(Origin::Egp),
        Just(Origin::Incomplete)
    ];
    let path = prop_oneof![vec(any_asn(), 0..8), vec(any_asn(), 250..260)];
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of((any_asn(), any::<u32>())),
        option::of(any::<u32>()),
        vec(any::<u32>(), 0..4),
    );
    let communities = (
        vec(any::<u32>(), 0..70),
        vec(any::<[u32; 3]>(), 0..5),
        vec(any::<[u8; 8]>(), 0..5),
        any::<[bool; 4]>(),
    );
    (origin, path, numbers, communities, any_unknown()).prop_map(
        |(origin, asns, numbers, communities, unknown)| {
            let (med, local_pref, atomic_aggregate, aggregator, originator_id, clusters) = numbers;
            let (standard, large, extended, partial) = communities;
            let mut attributes = Attributes {
                origin,
                as_path: AsPath { asns },
                next_hop: None,
                med,
                local_pref,
                atomic_aggregate,
                aggregator: aggregator.map(|(asn, id)| (asn, Ipv4Addr::from(id))),
                communities: standard.into_iter().map(Community).collect(),
                large_communities: large
                    .into_iter()
                    .map(|[a, b, c]| LargeCommunity(a, b, c))
                    .collect(),
                extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
                originator_id: originator_id.map(|id| RouterId(id.into())),
                cluster_list: clusters.into_iter().map(Ipv4Addr::from).collect(),
                unknown,
                partial: Partial {
                    aggregator: partial[0],
                    communities: partial[1],
                    large_communities: partial[2],
                    extended_communities: partial[3],
                },
            };
            attributes.canonicalize();
            attributes
        },
    )
}

/// A family, prefixes of it, a next hop for it, and attributes.
fn any_routes() -> impl Strategy<Value = (Family, Vec<Prefix>, NextHop, Attributes)> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)].prop_flat_map(|family| {
        (
            Just(family),
            vec(any_prefix(family), 0..700),
            any_next_hop(family),
            any_attributes(),
        )
    })
}

/// All messages of a buffer.
fn messages(mut bytes: BytesMut, max_message: u16) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(message) = next_message(&mut bytes, max_message).unwrap() {
        messages.push(message);
    }
    assert!(bytes.is_empty(), "bytes of half a message are left");
    messages
}

proptest! {
    #[test]
    fn announced_routes_come_back_as_they_were(
        (family, prefixes, next_hop, attributes) in any_routes(),
        four_octet_as: bool,
        extended: bool,
    ) {
        let context = Context {
            four_octet_as,
            max_message: if extended { EXTENDED_MESSAGE } else { STANDARD_MESSAGE },
            ..ibgp()
        };
        let mut block = Vec::new();
        encode_block(&attributes, four_octet_as, &mut block);
        let mut out = BytesMut::new();
        let built =
            UpdateBuilder::announce(&block, next_hop, family, context.max_message, &mut out);
        let mut builder = built.expect("these attributes are short");
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        builder.finish();

        let mut came_back = Vec::new();
        for message in messages(out, context.max_message) {
            let Message::Update(body) = message else { panic!("not an UPDATE") };
            let update = Update::decode(&body, &context).unwrap();
            prop_assert!(update.withdrawn.is_empty() && update.faults.is_empty());
            prop_assert_eq!(update.announced.len(), 1);
            let announced = &update.announced[0];
            came_back.extend(announced.nlri.iter());
            let decoded = decode_attributes(&announced.attributes, &context).unwrap();
            prop_assert_eq!(decoded.discarded, vec![]);
            let expected = Attributes { next_hop: Some(next_hop), ..attributes.clone() };
            prop_assert_eq!(decoded.attributes, expected);
        }
        prop_assert_eq!(came_back, prefixes);
    }

    /// We pack and unpack prefixes ourselves: another reader must find the same ones.
    #[test]
    fn the_library_finds_the_same_prefixes_in_what_we_send(
        (family, prefixes, next_hop, attributes) in any_routes(),
        withdraw: bool,
    ) {
        let mut block = Vec::new();
        // It would judge attributes that we hand on unread.
        let attributes = Attributes { unknown: vec![], ..attributes };
        encode_block(&attributes, true, &mut block);
        let mut out = BytesMut::new();
        let mut builder = if withdraw {
            UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut out)
        } else {
            UpdateBuilder::announce(&block, next_hop, family, STANDARD_MESSAGE, &mut out).unwrap()
        };
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        drop(builder);

        let mut found = Vec::new();
        for message in messages(out, STANDARD_MESSAGE) {
            let Message::Update(mut body) = message else { panic!("not an UPDATE") };
            let length = body.len();
            let update = rustbgpd_wire::UpdateMessage::decode(&mut body, length).unwrap();
            let parsed = update.parse(true, false, &[]).unwrap();
            let (in_body, empty) = match withdraw {
                true => (parsed.withdrawn, parsed.announced),
                false => (parsed.announced, parsed.withdrawn),
            };
            prop_assert!(empty.is_empty());
            found.extend(in_body.iter().map(|entry| {
                Prefix::from(Prefix4::new(entry.prefix.addr, entry.prefix.len))
            }));
            for attribute in &parsed.attributes {
                let list = match attribute {
                    rustbgpd_wire::PathAttribute::MpReachNlri(reach) => &reach.announced,
                    rustbgpd_wire::PathAttribute::MpUnreachNlri(unreach) => &unreach.withdrawn,
                    _ => continue,
                };
                found.extend(list.iter().map(|entry| match entry.prefix {
                    rustbgpd_wire::Prefix::V4(p) => Prefix::V4(Prefix4::new(p.addr, p.len)),
                    rustbgpd_wire::Prefix::V6(p) => Prefix::V6(Prefix6::new(p.addr, p.len)),
                }));
            }
        }
        prop_assert_eq!(found, prefixes);
    }

    #[test]
    fn messages_are_packed_full(prefixes in vec(any_prefix(Family::Ipv6), 1000..1500)) {
        let mut block = Vec::new();
        encode_block(&Attributes::default(), true, &mut block);
        let next_hop = NextHop::from(IpAddr::V6(GLOBAL.into()));
        let mut out = BytesMut::new();
        let built =
            UpdateBuilder::announce(&block, next_hop, Family::Ipv6, STANDARD_MESSAGE, &mut out);
        let mut builder = built.unwrap();
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        builder.finish();
        let lengths: Vec<usize> = messages(out, STANDARD_MESSAGE)
            .iter()
            .map(|message| match message {
                Message::Update(body) => 19 + body.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        for length in &lengths[..lengths.len() - 1] {
            prop_assert!((4096 - 16..=4096).contains(length), "{:?}", lengths);
        }
    }

    #[test]
    fn withdrawn_routes_come_back_as_they_were(
        family in prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)],
        seeds in vec((any::<u128>(), any::<u8>()), 0..2000),
    ) {
        let prefixes: Vec<Prefix> = seeds
            .into_iter()
            .map(|(address, length)| match family {
                Family::Ipv4 => Prefix4::new((address as u32).into(), length % 33).into(),
                Family::Ipv6 => Prefix6::new(address.into(), length % 129).into(),
            })
            .collect();
        let mut out = BytesMut::new();
        let mut builder = UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut out);
        prefixes.iter().for_each(|prefix| builder.push(*prefix));
        drop(builder);
        let mut came_back = Vec::new();
        for message in messages(out, STANDARD_MESSAGE) {
            let Message::Update(body) = message else { panic!("not an UPDATE") };
            let update = Update::decode(&body, &ebgp()).unwrap();
            prop_assert!(update.announced.is_empty() && update.faults.is_empty());
            prop_assert_eq!(update.end_of_rib, None);
            came_back.extend(update.withdrawn.iter().flat_map(Nlri::iter));
        }
        prop_assert_eq!(came_back, prefixes);
    }

    #[test]
    fn a_block_says_what_was_put_into_it(attributes in any_attributes()) {
        let mut block = Vec::new();
        encode_block(&attributes, true, &mut block);
        prop_assert_eq!(decode_block(&block), attributes);
    }

    #[test]
    fn an_open_comes_back_as_it_was(
        asn in any_asn(),
        hold_time in prop_oneof![Just(0u16), 3..=u16::MAX],
        id in 1..=u32::MAX,
        four_octet_as: bool,
        flags: [bool; 6],
        restart in option::of((any::<[bool; 4]>(), 0u16..=4095)),
        long_lived in option::of((any::<[bool; 2]>(), 0..=LongLived::MAX_SECONDS)),
    ) {
        let asn = if four_octet_as { asn } else { Asn(asn.0 % 65535 + 1) };
        let families = [Family::Ipv4, Family::Ipv6].into_iter().zip(&flags[..2]);
        let open = Open {
            asn,
            hold_time,
            router_id: RouterId(id.into()),
            capabilities: Capabilities {
                families: families.filter(|(_, on)| **on).map(|(family, _)| family).collect(),
                four_octet_as: four_octet_as.then_some(asn),
                route_refresh: flags[2],
                enhanced_route_refresh: flags[3],
                extended_message: flags[4],
                extended_next_hop: flags[5].then_some(Family::Ipv4).into_iter().collect(),
                graceful_restart: restart.map(|([restarting, notification, family, preserved], seconds)| GracefulRestart {
                    restarting,
                    notification,
                    seconds,
                    families: family
                        .then_some(ForwardingState { family: Family::Ipv6, preserved })
                        .into_iter()
                        .collect(),
                }),
                long_lived: long_lived.map(|([some, preserved], seconds)| LongLived {
                    families: some
                        .then_some(LongLivedState { family: Family::Ipv4, preserved, seconds })
                        .into_iter()
                        .collect(),
                }),
                unknown: vec![],
            },
        };
        let mut out = BytesMut::new();
        encode_open(&open, &mut out);
        prop_assert_eq!(messages(out, STANDARD_MESSAGE), vec![Message::Open(open)]);
    }

    #[test]
    fn a_notification_comes_back_as_far_as_it_fits(
        code: u8,
        subcode: u8,
        data in prop_oneof![vec(any::<u8>(), 0..50), vec(any::<u8>(), 4070..4080)],
    ) {
        let notification = Notification::new(code, subcode, data.clone());
        let mut out = BytesMut::new();
        encode_notification(&notification, &mut out);
        let data = Bytes::copy_from_slice(&data[..data.len().min(4096 - 21)]);
        let expected = Notification { code, subcode, data };
        prop_assert_eq!(messages(out, STANDARD_MESSAGE), vec![Message::Notification(expected)]);
    }

    #[test]
    fn cutting_the_stream_anywhere_changes_nothing(cuts in vec(1..40usize, 1..40)) {
        let mut whole = BytesMut::new();
        encode_keepalive(&mut whole);
        encode_route_refresh(Family::Ipv6, RefreshKind::Begin, &mut whole);
        encode_end_of_rib(Family::Ipv4, &mut whole);
        encode_end_of_rib(Family::Ipv6, &mut whole);
        encode_notification(&Notification::hold_timer_expired(), &mut whole);
        let expected = messages(whole.clone(), STANDARD_MESSAGE);

        let (mut stream, mut got) = (BytesMut::new(), Vec::new());
        for cut in cuts.into_iter().chain([usize::MAX]) {
            stream.extend_from_slice(&whole.split_to(cut.min(whole.len())));
            while let Some(message) = next_message(&mut stream, STANDARD_MESSAGE).unwrap() {
                got.push(message);
            }
        }
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), ebgp_session: bool) {
        let context = if ebgp_session { ebgp() } else { old() };
        try_everything(&bytes, &context);
    }

    /// Random bytes seldom get past the first check; bytes of a good UPDATE with some of them
    /// changed get further.
    #[test]
    fn damaged_updates_never_panic(
        attributes in any_attributes(),
        next_hop in any_next_hop(Family::Ipv6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in option::of(any::<prop::sample::Index>()),
        four_octet_as: bool,
    ) {
        let context = Context { four_octet_as, ..ebgp() };
        let mut block = Vec::new();
        encode_block(&attributes, true, &mut block);
        let mut out = BytesMut::new();
        let built =
            UpdateBuilder::announce(&block, next_hop, Family::Ipv6, STANDARD_MESSAGE, &mut out);
        let mut builder = built.unwrap();
        builder.push(Prefix6::new(GLOBAL.into(), 64));
        builder.push(Prefix6::new(GLOBAL.into(), 47));
        drop(builder);
        let mut bytes = out[19..].to_vec();
        for (at, with) in damage {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        try_everything(&bytes, &context);
    }
}

/// Gives `bytes` to every decoder, as a stream with and without a good header, and looks at all
/// that comes out.
fn try_everything(bytes: &[u8], context: &Context) {
    for kind in 0..=6u8 {
        let mut stream = BytesMut::from(&[0xFF; 16][..]);
        stream.extend_from_slice(&(19 + bytes.len() as u16).to_be_bytes());
        stream.extend_from_slice(&[kind]);
        stream.extend_from_slice(bytes);
        if let Ok(Some(Message::Notification(notification))) =
            next_message(&mut stream, STANDARD_MESSAGE)
        {
            let _ = notification.to_string();
        }
    }
    let _ = next_message(&mut BytesMut::from(bytes), STANDARD_MESSAGE);
    let _ = decode_block(bytes);
    let _ = decode_attributes(bytes, context);
    if let Ok(update) = Update::decode(bytes, context) {
        let withdrawn = update.withdrawn.iter().flat_map(Nlri::iter);
        let _ = withdrawn.count();
        for announced in &update.announced {
            assert!(announced.nlri.iter().count() > 0);
            let decoded = decode_attributes(&announced.attributes, context);
            if let Ok(decoded) = decoded {
                assert!(decoded.attributes.next_hop.is_some());
                // What was accepted can be kept and sent again.
                let mut block = Vec::new();
                encode_block(&decoded.attributes, true, &mut block);
                let kept = decode_block(&block);
                assert_eq!(
                    Attributes {
                        next_hop: None,
                        ..decoded.attributes
                    },
                    kept
                );
            }
        }
    }
}

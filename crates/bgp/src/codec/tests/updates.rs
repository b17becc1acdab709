//! What good UPDATEs say, and how they are made.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::attributes::{Attributes, NextHop, UnknownAttribute};
use crate::types::{Asn, Community, Prefix};

fn prefixes<'n, 'a: 'n>(lists: impl IntoIterator<Item = &'n Nlri<'a>>) -> Vec<String> {
    let all = lists.into_iter().flat_map(|nlri| nlri.iter());
    all.map(|prefix| prefix.to_string()).collect()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn block_of(attributes: &Attributes) -> Vec<u8> {
    let mut block = Vec::new();
    encode_block(attributes, true, &mut block);
    block
}

fn announce(block: &[u8], next_hop: &str, texts: &[&str]) -> BytesMut {
    let next_hop = NextHop::from(next_hop.parse::<IpAddr>().unwrap());
    let family = prefix(texts[0]).family();
    let mut out = BytesMut::new();
    let mut builder =
        UpdateBuilder::announce(block, next_hop, family, STANDARD_MESSAGE, &mut out).unwrap();
    texts.iter().for_each(|text| builder.push(prefix(text)));
    builder.finish();
    out
}

#[test]
fn one_update_may_withdraw_and_announce_both_families() {
    let body = body(
        &[16, 10, 9],
        &[
            &mp_reach(2, &GLOBAL, NLRI6),
            ORIGIN,
            &mp_unreach(2, &[0]),
            AS_PATH,
            NEXT_HOP,
        ],
        &[24, 10, 1, 2, 0, 32, 10, 1, 2, 3],
    );
    let update = Update::decode(&body, &ebgp()).unwrap();
    assert_eq!(prefixes(&update.withdrawn), ["::/0", "10.9.0.0/16"]);
    let lists = update.announced.iter().map(|announced| &announced.nlri);
    assert_eq!(
        prefixes(lists),
        ["2001:db8::/32", "10.1.2.0/24", "0.0.0.0/0", "10.1.2.3/32"]
    );
    let next_hops = update.announced.iter().map(|announced| {
        let decoded = decode_attributes(&announced.attributes, &ebgp()).unwrap();
        decoded.attributes.next_hop.unwrap().to_string()
    });
    assert_eq!(next_hops.collect::<Vec<_>>(), ["2001:db8::1", "192.0.2.1"]);
}

#[test]
fn the_key_of_ipv4_routes_is_the_messages_own_bytes() {
    let body = body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI);
    let update = Update::decode(&body, &ebgp()).unwrap();
    let Cow::Borrowed(key) = update.announced[0].attributes else {
        panic!("copied");
    };
    assert_eq!(key, [ORIGIN, AS_PATH, NEXT_HOP].concat());
}

#[test]
fn updates_that_differ_in_prefixes_alone_have_one_key() {
    let key = |nlri: &[u8], next_hop: &[u8]| {
        let body = body(&[], &[&mp_reach(2, next_hop, nlri), ORIGIN, AS_PATH], &[]);
        let update = Update::decode(&body, &ebgp()).unwrap();
        update.announced[0].attributes.to_vec()
    };
    assert_eq!(key(NLRI6, &GLOBAL), key(&[0], &GLOBAL));
    assert_ne!(key(NLRI6, &GLOBAL), key(NLRI6, &LINK_LOCAL));
}

#[test]
fn bits_behind_a_prefixs_length_are_ignored() {
    let body = body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[9, 10, 0xFF]);
    let update = Update::decode(&body, &ebgp()).unwrap();
    assert_eq!(prefixes([&update.announced[0].nlri]), ["10.128.0.0/9"]);
}

#[test]
fn end_of_rib_is_told_apart_from_everything_else() {
    let end_of_rib = |body: &[u8], context: &Context| {
        let update = Update::decode(body, context).unwrap();
        assert!(update.announced.is_empty());
        update.end_of_rib
    };
    let empty = body(&[], &[], &[]);
    assert_eq!(end_of_rib(&empty, &ebgp()), Some(Family::Ipv4));
    let ipv6 = body(&[], &[&mp_unreach(2, &[])], &[]);
    assert_eq!(end_of_rib(&ipv6, &ebgp()), Some(Family::Ipv6));
    let ipv4 = body(&[], &[&mp_unreach(1, &[])], &[]);
    assert_eq!(end_of_rib(&ipv4, &ebgp()), Some(Family::Ipv4));
    // The family is not agreed.
    assert_eq!(end_of_rib(&ipv6, &old()), None);
    assert_eq!(
        end_of_rib(&body(&[], &[&mp_unreach(99, &[])], &[]), &ebgp()),
        None
    );
    // Something is withdrawn.
    assert_eq!(end_of_rib(&body(&[0], &[], &[]), &ebgp()), None);
    assert_eq!(
        end_of_rib(&body(&[], &[&mp_unreach(2, &[0])], &[]), &ebgp()),
        None
    );
    assert_eq!(
        end_of_rib(&body(&[0], &[&mp_unreach(2, &[])], &[]), &ebgp()),
        None
    );
    // Other attributes are there.
    assert_eq!(
        end_of_rib(&body(&[], &[&mp_unreach(2, &[]), ORIGIN], &[]), &ebgp()),
        None
    );
}

#[test]
fn withdrawing_nothing_writes_nothing() {
    for family in Family::ALL {
        let mut out = BytesMut::new();
        UpdateBuilder::withdraw(family, STANDARD_MESSAGE, &mut out).finish();
        assert!(out.is_empty(), "{family}");
    }
}

#[test]
fn messages_look_as_the_rfcs_draw_them() {
    let block = block_of(&Attributes {
        as_path: [Asn(65001), Asn(65002)].into_iter().collect(),
        ..Attributes::default()
    });
    let out = announce(&block, "192.0.2.1", &["10.1.2.0/24"]);
    assert_eq!(&out[..16], [0xFF; 16]);
    assert_eq!(
        usize::from(u16::from_be_bytes([out[16], out[17]])),
        out.len()
    );
    assert_eq!(out[18], 2);
    assert_eq!(out[19..], body(&[], &[ORIGIN, AS_PATH, NEXT_HOP], NLRI));

    let out = announce(&block, "2001:db8::1", &["2001:db8::/32"]);
    let reach = &mp_reach(2, &GLOBAL, NLRI6)[3..];
    let reach = [&[0x90, 14, 0, reach.len() as u8], reach].concat();
    assert_eq!(out[19..], body(&[], &[&reach, ORIGIN, AS_PATH], &[]));

    let mut out = BytesMut::new();
    let mut builder = UpdateBuilder::withdraw(Family::Ipv4, STANDARD_MESSAGE, &mut out);
    builder.push(prefix("10.1.2.0/24"));
    drop(builder);
    assert_eq!(out[19..], body(NLRI, &[], &[]));

    let mut out = BytesMut::new();
    let mut builder = UpdateBuilder::withdraw(Family::Ipv6, STANDARD_MESSAGE, &mut out);
    builder.push(prefix("2001:db8::/32"));
    drop(builder);
    let unreach = &mp_unreach(2, NLRI6)[3..];
    let unreach = [&[0x90, 15, 0, unreach.len() as u8], unreach].concat();
    assert_eq!(out[19..], body(&[], &[&unreach], &[]));

    for family in Family::ALL {
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &mut out);
        let update = Update::decode(&out[19..], &ebgp()).unwrap();
        assert_eq!(update.end_of_rib, Some(family));
    }
}

#[test]
fn attributes_too_long_for_a_message_are_reported() {
    let with = |count: u32| {
        block_of(&Attributes {
            communities: (0..count).map(Community).collect(),
            ..Attributes::default()
        })
    };
    let try_it = |block: &[u8], max_message| {
        let next_hop = NextHop::from(IpAddr::from(GLOBAL));
        let mut out = BytesMut::new();
        let built = UpdateBuilder::announce(block, next_hop, Family::Ipv6, max_message, &mut out);
        let result = built.map(|mut builder| builder.push(prefix("2001:db8::1/128")));
        assert_eq!(result.is_err(), out.is_empty());
        result.map(|()| out.len())
    };
    // 19 + 4 + 26 + 7 + 4 octets of everything else, and 17 of the prefix.
    assert_eq!(try_it(&with(1004), STANDARD_MESSAGE), Ok(4092));
    assert_eq!(try_it(&with(1005), STANDARD_MESSAGE), Ok(4096));
    let error = try_it(&with(1006), STANDARD_MESSAGE).unwrap_err();
    assert_eq!(
        error,
        EncodeError::TooLong {
            size: 4100,
            max: 4096
        }
    );
    assert_eq!(
        error.to_string(),
        "an UPDATE with these path attributes takes 4100 octets; the peer accepts 4096"
    );
    assert_eq!(try_it(&with(1006), EXTENDED_MESSAGE), Ok(4100));
    // More than any length can say.
    assert!(try_it(&with(20_000), EXTENDED_MESSAGE).is_err());
    let mut out = BytesMut::new();
    let next_hop = NextHop::from(IpAddr::from([192, 0, 2, 1]));
    let block = with(20_000);
    let ipv4 = UpdateBuilder::announce(&block, next_hop, Family::Ipv4, EXTENDED_MESSAGE, &mut out);
    assert!(ipv4.is_err());
}

#[test]
fn ipv6_routes_have_no_ipv4_next_hop() {
    let mut out = BytesMut::new();
    let next_hop = IpAddr::from([192, 0, 2, 1]);
    let built = UpdateBuilder::announce(
        &[],
        next_hop.into(),
        Family::Ipv6,
        STANDARD_MESSAGE,
        &mut out,
    );
    assert_eq!(built.err(), Some(EncodeError::NextHop { next_hop }));
}

#[test]
fn unknown_attributes_are_handed_on_with_the_partial_bit() {
    let body = body(
        &[],
        &[
            ORIGIN,
            AS_PATH,
            NEXT_HOP,
            &attr(0xC0, 99, &[1, 2]),
            &attr(0x80, 98, &[3]),
            &attr(0xC0, 35, &[0, 0, 0, 7]),
        ],
        NLRI,
    );
    let update = Update::decode(&body, &ebgp()).unwrap();
    let decoded = decode_attributes(&update.announced[0].attributes, &ebgp()).unwrap();
    assert_eq!(decoded.discarded, vec![]);
    let unknown = |kind, value: &'static [u8]| UnknownAttribute {
        flags: 0xE0,
        kind,
        value: Bytes::from_static(value),
    };
    assert_eq!(
        decoded.attributes.unknown,
        [unknown(35, &[0, 0, 0, 7]), unknown(99, &[1, 2])]
    );
    let out = announce(&block_of(&decoded.attributes), "192.0.2.1", &["10.0.0.0/8"]);
    let passed_on = attr(0xE0, 99, &[1, 2]);
    assert!(
        out.windows(passed_on.len())
            .any(|window| window == passed_on)
    );
}

#[test]
fn what_only_internal_peers_may_say_is_not_heard_from_others() {
    let extra = [
        attr(0x40, 5, &[0, 0, 0, 200]),
        attr(0x80, 9, &[1, 1, 1, 1]),
        attr(0x80, 10, &[2, 2, 2, 2]),
    ]
    .concat();
    let block = [ORIGIN, AS_PATH, NEXT_HOP, &extra].concat();
    let outside = decode_attributes(&block, &ebgp()).unwrap().attributes;
    assert_eq!(outside.local_pref, None);
    assert_eq!(outside.originator_id, None);
    assert!(outside.cluster_list.is_empty());
    let inside = decode_attributes(&block, &ibgp()).unwrap().attributes;
    assert_eq!(inside.local_pref, Some(200));
    assert_eq!(
        inside.originator_id.map(|id| id.to_string()),
        Some("1.1.1.1".into())
    );
    assert_eq!(
        inside.cluster_list,
        [[2, 2, 2, 2].into()] as [std::net::Ipv4Addr; 1]
    );
}

/// RFC 6793 §4.2.3.
#[test]
fn the_as_path_of_an_old_speaker_is_completed() {
    let path = |as_path: &[u8], as4_path: &[u8]| {
        let block = [ORIGIN, as_path, NEXT_HOP, as4_path].concat();
        let decoded = decode_attributes(&block, &old()).unwrap();
        decoded.attributes.as_path.to_string()
    };
    // 65001 23456 23456, of which the last two are 100000 and 200000.
    let as_path = attr(0x40, 2, &[2, 3, 0xFD, 0xE9, 0x5B, 0xA0, 0x5B, 0xA0]);
    let as4_path = attr(0xC0, 17, &[2, 2, 0, 1, 0x86, 0xA0, 0, 3, 0x0D, 0x40]);
    assert_eq!(path(&as_path, &as4_path), "65001 100000 200000");
    assert_eq!(path(&as_path, &[]), "65001 23456 23456");
    // An AS4_PATH longer than AS_PATH is ignored.
    assert_eq!(path(AS_PATH2, &as4_path), "65001");
}

#[test]
fn the_form_of_two_octet_speakers_says_big_as_numbers_twice() {
    let attributes = Attributes {
        as_path: [Asn(100_000), Asn(65001)].into_iter().collect(),
        aggregator: Some((Asn(200_000), [1, 1, 1, 1].into())),
        ..Attributes::default()
    };
    let mut block = Vec::new();
    encode_block(&attributes, false, &mut block);
    let expected = [
        attr(0x40, 1, &[0]),
        attr(0x40, 2, &[2, 2, 0x5B, 0xA0, 0xFD, 0xE9]),
        attr(0xC0, 7, &[0x5B, 0xA0, 1, 1, 1, 1]),
        attr(0xC0, 17, &[2, 2, 0, 1, 0x86, 0xA0, 0, 0, 0xFD, 0xE9]),
        attr(0xC0, 18, &[0, 3, 0x0D, 0x40, 1, 1, 1, 1]),
    ];
    assert_eq!(block, expected.concat());
}

#[test]
fn next_hops_of_speakers_without_a_global_address_are_understood() {
    let next_hop = |octets: &[u8]| {
        let body = body(&[], &[&mp_reach(2, octets, NLRI6), ORIGIN, AS_PATH], &[]);
        let update = Update::decode(&body, &ebgp()).unwrap();
        let decoded = decode_attributes(&update.announced[0].attributes, &ebgp()).unwrap();
        decoded.attributes.next_hop.unwrap().to_string()
    };
    let two = |a: &[u8], b: &[u8]| next_hop(&[a, b].concat());
    assert_eq!(next_hop(&LINK_LOCAL), "fe80::1");
    assert_eq!(two(&LINK_LOCAL, &LINK_LOCAL), "fe80::1");
    assert_eq!(two(&[0; 16], &LINK_LOCAL), "fe80::1");
    assert_eq!(two(&GLOBAL, &LINK_LOCAL), "2001:db8::1 (fe80::1)");
    assert_eq!(two(&GLOBAL, &[0; 16]), "2001:db8::1");
}

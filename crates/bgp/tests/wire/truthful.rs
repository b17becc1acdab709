//! What goes in comes out: tables say what peers said, and peers are told what tables say.

use std::collections::BTreeMap;

use bgp::attributes::Attributes;
use bgp::codec::encode_route_refresh;
use bgp::message::{Message, RefreshKind};
use bgp::types::{Family, Prefix, Prefix4, Prefix6};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::rig::{OUR_ASN, Rig, Who, announce, listen, withdraw};

#[derive(Clone, Debug)]
enum Step {
    Announce(Who, u32, Vec<Prefix>),
    Withdraw(Who, Vec<Prefix>),
    /// Asks for all routes of a family again. RFC 2918.
    Ask(Who, Family),
    /// Sends all routes of IPv4 again, and they are these. RFC 7313.
    SendAgain(Who, u32, Vec<Prefix>),
    /// Reads nothing for a while.
    StopReading(Who),
    /// Reads again what has become of it.
    ReadAgain(Who),
    /// Mallory's session is lost and comes back without routes.
    Restart,
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Few of them, so that they meet.
    prop_oneof![
        (0..12u8, 24..26u8)
            .prop_map(|(n, length)| Prefix4::new([10, 0, n, 0].into(), length).into()),
        (0..6u16).prop_map(|n| {
            let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, n, 0, 0, 0, 0);
            Prefix6::new(address, 64).into()
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let who = || prop_oneof![Just(Who::Mallory), Just(Who::Alice)];
    let prefixes = || vec(any_prefix(), 1..6);
    prop_oneof![
        6 => (who(), 0..3u32, prefixes()).prop_map(|(who, med, list)| Step::Announce(who, med, list)),
        4 => (who(), prefixes()).prop_map(|(who, list)| Step::Withdraw(who, list)),
        1 => (who(), prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)])
            .prop_map(|(who, family)| Step::Ask(who, family)),
        1 => (who(), 0..3u32, prefixes()).prop_map(|(who, med, mut list)| {
            list.retain(|prefix| prefix.family() == Family::Ipv4);
            Step::SendAgain(who, med, list)
        }),
        1 => who().prop_map(Step::StopReading),
        1 => who().prop_map(Step::ReadAgain),
        1 => Just(Step::Restart),
    ]
}

fn expected(who: Who, med: u32, prefix: Prefix) -> Attributes {
    Attributes {
        next_hop: Some(who.next_hop(prefix.family())),
        ..who.attributes(med)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn tables_agree_with_what_was_said_and_heard(steps in vec(any_step(), 1..25)) {
        let mut rig = Rig::established();
        let mut said: BTreeMap<Who, BTreeMap<Prefix, Attributes>> =
            Who::ALL.into_iter().map(|who| (who, BTreeMap::new())).collect();
        let mut heard = said.clone();
        for step in steps {
            match step {
                Step::Announce(who, med, prefixes) => {
                    rig.say(who, &announce(who, med, &prefixes));
                    let known = said.get_mut(&who).unwrap();
                    known.extend(prefixes.iter().map(|p| (*p, expected(who, med, *p))));
                }
                Step::Withdraw(who, prefixes) => {
                    rig.say(who, &withdraw(&prefixes));
                    said.get_mut(&who).unwrap().retain(|prefix, _| !prefixes.contains(prefix));
                }
                Step::StopReading(who) => rig.stop_reading(who),
                Step::ReadAgain(who) => rig.read_again(who),
                Step::Ask(who, family) => {
                    rig.read_again(who);
                    listen(&rig.heard(who), heard.get_mut(&who).unwrap());
                    let mut bytes = BytesMut::new();
                    encode_route_refresh(family, RefreshKind::Request, &mut bytes);
                    rig.say(who, &bytes);
                    let messages = rig.heard(who);
                    // All that the peer knows comes again between the two marks.
                    let mut again = BTreeMap::new();
                    listen(&messages, &mut again);
                    let mut known = heard[&who].clone();
                    known.retain(|prefix, _| prefix.family() == family);
                    prop_assert_eq!(again, known);
                    let mark = |kind| Message::RouteRefresh { family: Some(family), kind };
                    prop_assert_eq!(messages.first(), Some(&mark(RefreshKind::Begin)));
                    prop_assert_eq!(messages.last(), Some(&mark(RefreshKind::End)));
                }
                Step::SendAgain(who, med, prefixes) => {
                    let mut bytes = BytesMut::new();
                    encode_route_refresh(Family::Ipv4, RefreshKind::Begin, &mut bytes);
                    bytes.unsplit(announce(who, med, &prefixes));
                    encode_route_refresh(Family::Ipv4, RefreshKind::End, &mut bytes);
                    rig.say(who, &bytes);
                    let known = said.get_mut(&who).unwrap();
                    known.retain(|prefix, _| prefix.family() != Family::Ipv4);
                    known.extend(prefixes.iter().map(|p| (*p, expected(who, med, *p))));
                }
                Step::Restart => {
                    rig.read_again(Who::Mallory);
                    // A NOTIFICATION: Cease, Administrative Reset.
                    let mut bytes = BytesMut::from(&[0xFF; 16][..]);
                    bytes.extend_from_slice(&[0, 21, 3, 6, 4]);
                    rig.say(Who::Mallory, &bytes);
                    prop_assert!(rig.is_closed(Who::Mallory));
                    rig.wait(std::time::Duration::from_secs(61));
                    rig.connect(Who::Mallory);
                    prop_assert_eq!(rig.state(Who::Mallory), "Established");
                    said.insert(Who::Mallory, BTreeMap::new());
                    heard.insert(Who::Mallory, BTreeMap::new());
                }
            }
            for who in Who::ALL {
                prop_assert_eq!(&rig.received(who), &said[&who]);
            }
            for who in Who::ALL {
                if !rig.reads(who) {
                    continue;
                }
                let messages = rig.heard(who);
                let known = heard.get_mut(&who).unwrap();
                listen(&messages, known);
                prop_assert_eq!(&*known, &rig.advertised(who));
                // Nothing is told to the one it came from, nothing is hidden from the other, and
                // all of it says that it came through us.
                for (prefix, attributes) in known.iter() {
                    prop_assert_eq!(attributes.as_path.first(), Some(OUR_ASN));
                    let other = if who == Who::Alice { Who::Mallory } else { Who::Alice };
                    prop_assert!(said[&other].contains_key(prefix));
                }
            }
        }
        let best = rig.routes(bgp::query::View::Best);
        let all: Vec<Prefix> = said.values().flat_map(BTreeMap::keys).copied().collect();
        prop_assert!(all.iter().all(|prefix| best.contains_key(prefix)));
        prop_assert!(best.keys().all(|prefix| all.contains(prefix)));
    }

    #[test]
    fn where_the_stream_is_cut_does_not_matter(
        steps in vec((0..3u32, vec(any_prefix(), 1..10)), 1..6),
        chunk in 1..120usize,
    ) {
        let (mut whole, mut cut) = (Rig::established(), Rig::established());
        let mut bytes = BytesMut::new();
        for (med, prefixes) in &steps {
            bytes.extend_from_slice(&announce(Who::Mallory, *med, prefixes));
            bytes.extend_from_slice(&withdraw(&prefixes[..1]));
        }
        whole.say(Who::Mallory, &bytes);
        for chunk in bytes.chunks(chunk) {
            cut.say(Who::Mallory, chunk);
        }
        prop_assert_eq!(whole.received(Who::Mallory), cut.received(Who::Mallory));
        prop_assert_eq!(whole.advertised(Who::Alice), cut.advertised(Who::Alice));
    }
}

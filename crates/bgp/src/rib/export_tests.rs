use proptest::prelude::*;

use super::*;
use crate::codec::decode_block;
use crate::config::Origin as AttributeOrigin;
use crate::rib::hops::Hops;
use crate::types::{Community, RouterId};

fn export(ebgp: bool, next_hop: NextHopMode) -> Export {
    Export {
        ebgp,
        local_asn: Asn(65000),
        reflector_client: false,
        cluster_id: (!ebgp).then_some([10, 0, 0, 1].into()),
        next_hop,
        local: LocalAddresses {
            address: [192, 0, 2, 1].into(),
            other_family: None,
        },
        extended_next_hop: false,
        four_octet_as: true,
        max_message: 4096,
        long_lived_stale: LongLivedStale::Withheld,
        policies: Vec::new(),
        advertisements: Vec::new(),
    }
}

prop_compose! {
    fn any_attributes()(
        path in proptest::collection::vec(1_u32..100_000, 0..600),
        short in any::<bool>(),
        med in proptest::option::of(any::<u32>()),
        local_pref in proptest::option::of(any::<u32>()),
        atomic_aggregate in any::<bool>(),
        communities in proptest::collection::vec(any::<u32>(), 0..80),
        extended in proptest::collection::vec(any::<[u8; 8]>(), 0..3),
        originator in proptest::option::of(any::<[u8; 4]>()),
        clusters in proptest::collection::vec(any::<[u8; 4]>(), 0..80),
    ) -> Attributes {
        let length = if short { path.len() % 5 } else { path.len() };
        let mut attributes = Attributes {
            origin: AttributeOrigin::Incomplete,
            as_path: path[..length].iter().map(|asn| Asn(*asn)).collect(),
            next_hop: Some(NextHop::from(IpAddr::from([198, 51, 100, 1]))),
            med,
            local_pref,
            atomic_aggregate,
            communities: communities.into_iter().map(Community).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            originator_id: originator.map(|id| RouterId(id.into())),
            cluster_list: clusters.into_iter().map(Into::into).collect(),
            ..Attributes::default()
        };
        attributes.canonicalize();
        attributes
    }
}

proptest! {
    /// The short way to a block, byte by byte, leads where the long one leads.
    #[test]
    fn a_patched_block_says_what_a_shaped_one_says(
        attributes in any_attributes(),
        ebgp: bool,
        source in prop_oneof![Just(Source::Local), Just(Source::Ebgp), Just(Source::Ibgp)],
        mode in prop_oneof![
            Just(NextHopMode::Auto), Just(NextHopMode::Self_), Just(NextHopMode::Unchanged)
        ],
    ) {
        let (mut hops, mut attrs) = (Hops::default(), AttrStore::new(1));
        let set = attrs.intern(&attributes, &mut hops);
        let export = export(ebgp, mode);
        let cluster_id = export.cluster_id.filter(|_| source == Source::Ibgp);
        let reflected = cluster_id.map(|cluster| Reflected {
            originator: attributes.originator_id.is_none().then(|| RouterId([10, 0, 0, 9].into())),
            cluster,
        });
        let change = Change { source, sets: Vec::new(), reflected };
        let mut block = Vec::new();
        let next_hop = encode(&export, Family::Ipv4, &change, set, &attrs, &mut block).unwrap();
        let (shaped, expected) = export.shape(Family::Ipv4, &change, attributes).unwrap();
        prop_assert_eq!(next_hop, expected);
        prop_assert_eq!(Attributes { next_hop: shaped.next_hop, ..decode_block(&block) }, shaped);
    }
}

#[test]
fn the_next_hop_is_an_address_that_the_peer_can_use() {
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    let ours = |local: &str, other: Option<&str>, extended_next_hop, family| {
        let export = Export {
            local: LocalAddresses {
                address: address(local),
                other_family: other.map(address),
            },
            extended_next_hop,
            ..export(true, NextHopMode::Auto)
        };
        let next_hop = export.resolve_next_hop(family, None);
        next_hop.map(|next_hop| next_hop.address.to_string())
    };
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(ours(v4, None, false, Family::Ipv4), some(v4));
    assert_eq!(ours(v4, Some(v6), false, Family::Ipv6), some(v6));
    assert_eq!(ours(v4, None, false, Family::Ipv6), None);
    assert_eq!(ours(v6, None, false, Family::Ipv6), some(v6));
    assert_eq!(ours(v6, Some(v4), false, Family::Ipv4), some(v4));
    assert_eq!(ours(v6, None, false, Family::Ipv4), None);
    // RFC 8950: the address of the session is the one that the peer reaches for certain.
    assert_eq!(ours(v6, Some(v4), true, Family::Ipv4), some(v6));
    assert_eq!(ours("fe80::1", Some(v4), true, Family::Ipv4), some(v4));
    assert_eq!(ours("fe80::1", None, true, Family::Ipv6), None);
}

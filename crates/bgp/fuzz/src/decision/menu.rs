//! The few things an input chooses among, in the engine's words.

use std::net::IpAddr;

use bgp::attributes::{Attributes, NextHop, UnknownAttribute};
use bgp::config::{
    Action, Advertisement, Config, DecisionConfig, Match, NextHopMode, Origin, Originated,
    PeerConfig, Policy, PrefixMatch, Rule, Set, Source, Timers,
};
use bgp::engine::NextHopState;
use bgp::types::{Asn, Community, ExtendedCommunity, Family, LargeCommunity, Prefix, RouterId};
use bytes::Bytes;

use crate::input::Input;

pub(super) const OUR_ASN: Asn = Asn(64512);
pub(super) const OUR_ID: RouterId = RouterId(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(super) const OUR_ADDRESS: IpAddr = IpAddr::V4(OUR_ID.0);
pub(super) const OUR_ADDRESS6: IpAddr =
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Three external peers, two of them of one AS, and two internal ones.
pub(super) const PEERS: usize = 5;
pub(super) const POLICIES_IN: usize = 6;
pub(super) const POLICIES_OUT: usize = 6;
pub(super) const RULES: usize = 5;
pub(super) const NEXT_HOP_MODES: [NextHopMode; 3] = [
    NextHopMode::Auto,
    NextHopMode::Self_,
    NextHopMode::Unchanged,
];

/// A cluster that routes come with.
pub(super) const OTHER_CLUSTER: [u8; 4] = [10, 8, 8, 8];

/// A community that policies look at.
pub(super) const MARK: Community = Community(64512 << 16 | 7);
/// One that a policy adds.
pub(super) const ADDED: Community = Community(64512 << 16 | 8);
pub(super) const NO_EXPORT: Community = Community(0xFFFF_FF01);
pub(super) const NO_ADVERTISE: Community = Community(0xFFFF_FF02);

/// What is configured, in choices.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) peers: Vec<WantedPeer>,
    /// Of the decision process.
    pub(super) rules: usize,
    /// Which prefixes are ours: a bit each of those of both families.
    pub(super) originate: u8,
    /// Which peers hear them: a bit each.
    pub(super) heard_by: u8,
    pub(super) own_subnet: bool,
    /// We are of [`OTHER_CLUSTER`], else of our own.
    pub(super) cluster: bool,
}

#[derive(Clone, Debug)]
pub(super) struct WantedPeer {
    pub(super) configured: bool,
    pub(super) import: usize,
    pub(super) export: usize,
    pub(super) next_hop: NextHopMode,
    pub(super) allow_own_as: u8,
    /// Our reflector client, if it is internal.
    pub(super) client: bool,
}

impl Wanted {
    pub(super) fn new() -> Wanted {
        let peer = WantedPeer {
            configured: true,
            import: 1,
            export: 1,
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            client: false,
        };
        Wanted {
            peers: vec![peer; PEERS],
            rules: 0,
            originate: 0,
            heard_by: 0xFF,
            own_subnet: false,
            cluster: false,
        }
    }

    pub(super) fn config(&self) -> Config {
        let configured = || (0..PEERS).filter(|peer| self.peers[*peer].configured);
        let heard_by = configured().filter(|peer| self.heard_by & 1 << peer != 0);
        let advertisement = Advertisement {
            name: "ours".into(),
            peers: heard_by.map(name).collect(),
            set: vec![Set::Med(Some(3))],
        };
        let originate = originated(self.originate).map(|prefix| Originated {
            prefix,
            advertisements: vec!["ours".into()],
        });
        Config {
            asn: OUR_ASN,
            router_id: OUR_ID,
            cluster_id: self.cluster.then(|| OTHER_CLUSTER.into()),
            peers: configured()
                .map(|index| peer(index, &self.peers[index]))
                .collect(),
            policies: policies(),
            advertisements: vec![advertisement],
            originate: originate.collect(),
            decision: rules(self.rules),
            own_subnets: match self.own_subnet {
                true => vec![own_subnet()],
                false => vec![],
            },
        }
    }
}

pub(super) fn name(peer: usize) -> String {
    ["e1", "e2", "e3", "i1", "i2"][peer].into()
}

pub(super) fn asn(peer: usize) -> Asn {
    [Asn(65001), Asn(65001), Asn(65002), OUR_ASN, OUR_ASN][peer]
}

pub(super) fn is_external(peer: usize) -> bool {
    asn(peer) != OUR_ASN
}

pub(super) fn address(peer: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, 11 + peer as u8])
}

/// Two in two ASes are the same, which nobody forbids. RFC 6286 §2.1.
pub(super) fn router_id(peer: usize) -> RouterId {
    RouterId([10, 0, 0, [5, 4, 5, 3, 9][peer]].into())
}

fn peer(index: usize, wanted: &WantedPeer) -> PeerConfig {
    let policy = |direction: &str, choice: usize| match choice {
        0 => vec![],
        choice => vec![format!("{direction}{choice}")],
    };
    PeerConfig {
        name: name(index),
        description: String::new(),
        address: address(index),
        port: 179,
        local_address: None,
        local_asn: OUR_ASN,
        remote_asn: asn(index),
        passive: true,
        shutdown: None,
        ttl: 1,
        ttl_security: None,
        authentication: None,
        families: Family::ALL.to_vec(),
        extended_next_hop: false,
        max_prefixes: None,
        timers: Timers {
            hold: 0,
            ..Timers::default()
        },
        import: policy("in", wanted.import),
        export: policy("out", wanted.export),
        next_hop: wanted.next_hop,
        allow_own_as: wanted.allow_own_as,
        reflector_client: wanted.client && !is_external(index),
        graceful_restart: None,
    }
}

/// The prefixes of a family; in each one that nobody may announce and one that may be ours.
pub(super) fn prefixes(family: Family) -> Vec<Prefix> {
    let texts: &[&str] = match family {
        Family::Ipv4 => &[
            "0.0.0.0/0",
            "10.0.0.0/24",
            "10.0.1.0/24",
            "10.0.1.128/25",
            "10.64.1.0/24",
            "127.1.0.0/16",
        ],
        Family::Ipv6 => &["::/0", "2001:db8:1::/48", "2001:db8:2::/64", "fe80::/64"],
    };
    let parse = |text: &&str| text.parse().expect("a prefix");
    texts.iter().map(parse).collect()
}

/// Those of a family that a mask names.
pub(super) fn chosen(family: Family, mask: u8) -> Vec<Prefix> {
    let all = prefixes(family).into_iter().enumerate();
    all.filter(|(index, _)| mask & 1 << index != 0)
        .map(|(_, prefix)| prefix)
        .collect()
}

pub(super) fn is_martian(prefix: Prefix) -> bool {
    let bad = ["127.1.0.0/16", "fe80::/64"];
    bad.iter().any(|text| prefix.to_string() == *text)
}

pub(super) fn own_subnet() -> Prefix {
    "10.64.0.0/16".parse().expect("a prefix")
}

/// Our own routes: the first three of IPv4 and of IPv6.
pub(super) fn originated(mask: u8) -> impl Iterator<Item = Prefix> {
    let mut ours = chosen(Family::Ipv4, mask & 7);
    ours.extend(chosen(Family::Ipv6, mask >> 3 & 7));
    ours.into_iter()
}

/// Next hops that routes have: the peer's own address, shared ones, and bad ones.
pub(super) fn next_hops(family: Family) -> &'static [&'static str] {
    match family {
        Family::Ipv4 => &[
            "10.9.9.1",
            "10.9.9.2",
            "10.9.9.3",
            "192.0.2.1",
            "169.254.1.1",
        ],
        Family::Ipv6 => &["2001:db8:9::1", "2001:db8:9::2", "2001:db8::1", "fe80::1"],
    }
}

/// How a next hop is reached.
pub(super) fn hop_state(choice: u8) -> Option<NextHopState> {
    let (metric, via) = match choice % 6 {
        0 => (0, None),
        1 => (10, None),
        2 => (10, Some("192.0.2.254")),
        3 => (20, Some("192.0.2.254")),
        4 => (10, Some("10.9.9.1")), // its own gateway, if it is that one
        _ => return None,
    };
    Some(NextHopState {
        metric,
        via: via.map(|via| via.parse().expect("an address")),
        interface: "eth0".into(),
    })
}

/// Attributes that a peer could send; an external one nothing that is for internal ones.
pub(super) fn attributes(input: &mut Input<'_>, peer: usize, family: Family) -> Attributes {
    let (path, lists, internal) = (input.byte(), input.byte(), input.byte());
    let mut asns = match is_external(peer) {
        true => vec![asn(peer)],
        false => vec![],
    };
    match path & 7 {
        0 | 1 => {}
        2 => asns.push(Asn(3000)),
        3 => asns.extend([Asn(3000), Asn(3001)]),
        4 => asns.insert(0, Asn(65002)),
        5 => asns.insert(0, Asn(65001)),
        6 => asns.push(OUR_ASN),
        _ => asns = vec![Asn(70000)],
    }
    let hops = next_hops(family);
    let next_hop = match (input.below(hops.len() + 2), family) {
        (0 | 1, Family::Ipv4) => address(peer),
        (choice, _) => hops[choice % hops.len()].parse().expect("an address"),
    };
    let mut attributes = Attributes {
        origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(path >> 3) % 3],
        as_path: asns.into_iter().collect(),
        next_hop: Some(NextHop::from(next_hop)),
        med: [None, Some(0), Some(5), Some(9)][usize::from(path >> 6)],
        ..Attributes::default()
    };
    match lists & 7 {
        1 => attributes.communities.push(MARK),
        2 => attributes.communities.push(NO_EXPORT),
        3 => attributes.communities.push(NO_ADVERTISE),
        4 => attributes.communities.extend([ADDED, MARK]),
        _ => {}
    }
    if lists & 8 != 0 {
        let transitive = ExtendedCommunity([0, 2, 0, 1, 0, 0, 0, 1]);
        let of_one_as = ExtendedCommunity([0x40, 2, 0, 1, 0, 0, 0, 1]);
        attributes
            .extended_communities
            .extend([transitive, of_one_as]);
    }
    if lists & 16 != 0 {
        attributes.large_communities.push(LargeCommunity(1, 2, 3));
    }
    if lists & 32 != 0 {
        attributes.unknown.push(UnknownAttribute {
            flags: 0xE0,
            kind: 99,
            value: Bytes::from_static(b"?"),
        });
    }
    attributes.atomic_aggregate = lists & 64 != 0;
    if lists & 128 != 0 {
        attributes.aggregator = Some((Asn(70001), [1, 2, 3, 4].into()));
    }
    if !is_external(peer) {
        attributes.local_pref = [None, Some(100), Some(200), Some(50)][usize::from(internal & 3)];
        attributes.originator_id = match internal >> 2 & 3 {
            1 => Some(OUR_ID),
            2 => Some(RouterId([10, 0, 0, 1].into())),
            _ => None,
        };
        match internal >> 4 & 3 {
            1 => attributes.cluster_list.push(OTHER_CLUSTER.into()),
            2 => attributes.cluster_list.push(OUR_ID.0),
            _ => {}
        }
    }
    attributes.canonicalize();
    attributes
}

fn rules(choice: usize) -> DecisionConfig {
    let default = DecisionConfig::default();
    match choice {
        0 => default,
        1 => DecisionConfig {
            always_compare_med: true,
            ..default
        },
        2 => DecisionConfig {
            max_paths: 1,
            ..default
        },
        3 => DecisionConfig {
            multipath_different_as: false,
            max_paths: 2,
            ..default
        },
        // The outcome depends on which was there first.
        _ => DecisionConfig {
            compare_router_id: false,
            ..default
        },
    }
}

fn policies() -> Vec<Policy> {
    let rule = |name: &str, matches: Match, action: Action, set: Vec<Set>| Rule {
        name: name.into(),
        matches,
        action,
        set,
    };
    let all = || rule("all", Match::default(), Action::Accept, vec![]);
    let marked = || Match {
        communities: vec![MARK],
        ..Match::default()
    };
    let of_ipv4 = || Match {
        families: vec![Family::Ipv4],
        ..Match::default()
    };
    let within_ten = PrefixMatch {
        prefix: "10.0.0.0/8".parse().expect("a prefix"),
        min_length: 24,
        max_length: 24,
    };
    let any = Match::default;
    let hop = |text: &str| Set::NextHop(text.parse().expect("an address"));
    let policy = |name: &str, rules: Vec<Rule>| Policy {
        name: name.into(),
        rules,
    };
    vec![
        policy("in1", vec![all()]),
        policy(
            "in2",
            vec![
                rule(
                    "not those",
                    Match {
                        prefixes: vec![within_ten],
                        ..Match::default()
                    },
                    Action::Reject,
                    vec![],
                ),
                all(),
            ],
        ),
        policy(
            "in3",
            vec![
                rule(
                    "marked",
                    marked(),
                    Action::Continue,
                    vec![Set::LocalPreference(300)],
                ),
                all(),
            ],
        ),
        policy(
            "in4",
            vec![rule(
                "add",
                any(),
                Action::Accept,
                vec![Set::AddCommunity(ADDED), Set::Med(Some(5))],
            )],
        ),
        policy(
            "in5",
            vec![
                rule("moved", of_ipv4(), Action::Accept, vec![hop("10.9.9.2")]),
                rule("not marked", marked(), Action::Reject, vec![]),
                all(),
            ],
        ),
        policy("out1", vec![all()]),
        policy(
            "out2",
            vec![
                rule(
                    "not from there",
                    Match {
                        neighbor_asns: vec![Asn(65002)],
                        ..Match::default()
                    },
                    Action::Reject,
                    vec![],
                ),
                all(),
            ],
        ),
        policy(
            "out3",
            vec![rule(
                "longer",
                any(),
                Action::Accept,
                vec![
                    Set::Prepend {
                        asn: Asn(64512),
                        count: 2,
                    },
                    Set::Med(Some(7)),
                    Set::RemoveCommunity(MARK),
                ],
            )],
        ),
        policy(
            "out4",
            vec![rule("ours", any(), Action::Accept, vec![Set::NextHopSelf])],
        ),
        policy(
            "out5",
            vec![
                rule(
                    "no internal ones",
                    Match {
                        sources: vec![Source::Ibgp],
                        ..Match::default()
                    },
                    Action::Reject,
                    vec![],
                ),
                rule(
                    "short ones",
                    Match {
                        as_path_max_length: Some(1),
                        ..Match::default()
                    },
                    Action::Accept,
                    vec![Set::AddCommunity(ADDED), Set::Origin(Origin::Incomplete)],
                ),
                rule(
                    "those of e1",
                    Match {
                        peers: vec!["e1".into()],
                        ..Match::default()
                    },
                    Action::Accept,
                    vec![],
                ),
            ],
        ),
    ]
}

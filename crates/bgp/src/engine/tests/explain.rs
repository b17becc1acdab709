use super::rig::{OUR_AS, Rig, config, nth, peer, policy, prefix, rule};
use crate::attributes::{AsPath, Attributes, NextHop};
use crate::config::{Action, Match, NextHopMode, Set};
use crate::query::{ExportState, Outcome, Refusal, Step, Withheld};
use crate::types::{Asn, Community};

/// p2 and p3 are external, i4 and i5 internal.
fn mixed() -> Rig {
    let mut rig = Rig::new(config(vec![
        peer("p2", 65002, 2),
        peer("p3", 65003, 3),
        peer("i4", OUR_AS, 4),
        peer("i5", OUR_AS, 5),
    ]));
    rig.establish_all();
    rig
}

fn state(rig: &Rig, name: &str, index: u32) -> ExportState {
    let exports = rig.engine.explain(nth(index)).exports;
    exports
        .iter()
        .find(|export| &*export.peer == name)
        .unwrap()
        .state
}

fn withheld(reason: Withheld) -> ExportState {
    ExportState::NotAdvertised(reason)
}

#[test]
fn each_candidate_keeps_what_became_of_it() {
    let mut rig = mixed();
    let best = rig.own("p2");
    let longer = Attributes {
        as_path: [65003, 65010].map(Asn).into_iter().collect(),
        ..rig.own("p3")
    };
    let looped = Attributes {
        as_path: [65003, OUR_AS].map(Asn).into_iter().collect(),
        ..rig.own("i4")
    };
    rig.announce("p2", &[nth(1)], &best);
    rig.announce("p3", &[nth(1)], &longer);
    rig.announce("i4", &[nth(1)], &looped);
    let explanation = rig.engine.explain(nth(1));
    let outcomes: Vec<_> = explanation
        .candidates
        .iter()
        .map(|c| (c.route.peer.clone().unwrap().to_string(), c.outcome.clone()))
        .collect();
    assert_eq!(outcomes[0], ("p2".into(), Outcome::Best));
    let lost = Outcome::Lost {
        step: Step::AsPathLength,
        to: Some("p2".into()),
    };
    assert!(outcomes.contains(&("p3".into(), lost)));
    assert!(outcomes.contains(&("i4".into(), Outcome::Refused(Refusal::OwnAs))));
    let import = explanation.candidates[0].import.clone().unwrap();
    assert_eq!(import.to_string(), "accepted by policy all, rule any");
    let (address, reached) = explanation.candidates[0].next_hop.clone().unwrap();
    assert_eq!(address.to_string(), "192.0.2.2");
    assert_eq!(reached.unwrap().interface, "eth0");
    assert_eq!(explanation.next_hops, [address]);
    assert!(!explanation.fib_pending);
}

#[test]
fn each_refusal_has_its_reason_and_is_counted() {
    let mut rig = mixed();
    rig.config.own_subnets = vec![prefix("16.0.0.0/16")];
    rig.config.peers[3].reflector_client = true; // only a reflector is of a cluster
    rig.configure();
    let own = rig.own("i4");
    let with = |change: fn(&mut Attributes)| {
        let mut attributes = own.clone();
        change(&mut attributes);
        attributes
    };
    let router_id = |last| crate::types::RouterId([192, 0, 2, last].into());
    let next_hop = |attributes: &mut Attributes, address: &str| {
        attributes.next_hop = Some(NextHop::from(address.parse::<std::net::IpAddr>().unwrap()));
    };
    let mut originated = own.clone();
    originated.originator_id = Some(router_id(1));
    let mut own_hop = own.clone();
    next_hop(&mut own_hop, "192.0.2.1");
    let mut bad_hop = own.clone();
    next_hop(&mut bad_hop, "169.254.1.1");
    let clustered = with(|a| a.cluster_list = vec![[192, 0, 2, 1].into()]);
    let cases = [
        ("16.0.1.0/24", own.clone(), Refusal::OwnSubnet, "own-subnet"),
        ("127.0.0.0/8", own.clone(), Refusal::Martian, "martian"),
        (
            "20.0.0.0/24",
            originated,
            Refusal::OwnRouterId,
            "own-router-id",
        ),
        (
            "20.0.1.0/24",
            clustered,
            Refusal::ClusterLoop,
            "cluster-loop",
        ),
        ("20.0.2.0/24", own_hop, Refusal::OwnNextHop, "own-next-hop"),
        ("20.0.3.0/24", bad_hop, Refusal::BadNextHop, "bad-next-hop"),
    ];
    for (destination, attributes, refusal, fault) in cases {
        rig.announce("i4", &[prefix(destination)], &attributes);
        let candidate = rig.engine.explain(prefix(destination)).candidates.remove(0);
        assert_eq!(
            candidate.outcome,
            Outcome::Refused(refusal),
            "{destination}"
        );
        let faults = rig.status("i4").faults;
        let count = faults.iter().find(|(kind, _)| kind.name() == fault);
        assert_eq!(count.map(|(_, n)| *n), Some(1), "{destination}");
        assert!(rig.status("i4").last_fault.unwrap().contains(destination));
    }
    assert!(rig.fib.is_empty());
}

#[test]
fn our_own_route_come_back_is_a_loop_and_not_a_claim_to_our_subnet() {
    let mut rig = mixed();
    rig.config.own_subnets = vec![prefix("16.0.0.0/16")];
    rig.configure();
    let mut looped = rig.own("i4");
    looped.as_path.prepend(rig.config.asn, 1);
    rig.announce("i4", &[prefix("16.0.0.0/16")], &looped);
    let faults = rig.status("i4").faults;
    let faults: Vec<_> = faults.iter().map(|(kind, n)| (kind.name(), *n)).collect();
    assert_eq!(faults, [("own-as", 1)]);
}

#[test]
fn martians_are_told_from_their_neighbours() {
    let mut rig = mixed();
    let mut outcome = |destination: &str| {
        let attributes = match prefix(destination) {
            crate::types::Prefix::V4(_) => rig.own("i4"),
            crate::types::Prefix::V6(_) => Attributes {
                next_hop: Some(NextHop::from(
                    "2001:db8::4".parse::<std::net::IpAddr>().unwrap(),
                )),
                ..rig.own("i4")
            },
        };
        rig.announce("i4", &[prefix(destination)], &attributes);
        rig.engine
            .explain(prefix(destination))
            .candidates
            .remove(0)
            .outcome
    };
    for martian in [
        "0.0.0.0/8",
        "0.1.0.0/16",
        "127.0.0.1/32",
        "169.254.0.0/16",
        "169.254.7.0/24",
        "224.0.0.0/4",
        "239.1.1.1/32",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "::/8",
        "::1/128",
        "::ffff:0:0/96",
        "fe80::/10",
        "febf::/16",
        "ff00::/8",
        "ff02::1/128",
    ] {
        assert_eq!(
            outcome(martian),
            Outcome::Refused(Refusal::Martian),
            "{martian}"
        );
    }
    for fine in [
        "0.0.0.0/0",
        "1.0.0.0/8",
        "126.0.0.0/8",
        "128.0.0.0/8",
        "169.253.0.0/16",
        "169.0.0.0/8",
        "223.255.255.0/24",
        "::/0",
        "100::/64",
        "64:ff9b::/96",
        "fd00::/8",
        "fec0::/10",
    ] {
        assert_eq!(outcome(fine), Outcome::Best, "{fine}");
    }
}

#[test]
fn a_route_is_used_while_its_next_hop_can_be_reached() {
    let mut rig = mixed();
    let (two, three) = (rig.own("p2"), rig.own("p3"));
    let three = Attributes {
        as_path: [65003, 65010].map(Asn).into_iter().collect(),
        ..three
    };
    rig.announce("p2", &[nth(1)], &two);
    rig.announce("p3", &[nth(1)], &three);
    let hop = "192.0.2.2".parse().unwrap();
    rig.hop(hop, false);
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p3"));
    assert_eq!(
        rig.fib[&nth(1)],
        ["192.0.2.3".parse::<std::net::IpAddr>().unwrap()]
    );
    let explanation = rig.engine.explain(nth(1));
    let unresolved = Outcome::Refused(Refusal::NextHopUnresolved);
    assert!(
        explanation
            .candidates
            .iter()
            .any(|c| c.outcome == unresolved)
    );
    rig.hop(hop, true);
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p2"));
    // Farther than the other one: the metric comes after the length of the path.
    rig.metrics.insert(hop, 100);
    rig.hop(hop, true);
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p2"));
}

#[test]
fn a_connected_peers_next_hop_is_not_sought_behind_another_router() {
    let far = peer("far", 65004, 4);
    let far = crate::config::PeerConfig { ttl: 255, ..far };
    let near = crate::config::PeerConfig {
        ttl: 255,
        ttl_security: Some(1),
        ..peer("p2", 65002, 2)
    };
    let mut rig = Rig::new(config(vec![near, far]));
    rig.establish_all();
    let (two, four) = (rig.own("p2"), rig.own("far"));
    rig.announce("p2", &[nth(1)], &two);
    rig.announce("far", &[nth(2)], &four);
    assert_eq!(rig.fib.len(), 2);
    // The link goes down: now the default route leads there, so it seems.
    let gateway = "198.51.100.1".parse().unwrap();
    for hop in ["192.0.2.2", "192.0.2.4"] {
        let hop: std::net::IpAddr = hop.parse().unwrap();
        rig.gateways.insert(hop, gateway);
        rig.hop(hop, true);
    }
    assert_eq!(rig.fib.keys().copied().collect::<Vec<_>>(), [nth(2)]);
    let candidates = rig.engine.explain(nth(1)).candidates;
    let refused = Outcome::Refused(Refusal::NextHopNotConnected);
    assert_eq!(candidates[0].outcome, refused);
    // `default via 192.0.2.2 dev eth0 onlink` says that it is on the link.
    let hop = "192.0.2.2".parse().unwrap();
    rig.gateways.insert(hop, hop);
    rig.hop(hop, true);
    assert_eq!(rig.fib.len(), 2);
}

#[test]
fn a_closed_import_lets_nothing_in_until_a_policy_opens_it() {
    let mut rig = mixed();
    rig.config.peers[0].import.clear();
    rig.configure();
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    let candidate = rig.engine.explain(nth(1)).candidates.remove(0);
    assert_eq!(candidate.outcome, Outcome::Refused(Refusal::NoImportPolicy));
    assert!(
        rig.tracked.is_empty(),
        "refused routes' next hops are nobody's business"
    );
    rig.config.peers[0].import = vec!["all".into()];
    rig.configure();
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p2"));
    // An internal peer needs none.
    rig.config.peers[2].import.clear();
    rig.configure();
    let attributes = rig.own("i4");
    rig.announce("i4", &[nth(2)], &attributes);
    assert_eq!(rig.best(nth(2)).as_deref(), Some("i4"));
}

#[test]
fn import_policy_changes_what_is_accepted_and_keeps_what_was_received() {
    let mut rig = mixed();
    let mut prefer = rule("prefer", Match::default(), Action::Accept);
    prefer.set = vec![Set::LocalPreference(300)];
    rig.config.policies.push(policy("in", vec![prefer]));
    rig.config.peers[0].import = vec!["in".into()];
    rig.configure();
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    let candidate = rig.engine.explain(nth(1)).candidates.remove(0);
    assert_eq!(candidate.accepted.unwrap().local_pref, Some(300));
    assert_eq!(candidate.route.attributes.local_pref, None);
    assert_eq!(rig.script("i4").heard[&nth(1)].local_pref, Some(300));
    assert_eq!(rig.script("p3").heard[&nth(1)].local_pref, None);
}

#[test]
fn each_reason_not_to_send_is_told() {
    let mut rig = mixed();
    let (p2, i4) = (rig.own("p2"), rig.own("i4"));
    rig.announce("p2", &[nth(1)], &p2);
    assert_eq!(state(&rig, "p2", 1), withheld(Withheld::SplitHorizon));
    assert_eq!(state(&rig, "p3", 1), ExportState::Advertised);
    assert_eq!(state(&rig, "i4", 1), ExportState::Advertised);
    assert_eq!(state(&rig, "p3", 99), withheld(Withheld::NoRoute));

    rig.announce("i4", &[nth(2)], &i4);
    assert_eq!(state(&rig, "i5", 2), withheld(Withheld::IbgpToIbgp));
    assert_eq!(state(&rig, "p2", 2), ExportState::Advertised);

    let with = |community| Attributes {
        communities: vec![community],
        ..p2.clone()
    };
    rig.announce("p2", &[nth(3)], &with(Community::NO_EXPORT));
    assert_eq!(state(&rig, "p3", 3), withheld(Withheld::NoExport));
    assert_eq!(state(&rig, "i4", 3), ExportState::Advertised);
    rig.announce("p2", &[nth(4)], &with(Community::NO_ADVERTISE));
    assert_eq!(state(&rig, "i4", 4), withheld(Withheld::NoAdvertise));

    rig.config.peers[1].export.clear();
    rig.configure();
    assert_eq!(state(&rig, "p3", 1), withheld(Withheld::NoExportPolicy));
    rig.config.policies.push(policy(
        "none",
        vec![rule("no", Match::default(), Action::Reject)],
    ));
    rig.config.peers[1].export = vec!["none".into()];
    rig.configure();
    assert_eq!(state(&rig, "p3", 1), withheld(Withheld::ExportPolicy));
    let exports = rig.engine.explain(nth(1)).exports;
    let trace = exports[1].policy.clone().unwrap();
    assert_eq!(trace.to_string(), "rejected by policy none, rule no");

    rig.script("i4").blocked = true;
    rig.announce("p2", &[nth(5)], &p2);
    assert_eq!(state(&rig, "i4", 5), ExportState::Pending);
    rig.unblock("i4");
    assert_eq!(state(&rig, "i4", 5), ExportState::Advertised);

    rig.disconnect("i5");
    assert_eq!(state(&rig, "i5", 1), withheld(Withheld::SessionDown));
}

#[test]
fn attributes_are_sent_as_the_kind_of_peer_requires() {
    let mut rig = mixed();
    let attributes = Attributes {
        med: Some(9),
        communities: vec![Community(7)],
        extended_communities: ["rt:65002:1", "0x4300000000000001"]
            .map(|c| c.parse().unwrap())
            .into(),
        ..rig.own("p2")
    };
    rig.announce("p2", &[nth(1)], &attributes);
    let external = rig.script("p3").heard[&nth(1)].clone();
    assert_eq!(external.as_path.to_string(), "65000 65002");
    assert_eq!(external.next_hop.unwrap().to_string(), "192.0.2.1");
    assert_eq!((external.med, external.local_pref), (None, None));
    assert_eq!(external.communities, [Community(7)]);
    assert_eq!(
        external.extended_communities.len(),
        1,
        "only the transitive one"
    );
    let internal = rig.script("i4").heard[&nth(1)].clone();
    assert_eq!(internal.as_path.to_string(), "65002");
    assert_eq!(internal.next_hop.unwrap().to_string(), "192.0.2.2");
    assert_eq!((internal.med, internal.local_pref), (Some(9), Some(100)));

    for (mode, expected) in [
        (NextHopMode::Self_, "192.0.2.1"),
        (NextHopMode::Unchanged, "192.0.2.2"),
        (NextHopMode::Auto, "192.0.2.2"),
    ] {
        rig.config.peers[2].next_hop = mode;
        rig.configure();
        let next_hop = rig.script("i4").heard[&nth(1)].next_hop.unwrap();
        assert_eq!(next_hop.to_string(), expected, "{mode:?}");
    }
}

#[test]
fn a_route_that_fits_into_no_message_is_taken_back_and_not_sent() {
    let mut rig = mixed();
    let short = rig.own("p2");
    rig.announce("p2", &[nth(1)], &short);
    let long = Attributes {
        // It just fits as it comes; the AS we put in front is too much.
        as_path: (0..1011).map(|_| Asn(65002)).collect::<AsPath>(),
        ..short
    };
    rig.announce("p2", &[nth(1)], &long);
    assert_eq!(rig.best(nth(1)).as_deref(), Some("p2"));
    assert!(!rig.script("p3").heard.contains_key(&nth(1)));
    assert_eq!(state(&rig, "p3", 1), withheld(Withheld::TooLong));
}

#[test]
fn the_longest_other_prefix_is_named() {
    let mut rig = mixed();
    let attributes = rig.own("p2");
    rig.announce(
        "p2",
        &[prefix("16.0.0.0/8"), prefix("16.1.0.0/16")],
        &attributes,
    );
    let explanation = rig.engine.explain(prefix("16.1.2.0/24"));
    assert_eq!(explanation.covering, Some(prefix("16.1.0.0/16")));
    assert_eq!(
        rig.engine.explain(prefix("16.1.0.0/16")).covering,
        Some(prefix("16.0.0.0/8"))
    );
    assert_eq!(
        rig.engine.lookup([16, 1, 2, 3].into()),
        Some(prefix("16.1.0.0/16"))
    );
    assert_eq!(rig.engine.lookup([17, 1, 2, 3].into()), None);
}

use super::*;
use crate::config::Origin;
use crate::types::{Asn, Community, ExtendedCommunity, LargeCommunity};

fn rule(name: &str, matches: Match, action: Action, set: Vec<Set>) -> Rule {
    Rule {
        name: name.into(),
        matches,
        action,
        set,
    }
}

fn policy(name: &str, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy {
        name: name.into(),
        rules,
    })
}

fn chain(rules: Vec<Rule>) -> Chain {
    Chain::new(vec![policy("p", rules)], false)
}

fn extended(text: &str) -> ExtendedCommunity {
    text.parse().unwrap()
}

fn attributes() -> Attributes {
    Attributes {
        as_path: [65001, 65002, 65003].map(Asn).into_iter().collect(),
        next_hop: Some(NextHop::from(std::net::IpAddr::from([192, 0, 2, 1]))),
        med: Some(5),
        communities: vec![Community(1), Community(2)],
        large_communities: vec![LargeCommunity(1, 2, 3)],
        extended_communities: vec![extended("rt:65001:1")],
        ..Attributes::default()
    }
}

fn subject() -> Subject<'static> {
    Subject {
        prefix: "10.1.2.0/24".parse().unwrap(),
        source: Source::Ebgp,
        peer: Some("tor-a"),
        advertisement: None,
    }
}

fn judge(chain: &Chain, subject: &Subject) -> (Verdict, Attributes) {
    let before = attributes();
    let mut attributes = Cow::Borrowed(&before);
    let verdict = chain.judge(subject, &mut attributes);
    (verdict, attributes.into_owned())
}

fn accepts(matches: Match, subject: &Subject) -> bool {
    let chain = chain(vec![rule("r", matches, Action::Accept, Vec::new())]);
    judge(&chain, subject).0.accepted
}

fn prefixes(prefix: &str, min_length: u8, max_length: u8) -> Match {
    Match {
        prefixes: vec![PrefixMatch {
            prefix: prefix.parse().unwrap(),
            min_length,
            max_length,
        }],
        ..Match::default()
    }
}

#[test]
fn each_condition_holds_for_one_of_its_list_and_fails_for_none_of_it() {
    type Make = fn(bool) -> Match;
    let conditions: [(&str, Make); 13] = [
        ("prefixes", |ok| {
            prefixes("10.0.0.0/8", 9, if ok { 24 } else { 23 })
        }),
        ("families", |ok| Match {
            families: vec![if ok { Family::Ipv4 } else { Family::Ipv6 }],
            ..Match::default()
        }),
        ("communities", |ok| Match {
            communities: vec![Community(9), Community(if ok { 2 } else { 3 })],
            ..Match::default()
        }),
        ("large communities", |ok| Match {
            large_communities: vec![LargeCommunity(1, 2, if ok { 3 } else { 4 })],
            ..Match::default()
        }),
        ("extended communities", |ok| Match {
            extended_communities: vec![extended(if ok { "rt:65001:1" } else { "so:65001:1" })],
            ..Match::default()
        }),
        ("AS path contains", |ok| Match {
            as_path_contains: vec![Asn(if ok { 65002 } else { 65009 })],
            ..Match::default()
        }),
        ("neighbour AS", |ok| Match {
            neighbor_asns: vec![Asn(if ok { 65001 } else { 65002 })],
            ..Match::default()
        }),
        ("origin AS", |ok| Match {
            origin_asns: vec![Asn(if ok { 65003 } else { 65002 })],
            ..Match::default()
        }),
        ("least path length", |ok| Match {
            as_path_min_length: Some(if ok { 3 } else { 4 }),
            ..Match::default()
        }),
        ("greatest path length", |ok| Match {
            as_path_max_length: Some(if ok { 3 } else { 2 }),
            ..Match::default()
        }),
        ("source", |ok| Match {
            sources: vec![Source::Local, if ok { Source::Ebgp } else { Source::Ibgp }],
            ..Match::default()
        }),
        ("peer", |ok| Match {
            peers: vec![if ok { "tor-a" } else { "tor-b" }.into()],
            ..Match::default()
        }),
        ("advertisement", |ok| Match {
            advertisements: if ok { vec![] } else { vec!["pods".into()] },
            ..Match::default()
        }),
    ];
    for (name, make) in conditions {
        assert!(accepts(make(true), &subject()), "{name}");
        assert!(!accepts(make(false), &subject()), "{name}");
    }
    let ours = Subject {
        source: Source::Local,
        peer: None,
        advertisement: Some("pods"),
        ..subject()
    };
    let pods = Match {
        advertisements: vec!["pods".into()],
        ..Match::default()
    };
    assert!(accepts(pods, &ours));
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let both = |community| Match {
        communities: vec![Community(community)],
        ..prefixes("10.0.0.0/8", 8, 32)
    };
    assert!(accepts(both(1), &subject()));
    assert!(!accepts(both(7), &subject()));
}

#[test]
fn a_prefix_condition_does_not_cross_families_or_look_above_its_prefix() {
    assert!(!accepts(prefixes("::/0", 0, 128), &subject()));
    assert!(!accepts(prefixes("10.1.2.0/25", 24, 32), &subject()));
    assert!(accepts(prefixes("10.1.2.0/24", 24, 24), &subject()));
}

#[test]
fn each_change_is_made() {
    let changed = |set: Vec<Set>| {
        let chain = chain(vec![rule("r", Match::default(), Action::Accept, set)]);
        let (verdict, attributes) = judge(&chain, &subject());
        assert!(verdict.accepted);
        assert_eq!(verdict.applied.as_slice(), [(0, 0)]);
        attributes
    };
    assert_eq!(
        changed(vec![Set::LocalPreference(200)]).local_pref,
        Some(200)
    );
    assert_eq!(changed(vec![Set::Med(Some(7))]).med, Some(7));
    assert_eq!(changed(vec![Set::Med(None)]).med, None);
    assert_eq!(changed(vec![Set::Origin(Origin::Egp)]).origin, Origin::Egp);
    let added = changed(vec![
        Set::AddCommunity(Community(0)),
        Set::AddCommunity(Community(2)),
        Set::AddLargeCommunity(LargeCommunity(0, 0, 1)),
        Set::AddExtendedCommunity(extended("so:65001:9")),
    ]);
    assert_eq!(added.communities, [0, 1, 2].map(Community));
    assert_eq!(added.large_communities.len(), 2);
    assert_eq!(added.extended_communities.len(), 2);
    let removed = changed(vec![
        Set::RemoveCommunity(Community(1)),
        Set::RemoveLargeCommunity(LargeCommunity(1, 2, 3)),
        Set::RemoveExtendedCommunity(extended("rt:65001:1")),
    ]);
    assert_eq!(removed.communities, [Community(2)]);
    assert!(removed.large_communities.is_empty() && removed.extended_communities.is_empty());
    let cleared = changed(vec![Set::ClearCommunities, Set::AddCommunity(Community(5))]);
    assert_eq!(cleared.communities, [Community(5)]);
    let prepended = changed(vec![Set::Prepend {
        asn: Asn(65000),
        count: 2,
    }]);
    assert_eq!(
        prepended.as_path.to_string(),
        "65000 65000 65001 65002 65003"
    );
    assert_eq!(changed(vec![Set::NextHopSelf]).next_hop, None);
    let address = std::net::IpAddr::from([198, 51, 100, 1]);
    let next_hop = changed(vec![Set::NextHop(address)]).next_hop;
    assert_eq!(next_hop, Some(NextHop::from(address)));
}

#[test]
fn a_rule_that_continues_changes_what_later_rules_see() {
    let tagged = Match {
        communities: vec![Community(77)],
        ..Match::default()
    };
    let chain = chain(vec![
        rule(
            "tag",
            Match::default(),
            Action::Continue,
            vec![Set::AddCommunity(Community(77))],
        ),
        rule("tagged", tagged, Action::Accept, vec![Set::Med(Some(1))]),
    ]);
    let (verdict, attributes) = judge(&chain, &subject());
    assert!(verdict.accepted);
    assert_eq!(verdict.applied.as_slice(), [(0, 0), (0, 1)]);
    assert_eq!(attributes.med, Some(1));
    assert_eq!(chain.trace(&verdict).rule.as_deref(), Some("tagged"));
}

#[test]
fn the_first_deciding_rule_decides_and_no_match_rejects() {
    let chain = chain(vec![
        rule(
            "no",
            prefixes("10.1.0.0/16", 16, 32),
            Action::Reject,
            vec![],
        ),
        rule("yes", prefixes("10.0.0.0/8", 8, 32), Action::Accept, vec![]),
    ]);
    let at = |prefix: &str| {
        let subject = Subject {
            prefix: prefix.parse().unwrap(),
            ..subject()
        };
        let (verdict, _) = judge(&chain, &subject);
        (verdict.accepted, chain.trace(&verdict).rule)
    };
    assert_eq!(at("10.1.2.0/24"), (false, Some("no".into())));
    assert_eq!(at("10.2.0.0/16"), (true, Some("yes".into())));
    assert_eq!(at("172.16.0.0/12"), (false, None));
}

#[test]
fn every_policy_of_the_list_must_accept() {
    let accept = || {
        rule(
            "any",
            Match::default(),
            Action::Accept,
            vec![Set::Med(Some(3))],
        )
    };
    let second = rule("ten", prefixes("10.0.0.0/8", 8, 32), Action::Accept, vec![]);
    let chain = Chain::new(
        vec![
            policy("first", vec![accept()]),
            policy("second", vec![second]),
        ],
        false,
    );
    let (verdict, attributes) = judge(&chain, &subject());
    assert!(verdict.accepted);
    assert_eq!(attributes.med, Some(3));
    let other = Subject {
        prefix: "192.0.2.0/24".parse().unwrap(),
        ..subject()
    };
    let (verdict, _) = judge(&chain, &other);
    assert_eq!(
        chain.trace(&verdict).to_string(),
        "rejected: no rule of policy second matched"
    );
}

#[test]
fn without_policy_internal_peers_are_open_and_external_ones_closed() {
    let (open, closed) = (Chain::new(vec![], true), Chain::new(vec![], false));
    assert!(open.is_open() && judge(&open, &subject()).0.accepted);
    assert!(closed.is_closed());
    let (verdict, _) = judge(&closed, &subject());
    assert!(!verdict.accepted);
    assert_eq!(
        closed.trace(&verdict).to_string(),
        "rejected: there is no policy"
    );
}

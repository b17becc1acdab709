//! RoutePolicy → the engine's policy.

use api::{
    ActionSpec, AnyCommunity, MatchSpec, OriginSpec, RoutePolicy, SetNextHop, SetSpec, SourceSpec,
};
use bgp::config::{Action, Match, Origin, Policy, PrefixMatch, Rule, Set, Source};
use bgp::types::Asn;

/// The policy as a node with AS number `own` carries it.
pub(crate) fn policy(policy: &RoutePolicy, own: Asn) -> Policy {
    let rules = policy.spec.rules.iter().enumerate();
    Policy {
        name: policy.metadata.name.clone(),
        rules: rules
            .map(|(index, rule)| Rule {
                name: rule
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("rule {}", index + 1)),
                matches: matches(&rule.matches),
                action: match rule.action {
                    ActionSpec::Accept => Action::Accept,
                    ActionSpec::Reject => Action::Reject,
                    ActionSpec::Continue => Action::Continue,
                },
                set: set(&rule.set, own),
            })
            .collect(),
    }
}

fn matches(spec: &MatchSpec) -> Match {
    let asns = |numbers: &[api::AsNumber]| numbers.iter().map(|asn| asn.get()).collect();
    let bound = |bound: Option<api::Number<u32, 0, 1000>>| bound.map(|it| it.get());
    Match {
        prefixes: spec
            .prefixes
            .iter()
            .map(|it| {
                let (min_length, max_length) = it.lengths();
                PrefixMatch {
                    prefix: it.prefix,
                    min_length,
                    max_length,
                }
            })
            .collect(),
        families: spec.families.clone(),
        communities: spec.communities.clone(),
        large_communities: spec.large_communities.clone(),
        extended_communities: spec.extended_communities.clone(),
        as_path_contains: asns(&spec.as_path_contains),
        neighbor_asns: asns(&spec.neighbor_asns),
        origin_asns: asns(&spec.origin_asns),
        as_path_min_length: spec.as_path_length.and_then(|length| bound(length.min)),
        as_path_max_length: spec.as_path_length.and_then(|length| bound(length.max)),
        sources: spec
            .sources
            .iter()
            .map(|source| match source {
                SourceSpec::Local => Source::Local,
                SourceSpec::Ebgp => Source::Ebgp,
                SourceSpec::Ibgp => Source::Ibgp,
            })
            .collect(),
        advertisements: spec.advertisements.clone(),
        peers: spec.peers.clone(),
    }
}

/// The changes in the order they are made: communities are cleared, then removed, then added.
pub(crate) fn set(spec: &SetSpec, own: Asn) -> Vec<Set> {
    let mut set = Vec::new();
    set.extend(
        spec.local_preference
            .map(|it| Set::LocalPreference(it.get())),
    );
    set.extend(spec.med.map(|it| Set::Med(Some(it.get()))));
    set.extend(spec.remove_med.then_some(Set::Med(None)));
    set.extend(spec.clear_communities.then_some(Set::ClearCommunities));
    set.extend(
        spec.remove_communities
            .iter()
            .map(|community| match community {
                AnyCommunity::Standard(it) => Set::RemoveCommunity(*it),
                AnyCommunity::Large(it) => Set::RemoveLargeCommunity(*it),
                AnyCommunity::Extended(it) => Set::RemoveExtendedCommunity(*it),
            }),
    );
    set.extend(
        spec.add_communities
            .iter()
            .map(|community| match community {
                AnyCommunity::Standard(it) => Set::AddCommunity(*it),
                AnyCommunity::Large(it) => Set::AddLargeCommunity(*it),
                AnyCommunity::Extended(it) => Set::AddExtendedCommunity(*it),
            }),
    );
    set.extend(spec.prepend.map(|it| Set::Prepend {
        asn: it.asn.map_or(own, |asn| asn.get()),
        count: it.count.get(),
    }));
    set.extend(spec.next_hop.map(|it| match it {
        SetNextHop::Self_ => Set::NextHopSelf,
        SetNextHop::Address(address) => Set::NextHop(address),
    }));
    set.extend(spec.origin.map(|it| {
        Set::Origin(match it {
            OriginSpec::Igp => Origin::Igp,
            OriginSpec::Egp => Origin::Egp,
            OriginSpec::Incomplete => Origin::Incomplete,
        })
    }));
    set
}

//! Import and export policy: accept a route, change it, or reject it with a reason.
//!
//! A peer has a list of policies for each direction. A route goes through all of them; the first
//! rule of a policy that matches and does not continue decides for that policy, and when none does
//! the route is rejected. Without any policy an internal peer's routes pass and an external peer's
//! do not (RFC 8212).

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::attributes::{Attributes, NextHop};
use crate::config::{Action, Match, Policy, PrefixMatch, Rule, Set, Source};
use crate::query::PolicyTrace;
use crate::types::{Family, Prefix};

/// A route as policy sees it, besides its attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The destination.
    pub(crate) prefix: Prefix,
    /// Where it came from.
    pub(crate) source: Source,
    /// From which peer; `None` for our own.
    pub(crate) peer: Option<&'a str>,
    /// For our own: the advertisement that asks for it to be sent.
    pub(crate) advertisement: Option<&'a str>,
}

/// The policies of a peer for one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    policies: Vec<Arc<Policy>>,
    /// What becomes of a route when there is no policy at all.
    open: bool,
}

/// The rules whose changes were made, in order: (policy, rule), by index.
pub(crate) type Applied = SmallVec<[(u16, u16); 4]>;

/// What a [`Chain`] says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Let through.
    pub(crate) accepted: bool,
    /// The policy that decided; `None` when there is none.
    pub(crate) policy: Option<u16>,
    /// Its rule; `None` when none matched.
    pub(crate) rule: Option<u16>,
    /// Rules with changes that were made on the way.
    pub(crate) applied: Applied,
}

impl Chain {
    /// The policies in order; `open` decides where there are none.
    pub(crate) fn new(policies: Vec<Arc<Policy>>, open: bool) -> Chain {
        Chain { policies, open }
    }

    /// Whether there is no policy and nothing passes. RFC 8212.
    pub(crate) fn is_closed(&self) -> bool {
        self.policies.is_empty() && !self.open
    }

    /// Whether every route passes unchanged.
    pub(crate) fn is_open(&self) -> bool {
        self.policies.is_empty() && self.open
    }

    /// Whether two routes with the same attributes and source may be judged differently.
    pub(crate) fn looks_at_prefixes(&self) -> bool {
        let mut rules = self.policies.iter().flat_map(|policy| &policy.rules);
        rules.any(|rule| !rule.matches.prefixes.is_empty())
    }

    /// Whether a judgement may need or change the attributes.
    pub(crate) fn looks_at_attributes(&self) -> bool {
        let mut rules = self.policies.iter().flat_map(|policy| &policy.rules);
        rules.any(|rule| {
            let Match {
                prefixes: _,
                families: _,
                sources: _,
                advertisements: _,
                peers: _,
                communities,
                large_communities,
                extended_communities,
                as_path_contains,
                neighbor_asns,
                origin_asns,
                as_path_min_length,
                as_path_max_length,
            } = &rule.matches;
            !(rule.set.is_empty()
                && communities.is_empty()
                && large_communities.is_empty()
                && extended_communities.is_empty()
                && as_path_contains.is_empty()
                && neighbor_asns.is_empty()
                && origin_asns.is_empty()
                && as_path_min_length.is_none()
                && as_path_max_length.is_none())
        })
    }

    /// Judges a route; `attributes` are changed as the rules say (and not looked at afterwards when
    /// the route is rejected).
    pub(crate) fn judge(&self, subject: &Subject, attributes: &mut Cow<Attributes>) -> Verdict {
        let mut verdict = Verdict {
            accepted: self.open,
            policy: None,
            rule: None,
            applied: Applied::new(),
        };
        for (index, policy) in self.policies.iter().enumerate() {
            verdict.policy = Some(index as u16);
            (verdict.accepted, verdict.rule) = judge_one(
                policy,
                index as u16,
                subject,
                attributes,
                &mut verdict.applied,
            );
            if !verdict.accepted {
                break;
            }
        }
        verdict
    }

    /// The changes of the rules that were applied, in order.
    pub(crate) fn changes(&self, applied: &Applied) -> impl Iterator<Item = &Set> {
        let rules = applied.iter().filter_map(|(policy, rule)| {
            let policy = self.policies.get(usize::from(*policy))?;
            policy.rules.get(usize::from(*rule))
        });
        let sets: Vec<&Set> = rules.flat_map(|rule| &rule.set).collect();
        sets.into_iter()
    }

    /// A verdict in names.
    pub(crate) fn trace(&self, verdict: &Verdict) -> PolicyTrace {
        let policy = verdict
            .policy
            .and_then(|index| self.policies.get(usize::from(index)));
        let rule = policy.and_then(|policy| policy.rules.get(usize::from(verdict.rule?)));
        PolicyTrace {
            accepted: verdict.accepted,
            policy: policy.map(|policy| policy.name.clone()),
            rule: rule.map(|rule| rule.name.clone()),
        }
    }
}

fn judge_one(
    policy: &Policy,
    index: u16,
    subject: &Subject,
    attributes: &mut Cow<Attributes>,
    applied: &mut Applied,
) -> (bool, Option<u16>) {
    for (number, rule) in policy.rules.iter().enumerate() {
        if !matches(&rule.matches, subject, attributes) {
            continue;
        }
        let number = number as u16;
        if rule.action == Action::Reject {
            return (false, Some(number));
        }
        if !rule.set.is_empty() {
            change(rule, attributes);
            applied.push((index, number));
        }
        if rule.action == Action::Accept {
            return (true, Some(number));
        }
    }
    (false, None)
}

fn change(rule: &Rule, attributes: &mut Cow<Attributes>) {
    let attributes = attributes.to_mut();
    for set in &rule.set {
        apply(set, attributes);
    }
    attributes.canonicalize();
}

/// Makes one change. [`Set::NextHopSelf`] takes the next hop away: export puts ours in its place.
pub(crate) fn apply(set: &Set, attributes: &mut Attributes) {
    match set {
        Set::LocalPreference(value) => attributes.local_pref = Some(*value),
        Set::Med(value) => attributes.med = *value,
        Set::AddCommunity(c) => attributes.communities.push(*c),
        Set::AddLargeCommunity(c) => attributes.large_communities.push(*c),
        Set::AddExtendedCommunity(c) => attributes.extended_communities.push(*c),
        Set::RemoveCommunity(c) => attributes.communities.retain(|other| other != c),
        Set::RemoveLargeCommunity(c) => attributes.large_communities.retain(|other| other != c),
        Set::RemoveExtendedCommunity(c) => {
            attributes.extended_communities.retain(|other| other != c);
        }
        Set::ClearCommunities => {
            attributes.communities.clear();
            attributes.large_communities.clear();
            attributes.extended_communities.clear();
        }
        Set::Prepend { asn, count } => attributes.as_path.prepend(*asn, usize::from(*count)),
        Set::NextHopSelf => attributes.next_hop = None,
        Set::NextHop(address) => attributes.next_hop = Some(NextHop::from(*address)),
        Set::Origin(origin) => attributes.origin = *origin,
    }
}

/// Whether all conditions that are set hold.
fn matches(conditions: &Match, subject: &Subject, attributes: &Attributes) -> bool {
    let family = subject.prefix.family();
    let path = &attributes.as_path;
    let length = path.length();
    let named = |names: &[String], name: Option<&str>| {
        names.is_empty() || name.is_some_and(|name| names.iter().any(|other| other == name))
    };
    any_or_none(&conditions.prefixes, |p| covers(p, subject.prefix))
        && any_or_none(&conditions.families, |f: &Family| *f == family)
        && any_or_none(&conditions.sources, |s| *s == subject.source)
        && named(&conditions.peers, subject.peer)
        && named(&conditions.advertisements, subject.advertisement)
        && any_or_none(&conditions.communities, |c| {
            attributes.communities.contains(c)
        })
        && any_or_none(&conditions.large_communities, |c| {
            attributes.large_communities.contains(c)
        })
        && any_or_none(&conditions.extended_communities, |c| {
            attributes.extended_communities.contains(c)
        })
        && any_or_none(&conditions.as_path_contains, |asn| path.contains(*asn))
        && any_or_none(&conditions.neighbor_asns, |asn| path.first() == Some(*asn))
        && any_or_none(&conditions.origin_asns, |asn| path.last() == Some(*asn))
        && conditions
            .as_path_min_length
            .is_none_or(|min| length >= min)
        && conditions
            .as_path_max_length
            .is_none_or(|max| length <= max)
}

/// A condition that lists nothing holds.
fn any_or_none<T>(list: &[T], holds: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

fn covers(condition: &PrefixMatch, prefix: Prefix) -> bool {
    condition.prefix.contains(prefix)
        && (condition.min_length..=condition.max_length).contains(&prefix.length())
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;

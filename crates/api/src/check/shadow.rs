//! Rules that can never match: by themselves, or because an earlier rule takes everything.
//!
//! Only what is certain is told: a rule hidden by several others together is not found.

use bgp::types::{Family, Prefix};

use crate::{ActionSpec, MatchSpec, RuleSpec, SetSpec, SourceSpec};

/// The field of a match that contradicts another, and how.
pub(super) fn contradiction(matches: &MatchSpec) -> Option<(&'static str, String)> {
    if let Some(length) = matches.as_path_length {
        let (min, max) = (length.min.map(|it| it.get()), length.max.map(|it| it.get()));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Some((
                "asPathLength",
                format!("no length is at least {min} and at most {max}"),
            ));
        }
        let some_as = [
            &matches.as_path_contains,
            &matches.neighbor_asns,
            &matches.origin_asns,
        ];
        if max == Some(0) && some_as.iter().any(|asns| !asns.is_empty()) {
            return Some((
                "asPathLength",
                "an AS_PATH without length has no AS in it".into(),
            ));
        }
    }
    if !matches.prefixes.is_empty() && destinations(matches).is_empty() {
        let families: Vec<String> = matches.families.iter().map(ToString::to_string).collect();
        return Some((
            "families",
            format!("none of prefixes is {}", families.join(" or ")),
        ));
    }
    let from = |source| matches.sources.is_empty() || matches.sources.contains(&source);
    if !matches.advertisements.is_empty() && !from(SourceSpec::Local) {
        let why = "only our own routes (source Local) come from an Advertisement";
        return Some(("sources", why.into()));
    }
    if !matches.peers.is_empty() && !from(SourceSpec::Ebgp) && !from(SourceSpec::Ibgp) {
        let why = "our own routes (source Local) come from no Peer";
        return Some(("sources", why.into()));
    }
    if !matches.peers.is_empty() && !matches.advertisements.is_empty() {
        let why = "no route comes from a Peer and from an Advertisement";
        return Some(("peers", why.into()));
    }
    None
}

/// The earlier rule that decides everything that rule `index` could match, if there is one.
pub(super) fn hidden_by(rules: &[RuleSpec], index: usize) -> Option<usize> {
    (0..index).find(|earlier| {
        let first = &rules[*earlier];
        // A rule between the two may change what the later one looks at.
        let changed = rules[*earlier + 1..index]
            .iter()
            .any(|rule| rule.action == ActionSpec::Continue && rule.set != SetSpec::default());
        first.action != ActionSpec::Continue
            && (!changed || !looks_at_attributes(&first.matches))
            && covers(&first.matches, &rules[index].matches)
    })
}

fn looks_at_attributes(matches: &MatchSpec) -> bool {
    let MatchSpec {
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
        as_path_length,
    } = matches;
    !communities.is_empty()
        || !large_communities.is_empty()
        || !extended_communities.is_empty()
        || !as_path_contains.is_empty()
        || !neighbor_asns.is_empty()
        || !origin_asns.is_empty()
        || as_path_length.is_some()
}

/// Whether every route that `b` matches is matched by `a`.
fn covers(a: &MatchSpec, b: &MatchSpec) -> bool {
    let of_a = destinations(a);
    let destinations = destinations(b)
        .iter()
        .all(|inner| of_a.iter().any(|outer| outer.covers(inner)));
    let bounds = |matches: &MatchSpec| {
        let length = matches.as_path_length.unwrap_or_default();
        (
            length.min.map_or(0, |it| it.get()),
            length.max.map_or(u32::MAX, |it| it.get()),
        )
    };
    let ((a_min, a_max), (b_min, b_max)) = (bounds(a), bounds(b));
    destinations
        && a_min <= b_min
        && b_max <= a_max
        && any_of(&a.communities, &b.communities)
        && any_of(&a.large_communities, &b.large_communities)
        && any_of(&a.extended_communities, &b.extended_communities)
        && any_of(&a.as_path_contains, &b.as_path_contains)
        && any_of(&a.neighbor_asns, &b.neighbor_asns)
        && any_of(&a.origin_asns, &b.origin_asns)
        && any_of(&a.sources, &b.sources)
        && any_of(&a.advertisements, &b.advertisements)
        && any_of(&a.peers, &b.peers)
}

/// Whether "one of `b`" implies "one of `a`"; an empty list asks for nothing.
fn any_of<T: PartialEq>(a: &[T], b: &[T]) -> bool {
    a.is_empty() || !b.is_empty() && b.iter().all(|it| a.contains(it))
}

/// Destinations a match allows, its families taken into account.
struct Destinations {
    prefix: Prefix,
    min: u8,
    max: u8,
}

impl Destinations {
    fn covers(&self, other: &Destinations) -> bool {
        self.prefix.contains(other.prefix) && self.min <= other.min && other.max <= self.max
    }
}

fn destinations(matches: &MatchSpec) -> Vec<Destinations> {
    let allowed = |family| matches.families.is_empty() || matches.families.contains(&family);
    let all: Vec<Destinations> = match matches.prefixes.is_empty() {
        true => [("0.0.0.0/0", 32), ("::/0", 128)]
            .into_iter()
            .filter_map(|(prefix, max)| {
                let prefix = prefix.parse().ok()?;
                Some(Destinations {
                    prefix,
                    min: 0,
                    max,
                })
            })
            .collect(),
        false => matches
            .prefixes
            .iter()
            .map(|it| {
                let (min, max) = it.lengths();
                Destinations {
                    prefix: it.prefix,
                    min,
                    max,
                }
            })
            .collect(),
    };
    let family = |it: &Destinations| -> Family { it.prefix.family() };
    all.into_iter().filter(|it| allowed(family(it))).collect()
}

//! The decision process: which of several routes to one prefix is used. RFC 4271 §9.1.2.2, with
//! RFC 4456 §9 (reflection), RFC 5004 (the older route stays) and RFC 9494 §4.4 (long-lived stale
//! routes are the last choice).
//!
//! A route is compared with another step by step, and the first step that tells them apart decides;
//! every loser keeps that step. MED is the one step that does not order all routes (it compares
//! only those of one neighbour AS), so it is compared within each neighbour AS first: otherwise the
//! outcome would depend on the order in which routes are looked at.

use std::cmp::Ordering;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::config::{DecisionConfig, Source};
use crate::query::Step;

/// What the decision process asks of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Where it came from.
    pub(crate) source: Source,
    /// It is long-lived stale.
    pub(crate) long_lived_stale: bool,
    /// LOCAL_PREF.
    pub(crate) local_pref: u32,
    /// ASes in AS_PATH.
    pub(crate) path_length: u16,
    /// ORIGIN.
    pub(crate) origin: u8,
    /// MULTI_EXIT_DISC.
    pub(crate) med: u32,
    /// First AS of AS_PATH.
    pub(crate) neighbor_as: u32,
    /// Metric of the way to NEXT_HOP.
    pub(crate) igp_metric: u32,
    /// It is the best route now, before this decision.
    pub(crate) incumbent: bool,
    /// BGP Identifier of the peer, or ORIGINATOR_ID.
    pub(crate) router_id: u32,
    /// Clusters in CLUSTER_LIST.
    pub(crate) cluster_length: u16,
    /// The peer's address.
    pub(crate) peer_address: IpAddr,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The best.
    Best,
    /// As good as the best in all that matters to packets, and used together with it.
    Multipath,
    /// Worse than another one.
    Lost {
        /// By this step.
        step: Step,
        /// Than this one (its index).
        to: usize,
    },
}

/// The outcome, candidate by candidate.
pub(crate) type Places = SmallVec<[Place; 8]>;

/// Chooses among candidates; the outcome has their order. Empty for none.
pub(crate) fn decide(candidates: &[Candidate], config: &DecisionConfig) -> Places {
    let mut places: Places = SmallVec::from_elem(Place::Best, candidates.len());
    if candidates.len() < 2 {
        return places;
    }
    let best = if config.deterministic_med && !config.always_compare_med {
        by_neighbor_as(candidates, config, &mut places)
    } else {
        let all = 0..candidates.len();
        knock_out(candidates, all, config, Meds::of(config), &mut places)
    };
    if let Some(best) = best {
        choose_multipath(candidates, best, config, &mut places);
    }
    places
}

/// The winners of each neighbour AS against one another.
fn by_neighbor_as(
    candidates: &[Candidate],
    config: &DecisionConfig,
    places: &mut Places,
) -> Option<usize> {
    let mut winners: SmallVec<[usize; 8]> = SmallVec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let first = |other: &Candidate| other.neighbor_as == candidate.neighbor_as;
        if candidates.iter().position(first) != Some(index) {
            continue; // this neighbour AS was looked at already
        }
        let group = (index..candidates.len()).filter(|i| first(&candidates[*i]));
        winners.extend(knock_out(candidates, group, config, Meds::Compare, places));
    }
    knock_out(
        candidates,
        winners.into_iter(),
        config,
        Meds::Ignore,
        places,
    )
}

/// The best of `those`; each other's loss is noted.
fn knock_out(
    candidates: &[Candidate],
    mut those: impl Iterator<Item = usize>,
    config: &DecisionConfig,
    meds: Meds,
    places: &mut Places,
) -> Option<usize> {
    let mut best = those.next()?;
    let mut losers: SmallVec<[usize; 8]> = SmallVec::new();
    for challenger in those {
        let (order, _) = compare(&candidates[challenger], &candidates[best], config, meds);
        if order == Ordering::Less {
            losers.push(best);
            best = challenger;
        } else {
            losers.push(challenger);
        }
    }
    // The reason a person wants is against the winner, not against whom it met on the way. Where
    // MEDs are not comparable the winner may not be better than it in every pair; the step that
    // tells the two apart is still the answer.
    for loser in losers {
        let (_, step) = compare(&candidates[best], &candidates[loser], config, meds);
        places[loser] = Place::Lost { step, to: best };
    }
    Some(best)
}

fn choose_multipath(
    candidates: &[Candidate],
    best: usize,
    config: &DecisionConfig,
    places: &mut Places,
) {
    if config.max_paths <= 1 || candidates[best].source == Source::Local {
        return;
    }
    let meds = Meds::of(config);
    let mut equal: SmallVec<[usize; 8]> = (0..candidates.len())
        .filter(|&index| {
            let Place::Lost { step, .. } = places[index] else {
                return false;
            };
            let (_, against_best) = compare(&candidates[best], &candidates[index], config, meds);
            let same_as = candidates[index].neighbor_as == candidates[best].neighbor_as;
            // A route that lost to another of its own neighbour AS by MED is worse than a route
            // that is used, whatever it is against the best.
            step >= Step::Oldest
                && against_best >= Step::Oldest
                && (same_as || config.multipath_different_as)
        })
        .collect();
    equal.sort_by(|a, b| compare(&candidates[*a], &candidates[*b], config, meds).0);
    for index in equal.into_iter().take(usize::from(config.max_paths) - 1) {
        places[index] = Place::Multipath;
    }
}

/// Between which routes MED is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meds {
    /// All.
    Compare,
    /// Those of one neighbour AS.
    SameAs,
    /// None: that was done before.
    Ignore,
}

impl Meds {
    fn of(config: &DecisionConfig) -> Meds {
        if config.always_compare_med {
            Meds::Compare
        } else {
            Meds::SameAs
        }
    }
}

/// Which of two routes is better (`Less`: `a`), and the step that decided.
fn compare(a: &Candidate, b: &Candidate, config: &DecisionConfig, meds: Meds) -> (Ordering, Step) {
    let med = match meds {
        Meds::Ignore => Ordering::Equal,
        Meds::SameAs if a.neighbor_as != b.neighbor_as => Ordering::Equal,
        Meds::Compare | Meds::SameAs => a.med.cmp(&b.med),
    };
    let local = |c: &Candidate| c.source != Source::Local;
    let external = |c: &Candidate| c.source != Source::Ebgp;
    let both_external = a.source == Source::Ebgp && b.source == Source::Ebgp;
    // RFC 5004: an external route that is in use is not given up for an equal one.
    let oldest = if both_external && !config.compare_router_id {
        b.incumbent.cmp(&a.incumbent)
    } else {
        Ordering::Equal
    };
    let steps = [
        (local(a).cmp(&local(b)), Step::Local),
        (
            a.long_lived_stale.cmp(&b.long_lived_stale),
            Step::LongLivedStale,
        ),
        (b.local_pref.cmp(&a.local_pref), Step::LocalPreference),
        (a.path_length.cmp(&b.path_length), Step::AsPathLength),
        (a.origin.cmp(&b.origin), Step::Origin),
        (med, Step::Med),
        (external(a).cmp(&external(b)), Step::Ebgp),
        (a.igp_metric.cmp(&b.igp_metric), Step::IgpMetric),
        (oldest, Step::Oldest),
        (a.router_id.cmp(&b.router_id), Step::RouterId),
        (
            a.cluster_length.cmp(&b.cluster_length),
            Step::ClusterListLength,
        ),
        (a.peer_address.cmp(&b.peer_address), Step::PeerAddress),
    ];
    steps
        .into_iter()
        .find(|(order, _)| order.is_ne())
        .unwrap_or((Ordering::Equal, Step::PeerAddress))
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;

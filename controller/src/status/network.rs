//! The Node condition NetworkUnavailable: cleared when the node can serve, set when it cannot.
//!
//! Forwarding outlives us. So the condition is never touched for what we do not know: a speaker
//! without a connection, a controller that has just started, a lost session are no reasons.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam::pool::Family;
use ipnetwork::IpNetwork;

use super::facts::NodeFacts;
use super::reasons::Reason;
use crate::registry::SpeakerState;

/// The condition's type.
pub(crate) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// A node that could serve is given so long to come back before it is taken out.
pub(crate) const HOLD: Duration = Duration::from_secs(10);
/// Problems of a speaker with which nothing is forwarded anew.
const STOPPING: [&str; 1] = ["KernelUnavailable"];

/// Whether a node can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It has its subnets in force.
    Yes,
    /// It cannot, and why.
    No(String),
    /// Its speaker has not said anything to this controller.
    Unknown,
    /// No pool selects it: pods on it are not ours to serve.
    NotOurs,
}

/// Whether the node can serve, as far as anybody knows.
pub(crate) fn serves(facts: &NodeFacts, speaker: Option<&SpeakerState>) -> Serves {
    let static_families = facts.subnets.iter().filter(|held| held.pool.is_empty());
    let families: BTreeSet<Family> = static_families
        .map(|held| Family::of(held.subnet))
        .chain(facts.families.iter().copied())
        .collect();
    if !facts.exists || families.is_empty() {
        return Serves::NotOurs;
    }
    let has = |family, subnets: &[IpNetwork]| subnets.iter().any(|it| Family::of(*it) == family);
    let assigned = facts.subnets.iter().filter(|held| held.assigned);
    let assigned: Vec<IpNetwork> = assigned.map(|held| held.subnet).collect();
    for family in &families {
        if !has(*family, &assigned) {
            let why = facts
                .problems
                .first()
                .map_or(String::new(), |it| format!(": {it}"));
            return Serves::No(format!("it has no {family} subnet{why}"));
        }
    }
    let Some(report) = speaker.and_then(|speaker| speaker.report.as_deref()) else {
        return Serves::Unknown;
    };
    if report.version == 0 {
        let why = match report.refused.as_str() {
            "" => String::new(),
            refused => format!(": it refuses the newest: {refused}"),
        };
        return Serves::No(format!("its speaker has no configuration in force{why}"));
    }
    let reported = report.subnets.iter();
    let in_force: Vec<IpNetwork> = reported
        .filter_map(|subnet| subnet.prefix.parse().ok())
        .filter(|subnet| assigned.contains(subnet))
        .collect();
    for family in &families {
        if !has(*family, &in_force) {
            return Serves::No(format!(
                "its speaker does not have its {family} subnet in force yet"
            ));
        }
    }
    let mut problems = report.problems.iter();
    match problems.find(|problem| STOPPING.contains(&problem.reason.as_str())) {
        Some(problem) => Serves::No(format!("{}: {}", problem.reason, problem.message)),
        None => Serves::Yes,
    }
}

/// What the condition says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Pods on the node cannot be reached.
    pub(crate) unavailable: bool,
    /// One of ours, or whoever else wrote it.
    pub(crate) reason: String,
}

/// What the condition should say, where that is something else than it does.
///
/// `known` is what it says, if it is there; `failing_for` is how long the node has not been able to
/// serve.
pub(crate) fn change(
    known: Option<&Said>,
    serves: &Serves,
    failing_for: Duration,
) -> Option<(bool, Reason, String)> {
    let ready = known.map(|said| !said.unavailable);
    let not_ready = |why: &str| Some((true, Reason::RouteshareNotReady, why.to_owned()));
    match (serves, ready) {
        (Serves::Yes, None | Some(false)) => Some((
            false,
            Reason::RouteshareReady,
            "the node's subnets are in force".to_owned(),
        )),
        (Serves::No(why), None) => not_ready(why),
        (Serves::No(why), Some(true)) if failing_for >= HOLD => not_ready(why),
        // Nobody has said anything of a node that is new.
        (Serves::Unknown, None) => {
            not_ready("no speaker has told that it has its subnets in force")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::controller::v1 as pb;

    use super::*;
    use crate::status::facts::Held;

    fn facts(subnets: &[&str]) -> NodeFacts {
        NodeFacts {
            exists: true,
            families: BTreeSet::from([Family::Ipv4, Family::Ipv6]),
            subnets: subnets
                .iter()
                .map(|subnet| Held {
                    subnet: subnet.parse().unwrap(),
                    pool: "pods".to_owned(),
                    assigned: true,
                })
                .collect(),
            ..NodeFacts::default()
        }
    }

    fn speaker(version: u64, subnets: &[&str]) -> SpeakerState {
        let subnets = subnets.iter().map(|prefix| pb::SubnetUse {
            prefix: (*prefix).to_owned(),
            ..pb::SubnetUse::default()
        });
        SpeakerState {
            report: Some(Arc::new(pb::NodeReport {
                version,
                subnets: subnets.collect(),
                ..pb::NodeReport::default()
            })),
            ..SpeakerState::default()
        }
    }

    const BOTH: [&str; 2] = ["10.64.0.0/24", "fd00:64::/64"];

    fn no(serves: Serves) -> String {
        match serves {
            Serves::No(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_node_serves_once_its_speaker_has_a_subnet_of_each_family_in_force() {
        let both = facts(&BOTH);
        assert_eq!(serves(&both, None), Serves::Unknown);
        assert_eq!(
            serves(&both, Some(&SpeakerState::default())),
            Serves::Unknown
        );
        let why = no(serves(&both, Some(&speaker(0, &[]))));
        assert!(why.contains("no configuration in force"), "{why}");
        let why = no(serves(&both, Some(&speaker(3, &BOTH[..1]))));
        assert!(why.contains("IPv6"), "{why}");
        assert_eq!(serves(&both, Some(&speaker(3, &BOTH))), Serves::Yes);
        // A subnet that it was given before counts for nothing.
        let why = no(serves(
            &facts(&["10.64.1.0/24", BOTH[1]]),
            Some(&speaker(3, &BOTH)),
        ));
        assert!(why.contains("IPv4"), "{why}");
    }

    #[test]
    fn a_node_without_a_subnet_does_not_serve_and_one_that_no_pool_selects_is_not_ours() {
        let why = no(serves(&facts(&BOTH[..1]), Some(&speaker(3, &BOTH))));
        assert!(why.contains("no IPv6 subnet"), "{why}");
        let mut of_nobody = facts(&[]);
        of_nobody.families.clear();
        assert_eq!(serves(&of_nobody, Some(&speaker(1, &[]))), Serves::NotOurs);
        let mut gone = facts(&BOTH);
        gone.exists = false;
        assert_eq!(serves(&gone, Some(&speaker(3, &BOTH))), Serves::NotOurs);
    }

    #[test]
    fn a_kernel_that_cannot_be_written_stops_a_node_and_a_foreign_route_does_not() {
        let mut speaker = speaker(3, &BOTH);
        let mut report = speaker.report.as_deref().unwrap().clone();
        report.problems = vec![pb::Problem {
            reason: "ForeignRoute".to_owned(),
            ..pb::Problem::default()
        }];
        speaker.report = Some(Arc::new(report.clone()));
        assert_eq!(serves(&facts(&BOTH), Some(&speaker)), Serves::Yes);
        report.problems[0].reason = "KernelUnavailable".to_owned();
        speaker.report = Some(Arc::new(report));
        assert!(no(serves(&facts(&BOTH), Some(&speaker))).contains("KernelUnavailable"));
    }

    #[test]
    fn the_condition_follows_what_is_known_and_nothing_else() {
        let said = |unavailable| Said {
            unavailable,
            reason: "RouteCreated".to_owned(),
        };
        let no = Serves::No("no subnet".to_owned());
        let unavailable = |serves: &Serves, known: Option<bool>, secs| {
            let known = known.map(said);
            let change = change(known.as_ref(), serves, Duration::from_secs(secs));
            change.map(|(unavailable, ..)| unavailable)
        };
        for (serves, known, secs, expected) in [
            (&Serves::Yes, None, 0, Some(false)),
            (&Serves::Yes, Some(true), 0, Some(false)),
            (&Serves::Yes, Some(false), 0, None),
            (&no, None, 0, Some(true)),
            (&no, Some(false), 0, None),
            (&no, Some(false), 10, Some(true)),
            (&no, Some(true), 10, None),
            (&Serves::Unknown, None, 0, Some(true)),
            (&Serves::Unknown, Some(false), 100, None),
            (&Serves::Unknown, Some(true), 100, None),
            (&Serves::NotOurs, None, 100, None),
            (&Serves::NotOurs, Some(true), 100, None),
        ] {
            assert_eq!(
                unavailable(serves, known, secs),
                expected,
                "{serves:?} {known:?} {secs}"
            );
        }
    }
}

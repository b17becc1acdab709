//! The status of what users wrote: is it right and in force (`Accepted`), have the nodes done what it
//! says (`Programmed`), does it work (`Degraded`).

use crd::conditions::{self, Holds};
use crd::{Kind, SubnetCounts, WrittenStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::coverage::Object;
use super::reasons::{Reason, listed};
use super::tally::Tally;
use crate::source::kubernetes::{Outcome, Verdict};

/// What is said of an object besides what its source says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook<'a> {
    /// How the nodes fare with it.
    pub(crate) tally: Option<&'a Tally<'a>>,
    /// Of a Pool.
    pub(crate) subnets: Option<SubnetCounts>,
    /// Of a Peer: it asks for sessions that are down.
    pub(crate) is_shut_down: bool,
    /// Why the ledger cannot be written; empty when it can.
    pub(crate) ledger_error: &'a str,
}

/// A verdict for one condition.
type Said = (Holds, Reason, String);

/// What the object's status should be, which is `known` now.
pub(crate) fn status(
    object: &Object,
    verdict: &Verdict,
    known: &WrittenStatus,
    outlook: &Outlook<'_>,
    now: &Time,
) -> WrittenStatus {
    let mut status = WrittenStatus {
        observed_generation: Some(verdict.generation),
        conditions: known.conditions.clone(),
        ..WrittenStatus::default()
    };
    let in_force = match &verdict.outcome {
        Outcome::Accepted { .. } => Some(verdict.generation),
        Outcome::Refused { in_force, .. } => *in_force,
    };
    let mut say = |kind, (holds, reason, message): Said, generation| {
        let conditions = &mut status.conditions;
        conditions::set(
            conditions,
            kind,
            holds,
            reason.as_str(),
            &message,
            generation,
            now,
        );
    };
    let generation = Some(verdict.generation);
    say(conditions::ACCEPTED, accepted(&verdict.outcome), generation);
    let Some(in_force) = in_force else {
        let nothing = "nothing of the object is in force".to_owned();
        let said = (Holds::False, Reason::NotInForce, nothing.clone());
        say(conditions::PROGRAMMED, said, generation);
        let said = (Holds::Unknown, Reason::NotInForce, nothing);
        say(conditions::DEGRADED, said, generation);
        return status;
    };
    let empty = Tally::default();
    let tally = outlook.tally.unwrap_or(&empty);
    let before = conditions::get(&known.conditions, conditions::PROGRAMMED);
    let before = before.filter(|it| it.observed_generation == Some(in_force));
    let programmed = programmed(tally, before);
    say(conditions::PROGRAMMED, programmed, Some(in_force));
    let degraded = degraded(object, tally, outlook);
    say(conditions::DEGRADED, degraded, Some(in_force));
    status.nodes = Some(count(tally.nodes));
    match object.kind {
        Kind::Fabric => status.connected = Some(count(tally.nodes - tally.away.len())),
        Kind::Peer if tally.sessions > 0 => {
            status.sessions = format!("{}/{}", tally.established, tally.sessions);
        }
        Kind::Pool => status.subnets = outlook.subnets,
        _ => {}
    }
    status
}

fn accepted(outcome: &Outcome) -> Said {
    match outcome {
        Outcome::Accepted { warnings } if warnings.is_empty() => {
            (Holds::True, Reason::Valid, "in force".to_owned())
        }
        Outcome::Accepted { warnings } => {
            let text = format!("in force; probably not meant: {}", warnings.join("; "));
            (Holds::True, Reason::ValidWithWarnings, text)
        }
        Outcome::Refused { reasons, in_force } => {
            let why = reasons.join("; ");
            match in_force {
                Some(generation) => (
                    Holds::False,
                    Reason::LastGoodInForce,
                    format!("{why}. Generation {generation} of it stays in force"),
                ),
                None => (
                    Holds::False,
                    Reason::Refused,
                    format!("{why}. Nothing of it is in force"),
                ),
            }
        }
    }
}

/// `before` is what was said of the generation in force.
fn programmed(tally: &Tally<'_>, before: Option<&Condition>) -> Said {
    let of = tally.nodes;
    if of == 0 {
        let text = "it concerns no node".to_owned();
        return (Holds::True, Reason::NoNodes, text);
    }
    let done = of - tally.waiting.len();
    if done == of {
        let text = format!("in force on {of} of {of} nodes");
        return (Holds::True, Reason::AllNodes, text);
    }
    // After a change of leader, what was done is not undone because nobody has said so again yet.
    let was_done = before.filter(|it| it.reason == Reason::AllNodes.as_str());
    if let Some(before) = was_done.filter(|_| tally.unheard == tally.waiting.len()) {
        return (Holds::True, Reason::AllNodes, before.message.clone());
    }
    let mut text = format!("in force on {done} of {of} nodes");
    let (away, waiting): (Vec<&str>, Vec<&str>) = tally
        .waiting
        .iter()
        .partition(|node| tally.away.binary_search(node).is_ok());
    if let Some((node, why)) = tally.refusing.first() {
        let all = listed(tally.refusing.iter().map(|(node, _)| *node));
        text += &format!("; refused by {all} (on {node}: {why})");
        return (Holds::False, Reason::RefusedByNodes, text);
    }
    if !waiting.is_empty() {
        text += &format!("; waiting for {}", listed(waiting));
    }
    if !away.is_empty() {
        text += &format!("; not connected: {}", listed(away));
    }
    (Holds::False, Reason::WaitingForNodes, text)
}

fn degraded(object: &Object, tally: &Tally<'_>, outlook: &Outlook<'_>) -> Said {
    let mut said: Vec<(Reason, String)> = Vec::new();
    let mut on = |reason, what: &str, nodes: &[&str]| {
        if !nodes.is_empty() {
            let nodes = listed(nodes.iter().copied());
            said.push((reason, format!("{what}: {nodes}")));
        }
    };
    match object.kind {
        Kind::Fabric => {
            on(
                Reason::NotPlanned,
                "nodes without a configuration",
                &tally.not_planned,
            );
            on(
                Reason::NodesNotConnected,
                "speakers without a connection to the controller",
                &tally.away,
            );
            let what = "sessions between nodes not Established, on nodes";
            on(Reason::SessionsDown, what, &tally.down);
            if !outlook.ledger_error.is_empty() {
                let text = format!(
                    "nothing is given out until it can be written down: {}",
                    outlook.ledger_error
                );
                said.insert(0, (Reason::LedgerFailing, text));
            }
        }
        Kind::Pool => {
            on(
                Reason::PoolFull,
                "no subnet is left for nodes",
                &tally.without,
            );
            on(
                Reason::SubnetsOutside,
                "subnets that the pool no longer has are kept by nodes",
                &tally.outside,
            );
            if let Some(text) = nearly_full(outlook.subnets.as_ref())
                && tally.without.is_empty()
            {
                said.push((Reason::PoolNearlyFull, text));
            }
        }
        Kind::Peer => {
            on(
                Reason::NoKey,
                "keys cannot be used, on nodes",
                &tally.no_key,
            );
            let what = "more prefixes than maxPrefixes, or nearly so many, on nodes";
            on(Reason::PrefixLimit, what, &tally.over_limit);
            on(
                Reason::NotPlanned,
                "selected nodes that have no session",
                &tally.not_planned,
            );
            let what = format!(
                "{} of {} sessions not Established, on nodes",
                tally.down.len(),
                tally.sessions
            );
            on(Reason::SessionsDown, &what, &tally.down);
        }
        Kind::Advertisement => on(
            Reason::NoPeers,
            "no session that spec.peerSelector selects, on nodes",
            &tally.no_peers,
        ),
        _ => {}
    }
    if let Some((reason, _)) = said.first() {
        let reason = *reason;
        let texts: Vec<String> = said.into_iter().map(|(_, text)| text).collect();
        return (Holds::True, reason, texts.join("; "));
    }
    if object.kind == Kind::Peer {
        if outlook.is_shut_down {
            let text = "spec.shutdown keeps its sessions down".to_owned();
            return (Holds::False, Reason::ShutDown, text);
        }
        if !tally.unknown.is_empty() {
            let text = format!(
                "{} of {} sessions are Established; not heard of: {}",
                tally.established,
                tally.sessions,
                listed(tally.unknown.iter().copied())
            );
            return (Holds::Unknown, Reason::NotReported, text);
        }
        if tally.sessions > 0 {
            let (up, all) = (tally.established, tally.sessions);
            let text = format!("{up} of {all} sessions are Established");
            return (Holds::False, Reason::AsDesired, text);
        }
    }
    (Holds::False, Reason::AsDesired, "no problems".to_owned())
}

/// From so many percent on a pool is nearly full.
const NEARLY_FULL_PERCENT: i64 = 90;

fn nearly_full(subnets: Option<&SubnetCounts>) -> Option<String> {
    let SubnetCounts {
        total,
        used,
        waiting,
    } = *subnets?;
    let taken = used.saturating_add(waiting);
    let is_so = total > 0 && taken.saturating_mul(100) >= total.saturating_mul(NEARLY_FULL_PERCENT);
    is_so.then(|| {
        format!(
            "{used} of {total} subnets are used and {waiting} wait for their grace time to end; add \
             a prefix before none is left"
        )
    })
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

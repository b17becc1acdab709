//! What is worth an event: the difference between what was told and what is so now. What the objects
//! said when this controller began to lead counts as told.

use std::collections::BTreeMap;

use crd::conditions::{self, get};
use crd::{NodeState, WrittenStatus};

use super::facts::NodeFacts;
use super::node_state::ESTABLISHED;
use super::reasons::{Reason, listed};
use crate::source::kubernetes::{Outcome, Verdict};

/// What was told of a node.
#[derive(Debug, Default)]
pub(crate) struct ToldOfNode {
    /// Since when each session is Established, in seconds; none while it is not. Absent before the
    /// first report.
    sessions: Option<BTreeMap<String, Option<i64>>>,
    /// Why it refuses its configuration.
    refused: String,
    /// It has no subnet.
    without: bool,
}

/// Something that happened on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OfNode {
    /// Which kind of thing.
    pub(crate) reason: Reason,
    /// The session it happened to.
    pub(crate) peer: Option<String>,
    /// In words.
    pub(crate) note: String,
}

/// What is new of a node. `known` is what its object says; `reported`: its speaker has said something
/// to this controller.
pub(crate) fn of_node(
    told: &mut ToldOfNode,
    known: Option<&NodeState>,
    facts: &NodeFacts,
    state: &NodeState,
    reported: bool,
) -> Vec<OfNode> {
    let first = told.sessions.is_none();
    if first {
        told.sessions = Some(known.map(established).unwrap_or_default());
        if let Some(known) = known {
            told.refused.clone_from(&known.refused);
            let degraded = get(&known.conditions, conditions::DEGRADED);
            told.without = degraded.is_some_and(|it| it.reason == Reason::NoSubnet.as_str());
        }
    }
    let mut news = Vec::new();
    let mut say = |reason, peer: Option<&str>, note: String| {
        news.push(OfNode {
            reason,
            peer: peer.map(str::to_owned),
            note,
        });
    };
    let without = facts.exists && !facts.without.is_empty();
    if without && !told.without {
        let pools = facts.without.iter();
        let pools: Vec<String> = pools
            .map(|(pool, family)| format!("{pool} ({family})"))
            .collect();
        let pools = listed(pools.iter().map(String::as_str));
        let why = facts
            .problems
            .first()
            .map_or(String::new(), |it| format!(": {it}"));
        say(
            Reason::NoSubnet,
            None,
            format!("no subnet out of pool {pools}{why}"),
        );
    }
    told.without = without;
    if !reported {
        return news;
    }
    if !state.refused.is_empty() && state.refused != told.refused {
        let note = format!(
            "the speaker refuses version {} of its configuration, version {} stays in force: {}",
            state.version.desired, state.version.in_force, state.refused
        );
        say(Reason::ConfigurationRefused, None, note);
    }
    told.refused.clone_from(&state.refused);
    let before = told
        .sessions
        .replace(established(state))
        .unwrap_or_default();
    for session in &state.sessions {
        let name = session.peer.as_str();
        let was = before.get(name).copied().flatten();
        let at = format!("{name} ({})", session.address);
        let is = (session.state == ESTABLISHED).then(|| {
            session
                .since
                .as_ref()
                .map_or(0, |since| since.0.as_second())
        });
        let down = |what: &str| {
            let why = match session.last_error.as_str() {
                "" => String::new(),
                error => format!(": {error}"),
            };
            format!("session with {at} {what}{why}")
        };
        match (was, is) {
            (None, Some(_)) => say(
                Reason::SessionUp,
                Some(name),
                format!("session with {at} established"),
            ),
            (Some(_), None) => say(Reason::SessionDown, Some(name), down("lost")),
            (Some(was), Some(is)) if was != is => {
                let what = "lost, and established again";
                say(Reason::SessionDown, Some(name), down(what));
            }
            _ => {}
        }
    }
    news
}

fn established(state: &NodeState) -> BTreeMap<String, Option<i64>> {
    let sessions = state.sessions.iter().map(|session| {
        let since = session
            .since
            .as_ref()
            .map_or(0, |since| since.0.as_second());
        let up = session.state == ESTABLISHED;
        (session.peer.clone(), up.then_some(since))
    });
    sessions.collect()
}

/// What was told of an object.
#[derive(Debug)]
pub(crate) struct ToldOfObject {
    /// Whether which generation was accepted.
    accepted: Option<(bool, Option<i64>)>,
    /// Why it was degraded.
    degraded: String,
}

impl ToldOfObject {
    /// What its status said.
    pub(crate) fn new(status: &WrittenStatus) -> ToldOfObject {
        let accepted = get(&status.conditions, conditions::ACCEPTED);
        let degraded = get(&status.conditions, conditions::DEGRADED);
        ToldOfObject {
            accepted: accepted.map(|it| (it.status == "True", it.observed_generation)),
            degraded: degraded.map_or(String::new(), |it| it.reason.clone()),
        }
    }
}

/// What is new of an object whose status should be `desired`.
pub(crate) fn of_object(
    told: &mut ToldOfObject,
    verdict: &Verdict,
    desired: &WrittenStatus,
) -> Vec<(Reason, String)> {
    let mut news = Vec::new();
    let before = told.accepted;
    match &verdict.outcome {
        Outcome::Refused { reasons, in_force } => {
            let now = (false, Some(verdict.generation));
            if before != Some(now) {
                let (reason, stays) = match in_force {
                    Some(generation) => (
                        Reason::LastGoodInForce,
                        format!("generation {generation} stays in force"),
                    ),
                    None => (Reason::Refused, "nothing of it is in force".to_owned()),
                };
                let note = format!(
                    "generation {} is refused, {stays}: {}",
                    verdict.generation,
                    reasons.join("; ")
                );
                news.push((reason, note));
            }
            told.accepted = Some(now);
        }
        Outcome::Accepted { .. } => {
            if before.is_some_and(|(accepted, _)| !accepted) {
                let note = format!("generation {} is in force", verdict.generation);
                news.push((Reason::Accepted, note));
            }
            told.accepted = Some((true, Some(verdict.generation)));
        }
    }
    if let Some(degraded) = get(&desired.conditions, conditions::DEGRADED) {
        for reason in [Reason::PoolFull, Reason::PoolNearlyFull] {
            let is_so = degraded.reason == reason.as_str();
            if is_so && told.degraded != reason.as_str() {
                news.push((reason, degraded.message.clone()));
            }
        }
        told.degraded.clone_from(&degraded.reason);
    }
    news
}

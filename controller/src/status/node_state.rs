//! What a NodeStatus says: from what the controller knows of the node, what its speaker said, and what
//! the object says already. The last counts for what nobody else knows: after a change of leader,
//! until the speaker is back.

use std::time::Duration;

use crd::conditions::{self, Holds};
use crd::{NodeState, Problem, SessionState, SubnetState, Version};
use ipam::Millis;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::controller::v1 as pb;

use super::facts::NodeFacts;
use super::reasons::{Reason, listed};
use crate::registry::{SpeakerState, size_of};

/// A speaker that comes back within this was not away.
pub(crate) const AWAY_AFTER: Duration = Duration::from_secs(15);
/// A node that takes over a configuration within this was not behind.
pub(crate) const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// Sessions and problems beyond these are counted and not listed.
const MOST_SESSIONS: usize = 1000;
const MOST_PROBLEMS: usize = 64;
/// Longest texts.
const LONGEST_ERROR: usize = 1024;
const LONGEST_PROBLEM: usize = 4096;
/// The state of a session that is up.
pub(crate) const ESTABLISHED: &str = "Established";

/// What a state is made of.
pub(crate) struct Sources<'a> {
    /// The controller.
    pub(crate) facts: &'a NodeFacts,
    /// The speaker.
    pub(crate) speaker: Option<&'a SpeakerState>,
    /// The object.
    pub(crate) known: Option<&'a NodeState>,
    /// Speakers have had the time to come to this controller.
    pub(crate) settled: bool,
    /// For how long it is known that the speaker does not have the newest configuration.
    pub(crate) behind: Duration,
    /// The wall clock.
    pub(crate) now: Millis,
}

/// What the object should say, but for `observedAt`.
pub(crate) fn node_state(sources: &Sources<'_>) -> NodeState {
    let empty = NodeState::default();
    let known = sources.known.unwrap_or(&empty);
    let facts = sources.facts;
    let config = facts.config.as_deref();
    let mut state = NodeState {
        addresses: facts.addresses.clone(),
        asn: config.map_or(known.asn, |config| Some(config.asn.into())),
        router_id: config.map_or(known.router_id.clone(), |config| config.router_id.clone()),
        conditions: known.conditions.clone(),
        ..NodeState::default()
    };
    (state.connected_since, state.away_since) = connection(sources, known);
    match sources
        .speaker
        .and_then(|speaker| speaker.report.as_deref())
    {
        Some(report) => take_over(&mut state, report, known),
        None => {
            state.software.clone_from(&known.software);
            state.version.in_force = known.version.in_force;
            state.refused.clone_from(&known.refused);
            state.sessions.clone_from(&known.sessions);
            state
                .sessions_established
                .clone_from(&known.sessions_established);
            let of_speaker = known.problems.iter();
            let of_speaker =
                of_speaker.filter(|problem| problem.reason != Reason::NotPlanned.as_str());
            state.problems = of_speaker.cloned().collect();
        }
    }
    state.version.desired = config.map_or(0, |config| integer(config.version));
    state.subnets = subnets(sources, known);
    let of_controller = facts.problems.iter().map(|message| Problem {
        reason: Reason::NotPlanned.as_str().to_owned(),
        message: cut(message, LONGEST_PROBLEM),
        ..Problem::default()
    });
    state.problems.splice(0..0, of_controller);
    state.problems.truncate(MOST_PROBLEMS);
    say(&mut state, sources);
    state
}

/// Since when it is connected, or away.
fn connection(sources: &Sources<'_>, known: &NodeState) -> (Option<Time>, Option<Time>) {
    let speaker = sources.speaker;
    if let Some(since) = speaker.and_then(|speaker| speaker.connected_since) {
        // Connected to whichever controller: a change of leader is none of the node's doing.
        let before = known.connected_since.clone();
        return (before.or_else(|| time(since)), None);
    }
    let away_since = speaker.and_then(|speaker| speaker.away_since);
    let patience = u64::try_from(AWAY_AFTER.as_millis()).unwrap_or(u64::MAX);
    let still = match away_since {
        Some(since) => sources.now.saturating_sub(since) < patience,
        None => !sources.settled,
    };
    if still || known.away_since.is_some() {
        return (known.connected_since.clone(), known.away_since.clone());
    }
    match known.connected_since {
        Some(_) => (None, time(away_since.unwrap_or(sources.now))),
        None => (None, None), // it never was
    }
}

/// What the speaker says.
fn take_over(state: &mut NodeState, report: &pb::NodeReport, known: &NodeState) {
    state.software.clone_from(&report.software);
    state.version.in_force = integer(report.version);
    state.refused = cut(&report.refused, LONGEST_PROBLEM);
    let up = report.sessions.iter().filter(|it| it.state == ESTABLISHED);
    if !report.sessions.is_empty() {
        state.sessions_established = format!("{}/{}", up.count(), report.sessions.len());
    }
    let sessions = report.sessions.iter().take(MOST_SESSIONS);
    state.sessions = sessions.map(|report| session(report, known)).collect();
    let problems = report.problems.iter().map(|problem| Problem {
        reason: problem.reason.clone(),
        message: cut(&problem.message, LONGEST_PROBLEM),
        peer: problem.peer.clone(),
    });
    state.problems = problems.collect();
}

fn session(report: &pb::SessionReport, known: &NodeState) -> SessionState {
    let mut since = u64::try_from(report.since_ms).ok().and_then(time);
    let mut before = known.sessions.iter();
    // The speaker makes this time of two clocks, which do not go alike.
    let before = before.find(|it| it.peer == report.peer && it.state == report.state);
    if let (Some(at), Some(before)) = (&since, before.and_then(|it| it.since.as_ref()))
        && at.0.as_second().abs_diff(before.0.as_second()) <= 2
    {
        since = Some(before.clone());
    }
    SessionState {
        peer: report.peer.clone(),
        address: report.address.clone(),
        remote_asn: report.remote_asn.into(),
        state: report.state.clone(),
        since,
        last_error: cut(&report.last_error, LONGEST_ERROR),
        prefixes_received: integer(report.prefixes_received),
        prefixes_accepted: integer(report.prefixes_accepted),
        prefixes_advertised: integer(report.prefixes_advertised),
    }
}

/// What the node holds, and how much of that is taken.
fn subnets(sources: &Sources<'_>, known: &NodeState) -> Vec<SubnetState> {
    let report = sources.speaker.and_then(|speaker| speaker.report.as_ref());
    let held = sources.facts.subnets.iter().map(|held| {
        let prefix = held.subnet.to_string();
        let used = match report {
            Some(report) => {
                let mut uses = report.subnets.iter();
                let of_this = uses.find(|it| it.prefix == prefix);
                of_this.map_or(0, |it| integer(it.used))
            }
            None => {
                let mut uses = known.subnets.iter();
                uses.find(|it| it.prefix == prefix).map_or(0, |it| it.used)
            }
        };
        SubnetState {
            prefix,
            pool: held.pool.clone(),
            used,
            size: i64::try_from(size_of(held.subnet)).unwrap_or(i64::MAX),
        }
    });
    held.collect()
}

/// The conditions.
fn say(state: &mut NodeState, sources: &Sources<'_>) {
    let Some(now) = time(sources.now) else { return };
    let connected = match (&state.connected_since, &state.away_since) {
        (Some(_), _) => (Holds::True, Reason::Connected, "the speaker is connected"),
        (None, Some(_)) => (
            Holds::False,
            Reason::NotConnected,
            "the speaker has no connection to the controller; what it had in force stays so",
        ),
        (None, None) => (
            Holds::False,
            Reason::NotConnected,
            "no speaker has connected for this node yet",
        ),
    };
    let programmed = programmed(state, sources);
    let degraded = degraded(state, sources.facts);
    let mut set = |kind, (holds, reason, message): (Holds, Reason, &str)| {
        let conditions = &mut state.conditions;
        conditions::set(
            conditions,
            kind,
            holds,
            reason.as_str(),
            message,
            None,
            &now,
        );
    };
    set(conditions::CONNECTED, connected);
    if let Some((holds, reason, message)) = programmed {
        set(conditions::PROGRAMMED, (holds, reason, &message));
    }
    set(
        conditions::DEGRADED,
        (degraded.0, degraded.1, degraded.2.as_str()),
    );
}

/// None while it is too early to say anything else than before.
fn programmed(state: &NodeState, sources: &Sources<'_>) -> Option<(Holds, Reason, String)> {
    let Version { in_force, desired } = state.version;
    if desired == 0 {
        let why = sources.facts.problems.join("; ");
        let text = match (sources.facts.exists, why.as_str()) {
            (false, _) => "the node is gone; its subnets wait for their grace time".to_owned(),
            (true, "") => "the controller has no configuration for the node".to_owned(),
            (true, why) => why.to_owned(),
        };
        return Some((Holds::False, Reason::NoConfiguration, text));
    }
    if in_force == desired {
        let text = "the newest configuration is in force".to_owned();
        return Some((Holds::True, Reason::NewestInForce, text));
    }
    if !state.refused.is_empty() {
        let text = format!("the speaker refuses it: {}", state.refused);
        return Some((Holds::False, Reason::ConfigurationRefused, text));
    }
    let before = conditions::get(&state.conditions, conditions::PROGRAMMED);
    if before.is_some() && sources.behind < BEHIND_AFTER {
        return None;
    }
    let text = match (in_force, state.connected_since.is_some()) {
        (0, true) => "the speaker has nothing in force yet",
        (0, false) => "no speaker has told that it has anything in force",
        (_, true) => "an older configuration is in force",
        (_, false) => "the speaker has not told that the newest configuration is in force",
    };
    Some((Holds::False, Reason::Waiting, text.to_owned()))
}

fn degraded(state: &NodeState, facts: &NodeFacts) -> (Holds, Reason, String) {
    let down: Vec<&str> = state
        .sessions
        .iter()
        .filter(|it| it.state != ESTABLISHED && !facts.is_shut_down(&it.peer))
        .map(|it| it.peer.as_str())
        .collect();
    let mut said = Vec::new();
    if !down.is_empty() {
        let of = state.sessions.len();
        said.push(format!(
            "{} of {of} sessions not Established: {}",
            down.len(),
            listed(down.iter().copied())
        ));
    }
    if let Some(problem) = state.problems.first() {
        let more = match state.problems.len() {
            1 => String::new(),
            count => format!(" (and {} more in status.problems)", count - 1),
        };
        said.push(format!("{}: {}{more}", problem.reason, problem.message));
    }
    let reason = match (facts.exists && !facts.without.is_empty(), down.is_empty()) {
        (true, _) => Reason::NoSubnet,
        (false, false) => Reason::SessionsDown,
        (false, true) if said.is_empty() => {
            let text = "no problems".to_owned();
            return (Holds::False, Reason::AsDesired, text);
        }
        (false, true) => Reason::Problems,
    };
    (Holds::True, reason, said.join("; "))
}

/// What an object lacks of what it should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Nothing.
    None,
    /// Only which version of its configuration the node has and should have. That it does not have what
    /// it should have is a condition, and news.
    Version,
    /// Numbers and texts that change all the time.
    Numbers,
    /// Something that a person would want to know now.
    News,
}

/// What `known` lacks of `desired`.
pub(crate) fn difference(known: Option<&NodeState>, desired: &NodeState) -> Difference {
    let Some(known) = known else {
        return Difference::News;
    };
    let same = |state: &NodeState| NodeState {
        observed_at: None,
        version: Version::default(),
        ..state.clone()
    };
    if same(known) == same(desired) {
        match known.version == desired.version {
            true => Difference::None,
            false => Difference::Version,
        }
    } else if news(known) == news(desired) {
        Difference::Numbers
    } else {
        Difference::News
    }
}

/// What is left without numbers and texts.
fn news(state: &NodeState) -> NodeState {
    let mut state = state.clone();
    state.observed_at = None;
    state.version = Version::default();
    for session in &mut state.sessions {
        session.prefixes_received = 0;
        session.prefixes_accepted = 0;
        session.prefixes_advertised = 0;
        session.last_error.clear();
        // One that is down goes to and fro between the states that lead to Established.
        if session.state != ESTABLISHED {
            session.state.clear();
            session.since = None;
        }
    }
    for subnet in &mut state.subnets {
        subnet.used = 0;
    }
    for problem in &mut state.problems {
        problem.message.clear();
    }
    for condition in &mut state.conditions {
        condition.message.clear();
        condition.observed_generation = None;
    }
    state
}

/// To the second, as the API keeps it: a time that was written and read is the same.
pub(crate) fn time(at: Millis) -> Option<Time> {
    let seconds = i64::try_from(at / 1000).ok()?;
    crd::time(seconds.saturating_mul(1000))
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// At most so many octets of a text.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub("…".len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

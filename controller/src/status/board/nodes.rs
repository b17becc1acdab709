//! One node: its NodeStatus, its condition NetworkUnavailable, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use crd::conditions::{self, get};
use crd::{Kind, NodeState};
use ipam::Millis;
use tokio::time::Instant;

use super::{Board, GATHER, Key, Known};
use crate::registry::SpeakerState;
use crate::source::kubernetes::KubeNode;
use crate::status::coverage::Object;
use crate::status::events::About;
use crate::status::network::{self, NETWORK_UNAVAILABLE, Said, Serves};
use crate::status::news::{self, OfNode, ToldOfNode};
use crate::status::node_state::{
    self, AWAY_AFTER, BEHIND_AFTER, Difference, difference, node_state,
};
use crate::status::pace::Bucket;
use crate::status::queue::Urgency;
use crate::status::reasons::Reason;

/// Writes of one NodeStatus, whatever happens on the node: below one a minute in the long run.
const OF_NODE: Bucket = Bucket::new(5, Duration::from_secs(90));
/// Numbers of a node are written at most so often,
const NUMBERS: Duration = Duration::from_secs(75);
/// and one node's at a time in each of these.
const NUMBERS_OF_ALL: Duration = Duration::from_millis(100);
/// The same where nothing but the version of the configuration is another one: a change of what users
/// wrote is one of every node's version.
const VERSIONS_OF_ALL: Duration = Duration::from_secs(1);

/// What is kept of a node beside what its NodeStatus should say.
#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) known: Option<Known>,
    pub(super) bucket: Bucket,
    /// When its NodeStatus was written last, or when we heard that it was.
    pub(super) written_at: Option<Instant>,
    /// Since when its speaker has not had the newest configuration.
    behind_since: Option<Instant>,
    /// Since when it cannot serve.
    failing_since: Option<Instant>,
    /// What NetworkUnavailable should say, where it says something else.
    pub(super) network: Option<(bool, Reason, String)>,
    /// What we wrote of it, until the watch shows another version of the Node.
    pub(super) network_written: Option<(Arc<KubeNode>, Said)>,
    told: ToldOfNode,
}

impl NodeRecord {
    pub(super) fn new() -> NodeRecord {
        NodeRecord {
            known: None,
            bucket: OF_NODE,
            written_at: None,
            behind_since: None,
            failing_since: None,
            network: None,
            network_written: None,
            told: ToldOfNode::default(),
        }
    }

    /// What the Node's condition says.
    fn said(&self, node: &Arc<KubeNode>) -> Option<Said> {
        if let Some((of, said)) = &self.network_written
            && of.status.conditions == node.status.conditions
            && of.metadata.uid == node.metadata.uid
        {
            return Some(said.clone());
        }
        let mut conditions = node.status.conditions.iter();
        let condition = conditions.find(|it| it.kind == NETWORK_UNAVAILABLE)?;
        Some(Said {
            unavailable: condition.status != "False",
            reason: condition.reason.clone(),
        })
    }
}

impl Board {
    /// The API server has this NodeStatus, or none.
    pub(crate) fn has(&mut self, node: &str, known: Option<Known>, now: Instant) {
        let record = self.record(node);
        let old = record.known.as_ref().map_or(0, |known| known.version);
        // The watch repeats what we wrote, some time later.
        if known.as_ref().is_none_or(|known| known.version > old) {
            // Whoever wrote it; a new leader has no hurry with numbers.
            record.written_at = known.as_ref().map(|_| now);
            record.known = known;
            self.again.insert((now, node.to_owned()));
        }
    }

    /// The names of all NodeStatus objects that the API server has.
    pub(crate) fn has_of(&self) -> Vec<String> {
        let known = self.nodes.iter().filter(|(_, it)| it.known.is_some());
        known.map(|(node, _)| node.clone()).collect()
    }

    pub(super) fn record(&mut self, node: &str) -> &mut NodeRecord {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), NodeRecord::new());
        }
        self.nodes.get_mut(node).expect("it was just made")
    }

    pub(super) fn look_at_node(
        &mut self,
        node: &str,
        speaker: Option<&SpeakerState>,
        now: Instant,
        wall: Millis,
    ) {
        let numbers_due = self.due(node, NUMBERS_OF_ALL, now);
        let version_due = self.due(node, VERSIONS_OF_ALL, now);
        self.record(node);
        let (Some(record), facts) = (self.nodes.get_mut(node), self.facts.get(node)) else {
            return;
        };
        let Some(facts) = facts.filter(|facts| facts.has_status()) else {
            self.states.remove(node);
            self.queue.remove(&Key::Network(node.to_owned()));
            let key = Key::NodeStatus(node.to_owned());
            if record.known.is_some() {
                self.queue.set(key, Urgency::Normal, now);
            } else {
                self.queue.remove(&key);
                self.nodes.remove(node);
            }
            return;
        };
        let known = record.known.as_ref().map(|known| &known.state);
        let report = speaker.and_then(|speaker| speaker.report.as_deref());
        let in_force = match (report, known) {
            (Some(report), _) => report.version,
            (None, Some(known)) => u64::try_from(known.version.in_force).unwrap_or(0),
            (None, None) => 0,
        };
        let desired = facts.config.as_ref().map_or(0, |config| config.version);
        // The object may be older than what its speaker told the leader before us. Had the node not had
        // what it should have, the object would say so.
        let is_unheard = report.is_none() && !self.has_settled && known.is_some_and(was_programmed);
        let is_behind = desired > 0 && in_force != desired && !is_unheard;
        let behind = since(&mut record.behind_since, is_behind, now);
        let state = node_state(&node_state::Sources {
            facts,
            speaker,
            known,
            settled: self.has_settled,
            behind,
            now: wall,
        });
        self.coverage.in_force(node, in_force, is_unheard);
        let key = Key::NodeStatus(node.to_owned());
        match difference(known, &state) {
            Difference::None => self.queue.remove(&key),
            Difference::Version => self.queue.set(key, Urgency::Low, version_due),
            Difference::Numbers => self.queue.set(key, Urgency::Low, numbers_due),
            Difference::News => {
                let due = record.bucket.next(now).max(now + GATHER);
                self.queue.set(key, Urgency::Normal, due);
            }
        }
        let told = news::of_node(&mut record.told, known, facts, &state, report.is_some());
        let serves = network::serves(facts, speaker);
        let fails = matches!(serves, Serves::No(_));
        let failing = since(&mut record.failing_since, fails, now);
        let key = Key::Network(node.to_owned());
        record.network = self.kube_nodes.get(node).and_then(|kube_node| {
            network::change(record.said(kube_node).as_ref(), &serves, failing)
        });
        match &record.network {
            Some(_) => self.queue.set(key, Urgency::High, now),
            None => self.queue.remove(&key),
        }
        let mut wait = |rest: Duration| {
            if !rest.is_zero() {
                self.again.insert((now + rest, node.to_owned()));
            }
        };
        if is_behind {
            wait(BEHIND_AFTER.saturating_sub(behind));
        }
        if fails {
            wait(network::HOLD.saturating_sub(failing));
        }
        if let Some(since) = speaker.and_then(|it| it.away_since) {
            let gone = Duration::from_millis(wall.saturating_sub(since));
            wait(AWAY_AFTER.saturating_sub(gone));
        }
        self.states.insert(node.to_owned(), state);
        for news in told {
            self.tell_of_node(node, news, now);
        }
    }

    /// When numbers of a node may be written: those of all nodes are spread over a time that grows with
    /// their number, by `of_one` for each, and each node has its place in it.
    fn due(&self, node: &str, of_one: Duration, now: Instant) -> Instant {
        let count = u32::try_from(self.facts.len()).unwrap_or(u32::MAX);
        let of_all = of_one.saturating_mul(count);
        let last = self.nodes.get(node).and_then(|record| record.written_at);
        let earliest = last.map_or(now, |last| last + NUMBERS.max(of_all));
        earliest.max(now) + of_all.mul_f64(place(node))
    }

    fn tell_of_node(&mut self, node: &str, news: OfNode, now: Instant) {
        let OfNode { reason, peer, note } = news;
        let of = peer.and_then(|peer| {
            let resources = &self.loaded.as_ref()?.resources;
            Some(match resources.peers.contains_key(&peer) {
                true => Object::new(Kind::Peer, &peer),
                false => Object::new(Kind::Fabric, &resources.fabric.metadata.name),
            })
        });
        if let Some(of) = &of {
            let (key, due) = self.events.session(of, node, reason, now);
            self.queue.set(Key::Event(key), Urgency::Normal, due);
        }
        self.tell(About::Node(node.to_owned()), reason, of, note, now);
    }
}

/// Whether the node had the newest configuration in force, as the object says.
fn was_programmed(known: &NodeState) -> bool {
    let programmed = get(&known.conditions, conditions::PROGRAMMED);
    programmed.is_some_and(|it| it.status == "True")
}

/// For how long something has been so.
fn since(at: &mut Option<Instant>, is_so: bool, now: Instant) -> Duration {
    match is_so {
        true => now.duration_since(*at.get_or_insert(now)),
        false => {
            *at = None;
            Duration::ZERO
        }
    }
}

/// A place between 0 and 1 that is the node's for ever.
fn place(node: &str) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
    for byte in node.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Names that differ in their last letter only differ little in the upper bits.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

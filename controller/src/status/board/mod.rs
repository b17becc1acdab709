//! Everything that is to be written, computed from what the controller knows, what the speakers say and
//! what the API server has. Pure: it is told the time and what came of each write. `status/mod.rs`
//! feeds it and carries its writes out.
//!
//! `nodes` looks at a node, `objects` at what users wrote, `writes` says what is written and takes in
//! what came of it.

mod nodes;
mod objects;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Resources;
use crd::{NodeState, SubnetCounts};
use ipam::Millis;
use tokio::time::Instant;

use self::nodes::NodeRecord;
use self::objects::ObjectRecord;
use super::coverage::{Coverage, Object};
use super::events::{About, EventKey, Events};
use super::facts::{NodeFacts, facts};
use super::queue::{Queue, Urgency};
use super::reasons::Reason;
use crate::reconcile::View;
use crate::registry::Registry;
use crate::source::Loaded;
use crate::source::kubernetes::{Nodes, Verdicts};

pub(crate) use self::writes::{Answer, Outcome, Write};

/// Speakers come to a new leader within this; before that nobody is missed.
const SETTLED: Duration = Duration::from_secs(60);

/// Changes of an object within this are one write: a node that comes has a stream, a configuration and its
/// sessions one after the other.
const GATHER: Duration = Duration::from_millis(500);

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The condition NetworkUnavailable of a Node.
    Network(String),
    /// The status of an object that a user wrote.
    Object(Object),
    /// A NodeStatus.
    NodeStatus(String),
    /// An event.
    Event(EventKey),
}

/// A NodeStatus as the API server has it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) state: NodeState,
}

/// Where what changes can be seen.
pub(crate) struct Sources<'a> {
    pub(crate) view: &'a View,
    pub(crate) verdicts: &'a Verdicts,
    pub(crate) nodes: &'a Arc<Nodes>,
    pub(crate) registry: &'a Registry,
    /// Any but the last is another than at the last look.
    pub(crate) is_new: bool,
}

/// All of it.
pub(crate) struct Board {
    started: Instant,
    has_settled: bool,
    loaded: Option<Arc<Loaded>>,
    facts: BTreeMap<String, NodeFacts>,
    pools: BTreeMap<String, SubnetCounts>,
    ledger_error: String,
    verdicts: Verdicts,
    kube_nodes: Arc<Nodes>,
    coverage: Coverage,
    /// What the NodeStatus objects should say.
    states: BTreeMap<String, NodeState>,
    nodes: BTreeMap<String, NodeRecord>,
    objects: BTreeMap<Object, ObjectRecord>,
    pub(crate) events: Events,
    pub(crate) queue: Queue<Key>,
    /// Nodes to be looked at again, and when.
    again: BTreeSet<(Instant, String)>,
    /// Objects have to be looked at again.
    stale: bool,
}

impl Board {
    /// One that knows nothing yet.
    pub(crate) fn new(now: Instant) -> Board {
        Board {
            started: now,
            has_settled: false,
            loaded: None,
            facts: BTreeMap::new(),
            pools: BTreeMap::new(),
            ledger_error: String::new(),
            verdicts: Verdicts::default(),
            kube_nodes: Arc::default(),
            coverage: Coverage::default(),
            states: BTreeMap::new(),
            nodes: BTreeMap::new(),
            objects: BTreeMap::new(),
            events: Events::new(),
            queue: Queue::new(),
            again: BTreeSet::new(),
            stale: false,
        }
    }

    /// When [`Board::look`] should be called although nothing has changed.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        if self.stale {
            return Some(self.started); // long due
        }
        let again = self.again.first().map(|(at, _)| *at);
        let settling = (!self.has_settled).then(|| self.started + SETTLED);
        again.into_iter().chain(settling).min()
    }

    /// Takes in what has changed. `touched` are the nodes whose speakers did something.
    pub(crate) fn look(
        &mut self,
        sources: &Sources<'_>,
        mut touched: BTreeSet<String>,
        now: Instant,
        wall: Millis,
    ) {
        let Some(loaded) = sources.view.loaded.clone() else {
            return; // nothing is known yet, so nothing can be said
        };
        while let Some((at, _)) = self.again.first()
            && *at <= now
        {
            touched.extend(self.again.pop_first().map(|(_, node)| node));
        }
        let settles = !self.has_settled && now >= self.started + SETTLED;
        self.has_settled |= settles;
        if settles {
            touched.extend(self.facts.keys().cloned());
        }
        if sources.is_new {
            self.take_over(sources, &loaded.resources, &mut touched);
            self.loaded = Some(loaded);
        }
        self.stale |= sources.is_new || !touched.is_empty();
        for node in touched {
            let speaker = sources.registry.state(&node);
            self.look_at_node(&node, speaker.as_ref(), now, wall);
        }
        if std::mem::take(&mut self.stale) {
            self.look_at_objects(now, wall);
        }
    }

    /// Nodes of which something is another thing than before are `touched`.
    fn take_over(
        &mut self,
        sources: &Sources<'_>,
        resources: &Resources,
        touched: &mut BTreeSet<String>,
    ) {
        let view = sources.view;
        let before = std::mem::replace(&mut self.facts, facts(view));
        for (node, facts) in &self.facts {
            if before.get(node).is_none_or(|before| !before.is_same(facts)) {
                touched.insert(node.clone());
            }
        }
        // Those that are gone, and NodeStatus objects that never had a node.
        let known = before.keys().chain(self.nodes.keys());
        let gone = known.filter(|node| !self.facts.contains_key(*node));
        touched.extend(gone.cloned());
        if !Arc::ptr_eq(&self.kube_nodes, sources.nodes) {
            let before = std::mem::replace(&mut self.kube_nodes, Arc::clone(sources.nodes));
            for (name, node) in self.kube_nodes.iter() {
                // A kubelet's heartbeat makes another version of it and nothing else.
                let same = before.get(name).is_some_and(|before| {
                    before.metadata.uid == node.metadata.uid
                        && before.status.conditions == node.status.conditions
                });
                if !same {
                    touched.insert(name.clone());
                }
            }
        }
        self.coverage.update(&view.configs, resources);
        let pools = view.pools.iter().map(|(pool, uses)| {
            let sum = |count: fn(&ipam::pool::Use) -> u64| {
                let sum = uses.iter().map(count).fold(0, u64::saturating_add);
                i64::try_from(sum).unwrap_or(i64::MAX)
            };
            let counts = SubnetCounts {
                total: sum(|it| it.total),
                used: sum(|it| it.used),
                waiting: sum(|it| it.waiting),
            };
            (pool.clone(), counts)
        });
        self.pools = pools.collect();
        self.ledger_error.clone_from(&view.store_error);
        self.verdicts = Arc::clone(sources.verdicts);
    }

    /// Something happened that is to be told at `about`.
    fn tell(
        &mut self,
        about: About,
        reason: Reason,
        related: Option<Object>,
        note: String,
        now: Instant,
    ) {
        let key = EventKey {
            about,
            reason,
            related,
        };
        if let Some(due) = self.events.happened(key.clone(), note, now) {
            self.queue.set(Key::Event(key), Urgency::Normal, due);
        }
    }
}

#[cfg(test)]
mod tests;

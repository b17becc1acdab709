//! What is written when a thing's turn has come, and what came of it.

use std::sync::Arc;

use crd::{NodeState, WrittenStatus};
use ipam::Millis;
use tokio::time::Instant;

use super::{Board, Key, Known};
use crate::status::coverage::Object;
use crate::status::events::{About, EventKey, Telling};
use crate::status::network::Said;
use crate::status::node_state;
use crate::status::queue::{Failure, Urgency};
use crate::status::reasons::Reason;

/// A write to be carried out.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Network {
        node: String,
        uid: String,
        unavailable: bool,
        reason: Reason,
        message: String,
    },
    Object {
        object: Object,
        uid: String,
        status: WrittenStatus,
    },
    NodeStatus {
        node: String,
        state: Box<NodeState>,
    },
    RemoveNodeStatus {
        node: String,
        uid: String,
    },
    Event {
        key: EventKey,
        telling: Telling,
        /// Of what it is about.
        uid: String,
        /// Of what it has to do with.
        related_uid: Option<String>,
    },
}

/// What came of a write.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Done(Answer),
    /// The object is not there any more, or is another one.
    Gone,
    Failed(Failure),
}

/// What the API server answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Nothing,
    /// It has this now.
    NodeStatus(Box<Known>),
    /// The event has this name.
    Event(String),
}

impl Board {
    /// The next write, if one may go out now.
    pub(crate) fn next_write(&mut self, now: Instant, wall: Millis) -> Option<(Key, Write)> {
        loop {
            let key = self.queue.pop(now)?;
            match self.write(&key, now, wall) {
                Ok(Some(write)) => return Some((key, write)),
                Ok(None) => self.queue.done(&key, Ok(()), now),
                Err(later) => {
                    self.queue.done(&key, Ok(()), now);
                    self.queue.set(key, Urgency::Normal, later);
                }
            }
        }
    }

    /// What to write for `key`; nothing when there is no need any more, or when it may be asked again.
    fn write(&mut self, key: &Key, now: Instant, wall: Millis) -> Result<Option<Write>, Instant> {
        let write = match key {
            Key::Network(node) => self.network(node),
            Key::Object(object) => self.object(object, now),
            Key::NodeStatus(node) => self.node_status(node, now, wall),
            Key::Event(event) => {
                let Some(uid) = self.uid(&event.about) else {
                    return Ok(None); // gone meanwhile
                };
                let related = event.related.clone().map(About::Object);
                let related_uid = related.and_then(|related| self.uid(&related));
                let telling = self.events.tell(event, now)?;
                telling.map(|telling| Write::Event {
                    key: event.clone(),
                    telling,
                    uid,
                    related_uid,
                })
            }
        };
        Ok(write)
    }

    fn network(&mut self, node: &str) -> Option<Write> {
        let (unavailable, reason, message) = self.nodes.get(node)?.network.clone()?;
        Some(Write::Network {
            node: node.to_owned(),
            uid: self.kube_nodes.get(node)?.metadata.uid.clone()?,
            unavailable,
            reason,
            message,
        })
    }

    fn object(&mut self, object: &Object, now: Instant) -> Option<Write> {
        let uid = self.uid(&About::Object(object.clone()))?;
        let record = self.objects.get_mut(object)?;
        record.bucket.take(now);
        Some(Write::Object {
            object: object.clone(),
            uid,
            status: record.desired.clone(),
        })
    }

    fn node_status(&mut self, node: &str, now: Instant, wall: Millis) -> Option<Write> {
        let record = self.nodes.get_mut(node)?;
        let Some(state) = self.states.get(node) else {
            return Some(Write::RemoveNodeStatus {
                node: node.to_owned(),
                uid: record.known.as_ref()?.uid.clone(),
            });
        };
        record.bucket.take(now);
        record.written_at = Some(now);
        let state = NodeState {
            observed_at: node_state::time(wall),
            ..state.clone()
        };
        Some(Write::NodeStatus {
            node: node.to_owned(),
            state: Box::new(state),
        })
    }

    fn uid(&self, about: &About) -> Option<String> {
        match about {
            About::Node(node) => self.kube_nodes.get(node)?.metadata.uid.clone(),
            About::Object(object) => {
                let key = (object.kind, object.name.clone());
                Some(self.verdicts.get(&key)?.uid.clone())
            }
        }
    }

    /// What came of a write of [`Board::next_write`].
    pub(crate) fn done(&mut self, key: &Key, write: Write, outcome: Outcome, now: Instant) {
        let result = match (&outcome, &write) {
            (Outcome::Failed(failure), _) => Err(*failure),
            // The watch shows it soon; until then it must not be tried again and again.
            (Outcome::Gone, Write::Network { .. } | Write::Object { .. }) => Err(Failure::This),
            (Outcome::Done(_) | Outcome::Gone, _) => Ok(()),
        };
        self.queue.done(key, result, now);
        match (write, outcome) {
            (Write::NodeStatus { node, .. }, Outcome::Done(Answer::NodeStatus(known))) => {
                self.has(&node, Some(*known), now);
            }
            (Write::RemoveNodeStatus { node, .. }, Outcome::Done(_) | Outcome::Gone) => {
                self.has(&node, None, now);
            }
            (
                Write::Network {
                    node,
                    unavailable,
                    reason,
                    ..
                },
                Outcome::Done(_),
            ) => {
                let said = Said {
                    unavailable,
                    reason: reason.as_str().to_owned(),
                };
                let kube_node = self.kube_nodes.get(&node).map(Arc::clone);
                let record = self.record(&node);
                record.network_written = kube_node.map(|of| (of, said));
            }
            (Write::Object { object, status, .. }, Outcome::Done(_)) => {
                let key = (object.kind, object.name.clone());
                let shown = self
                    .verdicts
                    .get(&key)
                    .map(|verdict| verdict.status.clone());
                if let (Some(record), Some(shown)) = (self.objects.get_mut(&object), shown) {
                    record.written = Some((shown, status));
                }
            }
            (Write::Event { key, .. }, Outcome::Done(Answer::Event(name))) => {
                self.events.written(&key, name);
            }
            (Write::Event { key, telling, .. }, Outcome::Failed(_) | Outcome::Gone) => {
                self.events.not_written(&key, telling, now);
                self.queue.set(Key::Event(key), Urgency::Normal, now);
            }
            _ => {}
        }
        match key {
            Key::Network(node) | Key::NodeStatus(node) => {
                self.again.insert((now, node.clone()));
            }
            Key::Object(_) => self.stale = true,
            Key::Event(_) => {}
        }
    }
}

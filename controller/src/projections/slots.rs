//! The NodeSubnets objects as they are in the API server, as far as is known, and the step from there
//! to what they should say.

use std::collections::BTreeMap;

use crd::{NodeSubnet, NodeSubnets};
use ipnetwork::IpNetwork;
use kube::runtime::watcher::Event;

use super::wanted::WantedNode;

/// One object.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// As it was last seen; none when there is none.
    object: Option<NodeSubnets>,
    /// What may still be written over it: the answer to that request never came.
    under_way: Vec<IpNetwork>,
    /// Whether it has to be read before anything else can be done.
    doubtful: bool,
}

/// Of a node of which nothing is known.
static UNKNOWN: Slot = Slot {
    object: None,
    under_way: Vec::new(),
    doubtful: false,
};

/// What to do next for one node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Find out what is there.
    Read,
    /// Make an empty object. It is filled by a second step, because a request to create one may arrive
    /// late, when there was one and it has been removed; nothing must stand in it then.
    Create,
    /// Replace exactly this version of it.
    Write(Box<NodeSubnets>),
    /// Remove exactly this version of it.
    Remove(Box<NodeSubnets>),
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Answer {
    /// This is there now.
    There(Box<NodeSubnets>),
    /// There is none.
    Absent,
    /// Another version is there.
    Conflict,
    /// Nobody knows.
    Unclear,
}

/// All of them, by node.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<String, Slot>,
    /// What a list that is under way has said so far.
    listing: Option<BTreeMap<String, NodeSubnets>>,
    /// Whether a whole list has been seen.
    complete: bool,
}

impl Slot {
    /// The next step to what is wanted; none when nothing is left to do. `since` is the generation of
    /// the ledger at which this controller began to lead.
    pub(super) fn step(&self, wanted: Option<&WantedNode>, since: i64) -> Option<Step> {
        if self.doubtful {
            return Some(Step::Read);
        }
        let wanted = wanted.filter(|wanted| wanted.holds_something());
        match (wanted, &self.object) {
            (None, None) => None,
            (None, Some(object)) => Some(Step::Remove(Box::new(object.clone()))),
            (Some(_), None) => Some(Step::Create),
            (Some(wanted), Some(object)) => {
                let spec = &object.spec;
                let same = spec.node_uid == wanted.uid
                    && spec.subnets == wanted.subnets
                    && spec.given_asn == wanted.given_asn;
                // Whoever led before may be about to replace the version it saw; after a write of ours
                // it cannot.
                let settled = spec.ledger_generation >= since && self.under_way.is_empty();
                if same && (settled || !wanted.releasing) {
                    return None;
                }
                let mut next = object.clone();
                next.spec.node_uid.clone_from(&wanted.uid);
                next.spec.subnets.clone_from(&wanted.subnets);
                next.spec.given_asn.clone_from(&wanted.given_asn);
                next.spec.ledger_generation = wanted.generation;
                Some(Step::Write(Box::new(next)))
            }
        }
    }

    /// Whether nothing that this controller or an earlier one ever sent can make `subnet` stand here
    /// (again).
    pub(super) fn is_clear_of(&self, subnet: IpNetwork, since: i64) -> bool {
        if self.doubtful {
            return false;
        }
        let Some(object) = &self.object else {
            return true; // nothing but an empty one can be made
        };
        let shows = |shown: &NodeSubnet| shown.prefix == subnet;
        object.spec.ledger_generation >= since
            && self.under_way.is_empty()
            && !object.spec.subnets.iter().any(shows)
    }

    /// Takes in what came of a step.
    pub(super) fn answered(&mut self, step: &Step, answer: Answer) {
        match answer {
            Answer::There(mut object) => {
                if let Step::Write(next) = step {
                    self.under_way.clear();
                    // A definition that is older than this controller does not keep it: then it is not
                    // written again and again.
                    object.spec.given_asn.clone_from(&next.spec.given_asn);
                }
                // A read shows whatever is newest, and a request that is under way is refused from the
                // moment on at which the version is another than that it was made from.
                self.doubtful = false;
                self.see(*object);
            }
            Answer::Absent => {
                *self = Slot::default();
            }
            Answer::Conflict => self.doubtful = true,
            Answer::Unclear => {
                self.doubtful = true;
                if let Step::Write(next) = step {
                    let subnets = next.spec.subnets.iter().map(|subnet| subnet.prefix);
                    self.under_way.extend(subnets);
                }
            }
        }
    }

    fn see(&mut self, mut object: NodeSubnets) {
        strip(&mut object);
        let newer = self
            .object
            .as_ref()
            .is_none_or(|seen| version(&object) > version(seen));
        if newer {
            self.object = Some(object);
        }
    }
}

impl Slots {
    /// Whether it is known what is there.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// The slot of a node; an empty one when nothing is known of it.
    pub(super) fn get(&self, node: &str) -> &Slot {
        self.slots.get(node).unwrap_or(&UNKNOWN)
    }

    /// Every node with an object, or that may have one.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &String> {
        self.slots.keys()
    }

    /// Takes in what came of a step.
    pub(super) fn answered(&mut self, node: &str, step: &Step, answer: Answer) {
        let slot = self.slots.entry(node.to_owned()).or_default();
        slot.answered(step, answer);
        if slot.object.is_none() && !slot.doubtful {
            self.slots.remove(node);
        }
    }

    /// Follows the watch.
    pub(super) fn follow(&mut self, event: Event<NodeSubnets>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(mut object) => {
                strip(&mut object);
                let listing = self.listing.get_or_insert_default();
                listing.insert(name(&object), object);
            }
            Event::InitDone => self.listed(),
            Event::Apply(object) => self.slots.entry(name(&object)).or_default().see(object),
            Event::Delete(object) => {
                let name = name(&object);
                let Some(slot) = self.slots.get_mut(&name) else {
                    return;
                };
                // What was made after this one was removed is another one.
                let seen = slot.object.as_ref();
                if seen.is_none_or(|seen| version(seen) <= version(&object)) {
                    slot.object = None;
                    slot.doubtful = true;
                }
            }
        }
    }

    fn listed(&mut self) {
        let listed = self.listing.take().unwrap_or_default();
        for (node, slot) in &mut self.slots {
            // Removed while nobody watched, or made after the list was.
            slot.doubtful |= !listed.contains_key(node);
        }
        for (node, object) in listed {
            self.slots.entry(node).or_default().see(object);
        }
        self.complete = true;
    }
}

/// Leaves out who wrote which field: that is larger than the object, and the API server puts it back where it
/// is missing in what is written.
fn strip(object: &mut NodeSubnets) {
    object.metadata.managed_fields = None;
}

fn name(object: &NodeSubnets) -> String {
    object.metadata.name.clone().unwrap_or_default()
}

/// Versions of objects of one kind can be compared (Kubernetes guarantees it since 1.35, and it has been
/// so for as long as they come from etcd).
fn version(object: &NodeSubnets) -> u64 {
    let version = object.metadata.resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;

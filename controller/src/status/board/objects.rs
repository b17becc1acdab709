//! The status of what users wrote, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use api::Resources;
use crd::conditions::{self, get};
use crd::{Kind, WrittenStatus};
use ipam::Millis;
use tokio::time::Instant;

use super::{Board, GATHER, Key};
use crate::source::kubernetes::Verdict;
use crate::status::coverage::Object;
use crate::status::events::About;
use crate::status::news::{self, ToldOfObject};
use crate::status::node_state;
use crate::status::objects::{Outlook, status};
use crate::status::pace::Bucket;
use crate::status::queue::Urgency;
use crate::status::tally;

/// Writes of one object's status.
const OF_OBJECT: Bucket = Bucket::new(5, Duration::from_secs(10));

/// What is kept of an object.
#[derive(Debug)]
pub(super) struct ObjectRecord {
    uid: String,
    /// What its status should be.
    pub(super) desired: WrittenStatus,
    /// What the watch showed and what was written then; good until the watch shows something else.
    pub(super) written: Option<(WrittenStatus, WrittenStatus)>,
    pub(super) bucket: Bucket,
    told: ToldOfObject,
}

impl ObjectRecord {
    fn new(verdict: &Verdict) -> ObjectRecord {
        ObjectRecord {
            uid: verdict.uid.clone(),
            desired: WrittenStatus::default(),
            written: None,
            bucket: OF_OBJECT,
            told: ToldOfObject::new(&verdict.status),
        }
    }

    /// What the API server has.
    fn known<'a>(&'a self, verdict: &'a Verdict) -> &'a WrittenStatus {
        match &self.written {
            Some((shown, written)) if *shown == verdict.status => written,
            _ => &verdict.status,
        }
    }
}

impl Board {
    pub(super) fn look_at_objects(&mut self, now: Instant, wall: Millis) {
        let (Some(loaded), Some(time)) = (self.loaded.clone(), node_state::time(wall)) else {
            return;
        };
        let verdicts = Arc::clone(&self.verdicts);
        let tallies = tally::tallies(&tally::Sources {
            resources: &loaded.resources,
            facts: &self.facts,
            coverage: &self.coverage,
            states: &self.states,
        });
        let mut told = Vec::new();
        for ((kind, name), verdict) in verdicts.iter() {
            let object = Object::new(*kind, name);
            let outlook = Outlook {
                tally: tallies.get(&object),
                subnets: self
                    .pools
                    .get(name)
                    .filter(|_| *kind == Kind::Pool)
                    .copied(),
                is_shut_down: *kind == Kind::Peer && is_shut_down(&loaded.resources, name),
                ledger_error: &self.ledger_error,
            };
            let record = self.objects.entry(object.clone());
            let record = record.or_insert_with(|| ObjectRecord::new(verdict));
            if record.uid != verdict.uid {
                *record = ObjectRecord::new(verdict); // another one of this name
            }
            let known = record.known(verdict);
            let desired = status(&object, verdict, known, &outlook, &time);
            let key = Key::Object(object.clone());
            if *known == desired {
                self.queue.remove(&key);
            } else {
                let due = record.bucket.next(now).max(now + GATHER);
                self.queue.set(key, urgency(known, &desired), due);
            }
            for (reason, note) in news::of_object(&mut record.told, verdict, &desired) {
                told.push((object.clone(), reason, note));
            }
            record.desired = desired;
        }
        self.objects.retain(|object, _| {
            let is_there = verdicts.contains_key(&(object.kind, object.name.clone()));
            if !is_there {
                self.queue.remove(&Key::Object(object.clone()));
            }
            is_there
        });
        for (object, reason, note) in told {
            self.tell(About::Object(object), reason, None, note, now);
        }
    }
}

/// Somebody who changed an object waits to hear what became of that; counts that change as nodes
/// follow can wait.
fn urgency(known: &WrittenStatus, desired: &WrittenStatus) -> Urgency {
    let words = |status: &WrittenStatus, kind| {
        let condition = get(&status.conditions, kind);
        condition.map(|it| (it.status.clone(), it.reason.clone()))
    };
    let kinds = [
        conditions::ACCEPTED,
        conditions::PROGRAMMED,
        conditions::DEGRADED,
    ];
    let same = known.observed_generation == desired.observed_generation
        && kinds
            .iter()
            .all(|kind| words(known, kind) == words(desired, kind));
    if same { Urgency::Normal } else { Urgency::High }
}

fn is_shut_down(resources: &Resources, peer: &str) -> bool {
    let peer = resources.peers.get(peer);
    peer.is_some_and(|peer| peer.spec.shutdown.is_some())
}

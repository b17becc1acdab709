//! Batches: export policy is asked about what changed, and UPDATEs are made of the answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::{BATCH_OCTETS, BATCH_SLOTS, Batch, Group, KEPT, NOT_ADVERTISED, Out, encode};
use crate::rib::Shared;
use crate::rib::export::{Change, Judge};
use crate::rib::table::{Key, NIL, SourceId, Table};
use crate::types::PeerId;

impl<P: Key> Group<P> {
    /// Asks export policy about some of the slots that changed, and has UPDATEs made.
    pub(super) fn make_batch(
        &mut self,
        shared: &mut Shared,
        table: &Table<P>,
        originated: &BTreeMap<P, Vec<Arc<str>>>,
    ) {
        if self.tail.is_empty() {
            self.scan_on(table);
        }
        let mut announced: Vec<encode::Item<P>> =
            Vec::with_capacity(BATCH_SLOTS.min(self.tail.len()));
        let mut withdrawn: Vec<u32> = Vec::new();
        self.judge(shared, table, originated, &mut announced, &mut withdrawn);
        if self.tail.is_empty() && self.tail.capacity() > 4 * BATCH_SLOTS {
            self.tail = VecDeque::new(); // a burst's memory is not kept for the next one
        }

        let mut bytes = BytesMut::new();
        let mut slots: Vec<u32> = Vec::with_capacity(announced.len() + withdrawn.len());
        let mut origins: Vec<PeerId> = Vec::new();
        encode::sort(&mut announced);
        let mut done = 0;
        for run in announced.chunk_by(encode::Item::same_attributes) {
            if bytes.len() >= BATCH_OCTETS {
                break;
            }
            done += run.len();
            let fits =
                encode::announce(&self.export, &self.changes, &shared.attrs, run, &mut bytes);
            for item in run {
                if !fits {
                    if self.out.get(item.slot).set.is_some() {
                        withdrawn.push(item.slot);
                    }
                    continue;
                }
                slots.push(item.slot);
                self.set_out(shared, item.slot, item.out);
                if let Some(peer) = shared.peer_of(item.out.source)
                    && !origins.contains(&peer)
                {
                    origins.push(peer);
                }
            }
        }
        // Too much for one batch: the rest comes first in the next one.
        for item in announced[done..].iter().rev() {
            self.queued.insert(item.slot);
            self.tail.push_front(item.slot);
        }
        let announced = slots.len();
        let prefixes: Vec<P> = withdrawn.iter().map(|slot| table.prefix(*slot)).collect();
        for slot in &withdrawn {
            self.set_out(shared, *slot, NOT_ADVERTISED);
        }
        encode::withdraw(&self.export, &prefixes, &mut bytes);
        slots.extend(withdrawn);
        if slots.is_empty() {
            return;
        }
        self.kept += bytes.len();
        self.kept_slots += slots.len();
        self.batches.push_back(Batch {
            bytes: bytes.freeze(),
            slots: slots.into(),
            announced,
            origins,
        });
        // Nobody has to hear more than the whole table.
        let all = (table.entries.end() as usize).max(BATCH_SLOTS);
        while (self.kept > KEPT || self.kept_slots > all) && self.batches.len() > 1 {
            self.drop_first();
        }
        self.wake(&mut shared.wake);
    }

    /// Puts the next part of the table into the tail.
    fn scan_on(&mut self, table: &Table<P>) {
        let Some(mut at) = self.scan else { return };
        let end = table.entries.end();
        while at < end && self.tail.len() < BATCH_SLOTS {
            let known = table.entries[at].head != NIL || self.out.get(at).set.is_some();
            if known && self.queued.insert(at) {
                self.tail.push_back(at);
            }
            at += 1;
        }
        self.scan = (at < end).then_some(at);
    }

    /// Takes slots from the tail and asks what is to be told of them; keeps what is new.
    fn judge(
        &mut self,
        shared: &mut Shared,
        table: &Table<P>,
        originated: &BTreeMap<P, Vec<Arc<str>>>,
        announced: &mut Vec<encode::Item<P>>,
        withdrawn: &mut Vec<u32>,
    ) {
        self.changes.tidy();
        let (export, rules) = (self.export.clone(), self.rules.clone());
        let mut judge = Judge::new(&export, &rules);
        let mut last: Option<(Change, u16)> = None;
        for _ in 0..BATCH_SLOTS {
            let Some(slot) = self.tail.pop_front() else {
                break;
            };
            self.queued.remove(slot);
            let prefix = table.prefix(slot);
            let old = self.out.get(slot);
            let mut new = NOT_ADVERTISED;
            if let Some(path) = table.best(slot) {
                let asked_for_by = match path.source {
                    SourceId::LOCAL => originated.get(&prefix).map_or(&[][..], Vec::as_slice),
                    _ => &[],
                };
                if judge.ask(shared, prefix.into(), path, asked_for_by).is_ok() {
                    let change = judge.change();
                    let index = match &last {
                        Some((known, index)) if *known == change => Some(*index),
                        _ => {
                            let index = self.changes.number(&change);
                            last = index.map(|index| (change, index));
                            index
                        }
                    };
                    // More kinds of changes than can be numbered: nothing is sent that we could
                    // not describe.
                    if let Some(change) = index {
                        new = Out {
                            set: path.accepted,
                            source: path.source,
                            change,
                        };
                    }
                }
            }
            match (old.set.is_some(), new.set.is_some()) {
                (true, true) if (old.set, old.change) == (new.set, new.change) => {
                    if old.source != new.source {
                        self.change_source(shared, slot, new);
                    }
                }
                (_, true) => announced.push(encode::Item::new(new, slot, prefix)),
                (true, false) => withdrawn.push(slot),
                (false, false) => {}
            }
        }
    }

    /// The same is to be told, but it is another peer's route now: that peer must not have it, and
    /// the last one may.
    fn change_source(&mut self, shared: &mut Shared, slot: u32, new: Out) {
        let old = std::mem::replace(self.out.slot(slot), new);
        let concerned = [shared.peer_of(old.source), shared.peer_of(new.source)];
        for peer in concerned.into_iter().flatten() {
            if let Some(member) = self.member_mut(peer) {
                member.dirty.insert(slot);
                if std::mem::take(&mut member.asleep) {
                    shared.wake.push(peer);
                }
            }
        }
    }
}

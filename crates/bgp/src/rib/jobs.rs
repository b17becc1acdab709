//! Work on a whole table, done a piece at a time so that no session waits for it: the routes of a
//! session that is over are removed, changed policies asked again, next hops looked at again.

use std::collections::BTreeSet;

use super::Shared;
use super::adj_in::Martian;
use super::hops::HopId;
use super::loc::FamilyRib;
use super::table::{NIL, SourceId};

/// Slots looked at in one turn.
pub(crate) const SLOTS_PER_TURN: u32 = 8192;

/// Something to be done for every slot.
pub(super) struct Job {
    what: What,
    /// The next slot.
    at: u32,
}

enum What {
    /// Remove the routes of a session that is over.
    Remove(SourceId),
    /// Remove the routes of a source that it has not repeated.
    Sweep(SourceId),
    /// The routes of a peer that is away become long-lived stale.
    Age(SourceId),
    /// Ask import policy again.
    Import(BTreeSet<SourceId>),
    /// Decide again where one of these next hops is concerned.
    Hops(BTreeSet<HopId>),
    /// Decide everything again.
    Decide,
}

impl<P: Martian> FamilyRib<P> {
    /// The session of a source is over.
    pub(crate) fn remove_source(&mut self, source: SourceId) {
        self.refreshing.remove(&source);
        self.add_job(What::Remove(source));
    }

    /// A source is done with sending all of its routes again.
    pub(super) fn sweep(&mut self, source: SourceId) {
        self.add_job(What::Sweep(source));
    }

    /// The peer's restart time is up and its routes are kept all the same.
    pub(crate) fn age_source(&mut self, source: SourceId) {
        self.add_job(What::Age(source));
    }

    /// The import policies of these sources, or the checks before them, changed.
    pub(crate) fn import_again(&mut self, sources: &BTreeSet<SourceId>) {
        match self.waiting_job() {
            Some(What::Import(others)) => others.extend(sources),
            _ => self.add_job(What::Import(sources.clone())),
        }
    }

    /// A next hop became reachable, unreachable, nearer or farther.
    pub(crate) fn hop_changed(&mut self, hop: HopId) {
        match self.waiting_job() {
            Some(What::Hops(others)) => {
                others.insert(hop);
            }
            _ => self.add_job(What::Hops(BTreeSet::from([hop]))),
        }
    }

    /// The way in which the best route is chosen changed.
    pub(crate) fn decide_again(&mut self) {
        if !matches!(self.waiting_job(), Some(What::Decide)) {
            self.add_job(What::Decide);
        }
    }

    /// Whether there is work put off.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty() || !self.given_up.is_empty()
    }

    fn add_job(&mut self, what: What) {
        self.jobs.push_back(Job { what, at: 0 });
    }

    /// The last job, when it has not begun.
    fn waiting_job(&mut self) -> Option<&mut What> {
        let job = self.jobs.back_mut().filter(|job| job.at == 0)?;
        Some(&mut job.what)
    }

    /// Does a piece of the first job, and of clearing away.
    pub(crate) fn work(&mut self, shared: &mut Shared) {
        self.let_go(shared);
        let Some(mut job) = self.jobs.pop_front() else {
            return;
        };
        let end = self.table.entries.end();
        let until = end.min(job.at.saturating_add(SLOTS_PER_TURN));
        for slot in job.at..until {
            if self.table.entries[slot].head != NIL {
                self.work_on(shared, &job.what, slot);
            }
        }
        job.at = until;
        // The table may have been emptied on the way, and ends earlier now.
        if until < self.table.entries.end() {
            self.jobs.push_front(job);
        } else {
            self.finish(shared, &job.what);
        }
    }

    fn finish(&mut self, shared: &mut Shared, what: &What) {
        match what {
            What::Remove(source) => {
                self.long_lived.remove(source);
                shared.left(*source);
            }
            What::Sweep(source) => {
                let Some(refreshing) = self.refreshing.get_mut(source) else {
                    return; // the session has ended
                };
                if std::mem::take(&mut refreshing.again) {
                    self.sweep(*source); // behind the work that waits already
                    return;
                }
                refreshing.kept = None;
                if refreshing.said.is_none() {
                    self.refreshing.remove(source);
                }
            }
            What::Age(_) | What::Import(_) | What::Hops(_) | What::Decide => {}
        }
    }

    fn work_on(&mut self, shared: &mut Shared, what: &What, slot: u32) {
        match what {
            What::Remove(source) => self.withdraw(shared, slot, *source),
            What::Sweep(source) => {
                let refreshing = self.refreshing.get(source);
                let kept = refreshing.and_then(|refreshing| refreshing.kept.as_ref());
                if kept.is_some_and(|kept| !kept.contains(slot)) {
                    self.withdraw(shared, slot, *source);
                }
            }
            What::Age(source) => self.age(shared, *source, slot),
            What::Import(sources) => self.reimport(shared, sources, slot),
            What::Hops(hops) => {
                let concerned = self.table.paths(slot).any(|(_, path)| {
                    path.accepted.is_some() && hops.contains(&shared.attrs.facts(path.accepted).hop)
                });
                if concerned {
                    self.redecide(shared, slot);
                }
            }
            What::Decide => {
                self.redecide(shared, slot);
                // With backup paths or without them from now on.
                self.queue_fib(slot);
            }
        }
    }

    fn redecide(&mut self, shared: &mut Shared, slot: u32) {
        let before = self.chosen(slot);
        self.decide(shared, slot, before);
    }

    fn reimport(&mut self, shared: &mut Shared, sources: &BTreeSet<SourceId>, slot: u32) {
        let prefix = self.table.prefix(slot);
        let paths: smallvec::SmallVec<[_; 8]> = self
            .table
            .paths(slot)
            .filter(|(_, path)| sources.contains(&path.source))
            .map(|(_, path)| (path.source, path.received))
            .collect();
        for (source, received) in paths {
            if self.is_long_lived(source, slot) {
                self.keep_for_long(shared, slot, source, received);
            } else if source != SourceId::LOCAL {
                let accepted = self.accept(shared, source, received, None, prefix);
                self.announce(shared, slot, source, received, accepted);
            }
        }
    }
}

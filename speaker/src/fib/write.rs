//! Writing routes: batches of changes, repairs, and what waited for its next hops.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bgp::engine::{FibChange, NextHopSet};
use bgp::types::Prefix;
use kernel::{Failure, Path, Target};

use super::FibEvent;
use super::destination_of;
use super::driver::Driver;
use super::objects::WaysOut;
use super::plan::Step;
use super::table::{Entry, Slot, State};

/// Requests in one send: the kernel gains nothing from more.
pub(super) const AT_ONCE: usize = 512;
/// Changes taken in within one turn, when most of them only say that something has to go.
const TAKEN_IN: usize = 4 * 1024;
/// Prefixes brought near at the same time.
pub(super) const AHEAD: usize = 64;
/// Entries looked at in one turn of the backlog.
const LOOKED_AT: usize = 16 * 1024;
/// Refusals whose reason is kept.
const REASONS: usize = 100;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A route where there is none.
    Add,
    /// A route beside the old one, which points at `from` and goes when this one is there.
    Append { from: u32 },
    /// The old route, or one that is not wanted any more.
    Remove,
}

/// What has to be written when a prefix comes to want a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Nothing,
    Add,
    /// From the old entry's group.
    Move,
    Remove,
}

/// The entry of a prefix that had `old` and wants `slot` now, whose group routes can point at if
/// it is `ready`; and what must be written for that.
fn transition(old: Option<Entry>, slot: Slot, ready: bool) -> (Entry, Write) {
    let in_kernel = old.filter(|old| old.in_kernel());
    match in_kernel {
        Some(old) if old.slot() == slot => (Entry::new(slot, State::Installed), Write::Nothing),
        Some(_) if ready => (Entry::new(slot, State::Installed), Write::Move),
        Some(_) => (Entry::new(slot, State::Pending), Write::Remove),
        None if ready => (Entry::new(slot, State::Installed), Write::Add),
        None => (Entry::new(slot, State::Pending), Write::Nothing),
    }
}

impl Driver {
    /// Takes in a slice of the changes, and writes what is new or different; what has to go waits
    /// ([`Driver::remove_leaving`]). True when there was one.
    pub(super) fn write_batch(&mut self) -> bool {
        let mut any = false;
        for _ in 0..TAKEN_IN {
            if self.requests.len() >= AT_ONCE {
                break;
            }
            let Some(change) = self.next_change() else {
                break;
            };
            any = true;
            self.change(change);
        }
        self.flush();
        any
    }

    fn next_change(&mut self) -> Option<FibChange> {
        loop {
            let ahead = self.batch.as_slice();
            if ahead.len().is_multiple_of(AHEAD) {
                let ahead = ahead.iter().take(AHEAD);
                self.table.warm(ahead.map(|change| change.prefix));
            }
            if let Some(change) = self.batch.next() {
                return Some(change);
            }
            // Other requests have their turn when everything before them is written.
            let (batch, room) = self.queue.pop_batch();
            if room {
                self.tell(FibEvent::Room);
            }
            self.batch = batch?.into_iter();
        }
    }

    fn change(&mut self, change: FibChange) {
        let FibChange { prefix, next_hops } = change;
        let Some(set) = next_hops else {
            self.leave(prefix);
            return;
        };
        let wanted = self.slot_of(&set);
        let (groups, install) = (&self.groups, self.config.install);
        let (mut slot, mut write) = (wanted, Write::Nothing);
        let old = self.table.update(prefix, |old| {
            if let Some(old) = old
                && groups.same_set(old.slot(), wanted)
            {
                slot = old.slot();
            }
            let (entry, what) = transition(old, slot, install && groups.ready(slot));
            write = what;
            Some(entry)
        });
        self.recount(old, slot);
        match (write, old) {
            (Write::Nothing, _) => {}
            (Write::Add, _) => self.request_add(prefix, slot),
            (Write::Move, Some(old)) => {
                let from = self.groups.id(old.slot());
                self.request_move(prefix, slot, from);
            }
            (Write::Remove | Write::Move, _) => self.request_removal(prefix),
        }
    }

    fn slot_of(&mut self, set: &Arc<NextHopSet>) -> Slot {
        if let Some((last, slot)) = &self.last_set
            && Arc::ptr_eq(last, set)
        {
            return *slot;
        }
        let slot = match self.down.left(set) {
            None => self.slot_of_hops(&set.hops, &set.backups),
            Some((hops, backups)) => self.slot_of_hops(&hops, &backups),
        };
        self.last_set = Some((set.clone(), slot));
        slot
    }

    fn slot_of_hops(&mut self, hops: &[IpAddr], backups: &[IpAddr]) -> Slot {
        if let Some(slot) = self.groups.find(hops, backups) {
            return slot;
        }
        let all = hops.iter().chain(backups).copied();
        let unknown: Vec<_> = all.filter(|hop| self.hops.hold(*hop)).collect();
        if !unknown.is_empty() {
            self.look_up(&unknown);
        }
        let ways = self.ways_out(hops, backups);
        let slot = self.groups.create(hops, backups, &ways);
        if self.config.install {
            let steps = self.groups.plan_one(slot, &ways);
            if !self.write_objects(&steps) {
                self.repair_objects();
            }
        }
        slot
    }

    /// Every way out to any of these next hops.
    pub(super) fn ways_out(&self, hops: &[IpAddr], backups: &[IpAddr]) -> WaysOut {
        let taken = |path: &&Path| !self.refused_paths.contains_key(path);
        let paths = |hops: &[IpAddr]| -> BTreeSet<Path> {
            let paths = hops.iter().flat_map(|hop| self.hops.paths(*hop));
            paths.filter(taken).copied().collect()
        };
        let mut ways = WaysOut::new(paths(hops), paths(backups));
        if !ways.backups.is_empty() {
            // The kernel does not look for itself here whether its neighbours answer.
            let answers = |path: &Path| !self.silent.contains(path);
            if ways.backups.iter().any(answers) {
                ways.paths.retain(answers);
            }
            if ways.paths.is_empty() {
                return WaysOut::from(ways.backups);
            }
        }
        ways
    }

    pub(super) fn is_ready(&self, slot: Slot) -> bool {
        self.config.install && self.groups.ready(slot)
    }

    fn request_add(&mut self, prefix: Prefix, slot: Slot) {
        let target = Target::NextHop(self.groups.id(slot));
        let owner = self.owner();
        let destination = destination_of(prefix);
        if self.retired.is_empty() {
            self.requests.add_route(&owner, destination, target);
        } else {
            // Those of the configuration before may have the same place; they go afterwards.
            self.requests.append_route(&owner, destination, target);
        }
        self.sent.push((prefix, Sent::Add));
    }

    fn request_move(&mut self, prefix: Prefix, slot: Slot, from: u32) {
        // The removal of the old route is sent after the answers to these requests; another change
        // of the same prefix must not come between.
        if self.moving.contains(&prefix) {
            self.flush();
        }
        let target = Target::NextHop(self.groups.id(slot));
        let owner = self.owner();
        let destination = destination_of(prefix);
        self.requests.append_route(&owner, destination, target);
        self.sent.push((prefix, Sent::Append { from }));
        self.moving.insert(prefix);
    }

    pub(super) fn request_removal(&mut self, prefix: Prefix) {
        if self.moving.contains(&prefix) {
            self.flush();
        }
        let owner = self.owner();
        self.requests
            .remove_route(&owner, destination_of(prefix), None);
        self.sent.push((prefix, Sent::Remove));
    }

    /// Sends what has been requested, and learns what became of it.
    pub(super) fn flush(&mut self) {
        while !self.requests.is_empty() {
            let outcome = self
                .writer
                .carry_out(&mut self.requests, &mut self.failures);
            let mut sent = std::mem::take(&mut self.sent);
            self.moving.clear();
            if let Some(list) = &mut self.list {
                list.touched.extend(sent.iter().map(|(prefix, _)| *prefix));
            }
            if let Err(error) = outcome {
                // It is not known what was done; a list tells.
                self.troubled("cannot write routes", &error);
                self.list_soon();
                return;
            }
            for failure in std::mem::take(&mut self.failures) {
                if let Some((prefix, was)) = sent.get_mut(failure.request) {
                    let instead = self.on_failure(*prefix, *was, &failure);
                    *was = instead;
                }
            }
            let owner = self.owner();
            for (prefix, was) in sent.drain(..) {
                if let Sent::Append { from } = was {
                    let target = Some(Target::NextHop(from));
                    self.requests
                        .remove_route(&owner, destination_of(prefix), target);
                    self.sent.push((prefix, Sent::Remove));
                }
            }
            if self.sent.is_empty() {
                self.sent = sent; // keep the memory
            }
        }
    }

    /// Gives what the request counts as instead.
    fn on_failure(&mut self, prefix: Prefix, was: Sent, failure: &Failure) -> Sent {
        match (was, failure.errno) {
            // Gone already.
            (Sent::Remove, libc::ESRCH) => return was,
            // There already: the old one can go.
            (Sent::Append { .. }, libc::EEXIST) => return was,
            (Sent::Remove, _) => {
                let reason = failure.reason();
                tracing::warn!(%prefix, reason, "the kernel does not remove a route");
                self.list_soon();
                return was;
            }
            (Sent::Add | Sent::Append { .. }, _) => {}
        }
        let Some(entry) = self.table.get(prefix) else {
            return Sent::Remove;
        };
        if entry.state() == State::Leaving {
            // Taken back meanwhile. The old route of a failed move goes by its prefix.
            if was == Sent::Add {
                self.forget(prefix);
            }
            self.list_soon();
            return Sent::Remove;
        }
        let taken = was == Sent::Add && failure.errno == libc::EEXIST;
        let foreign = self.foreign.in_the_way(prefix, self.config.metric);
        let state = match foreign {
            Some(route) if taken && route.metric == self.config.metric => State::Foreign,
            _ if taken => {
                self.list_soon(); // one of ours that we did not know of, or a foreign one
                State::Pending
            }
            _ => {
                self.suspect |= failure.errno == libc::EINVAL; // no such group
                if self.refusals.len() < REASONS {
                    self.refusals.insert(prefix, failure.reason());
                }
                tracing::debug!(%prefix, reason = failure.reason(), "route refused by the kernel");
                State::Refused
            }
        };
        self.table.put(prefix, entry.with(state));
        self.problems_dirty = true;
        // The old route of a failed move stays; the next list tries again.
        Sent::Remove
    }

    /// Carries out a slice of the repairs. True when there was one.
    pub(super) fn work_off_steps(&mut self) -> bool {
        if self.steps.is_empty() {
            return false;
        }
        let first = self.steps.len().saturating_sub(AT_ONCE);
        // Steps are independent of one another, so the last ones may go first.
        for step in self.steps.split_off(first) {
            self.carry_out(step);
        }
        self.flush();
        true
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Install { prefix, .. } => {
                let entry = self.table.get(prefix);
                if let Some(entry) = entry.filter(|entry| entry.state() == State::Pending)
                    && self.is_ready(entry.slot())
                {
                    self.request_add(prefix, entry.slot());
                    self.put(prefix, entry.with(State::Installed));
                }
            }
            Step::Keep(prefix) => {
                if let Some(entry) = self.table.get(prefix)
                    && entry.is_wanted()
                {
                    self.put(prefix, entry.with(State::Installed));
                }
            }
            Step::Move { prefix, from } => self.move_away(prefix, from),
            Step::RemoveExtra { prefix, from } => match self.table.get(prefix) {
                Some(entry) if self.groups.id(entry.slot()) == from => {}
                Some(_) if from == 0 => self.move_away(prefix, from),
                _ => self.remove_exactly(prefix, from),
            },
            Step::Unasked { prefix, from } => self.on_unasked(prefix, from),
        }
    }

    /// The kernel has a route of ours that points at `from`, and nothing should be there.
    fn on_unasked(&mut self, prefix: Prefix, from: u32) {
        match self.table.get(prefix) {
            Some(entry) if entry.state() == State::Leaving => {} // its turn comes
            Some(entry) if entry.is_wanted() => {
                // Asked for meanwhile, or nothing is to be installed at all.
                if !self.config.install {
                    self.remove_exactly(prefix, from);
                    self.put(prefix, entry.with(State::Pending));
                }
            }
            _ if self.swept => {
                self.remove_exactly(prefix, from);
                self.forget(prefix);
            }
            Some(_) => {}
            None => {
                let slot = self.groups.adopt(from);
                self.put(prefix, Entry::new(slot, State::Stale));
            }
        }
    }

    /// The kernel has a route of ours that points at `from` (0: at no nexthop object) instead of
    /// where it should.
    fn move_away(&mut self, prefix: Prefix, from: u32) {
        let entry = self.table.get(prefix);
        let Some(entry) = entry.filter(|entry| entry.state() != State::Stale) else {
            return;
        };
        if !self.is_ready(entry.slot()) {
            self.remove_exactly(prefix, from);
            self.put(prefix, entry.with(State::Pending));
            return;
        }
        if from == 0 {
            // Somebody wrote it with our protocol number, and it cannot be named: everything that
            // is ours there goes, and ours comes back.
            self.request_removal(prefix);
            self.request_removal(prefix);
            self.request_add(prefix, entry.slot());
        } else if from != self.groups.id(entry.slot()) {
            self.request_move(prefix, entry.slot(), from);
        }
        self.put(prefix, entry.with(State::Installed));
    }

    fn remove_exactly(&mut self, prefix: Prefix, from: u32) {
        let owner = self.owner();
        let target = (from != 0).then_some(Target::NextHop(from));
        self.requests
            .remove_route(&owner, destination_of(prefix), target);
        self.sent.push((prefix, Sent::Remove));
    }

    /// Looks through the routes for those that wait and can be written now.
    pub(super) fn start_backlog(&mut self) {
        if self.table.count(State::Pending) > 0 {
            self.backlog = Some(None);
        }
    }

    /// Writes a slice of the routes that waited. True when there is more to look at.
    pub(super) fn work_off_backlog(&mut self) -> bool {
        let Some(after) = self.backlog else {
            return false;
        };
        if self.table.count(State::Pending) == 0 {
            self.backlog = None;
            return false;
        }
        let mut last = None;
        let mut due = Vec::new();
        for (prefix, entry) in self.table.after(after).take(LOOKED_AT) {
            last = Some(prefix);
            if entry.state() == State::Pending && self.is_ready(entry.slot()) {
                due.push((prefix, entry));
                if due.len() == AT_ONCE {
                    break;
                }
            }
        }
        for (prefix, entry) in due {
            self.request_add(prefix, entry.slot());
            self.put(prefix, entry.with(State::Installed));
        }
        self.flush();
        self.backlog = last.map(Some);
        true
    }

    /// A list under way may have seen the prefix before this change.
    pub(super) fn touch(&mut self, prefix: Prefix) {
        if let Some(list) = &mut self.list {
            list.touched.insert(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_already_is_not_written_again() {
        for state in [State::Installed, State::Stale, State::Leaving] {
            let old = Some(Entry::new(3, state));
            let there = Entry::new(3, State::Installed);
            assert_eq!(transition(old, 3, true), (there, Write::Nothing));
            assert_eq!(transition(old, 3, false), (there, Write::Nothing));
        }
    }

    #[test]
    fn a_route_moves_only_to_a_group_that_is_there() {
        let old = Some(Entry::new(3, State::Installed));
        let there = Entry::new(4, State::Installed);
        assert_eq!(transition(old, 4, true), (there, Write::Move));
        let waits = Entry::new(4, State::Pending);
        assert_eq!(transition(old, 4, false), (waits, Write::Remove));
    }

    #[test]
    fn what_is_not_in_the_kernel_is_added_or_waits() {
        for state in [State::Pending, State::Refused, State::Foreign] {
            let old = Some(Entry::new(3, state));
            let there = Entry::new(4, State::Installed);
            assert_eq!(transition(old, 4, true), (there, Write::Add));
            let waits = Entry::new(4, State::Pending);
            assert_eq!(transition(None, 4, false), (waits, Write::Nothing));
        }
    }
}

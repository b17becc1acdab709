//! Removing routes: they wait for their turn, so that what is new does not wait behind them, and so
//! that a group of which nothing stays goes at once with all of its routes.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bgp::types::{Prefix, Prefix4, Prefix6};

use super::driver::Driver;
use super::table::{Entry, Slot, State};
use super::write::{AHEAD, AT_ONCE};

/// Prefixes looked at in one turn; some of them are wanted again by then.
const LOOKED_AT: usize = 16 * 1024;
/// Routes that go with their group: below, one by one is as good; above, the kernel would keep
/// everybody else from changing anything for too long (about a second for a million).
const TOGETHER: RangeInclusive<u64> = 4096..=400_000;

/// Prefixes whose routes are to be removed, in the order in which that was asked for. The table
/// says of each whether it still is so.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    v4: VecDeque<Prefix4>,
    v6: VecDeque<Prefix6>,
}

impl Leaving {
    fn push(&mut self, prefix: Prefix) {
        match prefix {
            Prefix::V4(prefix) => self.v4.push_back(prefix),
            Prefix::V6(prefix) => self.v6.push_back(prefix),
        }
    }

    fn pop(&mut self) -> Option<Prefix> {
        let v4 = self.v4.pop_front().map(Prefix::V4);
        v4.or_else(|| self.v6.pop_front().map(Prefix::V6))
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl Driver {
    /// A prefix is wanted no more.
    pub(super) fn leave(&mut self, prefix: Prefix) {
        let leaves = |entry: &Entry| entry.in_kernel();
        let old = self.table.update(prefix, |old| {
            old.filter(leaves).map(|old| old.with(State::Leaving))
        });
        match old {
            Some(old) if old.state() == State::Leaving => {}
            Some(old) if leaves(&old) => self.leaving.push(prefix),
            Some(old) => self.untidy |= self.groups.uncount_route(old.slot()),
            None => {}
        }
    }

    /// Removes a slice of what is wanted no more. True when there was some.
    pub(super) fn remove_leaving(&mut self) -> bool {
        if self.leaving.is_empty() {
            return false;
        }
        self.remove_together();
        for looked_at in 0..LOOKED_AT {
            if self.requests.len() >= AT_ONCE {
                break;
            }
            if looked_at.is_multiple_of(AHEAD) {
                let ahead = self.leaving.v4.iter().take(AHEAD);
                self.table.warm(ahead.map(|prefix| Prefix::V4(*prefix)));
            }
            let Some(prefix) = self.leaving.pop() else {
                self.leaving = Leaving::default(); // a burst's memory is not kept for the next one
                break;
            };
            let leaves = |entry: &Entry| entry.state() == State::Leaving;
            let old = self
                .table
                .update(prefix, |old| old.filter(|entry| !leaves(entry)));
            if let Some(old) = old.filter(leaves) {
                self.untidy |= self.groups.uncount_route(old.slot());
                self.request_removal(prefix);
            }
        }
        self.flush();
        true
    }
    /// Removes groups all of whose routes leave: the kernel throws those away with them, in half of
    /// the time and in the order that suits it.
    ///
    /// Only routes of IPv4: of IPv6 the kernel tells everybody, ourselves too, of each one.
    fn remove_together(&mut self) {
        if !self.retired.is_empty() || !self.config.install {
            return; // routes in another place may point at it
        }
        let all_leave = |(slot, leaving): &(Slot, u64)| {
            TOGETHER.contains(leaving)
                && self.groups.routes(*slot) == *leaving
                && !self.foreign.uses(self.groups.id(*slot))
        };
        let Some((slot, routes)) = self.table.leaving4().find(all_leave) else {
            return;
        };
        let steps = self.groups.plan_end(slot);
        if !self.write_objects(&steps) {
            // It is not known what is there: looked at again, and removed one by one.
            self.list_soon();
            return;
        }
        tracing::debug!(routes, "removed with their group");
        let gone = self.table.left(slot);
        self.untidy |= self.groups.uncount_routes(slot, gone);
        // Whoever wants the same next hops from now on needs a new group.
        self.tidy();
        if self.list.take().is_some() {
            self.begin_list(); // it has read some of them
        }
    }
}

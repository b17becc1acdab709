//! What each prefix wants, and what became of it: four bytes a prefix.

use std::collections::BTreeMap;
use std::ops::Bound;

use bgp::types::{Prefix, Prefix4, Prefix6};

/// A nexthop group's place in [`Groups`](super::groups::Groups).
pub(super) type Slot = u32;

/// What became of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum State {
    /// The kernel has it as wanted.
    Installed = 0,
    /// It is to be written, or waits until its group can be.
    Pending = 1,
    /// The kernel refused it; tried again with the next list.
    Refused = 2,
    /// A foreign route with our metric holds its place.
    Foreign = 3,
    /// The kernel has it from before, and nobody has asked for it yet.
    Stale = 4,
}

const STATES: [State; 5] = [
    State::Installed,
    State::Pending,
    State::Refused,
    State::Foreign,
    State::Stale,
];

/// A group and a state in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    const SLOT_BITS: u32 = 28;

    pub(super) fn new(slot: Slot, state: State) -> Entry {
        debug_assert!(slot < 1 << Entry::SLOT_BITS);
        Entry((state as u32) << Entry::SLOT_BITS | slot)
    }

    pub(super) fn slot(self) -> Slot {
        self.0 & ((1 << Entry::SLOT_BITS) - 1)
    }

    pub(super) fn state(self) -> State {
        STATES[(self.0 >> Entry::SLOT_BITS) as usize]
    }

    pub(super) fn with(self, state: State) -> Entry {
        Entry::new(self.slot(), state)
    }

    /// Whether the kernel has a route for it that points at its group.
    pub(super) fn in_kernel(self) -> bool {
        matches!(self.state(), State::Installed | State::Stale)
    }
}

/// So many entries are passed over before one is searched for.
const NEAR: usize = 16;

/// All prefixes.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) v4: BTreeMap<Prefix4, Entry>,
    pub(super) v6: BTreeMap<Prefix6, Entry>,
    counts: [u64; STATES.len()],
}

impl Table {
    pub(super) fn get(&self, prefix: Prefix) -> Option<Entry> {
        match prefix {
            Prefix::V4(prefix) => self.v4.get(&prefix).copied(),
            Prefix::V6(prefix) => self.v6.get(&prefix).copied(),
        }
    }

    /// As [`Table::get`] for each of `prefixes`. Those in ascending order mostly follow one another
    /// here too, and need no search.
    pub(super) fn get_each(&self, prefixes: &[Prefix]) -> Vec<Option<Entry>> {
        let mut walk = self.after(None);
        let mut here = None;
        let mut last = None;
        let each = prefixes.iter().map(|prefix| {
            let ascending = last.replace(*prefix) < Some(*prefix);
            for _ in 0..NEAR {
                match here {
                    Some((at, _)) if at < *prefix => here = walk.next(),
                    _ => break,
                }
            }
            match here {
                Some((at, entry)) if at == *prefix => Some(entry),
                Some((at, _)) if at > *prefix && ascending => None,
                _ => {
                    walk = self.after(Some(*prefix));
                    here = walk.next();
                    self.get(*prefix)
                }
            }
        });
        each.collect()
    }

    /// Gives the entry that was there.
    pub(super) fn put(&mut self, prefix: Prefix, entry: Entry) -> Option<Entry> {
        let old = match prefix {
            Prefix::V4(prefix) => self.v4.insert(prefix, entry),
            Prefix::V6(prefix) => self.v6.insert(prefix, entry),
        };
        self.counts[entry.state() as usize] += 1;
        if let Some(old) = old {
            self.counts[old.state() as usize] -= 1;
        }
        old
    }

    pub(super) fn remove(&mut self, prefix: Prefix) -> Option<Entry> {
        let old = match prefix {
            Prefix::V4(prefix) => self.v4.remove(&prefix),
            Prefix::V6(prefix) => self.v6.remove(&prefix),
        }?;
        self.counts[old.state() as usize] -= 1;
        Some(old)
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.counts[state as usize]
    }

    /// Every entry in turn becomes what `change` makes of it, or goes.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(Entry) -> Option<Entry>) {
        let counts = &mut self.counts;
        let mut each = |entry: &mut Entry| {
            let new = change(*entry);
            counts[entry.state() as usize] -= 1;
            if let Some(new) = new {
                counts[new.state() as usize] += 1;
                *entry = new;
            }
            new.is_some()
        };
        self.v4.retain(|_, entry| each(entry));
        self.v6.retain(|_, entry| each(entry));
    }

    /// Entries behind `after`, IPv4 first.
    pub(super) fn after(&self, after: Option<Prefix>) -> impl Iterator<Item = (Prefix, Entry)> {
        let (from4, from6) = match after {
            None => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(Prefix::V4(prefix)) => (Some(Bound::Excluded(prefix)), Bound::Unbounded),
            Some(Prefix::V6(prefix)) => (None, Bound::Excluded(prefix)),
        };
        let v4 = from4
            .into_iter()
            .flat_map(|from| self.v4.range((from, Bound::Unbounded)))
            .map(|(prefix, entry)| (Prefix::V4(*prefix), *entry));
        let v6 = self.v6.range((from6, Bound::Unbounded));
        v4.chain(v6.map(|(prefix, entry)| (Prefix::V6(*prefix), *entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_group_and_state() {
        for state in STATES {
            let entry = Entry::new(0x0ABC_DEF0, state);
            assert_eq!((entry.slot(), entry.state()), (0x0ABC_DEF0, state));
        }
    }

    #[test]
    fn many_entries_are_found_as_each_is_found_by_itself() {
        let mut table = Table::default();
        let nth = |n: u32| Prefix::new(std::net::Ipv4Addr::from(n << 8).into(), 24);
        for n in (0..1000).filter(|n| n % 3 != 0) {
            table.put(nth(n), Entry::new(n, State::Installed));
        }
        table.put(
            "2001:db8::/32".parse().unwrap(),
            Entry::new(7, State::Pending),
        );
        let every: Vec<Prefix> = (0..1100).map(nth).collect();
        let some: Vec<Prefix> = every.iter().copied().step_by(97).collect();
        let backwards: Vec<Prefix> = every.iter().copied().rev().collect();
        let mixed: Vec<Prefix> = ["0.0.9.0/24", "2001:db8::/32", "2001:db9::/32"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        for prefixes in [every, some, backwards, mixed, Vec::new()] {
            let one_by_one: Vec<_> = prefixes.iter().map(|it| table.get(*it)).collect();
            assert!(table.get_each(&prefixes) == one_by_one, "{prefixes:?}");
        }
    }

    #[test]
    fn the_walk_goes_on_behind_any_prefix_and_counts_follow() {
        let mut table = Table::default();
        let texts = ["10.0.0.0/8", "10.0.0.0/9", "2001:db8::/32", "2001:db8::/48"];
        let prefixes: Vec<Prefix> = texts.iter().map(|text| text.parse().unwrap()).collect();
        for prefix in &prefixes {
            table.put(*prefix, Entry::new(1, State::Pending));
        }
        let mut after = None;
        let mut walked = Vec::new();
        while let Some((prefix, _)) = table.after(after).next() {
            walked.push(prefix);
            after = Some(prefix);
        }
        assert_eq!(walked, prefixes);
        table.change_all(|entry| Some(entry.with(State::Installed)));
        table.remove(prefixes[0]);
        assert_eq!(table.count(State::Installed), 3);
        assert_eq!(table.count(State::Pending), 0);
    }
}

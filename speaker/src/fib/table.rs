//! What each prefix wants, and what became of it: four bytes a prefix.

use std::ops::Bound;

use bgp::prefix_map::PrefixMap;
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
    /// The kernel has it, and nobody wants it any more: its removal has yet to be requested.
    Leaving = 5,
}

const STATES: [State; 6] = [
    State::Installed,
    State::Pending,
    State::Refused,
    State::Foreign,
    State::Stale,
    State::Leaving,
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
        matches!(
            self.state(),
            State::Installed | State::Stale | State::Leaving
        )
    }

    /// Whether somebody asks for it.
    pub(super) fn is_wanted(self) -> bool {
        !matches!(self.state(), State::Stale | State::Leaving)
    }
}

/// So many entries are passed over before one is searched for.
const NEAR: usize = 16;

/// All prefixes.
#[derive(Debug, Default)]
pub(super) struct Table {
    v4: PrefixMap<Prefix4, Entry>,
    v6: PrefixMap<Prefix6, Entry>,
    counts: [u64; STATES.len()],
    /// IPv4 prefixes that leave, by the group that they point at.
    leaving4: Vec<u64>,
}

impl Table {
    pub(super) fn get(&self, prefix: Prefix) -> Option<Entry> {
        match prefix {
            Prefix::V4(prefix) => self.v4.get(prefix),
            Prefix::V6(prefix) => self.v6.get(prefix),
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

    /// These prefixes, some dozens, are asked for next.
    pub(super) fn warm(&self, prefixes: impl Iterator<Item = Prefix> + Clone) {
        self.v4
            .warm(prefixes.clone().filter_map(|prefix| match prefix {
                Prefix::V4(prefix) => Some(prefix),
                Prefix::V6(_) => None,
            }));
        self.v6.warm(prefixes.filter_map(|prefix| match prefix {
            Prefix::V4(_) => None,
            Prefix::V6(prefix) => Some(prefix),
        }));
    }

    /// The entry of a prefix becomes what `change` makes of it, or goes. Gives the entry that was
    /// there.
    pub(super) fn update(
        &mut self,
        prefix: Prefix,
        change: impl FnOnce(Option<Entry>) -> Option<Entry>,
    ) -> Option<Entry> {
        let mut before = None;
        let noted = |old: Option<Entry>| {
            before = old;
            change(old)
        };
        let after = match prefix {
            Prefix::V4(prefix) => self.v4.update(prefix, noted),
            Prefix::V6(prefix) => self.v6.update(prefix, noted),
        };
        let v4 = matches!(prefix, Prefix::V4(_));
        if let Some(entry) = after {
            self.counts[entry.state() as usize] += 1;
            if v4 && entry.state() == State::Leaving {
                let slot = entry.slot() as usize;
                if self.leaving4.len() <= slot {
                    self.leaving4.resize(slot + 1, 0);
                }
                self.leaving4[slot] += 1;
            }
        }
        if let Some(entry) = before {
            self.counts[entry.state() as usize] -= 1;
            if v4 && entry.state() == State::Leaving {
                self.leaving4[entry.slot() as usize] -= 1;
            }
        }
        before
    }

    /// How many IPv4 prefixes leave, by the group that they point at.
    pub(super) fn leaving4(&self) -> impl Iterator<Item = (Slot, u64)> {
        (0..).zip(self.leaving4.iter().copied())
    }

    /// The group is gone, and the routes of these prefixes with it. Gives how many there were.
    pub(super) fn left(&mut self, slot: Slot) -> u64 {
        let gone = Entry::new(slot, State::Leaving);
        let before = self.v4.len();
        self.v4.change_all(|entry| (entry != gone).then_some(entry));
        let gone = (before - self.v4.len()) as u64;
        self.counts[State::Leaving as usize] -= gone;
        if let Some(leaving) = self.leaving4.get_mut(slot as usize) {
            *leaving = 0;
        }
        gone
    }

    /// Gives the entry that was there.
    pub(super) fn put(&mut self, prefix: Prefix, entry: Entry) -> Option<Entry> {
        self.update(prefix, |_| Some(entry))
    }

    pub(super) fn remove(&mut self, prefix: Prefix) -> Option<Entry> {
        self.update(prefix, |_| None)
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.counts[state as usize]
    }

    /// Every entry in turn becomes what `change` makes of it, or goes. What leaves can only go.
    pub(super) fn change_all(&mut self, mut change: impl FnMut(Entry) -> Option<Entry>) {
        let (counts, leaving4) = (&mut self.counts, &mut self.leaving4);
        let mut each = |entry: Entry| {
            let new = change(entry);
            counts[entry.state() as usize] -= 1;
            if let Some(new) = new {
                counts[new.state() as usize] += 1;
            }
            new
        };
        self.v4.change_all(|entry| {
            let new = each(entry);
            if entry.state() == State::Leaving && new.is_none() {
                leaving4[entry.slot() as usize] -= 1;
            }
            new
        });
        self.v6.change_all(each);
    }

    /// The entries of IPv4, in order.
    pub(super) fn v4(&self) -> impl Iterator<Item = (Prefix4, Entry)> {
        self.v4.iter()
    }

    /// The entries of IPv6, in order.
    pub(super) fn v6(&self) -> impl Iterator<Item = (Prefix6, Entry)> {
        self.v6.iter()
    }

    /// Entries behind `after`, IPv4 first.
    pub(super) fn after(&self, after: Option<Prefix>) -> impl Iterator<Item = (Prefix, Entry)> {
        let (from4, from6) = match after {
            None => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(Prefix::V4(prefix)) => (Some(Bound::Excluded(prefix)), Bound::Unbounded),
            Some(Prefix::V6(prefix)) => (None, Bound::Excluded(prefix)),
        };
        let v4 = from4.into_iter().flat_map(|from| self.v4.range(from));
        let v4 = v4.map(|(prefix, entry)| (Prefix::V4(prefix), entry));
        let v6 = self.v6.range(from6);
        v4.chain(v6.map(|(prefix, entry)| (Prefix::V6(prefix), entry)))
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

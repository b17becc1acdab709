//! Which slot is due first: a binary heap whose entries can be moved, so that a deadline put off by
//! every packet received leaves nothing behind and allocates nothing.

use std::time::Instant;

/// Deadlines by slot, at most one a slot.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// A binary heap, the earliest first.
    heap: Vec<(Instant, u32)>,
    /// Where a slot is in the heap, plus one; 0: nowhere.
    place: Vec<u32>,
}

impl Due {
    /// Makes room for slots below `slots`; the only place that allocates.
    pub(crate) fn reserve(&mut self, slots: usize) {
        if self.place.len() < slots {
            self.place.resize(slots, 0);
            self.heap.reserve(slots - self.heap.len());
        }
    }

    /// The earliest deadline and its slot.
    pub(crate) fn first(&self) -> Option<(Instant, u32)> {
        self.heap.first().copied()
    }

    /// Sets, moves or (with `None`) removes a slot's deadline.
    pub(crate) fn set(&mut self, slot: u32, deadline: Option<Instant>) {
        let at = self.place[slot as usize] as usize;
        match (at, deadline) {
            (0, None) => {}
            (0, Some(deadline)) => {
                self.heap.push((deadline, slot));
                self.settle(self.heap.len() - 1);
            }
            (at, Some(deadline)) => {
                self.heap[at - 1].0 = deadline;
                self.settle(at - 1);
            }
            (at, None) => {
                self.heap.swap_remove(at - 1);
                self.place[slot as usize] = 0;
                if at - 1 < self.heap.len() {
                    self.settle(at - 1);
                }
            }
        }
    }

    /// Moves an entry up or down to where it belongs.
    fn settle(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            self.heap.swap(at, (at - 1) / 2);
            self.note(at);
            at = (at - 1) / 2;
        }
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child].0) else {
                break;
            };
            if self.heap[at].0 <= self.heap[least].0 {
                break;
            }
            self.heap.swap(at, least);
            self.note(at);
            at = least;
        }
        self.note(at);
    }

    fn note(&mut self, at: usize) {
        let slot = self.heap[at].1;
        self.place[slot as usize] = at as u32 + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_earliest_deadline_comes_first_whatever_was_set_and_removed(
            steps in proptest::collection::vec((0u32..20, proptest::option::of(0u64..1000)), 1..200)
        ) {
            let start = Instant::now();
            let mut due = Due::default();
            due.reserve(20);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (slot, deadline) in steps {
                due.set(slot, deadline.map(|ms| start + Duration::from_millis(ms)));
                match deadline {
                    Some(ms) => model.insert(slot, ms),
                    None => model.remove(&slot),
                };
                let expected = model.values().min().map(|ms| start + Duration::from_millis(*ms));
                prop_assert_eq!(due.first().map(|(at, _)| at), expected);
                if let Some((at, slot)) = due.first() {
                    prop_assert_eq!(at, start + Duration::from_millis(model[&slot]));
                }
            }
        }
    }
}

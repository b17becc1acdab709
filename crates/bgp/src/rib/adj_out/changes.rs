//! The changes that a group's routes go through, numbered: two octets a route instead of a list.

use std::collections::HashMap;

use crate::rib::export::Change;

/// So many are kept before those that no route needs any more are looked for.
const FEW: usize = 64;

/// Numbered changes. A number is kept for as long as somebody holds a reference to it
/// ([`Changes::retain`], [`Changes::release`]), and otherwise until the next [`Changes::tidy`].
pub(super) struct Changes {
    numbered: Vec<Numbered>,
    numbers: HashMap<Change, u16, foldhash::fast::FixedState>,
    free: Vec<u16>,
    /// How many are too many to be kept without need.
    tidy_at: usize,
}

struct Numbered {
    /// `None`: the number is free.
    change: Option<Change>,
    refs: u32,
}

impl Changes {
    pub(super) fn new() -> Changes {
        Changes {
            numbered: Vec::new(),
            numbers: HashMap::default(),
            free: Vec::new(),
            tidy_at: FEW,
        }
    }

    /// What a number stands for.
    pub(super) fn get(&self, number: u16) -> Option<&Change> {
        self.numbered.get(usize::from(number))?.change.as_ref()
    }

    /// The number of a change; `None` when there are 65,536 others in use.
    pub(super) fn number(&mut self, change: &Change) -> Option<u16> {
        if let Some(number) = self.numbers.get(change) {
            return Some(*number);
        }
        let numbered = Numbered {
            change: Some(change.clone()),
            refs: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.numbered[usize::from(number)] = numbered;
                number
            }
            None => {
                let number = u16::try_from(self.numbered.len()).ok()?;
                self.numbered.push(numbered);
                number
            }
        };
        self.numbers.insert(change.clone(), number);
        Some(number)
    }

    /// A route needs it.
    pub(super) fn retain(&mut self, number: u16) {
        self.numbered[usize::from(number)].refs += 1;
    }

    /// A route needs it no longer.
    pub(super) fn release(&mut self, number: u16) {
        self.numbered[usize::from(number)].refs -= 1;
    }

    /// Frees numbers that no route needs, when there are many. To be called only while nobody keeps
    /// one without a reference.
    pub(super) fn tidy(&mut self) {
        if self.numbers.len() < self.tidy_at {
            return;
        }
        for (number, numbered) in (0..=u16::MAX).zip(&mut self.numbered) {
            if numbered.refs == 0
                && let Some(change) = numbered.change.take()
            {
                self.numbers.remove(&change);
                self.free.push(number);
            }
        }
        self.tidy_at = (2 * self.numbers.len()).max(FEW).min(usize::from(u16::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Set, Source};

    fn change(number: u32) -> Change {
        Change {
            source: Source::Ebgp,
            sets: vec![Set::Med(Some(number))],
            reflected: None,
        }
    }

    #[test]
    fn numbers_that_no_route_needs_are_given_out_again() {
        let mut changes = Changes::new();
        let kept = changes.number(&change(7)).unwrap();
        changes.retain(kept);
        // Each for a while: three times as many as there are numbers.
        for n in 100..200_100 {
            changes.tidy();
            let number = changes.number(&change(n)).unwrap();
            assert_eq!(changes.number(&change(n)), Some(number));
            assert_eq!(changes.get(number), Some(&change(n)));
            changes.retain(number);
            changes.release(number);
        }
        assert_eq!(changes.get(kept), Some(&change(7)));
        assert!(
            changes.numbered.len() <= 2 * FEW,
            "{}",
            changes.numbered.len()
        );
    }

    #[test]
    fn there_are_no_more_than_fit_into_two_octets() {
        let mut changes = Changes::new();
        for n in 0..=u32::from(u16::MAX) {
            changes.tidy();
            let number = changes.number(&change(n)).unwrap();
            changes.retain(number);
        }
        changes.tidy();
        assert_eq!(changes.number(&change(99_999_999)), None);
        changes.release(5);
        changes.tidy();
        assert_eq!(changes.number(&change(99_999_999)), Some(5));
    }
}

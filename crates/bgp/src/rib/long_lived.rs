//! Routes kept for longer than the restart time of the peer they are from: marked with the community
//! LLGR_STALE, they are the last choice and go only to peers that know what that means. RFC 9494.
//!
//! The mark is put on behind import policy, which has no say in it, and is gone with the first word
//! of the peer about the prefix.

use super::Shared;
use super::adj_in::{Martian, mark_stale};
use super::attrs::AttrId;
use super::loc::FamilyRib;
use super::table::{Key, SourceId};

impl<P: Key> FamilyRib<P> {
    /// Whether a route is kept for so long.
    pub(crate) fn is_long_lived(&self, source: SourceId, slot: u32) -> bool {
        let those = self.long_lived.get(&source);
        those.is_some_and(|those| those.contains(slot))
    }

    /// How many of a source's routes are.
    pub(crate) fn long_lived(&self, source: SourceId) -> u64 {
        let those = self.long_lived.get(&source);
        those.map_or(0, |those| those.len() as u64)
    }

    /// The source has said something of the slot.
    pub(super) fn is_young_again(&mut self, source: SourceId, slot: u32) {
        if self.long_lived.is_empty() {
            return;
        }
        if let Some(those) = self.long_lived.get_mut(&source)
            && those.remove(slot)
            && those.len() == 0
        {
            self.long_lived.remove(&source);
        }
    }
}

impl<P: Martian> FamilyRib<P> {
    /// The time in which the peer might have come back is up. §4.2.
    pub(super) fn age(&mut self, shared: &mut Shared, source: SourceId, slot: u32) {
        let Some(index) = self.table.path_of(slot, source) else {
            return;
        };
        let repeated = self.refreshing.get(&source).is_some_and(|refreshing| {
            let sets = [&refreshing.said, &refreshing.kept];
            sets.into_iter().flatten().any(|set| set.contains(slot))
        });
        if repeated {
            return;
        }
        self.long_lived.entry(source).or_default().insert(slot);
        let received = self.table.paths[index].received;
        self.keep_for_long(shared, slot, source, received);
    }

    /// Puts the mark on a route, or removes the route where it or import policy asks for that
    /// (NO_LLGR).
    pub(super) fn keep_for_long(
        &mut self,
        shared: &mut Shared,
        slot: u32,
        source: SourceId,
        received: AttrId,
    ) {
        let prefix = self.table.prefix(slot);
        let accepted = self.accept(shared, source, received, None, prefix);
        let unwanted = |set: AttrId| shared.attrs.facts(set).known.no_llgr();
        if unwanted(received) || accepted.is_ok_and(unwanted) {
            return self.withdraw(shared, slot, source);
        }
        let marked = accepted.map(|set| {
            let mut attributes = shared.attrs.attributes(set);
            mark_stale(&mut attributes);
            shared.attrs.intern(&attributes, &mut shared.hops)
        });
        self.announce(shared, slot, source, received, marked);
        if let Ok(set) = marked {
            shared.attrs.release(set, &mut shared.hops);
        }
    }
}

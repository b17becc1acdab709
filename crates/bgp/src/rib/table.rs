//! One family's routes: prefix → the paths of all peers, side by side.
//!
//! Adj-RIB-In and Loc-RIB are views of it. A prefix has a *slot*, a small number under which its
//! columns are kept here and in each update group, so that whoever has the number needs no look-up.
//! Its paths are a list in the order of their use: the best one first. Nothing here has an
//! allocation of its own.

use std::ops::Bound;

use super::attrs::AttrId;
use super::paged::{Paged, Slab};
use crate::prefix_map::{PrefixMap, Radix};
use crate::query::{Refusal, Step};
use crate::types::{Family, Prefix, Prefix4, Prefix6};

/// No slot and no path.
pub(crate) const NIL: u32 = u32::MAX;

/// A prefix of one family, as the tables key it.
pub(crate) trait Key: Radix + Into<Prefix> {
    /// Its family.
    const FAMILY: Family;
    /// All of the family.
    const ALL: Self;
    /// The prefix, when it is of this family.
    fn of(prefix: Prefix) -> Option<Self>;
    /// The prefix that is `length` bits long and holds this one.
    fn shortened(self, length: u8) -> Self;
    /// Bits of the mask.
    fn len(self) -> u8;
}

impl Key for Prefix4 {
    const FAMILY: Family = Family::Ipv4;
    const ALL: Prefix4 = Prefix4::ALL;

    fn of(prefix: Prefix) -> Option<Prefix4> {
        match prefix {
            Prefix::V4(prefix) => Some(prefix),
            Prefix::V6(_) => None,
        }
    }

    fn shortened(self, length: u8) -> Prefix4 {
        Prefix4::new(self.address(), length.min(self.length()))
    }

    fn len(self) -> u8 {
        self.length()
    }
}

impl Key for Prefix6 {
    const FAMILY: Family = Family::Ipv6;
    const ALL: Prefix6 = Prefix6::ALL;

    fn of(prefix: Prefix) -> Option<Prefix6> {
        match prefix {
            Prefix::V6(prefix) => Some(prefix),
            Prefix::V4(_) => None,
        }
    }

    fn shortened(self, length: u8) -> Prefix6 {
        Prefix6::new(self.address(), length.min(self.length()))
    }

    fn len(self) -> u8 {
        self.length()
    }
}

/// Where routes come from: one session of a peer, from Established to the removal of its last
/// route. A number comes back only after 65,535 others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(pub(crate) u16);

impl SourceId {
    /// Ourselves.
    pub(crate) const LOCAL: SourceId = SourceId(0);
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The best route.
    Best,
    /// Used together with the best.
    Multipath,
    /// Another was better, by this step.
    Lost(Step),
    /// Not a candidate.
    Refused(Refusal),
}

/// One route of a prefix: what one source says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Its attributes as received.
    pub(crate) received: AttrId,
    /// As import policy left them; `NONE`: refused.
    pub(crate) accepted: AttrId,
    /// The next path of the prefix.
    pub(crate) next: u32,
    /// When it came or changed last, in seconds since the engine began.
    pub(crate) since: u32,
    /// Whose.
    pub(crate) source: SourceId,
    /// What became of it.
    pub(crate) fate: Fate,
}

/// What is kept of a prefix besides its paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Its first path, the best one if there is a best one.
    pub(crate) head: u32,
    /// Number of the next-hop set the kernel's side was last told; 0: none.
    pub(crate) fib: u32,
    /// It waits for the kernel's side.
    pub(crate) fib_queued: bool,
    /// It stands in the list of those that may be forgotten.
    pub(crate) dying: bool,
}

const NO_ENTRY: Entry = Entry {
    head: NIL,
    fib: 0,
    fib_queued: false,
    dying: false,
};

const NO_PATH: Path = Path {
    received: AttrId::NONE,
    accepted: AttrId::NONE,
    next: NIL,
    since: 0,
    source: SourceId::LOCAL,
    fate: Fate::Best,
};

/// The table.
pub(crate) struct Table<P: Key> {
    index: PrefixMap<P, u32>,
    prefixes: Paged<P>,
    pub(crate) entries: Slab<Entry>,
    pub(crate) paths: Slab<Path>,
}

impl<P: Key> Table<P> {
    /// An empty table.
    pub(crate) fn new() -> Table<P> {
        Table {
            index: PrefixMap::default(),
            prefixes: Paged::new(P::ALL),
            entries: Slab::new(NO_ENTRY),
            paths: Slab::new(NO_PATH),
        }
    }

    /// The slot of a prefix, made if need be.
    pub(crate) fn enter(&mut self, prefix: P) -> u32 {
        let (entries, prefixes) = (&mut self.entries, &mut self.prefixes);
        let slot = self.index.update(prefix, |slot| {
            Some(slot.unwrap_or_else(|| {
                let slot = entries.insert(NO_ENTRY);
                *prefixes.slot(slot) = prefix;
                slot
            }))
        });
        slot.unwrap_or(NIL) // it has one
    }

    /// These prefixes, some dozens, are entered or asked for next.
    pub(crate) fn warm(&self, prefixes: impl Iterator<Item = P>) {
        self.index.warm(prefixes);
    }

    /// The slot of a prefix.
    pub(crate) fn find(&self, prefix: P) -> Option<u32> {
        self.index.get(prefix)
    }

    /// The prefix of a slot.
    pub(crate) fn prefix(&self, slot: u32) -> P {
        self.prefixes[slot]
    }

    /// Forgets a prefix that has no paths.
    pub(crate) fn forget(&mut self, slot: u32) {
        debug_assert_eq!(self.entries[slot].head, NIL);
        self.index.update(self.prefixes[slot], |_| None);
        self.entries.remove(slot);
        if self.index.is_empty() {
            self.prefixes = Paged::new(P::ALL);
        }
    }

    /// Prefixes and their slots in order, from `from` on.
    pub(crate) fn range(&self, from: Bound<P>) -> impl Iterator<Item = (P, u32)> + '_ {
        self.index.range(from)
    }

    /// The paths of a prefix, with their numbers.
    pub(crate) fn paths(&self, slot: u32) -> impl Iterator<Item = (u32, &Path)> + '_ {
        let mut next = self.entries[slot].head;
        std::iter::from_fn(move || {
            if next == NIL {
                return None;
            }
            let this = next;
            let path = &self.paths[this];
            next = path.next;
            Some((this, path))
        })
    }

    /// The best path of a prefix.
    pub(crate) fn best(&self, slot: u32) -> Option<&Path> {
        let head = self.entries[slot].head;
        if head == NIL {
            return None;
        }
        let path = &self.paths[head];
        (path.fate == Fate::Best).then_some(path)
    }

    /// The path of a source.
    pub(crate) fn path_of(&self, slot: u32, source: SourceId) -> Option<u32> {
        let mut next = self.entries[slot].head;
        while next != NIL {
            let path = &self.paths[next];
            if path.source == source {
                return Some(next);
            }
            next = path.next;
        }
        None
    }

    /// Puts a path into a prefix's list, behind the best one.
    pub(crate) fn add_path(&mut self, slot: u32, mut path: Path) -> u32 {
        let head = self.entries[slot].head;
        if head == NIL {
            path.next = NIL;
            let index = self.paths.insert(path);
            self.entries[slot].head = index;
            return index;
        }
        path.next = self.paths[head].next;
        let index = self.paths.insert(path);
        self.paths[head].next = index;
        index
    }

    /// Takes a path out of a prefix's list and gives it back.
    pub(crate) fn remove_path(&mut self, slot: u32, index: u32) -> Path {
        self.unlink(slot, index);
        let path = self.paths[index];
        self.paths.remove(index);
        path
    }

    /// Makes a path the first of its prefix.
    pub(crate) fn move_to_front(&mut self, slot: u32, index: u32) {
        let head = self.entries[slot].head;
        if head != index {
            self.unlink(slot, index);
            self.paths[index].next = self.entries[slot].head;
            self.entries[slot].head = index;
        }
    }

    fn unlink(&mut self, slot: u32, index: u32) {
        let after = self.paths[index].next;
        let mut at = self.entries[slot].head;
        if at == index {
            self.entries[slot].head = after;
            return;
        }
        while self.paths[at].next != index {
            at = self.paths[at].next;
        }
        self.paths[at].next = after;
    }
}

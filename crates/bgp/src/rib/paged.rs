//! Long tables that grow without being copied: fixed pages of elements, and of bits.
//!
//! A table of a million prefixes must neither double its memory while it grows nor stop the
//! engine for a copy; so its columns are kept in pages.

use std::ops::{Index, IndexMut};

const PAGE: usize = 1024;

/// A vector in pages; an index beyond the end reads as nothing is there, never panics on `get`.
#[derive(Clone, Debug)]
pub(crate) struct Paged<T> {
    pages: Vec<Box<[T; PAGE]>>,
    empty: T,
}

impl<T: Copy> Paged<T> {
    /// An empty table; unset elements read as `empty`.
    pub(crate) fn new(empty: T) -> Paged<T> {
        Paged {
            pages: Vec::new(),
            empty,
        }
    }

    /// The element, `empty` when it was never set.
    pub(crate) fn get(&self, index: u32) -> T {
        let index = index as usize;
        match self.pages.get(index / PAGE) {
            Some(page) => page[index % PAGE],
            None => self.empty,
        }
    }

    /// The element to be changed; the table grows as needed.
    pub(crate) fn slot(&mut self, index: u32) -> &mut T {
        let index = index as usize;
        let page = index / PAGE;
        while self.pages.len() <= page {
            self.pages.push(Box::new([self.empty; PAGE]));
        }
        &mut self.pages[page][index % PAGE]
    }

    /// Takes the last page out.
    pub(crate) fn pop_page(&mut self) -> Option<Box<[T; PAGE]>> {
        self.pages.pop()
    }

    /// Octets held.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.pages.len() * PAGE * size_of::<T>()
    }
}

impl<T: Copy> Index<u32> for Paged<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

impl<T: Copy> IndexMut<u32> for Paged<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

/// A table with numbered places that are given out, freed, and given out again.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    items: Paged<T>,
    next: u32,
    free: Vec<u32>,
}

impl<T: Copy> Slab<T> {
    /// An empty slab; `empty` fills unused places.
    pub(crate) fn new(empty: T) -> Slab<T> {
        Slab {
            items: Paged::new(empty),
            next: 0,
            free: Vec::new(),
        }
    }

    /// Takes a place; the one freed last comes first.
    pub(crate) fn insert(&mut self, item: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        *self.items.slot(index) = item;
        index
    }

    /// Gives a place back.
    pub(crate) fn remove(&mut self, index: u32) {
        self.items[index] = self.items.empty;
        self.free.push(index);
        if self.free.len() == self.next as usize {
            // Everything is gone: so is the memory.
            *self = Slab::new(self.items.empty);
        }
    }

    /// One more than the highest place ever in use since the slab was empty.
    pub(crate) fn end(&self) -> u32 {
        self.next
    }

    /// Places in use.
    pub(crate) fn len(&self) -> usize {
        self.next as usize - self.free.len()
    }
}

impl<T: Copy> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.items[index]
    }
}

impl<T: Copy> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.items[index]
    }
}

/// A set of small numbers, one bit each.
#[derive(Clone, Debug)]
pub(crate) struct BitSet {
    words: Paged<u64>,
    count: usize,
}

impl Default for BitSet {
    fn default() -> BitSet {
        BitSet {
            words: Paged::new(0),
            count: 0,
        }
    }
}

impl BitSet {
    /// Whether `index` is in it.
    pub(crate) fn contains(&self, index: u32) -> bool {
        self.words.get(index / 64) >> (index % 64) & 1 == 1
    }

    /// Puts it in; true when it was not there.
    pub(crate) fn insert(&mut self, index: u32) -> bool {
        let word = self.words.slot(index / 64);
        let bit = 1 << (index % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(new);
        new
    }

    /// Takes it out; true when it was there.
    pub(crate) fn remove(&mut self, index: u32) -> bool {
        if !self.contains(index) {
            return false;
        }
        *self.words.slot(index / 64) &= !(1 << (index % 64));
        self.count -= 1;
        true
    }

    /// How many are in it.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The first one that is `from` or more.
    pub(crate) fn next_from(&self, from: u32) -> Option<u32> {
        let words = (self.words.pages.len() * PAGE) as u32;
        let mut word = from / 64;
        let mut bits = self.words.get(word) >> (from % 64) << (from % 64);
        while bits == 0 {
            word += 1;
            if word >= words {
                return None;
            }
            bits = self.words.get(word);
        }
        Some(word * 64 + bits.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_places_are_given_out_again_and_an_empty_slab_holds_no_memory() {
        let mut slab = Slab::new(0_u64);
        let first = slab.insert(7);
        let second = slab.insert(8);
        slab.remove(first);
        assert_eq!(slab.insert(9), first);
        assert_eq!((slab[first], slab[second], slab.len()), (9, 8, 2));
        slab.remove(first);
        slab.remove(second);
        assert_eq!((slab.len(), slab.end(), slab.items.memory()), (0, 0, 0));
    }

    #[test]
    fn a_bit_set_finds_its_members_in_order() {
        let mut set = BitSet::default();
        for index in [0, 63, 64, 70_000, 200_000] {
            assert!(set.insert(index));
            assert!(!set.insert(index));
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(index) = set.next_from(from) {
            found.push(index);
            from = index + 1;
        }
        assert_eq!(found, [0, 63, 64, 70_000, 200_000]);
        assert!(set.remove(64) && !set.remove(64) && !set.contains(64));
        assert_eq!(set.next_from(64), Some(70_000));
        assert_eq!(set.len(), 4);
    }
}

//! An ordered map from prefixes to small values, for tables of a million.
//!
//! A balanced tree of that size costs a cache miss for each of its lower levels, and a look-up in it
//! is dearer than everything else that is done for a prefix. Here the leading octets of the address
//! choose one of 256 places, and again, until few entries are left, which lie sorted side by side:
//! two or three cache misses. The order is that of the prefixes (address, then length), because a
//! longer look at the same address only ever parts it further.
//!
//! Nobody can make it slow or large by choosing prefixes: the depth is limited, and places that
//! fill up all the same become balanced trees.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::ops::Bound;

use crate::types::{Prefix4, Prefix6};

/// Entries side by side before the next octet parts them.
const FEW: usize = 256;
/// Entries side by side where no octet is left to part them.
const MANY: usize = 512;
/// Room is made for so many more at a time: tables are large, and half of them empty is too much.
const STEP: usize = 4;

/// What the map is made for.
pub trait Radix: Copy + Ord {
    /// How many leading octets part the entries.
    const DEPTH: usize;

    /// An octet of the address, below [`Radix::DEPTH`].
    fn octet(self, at: usize) -> u8;
}

impl Radix for Prefix4 {
    const DEPTH: usize = 2;

    fn octet(self, at: usize) -> u8 {
        self.address().octets()[at]
    }
}

impl Radix for Prefix6 {
    const DEPTH: usize = 4;

    fn octet(self, at: usize) -> u8 {
        self.address().octets()[at]
    }
}

/// The map.
pub struct PrefixMap<K, V> {
    root: Place<K, V>,
    len: usize,
}

/// Without the padding that alignment would ask for between two of them.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Entry<K, V> {
    key: K,
    value: V,
}

enum Place<K, V> {
    Few(Vec<Entry<K, V>>),
    Parted(Box<[Place<K, V>; 256]>),
    Many(BTreeMap<K, V>),
}

impl<K: Radix, V: Copy> Default for PrefixMap<K, V> {
    fn default() -> PrefixMap<K, V> {
        PrefixMap {
            root: Place::EMPTY,
            len: 0,
        }
    }
}

impl<K: Radix, V: Copy> PrefixMap<K, V> {
    /// How many prefixes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a prefix.
    pub fn get(&self, key: K) -> Option<V> {
        match self.place(key) {
            Place::Few(entries) => {
                let at = find(entries, key).ok()?;
                Some(entries[at].value)
            }
            Place::Many(tree) => tree.get(&key).copied(),
            Place::Parted(_) => None, // unreachable: a place is looked for below it
        }
    }

    /// Says that these prefixes, some dozens, are asked for next. What a look-up waits for is
    /// memory; here all of them wait at the same time instead of one after the other.
    pub fn warm(&self, keys: impl IntoIterator<Item = K>) {
        let mut found = false;
        for key in keys {
            if let Place::Few(entries) = self.place(key) {
                // No cache line of a few entries is far from one of these two.
                let quarter = entries.len() / 4;
                found |= entries.get(quarter).is_some_and(|e| { e.key } == key);
                found |= entries.get(3 * quarter).is_some_and(|e| { e.key } == key);
            }
        }
        std::hint::black_box(found);
    }

    fn place(&self, key: K) -> &Place<K, V> {
        let mut place = &self.root;
        let mut depth = 0;
        while let Place::Parted(places) = place {
            place = &places[usize::from(key.octet(depth))];
            depth += 1;
        }
        place
    }

    /// Sets the value of a prefix to what `change` makes of the present one; `None` is no value.
    /// Gives what it made. One look-up, whatever becomes of the value.
    pub fn update(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Option<V> {
        let (before, after) = self.root.update(key, change);
        match (before, after) {
            (false, Some(_)) => self.len += 1,
            (true, None) => {
                self.len -= 1;
                if self.len == 0 {
                    self.root = Place::EMPTY; // the places too
                }
            }
            _ => {}
        }
        after
    }

    /// Every value in turn becomes what `change` makes of it, or goes.
    pub fn change_all(&mut self, mut change: impl FnMut(V) -> Option<V>) {
        self.len = self.root.change_all(&mut change);
        if self.len == 0 {
            self.root = Place::EMPTY;
        }
    }

    /// The prefixes from `from` on, in order.
    pub fn range(&self, from: Bound<K>) -> Iter<'_, K, V> {
        let mut iter = Iter {
            above: Vec::new(),
            few: [].iter(),
            many: None,
        };
        iter.enter(&self.root, from);
        iter
    }

    /// All of them, in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.range(Bound::Unbounded)
    }
}

impl<K: Radix + fmt::Debug, V: Copy + fmt::Debug> fmt::Debug for PrefixMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<'a, K: Radix, V: Copy> IntoIterator for &'a PrefixMap<K, V> {
    type Item = (K, V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

fn find<K: Radix, V: Copy>(entries: &[Entry<K, V>], key: K) -> Result<usize, usize> {
    entries.binary_search_by(|entry| { entry.key }.cmp(&key))
}

impl<K: Radix, V: Copy> Place<K, V> {
    const EMPTY: Place<K, V> = Place::Few(Vec::new());

    /// Whether there was a value, and what there is now.
    fn update(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> (bool, Option<V>) {
        let mut place = self;
        let mut depth = 0;
        while let Place::Parted(places) = place {
            place = &mut places[usize::from(key.octet(depth))];
            depth += 1;
        }
        let entries = match place {
            Place::Few(entries) => entries,
            Place::Many(tree) => return update_tree(tree, key, change),
            Place::Parted(_) => return (false, None), // unreachable: the loop ends elsewhere
        };
        match find(entries, key) {
            Ok(at) => {
                let new = change(Some(entries[at].value));
                match new {
                    Some(value) => entries[at].value = value,
                    None => {
                        entries.remove(at);
                        give_back(entries);
                    }
                }
                (true, new)
            }
            Err(at) => {
                let new = change(None);
                if let Some(value) = new {
                    if entries.len() == entries.capacity() {
                        let more = STEP.max(entries.len() / 8);
                        entries.reserve_exact(more);
                    }
                    entries.insert(at, Entry { key, value });
                    let most = if depth < K::DEPTH { FEW } else { MANY };
                    if entries.len() > most {
                        place.part(depth);
                    }
                }
                (false, new)
            }
        }
    }

    /// There are too many entries side by side.
    fn part(&mut self, depth: usize) {
        let Place::Few(entries) = std::mem::replace(self, Place::EMPTY) else {
            return;
        };
        if depth >= K::DEPTH {
            *self = Place::Many(entries.iter().map(|e| (e.key, e.value)).collect());
            return;
        }
        let mut places = Box::new([const { Place::EMPTY }; 256]);
        let octet = |entry: &Entry<K, V>| { entry.key }.octet(depth);
        for part in entries.chunk_by(|one, next| octet(one) == octet(next)) {
            let at = part.first().map_or(0, |entry| usize::from(octet(entry)));
            places[at] = Place::Few(part.to_vec());
        }
        *self = Place::Parted(places);
    }

    /// How many are left.
    fn change_all(&mut self, change: &mut impl FnMut(V) -> Option<V>) -> usize {
        match self {
            Place::Few(entries) => {
                entries.retain_mut(|entry| match change(entry.value) {
                    Some(value) => {
                        entry.value = value;
                        true
                    }
                    None => false,
                });
                give_back(entries);
                entries.len()
            }
            Place::Many(tree) => {
                tree.retain(|_, value| match change(*value) {
                    Some(new) => {
                        *value = new;
                        true
                    }
                    None => false,
                });
                tree.len()
            }
            Place::Parted(places) => {
                let each = places.iter_mut().map(|place| place.change_all(change));
                let left = each.sum();
                if left == 0 {
                    *self = Place::EMPTY;
                }
                left
            }
        }
    }
}

/// The room of entries that are gone, when it is more than the next ones will need.
fn give_back<T>(entries: &mut Vec<T>) {
    let kept = entries.len() + STEP.max(entries.len() / 8);
    if entries.is_empty() {
        *entries = Vec::new();
    } else if entries.capacity() > kept + 2 * STEP.max(entries.len() / 8) {
        entries.shrink_to(kept);
    }
}

fn update_tree<K: Ord, V: Copy>(
    tree: &mut BTreeMap<K, V>,
    key: K,
    change: impl FnOnce(Option<V>) -> Option<V>,
) -> (bool, Option<V>) {
    match tree.entry(key) {
        btree_map::Entry::Occupied(mut entry) => {
            let new = change(Some(*entry.get()));
            match new {
                Some(value) => {
                    entry.insert(value);
                }
                None => {
                    entry.remove();
                }
            }
            (true, new)
        }
        btree_map::Entry::Vacant(entry) => {
            let new = change(None);
            if let Some(value) = new {
                entry.insert(value);
            }
            (false, new)
        }
    }
}

/// Prefixes and their values, in order.
pub struct Iter<'a, K, V> {
    /// Places still to be looked at, the deepest ones last.
    above: Vec<std::slice::Iter<'a, Place<K, V>>>,
    few: std::slice::Iter<'a, Entry<K, V>>,
    many: Option<btree_map::Range<'a, K, V>>,
}

impl<'a, K: Radix, V: Copy> Iter<'a, K, V> {
    fn enter(&mut self, mut place: &'a Place<K, V>, from: Bound<K>) {
        let mut depth = 0;
        while let Place::Parted(places) = place {
            let at = match from {
                Bound::Unbounded => 0,
                Bound::Included(key) | Bound::Excluded(key) => usize::from(key.octet(depth)),
            };
            self.above.push(places[at + 1..].iter());
            place = &places[at];
            depth += 1;
        }
        match place {
            Place::Few(entries) => {
                let at = match from {
                    Bound::Unbounded => 0,
                    Bound::Included(key) => entries.partition_point(|e| { e.key } < key),
                    Bound::Excluded(key) => entries.partition_point(|e| { e.key } <= key),
                };
                self.few = entries[at..].iter();
            }
            Place::Many(tree) => self.many = Some(tree.range((from, Bound::Unbounded))),
            Place::Parted(_) => {} // unreachable: the loop ends elsewhere
        }
    }
}

impl<K: Radix, V: Copy> Iterator for Iter<'_, K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        loop {
            if let Some(entry) = self.few.next() {
                return Some((entry.key, entry.value));
            }
            if let Some(many) = &mut self.many {
                if let Some((key, value)) = many.next() {
                    return Some((*key, *value));
                }
                self.many = None;
            }
            let places = self.above.last_mut()?;
            match places.next() {
                None => {
                    self.above.pop();
                }
                Some(Place::Parted(places)) => self.above.push(places.iter()),
                Some(Place::Few(entries)) => self.few = entries.iter(),
                Some(Place::Many(tree)) => self.many = Some(tree.range(..)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Dense here and sparse there, so that every kind of place comes about.
    fn prefix4() -> impl Strategy<Value = Prefix4> {
        let dense = (0u32..2000, 24u8..33).prop_map(|(net, length)| (0x0A01_0000 + net, length));
        let sparse = (any::<u32>(), 0u8..33);
        prop_oneof![dense, sparse]
            .prop_map(|(address, length)| Prefix4::new(Ipv4Addr::from(address), length))
    }

    fn prefix6() -> impl Strategy<Value = Prefix6> {
        let dense = (0u128..2000, 120u8..129);
        let dense = dense.prop_map(|(net, length)| (0x2001_0db8 << 96 | net, length));
        let sparse = (any::<u128>(), 0u8..129);
        prop_oneof![dense, sparse]
            .prop_map(|(address, length)| Prefix6::new(Ipv6Addr::from(address), length))
    }

    /// As a balanced tree would have it, whatever is done.
    fn check<K: Radix + std::fmt::Debug>(steps: &[(K, Option<u32>)]) {
        let mut map = PrefixMap::default();
        let mut tree = BTreeMap::new();
        for (key, value) in steps {
            let mut before = None;
            assert_eq!(
                map.update(*key, |old| {
                    before = old;
                    *value
                }),
                *value
            );
            let expected = match value {
                Some(value) => tree.insert(*key, *value),
                None => tree.remove(key),
            };
            assert_eq!(before, expected);
        }
        let same = |map: &PrefixMap<K, u32>, tree: &BTreeMap<K, u32>| {
            assert_eq!(map.len(), tree.len());
            assert!(map.iter().eq(tree.iter().map(|(k, v)| (*k, *v))));
            for (key, _) in steps.iter().step_by(97) {
                assert_eq!(map.get(*key), tree.get(key).copied());
                for from in [Bound::Included(*key), Bound::Excluded(*key)] {
                    let expected = tree.range((from, Bound::Unbounded)).map(|(k, v)| (*k, *v));
                    assert!(map.range(from).take(20).eq(expected.take(20)));
                }
            }
        };
        map.warm(steps.iter().map(|(key, _)| *key)); // changes nothing
        same(&map, &tree);
        let change = |value: u32| (!value.is_multiple_of(3)).then_some(value + 1);
        map.change_all(change);
        tree.retain(|_, value| change(*value).map(|new| *value = new).is_some());
        same(&map, &tree);
        for (key, _) in steps {
            map.update(*key, |_| None);
        }
        assert!(map.is_empty());
        assert!(matches!(&map.root, Place::Few(entries) if entries.capacity() == 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_is_what_a_balanced_tree_is_for_ipv4(
            steps in vec((prefix4(), prop::option::weighted(0.8, any::<u32>())), 0..4000),
        ) {
            check(&steps);
        }

        #[test]
        fn it_is_what_a_balanced_tree_is_for_ipv6(
            steps in vec((prefix6(), prop::option::weighted(0.8, any::<u32>())), 0..4000),
        ) {
            check(&steps);
        }
    }
}

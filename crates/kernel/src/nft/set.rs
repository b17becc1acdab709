//! Sets that rules look things up in: addresses, ranges of them, interfaces, and concatenations.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::message::Requests;

use super::{LIST_ELEMENT, find, find_number, find_value};

/// What a part of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// The name of an interface.
    Interface,
}

impl Field {
    /// Bytes in a key: a multiple of four.
    fn length(self) -> usize {
        match self {
            Field::Ipv4 => 4,
            Field::Ipv6 | Field::Interface => 16,
        }
    }

    /// By which `nft` knows how to print it; the kernel only keeps it.
    fn data_type(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Interface => 41,
        }
    }
}

/// A set, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What its keys are made of: one, or several that are looked up together.
    pub fields: Vec<Field>,
    /// Its elements are ranges.
    pub ranges: bool,
    /// What is in it. Ranges of one field must not touch each other, see [`Set::insert_ranges`].
    pub elements: BTreeSet<Element>,
}

/// An element: for each field the first and the last value, which are equal unless the set is one of
/// ranges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element(pub Vec<(Vec<u8>, Vec<u8>)>);

impl Element {
    /// One interface.
    pub fn interface(name: &str) -> Element {
        Element(vec![interface(name)])
    }

    /// A range in each field; a part per field.
    pub fn of(parts: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Element {
        Element(parts.into_iter().collect())
    }
}

/// The part of an [`Element`] for an interface.
pub fn interface(name: &str) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(Field::Interface.length(), 0);
    (bytes.clone(), bytes)
}

/// The part of an [`Element`] for the prefix of this address and length.
pub fn prefix(address: IpAddr, length: u8) -> (Vec<u8>, Vec<u8>) {
    let mut first = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut last = first.clone();
    for (index, (low, high)) in first.iter_mut().zip(&mut last).enumerate() {
        let bits = u32::from(length).saturating_sub(index as u32 * 8).min(8);
        let host = 0xFF_u8.checked_shr(bits).unwrap_or(0);
        *low &= !host;
        *high |= host;
    }
    (first, last)
}

impl Set {
    /// An empty one.
    pub fn new(fields: &[Field], ranges: bool) -> Set {
        Set {
            fields: fields.to_vec(),
            ranges,
            elements: BTreeSet::new(),
        }
    }

    /// Puts ranges into a set of one field; those that overlap or touch become one, as the kernel
    /// wants them.
    pub fn insert_ranges(&mut self, ranges: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
        let old = std::mem::take(&mut self.elements);
        let mut all: Vec<(Vec<u8>, Vec<u8>)> = old.into_iter().flat_map(|it| it.0).collect();
        all.extend(ranges);
        all.sort_unstable();
        let mut joined: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (first, last) in all {
            match joined.last_mut() {
                Some((_, end)) if after(end).is_none_or(|after| first <= after) => {
                    *end = last.max(std::mem::take(end));
                }
                _ => joined.push((first, last)),
            }
        }
        self.elements = joined.into_iter().map(|it| Element(vec![it])).collect();
    }

    /// Everything but its elements is the same.
    pub fn is_like(&self, other: &Set) -> bool {
        self.fields == other.fields && self.ranges == other.ranges
    }

    fn is_concatenation(&self) -> bool {
        self.fields.len() > 1
    }

    fn flags(&self) -> u32 {
        let ranges = if self.ranges { INTERVAL } else { 0 };
        let concatenation = self.ranges && self.is_concatenation();
        ranges | if concatenation { CONCATENATION } else { 0 }
    }

    fn key_type(&self) -> u32 {
        let types = self.fields.iter();
        types.fold(0, |all, field| all << 6 | field.data_type())
    }

    fn key_length(&self) -> usize {
        self.fields.iter().map(|field| field.length()).sum()
    }

    /// The attributes of `NFT_MSG_NEWSET` beside table and name. `id` must differ from that of every
    /// other set of the transaction.
    pub(super) fn encode(&self, it: &mut Requests, id: u32) {
        it.number(3, self.flags());
        it.number(4, self.key_type());
        it.number(5, self.key_length() as u32);
        if self.flags() & CONCATENATION != 0 {
            // NFTA_SET_DESC, NFTA_SET_DESC_CONCAT, NFTA_SET_FIELD_LEN
            it.nft_nested(9, |it| {
                it.nft_nested(2, |it| {
                    for field in &self.fields {
                        it.nft_nested(LIST_ELEMENT, |it| it.number(1, field.length() as u32));
                    }
                });
            });
        }
        it.number(10, id);
        if self.fields == [Field::Interface] {
            // NFTA_SET_USERDATA. Without it `nft` prints names of interfaces as empty.
            let [a, b, c, d] = HOST_ORDER.to_ne_bytes();
            it.attribute(13, &[KEY_ORDER, 4, a, b, c, d]);
        }
    }

    /// Out of `NFT_MSG_NEWSET`, without elements; `None` when it is of a kind that is not known here.
    pub(super) fn decode(body: &[u8], skip: usize) -> Option<Set> {
        let flags = find_number(body, skip, 3).unwrap_or(0);
        let mut types = find_number(body, skip, 4)?;
        let mut fields = Vec::new();
        while types != 0 {
            let all = [Field::Ipv4, Field::Ipv6, Field::Interface];
            let is_it = |field: &Field| field.data_type() == types & 0x3F;
            fields.insert(0, all.into_iter().find(is_it)?);
            types >>= 6;
        }
        let set = Set {
            fields,
            ranges: flags & INTERVAL != 0,
            elements: BTreeSet::new(),
        };
        let length = find_number(body, skip, 5)? as usize;
        (flags == set.flags() && length == set.key_length()).then_some(set)
    }

    /// One element, as one or two elements of the kernel's list.
    pub(super) fn encode_element(&self, it: &mut Requests, element: &Element) {
        let firsts: Vec<u8> = element.0.iter().flat_map(|(it, _)| it.clone()).collect();
        let lasts: Vec<u8> = element.0.iter().flat_map(|(_, it)| it.clone()).collect();
        if !self.ranges {
            it.nft_nested(LIST_ELEMENT, |it| it.value(KEY, &firsts));
        } else if self.is_concatenation() {
            it.nft_nested(LIST_ELEMENT, |it| {
                it.value(KEY, &firsts);
                it.value(KEY_END, &lasts);
            });
        } else {
            it.nft_nested(LIST_ELEMENT, |it| it.value(KEY, &firsts));
            if let Some(after) = after(&lasts) {
                it.nft_nested(LIST_ELEMENT, |it| {
                    it.number(FLAGS, INTERVAL_END);
                    it.value(KEY, &after);
                });
            }
        }
    }

    /// Puts in what the kernel lists; false when something of it cannot be understood.
    pub(super) fn set_listed(&mut self, listed: Vec<Listed>) -> bool {
        match self.ranges && !self.is_concatenation() {
            true => self.set_bounds(listed),
            false => listed.into_iter().all(|it| self.insert_listed(&it)),
        }
    }

    fn insert_listed(&mut self, listed: &Listed) -> bool {
        let last = listed.last.as_ref().unwrap_or(&listed.key);
        let length = self.key_length();
        if listed.flags != 0 || listed.key.len() != length || last.len() != length {
            return false;
        }
        let mut at = 0;
        let parts = self.fields.iter().map(|field| {
            let place = at..at + field.length();
            at = place.end;
            (listed.key[place.clone()].to_vec(), last[place].to_vec())
        });
        let element = Element(parts.collect());
        self.elements.insert(element)
    }

    /// Where ranges begin and where they are over, in any order.
    fn set_bounds(&mut self, mut listed: Vec<Listed>) -> bool {
        // One that is over where the next one begins goes first.
        listed.sort_by(|a, b| (&a.key, b.flags).cmp(&(&b.key, a.flags)));
        let mut begun: Option<Vec<u8>> = None;
        for bound in listed {
            match (bound.flags, begun.take()) {
                (0, None) => begun = Some(bound.key),
                (INTERVAL_END, Some(first)) => {
                    let Some(last) = before(&bound.key) else {
                        return false;
                    };
                    self.elements.insert(Element(vec![(first, last)]));
                }
                // Nothing is over that has begun: so does the list of some versions of `nft`.
                (INTERVAL_END, None) => {}
                _ => return false,
            }
        }
        if let Some(first) = begun {
            let last = vec![0xFF; first.len()];
            self.elements.insert(Element(vec![(first, last)]));
        }
        true
    }
}

/// An element as the kernel lists it.
#[derive(Debug)]
pub(super) struct Listed {
    key: Vec<u8>,
    last: Option<Vec<u8>>,
    flags: u32,
}

impl Listed {
    pub(super) fn decode(element: &[u8]) -> Option<Listed> {
        Some(Listed {
            key: find_value(element, 0, KEY)?.to_vec(),
            last: find(element, 0, KEY_END)
                .and_then(|_| find_value(element, 0, KEY_END).map(<[u8]>::to_vec)),
            flags: find_number(element, 0, FLAGS).unwrap_or(0),
        })
    }
}

/// Which order the bytes of keys have, in what `nft` keeps with a set for itself: that of the host, as strings.
const KEY_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;
/// `NFT_SET_INTERVAL`, `NFT_SET_CONCAT`.
const INTERVAL: u32 = 0x4;
const CONCATENATION: u32 = 0x80;
/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_FLAGS`, `NFTA_SET_ELEM_KEY_END`.
const KEY: u16 = 1;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;

/// The next value; none after the last one.
fn after(value: &[u8]) -> Option<Vec<u8>> {
    step(value, 0xFF, 0x00, 1)
}

/// The value before; none before the first one.
fn before(value: &[u8]) -> Option<Vec<u8>> {
    step(value, 0x00, 0xFF, 0xFF)
}

/// Adds `by` to the last byte that is not `full`; those behind it become `empty`.
fn step(value: &[u8], full: u8, empty: u8, by: u8) -> Option<Vec<u8>> {
    let at = value.iter().rposition(|byte| *byte != full)?;
    let mut value = value.to_vec();
    value[at] = value[at].wrapping_add(by);
    value[at + 1..].fill(empty);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: [u8; 2], last: [u8; 2]) -> (Vec<u8>, Vec<u8>) {
        (first.to_vec(), last.to_vec())
    }

    #[test]
    fn a_prefix_is_the_range_of_its_addresses() {
        let cases = [
            ("10.64.3.7", 24, "10.64.3.0", "10.64.3.255"),
            ("10.64.3.7", 32, "10.64.3.7", "10.64.3.7"),
            ("10.64.3.7", 10, "10.64.0.0", "10.127.255.255"),
            ("10.64.3.7", 0, "0.0.0.0", "255.255.255.255"),
            ("fd00::7", 127, "fd00::6", "fd00::7"),
            ("fd00::7", 255, "fd00::7", "fd00::7"),
        ];
        for (address, length, first, last) in cases {
            let of = |text: &str| prefix(text.parse().expect("an address"), 128).0;
            let found = prefix(address.parse().expect("an address"), length);
            assert_eq!(found, (of(first), of(last)), "{address}/{length}");
        }
    }

    #[test]
    fn ranges_that_overlap_or_touch_become_one() {
        let mut set = Set::new(&[Field::Ipv4], true);
        set.insert_ranges([
            range([1, 0], [1, 255]),
            range([2, 0], [2, 7]),
            range([2, 9], [2, 9]),
            range([0, 5], [0, 6]),
        ]);
        set.insert_ranges([range([1, 3], [1, 4]), range([255, 255], [255, 255])]);
        let ranges: Vec<_> = set.elements.into_iter().flat_map(|it| it.0).collect();
        assert_eq!(
            ranges,
            [
                range([0, 5], [0, 6]),
                range([1, 0], [2, 7]),
                range([2, 9], [2, 9]),
                range([255, 255], [255, 255]),
            ]
        );
    }

    #[test]
    fn the_value_after_the_last_is_none_and_so_is_the_one_before_the_first() {
        assert_eq!(after(&[0, 255]), Some(vec![1, 0]));
        assert_eq!(after(&[255, 255]), None);
        assert_eq!(before(&[1, 0]), Some(vec![0, 255]));
        assert_eq!(before(&[0, 0]), None);
    }
}

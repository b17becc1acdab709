//! The attribute store: every set of path attributes is kept once, however many routes have it.
//!
//! A table of a million prefixes has about 170,000 sets. Each is kept as the block of bytes that an
//! UPDATE would hold, with the facts that the decision process and export ask for beside it, so
//! that neither has to decode it.

use hashbrown::HashTable;

use super::hops::{HopId, Hops};
use crate::attributes::{Attributes, NextHop};
use crate::codec::{decode_block, decode_next_hop, encode_block, encode_next_hop};
use crate::query::AttributeSets;
use crate::types::Community;

/// A set of path attributes in the store. Whoever keeps one holds a reference:
/// [`AttrStore::intern`] and [`AttrStore::retain`] give one, [`AttrStore::release`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttrId(u32);

impl AttrId {
    /// Stands for no set at all; it may be retained and released without effect.
    pub(crate) const NONE: AttrId = AttrId(u32::MAX);

    /// Whether it is a set.
    pub(crate) fn is_some(self) -> bool {
        self != AttrId::NONE
    }
}

/// What is asked of a set for every route that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// LOCAL_PREF, 100 where absent. RFC 4271 §9.1.1 leaves the default to us.
    pub(crate) local_pref: u32,
    /// MULTI_EXIT_DISC, 0 where absent. RFC 4271 §9.1.2.2 c.
    pub(crate) med: u32,
    /// First AS of AS_PATH, 0 where that is empty.
    pub(crate) neighbor_as: u32,
    /// ORIGINATOR_ID, 0 where absent.
    pub(crate) originator: u32,
    /// Where packets go.
    pub(crate) hop: HopId,
    /// ASes in AS_PATH.
    pub(crate) path_length: u16,
    /// Clusters in CLUSTER_LIST.
    pub(crate) cluster_length: u16,
    /// ORIGIN.
    pub(crate) origin: u8,
    /// Communities that mean something to us.
    pub(crate) known: KnownCommunities,
}

/// Which of the communities that mean something to us a set has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownCommunities(u8);

impl KnownCommunities {
    const NO_ADVERTISE: u8 = 1;
    const NO_EXPORT: u8 = 2;
    const LLGR_STALE: u8 = 4;
    const NO_LLGR: u8 = 8;

    fn of(communities: &[Community]) -> KnownCommunities {
        let bits = communities.iter().map(|community| match *community {
            Community::NO_ADVERTISE => Self::NO_ADVERTISE,
            // We are in no confederation.
            Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => Self::NO_EXPORT,
            Community::LLGR_STALE => Self::LLGR_STALE,
            Community::NO_LLGR => Self::NO_LLGR,
            _ => 0,
        });
        KnownCommunities(bits.fold(0, |all, bit| all | bit))
    }

    /// NO_ADVERTISE. RFC 1997.
    pub(crate) fn no_advertise(self) -> bool {
        self.0 & Self::NO_ADVERTISE != 0
    }

    /// NO_EXPORT, or NO_EXPORT_SUBCONFED. RFC 1997.
    pub(crate) fn no_export(self) -> bool {
        self.0 & Self::NO_EXPORT != 0
    }

    /// LLGR_STALE. RFC 9494.
    pub(crate) fn llgr_stale(self) -> bool {
        self.0 & Self::LLGR_STALE != 0
    }

    /// NO_LLGR. RFC 9494.
    pub(crate) fn no_llgr(self) -> bool {
        self.0 & Self::NO_LLGR != 0
    }
}

/// LOCAL_PREF of a route that has none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

struct Set {
    facts: Facts,
    /// References; 0: the place is free.
    refs: u32,
    /// Next hop in bytes with its length in front (0, 4, 16 or 32), then the attribute block.
    packed: Box<[u8]>,
}

/// The store.
pub(crate) struct AttrStore {
    sets: Vec<Set>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    scratch: Vec<u8>,
}

impl AttrStore {
    /// An empty store; `seed` makes its hashes unpredictable to those who send us attributes.
    pub(crate) fn new(seed: u64) -> AttrStore {
        AttrStore {
            sets: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            scratch: Vec::new(),
        }
    }

    /// The set with this content, with one more reference.
    pub(crate) fn intern(&mut self, attributes: &Attributes, hops: &mut Hops) -> AttrId {
        self.scratch.clear();
        encode_next_hop(attributes.next_hop.as_ref(), &mut self.scratch);
        encode_block(attributes, true, &mut self.scratch);
        let hash = self.hash(&self.scratch);
        let (sets, scratch) = (&self.sets, &self.scratch);
        let found = self
            .index
            .find(hash, |id| *sets[*id as usize].packed == **scratch);
        if let Some(&id) = found {
            self.sets[id as usize].refs += 1;
            return AttrId(id);
        }
        let set = Set {
            facts: facts(attributes, hops),
            refs: 1,
            packed: self.scratch.as_slice().into(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.sets[id as usize] = set;
                id
            }
            None => {
                self.sets.push(set);
                (self.sets.len() - 1) as u32
            }
        };
        let (sets, hasher) = (&self.sets, &self.hasher);
        self.index.insert_unique(hash, id, |id| {
            hash_bytes(hasher, &sets[*id as usize].packed)
        });
        AttrId(id)
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, id: AttrId) {
        if id.is_some() {
            self.sets[id.0 as usize].refs += 1;
        }
    }

    /// One reference fewer; the set goes with the last.
    pub(crate) fn release(&mut self, id: AttrId, hops: &mut Hops) {
        if !id.is_some() {
            return;
        }
        let set = &mut self.sets[id.0 as usize];
        set.refs -= 1;
        if set.refs > 0 {
            return;
        }
        let packed = std::mem::take(&mut set.packed);
        hops.release(set.facts.hop);
        let hash = self.hash(&packed);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        if self.index.is_empty() {
            self.sets = Vec::new();
            self.free = Vec::new();
            self.index = HashTable::new();
        }
    }

    /// What there is to know of a set without decoding it.
    pub(crate) fn facts(&self, id: AttrId) -> &Facts {
        &self.sets[id.0 as usize].facts
    }

    /// A set in full.
    pub(crate) fn attributes(&self, id: AttrId) -> Attributes {
        let (next_hop, block) = self.parts(id);
        Attributes {
            next_hop,
            ..decode_block(block)
        }
    }

    /// The next hop, and the attribute block: in canonical order, with 4-octet AS numbers, without
    /// next hop.
    pub(crate) fn parts(&self, id: AttrId) -> (Option<NextHop>, &[u8]) {
        let (next_hop, block) = split(&self.sets[id.0 as usize].packed);
        (
            decode_next_hop(next_hop.get(1..).unwrap_or_default()),
            block,
        )
    }

    /// Appends sets as they are kept, the first ones of `ids` until there are `enough` octets. How
    /// many it were.
    pub(crate) fn copy(&self, ids: &[AttrId], enough: usize, out: &mut AttributeSets) -> usize {
        // They lie anywhere in memory: found one after the other, they would be waited for one after
        // the other.
        let packed = ids.iter().map(|id| &*self.sets[id.0 as usize].packed);
        let packed: Vec<&[u8]> = packed.collect();
        let mut copied = 0;
        for packed in packed {
            if out.octets() >= enough {
                break;
            }
            let (next_hop, block) = split(packed);
            out.push(next_hop, block);
            copied += 1;
        }
        copied
    }

    /// How many sets there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    fn hash(&self, packed: &[u8]) -> u64 {
        hash_bytes(&self.hasher, packed)
    }
}

/// A hash of bytes; without the length prefix and terminator of `Hash for [u8]`.
pub(crate) fn hash_bytes(hasher: &foldhash::fast::FixedState, bytes: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = hasher.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

fn facts(attributes: &Attributes, hops: &mut Hops) -> Facts {
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    Facts {
        local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        med: attributes.med.unwrap_or(0),
        neighbor_as: attributes.as_path.first().map_or(0, |asn| asn.0),
        originator: attributes.originator_id.map_or(0, |id| u32::from(id.0)),
        hop: match &attributes.next_hop {
            Some(next_hop) => hops.intern(next_hop.address),
            None => HopId::NONE,
        },
        path_length: length(attributes.as_path.length() as usize),
        cluster_length: length(attributes.cluster_list.len()),
        origin: attributes.origin as u8,
        known: KnownCommunities::of(&attributes.communities),
    }
}

fn split(packed: &[u8]) -> (&[u8], &[u8]) {
    let length = packed.first().map_or(0, |length| 1 + usize::from(*length));
    packed.split_at(length)
}

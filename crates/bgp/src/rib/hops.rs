//! Next hops: which there are, how the kernel reaches them, and the sets in which they are used.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use super::table::SourceId;
use crate::engine::{NextHopSet, NextHopState, Output};

/// A next hop some attribute set names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HopId(u32);

impl HopId {
    /// No next hop: our own routes.
    pub(crate) const NONE: HopId = HopId(u32::MAX);
}

struct Hop {
    address: IpAddr,
    /// Attribute sets that name it.
    refs: u32,
    /// Whose candidates have it.
    users: SmallVec<[User; 1]>,
    /// How it is reached, once known; `None`: it is not.
    state: Option<NextHopState>,
    /// The kernel's side has answered.
    known: bool,
}

/// A source with candidates that have a next hop.
#[derive(Clone, Copy)]
struct User {
    source: SourceId,
    candidates: u32,
}

/// What the decision process asks of the way to a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Of the kernel's route.
    pub(crate) metric: u32,
    /// It is on a network of ours.
    pub(crate) connected: bool,
}

impl Way {
    /// That of our own routes.
    const OWN: Way = Way {
        metric: 0,
        connected: true,
    };
}

impl Hop {
    fn way(&self) -> Option<Way> {
        let state = self.state.as_ref()?;
        Some(Way {
            metric: state.metric,
            // A gateway that is its own gateway: an `onlink` route says that it is on the link.
            connected: state.via.is_none_or(|via| via == self.address),
        })
    }
}

/// All next hops. Those that candidates use are tracked through [`Output::TrackNextHop`].
#[derive(Default)]
pub(crate) struct Hops {
    hops: Vec<Hop>,
    free: Vec<u32>,
    by_address: HashMap<IpAddr, u32, FixedState>,
    /// How many are tracked of which nothing has been heard.
    unknown: usize,
    /// To be handed to the engine's outputs.
    pub(crate) outputs: Vec<Output>,
}

impl Hops {
    /// None; `seed` makes hashes unpredictable to those who send us next hops.
    pub(crate) fn new(seed: u64) -> Hops {
        Hops {
            by_address: HashMap::with_hasher(FixedState::with_seed(seed)),
            ..Hops::default()
        }
    }

    /// The next hop with this address, with one more reference.
    pub(crate) fn intern(&mut self, address: IpAddr) -> HopId {
        if let Some(&id) = self.by_address.get(&address) {
            self.hops[id as usize].refs += 1;
            return HopId(id);
        }
        let hop = Hop {
            address,
            refs: 1,
            users: SmallVec::new(),
            state: None,
            known: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.hops[id as usize] = hop;
                id
            }
            None => {
                self.hops.push(hop);
                (self.hops.len() - 1) as u32
            }
        };
        self.by_address.insert(address, id);
        HopId(id)
    }

    /// One reference fewer.
    pub(crate) fn release(&mut self, id: HopId) {
        if id == HopId::NONE {
            return;
        }
        let hop = &mut self.hops[id.0 as usize];
        hop.refs -= 1;
        if hop.refs == 0 {
            self.by_address.remove(&hop.address);
            self.free.push(id.0);
        }
    }

    /// A source has one more candidate with it: it is wanted to be known.
    pub(super) fn take(&mut self, id: HopId, source: SourceId) {
        if id == HopId::NONE {
            return;
        }
        let hop = &mut self.hops[id.0 as usize];
        if let Some(user) = hop.users.iter_mut().find(|user| user.source == source) {
            user.candidates += 1;
            return;
        }
        let candidates = 1;
        hop.users.push(User { source, candidates });
        if hop.users.len() == 1 {
            self.unknown += 1;
            self.outputs.push(Output::TrackNextHop(hop.address));
        }
    }

    /// A source has one candidate fewer with it.
    pub(super) fn give_back(&mut self, id: HopId, source: SourceId) {
        if id == HopId::NONE {
            return;
        }
        let hop = &mut self.hops[id.0 as usize];
        let Some(at) = hop.users.iter().position(|user| user.source == source) else {
            return; // each is taken before it is given back
        };
        hop.users[at].candidates -= 1;
        if hop.users[at].candidates > 0 {
            return;
        }
        hop.users.swap_remove(at);
        if hop.users.is_empty() {
            hop.state = None; // from now on nobody tells us
            self.unknown -= usize::from(!std::mem::take(&mut hop.known));
            self.outputs.push(Output::UntrackNextHop(hop.address));
        }
    }

    /// The kernel's word on an address. The next hop, when routes have to be decided again.
    pub(super) fn set_state(
        &mut self,
        address: IpAddr,
        state: Option<NextHopState>,
    ) -> Option<HopId> {
        let &id = self.by_address.get(&address)?;
        let hop = &mut self.hops[id as usize];
        if hop.users.is_empty() {
            return None; // an answer that crossed our UntrackNextHop
        }
        self.unknown -= usize::from(!std::mem::replace(&mut hop.known, true));
        let before = hop.way();
        hop.state = state;
        let changed = before != hop.way();
        changed.then_some(HopId(id))
    }

    /// Next hops that `source` has candidates with, and otherwise only sources that are `gone`.
    pub(super) fn only_of(&self, source: SourceId, gone: impl Fn(SourceId) -> bool) -> Vec<IpAddr> {
        let left = |hop: &&Hop| {
            let mut users = hop.users.iter();
            hop.users.iter().any(|user| user.source == source)
                && users.all(|user| user.source == source || gone(user.source))
        };
        self.hops
            .iter()
            .filter(left)
            .map(|hop| hop.address)
            .collect()
    }

    /// Sources that have candidates with it.
    pub(super) fn users(&self, id: HopId) -> impl Iterator<Item = SourceId> + '_ {
        self.hops[id.0 as usize]
            .users
            .iter()
            .map(|user| user.source)
    }

    /// Whether of each that candidates use it is known how it is reached, or that it is not.
    pub(crate) fn all_known(&self) -> bool {
        self.unknown == 0
    }

    /// The way to it; `None` while there is none.
    pub(crate) fn way(&self, id: HopId) -> Option<Way> {
        if id == HopId::NONE {
            return Some(Way::OWN);
        }
        self.hops[id.0 as usize].way()
    }

    /// The way to an address.
    pub(super) fn way_to(&self, address: IpAddr) -> Option<Way> {
        let &id = self.by_address.get(&address)?;
        self.hops[id as usize].way()
    }

    /// How it is reached.
    pub(crate) fn state(&self, address: IpAddr) -> Option<&NextHopState> {
        let &id = self.by_address.get(&address)?;
        self.hops[id as usize].state.as_ref()
    }

    /// Whether any attribute set names it.
    pub(crate) fn is_known(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// Its address; `None` for our own routes.
    pub(crate) fn address(&self, id: HopId) -> Option<IpAddr> {
        self.hops.get(id.0 as usize).map(|hop| hop.address)
    }
}

/// Addresses of next hops used together, sorted.
pub(crate) type HopList = SmallVec<[IpAddr; 1]>;

/// The next hops that a prefix's packets should take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct HopsWanted {
    pub(crate) hops: HopList,
    /// Once packets can go to none of `hops`.
    pub(crate) backups: HopList,
}

/// The sets of next hops that the kernel's side was told of, each with a number.
#[derive(Default)]
pub(crate) struct HopSets {
    sets: HashMap<u32, (Arc<NextHopSet>, u32), FixedState>,
    /// Those that may be used again.
    by_content: HashMap<HopsWanted, u32, FixedState>,
    /// Of these, those with several next hops, by each of them.
    by_hop: BTreeSet<(IpAddr, u32)>,
    last: u32,
}

impl HopSets {
    /// None; `seed` as of [`Hops::new`].
    pub(crate) fn new(seed: u64) -> HopSets {
        HopSets {
            by_content: HashMap::with_hasher(FixedState::with_seed(seed)),
            ..HopSets::default()
        }
    }

    /// The number of a set, with one more prefix that uses it; 0 for the empty one.
    pub(crate) fn intern(&mut self, wanted: HopsWanted) -> u32 {
        if wanted.hops.is_empty() {
            return 0;
        }
        if let Some(&id) = self.by_content.get(&wanted) {
            if let Some((_, uses)) = self.sets.get_mut(&id) {
                *uses += 1;
            }
            return id;
        }
        // The kernel's side may still hold a set that we have forgotten: no number comes back
        // before 2³² others.
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && !self.sets.contains_key(&self.last) {
                break;
            }
        }
        let set = Arc::new(NextHopSet {
            id: self.last,
            hops: wanted.hops.to_vec(),
            backups: wanted.backups.to_vec(),
        });
        if set.hops.len() + set.backups.len() > 1 {
            let hops = set.hops.iter().chain(&set.backups);
            self.by_hop.extend(hops.map(|hop| (*hop, self.last)));
        }
        self.sets.insert(self.last, (set, 1));
        self.by_content.insert(wanted, self.last);
        self.last
    }

    /// Sets with these next hops and others are not used for another prefix, nor told again: the
    /// kernel's side takes the next hops out of them. Gives the number of the newest set.
    pub(super) fn retire(&mut self, hops: &[IpAddr]) -> u32 {
        for hop in hops {
            let of_hop = self.by_hop.range((*hop, 0)..=(*hop, u32::MAX));
            for id in of_hop.map(|(_, id)| *id).collect::<Vec<_>>() {
                if let Some((set, _)) = self.sets.get(&id) {
                    let set = set.clone();
                    self.forget(&set);
                }
            }
        }
        self.last
    }

    /// No other prefix gets this set.
    fn forget(&mut self, set: &NextHopSet) {
        let content = HopsWanted {
            hops: HopList::from_slice(&set.hops),
            backups: HopList::from_slice(&set.backups),
        };
        if self.by_content.get(&content) == Some(&set.id) {
            self.by_content.remove(&content);
        }
        for hop in set.hops.iter().chain(&set.backups) {
            self.by_hop.remove(&(*hop, set.id));
        }
    }

    /// One prefix fewer uses it.
    pub(crate) fn release(&mut self, id: u32) {
        let Some((set, uses)) = self.sets.get_mut(&id) else {
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            let set = set.clone();
            self.sets.remove(&id);
            self.forget(&set);
        }
    }

    /// A set by its number; `None` for 0.
    pub(crate) fn get(&self, id: u32) -> Option<&Arc<NextHopSet>> {
        self.sets.get(&id).map(|(set, _)| set)
    }
}

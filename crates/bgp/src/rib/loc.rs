//! The Loc-RIB of one family: paths come and go, the best is chosen, and whoever must hear of a
//! change (the kernel's side, the update groups) gets the prefix's slot put into its queue, once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Shared;
use super::adj_out::{Group, Out};
use super::attrs::AttrId;
use super::decision::{self, Candidate, Place};
use super::hops::{HopList, HopsWanted};
use super::jobs::Job;
use super::paged::{BitSet, Paged};
use super::table::{Fate, Key, NIL, Path, SourceId, Table};
use crate::config::Source;
use crate::engine::FibChange;
use crate::query::Refusal;

/// The best route of a prefix, as far as others care.
pub(super) type Chosen = Option<(SourceId, AttrId)>;

/// A peer sends all of its routes again. RFC 7313 §4.
///
/// What it *has* said is noted, not what it has not: so its beginning costs nothing, however often
/// a peer begins.
#[derive(Default)]
pub(crate) struct Refreshing {
    /// Slots it has said since it began; `None`: it has said that it is done.
    pub(super) said: Option<BitSet>,
    /// Slots it had said when it was done, or has said since: the others of its routes are on their
    /// way out. `None`: they are gone.
    pub(super) kept: Option<BitSet>,
    /// It was done once more while they were removed.
    pub(super) again: bool,
}

/// One family's tables.
pub(crate) struct FamilyRib<P: Key> {
    /// Adj-RIB-In and Loc-RIB.
    pub(crate) table: Table<P>,
    /// Slots whose forwarding may have changed.
    pub(super) fib: VecDeque<u32>,
    /// Adj-RIBs-Out.
    pub(crate) groups: Vec<Option<Group<P>>>,
    /// Adj-RIBs-Out of groups without members, which are let go of piece by piece.
    pub(super) given_up: VecDeque<Paged<Out>>,
    /// Slots without paths, to be freed once nobody speaks of them.
    pub(super) dying: Vec<u32>,
    /// Work put off.
    pub(super) jobs: VecDeque<Job>,
    /// Peers that send all of their routes again.
    pub(crate) refreshing: HashMap<SourceId, Refreshing>,
    /// Slots whose routes are kept for longer than the restart time of the peers they are from.
    /// RFC 9494.
    pub(super) long_lived: HashMap<SourceId, BitSet>,
    /// Our own routes, with the advertisements that ask for them.
    pub(crate) originated: BTreeMap<P, Vec<Arc<str>>>,
    /// Our own subnets.
    pub(crate) own_subnets: Vec<P>,
    /// Prefixes with a best route.
    pub(crate) best: u64,
    /// Nothing goes out yet, neither to the kernel's side nor to a peer. RFC 4724 §4.1.
    pub(crate) deferred: bool,
}

impl<P: Key> FamilyRib<P> {
    /// Empty tables.
    pub(crate) fn new() -> FamilyRib<P> {
        FamilyRib {
            table: Table::new(),
            fib: VecDeque::new(),
            groups: Vec::new(),
            given_up: VecDeque::new(),
            dying: Vec::new(),
            jobs: VecDeque::new(),
            refreshing: HashMap::new(),
            long_lived: HashMap::new(),
            originated: BTreeMap::new(),
            own_subnets: Vec::new(),
            best: 0,
            deferred: false,
        }
    }

    /// A source says that it has this route. The sets' references stay the caller's.
    pub(crate) fn announce(
        &mut self,
        shared: &mut Shared,
        slot: u32,
        source: SourceId,
        received: AttrId,
        accepted: Result<AttrId, Refusal>,
    ) {
        let before = self.chosen(slot);
        let (accepted, fate) = match accepted {
            // Until it is decided; that is where the next hop is looked at.
            Ok(accepted) => (accepted, Fate::Refused(Refusal::NextHopUnresolved)),
            Err(refusal) => (AttrId::NONE, Fate::Refused(refusal)),
        };
        let found = self.table.path_of(slot, source);
        if let Some(index) = found {
            let old = &self.table.paths[index];
            let same_fate = accepted.is_some() || old.fate == fate;
            if old.received == received && old.accepted == accepted && same_fate {
                return; // said again
            }
        }
        shared.attrs.retain(received);
        shared.attrs.retain(accepted);
        if accepted.is_some() {
            let hop = shared.attrs.facts(accepted).hop;
            shared.hops.take(hop, source);
        }
        let path = Path {
            received,
            accepted,
            next: NIL,
            since: shared.clock,
            source,
            fate,
        };
        match found {
            Some(index) => {
                let place = &mut self.table.paths[index];
                let old = *place;
                // A changed policy does not make a route younger.
                let since = match old.received == received {
                    true => old.since,
                    false => path.since,
                };
                *place = Path {
                    next: old.next,
                    since,
                    ..path
                };
                self.count(shared, &old, false);
                if old.fate == Fate::Multipath {
                    self.queue_fib(slot);
                }
            }
            None => {
                self.table.add_path(slot, path);
            }
        }
        self.count(shared, &path, true);
        self.decide(shared, slot, before);
    }

    /// A source takes its route back.
    pub(super) fn withdraw(&mut self, shared: &mut Shared, slot: u32, source: SourceId) {
        let Some(index) = self.table.path_of(slot, source) else {
            return;
        };
        self.is_young_again(source, slot);
        let before = self.chosen(slot);
        let old = self.table.remove_path(slot, index);
        self.count(shared, &old, false);
        if old.fate == Fate::Multipath {
            self.queue_fib(slot);
        }
        self.decide(shared, slot, before);
        self.mourn(slot);
    }

    /// Notes a prefix that has no paths any more.
    pub(super) fn mourn(&mut self, slot: u32) {
        let entry = &mut self.table.entries[slot];
        if entry.head == NIL && !entry.dying {
            entry.dying = true;
            self.dying.push(slot);
        }
    }

    /// Counts a path that came, or one that went and its references with it.
    fn count(&mut self, shared: &mut Shared, path: &Path, came: bool) {
        let step = |count: &mut u64| {
            *count = if came { *count + 1 } else { *count - 1 };
        };
        if let Some(counts) = shared.counts(path.source, P::FAMILY) {
            step(&mut counts.received);
            if path.accepted.is_some() {
                step(&mut counts.accepted);
            }
        }
        if !came {
            if path.accepted.is_some() {
                let hop = shared.attrs.facts(path.accepted).hop;
                shared.hops.give_back(hop, path.source);
            }
            shared.attrs.release(path.accepted, &mut shared.hops);
            shared.attrs.release(path.received, &mut shared.hops);
        }
    }

    /// The best route of a prefix now.
    pub(super) fn chosen(&self, slot: u32) -> Chosen {
        self.table
            .best(slot)
            .map(|path| (path.source, path.accepted))
    }

    /// Chooses the best route of a prefix, `before` being the one so far, and tells of a change.
    pub(super) fn decide(&mut self, shared: &mut Shared, slot: u32, before: Chosen) {
        let head = self.table.entries[slot].head;
        let mut several = false;
        if head != NIL && self.table.paths[head].next == NIL {
            self.decide_single(shared, head);
        } else if head != NIL {
            several = self.decide_among(shared, slot, before);
        }
        let after = self.chosen(slot);
        if before != after {
            self.count_best(shared, before, after);
            for group in self.groups.iter_mut().flatten() {
                group.touch(slot, &mut shared.wake);
            }
            if shared.watched {
                shared.changed.push(self.table.prefix(slot).into());
            }
        }
        // Another path may have become the second best.
        if several || before != after || shared.decision.backup_paths {
            self.queue_fib(slot);
        }
    }

    fn decide_single(&mut self, shared: &Shared, index: u32) {
        let path = &mut self.table.paths[index];
        if path.accepted.is_some() {
            path.fate = match usable(shared, path) {
                Ok(_) => Fate::Best,
                Err(refusal) => Fate::Refused(refusal),
            };
        }
    }

    /// RFC 4271 §9.1.2 for a prefix with several paths. Whether several of them are, or were, used
    /// together.
    fn decide_among(&mut self, shared: &Shared, slot: u32, before: Chosen) -> bool {
        let mut indices: SmallVec<[u32; 8]> = SmallVec::new();
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        let mut several = false;
        let mut next = self.table.entries[slot].head;
        while next != NIL {
            let path = &mut self.table.paths[next];
            several |= path.fate == Fate::Multipath;
            if path.accepted.is_some() {
                let incumbent = before.is_some_and(|(source, _)| source == path.source);
                match usable(shared, path) {
                    Ok(metric) => {
                        indices.push(next);
                        candidates.push(candidate(shared, path, metric, incumbent));
                    }
                    Err(refusal) => path.fate = Fate::Refused(refusal),
                }
            }
            next = path.next;
        }
        let places = decision::decide(&candidates, &shared.decision);
        let mut best = None;
        for (index, place) in indices.into_iter().zip(places) {
            self.table.paths[index].fate = match place {
                Place::Best => {
                    best = Some(index);
                    Fate::Best
                }
                Place::Multipath => {
                    several = true;
                    Fate::Multipath
                }
                Place::Lost { step, .. } => Fate::Lost(step),
            };
        }
        if let Some(best) = best {
            self.table.move_to_front(slot, best);
        }
        several
    }

    fn count_best(&mut self, shared: &mut Shared, before: Chosen, after: Chosen) {
        if let Some(counts) = before.and_then(|(source, _)| shared.counts(source, P::FAMILY)) {
            counts.best -= 1;
        }
        if let Some(counts) = after.and_then(|(source, _)| shared.counts(source, P::FAMILY)) {
            counts.best += 1;
        }
        self.best += u64::from(after.is_some());
        self.best -= u64::from(before.is_some());
    }

    pub(super) fn queue_fib(&mut self, slot: u32) {
        let entry = &mut self.table.entries[slot];
        if !entry.fib_queued {
            entry.fib_queued = true;
            self.fib.push_back(slot);
        }
    }

    /// How many prefixes wait for the kernel's side and could go there.
    pub(crate) fn fib_pending(&self) -> usize {
        if self.deferred { 0 } else { self.fib.len() }
    }

    /// Appends changes for the kernel's side until `out` holds `max`.
    pub(crate) fn poll_fib(&mut self, shared: &mut Shared, max: usize, out: &mut Vec<FibChange>) {
        if self.deferred {
            return;
        }
        while out.len() < max {
            let Some(slot) = self.fib.pop_front() else {
                // A burst's memory is not kept for the next one.
                self.fib = VecDeque::new();
                return;
            };
            let wanted = shared.sets.intern(self.hops_wanted(shared, slot));
            let entry = &mut self.table.entries[slot];
            entry.fib_queued = false;
            let told = std::mem::replace(&mut entry.fib, wanted);
            shared.sets.release(told);
            if told != wanted {
                out.push(FibChange {
                    prefix: self.table.prefix(slot).into(),
                    next_hops: shared.sets.get(wanted).cloned(),
                });
            }
        }
    }

    /// The next hops that a prefix's packets should take; none for our own routes.
    fn hops_wanted(&self, shared: &Shared, slot: u32) -> HopsWanted {
        let mut hops: HopList = self
            .table
            .paths(slot)
            .filter(|(_, path)| matches!(path.fate, Fate::Best | Fate::Multipath))
            .filter_map(|(_, path)| shared.hops.address(shared.attrs.facts(path.accepted).hop))
            .collect();
        hops.sort_unstable();
        hops.dedup();
        let backups = match &hops[..] {
            [only] if shared.decision.backup_paths => self.second(shared, slot, *only),
            _ => HopList::new(),
        };
        HopsWanted { hops, backups }
    }

    /// The next hop of the best among those candidates that have another one than `first`.
    fn second(&self, shared: &Shared, slot: u32, first: IpAddr) -> HopList {
        let mut hops: SmallVec<[IpAddr; 8]> = SmallVec::new();
        let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
        for (_, path) in self.table.paths(slot).skip(1) {
            if path.accepted.is_some()
                && let Ok(metric) = usable(shared, path)
                && let Some(hop) = shared.hops.address(shared.attrs.facts(path.accepted).hop)
                && hop != first
            {
                hops.push(hop);
                candidates.push(candidate(shared, path, metric, false));
            }
        }
        let places = decision::decide(&candidates, &shared.decision);
        let best = places.iter().position(|place| *place == Place::Best);
        best.map(|index| hops[index]).into_iter().collect()
    }

    /// Whether the kernel's side keeps the next hop of this path ready for a prefix.
    pub(crate) fn is_backup(&self, shared: &Shared, slot: u32, path: &Path) -> bool {
        let told = shared.sets.get(self.table.entries[slot].fib);
        let backups = told.map_or(&[][..], |set| &set.backups);
        let hop = || shared.hops.address(shared.attrs.facts(path.accepted).hop);
        !backups.is_empty()
            && matches!(path.fate, Fate::Lost(_))
            && hop().is_some_and(|hop| backups.contains(&hop))
    }

    /// The candidates of a prefix with the numbers of their paths, as the decision process saw them.
    pub(crate) fn candidates(&self, shared: &Shared, slot: u32) -> Vec<(u32, Candidate)> {
        let before = self.chosen(slot);
        let usable = self.table.paths(slot).filter_map(|(index, path)| {
            let metric = path
                .accepted
                .is_some()
                .then(|| usable(shared, path).ok())??;
            let incumbent = before.is_some_and(|(source, _)| source == path.source);
            Some((index, candidate(shared, path, metric, incumbent)))
        });
        usable.collect()
    }
}

/// The metric to a path's next hop, or why packets cannot be sent there.
///
/// A next hop that a directly connected eBGP peer names must be on a network of ours, as RFC 4271
/// §5.1.3 has it: else, once the link to the peer is gone, the default route would seem to lead
/// there. One that import policy has set is the operator's.
fn usable(shared: &Shared, path: &Path) -> Result<u32, Refusal> {
    let origin = shared.source(path.source);
    if origin.is_none_or(|origin| origin.gone) {
        return Err(Refusal::SessionDown);
    }
    let hop = shared.attrs.facts(path.accepted).hop;
    let way = shared.hops.way(hop).ok_or(Refusal::NextHopUnresolved)?;
    let must_be = || {
        let connected = origin.is_some_and(|origin| origin.connected);
        connected && hop == shared.attrs.facts(path.received).hop
    };
    if !way.connected && must_be() {
        return Err(Refusal::NextHopNotConnected);
    }
    Ok(way.metric)
}

fn candidate(shared: &Shared, path: &Path, igp_metric: u32, incumbent: bool) -> Candidate {
    let facts = shared.attrs.facts(path.accepted);
    let origin = shared.source(path.source);
    let router_id = origin.map_or(0, |origin| u32::from(origin.router_id.0));
    Candidate {
        source: origin.map_or(Source::Local, |origin| origin.kind),
        long_lived_stale: facts.known.llgr_stale() && origin.is_some_and(|o| o.long_lived),
        local_pref: facts.local_pref,
        path_length: facts.path_length,
        origin: facts.origin,
        med: facts.med,
        neighbor_as: facts.neighbor_as,
        igp_metric,
        incumbent,
        router_id: if facts.originator == 0 {
            router_id
        } else {
            facts.originator
        },
        cluster_length: facts.cluster_length,
        peer_address: origin.map_or(IpAddr::V4(0.into()), |origin| origin.address),
    }
}

//! Adj-RIB-Out: what the peers have been told, and what they have yet to be told.
//!
//! Peers for which everything that decides about it is equal form an *update group*. The group has
//! one Adj-RIB-Out, asks export policy once, and has its UPDATEs made once:
//!
//! ```text
//! best route changed ──► tail: slots, each once ──► batch: bytes, shared ──► every member
//!                                                     │ too many kept            ▲
//!                                                     └──► a slow member's `dirty` slots, each once
//! ```
//!
//! A batch is made when a member that has been told everything before asks for more; so a burst of
//! changes of one prefix costs one message. Batches are kept until every member has taken them, but
//! only up to [`KEPT`] octets, and as many prefixes as the table has: for a member that is slower, the slots of a batch that goes are noted
//! in a set of its own, and it is told their present state when it asks. It is this set, too, that
//! brings a new member up to date, and a member for which a batch is not right: the peer that a
//! route came from. What a member has been told is a bit per prefix, so that nothing is withdrawn
//! from it that it does not have.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::changes::Changes;
use super::Shared;
use super::attrs::AttrId;
use super::export::{Change, Export, Rules};
use super::loc::FamilyRib;
use super::paged::{BitSet, Paged};
use super::table::{Key, NIL, SourceId, Table};
use crate::types::PeerId;

mod changes;
mod encode;
mod make;
mod tell;

/// Most slots looked at for one batch.
const BATCH_SLOTS: usize = 2048;
/// Batches, or parts of the table, looked at for one piece of bytes.
const ROUNDS: usize = 32;
/// Octets after which a batch is closed.
const BATCH_OCTETS: usize = 32 * 1024;
/// Pages of an Adj-RIB-Out let go of in one turn.
const PAGES_PER_TURN: usize = 8;
/// Octets of batches kept for slow members of a group.
const KEPT: usize = 1024 * 1024;

/// What the members of a group are to be told of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    /// The attributes as accepted; `NONE`: the prefix is not advertised.
    pub(crate) set: AttrId,
    /// Whose route it is: that peer alone is not told.
    pub(crate) source: SourceId,
    /// What is done to the attributes: an index into the group's changes.
    pub(crate) change: u16,
}

const NOT_ADVERTISED: Out = Out {
    set: AttrId::NONE,
    source: SourceId::LOCAL,
    change: 0,
};

/// An update group of one family.
pub(crate) struct Group<P: Key> {
    /// What its members have in common.
    pub(crate) export: Arc<Export>,
    /// The rules behind that.
    pub(crate) rules: Arc<Rules>,
    /// Adj-RIB-Out, by slot.
    out: Paged<Out>,
    /// What `Out::change` means.
    changes: Changes,
    /// Slots whose best route changed; `queued` has the same ones.
    tail: VecDeque<u32>,
    queued: BitSet,
    /// The table has yet to be looked at from this slot on.
    scan: Option<u32>,
    /// Made and not yet taken by all; `first_batch` numbers the first of them.
    batches: VecDeque<Batch>,
    first_batch: u64,
    kept: usize,
    kept_slots: usize,
    members: Vec<Member>,
    family: std::marker::PhantomData<P>,
}

/// UPDATEs and what they say.
struct Batch {
    bytes: Bytes,
    /// Slots announced, then slots withdrawn.
    slots: Box<[u32]>,
    announced: usize,
    /// Peers whose own routes are among those announced.
    origins: Vec<PeerId>,
}

/// A peer of a group, and how far it has been told.
pub(crate) struct Member {
    /// Which.
    pub(crate) peer: PeerId,
    /// The next batch.
    cursor: u64,
    /// What the peer has.
    pub(crate) told: BitSet,
    /// Slots whose present state it has to be told.
    dirty: BitSet,
    /// Everything has to be told from this slot on.
    dump: Option<u32>,
    /// While that goes on: leave out what it has been told since it joined.
    only_missing: bool,
    /// It was told everything of the beginning.
    pub(crate) end_of_rib_sent: bool,
    refresh: Refresh,
    /// It waits for us, and not we for it.
    asleep: bool,
}

/// Where we are in sending everything again. RFC 7313 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    None,
    /// The beginning has yet to be marked.
    Begin,
    /// The end has yet to be marked.
    Running,
}

impl<P: Key> Group<P> {
    fn new(export: Export, rules: Rules) -> Group<P> {
        Group {
            export: Arc::new(export),
            rules: Arc::new(rules),
            out: Paged::new(NOT_ADVERTISED),
            changes: Changes::new(),
            tail: VecDeque::new(),
            queued: BitSet::default(),
            scan: Some(0),
            batches: VecDeque::new(),
            first_batch: 0,
            kept: 0,
            kept_slots: 0,
            members: Vec::new(),
            family: std::marker::PhantomData,
        }
    }

    /// The best route of a slot changed.
    pub(super) fn touch(&mut self, slot: u32, wake: &mut Vec<PeerId>) {
        if self.queued.insert(slot) {
            self.tail.push_back(slot);
            if self.tail.len() == 1 {
                self.wake(wake);
            }
        }
    }

    /// Everybody has something to be told.
    fn wake(&mut self, wake: &mut Vec<PeerId>) {
        for member in &mut self.members {
            if std::mem::take(&mut member.asleep) {
                wake.push(member.peer);
            }
        }
    }

    /// What the members are to be told of a slot: a set, and the number and content of the change
    /// made to it.
    pub(crate) fn out(&self, slot: u32) -> Option<(AttrId, u16, &Change)> {
        let out = self.out.get(slot);
        let change = self.changes.get(out.change)?;
        out.set.is_some().then_some((out.set, out.change, change))
    }

    /// A member.
    pub(crate) fn member(&self, peer: PeerId) -> Option<&Member> {
        self.members.iter().find(|member| member.peer == peer)
    }

    fn member_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.peer == peer)
    }

    /// Octets of batches kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    fn end(&self) -> u64 {
        self.first_batch + self.batches.len() as u64
    }

    /// Prefixes of which a member has yet to be told the present state, at most; prefixes not
    /// looked at yet count as well.
    pub(crate) fn pending(&self, table: &Table<P>, peer: PeerId) -> usize {
        let Some(member) = self.member(peer) else {
            return 0;
        };
        let from = member.cursor.saturating_sub(self.first_batch) as usize;
        let batches = self.batches.iter().skip(from);
        let ahead = |slot: Option<u32>| slot.map_or(0, |slot| table.entries.end() - slot) as usize;
        batches.map(|batch| batch.slots.len()).sum::<usize>()
            + self.tail.len()
            + member.dirty.len()
            + ahead(self.scan)
            + ahead(member.dump)
    }

    /// Whether a member has yet to be told of a slot.
    pub(crate) fn is_pending(&self, member: &Member, slot: u32) -> bool {
        let from = member.cursor.saturating_sub(self.first_batch) as usize;
        let mut batches = self.batches.iter().skip(from);
        self.queued.contains(slot)
            || member.dirty.contains(slot)
            || self.scan.is_some_and(|at| at <= slot)
            || member.dump.is_some_and(|at| at <= slot)
            || batches.any(|batch| batch.slots.contains(&slot))
    }

    /// Whether anybody would be confused if the slot meant another prefix from now on.
    fn holds(&self, slot: u32) -> bool {
        self.out.get(slot).set.is_some()
            || self.queued.contains(slot)
            || self.members.iter().any(|member| member.told.contains(slot))
    }

    /// Gives up batches that all members have taken.
    fn drop_taken(&mut self) {
        let end = self.end();
        let taken = self.members.iter().map(|m| m.cursor).min().unwrap_or(end);
        while self.first_batch < taken {
            self.drop_first();
        }
    }

    /// Gives up the first batch; whoever has not taken it is told its slots' state later.
    fn drop_first(&mut self) {
        let Some(batch) = self.batches.pop_front() else {
            return;
        };
        self.kept -= batch.bytes.len();
        self.kept_slots -= batch.slots.len();
        for member in &mut self.members {
            if member.cursor == self.first_batch {
                member.cursor += 1;
                for slot in &batch.slots {
                    member.dirty.insert(*slot);
                }
            }
        }
        self.first_batch += 1;
    }

    /// The members are told something else of a slot, or nothing, from now on.
    fn set_out(&mut self, shared: &mut Shared, slot: u32, new: Out) {
        if new.set.is_some() {
            shared.attrs.retain(new.set);
            self.changes.retain(new.change);
        }
        let old = std::mem::replace(self.out.slot(slot), new);
        if old.set.is_some() {
            shared.attrs.release(old.set, &mut shared.hops);
            self.changes.release(old.change);
        }
    }
}

impl<P: Key> FamilyRib<P> {
    /// A peer is to be told our routes from now on. `told`: what it has been told already, by
    /// another group.
    pub(crate) fn join(
        &mut self,
        shared: &mut Shared,
        peer: PeerId,
        export: Export,
        rules: Rules,
        told: Option<Member>,
    ) {
        let known = |group: &Group<P>| *group.export == export;
        let found = self
            .groups
            .iter()
            .position(|g| g.as_ref().is_some_and(known));
        let fresh = found.is_none();
        let index = found.unwrap_or_else(|| {
            let free = self.groups.iter().position(Option::is_none);
            let index = free.unwrap_or_else(|| {
                self.groups.push(None);
                self.groups.len() - 1
            });
            self.groups[index] = Some(Group::new(export, rules));
            index
        });
        let Some(group) = &mut self.groups[index] else {
            return; // it was made above
        };
        let moved = told.is_some();
        let (told, end_of_rib_sent) = match told {
            Some(member) => (member.told, member.end_of_rib_sent),
            None => (BitSet::default(), false),
        };
        group.members.push(Member {
            peer,
            cursor: group.end(),
            told,
            dirty: BitSet::default(),
            // A group that begins tells everything by itself, but for what has to be taken back.
            dump: (!fresh || moved).then_some(0),
            only_missing: fresh,
            end_of_rib_sent,
            refresh: Refresh::None,
            asleep: false,
        });
        shared.wake.push(peer);
    }

    /// A peer is told nothing more. What it has been told, where it was told anything.
    pub(crate) fn leave(&mut self, peer: PeerId) -> Option<Member> {
        let (index, place) = self.groups.iter().enumerate().find_map(|(index, group)| {
            let members = &group.as_ref()?.members;
            let place = members.iter().position(|member| member.peer == peer)?;
            Some((index, place))
        })?;
        let group = self.groups[index].as_mut()?;
        let member = group.members.swap_remove(place);
        group.drop_taken();
        if group.members.is_empty()
            && let Some(group) = self.groups[index].take()
        {
            self.given_up.push_back(group.out);
        }
        Some(member)
    }

    /// Lets go of a piece of what groups without members were to tell.
    pub(crate) fn let_go(&mut self, shared: &mut Shared) {
        for _ in 0..PAGES_PER_TURN {
            let Some(out) = self.given_up.front_mut() else {
                return;
            };
            let Some(page) = out.pop_page() else {
                self.given_up.pop_front();
                continue;
            };
            for out in page.iter() {
                shared.attrs.release(out.set, &mut shared.hops);
            }
        }
    }

    /// The group of a peer.
    pub(crate) fn group_of(&self, peer: PeerId) -> Option<&Group<P>> {
        let mut groups = self.groups.iter().flatten();
        groups.find(|group| group.member(peer).is_some())
    }

    /// The rules of all groups may have changed.
    pub(crate) fn change_rules(&mut self, shared: &mut Shared, rules: impl Fn(&Export) -> Rules) {
        for group in self.groups.iter_mut().flatten() {
            let rules = rules(&group.export);
            if *group.rules != rules {
                group.rules = Arc::new(rules);
                group.scan = Some(0);
                group.wake(&mut shared.wake);
            }
        }
    }

    /// Every peer may have to be told otherwise than before.
    pub(crate) fn look_again(&mut self, shared: &mut Shared) {
        for group in self.groups.iter_mut().flatten() {
            group.scan = Some(0);
            group.wake(&mut shared.wake);
        }
    }

    /// A slot of ours is advertised otherwise than before.
    pub(crate) fn touch_all(&mut self, shared: &mut Shared, slot: u32) {
        for group in self.groups.iter_mut().flatten() {
            group.touch(slot, &mut shared.wake);
        }
    }

    /// The peer asked for all of our routes again, or a person asked us to send them.
    /// RFC 2918, RFC 7313.
    pub(crate) fn refresh(&mut self, shared: &mut Shared, peer: PeerId, mark: bool) {
        for group in self.groups.iter_mut().flatten() {
            if let Some(member) = group.member_mut(peer) {
                member.dump = Some(0);
                member.only_missing = false;
                if mark {
                    member.refresh = Refresh::Begin;
                }
                member.asleep = false;
                shared.wake.push(peer);
            }
        }
    }

    /// Appends UPDATEs for a peer until `buf` holds `limit` octets, or as many as a bounded piece of
    /// work gives, perhaps none. False: it has been told all.
    pub(crate) fn poll_updates(
        &mut self,
        shared: &mut Shared,
        peer: PeerId,
        buf: &mut BytesMut,
        limit: usize,
    ) -> bool {
        if self.deferred {
            return false; // `end_deferral` tells that there is something
        }
        let Some(index) = self.groups.iter().position(|group| {
            let members = group.as_ref().map(|group| &group.members);
            members.is_some_and(|m| m.iter().any(|member| member.peer == peer))
        }) else {
            return false;
        };
        // A table of which nothing may be told gives no bytes and is a lot of work all the same.
        for _ in 0..ROUNDS {
            if buf.len() >= limit {
                break;
            }
            let Some(group) = &mut self.groups[index] else {
                return false;
            };
            if group.take_batch(peer, buf) || group.tell_dirty(shared, &self.table, peer, buf) {
                continue;
            }
            if !group.tail.is_empty() || group.scan.is_some() {
                group.make_batch(shared, &self.table, &self.originated);
                continue;
            }
            if group.finish(peer, buf) {
                return false;
            }
        }
        true
    }

    /// What was chosen goes out from now on.
    pub(crate) fn end_deferral(&mut self, shared: &mut Shared) {
        self.deferred = false;
        for member in self
            .groups
            .iter_mut()
            .flatten()
            .flat_map(|group| &mut group.members)
        {
            member.asleep = false;
            shared.wake.push(member.peer);
        }
    }

    /// Frees slots of prefixes that nobody speaks of any more.
    pub(crate) fn bury(&mut self) {
        // A batch names slots: none may be under way that was made when a slot meant something else.
        for group in self.groups.iter_mut().flatten() {
            while !group.batches.is_empty() {
                group.drop_first();
            }
        }
        for slot in std::mem::take(&mut self.dying) {
            let entry = self.table.entries[slot];
            let held = self.groups.iter().flatten().any(|group| group.holds(slot));
            if entry.head != NIL {
                self.table.entries[slot].dying = false;
            } else if held || entry.fib != 0 || entry.fib_queued {
                self.dying.push(slot);
            } else {
                let groups = self.groups.iter_mut().flatten();
                for member in groups.flat_map(|group| &mut group.members) {
                    member.dirty.remove(slot); // it has nothing that could be taken back
                }
                self.table.forget(slot);
            }
        }
    }

    /// How many prefixes wait to be freed.
    pub(crate) fn dying(&self) -> usize {
        self.dying.len()
    }
}

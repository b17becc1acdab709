//! What one member is told: batches where they are right for it, else what is noted for it alone.

use bytes::BytesMut;

use super::{BATCH_SLOTS, Group, Refresh, encode};
use crate::codec::{encode_end_of_rib, encode_route_refresh};
use crate::message::RefreshKind;
use crate::rib::Shared;
use crate::rib::table::{Key, Table};
use crate::types::PeerId;

impl<P: Key> Group<P> {
    /// Hands the next batch to a member, when there is one and nothing else goes before it.
    pub(super) fn take_batch(&mut self, peer: PeerId, buf: &mut BytesMut) -> bool {
        let Some(place) = self.members.iter().position(|m| m.peer == peer) else {
            return false;
        };
        let member = &mut self.members[place];
        let Some(batch) = self
            .batches
            .get((member.cursor - self.first_batch) as usize)
        else {
            return false;
        };
        member.cursor += 1;
        let (announced, withdrawn) = batch.slots.split_at(batch.announced);
        // For a member that must not hear of one of the routes, or that does not have one that is
        // withdrawn, the bytes are not right.
        let right = !batch.origins.contains(&peer)
            && withdrawn.iter().all(|slot| member.told.contains(*slot));
        if right {
            for slot in announced {
                member.told.insert(*slot);
            }
            for slot in withdrawn {
                member.told.remove(*slot);
            }
            buf.extend_from_slice(&batch.bytes);
        } else {
            for slot in &batch.slots {
                member.dirty.insert(*slot);
            }
        }
        self.drop_taken();
        true
    }

    /// Tells a member the state of some of the slots that are noted for it alone.
    pub(super) fn tell_dirty(
        &mut self,
        shared: &mut Shared,
        table: &Table<P>,
        peer: PeerId,
        buf: &mut BytesMut,
    ) -> bool {
        let Some(place) = self.members.iter().position(|m| m.peer == peer) else {
            return false;
        };
        let member = &mut self.members[place];
        if member.refresh == Refresh::Begin && self.scan.is_none() {
            encode_route_refresh(P::FAMILY, RefreshKind::Begin, buf);
            member.refresh = Refresh::Running;
        }
        let mut slots: Vec<u32> = Vec::new();
        let mut from = 0;
        while slots.len() < BATCH_SLOTS
            && let Some(slot) = member.dirty.next_from(from)
        {
            member.dirty.remove(slot);
            slots.push(slot);
            from = slot + 1;
        }
        // What the group has yet to look at is not known to be advertised or not.
        let mut only_missing = false;
        if slots.is_empty()
            && self.scan.is_none()
            && let Some(at) = member.dump
        {
            let until = table.entries.end().min(at + BATCH_SLOTS as u32);
            slots.extend(at..until);
            only_missing = member.only_missing;
            member.dump = (until < table.entries.end()).then_some(until);
        }
        if slots.is_empty() {
            return false;
        }
        let mut withdrawn: Vec<P> = Vec::new();
        let mut announced: Vec<encode::Item<P>> = Vec::new();
        for slot in slots {
            let out = self.out.get(slot);
            let own = out.set.is_some() && shared.peer_of(out.source) == Some(peer);
            if out.set.is_some() && !own {
                if !member.told.insert(slot) && only_missing {
                    continue;
                }
                announced.push(encode::Item::new(out, slot, table.prefix(slot)));
            } else if member.told.remove(slot) {
                withdrawn.push(table.prefix(slot));
            }
        }
        encode::withdraw(&self.export, &withdrawn, buf);
        encode::sort(&mut announced);
        for run in announced.chunk_by(encode::Item::same_attributes) {
            // What does not fit was found out when the batch was made.
            let _ = encode::announce(&self.export, &self.changes, &shared.attrs, run, buf);
        }
        true
    }

    /// Marks ends where a member has been told everything; whether that was all.
    pub(super) fn finish(&mut self, peer: PeerId, buf: &mut BytesMut) -> bool {
        let Some(member) = self.member_mut(peer) else {
            return true;
        };
        if !member.end_of_rib_sent {
            encode_end_of_rib(P::FAMILY, buf);
            member.end_of_rib_sent = true;
        }
        match member.refresh {
            Refresh::Begin => return false,
            Refresh::Running => {
                encode_route_refresh(P::FAMILY, RefreshKind::End, buf);
                member.refresh = Refresh::None;
            }
            Refresh::None => {}
        }
        member.asleep = true;
        true
    }
}

//! All peers, and when the first of their timers is due: with a thousand peers nobody asks each of
//! them after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::peers::Peer;
use crate::types::PeerId;

/// The peers of one speaker.
///
/// Whoever gets a peer to change it may set a timer; [`Roster::settle`] is called after every such
/// piece of work, before anybody asks for the time.
#[derive(Default)]
pub(super) struct Roster {
    peers: BTreeMap<PeerId, Entry>,
    /// The next timer of each session that has one.
    timers: BTreeSet<(Instant, PeerId)>,
    /// Peers that routes of a lost session are kept for.
    keeping: BTreeSet<PeerId>,
    /// Peers that may have changed since they were settled.
    touched: Vec<PeerId>,
}

struct Entry {
    peer: Peer,
    /// As noted in `timers`.
    timer: Option<Instant>,
}

impl Roster {
    /// A peer.
    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        Some(&self.peers.get(id)?.peer)
    }

    /// A peer, to be changed.
    pub(super) fn get_mut(&mut self, id: &PeerId) -> Option<&mut Peer> {
        let entry = self.peers.get_mut(id)?;
        if self.touched.last() != Some(id) {
            self.touched.push(*id);
        }
        Some(&mut entry.peer)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.peers.iter().map(|(id, entry)| (id, &entry.peer))
    }

    /// All of them.
    pub(super) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|entry| &entry.peer)
    }

    /// All of them, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.touched.extend(self.peers.keys());
        self.peers.values_mut().map(|entry| &mut entry.peer)
    }

    /// A new peer.
    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        self.remove(&id);
        self.peers.insert(id, Entry { peer, timer: None });
        self.touched.push(id);
    }

    /// A peer is configured no longer.
    pub(super) fn remove(&mut self, id: &PeerId) {
        self.keeping.remove(id);
        if let Some(timer) = self.peers.remove(id).and_then(|entry| entry.timer) {
            self.timers.remove(&(timer, *id));
        }
    }

    /// Takes note of the timers of peers that were changed.
    pub(super) fn settle(&mut self) {
        for id in self.touched.drain(..) {
            let Some(entry) = self.peers.get_mut(&id) else {
                continue; // configured no longer
            };
            let timer = entry.peer.session.poll_timeout();
            if timer != entry.timer {
                if let Some(before) = entry.timer {
                    self.timers.remove(&(before, id));
                }
                if let Some(timer) = timer {
                    self.timers.insert((timer, id));
                }
                entry.timer = timer;
            }
            match entry.peer.stale.is_some() {
                true => self.keeping.insert(id),
                false => self.keeping.remove(&id),
            };
        }
    }

    /// When the first timer of a session is due.
    pub(super) fn first_timer(&self) -> Option<Instant> {
        debug_assert!(self.touched.is_empty(), "asked before it was settled");
        self.timers.first().map(|(at, _)| *at)
    }

    /// Peers whose session has something to do.
    pub(super) fn due(&self, now: Instant) -> Vec<PeerId> {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, id)| *id).collect()
    }

    /// Peers for which routes of a lost session are kept.
    pub(super) fn keeping(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.keeping
            .iter()
            .filter_map(|id| Some((id, self.get(id)?)))
    }
}

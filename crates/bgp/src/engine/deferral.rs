//! Our own restart: when the exits of the tables open. RFC 4724 §4.1.
//!
//! Our tables are empty, but the kernel still forwards by those we had, and so do our peers. Until
//! those peers that we had have said all they know (End-of-RIB) and the kernel has said how their
//! next hops are reached, or until our restart time is up, nothing goes to the kernel's side and
//! nothing to a peer (selection deferral). The tables are filled all the while; it is their exits
//! that are closed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::peers::{Peer, Up};
use super::{Engine, Restart};
use crate::query::Deferral;
use crate::types::{Family, PeerId};

/// We have restarted and do not know yet what our peers know.
pub(super) struct Deferred {
    /// Peers that have yet to say all, by family.
    waiting: [BTreeSet<PeerId>; 2],
    /// When we stop to wait for them.
    until: Instant,
}

impl Peer {
    /// Whether its End-of-RIB in a family is still to be waited for after our restart.
    fn is_awaited(&self, family: Family) -> bool {
        let says = |up: &Up| match &up.negotiated.graceful_restart {
            // One that has restarted itself waits for us.
            Some(graceful) => !graceful.restarting && up.negotiated.families.contains(&family),
            None => false,
        };
        self.session.shutdown_text().is_none()
            && self.config.graceful_restart.is_some()
            && self.config.families.contains(&family)
            && (self.up.as_ref()).is_none_or(|up| says(up) && !up.end_of_rib[family as usize])
    }
}

impl Engine {
    /// This process takes the place of another one that forwarded by the same kernel routes a moment
    /// ago. To be called before the first configuration; without it a start is a first start, and
    /// nothing is held back.
    pub fn restarted(&mut self, restart: Restart) {
        self.preserved = restart.preserved.iter().copied().collect();
        self.expected = restart.peers.into_iter().collect();
    }

    /// Whether we have restarted and still wait for our peers; nothing is told to the kernel's side
    /// or to a peer then in the families concerned.
    pub fn deferral(&self) -> Option<Deferral> {
        let deferred = self.deferred.as_ref()?;
        let waiting: BTreeSet<&PeerId> = deferred.waiting.iter().flatten().collect();
        let names = waiting.into_iter().filter_map(|id| self.peers.get(id));
        Some(Deferral {
            until: deferred.until,
            waiting_for: names.map(|peer| peer.name.to_string()).collect(),
        })
    }

    /// With the first configuration: are there peers to be waited for?
    pub(super) fn begin_deferral(&mut self, now: Instant) {
        let expected = std::mem::take(&mut self.expected);
        let known = |(_, peer): &(&PeerId, &Peer)| expected.contains(&*peer.name);
        let waiting = Family::ALL.map(|family| {
            let peers = self.peers.iter().filter(known);
            let peers = peers.filter(|(_, peer)| peer.is_awaited(family));
            peers.map(|(id, _)| *id).collect::<BTreeSet<_>>()
        });
        let seconds = waiting.iter().flatten().filter_map(|id| {
            let graceful = self.peers.get(id)?.config.graceful_restart?;
            Some(graceful.restart_seconds)
        });
        if let Some(seconds) = seconds.max() {
            let until = now + Duration::from_secs(seconds.into());
            self.v4.deferred = !waiting[Family::Ipv4 as usize].is_empty();
            self.v6.deferred = !waiting[Family::Ipv6 as usize].is_empty();
            self.deferred = Some(Deferred { waiting, until });
        }
    }

    /// What our OPENs say of it.
    pub(super) fn tell_sessions_of_restart(&mut self) {
        let (restarting, preserved) = (self.deferred.is_some(), self.preserved);
        for peer in self.peers.values_mut() {
            peer.session.set_restart(restarting, preserved);
        }
    }

    /// Opens the exits of the tables when there is nobody left to wait for.
    pub(super) fn review_deferral(&mut self) {
        let (Some(deferred), Some(now)) = (&mut self.deferred, self.now) else {
            return;
        };
        for family in Family::ALL {
            deferred.waiting[family as usize].retain(|id| {
                let peer = self.peers.get(id);
                peer.is_some_and(|peer| peer.is_awaited(family))
            });
        }
        let late = deferred.until <= now;
        let [all4, all6] = [0, 1].map(|family| deferred.waiting[family].is_empty());
        let resolved = self.shared.hops.all_known();
        if self.v4.deferred && (late || (all4 && resolved && !self.v4.has_jobs())) {
            self.v4.end_deferral(&mut self.shared);
        }
        if self.v6.deferred && (late || (all6 && resolved && !self.v6.has_jobs())) {
            self.v6.end_deferral(&mut self.shared);
        }
        if !self.v4.deferred && !self.v6.deferred {
            self.deferred = None;
            self.tell_sessions_of_restart();
        }
    }
    /// When our restart time is up, while we wait.
    pub(super) fn deferred_until(&self) -> Option<Instant> {
        self.deferred.as_ref().map(|deferred| deferred.until)
    }
}

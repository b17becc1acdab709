//! Graceful restart, both sides of it. RFC 4724, RFC 8538.
//!
//! *Helper*: a peer that said that it keeps forwarding goes away. Its routes stay candidates like any
//! other, under the same source, until its restart time is up. When it is back and has indeed gone
//! on forwarding (F), its routes count as being sent again from the beginning: what it has not
//! repeated at its End-of-RIB goes. What was still to be repeated when it goes away once more goes
//! at once.
//!
//! *Restarting speaker*: our tables are empty, but the kernel still forwards by those we had, and so
//! do our peers. Until those peers that we had have said all they know (End-of-RIB) and the kernel
//! has said how their next hops are reached, or until our restart time is up, nothing goes to the
//! kernel's side and nothing to a peer (selection deferral, §4.1). The tables are filled all the
//! while; it is their exits that are closed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::peers::{Peer, Up};
use super::{Engine, Output, Restart};
use crate::query::Deferral;
use crate::rib::Origin;
use crate::rib::adj_in::Martian;
use crate::rib::loc::FamilyRib;
use crate::rib::table::SourceId;
use crate::session::{DownReason, Negotiated};
use crate::types::{Family, PeerId};

/// Routes of a peer that is away, or is back and has yet to repeat them.
pub(super) struct Stale {
    pub(super) source: SourceId,
    /// Families whose routes are kept; once it is back, those of which End-of-RIB has not come.
    pub(super) families: [bool; 2],
    /// Until when: its restart time while it is away, our stale time once it is back.
    pub(super) until: Instant,
}

/// We have restarted and do not know yet what our peers know.
pub(super) struct Deferred {
    /// Peers that have yet to say all, by family.
    waiting: [BTreeSet<PeerId>; 2],
    /// When we stop to wait for them.
    until: Instant,
}

impl Peer {
    /// Under which its routes stand in the tables, if it has any.
    pub(super) fn source(&self) -> Option<SourceId> {
        let up = self.up.as_ref().map(|up| up.source);
        up.or(self.stale.as_ref().map(|stale| stale.source))
    }

    /// Families whose routes are kept when the session ends for this reason.
    fn keeps(&self, up: &Up, reason: &DownReason) -> [bool; 2] {
        let graceful = up.negotiated.graceful_restart.as_ref();
        let Some(graceful) = graceful.filter(|_| self.config.graceful_restart.is_some()) else {
            return [false; 2];
        };
        let kept = match reason {
            DownReason::ConnectionLost(_) => true,
            DownReason::Received(notification) | DownReason::Sent { notification, .. } => {
                // Routes over a path that carries no packets are of no use.
                let broken = notification.is_hard_reset() || notification.is_path_down();
                graceful.notification && !broken
            }
            DownReason::SendHoldTimerExpired => graceful.notification,
        };
        Family::ALL.map(|family| {
            kept && graceful.covers(family) && up.negotiated.families.contains(&family)
        })
    }

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

    /// When [`Self::handle_restart_timers`] or [`Self::review_deferral`] has something to do.
    pub(super) fn restart_timeout(&self) -> Option<Instant> {
        let stale = self.peers.values().filter_map(|peer| peer.stale.as_ref());
        let deferred = self.deferred.iter().map(|deferred| deferred.until);
        stale.map(|stale| stale.until).chain(deferred).min()
    }

    /// Peers that are away for too long, or that are back and do not come to an end.
    pub(super) fn handle_restart_timers(&mut self, now: Instant) {
        let due = |peer: &Peer| peer.stale.as_ref().is_some_and(|stale| stale.until <= now);
        let due: Vec<PeerId> = (self.peers.iter())
            .filter(|(_, peer)| due(peer))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(peer) = self.peers.get(&id) else {
                continue;
            };
            if peer.up.is_none() {
                self.give_up_stale(id);
            } else {
                for family in Family::ALL {
                    self.end_stale(id, family);
                }
            }
        }
    }

    /// A session is over: keeps its routes where graceful restart asks for it, removes the others.
    pub(super) fn keep_or_remove(
        &mut self,
        now: Instant,
        id: PeerId,
        up: &Up,
        reason: &DownReason,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let keeps = peer.keeps(up, reason);
        let seconds = up
            .negotiated
            .graceful_restart
            .as_ref()
            .map_or(0, |gr| gr.seconds);
        let old = peer.stale.take().map_or([false; 2], |stale| stale.families);
        let source = up.source;
        if keeps == [false; 2] {
            self.remove_source(source);
            return;
        }
        peer.stale = Some(Stale {
            source,
            families: keeps,
            until: now + Duration::from_secs(seconds.into()),
        });
        let [v4, v6] = [0, 1].map(|family| (keeps[family], old[family]));
        self.v4.source_away(source, v4);
        self.v6.source_away(source, v6);
    }

    /// All routes of a source go: at once those that packets take, bit by bit the others.
    fn remove_source(&mut self, source: SourceId) {
        self.shared.gone(source);
        self.v4.remove_source(source);
        self.v6.remove_source(source);
    }

    /// A peer whose routes were kept is back. Its source goes on where the session says that the
    /// routes still hold; `None`: nothing was kept.
    pub(super) fn welcome_back(
        &mut self,
        now: Instant,
        id: PeerId,
        negotiated: &Negotiated,
        origin: &Origin,
    ) -> Option<SourceId> {
        let peer = self.peers.get_mut(&id)?;
        let stale = peer.stale.take()?;
        let place = self.shared.source_mut(stale.source)?;
        let same_rank = (place.router_id, place.kind) == (origin.router_id, origin.kind);
        *place = Origin {
            counts: place.counts,
            ..origin.clone()
        };
        let graceful = negotiated.graceful_restart.as_ref();
        let holds = Family::ALL.map(|family| {
            stale.families[family as usize]
                && negotiated.families.contains(&family)
                && graceful.is_some_and(|graceful| graceful.preserved(family))
        });
        if holds != [false; 2] {
            let seconds = (peer.config.graceful_restart).map_or(0, |gr| gr.stale_seconds);
            peer.stale = Some(Stale {
                source: stale.source,
                families: holds,
                until: now + Duration::from_secs(seconds.into()),
            });
        }
        self.v4
            .source_back(stale.source, holds[Family::Ipv4 as usize]);
        self.v6
            .source_back(stale.source, holds[Family::Ipv6 as usize]);
        if !same_rank {
            self.v4.decide_again();
            self.v6.decide_again();
        }
        Some(stale.source)
    }

    /// End-of-RIB came, or its time is up: what the peer has not repeated goes.
    pub(super) fn end_stale(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(stale) = &mut peer.stale else { return };
        if !std::mem::take(&mut stale.families[family as usize]) {
            return;
        }
        let source = stale.source;
        if stale.families == [false; 2] {
            peer.stale = None;
        }
        match family {
            Family::Ipv4 => self.v4.end_refresh(source),
            Family::Ipv6 => self.v6.end_refresh(source),
        }
        self.outputs.push_back(Output::SessionChanged(id));
    }

    /// The routes of a peer that is away are kept no longer.
    pub(super) fn give_up_stale(&mut self, id: PeerId) {
        let stale = self.peers.get_mut(&id).and_then(|peer| peer.stale.take());
        if let Some(stale) = stale {
            self.remove_source(stale.source);
            self.outputs.push_back(Output::SessionChanged(id));
        }
    }

    /// Whether a route is one of a peer that is away, or that it has yet to repeat.
    pub(super) fn is_stale<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        source: SourceId,
        prefix: P,
    ) -> bool {
        let peer = self.shared.peer_of(source);
        let up = peer.and_then(|id| self.peers.get(&id)?.up.as_ref());
        self.keeps_stale(source, P::FAMILY) && (up.is_none() || !rib.is_repeated(source, prefix))
    }

    /// Whether any route of a source can be such.
    pub(super) fn keeps_stale(&self, source: SourceId, family: Family) -> bool {
        let peer = self.shared.peer_of(source);
        let stale = peer.and_then(|id| self.peers.get(&id)?.stale.as_ref());
        stale.is_some_and(|stale| stale.families[family as usize])
    }

    /// How many routes of a family are such.
    pub(super) fn stale_routes(&self, peer: &Peer, family: Family) -> u64 {
        let kept = (peer.stale.as_ref()).filter(|stale| stale.families[family as usize]);
        let Some(stale) = kept else { return 0 };
        let origin = self.shared.source(stale.source);
        let all = origin.map_or(0, |origin| origin.counts[family as usize].received);
        let repeated = match (&peer.up, family) {
            (None, _) => 0,
            (Some(_), Family::Ipv4) => self.v4.repeated(stale.source),
            (Some(_), Family::Ipv6) => self.v6.repeated(stale.source),
        };
        all.saturating_sub(repeated)
    }
}

impl<P: Martian> FamilyRib<P> {
    /// A peer is away. `kept`: its routes stay; `unrepeated`: it was about to repeat them, and those
    /// it has not repeated go all the same (RFC 4724 §4.2).
    fn source_away(&mut self, source: SourceId, (kept, unrepeated): (bool, bool)) {
        if kept && unrepeated {
            self.end_refresh(source);
        } else if kept {
            self.abandon_refresh(source);
        } else {
            self.remove_routes(source);
        }
    }

    /// A peer is back. `holds`: its routes stay until it has repeated them.
    fn source_back(&mut self, source: SourceId, holds: bool) {
        self.begin_refresh(source);
        if !holds {
            self.end_refresh(source);
        }
    }

    /// The routes of a source are removed, but the source stays.
    fn remove_routes(&mut self, source: SourceId) {
        self.begin_refresh(source);
        self.end_refresh(source);
    }
}

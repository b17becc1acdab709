//! Graceful restart as the helper: what becomes of a peer's routes when its session is lost.
//! RFC 4724, RFC 8538, RFC 9494. (Our own restart is in `deferral`.)
//!
//! A peer that said that it keeps forwarding goes away. Its routes stay candidates like any other,
//! under the same source, until its restart time is up. Then they go, unless both sides speak of
//! long-lived graceful restart: then they are the last choice (`rib::long_lived`) until the
//! long-lived stale time is up too. When the peer is back and has indeed gone on forwarding (F), its
//! routes count as being sent again from the beginning: what it has not repeated at its End-of-RIB
//! goes. What was still to be repeated when it goes away once more goes at once, or with
//! long-lived graceful restart when the time is up that began when it went first.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::peers::{Peer, Up};
use super::{Engine, Output};
use crate::config::LongLived;
use crate::message;
use crate::query::LongLivedStatus;
use crate::rib::Origin;
use crate::rib::adj_in::Martian;
use crate::rib::export::LongLivedStale;
use crate::rib::loc::FamilyRib;
use crate::rib::table::SourceId;
use crate::session::{DownReason, Negotiated};
use crate::types::{Family, PeerId};

/// Routes of a peer that is away, or is back and has yet to repeat them.
pub(super) struct Stale {
    pub(super) source: SourceId,
    /// By family; `None`: nothing is kept, or everything was repeated.
    pub(super) families: [Option<Kept>; 2],
}

/// For how long a family's routes are kept.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    /// While the peer is away: when its restart time is up and the long-lived time begins; `None`:
    /// it has begun, or does not follow.
    long_lived_from: Option<Instant>,
    /// It has begun.
    pub(super) long_lived: bool,
    /// Until when, as things are.
    pub(super) until: Instant,
    /// Until when at most, however often the peer comes and goes before it has repeated all.
    /// RFC 9494 §4.2.
    limit: Instant,
}

impl Kept {
    /// Of a peer that has just gone away.
    fn new(now: Instant, restart: Duration, long_lived: Duration) -> Kept {
        let until = now + restart + long_lived;
        Kept {
            long_lived_from: (!long_lived.is_zero()).then_some(now + restart),
            long_lived: false,
            until,
            limit: until,
        }
    }

    /// When something is to be done about it.
    fn due(&self) -> Instant {
        self.long_lived_from
            .map_or(self.until, |from| from.min(self.until))
    }
}

impl Stale {
    fn is_over(&self) -> bool {
        self.families.iter().all(Option::is_none)
    }

    /// Until when the last of them is kept.
    pub(super) fn until(&self) -> Option<Instant> {
        let kept = self.families.iter().flatten();
        kept.map(|kept| kept.until).max()
    }
}

/// What becomes of a family's routes when the session is lost.
enum Away {
    /// They go.
    Remove,
    /// They stay, but for those that were still to be repeated. RFC 4724 §4.2.
    KeepRepeated,
    /// They stay.
    Keep,
}

impl Peer {
    /// Under which its routes stand in the tables, if it has any.
    pub(super) fn source(&self) -> Option<SourceId> {
        let up = self.up.as_ref().map(|up| up.source);
        up.or(self.stale.as_ref().map(|stale| stale.source))
    }

    /// What it is told of long-lived stale routes.
    pub(super) fn tells_long_lived_stale(&self, up: &Up) -> LongLivedStale {
        let long_lived = self.config.graceful_restart.and_then(|gr| gr.long_lived);
        if up.negotiated.takes_long_lived_stale() {
            LongLivedStale::Told
        } else if long_lived.is_some_and(|it| it.tell_unaware) && !self.config.is_ebgp() {
            LongLivedStale::Disguised
        } else {
            LongLivedStale::Withheld
        }
    }

    /// Long-lived graceful restart as a person is shown it.
    pub(super) fn long_lived_status(&self, ours: LongLived) -> LongLivedStatus {
        let agreed = self.up.as_ref().map(|up| &up.negotiated);
        let theirs = agreed.and_then(|agreed| agreed.long_lived.as_ref());
        let asked = |it: &message::LongLived| it.families.iter().map(|it| it.seconds).max();
        let kept = self.stale.iter().flat_map(|stale| &stale.families);
        LongLivedStatus {
            stale_seconds: ours.stale_seconds,
            peer_seconds: theirs.map(|theirs| asked(theirs).unwrap_or(0)),
            began: kept.flatten().any(|kept| kept.long_lived),
        }
    }

    /// Whether routes are kept at all when the session ends for this reason.
    fn keeps(&self, up: &Up, reason: &DownReason) -> bool {
        let graceful = up.negotiated.graceful_restart.as_ref();
        let Some(graceful) = graceful.filter(|_| self.config.graceful_restart.is_some()) else {
            return false;
        };
        match reason {
            DownReason::ConnectionLost(_) => true,
            DownReason::Received(notification) | DownReason::Sent { notification, .. } => {
                // Routes over a path that carries no packets are of no use.
                let broken = notification.is_hard_reset() || notification.is_path_down();
                graceful.notification && !broken
            }
            DownReason::SendHoldTimerExpired => graceful.notification,
        }
    }

    /// For how long a family's routes are kept after that: the restart time, then the long-lived
    /// one. RFC 9494 §4.2.
    fn times(&self, up: &Up, family: Family) -> [Duration; 2] {
        let agreed = &up.negotiated;
        let graceful = agreed.graceful_restart.as_ref();
        let covered = graceful.filter(|graceful| graceful.covers(family));
        let restart = covered.map_or(0, |graceful| u32::from(graceful.seconds));
        let asked = agreed.long_lived.as_ref().and_then(|it| it.of(family));
        let ours = self.config.graceful_restart.and_then(|gr| gr.long_lived);
        let long_lived = match (asked, ours) {
            (Some(asked), Some(ours)) => {
                let most = ours.at_most_seconds.unwrap_or(u32::MAX);
                asked.seconds.min(most)
            }
            _ => 0,
        };
        [restart, long_lived].map(|seconds| Duration::from_secs(seconds.into()))
    }
}

impl Engine {
    /// When [`Self::handle_restart_timers`] or [`Self::review_deferral`] has something to do.
    pub(super) fn restart_timeout(&self) -> Option<Instant> {
        let stale = self
            .peers
            .keeping()
            .filter_map(|(_, peer)| peer.stale.as_ref());
        let kept = stale.flat_map(|stale| stale.families.iter().flatten());
        kept.map(Kept::due).chain(self.deferred_until()).min()
    }

    /// Peers that are away for too long, or that are back and do not come to an end.
    pub(super) fn handle_restart_timers(&mut self, now: Instant) {
        let mut due: Vec<(PeerId, Family)> = Vec::new();
        for (id, peer) in self.peers.keeping() {
            let kept = |family: &Family| peer.stale.as_ref()?.families[*family as usize];
            let is_due = |family: &Family| kept(family).is_some_and(|kept| kept.due() <= now);
            due.extend(
                Family::ALL
                    .into_iter()
                    .filter(is_due)
                    .map(|family| (*id, family)),
            );
        }
        for (id, family) in due {
            self.handle_kept(now, id, family);
        }
    }

    fn handle_kept(&mut self, now: Instant, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(stale) = &mut peer.stale else { return };
        let Some(kept) = &mut stale.families[family as usize] else {
            return;
        };
        let source = stale.source;
        if kept.until > now {
            (kept.long_lived_from, kept.long_lived) = (None, true);
            self.for_family(
                family,
                |rib, _| rib.age_source(source),
                |rib, _| rib.age_source(source),
            );
            self.outputs.push_back(Output::SessionChanged(id));
        } else if let Some(up) = &mut peer.up {
            up.long_lived_expired[family as usize] |= kept.long_lived;
            self.end_stale(id, family);
        } else {
            stale.families[family as usize] = None;
            if stale.is_over() {
                return self.give_up_stale(id);
            }
            self.for_family(
                family,
                |rib, _| rib.remove_routes(source),
                |rib, _| rib.remove_routes(source),
            );
            self.outputs.push_back(Output::SessionChanged(id));
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
        let old = peer.stale.take().map_or([None; 2], |stale| stale.families);
        let source = up.source;
        let keeps = peer.keeps(up, reason);
        let kept = Family::ALL.map(|family| {
            let [restart, long_lived] = peer.times(up, family);
            let nothing = restart.is_zero() && long_lived.is_zero();
            let agreed = up.negotiated.families.contains(&family);
            // Its time was up already, and it has still not come to an end.
            let expired = up.long_lived_expired[family as usize];
            if !keeps || !agreed || nothing || expired {
                return (None, Away::Remove);
            }
            let new = Kept::new(now, restart, long_lived);
            match old[family as usize] {
                Some(old) if !long_lived.is_zero() => {
                    let until = old.limit.min(new.until);
                    let again = Kept {
                        long_lived: old.long_lived,
                        until,
                        limit: until,
                        ..new
                    };
                    (Some(again), Away::Keep)
                }
                Some(_) => (Some(new), Away::KeepRepeated),
                None => (Some(new), Away::Keep),
            }
        });
        let [(kept4, away4), (kept6, away6)] = kept;
        if kept4.is_none() && kept6.is_none() {
            self.remove_source(source);
            return;
        }
        peer.stale = Some(Stale {
            source,
            families: [kept4, kept6],
        });
        self.v4.source_away(source, away4);
        self.v6.source_away(source, away6);
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
        // What export says of its routes, and puts into them.
        let marks =
            |origin: &Origin| (origin.long_lived, origin.reflector_client, origin.router_id);
        let same_marks = marks(place) == marks(origin);
        *place = Origin {
            counts: place.counts,
            ..origin.clone()
        };
        let seconds = (peer.config.graceful_restart).map_or(0, |gr| gr.stale_seconds);
        let stale_time = Duration::from_secs(seconds.into());
        let families = Family::ALL.map(|family| {
            let kept = stale.families[family as usize]?;
            still_holds(negotiated, family, kept.long_lived).then(|| Kept {
                long_lived_from: None,
                // The long-lived time goes on until all is repeated. RFC 9494 §4.2.
                until: match kept.long_lived {
                    true => kept.until,
                    false => now + stale_time,
                },
                ..kept
            })
        });
        let now_stale = Stale {
            source: stale.source,
            families,
        };
        peer.stale = Some(now_stale).filter(|stale| !stale.is_over());
        self.v4
            .source_back(stale.source, families[Family::Ipv4 as usize].is_some());
        self.v6
            .source_back(stale.source, families[Family::Ipv6 as usize].is_some());
        if !same_rank || !same_marks {
            self.v4.decide_again();
            self.v6.decide_again();
        }
        if !same_marks {
            self.v4.look_again(&mut self.shared);
            self.v6.look_again(&mut self.shared);
        }
        Some(stale.source)
    }

    /// End-of-RIB came, or its time is up: what the peer has not repeated goes.
    pub(super) fn end_stale(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(stale) = &mut peer.stale else { return };
        if stale.families[family as usize].take().is_none() {
            return;
        }
        let source = stale.source;
        if stale.is_over() {
            peer.stale = None;
        }
        match family {
            Family::Ipv4 => self.v4.end_refresh(source),
            Family::Ipv6 => self.v6.end_refresh(source),
        }
        self.outputs.push_back(Output::SessionChanged(id));
    }

    /// A peer forwards no packets any more, says somebody whose word does not depend on whether its
    /// BGP runs (BFD with the C bit): if it is away, its routes are kept no longer. RFC 5882 §4.3.
    ///
    /// Of a peer that is here, [`Self::path_down`] is to be told.
    pub fn forwarding_down(&mut self, now: Instant, address: IpAddr) {
        self.tick(now);
        let id = self.by_address.get(&address).copied();
        if let Some(id) = id
            && self.peers.get(&id).is_some_and(|peer| peer.up.is_none())
        {
            self.give_up_stale(id);
            self.settle();
        }
    }

    /// The routes of a peer that is away are kept no longer.
    pub(super) fn give_up_stale(&mut self, id: PeerId) {
        let stale = self.peers.get_mut(&id).and_then(|peer| peer.stale.take());
        if let Some(stale) = stale {
            self.remove_source(stale.source);
            self.outputs.push_back(Output::SessionChanged(id));
        }
    }

    /// A peer that is away is configured anew: its routes are kept for long only while that is
    /// configured.
    pub(super) fn review_long_lived(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let ours = peer.config.graceful_restart.and_then(|gr| gr.long_lived);
        let Some(stale) = peer.stale.as_mut().filter(|_| ours.is_none()) else {
            return;
        };
        for kept in stale.families.iter_mut().flatten() {
            if let Some(from) = kept.long_lived_from.take() {
                kept.until = kept.until.min(from);
            } else if kept.long_lived {
                kept.until = now;
            }
        }
    }

    /// Until when a route is kept, if it is one of a peer that is away, or that it has yet to
    /// repeat, and whether it is long-lived stale.
    pub(super) fn stale_route<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        source: SourceId,
        prefix: P,
    ) -> Option<(Instant, bool)> {
        let id = self.shared.peer_of(source)?;
        let peer = self.peers.get(&id)?;
        let kept = peer.stale.as_ref()?.families[P::FAMILY as usize]?;
        if peer.up.is_some() && rib.is_repeated(source, prefix) {
            return None;
        }
        let slot = rib.table.find(prefix);
        let long_lived = slot.is_some_and(|slot| rib.is_long_lived(source, slot));
        Some((kept.until, long_lived))
    }

    /// Until when routes of a source are kept in a family, if any of them can be stale.
    pub(super) fn stale_until(&self, source: SourceId, family: Family) -> Option<Instant> {
        let peer = self.peers.get(&self.shared.peer_of(source)?)?;
        let kept = peer.stale.as_ref()?.families[family as usize]?;
        Some(kept.until)
    }

    /// How many routes of a family are such, and how many of them long-lived stale.
    pub(super) fn stale_routes(&self, peer: &Peer, family: Family) -> (u64, u64) {
        let kept = (peer.stale.as_ref()).filter(|stale| stale.families[family as usize].is_some());
        let Some(stale) = kept else { return (0, 0) };
        let origin = self.shared.source(stale.source);
        let all = origin.map_or(0, |origin| origin.counts[family as usize].received);
        let (repeated, long_lived) = match family {
            Family::Ipv4 => told(&self.v4, stale.source),
            Family::Ipv6 => told(&self.v6, stale.source),
        };
        let repeated = if peer.up.is_some() { repeated } else { 0 };
        (all.saturating_sub(repeated), long_lived)
    }
}

/// Whether the OPEN of a peer that is back says that it has gone on forwarding: F, for long-lived
/// stale routes that of either capability. RFC 4724 §4.2, RFC 9494 §4.2.
fn still_holds(negotiated: &Negotiated, family: Family, long_lived: bool) -> bool {
    let graceful = negotiated.graceful_restart.as_ref();
    let preserved = graceful.is_some_and(|graceful| graceful.preserved(family));
    let asked = negotiated.long_lived.as_ref();
    let asked = asked.and_then(|long_lived| long_lived.of(family));
    // A family that only the long-lived capability names has a restart time of zero.
    let covered = graceful.is_some_and(|graceful| graceful.covers(family));
    let holds = match asked {
        Some(asked) if long_lived || !covered => asked.preserved || preserved,
        Some(_) => preserved,
        None => preserved && !long_lived,
    };
    holds && negotiated.families.contains(&family)
}

/// How many routes a source has repeated, and how many are long-lived stale.
fn told<P: Martian>(rib: &FamilyRib<P>, source: SourceId) -> (u64, u64) {
    (rib.repeated(source), rib.long_lived(source))
}

impl<P: Martian> FamilyRib<P> {
    /// A peer is away.
    fn source_away(&mut self, source: SourceId, away: Away) {
        match away {
            Away::Remove => self.remove_routes(source),
            Away::KeepRepeated => self.end_refresh(source),
            Away::Keep => self.abandon_refresh(source),
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

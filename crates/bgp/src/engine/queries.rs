//! Answers to questions: peers, one route, the engine as a whole. Tables are in `pages`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::graceful::Stale;
use super::peers::Peer;
use crate::attributes::Attributes;
use crate::config::Source;
use crate::query::{EngineStatus, FamilyStatus, GracefulStatus, PeerStatus, Reason, RouteRow};
use crate::rib::adj_in::Martian;
use crate::rib::decision;
use crate::rib::loc::FamilyRib;
use crate::rib::table::{Fate, Path, SourceId};
use crate::types::{Family, PeerId, Prefix, Prefix4, Prefix6};

impl Engine {
    /// Every peer, in the order of the configuration.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.order.iter();
        peers.filter_map(|id| self.peer(now, *id)).collect()
    }

    /// One peer; `None` once it is configured no longer.
    pub fn peer(&self, _now: Instant, id: PeerId) -> Option<PeerStatus> {
        let peer = self.peers.get(&id)?;
        let (config, session) = (&peer.config, &peer.session);
        let negotiated = session.negotiated();
        let families = config.families.iter();
        Some(PeerStatus {
            id,
            name: config.name.clone(),
            description: config.description.clone(),
            address: config.address,
            port: config.port,
            local_address: match &peer.up {
                Some(up) => Some(up.local.address),
                None => config.local_address,
            },
            remote_asn: config.remote_asn,
            local_asn: config.local_asn,
            remote_router_id: negotiated.map(|n| n.remote_router_id),
            state: session.state().name(),
            since: session.since(),
            hold: negotiated.and_then(|n| n.hold_time),
            keepalive: session.keepalive_time(),
            families: families.map(|f| self.family_status(id, peer, *f)).collect(),
            capabilities_sent: session.our_capabilities().names(),
            capabilities_received: negotiated
                .map(|n| n.remote_capabilities.names())
                .unwrap_or_default(),
            sent: session.counters().sent,
            received: session.counters().received,
            established_count: session.times_established(),
            last_error: session.last_error(),
            faults: peer.faults.counts.clone(),
            last_fault: peer.faults.last.clone(),
            passive: config.passive,
            reflector_client: config.reflector_client,
            shutdown: session.shutdown_text().map(str::to_owned),
            import: config.import.clone(),
            export: config.export.clone(),
            retry_at: session.retry_at(),
            ttl_security: config.ttl_security,
            authentication: config.authentication.clone(),
            max_prefixes: config.max_prefixes,
            over_limit: session.is_over_limit(),
            graceful_restart: config.graceful_restart.map(|ours| {
                let theirs = negotiated.and_then(|n| n.graceful_restart.as_ref());
                GracefulStatus {
                    restart_seconds: ours.restart_seconds,
                    peer_seconds: theirs.map(|theirs| theirs.seconds),
                    notification: theirs.is_some_and(|theirs| theirs.notification),
                    peer_restarted: theirs.is_some_and(|theirs| theirs.restarting),
                    stale_until: peer.stale.as_ref().and_then(Stale::until),
                    long_lived: ours.long_lived.map(|ours| peer.long_lived_status(ours)),
                }
            }),
        })
    }

    fn family_status(&self, id: PeerId, peer: &Peer, family: Family) -> FamilyStatus {
        let up = peer.up.as_ref();
        let negotiated = up.filter(|up| up.negotiated.families.contains(&family));
        let source = peer
            .source()
            .filter(|_| negotiated.is_some() || up.is_none());
        let counts = source
            .and_then(|source| self.shared.source(source))
            .map(|origin| origin.counts[family as usize])
            .unwrap_or_default();
        let sent = match family {
            Family::Ipv4 => sent(&self.v4, id),
            Family::Ipv6 => sent(&self.v6, id),
        };
        let (stale, long_lived_stale) = self.stale_routes(peer, family);
        FamilyStatus {
            family,
            negotiated: negotiated.is_some(),
            received: counts.received,
            accepted: counts.accepted,
            best: counts.best,
            advertised: sent.advertised,
            pending: sent.pending,
            end_of_rib_received: up.is_some_and(|up| up.end_of_rib[family as usize]),
            end_of_rib_sent: sent.end_of_rib,
            extended_next_hop: negotiated
                .is_some_and(|up| up.negotiated.extended_next_hop.contains(&family)),
            stale,
            long_lived_stale,
            graceful_restart: negotiated.is_some_and(|up| {
                let graceful = up.negotiated.graceful_restart.as_ref();
                graceful.is_some_and(|graceful| graceful.covers(family))
            }),
        }
    }

    /// The engine as a whole.
    pub fn status(&self) -> EngineStatus {
        let (v4, v6) = (&self.v4, &self.v6);
        let up = self.peers.values().filter(|peer| peer.up.is_some());
        let families = [Family::Ipv4, Family::Ipv6];
        EngineStatus {
            speaker: self.config.as_ref().map(|c| (c.asn, c.router_id)),
            best: families.into_iter().zip([v4.best, v6.best]).collect(),
            paths: families
                .into_iter()
                .zip([v4.table.paths.len() as u64, v6.table.paths.len() as u64])
                .collect(),
            attribute_sets: self.shared.attrs.len() as u64,
            fib_pending: (v4.fib_pending() + v6.fib_pending()) as u64,
            established: up.count() as u64,
        }
    }

    /// The longest prefix that holds `prefix` (or is it, when `itself`) and has a best route.
    pub(super) fn covering(&self, prefix: Prefix, itself: bool) -> Option<Prefix> {
        fn search<P: Martian>(rib: &FamilyRib<P>, prefix: P, itself: bool) -> Option<Prefix> {
            let longest = if itself {
                prefix.len() + 1
            } else {
                prefix.len()
            };
            (0..longest).rev().find_map(|length| {
                let shorter = prefix.shortened(length);
                rib.table.best(rib.table.find(shorter)?)?;
                Some(shorter.into())
            })
        }
        match prefix {
            Prefix::V4(prefix) => search::<Prefix4>(&self.v4, prefix, itself),
            Prefix::V6(prefix) => search::<Prefix6>(&self.v6, prefix, itself),
        }
    }

    /// The best route of a prefix.
    pub(super) fn best_row(&self, prefix: Prefix) -> Option<RouteRow> {
        fn row<P: Martian>(engine: &Engine, rib: &FamilyRib<P>, prefix: P) -> Option<RouteRow> {
            let path = rib.table.best(rib.table.find(prefix)?)?;
            let attributes = Arc::new(engine.shared.attrs.attributes(path.accepted));
            Some(engine.row(rib, prefix, path, attributes))
        }
        match prefix {
            Prefix::V4(prefix) => row(self, &self.v4, prefix),
            Prefix::V6(prefix) => row(self, &self.v6, prefix),
        }
    }

    /// A row without the reason for a loss, which takes the other paths to tell.
    pub(super) fn row<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        prefix: P,
        path: &Path,
        attributes: Arc<Attributes>,
    ) -> RouteRow {
        let (peer, source) = self.whose(path.source);
        let own = peer.is_none();
        let stale = self.stale_route(rib, path.source, prefix);
        RouteRow {
            prefix: prefix.into(),
            peer,
            source,
            attributes,
            best: path.fate == Fate::Best,
            multipath: path.fate == Fate::Multipath,
            backup: self.shared.decision.backup_paths
                && (rib.table.find(prefix))
                    .is_some_and(|slot| rib.is_backup(&self.shared, slot, path)),
            reason: match path.fate {
                Fate::Refused(refusal) => Some(Reason::Refused(refusal)),
                Fate::Best | Fate::Multipath | Fate::Lost(_) => None,
            },
            stale: stale.is_some(),
            stale_until: stale.map(|(until, _)| until),
            long_lived_stale: stale.is_some_and(|(_, long_lived)| long_lived),
            since: self
                .began
                .map(|began| began + Duration::from_secs(path.since.into())),
            advertisements: match rib.originated.get(&prefix) {
                Some(names) if own => names.iter().map(|name| name.to_string()).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// The peer that routes come from, if it is one, and of what kind it is.
    pub(super) fn whose(&self, source: SourceId) -> (Option<Arc<str>>, Source) {
        let origin = self.shared.source(source);
        let peer = origin.filter(|origin| origin.peer.is_some());
        (
            peer.map(|origin| origin.name.clone()),
            origin.map_or(Source::Local, |origin| origin.kind),
        )
    }

    /// Whom each lost path of a slot lost to.
    pub(super) fn losses<P: Martian>(&self, rib: &FamilyRib<P>, slot: u32) -> Vec<(u32, Reason)> {
        let candidates = rib.candidates(&self.shared, slot);
        let compared: Vec<_> = candidates.iter().map(|(_, candidate)| *candidate).collect();
        let places = decision::decide(&compared, &self.shared.decision);
        let losses = candidates.iter().zip(places);
        losses
            .filter_map(|((index, _), place)| {
                let decision::Place::Lost { step, to } = place else {
                    return None;
                };
                let winner = rib.table.paths[candidates[to].0].source;
                let winner = self.shared.source(winner);
                let to = winner.filter(|origin| origin.peer.is_some());
                let to = to.map(|origin| origin.name.clone());
                Some((*index, Reason::Lost { step, to }))
            })
            .collect()
    }
}

#[derive(Default)]
struct Sent {
    advertised: u64,
    pending: u64,
    end_of_rib: bool,
}

fn sent<P: Martian>(rib: &FamilyRib<P>, peer: PeerId) -> Sent {
    let Some((group, member)) = rib
        .group_of(peer)
        .and_then(|group| Some((group, group.member(peer)?)))
    else {
        return Sent::default();
    };
    Sent {
        advertised: member.told.len() as u64,
        pending: group.pending(&rib.table, peer) as u64,
        end_of_rib: member.end_of_rib_sent,
    }
}

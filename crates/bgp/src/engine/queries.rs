//! Answers to questions: peers, routes, the engine as a whole. Bounded work for each, and no copy
//! of a table.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::peers::Peer;
use crate::attributes::Attributes;
use crate::config::Source;
use crate::query::{
    Cursor, Destinations, EngineStatus, FamilyStatus, GracefulStatus, PeerStatus, QueryError,
    Reason, RoutePage, RouteQuery, RouteRow, View,
};
use crate::rib::Shared;
use crate::rib::adj_in::Martian;
use crate::rib::adj_out::Group;
use crate::rib::attrs::AttrId;
use crate::rib::decision;
use crate::rib::loc::FamilyRib;
use crate::rib::table::{Fate, Path};
use crate::types::{Family, PeerId, Prefix, Prefix4, Prefix6};

/// How many prefixes one page looks at: a view with few routes in a large table answers with short,
/// perhaps empty pages rather than keep the sessions waiting.
const LOOKED_AT: usize = 20_000;

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
            shutdown: session.shutdown_text().map(str::to_owned),
            import: config.import.clone(),
            export: config.export.clone(),
            retry_at: session.retry_at(),
            ttl_security: config.ttl_security,
            max_prefixes: config.max_prefixes,
            over_limit: session.is_over_limit(),
            graceful_restart: config.graceful_restart.map(|ours| {
                let theirs = negotiated.and_then(|n| n.graceful_restart.as_ref());
                GracefulStatus {
                    restart_seconds: ours.restart_seconds,
                    peer_seconds: theirs.map(|theirs| theirs.seconds),
                    notification: theirs.is_some_and(|theirs| theirs.notification),
                    peer_restarted: theirs.is_some_and(|theirs| theirs.restarting),
                    stale_until: peer.stale.as_ref().map(|stale| stale.until),
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
            stale: self.stale_routes(peer, family),
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

    /// Up to about `limit` routes, in order of prefix, IPv4 first, behind `after`. A page may be
    /// short or empty although there is another.
    ///
    /// # Errors
    ///
    /// When the query names a peer that is not there.
    pub fn routes(
        &self,
        query: &RouteQuery,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<RoutePage, QueryError> {
        let peer = match &query.view {
            View::Received { peer } | View::Advertised { peer } => {
                let id = self.find_peer(peer).ok_or_else(|| QueryError::NoPeer {
                    peer: peer.clone(),
                    known: self.peer_names(),
                })?;
                Some(id)
            }
            View::Best | View::All => None,
        };
        let mut rows = Rows {
            engine: self,
            view: &query.view,
            peer,
            page: RoutePage::default(),
            decoded: HashMap::new(),
        };
        let families = Family::ALL.into_iter().filter(|family| {
            let asked_for = query.family.is_none_or(|wanted| wanted == *family);
            let begun = after.is_none_or(|Cursor(prefix)| prefix.family() <= *family);
            let concerned = match query.destinations {
                Destinations::All => true,
                Destinations::Exact(prefix)
                | Destinations::Longer(prefix)
                | Destinations::LongestMatch(prefix) => prefix.family() == *family,
            };
            asked_for && begun && concerned
        });
        for family in families {
            let full = match family {
                Family::Ipv4 => rows.walk(&self.v4, query, after, limit),
                Family::Ipv6 => rows.walk(&self.v6, query, after, limit),
            };
            if full {
                break;
            }
        }
        Ok(rows.page)
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
        let origin = self.shared.source(path.source);
        let own = origin.is_some_and(|origin| origin.peer.is_none());
        RouteRow {
            prefix: prefix.into(),
            peer: origin.filter(|_| !own).map(|origin| origin.name.clone()),
            source: origin.map_or(Source::Local, |origin| origin.kind),
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
            stale: self.is_stale(rib, path.source, prefix),
            since: self
                .began
                .map(|began| began + Duration::from_secs(path.since.into())),
            advertisements: match rib.originated.get(&prefix) {
                Some(names) if own => names.iter().map(|name| name.to_string()).collect(),
                _ => Vec::new(),
            },
        }
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

/// A page being filled.
struct Rows<'a> {
    engine: &'a Engine,
    view: &'a View,
    peer: Option<PeerId>,
    page: RoutePage,
    /// Routes of one page often have their attributes in common.
    decoded: HashMap<AttrId, Arc<Attributes>>,
}

impl Rows<'_> {
    /// Appends routes of one family; true: the page is full.
    fn walk<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        query: &RouteQuery,
        after: Option<Cursor>,
        limit: usize,
    ) -> bool {
        let within = match query.destinations {
            Destinations::All => P::ALL,
            Destinations::Longer(prefix) => match P::of(prefix) {
                Some(prefix) => prefix,
                None => return false,
            },
            Destinations::Exact(prefix) => {
                if let Some(prefix) = P::of(prefix) {
                    self.add(rib, prefix);
                }
                return false;
            }
            Destinations::LongestMatch(prefix) => {
                if let Some(prefix) = P::of(prefix) {
                    let mut lengths = (0..=prefix.len()).rev();
                    lengths.find(|length| self.add(rib, prefix.shortened(*length)));
                }
                return false;
            }
        };
        let from = match after.and_then(|Cursor(prefix)| P::of(prefix)) {
            Some(prefix) => Bound::Excluded(prefix),
            None => Bound::Included(within),
        };
        let group = self.peer.and_then(|peer| rib.group_of(peer));
        for (looked_at, (prefix, slot)) in rib.table.range((from, Bound::Unbounded)).enumerate() {
            if prefix.shortened(within.len()) != within {
                return false;
            }
            self.add_slot(rib, group, prefix, slot);
            if self.page.rows.len() >= limit || looked_at >= LOOKED_AT {
                self.page.next = Some(Cursor(prefix.into()));
                return true;
            }
        }
        false
    }

    /// Appends the routes of one prefix; true: there were some.
    fn add<P: Martian>(&mut self, rib: &FamilyRib<P>, prefix: P) -> bool {
        let before = self.page.rows.len();
        if let Some(slot) = rib.table.find(prefix) {
            let group = self.peer.and_then(|peer| rib.group_of(peer));
            self.add_slot(rib, group, prefix, slot);
        }
        self.page.rows.len() > before
    }

    fn add_slot<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        group: Option<&Group<P>>,
        prefix: P,
        slot: u32,
    ) {
        match self.view {
            View::Best => {
                if let Some(path) = rib.table.best(slot) {
                    self.push(rib, prefix, path, path.accepted);
                }
            }
            View::All => {
                let first = self.page.rows.len();
                let mut lost = false;
                let mut indices = Vec::new();
                for (index, path) in rib.table.paths(slot) {
                    let set = match path.accepted.is_some() {
                        true => path.accepted,
                        false => path.received,
                    };
                    self.push(rib, prefix, path, set);
                    lost |= matches!(path.fate, Fate::Lost(_));
                    indices.push(index);
                }
                if lost {
                    self.add_losses(rib, slot, &indices, first);
                }
            }
            View::Received { .. } => {
                let peer = self.peer.and_then(|id| self.engine.peers.get(&id));
                let source = peer.and_then(Peer::source);
                let index = source.and_then(|source| rib.table.path_of(slot, source));
                if let Some(index) = index {
                    let path = &rib.table.paths[index];
                    let first = self.page.rows.len();
                    self.push(rib, prefix, path, path.received);
                    if matches!(path.fate, Fate::Lost(_)) {
                        self.add_losses(rib, slot, &[index], first);
                    }
                }
            }
            View::Advertised { .. } => self.add_advertised(rib, group, prefix, slot),
        }
    }

    fn add_losses<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        slot: u32,
        indices: &[u32],
        first: usize,
    ) {
        for (lost, reason) in self.engine.losses(rib, slot) {
            if let Some(at) = indices.iter().position(|index| *index == lost)
                && let Some(row) = self.page.rows.get_mut(first + at)
            {
                row.reason = Some(reason);
            }
        }
    }

    /// What a peer was told of a prefix, as it was told.
    fn add_advertised<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        group: Option<&Group<P>>,
        prefix: P,
        slot: u32,
    ) {
        let Some(group) = group else { return };
        let told = self.peer.and_then(|peer| group.member(peer));
        if !told.is_some_and(|member| member.told.contains(slot)) {
            return;
        }
        let Some((set, change)) = group.out(slot) else {
            return; // it is to be withdrawn; what it was is forgotten
        };
        let accepted = self.engine.shared.attrs.attributes(set);
        let Ok((attributes, _)) = group.export.shape(P::FAMILY, change, accepted) else {
            return;
        };
        let Some((_, path)) = rib.table.paths(slot).next() else {
            return;
        };
        let row = self.engine.row(rib, prefix, path, Arc::new(attributes));
        self.page.rows.push(RouteRow {
            reason: None,
            ..row
        });
    }

    fn push<P: Martian>(&mut self, rib: &FamilyRib<P>, prefix: P, path: &Path, set: AttrId) {
        let shared: &Shared = &self.engine.shared;
        let attributes = self
            .decoded
            .entry(set)
            .or_insert_with(|| Arc::new(shared.attrs.attributes(set)))
            .clone();
        let row = self.engine.row(rib, prefix, path, attributes);
        self.page.rows.push(row);
    }
}

//! Routes in pages: bounded work for each, and no copy of a table.

use std::collections::HashMap;
use std::ops::Bound;

use super::Engine;
use super::peers::Peer;
use crate::query::{
    Cursor, Destinations, PageOrigin, PageRoute, QueryError, Reason, Remark, RoutePage, RouteQuery,
    View,
};
use crate::rib::adj_in::Martian;
use crate::rib::adj_out::Group;
use crate::rib::attrs::AttrId;
use crate::rib::loc::FamilyRib;
use crate::rib::table::{Fate, NIL, Path, SourceId};
use crate::types::{Family, PeerId};

/// How many prefixes one page looks at: a view with few routes in a large table answers with short,
/// perhaps empty pages rather than keep the sessions waiting.
const LOOKED_AT: usize = 20_000;

/// Octets of attributes after which a page is full, so that it fits into a message whatever a peer
/// puts into its attributes.
const OCTETS: usize = 1 << 20;

impl Engine {
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
        let limit = limit.max(1);
        let mut filling = Filling {
            engine: self,
            view: &query.view,
            peer,
            page: RoutePage {
                began: self.began,
                ..RoutePage::default()
            },
            sets: HashMap::default(),
            fresh: Vec::new(),
            shaped: HashMap::default(),
            sources: Vec::new(),
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
            let last = filling.page.routes.last().map(|route| route.prefix);
            if let Some(last) = last {
                filling.page.next = Some(Cursor(last)); // the other family has its own pages
                break;
            }
            let full = match family {
                Family::Ipv4 => filling.walk(&self.v4, query, after, limit),
                Family::Ipv6 => filling.walk(&self.v6, query, after, limit),
            };
            if full {
                break;
            }
        }
        Ok(filling.finish())
    }
}

/// A page being filled.
struct Filling<'a> {
    engine: &'a Engine,
    view: &'a View,
    peer: Option<PeerId>,
    page: RoutePage,
    /// The page's number of each set.
    sets: HashMap<AttrId, u32, foldhash::fast::FixedState>,
    /// Those that have yet to be copied, which is done for all at once.
    fresh: Vec<AttrId>,
    /// The page's number of each set with a change made to it, for what a peer is told.
    shaped: HashMap<(AttrId, u16), Option<u32>>,
    /// The source of each origin, and whether it may have stale routes.
    sources: Vec<(SourceId, bool)>,
}

impl Filling<'_> {
    fn finish(mut self) -> RoutePage {
        let attrs = &self.engine.shared.attrs;
        let page = &mut self.page;
        if self.fresh.is_empty() {
            return self.page; // none, or there already
        }
        let copied = attrs.copy(&self.fresh, OCTETS, &mut page.sets);
        let lacks = |route: &PageRoute| route.set as usize >= copied;
        if let Some(first) = page.routes.iter().find(|route| lacks(route)) {
            let prefix = first.prefix;
            let mut kept = page.routes.partition_point(|route| route.prefix < prefix);
            if kept == 0 {
                // The paths of one prefix are not parted, and their sets are the first ones.
                kept = page.routes.partition_point(|route| route.prefix <= prefix);
                let needed = page.routes[..kept].iter().map(|route| route.set as usize);
                let needed = needed.max().map_or(copied, |last| last + 1);
                attrs.copy(&self.fresh[copied..needed], usize::MAX, &mut page.sets);
            }
            if kept < page.routes.len() {
                page.routes.truncate(kept);
                page.remarks.retain(|remark| (remark.route as usize) < kept);
                page.next = page.routes.last().map(|route| Cursor(route.prefix));
            }
        }
        self.page
    }

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
        let slots = rib.table.range(from);
        let slots = slots.take_while(|(prefix, _)| prefix.shortened(within.len()) == within);
        if matches!(self.view, View::Best) {
            return self.add_best(rib, slots, limit);
        }
        let group = self.peer.and_then(|peer| rib.group_of(peer));
        for (looked_at, (prefix, slot)) in slots.enumerate() {
            self.add_slot(rib, group, prefix, slot);
            let full = self.page.routes.len() >= limit || self.page.sets.octets() >= OCTETS;
            if full || looked_at >= LOOKED_AT {
                self.page.next = Some(Cursor(prefix.into()));
                return true;
            }
        }
        false
    }

    /// Appends the best routes of up to `limit` prefixes; true: these were not all.
    ///
    /// What belongs to a prefix lies anywhere in memory. Step by step for all of them, each step's
    /// reads are under way together; prefix by prefix they would wait for one another, and cost
    /// several times as much.
    fn add_best<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        slots: impl Iterator<Item = (P, u32)>,
        limit: usize,
    ) -> bool {
        let slots: Vec<(P, u32)> = slots.take(limit).collect();
        let heads: Vec<u32> = (slots.iter())
            .map(|(_, slot)| rib.table.entries[*slot].head)
            .collect();
        let paths: Vec<Option<&Path>> = (heads.iter())
            .map(|head| {
                let path = (*head != NIL).then(|| &rib.table.paths[*head])?;
                (path.fate == Fate::Best).then_some(path)
            })
            .collect();
        self.page.routes.reserve(slots.len());
        for ((prefix, slot), path) in slots.iter().zip(paths) {
            if let Some(path) = path {
                let set = self.set(path.accepted);
                self.push(rib, (*prefix, *slot), path, set);
            }
        }
        let last = slots.get(limit - 1);
        self.page.next = last.map(|(prefix, _)| Cursor((*prefix).into()));
        last.is_some()
    }

    /// Appends the routes of one prefix; true: there were some.
    fn add<P: Martian>(&mut self, rib: &FamilyRib<P>, prefix: P) -> bool {
        let before = self.page.routes.len();
        if let Some(slot) = rib.table.find(prefix) {
            let group = self.peer.and_then(|peer| rib.group_of(peer));
            self.add_slot(rib, group, prefix, slot);
        }
        self.page.routes.len() > before
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
                    let set = self.set(path.accepted);
                    self.push(rib, (prefix, slot), path, set);
                }
            }
            View::All => {
                let paths: smallvec::SmallVec<[_; 8]> = rib.table.paths(slot).collect();
                let losses = self.losses(rib, slot, &paths);
                for (index, path) in paths {
                    let set = match path.accepted.is_some() {
                        true => path.accepted,
                        false => path.received,
                    };
                    let set = self.set(set);
                    self.push(rib, (prefix, slot), path, set);
                    self.explain(path, index, &losses);
                }
            }
            View::Received { .. } => {
                let peer = self.peer.and_then(|id| self.engine.peers.get(&id));
                let source = peer.and_then(Peer::source);
                let index = source.and_then(|source| rib.table.path_of(slot, source));
                if let Some(index) = index {
                    let path = &rib.table.paths[index];
                    let losses = self.losses(rib, slot, &[(index, path)]);
                    let set = self.set(path.received);
                    self.push(rib, (prefix, slot), path, set);
                    self.explain(path, index, &losses);
                }
            }
            View::Advertised { .. } => self.add_advertised(rib, group, prefix, slot),
        }
    }

    /// Whom the paths of a slot lost to, when one of `paths` did.
    fn losses<P: Martian>(
        &self,
        rib: &FamilyRib<P>,
        slot: u32,
        paths: &[(u32, &Path)],
    ) -> Vec<(u32, Reason)> {
        let lost = |(_, path): &(u32, &Path)| matches!(path.fate, Fate::Lost(_));
        match paths.iter().any(lost) {
            true => self.engine.losses(rib, slot),
            false => Vec::new(),
        }
    }

    /// Tells why the path pushed last is not used.
    fn explain(&mut self, path: &Path, index: u32, losses: &[(u32, Reason)]) {
        let reason = match path.fate {
            Fate::Refused(refusal) => Reason::Refused(refusal),
            Fate::Best | Fate::Multipath | Fate::Lost(_) => {
                let Some((_, reason)) = losses.iter().find(|(lost, _)| *lost == index) else {
                    return;
                };
                reason.clone()
            }
        };
        self.remark().reason = Some(reason);
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
        let Some((set, number, change)) = group.out(slot) else {
            return; // it is to be withdrawn; what it was is forgotten
        };
        let Some((_, path)) = rib.table.paths(slot).next() else {
            return;
        };
        let key = (set, number);
        let known = self.shaped.get(&key).copied();
        let number = known.unwrap_or_else(|| {
            let accepted = self.engine.shared.attrs.attributes(set);
            let shaped = group.export.shape(P::FAMILY, change, accepted).ok();
            let number = shaped.map(|(attributes, _)| {
                self.page.sets.add(&attributes);
                (self.page.sets.len() - 1) as u32
            });
            self.shaped.insert(key, number);
            number
        });
        if let Some(number) = number {
            self.push(rib, (prefix, slot), path, number);
        }
    }

    /// The page's number of a set. A page has sets as they are kept, or as a peer is told, never
    /// both.
    fn set(&mut self, set: AttrId) -> u32 {
        *self.sets.entry(set).or_insert_with(|| {
            self.fresh.push(set);
            (self.fresh.len() - 1) as u32
        })
    }

    fn push<P: Martian>(
        &mut self,
        rib: &FamilyRib<P>,
        (prefix, slot): (P, u32),
        path: &Path,
        set: u32,
    ) {
        let origin = self.origin(path.source, P::FAMILY);
        let (_, may_be_stale) = self.sources[origin];
        let shared = &self.engine.shared;
        let best = path.fate == Fate::Best;
        let stale = may_be_stale
            .then(|| self.engine.stale_route(rib, path.source, prefix))
            .flatten();
        self.page.routes.push(PageRoute {
            prefix: prefix.into(),
            set,
            origin: origin as u16,
            since: path.since,
            best,
            backup: !best && shared.decision.backup_paths && rib.is_backup(shared, slot, path),
            multipath: path.fate == Fate::Multipath,
            stale: stale.is_some(),
            long_lived_stale: stale.is_some_and(|(_, long_lived)| long_lived),
        });
        if self.page.origins[origin].peer.is_none()
            && let Some(names) = rib.originated.get(&prefix)
        {
            let names = names.iter().map(|name| name.to_string());
            self.remark().advertisements = names.collect();
        }
    }

    /// The remark on the route pushed last.
    fn remark(&mut self) -> &mut Remark {
        let route = (self.page.routes.len() - 1) as u32;
        let remarks = &mut self.page.remarks;
        if remarks.last().is_none_or(|remark| remark.route != route) {
            remarks.push(Remark {
                route,
                reason: None,
                advertisements: Vec::new(),
            });
        }
        let last = remarks.len() - 1;
        &mut remarks[last]
    }

    /// The page's number of a source.
    fn origin(&mut self, source: SourceId, family: Family) -> usize {
        let mut known = self.sources.iter();
        if let Some(number) = known.position(|(known, _)| *known == source) {
            return number;
        }
        let (peer, source_kind) = self.engine.whose(source);
        let stale_until = self.engine.stale_until(source, family);
        self.page.origins.push(PageOrigin {
            peer,
            source: source_kind,
            stale_until,
        });
        self.sources.push((source, stale_until.is_some()));
        self.sources.len() - 1
    }
}

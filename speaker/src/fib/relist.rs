//! Listing: at the start to adopt, after an overrun, when told to sweep, and now and then.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use bgp::types::{Prefix, Prefix4, Prefix6};
use kernel::list::{Progress, RouteList};
use kernel::route::Owner;
use kernel::{Netlink, NetlinkError, Route, RouteKind, Target, list};
use plan::KernelConfig;

use super::driver::Driver;
use super::foreign::Foreign;
use super::groups::Groups;
use super::leave::Leaving;
use super::plan::{Actual, Desired, Step, plan};
use super::subnets::METRIC;
use super::table::{Entry, Slot, State};
use super::{destination_of, prefix_of};

/// A list of our table under way. Of other tables only the nexthop objects in use matter.
pub(super) struct List {
    routes: RouteList,
    started: Instant,
    v4: Vec<Actual<Prefix4>>,
    v6: Vec<Actual<Prefix6>>,
    subnets: Vec<Prefix>,
    /// Ours by protocol number, and yet none that we would write.
    strays: Vec<Route>,
    pub(super) foreign: Foreign,
    /// What was written or changed since it was begun: the list may have missed that.
    pub(super) touched: HashSet<Prefix>,
    /// Another one is wanted when this is done.
    again: bool,
}

impl Driver {
    /// Begins to list, unless that is under way.
    pub(super) fn begin_list(&mut self) {
        if let Some(list) = &mut self.list {
            list.again = true;
            return;
        }
        self.next_list = Instant::now() + self.tuning.relist;
        match RouteList::start_everywhere(&mut self.lister) {
            Ok(routes) => {
                self.list = Some(List {
                    routes,
                    started: Instant::now(),
                    v4: Vec::new(),
                    v6: Vec::new(),
                    subnets: Vec::new(),
                    strays: Vec::new(),
                    foreign: Foreign::default(),
                    touched: HashSet::new(),
                    again: false,
                });
            }
            Err(error) => self.troubled("cannot list routes", &error),
        }
    }

    /// Something is not as thought: lists again, though not more often than every `settle`, nor for
    /// more than half of the time.
    pub(super) fn list_soon(&mut self) {
        if let Some(list) = &mut self.list {
            list.again = true; // this one may have passed by already
        }
        let at = Instant::now() + self.tuning.settle.max(self.list_took);
        self.next_list = self.next_list.min(at);
    }

    /// Reads a piece of the list, or works on what it says. True when there was one.
    pub(super) fn work_on_list(&mut self) -> bool {
        let Some(mut list) = self.list.take() else {
            return false;
        };
        match self.read_piece(&mut list) {
            Ok(Progress::More) => self.list = Some(list),
            Ok(Progress::Done) => self.on_list(list),
            Err(error) => {
                self.troubled("cannot list routes", &error);
                self.list_soon();
            }
        }
        true
    }

    fn read_piece(&mut self, list: &mut List) -> Result<Progress, NetlinkError> {
        let List {
            routes,
            v4,
            v6,
            subnets,
            strays,
            foreign,
            ..
        } = list;
        let (owner, lister) = (self.owner(), &mut self.lister);
        routes.step(lister, |route| {
            if route.special {
                return;
            }
            let foreign_route = route.owner.protocol != owner.protocol;
            if route.owner.table != owner.table {
                if foreign_route {
                    foreign.note_object(&route);
                }
                return;
            }
            if foreign_route {
                foreign.put(&route);
                return;
            }
            let id = route.next_hop.unwrap_or(0);
            match (route.kind, prefix_of(route.destination)) {
                (RouteKind::Unicast, Prefix::V4(prefix)) if route.owner == owner => {
                    v4.push((prefix, id));
                }
                (RouteKind::Unicast, Prefix::V6(prefix)) if route.owner == owner => {
                    v6.push((prefix, id));
                }
                (RouteKind::Unreachable, prefix) if route.owner.metric == METRIC => {
                    subnets.push(prefix);
                }
                _ => strays.push(route),
            }
        })
    }

    /// Everything of ours that is there at the start is taken as it is, to be asked for or swept.
    pub(super) fn adopt(&mut self) {
        self.begin_list();
        let Some(mut list) = self.list.take() else {
            return;
        };
        loop {
            match self.read_piece(&mut list) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => break,
                Err(error) => {
                    self.troubled("cannot list routes", &error);
                    self.list_soon();
                    return;
                }
            }
        }
        list.v4.sort_by_key(|(prefix, _)| *prefix);
        list.v6.sort_by_key(|(prefix, _)| *prefix);
        // Of several for one prefix the first is in use; a sweep finds the others.
        list.v4.dedup_by_key(|(prefix, _)| *prefix);
        list.v6.dedup_by_key(|(prefix, _)| *prefix);
        self.adopted = [list.v4.len() as u64, list.v6.len() as u64];
        let v4 = list.v4.iter().map(|(p, id)| (Prefix::V4(*p), *id));
        let v6 = list.v6.iter().map(|(p, id)| (Prefix::V6(*p), *id));
        for (prefix, id) in v4.chain(v6) {
            let slot = self.groups.adopt(id);
            self.put(prefix, Entry::new(slot, State::Stale));
        }
        let adopted = self.table.count(State::Stale);
        tracing::info!(
            routes = adopted,
            table = self.config.table,
            "adopted kernel routes"
        );
        self.subnets.set_actual(list.subnets);
        self.foreign = list.foreign;
        self.problems_dirty = true;
        self.list_later(list.started);
    }

    /// So that listing a large table never takes more than a hundredth of the time.
    fn list_later(&mut self, started: Instant) {
        self.list_took = started.elapsed();
        let wait = self.tuning.relist.max(self.list_took * 100);
        self.next_list = Instant::now() + wait;
    }

    fn on_list(&mut self, mut list: List) {
        list.v4.sort_by_key(|(prefix, _)| *prefix);
        list.v6.sort_by_key(|(prefix, _)| *prefix);
        self.foreign = std::mem::take(&mut list.foreign);
        self.untidy = true; // objects that others used may be free now
        // What is not changed by others since may be tried again.
        self.refusals.clear();
        self.refused_paths.clear();
        self.trouble = None;

        let (groups, install) = (&self.groups, self.config.install);
        let desired = |entry: Entry| {
            (entry.is_wanted() && install).then(|| Desired {
                id: groups.id(entry.slot()),
                there: entry.state() == State::Installed,
            })
        };
        let mut steps = std::mem::take(&mut self.steps);
        let mut missing = Vec::new();
        let mut step = |step: Step| match step {
            Step::Install { prefix, there } => missing.push((prefix, there)),
            other => steps.push(other),
        };
        let v4 = self.table.v4();
        let v4 = v4.filter_map(|(prefix, entry)| Some((prefix, desired(entry)?)));
        plan(v4, &list.v4, &mut step);
        let v6 = self.table.v6();
        let v6 = v6.filter_map(|(prefix, entry)| Some((prefix, desired(entry)?)));
        plan(v6, &list.v6, &mut step);

        if !list.touched.is_empty() {
            missing.retain(|(prefix, _)| !list.touched.contains(prefix));
            steps.retain(|step| !list.touched.contains(&step.prefix()));
        }
        if !self.swept {
            // What nobody asked for yet is known already, as stale.
            let stale = |prefix| self.table.get(prefix).is_some();
            steps.retain(|step| !matches!(step, Step::Unasked { prefix, .. } if stale(*prefix)));
        }
        let wrong = |step: &&Step| matches!(step, Step::Move { .. } | Step::RemoveExtra { .. });
        self.repaired += steps.iter().filter(wrong).count() as u64;
        self.steps = steps;
        self.on_missing(missing);
        // Those of a configuration before go when the routes stand in their new place.
        if self.swept && self.retired.is_empty() {
            self.remove_strays(list.strays);
        }
        list.subnets.retain(|prefix| !list.touched.contains(prefix));
        self.subnets.set_actual(list.subnets);
        self.write_subnets();
        self.problems_dirty = true;
        self.list_later(list.started);
        if list.again {
            self.list_soon();
        }
    }

    /// Routes that the kernel does not have.
    fn on_missing(&mut self, missing: Vec<(Prefix, bool)>) {
        for (prefix, there) in missing {
            let Some(entry) = self.table.get(prefix) else {
                continue;
            };
            self.repaired += u64::from(there);
            let foreign = self.foreign.in_the_way(prefix, self.config.metric);
            let state = match foreign {
                Some(route) if route.metric == self.config.metric && self.retired.is_empty() => {
                    State::Foreign
                }
                _ => State::Pending,
            };
            self.table.put(prefix, entry.with(state));
        }
        self.start_backlog();
    }

    /// With our protocol number, but not as we write them: of an earlier configuration, or by hand.
    fn remove_strays(&mut self, strays: Vec<Route>) {
        for route in strays {
            self.requests
                .remove_route(&route.owner, route.destination, None);
        }
        if let Err(error) = self
            .writer
            .carry_out(&mut self.requests, &mut self.failures)
        {
            self.troubled("cannot remove stray routes", &error);
        }
    }

    /// The configuration says another place for our routes than `old`: all of them are to be
    /// written there, and those in the old place go when that is done.
    pub(super) fn move_routes(&mut self, old: KernelConfig) {
        self.flush();
        if old.install {
            self.retired.push(old);
        }
        self.retired.retain(|retired| *retired != self.config);
        self.list = None;
        self.steps.clear();
        self.leaving = Leaving::default();
        self.backlog = None;
        self.last_set = None;
        self.subnets.forget_actual();
        self.foreign = Foreign::default();
        let slots = match old.protocol == self.config.protocol {
            true => None,
            false => Some(self.renew_groups()),
        };
        // What was adopted in the old place is not wanted in the new one.
        let groups = &mut self.groups;
        self.table.change_all(|entry| {
            if !entry.is_wanted() {
                if slots.is_none() {
                    groups.uncount_route(entry.slot());
                }
                return None;
            }
            let slot = match &slots {
                Some(slots) => *slots.get(&entry.slot())?,
                None => entry.slot(),
            };
            if slots.is_some() {
                groups.count_route(slot);
            }
            Some(Entry::new(slot, State::Pending))
        });
        self.suspect = true;
        self.untidy = true;
        self.resolve_at = Some(Instant::now());
        // What the new place holds; what is missing there is written after it.
        self.begin_list();
    }

    /// Groups with the ids and the number of another protocol. Gives new slots for old.
    fn renew_groups(&mut self) -> BTreeMap<Slot, Slot> {
        let new = Groups::new(self.config.protocol);
        let old = std::mem::replace(&mut self.groups, new);
        self.suspect = true;
        if let Ok(found) = list::next_hops(&mut self.writer) {
            self.groups.set_objects(found);
        }
        let slots = old.with_sets().map(|slot| {
            let (hops, backups) = old.set(slot);
            let ways = self.ways_out(hops, backups);
            (slot, self.groups.create(hops, backups, &ways))
        });
        slots.collect()
    }

    /// Removes what is left where our routes were before.
    pub(super) fn purge(&mut self) {
        for old in std::mem::take(&mut self.retired) {
            if let Err(error) = self.purge_one(old) {
                self.troubled("cannot remove the routes of the old configuration", &error);
            }
        }
        // They were in the way of our own subnets, and may have been taken for foreign ones.
        self.begin_list();
    }

    fn purge_one(&mut self, old: KernelConfig) -> Result<(), NetlinkError> {
        let (owner, install) = (self.owner(), self.config.install);
        let mut routes: Vec<Route> = Vec::new();
        let mut lister = Netlink::open(8 << 20)?;
        let mut list = RouteList::start(&mut lister, old.table)?;
        while let Progress::More = list.step(&mut lister, |route| {
            let current = Owner {
                metric: route.owner.metric,
                ..owner
            };
            let kept = install
                && route.owner == current
                && (route.owner.metric == owner.metric || route.owner.metric == METRIC);
            if route.owner.protocol == old.protocol && !kept {
                routes.push(route);
            }
        })? {}
        tracing::info!(
            routes = routes.len(),
            table = old.table,
            "removing routes of the old place"
        );
        for chunk in routes.chunks(512) {
            for route in chunk {
                let target = route.next_hop.map(Target::NextHop);
                self.requests
                    .remove_route(&route.owner, route.destination, target);
            }
            self.writer
                .carry_out(&mut self.requests, &mut self.failures)?;
        }
        if old.protocol != owner.protocol || !install {
            self.purge_objects(old.protocol)?;
        }
        Ok(())
    }

    fn purge_objects(&mut self, protocol: u8) -> Result<(), NetlinkError> {
        let mut objects = list::next_hops(&mut self.writer)?;
        objects.retain(|object| object.protocol == protocol);
        // Groups before their members.
        objects.sort_by_key(|object| !matches!(object.kind, kernel::NextHopKind::Group(_)));
        for object in objects {
            self.requests.remove_next_hop(object.id);
        }
        self.suspect = true;
        self.writer
            .carry_out(&mut self.requests, &mut self.failures)
    }

    /// For messages about a route that cannot be written.
    pub(super) fn command_to_show(&self, prefix: Prefix) -> String {
        let family = match prefix {
            Prefix::V4(_) => "",
            Prefix::V6(_) => "-6 ",
        };
        let table = self.config.table;
        let destination = destination_of(prefix);
        format!(
            "ip {family}route show table {table} exact {}/{}",
            destination.address, destination.length
        )
    }
}

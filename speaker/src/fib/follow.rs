//! Following the kernel: links, how next hops are reached, and nexthop objects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use kernel::list::{Progress, RouteList};
use kernel::{Netlink, NetlinkError, Path, RouteKind, list, lookup};

use super::FibEvent;
use super::driver::{Driver, RECEIVE};
use super::foreign::Foreign;
use super::objects::ObjectStep;
use super::table::State;
use crate::nexthops::Way;

impl Driver {
    pub(super) fn list_links(&mut self) {
        match self.links.list() {
            Ok(links) => self.hops.set_links(links),
            Err(error) => self.troubled("cannot list links", &error),
        }
    }

    /// Looks next hops up again, though not at once: changes come in bursts.
    pub(super) fn resolve_soon(&mut self) {
        let at = self.resolved + self.tuning.settle;
        self.resolve_at = Some(self.resolve_at.map_or(at, |other| other.min(at)));
    }

    /// Looks up again how every next hop is reached, when it is time, and puts groups right.
    pub(super) fn follow(&mut self) {
        let now = Instant::now();
        let due = self.resolve_at.is_some_and(|at| at <= now);
        if due {
            self.resolve_at = None;
            self.look_up(&self.hops.addresses());
            if std::mem::take(&mut self.readdressed) {
                self.tell(FibEvent::Addresses);
            }
        }
        self.ask_the_silent();
        if due || self.suspect || std::mem::take(&mut self.silent.changed) {
            self.repair_objects();
        }
        if due {
            // Of very many next hops, no more than half of the time.
            let end = Instant::now();
            self.resolved = end + (end - now);
        }
    }

    /// How these are reached is followed from now on, and no other peer.
    pub(super) fn follow_peers(&mut self, peers: BTreeSet<IpAddr>) {
        let gone: Vec<IpAddr> = self.peers.difference(&peers).copied().collect();
        for peer in gone {
            self.hops.release(peer);
        }
        let new: Vec<IpAddr> = peers.difference(&self.peers).copied().collect();
        let unknown: Vec<IpAddr> = (new.into_iter())
            .filter(|peer| self.hops.hold(*peer))
            .collect();
        self.peers = peers;
        self.paths_dirty = true;
        if !unknown.is_empty() {
            self.look_up(&unknown);
        }
    }

    /// Tells the MTU of the path when it has changed.
    pub(super) fn tell_path_mtu(&mut self) {
        if !std::mem::take(&mut self.paths_dirty) {
            return;
        }
        let mtu = self.hops.mtu();
        if mtu != self.path_mtu {
            self.path_mtu = mtu;
            self.tell(FibEvent::PathMtu(mtu));
        }
    }

    /// Asks the kernel how these next hops are reached, and tells who wants to know.
    pub(super) fn look_up(&mut self, addresses: &[IpAddr]) {
        let found = match lookup::lookup(&mut self.writer, addresses) {
            Ok(found) => found,
            Err(error) => {
                self.troubled("cannot look up next hops", &error);
                self.resolve_soon();
                return;
            }
        };
        let mut main = None;
        for (address, route) in addresses.iter().zip(&found) {
            let way = match route {
                // In a subnet of ours, and nobody has it there.
                Some(route)
                    if route.owner.protocol == self.config.protocol
                        && route.kind == RouteKind::Unreachable =>
                {
                    None
                }
                // Our own routes do not say how their next hops are reached: the best of the
                // others does.
                Some(route) if route.owner.protocol == self.config.protocol => {
                    let here = self.foreign.covering(*address);
                    let route = here.or_else(|| {
                        let main = main.get_or_insert_with(|| self.foreign_in_main());
                        main.covering(*address)
                    });
                    route.map(|route| Way {
                        kind: route.kind,
                        metric: route.metric,
                        paths: &route.paths,
                    })
                }
                Some(route) => Some(Way {
                    kind: route.kind,
                    metric: route.owner.metric,
                    paths: &route.paths,
                }),
                None => None,
            };
            let (changed, told) = self.hops.resolve(*address, way);
            self.paths_dirty |= changed;
            if let Some(state) = told {
                tracing::debug!(next_hop = %address, reachable = state.is_some(), "next hop");
                let address = *address;
                self.tell(FibEvent::NextHop { address, state });
            }
        }
    }

    /// Routes of others in the main table, when ours are in another one and hide them.
    fn foreign_in_main(&self) -> Foreign {
        let mut main = Foreign::default();
        let table = u32::from(libc::RT_TABLE_MAIN);
        if self.config.table == table {
            return main; // known already
        }
        let mut list = || -> Result<(), NetlinkError> {
            let mut lister = Netlink::open(RECEIVE)?;
            let mut list = RouteList::start(&mut lister, table)?;
            while let Progress::More = list.step(&mut lister, |route| {
                if !route.special && route.owner.protocol != self.config.protocol {
                    main.put(&route);
                }
            })? {}
            Ok(())
        };
        if let Err(error) = list() {
            tracing::warn!(%error, "cannot list the main table to look up next hops");
        }
        main
    }

    /// Makes nexthop objects what the routes need, after something changed.
    pub(super) fn repair_objects(&mut self) {
        // A way out that the kernel refuses is left out in the second attempt, an id that somebody
        // took is passed over in it.
        let mut changed = false;
        for _ in 0..3 {
            if self.suspect {
                changed |= self.list_objects();
            }
            if !self.config.install {
                return;
            }
            let wanted = self.groups.with_sets().map(|slot| {
                let (hops, backups) = self.groups.set(slot);
                (slot, self.ways_out(hops, backups))
            });
            let wanted: Vec<_> = wanted.collect();
            let steps = self.groups.plan(&wanted);
            changed |= !steps.is_empty();
            if self.write_objects(&steps) {
                break;
            }
        }
        if changed {
            self.start_backlog();
        }
    }

    /// Reads all nexthop objects; routes whose group is gone wait for it from now on. True when
    /// there are some.
    fn list_objects(&mut self) -> bool {
        let found = match list::next_hops(&mut self.writer) {
            Ok(found) => found,
            Err(error) => {
                self.troubled("cannot list nexthop objects", &error);
                return false;
            }
        };
        self.suspect = false;
        let lost = self.groups.set_objects(found);
        if lost.is_empty() {
            return false;
        }
        let groups = &mut self.groups;
        self.table.change_all(|entry| {
            // Refused ones were refused because the group was gone.
            let concerned = entry.in_kernel() || entry.state() == State::Refused;
            if !concerned || !lost.contains(&entry.slot()) {
                return Some(entry);
            }
            if !entry.is_wanted() {
                groups.uncount_route(entry.slot());
                return None;
            }
            Some(entry.with(State::Pending))
        });
        self.untidy = true;
        true
    }

    /// False when some step failed: then the objects must be listed again.
    pub(super) fn write_objects(&mut self, steps: &[ObjectStep]) -> bool {
        if steps.is_empty() {
            return true;
        }
        // Routes already requested may point at what a step removes; they go first.
        self.flush();
        let protocol = self.config.protocol;
        for step in steps {
            match step {
                ObjectStep::AddPath { id, path } => {
                    let gateway = path
                        .gateway
                        .expect("a resolved next hop always has a gateway");
                    self.requests.add_path(protocol, *id, gateway, path);
                }
                ObjectStep::AddGroup { id, members } => {
                    self.requests.add_group(protocol, *id, members);
                }
                ObjectStep::ReplaceGroup { id, members } => {
                    self.requests.replace_group(protocol, *id, members);
                }
                ObjectStep::Remove { id } => self.requests.remove_next_hop(*id),
            }
        }
        let outcome = self
            .writer
            .carry_out(&mut self.requests, &mut self.failures);
        if let Err(error) = outcome {
            self.troubled("cannot write nexthop objects", &error);
            self.suspect = true;
            return false;
        }
        for failure in &self.failures {
            let step = steps.get(failure.request);
            if let Some(ObjectStep::AddPath { path, .. }) = step
                && failure.errno != libc::EEXIST
            {
                self.refused_paths.insert(*path, failure.reason());
                self.problems_dirty = true;
            }
            if let Some(ObjectStep::AddGroup { members, .. }) = step
                && members.has_backups
                && failure.says_unknown_kind()
            {
                self.groups.without_backups();
            }
            tracing::warn!(?step, reason = failure.reason(), "nexthop object refused");
        }
        self.suspect |= !self.failures.is_empty();
        self.failures.is_empty()
    }

    pub(super) fn path_in_words(&self, path: &Path) -> String {
        let interface = self.hops.link_name(path.interface);
        match path.gateway {
            Some(gateway) => format!("via {gateway} dev {interface}"),
            None => format!("dev {interface}"),
        }
    }

    /// Removes objects that no route needs. True when there were some.
    pub(super) fn tidy(&mut self) -> bool {
        if !self.retired.is_empty() && self.backlog.is_none() {
            self.purge();
            return true;
        }
        if !std::mem::take(&mut self.untidy) {
            return false;
        }
        let shared = |id| self.foreign.uses(id);
        let steps = self.groups.plan_removal(!self.swept, shared);
        self.write_objects(&steps);
        for hop in self.groups.forget_unused() {
            self.hops.release(hop);
        }
        self.last_set = None;
        true
    }
}

//! Routes of others in the table that we write to. They are looked at, never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::types::Prefix;
use kernel::{Path, Route, RouteKind};

use super::prefix_of;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    routes: BTreeMap<Prefix, Vec<ForeignRoute>>,
    /// Nexthop objects that routes of others point at, in whatever table, or did so since the list
    /// that this was made from. One of ours among them is not ours alone.
    objects: BTreeSet<u32>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignRoute {
    pub(super) protocol: u8,
    pub(super) metric: u32,
    pub(super) kind: RouteKind,
    pub(super) paths: Vec<Path>,
    /// Usable or not.
    pub(super) interface: Option<u32>,
}

impl Foreign {
    /// A route of another table, or one that is not quite ours.
    pub(super) fn note_object(&mut self, route: &Route) {
        self.objects.extend(route.next_hop);
    }

    /// Whether the route of somebody else points at this nexthop object, or may do so.
    pub(super) fn uses(&self, id: u32) -> bool {
        self.objects.contains(&id)
    }

    pub(super) fn put(&mut self, route: &Route) {
        self.note_object(route);
        let routes = self.routes.entry(prefix_of(route.destination));
        let routes = routes.or_default();
        let new = ForeignRoute {
            protocol: route.owner.protocol,
            metric: route.owner.metric,
            kind: route.kind,
            paths: route.paths.clone(),
            interface: route.interface,
        };
        match routes.iter_mut().find(|old| same(old, route)) {
            Some(old) => *old = new,
            None => routes.push(new),
        }
    }

    /// A route took the place of whatever had its prefix and metric.
    pub(super) fn replace(&mut self, route: &Route) {
        if let Some(routes) = self.routes.get_mut(&prefix_of(route.destination)) {
            routes.retain(|old| old.metric != route.owner.metric);
        }
        self.put(route);
    }

    pub(super) fn remove(&mut self, route: &Route) {
        let prefix = prefix_of(route.destination);
        if let Some(routes) = self.routes.get_mut(&prefix) {
            routes.retain(|old| !same(old, route));
            if routes.is_empty() {
                self.routes.remove(&prefix);
            }
        }
    }

    /// Removes routes to addresses within `subnet` that lead out of this interface.
    pub(super) fn remove_hosts_via(&mut self, subnet: Prefix, interface: u32) {
        let within = self.routes.range(subnet..);
        let within = within.map(|(prefix, _)| *prefix);
        let within: Vec<Prefix> = within
            .take_while(|prefix| subnet.contains(*prefix))
            .collect();
        for prefix in within {
            let Some(routes) = self.routes.get_mut(&prefix) else {
                continue;
            };
            routes.retain(|route| route.interface != Some(interface));
            if routes.is_empty() {
                self.routes.remove(&prefix);
            }
        }
    }

    /// The route that wins over one of ours with `metric`: it has a lower or the same one.
    pub(super) fn in_the_way(&self, prefix: Prefix, metric: u32) -> Option<&ForeignRoute> {
        let routes = self.routes.get(&prefix)?.iter();
        routes
            .filter(|route| route.metric <= metric)
            .min_by_key(|route| route.metric)
    }

    /// How many addresses within `subnet` have a route of their own, as those of pods do, or are in
    /// `leased`, because pods on a link with others have none.
    pub(super) fn hosts_within(&self, subnet: Prefix, leased: &BTreeSet<Prefix>) -> u64 {
        let longest = if subnet.address().is_ipv4() { 32 } else { 128 };
        let within = self.routes.range(subnet..);
        let hosts = within
            .take_while(|(prefix, _)| subnet.contains(**prefix))
            .filter(|(prefix, routes)| {
                let to_a_pod = |route: &ForeignRoute| route.kind == RouteKind::Unicast;
                prefix.length() == longest && routes.iter().any(to_a_pod)
            });
        let hosts = hosts.map(|(prefix, _)| prefix);
        let routed = hosts.filter(|host| !leased.contains(host)).count();
        let leased = leased.range(subnet..);
        let leased = leased.take_while(|host| subnet.contains(**host)).count();
        (routed + leased) as u64
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.routes.keys().copied()
    }

    /// The longest match for an address.
    pub(super) fn covering(&self, address: IpAddr) -> Option<&ForeignRoute> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let routes = self.routes.get(&Prefix::new(address, length))?;
            routes.iter().min_by_key(|route| route.metric)
        })
    }
}

fn same(old: &ForeignRoute, route: &Route) -> bool {
    old.protocol == route.owner.protocol && old.metric == route.owner.metric
}

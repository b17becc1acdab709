//! Our own subnets: what no other route covers in them must not leave by the default route and
//! come back. Each has an `unreachable` route with a metric that every other route beats.

use std::collections::BTreeMap;

use bgp::types::Prefix;
use kernel::route::Owner;
use kernel::{Destination, Target};

use super::destination_of;
use super::driver::Driver;

/// The next to highest metric.
pub(super) const METRIC: u32 = u32::MAX - 1;

/// Which are wanted, and which are there.
#[derive(Debug, Default)]
pub(super) struct Subnets {
    subnets: BTreeMap<Prefix, Subnet>,
    /// We have been told which are wanted.
    known: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Subnet {
    wanted: bool,
    there: bool,
    /// The kernel did not take it; tried again when something changes.
    refused: bool,
}

impl Subnets {
    /// These and no others, from now on.
    pub(super) fn want(&mut self, prefixes: Vec<Prefix>) {
        self.known = true;
        for subnet in self.subnets.values_mut() {
            subnet.wanted = false;
        }
        for prefix in prefixes {
            let subnet = self.subnets.entry(prefix).or_default();
            subnet.wanted = true;
            subnet.refused = false;
        }
    }

    /// All routes of this kind that the kernel has.
    pub(super) fn set_actual(&mut self, prefixes: Vec<Prefix>) {
        for subnet in self.subnets.values_mut() {
            subnet.there = false;
            subnet.refused = false;
        }
        for prefix in prefixes {
            self.subnets.entry(prefix).or_default().there = true;
        }
    }

    /// The kernel has none of them, where they should be now.
    pub(super) fn forget_actual(&mut self) {
        self.set_actual(Vec::new());
    }

    /// One was taken away. True when it is wanted.
    pub(super) fn gone(&mut self, prefix: Prefix) -> bool {
        match self.subnets.get_mut(&prefix) {
            Some(subnet) => std::mem::take(&mut subnet.there) && subnet.wanted,
            None => false,
        }
    }

    /// Whether the kernel has the route of this subnet of ours; `None` when it is none of ours.
    pub(super) fn installed(&self, prefix: Prefix) -> Option<bool> {
        let subnet = self.subnets.get(&prefix)?;
        subnet.wanted.then_some(subnet.there)
    }

    /// Those that are ours.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Prefix> {
        let ours = self.subnets.iter().filter(|(_, subnet)| subnet.wanted);
        ours.map(|(prefix, _)| *prefix)
    }

    /// What held its place is gone.
    pub(super) fn retry(&mut self, prefix: Prefix) {
        if let Some(subnet) = self.subnets.get_mut(&prefix) {
            subnet.refused = false;
        }
    }
}

impl Driver {
    /// An interface is gone, and with it its routes. Of those to pods we know: the kernel does not tell of
    /// IPv4 routes that go with their link.
    pub(super) fn pods_gone_with(&mut self, interface: u32) {
        for subnet in self.subnets.wanted() {
            self.foreign.remove_hosts_via(subnet, interface);
            if let Some(list) = &mut self.list {
                list.foreign.remove_hosts_via(subnet, interface);
            }
        }
        self.problems_dirty = true;
    }

    /// Writes what is missing and removes what is not wanted. Nobody but us knows our subnets, so
    /// this does not wait for a sweep once they are known.
    pub(super) fn write_subnets(&mut self) {
        if !self.subnets.known {
            return;
        }
        let owner = Owner {
            metric: METRIC,
            ..self.owner()
        };
        let install = self.config.install;
        let mut changes: Vec<(Prefix, bool)> = Vec::new();
        for (prefix, subnet) in &self.subnets.subnets {
            let wanted = subnet.wanted && install;
            let destination: Destination = destination_of(*prefix);
            if wanted && !subnet.there && !subnet.refused {
                self.requests
                    .add_route(&owner, destination, Target::Unreachable);
                changes.push((*prefix, true));
            } else if !wanted && subnet.there {
                self.requests
                    .remove_route(&owner, destination, Some(Target::Unreachable));
                changes.push((*prefix, false));
            }
        }
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self
            .writer
            .carry_out(&mut self.requests, &mut self.failures)
        {
            self.troubled("cannot write the routes of our own subnets", &error);
            return;
        }
        for (prefix, there) in &changes {
            self.subnets.subnets.entry(*prefix).or_default().there = *there;
        }
        for failure in &self.failures {
            let Some((prefix, add)) = changes.get(failure.request) else {
                continue;
            };
            let subnet = self.subnets.subnets.entry(*prefix).or_default();
            subnet.there = false;
            if *add {
                subnet.refused = true;
                let reason = failure.reason();
                tracing::warn!(%prefix, reason, "own subnet has no unreachable route");
            }
        }
        self.subnets.subnets.retain(|_, s| s.wanted || s.there);
    }
}

//! Gateways that do not answer.
//!
//! Within a group of several that are used together the kernel passes over a member whose neighbour
//! entry is not valid by itself; in a group with backups it does not. There we take the member out
//! once the kernel has asked in vain (that is what "failed" says), and put it back when it answers.
//! As nothing is sent to it meanwhile, we have the kernel ask again and again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kernel::{Neighbour, Path};

use super::driver::Driver;

/// How often the kernel is told to ask.
const AGAIN: Duration = Duration::from_secs(1);

/// The gateways of our next hops that do not answer.
#[derive(Debug, Default)]
pub(super) struct Silent {
    gateways: BTreeSet<(u32, IpAddr)>,
    /// Groups are to be put right.
    pub(super) changed: bool,
    pub(super) ask_at: Option<Instant>,
}

impl Silent {
    pub(super) fn contains(&self, path: &Path) -> bool {
        let gateway = |gateway| self.gateways.contains(&(path.interface, gateway));
        !self.gateways.is_empty() && path.gateway.is_some_and(gateway)
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.changed |= !self.gateways.is_empty();
        self.gateways.clear();
        self.ask_at = None;
    }
}

impl Driver {
    pub(super) fn on_neighbour(&mut self, neighbour: Neighbour) {
        let key = (neighbour.interface, neighbour.address);
        match neighbour.answers {
            Some(true) => self.silent.changed |= self.silent.gateways.remove(&key),
            Some(false) if self.hops.has_gateway(key.0, key.1) => {
                if self.silent.gateways.insert(key) {
                    tracing::info!(gateway = %key.1, "does not answer");
                    self.silent.changed = true;
                    self.silent.ask_at = Some(Instant::now() + AGAIN);
                }
            }
            Some(false) | None => {}
        }
    }

    /// Has the kernel ask those that do not answer, when it is time.
    pub(super) fn ask_the_silent(&mut self) {
        let now = Instant::now();
        if self.silent.ask_at.is_none_or(|at| at > now) {
            return;
        }
        let hops = &self.hops;
        let gateways = &mut self.silent.gateways;
        gateways.retain(|(interface, gateway)| hops.has_gateway(*interface, *gateway));
        for (interface, gateway) in gateways.iter() {
            self.requests.probe(*gateway, *interface);
        }
        self.silent.ask_at = (!gateways.is_empty()).then(|| now + AGAIN);
        let outcome = self
            .writer
            .carry_out(&mut self.requests, &mut self.failures);
        if let Err(error) = outcome {
            self.troubled("cannot have neighbours asked", &error);
        }
    }
}

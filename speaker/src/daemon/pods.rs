//! Whether pods may start: the node has a subnet, and the route towards the fabric stands.
//!
//! Asked until it has been so once, and never again (decision 0026).

use std::collections::BTreeSet;

use bgp::query::{FamilyStatus, PeerStatus};
use bgp::types::Family;
use plan::{Purpose, Subnet};

use super::{Daemon, ESTABLISHED, now};

impl Daemon {
    /// Tells `cni_conf` whether pods may start, as long as it wants to know. False when it does not any
    /// more.
    pub(super) fn look_at_pods(&mut self) -> bool {
        if !self.cni_conf.asks() {
            return false;
        }
        let waits = self.pods_wait_for();
        if self.cni_conf.may_start(waits) {
            self.changed();
        }
        true
    }

    /// What is not there yet, in words that follow "when there is"; `None` when all of it is.
    fn pods_wait_for(&self) -> Option<String> {
        let Some(in_force) = &self.in_force else {
            return Some("a configuration".to_owned());
        };
        let families = families(&in_force.config.subnets);
        if families.is_empty() {
            return Some("a subnet out of which pods get addresses".to_owned());
        }
        if self.kernel.fib().is_none() {
            return Some("a way to write kernel routes".to_owned());
        }
        let swept = self.sweep_by.is_none();
        let peers = self.engine.peers(now());
        let missing = families
            .into_iter()
            .find_map(|family| waits_for_peer(family, &peers, swept));
        if missing.is_some() {
            return missing;
        }
        let untold = self.engine.deferral().is_some();
        let behind = self.engine.status().fib_pending > 0 || self.kernel.is_behind();
        (untold || behind).then(|| "nothing left to write into the kernel".to_owned())
    }
}

/// Of the subnets that pods get addresses out of.
fn families(subnets: &[Subnet]) -> BTreeSet<Family> {
    let active = subnets
        .iter()
        .filter(|subnet| subnet.purpose == Purpose::Pods && !subnet.draining);
    active.map(|subnet| subnet.prefix.family()).collect()
}

/// Whether one peer at least that carries the family has been told of our subnets and has said all it
/// has; where no peer carries it there is nothing to wait for. `swept`: peers that do not say when they
/// have said all have had their time.
fn waits_for_peer(family: Family, peers: &[PeerStatus], swept: bool) -> Option<String> {
    let of = |peer: &PeerStatus| {
        let mut families = peer.families.iter();
        families.find(|it| it.family == family).cloned()
    };
    let established = |peer: &PeerStatus| peer.state == ESTABLISHED;
    let stands = |status: &FamilyStatus| {
        let heard = status.end_of_rib_received || swept;
        status.negotiated && heard && status.end_of_rib_sent && status.pending == 0
    };
    // One that is not there may carry it; one that is there and did not agree to it never will.
    let carriers = peers.iter().filter(|peer| peer.shutdown.is_none());
    let carriers = carriers.filter_map(|peer| Some((peer, of(peer)?)));
    let carriers: Vec<_> = carriers
        .filter(|(peer, status)| !established(peer) || status.negotiated)
        .collect();
    let stands = |(peer, status): &(&PeerStatus, FamilyStatus)| established(peer) && stands(status);
    let (first, _) = carriers.first()?;
    if carriers.iter().any(stands) {
        return None;
    }
    let up = carriers.iter().find(|(peer, _)| established(peer));
    Some(match (up, carriers.len()) {
        (Some((peer, _)), _) => format!(
            "one peer that has been told the {family} subnets and has told its own routes (session {} is \
             not done with that)",
            peer.name
        ),
        (None, 1) => format!("an Established session for {family} (peer {})", first.name),
        (None, count) => format!("one Established session for {family} (of {count} peers)"),
    })
}

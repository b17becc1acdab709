//! All ipvlan links of a parent have one mode: the kernel gives all of them that of the one that is made last, and
//! the containers of another network would lose what they have, without a word.

use std::collections::HashSet;

use cni::leases::{Lease, Snapshot};
use cni::spec::{Error, Mode};
use kernel::link::{self, By, LinkDetails};
use kernel::{IpvlanMode, VirtualKind};

use super::super::shape;
use crate::addresses::unusable;
use crate::mark::Mark;
use crate::netns::Netns;
use crate::request::{Request, now};

/// Refuses what would change links that are there. One container of each network is looked at: the kernel keeps all
/// of a parent alike.
pub(super) fn check(
    request: &Request,
    wanted: VirtualKind,
    parent: &LinkDetails,
) -> Result<(), Error> {
    let VirtualKind::Ipvlan(mode) = wanted else {
        return Ok(());
    };
    let snapshot = Snapshot::read(request.data_dir(), &now()?).map_err(|error| unusable(&error))?;
    let is_ipvlan = |lease: &&Lease| lease.owner.mode == Mode::Ipvlan.as_str();
    let leases = snapshot.leases.iter().rev().filter(is_ipvlan);
    let mut seen = HashSet::new();
    for lease in leases.filter(|lease| !lease.earlier_boot) {
        if seen.contains(&lease.network) {
            continue;
        }
        let Some(link) = link_of(lease) else {
            continue;
        };
        seen.insert(&lease.network);
        match link.virtual_kind {
            Some(VirtualKind::Ipvlan(there))
                if there != mode && link.parent == Some(parent.index) =>
            {
                return Err(shape::invalid(format!(
                    "ipvlanMode is {:?}, and containers of the network {} have {:?} on {}: the kernel has one \
                     for all links of a parent, and would change theirs",
                    name(mode),
                    lease.network,
                    name(there),
                    parent.name
                ))
                .details("give all networks of the parent one ipvlanMode, and start those containers anew"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The container's interface, if it is still there.
fn link_of(lease: &Lease) -> Option<LinkDetails> {
    let owner = &lease.owner;
    let netns = Netns::find_to_remove(owner.netns.as_deref()?.as_ref()).ok()??;
    let mut container = netns.netlink().ok()?;
    let found = link::find(&mut container, By::Name(&owner.ifname)).ok()??;
    let mark = Mark {
        network: &lease.network,
        container: &owner.container,
        ifname: &owner.ifname,
    };
    (Mark::read(&found.alias) == Some(mark)).then_some(found)
}

fn name(mode: IpvlanMode) -> &'static str {
    match mode {
        IpvlanMode::L2 => "l2",
        IpvlanMode::L3 => "l3",
        IpvlanMode::L3s => "l3s",
    }
}

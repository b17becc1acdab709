//! Which addresses a container gets: a decision out of what the log comes to, without touching it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::error::{AllocateError, Ends, Exhausted, Unavailable};
use super::range::Range;
use super::record::{Cooling, Free, Record};
use super::state::{Scope, State, ago, is_cooling_down};
use super::{Lease, Now, Owner};

/// What an attachment is to get.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// In the order in which they are used up. One address is given of each family that there are
    /// ranges of; none when there are no ranges.
    pub ranges: Vec<Range>,
    /// These and no others, for the families they are of.
    pub requested: Vec<IpAddr>,
    /// For how long an address is given to nobody else after it was freed.
    pub cooldown: Duration,
}

/// The records that make it so; none when the attachment has what it asks for already.
pub(super) fn decide(
    state: &State,
    network: &str,
    owner: &Owner,
    request: &Request,
    now: &Now,
) -> Result<Vec<Record>, AllocateError> {
    let mut records = Vec::new();
    let before = state.of(network, &owner.container, &owner.ifname);
    let view = View::new(state, network, owner, request, now);
    let addresses = match before.filter(|lease| !lease.earlier_boot || view.fits(lease)) {
        Some(lease) => {
            view.only_what_it_has(lease)?;
            lease.addresses.clone()
        }
        None => view.choose(&mut records)?,
    };
    let lease = Lease {
        network: network.to_owned(),
        addresses,
        of_node: request.ranges.iter().any(Range::is_of_node),
        owner: owner.clone(),
        since: match before {
            Some(lease) if !lease.earlier_boot => lease.since,
            _ => now.wall,
        },
        cooldown_seconds: request.cooldown.as_secs(),
        earlier_boot: false,
    };
    if before != Some(&lease) {
        let gone = before.filter(|before| before.earlier_boot);
        records.extend(gone.map(|before| end_of(before, now)));
        records.push(Record::Lease(lease));
    }
    Ok(records)
}

fn end_of(lease: &Lease, now: &Now) -> Record {
    Record::Free(Free {
        network: lease.network.clone(),
        container: lease.owner.container.clone(),
        ifname: lease.owner.ifname.clone(),
        at: now.wall,
        uptime_ms: now.uptime_ms(),
    })
}

/// The state as one network sees it.
struct View<'a> {
    state: &'a State,
    network: &'a str,
    owner: &'a Owner,
    request: &'a Request,
    now: &'a Now,
    /// Leases that this network's ranges must keep clear of, by address.
    held: HashMap<IpAddr, &'a Lease>,
}

impl<'a> View<'a> {
    fn new(
        state: &'a State,
        network: &'a str,
        owner: &'a Owner,
        request: &'a Request,
        now: &'a Now,
    ) -> View<'a> {
        let any_network = request.ranges.iter().any(Range::is_of_node);
        let ours = |lease: &&Lease| any_network || lease.of_node || lease.network == network;
        let leases = state.leases().filter(ours).filter(|lease| {
            // What it had before the boot is its own to keep or to lose.
            !lease.is_of(network, &owner.container, &owner.ifname)
        });
        let by_address = |lease: &'a Lease| lease.addresses.iter().map(move |it| (it.ip(), lease));
        View {
            state,
            network,
            owner,
            request,
            now,
            held: leases.flat_map(by_address).collect(),
        }
    }

    /// Whether a lease of an earlier boot is what would be given now.
    fn fits(&self, lease: &Lease) -> bool {
        let given: Vec<IpAddr> = lease.addresses.iter().map(|it| it.ip()).collect();
        let in_range = |address: &IpAddr| {
            let range = self.request.ranges.iter();
            let mut range = range.filter(|range| range.contains(*address));
            range.any(|range| !range.is_draining() && range.exclusion(*address).is_none())
        };
        let same = lease.of_node == self.request.ranges.iter().any(Range::is_of_node);
        let families = |ipv4: bool| {
            let wanted = self
                .request
                .ranges
                .iter()
                .any(|range| range.is_ipv4() == ipv4);
            wanted == given.iter().any(|address| address.is_ipv4() == ipv4)
        };
        same && given.iter().all(in_range)
            && families(true)
            && families(false)
            && self.request.requested.iter().all(|it| given.contains(it))
            && given.iter().all(|it| !self.held.contains_key(it))
    }

    /// An attachment is not given other addresses while it has some.
    fn only_what_it_has(&self, lease: &Lease) -> Result<(), AllocateError> {
        let has = |address: &IpAddr| lease.addresses.iter().any(|it| it.ip() == *address);
        match self.request.requested.iter().find(|it| !has(it)) {
            None => Ok(()),
            Some(address) => Err(AllocateError::HasOthers {
                address: *address,
                lease: Box::new(lease.clone()),
            }),
        }
    }

    /// One address of each family, or those requested. Leases of an earlier boot that have to give
    /// way are ended by `records`.
    fn choose(&self, records: &mut Vec<Record>) -> Result<Vec<IpNetwork>, AllocateError> {
        let mut chosen: Vec<IpNetwork> = Vec::new();
        let mut requested = self.request.requested.clone();
        requested.sort_unstable();
        requested.dedup();
        for address in &requested {
            chosen.push(self.check(*address)?);
        }
        let mut families: Vec<bool> = self.request.ranges.iter().map(Range::is_ipv4).collect();
        families.sort_unstable_by_key(|ipv4| !ipv4);
        families.dedup();
        for ipv4 in families {
            if !requested.iter().any(|address| address.is_ipv4() == ipv4) {
                chosen.push(self.pick(ipv4)?);
            }
        }
        chosen.sort_by_key(|address| address.is_ipv6());
        let mut ended: Vec<&Lease> = Vec::new();
        for address in &chosen {
            if let Some(lease) = self.held.get(&address.ip())
                && !ended.contains(lease)
            {
                ended.push(lease);
                records.push(end_of(lease, self.now));
            }
        }
        Ok(chosen)
    }

    /// The next free address of a family; else one of a container that did not outlive the boot.
    fn pick(&self, ipv4: bool) -> Result<IpNetwork, AllocateError> {
        let of_family = |range: &&Range| range.is_ipv4() == ipv4;
        let ranges = || self.request.ranges.iter().filter(of_family);
        let open = || ranges().filter(|range| !range.is_draining());
        let free = open().find_map(|range| {
            let taken = |address| {
                self.held.contains_key(&address) || self.cooling(range, address).is_some()
            };
            let address = range.next(self.last_given(range), taken)?;
            Some(in_subnet(address, range))
        });
        let reclaimed = || {
            let gone = |lease: &&Lease| lease.earlier_boot && !self.rests(0);
            let leases = self.state.leases().filter(gone);
            let addresses = leases.flat_map(|lease| lease.addresses.iter().map(|it| it.ip()));
            let held_by_gone = |it: &IpAddr| self.held.get(it).is_some_and(|it| it.earlier_boot);
            addresses.filter(held_by_gone).find_map(|address| {
                let range = open().find(|range| range.contains(address))?;
                let free = range.exclusion(address).is_none();
                free.then(|| in_subnet(address, range))
            })
        };
        let found = free.or_else(reclaimed);
        found.ok_or_else(|| AllocateError::Exhausted(self.exhausted(ranges(), ipv4)))
    }

    /// Whether a requested address can be had.
    fn check(&self, address: IpAddr) -> Result<IpNetwork, AllocateError> {
        let unavailable = |why| AllocateError::Unavailable { address, why };
        let mut ranges = self.request.ranges.iter();
        let Some(range) = ranges.find(|range| range.contains(address)) else {
            let ranges = self.request.ranges.iter().map(ToString::to_string);
            return Err(unavailable(Unavailable::OutOfRange(ranges.collect())));
        };
        if let Some(exclusion) = range.exclusion(address) {
            return Err(unavailable(Unavailable::Excluded(exclusion)));
        }
        if range.is_draining() {
            return Err(unavailable(Unavailable::Draining(range.subnet())));
        }
        if let Some(lease) = self.held.get(&address) {
            if !lease.earlier_boot {
                return Err(unavailable(Unavailable::Taken(Box::new((*lease).clone()))));
            }
            if !self.is_namesake(&lease.owner) && self.rests(0) {
                let ends = self.ends(0);
                return Err(unavailable(Unavailable::CoolingDown(ends)));
            }
        }
        if let Some(cooling) = self.cooling(range, address) {
            let before = Owner {
                container: cooling.container.clone(),
                ifname: cooling.ifname.clone(),
                name: cooling.name.clone(),
                namespace: cooling.namespace.clone(),
                ..Owner::default()
            };
            if cooling.network != self.network || !self.is_namesake(&before) {
                let ends = self.ends(cooling.uptime_ms);
                return Err(unavailable(Unavailable::CoolingDown(ends)));
            }
        }
        Ok(in_subnet(address, range))
    }

    /// The same container again, or the next one of the same name (as the pods of a StatefulSet are):
    /// what still comes for the one is meant for the other.
    fn is_namesake(&self, before: &Owner) -> bool {
        let now = self.owner;
        let container = (&before.container, &before.ifname) == (&now.container, &now.ifname);
        let name = (&before.namespace, &before.name, &before.ifname)
            == (&now.namespace, &now.name, &now.ifname);
        container || (now.name.is_some() && name)
    }

    /// Who had an address of this range that is cooling down.
    fn cooling(&self, range: &Range, address: IpAddr) -> Option<&'a Cooling> {
        let of_network = || Scope::new(false, self.network);
        let freed = self.state.freed(Scope::Node, address);
        let freed = match range.is_of_node() {
            true => freed,
            false => {
                let own = self.state.freed(of_network(), address);
                // Of both the one that was freed last.
                own.into_iter().chain(freed).max_by_key(|it| it.uptime_ms)
            }
        };
        freed.filter(|it| self.rests(it.uptime_ms))
    }

    /// Whether what was freed then is given to nobody else yet.
    fn rests(&self, uptime_ms: u64) -> bool {
        is_cooling_down(ago(uptime_ms, self.now), self.request.cooldown)
    }

    fn ends(&self, uptime_ms: u64) -> Ends {
        let left = self
            .request
            .cooldown
            .saturating_sub(ago(uptime_ms, self.now));
        Ends::after(left, self.now)
    }

    /// The address of the range that was given last: the next is taken behind it, so that each rests
    /// for as long as possible.
    fn last_given(&self, range: &Range) -> Option<IpAddr> {
        let ours = |lease: &&Lease| {
            lease.of_node == range.is_of_node() && (lease.of_node || lease.network == self.network)
        };
        let last = self.state.leases_newest_first().filter(ours);
        let mut addresses = last.flat_map(|lease| lease.addresses.iter().map(|it| it.ip()));
        addresses.find(|address| range.contains(*address))
    }

    fn exhausted<'r>(&self, ranges: impl Iterator<Item = &'r Range>, ipv4: bool) -> Exhausted {
        let mut exhausted = Exhausted::new(ipv4);
        let mut soonest: Option<u64> = None;
        for range in ranges {
            exhausted.ranges.push(range.to_string());
            if range.is_draining() {
                exhausted.draining += 1;
                continue;
            }
            for (address, lease) in &self.held {
                let counts = range.contains(*address) && range.exclusion(*address).is_none();
                if !counts {
                    continue;
                }
                match lease.earlier_boot {
                    true => {
                        exhausted.cooling += 1;
                        soonest = Some(0);
                    }
                    false => exhausted.leased += 1,
                }
            }
            for freed in self.state.cooling() {
                let address = freed.ip();
                let counts = range.contains(address)
                    && range.exclusion(address).is_none()
                    && !self.held.contains_key(&address);
                let cooling = self.cooling(range, address).filter(|_| counts);
                if let Some(cooling) = cooling.filter(|cooling| std::ptr::eq(*cooling, freed)) {
                    exhausted.cooling += 1;
                    let then = soonest.unwrap_or(cooling.uptime_ms);
                    soonest = Some(then.min(cooling.uptime_ms));
                }
            }
        }
        exhausted.next = soonest.map(|uptime_ms| self.ends(uptime_ms));
        exhausted
    }
}

fn in_subnet(address: IpAddr, range: &Range) -> IpNetwork {
    let length = range.subnet().prefix();
    IpNetwork::new(address, length).expect("a subnet's length fits its own addresses")
}

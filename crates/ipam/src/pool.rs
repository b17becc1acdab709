//! Subnets out of pools.
//!
//! A [`Ledger`] holds every subnet that was given out, [`Desired`] says who exists and who wants
//! what, and [`settle`] returns the changes between them. The rules:
//!
//! - Two leases never overlap, whatever their pools, lengths and states are.
//! - A subnet is free again only after its node is gone, the grace time has passed, and nobody was
//!   heard to use it still. A node that comes back before that has its subnets again.
//! - What was given is kept. A pool that loses a prefix, changes its length or reserves a range that
//!   is already in use changes what is given from now on; the old leases stay and are reported.
//! - The lowest free subnet is given, so the same history always ends in the same place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::Millis;
pub use crate::problem::Problem;
use crate::span::{Span, block, blocks, host_bits, last_offset, saturate};

/// Subnets of one pool and family that a node may hold; more than that is a fault somewhere, and
/// must not eat the pool.
pub const MAX_PER_NODE: usize = 32;

/// The family of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of a network.
    pub fn of(network: IpNetwork) -> Family {
        if network.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// Address space that nodes get subnets of. Pools do not overlap one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// In the order in which they are filled; both families together.
    pub prefixes: Vec<IpNetwork>,
    /// Mask bits of a node's IPv4 subnet.
    pub ipv4_length: u8,
    /// Mask bits of a node's IPv6 subnet.
    pub ipv6_length: u8,
    /// Never given out on our own account (a person may still write it down for a node).
    pub reserved: Vec<IpNetwork>,
}

impl Pool {
    /// Mask bits of a node's subnet.
    pub fn length(&self, family: Family) -> u8 {
        match family {
            Family::Ipv4 => self.ipv4_length,
            Family::Ipv6 => self.ipv6_length,
        }
    }

    fn prefixes_of(&self, family: Family) -> impl Iterator<Item = IpNetwork> {
        let prefixes = self.prefixes.iter().copied();
        prefixes.filter(move |prefix| Family::of(*prefix) == family)
    }
}

/// One subnet and who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The pool it came from; for one that a person wrote down, the pool it lies in, or empty.
    pub pool: String,
    /// Who holds it, or held it last.
    pub node: String,
    /// Whether a person wrote it down for the node.
    pub fixed: bool,
    /// Whether it is in use or on its way back.
    pub state: State,
    /// When it entered that state.
    pub since: Millis,
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Its node exists.
    Assigned,
    /// Its node is gone; nobody else gets it before then.
    Waiting {
        /// When it becomes free.
        free_at: Millis,
    },
}

/// Every subnet given out; no two overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<IpNetwork, Lease>);

/// Two leases that overlap: the ledger was damaged or written by something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("subnet {first} of node {first_node} overlaps subnet {second} of node {second_node}")]
pub struct Overlap {
    first: IpNetwork,
    first_node: String,
    second: IpNetwork,
    second_node: String,
}

impl Ledger {
    /// A ledger of these leases.
    ///
    /// # Errors
    ///
    /// [`Overlap`] when two of them overlap.
    pub fn new(leases: impl IntoIterator<Item = (IpNetwork, Lease)>) -> Result<Ledger, Overlap> {
        let ledger = Ledger(leases.into_iter().collect());
        let (mut leases, mut next) = (ledger.0.iter(), ledger.0.iter().skip(1));
        while let (Some((first, a)), Some((second, b))) = (leases.next(), next.next()) {
            if Span::of(*first).overlaps(Span::of(*second)) {
                return Err(Overlap {
                    first: *first,
                    first_node: a.node.clone(),
                    second: *second,
                    second_node: b.node.clone(),
                });
            }
        }
        Ok(ledger)
    }

    /// All leases, in address order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, &Lease)> {
        self.0.iter().map(|(subnet, lease)| (*subnet, lease))
    }

    /// The lease of exactly this subnet.
    pub fn get(&self, subnet: IpNetwork) -> Option<&Lease> {
        self.0.get(&subnet)
    }

    /// The lease that overlaps `subnet`, the highest if there are several.
    pub fn overlapping(&self, subnet: IpNetwork) -> Option<(IpNetwork, &Lease)> {
        let span = Span::of(subnet);
        // Leases do not overlap one another, so the one that starts last also ends last.
        let (found, lease) = self.0.range(..=span.last_network()).next_back()?;
        (Span::of(*found).overlaps(span)).then_some((*found, lease))
    }

    /// Carries out changes that [`settle`] returned for this ledger.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Set(subnet, lease) => self.0.insert(*subnet, lease.clone()),
                Change::Free(subnet) => self.0.remove(subnet),
            };
        }
    }
}

/// Who exists, and who wants what: the whole of it.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Every node there is.
    pub nodes: BTreeSet<String>,
    /// Every pool there is.
    pub pools: Vec<Pool>,
    /// Subnets to be given out of pools.
    pub wishes: Vec<Wish>,
    /// Subnets that a person wrote down for a node.
    pub fixed: Vec<(String, IpNetwork)>,
    /// How long a subnet waits after its node is gone.
    pub grace: Millis,
    /// The same for one that was written down for the node: 0 where somebody else gives them out and
    /// may have given it to another node already.
    pub fixed_grace: Millis,
    /// Subnets that a speaker says it still has in use; not freed while it says so.
    pub in_use: BTreeSet<IpNetwork>,
    /// False while it is not known who is still using what: then nothing is freed.
    pub may_free: bool,
}

/// A node wants to hold at least so many subnets of a pool and family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// Who.
    pub node: String,
    /// Out of which pool.
    pub pool: String,
    /// Of which family.
    pub family: Family,
    /// How many in all; at most [`MAX_PER_NODE`] are given.
    pub count: usize,
}

/// What becomes of one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The subnet has exactly this lease from now on.
    Set(IpNetwork, Lease),
    /// The subnet is free.
    Free(IpNetwork),
}

/// The changes that turn `ledger` into what is desired, and what could not be done.
///
/// Applying the changes leaves leases that do not overlap. A subnet that is freed is not given to
/// another node by the same call, so that a reader of the changes never sees it in two hands.
pub fn settle(ledger: &Ledger, desired: &Desired, now: Millis) -> (Vec<Change>, Vec<Problem>) {
    let mut settling = Settling {
        desired,
        now,
        ledger: ledger.clone(),
        changes: Vec::new(),
        problems: Vec::new(),
    };
    let freed = settling.follow_nodes();
    settling.give_fixed();
    settling.give_from_pools();
    settling.report_kept();
    let Settling {
        mut changes,
        problems,
        ..
    } = settling;
    changes.extend(freed.into_iter().map(Change::Free));
    (changes, problems)
}

/// How much of one prefix of a pool is taken, in subnets of the pool's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The pool's prefix.
    pub prefix: IpNetwork,
    /// Subnets in it, without those touched by a reserved range.
    pub total: u64,
    /// Those that nodes hold.
    pub used: u64,
    /// Those that wait for their grace time to end.
    pub waiting: u64,
}

/// How much of each prefix of a pool is taken. A lease of another length counts as every subnet it
/// touches.
pub fn usage(pool: &Pool, ledger: &Ledger) -> Vec<Use> {
    let uses = pool.prefixes.iter().map(|prefix| {
        let length = pool.length(Family::of(*prefix));
        let span = Span::of(*prefix);
        if length < prefix.prefix() {
            return Use {
                prefix: *prefix,
                total: 0,
                used: 0,
                waiting: 0,
            };
        }
        let bits = host_bits(*prefix, length);
        let reserved = pool.reserved.iter().map(|range| Span::of(*range));
        let held = |waiting: bool| {
            let leases = ledger
                .iter()
                .filter(move |(_, lease)| matches!(lease.state, State::Waiting { .. }) == waiting);
            blocks(span, bits, leases.map(|(subnet, _)| Span::of(subnet)))
        };
        Use {
            prefix: *prefix,
            total: saturate(block(span.last - span.first, bits))
                .saturating_add(1)
                .saturating_sub(blocks(span, bits, reserved)),
            used: held(false),
            waiting: held(true),
        }
    });
    uses.collect()
}

struct Settling<'a> {
    desired: &'a Desired,
    now: Millis,
    ledger: Ledger,
    changes: Vec<Change>,
    problems: Vec<Problem>,
}

impl Settling<'_> {
    /// Subnets of nodes that went start to wait, those of nodes that came back are theirs again.
    /// Returns what has become free; it stays in the working ledger, so it is not given out yet.
    fn follow_nodes(&mut self) -> Vec<IpNetwork> {
        let fixed: BTreeSet<(&str, IpNetwork)> = self
            .desired
            .fixed
            .iter()
            .map(|(node, subnet)| (node.as_str(), *subnet))
            .collect();
        let mut freed = Vec::new();
        for (subnet, lease) in self.ledger.clone().iter() {
            let wanted = self.desired.nodes.contains(&lease.node)
                && (!lease.fixed || fixed.contains(&(lease.node.as_str(), subnet)));
            match lease.state {
                State::Assigned if !wanted => {
                    let grace = match lease.fixed {
                        true => self.desired.fixed_grace,
                        false => self.desired.grace,
                    };
                    let free_at = self.now.saturating_add(grace);
                    self.set_state(subnet, lease, State::Waiting { free_at });
                }
                State::Waiting { .. } if wanted => {
                    self.set_state(subnet, lease, State::Assigned);
                }
                State::Waiting { free_at } if free_at <= self.now && self.desired.may_free => {
                    if self.desired.in_use.contains(&subnet) {
                        self.problems.push(Problem::StillUsed {
                            subnet,
                            node: lease.node.clone(),
                        });
                    } else {
                        freed.push(subnet);
                    }
                }
                State::Assigned | State::Waiting { .. } => {}
            }
        }
        freed
    }

    fn set_state(&mut self, subnet: IpNetwork, lease: &Lease, state: State) {
        let lease = Lease {
            state,
            since: self.now,
            ..lease.clone()
        };
        self.set(subnet, lease);
    }

    fn set(&mut self, subnet: IpNetwork, lease: Lease) {
        let change = Change::Set(subnet, lease);
        self.ledger.apply(std::slice::from_ref(&change));
        self.changes.push(change);
    }

    fn give_fixed(&mut self) {
        let mut fixed: Vec<_> = self.desired.fixed.iter().collect();
        fixed.sort();
        for (node, subnet) in fixed {
            let held = self.ledger.overlapping(*subnet);
            let held = held.map(|(held, lease)| (held, lease.clone()));
            match held {
                None => {
                    let pool = self.desired.pools.iter().find(|pool| {
                        let span = Span::of(*subnet);
                        let mut prefixes = pool.prefixes.iter();
                        prefixes.any(|prefix| Span::of(*prefix).contains(span))
                    });
                    let lease = Lease {
                        pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
                        node: node.clone(),
                        fixed: true,
                        state: State::Assigned,
                        since: self.now,
                    };
                    self.set(*subnet, lease);
                }
                Some((held, lease)) if held == *subnet && lease.node == *node => {
                    if !lease.fixed {
                        let fixed = true;
                        self.set(*subnet, Lease { fixed, ..lease });
                    }
                }
                Some((held, lease)) => self.problems.push(Problem::Taken {
                    subnet: *subnet,
                    node: node.clone(),
                    held,
                    holder: lease.node,
                }),
            }
        }
    }

    /// First everybody's first subnet, then further ones: a hungry node must not keep another from
    /// starting.
    fn give_from_pools(&mut self) {
        let pools: BTreeMap<&str, &Pool> = self
            .desired
            .pools
            .iter()
            .map(|pool| (pool.name.as_str(), pool))
            .collect();
        let mut held: BTreeMap<(String, String, Family), usize> = BTreeMap::new();
        for (subnet, lease) in self.ledger.iter() {
            if lease.state == State::Assigned {
                let key = (lease.node.clone(), lease.pool.clone(), Family::of(subnet));
                *held.entry(key).or_default() += 1;
            }
        }
        let mut wishes: Vec<&Wish> = self.desired.wishes.iter().collect();
        wishes.sort();
        // Nothing is freed from here on, so a search goes on where the last one ended.
        let mut searches: BTreeMap<(&str, Family), Search> = BTreeMap::new();
        for first in [true, false] {
            for wish in &wishes {
                let Some(pool) = pools.get(wish.pool.as_str()) else {
                    if first {
                        self.problems.push(Problem::NoPool {
                            node: wish.node.clone(),
                            pool: wish.pool.clone(),
                        });
                    }
                    continue;
                };
                let key = (wish.node.clone(), wish.pool.clone(), wish.family);
                let held = held.entry(key).or_default();
                let count = wish.count.min(if first { 1 } else { MAX_PER_NODE });
                if !first && wish.count > MAX_PER_NODE {
                    self.problems.push(Problem::TooMany {
                        node: wish.node.clone(),
                        pool: wish.pool.clone(),
                        family: wish.family,
                    });
                }
                if !first && *held == 0 {
                    continue; // refused in the first round, and said so
                }
                let search = searches
                    .entry((pool.name.as_str(), wish.family))
                    .or_insert_with(|| Search::new(pool, wish.family));
                while *held < count {
                    let Some(subnet) = search.next(&self.ledger) else {
                        self.problems.push(pool_full(pool, wish, &self.ledger));
                        break;
                    };
                    let lease = Lease {
                        pool: pool.name.clone(),
                        node: wish.node.clone(),
                        fixed: false,
                        state: State::Assigned,
                        since: self.now,
                    };
                    self.set(subnet, lease);
                    *held += 1;
                }
            }
        }
    }

    fn report_kept(&mut self) {
        for (subnet, lease) in self.ledger.iter() {
            if lease.fixed || lease.state != State::Assigned {
                continue;
            }
            let span = Span::of(subnet);
            let pool = self.desired.pools.iter().find(|p| p.name == lease.pool);
            let inside = pool.is_some_and(|pool| {
                let mut prefixes = pool.prefixes.iter();
                prefixes.any(|prefix| Span::of(*prefix).contains(span))
            });
            let reserved = pool.is_some_and(|pool| {
                let mut reserved = pool.reserved.iter();
                reserved.any(|range| Span::of(*range).overlaps(span))
            });
            let (node, pool) = (lease.node.clone(), lease.pool.clone());
            if !inside {
                self.problems
                    .push(Problem::OutsidePool { subnet, node, pool });
            } else if reserved {
                self.problems.push(Problem::Reserved { subnet, node, pool });
            }
        }
    }
}

fn pool_full(pool: &Pool, wish: &Wish, ledger: &Ledger) -> Problem {
    let uses = usage(pool, ledger);
    let uses = uses
        .iter()
        .filter(|u| Family::of(u.prefix) == wish.family)
        .fold((0_u64, 0_u64, 0_u64), |(total, used, waiting), u| {
            (
                total.saturating_add(u.total),
                used.saturating_add(u.used),
                waiting.saturating_add(u.waiting),
            )
        });
    Problem::PoolFull {
        pool: pool.name.clone(),
        family: wish.family,
        length: pool.length(wish.family),
        node: wish.node.clone(),
        total: uses.0,
        used: uses.1,
        waiting: uses.2,
    }
}

/// Looks for free subnets of one pool and family, upwards, never back.
struct Search<'a> {
    pool: &'a Pool,
    length: u8,
    prefixes: Vec<IpNetwork>,
    /// Where in the first of `prefixes` to go on; absent at its start.
    cursor: Option<u128>,
}

impl<'a> Search<'a> {
    fn new(pool: &'a Pool, family: Family) -> Search<'a> {
        let mut prefixes: Vec<IpNetwork> = pool.prefixes_of(family).collect();
        prefixes.reverse(); // taken from the end
        Search {
            pool,
            length: pool.length(family),
            prefixes,
            cursor: None,
        }
    }

    fn next(&mut self, ledger: &Ledger) -> Option<IpNetwork> {
        while let Some(prefix) = self.prefixes.last().copied() {
            if let Some(subnet) = self.next_in(prefix, ledger) {
                return Some(subnet);
            }
            self.prefixes.pop();
            self.cursor = None;
        }
        None
    }

    fn next_in(&mut self, prefix: IpNetwork, ledger: &Ledger) -> Option<IpNetwork> {
        if self.length < prefix.prefix() {
            return None; // the prefix is smaller than one subnet
        }
        let whole = Span::of(prefix);
        let rest = last_offset(host_bits(prefix, self.length));
        let mut first = self.cursor.unwrap_or(whole.first);
        loop {
            let last = first.checked_add(rest).filter(|l| *l <= whole.last)?;
            let span = Span {
                first,
                last,
                ..whole
            };
            let subnet = span.network(self.length);
            let held = ledger.overlapping(subnet).map(|(held, _)| Span::of(held));
            let mut reserved = self.pool.reserved.iter().map(|range| Span::of(*range));
            let Some(taken) = held.or_else(|| reserved.find(|r| r.overlaps(span))) else {
                self.cursor = Some(first);
                return Some(subnet);
            };
            // The next block that begins behind what is in the way; blocks are aligned to their size
            // because the prefix is at least as large as one.
            first = (taken.last.max(last) | rest).checked_add(1)?;
        }
    }
}

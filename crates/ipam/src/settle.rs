//! From what is held to what is desired: the order in which [`settle`] decides.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::Millis;
use crate::pool::{
    Change, Desired, Family, Lease, Ledger, MAX_PER_NODE, Pool, Problem, State, Wish, usage,
};
use crate::span::{Span, host_bits, last_offset};

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
        foreign: Vec::new(),
    };
    let freed = settling.follow_nodes();
    settling.give_fixed();
    settling.take_over_found();
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

struct Settling<'a> {
    desired: &'a Desired,
    now: Millis,
    ledger: Ledger,
    changes: Vec<Change>,
    problems: Vec<Problem>,
    /// What nodes have of another allocator and was not taken over; not given to anybody.
    foreign: Vec<Span>,
}

impl Settling<'_> {
    /// Subnets of nodes that went start to wait, those of nodes that came back are theirs again.
    /// Returns what has become free; it stays in the working ledger, so it is not given out yet.
    fn follow_nodes(&mut self) -> Vec<IpNetwork> {
        let fixed: BTreeSet<(&str, IpNetwork)> = self
            .desired
            .fixed
            .iter()
            .chain(&self.desired.found)
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
                    if self.desired.shown.contains(&subnet) {
                        continue;
                    }
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

    /// What nodes have already stays theirs, where nobody else holds it.
    fn take_over_found(&mut self) {
        let mut found: Vec<_> = self.desired.found.iter().collect();
        found.sort();
        found.retain(|(node, _)| self.desired.nodes.contains(node));
        for (node, subnet) in found {
            let held = self.ledger.overlapping(*subnet);
            let held = held.map(|(held, lease)| (held, lease.clone()));
            match held {
                Some((held, lease)) if held == *subnet && lease.node == *node => {
                    if lease.fixed && !self.desired.fixed.contains(&(node.clone(), *subnet)) {
                        let fixed = false;
                        self.set(*subnet, Lease { fixed, ..lease });
                    }
                    continue;
                }
                Some((held, lease)) => self.problems.push(Problem::FoundTaken {
                    subnet: *subnet,
                    node: node.clone(),
                    held,
                    holder: lease.node,
                }),
                None => match self.pool_like(node, *subnet) {
                    Ok(pool) => {
                        let lease = Lease {
                            pool,
                            node: node.clone(),
                            fixed: false,
                            state: State::Assigned,
                            since: self.now,
                        };
                        self.set(*subnet, lease);
                        continue;
                    }
                    Err(problem) => self.problems.push(problem),
                },
            }
            self.foreign.push(Span::of(*subnet));
        }
    }

    /// The pool that could have given `subnet` to `node`.
    fn pool_like(&self, node: &str, subnet: IpNetwork) -> Result<String, Problem> {
        let span = Span::of(subnet);
        let mut pools = self.desired.pools.iter();
        let pool = pools.find(|pool| {
            let mut prefixes = pool.prefixes.iter();
            prefixes.any(|prefix| Span::of(*prefix).contains(span))
        });
        let outside = Problem::FoundOutside {
            subnet,
            node: node.to_owned(),
        };
        let pool = pool.ok_or(outside)?;
        let length = pool.length(Family::of(subnet));
        if subnet.prefix() != length {
            return Err(Problem::FoundLength {
                subnet,
                node: node.to_owned(),
                pool: pool.name.clone(),
                length,
            });
        }
        let family = Family::of(subnet);
        let mut wishes = self.desired.wishes.iter();
        if !wishes.any(|w| w.node == node && w.pool == pool.name && w.family == family) {
            return Err(Problem::FoundOther {
                subnet,
                node: node.to_owned(),
                pool: pool.name.clone(),
            });
        }
        Ok(pool.name.clone())
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
                    let Some(subnet) = search.next(&self.ledger, &self.foreign) else {
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

    fn next(&mut self, ledger: &Ledger, foreign: &[Span]) -> Option<IpNetwork> {
        while let Some(prefix) = self.prefixes.last().copied() {
            if let Some(subnet) = self.next_in(prefix, ledger, foreign) {
                return Some(subnet);
            }
            self.prefixes.pop();
            self.cursor = None;
        }
        None
    }

    fn next_in(
        &mut self,
        prefix: IpNetwork,
        ledger: &Ledger,
        foreign: &[Span],
    ) -> Option<IpNetwork> {
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
            let reserved = self.pool.reserved.iter().map(|range| Span::of(*range));
            let mut closed = reserved.chain(foreign.iter().copied());
            let Some(taken) = held.or_else(|| closed.find(|r| r.overlaps(span))) else {
                self.cursor = Some(first);
                return Some(subnet);
            };
            // The next block that begins behind what is in the way; blocks are aligned to their size
            // because the prefix is at least as large as one.
            first = (taken.last.max(last) | rest).checked_add(1)?;
        }
    }
}

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
pub use crate::settle::settle;
use crate::span::{Span, block, blocks, host_bits, saturate};

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

    pub(crate) fn prefixes_of(&self, family: Family) -> impl Iterator<Item = IpNetwork> {
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
    /// Subnets that nodes already have from some other allocator (the podCIDRs of a Kubernetes Node). One
    /// that is free and as a pool would give it becomes the node's own; any other is told, and nobody
    /// gets what overlaps it.
    pub found: Vec<(String, IpNetwork)>,
    /// How long a subnet waits after its node is gone.
    pub grace: Millis,
    /// The same for one that was written down for the node: 0 where somebody else gives them out and
    /// may have given it to another node already.
    pub fixed_grace: Millis,
    /// Subnets that a speaker says it still has in use; not freed while it says so.
    pub in_use: BTreeSet<IpNetwork>,
    /// Subnets that still stand somewhere as those of their last holder, and are being taken from there:
    /// not freed before that is done.
    pub shown: BTreeSet<IpNetwork>,
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

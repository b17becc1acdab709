//! Wanted and actual routes → steps. Pure.

use bgp::types::Prefix;

/// A route of ours that the kernel has: the nexthop object it points at, 0 when it points at none
/// (then somebody wrote it with our protocol number).
pub(super) type Actual<P> = (P, u32);

/// What should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Desired {
    /// The nexthop object to point at.
    pub(super) id: u32,
    /// It is thought to be there already.
    pub(super) there: bool,
}

/// Something to be done, for one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is missing.
    Install {
        /// Which.
        prefix: Prefix,
        /// It was thought to be there.
        there: bool,
    },
    /// It points at `from` and should not.
    Move {
        /// Which.
        prefix: Prefix,
        /// Where it points.
        from: u32,
    },
    /// It is there once more than wanted: a removal of the old route that did not come about.
    RemoveExtra {
        /// Which.
        prefix: Prefix,
        /// Where it points.
        from: u32,
    },
    /// It is there as wanted, though it was thought not to be.
    Keep(Prefix),
    /// It is there, and nobody asks for it.
    Unasked {
        /// Which.
        prefix: Prefix,
        /// Where it points.
        from: u32,
    },
}

impl Step {
    pub(super) fn prefix(&self) -> Prefix {
        match *self {
            Step::Install { prefix, .. }
            | Step::Move { prefix, .. }
            | Step::RemoveExtra { prefix, .. }
            | Step::Keep(prefix)
            | Step::Unasked { prefix, .. } => prefix,
        }
    }
}

/// The steps that turn the kernel's routes (`actual`) into ours (`desired`); none if they agree.
///
/// Both are sorted by prefix. `desired` has each prefix once; `actual` may have a prefix several
/// times, the route in use first.
pub(super) fn plan<P: Ord + Copy + Into<Prefix>>(
    desired: impl IntoIterator<Item = (P, Desired)>,
    actual: &[Actual<P>],
    mut step: impl FnMut(Step),
) {
    let mut actual = actual.iter().copied().peekable();
    for (key, Desired { id, there }) in desired {
        while let Some((unasked, from)) = actual.next_if(|(other, _)| *other < key) {
            let prefix = unasked.into();
            step(Step::Unasked { prefix, from });
        }
        let prefix = key.into();
        let Some((_, from)) = actual.next_if(|(other, _)| *other == key) else {
            step(Step::Install { prefix, there });
            continue;
        };
        if from != id {
            step(Step::Move { prefix, from });
        } else if !there {
            step(Step::Keep(prefix));
        }
        while let Some((_, from)) = actual.next_if(|(other, _)| *other == key) {
            if from != id {
                step(Step::RemoveExtra { prefix, from });
            }
        }
    }
    for (unasked, from) in actual {
        let prefix = unasked.into();
        step(Step::Unasked { prefix, from });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use bgp::types::Prefix4;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn prefixes() -> impl Strategy<Value = Prefix4> {
        (0u32..20, 24u8..26).prop_map(|(net, length)| {
            Prefix4::new(Ipv4Addr::from(0x0A00_0000 + (net << 7)), length)
        })
    }

    fn steps(desired: &BTreeMap<Prefix4, u32>, actual: &[Actual<Prefix4>]) -> Vec<Step> {
        let mut steps = Vec::new();
        let there = true;
        let desired = desired.iter();
        let desired = desired.map(|(prefix, id)| (*prefix, Desired { id: *id, there }));
        plan(desired, actual, |step| steps.push(step));
        steps
    }

    /// What the driver does, after everything adopted was swept.
    fn carry_out(desired: &BTreeMap<Prefix4, u32>, actual: &mut Vec<Actual<Prefix4>>, step: Step) {
        let id = |prefix: Prefix| match prefix {
            Prefix::V4(prefix) => (prefix, desired.get(&prefix).copied()),
            Prefix::V6(_) => unreachable!("only IPv4 here"),
        };
        let remove = |actual: &mut Vec<Actual<Prefix4>>, prefix: Prefix4, from| {
            let place = actual.iter().position(|route| *route == (prefix, from));
            actual.remove(place.expect("a step removes what is there"));
        };
        match step {
            Step::Keep(_) => {}
            Step::Install { prefix, .. } => {
                let (prefix, id) = id(prefix);
                assert!(actual.iter().all(|(other, _)| *other != prefix));
                actual.push((prefix, id.expect("wanted")));
            }
            Step::Move { prefix, from } => {
                let (prefix, id) = id(prefix);
                let new = (prefix, id.expect("wanted"));
                if !actual.contains(&new) {
                    actual.push(new); // an equal one is never there twice
                }
                remove(actual, prefix, from);
            }
            Step::RemoveExtra { prefix, from } | Step::Unasked { prefix, from } => {
                remove(actual, id(prefix).0, from);
            }
        }
    }

    proptest! {
        #[test]
        fn carrying_out_the_steps_makes_actual_what_is_desired(
            desired in btree_map(prefixes(), 1u32..4, 0..20),
            mut actual in vec((prefixes(), 0u32..4), 0..20),
        ) {
            actual.sort_by_key(|(prefix, _)| *prefix);
            // The kernel refuses a second equal route.
            let mut seen = std::collections::BTreeSet::new();
            actual.retain(|route| seen.insert(*route));
            for step in steps(&desired, &actual.clone()) {
                carry_out(&desired, &mut actual, step);
            }
            let now: BTreeMap<_, _> = actual.iter().copied().collect();
            prop_assert_eq!(now.len(), actual.len());
            prop_assert_eq!(&now, &desired);
            actual.sort_unstable();
            prop_assert_eq!(steps(&desired, &actual), []);
        }
    }
}

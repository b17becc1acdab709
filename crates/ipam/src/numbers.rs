//! AS numbers out of a range, one per node (or per whatever the key names). RFC 6996 sets the
//! private ranges these usually come from; nothing here insists on that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::Millis;

/// One AS number, held by one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberLease {
    /// The AS number.
    pub asn: u32,
    /// When it becomes free; absent while its holder exists.
    pub free_at: Option<Millis>,
}

/// What is wanted, whole.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Who needs a number.
    pub keys: BTreeSet<String>,
    /// Where new ones come from; absent when the fabric gives none out.
    pub range: Option<RangeInclusive<u32>>,
    /// Numbers that a person has written down for others; never given out.
    pub taken: BTreeSet<u32>,
    /// How long the number of a key that is gone stays its own.
    pub grace: Millis,
}

/// What becomes of one key's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds exactly this from now on.
    Set(String, NumberLease),
    /// The key's number is free.
    Free(String),
}

/// Why a key has no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no AS number is left for {key}: all {total} of {first}-{last} are taken ({waiting} of them \
     wait for their grace time to end); widen Fabric spec.asn.perNode.range"
)]
pub struct RangeFull {
    /// Who goes without.
    pub key: String,
    /// The range's first number.
    pub first: u32,
    /// The range's last number.
    pub last: u32,
    /// Numbers in the range.
    pub total: u64,
    /// Those whose holder is gone but whose grace time still runs.
    pub waiting: u64,
}

/// The changes that give every wanted key a number, lowest free first.
///
/// A key that is gone keeps its number until `grace` has passed, and has it again when it comes back
/// before that. A number outside a changed range is kept: changing it would reset every session of
/// its holder.
pub fn settle(
    held: &BTreeMap<String, NumberLease>,
    wanted: &Wanted,
    now: Millis,
) -> (Vec<Change>, Vec<RangeFull>) {
    let mut changes = Vec::new();
    let mut problems = Vec::new();
    let mut used = wanted.taken.clone();
    let mut waiting = 0;
    for (key, lease) in held {
        let next = match (wanted.keys.contains(key), lease.free_at) {
            (true, _) => None,
            (false, None) => Some(now.saturating_add(wanted.grace)),
            (false, Some(free_at)) if free_at <= now => {
                changes.push(Change::Free(key.clone()));
                continue;
            }
            (false, Some(free_at)) => Some(free_at),
        };
        used.insert(lease.asn);
        waiting += u64::from(next.is_some());
        if next != lease.free_at {
            let lease = NumberLease {
                asn: lease.asn,
                free_at: next,
            };
            changes.push(Change::Set(key.clone(), lease));
        }
    }
    let Some(range) = &wanted.range else {
        return (changes, problems);
    };
    let mut candidates = range.clone();
    for key in wanted.keys.iter().filter(|key| !held.contains_key(*key)) {
        match candidates.find(|asn| !used.contains(asn)) {
            Some(asn) => {
                let lease = NumberLease { asn, free_at: None };
                changes.push(Change::Set(key.clone(), lease));
            }
            None => problems.push(RangeFull {
                key: key.clone(),
                first: *range.start(),
                last: *range.end(),
                total: u64::from(range.end().saturating_sub(*range.start())) + 1,
                waiting,
            }),
        }
    }
    (changes, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(keys: &[&str]) -> Wanted {
        Wanted {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            range: Some(100..=102),
            taken: [101].into(),
            grace: 50,
        }
    }

    fn turn(held: &mut BTreeMap<String, NumberLease>, keys: &[&str], now: Millis) {
        for change in settle(held, &wanted(keys), now).0 {
            match change {
                Change::Set(key, lease) => held.insert(key, lease),
                Change::Free(key) => held.remove(&key),
            };
        }
    }

    #[test]
    fn numbers_come_from_the_range_and_never_from_those_written_down() {
        let mut held = BTreeMap::new();
        let (_, problems) = settle(&held, &wanted(&["a", "b", "c"]), 0);
        turn(&mut held, &["a", "b", "c"], 0);
        assert_eq!((held["a"].asn, held["b"].asn), (100, 102));
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("all 3 of 100-102"));
    }

    #[test]
    fn a_key_that_comes_back_within_the_grace_time_has_its_number_again() {
        let mut held = BTreeMap::new();
        turn(&mut held, &["a", "b"], 0);
        let before = held.clone();
        turn(&mut held, &["b"], 10);
        assert_eq!(held["a"].free_at, Some(60));
        let (_, problems) = settle(&held, &wanted(&["b", "c"]), 59);
        assert_eq!(problems.len(), 1, "100 still waits for `a`");
        turn(&mut held, &["a", "b"], 59);
        assert_eq!(held, before);
    }

    #[test]
    fn a_number_is_given_again_when_the_grace_time_has_passed() {
        let mut held = BTreeMap::new();
        turn(&mut held, &["a"], 0);
        turn(&mut held, &[], 10);
        turn(&mut held, &["c"], 60);
        assert_eq!(held.len(), 1);
        assert_eq!(held["c"].asn, 100);
    }
}

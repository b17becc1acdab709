//! A table as data, and the steps from the one that is there to the one that is wanted.

use std::collections::BTreeMap;

use super::{Batch, Element, Expression, Set};

/// A table of the family `inet`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By name.
    pub sets: BTreeMap<String, Set>,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
    /// It holds something that is not known here, or is switched off: it was not written by us.
    pub strange: bool,
}

/// A chain: the rules that a packet goes through in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come in; one without is jumped to.
    pub base: Option<Base>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where a base chain is on a packet's way. It lets pass what no rule decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The place.
    pub hook: Hook,
    /// Among the chains of the place, the lowest first; -300 is `raw`, -150 `mangle`, 0 `filter`, 100 `srcnat`.
    pub priority: i32,
    /// Of type `nat` rather than `filter`: it sees the first packet of a connection only.
    pub nat: bool,
}

/// A place on a packet's way through the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    PreRouting = 0,
    /// From one interface to another one.
    Forward = 2,
    /// On its way out.
    PostRouting = 4,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does, in order.
    pub expressions: Vec<Expression>,
    /// What `nft list` prints behind it; at most 127 bytes.
    pub comment: String,
}

/// What is to be done about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove it.
    Remove,
    /// Remove it if it is there, and write it anew, in one transaction: packets meet the old one or
    /// the new one.
    Replace,
    /// Only what is in a set differs.
    Elements {
        /// The set's name.
        set: String,
        /// What is to go, before anything comes.
        remove: Vec<Element>,
        /// What is to come.
        add: Vec<Element>,
    },
}

/// The steps from the table that is there to the one that is wanted; none if they agree.
pub fn plan(desired: Option<&Table>, actual: Option<&Table>) -> Vec<Step> {
    let (desired, actual) = match (desired, actual) {
        (None, None) => return Vec::new(),
        (None, Some(_)) => return vec![Step::Remove],
        (Some(_), None) => return vec![Step::Replace],
        (Some(desired), Some(actual)) => (desired, actual),
    };
    let sets_are_alike = desired.sets.len() == actual.sets.len()
        && desired.sets.iter().all(|(name, set)| {
            let there = actual.sets.get(name);
            there.is_some_and(|there| there.is_like(set))
        });
    if actual.strange || !sets_are_alike || desired.chains != actual.chains {
        return vec![Step::Replace];
    }
    let steps = desired.sets.iter().filter_map(|(name, wanted)| {
        let there = &actual.sets.get(name)?.elements;
        let step = Step::Elements {
            set: name.clone(),
            remove: there.difference(&wanted.elements).cloned().collect(),
            add: wanted.elements.difference(there).cloned().collect(),
        };
        (*there != wanted.elements).then_some(step)
    });
    steps.collect()
}

impl Table {
    /// The requests that carry out `steps` of [`plan`] for the table `name`, which this one is wanted
    /// to be.
    pub fn batch(&self, name: &str, steps: &[Step]) -> Batch {
        let mut batch = Batch::new();
        for step in steps {
            match step {
                Step::Remove => batch.delete_table(name),
                Step::Replace => {
                    // One that is there is no error, so that the removal never is one.
                    batch.add_table(name);
                    batch.delete_table(name);
                    self.write(name, &mut batch);
                }
                Step::Elements { set, remove, add } => {
                    let Some(wanted) = self.sets.get(set) else {
                        continue; // steps of another table
                    };
                    batch.delete_elements(name, set, wanted, remove);
                    batch.add_elements(name, set, wanted, add);
                }
            }
        }
        batch
    }

    fn write(&self, name: &str, batch: &mut Batch) {
        batch.add_table(name);
        for (set_name, set) in &self.sets {
            batch.add_set(name, set_name, set);
            batch.add_elements(name, set_name, set, &set.elements);
        }
        // All of them before their rules, which jump from one to another.
        for (chain_name, chain) in &self.chains {
            batch.add_chain(name, chain_name, chain.base);
        }
        for (chain_name, chain) in &self.chains {
            for rule in &chain.rules {
                batch.add_rule(name, chain_name, rule);
            }
        }
    }
}

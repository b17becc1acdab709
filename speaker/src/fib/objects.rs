//! Nexthop objects as we have them in the kernel, and single steps that change them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kernel::{Group as Members, Path};

use super::table::Slot;

/// The kinds of object that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A way out, for groups of one.
    Sole = 0,
    /// A way out, for groups of two and more.
    Shared = 1,
    /// A group.
    Group = 2,
}

pub(super) const KIND_SHIFT: u32 = 22;
pub(super) const PROTOCOL_SHIFT: u32 = 24;
const NUMBERS: u32 = 1 << KIND_SHIFT;
/// The kernel's side takes no more.
const MOST_BACKUPS: usize = 3;

/// Something to be done to nexthop objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ObjectStep {
    AddPath { id: u32, path: Path },
    AddGroup { id: u32, members: Members },
    ReplaceGroup { id: u32, members: Members },
    Remove { id: u32 },
}

/// Our nexthop objects in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) paths: BTreeMap<u32, Path>,
    /// The other way round, by kind; of several equal ones, one.
    by_path: BTreeMap<(u32, Path), u32>,
    pub(super) groups: BTreeMap<u32, Members>,
    /// Ids in our range that somebody else uses.
    pub(super) taken: BTreeSet<u32>,
}

/// Ways out of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaysOut {
    /// Used together.
    pub(super) paths: BTreeSet<Path>,
    /// Used once none of `paths` is left; none of them.
    pub(super) backups: BTreeSet<Path>,
}

impl WaysOut {
    pub(super) fn new(paths: BTreeSet<Path>, backups: BTreeSet<Path>) -> WaysOut {
        if paths.is_empty() {
            return WaysOut::from(backups);
        }
        let backups = backups.difference(&paths).copied().take(MOST_BACKUPS);
        WaysOut {
            backups: backups.collect(),
            paths,
        }
    }

    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(path) || self.backups.contains(path)
    }
}

impl From<BTreeSet<Path>> for WaysOut {
    fn from(paths: BTreeSet<Path>) -> WaysOut {
        WaysOut {
            paths,
            backups: BTreeSet::new(),
        }
    }
}

/// The objects in a group.
pub(super) fn ids(members: &Members) -> impl Iterator<Item = u32> + '_ {
    members.members.iter().chain(&members.backups).copied()
}

/// The next free id of a kind, going round in the kind's range so that an id is not soon used
/// again for something else.
pub(super) fn free_id(
    protocol: u8,
    next: &mut [u32; 3],
    kind: Kind,
    free: impl Fn(u32) -> bool,
) -> u32 {
    let base = u32::from(protocol) << PROTOCOL_SHIFT | (kind as u32) << KIND_SHIFT;
    let next = &mut next[kind as usize];
    for _ in 0..NUMBERS {
        let id = base | *next;
        *next = (*next + 1) % NUMBERS;
        if free(id) && id != base {
            return id;
        }
    }
    base // four million objects of a kind; the kernel says what is wrong with it
}

/// The kind that an id of ours says.
fn kind_of(id: u32) -> u32 {
    id >> KIND_SHIFT & 3
}

impl Objects {
    pub(super) fn has(&self, id: u32) -> bool {
        self.paths.contains_key(&id) || self.groups.contains_key(&id) || self.taken.contains(&id)
    }

    /// `None` when a member is not an object of one way out, or two of them are the same way.
    pub(super) fn ways_out(&self, group: &Members) -> Option<WaysOut> {
        let paths = |members: &[u32]| -> Option<BTreeSet<Path>> {
            let paths = members.iter().map(|id| self.paths.get(id).copied());
            paths.collect()
        };
        let (paths, backups) = (paths(&group.members)?, paths(&group.backups)?);
        let all = paths.len() + backups.difference(&paths).count();
        (all == ids(group).count()).then(|| WaysOut::new(paths, backups))
    }

    pub(super) fn path_object(&self, kind: Kind, path: &Path) -> Option<u32> {
        self.by_path.get(&(kind as u32, *path)).copied()
    }

    pub(super) fn add_path(&mut self, id: u32, path: Path) {
        self.paths.insert(id, path);
        self.by_path.insert((kind_of(id), path), id);
    }

    /// True when it was one.
    pub(super) fn remove_path(&mut self, id: u32) -> bool {
        let Some(path) = self.paths.remove(&id) else {
            return false;
        };
        let key = (kind_of(id), path);
        if self.by_path.get(&key) == Some(&id) {
            self.by_path.remove(&key);
        }
        true
    }

    /// Ways out that are in groups, but wanted by none of these, and without which no group is
    /// empty.
    pub(super) fn dead_everywhere(&self, wanted: &BTreeMap<u32, (Slot, &WaysOut)>) -> Vec<u32> {
        let mut left: BTreeMap<u32, usize> = BTreeMap::new();
        let mut users: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (group, members) in &self.groups {
            left.insert(*group, ids(members).count());
            for member in ids(members) {
                users.entry(member).or_default().push(*group);
            }
        }
        let mut dead = Vec::new();
        for (object, groups) in users {
            let Some(path) = self.paths.get(&object) else {
                continue;
            };
            let unwanted = groups.iter().all(|group| match wanted.get(group) {
                Some((_, ways)) => !ways.contains(path) && left[group] > 1,
                None => false,
            });
            if unwanted {
                for group in groups {
                    left.entry(group).and_modify(|count| *count -= 1);
                }
                dead.push(object);
            }
        }
        dead
    }

    pub(super) fn apply(&mut self, step: &ObjectStep) {
        match step {
            ObjectStep::AddPath { id, path } => {
                self.add_path(*id, *path);
            }
            ObjectStep::AddGroup { id, members } | ObjectStep::ReplaceGroup { id, members } => {
                self.groups.insert(*id, members.clone());
            }
            ObjectStep::Remove { id } => {
                self.groups.remove(id);
                if self.remove_path(*id) {
                    self.groups.retain(|_, group| {
                        group.members.retain(|member| member != id);
                        group.backups.retain(|member| member != id);
                        ids(group).next().is_some()
                    });
                }
            }
        }
    }
}

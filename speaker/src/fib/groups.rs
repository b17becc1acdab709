//! Sets of next hops → nexthop groups. Pure: gives steps, is told what became of them.
//!
//! Every set of BGP next hops has one group object, also a set of one, so that routes never have to
//! be written again when a next hop is reached by other ways: the group's members change. Members
//! are objects of one way out each, shared by groups. A way out has up to two objects: one for
//! groups of one, one for larger groups. So a way out that is gone can be taken out of all larger
//! groups by removing one object, and no group is emptied by that (the kernel would throw away
//! every route of an emptied group). That matters because a *replaced* group makes the kernel
//! announce each of its routes, which takes time in proportion to their number, and a removed
//! member does not.
//!
//! Ids: the protocol number in the highest eight bits, so that two speakers in one namespace do not
//! meet; the kind in the next two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use kernel::{NextHop, NextHopKind, Path};

use super::table::Slot;

/// The kinds of object that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A way out, for groups of one.
    Sole = 0,
    /// A way out, for groups of two and more.
    Shared = 1,
    /// A group.
    Group = 2,
}

const KIND_SHIFT: u32 = 22;
const PROTOCOL_SHIFT: u32 = 24;
const NUMBERS: u32 = 1 << KIND_SHIFT;

/// Something to be done to nexthop objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ObjectStep {
    AddPath { id: u32, path: Path },
    AddGroup { id: u32, members: Vec<u32> },
    ReplaceGroup { id: u32, members: Vec<u32> },
    Remove { id: u32 },
}

/// Our nexthop objects in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Objects {
    paths: BTreeMap<u32, Path>,
    /// The other way round, by kind; of several equal ones, one.
    by_path: BTreeMap<(u32, Path), u32>,
    groups: BTreeMap<u32, Vec<u32>>,
    /// Ids in our range that somebody else uses.
    taken: BTreeSet<u32>,
}

/// A set of next hops, or a group adopted before anybody asked for its set.
#[derive(Debug)]
struct Group {
    id: u32,
    /// Empty when it was adopted and not asked for.
    hops: Vec<IpAddr>,
    /// Prefixes that want it or have it.
    routes: u64,
}

/// All sets in use, and the objects there are.
#[derive(Debug)]
pub(super) struct Groups {
    protocol: u8,
    slots: Vec<Option<Group>>,
    free: Vec<Slot>,
    by_hops: HashMap<Vec<IpAddr>, Slot>,
    by_id: HashMap<u32, Slot>,
    objects: Objects,
    /// Groups in the kernel that belong to no set yet, by their ways out.
    adoptable: BTreeMap<BTreeSet<Path>, BTreeSet<u32>>,
    /// The id after the last one given out, by kind.
    next: [u32; 3],
}

impl Groups {
    pub(super) fn new(protocol: u8) -> Groups {
        Groups {
            protocol,
            slots: Vec::new(),
            free: Vec::new(),
            by_hops: HashMap::new(),
            by_id: HashMap::new(),
            objects: Objects::default(),
            adoptable: BTreeMap::new(),
            next: [1; 3],
        }
    }

    /// Takes in all nexthop objects of the kernel. Gives the groups that routes here point at and
    /// that are gone: the kernel has thrown their routes away with them.
    pub(super) fn set_objects(&mut self, found: Vec<NextHop>) -> BTreeSet<Slot> {
        let mut objects = Objects::default();
        for object in found {
            if object.protocol != self.protocol {
                if object.id >> PROTOCOL_SHIFT == u32::from(self.protocol) {
                    objects.taken.insert(object.id);
                }
                continue;
            }
            match object.kind {
                NextHopKind::Path(path) => {
                    objects.add_path(object.id, path);
                }
                NextHopKind::Group(members) => {
                    objects.groups.insert(object.id, members);
                }
                NextHopKind::Other => {}
            }
        }
        let before = std::mem::replace(&mut self.objects, objects);
        let of_no_set = |id: &u32| match self.by_id.get(id) {
            Some(slot) => self.group(*slot).hops.is_empty(),
            None => true,
        };
        let mut adoptable: BTreeMap<BTreeSet<Path>, BTreeSet<u32>> = BTreeMap::new();
        for (id, members) in &self.objects.groups {
            if of_no_set(id)
                && let Some(paths) = self.objects.group_paths(members)
            {
                adoptable.entry(paths).or_default().insert(*id);
            }
        }
        self.adoptable = adoptable;
        let gone = |id: &u32| !self.objects.groups.contains_key(id);
        let lost = before.groups.into_keys().filter(gone);
        lost.filter_map(|id| self.by_id.get(&id).copied()).collect()
    }

    /// The group that a route found in the kernel points at.
    pub(super) fn adopt(&mut self, id: u32) -> Slot {
        match self.by_id.get(&id) {
            Some(slot) => *slot,
            None => self.insert(Group {
                id,
                hops: Vec::new(),
                routes: 0,
            }),
        }
    }

    /// The group of a set, if it is in use.
    pub(super) fn find(&self, hops: &[IpAddr]) -> Option<Slot> {
        self.by_hops.get(hops).copied()
    }

    /// The group of a set that is not in use yet: an adopted one with these ways out, or a new one.
    pub(super) fn create(&mut self, hops: &[IpAddr], paths: &BTreeSet<Path>) -> Slot {
        let mut claimed = None;
        while claimed.is_none()
            && let Some(ids) = self.adoptable.get_mut(paths)
        {
            claimed = ids.pop_first();
            if claimed.is_none() {
                self.adoptable.remove(paths);
            }
            // It may have changed since it was listed.
            claimed = claimed.filter(|id| {
                let members = self.objects.groups.get(id);
                members.is_some_and(|m| self.objects.group_paths(m).as_ref() == Some(paths))
            });
        }
        let id = claimed.unwrap_or_else(|| {
            let used: &HashMap<u32, Slot> = &self.by_id;
            let free = |id| !self.objects.has(id) && !used.contains_key(&id);
            free_id(self.protocol, &mut self.next, Kind::Group, free)
        });
        let slot = self.adopt(id);
        self.by_hops.insert(hops.to_vec(), slot);
        if let Some(Some(group)) = self.slots.get_mut(slot as usize) {
            group.hops = hops.to_vec();
        }
        slot
    }

    fn insert(&mut self, group: Group) -> Slot {
        let id = group.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(group);
                slot
            }
            None => {
                self.slots.push(Some(group));
                (self.slots.len() - 1) as Slot
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    fn group(&self, slot: Slot) -> &Group {
        self.slots[slot as usize]
            .as_ref()
            .expect("a slot is handed out only while its group is there")
    }

    /// The kernel's number of the group.
    pub(super) fn id(&self, slot: Slot) -> u32 {
        self.group(slot).id
    }

    pub(super) fn hops(&self, slot: Slot) -> &[IpAddr] {
        &self.group(slot).hops
    }

    /// Whether two groups are of one set, so that a route may point at either.
    pub(super) fn same_set(&self, one: Slot, other: Slot) -> bool {
        one == other || {
            let hops = self.hops(one);
            !hops.is_empty() && hops == self.hops(other)
        }
    }

    /// No packets can go to these next hops. A group that has others becomes one of the set of the
    /// others: it is what its routes are about to want, and then they need not be written. Gives the
    /// next hops taken out, once for each group.
    pub(super) fn take_out(&mut self, down: &[IpAddr]) -> Vec<IpAddr> {
        let mut taken = Vec::new();
        for (slot, place) in self.slots.iter_mut().enumerate() {
            let Some(group) = place else { continue };
            let left = without(&group.hops, down);
            if left.len() == group.hops.len() || left.is_empty() {
                continue;
            }
            let gone = group.hops.iter().filter(|hop| down.contains(hop));
            taken.extend(gone.copied());
            let slot = slot as Slot;
            if self.by_hops.get(&group.hops) == Some(&slot) {
                self.by_hops.remove(&group.hops);
            }
            group.hops.clone_from(&left);
            self.by_hops.entry(left).or_insert(slot);
        }
        taken
    }

    /// Whether routes can point at it: the kernel has it.
    pub(super) fn ready(&self, slot: Slot) -> bool {
        self.objects.groups.contains_key(&self.group(slot).id)
    }

    /// Ways out of the group as the kernel has it.
    pub(super) fn paths(&self, slot: Slot) -> Vec<Path> {
        let members = self.objects.groups.get(&self.group(slot).id);
        let members = members.map_or(&[][..], Vec::as_slice).iter();
        members
            .filter_map(|id| self.objects.paths.get(id).copied())
            .collect()
    }

    pub(super) fn count_route(&mut self, slot: Slot) {
        if let Some(Some(group)) = self.slots.get_mut(slot as usize) {
            group.routes += 1;
        }
    }

    /// A prefix does not want the group any more. True when it was the last one.
    pub(super) fn uncount_route(&mut self, slot: Slot) -> bool {
        let Some(Some(group)) = self.slots.get_mut(slot as usize) else {
            return false;
        };
        group.routes -= 1;
        group.routes == 0
    }

    /// Groups whose set is known, and the set.
    pub(super) fn sets(&self) -> impl Iterator<Item = (Slot, &[IpAddr])> {
        let groups = self.slots.iter().enumerate();
        groups.filter_map(|(slot, group)| {
            let group = group.as_ref().filter(|group| !group.hops.is_empty())?;
            Some((slot as Slot, group.hops.as_slice()))
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// The steps after which each group has the ways out that `wanted` says. A group that wants none
    /// is left as it is.
    ///
    /// They count as carried out from now on; when one fails, [`Groups::set_objects`] brings the
    /// truth.
    pub(super) fn plan(&mut self, wanted: &[(Slot, BTreeSet<Path>)]) -> Vec<ObjectStep> {
        let wanted = wanted.iter().filter(|(_, paths)| !paths.is_empty());
        let wanted: BTreeMap<u32, &BTreeSet<Path>> = wanted
            .map(|(slot, paths)| (self.group(*slot).id, paths))
            .collect();
        let mut steps = Vec::new();
        for id in self.objects.dead_everywhere(&wanted) {
            self.step(&mut steps, ObjectStep::Remove { id });
        }
        for (id, paths) in wanted {
            self.plan_group(&mut steps, id, paths);
        }
        steps
    }

    /// [`Groups::plan`] for one group.
    pub(super) fn plan_one(&mut self, slot: Slot, paths: &BTreeSet<Path>) -> Vec<ObjectStep> {
        let mut steps = Vec::new();
        if !paths.is_empty() {
            self.plan_group(&mut steps, self.id(slot), paths);
        }
        steps
    }

    fn plan_group(&mut self, steps: &mut Vec<ObjectStep>, id: u32, paths: &BTreeSet<Path>) {
        let present = self.objects.groups.get(&id);
        if present.is_some_and(|members| self.objects.group_paths(members).as_ref() == Some(paths))
        {
            return;
        }
        let present = present.is_some();
        let kind = match paths.len() {
            1 => Kind::Sole,
            _ => Kind::Shared,
        };
        let mut members = Vec::with_capacity(paths.len());
        for path in paths {
            let member = self.objects.path_object(kind, path).unwrap_or_else(|| {
                let free = |id| !self.objects.has(id);
                let id = free_id(self.protocol, &mut self.next, kind, free);
                self.step(steps, ObjectStep::AddPath { id, path: *path });
                id
            });
            members.push(member);
        }
        let step = if present {
            ObjectStep::ReplaceGroup { id, members }
        } else {
            ObjectStep::AddGroup { id, members }
        };
        self.step(steps, step);
    }

    fn step(&mut self, steps: &mut Vec<ObjectStep>, step: ObjectStep) {
        self.objects.apply(&step);
        steps.push(step);
    }

    /// The steps that remove groups without routes and ways out without a group. `keep_adopted`:
    /// groups that nobody asked for yet stay.
    pub(super) fn plan_removal(&mut self, keep_adopted: bool) -> Vec<ObjectStep> {
        let unused = |id: &u32| match self.by_id.get(id) {
            Some(slot) => self.group(*slot).routes == 0,
            None => !keep_adopted,
        };
        let groups: BTreeSet<u32> = self.objects.groups.keys().copied().filter(unused).collect();
        let used: BTreeSet<u32> = self
            .objects
            .groups
            .iter()
            .filter(|(id, _)| !groups.contains(id))
            .flat_map(|(_, members)| members.iter().copied())
            .collect();
        let paths = self.objects.paths.keys().filter(|id| {
            let pointed_at = self
                .by_id
                .get(id)
                .is_some_and(|slot| self.group(*slot).routes > 0);
            !used.contains(id) && !pointed_at
        });
        let paths: Vec<u32> = paths.copied().collect();
        let mut steps = Vec::new();
        for id in groups.into_iter().chain(paths) {
            // In no group that stays, so that no group has to be looked through for it.
            self.objects.groups.remove(&id);
            self.objects.remove_path(id);
            steps.push(ObjectStep::Remove { id });
        }
        steps
    }

    /// Forgets groups without routes; gives the next hops of each.
    pub(super) fn forget_unused(&mut self) -> Vec<Vec<IpAddr>> {
        let mut hops = Vec::new();
        for (slot, place) in self.slots.iter_mut().enumerate() {
            if let Some(group) = place.take_if(|group| group.routes == 0) {
                self.by_id.remove(&group.id);
                if self.by_hops.get(&group.hops) == Some(&(slot as Slot)) {
                    self.by_hops.remove(&group.hops);
                }
                self.free.push(slot as Slot);
                if !group.hops.is_empty() {
                    hops.push(group.hops);
                }
            }
        }
        hops
    }
}

/// The next hops that are not `down`.
pub(super) fn without(hops: &[IpAddr], down: &[IpAddr]) -> Vec<IpAddr> {
    let left = hops.iter().filter(|hop| !down.contains(hop));
    left.copied().collect()
}

/// The next free id of a kind, going round in the kind's range so that an id is not soon used
/// again for something else.
fn free_id(protocol: u8, next: &mut [u32; 3], kind: Kind, free: impl Fn(u32) -> bool) -> u32 {
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
    fn has(&self, id: u32) -> bool {
        self.paths.contains_key(&id) || self.groups.contains_key(&id) || self.taken.contains(&id)
    }

    /// `None` when a member is not an object of one way out, or two of them are the same way.
    fn group_paths(&self, members: &[u32]) -> Option<BTreeSet<Path>> {
        let paths: Option<BTreeSet<Path>> = members
            .iter()
            .map(|id| self.paths.get(id).copied())
            .collect();
        paths.filter(|paths| paths.len() == members.len())
    }

    fn path_object(&self, kind: Kind, path: &Path) -> Option<u32> {
        self.by_path.get(&(kind as u32, *path)).copied()
    }

    fn add_path(&mut self, id: u32, path: Path) {
        self.paths.insert(id, path);
        self.by_path.insert((kind_of(id), path), id);
    }

    /// True when it was one.
    fn remove_path(&mut self, id: u32) -> bool {
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
    fn dead_everywhere(&self, wanted: &BTreeMap<u32, &BTreeSet<Path>>) -> Vec<u32> {
        let mut left: BTreeMap<u32, usize> = BTreeMap::new();
        let mut users: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (group, members) in &self.groups {
            left.insert(*group, members.len());
            for member in members {
                users.entry(*member).or_default().push(*group);
            }
        }
        let mut dead = Vec::new();
        for (object, groups) in users {
            let Some(path) = self.paths.get(&object) else {
                continue;
            };
            let unwanted = groups.iter().all(|group| match wanted.get(group) {
                Some(paths) => !paths.contains(path) && left[group] > 1,
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

    fn apply(&mut self, step: &ObjectStep) {
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
                    for members in self.groups.values_mut() {
                        members.retain(|member| member != id);
                    }
                    self.groups.retain(|_, members| !members.is_empty());
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;

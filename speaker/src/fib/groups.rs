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
//! A set with backups has them as further members, in a kind of group that gives them no packet while
//! another member is left ([`kernel::Group`]). So the kernel goes over to them by itself when a link
//! goes down, and when we remove the object of the way out, of all groups at once.
//!
//! Ids: the protocol number in the highest eight bits, so that two speakers in one namespace do not
//! meet; the kind in the next two.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use kernel::{Group as Members, NextHop, NextHopKind, Path};

use super::objects::{Kind, ObjectStep, Objects, PROTOCOL_SHIFT, WaysOut, free_id, ids};
use super::table::Slot;

/// A set of next hops, or a group adopted before anybody asked for its set.
#[derive(Debug)]
struct Group {
    id: u32,
    /// Empty when it was adopted and not asked for.
    hops: Vec<IpAddr>,
    /// Used once packets can go to none of `hops`.
    backups: Vec<IpAddr>,
    /// Prefixes that want it or have it.
    routes: u64,
}

/// All sets in use, and the objects there are.
#[derive(Debug)]
pub(super) struct Groups {
    protocol: u8,
    slots: Vec<Option<Group>>,
    free: Vec<Slot>,
    by_set: HashMap<Vec<IpAddr>, Slot>,
    by_id: HashMap<u32, Slot>,
    objects: Objects,
    /// Groups in the kernel that belong to no set yet, by whether they may have backups and their ways
    /// out.
    adoptable: BTreeMap<(bool, WaysOut), BTreeSet<u32>>,
    /// The kernel knows no groups with backups.
    no_backups: bool,
    /// The id after the last one given out, by kind.
    next: [u32; 3],
}

impl Groups {
    pub(super) fn new(protocol: u8) -> Groups {
        Groups {
            protocol,
            slots: Vec::new(),
            free: Vec::new(),
            by_set: HashMap::new(),
            by_id: HashMap::new(),
            objects: Objects::default(),
            adoptable: BTreeMap::new(),
            no_backups: false,
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
        let mut adoptable: BTreeMap<(bool, WaysOut), BTreeSet<u32>> = BTreeMap::new();
        for (id, members) in &self.objects.groups {
            if of_no_set(id)
                && let Some(ways) = self.objects.ways_out(members)
            {
                let key = (members.has_backups, ways);
                adoptable.entry(key).or_default().insert(*id);
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
                backups: Vec::new(),
                routes: 0,
            }),
        }
    }

    /// The group of a set, if it is in use.
    pub(super) fn find(&self, hops: &[IpAddr], backups: &[IpAddr]) -> Option<Slot> {
        self.by_set.get(&*key(hops, backups)).copied()
    }

    /// The kernel knows no groups with backups: from now on new ones have none.
    pub(super) fn without_backups(&mut self) {
        self.no_backups = true;
    }

    /// The group of a set that is not in use yet: an adopted one with these ways out, or a new one.
    pub(super) fn create(&mut self, hops: &[IpAddr], backups: &[IpAddr], ways: &WaysOut) -> Slot {
        // Without backups, one that has lost what it was a backup for does as well.
        let first = !backups.is_empty() && !self.no_backups;
        let claimed = self.claim(first, ways);
        let claimed = claimed.or_else(|| (!first).then(|| self.claim(true, ways))?);
        let id = claimed.unwrap_or_else(|| {
            let used: &HashMap<u32, Slot> = &self.by_id;
            let free = |id| !self.objects.has(id) && !used.contains_key(&id);
            free_id(self.protocol, &mut self.next, Kind::Group, free)
        });
        let slot = self.adopt(id);
        self.by_set.insert(key(hops, backups).into_owned(), slot);
        if let Some(Some(group)) = self.slots.get_mut(slot as usize) {
            group.hops = hops.to_vec();
            group.backups = backups.to_vec();
        }
        slot
    }

    /// A group of nobody's with these ways out.
    fn claim(&mut self, has_backups: bool, ways: &WaysOut) -> Option<u32> {
        let key = (has_backups, ways.clone());
        let ids = self.adoptable.get_mut(&key)?;
        while let Some(id) = ids.pop_first() {
            // It may have changed since it was listed.
            let members = self.objects.groups.get(&id);
            if members.is_some_and(|m| self.objects.ways_out(m).as_ref() == Some(ways)) {
                return Some(id);
            }
        }
        self.adoptable.remove(&key);
        None
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

    /// The set: next hops, and backups.
    pub(super) fn set(&self, slot: Slot) -> (&[IpAddr], &[IpAddr]) {
        let group = self.group(slot);
        (&group.hops, &group.backups)
    }

    /// Whether two groups are of one set, so that a route may point at either.
    pub(super) fn same_set(&self, one: Slot, other: Slot) -> bool {
        one == other || {
            let set = self.set(one);
            !set.0.is_empty() && set == self.set(other)
        }
    }

    /// No packets can go to these next hops. A group that has others becomes one of the set of the
    /// others: it is what its routes are about to want, and then they need not be written. Gives the
    /// next hops taken out, once for each group.
    pub(super) fn take_out(&mut self, down: &[IpAddr]) -> Vec<IpAddr> {
        let mut taken = Vec::new();
        for (slot, place) in self.slots.iter_mut().enumerate() {
            let Some(group) = place else { continue };
            let Some((hops, backups)) = without((&group.hops, &group.backups), down) else {
                continue;
            };
            let all = group.hops.iter().chain(&group.backups);
            taken.extend(all.filter(|hop| down.contains(hop)));
            let (slot, old) = (slot as Slot, key(&group.hops, &group.backups));
            if self.by_set.get(&*old) == Some(&slot) {
                self.by_set.remove(&*old);
            }
            (group.hops, group.backups) = (hops, backups);
            let new = key(&group.hops, &group.backups).into_owned();
            self.by_set.entry(new).or_insert(slot);
        }
        taken
    }

    /// Whether routes can point at it: the kernel has it.
    pub(super) fn ready(&self, slot: Slot) -> bool {
        self.objects.groups.contains_key(&self.group(slot).id)
    }

    /// Ways out of the group as the kernel has it.
    pub(super) fn ways_out(&self, slot: Slot) -> WaysOut {
        let members = self.objects.groups.get(&self.group(slot).id);
        let ways = members.and_then(|members| self.objects.ways_out(members));
        ways.unwrap_or_default()
    }

    pub(super) fn count_route(&mut self, slot: Slot) {
        if let Some(Some(group)) = self.slots.get_mut(slot as usize) {
            group.routes += 1;
        }
    }

    /// A prefix does not want the group any more. True when it was the last one.
    pub(super) fn uncount_route(&mut self, slot: Slot) -> bool {
        self.uncount_routes(slot, 1)
    }

    /// Prefixes that want the group or have it.
    pub(super) fn routes(&self, slot: Slot) -> u64 {
        let group = self.slots.get(slot as usize);
        group
            .and_then(Option::as_ref)
            .map_or(0, |group| group.routes)
    }

    /// A group goes with all routes that point at it.
    pub(super) fn plan_end(&mut self, slot: Slot) -> Vec<ObjectStep> {
        let mut steps = Vec::new();
        let id = self.id(slot);
        self.step(&mut steps, ObjectStep::Remove { id });
        steps
    }

    /// So many prefixes do not want the group any more. True when those were the last ones.
    pub(super) fn uncount_routes(&mut self, slot: Slot, count: u64) -> bool {
        let Some(Some(group)) = self.slots.get_mut(slot as usize) else {
            return false;
        };
        group.routes -= count;
        group.routes == 0
    }

    /// Groups whose set is known.
    pub(super) fn with_sets(&self) -> impl Iterator<Item = Slot> {
        let groups = self.slots.iter().enumerate();
        groups.filter_map(|(slot, group)| {
            let known = group.as_ref().is_some_and(|group| !group.hops.is_empty());
            known.then_some(slot as Slot)
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
    pub(super) fn plan(&mut self, wanted: &[(Slot, WaysOut)]) -> Vec<ObjectStep> {
        let wanted = wanted.iter().filter(|(_, ways)| !ways.paths.is_empty());
        let wanted: BTreeMap<u32, (Slot, &WaysOut)> = wanted
            .map(|(slot, ways)| (self.group(*slot).id, (*slot, ways)))
            .collect();
        let mut steps = Vec::new();
        for id in self.objects.dead_everywhere(&wanted) {
            self.step(&mut steps, ObjectStep::Remove { id });
        }
        for (slot, ways) in wanted.into_values() {
            self.plan_group(&mut steps, slot, ways);
        }
        steps
    }

    /// [`Groups::plan`] for one group.
    pub(super) fn plan_one(&mut self, slot: Slot, ways: &WaysOut) -> Vec<ObjectStep> {
        let mut steps = Vec::new();
        if !ways.paths.is_empty() {
            self.plan_group(&mut steps, slot, ways);
        }
        steps
    }

    fn plan_group(&mut self, steps: &mut Vec<ObjectStep>, slot: Slot, ways: &WaysOut) {
        let id = self.id(slot);
        let present = self.objects.groups.get(&id);
        let has_backups = match present {
            Some(present) => present.has_backups,
            None => !self.group(slot).backups.is_empty() && !self.no_backups,
        };
        let only;
        let ways = match has_backups {
            true => ways,
            false => {
                only = WaysOut::from(ways.paths.clone());
                &only
            }
        };
        if present.is_some_and(|members| self.objects.ways_out(members).as_ref() == Some(ways)) {
            return;
        }
        let present = present.is_some();
        let kind = match ways.paths.len() + ways.backups.len() {
            1 => Kind::Sole,
            _ => Kind::Shared,
        };
        let mut member = |path: &Path| {
            self.objects.path_object(kind, path).unwrap_or_else(|| {
                let free = |id| !self.objects.has(id);
                let id = free_id(self.protocol, &mut self.next, kind, free);
                self.step(steps, ObjectStep::AddPath { id, path: *path });
                id
            })
        };
        let members = Members {
            members: ways.paths.iter().map(&mut member).collect(),
            backups: ways.backups.iter().map(&mut member).collect(),
            has_backups,
        };
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
    /// groups that nobody asked for yet stay. `shared`: a foreign route would go with the object.
    pub(super) fn plan_removal(
        &mut self,
        keep_adopted: bool,
        shared: impl Fn(u32) -> bool,
    ) -> Vec<ObjectStep> {
        let unused = |id: &u32| match self.by_id.get(id) {
            _ if shared(*id) => false,
            Some(slot) => self.group(*slot).routes == 0,
            None => !keep_adopted,
        };
        let groups: BTreeSet<u32> = self.objects.groups.keys().copied().filter(unused).collect();
        let used: BTreeSet<u32> = self
            .objects
            .groups
            .iter()
            .filter(|(id, _)| !groups.contains(id))
            .flat_map(|(_, members)| ids(members))
            .collect();
        let paths = self.objects.paths.keys().filter(|id| {
            let pointed_at = self
                .by_id
                .get(id)
                .is_some_and(|slot| self.group(*slot).routes > 0);
            !used.contains(id) && !pointed_at && !shared(**id)
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

    /// Forgets groups without routes; gives the next hops of each and its backups.
    pub(super) fn forget_unused(&mut self) -> Vec<IpAddr> {
        let mut hops = Vec::new();
        for (slot, place) in self.slots.iter_mut().enumerate() {
            if let Some(group) = place.take_if(|group| group.routes == 0) {
                self.by_id.remove(&group.id);
                let key = key(&group.hops, &group.backups);
                if self.by_set.get(&*key) == Some(&(slot as Slot)) {
                    self.by_set.remove(&*key);
                }
                self.free.push(slot as Slot);
                hops.extend(group.hops.iter().chain(&group.backups));
            }
        }
        hops
    }
}

/// What a set (its next hops and backups) becomes once some are `down`; `None` when it stays as it
/// is: none of its next hops are among them, or all.
pub(super) fn without(
    (hops, backups): (&[IpAddr], &[IpAddr]),
    down: &[IpAddr],
) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
    let left = |hops: &[IpAddr]| -> Vec<IpAddr> {
        let left = hops.iter().filter(|hop| !down.contains(hop));
        left.copied().collect()
    };
    let now = match (left(hops), left(backups)) {
        (hops, backups) if hops.is_empty() => (backups, hops),
        now => now,
    };
    (!now.0.is_empty() && (&now.0[..], &now.1[..]) != (hops, backups)).then_some(now)
}

/// Under what a set is found.
fn key<'a>(hops: &'a [IpAddr], backups: &[IpAddr]) -> Cow<'a, [IpAddr]> {
    if backups.is_empty() {
        return Cow::Borrowed(hops);
    }
    // Would be the first one of a sorted list.
    let between = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    Cow::Owned([hops, &between, backups].concat())
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;

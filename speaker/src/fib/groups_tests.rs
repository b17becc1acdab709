use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::super::objects::KIND_SHIFT;
use super::*;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};

fn path(number: u8) -> Path {
    Path {
        gateway: Some(IpAddr::from([192, 0, 2, number])),
        interface: u32::from(number),
        on_link: false,
    }
}

fn hop(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// Groups of these sets; way out `n` is that of next hop `n`.
fn groups(sets: &[&[u8]]) -> (Groups, Vec<Slot>) {
    let mut groups = Groups::new(149);
    let slots: Vec<Slot> = sets.iter().map(|set| create(&mut groups, set)).collect();
    let wanted = slots.iter().copied().zip(sets.iter().map(|set| ways(set)));
    let wanted: Vec<_> = wanted.collect();
    groups.plan(&wanted);
    (groups, slots)
}

fn create(groups: &mut Groups, set: &[u8]) -> Slot {
    let hops: Vec<IpAddr> = set.iter().map(|number| hop(*number)).collect();
    let slot = groups.create(&hops, &[], &ways(set));
    groups.count_route(slot);
    slot
}

/// What a list of the kernel's objects finds.
fn found(groups: &Groups) -> Vec<NextHop> {
    let paths = groups.objects.paths.iter().map(|(id, path)| NextHop {
        id: *id,
        protocol: 149,
        kind: NextHopKind::Path(*path),
    });
    let all = groups.objects.groups.iter().map(|(id, members)| NextHop {
        id: *id,
        protocol: 149,
        kind: NextHopKind::Group(members.clone()),
    });
    paths.chain(all).collect()
}

fn paths(set: &[u8]) -> BTreeSet<Path> {
    set.iter().map(|number| path(*number)).collect()
}

fn ways(set: &[u8]) -> WaysOut {
    WaysOut::from(paths(set))
}

/// With backups.
fn ready(set: &[u8], backups: &[u8]) -> WaysOut {
    WaysOut::new(paths(set), paths(backups))
}

/// A group of this set, with a route, in the kernel.
fn with_backups(groups: &mut Groups, set: &[u8], backups: &[u8]) -> Slot {
    let [hops, spare] = [set, backups]
        .map(|set| -> Vec<IpAddr> { set.iter().map(|number| hop(*number)).collect() });
    let ways = ready(set, backups);
    let slot = groups.create(&hops, &spare, &ways);
    groups.count_route(slot);
    groups.plan_one(slot, &ways);
    slot
}

#[test]
fn a_way_out_that_is_gone_leaves_all_groups_of_two_in_one_step() {
    let (mut groups, slots) = groups(&[&[1, 2], &[2, 3], &[1, 2, 3], &[2]]);
    let wanted = [
        (slots[0], ways(&[1])),
        (slots[1], ways(&[3])),
        (slots[2], ways(&[1, 3])),
        (slots[3], ways(&[])),
    ];
    let steps = groups.plan(&wanted);
    assert!(
        matches!(steps[..], [ObjectStep::Remove { .. }]),
        "{steps:?}"
    );
    assert_eq!(groups.ways_out(slots[0]), ways(&[1]));
    assert_eq!(groups.ways_out(slots[3]), ways(&[2]), "no group is emptied");
    assert_eq!(groups.plan(&wanted), []);
}

#[test]
fn a_group_adopted_with_the_wanted_ways_out_is_used_without_a_step() {
    let (before, slots) = groups(&[&[1, 2], &[3]]);
    let mut after = Groups::new(149);
    assert!(after.set_objects(found(&before)).is_empty());
    let claimed = create(&mut after, &[1, 2]);
    assert_eq!(after.id(claimed), before.id(slots[0]));
    assert_eq!(after.plan(&[(claimed, ways(&[1, 2]))]), []);
    assert_eq!(
        after.plan_removal(true, |_| false),
        [],
        "the other may still be asked for"
    );
    assert_eq!(
        after.plan_removal(false, |_| false).len(),
        2,
        "a group and its way out"
    );
}

#[test]
fn a_backup_is_gone_over_to_by_one_step_for_all_groups() {
    let mut groups = Groups::new(149);
    let first = with_backups(&mut groups, &[1], &[2]);
    let second = with_backups(&mut groups, &[1], &[3]);
    let other = with_backups(&mut groups, &[3], &[1]);
    let taken = groups.take_out(&[hop(1)]);
    assert_eq!(taken, [hop(1); 3], "each group lets go of it");
    let steps = groups.plan(&[
        (first, ways(&[2])),
        (second, ways(&[3])),
        (other, ways(&[3])),
    ]);
    assert!(
        matches!(steps[..], [ObjectStep::Remove { .. }]),
        "{steps:?}"
    );
    assert_eq!(groups.ways_out(first), ways(&[2]));
    assert!(groups.same_set(second, other) && !groups.same_set(first, second));
    assert_eq!(groups.find(&[hop(2)], &[]), Some(first));
    assert_eq!(groups.find(&[hop(1)], &[hop(2)]), None);
}

#[test]
fn groups_with_backups_are_adopted_as_what_they_are() {
    let mut before = Groups::new(149);
    let used = create(&mut before, &[1, 2]);
    before.plan(&[(used, ways(&[1, 2]))]);
    let backed = with_backups(&mut before, &[1], &[2]);
    let failed = with_backups(&mut before, &[3], &[4]);
    before.take_out(&[hop(3)]);
    before.plan(&[(failed, ways(&[4]))]);

    let mut after = Groups::new(149);
    after.set_objects(found(&before));
    let claimed = [
        after.create(&[hop(1)], &[hop(2)], &ready(&[1], &[2])),
        after.create(&[hop(1), hop(2)], &[], &ways(&[1, 2])),
        after.create(&[hop(4)], &[], &ways(&[4])),
    ];
    let ids = |groups: &Groups, slots: [Slot; 3]| slots.map(|slot| groups.id(slot));
    assert_eq!(ids(&after, claimed), ids(&before, [backed, used, failed]));
}

#[test]
fn a_kernel_without_groups_with_backups_gets_none() {
    let mut groups = Groups::new(149);
    groups.without_backups();
    let slot = with_backups(&mut groups, &[1], &[2]);
    assert_eq!(groups.ways_out(slot), ways(&[1]));
    groups.take_out(&[hop(1)]);
    let steps = groups.plan(&[(slot, ways(&[2]))]);
    assert!(
        matches!(steps.last(), Some(ObjectStep::ReplaceGroup { .. })),
        "{steps:?}"
    );
    assert_eq!(groups.ways_out(slot), ways(&[2]));
}

#[test]
fn groups_that_vanished_are_told() {
    let (mut groups, slots) = groups(&[&[1, 2], &[3]]);
    let lost = groups.set_objects(Vec::new());
    assert_eq!(lost, slots.into_iter().collect());
    assert!(groups.set_objects(Vec::new()).is_empty(), "told once");
}

#[test]
fn an_id_that_somebody_else_uses_is_passed_over() {
    let mut groups = Groups::new(149);
    let first = 149 << PROTOCOL_SHIFT | (Kind::Group as u32) << KIND_SHIFT | 1;
    let foreign = NextHop {
        id: first,
        protocol: 4,
        kind: NextHopKind::Other,
    };
    groups.set_objects(vec![foreign]);
    let slot = create(&mut groups, &[1]);
    assert_eq!(groups.id(slot), first + 1);
}

#[test]
fn nothing_is_left_when_no_route_wants_anything() {
    let (mut groups, slots) = groups(&[&[1, 2], &[2]]);
    for slot in slots {
        assert!(groups.uncount_route(slot));
    }
    groups.plan_removal(true, |_| false);
    assert_eq!(groups.forget_unused(), [hop(1), hop(2), hop(2)]);
    assert_eq!(groups.objects, Objects::default());
    assert_eq!(groups.len(), 0);
}

proptest! {
    /// Whatever the ways out become, the steps end in what is wanted, never put an object where one
    /// is, never name one that is not there, and never empty a group.
    #[test]
    fn steps_end_in_what_is_wanted(
        sets in vec(btree_set(1u8..6, 1..5), 1..6),
        backed_up in 0usize..4,
        changes in vec(vec((btree_set(1u8..6, 0..5), btree_set(1u8..6, 0..3)), 6), 1..5),
    ) {
        let sets: BTreeSet<Vec<u8>> = sets.into_iter().map(|s| s.into_iter().collect()).collect();
        let sets: Vec<&[u8]> = sets.iter().map(Vec::as_slice).collect();
        let (plain, backed) = sets.split_at(sets.len() - backed_up.min(sets.len()));
        let (mut groups, mut slots) = groups(plain);
        // Of these the number that is in no set is the backup.
        slots.extend(backed.iter().map(|set| with_backups(&mut groups, set, &[6])));
        for change in changes {
            let change = change.into_iter().map(|(set, backups)| {
                let numbers = |set: BTreeSet<u8>| set.into_iter().collect::<Vec<_>>();
                ready(&numbers(set), &numbers(backups))
            });
            let wanted: Vec<_> = slots.iter().copied().zip(change).collect();
            let mut objects = groups.objects.clone();
            for step in groups.plan(&wanted) {
                match &step {
                    ObjectStep::AddPath { id, .. } | ObjectStep::AddGroup { id, .. } => {
                        prop_assert!(!objects.has(*id));
                    }
                    ObjectStep::ReplaceGroup { id, .. } => {
                        prop_assert!(objects.groups.contains_key(id));
                    }
                    ObjectStep::Remove { id } => prop_assert!(objects.has(*id)),
                }
                let before = objects.groups.len();
                objects.apply(&step);
                prop_assert!(objects.groups.len() >= before);
            }
            prop_assert_eq!(&objects, &groups.objects);
            for (index, (slot, ways)) in wanted.iter().enumerate() {
                if !ways.paths.is_empty() {
                    let only = WaysOut::from(ways.paths.clone());
                    let ways = if index < plain.len() { &only } else { ways };
                    prop_assert_eq!(&groups.ways_out(*slot), ways);
                }
            }
            prop_assert_eq!(groups.plan(&wanted), []);
        }
    }
}

/// A peer may name another next hop for each of its routes: none of them may cost a look at all others.
#[test]
fn tens_of_thousands_of_next_hops_are_taken_in_adopted_and_given_up_in_a_moment() {
    const MANY: u32 = 40_000;
    let path = |number: u32| Path {
        gateway: Some(IpAddr::from((0x0A00_0000 + number).to_be_bytes())),
        interface: 1,
        on_link: false,
    };
    let take_in = |groups: &mut Groups| -> Vec<Slot> {
        let slots = (0..MANY).map(|number| {
            let path = path(number);
            let ways = WaysOut::from(BTreeSet::from([path]));
            let slot = groups.create(path.gateway.as_slice(), &[], &ways);
            groups.count_route(slot);
            groups.plan_one(slot, &ways);
            slot
        });
        slots.collect()
    };
    let start = processor_time();
    let mut before = Groups::new(149);
    take_in(&mut before);
    let mut after = Groups::new(149);
    after.set_objects(found(&before));
    let slots = take_in(&mut after);
    assert_eq!(after.objects, before.objects, "all of them are adopted");
    for slot in slots.iter().step_by(2) {
        after.uncount_route(*slot);
    }
    let removed = after.plan_removal(false, |_| false).len();
    assert_eq!(
        removed, MANY as usize,
        "half of the groups and their ways out"
    );
    after.forget_unused();
    assert_eq!(after.len(), u64::from(MANY) / 2);
    let took = processor_time() - start;
    assert!(took.num_seconds() < 10, "{took} of processor time");
}

/// What this thread has used, whatever else the machine does.
fn processor_time() -> TimeVal {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel counts");
    usage.user_time() + usage.system_time()
}

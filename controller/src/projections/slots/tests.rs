use crd::{Family, GivenAsn, State};

use super::*;

const SINCE: i64 = 10;

fn subnet(prefix: &str) -> NodeSubnet {
    NodeSubnet {
        prefix: prefix.parse().unwrap(),
        pool: "pods".to_owned(),
        family: Family::Ipv4,
        state: State::Assigned,
        since: None,
        free_at: None,
        fixed: false,
    }
}

/// What should stand there; `releasing` when something of it is to be freed.
fn wanted(prefixes: &[&str], releasing: bool) -> WantedNode {
    WantedNode {
        uid: "u".to_owned(),
        subnets: prefixes.iter().map(|prefix| subnet(prefix)).collect(),
        given_asn: None,
        releasing,
        generation: SINCE + 5,
    }
}

/// An object as the API server has it.
fn stored(version: u64, generation: i64, prefixes: &[&str]) -> NodeSubnets {
    let mut object = NodeSubnets::default();
    object.metadata.name = Some("n1".to_owned());
    object.metadata.resource_version = Some(version.to_string());
    object.spec.node_uid = "u".to_owned();
    object.spec.ledger_generation = generation;
    object.spec.subnets = prefixes.iter().map(|prefix| subnet(prefix)).collect();
    object
}

fn there(object: NodeSubnets) -> Answer {
    Answer::There(Box::new(object))
}

/// A slot that has seen this.
fn seen(object: NodeSubnets) -> Slot {
    let mut slot = Slot::default();
    slot.answered(&Step::Read, there(object));
    slot
}

fn net(prefix: &str) -> IpNetwork {
    prefix.parse().unwrap()
}

#[test]
fn an_object_is_made_empty_and_filled_by_a_request_that_names_its_version() {
    let wanted = wanted(&["10.0.0.0/24"], false);
    let mut slot = Slot::default();
    assert_eq!(slot.step(Some(&wanted), SINCE), Some(Step::Create));
    slot.answered(&Step::Create, there(stored(7, 0, &[])));
    let Some(step @ Step::Write(_)) = slot.step(Some(&wanted), SINCE) else {
        panic!("{slot:?}");
    };
    let Step::Write(next) = &step else {
        unreachable!()
    };
    assert_eq!(next.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(next.spec.ledger_generation, SINCE + 5);
    slot.answered(&step, there(stored(8, SINCE + 5, &["10.0.0.0/24"])));
    assert_eq!(slot.step(Some(&wanted), SINCE), None);
    assert!(!slot.is_clear_of(net("10.0.0.0/24"), SINCE));
}

#[test]
fn an_object_that_an_earlier_leader_made_is_replaced_before_anything_of_it_is_free() {
    // It shows nothing; but who made it may be about to fill it.
    let slot = seen(stored(7, SINCE - 1, &["10.0.1.0/24"]));
    assert!(!slot.is_clear_of(net("10.0.0.0/24"), SINCE));
    assert_eq!(
        slot.step(Some(&wanted(&["10.0.1.0/24"], false)), SINCE),
        None
    );
    let step = slot.step(Some(&wanted(&["10.0.1.0/24"], true)), SINCE);
    assert!(matches!(step, Some(Step::Write(_))), "{step:?}");
    let step = slot.step(Some(&wanted(&[], true)), SINCE);
    assert!(matches!(step, Some(Step::Remove(_))), "{step:?}");
}

#[test]
fn what_may_still_be_written_is_not_free_before_another_version_is_there() {
    let mut slot = seen(stored(7, SINCE, &[]));
    let fill = slot
        .step(Some(&wanted(&["10.0.0.0/24"], false)), SINCE)
        .unwrap();
    slot.answered(&fill, Answer::Unclear);
    assert!(!slot.is_clear_of(net("10.0.0.0/24"), SINCE));
    // It has not arrived; it may do so later.
    assert_eq!(slot.step(None, SINCE), Some(Step::Read));
    slot.answered(&Step::Read, there(stored(7, SINCE, &[])));
    assert!(!slot.is_clear_of(net("10.0.0.0/24"), SINCE));
    let clear = slot
        .step(Some(&wanted(&["10.0.1.0/24"], true)), SINCE)
        .unwrap();
    slot.answered(&clear, there(stored(8, SINCE + 5, &["10.0.1.0/24"])));
    assert!(slot.is_clear_of(net("10.0.0.0/24"), SINCE));
}

#[test]
fn an_object_that_is_gone_shows_nothing_and_cannot_be_filled() {
    let mut slot = seen(stored(7, SINCE, &["10.0.0.0/24"]));
    let remove = slot.step(None, SINCE).unwrap();
    slot.answered(&remove, Answer::Unclear);
    assert!(!slot.is_clear_of(net("10.0.0.0/24"), SINCE));
    slot.answered(&Step::Read, Answer::Absent);
    assert!(slot.is_clear_of(net("10.0.0.0/24"), SINCE));
    assert_eq!(slot.step(None, SINCE), None);
}

#[test]
fn a_watch_that_lags_behind_does_not_undo_what_was_answered() {
    let mut slots = Slots::default();
    for event in [
        Event::Init,
        Event::InitApply(stored(5, 1, &["10.0.0.0/24"])),
        Event::InitDone,
    ] {
        slots.follow(event);
    }
    assert!(slots.is_complete());
    let write = Step::Write(Box::new(stored(5, 12, &[])));
    slots.answered("n1", &write, there(stored(9, 12, &[])));
    slots.follow(Event::Apply(stored(6, 1, &["10.0.0.0/24"])));
    assert!(slots.get("n1").is_clear_of(net("10.0.0.0/24"), SINCE));
    // Nor the end of an object that there was before this one.
    slots.follow(Event::Delete(stored(8, 1, &[])));
    assert!(slots.get("n1").is_clear_of(net("10.0.0.0/24"), SINCE));
    // An object that a later list does not have is looked for before anything is concluded.
    slots.follow(Event::Init);
    slots.follow(Event::InitDone);
    assert_eq!(slots.get("n1").step(None, SINCE), Some(Step::Read));
}

#[test]
fn what_was_written_and_read_again_is_not_written_again() {
    let lease = |free_at: Option<u64>| ipam::pool::Lease {
        pool: "pods".to_owned(),
        node: "n1".to_owned(),
        fixed: false,
        state: match free_at {
            Some(free_at) => ipam::pool::State::Waiting { free_at },
            None => ipam::pool::State::Assigned,
        },
        // Some moment in a second: the API keeps whole ones.
        since: 1_795_274_532_764,
    };
    let leases = [
        (net("10.0.0.0/24"), lease(None)),
        (net("10.0.1.0/24"), lease(Some(1_795_274_999_999))),
    ];
    let view = crate::reconcile::View {
        ledger: ipam::pool::Ledger::new(leases).unwrap(),
        leads_since: 1,
        ledger_generation: 2,
        ..crate::reconcile::View::default()
    };
    let wanted =
        crate::projections::wanted::wanted(&view, &crate::source::kubernetes::Nodes::new());
    let node = &wanted.nodes["n1"];
    let empty = stored(1, 0, &[]);
    let Some(Step::Write(next)) = seen(empty).step(Some(node), wanted.since) else {
        panic!("it is not filled");
    };
    let text = serde_json::to_string(&next).unwrap();
    let mut slot = seen(serde_json::from_str(&text).unwrap());
    assert_eq!(slot.step(Some(node), wanted.since), None);
    slot.answered(&Step::Read, there(serde_json::from_str(&text).unwrap()));
    assert_eq!(slot.step(Some(node), wanted.since), None);
}

#[test]
fn a_definition_that_does_not_keep_the_as_number_is_not_written_to_for_ever() {
    let mut wanted = wanted(&["10.0.0.0/24"], false);
    wanted.given_asn = Some(GivenAsn {
        asn: 65001,
        to: "node/n1".to_owned(),
    });
    let mut slot = seen(stored(7, SINCE, &["10.0.0.0/24"]));
    let Some(write @ Step::Write(_)) = slot.step(Some(&wanted), SINCE) else {
        panic!("it is not written");
    };
    // The API server leaves out what the definition does not have, and the watch says the same.
    let pruned = || stored(8, SINCE + 5, &["10.0.0.0/24"]);
    slot.answered(&write, there(pruned()));
    slot.see(pruned());
    assert_eq!(slot.step(Some(&wanted), SINCE), None);
}

#[test]
fn a_node_with_nothing_but_an_as_number_has_an_object() {
    let mut wanted = wanted(&[], false);
    assert_eq!(Slot::default().step(Some(&wanted), SINCE), None);
    wanted.given_asn = Some(GivenAsn {
        asn: 65001,
        to: "node/n1".to_owned(),
    });
    assert_eq!(
        Slot::default().step(Some(&wanted), SINCE),
        Some(Step::Create)
    );
}

#[test]
fn who_wrote_which_field_of_an_object_is_neither_kept_nor_written_back() {
    let managed = |version| {
        let mut object = stored(version, SINCE, &["10.0.0.0/24"]);
        let fields =
            serde_json::json!([{"manager": "routeshare-controller", "fieldsV1": {"f:spec": {}}}]);
        object.metadata.managed_fields = serde_json::from_value(fields).unwrap();
        object
    };
    let wanted = wanted(&["10.0.0.0/24", "10.0.1.0/24"], false);
    let mut slots = Slots::default();
    slots.follow(Event::Init);
    slots.follow(Event::InitApply(managed(7)));
    slots.follow(Event::InitDone);
    slots.follow(Event::Apply(managed(8)));
    slots.answered("n1", &Step::Read, there(managed(9)));
    let Some(Step::Write(next)) = slots.get("n1").step(Some(&wanted), SINCE) else {
        panic!("{slots:?}");
    };
    assert_eq!(next.metadata.resource_version.as_deref(), Some("9"));
    assert_eq!(next.metadata.managed_fields, None);
}

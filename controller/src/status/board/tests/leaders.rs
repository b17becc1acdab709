//! What the next leader makes of what is there.

use super::*;

#[test]
fn a_new_leader_writes_nothing_that_is_there() {
    let mut rig = Rig::new(50);
    rig.connect_all();
    rig.pass(100 * SECOND);
    rig.take();
    rig.fail_over();
    rig.pass(5 * SECOND);
    assert_eq!(rig.take().len(), 0, "nobody has said anything");
    rig.connect_all();
    rig.pass(300 * SECOND);
    let writes = rig.take();
    assert_eq!(writes.len(), 0, "{writes:?}");
}

#[test]
fn speakers_that_do_not_come_back_are_missed_after_a_while_and_serve_on() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.fail_over();
    rig.connect("n000");
    rig.report("n000", |_| {});
    rig.connect("n001");
    rig.report("n001", |_| {});
    rig.pass(55 * SECOND);
    assert_eq!(rig.take().len(), 0);
    rig.pass(10 * SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    let (node, state) = statuses[0];
    assert_eq!(node, "n002");
    assert_eq!(said(&state.conditions, "Connected").1, "NotConnected");
    assert_eq!(said(&state.conditions, "Programmed").0, "True");
    assert_eq!(state.sessions_established, "1/1", "as it told last");
    assert!(
        !writes
            .iter()
            .any(|write| matches!(write, Write::Network { .. }))
    );
    let fabric = of_object(&writes, Kind::Fabric);
    let (_, reason, text) = said(&fabric[0].conditions, "Degraded");
    assert_eq!(reason, "NodesNotConnected");
    assert!(text.ends_with("n002"), "{text}");
}

/// Everybody has the newest configuration, and the NodeStatus objects have an older version: it was no
/// reason to write.
fn rig_with_old_versions(nodes: usize) -> Rig {
    let mut rig = Rig::new(nodes);
    rig.connect_all();
    rig.settle();
    rig.change_for_all(7);
    rig.report_all();
    rig.pass(10 * SECOND);
    rig.take();
    let known = rig.board.nodes.values();
    let known = known.filter_map(|record| record.known.as_ref());
    let versions = known.map(|known| known.state.version);
    let newest = i64::try_from(rig.version).unwrap();
    assert!(versions.clone().count() == nodes && versions.clone().all(|it| it.desired < newest));
    rig
}

#[test]
fn a_new_leader_takes_nothing_back_because_objects_have_an_older_version() {
    let mut rig = rig_with_old_versions(50);
    rig.fail_over();
    rig.pass(55 * SECOND);
    assert_eq!(rig.take().len(), 0, "nobody has said anything");
    rig.connect_all();
    rig.pass(20 * SECOND);
    let writes = rig.take();
    assert_eq!(writes.len(), 0, "{writes:?}");
}

#[test]
fn what_changes_under_a_new_leader_is_not_done_before_speakers_have_said_so() {
    let mut rig = rig_with_old_versions(3);
    rig.fail_over();
    rig.change_for_all(8);
    let key = (Kind::Advertisement, "pods".to_owned());
    let verdicts = Arc::make_mut(&mut rig.verdicts);
    verdicts.get_mut(&key).unwrap().generation = 2;
    rig.pass(5 * SECOND);
    let writes = rig.take();
    let newest = of_object(&writes, Kind::Advertisement);
    let said = said(&newest.last().unwrap().conditions, "Programmed");
    assert_eq!((said.0, said.1), ("False", "WaitingForNodes"));
    // Nor for who does not come back at all.
    for node in ["n000", "n001"] {
        rig.connect(node);
        rig.report(node, |_| {});
    }
    rig.pass(90 * SECOND);
    let writes = rig.take();
    let missed = node_statuses(&writes);
    let missed: Vec<_> = missed.iter().filter(|it| it.0 == "n002").collect();
    let (_, reason, text) = super::said(&missed.last().unwrap().1.conditions, "Programmed");
    assert_eq!(reason, "Waiting");
    assert!(text.contains("has not told"), "{text}");
    let newest = of_object(&writes, Kind::Advertisement);
    let (_, _, text) = super::said(&newest.last().unwrap().conditions, "Programmed");
    assert_eq!(text, "in force on 2 of 3 nodes; not connected: n002");
}

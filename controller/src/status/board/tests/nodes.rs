//! One node: how often it is written, and what is news of it.

use super::*;

#[test]
fn numbers_that_flap_are_written_less_than_once_a_minute_a_node() {
    let mut rig = Rig::new(5);
    rig.connect_all();
    rig.settle();
    rig.take();
    // Ten minutes, a report with other numbers every ten seconds.
    for minute in 0..60 {
        for node in 0..5 {
            rig.report(&name(node), |report| {
                report.sessions[0].prefixes_received = 100 + minute;
                report.subnets[0].used = minute;
            });
        }
        rig.pass(10 * SECOND);
    }
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert!((20..=50).contains(&statuses.len()), "{}", statuses.len());
    assert_eq!(writes.len(), statuses.len(), "and nothing else");
    let newest = statuses.last().unwrap().1;
    assert!(newest.sessions[0].prefixes_received > 150);
}

#[test]
fn a_lost_session_is_told_at_once_and_one_that_flaps_is_bounded() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    let down = |report: &mut pb::NodeReport| {
        report.sessions[0].state = "Active".to_owned();
        report.sessions[0].last_error = "hold timer expired".to_owned();
    };
    rig.report("n001", down);
    rig.pass(3 * SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert_eq!(statuses[0].1.sessions_established, "0/1");
    let peer = of_object(&writes, Kind::Peer);
    let (holds, reason, text) = said(&peer[0].conditions, "Degraded");
    assert_eq!((holds, reason), ("True", "SessionsDown"));
    assert_eq!(text, "1 of 3 sessions not Established, on nodes: n001");
    assert_eq!(peer[0].sessions, "2/3");
    let told = events(&writes);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter()
            .all(|(_, reason)| *reason == Reason::SessionDown)
    );
    // States on the way back and errors are no news.
    for state in ["Connect", "Active", "OpenSent", "Active"] {
        rig.report("n001", |report| {
            report.sessions[0].state = state.to_owned();
            report.sessions[0].last_error = format!("in {state}");
        });
        rig.pass(2 * SECOND);
    }
    assert_eq!(rig.take().len(), 0);
    // Up and down every five seconds for twenty minutes.
    for turn in 0..120_i64 {
        rig.report("n001", |report| {
            report.sessions[0].since_ms += turn * 10_000
        });
        rig.pass(5 * SECOND);
        rig.report("n001", down);
        rig.pass(5 * SECOND);
    }
    let writes = rig.take();
    let statuses = node_statuses(&writes).len();
    assert!(statuses < 5 + 20, "{statuses} writes of NodeStatus");
    let events = events(&writes).len();
    assert!(events < 4 * (5 + 20), "{events} events");
    let objects = of_object(&writes, Kind::Peer).len();
    assert!(objects < 5 + 121, "{objects} writes of the Peer");
}

#[test]
fn a_speaker_that_restarts_is_no_news_and_one_that_stays_away_is() {
    let mut rig = Rig::new(2);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.disconnect("n000");
    rig.pass(10 * SECOND);
    rig.connect("n000");
    rig.report("n000", |_| {});
    rig.pass(60 * SECOND);
    assert_eq!(rig.take().len(), 0);
    rig.disconnect("n000");
    rig.pass(20 * SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 1);
    assert!(statuses[0].1.away_since.is_some());
    assert!(
        !writes
            .iter()
            .any(|write| matches!(write, Write::Network { .. }))
    );
}

#[test]
fn the_object_of_a_node_goes_when_its_last_subnet_is_free() {
    let mut rig = Rig::new(2);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.disconnect("n001");
    rig.view.nodes.remove("n001");
    rig.view.configs.remove("n001");
    rig.is_new = true;
    rig.pass(30 * SECOND);
    let removed = |writes: &[Write]| {
        let removed = |write: &&Write| matches!(write, Write::RemoveNodeStatus { .. });
        writes.iter().filter(removed).count()
    };
    assert_eq!(removed(&rig.take()), 0, "it holds a subnet");
    let leases = rig
        .view
        .ledger
        .iter()
        .filter(|(_, lease)| lease.node != "n001");
    let leases: Vec<_> = leases
        .map(|(subnet, lease)| (subnet, lease.clone()))
        .collect();
    rig.view.ledger = Ledger::new(leases).unwrap();
    rig.is_new = true;
    rig.pass(5 * SECOND);
    assert_eq!(removed(&rig.take()), 1);
    rig.pass(30 * SECOND);
    assert_eq!(rig.take().len(), 0);
}

#[test]
fn an_event_that_fails_waits_and_is_told_later() {
    let mut rig = Rig::new(1);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.report("n000", |report| {
        report.sessions[0].state = "Idle".to_owned()
    });
    let mut failed = 0;
    for _ in 0..60 {
        rig.now += SECOND;
        rig.wall += 1000;
        let sources = Sources {
            view: &rig.view,
            verdicts: &rig.verdicts,
            nodes: &rig.nodes,
            registry: &rig.registry,
            is_new: false,
        };
        let touched = rig.registry.touched();
        rig.board.look(&sources, touched, rig.now, rig.wall);
        while let Some((key, write)) = rig.board.next_write(rig.now, rig.wall) {
            let is_event = matches!(
                &write,
                Write::Event {
                    telling: Telling::New { .. },
                    ..
                }
            );
            failed += u32::from(is_event);
            let outcome = match is_event {
                true => Outcome::Failed(Failure::This),
                false => Outcome::Done(Answer::Nothing),
            };
            rig.board.done(&key, write, outcome, rig.now);
        }
    }
    assert!(
        (4..=14).contains(&failed),
        "{failed} attempts of two events"
    );
    rig.pass(120 * SECOND);
    assert_eq!(events(&rig.take()).len(), 2);
}

#[test]
fn a_change_for_all_costs_no_write_of_each_node_and_their_versions_follow_slowly() {
    const NODES: usize = 200;
    let mut rig = Rig::new(NODES);
    rig.connect_all();
    rig.pass(600 * SECOND);
    rig.take();
    for change in 1..=10 {
        rig.change_for_all(change);
        rig.report_all();
        rig.pass(2 * SECOND);
    }
    // One object a second in the whole cluster, however many changes there are.
    let writes = rig.take();
    let early = node_statuses(&writes).len();
    assert!(early <= 21, "{early} writes of NodeStatus in 20 s");
    assert!(writes.len() - early <= 20, "{}", writes.len());
    rig.pass(600 * SECOND);
    let writes = rig.take();
    let late = node_statuses(&writes).len();
    assert_eq!(writes.len(), late);
    assert!((NODES - early..=NODES).contains(&late), "{late}");
    for (node, record) in &rig.board.nodes {
        let known = record.known.as_ref().unwrap().state.version;
        assert_eq!(
            u64::try_from(known.in_force).unwrap(),
            rig.view.configs[node].version
        );
    }
}

#[test]
fn a_version_is_written_with_whatever_else_is() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.change_for_all(7);
    rig.report_all();
    rig.pass(SECOND);
    rig.report("n001", |report| {
        report.sessions[0].state = "Idle".to_owned()
    });
    rig.pass(SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    let newest = i64::try_from(rig.view.configs["n001"].version).unwrap();
    assert_eq!(statuses[0].1.version.in_force, newest);
}

#[test]
fn a_node_that_is_behind_is_told_soon_and_so_is_that_it_no_longer_is() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    rig.change_for_all(7);
    for node in ["n000", "n001"] {
        rig.report(node, |_| {});
    }
    rig.pass(9 * SECOND);
    assert_eq!(node_statuses(&rig.take()).len(), 0, "it may take a moment");
    rig.pass(2 * SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    let [(node, state)] = statuses.as_slice() else {
        panic!("{statuses:?}");
    };
    assert_eq!(*node, "n002");
    assert_eq!(said(&state.conditions, "Programmed").1, "Waiting");
    assert!(state.version.in_force < state.version.desired);
    rig.report("n002", |_| {});
    rig.pass(2 * SECOND);
    let writes = rig.take();
    let (node, state) = node_statuses(&writes)[0];
    assert_eq!(node, "n002");
    assert_eq!(said(&state.conditions, "Programmed").1, "NewestInForce");
}

#[test]
fn what_happens_to_a_node_that_comes_is_one_write() {
    let mut rig = Rig::new(1);
    rig.step(Duration::from_millis(100));
    rig.connect("n000");
    rig.report("n000", |report| {
        report.version = 0;
        report.sessions.clear();
    });
    rig.step(Duration::from_millis(100));
    rig.report("n000", |report| {
        report.sessions[0].state = "OpenSent".to_owned()
    });
    rig.step(Duration::from_millis(100));
    rig.report("n000", |_| {});
    rig.pass(5 * SECOND);
    let writes = rig.take();
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 1, "{statuses:?}");
    assert_eq!(statuses[0].1.sessions_established, "1/1");
}

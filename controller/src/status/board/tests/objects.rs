//! What users wrote: what is said of it, and what is told.

use super::*;

#[test]
fn a_cluster_that_comes_up_is_told_in_few_writes() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    let writes = rig.take();
    for kind in crd::WRITTEN_BY_USERS {
        let statuses = of_object(&writes, kind);
        assert_eq!(statuses.len(), 1, "{kind}: {statuses:?}");
        let conditions = &statuses[0].conditions;
        assert_eq!(said(conditions, "Accepted").1, "Valid", "{kind}");
        let (holds, reason, text) = said(conditions, "Programmed");
        assert_eq!((holds, reason), ("True", "AllNodes"), "{kind}: {text}");
        assert_eq!(text, "in force on 3 of 3 nodes", "{kind}");
        assert_eq!(said(conditions, "Degraded").0, "False", "{kind}");
        assert_eq!(statuses[0].observed_generation, Some(1));
    }
    assert_eq!(of_object(&writes, Kind::Peer)[0].sessions, "3/3");
    assert_eq!(of_object(&writes, Kind::Fabric)[0].connected, Some(3));
    let statuses = node_statuses(&writes);
    assert_eq!(statuses.len(), 3);
    let (_, state) = statuses[0];
    assert_eq!(state.sessions_established, "1/1");
    assert_eq!(state.subnets[0].prefix, "10.64.0.0/24");
    for kind in ["Connected", "Programmed"] {
        assert_eq!(said(&state.conditions, kind).0, "True");
    }
    let networks = writes
        .iter()
        .filter(|write| matches!(write, Write::Network { unavailable, .. } if !unavailable));
    assert_eq!(networks.count(), 3);
    let mut events = events(&writes);
    events.sort();
    assert_eq!(events.len(), 4, "one a node, one at the Peer: {events:?}");
    // And then nothing more.
    rig.pass(300 * SECOND);
    assert_eq!(rig.take().len(), 0);
}

#[test]
fn an_object_waits_for_the_nodes_it_concerns_and_not_for_changes_of_others() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    // Only the Advertisement changes; n002 does not follow.
    rig.resources(
        &RESOURCES.replace("nodeSubnets: {}", "nodeSubnets: {}, set: {med: 7}"),
        3,
    );
    let key = (Kind::Advertisement, "pods".to_owned());
    Arc::make_mut(&mut rig.verdicts)
        .get_mut(&key)
        .unwrap()
        .generation = 2;
    for node in ["n000", "n001"] {
        rig.report(node, |_| {});
    }
    rig.pass(12 * SECOND);
    let writes = rig.take();
    let advertisement = of_object(&writes, Kind::Advertisement);
    let newest = advertisement.last().unwrap();
    let (holds, reason, text) = said(&newest.conditions, "Programmed");
    assert_eq!((holds, reason), ("False", "WaitingForNodes"));
    assert_eq!(text, "in force on 2 of 3 nodes; waiting for n002");
    assert_eq!(newest.observed_generation, Some(2));
    for kind in [Kind::Peer, Kind::RoutePolicy, Kind::Pool] {
        assert_eq!(of_object(&writes, kind).len(), 0, "{kind}");
    }
    let behind = node_statuses(&writes);
    let behind = behind.iter().find(|(node, _)| *node == "n002").unwrap();
    assert_eq!(said(&behind.1.conditions, "Programmed").1, "Waiting");
    // It refuses.
    let version = rig.view.configs["n002"].version;
    rig.report("n002", |report| {
        report.version = version - 1;
        report.refused = "no such policy".to_owned();
    });
    rig.pass(20 * SECOND);
    let writes = rig.take();
    let advertisement = of_object(&writes, Kind::Advertisement);
    let (_, reason, text) = said(&advertisement.last().unwrap().conditions, "Programmed");
    assert_eq!(reason, "RefusedByNodes");
    assert!(
        text.contains("n002") && text.contains("no such policy"),
        "{text}"
    );
    assert!(
        events(&writes)
            .iter()
            .any(|it| it.1 == Reason::ConfigurationRefused)
    );
    // And takes it in the end.
    rig.report("n002", |_| {});
    rig.pass(20 * SECOND);
    let writes = rig.take();
    let advertisement = of_object(&writes, Kind::Advertisement);
    assert_eq!(
        said(&advertisement.last().unwrap().conditions, "Programmed").0,
        "True"
    );
}

#[test]
fn a_refused_object_says_why_and_what_stays_and_is_told_once() {
    let mut rig = Rig::new(1);
    rig.connect_all();
    rig.settle();
    rig.take();
    let key = (Kind::Peer, "tor".to_owned());
    let refused = Judged::Refused {
        reasons: vec!["spec.import: there is no RoutePolicy `nobody`".to_owned()],
        in_force: Some(1),
    };
    let verdict = Arc::make_mut(&mut rig.verdicts).get_mut(&key).unwrap();
    (verdict.generation, verdict.outcome) = (2, refused);
    rig.is_new = true;
    rig.pass(30 * SECOND);
    let writes = rig.take();
    let peer = of_object(&writes, Kind::Peer);
    assert_eq!(peer.len(), 1);
    let (holds, reason, text) = said(&peer[0].conditions, "Accepted");
    assert_eq!((holds, reason), ("False", "LastGoodInForce"));
    assert!(
        text.contains("nobody") && text.contains("Generation 1"),
        "{text}"
    );
    let programmed = get(&peer[0].conditions, "Programmed").unwrap();
    assert_eq!(programmed.status, "True");
    assert_eq!(programmed.observed_generation, Some(1));
    assert_eq!(events(&writes).len(), 1);
    rig.fail_over();
    rig.pass(30 * SECOND);
    assert_eq!(
        events(&rig.take()).len(),
        0,
        "the next leader does not tell it again"
    );
    let verdict = Arc::make_mut(&mut rig.verdicts).get_mut(&key).unwrap();
    verdict.generation = 3;
    verdict.outcome = Judged::Accepted {
        warnings: Vec::new(),
    };
    rig.is_new = true;
    rig.pass(30 * SECOND);
    let writes = rig.take();
    assert!(
        events(&writes).iter().any(|it| it.1 == Reason::Accepted),
        "{writes:?}"
    );
}

#[test]
fn a_full_pool_is_told_at_the_pool_and_at_the_node_that_goes_without() {
    let mut rig = Rig::new(3);
    rig.connect_all();
    rig.settle();
    rig.take();
    let leases = rig
        .view
        .ledger
        .iter()
        .filter(|(_, lease)| lease.node != "n002");
    let leases: Vec<_> = leases
        .map(|(subnet, lease)| (subnet, lease.clone()))
        .collect();
    rig.view.ledger = Ledger::new(leases).unwrap();
    let node = rig.view.nodes.get_mut("n002").unwrap();
    node.problems = vec!["pool pods has no free IPv4 subnet".to_owned()];
    rig.is_new = true;
    rig.pass(30 * SECOND);
    let writes = rig.take();
    let pool = of_object(&writes, Kind::Pool);
    let (holds, reason, text) = said(&pool.last().unwrap().conditions, "Degraded");
    assert_eq!((holds, reason), ("True", "PoolFull"));
    assert!(text.ends_with("n002"), "{text}");
    let mut told = events(&writes);
    told.sort();
    let told: Vec<Reason> = told.into_iter().map(|it| it.1).collect();
    assert_eq!(told, [Reason::NoSubnet, Reason::PoolFull]);
    let unavailable = writes.iter().find_map(|write| match write {
        Write::Network {
            node,
            unavailable,
            message,
            ..
        } => Some((node, *unavailable, message)),
        _ => None,
    });
    let (node, unavailable, why) = unavailable.unwrap();
    assert!(
        unavailable && node == "n002" && why.contains("no IPv4 subnet"),
        "{why}"
    );
}

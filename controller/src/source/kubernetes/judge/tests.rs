use super::*;

/// What the API server has, and what was in force before.
#[derive(Default)]
struct World {
    objects: BTreeMap<Key, Object>,
    nodes: BTreeMap<String, NodeSeen>,
    good: BTreeMap<Key, Good>,
    good_nodes: BTreeMap<String, Arc<api::Node>>,
    all_known: bool,
}

impl World {
    /// With a Fabric, a pool, a policy and a peer that names it, and two nodes; all in force.
    fn in_force() -> World {
        let mut world = World::default();
        world.set(Kind::Fabric, "fabric", r#"{"asn":{"value":64512}}"#);
        world.set(Kind::Pool, "pods", r#"{"prefixes":["10.64.0.0/16"]}"#);
        world.set(Kind::RoutePolicy, "all", POLICY);
        world.set(Kind::Peer, "tor", PEER);
        world.node("a", "192.0.2.1");
        world.node("b", "192.0.2.2");
        let judged = world.judge();
        assert_eq!(judged.refused, Vec::<String>::new());
        assert!(judged.parsed.is_ok());
        world
    }

    fn set(&mut self, kind: Kind, name: &str, spec: &str) {
        let text = format!(
            r#"{{"apiVersion":"{}","kind":"{kind}","metadata":{{"name":"{name}"}},"spec":{spec}}}"#,
            api::API_VERSION
        );
        let count = i64::try_from(self.objects.len()).unwrap();
        let object = self.objects.entry((kind, name.to_owned()));
        let object = object.or_insert_with(|| Object {
            uid: format!("{kind}-{count}"),
            generation: 0,
            created: crd::time((count + 1) * 1000),
            text: String::new(),
            status: crd::WrittenStatus::default(),
        });
        object.text = text;
        object.generation += 1;
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.objects.remove(&(kind, name.to_owned())).unwrap();
    }

    fn node(&mut self, name: &str, address: &str) {
        let node = api::Node {
            metadata: api::Metadata {
                name: name.to_owned(),
                ..api::Metadata::default()
            },
            spec: api::NodeSpec {
                addresses: vec![address.parse().unwrap()],
                ..api::NodeSpec::default()
            },
        };
        self.nodes.insert(name.to_owned(), Ok(Arc::new(node)));
    }

    /// Judges, and remembers what is in force.
    fn judge(&mut self) -> Judged {
        let seen = Seen {
            objects: self.objects.iter().map(|(k, o)| (k.clone(), o)).collect(),
            nodes: self.nodes.iter().map(|(n, o)| (n.as_str(), o)).collect(),
        };
        let judged = judge(&seen, &self.good, &self.good_nodes, self.all_known);
        self.good = judged.good.clone();
        if judged.parsed.is_ok() {
            self.good_nodes = judged.good_nodes.clone();
            self.all_known = true;
        }
        judged
    }

    /// As the next leader begins: it knows what was kept.
    fn another_leader(&mut self) {
        let judged = self.judge();
        self.all_known = false;
        self.good_nodes
            .retain(|name, _| judged.refused_nodes.contains(name));
    }
}

const POLICY: &str = r#"{"rules":[{"action":"Accept"}]}"#;
const PEER: &str =
    r#"{"address":"192.0.2.254","remoteAsn":64601,"import":["all"],"export":["all"]}"#;

fn refused(judged: &Judged, kind: Kind, name: &str) -> (String, Option<i64>) {
    match &judged.outcomes[&(kind, name.to_owned())] {
        Outcome::Refused { reasons, in_force } => (reasons.join("; "), *in_force),
        Outcome::Accepted { .. } => panic!("{kind} {name} is accepted"),
    }
}

fn accepted(judged: &Judged, kind: Kind, name: &str) -> bool {
    let outcome = &judged.outcomes[&(kind, name.to_owned())];
    matches!(outcome, Outcome::Accepted { .. })
}

fn resources(judged: &Judged) -> &api::Resources {
    &judged.parsed.as_ref().unwrap().resources
}

#[test]
fn a_bad_object_stays_as_it_was_and_the_others_go_on() {
    let mut world = World::in_force();
    world.set(
        Kind::Peer,
        "tor",
        r#"{"address":"192.0.2.254","remoteAsn":0}"#,
    );
    world.set(Kind::Pool, "more", r#"{"prefixes":["10.65.0.0/16"]}"#);
    for _ in 0..2 {
        let judged = world.judge();
        let (reason, in_force) = refused(&judged, Kind::Peer, "tor");
        assert!(reason.starts_with("spec.remoteAsn: found `0`"), "{reason}");
        assert_eq!(in_force, Some(1));
        assert!(accepted(&judged, Kind::Pool, "more"));
        let resources = resources(&judged);
        assert!(resources.pools.contains_key("more"));
        assert_eq!(resources.peers["tor"].spec.import, ["all"]);
        world.another_leader();
    }
    world.set(Kind::Peer, "tor", &PEER.replace("64601", "64602"));
    let judged = world.judge();
    assert!(accepted(&judged, Kind::Peer, "tor"));
    assert_eq!(judged.refused, Vec::<String>::new());
}

#[test]
fn a_new_object_that_is_bad_is_not_in_force_until_what_it_names_is_there() {
    let mut world = World::in_force();
    world.set(
        Kind::Peer,
        "spine",
        &PEER.replace("\"all\"", "\"later\"").replace("254", "253"),
    );
    let judged = world.judge();
    let (reason, in_force) = refused(&judged, Kind::Peer, "spine");
    assert!(
        reason.contains("there is no RoutePolicy `later`"),
        "{reason}"
    );
    assert_eq!(in_force, None);
    assert!(!resources(&judged).peers.contains_key("spine"));
    world.set(Kind::RoutePolicy, "later", POLICY);
    let judged = world.judge();
    assert!(accepted(&judged, Kind::Peer, "spine"));
    assert!(resources(&judged).peers.contains_key("spine"));
}

#[test]
fn what_is_still_named_stays_in_force_though_it_is_deleted() {
    let mut world = World::in_force();
    world.delete(Kind::RoutePolicy, "all");
    for _ in 0..2 {
        let judged = world.judge();
        assert!(resources(&judged).policies.contains_key("all"));
        assert!(
            judged.refused[0].contains("RoutePolicy `all`"),
            "{:?}",
            judged.refused
        );
        assert!(judged.refused[0].contains("it stays in force though it is deleted"));
        world.another_leader();
    }
    world.delete(Kind::Peer, "tor");
    let judged = world.judge();
    assert!(!resources(&judged).policies.contains_key("all"));
    assert_eq!(judged.refused, Vec::<String>::new());
}

#[test]
fn of_two_pools_that_overlap_the_newcomer_is_wrong_whatever_its_name() {
    for name in ["aaa", "zzz"] {
        let mut world = World::in_force();
        world.set(Kind::Pool, name, r#"{"prefixes":["10.64.128.0/17"]}"#);
        let judged = world.judge();
        let (reason, _) = refused(&judged, Kind::Pool, name);
        assert!(
            reason.contains("overlaps 10.64.0.0/16 of Pool `pods`"),
            "{reason}"
        );
        assert!(accepted(&judged, Kind::Pool, "pods"));
    }
}

#[test]
fn a_pool_over_the_nodes_own_addresses_is_wrong_and_not_the_nodes_also_for_the_next_leader() {
    let mut world = World::in_force();
    world.set(
        Kind::Pool,
        "pods",
        r#"{"prefixes":["10.64.0.0/16","192.0.2.0/24"]}"#,
    );
    for _ in 0..2 {
        let judged = world.judge();
        let (reason, in_force) = refused(&judged, Kind::Pool, "pods");
        assert!(
            reason.contains("Node `a`, spec.addresses[0]: 192.0.2.1"),
            "{reason}"
        );
        assert_eq!(in_force, Some(1));
        assert_eq!(resources(&judged).nodes.len(), 2);
        assert_eq!(judged.problems, Vec::new());
        world.another_leader();
    }
}

#[test]
fn a_bad_node_stays_as_it_was_also_for_the_next_leader_and_a_new_one_stays_out() {
    let mut world = World::in_force();
    world.node("a", "10.64.0.1"); // in the pool
    world.node("c", "192.0.2.2"); // that of `b`
    for _ in 0..2 {
        let judged = world.judge();
        let nodes = &resources(&judged).nodes;
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(nodes["a"].spec.addresses[0].to_string(), "192.0.2.1");
        assert_eq!(judged.problems.len(), 2, "{:?}", judged.problems);
        assert!(judged.problems[0].1.ends_with("it stays as it was"));
        world.another_leader();
    }
    world.node("a", "192.0.2.1");
    world.node("c", "192.0.2.3");
    assert_eq!(world.judge().problems, Vec::new());
    let fault = Err(vec!["annotation routeshare.io/asn: found `x`".to_owned()]);
    world.nodes.insert("b".to_owned(), fault);
    let judged = world.judge();
    assert_eq!(resources(&judged).nodes.len(), 3);
    assert_eq!(judged.problems.len(), 1, "{:?}", judged.problems);
    world.nodes.remove("b");
    assert_eq!(resources(&world.judge()).nodes.len(), 2);
}

#[test]
fn the_oldest_fabric_is_in_force_and_the_next_when_it_is_deleted() {
    let mut world = World::in_force();
    world.set(Kind::Fabric, "another", r#"{"asn":{"value":64999}}"#);
    let judged = world.judge();
    let (reason, _) = refused(&judged, Kind::Fabric, "another");
    assert!(
        reason.contains("there is a Fabric already, `fabric`"),
        "{reason}"
    );
    assert_eq!(resources(&judged).fabric.metadata.name, "fabric");
    world.delete(Kind::Fabric, "fabric");
    let judged = world.judge();
    assert_eq!(resources(&judged).fabric.metadata.name, "another");
    // The last one stays: without a Fabric there is no network.
    world.delete(Kind::Fabric, "another");
    let judged = world.judge();
    assert_eq!(resources(&judged).fabric.metadata.name, "another");
    assert!(
        judged.refused[0].contains("no Fabric"),
        "{:?}",
        judged.refused
    );
}

#[test]
fn without_a_fabric_nothing_is_in_force_and_everything_says_why() {
    let mut world = World::default();
    world.set(Kind::Pool, "pods", r#"{"prefixes":["10.64.0.0/16"]}"#);
    world.node("a", "192.0.2.1");
    let judged = world.judge();
    assert!(judged.parsed.unwrap_err()[0].contains("no Fabric"));
    world.set(Kind::Fabric, "fabric", r#"{"asn":{"value":0}}"#);
    let judged = world.judge();
    assert!(judged.parsed.is_err());
    let (reason, _) = refused(&judged, Kind::Fabric, "fabric");
    assert!(reason.contains("found `0`"), "{reason}");
    let (reason, _) = refused(&judged, Kind::Pool, "pods");
    assert!(reason.contains("no Fabric"), "{reason}");
    world.set(Kind::Fabric, "fabric", r#"{"asn":{"value":64512}}"#);
    let judged = world.judge();
    assert!(accepted(&judged, Kind::Pool, "pods"));
    assert_eq!(resources(&judged).nodes.len(), 1);
}

#[test]
fn what_was_deleted_with_its_kind_stays_until_there_is_one_of_its_name_again() {
    let mut world = World::in_force();
    let peer = (Kind::Peer, "tor".to_owned());
    world.delete(Kind::Peer, "tor");
    world.good.get_mut(&peer).unwrap().held = true;
    for _ in 0..2 {
        let judged = world.judge();
        assert!(resources(&judged).peers.contains_key("tor"));
        assert!(judged.good[&peer].held);
        assert!(judged.refused[0].contains("CustomResourceDefinition peers.routeshare.io"));
        world.another_leader();
    }
    world.set(Kind::Peer, "tor", PEER);
    assert!(!world.judge().good[&peer].held);
    world.delete(Kind::Peer, "tor");
    assert!(!resources(&world.judge()).peers.contains_key("tor"));
}

#[test]
fn five_thousand_nodes_are_judged_in_one_go() {
    let mut world = World::in_force();
    for number in 0..5000_u32 {
        let address = std::net::Ipv4Addr::from(0xac10_0000 + number);
        world.node(&format!("node-{number}"), &address.to_string());
    }
    world.judge();
    world.node("a", "192.0.2.3");
    let begun = std::time::Instant::now();
    assert_eq!(resources(&world.judge()).nodes.len(), 5002);
    eprintln!("{:?} for one changed of 5,002 nodes", begun.elapsed());
}

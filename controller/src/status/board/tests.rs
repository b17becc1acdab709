use std::collections::BTreeMap;

use api::SourceFile;
use crd::conditions::get;
use crd::{Kind, WrittenStatus};
use ipam::pool::{Lease, Ledger, State};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use proto::controller::v1 as pb;

use super::*;
use crate::reconcile::NodeView;
use crate::registry::OpenStream;
use crate::source::kubernetes::{KubeNode, Outcome as Judged, Verdict};
use crate::status::events::Telling;
use crate::status::queue::Failure;

const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}, topology: ToR}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16]}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: tor}
spec: {address: 10.9.0.1, remoteAsn: 64513, import: [all], export: [all]}
---
apiVersion: routeshare.io/v1alpha1
kind: RoutePolicy
metadata: {name: all}
spec: {rules: [{action: Accept}]}
---
apiVersion: routeshare.io/v1alpha1
kind: Advertisement
metadata: {name: pods}
spec: {nodeSubnets: {}}
";

const SECOND: Duration = Duration::from_secs(1);

/// A cluster of nodes `n000`, `n001`, … whose speakers are told what to do, and a board that looks.
struct Rig {
    now: Instant,
    wall: Millis,
    board: Board,
    registry: Registry,
    view: View,
    verdicts: Verdicts,
    nodes: Arc<Nodes>,
    streams: BTreeMap<String, OpenStream>,
    is_new: bool,
    /// What was written.
    written: Vec<Write>,
    version: u64,
}

fn name(number: usize) -> String {
    format!("n{number:03}")
}

impl Rig {
    fn new(nodes: usize) -> Rig {
        let now = Instant::now();
        let registry = Registry::default();
        registry.touched();
        let mut rig = Rig {
            now,
            wall: 1_800_000_000_000,
            board: Board::new(now),
            registry,
            view: View::default(),
            verdicts: Verdicts::default(),
            nodes: Arc::default(),
            streams: BTreeMap::new(),
            is_new: true,
            written: Vec::new(),
            version: 0,
        };
        rig.resources(RESOURCES, nodes);
        rig
    }

    /// The source, the ledger and the plan: all nodes have a subnet and a new configuration.
    fn resources(&mut self, text: &str, nodes: usize) {
        let numbers = 0..nodes;
        let of_node = |number: usize| {
            let (name, low, high) = (name(number), number % 250, number / 250);
            format!(
                "---\napiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 spec: {{addresses: [10.8.{high}.{}]}}\n",
                low + 1
            )
        };
        let files = vec![SourceFile {
            name: "all".to_owned(),
            text: text.to_owned() + &numbers.clone().map(of_node).collect::<String>(),
        }];
        let parsed = api::parse(&files).unwrap();
        let lease = |number: usize| Lease {
            pool: "pods".to_owned(),
            node: name(number),
            fixed: false,
            state: State::Assigned,
            since: 1,
        };
        let subnet = |number: usize| format!("10.64.{number}.0/24").parse().unwrap();
        let leases = numbers
            .clone()
            .map(|number| (subnet(number), lease(number)));
        self.view.ledger = Ledger::new(leases).unwrap();
        let snapshot = plan::Snapshot {
            resources: parsed.resources.clone(),
            subnets: numbers
                .clone()
                .map(|number| {
                    let prefix = subnet(number).into();
                    let subnet = plan::Subnet::new(prefix, "pods", plan::Purpose::Pods);
                    (name(number), vec![subnet])
                })
                .collect(),
            numbers: BTreeMap::new(),
        };
        let configs = plan::plan(&snapshot).configs.into_iter();
        let before = std::mem::take(&mut self.view.configs);
        self.view.configs = configs
            .map(|(node, config)| {
                let mut config = plan::wire::to_proto(&config);
                let old = before.get(&node);
                config.version = old.map_or(0, |old| old.version);
                if old.is_none_or(|old| **old != config) {
                    self.version += 1;
                    config.version = self.version;
                }
                (node, Arc::new(config))
            })
            .collect();
        self.view.nodes = numbers
            .clone()
            .map(|number| {
                let exists = NodeView {
                    exists: true,
                    ..NodeView::default()
                };
                (name(number), exists)
            })
            .collect();
        self.view.pools = BTreeMap::from([(
            "pods".to_owned(),
            vec![ipam::pool::Use {
                prefix: "10.64.0.0/16".parse().unwrap(),
                total: 256,
                used: nodes as u64,
                waiting: 0,
            }],
        )]);
        self.view.loaded = Some(Arc::new(Loaded {
            resources: parsed.resources,
            files,
            warnings: Vec::new(),
            problems: Vec::new(),
            at: 1,
        }));
        let kinds = [
            (Kind::Fabric, "fabric"),
            (Kind::Pool, "pods"),
            (Kind::Peer, "tor"),
            (Kind::RoutePolicy, "all"),
            (Kind::Advertisement, "pods"),
        ];
        let verdicts = kinds.map(|(kind, name)| {
            let key = (kind, name.to_owned());
            let before = self
                .verdicts
                .get(&key)
                .map(|verdict| verdict.status.clone());
            let verdict = Verdict {
                uid: format!("uid of {name}"),
                generation: 1,
                status: before.unwrap_or_default(),
                outcome: Judged::Accepted {
                    warnings: Vec::new(),
                },
            };
            (key, verdict)
        });
        self.verdicts = Arc::new(verdicts.into());
        let kube_nodes = numbers.map(|number| {
            let mut node = KubeNode::default();
            node.metadata.uid = Some(format!("uid of {}", name(number)));
            (name(number), Arc::new(node))
        });
        self.nodes = Arc::new(kube_nodes.collect());
        self.is_new = true;
    }

    fn connect(&mut self, node: &str) {
        let stream = self.registry.opened(node, self.wall);
        self.streams.insert(node.to_owned(), stream);
    }

    fn disconnect(&mut self, node: &str) {
        let stream = self.streams.remove(node).unwrap();
        self.registry.closed(node, stream.id, self.wall);
    }

    /// What a speaker says that has its configuration in force; `change` changes it.
    fn report(&self, node: &str, change: impl FnOnce(&mut pb::NodeReport)) {
        let config = &self.view.configs[node];
        let session = |peer: &pb::PeerConfig| pb::SessionReport {
            peer: peer.name.clone(),
            address: peer.address.clone(),
            remote_asn: peer.remote_asn,
            state: "Established".to_owned(),
            since_ms: 1_799_999_000_000,
            ..pb::SessionReport::default()
        };
        let subnet = |subnet: &pb::Subnet| pb::SubnetUse {
            prefix: subnet.prefix.clone(),
            used: 1,
            size: 256,
        };
        let mut report = pb::NodeReport {
            node: node.to_owned(),
            version: config.version,
            sessions: config.peers.iter().map(session).collect(),
            subnets: config.subnets.iter().map(subnet).collect(),
            software: "routeshare-speaker 1".to_owned(),
            ..pb::NodeReport::default()
        };
        change(&mut report);
        let id = self.streams[node].id;
        self.registry.report(node, id, report);
    }

    fn connect_all(&mut self) {
        let nodes: Vec<String> = self.view.configs.keys().cloned().collect();
        for node in nodes {
            self.connect(&node);
            self.report(&node, |_| {});
        }
    }

    /// Looks, and carries out every write that is due, until nothing is; a moment passes with each
    /// step. The API server takes all writes, and the watches show them.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.step(SECOND / 4);
        }
    }

    fn step(&mut self, time: Duration) {
        self.now += time;
        self.wall += u64::try_from(time.as_millis()).unwrap();
        let sources = Sources {
            view: &self.view,
            verdicts: &self.verdicts,
            nodes: &self.nodes,
            registry: &self.registry,
            is_new: std::mem::take(&mut self.is_new),
        };
        let touched = self.registry.touched();
        self.board.look(&sources, touched, self.now, self.wall);
        while let Some((key, write)) = self.board.next_write(self.now, self.wall) {
            let answer = match &write {
                Write::NodeStatus { state, .. } => Answer::NodeStatus(Box::new(Known {
                    uid: "uid".to_owned(),
                    version: self.wall, // grows
                    state: state.as_ref().clone(),
                })),
                Write::Event { .. } => Answer::Event("event".to_owned()),
                _ => Answer::Nothing,
            };
            self.written.push(write.clone());
            self.board
                .done(&key, write, Outcome::Done(answer), self.now);
        }
    }

    fn take(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.written)
    }

    fn pass(&mut self, time: Duration) {
        let steps = time.as_millis() / 250;
        for _ in 0..steps {
            self.step(SECOND / 4);
        }
    }

    /// The next leader: it knows what the API server has, and nothing else.
    fn fail_over(&mut self) {
        let mut verdicts = (*self.verdicts).clone();
        for ((kind, name), verdict) in &mut verdicts {
            let record = &self.board.objects[&Object::new(*kind, name)];
            verdict.status = record.desired.clone();
        }
        self.verdicts = Arc::new(verdicts);
        let mut nodes = (*self.nodes).clone();
        for (name, node) in &mut nodes {
            if let Some((_, said)) = &self.board.nodes[name].network_written {
                let mut changed = (**node).clone();
                changed.status = saying(said.unavailable).status;
                *node = Arc::new(changed);
            }
        }
        self.nodes = Arc::new(nodes);
        let known = std::mem::take(&mut self.board.nodes);
        self.board = Board::new(self.now);
        for (node, record) in known {
            self.board.has(&node, record.known, self.now);
        }
        self.registry = Registry::default();
        self.registry.touched();
        self.streams.clear();
        self.is_new = true;
    }
}

/// A Node that says so, and nothing else.
fn saying(unavailable: bool) -> KubeNode {
    let status = if unavailable { "True" } else { "False" };
    let condition = serde_json::json!({"type": "NetworkUnavailable", "status": status});
    serde_json::from_value(serde_json::json!({"status": {"conditions": [condition]}})).unwrap()
}

fn of_object<'a>(writes: &'a [Write], kind: Kind) -> Vec<&'a WrittenStatus> {
    let of_kind = |write: &'a Write| match write {
        Write::Object { object, status, .. } if object.kind == kind => Some(status),
        _ => None,
    };
    writes.iter().filter_map(of_kind).collect()
}

fn node_statuses<'a>(writes: &'a [Write]) -> Vec<(&'a str, &'a NodeState)> {
    let of_node = |write: &'a Write| match write {
        Write::NodeStatus { node, state } => Some((node.as_str(), state.as_ref())),
        _ => None,
    };
    writes.iter().filter_map(of_node).collect()
}

fn events(writes: &[Write]) -> Vec<(String, Reason)> {
    let event = |write: &Write| match write {
        Write::Event { key, .. } => Some((format!("{:?}", key.about), key.reason)),
        _ => None,
    };
    writes.iter().filter_map(event).collect()
}

fn said<'a>(conditions: &'a [Condition], kind: &str) -> (&'a str, &'a str, &'a str) {
    let it = get(conditions, kind).unwrap();
    (&it.status, &it.reason, &it.message)
}

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

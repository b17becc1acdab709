mod leaders;
mod nodes;
mod objects;

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
            cooling: 0,
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

    fn report_all(&mut self) {
        let nodes: Vec<String> = self.view.configs.keys().cloned().collect();
        for node in nodes {
            self.report(&node, |_| {});
        }
    }

    /// A user changes the Advertisement, which every node has.
    fn change_for_all(&mut self, med: u32) {
        let set = format!("nodeSubnets: {{}}, set: {{med: {med}}}");
        let text = RESOURCES.replace("nodeSubnets: {}", &set);
        self.resources(&text, self.view.configs.len());
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

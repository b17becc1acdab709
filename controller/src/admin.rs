//! `AdminService`: what the controller knows, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipam::pool::State;
use ipnetwork::IpNetwork;
use proto::controller::v1 as pb;
use proto::controller::v1::admin_service_server::AdminService;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::identity::Trust;
use crate::reconcile::View;
use crate::registry::{Registry, SpeakerState, size_of};
use crate::source::SourceState;
use crate::standing::Lead;

/// The service, on one listener.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) registry: Arc<Registry>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) source: watch::Receiver<SourceState>,
    pub(crate) trust: Trust,
    pub(crate) lead: Lead,
}

/// What `--version` and `Status.software` say.
pub(crate) const SOFTWARE: &str = concat!("routeshare-controller ", env!("CARGO_PKG_VERSION"));

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        self.check(&request).await?;
        let view = self.view.borrow().clone();
        let source = self.source.borrow().clone();
        let speakers = self.registry.states();
        Ok(Response::new(status(&view, &source, &speakers)))
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        self.check(&request).await?;
        let view = self.view.borrow().clone();
        let nodes = nodes(&view, &self.registry.states());
        Ok(Response::new(pb::ListNodesResponse { nodes }))
    }

    async fn list_subnets(
        &self,
        request: Request<pb::ListSubnetsRequest>,
    ) -> Result<Response<pb::ListSubnetsResponse>, Status> {
        self.check(&request).await?;
        let view = self.view.borrow().clone();
        let subnets = subnets(&view, &self.registry.states());
        Ok(Response::new(pb::ListSubnetsResponse { subnets }))
    }

    async fn get_node_config(
        &self,
        request: Request<pb::GetNodeConfigRequest>,
    ) -> Result<Response<pb::NodeConfig>, Status> {
        self.check(&request).await?;
        let node = request.into_inner().node;
        let view = self.view.borrow().clone();
        if let Some(config) = view.configs.get(&node) {
            return Ok(Response::new(config.as_ref().clone()));
        }
        let problems = view.nodes.get(&node).map(|node| node.problems.join("; "));
        Err(Status::not_found(match problems {
            Some(problems) if !problems.is_empty() => {
                format!("node {node} has no configuration: {problems}")
            }
            _ => format!("there is no node {node}; `bgpctl show nodes` lists them"),
        }))
    }
}

impl Admin {
    async fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.lead.check()?;
        let headers = request.metadata().as_ref();
        let identity = self.trust.identify(headers, request.extensions());
        identity.await?.check_operator()
    }
}

fn status(
    view: &View,
    source: &SourceState,
    speakers: &BTreeMap<String, SpeakerState>,
) -> pb::Status {
    let mut refused = source.refused.clone();
    if !view.store_error.is_empty() {
        refused.push(format!(
            "nothing is given out until the state file can be written: {}",
            view.store_error
        ));
    }
    let loaded = view.loaded.as_ref();
    let pools = view.pools.iter().flat_map(|(name, uses)| {
        uses.iter().map(|each| pb::PoolUse {
            name: name.clone(),
            prefix: each.prefix.to_string(),
            subnets_total: each.total,
            subnets_used: each.used,
            subnets_waiting: each.waiting,
        })
    });
    let nodes = view.nodes.iter().filter(|(_, node)| node.exists);
    let is_connected = |name: &String| {
        let speaker = speakers.get(name);
        speaker.is_some_and(|speaker| speaker.connected_since.is_some())
    };
    // Of the nodes that there are: a speaker with a name that no Node has is not one of them.
    let connected = nodes.clone().filter(|(name, _)| is_connected(name)).count();
    let nodes = nodes.count();
    pb::Status {
        software: SOFTWARE.to_owned(),
        generation: view.generation,
        loaded_ms: loaded.map_or(0, |loaded| millis(loaded.at)),
        refused,
        warnings: loaded.map(|l| l.warnings.clone()).unwrap_or_default(),
        pools: pools.collect(),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        nodes_connected: u32::try_from(connected).unwrap_or(u32::MAX),
    }
}

/// Nodes of the resources, connected or not; and those that are not in there but still have
/// something, or whose speaker is here.
fn nodes(view: &View, speakers: &BTreeMap<String, SpeakerState>) -> Vec<pb::Node> {
    let empty = SpeakerState::default();
    let mut subnets: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (subnet, lease) in view.ledger.iter() {
        if lease.state == State::Assigned {
            let of_node = subnets.entry(lease.node.as_str()).or_default();
            of_node.push(subnet.to_string());
        }
    }
    let connected = speakers
        .iter()
        .filter(|(_, state)| state.connected_since.is_some())
        .map(|(node, _)| node);
    let mut names: Vec<&String> = view.nodes.keys().chain(connected).collect();
    names.sort();
    names.dedup();
    let nodes = names.into_iter().map(|name| {
        let speaker = speakers.get(name).unwrap_or(&empty);
        let config = view.configs.get(name);
        let resource = view
            .loaded
            .as_ref()
            .and_then(|loaded| loaded.resources.nodes.get(name));
        let known = view.nodes.get(name);
        let mut problems = known.map(|node| node.problems.clone()).unwrap_or_default();
        if !known.is_some_and(|node| node.exists) && speaker.connected_since.is_some() {
            problems.push(
                "its speaker is connected, but no Node resource has this name; it is told nothing \
                 and keeps what it has"
                    .to_owned(),
            );
        }
        pb::Node {
            name: name.clone(),
            labels: resource
                .map(|node| node.metadata.labels.clone().into_iter().collect())
                .unwrap_or_default(),
            asn: config.map_or(0, |config| config.asn),
            router_id: config.map(|c| c.router_id.clone()).unwrap_or_default(),
            addresses: resource
                .map(|node| {
                    node.spec
                        .addresses
                        .iter()
                        .map(ToString::to_string)
                        .collect()
                })
                .unwrap_or_default(),
            subnets: subnets.remove(name.as_str()).unwrap_or_default(),
            connected: speaker.connected_since.is_some(),
            connected_since_ms: speaker.connected_since.map_or(0, millis),
            away_since_ms: speaker.away_since.map_or(0, millis),
            desired_version: config.map_or(0, |config| config.version),
            report: speaker.report.as_deref().cloned(),
            problems,
        }
    });
    nodes.collect()
}

fn subnets(view: &View, speakers: &BTreeMap<String, SpeakerState>) -> Vec<pb::SubnetLease> {
    let mut used: BTreeMap<(&str, IpNetwork), u64> = BTreeMap::new();
    for (node, state) in speakers {
        for subnet in state.report.iter().flat_map(|report| &report.subnets) {
            if let Ok(prefix) = subnet.prefix.parse() {
                used.insert((node, prefix), subnet.used);
            }
        }
    }
    let leases = view.ledger.iter().map(|(subnet, lease)| {
        let (state, free_at) = match lease.state {
            State::Assigned => ("Assigned", 0),
            State::Waiting { free_at } => ("Waiting", millis(free_at)),
        };
        let key = (lease.node.as_str(), subnet);
        pb::SubnetLease {
            prefix: subnet.to_string(),
            pool: lease.pool.clone(),
            node: lease.node.clone(),
            state: state.to_owned(),
            since_ms: millis(lease.since),
            free_at_ms: free_at,
            used: used.get(&key).copied().unwrap_or(0),
            size: u64::try_from(size_of(subnet)).unwrap_or(u64::MAX),
        }
    });
    leases.collect()
}

fn millis(at: ipam::Millis) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

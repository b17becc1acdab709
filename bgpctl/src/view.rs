//! How answers look to programs: the JSON and YAML of `--output`.
//!
//! Names are those of the resources (camelCase, `asn`, `ipv4`), times are RFC 3339, what is not there
//! is left out. These are a contract with scripts; the gRPC types are not.

use std::collections::BTreeMap;

use proto::controller::v1 as controller;
use proto::speaker::v1 as speaker;
use serde::Serialize;

use crate::time::rfc3339;

type Text = Option<String>;

/// Empty texts are what protobuf has for "not there".
fn some(text: &str) -> Text {
    (!text.is_empty()).then(|| text.to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    asn: u32,
    router_id: String,
    addresses: Vec<String>,
    subnets: Vec<String>,
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    connected_since: Text,
    desired_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    software: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Text,
    sessions: Vec<Session>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    peer: String,
    address: String,
    remote_asn: u32,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
    received: u64,
    accepted: u64,
    advertised: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Text,
}

#[derive(Serialize)]
pub(crate) struct Problem {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    message: String,
}

impl From<&controller::Problem> for Problem {
    fn from(problem: &controller::Problem) -> Problem {
        Problem {
            reason: some(&problem.reason),
            message: problem.message.clone(),
        }
    }
}

impl From<&controller::Node> for Node {
    fn from(node: &controller::Node) -> Node {
        let report = node.report.as_ref();
        let planned = node.problems.iter().map(|message| Problem {
            reason: None,
            message: message.clone(),
        });
        let reported = report.iter().flat_map(|report| &report.problems);
        let sessions = report.iter().flat_map(|report| &report.sessions);
        Node {
            name: node.name.clone(),
            labels: node.labels.clone().into_iter().collect(),
            asn: node.asn,
            router_id: node.router_id.clone(),
            addresses: node.addresses.clone(),
            subnets: node.subnets.clone(),
            connected: node.connected,
            connected_since: rfc3339(node.connected_since_ms),
            desired_version: node.desired_version,
            version: report.map(|report| report.version),
            software: report.and_then(|report| some(&report.software)),
            refused: report.and_then(|report| some(&report.refused)),
            sessions: sessions
                .map(|session| Session {
                    peer: session.peer.clone(),
                    address: session.address.clone(),
                    remote_asn: session.remote_asn,
                    state: session.state.clone(),
                    since: rfc3339(session.since_ms),
                    received: session.prefixes_received,
                    accepted: session.prefixes_accepted,
                    advertised: session.prefixes_advertised,
                    last_error: some(&session.last_error),
                })
                .collect(),
            problems: planned.chain(reported.map(Problem::from)).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubnetLease {
    prefix: String,
    pool: String,
    node: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_at: Text,
    used: u64,
    size: u64,
}

impl From<&controller::SubnetLease> for SubnetLease {
    fn from(lease: &controller::SubnetLease) -> SubnetLease {
        SubnetLease {
            prefix: lease.prefix.clone(),
            pool: lease.pool.clone(),
            node: lease.node.clone(),
            state: lease.state.clone(),
            since: rfc3339(lease.since_ms),
            free_at: rfc3339(lease.free_at_ms),
            used: lease.used,
            size: lease.size,
        }
    }
}

/// Something one speaker answered, with its node's name where several were asked.
#[derive(Serialize)]
pub(crate) struct OfNode<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Text,
    #[serde(flatten)]
    pub(crate) answer: T,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Text,
    address: String,
    port: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_address: Text,
    remote_asn: u32,
    local_asn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_router_id: Text,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
    passive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Text,
    hold_seconds: u32,
    keepalive_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_prefixes: Option<MaxPrefixes>,
    over_limit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    graceful_restart: Option<GracefulRestart>,
    families: Vec<FamilyState>,
    capabilities_sent: Vec<String>,
    capabilities_received: Vec<String>,
    import_policies: Vec<String>,
    export_policies: Vec<String>,
    sent: MessageCounts,
    received: MessageCounts,
    established_count: u64,
    faults: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_fault: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error_at: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    bfd: Option<Bfd>,
}

/// A BFD session. The state is left away while nothing is known of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bfd {
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
    multihop: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnostic: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_state: Text,
    tx_interval_micros: u64,
    detection_micros: u64,
    remote_control_plane_independent: bool,
    ups: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Text,
}

impl From<&proto::bfd::v1::Session> for Bfd {
    fn from(it: &proto::bfd::v1::Session) -> Bfd {
        Bfd {
            state: some(&it.state),
            since: rfc3339(it.since_ms),
            multihop: it.multihop,
            diagnostic: some(&it.diagnostic),
            remote_state: some(&it.remote_state),
            tx_interval_micros: it.tx_interval_micros,
            detection_micros: it.detection_micros,
            remote_control_plane_independent: it.remote_control_plane_independent,
            ups: it.ups,
            problem: some(&it.problem),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MaxPrefixes {
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<u32>,
    warn_at_percent: u32,
    action: String,
    /// None: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_seconds: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyState {
    family: String,
    negotiated: bool,
    received: u64,
    accepted: u64,
    best: u64,
    advertised: u64,
    pending: u64,
    end_of_rib_received: bool,
    end_of_rib_sent: bool,
    extended_next_hop: bool,
    stale: u64,
    graceful_restart: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GracefulRestart {
    restart_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_seconds: Option<u32>,
    notification: bool,
    peer_restarted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_until: Text,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageCounts {
    open: u64,
    update: u64,
    notification: u64,
    keepalive: u64,
    route_refresh: u64,
    bytes: u64,
}

impl From<&Option<speaker::MessageCounts>> for MessageCounts {
    fn from(counts: &Option<speaker::MessageCounts>) -> MessageCounts {
        counts
            .as_ref()
            .map_or_else(MessageCounts::default, |counts| MessageCounts {
                open: counts.open,
                update: counts.update,
                notification: counts.notification,
                keepalive: counts.keepalive,
                route_refresh: counts.route_refresh,
                bytes: counts.bytes,
            })
    }
}

impl From<&speaker::Peer> for Peer {
    fn from(peer: &speaker::Peer) -> Peer {
        Peer {
            name: peer.name.clone(),
            description: some(&peer.description),
            address: peer.address.clone(),
            port: peer.port,
            local_address: some(&peer.local_address),
            remote_asn: peer.remote_asn,
            local_asn: peer.local_asn,
            remote_router_id: some(&peer.remote_router_id),
            state: peer.state.clone(),
            since: rfc3339(peer.since_ms),
            passive: peer.passive,
            shutdown: peer.shutdown.clone(),
            retry_at: rfc3339(peer.retry_at_ms),
            hold_seconds: peer.hold_seconds,
            keepalive_seconds: peer.keepalive_seconds,
            max_prefixes: peer.max_prefixes.as_ref().map(|limits| MaxPrefixes {
                ipv4: limits.ipv4,
                ipv6: limits.ipv6,
                warn_at_percent: limits.warn_at_percent,
                action: limits.action.clone(),
                restart_seconds: limits.restart_seconds,
            }),
            over_limit: peer.over_limit,
            graceful_restart: peer.graceful_restart.as_ref().map(|it| GracefulRestart {
                restart_seconds: it.restart_seconds,
                peer_seconds: it.peer_seconds,
                notification: it.notification,
                peer_restarted: it.peer_restarted,
                stale_until: rfc3339(it.stale_until_ms),
            }),
            families: peer
                .families
                .iter()
                .map(|state| FamilyState {
                    family: state.family.clone(),
                    negotiated: state.negotiated,
                    received: state.received,
                    accepted: state.accepted,
                    best: state.best,
                    advertised: state.advertised,
                    pending: state.pending,
                    end_of_rib_received: state.end_of_rib_received,
                    end_of_rib_sent: state.end_of_rib_sent,
                    extended_next_hop: state.extended_next_hop,
                    stale: state.stale,
                    graceful_restart: state.graceful_restart,
                })
                .collect(),
            capabilities_sent: peer.capabilities_sent.clone(),
            capabilities_received: peer.capabilities_received.clone(),
            import_policies: peer.import_policies.clone(),
            export_policies: peer.export_policies.clone(),
            sent: MessageCounts::from(&peer.sent),
            received: MessageCounts::from(&peer.received),
            established_count: peer.established_count,
            faults: peer.faults.clone().into_iter().collect(),
            last_fault: some(&peer.last_fault),
            last_error: some(&peer.last_error),
            last_error_at: rfc3339(peer.last_error_ms),
            bfd: peer.bfd.as_ref().map(Bfd::from),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    prefix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Text,
    source: String,
    #[serde(flatten)]
    attributes: Attributes,
    best: bool,
    multipath: bool,
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    advertisements: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
}

impl From<&speaker::Route> for Route {
    fn from(route: &speaker::Route) -> Route {
        Route {
            prefix: route.prefix.clone(),
            peer: some(&route.peer),
            source: route.source.clone(),
            attributes: Attributes::from(&route.attributes.clone().unwrap_or_default()),
            best: route.best,
            multipath: route.multipath,
            stale: route.stale,
            reason: some(&route.reason),
            kernel: some(&route.kernel),
            advertisements: route.advertisements.clone(),
            since: rfc3339(route.since_ms),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop_link_local: Text,
    as_path: String,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_preference: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    atomic_aggregate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    large_communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extended_communities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    originator_id: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<UnknownAttribute>,
}

#[derive(Serialize)]
struct UnknownAttribute {
    flags: u32,
    #[serde(rename = "type")]
    kind: u32,
    /// In hexadecimal.
    value: String,
}

impl From<&speaker::Attributes> for Attributes {
    fn from(attributes: &speaker::Attributes) -> Attributes {
        let unknown = attributes.unknown.iter().map(|attribute| UnknownAttribute {
            flags: attribute.flags,
            kind: attribute.r#type,
            value: hex(&attribute.value),
        });
        Attributes {
            next_hop: some(&attributes.next_hop),
            next_hop_link_local: some(&attributes.next_hop_link_local),
            as_path: attributes.as_path.clone(),
            origin: attributes.origin.clone(),
            med: attributes.med,
            local_preference: attributes.local_preference,
            atomic_aggregate: attributes.atomic_aggregate,
            aggregator: some(&attributes.aggregator),
            communities: attributes.communities.clone(),
            large_communities: attributes.large_communities.clone(),
            extended_communities: attributes.extended_communities.clone(),
            originator_id: some(&attributes.originator_id),
            cluster_list: attributes.cluster_list.clone(),
            unknown: unknown.collect(),
        }
    }
}

/// Two digits an octet, nothing between them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A change of a best route, as `show routes --watch` tells it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Text,
    /// `best`, `withdrawn` or `missed`.
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route>,
}

impl From<&speaker::RouteChange> for RouteChange {
    fn from(change: &speaker::RouteChange) -> RouteChange {
        RouteChange {
            at: rfc3339(change.at_ms),
            change: match (change.missed, change.withdrawn) {
                (true, _) => "missed",
                (_, true) => "withdrawn",
                _ => "best",
            },
            route: change.route.as_ref().map(Route::from),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    prefix: String,
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    covering: Text,
    candidates: Vec<Candidate>,
    advertised: Vec<AdvertisedTo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<KernelState>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_to: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    import: Option<PolicyTrace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<NextHop>,
    /// As received.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route>,
    /// After import policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Attributes>,
}

#[derive(Serialize)]
struct PolicyTrace {
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Text,
    text: String,
}

#[derive(Serialize)]
struct NextHop {
    address: String,
    resolved: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Text,
    metric: u32,
}

#[derive(Serialize)]
struct AdvertisedTo {
    peer: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    export: Option<PolicyTrace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Attributes>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelState {
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Text,
    next_hops: Vec<String>,
    table: u32,
    protocol: u32,
    metric: u32,
}

impl From<&speaker::PolicyTrace> for PolicyTrace {
    fn from(trace: &speaker::PolicyTrace) -> PolicyTrace {
        PolicyTrace {
            verdict: trace.verdict.clone(),
            policy: some(&trace.policy),
            rule: some(&trace.rule),
            text: trace.text.clone(),
        }
    }
}

impl From<&speaker::Candidate> for Candidate {
    fn from(candidate: &speaker::Candidate) -> Candidate {
        Candidate {
            outcome: candidate.outcome.clone(),
            reason: some(&candidate.reason),
            lost_to: some(&candidate.lost_to),
            step: some(&candidate.step),
            import: candidate.import.as_ref().map(PolicyTrace::from),
            next_hop: candidate.next_hop.as_ref().map(|next_hop| NextHop {
                address: next_hop.address.clone(),
                resolved: next_hop.resolved,
                via: some(&next_hop.via),
                interface: some(&next_hop.interface),
                metric: next_hop.metric,
            }),
            route: candidate.route.as_ref().map(Route::from),
            accepted: candidate.accepted.as_ref().map(Attributes::from),
        }
    }
}

impl From<&speaker::Explanation> for Explanation {
    fn from(explanation: &speaker::Explanation) -> Explanation {
        let advertised = explanation.advertised.iter().map(|to| AdvertisedTo {
            peer: to.peer.clone(),
            state: to.state.clone(),
            reason: some(&to.reason),
            export: to.export.as_ref().map(PolicyTrace::from),
            attributes: to.attributes.as_ref().map(Attributes::from),
        });
        Explanation {
            prefix: explanation.prefix.clone(),
            summary: explanation.summary.clone(),
            covering: some(&explanation.covering),
            candidates: explanation.candidates.iter().map(Candidate::from).collect(),
            advertised: advertised.collect(),
            kernel: explanation.kernel.as_ref().map(|kernel| KernelState {
                state: kernel.state.clone(),
                text: some(&kernel.text),
                next_hops: kernel.next_hops.clone(),
                table: kernel.table,
                protocol: kernel.protocol,
                metric: kernel.metric,
            }),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpeakerStatus {
    name: String,
    software: String,
    asn: u32,
    router_id: String,
    version: u64,
    config_source: String,
    controller_connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Text,
    routes_ipv4: u64,
    routes_ipv6: u64,
    attribute_sets: u64,
    kernel_routes: u64,
    kernel_pending: u64,
    subnets: Vec<SubnetUse>,
    problems: Vec<Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Text,
}

#[derive(Serialize)]
struct SubnetUse {
    prefix: String,
    used: u64,
    size: u64,
}

impl From<&speaker::Status> for SpeakerStatus {
    fn from(status: &speaker::Status) -> SpeakerStatus {
        SpeakerStatus {
            name: status.node.clone(),
            software: status.software.clone(),
            asn: status.asn,
            router_id: status.router_id.clone(),
            version: status.version,
            config_source: status.config_source.clone(),
            controller_connected: status.controller_connected,
            refused: some(&status.refused),
            routes_ipv4: status.routes_ipv4,
            routes_ipv6: status.routes_ipv6,
            attribute_sets: status.attribute_sets,
            kernel_routes: status.kernel_routes,
            kernel_pending: status.kernel_pending,
            subnets: status
                .subnets
                .iter()
                .map(|subnet| SubnetUse {
                    prefix: subnet.prefix.clone(),
                    used: subnet.used,
                    size: subnet.size,
                })
                .collect(),
            problems: status.problems.iter().map(Problem::from).collect(),
            started: rfc3339(status.started_ms),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControllerStatus {
    software: String,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded: Text,
    refused: Vec<String>,
    warnings: Vec<String>,
    nodes: u32,
    nodes_connected: u32,
    pools: Vec<PoolUse>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoolUse {
    name: String,
    prefix: String,
    subnets_total: u64,
    subnets_used: u64,
    subnets_waiting: u64,
}

impl From<&controller::Status> for ControllerStatus {
    fn from(status: &controller::Status) -> ControllerStatus {
        ControllerStatus {
            software: status.software.clone(),
            generation: status.generation,
            loaded: rfc3339(status.loaded_ms),
            refused: status.refused.clone(),
            warnings: status.warnings.clone(),
            nodes: status.nodes,
            nodes_connected: status.nodes_connected,
            pools: status
                .pools
                .iter()
                .map(|pool| PoolUse {
                    name: pool.name.clone(),
                    prefix: pool.prefix.clone(),
                    subnets_total: pool.subnets_total,
                    subnets_used: pool.subnets_used,
                    subnets_waiting: pool.subnets_waiting,
                })
                .collect(),
        }
    }
}

//! Nodes and what subnets were given to them.

use std::collections::BTreeMap;

use proto::controller::v1 as controller;
use serde::Serialize;

use super::{Problem, Text, some};
use crate::time::rfc3339;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    away_since: Text,
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
            away_since: rfc3339(node.away_since_ms),
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

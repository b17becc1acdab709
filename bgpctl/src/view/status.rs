//! Speakers and controller as a whole.

use proto::controller::v1 as controller;
use proto::speaker::v1 as speaker;
use serde::Serialize;

use super::{Problem, Text, some};
use crate::time::rfc3339;

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
    cooling: u64,
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
                    cooling: subnet.cooling,
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

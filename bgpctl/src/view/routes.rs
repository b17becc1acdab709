//! Routes, their attributes, and changes of them.

use proto::speaker::v1 as speaker;
use serde::Serialize;

use super::{Text, hex, some};
use crate::time::rfc3339;

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
    backup: bool,
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
            backup: route.backup,
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
pub(super) struct Attributes {
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

//! Routes, for programs; and what tables are filled from. Texts are borrowed: a million routes are
//! written without one allocation each.

use proto::speaker::v1 as speaker;
use serde::{Serialize, Serializer};

use super::hex;
use crate::time::{is_time, rfc3339};

/// Empty texts are what protobuf has for "not there".
fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A route.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route<'a> {
    pub(crate) prefix: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<&'a str>,
    pub(crate) source: &'a str,
    #[serde(flatten)]
    pub(crate) attributes: Attributes<'a>,
    pub(crate) best: bool,
    pub(crate) multipath: bool,
    pub(crate) stale: bool,
    #[serde(
        rename = "staleUntil",
        skip_serializing_if = "is_never",
        serialize_with = "time"
    )]
    pub(crate) stale_until_ms: i64,
    pub(crate) long_lived_stale: bool,
    pub(crate) backup: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) advertisements: &'a [String],
    #[serde(
        rename = "since",
        skip_serializing_if = "is_never",
        serialize_with = "time"
    )]
    pub(crate) since_ms: i64,
}

impl<'a> From<&'a speaker::Route> for Route<'a> {
    fn from(route: &'a speaker::Route) -> Route<'a> {
        let attributes = route.attributes.as_ref();
        Route {
            prefix: &route.prefix,
            peer: some(&route.peer),
            source: &route.source,
            attributes: attributes.map(Attributes::from).unwrap_or_default(),
            best: route.best,
            multipath: route.multipath,
            stale: route.stale,
            backup: route.backup,
            stale_until_ms: route.stale_until_ms,
            long_lived_stale: route.long_lived_stale,
            reason: some(&route.reason),
            kernel: some(&route.kernel),
            advertisements: &route.advertisements,
            since_ms: route.since_ms,
        }
    }
}

/// A route's path attributes.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attributes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_hop: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_hop_link_local: Option<&'a str>,
    pub(crate) as_path: &'a str,
    pub(crate) origin: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) med: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local_preference: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) atomic_aggregate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aggregator: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) communities: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) large_communities: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) extended_communities: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) originator_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) cluster_list: &'a [String],
    #[serde(
        skip_serializing_if = "<[speaker::UnknownAttribute]>::is_empty",
        serialize_with = "unknown"
    )]
    pub(crate) unknown: &'a [speaker::UnknownAttribute],
}

impl<'a> From<&'a speaker::Attributes> for Attributes<'a> {
    fn from(attributes: &'a speaker::Attributes) -> Attributes<'a> {
        Attributes {
            next_hop: some(&attributes.next_hop),
            next_hop_link_local: some(&attributes.next_hop_link_local),
            as_path: &attributes.as_path,
            origin: &attributes.origin,
            med: attributes.med,
            local_preference: attributes.local_preference,
            atomic_aggregate: attributes.atomic_aggregate,
            aggregator: some(&attributes.aggregator),
            communities: &attributes.communities,
            large_communities: &attributes.large_communities,
            extended_communities: &attributes.extended_communities,
            originator_id: some(&attributes.originator_id),
            cluster_list: &attributes.cluster_list,
            unknown: &attributes.unknown,
        }
    }
}

#[derive(Serialize)]
struct UnknownAttribute {
    flags: u32,
    #[serde(rename = "type")]
    kind: u32,
    /// In hexadecimal.
    value: String,
}

fn unknown<S: Serializer>(
    attributes: &[speaker::UnknownAttribute],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(attributes.iter().map(|attribute| UnknownAttribute {
        flags: attribute.flags,
        kind: attribute.r#type,
        value: hex(&attribute.value),
    }))
}

fn is_never(at_ms: &i64) -> bool {
    !is_time(*at_ms)
}

fn time<S: Serializer>(at_ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    rfc3339(*at_ms).serialize(serializer)
}

/// A change of a best route, as `show routes --watch` tells it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteChange<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// `best`, `withdrawn` or `missed`.
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route<'a>>,
}

impl<'a> From<&'a speaker::RouteChange> for RouteChange<'a> {
    fn from(change: &'a speaker::RouteChange) -> RouteChange<'a> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_out_and_times_are_rfc_3339() {
        let route = speaker::Route {
            prefix: "10.0.0.0/8".into(),
            source: "Ebgp".into(),
            best: true,
            attributes: Some(speaker::Attributes {
                origin: "igp".into(),
                as_path: "65001".into(),
                unknown: vec![speaker::UnknownAttribute {
                    flags: 0xE0,
                    r#type: 99,
                    value: vec![1, 0xAB],
                }],
                ..speaker::Attributes::default()
            }),
            since_ms: 1_000,
            ..speaker::Route::default()
        };
        let text = serde_json::to_string(&Route::from(&route)).unwrap();
        let expected = r#"{"prefix":"10.0.0.0/8","source":"Ebgp","asPath":"65001","origin":"igp","#;
        assert!(text.starts_with(expected), "{text}");
        let expected = r#""unknown":[{"flags":224,"type":99,"value":"01ab"}],"best":true,"#;
        assert!(text.contains(expected), "{text}");
        assert!(
            text.ends_with(r#""since":"1970-01-01T00:00:01.000Z"}"#),
            "{text}"
        );
    }
}

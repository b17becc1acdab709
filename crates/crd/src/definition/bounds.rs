//! How long lists, maps and texts may be. Without bounds the API server would take the rules for too
//! expensive, and an object could outgrow etcd's 1.5 MB.

use serde_json::Value;

use super::{Problem, children};
use crate::Kind;

/// What the names of other resources, of labels and of their values may be at most.
const NAME: u64 = 253;
const PATH: u64 = 4096;
/// What a condition says.
const MESSAGE: u64 = 32_768;

/// By kind and place: the most items, entries or letters.
const BOUNDS: &[(Kind, &str, u64)] = &[
    (Kind::Fabric, "spec.asn.perRack.values", 4096),
    (Kind::Fabric, "spec.bfd.authentication.keyFile", PATH),
    (Kind::Fabric, "spec.pods.chained", 8),
    (Kind::Fabric, "spec.pods.names.domain", 120),
    (Kind::Fabric, "spec.pods.names.forward", 8),
    (Kind::Pool, "spec.prefixes", 64),
    (Kind::Pool, "spec.reserved", 256),
    (Kind::Pool, "spec.masquerade.exempt", 256),
    (Kind::Peer, "spec.addressFrom.values", 1024),
    (Kind::Peer, "spec.remoteAsnFrom.values", 1024),
    (Kind::Peer, "spec.description", 1024),
    (Kind::Peer, "spec.password.file", PATH),
    (Kind::Peer, "spec.tcpAo.keys", 16),
    (Kind::Peer, "spec.tcpAo.keys[].file", PATH),
    (Kind::Peer, "spec.bfd.authentication.keyFile", PATH),
    (Kind::Peer, "spec.import", 32),
    (Kind::Peer, "spec.export", 32),
    (Kind::RoutePolicy, "spec.rules", 64),
    (Kind::RoutePolicy, "spec.rules[].match.prefixes", 500),
    (Kind::RoutePolicy, "spec.rules[].match.communities", 128),
    (
        Kind::RoutePolicy,
        "spec.rules[].match.largeCommunities",
        128,
    ),
    (
        Kind::RoutePolicy,
        "spec.rules[].match.extendedCommunities",
        128,
    ),
    (Kind::RoutePolicy, "spec.rules[].match.asPathContains", 256),
    (Kind::RoutePolicy, "spec.rules[].match.neighborAsns", 256),
    (Kind::RoutePolicy, "spec.rules[].match.originAsns", 256),
    (Kind::RoutePolicy, "spec.rules[].match.advertisements", 128),
    (Kind::RoutePolicy, "spec.rules[].match.peers", 128),
    (Kind::Advertisement, "spec.prefixes", 1024),
    (Kind::Advertisement, "spec.nodeSubnets.pools", 64),
];

/// Where nothing else is said: selectors, communities to set.
const SELECTOR_LABELS: u64 = 64;
const SELECTOR_NAMES: u64 = 1024;
const COMMUNITIES: u64 = 32;
const LIST: u64 = 64;

pub(super) fn apply(kind: Kind, schema: &mut Value, place: &str) -> Result<(), Problem> {
    let own = BOUNDS
        .iter()
        .find(|(of, at, _)| *of == kind && *at == place);
    let own = own.map(|(_, _, most)| *most);
    let is_map = schema.get("additionalProperties").is_some();
    // Metadata is the API server's own affair.
    let bound = match schema.get("type").and_then(Value::as_str) {
        _ if ["apiVersion", "kind", "metadata"].contains(&place) => None,
        Some("array") if place.ends_with("elector.names") => Some(("maxItems", SELECTOR_NAMES)),
        Some("array") if place.ends_with(".families") || place.ends_with(".sources") => {
            Some(("maxItems", 8))
        }
        Some("array") if place.ends_with("Communities") => Some(("maxItems", COMMUNITIES)),
        Some("array") => Some(("maxItems", LIST)),
        // As Kubernetes has them.
        Some("string") if place.ends_with("conditions[].message") => Some(("maxLength", MESSAGE)),
        Some("string") if place.ends_with("conditions[].reason") => Some(("maxLength", 1024)),
        Some("string") if schema.get("enum").is_none() && schema.get("format").is_none() => {
            Some(("maxLength", NAME))
        }
        Some("object") if is_map => Some(("maxProperties", SELECTOR_LABELS)),
        _ => None,
    };
    match (bound, own) {
        (Some((keyword, usual)), own) if own.is_some() || schema.get(keyword).is_none() => {
            schema[keyword] = own.unwrap_or(usual).into();
        }
        (None, Some(_)) => {
            return Err((place.to_owned(), "has nothing that could be bound".into()));
        }
        _ => {}
    }
    for (place, child) in children(schema, place) {
        apply(kind, child, &place)?;
    }
    Ok(())
}

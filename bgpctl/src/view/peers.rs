//! Sessions.

use std::collections::BTreeMap;

use proto::speaker::v1 as speaker;
use serde::Serialize;

use super::{Text, some};
use crate::time::rfc3339;

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
    reflector_client: bool,
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
    ttl_security: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
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

/// A peer as `show bfd` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WatchedPeer {
    peer: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bfd: Option<Bfd>,
}

impl From<&proto::speaker::v1::Peer> for WatchedPeer {
    fn from(peer: &proto::speaker::v1::Peer) -> WatchedPeer {
        WatchedPeer {
            peer: peer.name.clone(),
            address: peer.address.clone(),
            bfd: peer.bfd.as_ref().map(Bfd::from),
        }
    }
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
    discriminator: u32,
    remote_discriminator: u32,
    ups: u64,
    downs: u64,
    sent: u64,
    received: u64,
    refused: u64,
    late_sent: u64,
    late_received: u64,
    longest_silence_micros: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<Echo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Text,
}

/// The Echo function of a BFD session.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Echo {
    interval_micros: u64,
    sent: u64,
    returned: u64,
    relied_on: bool,
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
            discriminator: it.discriminator,
            remote_discriminator: it.remote_discriminator,
            ups: it.ups,
            downs: it.downs,
            sent: it.sent,
            received: it.received,
            refused: it.discarded,
            late_sent: it.late_sent,
            late_received: it.late_received,
            longest_silence_micros: it.longest_silence_micros,
            echo: it.echo.as_ref().map(|it| Echo {
                interval_micros: it.interval_micros,
                sent: it.sent,
                returned: it.returned,
                relied_on: it.relied_on,
                problem: some(&it.problem),
            }),
            problem: some(&it.problem),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    kind: String,
    file: String,
    problem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
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
    long_lived_stale: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    long_lived: Option<LongLived>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LongLived {
    stale_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_seconds: Option<u32>,
    began: bool,
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
            reflector_client: peer.reflector_client,
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
            ttl_security: peer.ttl_security,
            key: peer.key.as_ref().map(|key| Key {
                kind: key.kind.clone(),
                file: key.file.clone(),
                problem: key.problem.clone(),
                since: rfc3339(key.since_ms),
            }),
            graceful_restart: peer.graceful_restart.as_ref().map(|it| GracefulRestart {
                restart_seconds: it.restart_seconds,
                peer_seconds: it.peer_seconds,
                notification: it.notification,
                peer_restarted: it.peer_restarted,
                stale_until: rfc3339(it.stale_until_ms),
                long_lived: it.long_lived.as_ref().map(|it| LongLived {
                    stale_seconds: it.stale_seconds,
                    peer_seconds: it.peer_seconds,
                    began: it.began,
                }),
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
                    long_lived_stale: state.long_lived_stale,
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

//! BFD sessions of one node.

use api::{BfdAuthKind, BfdSpec};
use bgp::config::PeerConfig;

use crate::{BfdAuthentication, BfdSession};

/// The session that watches over `peer`.
pub(crate) fn session(spec: &BfdSpec, peer: &PeerConfig) -> BfdSession {
    BfdSession {
        peer: peer.name.clone(),
        remote: peer.address,
        local: peer.local_address,
        multihop: spec.multihop.unwrap_or(peer.hops() > 1),
        min_tx_millis: spec.min_tx_millis.get(),
        min_rx_millis: spec.min_rx_millis.get(),
        multiplier: spec.multiplier.get(),
        admin_down: peer.shutdown.is_some(),
        authentication: spec.authentication.as_ref().map(|it| BfdAuthentication {
            meticulous: it.kind == BfdAuthKind::MeticulousKeyedSha1,
            key_id: it.key_id.get(),
            key_file: it.key_file.clone(),
        }),
    }
}

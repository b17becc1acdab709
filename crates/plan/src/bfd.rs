//! BFD sessions of one node.

use api::{BfdAuthKind, BfdSpec};
use bgp::config::PeerConfig;

use crate::node::key_source;
use crate::{BfdAuthentication, BfdSession};

/// How often packets are sent and asked for, and how many may be missed, where nobody says otherwise.
const MILLIS: u16 = 300;
const MULTIPLIER: u8 = 3;

/// The session that watches over `peer`, if it is to have one: what the Peer says, then the Fabric,
/// then the defaults.
pub(crate) fn session(
    own: Option<&BfdSpec>,
    fabric: Option<&BfdSpec>,
    peer: &PeerConfig,
) -> Option<BfdSession> {
    let specs = [own, fabric];
    let said = specs.into_iter().flatten();
    // Who says anything at all of BFD wants it, unless it says that it does not.
    let enabled = said.clone().map(|it| it.enabled.unwrap_or(true)).next();
    if !enabled.unwrap_or(false) {
        return None;
    }
    let authentication = said.clone().find_map(|it| it.authentication.as_ref());
    let multihop = said.clone().find_map(|it| it.multihop);
    let min_tx = said.clone().find_map(|it| it.min_tx_millis);
    let min_rx = said.clone().find_map(|it| it.min_rx_millis);
    let multiplier = said.clone().find_map(|it| it.multiplier);
    let multihop = multihop.unwrap_or(peer.hops() > 1);
    let echo = said.clone().find_map(|it| it.echo_millis);
    Some(BfdSession {
        peer: peer.name.clone(),
        remote: peer.address,
        local: peer.local_address,
        multihop,
        min_tx_millis: min_tx.map_or(MILLIS, |it| it.get()),
        min_rx_millis: min_rx.map_or(MILLIS, |it| it.get()),
        multiplier: multiplier.map_or(MULTIPLIER, |it| it.get()),
        admin_down: peer.shutdown.is_some(),
        authentication: authentication.map(|it| BfdAuthentication {
            meticulous: it.kind == BfdAuthKind::MeticulousKeyedSha1,
            key_id: it.key_id.get(),
            key: key_source(it.key_file.as_deref(), it.key_secret.as_ref()),
        }),
        // The Fabric's is for those who can.
        echo_millis: echo.filter(|_| !multihop).map(|it| it.get()),
    })
}

//! TTL security and keys of a Peer.

use super::{Findings, keys};
use crate::PeerSpec;
use crate::parse::Item;

pub(super) fn check(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    distance(peer, findings);
    if let Some(password) = &peer.spec().password {
        let place = keys::Place {
            at: "spec.password",
            file: ("file", password.file.as_deref()),
            secret: ("secret", password.secret.as_ref()),
        };
        keys::check(&peer.document, &place, findings);
    }
    tcp_ao(peer, findings);
}

/// Two fields that say how far away the other side is would have to agree.
fn distance(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    let (Some(security), Some(ttl)) = (spec.ttl_security, spec.ttl) else {
        return;
    };
    let (hops, ttl) = (security.hops.get(), ttl.get());
    let far = match (hops, ttl) {
        (1, 2..=254) => {
            format!(", and say there how far the other side may be: `{{hops: {ttl}}}`")
        }
        _ => String::new(),
    };
    findings.mistake(
        document,
        "spec.ttl",
        format!(
            "found {ttl} beside ttlSecurity (hops: {hops}), with which everything is sent with TTL 255 and \
             what comes from farther is dropped; remove ttl{far}"
        ),
    );
}

/// Keys that could not be told apart, or could not be used together.
fn tcp_ao(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    let Some(tcp_ao) = &spec.tcp_ao else {
        return;
    };
    if spec.password.is_some() {
        findings.mistake(
            document,
            "spec.tcpAo",
            "stands beside password; segments are signed with TCP-AO or with TCP MD5: remove one of the two",
        );
    }
    if tcp_ao.keys.is_empty() {
        findings.mistake(
            document,
            "spec.tcpAo.keys",
            "is empty; at least one key is needed",
        );
    }
    for (index, key) in tcp_ao.keys.iter().enumerate() {
        let at = |field: &str| format!("spec.tcpAo.keys[{index}].{field}");
        let place = keys::Place {
            at: &format!("spec.tcpAo.keys[{index}]"),
            file: ("file", key.file.as_deref()),
            secret: ("secret", key.secret.as_ref()),
        };
        keys::check(document, &place, findings);
        let earlier = &tcp_ao.keys[..index];
        let sends = earlier.iter().any(|it| it.send_id == key.send_id);
        let receives = earlier.iter().any(|it| it.receive_id == key.receive_id);
        let ids = [
            ("sendId", key.send_id, sends),
            ("receiveId", key.receive_id, receives),
        ];
        for (field, id, _) in ids.iter().filter(|(_, _, twice)| *twice) {
            let id = id.get();
            let message =
                format!("{id} is another key's already; numbers tell the keys of a peer apart");
            findings.mistake(document, &at(field), message);
        }
    }
}

//! Prefix limits: what a person is told of peers that send, or sent, too many prefixes.

use std::collections::HashMap;

use bgp::config::LimitAction;
use bgp::query::PeerStatus;
use bgp::types::PeerId;
use proto::controller::v1 as pb;

/// The problems that were logged, so that each is logged when it comes up and not again.
#[derive(Default)]
pub(crate) struct Logged(HashMap<PeerId, Vec<&'static str>>);

impl Logged {
    /// Logs what is new about a peer.
    pub(crate) fn look(&mut self, peer: &PeerStatus) {
        let found = of(peer);
        let reasons: Vec<&'static str> = found.iter().map(|(reason, _)| *reason).collect();
        let old = match reasons.is_empty() {
            true => self.0.remove(&peer.id),
            false => self.0.insert(peer.id, reasons),
        };
        let old = old.unwrap_or_default();
        for (reason, message) in found.iter().filter(|(reason, _)| !old.contains(reason)) {
            tracing::warn!(peer = %peer.name, reason, "{message}");
        }
    }

    /// A peer is configured no more.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.0.remove(&id);
    }
}

/// What there is to say about all peers.
pub(crate) fn problems(peers: &[PeerStatus]) -> Vec<pb::Problem> {
    let of = |peer| {
        let problems = of(peer).into_iter();
        problems.map(|(reason, message): (&str, String)| pb::Problem {
            reason: reason.to_owned(),
            message,
            peer: peer.name.clone(),
        })
    };
    peers.iter().flat_map(of).collect()
}

/// Reason and message of each problem of a peer.
fn of(peer: &PeerStatus) -> Vec<(&'static str, String)> {
    let Some(limits) = peer.max_prefixes else {
        return Vec::new();
    };
    let name = &peer.name;
    if peer.over_limit {
        let back = match limits.restart_seconds {
            Some(seconds) => format!("for {seconds} s or until `bgpctl enable {name}`"),
            None => format!("until `bgpctl enable {name}`"),
        };
        let message = format!(
            "peer {name} sent more prefixes than its maxPrefixes; the session stays down {back}"
        );
        return vec![("PrefixLimitExceeded", message)];
    }
    let families = peer.families.iter().filter_map(|state| {
        let (limit, warn_from) = (limits.of(state.family)?, limits.warn_from(state.family)?);
        let (received, family) = (state.received, state.family);
        if received > u64::from(limit) && limits.action == LimitAction::Warn {
            let message = format!(
                "peer {name} sends {received} {family} prefixes, more than its maxPrefixes, \
                 {limit}; nothing is dropped, as its action is Warn"
            );
            return Some(("PrefixLimitExceeded", message));
        }
        (received >= warn_from).then(|| {
            let message = format!(
                "peer {name} sends {received} {family} prefixes; its maxPrefixes is {limit}"
            );
            ("PrefixLimitNear", message)
        })
    });
    families.collect()
}

//! How many prefixes a peer may send. RFC 4271 §6.7, RFC 4486 §4.
//!
//! The count is looked at after every UPDATE, so that a peer costs its limit and what one message
//! holds; a look is two comparisons.

use std::time::{Duration, Instant};

use super::{Engine, Output};
use crate::config::LimitAction;
use crate::message::Notification;
use crate::types::{Family, PeerId};

impl Engine {
    /// After routes came from a peer, or its limits changed: ends its session when there are too
    /// many, and has people look when there are many.
    pub(super) fn check_limits(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (Some(limits), Some(up)) = (peer.config.max_prefixes, &mut peer.up) else {
            return;
        };
        let Some(origin) = self.shared.source(up.source) else {
            return;
        };
        for family in Family::ALL {
            let received = origin.counts[family as usize].received;
            let (Some(limit), Some(warn_from)) = (limits.of(family), limits.warn_from(family))
            else {
                continue;
            };
            let over = received > u64::from(limit);
            if over && limits.action == LimitAction::Drop {
                let until = match limits.restart_seconds {
                    Some(seconds) => format!("the session stays down for {seconds} s"),
                    None => "the session stays down until it is enabled".to_owned(),
                };
                let why = format!("it sent more than {limit} {family} prefixes; {until}");
                let wait = limits.restart_seconds.map(u64::from);
                // Kept as stale they would still take the memory that the limit is there for.
                let notification = Notification::maximum_prefixes(family, limit);
                return peer.session.exceeded(
                    now,
                    up.negotiated.for_good(notification),
                    &why,
                    wait.map(Duration::from_secs),
                );
            }
            let level = u8::from(received >= warn_from) + u8::from(over);
            if std::mem::replace(&mut up.limit_level[family as usize], level) != level {
                self.outputs.push_back(Output::SessionChanged(id));
            }
        }
    }
}

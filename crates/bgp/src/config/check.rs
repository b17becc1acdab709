//! What can be wrong between the parts of a [`Config`].

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::*;

/// Why a [`Config`] cannot be put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two things of one kind have one name.
    #[error("two {kind} are named `{name}`; names must be unique")]
    Twice {
        /// `peers`, `policies`, `advertisements` or `originated prefixes`.
        kind: String,
        /// The name.
        name: String,
    },
    /// A name that nothing has.
    #[error("{by} names the {kind} `{name}`, which is not there")]
    Missing {
        /// What holds the name.
        by: String,
        /// `policy`, `peer` or `advertisement`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A value out of its range.
    #[error("{field} is {found}; allowed: {allowed}")]
    Value {
        /// Which, with the names of what it is in.
        field: String,
        /// As given.
        found: String,
        /// In words.
        allowed: &'static str,
    },
}

impl Config {
    /// The cluster whose routes we reflect.
    pub fn cluster_id(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id.0)
    }

    /// Whether any peer is our client.
    pub fn is_reflector(&self) -> bool {
        self.peers.iter().any(|peer| peer.reflector_client)
    }

    /// Whether everything named is there, names and addresses are unique, and values are in range.
    ///
    /// # Errors
    ///
    /// The first mistake found.
    pub fn check(&self) -> Result<(), ConfigError> {
        unique("peers", self.peers.iter().map(|peer| &peer.name))?;
        unique(
            "peer addresses",
            self.peers.iter().map(|peer| &peer.address),
        )?;
        unique("policies", self.policies.iter().map(|policy| &policy.name))?;
        unique(
            "advertisements",
            self.advertisements.iter().map(|adv| &adv.name),
        )?;
        unique(
            "originated prefixes",
            self.originate.iter().map(|route| &route.prefix),
        )?;
        if self.router_id.0.is_unspecified() {
            return Err(ConfigError::Value {
                field: "the router id".into(),
                found: self.router_id.to_string(),
                allowed: "any IPv4 address but 0.0.0.0",
            });
        }
        if self.cluster_id.is_some_and(|id| id.is_unspecified()) {
            return Err(ConfigError::Value {
                field: "the cluster id".into(),
                found: "0.0.0.0".into(),
                allowed: "any IPv4 address but 0.0.0.0",
            });
        }
        for peer in &self.peers {
            self.check_peer(peer)?;
        }
        // A reflector has thousands.
        let peers: HashSet<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        let has_peer = |name: &String| peers.contains(name.as_str());
        for advertisement in &self.advertisements {
            let by = format!("advertisement `{}`", advertisement.name);
            named(&by, "peer", advertisement.peers.iter(), has_peer)?;
        }
        let has_advertisement =
            |name: &String| self.advertisements.iter().any(|adv| adv.name == *name);
        for route in &self.originate {
            let by = format!("originated prefix {}", route.prefix);
            named(
                &by,
                "advertisement",
                route.advertisements.iter(),
                has_advertisement,
            )?;
        }
        Ok(())
    }

    fn check_peer(&self, peer: &PeerConfig) -> Result<(), ConfigError> {
        let by = format!("peer `{}`", peer.name);
        let has_policy = |name: &String| self.policies.iter().any(|policy| policy.name == *name);
        named(
            &by,
            "policy",
            peer.import.iter().chain(&peer.export),
            has_policy,
        )?;
        let value = |field: &str, found: &dyn std::fmt::Display, allowed| ConfigError::Value {
            field: format!("{field} of {by}"),
            found: found.to_string(),
            allowed,
        };
        if matches!(peer.timers.hold, 1 | 2) {
            return Err(value(
                "the hold time",
                &peer.timers.hold,
                "0 s or at least 3 s",
            ));
        }
        if peer.timers.connect_retry == 0 {
            return Err(value("the connect-retry time", &0, "at least 1 s"));
        }
        if peer.remote_asn.0 == 0 || peer.local_asn.0 == 0 {
            return Err(value("an AS number", &0, "1 to 4294967295"));
        }
        if peer.reflector_client && peer.is_ebgp() {
            let allowed = "only with peers of our own AS";
            return Err(value("being a reflector's client", &"eBGP", allowed));
        }
        if peer.families.is_empty() {
            return Err(value(
                "the list of families",
                &"empty",
                "at least one family",
            ));
        }
        if peer.port == 0 {
            return Err(value("the port", &0, "1 to 65535"));
        }
        match (peer.ttl, peer.ttl_security) {
            (0, _) => return Err(value("the TTL", &0, "1 to 255")),
            (_, Some(hops @ (0 | 255))) => {
                return Err(value("the hops of TTL security", &hops, "1 to 254"));
            }
            (255, _) | (_, None) => {}
            (ttl, _) => return Err(value("the TTL", &ttl, "255 with TTL security")),
        }
        if let Some(authentication) = &peer.authentication {
            authentication.check(&by)?;
        }
        if let Some(limits) = peer.max_prefixes {
            if !(1..=100).contains(&limits.warn_at_percent) {
                let found = &limits.warn_at_percent;
                return Err(value("the prefix limits' warning", found, "1 to 100 %"));
            }
            if limits.restart_seconds == Some(0) {
                let allowed = "at least 1 s, or never";
                return Err(value("the prefix limits' restart time", &0, allowed));
            }
        }
        if let Some(restart) = peer.graceful_restart {
            let most = crate::message::GracefulRestart::MAX_SECONDS;
            if !(1..=most).contains(&restart.restart_seconds) {
                let found = &restart.restart_seconds;
                return Err(value("the restart time", found, "1 to 4095 s"));
            }
            if restart.stale_seconds == 0 {
                return Err(value("the stale time", &0, "at least 1 s"));
            }
            if let Some(long_lived) = restart.long_lived {
                let most = crate::message::LongLived::MAX_SECONDS;
                let found = &long_lived.stale_seconds;
                if !(1..=most).contains(found) {
                    return Err(value("the long-lived stale time", found, "1 to 16777215 s"));
                }
                if long_lived.at_most_seconds == Some(0) {
                    let allowed = "at least 1 s, or none";
                    return Err(value("the most of a long-lived stale time", &0, allowed));
                }
                if long_lived.tell_unaware && peer.is_ebgp() {
                    let allowed = "only with peers of our own AS";
                    return Err(value("telling long-lived stale routes", &"eBGP", allowed));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn unique<T: Ord + std::fmt::Display>(
    kind: &str,
    names: impl Iterator<Item = T>,
) -> Result<(), ConfigError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(ConfigError::Twice {
                kind: kind.to_owned(),
                name: name.to_string(),
            });
        }
        seen.insert(name);
    }
    Ok(())
}

fn named<'a>(
    by: &str,
    kind: &'static str,
    mut names: impl Iterator<Item = &'a String>,
    exists: impl Fn(&String) -> bool,
) -> Result<(), ConfigError> {
    match names.find(|name| !exists(name)) {
        Some(name) => Err(ConfigError::Missing {
            by: by.to_owned(),
            kind,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

//! [`NodeConfig`] to and from the gRPC contract (`proto/routeshare/controller/v1/config.proto`).
//!
//! Nothing is lost on the way there and back. What comes from the wire is checked field by field and
//! then as a whole ([`bgp::config::Config::check`]), so that a speaker never acts on a half-understood
//! configuration.

use std::fmt::Display;
use std::str::FromStr;

use api::AnyCommunity;
use bgp::config::{
    Action, Advertisement, Config, DecisionConfig, GracefulRestart, LimitAction, LongLived, Match,
    NextHopMode, Origin, Originated, PeerConfig, Policy, PrefixLimits, PrefixMatch, Rule, Set,
    Source, Timers,
};
use bgp::types::{Asn, Family, Prefix, RouterId};
use proto::controller::v1 as pb;

mod bfd;
mod keys;
mod masquerade;
mod names;
mod pods;
pub mod routes;

pub use bfd::session as bfd_session;

use crate::{KernelConfig, NodeConfig, PodsConfig};

/// Why a message is no [`NodeConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field holds what it must not.
    #[error("{field}: found {found}; allowed: {allowed}")]
    Field {
        /// Its path, such as `peers[2].hold_seconds`.
        field: String,
        /// As received.
        found: String,
        /// In words.
        allowed: &'static str,
    },
    /// The fields do not fit together.
    #[error("the configuration contradicts itself")]
    Config(#[from] bgp::config::ConfigError),
}

/// What is sent.
pub fn to_proto(config: &NodeConfig) -> pb::NodeConfig {
    let bgp = &config.bgp;
    pb::NodeConfig {
        node: config.node.clone(),
        version: config.version,
        asn: bgp.asn.0,
        router_id: bgp.router_id.to_string(),
        listen_port: config.listen_port.into(),
        subnets: config.subnets.iter().map(pods::subnet_to_proto).collect(),
        peers: bgp.peers.iter().map(peer_to_proto).collect(),
        policies: bgp.policies.iter().map(policy_to_proto).collect(),
        advertisements: bgp
            .advertisements
            .iter()
            .map(|advertisement| pb::Advertisement {
                name: advertisement.name.clone(),
                peers: advertisement.peers.clone(),
                set: advertisement.set.iter().map(set_to_proto).collect(),
            })
            .collect(),
        originate: bgp
            .originate
            .iter()
            .map(|originated| pb::Originated {
                prefix: originated.prefix.to_string(),
                advertisements: originated.advertisements.clone(),
            })
            .collect(),
        decision: Some(pb::Decision {
            always_compare_med: bgp.decision.always_compare_med,
            deterministic_med: bgp.decision.deterministic_med,
            compare_router_id: bgp.decision.compare_router_id,
            max_paths: bgp.decision.max_paths.into(),
            multipath_different_as: bgp.decision.multipath_different_as,
            backup_paths: bgp.decision.backup_paths,
        }),
        kernel: Some(pb::Kernel {
            table: config.kernel.table,
            protocol: config.kernel.protocol.into(),
            metric: config.kernel.metric,
            install: config.kernel.install,
        }),
        bfd: config.bfd.iter().map(bfd::to_proto).collect(),
        cluster_id: bgp.cluster_id.map(|it| it.to_string()).unwrap_or_default(),
        masquerade: config.masquerade.as_ref().map(masquerade::to_proto),
        pods: Some(pods::to_proto(&config.pods)),
    }
}

fn peer_to_proto(peer: &PeerConfig) -> pb::PeerConfig {
    pb::PeerConfig {
        name: peer.name.clone(),
        description: peer.description.clone(),
        address: peer.address.to_string(),
        port: peer.port.into(),
        local_address: peer
            .local_address
            .map(|it| it.to_string())
            .unwrap_or_default(),
        local_asn: peer.local_asn.0,
        remote_asn: peer.remote_asn.0,
        passive: peer.passive,
        shutdown: peer.shutdown.clone(),
        ttl: peer.ttl.into(),
        ttl_security: peer.ttl_security.map(Into::into),
        md5_key_file: keys::md5_file(peer.authentication.as_ref()),
        ao_keys: keys::ao_keys(peer.authentication.as_ref()),
        families: texts(&peer.families),
        extended_next_hop: peer.extended_next_hop,
        max_prefixes: peer.max_prefixes.map(|limits| pb::PrefixLimits {
            ipv4: limits.ipv4,
            ipv6: limits.ipv6,
            warn_at_percent: limits.warn_at_percent.into(),
            action: match limits.action {
                LimitAction::Drop => "Drop".into(),
                LimitAction::Warn => "Warn".into(),
            },
            restart_seconds: limits.restart_seconds,
        }),
        hold_seconds: peer.timers.hold.into(),
        keepalive_seconds: peer.timers.keepalive.into(),
        connect_retry_seconds: peer.timers.connect_retry.into(),
        import: peer.import.clone(),
        export: peer.export.clone(),
        next_hop: match peer.next_hop {
            NextHopMode::Auto => "Auto".into(),
            NextHopMode::Self_ => "Self".into(),
            NextHopMode::Unchanged => "Unchanged".into(),
        },
        allow_own_as: peer.allow_own_as.into(),
        reflector_client: peer.reflector_client,
        graceful_restart: peer.graceful_restart.map(|it| pb::GracefulRestart {
            restart_seconds: it.restart_seconds.into(),
            stale_seconds: it.stale_seconds.into(),
            long_lived: it.long_lived.map(|it| pb::LongLived {
                stale_seconds: it.stale_seconds,
                at_most_seconds: it.at_most_seconds,
                tell_unaware: it.tell_unaware,
            }),
        }),
    }
}

fn policy_to_proto(policy: &Policy) -> pb::Policy {
    let rule = |rule: &Rule| pb::Rule {
        name: rule.name.clone(),
        r#match: Some(match_to_proto(&rule.matches)),
        action: match rule.action {
            Action::Accept => "Accept".into(),
            Action::Reject => "Reject".into(),
            Action::Continue => "Continue".into(),
        },
        set: rule.set.iter().map(set_to_proto).collect(),
    };
    pb::Policy {
        name: policy.name.clone(),
        rules: policy.rules.iter().map(rule).collect(),
    }
}

fn match_to_proto(matches: &Match) -> pb::Match {
    let numbers = |asns: &[Asn]| asns.iter().map(|asn| asn.0).collect();
    let source = |source: &Source| match source {
        Source::Local => "Local".to_owned(),
        Source::Ebgp => "Ebgp".to_owned(),
        Source::Ibgp => "Ibgp".to_owned(),
    };
    pb::Match {
        prefixes: matches
            .prefixes
            .iter()
            .map(|it| pb::PrefixMatch {
                prefix: it.prefix.to_string(),
                min_length: it.min_length.into(),
                max_length: it.max_length.into(),
            })
            .collect(),
        communities: texts(&matches.communities),
        large_communities: texts(&matches.large_communities),
        extended_communities: texts(&matches.extended_communities),
        as_path_contains: numbers(&matches.as_path_contains),
        neighbor_asns: numbers(&matches.neighbor_asns),
        origin_asns: numbers(&matches.origin_asns),
        as_path_min_length: matches.as_path_min_length,
        as_path_max_length: matches.as_path_max_length,
        sources: matches.sources.iter().map(source).collect(),
        advertisements: matches.advertisements.clone(),
        peers: matches.peers.clone(),
        families: texts(&matches.families),
    }
}

fn set_to_proto(set: &Set) -> pb::SetAction {
    use pb::set_action::Action as Wire;
    let action = match set {
        Set::LocalPreference(value) => Wire::LocalPreference(*value),
        Set::Med(Some(value)) => Wire::Med(*value),
        Set::Med(None) => Wire::RemoveMed(true),
        Set::AddCommunity(it) => Wire::AddCommunity(it.to_string()),
        Set::AddLargeCommunity(it) => Wire::AddCommunity(it.to_string()),
        Set::AddExtendedCommunity(it) => Wire::AddCommunity(it.to_string()),
        Set::RemoveCommunity(it) => Wire::RemoveCommunity(it.to_string()),
        Set::RemoveLargeCommunity(it) => Wire::RemoveCommunity(it.to_string()),
        Set::RemoveExtendedCommunity(it) => Wire::RemoveCommunity(it.to_string()),
        Set::ClearCommunities => Wire::ClearCommunities(true),
        Set::Prepend { asn, count } => Wire::Prepend(pb::Prepend {
            asn: asn.0,
            count: (*count).into(),
        }),
        Set::NextHopSelf => Wire::NextHop("self".into()),
        Set::NextHop(address) => Wire::NextHop(address.to_string()),
        Set::Origin(origin) => Wire::Origin(
            match origin {
                Origin::Igp => "igp",
                Origin::Egp => "egp",
                Origin::Incomplete => "incomplete",
            }
            .into(),
        ),
    };
    pb::SetAction {
        action: Some(action),
    }
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// What was received, checked.
///
/// # Errors
///
/// [`WireError`] names the first field that is wrong, or what contradicts what.
pub fn from_proto(config: pb::NodeConfig) -> Result<NodeConfig, WireError> {
    if config.node.is_empty() {
        return Err(wrong("node", "nothing", "the node's name"));
    }
    let decision = present(config.decision, "decision")?;
    let kernel = present(config.kernel, "kernel")?;
    let subnets = each("subnets", config.subnets, pods::subnet_from_proto)?;
    let bgp = Config {
        asn: asn("asn", config.asn)?,
        router_id: RouterId(text("router_id", &config.router_id, "an IPv4 address")?),
        cluster_id: match config.cluster_id.as_str() {
            "" => None,
            id => Some(text("cluster_id", id, "an IPv4 address or nothing")?),
        },
        peers: each("peers", config.peers, peer_from_proto)?,
        policies: each("policies", config.policies, |at, policy| {
            Ok(Policy {
                name: policy.name,
                rules: each(&format!("{at}.rules"), policy.rules, rule_from_proto)?,
            })
        })?,
        advertisements: each("advertisements", config.advertisements, |at, it| {
            Ok(Advertisement {
                name: it.name,
                peers: it.peers,
                set: each(&format!("{at}.set"), it.set, set_from_proto)?,
            })
        })?,
        originate: each("originate", config.originate, |at, it| {
            Ok(Originated {
                prefix: text(&format!("{at}.prefix"), &it.prefix, "a prefix")?,
                advertisements: it.advertisements,
            })
        })?,
        decision: DecisionConfig {
            always_compare_med: decision.always_compare_med,
            deterministic_med: decision.deterministic_med,
            compare_router_id: decision.compare_router_id,
            max_paths: number("decision.max_paths", decision.max_paths, "1 to 65535")?,
            multipath_different_as: decision.multipath_different_as,
            backup_paths: decision.backup_paths,
        },
        own_subnets: subnets.iter().map(|subnet| subnet.prefix).collect(),
    };
    bgp.check()?;
    Ok(NodeConfig {
        node: config.node,
        version: config.version,
        bgp,
        listen_port: number("listen_port", config.listen_port, "1 to 65535")?,
        subnets,
        kernel: KernelConfig {
            table: kernel.table,
            protocol: number("kernel.protocol", kernel.protocol, "0 to 255")?,
            metric: kernel.metric,
            install: kernel.install,
        },
        pods: config
            .pods
            .map_or_else(|| Ok(PodsConfig::default()), pods::from_proto)?,
        bfd: each("bfd", config.bfd, bfd::from_proto)?,
        masquerade: config.masquerade.map(masquerade::from_proto).transpose()?,
    })
}

fn peer_from_proto(at: &str, peer: pb::PeerConfig) -> Result<PeerConfig, WireError> {
    let field = |name: &str| format!("{at}.{name}");
    let u16_of = |name: &str, value| number(&field(name), value, "0 to 65535");
    let u8_of = |name: &str, value| number(&field(name), value, "0 to 255");
    Ok(PeerConfig {
        name: peer.name,
        description: peer.description,
        address: text(&field("address"), &peer.address, "an IP address")?,
        port: u16_of("port", peer.port)?,
        local_address: match peer.local_address.as_str() {
            "" => None,
            address => Some(text(
                &field("local_address"),
                address,
                "an IP address or nothing",
            )?),
        },
        local_asn: asn(&field("local_asn"), peer.local_asn)?,
        remote_asn: asn(&field("remote_asn"), peer.remote_asn)?,
        passive: peer.passive,
        shutdown: peer.shutdown,
        ttl: u8_of("ttl", peer.ttl)?,
        ttl_security: (peer.ttl_security)
            .map(|hops| u8_of("ttl_security", hops))
            .transpose()?,
        authentication: keys::from_proto(at, peer.md5_key_file, peer.ao_keys)?,
        families: each(&field("families"), peer.families, family_from_proto)?,
        extended_next_hop: peer.extended_next_hop,
        max_prefixes: (peer.max_prefixes)
            .map(|limits| limits_from_proto(&field("max_prefixes"), &limits))
            .transpose()?,
        timers: Timers {
            hold: u16_of("hold_seconds", peer.hold_seconds)?,
            keepalive: u16_of("keepalive_seconds", peer.keepalive_seconds)?,
            connect_retry: u16_of("connect_retry_seconds", peer.connect_retry_seconds)?,
        },
        import: peer.import,
        export: peer.export,
        next_hop: match peer.next_hop.as_str() {
            "Auto" => NextHopMode::Auto,
            "Self" => NextHopMode::Self_,
            "Unchanged" => NextHopMode::Unchanged,
            other => {
                return Err(wrong(
                    field("next_hop"),
                    quoted(other),
                    "Auto, Self or Unchanged",
                ));
            }
        },
        allow_own_as: u8_of("allow_own_as", peer.allow_own_as)?,
        reflector_client: peer.reflector_client,
        graceful_restart: (peer.graceful_restart)
            .map(|it| {
                let of = |name: &str, value| u16_of(&format!("graceful_restart.{name}"), value);
                Ok::<_, WireError>(GracefulRestart {
                    restart_seconds: of("restart_seconds", it.restart_seconds)?,
                    stale_seconds: of("stale_seconds", it.stale_seconds)?,
                    long_lived: it.long_lived.map(|it| LongLived {
                        stale_seconds: it.stale_seconds,
                        at_most_seconds: it.at_most_seconds,
                        tell_unaware: it.tell_unaware,
                    }),
                })
            })
            .transpose()?,
    })
}

fn limits_from_proto(at: &str, limits: &pb::PrefixLimits) -> Result<PrefixLimits, WireError> {
    let percent = format!("{at}.warn_at_percent");
    Ok(PrefixLimits {
        ipv4: limits.ipv4,
        ipv6: limits.ipv6,
        warn_at_percent: number(&percent, limits.warn_at_percent, "0 to 255")?,
        action: match limits.action.as_str() {
            "Drop" => LimitAction::Drop,
            "Warn" => LimitAction::Warn,
            other => {
                return Err(wrong(format!("{at}.action"), quoted(other), "Drop or Warn"));
            }
        },
        restart_seconds: limits.restart_seconds,
    })
}

fn rule_from_proto(at: &str, rule: pb::Rule) -> Result<Rule, WireError> {
    let field = |name: &str| format!("{at}.{name}");
    Ok(Rule {
        name: rule.name,
        matches: match_from_proto(&field("match"), present(rule.r#match, &field("match"))?)?,
        action: match rule.action.as_str() {
            "Accept" => Action::Accept,
            "Reject" => Action::Reject,
            "Continue" => Action::Continue,
            other => {
                return Err(wrong(
                    field("action"),
                    quoted(other),
                    "Accept, Reject or Continue",
                ));
            }
        },
        set: each(&field("set"), rule.set, set_from_proto)?,
    })
}

fn match_from_proto(at: &str, matches: pb::Match) -> Result<Match, WireError> {
    let field = |name: &str| format!("{at}.{name}");
    let asns = |numbers: Vec<u32>| numbers.into_iter().map(Asn).collect();
    Ok(Match {
        prefixes: each(&field("prefixes"), matches.prefixes, prefix_from_proto)?,
        families: each(&field("families"), matches.families, family_from_proto)?,
        communities: each_text(&field("communities"), matches.communities, "65000:1")?,
        large_communities: each_text(
            &field("large_communities"),
            matches.large_communities,
            "65000:1:2",
        )?,
        extended_communities: each_text(
            &field("extended_communities"),
            matches.extended_communities,
            "rt:65000:1",
        )?,
        as_path_contains: asns(matches.as_path_contains),
        neighbor_asns: asns(matches.neighbor_asns),
        origin_asns: asns(matches.origin_asns),
        as_path_min_length: matches.as_path_min_length,
        as_path_max_length: matches.as_path_max_length,
        sources: each(
            &field("sources"),
            matches.sources,
            |at, source| match source.as_str() {
                "Local" => Ok(Source::Local),
                "Ebgp" => Ok(Source::Ebgp),
                "Ibgp" => Ok(Source::Ibgp),
                other => Err(wrong(at, quoted(other), "Local, Ebgp or Ibgp")),
            },
        )?,
        advertisements: matches.advertisements,
        peers: matches.peers,
    })
}

fn prefix_from_proto(at: &str, it: pb::PrefixMatch) -> Result<PrefixMatch, WireError> {
    let prefix: Prefix = text(&format!("{at}.prefix"), &it.prefix, "a prefix")?;
    let longest = match prefix.family() {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    };
    let own = u32::from(prefix.length());
    if !(own <= it.min_length && it.min_length <= it.max_length && it.max_length <= longest) {
        return Err(wrong(
            at,
            format!(
                "{prefix} with lengths {} to {}",
                it.min_length, it.max_length
            ),
            "the prefix's length ≤ min_length ≤ max_length ≤ 32 (IPv4) or 128 (IPv6)",
        ));
    }
    Ok(PrefixMatch {
        prefix,
        min_length: number(at, it.min_length, "0 to 128")?,
        max_length: number(at, it.max_length, "0 to 128")?,
    })
}

fn set_from_proto(at: &str, set: pb::SetAction) -> Result<Set, WireError> {
    use pb::set_action::Action as Wire;
    let community = |name: &str, value: &str| -> Result<AnyCommunity, WireError> {
        let allowed = "65000:1, 65000:1:2 or rt:65000:1";
        text(&format!("{at}.{name}"), value, allowed)
    };
    let on = |name: &str, value: bool, set: Set| match value {
        true => Ok(set),
        false => Err(wrong(format!("{at}.{name}"), "false", "true")),
    };
    match present(set.action, at)? {
        Wire::LocalPreference(value) => Ok(Set::LocalPreference(value)),
        Wire::Med(value) => Ok(Set::Med(Some(value))),
        Wire::RemoveMed(value) => on("remove_med", value, Set::Med(None)),
        Wire::AddCommunity(value) => Ok(match community("add_community", &value)? {
            AnyCommunity::Standard(it) => Set::AddCommunity(it),
            AnyCommunity::Large(it) => Set::AddLargeCommunity(it),
            AnyCommunity::Extended(it) => Set::AddExtendedCommunity(it),
        }),
        Wire::RemoveCommunity(value) => Ok(match community("remove_community", &value)? {
            AnyCommunity::Standard(it) => Set::RemoveCommunity(it),
            AnyCommunity::Large(it) => Set::RemoveLargeCommunity(it),
            AnyCommunity::Extended(it) => Set::RemoveExtendedCommunity(it),
        }),
        Wire::ClearCommunities(value) => on("clear_communities", value, Set::ClearCommunities),
        Wire::Prepend(prepend) => {
            let field = format!("{at}.prepend.count");
            if !(1..=20).contains(&prepend.count) {
                return Err(wrong(field, prepend.count, "1 to 20"));
            }
            Ok(Set::Prepend {
                asn: asn(&format!("{at}.prepend.asn"), prepend.asn)?,
                count: number(&field, prepend.count, "1 to 20")?,
            })
        }
        Wire::NextHop(value) if value == "self" => Ok(Set::NextHopSelf),
        Wire::NextHop(value) => {
            let field = format!("{at}.next_hop");
            text(&field, &value, "`self` or an IP address").map(Set::NextHop)
        }
        Wire::Origin(value) => match value.as_str() {
            "igp" => Ok(Set::Origin(Origin::Igp)),
            "egp" => Ok(Set::Origin(Origin::Egp)),
            "incomplete" => Ok(Set::Origin(Origin::Incomplete)),
            other => Err(wrong(
                format!("{at}.origin"),
                quoted(other),
                "igp, egp or incomplete",
            )),
        },
    }
}

fn family_from_proto(at: &str, family: String) -> Result<Family, WireError> {
    match family.as_str() {
        "IPv4" => Ok(Family::Ipv4),
        "IPv6" => Ok(Family::Ipv6),
        other => Err(wrong(at, quoted(other), "IPv4 or IPv6")),
    }
}

fn each<I, O>(
    at: &str,
    items: Vec<I>,
    convert: impl Fn(&str, I) -> Result<O, WireError>,
) -> Result<Vec<O>, WireError> {
    let items = items.into_iter().enumerate();
    items
        .map(|(index, item)| convert(&format!("{at}[{index}]"), item))
        .collect()
}

fn each_text<T: FromStr>(
    at: &str,
    items: Vec<String>,
    allowed: &'static str,
) -> Result<Vec<T>, WireError> {
    each(at, items, |at, item| text(at, &item, allowed))
}

fn text<T: FromStr>(field: &str, value: &str, allowed: &'static str) -> Result<T, WireError> {
    value
        .parse()
        .map_err(|_| wrong(field, quoted(value), allowed))
}

fn number<T: TryFrom<u32>>(field: &str, value: u32, allowed: &'static str) -> Result<T, WireError> {
    T::try_from(value).map_err(|_| wrong(field, value, allowed))
}

fn asn(field: &str, value: u32) -> Result<Asn, WireError> {
    match value {
        0 => Err(wrong(field, 0, "an AS number from 1 to 4294967295")),
        value => Ok(Asn(value)),
    }
}

fn present<T>(value: Option<T>, field: &str) -> Result<T, WireError> {
    value.ok_or_else(|| wrong(field, "nothing", "the field must be set"))
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}

fn wrong(field: impl Into<String>, found: impl Display, allowed: &'static str) -> WireError {
    WireError::Field {
        field: field.into(),
        found: found.to_string(),
        allowed,
    }
}

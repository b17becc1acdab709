//! One node's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::{
    AsNumber, AsnSource, GracefulRestartSpec, LimitActionSpec, LocalAddress, LongLivedSpec,
    MaxPrefixes, NextHopSpec, Node, NodeText, Peer, PeerSpec, RestartSeconds, SecretKey,
    TcpAoAlgorithm, TimersSpec, UnawarePeers,
};
use bgp::config::{
    Advertisement, AoAlgorithm, AoKey, Authentication, Config, DecisionConfig, GracefulRestart,
    KeySource, LimitAction, LongLived, NextHopMode, Originated, PeerConfig, Policy, PrefixLimits,
    Timers,
};
use bgp::types::{Asn, Prefix, RouterId};

use crate::topology::Generated;
use crate::wanted::{node_key, rack_key};
use crate::{
    BfdSession, KernelConfig, NodeConfig, PodsConfig, Snapshot, Subnet, bfd, masquerade, policy,
    subnets,
};

/// A session, and what selectors look at.
pub(crate) struct Planned {
    pub(crate) metadata: api::Metadata,
    pub(crate) config: PeerConfig,
    pub(crate) bfd: Option<BfdSession>,
}

/// What is found out once for all nodes.
#[derive(Clone, Copy)]
pub(crate) struct ForAll<'a> {
    /// Sessions of the topology.
    pub(crate) generated: Option<&'a Generated<'a>>,
    /// See [`crate::Masquerade::direct`].
    pub(crate) direct: Option<&'a Arc<[Prefix]>>,
}

/// The configuration of `node`; `None` when it cannot have one. What is wrong goes to `problems`.
pub(crate) fn config(
    snapshot: &Snapshot,
    for_all: ForAll<'_>,
    node: &Node,
    problems: &mut Vec<String>,
) -> Option<NodeConfig> {
    let generated = for_all.generated;
    let resources = &snapshot.resources;
    let fabric = &resources.fabric.spec;
    let asn = own_asn(snapshot, node)
        .map_err(|reason| problems.push(reason))
        .ok()?;
    let router_id = router_id(node);
    let subnets = subnets::of(snapshot, node, problems);

    let mut peers = Vec::new();
    for peer in resources.peers.values() {
        if !peer.spec.node_selector.selects(&node.metadata) {
            continue;
        }
        match session(snapshot, node, peer, asn) {
            Ok(config) => peers.push(Planned {
                metadata: peer.metadata.clone(),
                bfd: bfd::session(peer.spec.bfd.as_ref(), fabric.bfd.as_ref(), &config),
                config,
            }),
            Err(reason) => problems.push(format!(
                "no session with Peer `{}`: {reason}",
                peer.metadata.name
            )),
        }
    }
    if let Some(generated) = generated {
        peers.extend(generated.peers(snapshot, node, asn, problems));
    }
    drop_double_addresses(&mut peers, problems);

    let (advertisements, originate) = advertised(snapshot, generated, node, &subnets, &peers, asn);
    let policies = policies(snapshot, generated, &peers, asn);
    let is_reflector = generated.is_some_and(|generated| generated.reflects(node));
    let of_all = (fabric.reflectors.as_ref()).and_then(|reflectors| reflectors.cluster_id);
    let bfd = peers.iter().filter_map(|peer| peer.bfd.clone()).collect();
    let bgp = Config {
        asn,
        router_id,
        cluster_id: of_all.filter(|_| is_reflector),
        peers: peers.into_iter().map(|peer| peer.config).collect(),
        policies,
        advertisements,
        originate,
        decision: DecisionConfig {
            always_compare_med: fabric.decision.always_compare_med,
            deterministic_med: fabric.decision.deterministic_med,
            compare_router_id: fabric.decision.compare_router_id,
            max_paths: fabric.decision.max_paths.get(),
            multipath_different_as: fabric.decision.multipath_different_as,
            backup_paths: fabric.decision.backup_paths,
        },
        own_subnets: subnets.iter().map(|subnet| subnet.prefix).collect(),
    };
    if let Err(error) = bgp.check() {
        problems.push(format!("no configuration: {error}"));
        return None;
    }
    let masquerade = masquerade::masquerade(snapshot, for_all.direct, node, &subnets);
    Some(NodeConfig {
        node: node.metadata.name.clone(),
        version: 0,
        bgp,
        listen_port: fabric.listen_port.get(),
        subnets,
        kernel: KernelConfig {
            table: fabric.kernel.table.get(),
            protocol: fabric.kernel.protocol.get(),
            metric: fabric.kernel.metric.get(),
            install: fabric.kernel.install,
        },
        pods: PodsConfig::from(&fabric.pods),
        bfd,
        masquerade,
    })
}

/// The node's AS number, or why it has none.
pub(crate) fn own_asn(snapshot: &Snapshot, node: &Node) -> Result<Asn, String> {
    if let Some(asn) = node.spec.asn {
        return Ok(asn.get());
    }
    let given = |key: &str| snapshot.numbers.get(key).copied();
    match &snapshot.resources.fabric.spec.asn {
        AsnSource::Value(asn) => Ok(asn.get()),
        AsnSource::PerNode(per_node) => given(&node_key(&node.metadata.name)).ok_or_else(|| {
            format!(
                "no AS number: none was given out of Fabric spec.asn.perNode.range {}; the range may be \
                 full, or there is no controller to give one out: say Node spec.asn",
                per_node.range
            )
        }),
        AsnSource::PerRack(per_rack) => {
            let label = &per_rack.label;
            let Some(rack) = node.metadata.labels.get(label) else {
                return Err(format!(
                    "no AS number: the node has no label `{label}`, by which Fabric spec.asn.perRack finds \
                     it; add the label, or say Node spec.asn"
                ));
            };
            if per_rack.is_in_label() {
                let asn = AsNumber::read(rack).map(AsNumber::get);
                return asn.map_err(|why| {
                    format!(
                        "no AS number: Fabric spec.asn.perRack, without values and range, looks for it in \
                         the node's label `{label}`, which is `{rack}` and {why}"
                    )
                });
            }
            let listed = per_rack.values.get(rack).map(|asn| asn.get());
            listed.or_else(|| given(&rack_key(rack))).ok_or_else(|| match per_rack.range {
                Some(range) => format!(
                    "no AS number: none was given out of Fabric spec.asn.perRack.range {range} for \
                     {label} `{rack}`; the range may be full, or there is no controller to give one out"
                ),
                None => format!(
                    "no AS number: Fabric spec.asn.perRack.values does not list {label} `{rack}`; it \
                     lists {}",
                    listed_names(per_rack.values.keys())
                ),
            })
        }
    }
}

/// What the node says, else its first IPv4 address, else a number made of its name.
pub(crate) fn router_id(node: &Node) -> RouterId {
    let first_ipv4 = node
        .spec
        .addresses
        .iter()
        .find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
    RouterId(node.spec.router_id.or(first_ipv4).unwrap_or_else(|| {
        // FNV-1a: stable over versions and machines, which the standard hasher does not promise.
        let hash = node
            .metadata
            .name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
        Ipv4Addr::from(hash.max(1))
    }))
}

fn session(snapshot: &Snapshot, node: &Node, peer: &Peer, asn: Asn) -> Result<PeerConfig, String> {
    let spec = &peer.spec;
    let address = match (spec.address, &spec.address_from) {
        (Some(address), _) => address,
        (None, Some(from)) => (from.get(&node.metadata))
            .map_err(|why| format!("spec.addressFrom finds no address: {why}"))?,
        (None, None) => return Err("it says neither spec.address nor spec.addressFrom".into()),
    };
    let remote_asn = match (spec.remote_asn, &spec.remote_asn_from) {
        (Some(asn), _) => asn.get(),
        (None, Some(from)) => (from.get(&node.metadata))
            .map_err(|why| format!("spec.remoteAsnFrom finds no AS number: {why}"))?
            .get(),
        (None, None) => return Err("it says neither spec.remoteAsn nor spec.remoteAsnFrom".into()),
    };
    if node.spec.addresses.contains(&address) {
        return Err(format!(
            "its address {address} is the node's own; narrow spec.nodeSelector so that it leaves this \
             node out"
        ));
    }
    if spec.reflector_client && remote_asn != asn {
        return Err(format!(
            "spec.reflectorClient is for peers of our own AS, but the node's number is {asn} and the other \
             side's {remote_asn}"
        ));
    }
    let default_ttl = if remote_asn == asn { 255 } else { 1 };
    Ok(PeerConfig {
        name: peer.metadata.name.clone(),
        description: spec.description.clone(),
        address,
        port: spec.port.get(),
        local_address: local_address(node, spec.local_address, address)?,
        local_asn: asn,
        remote_asn,
        passive: spec.passive,
        shutdown: spec
            .shutdown
            .as_ref()
            .map(|shutdown| shutdown.message.clone()),
        ttl: match spec.ttl_security {
            Some(_) => 255,
            None => spec.ttl.map_or(default_ttl, |ttl| ttl.get()),
        },
        ttl_security: spec.ttl_security.map(|it| it.hops.get()),
        authentication: authentication(spec),
        families: spec
            .families
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        extended_next_hop: spec.extended_next_hop,
        max_prefixes: spec.max_prefixes.map(prefix_limits),
        timers: timers(spec.timers, snapshot.resources.fabric.spec.timers),
        import: spec.import.clone(),
        export: spec.export.clone(),
        next_hop: match spec.next_hop {
            NextHopSpec::Auto => NextHopMode::Auto,
            NextHopSpec::Self_ => NextHopMode::Self_,
            NextHopSpec::Unchanged => NextHopMode::Unchanged,
        },
        allow_own_as: spec.allow_own_as.get(),
        reflector_client: spec.reflector_client,
        graceful_restart: graceful_restart(
            spec.graceful_restart,
            snapshot.resources.fabric.spec.graceful_restart,
            remote_asn != asn,
        ),
    })
}

fn authentication(spec: &PeerSpec) -> Option<Authentication> {
    if let Some(tcp_ao) = &spec.tcp_ao {
        let keys = tcp_ao.keys.iter().map(|key| AoKey {
            send_id: key.send_id.get(),
            receive_id: key.receive_id.get(),
            algorithm: match key.algorithm {
                TcpAoAlgorithm::HmacSha1 => AoAlgorithm::HmacSha1,
                TcpAoAlgorithm::Aes128Cmac => AoAlgorithm::Aes128Cmac,
            },
            key: key_source(key.file.as_deref(), key.secret.as_ref()),
        });
        let keys = keys.collect();
        return Some(Authentication::Ao { keys });
    }
    let password = spec.password.as_ref()?;
    let key = key_source(password.file.as_deref(), password.secret.as_ref());
    Some(Authentication::Md5 { key })
}

/// Where a key is: in one of the two, as `api` has checked.
pub(crate) fn key_source(file: Option<&str>, secret: Option<&SecretKey>) -> KeySource {
    match secret {
        Some(SecretKey { name, key }) => KeySource::Secret {
            name: name.clone(),
            key: key.clone(),
        },
        None => KeySource::File(file.unwrap_or_default().to_owned()),
    }
}

fn prefix_limits(spec: MaxPrefixes) -> PrefixLimits {
    PrefixLimits {
        ipv4: spec.ipv4.map(|limit| limit.get()),
        ipv6: spec.ipv6.map(|limit| limit.get()),
        warn_at_percent: spec.warn_at_percent.get(),
        action: match spec.action {
            LimitActionSpec::Drop => LimitAction::Drop,
            LimitActionSpec::Warn => LimitAction::Warn,
        },
        restart_seconds: match spec.restart_seconds {
            RestartSeconds::After(seconds) => Some(seconds.get()),
            RestartSeconds::Never => None,
        },
    }
}

/// Our side of a session with `remote`: of the node's addresses where those are known.
fn local_address(
    node: &Node,
    wanted: Option<LocalAddress>,
    remote: IpAddr,
) -> Result<Option<IpAddr>, String> {
    let own = &node.spec.addresses;
    let has = || match own.is_empty() {
        true => "no spec.addresses at all".to_owned(),
        false => listed_names(own.iter()),
    };
    let address = match wanted {
        None => return Ok(None),
        Some(LocalAddress::Address(address)) if own.is_empty() || own.contains(&address) => address,
        Some(LocalAddress::Address(address)) => {
            return Err(format!(
                "spec.localAddress {address} is none of the node's addresses; it has {}",
                has()
            ));
        }
        Some(LocalAddress::Within(prefix)) => {
            let inside = |address: &&IpAddr| prefix.contains(Prefix::new(**address, 128));
            let found: Vec<&IpAddr> = own.iter().filter(inside).collect();
            match found.as_slice() {
                [address] => **address,
                [] => {
                    return Err(format!(
                        "spec.localAddress: none of the node's addresses is in {prefix}; it has {}",
                        has()
                    ));
                }
                several => {
                    return Err(format!(
                        "spec.localAddress: several of the node's addresses are in {prefix}: {}; say a \
                         longer prefix",
                        listed_names(several.iter())
                    ));
                }
            }
        }
    };
    if address.is_ipv4() != remote.is_ipv4() {
        return Err(format!(
            "spec.localAddress {address} and the peer's address {remote} are of different families"
        ));
    }
    Ok(Some(address))
}

/// The peer's timers, then the Fabric's, then the defaults.
pub(crate) fn timers(own: TimersSpec, fabric: TimersSpec) -> Timers {
    let defaults = Timers::default();
    let hold = own
        .hold_seconds
        .or(fabric.hold_seconds)
        .map_or(defaults.hold, |it| it.get());
    let keepalive = own.keepalive_seconds.or(fabric.keepalive_seconds);
    let third = match hold {
        0 => defaults.keepalive,
        hold => (hold / 3).max(1),
    };
    Timers {
        hold,
        keepalive: keepalive.map_or(third, |it| it.get()),
        connect_retry: own
            .connect_retry_seconds
            .or(fabric.connect_retry_seconds)
            .map_or(defaults.connect_retry, |it| it.get()),
    }
}

/// What the peer says, then the Fabric, then the defaults: on.
pub(crate) fn graceful_restart(
    own: GracefulRestartSpec,
    fabric: GracefulRestartSpec,
    ebgp: bool,
) -> Option<GracefulRestart> {
    let defaults = GracefulRestart::default();
    let restart = own.restart_seconds.or(fabric.restart_seconds);
    let stale = own.stale_seconds.or(fabric.stale_seconds);
    let enabled = own.enabled.or(fabric.enabled).unwrap_or(true);
    let long_lived = long_lived(own.long_lived, fabric.long_lived, ebgp);
    enabled.then(|| GracefulRestart {
        restart_seconds: restart.map_or(defaults.restart_seconds, |it| it.get()),
        stale_seconds: stale.map_or(defaults.stale_seconds, |it| it.get()),
        long_lived,
    })
}

/// How long the other side is to keep our routes where no time is given: a day.
const LONG_LIVED_SECONDS: u32 = 86_400;

/// What the peer says, then the Fabric, then the defaults: off.
fn long_lived(own: LongLivedSpec, fabric: LongLivedSpec, ebgp: bool) -> Option<LongLived> {
    let enabled = own.says_on().or(fabric.says_on()).unwrap_or(false);
    let seconds = own.stale_seconds.or(fabric.stale_seconds);
    let unaware = own.unaware_peers.or(fabric.unaware_peers);
    enabled.then(|| LongLived {
        stale_seconds: seconds.map_or(LONG_LIVED_SECONDS, |it| it.get()),
        at_most_seconds: (own.at_most_seconds.or(fabric.at_most_seconds)).map(|it| it.get()),
        tell_unaware: unaware == Some(UnawarePeers::LastChoice) && !ebgp,
    })
}

/// Two sessions with one address cannot be told apart: the first one (by name) stays.
fn drop_double_addresses(peers: &mut Vec<Planned>, problems: &mut Vec<String>) {
    let mut first: BTreeMap<IpAddr, String> = BTreeMap::new();
    peers.retain(|peer| {
        let (name, address) = (&peer.config.name, peer.config.address);
        match first.get(&address) {
            Some(other) => {
                problems.push(format!(
                    "no session with Peer `{name}`: Peer `{other}` has the same address {address} on this \
                     node; remove one of them or narrow its spec.nodeSelector"
                ));
                false
            }
            None => {
                first.insert(address, name.clone());
                true
            }
        }
    });
}

/// What the node says of itself, and the prefixes meant.
fn advertised(
    snapshot: &Snapshot,
    generated: Option<&Generated<'_>>,
    node: &Node,
    subnets: &[Subnet],
    peers: &[Planned],
    asn: Asn,
) -> (Vec<Advertisement>, Vec<Originated>) {
    let mut advertisements = Vec::new();
    let mut originate: BTreeMap<Prefix, Vec<String>> = BTreeMap::new();
    for advertisement in snapshot.resources.advertisements.values() {
        let spec = &advertisement.spec;
        let name = &advertisement.metadata.name;
        if !spec.node_selector.selects(&node.metadata) {
            continue;
        }
        let hears = |peer: &&Planned| spec.peer_selector.selects(&peer.metadata);
        advertisements.push(Advertisement {
            name: name.clone(),
            peers: peers
                .iter()
                .filter(hears)
                .map(|peer| peer.config.name.clone())
                .collect(),
            set: policy::set(&spec.set, asn),
        });
        let wanted = |subnet: &&Subnet| match &spec.node_subnets {
            None => false,
            Some(node_subnets) => match &node_subnets.pools {
                None => true,
                Some(pools) => pools.contains(&subnet.pool),
            },
        };
        let own = subnets.iter().filter(wanted).map(|subnet| subnet.prefix);
        for prefix in own.chain(spec.prefixes.iter().copied()) {
            let names = originate.entry(prefix).or_default();
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    if let Some(generated) = generated {
        generated.advertise(subnets, peers, &mut advertisements, &mut originate);
    }
    let originate = originate
        .into_iter()
        .map(|(prefix, advertisements)| Originated {
            prefix,
            advertisements,
        })
        .collect();
    (advertisements, originate)
}

/// Only those that a peer of the node uses, each once, in the order of their names.
fn policies(
    snapshot: &Snapshot,
    generated: Option<&Generated<'_>>,
    peers: &[Planned],
    asn: Asn,
) -> Vec<Policy> {
    let used: BTreeSet<&String> = peers
        .iter()
        .flat_map(|peer| peer.config.import.iter().chain(&peer.config.export))
        .collect();
    let written = &snapshot.resources.policies;
    let from_user = used.iter().filter_map(|name| written.get(*name));
    let mut policies: Vec<Policy> = from_user
        .map(|policy| policy::policy(policy, asn))
        .collect();
    if let Some(generated) = generated {
        policies.extend_from_slice(generated.policies(used.iter().copied()));
    }
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    policies
}

/// `a, b and c`, each in backticks.
pub(crate) fn listed_names<T: std::fmt::Display>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

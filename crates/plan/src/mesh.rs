//! Topology `Mesh`: every node has an iBGP session with every other one.
//!
//! Its sessions are named `mesh-NODE`, its policies `mesh-import` and `mesh-export`, its
//! advertisement `mesh`: `bgpctl` shows them like those a user wrote. Both policies accept what nodes
//! can hold and nothing else: subnets out of the pools, static subnets, and advertised prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{Metadata, Node};
use bgp::config::{
    Action, Advertisement, Match, NextHopMode, PeerConfig, Policy, PrefixMatch, Rule,
};
use bgp::types::{Asn, Family, Prefix};

use crate::node::{Planned, graceful_restart, own_asn, timers};
use crate::{Snapshot, Subnet, bfd};

const IMPORT: &str = "mesh-import";
const EXPORT: &str = "mesh-export";
const ADVERTISEMENT: &str = "mesh";

/// The names of what [`policies`] generates.
pub(crate) const POLICIES: [&str; 2] = [IMPORT, EXPORT];

/// Sessions of `node` with all others, in the order of their names.
pub(crate) fn peers(
    snapshot: &Snapshot,
    node: &Node,
    asn: Asn,
    problems: &mut Vec<String>,
) -> Vec<Planned> {
    let mut peers = Vec::new();
    for other in snapshot.resources.nodes.values() {
        let name = &other.metadata.name;
        if *name == node.metadata.name {
            continue;
        }
        let Some((local, remote)) = addresses(node, other) else {
            problems.push(format!(
                "no session with node `{name}`: the two have no addresses of one family; give both an \
                 IPv4 or both an IPv6 address in Node spec.addresses"
            ));
            continue;
        };
        // A node without a number is a problem of its own, told there.
        let Ok(remote_asn) = own_asn(snapshot, other) else {
            continue;
        };
        let config = PeerConfig {
            name: format!("mesh-{name}"),
            description: format!("node {name}"),
            address: remote,
            port: snapshot.resources.fabric.spec.listen_port.get(),
            local_address: Some(local),
            local_asn: asn,
            remote_asn,
            passive: false,
            shutdown: None,
            ttl: 255,
            families: Family::ALL.to_vec(),
            extended_next_hop: false,
            ttl_security: None,
            authentication: None,
            max_prefixes: None,
            timers: timers(
                api::TimersSpec::default(),
                snapshot.resources.fabric.spec.timers,
            ),
            import: vec![IMPORT.into()],
            export: vec![EXPORT.into()],
            next_hop: NextHopMode::Self_,
            allow_own_as: 0,
            reflector_client: false,
            graceful_restart: graceful_restart(
                api::GracefulRestartSpec::default(),
                snapshot.resources.fabric.spec.graceful_restart,
                remote_asn != asn,
            ),
        };
        peers.push(Planned {
            metadata: Metadata {
                name: format!("mesh-{name}"),
                labels: BTreeMap::from([("topology".to_owned(), "mesh".to_owned())]),
                ..Metadata::default()
            },
            bfd: bfd::session(None, snapshot.resources.fabric.spec.bfd.as_ref(), &config),
            config,
        });
    }
    peers
}

/// The pair of main addresses both nodes have, IPv4 before IPv6.
fn addresses(node: &Node, other: &Node) -> Option<(IpAddr, IpAddr)> {
    Family::ALL.into_iter().find_map(|family| {
        let main = |node: &Node| {
            node.spec
                .addresses
                .iter()
                .copied()
                .find(|address| Family::of(*address) == family)
        };
        Some((main(node)?, main(other)?))
    })
}

/// Adds the node's own subnets for the sessions of the mesh.
pub(crate) fn advertise(
    subnets: &[Subnet],
    peers: &[Planned],
    advertisements: &mut Vec<Advertisement>,
    originate: &mut BTreeMap<Prefix, Vec<String>>,
) {
    let in_mesh = |peer: &&Planned| peer.config.export.iter().any(|name| name == EXPORT);
    advertisements.push(Advertisement {
        name: ADVERTISEMENT.into(),
        peers: peers
            .iter()
            .filter(in_mesh)
            .map(|peer| peer.config.name.clone())
            .collect(),
        set: Vec::new(),
    });
    for subnet in subnets {
        originate
            .entry(subnet.prefix)
            .or_default()
            .push(ADVERTISEMENT.into());
    }
}

/// `mesh-import` and `mesh-export`.
pub(crate) fn policies(snapshot: &Snapshot) -> Vec<Policy> {
    let resources = &snapshot.resources;
    let mut prefixes = BTreeSet::new();
    for pool in resources.pools.values() {
        for prefix in &pool.spec.prefixes {
            let length = pool.spec.node_subnet_length.get(prefix.family());
            prefixes.insert((*prefix, length));
        }
    }
    let static_subnets = resources.nodes.values().flat_map(|node| &node.spec.subnets);
    let advertised = resources
        .advertisements
        .values()
        .flat_map(|it| &it.spec.prefixes);
    for prefix in static_subnets.chain(advertised) {
        prefixes.insert((*prefix, prefix.length()));
    }
    let prefixes = prefixes.into_iter().map(|(prefix, length)| PrefixMatch {
        prefix,
        min_length: length,
        max_length: length,
    });
    let rules: Vec<Rule> = match prefixes.collect::<Vec<_>>() {
        // An empty list would match everything.
        prefixes if prefixes.is_empty() => Vec::new(),
        prefixes => vec![Rule {
            name: "subnets of nodes".into(),
            matches: Match {
                prefixes,
                ..Match::default()
            },
            action: Action::Accept,
            set: Vec::new(),
        }],
    };
    POLICIES
        .map(|name| Policy {
            name: name.into(),
            rules: rules.clone(),
        })
        .into()
}

//! Topologies `Mesh` and `Reflectors`: sessions between nodes, without a Peer that says so.
//!
//! In a mesh every node has an iBGP session with every other one. With reflectors (RFC 4456) the nodes
//! that the Fabric selects have one with every other node, and the others only with these: twice the
//! number of reflectors' nodes of sessions instead of its square. Reflectors are clients of none: each
//! hears from the others what their clients say, and prefers what it hears itself.
//!
//! What is generated has names of its own (`crates/api/src/check/topology.rs` keeps them free):
//! `bgpctl` shows it like what a user wrote. Both policies accept what nodes can hold and nothing
//! else: subnets out of the pools, static subnets, and advertised prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{Metadata, Node, Topology};
use bgp::config::{
    Action, Advertisement, Match, NextHopMode, PeerConfig, Policy, PrefixMatch, Rule,
};
use bgp::types::{Asn, Family, Prefix};

use crate::node::{Planned, graceful_restart, own_asn, timers};
use crate::{Snapshot, Subnet, bfd};

/// What a topology generates, as far as it is the same on all nodes.
pub(crate) struct Generated<'a> {
    names: Names,
    /// The nodes that reflect, by name; `None`: a mesh.
    reflectors: Option<BTreeMap<&'a str, &'a Node>>,
    policies: Vec<Policy>,
}

/// What it is called.
struct Names {
    /// The label `topology` of its sessions.
    topology: &'static str,
    import: &'static str,
    export: &'static str,
    advertisement: &'static str,
}

const MESH: Names = Names {
    topology: "mesh",
    import: "mesh-import",
    export: "mesh-export",
    advertisement: "mesh",
};

const REFLECTORS: Names = Names {
    topology: "reflectors",
    import: "reflectors-import",
    export: "reflectors-export",
    advertisement: "reflectors",
};

/// What another node is to a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// In a mesh.
    Equal,
    /// It reflects routes.
    Reflector,
    /// The node reflects to it.
    Client,
}

impl<'a> Generated<'a> {
    /// `None` where Peers alone say who peers with whom.
    pub(crate) fn of(snapshot: &'a Snapshot) -> Option<Generated<'a>> {
        let fabric = &snapshot.resources.fabric.spec;
        let nodes = &snapshot.resources.nodes;
        let (names, reflectors) = match fabric.topology {
            Topology::ToR => return None,
            Topology::Mesh => (MESH, None),
            Topology::Reflectors => {
                let selector = fabric.reflectors.as_ref().map(|it| &it.node_selector);
                let reflects = |node: &&Node| selector.is_some_and(|it| it.selects(&node.metadata));
                let reflectors = nodes.values().filter(reflects);
                let by_name = reflectors.map(|node| (node.metadata.name.as_str(), node));
                (REFLECTORS, Some(by_name.collect()))
            }
        };
        Some(Generated {
            policies: policies(snapshot, &names),
            names,
            reflectors,
        })
    }

    /// Whether a node reflects routes.
    pub(crate) fn reflects(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_str();
        (self.reflectors.as_ref()).is_some_and(|reflectors| reflectors.contains_key(name))
    }

    /// Sessions of `node` with others, in the order of their names.
    pub(crate) fn peers(
        &self,
        snapshot: &Snapshot,
        node: &Node,
        asn: Asn,
        problems: &mut Vec<String>,
    ) -> Vec<Planned> {
        let all = || snapshot.resources.nodes.values();
        let others: Vec<(&Node, Role)> = match &self.reflectors {
            None => all().map(|other| (other, Role::Equal)).collect(),
            Some(reflectors) if reflectors.is_empty() => {
                problems.push(
                    "no session with any node: Fabric spec.reflectors.nodeSelector selects no node; label \
                     two nodes or more so that it does"
                        .into(),
                );
                Vec::new()
            }
            Some(reflectors) if self.reflects(node) => {
                let role = |other: &Node| match reflectors.contains_key(&*other.metadata.name) {
                    true => Role::Reflector,
                    false => Role::Client,
                };
                all().map(|other| (other, role(other))).collect()
            }
            Some(reflectors) => {
                let reflectors = reflectors.values();
                reflectors.map(|other| (*other, Role::Reflector)).collect()
            }
        };
        let others = others.into_iter();
        others
            .filter(|(other, _)| other.metadata.name != node.metadata.name)
            .filter_map(|(other, role)| {
                let session = self.session(snapshot, (node, asn), other, role)?;
                session.map_err(|reason| problems.push(reason)).ok()
            })
            .collect()
    }

    /// `None`: the other node has no AS number, which is a problem of its own, told there.
    fn session(
        &self,
        snapshot: &Snapshot,
        (node, asn): (&Node, Asn),
        other: &Node,
        role: Role,
    ) -> Option<Result<Planned, String>> {
        let fabric = &snapshot.resources.fabric.spec;
        let of = &other.metadata.name;
        let Some((local, remote)) = addresses(node, other) else {
            return Some(Err(format!(
                "no session with node `{of}`: the two have no addresses of one family; give both an \
                 IPv4 or both an IPv6 address in Node spec.addresses"
            )));
        };
        let remote_asn = own_asn(snapshot, other).ok()?;
        let name = match role {
            Role::Equal => format!("mesh-{of}"),
            Role::Reflector => format!("reflector-{of}"),
            Role::Client => format!("client-{of}"),
        };
        let config = PeerConfig {
            name: name.clone(),
            description: format!("node {of}"),
            address: remote,
            port: fabric.listen_port.get(),
            local_address: Some(local),
            local_asn: asn,
            remote_asn,
            // Thousands of clients look for their reflector, and it for none of them.
            passive: role == Role::Client,
            shutdown: None,
            ttl: 255,
            families: Family::ALL.to_vec(),
            extended_next_hop: false,
            ttl_security: None,
            authentication: None,
            max_prefixes: None,
            timers: timers(api::TimersSpec::default(), fabric.timers),
            import: vec![self.names.import.into()],
            export: vec![self.names.export.into()],
            next_hop: NextHopMode::Self_,
            allow_own_as: 0,
            reflector_client: role == Role::Client,
            graceful_restart: graceful_restart(
                api::GracefulRestartSpec::default(),
                fabric.graceful_restart,
                remote_asn != asn,
            ),
        };
        Some(Ok(Planned {
            metadata: Metadata {
                name,
                labels: BTreeMap::from([("topology".to_owned(), self.names.topology.to_owned())]),
                ..Metadata::default()
            },
            bfd: bfd::session(None, fabric.bfd.as_ref(), &config),
            config,
        }))
    }

    /// Adds the node's own subnets for the generated sessions.
    pub(crate) fn advertise(
        &self,
        subnets: &[Subnet],
        peers: &[Planned],
        advertisements: &mut Vec<Advertisement>,
        originate: &mut BTreeMap<Prefix, Vec<String>>,
    ) {
        let name = self.names.advertisement;
        let generated =
            |peer: &&Planned| peer.config.export.iter().any(|it| it == self.names.export);
        advertisements.push(Advertisement {
            name: name.into(),
            peers: peers
                .iter()
                .filter(generated)
                .map(|peer| peer.config.name.clone())
                .collect(),
            set: Vec::new(),
        });
        for subnet in subnets {
            let names = originate.entry(subnet.prefix).or_default();
            names.push(name.into());
        }
    }

    /// The generated policies, where one of these names is theirs.
    pub(crate) fn policies<'b>(&self, mut used: impl Iterator<Item = &'b String>) -> &[Policy] {
        let names = [self.names.import, self.names.export];
        match used.any(|name| names.contains(&name.as_str())) {
            true => &self.policies,
            false => &[],
        }
    }
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

/// The policies of import and export.
fn policies(snapshot: &Snapshot, names: &Names) -> Vec<Policy> {
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
    [names.import, names.export]
        .map(|name| Policy {
            name: name.into(),
            rules: rules.clone(),
        })
        .into()
}

//! Every set of `examples/` is read without a warning and planned without a problem.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api::{Parsed, SourceFile};
use bgp::config::PeerConfig;
use bgp::types::{Asn, Prefix};
use plan::{NodeConfig, Plan, Purpose, Snapshot, Subnet, wanted_numbers, wanted_subnets};

fn read(directory: &str) -> Parsed {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(directory);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let files: Vec<SourceFile> = paths
        .iter()
        .map(|path| SourceFile {
            name: path.display().to_string(),
            text: fs::read_to_string(path).unwrap(),
        })
        .collect();
    match api::parse(&files) {
        Ok(parsed) => {
            assert_eq!(parsed.warnings, [], "{}", directory.display());
            parsed
        }
        Err(mistakes) => panic!("{mistakes:#?}"),
    }
}

/// Gives out subnets and numbers as the controller would, in order.
fn planned(directory: &str) -> Plan {
    let resources = read(directory).resources;
    let mut subnets: BTreeMap<String, Vec<Subnet>> = BTreeMap::new();
    let mut used: BTreeMap<(String, u8), u128> = BTreeMap::new();
    for wanted in wanted_subnets(&resources) {
        let pool = &resources.pools[&wanted.pool];
        let of_family = |prefix: &&Prefix| prefix.family() == wanted.family;
        let space = pool.spec.prefixes.iter().find(of_family).unwrap();
        let next = used
            .entry((wanted.pool.clone(), wanted.length))
            .or_insert(0);
        let prefix = nth(*space, wanted.length, *next);
        let subnet = Subnet::new(prefix, wanted.pool, Purpose::Pods);
        subnets.entry(wanted.node).or_default().push(subnet);
        *next += 1;
    }
    let numbers = wanted_numbers(&resources).into_iter().zip(0..);
    let numbers = numbers
        .map(|(wanted, n)| (wanted.key, Asn(wanted.range.first.0 + n)))
        .collect();
    let plan = plan::plan(&Snapshot {
        resources,
        subnets,
        numbers,
    });
    assert_eq!(plan.problems, [], "{directory}");
    for config in plan.configs.values() {
        config.bgp.check().unwrap();
    }
    plan
}

fn nth(space: Prefix, length: u8, n: u128) -> Prefix {
    match space.address() {
        IpAddr::V4(address) => {
            let n = u32::try_from(n).unwrap() << (32 - length);
            Prefix::new(IpAddr::V4((u32::from(address) + n).into()), length)
        }
        IpAddr::V6(address) => Prefix::new(
            IpAddr::V6((u128::from(address) + (n << (128 - length))).into()),
            length,
        ),
    }
}

fn peer<'a>(config: &'a NodeConfig, name: &str) -> &'a PeerConfig {
    config
        .bgp
        .peers
        .iter()
        .find(|peer| peer.name == name)
        .unwrap()
}

#[test]
fn two_racks_peer_with_the_router_of_their_rack_and_announce_their_subnets() {
    let plan = planned("two-racks");
    let names: Vec<&String> = plan.configs.keys().collect();
    assert_eq!(names, ["a1", "a2", "b1", "b2"]);
    for (node, asn, tor, tor_asn) in [
        ("a1", 65201, "10.1.0.1", 65101),
        ("a2", 65201, "10.1.0.1", 65101),
        ("b1", 65202, "10.2.0.1", 65102),
        ("b2", 65202, "10.2.0.1", 65102),
    ] {
        let config = &plan.configs[node];
        assert_eq!(config.bgp.asn, Asn(asn));
        assert_eq!(config.bgp.peers.len(), 1);
        let session = peer(config, "tor");
        assert_eq!(session.address, tor.parse::<IpAddr>().unwrap());
        assert_eq!(session.remote_asn, Asn(tor_asn));
        assert_eq!(session.timers.hold, 9);
        let announced: Vec<Prefix> = config.bgp.originate.iter().map(|it| it.prefix).collect();
        assert_eq!(announced, config.bgp.own_subnets);
        assert_eq!(announced.len(), 2, "one subnet of each family");
        let policies: Vec<&String> = config.bgp.policies.iter().map(|it| &it.name).collect();
        assert_eq!(policies, ["from-tor", "to-tor"]);
    }
}

#[test]
fn the_sessions_of_nodes_routers_and_spine_are_configured_alike_on_both_sides() {
    // Every speaker of the examples with all its addresses.
    let mut speakers: Vec<(Vec<IpAddr>, NodeConfig)> = Vec::new();
    for directory in ["two-racks", "tor/tor-a", "tor/tor-b", "tor/spine"] {
        let resources = read(directory).resources;
        for (name, config) in planned(directory).configs {
            speakers.push((resources.nodes[&name].spec.addresses.clone(), config));
        }
    }
    let mut sessions = 0;
    for (own_addresses, config) in &speakers {
        for session in &config.bgp.peers {
            let (_, other) = speakers
                .iter()
                .find(|(addresses, _)| addresses.contains(&session.address))
                .unwrap_or_else(|| panic!("{}: nobody has {}", config.node, session.address));
            assert_eq!(
                session.remote_asn, other.bgp.asn,
                "{} to {}",
                config.node, other.node
            );
            assert_ne!(config.bgp.router_id, other.bgp.router_id);
            let back = other
                .bgp
                .peers
                .iter()
                .find(|back| own_addresses.contains(&back.address));
            let back =
                back.unwrap_or_else(|| panic!("{} does not know {}", other.node, config.node));
            assert_eq!(back.remote_asn, config.bgp.asn);
            assert_eq!(back.families, session.families);
            sessions += 1;
        }
    }
    assert_eq!(
        sessions,
        2 * (4 + 2),
        "four nodes and two routers, each seen from both sides"
    );
}

#[test]
fn a_mesh_connects_every_node_with_every_other() {
    let plan = planned("mesh");
    for (name, config) in &plan.configs {
        let peers: Vec<String> = config
            .bgp
            .peers
            .iter()
            .map(|peer| peer.name.clone())
            .collect();
        let others = plan.configs.keys().filter(|other| *other != name);
        assert_eq!(
            peers,
            others
                .map(|other| format!("mesh-{other}"))
                .collect::<Vec<_>>()
        );
        assert!(config.bgp.peers.iter().all(|peer| !peer.is_ebgp()));
        assert_eq!(config.bgp.originate.len(), 2);
        assert_eq!(config.bgp.originate[0].advertisements, ["mesh"]);
        assert_eq!(config.bgp.advertisements[0].peers, peers);
    }
}

#[test]
fn a_single_host_announces_its_networks_and_its_service() {
    let plan = planned("single-host");
    let config = &plan.configs["host"];
    let announced: Vec<String> = config
        .bgp
        .originate
        .iter()
        .map(|it| it.prefix.to_string())
        .collect();
    assert_eq!(
        announced,
        ["10.80.0.0/24", "198.51.100.7/32", "2001:db8:80::/64"]
    );
    assert_eq!(config.subnets.len(), 2);
    assert_eq!(config.bgp.router_id.to_string(), "192.0.2.20");
}

#[test]
fn reflectors_have_a_session_with_every_node_and_the_others_with_them_alone() {
    let plan = planned("reflectors");
    let sessions = |node: &str| -> Vec<(String, bool, bool)> {
        let peers = plan.configs[node].bgp.peers.iter();
        let of = |peer: &PeerConfig| (peer.name.clone(), peer.passive, peer.reflector_client);
        peers.map(of).collect()
    };
    let client = |name: &str| (format!("client-{name}"), true, true);
    let reflector = |name: &str| (format!("reflector-{name}"), false, false);
    let of_r1 = [client("n1"), client("n2"), client("n3"), reflector("r2")];
    assert_eq!(sessions("r1"), of_r1);
    assert_eq!(sessions("r2").last(), Some(&reflector("r1")));
    for node in ["n1", "n2", "n3"] {
        assert_eq!(sessions(node), [reflector("r1"), reflector("r2")]);
    }
    for (node, config) in &plan.configs {
        assert_eq!(config.bgp.cluster_id, None, "each a cluster of its own");
        assert_eq!(config.bgp.originate.len(), 2, "{node}");
        let policies: Vec<&String> = config.bgp.policies.iter().map(|it| &it.name).collect();
        assert_eq!(policies, ["reflectors-export", "reflectors-import"]);
    }
}

#[test]
fn nodes_say_by_labels_and_annotations_who_they_are_and_whom_they_peer_with() {
    let plan = planned("labels");
    for (node, asn, tor, tor_ipv6, tor_asn, border) in [
        ("a1", 65201, "10.1.0.1", "fd00:1::1", 65101, "10.0.1.1"),
        ("b1", 65202, "10.2.0.1", "fd00:2::1", 65102, "10.0.2.1"),
    ] {
        let config = &plan.configs[node];
        assert_eq!(config.bgp.asn, Asn(asn));
        let address = |name: &str| peer(config, name).address.to_string();
        assert_eq!(
            [address("tor"), address("tor-ipv6"), address("border")],
            [tor, tor_ipv6, border]
        );
        assert_eq!(peer(config, "tor").remote_asn, Asn(tor_asn));
        assert_eq!(peer(config, "tor-ipv6").remote_asn, Asn(tor_asn));
    }
}

//! A NodeConfig from the wire is refused with the name of the field that is wrong.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::sync::Arc;

use bgp::config::{
    Action, Advertisement, Authentication, Config, DecisionConfig, GracefulRestart, KeySource,
    LimitAction, LongLived, Match, NextHopMode, Originated, PeerConfig, Policy, PrefixLimits,
    PrefixMatch, Rule, Set, Timers,
};
use bgp::types::{Asn, Family, RouterId};
use plan::wire::{from_proto, to_proto};
use plan::{
    BfdAuthentication, BfdSession, KernelConfig, Masquerade, MasqueradedPool, NamesConfig,
    NodeConfig, PodsConfig, Purpose, Subnet,
};
use proto::controller::v1 as pb;

fn config() -> NodeConfig {
    NodeConfig {
        node: "a1".into(),
        version: 7,
        bgp: Config {
            asn: Asn(65201),
            router_id: RouterId("192.0.2.11".parse().unwrap()),
            cluster_id: Some([10, 0, 0, 1].into()),
            peers: vec![PeerConfig {
                name: "tor".into(),
                description: "top of rack".into(),
                address: "192.0.2.1".parse().unwrap(),
                port: 179,
                local_address: Some("192.0.2.11".parse().unwrap()),
                local_asn: Asn(65201),
                remote_asn: Asn(4_200_000_000),
                passive: true,
                shutdown: Some(String::new()),
                ttl: 255,
                ttl_security: Some(1),
                authentication: Some(Authentication::Md5 {
                    key: KeySource::File("/etc/routeshare/tor.key".into()),
                }),
                families: vec![Family::Ipv4, Family::Ipv6],
                extended_next_hop: true,
                max_prefixes: Some(PrefixLimits {
                    ipv4: Some(1000),
                    ipv6: None,
                    warn_at_percent: 75,
                    action: LimitAction::Warn,
                    restart_seconds: None,
                }),
                timers: Timers::default(),
                import: vec!["p".into()],
                export: vec!["p".into()],
                next_hop: NextHopMode::Unchanged,
                allow_own_as: 1,
                reflector_client: false,
                graceful_restart: Some(GracefulRestart {
                    restart_seconds: 30,
                    stale_seconds: 31,
                    long_lived: Some(LongLived {
                        stale_seconds: 86_400,
                        at_most_seconds: Some(3600),
                        tell_unaware: false,
                    }),
                }),
            }],
            policies: vec![Policy {
                name: "p".into(),
                rules: vec![Rule {
                    name: "r".into(),
                    matches: Match {
                        prefixes: vec![PrefixMatch {
                            prefix: "10.64.0.0/16".parse().unwrap(),
                            min_length: 24,
                            max_length: 32,
                        }],
                        as_path_min_length: Some(0),
                        ..Match::default()
                    },
                    action: Action::Accept,
                    set: vec![Set::Med(None), Set::NextHopSelf, Set::ClearCommunities],
                }],
            }],
            advertisements: vec![Advertisement {
                name: "ad".into(),
                peers: vec!["tor".into()],
                set: vec![Set::Med(Some(0))],
            }],
            originate: vec![Originated {
                prefix: "10.64.1.0/24".parse().unwrap(),
                advertisements: vec!["ad".into()],
            }],
            decision: DecisionConfig::default(),
            own_subnets: vec!["10.64.1.0/24".parse().unwrap()],
        },
        listen_port: 179,
        subnets: vec![Subnet {
            prefix: "10.64.1.0/24".parse().unwrap(),
            pool: "pods".into(),
            purpose: Purpose::Pods,
            reserved: vec!["10.64.1.0/30".parse().unwrap()],
            draining: true,
        }],
        kernel: KernelConfig {
            table: 254,
            protocol: 149,
            metric: 512,
            install: true,
        },
        pods: PodsConfig {
            mtu: Some(1400),
            cooldown_seconds: 30,
            chained: vec!["portmap".into(), "tuning".into()],
            sysctls: [("net.core.somaxconn".into(), "1024".into())].into(),
            names: Some(NamesConfig {
                domain: "pods.internal".into(),
                forward: Some(vec![
                    "192.0.2.53".parse().unwrap(),
                    "fd00::53".parse().unwrap(),
                ]),
            }),
        },
        bfd: vec![BfdSession {
            peer: "tor".into(),
            remote: "192.0.2.1".parse().unwrap(),
            local: None,
            multihop: true,
            min_tx_millis: 300,
            min_rx_millis: 50,
            multiplier: 3,
            admin_down: true,
            authentication: Some(BfdAuthentication {
                meticulous: true,
                key_id: 7,
                key: KeySource::Secret {
                    name: "bgp-keys".into(),
                    key: "bfd".into(),
                },
            }),
            echo_millis: None,
        }],
        masquerade: Some(Masquerade {
            pools: vec![MasqueradedPool {
                pool: "pods".into(),
                subnets: vec!["10.64.1.0/24".parse().unwrap()],
                exempt: vec!["172.16.0.0/12".parse().unwrap()],
            }],
            direct: Arc::new([
                "10.64.0.0/16".parse().unwrap(),
                "192.0.2.11/32".parse().unwrap(),
            ]),
        }),
    }
}

#[test]
fn nothing_is_lost_on_the_wire() {
    assert_eq!(from_proto(to_proto(&config())), Ok(config()));
}

#[test]
fn a_reflector_and_its_clients_are_the_same_behind_the_wire() {
    let mut reflector = config();
    let client = &mut reflector.bgp.peers[0];
    client.remote_asn = client.local_asn;
    client.reflector_client = true;
    assert_eq!(from_proto(to_proto(&reflector)), Ok(reflector));
}

#[test]
fn what_is_wrong_is_refused_with_the_name_of_its_field() {
    type Damage = fn(&mut pb::NodeConfig);
    let cases: [(Damage, &str); 29] = [
        (
            |it| it.node.clear(),
            "node: found nothing; allowed: the node's name",
        ),
        (
            |it| it.asn = 0,
            "asn: found 0; allowed: an AS number from 1 to 4294967295",
        ),
        (
            |it| it.router_id = "1.2.3".into(),
            "router_id: found `1.2.3`; allowed: an IPv4 address",
        ),
        (|it| it.listen_port = 70000, "listen_port: found 70000; "),
        (|it| it.decision = None, "decision: found nothing; "),
        (|it| it.kernel = None, "kernel: found nothing; "),
        (
            |it| it.kernel.as_mut().unwrap().protocol = 256,
            "kernel.protocol: found 256; ",
        ),
        (
            |it| it.subnets[0].prefix = "10.0.0.1/8".into(),
            "subnets[0].prefix: found `10.0.0.1/8`; ",
        ),
        (
            |it| it.masquerade.as_mut().unwrap().pools[0].exempt[0] = "all".into(),
            "masquerade.pools[0].exempt[0]: found `all`; allowed: a prefix",
        ),
        (
            |it| it.subnets[0].purpose = "Cats".into(),
            "subnets[0].purpose: found `Cats`; ",
        ),
        (
            |it| it.peers[0].address.clear(),
            "peers[0].address: found ``; allowed: an IP address",
        ),
        (
            |it| it.peers[0].local_address = "x".into(),
            "peers[0].local_address: found `x`; ",
        ),
        (
            |it| it.peers[0].remote_asn = 0,
            "peers[0].remote_asn: found 0; ",
        ),
        (
            |it| it.peers[0].hold_seconds = 65536,
            "peers[0].hold_seconds: found 65536; ",
        ),
        (|it| it.peers[0].ttl = 300, "peers[0].ttl: found 300; "),
        (
            |it| it.peers[0].ttl_security = Some(256),
            "peers[0].ttl_security: found 256; ",
        ),
        (
            |it| it.peers[0].ttl_security = Some(255),
            "the configuration contradicts itself",
        ),
        (
            |it| {
                it.peers[0].md5_key_file.clear();
                it.peers[0].ao_keys = vec![pb::AoKey::default()];
            },
            "peers[0].ao_keys[0].algorithm: found ``; ",
        ),
        (
            |it| it.peers[0].ao_keys = vec![pb::AoKey::default()],
            "peers[0].ao_keys: found keys; ",
        ),
        (
            |it| it.peers[0].md5_key_file = "hunter2".into(),
            "peers[0].md5_key_file: found another text; allowed: an absolute path, or secret:NAME/KEY",
        ),
        (
            |it| it.peers[0].ttl = 1,
            "the configuration contradicts itself",
        ),
        (
            |it| it.peers[0].families[1] = "L2VPN".into(),
            "peers[0].families[1]: found `L2VPN`; ",
        ),
        (
            |it| it.peers[0].next_hop = "self".into(),
            "peers[0].next_hop: found `self`; ",
        ),
        (
            |it| it.policies[0].rules[0].action.clear(),
            "policies[0].rules[0].action: found ``; ",
        ),
        (
            |it| it.policies[0].rules[0].r#match = None,
            "policies[0].rules[0].match: found nothing; ",
        ),
        (
            |it| {
                let rule = &mut it.policies[0].rules[0];
                rule.r#match.as_mut().unwrap().prefixes[0].min_length = 33;
            },
            "policies[0].rules[0].match.prefixes[0]: found 10.64.0.0/16 with lengths 33 to 32; ",
        ),
        (
            |it| it.policies[0].rules[0].set[0].action = None,
            "policies[0].rules[0].set[0]: found nothing; ",
        ),
        (
            |it| it.originate[0].prefix = "all".into(),
            "originate[0].prefix: found `all`; ",
        ),
        (
            |it| it.peers[0].import[0] = "q".into(),
            "the configuration contradicts itself",
        ),
    ];
    for (damage, expected) in cases {
        let mut sent = to_proto(&config());
        damage(&mut sent);
        let told = from_proto(sent).unwrap_err().to_string();
        assert!(told.starts_with(expected), "{told}\ninstead of\n{expected}");
    }
}

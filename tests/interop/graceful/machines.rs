//! Two pods, their nodes, and a ToR between them.

use std::path::PathBuf;

use lab::{Lab, Namespace, wait_for};

use crate::host::{Host, Peer, SOON};

pub(super) const POD_1: [&str; 2] = ["10.64.1.10", "fd00:64:1::10"];
pub(super) const POD_2: [&str; 2] = ["10.64.2.10", "fd00:64:2::10"];

/// Towards node `k`, which has 10.1.k.11, the ToR has 10.1.k.1.
pub(super) struct Machines {
    pub(super) pods: [Namespace; 2],
    pub(super) nodes: [Namespace; 2],
    pub(super) tor: Namespace,
    /// Where logs may go.
    pub(super) directory: PathBuf,
}

impl Machines {
    pub(super) fn new(lab: &Lab) -> Machines {
        let machine = |name: &str| lab.machine(name).unwrap();
        let machines = Machines {
            pods: [machine("pod1"), machine("pod2")],
            nodes: [machine("n1"), machine("n2")],
            tor: machine("tor"),
            directory: lab.directory().to_owned(),
        };
        for n in 0..2 {
            let k = n + 1;
            let ends = [11, 1].map(|last| {
                [
                    format!("10.1.{k}.{last}/24"),
                    format!("fd00:1:{k}::{last}/64"),
                ]
            });
            let [here, there] = ends
                .each_ref()
                .map(|both| [both[0].as_str(), both[1].as_str()]);
            machines.nodes[n]
                .cable("eth0", &here, &machines.tor, &format!("eth{n}"), &there)
                .unwrap();
            let (pod, node) = (&machines.pods[n], &machines.nodes[n]);
            let [v4, v6] = [POD_1, POD_2][n];
            node.cable("pod0", &["169.254.1.1/32", "fe80::1/64"], pod, "eth0", &[])
                .unwrap();
            pod.ip([
                format!("address add {v4}/32 dev eth0").as_str(),
                &format!("address add {v6}/128 dev eth0 nodad"),
                "route add 169.254.1.1 dev eth0 scope link",
                "route add default via 169.254.1.1",
                "route add ::/0 via fe80::1 dev eth0",
            ])
            .unwrap();
            node.ip([
                format!("route add {v4} dev pod0").as_str(),
                &format!("route add {v6} dev pod0"),
            ])
            .unwrap();
        }
        machines
    }

    /// Each pod reaches the other by both families.
    pub(super) fn wait_for_pods(&self) {
        for (pod, to) in self.pods.iter().zip([POD_2, POD_1]) {
            for address in to {
                wait_for(&format!("{} to reach {address}", pod.name()), SOON, || {
                    pod.run(&format!("ping -n -c 1 -W 1 {address}"))
                });
            }
        }
    }
}

/// Node 1 or 2 (counted from 0), with a session to the ToR of this AS.
pub(super) fn host(n: usize, tor: u32) -> Host {
    match n {
        0 => Host {
            addresses: vec!["10.1.1.11", "fd00:1:1::11"],
            subnets: vec!["10.64.1.0/24", "fd00:64:1::/64"],
            peers: vec![Peer::new("tor", "10.1.1.1", tor)],
            ..Host::new("n1", 65201)
        },
        _ => Host {
            addresses: vec!["10.1.2.11", "fd00:1:2::11"],
            subnets: vec!["10.64.2.0/24", "fd00:64:2::/64"],
            peers: vec![Peer::new("tor", "10.1.2.1", tor)],
            ..Host::new("n2", 65202)
        },
    }
}

/// Our own speaker as the ToR of both nodes.
pub(super) fn own_tor() -> Host {
    Host {
        addresses: vec!["10.1.1.1", "fd00:1:1::1", "10.1.2.1", "fd00:1:2::1"],
        peers: vec![
            Peer::new("n1", "10.1.1.11", 65201),
            Peer::new("n2", "10.1.2.11", 65202),
        ],
        export: "    - {name: everything, action: Accept}\n".into(),
        ..Host::new("tor", 65100)
    }
}

/// BIRD as the ToR of both nodes, AS 65101.
pub(super) const BIRD: &str = "
router id 10.1.1.1;
protocol device {}
protocol kernel { persist; graceful restart on; ipv4 { export where source = RTS_BGP; }; }
protocol kernel { persist; graceful restart on; ipv6 { export where source = RTS_BGP; }; }
template bgp node {
  local as 65101; hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;
  graceful restart on;
  ipv4 { import all; export all; };
  ipv6 { import all; export all; };
}
protocol bgp one from node { neighbor 10.1.1.11 as 65201; }
protocol bgp two from node { neighbor 10.1.2.11 as 65202; }
";

/// FRR as the ToR of both nodes, AS 65102, with a session per family: its bgpd, when it has just begun
/// and does not know its own IPv6 addresses yet, tells IPv6 routes over an IPv4 session with the next
/// hop `::ffff:10.1.1.1`.
pub(super) const FRR: &str = "
router bgp 65102
 bgp router-id 10.1.2.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 timers bgp 3 9
 neighbor NODES peer-group
 neighbor NODES timers connect 1
 neighbor NODES advertisement-interval 0
 neighbor 10.1.1.11 remote-as 65201
 neighbor 10.1.1.11 peer-group NODES
 neighbor 10.1.2.11 remote-as 65202
 neighbor 10.1.2.11 peer-group NODES
 neighbor fd00:1:1::11 remote-as 65201
 neighbor fd00:1:1::11 peer-group NODES
 neighbor fd00:1:2::11 remote-as 65202
 neighbor fd00:1:2::11 peer-group NODES
 address-family ipv4 unicast
  neighbor 10.1.1.11 activate
  neighbor 10.1.2.11 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor fd00:1:1::11 activate
  neighbor fd00:1:2::11 activate
 exit-address-family
";

/// The same node with a session per family.
pub(super) fn by_family(host: Host) -> Host {
    let [one, two] = [("10.1.1.1", "fd00:1:1::1"), ("10.1.2.1", "fd00:1:2::1")];
    let (v4, v6) = if host.name == "n1" { one } else { two };
    let asn = host.peers[0].asn;
    Host {
        peers: vec![
            Peer::new("tor", v4, asn).with("families: [IPv4]"),
            Peer::new("tor6", v6, asn).with("families: [IPv6]"),
        ],
        ..host
    }
}

//! The ToR configurations of deploy/tor, as they stand there.

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use crate::each_daemon::{cabled, host};
use crate::host::{Host, Peer, SOON};

const SUBNETS: [&str; 2] = ["10.64.1.0/24", "fd00:64:0:1::/64"];

/// A node of the rack that the ToR knows nothing of.
fn node<'a>(lab: &Lab, machine: &'a Namespace) -> Speaker<'a> {
    let host = Host {
        subnets: SUBNETS.to_vec(),
        // Without pods: refused by the ToR.
        advertisement: "{nodeSubnets: {}, prefixes: [10.99.0.0/24]}".into(),
        peers: vec![Peer::new("tor", "10.1.0.1", 65101).with("ttlSecurity: {}\n")],
        ..host()
    };
    host.start(lab, machine)
}

/// Waits until the ToR's kernel has the pods' subnets, and nothing else of the node.
#[track_caller]
fn forwards(tor: &Namespace, speaker: &Speaker<'_>) {
    speaker.wait_for_state("tor", "Established");
    for (family, subnet) in [("-4", SUBNETS[0]), ("-6", SUBNETS[1])] {
        wait_for("the ToR to forward to the subnet", SOON, || {
            let route = tor.run(&format!("ip {family} route show {subnet}"))?;
            anyhow::ensure!(route.contains("eth0"), "{route:?}");
            Ok(())
        });
    }
    let refused = tor.run("ip -4 route show 10.99.0.0/24").unwrap();
    assert_eq!(refused.trim(), "");
}

#[test]
fn the_example_for_frr_takes_a_node_that_it_does_not_know() {
    let lab = Lab::new().unwrap();
    let (tor, machine) = cabled(&lab);
    let config = include_str!("../../deploy/tor/frr.conf");
    let _frr = Frr::start(&tor, lab.directory(), "tor", config).unwrap();
    let speaker = node(&lab, &machine);
    forwards(&tor, &speaker);
}

#[test]
fn the_example_for_bird_takes_a_node_that_it_does_not_know() {
    let lab = Lab::new().unwrap();
    let (tor, machine) = cabled(&lab);
    let config = include_str!("../../deploy/tor/bird.conf");
    let _bird = Bird::start(&tor, lab.directory(), "tor", config).unwrap();
    let speaker = node(&lab, &machine);
    forwards(&tor, &speaker);
}

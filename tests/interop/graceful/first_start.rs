//! A first start is no restart: nobody waits for anybody, whoever starts when. With each daemon, also
//! all at once as after a power cut, and beside one that never says that it has said all.

use std::time::{Duration, Instant};

use lab::bird::Bird;
use lab::frr::Frr;
use lab::gobgp::Gobgp;
use lab::speaker::Speaker;
use lab::{Lab, Namespace};

use super::machines::{BIRD, FRR, Machines, by_family, host, own_tor};
use crate::each_daemon::cabled;
use crate::host::{Host, Peer};

/// Sessions come up within a second or two of one another; nobody's restart time is as short as this.
const AT_ONCE: Duration = Duration::from_secs(15);

/// The pods reach one another soon after `begun`.
fn flows_soon(machines: &Machines, begun: Instant, what: &str) {
    machines.wait_for_pods();
    let took = begun.elapsed();
    eprintln!("{what}: packets flow after {took:?}");
    assert!(took < AT_ONCE, "{what}: {took:?}");
}

/// Both nodes and their ToR, begun by `tor`, start at the same time, as after a power cut.
fn all_start<T: Send>(name: &str, hosts: [Host; 2], tor: impl Fn(&Namespace, &Lab) -> T + Sync) {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let begun = Instant::now();
    let _running = std::thread::scope(|scope| {
        let tor = scope.spawn(|| tor(&machines.tor, &lab));
        let speakers = [0, 1].map(|n| hosts[n].start(&lab, &machines.nodes[n]));
        (tor.join().unwrap(), speakers)
    });
    flows_soon(&machines, begun, &format!("{name} and both nodes"));
}

#[test]
fn when_bird_and_nodes_start_at_the_same_time_packets_flow_at_once() {
    let hosts = [0, 1].map(|n| host(n, 65101));
    all_start("BIRD", hosts, |machine, lab| {
        Bird::start(machine, lab.directory(), "tor", BIRD).unwrap()
    });
}

#[test]
fn when_frr_and_nodes_start_at_the_same_time_packets_flow_at_once() {
    let hosts = [0, 1].map(|n| by_family(host(n, 65102)));
    all_start("FRR", hosts, |machine, lab| {
        Frr::start(machine, lab.directory(), "tor", FRR).unwrap()
    });
}

#[test]
fn when_our_own_tor_and_nodes_start_at_the_same_time_packets_flow_at_once() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let hosts = [host(0, 65100), host(1, 65100)];
    let tor = own_tor();
    for what in ["first starts", "all of them killed"] {
        let begun = Instant::now();
        let speakers: Vec<Speaker<'_>> = std::thread::scope(|scope| {
            let tor = scope.spawn(|| tor.start(&lab, &machines.tor));
            let nodes = [0, 1].map(|n| hosts[n].start(&lab, &machines.nodes[n]));
            nodes.into_iter().chain([tor.join().unwrap()]).collect()
        });
        flows_soon(
            &machines,
            begun,
            &format!("our own ToR and both nodes, {what}"),
        );
        for speaker in &speakers {
            let status = speaker.bgpctl("show status").unwrap();
            assert!(!status.contains("waiting"), "{status}");
        }
    }
}

#[test]
fn a_peer_that_never_says_that_it_has_said_all_holds_nobody_back_at_a_first_start() {
    // GoBGP sends End-of-RIB only where graceful restart is configured.
    const GOBGP: &str = r#"
[global.config]
  as = 65101
  router-id = "10.1.0.1"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.1.0.11"
    peer-as = 65201
  [neighbors.timers.config]
    connect-retry = 1
    idle-hold-time-after-reset = 1
"#;
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let gobgp = Gobgp::start(&tor, lab.directory(), "tor", GOBGP).unwrap();
    gobgp.ask("global rib add 10.77.0.0/24").unwrap();
    let begun = Instant::now();
    let host = Host {
        addresses: vec!["10.1.0.11"],
        subnets: vec!["10.64.1.0/24"],
        peers: vec![Peer::new("tor", "10.1.0.1", 65101).with("families: [IPv4]")],
        ..Host::new("n1", 65201)
    };
    let speaker = host.start(&lab, &node);
    crate::host::wait_for_kernel(&node, "10.77.0.0/24", "there", |it| {
        it.contains("proto 149")
    });
    lab::wait_for("GoBGP to have our route", AT_ONCE, || {
        let rib = gobgp.ask("global rib")?;
        anyhow::ensure!(rib.contains("10.64.1.0/24"), "{rib}");
        Ok(())
    });
    let took = begun.elapsed();
    eprintln!("beside a peer without End-of-RIB: {took:?}");
    assert!(took < AT_ONCE, "{took:?}");
    let peer = speaker.peer("tor").unwrap();
    assert_eq!(peer["families"][0]["endOfRibReceived"], false, "{peer}");
}

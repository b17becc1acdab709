//! With BFD beside every session: `routeshare-bfd` is killed, stopped and started, and replaced by another
//! process on both nodes at once, and no packet is lost.

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, wait_for};

use super::machines::{BIRD, FRR, Machines, by_family, host, own_tor};
use super::traffic::PACKETS_PER_SECOND;
use super::{all_well, round};
use crate::bfd::client::Bfd;
use crate::bfd::restart::ENDS;
use crate::host::{Host, SOON};

/// 300 ms × 10: the usual × 3 is enough for a restart, but not for a machine that tests everything at once.
fn with_bfd(host: Host) -> Host {
    Host {
        fabric: "  bfd: {multiplier: 10}\n".into(),
        ..host
    }
}

/// Every session has BFD beside it, which is Up; gives how often it came up.
fn ups(speaker: &Speaker<'_>) -> Vec<u64> {
    wait_for("BFD to be Up beside every session", SOON, || {
        let peers = speaker.json("show peers")?;
        let peers = peers.as_array().cloned().unwrap_or_default();
        let all_up = peers.iter().all(|it| it["bfd"]["state"] == "Up");
        anyhow::ensure!(all_up && !peers.is_empty(), "{peers:?}");
        Ok(())
    });
    let peers = speaker.json("show peers").unwrap();
    let sessions = peers.as_array().unwrap().iter();
    sessions
        .map(|it| it["bfd"]["ups"].as_u64().unwrap())
        .collect()
}

fn rounds(beside: &str, hosts: [Host; 2], machines: &Machines, lab: &Lab) {
    let hosts = hosts.map(with_bfd);
    let speakers = [0, 1].map(|n| hosts[n].start(lab, &machines.nodes[n]));
    let start = |n: usize| Bfd::beside(&machines.nodes[n], lab.directory(), hosts[n].name);
    let mut processes = Some([0, 1].map(start));
    all_well(&speakers);
    let before = speakers.each_ref().map(ups);
    machines.wait_for_pods();
    for end in ENDS {
        let what = format!("routeshare-bfd {end:?} beside {beside}");
        round(machines, &what, |traffic| {
            let [one, two] = processes.take().unwrap();
            processes = Some([
                end.carry_out(one, || start(0)),
                end.carry_out(two, || start(1)),
            ]);
            // Longer than the other side waits for a packet.
            traffic.packets(4 * PACKETS_PER_SECOND);
            all_well(&speakers);
        });
        assert_eq!(speakers.each_ref().map(ups), before, "{what}");
    }
}

#[test]
fn beside_bird_the_bfd_process_may_be_restarted() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let config = BIRD.replace(
        "graceful restart on;\n  ipv4",
        "graceful restart on; bfd on;\n  ipv4",
    ) + "protocol bfd { interface \"eth*\" { interval 300 ms; multiplier 3; }; }\n";
    let _bird = Bird::start(&machines.tor, lab.directory(), "tor", &config).unwrap();
    rounds("BIRD", [0, 1].map(|n| host(n, 65101)), &machines, &lab);
}

#[test]
fn beside_frr_the_bfd_process_may_be_restarted() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let bgp = FRR.replace(
        " neighbor NODES timers connect 1\n",
        " neighbor NODES timers connect 1\n neighbor NODES bfd\n neighbor NODES bfd profile fast\n",
    );
    let bfd = "bfd\n profile fast\n  receive-interval 300\n  transmit-interval 300\n exit\nexit\n";
    let _frr = Frr::start_with_bfd(&machines.tor, lab.directory(), "tor", &bgp, bfd).unwrap();
    let hosts = [0, 1].map(|n| by_family(host(n, 65102)));
    rounds("FRR", hosts, &machines, &lab);
}

#[test]
fn beside_our_own_tor_the_bfd_process_may_be_restarted() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let _tor = with_bfd(own_tor()).start(&lab, &machines.tor);
    let _bfd = Bfd::beside(&machines.tor, lab.directory(), "tor");
    rounds(
        "our own ToR",
        [host(0, 65100), host(1, 65100)],
        &machines,
        &lab,
    );
}

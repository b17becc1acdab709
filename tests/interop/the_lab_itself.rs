//! What the other tests stand on.

use std::time::Duration;

use lab::bird::Bird;
use lab::frr::Frr;
use lab::gobgp::Gobgp;
use lab::{Lab, Namespace, wait_for};

use super::drivers;

#[test]
fn a_cable_carries_both_families() {
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.machine("left").unwrap(), lab.machine("right").unwrap());
    left.cable(
        "eth0",
        &["10.9.0.1/30", "fd00:9::1/64"],
        &right,
        "eth0",
        &["10.9.0.2/30", "fd00:9::2/64"],
    )
    .unwrap();
    for address in ["10.9.0.2", "fd00:9::2"] {
        wait_for("an answer", Duration::from_secs(5), || {
            left.run(&format!("ping -c 1 -W 1 {address}"))
        });
    }
}

#[test]
fn a_machine_and_its_programs_are_gone_when_it_is_dropped() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("short-lived").unwrap();
    let name = machine.name().to_owned();
    let mut sleeper = machine.command("sleep");
    sleeper.arg("1000");
    let daemon = machine
        .start("sleep", sleeper, &lab.directory().join("log"))
        .unwrap();
    let pid = daemon.id().unwrap();
    daemon.leave_running();
    drop(machine);
    assert!(Namespace::existing(&name).is_none());
    wait_for("the program to be gone", Duration::from_secs(5), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Killed, and not yet waited for by us, is gone enough.
        anyhow::ensure!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        Ok(())
    });
}

#[test]
fn bird_frr_and_gobgp_start_and_answer() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("peers").unwrap();
    let bird = Bird::start(
        &machine,
        lab.directory(),
        "b",
        "router id 10.9.9.1;\nprotocol device {}\n",
    );
    assert!(
        bird.unwrap()
            .ask("show status")
            .unwrap()
            .contains("10.9.9.1")
    );
    let frr = Frr::start(
        &machine,
        lab.directory(),
        "f",
        "router bgp 65001\n bgp router-id 10.9.9.2\n",
    );
    let running = frr.unwrap().ask("show running-config").unwrap();
    assert!(running.contains("router bgp 65001"), "{running}");
    let config = "[global.config]\nas = 65001\nrouter-id = \"10.9.9.3\"\nport = -1\n";
    let gobgp = Gobgp::start(&machine, lab.directory(), "g", config);
    assert!(gobgp.unwrap().ask("global").unwrap().contains("10.9.9.3"));
}

/// A driver that this kernel lacks is there under the second one.
#[test]
fn an_ipvlan_link_carries_both_families() {
    if !drivers::there("ipvlan") {
        return;
    }
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.machine("left").unwrap(), lab.machine("right").unwrap());
    left.cable(
        "eth0",
        &[],
        &right,
        "eth0",
        &["10.9.0.2/30", "fd00:9::2/64"],
    )
    .unwrap();
    left.ip(["link add link eth0 name child type ipvlan mode l2"])
        .unwrap();
    left.raise("child", &["10.9.0.1/30", "fd00:9::1/64"])
        .unwrap();
    for address in ["10.9.0.2", "fd00:9::2"] {
        wait_for("an answer", Duration::from_secs(5), || {
            left.run(&format!("ping -c 1 -W 1 {address}"))
        });
    }
}

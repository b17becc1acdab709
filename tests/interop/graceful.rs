//! Packets from pod to pod while what routes them is killed, stopped, replaced, told otherwise or left
//! alone: none is lost. RFC 4724 with BIRD, FRR and our own speaker as the ToRs.
//!
//! ```text
//!  pod 1 ── n1 ──── tor ──── n2 ── pod 2
//!       AS 65201        AS 65202
//! ```

mod first_start;
mod machines;
mod traffic;
mod with_bfd;

use std::time::Duration;

use lab::bird::Bird;
use lab::controller::Controller;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Daemon, Lab, Namespace, wait_for};

use crate::host::{Host, SOON, number};
use machines::{BIRD, FRR, Machines, by_family, host, own_tor};
use traffic::{Outcome, PACKETS_PER_SECOND, Traffic};

/// Another build of the speaker, as `cargo xtask test` makes it.
const OTHER_BUILD: &str = "routeshare-speaker-other";
const THIS_BUILD: &str = "routeshare-speaker";

/// The session is back, and nothing is stale or held back.
fn wait_until_well(speaker: &Speaker<'_>, name: &str) {
    speaker.wait_for_state(name, "Established");
    wait_for("all to be told and heard again", SOON, || {
        let peer = speaker.peer(name)?;
        let families = peer["families"].as_array().cloned().unwrap_or_default();
        for family in &families {
            let ends = family["endOfRibReceived"] == true && family["endOfRibSent"] == true;
            anyhow::ensure!(ends && family["stale"] == 0, "{peer}");
        }
        Ok(())
    });
}

/// All sessions with ToRs are.
fn all_well(speakers: &[Speaker<'_>; 2]) {
    for speaker in speakers {
        wait_until_well(speaker, "tor");
        if speaker.peer("tor6").is_ok() {
            wait_until_well(speaker, "tor6");
        }
    }
}

/// How a speaker ends.
#[derive(Clone, Copy)]
enum End {
    Killed,
    Stopped,
}

fn end(speaker: &mut Speaker<'_>, how: End) {
    match how {
        End::Killed => speaker.kill().unwrap(),
        End::Stopped => speaker.stop().unwrap(),
    }
}

/// Ends both nodes' speakers, starts them again, and waits until all is as it was.
fn restart(speakers: &mut [Speaker<'_>; 2], how: End, traffic: &Traffic) {
    for speaker in speakers.iter_mut() {
        end(speaker, how);
    }
    // Time enough for the ToRs to notice.
    traffic.packets(2 * PACKETS_PER_SECOND);
    for speaker in speakers.iter_mut() {
        speaker.start_again().unwrap();
    }
    all_well(speakers);
}

/// The packets that flow while `work` is done, and for two seconds more: what could be lost late, by
/// our sweep or by the ToR's.
fn packets_during(machines: &Machines, work: impl FnOnce(&Traffic)) -> Vec<Outcome> {
    let traffic = Traffic::new(machines);
    traffic.during(|| {
        work(&traffic);
        traffic.packets(2 * PACKETS_PER_SECOND);
    })
}

/// What changes in the kernels of the nodes and the ToR from now on; told when the test fails.
fn watch_kernels(machines: &Machines) -> Vec<Daemon> {
    let watched = machines.nodes.iter().chain([&machines.tor]);
    let start = |machine: &Namespace| {
        let mut command = machine.command("ip");
        command.args(["-ts", "-o", "monitor"]);
        command.args(["route", "nexthop", "link", "address", "neigh"]);
        let log = format!("{}.monitor.log", machine.name());
        let log = machines.directory.join(log);
        machine.start("ip monitor", command, &log).unwrap()
    };
    watched.map(start).collect()
}

/// None of them is lost.
#[track_caller]
fn round(machines: &Machines, what: &str, work: impl FnOnce(&Traffic)) {
    let _watches = watch_kernels(machines);
    let outcomes = packets_during(machines, work);
    eprintln!("{what}: {outcomes:?}");
    for outcome in &outcomes {
        let enough = outcome.sent > 2 * PACKETS_PER_SECOND;
        assert!(
            enough && outcome.first_lost.is_empty() && outcome.unsent.is_empty(),
            "{what}, since {}: {outcomes:?}",
            outcome.began
        );
        // Late is not lost, but a second would be worth a look.
        assert!(
            outcome.longest_gap < Duration::from_secs(1),
            "{what}: {outcomes:?}"
        );
    }
}

/// The rounds in which both nodes' speakers end and begin.
fn speakers_come_and_go(machines: &Machines, speakers: &mut [Speaker<'_>; 2], beside: &str) {
    for (what, how) in [
        ("killed", End::Killed),
        ("stopped", End::Stopped),
        ("killed once more", End::Killed),
    ] {
        round(
            machines,
            &format!("speakers {what} beside {beside}"),
            |traffic| {
                restart(speakers, how, traffic);
            },
        );
    }
    for (what, build) in [("by another", OTHER_BUILD), ("back", THIS_BUILD)] {
        round(
            machines,
            &format!("build replaced {what} beside {beside}"),
            |traffic| {
                for speaker in speakers.iter_mut() {
                    speaker.set_program(build);
                }
                restart(speakers, End::Stopped, traffic);
            },
        );
    }
}

/// What is told to a node and does not concern its session: a subnet more; then a policy.
fn changes(n: usize, host: &Host) -> [Host; 2] {
    let mut more = host.clone();
    more.subnets.push(["10.64.101.0/24", "10.64.102.0/24"][n]);
    let mut policy = more.clone();
    policy.import = "    - {name: all, action: Accept, set: {localPreference: 200, addCommunities: [\"65000:1\"]}}\n".into();
    policy.export =
        "    - {name: all, match: {sources: [Local]}, action: Accept, set: {med: 7}}\n".into();
    [more, policy]
}

/// A change has come to a speaker: it announces another prefix, or prefers what it hears.
fn wait_for_change(speaker: &Speaker<'_>, step: usize) {
    wait_for("the change to be in force", SOON, || {
        let text = speaker.bgpctl("show routes --output json")?;
        let there = match step {
            0 => text.contains("10.64.101.0/24") && text.contains("10.64.102.0/24"),
            _ => {
                text.contains("\"localPreference\": 200")
                    || text.contains("\"localPreference\":200")
            }
        };
        anyhow::ensure!(there, "{text}");
        Ok(())
    });
}

/// How often each node's session was up.
fn times_up(speakers: &[Speaker<'_>; 2]) -> [u64; 2] {
    speakers.each_ref().map(|speaker| {
        let peer = speaker.peer("tor").unwrap();
        number(&peer, "establishedCount")
    })
}

/// The rounds in which both nodes are told something else by `tell`.
fn nodes_are_told_otherwise(
    machines: &Machines,
    speakers: &[Speaker<'_>; 2],
    hosts: &[Host; 2],
    tell: impl Fn(&[Host; 2]),
) {
    let before = times_up(speakers);
    let [first, second] = [0, 1].map(|n| changes(n, &hosts[n]));
    for (step, what) in ["a subnet more", "another policy"].iter().enumerate() {
        round(machines, what, |_| {
            tell(&[first[step].clone(), second[step].clone()]);
            for speaker in speakers {
                wait_for_change(speaker, step);
            }
        });
    }
    assert_eq!(times_up(speakers), before, "a session was reset");
}

/// Beside one ToR: all rounds in which it stays, then `tor_restarts`.
fn all_rounds(
    name: &str,
    hosts: [Host; 2],
    machines: &Machines,
    lab: &Lab,
    tor_restarts: impl FnOnce(&[Speaker<'_>; 2]),
) {
    let mut speakers = [0, 1].map(|n| hosts[n].start(lab, &machines.nodes[n]));
    all_well(&speakers);
    machines.wait_for_pods();
    nodes_are_told_otherwise(machines, &speakers, &hosts, |hosts| {
        for (speaker, host) in speakers.iter().zip(hosts) {
            speaker.edit(&host.yaml()).unwrap();
        }
    });
    speakers_come_and_go(machines, &mut speakers, name);
    tor_restarts(&speakers);
}

#[test]
fn beside_bird_no_packet_is_lost() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let mut bird = Bird::start(&machines.tor, lab.directory(), "tor", BIRD).unwrap();
    let hosts = [0, 1].map(|n| host(n, 65101));
    all_rounds("BIRD", hosts, &machines, &lab, |speakers| {
        round(&machines, "BIRD restarted gracefully", |traffic| {
            bird.leave_gracefully().unwrap();
            traffic.packets(PACKETS_PER_SECOND);
            bird.recover().unwrap();
            all_well(speakers);
        });
    });
}

#[test]
fn beside_frr_no_packet_is_lost() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let mut frr = Frr::start(&machines.tor, lab.directory(), "tor", FRR).unwrap();
    let hosts = [0, 1].map(|n| by_family(host(n, 65102)));
    all_rounds("FRR", hosts, &machines, &lab, |speakers| {
        // zebra takes routes out of its machine's kernel for a moment when its bgpd is back (FRR 8.4),
        // and packets with them. What the nodes have of it stays as it is.
        let watches = [0, 1].map(|n| {
            let mut command = machines.nodes[n].command("ip");
            command.args(["monitor", "route"]);
            let log = lab.directory().join(format!("n{n}.monitor.log"));
            (
                machines.nodes[n]
                    .start("ip monitor", command, &log)
                    .unwrap(),
                log,
            )
        });
        let outcomes = packets_during(&machines, |traffic| {
            frr.kill_bgpd().unwrap();
            traffic.packets(PACKETS_PER_SECOND);
            frr.start_bgpd_again().unwrap();
            all_well(speakers);
        });
        eprintln!("FRR's bgpd restarted: {outcomes:?}");
        for (_watch, log) in &watches {
            let changes = std::fs::read_to_string(log).unwrap();
            assert!(!changes.contains("proto 149"), "{changes}");
        }
    });
}

#[test]
fn without_graceful_restart_packets_are_lost() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let _bird = Bird::start(&machines.tor, lab.directory(), "tor", BIRD).unwrap();
    let mut speakers = [0, 1].map(|n| {
        let without = Host {
            fabric: "  gracefulRestart: {enabled: false}\n".into(),
            ..host(n, 65101)
        };
        without.start(&lab, &machines.nodes[n])
    });
    all_well(&speakers);
    machines.wait_for_pods();
    let outcomes = packets_during(&machines, |traffic| {
        restart(&mut speakers, End::Killed, traffic);
    });
    let lost = outcomes.iter().any(|outcome| outcome.lost > 0);
    assert!(lost, "{outcomes:?}");
}

/// Both nodes in one file, as the controller reads it.
fn both(hosts: &[Host; 2]) -> String {
    let [one, two] = hosts;
    let node = |host: &Host, side: &str| {
        format!(
            "---\napiVersion: routeshare.io/v1alpha1\nkind: Node\n\
             metadata: {{name: {}, labels: {{side: {side}}}}}\n\
             spec: {{addresses: {:?}, subnets: {:?}, asn: {}}}\n",
            host.name, host.addresses, host.subnets, host.asn
        )
    };
    let mut text = String::from(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {name: fabric}\n\
         spec:\n  asn: {value: 64512}\n  \
         timers: {holdSeconds: 9, keepaliveSeconds: 3, connectRetrySeconds: 1}\n",
    );
    text += &(node(one, "left") + &node(two, "right"));
    text += "---\napiVersion: routeshare.io/v1alpha1\nkind: Advertisement\n\
             metadata: {name: own}\nspec: {nodeSubnets: {}}\n\
             ---\napiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {name: tor}\n\
             spec:\n  addressFrom: {label: side, values: {left: 10.1.1.1, right: 10.1.2.1}}\n  \
             remoteAsn: 65100\n  import: [in]\n  export: [out]\n";
    for (name, rules) in [("in", &one.import), ("out", &one.export)] {
        text += &format!(
            "---\napiVersion: routeshare.io/v1alpha1\nkind: RoutePolicy\n\
             metadata: {{name: {name}}}\nspec:\n  rules:\n{rules}"
        );
    }
    text
}

#[test]
fn beside_our_own_tor_and_without_the_controller_no_packet_is_lost() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let mut tor = own_tor().start(&lab, &machines.tor);
    let hosts = [host(0, 65100), host(1, 65100)];
    let mut controller = Controller::start(
        &machines.tor,
        lab.directory(),
        &["10.1.1.1", "10.1.2.1"],
        &["n1", "n2"],
        &both(&hosts),
    )
    .unwrap();
    let mut speakers = [0, 1].map(|n| {
        let at = ["10.1.1.1", "10.1.2.1"][n];
        let name = hosts[n].name;
        Speaker::start_told(&machines.nodes[n], lab.directory(), name, &controller, at).unwrap()
    });
    all_well(&speakers);
    machines.wait_for_pods();

    nodes_are_told_otherwise(&machines, &speakers, &hosts, |hosts| {
        controller.edit(&both(hosts)).unwrap();
    });
    // It stays away all the while.
    round(&machines, "the controller killed", |traffic| {
        controller.kill().unwrap();
        traffic.packets(PACKETS_PER_SECOND);
    });
    speakers_come_and_go(
        &machines,
        &mut speakers,
        "our own ToR, without the controller",
    );
    for (what, how) in [("killed", End::Killed), ("stopped", End::Stopped)] {
        round(&machines, &format!("our own ToR {what}"), |traffic| {
            end(&mut tor, how);
            traffic.packets(2 * PACKETS_PER_SECOND);
            tor.start_again().unwrap();
            wait_until_well(&tor, "n1");
            wait_until_well(&tor, "n2");
            all_well(&speakers);
        });
    }
}

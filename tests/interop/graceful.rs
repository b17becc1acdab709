//! Packets from pod to pod while the speaker between them is killed or stopped and started again:
//! none is lost. RFC 4724 with BIRD and FRR as the ToRs.
//!
//! ```text
//!  pod 1 ── n1 ──── one (BIRD, AS 65101) ──── two (FRR, AS 65102) ──── n2 ── pod 2
//!       AS 65201                                                   AS 65202
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use crate::host::{Host, Peer, SOON};

/// How many packets a flow has in a second: two families, so 2,000 in each direction.
const PACKETS_PER_SECOND: u32 = 1000;
const PORT: u16 = 9000;

const POD_1: [&str; 2] = ["10.64.1.10", "fd00:64:1::10"];
const POD_2: [&str; 2] = ["10.64.2.10", "fd00:64:2::10"];

const BIRD: &str = "
router id 10.1.1.1;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
template bgp tor_session {
  local as 65101; hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;
  graceful restart on;
  ipv4 { import all; export all; };
  ipv6 { import all; export all; };
}
protocol bgp to_node from tor_session { neighbor 10.1.1.11 as 65201; }
protocol bgp to_two from tor_session { neighbor 10.9.0.2 as 65102; }
";

const FRR: &str = "
router bgp 65102
 bgp router-id 10.1.2.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 timers bgp 3 9
 neighbor 10.1.2.11 remote-as 65202
 neighbor 10.1.2.11 timers connect 1
 neighbor 10.1.2.11 advertisement-interval 0
 neighbor 10.9.0.1 remote-as 65101
 neighbor 10.9.0.1 timers connect 1
 neighbor 10.9.0.1 advertisement-interval 0
 address-family ipv4 unicast
  neighbor 10.1.2.11 activate
  neighbor 10.9.0.1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.1.2.11 activate
  neighbor 10.9.0.1 activate
 exit-address-family
";

struct Machines {
    pods: [Namespace; 2],
    nodes: [Namespace; 2],
    tors: [Namespace; 2],
}

impl Machines {
    fn new(lab: &Lab) -> Machines {
        let machine = |name: &str| lab.machine(name).unwrap();
        let machines = Machines {
            pods: [machine("pod1"), machine("pod2")],
            nodes: [machine("n1"), machine("n2")],
            tors: [machine("one"), machine("two")],
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
                .cable("eth0", &here, &machines.tors[n], "eth0", &there)
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
        let [one, two] = &machines.tors;
        let (left, right) = (
            ["10.9.0.1/30", "fd00:9::1/64"],
            ["10.9.0.2/30", "fd00:9::2/64"],
        );
        one.cable("eth1", &left, two, "eth1", &right).unwrap();
        machines
    }

    /// Each pod reaches the other by both families.
    fn wait_for_pods(&self) {
        for (pod, to) in self.pods.iter().zip([POD_2, POD_1]) {
            for address in to {
                wait_for(&format!("{} to reach {address}", pod.name()), SOON, || {
                    pod.run(&format!("ping -n -c 1 -W 1 {address}"))
                });
            }
        }
    }
}

/// Node 1 or 2.
fn host(n: usize) -> Host {
    match n {
        0 => Host {
            addresses: vec!["10.1.1.11", "fd00:1:1::11"],
            subnets: vec!["10.64.1.0/24", "fd00:64:1::/64"],
            peers: vec![Peer::new("tor", "10.1.1.1", 65101)],
            ..Host::new("n1", 65201)
        },
        _ => Host {
            addresses: vec!["10.1.2.11", "fd00:1:2::11"],
            subnets: vec!["10.64.2.0/24", "fd00:64:2::/64"],
            peers: vec![Peer::new("tor", "10.1.2.1", 65102)],
            ..Host::new("n2", 65202)
        },
    }
}

/// Packets between the pods, both ways and by both families.
struct Traffic {
    ended: AtomicBool,
    flows: Vec<Flow>,
}

/// Packets of one family in one direction.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: AtomicU32,
}

/// What became of a flow.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    sent: u32,
    lost: u32,
    /// The longest time between two arrivals.
    longest_gap: Duration,
}

impl Traffic {
    fn new(machines: &Machines) -> Traffic {
        let [one, two] = &machines.pods;
        let mut flows = Vec::new();
        for family in 0..2 {
            for (from, here, to, there) in [(one, POD_1, two, POD_2), (two, POD_2, one, POD_1)] {
                flows.push(Flow {
                    sender: socket(from, here[family], 0),
                    receiver: socket(to, there[family], PORT),
                    sent: AtomicU32::new(0),
                });
            }
        }
        Traffic {
            ended: AtomicBool::new(false),
            flows,
        }
    }

    /// Flows while `work` is done, then tells what arrived.
    fn during(&self, work: impl FnOnce()) -> Vec<Outcome> {
        std::thread::scope(|scope| {
            let running = self.flows.iter().map(|flow| {
                let sending = scope.spawn(|| self.send(flow));
                (flow, sending, scope.spawn(|| self.receive(flow)))
            });
            let running: Vec<_> = running.collect();
            // Also when the work fails: the threads have to come to an end.
            let done = catch_unwind(AssertUnwindSafe(work));
            self.ended.store(true, Ordering::Relaxed);
            let outcomes = running.into_iter().map(|(flow, sending, receiving)| {
                sending.join().unwrap();
                let sent = flow.sent.load(Ordering::Relaxed);
                let (arrived, longest_gap) = receiving.join().unwrap();
                Outcome {
                    sent,
                    lost: sent - arrived,
                    longest_gap,
                }
            });
            let outcomes = outcomes.collect();
            match done {
                Ok(()) => outcomes,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// At a steady rate, until the end.
    fn send(&self, flow: &Flow) {
        let to = flow.receiver.local_addr().unwrap();
        let begin = Instant::now();
        let mut number: u32 = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let due = begin + Duration::from_secs(1) * number / PACKETS_PER_SECOND;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // One that cannot be sent will be missed like any other.
            let _ = flow.sender.send_to(&number.to_be_bytes(), to);
            number += 1;
            flow.sent.store(number, Ordering::Relaxed);
        }
    }

    /// Until nothing comes any more after the end: how many different ones, and the longest gap.
    fn receive(&self, flow: &Flow) -> (u32, Duration) {
        let (mut arrived, mut longest_gap) = (BTreeSet::new(), Duration::ZERO);
        let mut last: Option<Instant> = None;
        let mut packet = [0; 4];
        loop {
            match flow.receiver.recv(&mut packet) {
                Ok(4) => {
                    arrived.insert(u32::from_be_bytes(packet));
                    let now = Instant::now();
                    longest_gap = longest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                }
                Err(_) if self.ended.load(Ordering::Relaxed) => break,
                Ok(_) | Err(_) => {}
            }
        }
        (u32::try_from(arrived.len()).unwrap(), longest_gap)
    }

    /// Waits until so many more packets are on their way in each flow.
    fn packets(&self, more: u32) {
        let sent = |flow: &Flow| flow.sent.load(Ordering::Relaxed);
        let until: Vec<u32> = self.flows.iter().map(|flow| sent(flow) + more).collect();
        wait_for("packets to be sent", SOON, || {
            let enough = self
                .flows
                .iter()
                .zip(&until)
                .all(|(flow, until)| sent(flow) >= *until);
            anyhow::ensure!(enough, "not all of {until:?}");
            Ok(())
        });
    }
}

fn socket(on: &Namespace, address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    // A program that is being started beside us holds the last round's sockets for a moment.
    let socket = wait_for("the port to be free", SOON, || {
        Ok(on.within(|| UdpSocket::bind(SocketAddr::new(address, port)))??)
    });
    let quiet = Duration::from_millis(500);
    socket.set_read_timeout(Some(quiet)).unwrap();
    socket
}

/// The session is back, and nothing is stale or held back.
fn wait_until_all_is_well(speaker: &Speaker<'_>) {
    speaker.wait_for_state("tor", "Established");
    wait_for("all to be told and heard again", SOON, || {
        let peer = speaker.peer("tor")?;
        let families = peer["families"].as_array().cloned().unwrap_or_default();
        for family in &families {
            let ends = family["endOfRibReceived"] == true && family["endOfRibSent"] == true;
            anyhow::ensure!(ends && family["stale"] == 0, "{peer}");
        }
        Ok(())
    });
}

/// Ends a speaker, starts it again, and waits until all is as it was.
fn restart(speaker: &mut Speaker<'_>, kill: bool, traffic: &Traffic) {
    match kill {
        true => speaker.kill().unwrap(),
        false => speaker.stop().unwrap(),
    }
    // Time enough for the ToR to notice.
    traffic.packets(2 * PACKETS_PER_SECOND);
    speaker.start_again().unwrap();
    wait_until_all_is_well(speaker);
    // What could be lost late: by our sweep, or by the ToR's.
    traffic.packets(3 * PACKETS_PER_SECOND);
}

#[test]
fn a_speaker_that_is_killed_or_stopped_and_started_again_loses_no_packet() {
    let lab = Lab::new().unwrap();
    let machines = Machines::new(&lab);
    let _bird = Bird::start(&machines.tors[0], lab.directory(), "one", BIRD).unwrap();
    let _frr = Frr::start(&machines.tors[1], lab.directory(), "two", FRR).unwrap();
    let mut speakers = [0, 1].map(|n| host(n).start(&lab, &machines.nodes[n]));
    speakers.iter().for_each(wait_until_all_is_well);
    machines.wait_for_pods();

    for (speaker, tor) in speakers.iter_mut().zip(["BIRD", "FRR"]) {
        for kill in [true, false, true, false] {
            let traffic = Traffic::new(&machines);
            let outcomes = traffic.during(|| restart(speaker, kill, &traffic));
            let how = if kill { "killed" } else { "stopped" };
            eprintln!("beside {tor}, {how}: {outcomes:?}");
            for outcome in &outcomes {
                let enough = outcome.sent > 5 * PACKETS_PER_SECOND;
                assert!(enough && outcome.lost == 0, "{tor}, {how}: {outcomes:?}");
                // Late is not lost, but a second would be worth a look.
                assert!(outcome.longest_gap < Duration::from_secs(1), "{outcomes:?}");
            }
        }
        let peer = speaker.peer("tor").unwrap();
        assert!(peer["gracefulRestart"]["peerSeconds"].is_u64(), "{peer}");
    }

    // That the packets tell: without graceful restart some are lost.
    let without = Host {
        fabric: "  gracefulRestart: {enabled: false}\n".into(),
        ..host(0)
    };
    let speaker = &mut speakers[0];
    speaker.edit(&without.yaml()).unwrap();
    wait_for("the change to be in force", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["gracefulRestart"].is_null(), "{peer}");
        Ok(())
    });
    wait_until_all_is_well(speaker);
    machines.wait_for_pods();
    let traffic = Traffic::new(&machines);
    let outcomes = traffic.during(|| restart(speaker, true, &traffic));
    assert!(
        outcomes.iter().any(|outcome| outcome.lost > 0),
        "{outcomes:?}"
    );
}

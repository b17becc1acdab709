//! Two next hops for every route: how long packets go astray when one of them goes.
//!
//! A source sends packets in turn to sampled destinations through the daemon's machine; two further
//! machines are the next hops and take every packet that comes. Then the first one's link goes down
//! (or its BFD session, or its BGP session, while it still takes packets), and every packet sent later
//! that does not come to the second one has gone astray. With 10,000 routes and with the whole table;
//! with both next hops used together, and with the second as a backup.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::bird::Bird;
use lab::{Lab, Namespace};
use nix::sys::socket::{setsockopt, sockopt};

use crate::bgp::{Heard, Session};
use crate::daemons::Ways;
use crate::measure::kernel_routes;
use crate::network::{Place, end, strs, v4};
use crate::outcome::Outcome;
use crate::scenario::{Order, Scenario};
use crate::table::{Family, Table};
use crate::work::{self, KernelGoal, Player};

/// The packets' destination.
const PORT: u16 = 7777;
/// How many destinations.
const SAMPLES: usize = 1000;
/// Packets each millisecond.
const PER_MILLISECOND: u32 = 20;
/// How long after the failure at most.
const PATIENCE: Duration = Duration::from_secs(25);
/// Packets may be on their way so long.
const FLIGHT: Duration = Duration::from_millis(200);
/// Room for all packets of one measurement.
const ROOM: usize = 20_000 * 40;

/// What goes down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Link,
    Bfd,
    Session,
}

/// Rows for a link and a session that go down, each with few and with many routes; what went wrong
/// with one stands in its row.
pub(crate) fn run(order: Order<'_>) -> Vec<Outcome> {
    let mut rows = Vec::new();
    let most = order.prefixes.unwrap_or(Scenario::Failover.prefixes());
    for (failure, ways, name) in [
        (Failure::Link, Ways::Several, "failover-link"),
        (Failure::Bfd, Ways::SeveralWithBfd, "failover-bfd"),
        (Failure::Session, Ways::Several, "failover-session"),
        (Failure::Link, Ways::Backup, "failover-backup"),
        (Failure::Session, Ways::Backup, "failover-backup-session"),
    ] {
        if failure == Failure::Bfd && !order.engine.has_bfd() {
            continue;
        }
        for prefixes in [most.min(10_000), most] {
            let table = Table::new(Family::Ipv4, prefixes, order.round as u64);
            let row = order.outcome(name, prefixes);
            // What it cannot do with many routes it may have done with few.
            rows.push(
                once(order, (failure, ways), &table, row.clone()).unwrap_or_else(|error| Outcome {
                    error: Some(format!("{error:#}")),
                    ..row
                }),
            );
        }
    }
    rows
}

fn once(
    order: Order<'_>,
    (failure, ways): (Failure, Ways),
    table: &Table,
    row: Outcome,
) -> Result<Outcome> {
    let lab = Lab::new()?;
    let dut = lab.machine("dut")?;
    let (first, second) = (lab.machine("first")?, lab.machine("second")?);
    let source = lab.machine("source")?;
    for (network, other) in [(1, &first), (2, &second), (3, &source)] {
        let name = format!("link{network}");
        let (ours, theirs) = (end(network, 1), end(network, 2));
        dut.cable(&name, &strs(&ours), other, "uplink", &strs(&theirs))?;
    }
    for machine in [&dut, &first, &second] {
        let filters = ["all", "default", "uplink", "link1", "link2", "link3"]
            .map(|name| format!("net/ipv4/conf/{name}/rp_filter"));
        let present = |key: &&String| machine.run(&format!("test -e /proc/sys/{key}")).is_ok();
        let settings: Vec<(&str, &str)> = filters
            .iter()
            .filter(present)
            .map(|key| (key.as_str(), "0"))
            .collect();
        machine.set(&settings)?;
    }
    dut.set(&[
        ("net/ipv4/ip_forward", "1"),
        // Packets of one destination and another take both ways.
        ("net/ipv4/fib_multipath_hash_policy", "0"),
    ])?;
    source.ip(["route add default via 10.99.3.1"])?;
    for (network, machine) in [(1, &first), (2, &second)] {
        // Everything is for it, but nothing from it: the source's network lies elsewhere.
        let back = format!("route add 10.99.3.0/24 via {}", v4(network, 1));
        machine.ip(["route add local 0.0.0.0/0 dev lo table main", &back])?;
    }

    let places = [Place::on_cable(1), Place::on_cable(2)];
    let peers = places.map(Place::peer);
    let (engine, programs) = (order.engine, order.programs);
    let running = engine.start(&dut, &peers, ways, programs, lab.directory())?;
    // As a backup the second one has longer paths for half of the routes, and the greater router id.
    let extra = usize::from(ways == Ways::Backup);
    let open = |machine: &Namespace, place: Place| {
        machine.within(|| {
            let patience = Duration::from_secs(30);
            Ok(Player {
                session: Session::open(place.address, place.daemon, place.asn, patience)?,
                messages: table.announcements(
                    place.asn,
                    place.next_hop(table.family),
                    if place.asn == places[1].asn { extra } else { 0 },
                ),
                tally: None,
            })
        })?
    };
    let players: Result<Vec<Player>> = [(&first, places[0]), (&second, places[1])]
        .into_iter()
        .map(|(machine, place)| open(machine, place))
        .collect();
    let mut players = players.map_err(|error| running.told(error))?;
    let samples = table.samples(SAMPLES);
    let goal = KernelGoal {
        family: table.family,
        samples: samples.clone(),
        present: true,
        total: dut.within(|| kernel_routes(table.family))?? + table.len as u64,
    };
    let before = running.cost();
    work::run(&dut, &mut players, Some(&goal), Instant::now())
        .map_err(|error| running.told(error))?;
    settle(&running)?;
    // Only now: beside the load these would be too slow, which says nothing of the daemon.
    let answering = match ways {
        Ways::SeveralWithBfd => Some([answer_bfd(&lab, &first, 1)?, answer_bfd(&lab, &second, 2)?]),
        _ => None,
    };
    if let Some(birds) = &answering {
        birds.iter().try_for_each(wait_for_bfd)?;
    }

    let packets = Packets::new();
    let stop = AtomicBool::new(false);
    let failed = thread::scope(|scope| -> Result<Failed> {
        let threads = [
            scope.spawn(|| {
                source
                    .within(|| packets.send(&samples, &stop))
                    .and_then(|r| r)
            }),
            scope.spawn(|| first.within(|| packets.receive(1, &stop)).and_then(|r| r)),
            scope.spawn(|| second.within(|| packets.receive(2, &stop)).and_then(|r| r)),
        ];
        // Sessions are read on, so that the daemon is not held up.
        let (failing, keeping) = players.split_at_mut(1);
        scope.spawn(|| keeping[0].session.drain(true, &stop));
        let result = packets.measure(ways, || match failure {
            Failure::Bfd => {
                let [bird, _] = answering.as_ref().context("nobody answers BFD")?;
                bird.freeze()?;
                // The daemon gives the session up when it has noticed.
                let silent = Instant::now();
                let mut heard = Heard::default();
                while failing[0].session.read(true, &mut heard).is_ok() {
                    ensure!(silent.elapsed() < PATIENCE, "BFD's end was not noticed");
                }
                Ok(Instant::now())
            }
            Failure::Link => fail_link(&first, &dut),
            Failure::Session => {
                failing[0].session.close();
                Ok(Instant::now())
            }
        });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(work::panicked)??;
        }
        result
    })
    .map_err(|error| running.told(error))?;
    Ok(Outcome {
        outage_ms: Some(failed.outage.as_secs_f64() * 1e3),
        lost_packets: Some(failed.astray),
        ..row.with(work::Times::default(), before, running.cost())
    })
}

/// Waits until the daemon has nothing more to do: sending the table on is not what is measured.
fn settle(running: &crate::daemons::Running) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = running.cost().cpu_seconds;
        thread::sleep(Duration::from_millis(500));
        if running.cost().cpu_seconds - before < 0.05 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the daemon was still busy a minute after the table was in the kernel"
        );
    }
}

/// BFD at 100 ms × 3 on a machine at the end of cable `network`, by BIRD, whoever asks.
fn answer_bfd(lab: &Lab, machine: &Namespace, network: u8) -> Result<Bird> {
    let (ours, theirs) = (v4(network, 2), v4(network, 1));
    let config = format!(
        "router id {ours};\nprotocol device {{}}\nprotocol bfd {{\n  \
         interface \"uplink\" {{ interval 100 ms; multiplier 3; }};\n  \
         neighbor {theirs} dev \"uplink\" local {ours};\n}}\n"
    );
    Bird::start(machine, lab.directory(), &format!("bfd{network}"), &config)
}

fn wait_for_bfd(bird: &Bird) -> Result<()> {
    lab::try_wait_for("BFD at 100 ms × 3", Duration::from_secs(20), || {
        let sessions = bird.ask("show bfd sessions")?;
        ensure!(
            sessions.contains(" Up ") && sessions.contains("0.300"),
            "{sessions}"
        );
        Ok(())
    })?;
    Ok(())
}

/// Takes the far end of the first cable down; when the daemon's machine has seen it.
fn fail_link(first: &Namespace, dut: &Namespace) -> Result<Instant> {
    thread::scope(|scope| {
        // Looks before and while it happens: later it would take some time for the moment.
        let seen = scope.spawn(|| dut.within(carrier_lost).and_then(|seen| seen));
        first.ip(["link set uplink down"])?;
        seen.join().map_err(work::panicked)?
    })
}

/// When link1 lost its carrier; in the daemon's machine.
fn carrier_lost() -> Result<Instant> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let link = nix::ifaddrs::getifaddrs()?
            .find(|interface| interface.interface_name == "link1")
            .context("the daemon's machine has no link1 any more")?;
        let now = Instant::now();
        let running = nix::net::if_::InterfaceFlags::IFF_RUNNING;
        if !link.flags.contains(running) {
            return Ok(now);
        }
        ensure!(now < deadline, "link1 never lost its carrier");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Every packet's time of sending and where it came, by its number.
struct Packets {
    began: Instant,
    sent: AtomicU64,
    /// Microseconds since `began`.
    sent_at: Vec<AtomicU64>,
    /// Bit 0: the first machine has it; bit 1: the second.
    came: Vec<AtomicU8>,
}

/// What a failure did.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    outage: Duration,
    astray: u64,
}

impl Packets {
    fn new() -> Packets {
        Packets {
            began: Instant::now(),
            sent: AtomicU64::new(0),
            sent_at: (0..ROOM).map(|_| AtomicU64::new(0)).collect(),
            came: (0..ROOM).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    fn send(&self, samples: &[IpAddr], stop: &AtomicBool) -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let began = Instant::now();
        let mut ticks = 0;
        let mut number = 0_usize;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..PER_MILLISECOND {
                if number == ROOM {
                    return Ok(());
                }
                let to = SocketAddr::new(samples[number % samples.len()], PORT);
                let now = self.began.elapsed().as_micros() as u64;
                self.sent_at[number].store(now, Ordering::Relaxed);
                // A packet that cannot be sent has gone astray.
                let _ = socket.send_to(&(number as u64).to_be_bytes(), to);
                number += 1;
                self.sent.store(number as u64, Ordering::Release);
            }
            ticks += 1;
            let next = began + Duration::from_millis(1) * ticks;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    fn receive(&self, place: u8, stop: &AtomicBool) -> Result<()> {
        let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut packet = [0; 8];
        while !stop.load(Ordering::Relaxed) {
            // Nothing within 100 ms is no error here.
            if let Ok(8) = socket.recv(&mut packet)
                && let Some(came) = self.came.get(u64::from_be_bytes(packet) as usize)
            {
                came.fetch_or(place, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Lets something fail while packets flow, and waits until they flow again.
    fn measure(&self, ways: Ways, fail: impl FnOnce() -> Result<Instant>) -> Result<Failed> {
        let start = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(500));
            if self.arrive(self.began.elapsed(), 3) {
                break;
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "packets did not flow before anything failed"
            );
        }
        let recent = || self.between(Duration::ZERO, self.began.elapsed());
        ensure!(
            recent().any(|(_, came)| came == 1),
            "nothing went over what is to fail: the daemon does not use both next hops"
        );
        ensure!(
            ways != Ways::Backup || !recent().any(|(_, came)| came & 2 != 0),
            "packets took the backup before anything failed"
        );
        let detected = fail()?.duration_since(self.began);
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = self.began.elapsed();
            let recovered = now > detected + Duration::from_secs(1) && self.arrive(now, 2);
            if recovered {
                return Ok(self.failed(detected, now));
            }
            ensure!(
                now < detected + PATIENCE,
                "packets still went astray {} s after the failure",
                PATIENCE.as_secs()
            );
        }
    }

    /// Whether what was sent for a while until just before `now` has come to one of `places`.
    fn arrive(&self, now: Duration, places: u8) -> bool {
        let until = now.saturating_sub(FLIGHT);
        let window = self.between(until.saturating_sub(FLIGHT), until);
        let mut sent = 0;
        let arrived = window
            .inspect(|_| sent += 1)
            .all(|(_, came)| came & places != 0);
        arrived && sent > 0
    }

    /// From the failure until the last packet that went astray, and how many did.
    fn failed(&self, detected: Duration, now: Duration) -> Failed {
        let mut failed = Failed {
            outage: Duration::ZERO,
            astray: 0,
        };
        for (at, came) in self.between(detected, now.saturating_sub(FLIGHT)) {
            if came & 2 == 0 {
                failed.outage = at - detected;
                failed.astray += 1;
            }
        }
        failed
    }

    /// Packets sent from `from` to `until`: when, and where they came.
    fn between(&self, from: Duration, until: Duration) -> impl Iterator<Item = (Duration, u8)> {
        let sent = self.sent.load(Ordering::Acquire) as usize;
        (0..sent)
            .map(|number| {
                let at = self.sent_at[number].load(Ordering::Relaxed);
                let came = self.came[number].load(Ordering::Relaxed);
                (Duration::from_micros(at), came)
            })
            .filter(move |(at, _)| (from..until).contains(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lasts_until_the_last_packet_that_went_astray() {
        let packets = Packets::new();
        for (number, (milliseconds, came)) in [(1, 1), (11, 1), (12, 2), (13, 0), (14, 2), (500, 0)]
            .into_iter()
            .enumerate()
        {
            packets.sent_at[number].store(milliseconds * 1000, Ordering::Relaxed);
            packets.came[number].store(came, Ordering::Relaxed);
        }
        packets.sent.store(6, Ordering::Release);
        let failed = packets.failed(Duration::from_millis(10), Duration::from_millis(600));
        let outage = Duration::from_millis(3);
        assert_eq!(failed, Failed { outage, astray: 2 });
    }
}

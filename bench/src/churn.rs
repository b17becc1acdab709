//! A table that keeps changing: what an UPDATE costs, how far the kernel lags behind, and whether a
//! question about a million routes disturbs that.
//!
//! Among the UPDATEs are beacons: prefixes in no table that are announced and withdrawn in turn.
//! From each until the kernel has (has no more) a route to it is the kernel's lag.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bgp::Sender;
use crate::daemons::Programs;
use crate::measure::Probe;
use crate::network::Place;
use crate::outcome::Outcome;
use crate::scenario::{Order, Scenario, Stage};
use crate::table::{self, Family, Random, Table};
use crate::work::panicked;

/// UPDATEs a second.
const RATE: u64 = 5_000;
/// They go out in packs, one every so often.
const PACE: Duration = Duration::from_millis(2);
/// Every how manieth pack ends with a beacon.
const BEACON: u64 = 10;
/// How long after the last UPDATE the kernel may still lag.
const GRACE: Duration = Duration::from_secs(10);
/// How long `bgpctl` may take.
const ANSWER: Duration = Duration::from_secs(60);

/// Churns for `order.churn` on a loaded stage; for [`Scenario::Query`], asks in the middle of it.
///
/// # Errors
///
/// When a session ends or `bgpctl` fails.
pub(crate) fn run(
    stage: &mut Stage,
    order: Order<'_>,
    scenario: Scenario,
    table: &Table,
) -> Result<Vec<Outcome>> {
    let place = stage.places[0];
    let mut out = stage.players[0].session.sender()?;
    let stop = AtomicBool::new(false);
    let (beacons, sent_beacons) = mpsc::channel();
    let before = stage.running.cost();
    let query = scenario == Scenario::Query;
    let length = match query {
        true => order.churn.min(Duration::from_secs(15)),
        false => order.churn,
    };
    let (running, dut, players) = (&stage.running, &stage.network.dut, &mut stage.players);
    let (sent, lags, answer) = thread::scope(|scope| {
        for (index, player) in players.iter_mut().enumerate() {
            let stop = &stop;
            // The first player sends all the time: no KEEPALIVE in between.
            scope.spawn(move || player.session.drain(index > 0, stop));
        }
        let watching = order.engine.installs().then(|| {
            scope.spawn(move || {
                dut.within(move || watch(sent_beacons))
                    .and_then(|lags| lags)
            })
        });
        let socket = running.folder.join("speaker.sock");
        let asking = query.then(|| scope.spawn(move || ask(order.programs, &socket)));
        let sent = send(&mut out, table, place, length, &beacons);
        drop(beacons);
        let lags = watching.map(|thread| thread.join().map_err(panicked));
        let answer = asking.map(|thread| thread.join().map_err(panicked));
        stop.store(true, Ordering::Relaxed);
        (sent, lags, answer)
    });
    let (updates, took) = sent?;
    let lags = lags.transpose()?.transpose()?;
    let routes_per_second = answer.transpose()?.transpose()?;
    let after = stage.running.cost();
    let row = order.outcome(scenario.name(), table.len);
    Ok(vec![Outcome {
        cpu_us_per_update: Some((after.cpu_seconds - before.cpu_seconds) * 1e6 / updates as f64),
        updates_per_second: Some(updates as f64 / took.as_secs_f64()),
        lag_ms: lags.and_then(|lags| quantiles(&lags)),
        routes_per_second,
        ..row.with(crate::work::Times::default(), before, after)
    }])
}

/// A beacon that was sent: its address, whether it is announced now, and when.
type Beacon = (Ipv4Addr, bool, Instant);

/// Sends RATE UPDATEs a second for `length`: how many, and how long that took in the end.
fn send(
    out: &mut Sender,
    table: &Table,
    place: Place,
    length: Duration,
    beacons: &mpsc::Sender<Beacon>,
) -> Result<(u64, Duration)> {
    let mut random = Random::new(1);
    let mut churning = Churning::new(table, place);
    let mut up = [false; 256];
    let began = Instant::now();
    let (mut packs, mut updates) = (0_u64, 0);
    let per_pack = RATE * PACE.as_millis() as u64 / 1000;
    let mut messages = Vec::new();
    while began.elapsed() < length {
        messages.clear();
        let beacon = (packs % BEACON == 0).then(|| {
            let number = (packs / BEACON % 256) as usize;
            up[number] = !up[number];
            (Ipv4Addr::new(10, 128, number as u8, 1), up[number])
        });
        for _ in usize::from(beacon.is_some())..per_pack as usize {
            churning.next(&mut random, &mut messages);
        }
        if let Some((address, up)) = beacon {
            table::beacon(
                address,
                place.asn,
                up.then_some(place.address),
                &mut messages,
            );
        }
        let now = Instant::now();
        out.send(&messages)?;
        if let Some((address, up)) = beacon {
            // Nobody listens where the daemon installs nothing.
            let _ = beacons.send((address, up, now));
        }
        updates += per_pack;
        packs += 1;
        let next = began + PACE * packs as u32;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok((updates, began.elapsed()))
}

/// Which sets of a table are announced, and how.
struct Churning<'a> {
    table: &'a Table,
    place: Place,
    /// How often the sender's AS stands in front; 0: withdrawn.
    prepended: Vec<u8>,
}

impl Churning<'_> {
    fn new(table: &Table, place: Place) -> Churning<'_> {
        Churning {
            table,
            place,
            prepended: vec![1; table.sets()],
        }
    }

    /// Appends one UPDATE: mostly another path, sometimes a withdrawal, which is taken back when the
    /// set is chosen again.
    fn next(&mut self, random: &mut Random, out: &mut Vec<u8>) {
        let index = random.below(self.prepended.len() as u64) as usize;
        let now = match self.prepended[index] {
            0 => 1,
            _ if random.below(4) == 0 => 0,
            1 => 2,
            _ => 1,
        };
        self.prepended[index] = now;
        match now {
            0 => self.table.withdraw_set(index, out),
            count => {
                let next_hop = self.place.next_hop(Family::Ipv4);
                let (asn, count) = (self.place.asn, usize::from(count));
                self.table.announce_set(index, asn, count, next_hop, out);
            }
        }
    }
}

/// Milliseconds until the kernel had each beacon as it was sent; in the daemon's machine.
fn watch(beacons: Receiver<Beacon>) -> Result<Vec<f64>> {
    let probe = Probe::new()?;
    let mut lags = Vec::new();
    let mut open: Vec<Beacon> = Vec::new();
    let mut ended = None;
    loop {
        loop {
            match beacons.try_recv() {
                // What was to become of an earlier one of the same address cannot be seen any more.
                Ok(beacon) => {
                    open.retain(|(address, _, since)| {
                        let other = *address != beacon.0;
                        if !other {
                            lags.push(since.elapsed().as_secs_f64() * 1e3);
                        }
                        other
                    });
                    open.push(beacon);
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    ended.get_or_insert_with(Instant::now);
                    break;
                }
            }
        }
        let late = ended.is_some_and(|at| at.elapsed() > GRACE);
        open.retain(|(address, up, since)| {
            let there = probe.routed(IpAddr::V4(*address)) == *up;
            if there || late {
                lags.push(since.elapsed().as_secs_f64() * 1e3);
            }
            !there && !late
        });
        if ended.is_some() && open.is_empty() {
            return Ok(lags);
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Median, 99th percentile, worst.
fn quantiles(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len() - 1));
    let worst = sorted.last()?;
    Some([*at(0.5)?, *at(0.99)?, *worst])
}

/// Lets `bgpctl` print every route into a pipe, three seconds after the churn began: routes a second.
fn ask(programs: &Programs, socket: &std::path::Path) -> Result<f64> {
    thread::sleep(Duration::from_secs(3));
    let program = programs.binaries.join("bgpctl");
    let mut child = Command::new(&program)
        .args(["show", "routes", "--socket"])
        .arg(socket)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let began = Instant::now();
    let mut pipe = child.stdout.take().context("bgpctl has no output")?;
    let mut buffer = vec![0; 1 << 16];
    let mut lines = 0_u64;
    loop {
        let read = pipe.read(&mut buffer)?;
        if read == 0 || began.elapsed() > ANSWER {
            break;
        }
        lines += buffer[..read]
            .iter()
            .filter(|octet| **octet == b'\n')
            .count() as u64;
    }
    let took = began.elapsed();
    if took > ANSWER {
        child.kill()?;
    }
    let status = child.wait()?;
    ensure!(
        status.success(),
        "bgpctl show routes: {status} after {lines} lines"
    );
    Ok(lines as f64 / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(quantiles(&values), Some([50.0, 99.0, 99.0]));
        assert_eq!(quantiles(&[]), None);
    }
}

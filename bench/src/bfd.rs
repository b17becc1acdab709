//! 500 BFD sessions at 50 ms × 3 on one core beside a full table: false alarms, what BFD costs, and how
//! long the speaker takes to hear of a path that does fail.
//!
//! ```text
//!  dut:   speaker, routeshare-bfd ──┐ 500 sessions         ┌── speaker, routeshare-bfd   :peers
//!         10.96.0.0/23 on lo        ├──── link1 ───────────┤   10.97.0.0/23 on lo
//!         10.99.3.1                 └──── link3: one more, cut ── 10.99.3.2
//! ```
//!
//! Both `routeshare-bfd` are bound to the first core. The speaker goes where the kernel puts it, the
//! bench itself to the other cores: when it counts a million routes, the kernel holds a core for longer
//! than a session may be silent (unless it was booted with `preempt=full`). A thread of the bench on the
//! first core, of higher priority than everything here, measures how late this machine lets anybody run.
//! The peers of these sessions never open a connection; the table comes from and goes to the bench's
//! own players, as in `table`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use serde_json::Value;

use crate::configs;
use crate::daemons::{DAEMON_ASN, Programs, Running, Ways};
use crate::measure::{self, Pulse, kernel_routes};
use crate::network::{Network, Place, v4};
use crate::outcome::Outcome;
use crate::scenario::{Order, Scenario, open};
use crate::table::Table;
use crate::work::{self, KernelGoal, Tally};

const SESSIONS: usize = 500;
const MILLIS: u32 = 50;
const MULTIPLIER: u32 = 3;
/// How long until all of them are up.
const SOON: Duration = Duration::from_secs(90);
/// How long they run before the table comes.
const REST: Duration = Duration::from_secs(10);
/// How long after its cable was cut a path may be taken for well.
const NOTICE: Duration = Duration::from_secs(10);

/// Its sessions with a table in the works, as a row; and a path that fails meanwhile.
///
/// # Errors
///
/// When the sessions do not come up, or the table does not arrive.
pub(crate) fn run(order: Order<'_>, table: &Table) -> Result<Vec<Outcome>> {
    let network = Network::new(3, false)?;
    let sides = [
        Side::start(&network, order.programs, 0)?,
        Side::start(&network, order.programs, 1)?,
    ];
    let dut = &sides[0].running;
    measure::leave_first_core();
    let pulse = Pulse::start(0);
    let work = || -> Result<Vec<Outcome>> {
        for side in &sides {
            side.wait_for_sessions()?;
        }
        let places: Vec<Place> = (1..=3).map(Place::on_cable).collect();
        let mut players = open(&network.peers, &places)?;
        let watched = players.pop().context("three players were opened")?;
        let mut watched = watched.session;

        let start = Marks::of(&sides)?;
        thread::sleep(REST);
        let rested = Marks::of(&sides)?;
        let present = network.dut.within(|| kernel_routes(table.family))??;
        players[0].messages =
            table.announcements(places[0].asn, places[0].next_hop(table.family), 0);
        players[1].tally = Some(Tally::announcements(table.len, std::iter::empty()));
        let goal = |there: bool| KernelGoal {
            family: table.family,
            samples: table.samples(2000),
            present: there,
            total: present + if there { table.len as u64 } else { 0 },
        };
        let stop = AtomicBool::new(false);
        let (times, loaded, told) = thread::scope(|scope| -> Result<_> {
            scope.spawn(|| watched.drain(true, &stop));
            let mut done = || -> Result<_> {
                let before = dut.cost();
                let times = work::run(
                    &network.dut,
                    &mut players,
                    Some(&goal(true)),
                    Instant::now(),
                )?;
                let loaded = Marks::of(&sides)?;
                let row = order.outcome(Scenario::Bfd.name(), table.len);
                let row = row.with(times, before, dut.cost());
                // All of it goes again, and meanwhile a path fails.
                players[0].messages = table.withdrawals();
                players[1].tally = Some(Tally::withdrawals(table.len));
                let told = thread::scope(|scope| {
                    let told = scope.spawn(|| sides[0].notices_a_cut(&network));
                    work::run(
                        &network.dut,
                        &mut players,
                        Some(&goal(false)),
                        Instant::now(),
                    )?;
                    told.join().map_err(work::panicked)?
                })?;
                Ok((row, loaded, told))
            };
            let result = done();
            stop.store(true, Ordering::Relaxed);
            result
        })?;
        println!(
            "bfd: {:.3} CPU seconds a second at rest; late packets {} received, {} sent; {}",
            rested.cpu_since(&start),
            loaded.late[0] - rested.late[0],
            loaded.late[1] - rested.late[1],
            sides[0].priority()
        );
        Ok(vec![Outcome {
            false_alarms: Some(loaded.downs - start.downs),
            longest_silence_ms: Some(loaded.longest_silence_ms),
            machine_late_ms: Some(pulse.latest().as_secs_f64() * 1e3),
            bfd_cpu: Some(loaded.cpu_since(&rested)),
            told_ms: Some(told),
            ..times
        }])
    };
    work().map_err(|error| dut.told(sides[1].running.told(error)))
}

/// One machine's speaker and `routeshare-bfd`.
struct Side {
    running: Running,
    bfd: u32,
    bgpctl: PathBuf,
    sessions: usize,
}

impl Side {
    /// Side 0 is the daemon's machine, with the whole of the bench's peers; side 1 only has sessions.
    fn start(network: &Network, programs: &Programs, side: u8) -> Result<Side> {
        let machine = [&network.dut, &network.peers][usize::from(side)];
        address(machine, side)?;
        let folder = network.lab.directory().join(format!("side{side}"));
        let resources = folder.join("resources");
        fs::create_dir_all(&resources)?;
        let players: Vec<_> = (1..=3).map(|cable| Place::on_cable(cable).peer()).collect();
        let mut text = configs::routeshare(if side == 0 { &players } else { &[] }, Ways::One);
        if side == 0 {
            // The third of the players' peers is watched too.
            text += &format!("  bfd: {}\n", bfd());
        } else {
            text += &peer("watched", v4(3, 1), Some(v4(3, 2)));
        }
        let own: Vec<String> = (0..SESSIONS)
            .map(|session| lo(side, session).to_string())
            .chain([v4(3, 1 + side).to_string(), "192.0.2.1".to_owned()])
            .collect();
        let own = format!("addresses: [{}]", own.join(", "));
        text = text.replace("addresses: [192.0.2.1]", &own);
        for session in 0..SESSIONS {
            let (ours, theirs) = (lo(side, session), lo(1 - side, session));
            text += &peer(&format!("s{session}"), theirs, Some(ours));
        }
        fs::write(resources.join("bench.yaml"), text)?;

        let bfd_socket = folder.join("bfd.sock");
        let mut command = machine.command("taskset");
        command.args(["--cpu-list", "0"]);
        command.arg(programs.binaries.join("routeshare-bfd"));
        command.arg("--socket").arg(&bfd_socket);
        let bfd = machine.start("routeshare-bfd", command, &folder.join("bfd.log"))?;
        let mut command = machine.command(programs.binaries.join("routeshare-speaker"));
        command.args(["--node", "bench", "--standalone", "--resources"]);
        command.arg(&resources);
        command.arg("--state-dir").arg(folder.join("state"));
        command.arg("--socket").arg(folder.join("speaker.sock"));
        command.arg("--bfd-socket").arg(&bfd_socket);
        let speaker = machine.start("routeshare", command, &folder.join("log"))?;
        let id = bfd.id().context("routeshare-bfd has ended")?;
        Ok(Side {
            running: Running::of(vec![speaker, bfd], folder),
            bfd: id,
            bgpctl: programs.binaries.join("bgpctl"),
            sessions: SESSIONS + 1,
        })
    }

    fn sessions(&self) -> Result<Vec<Value>> {
        let mut command = std::process::Command::new(&self.bgpctl);
        command.args(["show", "bfd", "-o", "json", "--socket"]);
        command.arg(self.running.folder.join("speaker.sock"));
        Ok(serde_json::from_str(&lab::output(&mut command)?)?)
    }

    fn wait_for_sessions(&self) -> Result<()> {
        let up = lab::try_wait_for("all BFD sessions to be up", SOON, || {
            let sessions = self.sessions()?;
            let micros = u64::from(MILLIS * MULTIPLIER * 1000);
            let up = sessions
                .iter()
                .filter(|it| it["bfd"]["state"] == "Up" && it["bfd"]["detectionMicros"] == micros);
            let up = up.count();
            ensure!(up == self.sessions, "{up} of {}", self.sessions);
            Ok(())
        });
        Ok(up?)
    }

    /// What priority `routeshare-bfd` said that it has.
    fn priority(&self) -> String {
        let log = fs::read_to_string(self.running.folder.join("bfd.log")).unwrap_or_default();
        let found = log.lines().find_map(|line| line.split_once("priority="));
        found.map_or("no priority told".into(), |(_, text)| text.to_owned())
    }

    /// Cuts the third cable silently; from when BFD noticed until the speaker had acted on it, as it
    /// says itself, in milliseconds.
    fn notices_a_cut(&self, network: &Network) -> Result<f64> {
        thread::sleep(Duration::from_millis(300)); // into the work
        let peers = &network.peers;
        peers.run("nft add table inet cut")?;
        let chain = "type filter hook input priority -300 ;";
        peers.run(&format!("nft add chain inet cut input {{ {chain} }}"))?;
        peers.run("nft add rule inet cut input iifname link3 drop")?;
        let told = lab::try_wait_for("the speaker to hear of the cut", NOTICE, || {
            let log = fs::read_to_string(self.running.folder.join("log"))?;
            let line = log.lines().find(|line| line.contains("the path is down"));
            let (_, rest) = line
                .and_then(|line| line.split_once("after_millis="))
                .context("nothing of it in the log")?;
            let number = rest.split_whitespace().next().unwrap_or_default();
            Ok(number.parse()?)
        });
        Ok(told?)
    }
}

/// How things stand at a moment, of both sides together.
struct Marks {
    at: Instant,
    downs: u64,
    longest_silence_ms: f64,
    /// Packets received late, and sent late.
    late: [u64; 2],
    /// Of the first side's `routeshare-bfd`.
    cpu: f64,
}

impl Marks {
    fn of(sides: &[Side; 2]) -> Result<Marks> {
        let mut marks = Marks {
            at: Instant::now(),
            downs: 0,
            longest_silence_ms: 0.0,
            late: [0; 2],
            cpu: measure::cost(&[sides[0].bfd]).cpu_seconds,
        };
        for side in sides {
            for it in side.sessions()? {
                let number = |name: &str| it["bfd"][name].as_u64().unwrap_or(0);
                marks.downs += number("downs");
                marks.late[0] += number("lateReceived");
                marks.late[1] += number("lateSent");
                let silence = number("longestSilenceMicros") as f64 / 1000.0;
                marks.longest_silence_ms = marks.longest_silence_ms.max(silence);
            }
        }
        Ok(marks)
    }

    /// CPU seconds a second since an earlier moment.
    fn cpu_since(&self, earlier: &Marks) -> f64 {
        (self.cpu - earlier.cpu) / (self.at - earlier.at).as_secs_f64()
    }
}

/// Address `session` of a side.
fn lo(side: u8, session: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        10,
        96 + side,
        (session / 250) as u8,
        (session % 250 + 1) as u8,
    )
}

/// Gives a machine its side's addresses, and the way to the other's: one neighbour for all of them, so
/// that the kernel's table of neighbours holds them.
fn address(machine: &Namespace, side: u8) -> Result<()> {
    let mut lines: Vec<String> = (0..SESSIONS)
        .map(|session| format!("address add {}/32 dev lo", lo(side, session)))
        .collect();
    lines.push(format!(
        "route add 10.{}.0.0/16 via {}",
        96 + 1 - side,
        v4(1, 2 - side)
    ));
    machine.ip(lines.iter().map(String::as_str))
}

fn bfd() -> String {
    format!(
        "{{minTxMillis: {MILLIS}, minRxMillis: {MILLIS}, multiplier: {MULTIPLIER}, multihop: false}}"
    )
}

/// A Peer who never connects, with BFD.
fn peer(name: &str, remote: Ipv4Addr, local: Option<Ipv4Addr>) -> String {
    let local = local.map_or(String::new(), |local| format!("  localAddress: {local}\n"));
    format!(
        "---\napiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\n\
         spec:\n  address: {remote}\n{local}  remoteAsn: {}\n  passive: true\n  import: [all]\n  \
         export: [all]\n  bfd: {}\n",
        DAEMON_ASN + 1000,
        bfd()
    )
}

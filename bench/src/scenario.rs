//! What is measured, and how.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::{Lab, Namespace};
use serde::Serialize;

use crate::bgp::{Heard, Session};
use crate::daemons::{DAEMON_ASN, Engine, Peer};
use crate::floor;
use crate::measure::{cost, kernel_routes};
use crate::table::{Family, NextHop, Table};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// A full IPv4 table from one eBGP sender to a second eBGP peer and into the kernel.
    Table,
    /// The same with IPv6.
    Table6,
}

/// Every scenario, in the order of the report.
pub(crate) const ALL: [Scenario; 2] = [Scenario::Table, Scenario::Table6];

/// What one daemon needed for it once.
#[derive(Serialize)]
pub(crate) struct Outcome {
    scenario: &'static str,
    daemon: &'static str,
    round: usize,
    prefixes: usize,
    /// Until the last prefix was at the receiver.
    receiver_seconds: Option<f64>,
    /// Until the last prefix was in the kernel.
    kernel_seconds: f64,
    cpu_seconds: Option<f64>,
    peak_memory_mib: Option<f64>,
    /// Resident before the first prefix.
    idle_memory_mib: Option<f64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<8} {:<11} round {}",
            self.scenario, self.daemon, self.round
        )?;
        if let Some(seconds) = self.receiver_seconds {
            write!(f, "  receiver {seconds:>6.2} s")?;
        } else {
            write!(f, "                   ")?;
        }
        write!(f, "  kernel {:>6.2} s", self.kernel_seconds)?;
        if let (Some(cpu), Some(peak), Some(idle)) =
            (self.cpu_seconds, self.peak_memory_mib, self.idle_memory_mib)
        {
            write!(
                f,
                "  CPU {cpu:>6.2} s  peak {peak:>6.1} MiB  idle {idle:>5.1} MiB"
            )?;
        }
        Ok(())
    }
}

const MIB: f64 = 1024.0 * 1024.0;
const PATIENCE: Duration = Duration::from_secs(150);
const SENDER: u32 = DAEMON_ASN + 1;
const RECEIVER: u32 = DAEMON_ASN + 2;

fn v4(network: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, network, host).into()
}

fn v6(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, network, 0, 0, 0, 0, 0, host)
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Scenario::Table => "table",
            Scenario::Table6 => "table6",
        }
    }

    fn table(self, prefixes: Option<usize>, round: usize) -> Table {
        let (family, len) = match self {
            Scenario::Table => (Family::Ipv4, 1_000_000),
            Scenario::Table6 => (Family::Ipv6, 200_000),
        };
        Table::new(family, prefixes.unwrap_or(len), round as u64)
    }

    /// Gives the work to `engine` once, in fresh namespaces.
    ///
    /// # Errors
    ///
    /// When the network cannot be made, the daemon does not start or does not finish the work.
    pub(crate) fn run(
        self,
        engine: Engine,
        prefixes: Option<usize>,
        binaries: &Path,
        round: usize,
    ) -> Result<Outcome> {
        let table = self.table(prefixes, round);
        let next_hop = match table.family {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::new(10, 99, 1, 2)),
            Family::Ipv6 => NextHop::V6(v6(1, 2)),
        };
        let messages = table.announcements(SENDER, next_hop, 0);
        let network = Network::new()?;
        let sessions = [
            Peer {
                asn: SENDER,
                address: v4(1, 2),
            },
            Peer {
                asn: RECEIVER,
                address: v4(2, 2),
            },
        ];
        let daemon = engine.start(&network.dut, &sessions, binaries, network.lab.directory())?;
        let pid = daemon.id().context("the daemon ended at once")?;
        let told = |error: anyhow::Error| {
            error.context(format!(
                "{} printed last:\n{}",
                engine.name(),
                daemon.log_tail()
            ))
        };

        let patience = Duration::from_secs(30);
        // Both stay open until the end: a session that goes takes its routes along.
        let (mut sender, mut receiver) = network
            .peers
            .within(|| -> Result<_> {
                Ok((
                    Session::open(v4(1, 2), v4(1, 1), SENDER, patience)?,
                    Session::open(v4(2, 2), v4(2, 1), RECEIVER, patience)?,
                ))
            })?
            .map_err(told)?;
        let before = cost(&[pid]);
        let work = Work {
            family: table.family,
            wanted: table.len as u64,
            present: network.dut.within(|| kernel_routes(table.family))??,
            began: Instant::now(),
            failed: AtomicBool::new(false),
        };
        let (receiver_seconds, kernel_seconds) = work
            .watch(&network.dut, &mut sender, &mut receiver, &messages)
            .map_err(told)?;
        let after = cost(&[pid]);
        Ok(Outcome {
            scenario: self.name(),
            daemon: engine.name(),
            round,
            prefixes: table.len,
            receiver_seconds: Some(receiver_seconds),
            kernel_seconds,
            cpu_seconds: Some(after.cpu_seconds - before.cpu_seconds),
            peak_memory_mib: Some(after.peak_memory as f64 / MIB),
            idle_memory_mib: Some(before.memory as f64 / MIB),
        })
    }

    /// The kernel's floor for the same table.
    ///
    /// # Errors
    ///
    /// When the network cannot be made or the kernel refuses a route.
    pub(crate) fn floor(self, prefixes: Option<usize>, round: usize) -> Result<Outcome> {
        let table = self.table(prefixes, round);
        let network = Network::new()?;
        let gateway: IpAddr = match table.family {
            Family::Ipv4 => v4(1, 2),
            Family::Ipv6 => v6(1, 2).into(),
        };
        let took = network.dut.within(|| -> Result<Duration> {
            let index = nix::net::if_::if_nametoindex("link1")?;
            floor::write(&table, gateway, index)
        })??;
        Ok(Outcome {
            scenario: self.name(),
            daemon: "floor",
            round,
            prefixes: table.len,
            receiver_seconds: None,
            kernel_seconds: took.as_secs_f64(),
            cpu_seconds: None,
            peak_memory_mib: None,
            idle_memory_mib: None,
        })
    }
}

/// The daemon's machine and the peers' machine, with a cable for each peer.
struct Network {
    dut: Namespace,
    peers: Namespace,
    lab: Lab,
}

impl Network {
    fn new() -> Result<Network> {
        let lab = Lab::new()?;
        let (dut, peers) = (lab.machine("dut")?, lab.machine("peers")?);
        // A full IPv6 table is more than the kernel allows by itself.
        dut.set(&[("net/ipv6/route/max_size", "4194304")])?;
        for network in [1, 2] {
            let ends = |host: u8| {
                let v6 = v6(network.into(), host.into());
                [format!("{}/24", v4(network, host)), format!("{v6}/64")]
            };
            let (ours, theirs) = (ends(1), ends(2));
            let name = format!("link{network}");
            dut.cable(
                &name,
                &ours.each_ref().map(String::as_str),
                &peers,
                &name,
                &theirs.each_ref().map(String::as_str),
            )?;
        }
        Ok(Network { dut, peers, lab })
    }
}

/// One table on its way.
struct Work {
    family: Family,
    /// How many prefixes.
    wanted: u64,
    /// Routes the kernel had before.
    present: u64,
    began: Instant,
    /// One of the threads gave up; the others need not wait.
    failed: AtomicBool,
}

impl Work {
    /// Sends `messages`; seconds until everything was at the receiver, and in the kernel of `dut`.
    fn watch(
        &self,
        dut: &Namespace,
        sender: &mut Session,
        receiver: &mut Session,
        messages: &[u8],
    ) -> Result<(f64, f64)> {
        let mut out = sender.sender()?;
        thread::scope(|scope| {
            let sending = scope.spawn(move || out.send(messages));
            let keeping = scope.spawn(move || -> Result<()> {
                // The sender's side must read too, or its window fills.
                let mut heard = Heard::default();
                while !sending.is_finished() && self.goes_on() {
                    self.noted(sender.read(false, &mut heard))?;
                }
                sending.join().map_err(panicked)?
            });
            let receiving = scope.spawn(|| self.noted(self.receive(receiver)));
            let installing = scope.spawn(|| self.noted(dut.within(|| self.install())?));
            let results = (keeping.join(), receiving.join(), installing.join());
            results.0.map_err(panicked)??;
            Ok((results.1.map_err(panicked)??, results.2.map_err(panicked)??))
        })
    }

    fn receive(&self, receiver: &mut Session) -> Result<f64> {
        let mut seen = vec![0_u64; 1 << 18];
        let mut count = 0;
        let mut heard = Heard::default();
        while count < self.wanted {
            if !self.goes_on() {
                bail!(
                    "only {count} of {} prefixes came to the receiver",
                    self.wanted
                );
            }
            receiver.read(true, &mut heard)?;
            for slot in &heard.announced {
                let (word, bit) = ((slot >> 6) as usize, 1 << (slot & 63));
                count += u64::from(seen[word] & bit == 0);
                seen[word] |= bit;
            }
        }
        Ok(self.began.elapsed().as_secs_f64())
    }

    fn install(&self) -> Result<f64> {
        loop {
            let now = kernel_routes(self.family)?.saturating_sub(self.present);
            if now >= self.wanted {
                return Ok(self.began.elapsed().as_secs_f64());
            }
            if !self.goes_on() {
                bail!(
                    "only {now} of {} prefixes came into the kernel",
                    self.wanted
                );
            }
            // Counting walks the whole table: not so often that it is part of what is measured.
            let almost = now * 10 > self.wanted * 9;
            thread::sleep(Duration::from_millis(if almost { 50 } else { 200 }));
        }
    }

    fn goes_on(&self) -> bool {
        !self.failed.load(Ordering::Relaxed) && self.began.elapsed() < PATIENCE
    }

    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> anyhow::Error {
    anyhow::anyhow!("a thread of the bench panicked")
}

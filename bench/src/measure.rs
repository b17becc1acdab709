//! What a daemon costs, and how far the kernel is.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::table::Family;

/// CPU time and memory of some processes, added up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Seconds in user and system mode.
    pub(crate) cpu_seconds: f64,
    /// Peak resident set in bytes.
    pub(crate) peak_memory: u64,
    /// Present resident set in bytes.
    pub(crate) memory: u64,
}

/// `pids` and all their descendants.
pub(crate) fn with_children(pids: &[u32]) -> Vec<u32> {
    let mut all = pids.to_vec();
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        at += 1;
    }
    all
}

/// The cost so far of `pids`; processes that are gone count nothing.
pub(crate) fn cost(pids: &[u32]) -> Cost {
    let mut total = Cost::default();
    for pid in pids {
        // Field 14 and 15 of stat, counted behind the command's closing parenthesis.
        if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect();
            let ticks: f64 = [11, 12]
                .iter()
                .filter_map(|at| fields.get(*at)?.parse::<f64>().ok())
                .sum();
            total.cpu_seconds += ticks / 100.0;
        }
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            total.peak_memory += kilobytes(&status, "VmHWM:") * 1024;
            total.memory += kilobytes(&status, "VmRSS:") * 1024;
        }
    }
    total
}

fn kilobytes(status: &str, field: &str) -> u64 {
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Asks the kernel whether it would send packets to some addresses, as a socket does: by
/// `connect`, which looks the route up without a lock and without walking a table.
pub(crate) struct Probe {
    v4: UdpSocket,
    v6: UdpSocket,
}

impl Probe {
    /// In the calling thread's network namespace, for threads anywhere.
    ///
    /// # Errors
    ///
    /// When the kernel gives no socket.
    pub(crate) fn new() -> Result<Probe> {
        Ok(Probe {
            v4: UdpSocket::bind("0.0.0.0:0").context("cannot open an IPv4 socket")?,
            v6: UdpSocket::bind("[::]:0").context("cannot open an IPv6 socket")?,
        })
    }

    /// Whether there is a route to `address`.
    pub(crate) fn routed(&self, address: IpAddr) -> bool {
        let socket = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        socket.connect((address, 9)).is_ok()
    }
}

/// How many routes of `family` the kernel holds in the calling thread's network namespace (the
/// connected ones of the namespace's own links included). Walks the whole IPv4 table: for the end of
/// a measurement, not for the middle ([`Probe`]).
///
/// # Errors
///
/// When the kernel's statistics cannot be read.
pub(crate) fn kernel_routes(family: Family) -> Result<u64> {
    match family {
        Family::Ipv4 => {
            let path = "/proc/thread-self/net/fib_triestat";
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            // "Prefixes:" once for each table; main and local may be one trie.
            Ok(text
                .lines()
                .filter_map(|line| {
                    line.trim()
                        .strip_prefix("Prefixes:")?
                        .trim()
                        .parse::<u64>()
                        .ok()
                })
                .max()
                .unwrap_or(0))
        }
        Family::Ipv6 => {
            // rt6_stats: nodes, route nodes, routes allocated, entries, cache, discarded.
            let path = "/proc/thread-self/net/rt6_stats";
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let entries = text.split_whitespace().nth(3).unwrap_or("0");
            u64::from_str_radix(entries, 16).with_context(|| format!("{path} is not understood"))
        }
    }
}

/// One line on the machine, for the record.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo")
        .map(|text| kilobytes(&text, "MemTotal:") / 1024 / 1024)
        .unwrap_or(0);
    let model = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split(':').nth(1)?.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = Command::new("uname")
        .arg("-r")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    format!("{cores} cores of {model}, {memory} GiB, Linux {kernel}")
}
/// Keeps this thread, and those that it starts, from the first core if there are others.
pub(crate) fn leave_first_core() {
    let mut others = CpuSet::new();
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for core in 1..count {
        // Fails for more cores than a set holds; those are left out.
        let _ = others.set(core);
    }
    if count > 1 {
        // Refused in a smaller set of cores: then it stays.
        let _ = sched_setaffinity(Pid::from_raw(0), &others);
    }
}

/// A thread on one core, before everybody else there, that notes how late it gets its turn.
pub(crate) struct Pulse {
    latest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Pulse {
    /// On this core, until dropped.
    pub(crate) fn start(core: usize) -> Pulse {
        const BEAT: Duration = Duration::from_millis(2);
        let pulse = Pulse {
            latest: Arc::default(),
            stop: Arc::default(),
        };
        let (latest, stop) = (pulse.latest.clone(), pulse.stop.clone());
        std::thread::spawn(move || {
            let mut this = CpuSet::new();
            let priority = libc::sched_param { sched_priority: 90 };
            let _ = this.set(core);
            let _ = sched_setaffinity(Pid::from_raw(0), &this);
            // SAFETY: 0 means this thread; the structure outlives the call. Refused, it beats as an
            // ordinary thread does.
            unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
            while !stop.load(Ordering::Relaxed) {
                let due = Instant::now() + BEAT;
                std::thread::sleep(BEAT);
                let late = due.elapsed().as_micros() as u64;
                latest.fetch_max(late, Ordering::Relaxed);
            }
        });
        pulse
    }

    /// The worst so far.
    pub(crate) fn latest(&self) -> Duration {
        Duration::from_micros(self.latest.load(Ordering::Relaxed))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

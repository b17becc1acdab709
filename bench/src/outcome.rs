//! What one daemon needed for one piece of work once: a row of the report.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::measure::Cost;
use crate::work::Times;

const MIB: f64 = 1024.0 * 1024.0;

/// A row. What a scenario does not measure, or a daemon cannot do, is absent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    /// As `--peer` names it, or `floor`: the kernel alone.
    pub(crate) daemon: String,
    pub(crate) round: usize,
    pub(crate) prefixes: usize,
    /// Until the last prefix was at the last receiver.
    pub(crate) receiver_seconds: Option<f64>,
    /// Until the last prefix was in the kernel.
    pub(crate) kernel_seconds: Option<f64>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) peak_memory_mib: Option<f64>,
    /// Resident before the first prefix.
    pub(crate) idle_memory_mib: Option<f64>,
    /// Resident when the work was done.
    pub(crate) memory_mib: Option<f64>,
    /// CPU microseconds for each UPDATE received.
    pub(crate) cpu_us_per_update: Option<f64>,
    /// UPDATEs sent each second.
    pub(crate) updates_per_second: Option<f64>,
    /// From the UPDATE being sent until the kernel has it: median, 99th percentile, worst.
    pub(crate) lag_ms: Option<[f64; 3]>,
    /// From the detection until the last packet on the wrong way was sent.
    pub(crate) outage_ms: Option<f64>,
    /// Packets that did not arrive, or at the wrong place.
    pub(crate) lost_packets: Option<u64>,
    /// BFD sessions that fell although their path was well.
    pub(crate) false_alarms: Option<u64>,
    /// The longest time that a BFD session heard nothing.
    pub(crate) longest_silence_ms: Option<f64>,
    /// How late the machine let a thread of the highest priority run, at worst.
    pub(crate) machine_late_ms: Option<f64>,
    /// CPU seconds of `routeshare-bfd` in a second.
    pub(crate) bfd_cpu: Option<f64>,
    /// From BFD noticing a failure until the speaker has acted on it.
    pub(crate) told_ms: Option<f64>,
    /// Routes printed each second.
    pub(crate) routes_per_second: Option<f64>,
    /// Why there are no figures.
    pub(crate) error: Option<String>,
}

impl Outcome {
    /// Takes in how long it took and what it cost.
    pub(crate) fn with(self, times: Times, before: Cost, after: Cost) -> Outcome {
        Outcome {
            receiver_seconds: times.receiver,
            kernel_seconds: times.kernel,
            cpu_seconds: Some(after.cpu_seconds - before.cpu_seconds),
            peak_memory_mib: Some(after.peak_memory as f64 / MIB),
            idle_memory_mib: Some(before.memory as f64 / MIB),
            memory_mib: Some(after.memory as f64 / MIB),
            ..self
        }
    }

    /// Seconds until all of the work was done, at the receivers and in the kernel.
    pub(crate) fn seconds(&self) -> Option<f64> {
        match (self.receiver_seconds, self.kernel_seconds) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<14} {:<10} round {}",
            self.scenario, self.daemon, self.round
        )?;
        if let Some(error) = &self.error {
            return write!(f, "  failed: {error}");
        }
        let figures = [
            ("receiver", self.receiver_seconds, 2, "s"),
            ("kernel", self.kernel_seconds, 2, "s"),
            ("CPU", self.cpu_seconds, 2, "s"),
            ("peak", self.peak_memory_mib, 1, "MiB"),
            ("then", self.memory_mib, 1, "MiB"),
            ("idle", self.idle_memory_mib, 1, "MiB"),
            ("UPDATEs/s", self.updates_per_second, 0, ""),
            ("CPU/UPDATE", self.cpu_us_per_update, 1, "µs"),
            ("outage", self.outage_ms, 1, "ms"),
            ("routes/s", self.routes_per_second, 0, ""),
            ("false alarms", self.false_alarms.map(|it| it as f64), 0, ""),
            ("longest silence", self.longest_silence_ms, 1, "ms"),
            ("machine late", self.machine_late_ms, 1, "ms"),
            ("BFD's CPU", self.bfd_cpu, 3, "s/s"),
            ("a failure acted on after", self.told_ms, 0, "ms"),
        ];
        for (name, value, digits, unit) in figures {
            if let Some(value) = value {
                write!(f, "  {name} {value:.digits$} {unit}")?;
            }
        }
        if let Some([median, p99, worst]) = self.lag_ms {
            write!(
                f,
                "  kernel lag median {median:.1}, p99 {p99:.1}, worst {worst:.1} ms"
            )?;
        }
        if let Some(lost) = self.lost_packets {
            write!(f, "  lost {lost}")?;
        }
        Ok(())
    }
}

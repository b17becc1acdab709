//! The time as leases need it: one that nobody can set, and one for people.

use std::fs;
use std::io;
use std::time::Duration;

use jiff::{Timestamp, Unit};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const UPTIME: &str = "/proc/uptime";

/// A moment. Cool-downs are counted by `boot` and `uptime`, which setting the clock does not change;
/// `wall` is only shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Which boot of this machine, as the kernel names it.
    pub boot: String,
    /// Since this boot, time asleep included.
    pub uptime: Duration,
    /// By the clock on the wall.
    pub wall: Timestamp,
}

/// The kernel does not tell the time.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}, which cool-downs of addresses are counted by (is /proc mounted?)")]
pub struct NowError {
    path: &'static str,
    source: io::Error,
}

impl Now {
    /// Now.
    ///
    /// # Errors
    ///
    /// [`NowError`] when /proc does not tell the boot or the time since it began.
    pub fn read() -> Result<Now, NowError> {
        let boot = read(BOOT_ID, |text| Some(text.trim().to_owned()))?;
        let uptime = read(UPTIME, |text| {
            let seconds: f64 = text.split(' ').next()?.parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        })?;
        Ok(Now {
            boot,
            uptime,
            // Nobody needs more of it in a file.
            wall: Timestamp::now()
                .round(Unit::Millisecond)
                .unwrap_or_default(),
        })
    }

    /// Milliseconds since the boot.
    pub(super) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX)
    }
}

fn read<T>(path: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T, NowError> {
    let text = fs::read_to_string(path).map_err(|source| NowError { path, source })?;
    let strange = || NowError {
        path,
        source: io::Error::other(format!("it says {text:?}")),
    };
    parse(&text).ok_or_else(strange)
}

//! One piece of work on its way: messages that go to the daemon, and the last of them at every
//! receiver and in the kernel.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::Namespace;

use crate::bgp::{Heard, Session};
use crate::measure::{Probe, kernel_routes};
use crate::table::Family;

/// How long a daemon may take for one piece of work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// One peer's part in the work.
pub(crate) struct Player {
    pub(crate) session: Session,
    /// What it sends, whole messages.
    pub(crate) messages: Vec<u8>,
    /// What it waits for.
    pub(crate) tally: Option<Tally>,
}

/// Different destinations that were heard of, until it is enough.
pub(crate) struct Tally {
    seen: Vec<u64>,
    left: u64,
    withdrawals: bool,
}

impl Tally {
    /// Waits for `wanted` announcements, not counting `own`, the slots of what the peer itself sends.
    pub(crate) fn announcements(wanted: usize, own: impl Iterator<Item = u64>) -> Tally {
        let mut tally = Tally::new(wanted, false);
        for slot in own {
            tally.first_time(slot);
        }
        tally
    }

    /// Waits for `wanted` withdrawals.
    pub(crate) fn withdrawals(wanted: usize) -> Tally {
        Tally::new(wanted, true)
    }

    fn new(wanted: usize, withdrawals: bool) -> Tally {
        Tally {
            seen: vec![0; 1 << 18],
            left: wanted as u64,
            withdrawals,
        }
    }

    fn first_time(&mut self, slot: u64) -> bool {
        let (word, bit) = ((slot >> 6) as usize, 1 << (slot & 63));
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }

    /// Takes in what was heard; whether that was the last.
    fn count(&mut self, heard: &Heard) -> bool {
        let slots = match self.withdrawals {
            true => &heard.withdrawn,
            false => &heard.announced,
        };
        for slot in slots {
            let first = self.first_time(*slot);
            self.left = self.left.saturating_sub(u64::from(first));
        }
        self.left == 0
    }
}

/// What the kernel is to hold in the end.
pub(crate) struct KernelGoal {
    pub(crate) family: Family,
    /// Addresses, evenly spread over what is sent.
    pub(crate) samples: Vec<IpAddr>,
    /// Whether they are to have a route, or none.
    pub(crate) present: bool,
    /// All routes of the family together.
    pub(crate) total: u64,
}

/// Seconds since the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Until the last receiver had the last prefix; `None`: nobody waited.
    pub(crate) receiver: Option<f64>,
    /// Until the kernel had it.
    pub(crate) kernel: Option<f64>,
}

/// Does the work, which counts from `began`.
///
/// # Errors
///
/// When a session ends, or something is still missing after [`PATIENCE`].
pub(crate) fn run(
    dut: &Namespace,
    players: &mut [Player],
    kernel: Option<&KernelGoal>,
    began: Instant,
) -> Result<Times> {
    let waiting = players.iter().filter(|p| p.tally.is_some()).count();
    let work = Work {
        began,
        failed: AtomicBool::new(false),
        left: AtomicUsize::new(waiting + usize::from(kernel.is_some())),
    };
    let work = &work;
    thread::scope(|scope| {
        let installing = kernel.map(|goal| {
            scope.spawn(move || work.noted(dut.within(|| work.install(goal)).and_then(|r| r)))
        });
        let playing: Vec<_> = players
            .iter_mut()
            .map(|player| scope.spawn(move || work.noted(work.play(player))))
            .collect();
        let mut times = Times::default();
        let mut error = None;
        for thread in playing {
            match thread.join().map_err(panicked)? {
                Ok(Some(at)) => {
                    times.receiver = Some(times.receiver.map_or(at, |t: f64| t.max(at)))
                }
                Ok(None) => {}
                Err(found) => error = error.or(Some(found)),
            }
        }
        if let Some(thread) = installing {
            match thread.join().map_err(panicked)? {
                Ok(at) => times.kernel = Some(at),
                // What happened to a session explains more than what is missing in the kernel.
                Err(found) => error = error.or(Some(found)),
            }
        }
        error.map_or(Ok(times), Err)
    })
}

struct Work {
    began: Instant,
    /// One of the threads gave up; the others need not wait.
    failed: AtomicBool,
    /// How many still wait for their last.
    left: AtomicUsize,
}

impl Work {
    /// Sends, hears, and goes on hearing until everybody has everything (a daemon whose peer does
    /// not read would wait for it). When its own last was there, if it waited for something.
    fn play(&self, player: &mut Player) -> Result<Option<f64>> {
        let mut out = player.session.sender()?;
        let messages = &player.messages;
        thread::scope(|scope| {
            let sending = scope.spawn(move || match messages.is_empty() {
                true => Ok(()),
                false => out.send(messages),
            });
            let mut done = None;
            let mut heard = Heard::default();
            while self.left.load(Ordering::Relaxed) > 0 || !sending.is_finished() {
                if !self.goes_on() {
                    // The sender's thread would wait for a daemon that reads no more.
                    player.session.close();
                    let missing = player.tally.as_ref().map_or(0, |tally| tally.left);
                    bail!("a receiver still missed {missing} prefixes in the end");
                }
                player.session.read(sending.is_finished(), &mut heard)?;
                if done.is_none()
                    && let Some(tally) = &mut player.tally
                    && tally.count(&heard)
                {
                    done = Some(self.began.elapsed().as_secs_f64());
                    self.left.fetch_sub(1, Ordering::Relaxed);
                }
            }
            sending.join().map_err(panicked)??;
            Ok(done)
        })
    }

    /// Looks for the samples until all are as wanted, then counts once for certain.
    fn install(&self, goal: &KernelGoal) -> Result<f64> {
        let probe = Probe::new()?;
        let mut left: Vec<IpAddr> = goal.samples.clone();
        loop {
            // The first few that are not there yet tell enough: a look costs next to nothing.
            let mut missing = 0;
            left.retain(|address| {
                let there = missing < 16 && probe.routed(*address) == goal.present;
                missing += usize::from(!there);
                !there
            });
            if left.is_empty() {
                let at = self.began.elapsed().as_secs_f64();
                let total = kernel_routes(goal.family)?;
                if total == goal.total {
                    self.left.fetch_sub(1, Ordering::Relaxed);
                    return Ok(at);
                }
                if !self.goes_on() {
                    bail!("the kernel had {total} instead of {} routes", goal.total);
                }
            } else if !self.goes_on() {
                let all = goal.samples.len();
                let total = kernel_routes(goal.family)?;
                bail!(
                    "{} of {all} sampled routes were not as wanted in the kernel, which had {total} \
                     instead of {} routes",
                    left.len(),
                    goal.total
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn goes_on(&self) -> bool {
        !self.failed.load(Ordering::Relaxed) && self.began.elapsed() < PATIENCE
    }

    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result.context("the work was not finished")
    }
}

pub(crate) fn panicked(_: Box<dyn std::any::Any + Send>) -> anyhow::Error {
    anyhow::anyhow!("a thread of the bench panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_each_destination_once_and_not_its_own() {
        let mut tally = Tally::announcements(2, [7].into_iter());
        let heard = |announced: &[u64], withdrawn: &[u64]| Heard {
            announced: announced.to_vec(),
            withdrawn: withdrawn.to_vec(),
        };
        assert!(!tally.count(&heard(&[7, 1, 1], &[2])));
        assert!(tally.count(&heard(&[1, 2], &[])));
        let mut tally = Tally::withdrawals(1);
        assert!(!tally.count(&heard(&[1], &[])));
        assert!(tally.count(&heard(&[], &[1])));
    }
}

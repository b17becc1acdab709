//! Deadlines, jitter and back-off. A timer that is not running has no deadline and cannot fire.

use std::time::{Duration, Instant};

use super::fsm::Event;

/// How long a peer may take to send its OPEN. RFC 4271 §8.2.2 suggests four minutes.
pub(super) const OPEN_HOLD_TIME: Duration = Duration::from_secs(240);

/// How long nothing we send may reach the transport before the peer counts as dead: at least this,
/// at least twice the hold time. RFC 9687 §3.1.
pub(super) const SEND_HOLD_TIME: Duration = Duration::from_secs(480);

/// The running timers of one connection. RFC 4271 §8, §10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Timers {
    pub(super) connect_retry: Option<Instant>,
    pub(super) hold: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
    pub(super) send_hold: Option<Instant>,
}

impl Timers {
    /// The earliest deadline, with the event that it means.
    pub(super) fn next(&self) -> Option<(Instant, Event)> {
        [
            (self.hold, Event::HoldTimerExpires),
            (self.send_hold, Event::SendHoldTimerExpires),
            (self.keepalive, Event::KeepaliveTimerExpires),
            (self.connect_retry, Event::ConnectRetryTimerExpires),
        ]
        .into_iter()
        .filter_map(|(deadline, event)| Some((deadline?, event)))
        .min_by_key(|(deadline, _)| *deadline)
    }
}

/// A small generator (SplitMix64) for jitter: the same seed gives the same run.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between three quarters of `time` and all of it, so that speakers that started together do
    /// not stay in step. RFC 4271 §10.
    pub(super) fn jitter(&mut self, time: Duration) -> Duration {
        let parts = u32::try_from(self.next() % 1024).unwrap_or(0);
        time * 3 / 4 + time / 4 * parts / 1024
    }
}

/// How long a session that fell stays in Idle (IdleHoldTime): one second at first, twice as long
/// each time it falls again soon. RFC 4271 §8.1.1 (DampPeerOscillations).
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    falls: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
    /// A session that was Established for so long starts over with the shortest time.
    const STABLE: Duration = Duration::from_secs(300);

    /// The session fell; `lasted` is how long it was Established, if it was.
    pub(super) fn fell(&mut self, lasted: Option<Duration>) -> Duration {
        if lasted.is_some_and(|time| time >= Self::STABLE) {
            self.falls = 0;
        }
        let time = Self::FIRST * 2u32.saturating_pow(self.falls.min(16));
        self.falls = self.falls.saturating_add(1);
        time.min(Self::LONGEST)
    }

    /// A person or a new configuration asks for a fresh start.
    pub(super) fn forget(&mut self) {
        self.falls = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_three_quarters_and_the_whole() {
        let mut random = Random::new(7);
        let whole = Duration::from_secs(40);
        let times: Vec<_> = (0..1000).map(|_| random.jitter(whole)).collect();
        assert!(
            times
                .iter()
                .all(|time| *time >= whole * 3 / 4 && *time <= whole)
        );
        assert!(times.iter().min() < Some(&Duration::from_secs(31)));
        assert!(times.iter().max() > Some(&Duration::from_secs(39)));
    }

    #[test]
    fn back_off_doubles_up_to_a_minute_and_starts_over_after_a_stable_session() {
        let mut backoff = Backoff::default();
        let times: Vec<_> = (0..8).map(|_| backoff.fell(None).as_secs()).collect();
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.fell(Some(Duration::from_secs(299))).as_secs(), 60);
        assert_eq!(backoff.fell(Some(Duration::from_secs(300))).as_secs(), 1);
        assert_eq!(backoff.fell(None).as_secs(), 2);
        backoff.forget();
        assert_eq!(backoff.fell(None).as_secs(), 1);
    }

    #[test]
    fn the_earliest_deadline_is_next_and_a_stopped_timer_never() {
        let now = Instant::now();
        let mut timers = Timers::default();
        assert!(timers.next().is_none());
        timers.keepalive = Some(now + Duration::from_secs(2));
        timers.hold = Some(now + Duration::from_secs(1));
        assert!(matches!(timers.next(), Some((_, Event::HoldTimerExpires))));
        timers.hold = None;
        assert!(matches!(
            timers.next(),
            Some((_, Event::KeepaliveTimerExpires))
        ));
    }
}

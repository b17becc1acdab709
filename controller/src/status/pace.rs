//! How fast things may happen: a token bucket that is told the time.

use std::time::Duration;

use tokio::time::Instant;

/// Lets `burst` things happen at once, and then one in each `every`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    burst: u32,
    every: Duration,
    /// When the bucket is, or was, full.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(crate) const fn new(burst: u32, every: Duration) -> Bucket {
        Bucket {
            burst,
            every,
            full_at: None,
        }
    }

    /// When the next thing may happen: now, or later.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let Some(full_at) = self.full_at else {
            return now;
        };
        // One token is there as soon as no more than `burst - 1` are missing.
        let spare = self.every * self.burst.saturating_sub(1);
        full_at.checked_sub(spare).map_or(now, |at| at.max(now))
    }

    /// It happens, whether it may or not.
    pub(crate) fn take(&mut self, now: Instant) {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(full_at + self.every);
    }

    /// Whether it is as a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Bucket {
        fn try_take(&mut self, now: Instant) -> bool {
            let may = self.next(now) <= now;
            if may {
                self.take(now);
            }
            may
        }
    }

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::new(3, 10 * second);
        for _ in 0..3 {
            assert!(bucket.try_take(start));
        }
        assert!(!bucket.try_take(start));
        assert_eq!(bucket.next(start), start + 10 * second);
        assert!(!bucket.try_take(start + 9 * second));
        assert!(bucket.try_take(start + 10 * second));
        assert!(!bucket.try_take(start + 19 * second));
        // A long quiet time gives the burst back, and no more than that.
        let later = start + 1000 * second;
        assert!(bucket.is_full(later));
        for _ in 0..3 {
            assert!(bucket.try_take(later));
        }
        assert!(!bucket.try_take(later));
    }
}

//! The pauses between attempts to watch something.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// Doubling pauses, each shortened by chance so that several controllers do not come at once. They
/// begin anew only after a while without one: what is asked for a list says that it begins before it
/// knows whether it can.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
    last: Option<Instant>,
}

impl Pauses {
    /// From `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Pauses {
        Pauses {
            first,
            longest,
            next: first,
            last: None,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let quiet = self.longest.saturating_mul(2);
        if self
            .last
            .is_some_and(|last| now.duration_since(last) > quiet)
        {
            self.next = self.first;
        }
        self.last = Some(now);
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        let mut byte = [0; 1];
        // Without chance the pause is a whole one.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte);
        Some(pause.mul_f64(1.0 - f64::from(byte[0]) / 512.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {} // time does it
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_it_was_quiet_for_a_while() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut pauses = Pauses::new(first, longest);
        for _ in 0..10 {
            let pause = pauses.next().unwrap();
            assert!(pause <= longest && pause >= first / 2, "{pause:?}");
            tokio::time::advance(pause).await;
            pauses.reset();
        }
        assert!(pauses.next().unwrap() >= longest / 2);
        tokio::time::advance(longest * 3).await;
        assert!(pauses.next().unwrap() <= first);
    }
}

//! The pauses between attempts to watch something.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Doubling pauses, each shortened by chance so that several controllers do not come at once.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// From `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Pauses {
        Pauses {
            first,
            longest,
            next: first,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        let mut byte = [0; 1];
        // Without chance the pause is a whole one.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte);
        Some(pause.mul_f64(1.0 - f64::from(byte[0]) / 512.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

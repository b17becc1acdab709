//! How questions ended, counted for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    NoData,
    NoName,
    Forwarded,
    /// Forwarded, and nobody answered.
    Unanswered,
    Refused,
    Limited,
    Malformed,
}

/// All of them, with the words of the metric.
const OUTCOMES: [(Outcome, &str); 8] = [
    (Outcome::Answered, "answered"),
    (Outcome::NoData, "no-data"),
    (Outcome::NoName, "no-name"),
    (Outcome::Forwarded, "forwarded"),
    (Outcome::Unanswered, "unanswered"),
    (Outcome::Refused, "refused"),
    (Outcome::Limited, "limited"),
    (Outcome::Malformed, "malformed"),
];

#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; OUTCOMES.len()]);

impl Counts {
    pub(crate) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        let counts = OUTCOMES.iter();
        counts
            .map(|(outcome, word)| (*word, self.0[*outcome as usize].load(Ordering::Relaxed)))
            .collect()
    }
}

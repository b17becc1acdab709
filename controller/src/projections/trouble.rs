//! What failed, and when it is tried again: one thing after ever longer pauses while the others go on, or all
//! of them while the API server answers nobody. Pure: it is told the time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure; twice as long after each further one.
const FIRST: Duration = Duration::from_secs(1);
/// One thing is tried again after this at the latest.
const LONGEST: Duration = Duration::from_secs(60);
/// All of them are.
const LONGEST_OF_ALL: Duration = Duration::from_secs(15);
/// The API server may ask for more patience than that, but not for more than this.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What is written of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    NodeSubnets,
    PodCidrs,
}

/// Why something was not written.
#[derive(Debug)]
pub(super) enum Failure {
    /// The API server does not want this, or there is another version of it.
    This(String),
    /// It answers nobody, or asks for so much patience.
    Server(Option<Duration>, String),
}

impl Failure {
    /// What an answer means that is an error.
    pub(super) fn of(error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) if !matches!(status.code, 429 | 500..) => {
                Failure::This(error.to_string())
            }
            kube::Error::Api(status) => {
                let seconds = status.details.as_ref().map(|it| it.retry_after_seconds);
                let asked = seconds.filter(|seconds| *seconds > 0);
                let asked = asked.map(|seconds| Duration::from_secs(seconds.into()));
                Failure::Server(asked, error.to_string())
            }
            _ => Failure::Server(None, error.to_string()),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    of: BTreeMap<(What, String), Waiting>,
    of_all: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    times: u32,
    until: Instant,
}

impl Trouble {
    /// Whether nothing at all should be asked now.
    pub(super) fn is_of_all(&self, now: Instant) -> bool {
        self.of_all.is_some_and(|waiting| now < waiting.until)
    }

    /// Whether this may be tried now.
    pub(super) fn may(&self, what: What, node: &str, now: Instant) -> bool {
        let waiting = self.of.get(&(what, node.to_owned()));
        waiting.is_none_or(|waiting| now >= waiting.until)
    }

    /// This failed by itself.
    pub(super) fn failed(&mut self, what: What, node: &str, now: Instant) {
        self.of_all = None;
        self.of.retain(|_, waiting| now < waiting.until + LONGEST); // gone since, most likely
        let key = (what, node.to_owned());
        let next = Waiting::after(self.of.get(&key), LONGEST, now);
        self.of.insert(key, next);
    }

    /// Nobody is answered. Those that were under way fail together, and count once.
    pub(super) fn all_failed(&mut self, asked: Option<Duration>, now: Instant) {
        if self.is_of_all(now) {
            return;
        }
        let mut next = Waiting::after(self.of_all.as_ref(), LONGEST_OF_ALL, now);
        if let Some(asked) = asked {
            next.until = now + asked.min(LONGEST_ASKED);
        }
        self.of_all = Some(next);
    }

    /// This was written.
    pub(super) fn written(&mut self, what: What, node: &str) {
        self.of_all = None;
        self.of.remove(&(what, node.to_owned()));
    }

    /// When something may be tried again; none while nothing waits.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let of_all = self.of_all.map(|waiting| waiting.until);
        if let Some(until) = of_all.filter(|until| now < *until) {
            return Some(until);
        }
        let next = self.of.values().map(|waiting| waiting.until).min();
        next.into_iter().chain(of_all).min()
    }
}

impl Waiting {
    fn after(before: Option<&Waiting>, longest: Duration, now: Instant) -> Waiting {
        let times = before.map_or(0, |before| before.times);
        let pause = FIRST.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        Waiting {
            times: times.saturating_add(1),
            until: now + pause.min(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_fails_waits_ever_longer_and_keeps_no_other_waiting() {
        let mut now = Instant::now();
        let mut trouble = Trouble::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            trouble.failed(What::PodCidrs, "a", now);
            assert!(!trouble.may(What::PodCidrs, "a", now));
            assert!(trouble.may(What::NodeSubnets, "a", now));
            assert!(trouble.may(What::PodCidrs, "b", now));
            let next = trouble.next(now).unwrap();
            pauses.push((next - now).as_secs());
            now = next;
            assert!(trouble.may(What::PodCidrs, "a", now));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        trouble.written(What::PodCidrs, "a");
        assert_eq!(trouble.next(now), None);
    }

    #[test]
    fn a_server_that_answers_nobody_is_left_alone_for_as_long_as_it_asks_for() {
        let mut now = Instant::now();
        let mut trouble = Trouble::default();
        for pause in [1, 2, 4, 8, 15, 15] {
            for _ in 0..16 {
                trouble.all_failed(None, now); // those that were under way
            }
            assert!(trouble.is_of_all(now));
            assert_eq!(trouble.next(now), Some(now + pause * SECOND));
            now += pause * SECOND;
            assert!(!trouble.is_of_all(now));
        }
        trouble.all_failed(Some(7 * SECOND), now);
        assert_eq!(trouble.next(now), Some(now + 7 * SECOND));
        now += 7 * SECOND;
        trouble.written(What::NodeSubnets, "a");
        trouble.all_failed(None, now);
        assert_eq!(trouble.next(now), Some(now + SECOND), "from the beginning");
    }

    #[test]
    fn too_many_requests_and_errors_of_the_server_are_about_all() {
        let status = |code: u16, seconds: u32| {
            let status = serde_json::json!({
                "code": code,
                "details": {"retryAfterSeconds": seconds},
            });
            let status = serde_json::from_value(status).unwrap();
            Failure::of(&kube::Error::Api(Box::new(status)))
        };
        let asked = |failure| match failure {
            Failure::Server(asked, _) => asked,
            Failure::This(why) => panic!("{why}"),
        };
        assert_eq!(asked(status(429, 3)), Some(3 * SECOND));
        assert_eq!(asked(status(503, 0)), None);
        assert!(matches!(status(422, 0), Failure::This(_)));
    }
}

//! What waits to be written: names of things, not their contents. What is written is found out when
//! its turn comes, so that it is the newest; a thing that is asked for twice waits once.
//!
//! Pure: it is told the time. `status/mod.rs` asks it what to do next and tells it what came of that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Bucket;

/// Writes of all kinds together, a second; a burst is twice that.
const A_SECOND: u32 = 100;
/// What one thing waits after its first failure; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What is served first when many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Somebody waits for it: pods for a node, a person for what became of an object.
    High,
    /// Something changed.
    Normal,
    /// A number is another one.
    Low,
}

/// Things of type `K` in the order in which they are due.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    waiting: BTreeMap<K, (Urgency, Instant)>,
    /// By urgency, in the order of time.
    order: [BTreeSet<(Instant, K)>; 3],
    in_flight: BTreeSet<K>,
    failed: BTreeMap<K, Failed>,
    all: Bucket,
    /// Nothing is written before this: the server asked for it, or does not answer.
    paused_until: Option<Instant>,
    pauses: u32,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    not_before: Instant,
}

/// Why something could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is about this thing.
    This,
    /// The server does not answer, or answers nobody; it may have said how long to wait.
    Server(Option<Duration>),
}

impl<K: Ord + Clone> Queue<K> {
    /// An empty one.
    pub(crate) fn new() -> Queue<K> {
        Queue {
            waiting: BTreeMap::new(),
            order: [const { BTreeSet::new() }; 3],
            in_flight: BTreeSet::new(),
            failed: BTreeMap::new(),
            all: Bucket::new(2 * A_SECOND, Duration::from_secs(1) / A_SECOND),
            paused_until: None,
            pauses: 0,
        }
    }

    /// How many things wait or are being written, but for [numbers](Queue::numbers).
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() - self.numbers() + self.in_flight.len()
    }

    /// How many numbers wait.
    pub(crate) fn numbers(&self) -> usize {
        self.order[Urgency::Low as usize].len()
    }

    /// `key` is to be written at `due`, or before if that was said already.
    pub(crate) fn set(&mut self, key: K, urgency: Urgency, due: Instant) {
        let (mut urgency, mut due) = (urgency, due);
        if let Some(before) = self.waiting.remove(&key) {
            self.order[before.0 as usize].remove(&(before.1, key.clone()));
            (urgency, due) = (urgency.min(before.0), due.min(before.1));
        }
        let held = self.failed.get(&key).map(|failed| failed.not_before);
        let due = held.map_or(due, |held| held.max(due));
        self.order[urgency as usize].insert((due, key.clone()));
        self.waiting.insert(key, (urgency, due));
    }

    /// `key` need not be written any more.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((urgency, due)) = self.waiting.remove(key) {
            self.order[urgency as usize].remove(&(due, key.clone()));
        }
        self.failed.remove(key);
    }

    /// The next thing to write now; it counts as being written until [`Queue::done`].
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        if self.paused_until.is_some_and(|until| now < until) || self.all.next(now) > now {
            return None;
        }
        let mut first = self.order.iter().filter_map(|order| {
            let due = order.iter().take_while(|(due, _)| *due <= now);
            self.free(due)
        });
        let (due, key) = first.next()?.clone();
        self.all.take(now);
        let (urgency, _) = self.waiting.remove(&key)?;
        self.order[urgency as usize].remove(&(due, key.clone()));
        self.in_flight.insert(key.clone());
        Some(key)
    }

    /// The first that is not being written: the others wait for the answer.
    fn free<'a>(&self, mut of: impl Iterator<Item = &'a (Instant, K)>) -> Option<&'a (Instant, K)>
    where
        K: 'a,
    {
        of.find(|(_, key)| !self.in_flight.contains(key))
    }

    /// What was popped is written, or failed; one that failed has to be `set` again by who wants it.
    pub(crate) fn done(&mut self, key: &K, outcome: Result<(), Failure>, now: Instant) {
        self.in_flight.remove(key);
        match outcome {
            Ok(()) => {
                self.failed.remove(key);
                self.pauses = 0;
            }
            Err(Failure::This) => {
                self.pauses = 0;
                let times = self.failed.get(key).map_or(0, |failed| failed.times);
                let failed = Failed {
                    times: times.saturating_add(1),
                    not_before: now + pause_after(times),
                };
                self.failed.insert(key.clone(), failed);
            }
            Err(Failure::Server(asked)) => {
                let pause = asked.unwrap_or_else(|| pause_after(self.pauses));
                // Those in flight fail together; they are one failure.
                if self.paused_until.is_none_or(|until| until <= now) {
                    self.pauses = self.pauses.saturating_add(1);
                    self.paused_until = Some(now + pause.min(LONGEST_RETRY));
                }
            }
        }
    }

    /// When [`Queue::pop`] should be asked again; none while nothing waits.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let first = self
            .order
            .iter()
            .filter_map(|order| self.free(order.iter()));
        let earliest = first.map(|(due, _)| *due).min()?;
        let paused = self.paused_until.unwrap_or(now);
        Some(earliest.max(paused).max(self.all.next(now)))
    }
}

fn pause_after(times: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << times.min(10))
        .min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_asked_for_twice_is_written_once_and_the_urgent_first() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.set("counter", Urgency::Low, now);
        queue.set("session", Urgency::Normal, now);
        queue.set("session", Urgency::Normal, now);
        queue.set("node", Urgency::High, now);
        queue.set("later", Urgency::High, now + SECOND);
        assert_eq!((queue.len(), queue.numbers()), (3, 1));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(order, ["node", "session", "counter"]);
        assert_eq!(queue.next(now), Some(now + SECOND));
    }

    #[test]
    fn what_is_being_written_waits_for_its_answer() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.set("a", Urgency::Normal, now);
        assert_eq!(queue.pop(now), Some("a"));
        queue.set("a", Urgency::High, now);
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.next(now), None, "the answer wakes");
        queue.done(&"a", Ok(()), now);
        assert_eq!(queue.pop(now), Some("a"));
    }

    #[test]
    fn what_fails_comes_back_later_and_the_others_go_on() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.set("bad", Urgency::Normal, now);
        queue.pop(now);
        queue.done(&"bad", Err(Failure::This), now);
        queue.set("bad", Urgency::Normal, now);
        queue.set("good", Urgency::Normal, now);
        assert_eq!(queue.pop(now), Some("good"));
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.pop(now + SECOND), Some("bad"));
        queue.done(&"bad", Err(Failure::This), now + SECOND);
        queue.set("bad", Urgency::Normal, now + SECOND);
        assert_eq!(queue.next(now + SECOND), Some(now + 3 * SECOND));
    }

    #[test]
    fn a_server_that_does_not_answer_is_left_alone() {
        let now = Instant::now();
        let mut queue = Queue::new();
        for key in ["a", "b", "c"] {
            queue.set(key, Urgency::High, now);
        }
        assert_eq!(queue.pop(now), Some("a"));
        assert_eq!(queue.pop(now), Some("b"));
        for key in ["a", "b"] {
            queue.done(&key, Err(Failure::Server(None)), now);
        }
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.next(now), Some(now + SECOND));
        assert_eq!(queue.pop(now + SECOND), Some("c"));
        let asked = Failure::Server(Some(7 * SECOND));
        queue.done(&"c", Err(asked), now + SECOND);
        queue.set("c", Urgency::High, now + SECOND);
        assert_eq!(queue.next(now + SECOND), Some(now + 8 * SECOND));
    }

    #[test]
    fn five_thousand_at_once_go_out_at_the_rate_of_all() {
        let now = Instant::now();
        let mut queue = Queue::new();
        for key in 0..5000 {
            queue.set(key, Urgency::Normal, now);
        }
        let mut write = |at| {
            let keys: Vec<_> = std::iter::from_fn(|| queue.pop(at)).collect();
            for key in &keys {
                queue.done(key, Ok(()), at);
            }
            keys.len()
        };
        assert_eq!(write(now), 2 * A_SECOND as usize);
        assert_eq!(write(now + SECOND), A_SECOND as usize);
    }
}

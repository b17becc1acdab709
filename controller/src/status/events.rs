//! Events: what is told, to whom, how often. What happens to thousands of sessions at once becomes one
//! event at each Peer, and as many at Nodes as may go out; the others are counted.
//!
//! Pure, as `queue`: it is told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::coverage::Object;
use super::pace::Bucket;
use super::reasons::{Reason, listed};

/// What happens within this becomes one event.
pub(crate) const GATHER: Duration = Duration::from_secs(2);
/// An event that is told again within this is the same one, with a count.
const SERIES: Duration = Duration::from_secs(360);
/// At most so many about Nodes wait; what comes on top is told at the Peer only.
const MOST_WAITING: usize = 100;
/// Events of one object and reason.
const OF_ONE: Bucket = Bucket::new(5, Duration::from_secs(60));
/// Events altogether.
const OF_ALL: Bucket = Bucket::new(50, Duration::from_millis(200));

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// A Kubernetes Node.
    Node(String),
    /// An object of ours.
    Object(Object),
}

/// Which event: the same again within some minutes is one that is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventKey {
    /// At which object it stands.
    pub(crate) about: About,
    /// What it tells.
    pub(crate) reason: Reason,
    /// The other object it has to do with.
    pub(crate) related: Option<Object>,
}

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// A new one.
    New { note: String },
    /// The one of this name, which has now happened so often.
    Again { name: String, count: u32 },
}

/// Everything that is to be told, and what was.
#[derive(Debug)]
pub(crate) struct Events {
    waiting: BTreeMap<EventKey, Waiting>,
    told: BTreeMap<EventKey, Told>,
    of_all: Bucket,
    /// How many were told by a count only, or not at all.
    pub(crate) dropped: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    due: Instant,
    count: u32,
    note: String,
    /// Nodes it happened on, where it is about a Peer.
    nodes: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Told {
    bucket: Bucket,
    /// The object that was made, and how often it has happened.
    name: Option<String>,
    count: u32,
    at: Instant,
}

impl Events {
    /// Nothing was told.
    pub(crate) fn new() -> Events {
        Events {
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            of_all: OF_ALL,
            dropped: 0,
        }
    }

    /// Something happened. Returns when it may be told.
    pub(crate) fn happened(
        &mut self,
        key: EventKey,
        note: String,
        now: Instant,
    ) -> Option<Instant> {
        let about_node = matches!(key.about, About::Node(_));
        if !self.waiting.contains_key(&key) && about_node {
            let nodes = self
                .waiting
                .keys()
                .filter(|it| matches!(it.about, About::Node(_)));
            if nodes.count() >= MOST_WAITING {
                self.dropped += 1;
                return None;
            }
        }
        Some(self.wait(key, note, now).due)
    }

    /// A session that an object asked for came or went on a node: told at the object once for all
    /// nodes together.
    pub(crate) fn session(
        &mut self,
        of: &Object,
        node: &str,
        reason: Reason,
        now: Instant,
    ) -> (EventKey, Instant) {
        let key = EventKey {
            about: About::Object(of.clone()),
            reason,
            related: None,
        };
        let waiting = self.wait(key.clone(), String::new(), now);
        waiting.nodes.insert(node.to_owned());
        (key, waiting.due)
    }

    fn wait(&mut self, key: EventKey, note: String, now: Instant) -> &mut Waiting {
        let may = match self.told.get(&key) {
            Some(told) => told.bucket.next(now).max(now + GATHER),
            None => now + GATHER,
        };
        let waiting = self.waiting.entry(key).or_insert_with(|| Waiting {
            due: may,
            count: 0,
            note: String::new(),
            nodes: BTreeSet::new(),
        });
        waiting.count = waiting.count.saturating_add(1);
        waiting.note = note;
        waiting
    }

    /// What to write of this event now. None: nothing any more, or not yet (then it is said when).
    pub(crate) fn tell(
        &mut self,
        key: &EventKey,
        now: Instant,
    ) -> Result<Option<Telling>, Instant> {
        let Some(waiting) = self.waiting.get(key) else {
            return Ok(None);
        };
        let at = waiting.due.max(self.of_all.next(now));
        if at > now {
            return Err(at);
        }
        let Some(waiting) = self.waiting.remove(key) else {
            return Ok(None);
        };
        self.of_all.take(now);
        self.told
            .retain(|_, told| now.duration_since(told.at) < SERIES || !told.bucket.is_full(now));
        let told = self.told.entry(key.clone()).or_insert_with(|| Told {
            bucket: OF_ONE,
            name: None,
            count: 0,
            at: now,
        });
        told.bucket.take(now);
        let again = now.duration_since(told.at) < SERIES;
        told.at = now;
        // The text of an event cannot be changed, so one that names nodes is a new one.
        if let (Some(name), true, true) = (&told.name, again, waiting.nodes.is_empty()) {
            told.count = told.count.saturating_add(waiting.count);
            self.dropped += u64::from(waiting.count - 1);
            return Ok(Some(Telling::Again {
                name: name.clone(),
                count: told.count,
            }));
        }
        told.count = 1;
        let note = match waiting.nodes.len() {
            0 => waiting.note,
            count => at_peer(key.reason, count, &waiting.nodes),
        };
        Ok(Some(Telling::New { note }))
    }

    /// The event was written under this name.
    pub(crate) fn written(&mut self, key: &EventKey, name: String) {
        if let Some(told) = self.told.get_mut(key) {
            told.name = Some(name);
        }
    }

    /// The event of that name is not there any more, or the write failed: it waits again.
    pub(crate) fn not_written(&mut self, key: &EventKey, telling: Telling, now: Instant) {
        let note = match telling {
            Telling::New { note } => note,
            Telling::Again { count, .. } => format!("happened {count} times within some minutes"),
        };
        if let Some(told) = self.told.get_mut(key) {
            told.name = None;
        }
        self.waiting.entry(key.clone()).or_insert(Waiting {
            due: now,
            count: 1,
            note,
            nodes: BTreeSet::new(),
        });
    }
}

fn at_peer(reason: Reason, count: usize, nodes: &BTreeSet<String>) -> String {
    let nodes = listed(nodes.iter().map(String::as_str));
    let sessions = if count == 1 { "session" } else { "sessions" };
    match reason {
        Reason::SessionUp => format!("{count} {sessions} established, on {nodes}"),
        _ => format!("{count} {sessions} lost, on {nodes}"),
    }
}

#[cfg(test)]
mod tests {
    use crd::Kind;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at_node(node: &str) -> EventKey {
        EventKey {
            about: About::Node(node.to_owned()),
            reason: Reason::SessionDown,
            related: Some(Object::new(Kind::Peer, "tor")),
        }
    }

    #[test]
    fn five_thousand_lost_sessions_are_one_event_at_the_peer_and_few_at_nodes() {
        let now = Instant::now();
        let mut events = Events::new();
        let mut keys = BTreeSet::new();
        for node in 0..5000 {
            let node = format!("n{node:04}");
            let tor = Object::new(Kind::Peer, "tor");
            keys.insert(events.session(&tor, &node, Reason::SessionDown, now).0);
            if events
                .happened(at_node(&node), "lost".to_owned(), now)
                .is_some()
            {
                keys.insert(at_node(&node));
            }
        }
        assert_eq!(keys.len(), 1 + MOST_WAITING);
        assert_eq!(events.dropped, 5000 - MOST_WAITING as u64);
        let later = now + GATHER;
        let mut told = 0;
        for key in &keys {
            if let Ok(Some(Telling::New { note })) = events.tell(key, later) {
                told += 1;
                if matches!(key.about, About::Object(_)) {
                    assert!(note.starts_with("5000 sessions lost, on n0000"), "{note}");
                    assert!(note.ends_with("and 4990 more"), "{note}");
                }
            }
        }
        assert_eq!(told, 50, "the burst");
        let second = later + SECOND;
        let more = keys
            .iter()
            .filter(|key| matches!(events.tell(key, second), Ok(Some(_))));
        assert_eq!(more.count(), 5, "and then five a second");
    }

    #[test]
    fn a_session_that_flaps_is_one_event_with_a_count() {
        let mut now = Instant::now();
        let mut events = Events::new();
        let key = at_node("a");
        let mut told = Vec::new();
        for flap in 0..100 {
            let _ = events.happened(key.clone(), format!("flap {flap}"), now);
            now += 5 * SECOND;
            if let Ok(Some(telling)) = events.tell(&key, now) {
                if matches!(telling, Telling::New { .. }) {
                    events.written(&key, "a.1".to_owned());
                }
                told.push(telling);
            }
        }
        assert_eq!(
            told[0],
            Telling::New {
                note: "flap 0".to_owned()
            }
        );
        assert!(told.len() < 5 + 10, "{}", told.len());
        let Some(Telling::Again { name, count }) = told.last() else {
            panic!("{told:?}");
        };
        assert_eq!(name, "a.1");
        assert!((90..=100).contains(count), "{count}");
    }
}

//! What users see of the controller's work in Kubernetes: conditions on what they wrote, one NodeStatus
//! a node, events, and the condition NetworkUnavailable of Nodes.
//!
//! ```text
//!  view, verdicts, nodes ─┐
//!  speakers' reports ─────┼─► board ─► queue ─► write ─► API server
//!  watch of NodeStatus ───┘     ▲                  │
//!                               └──── answers ◄────┘
//! ```
//!
//! One task of the leader. `board` is pure: it compares what should be there with what is, and keeps a
//! queue of what differs; only that is written, at a bounded rate. In reading order: `reasons` every
//! word that a condition or event can say; `facts` what the controller knows of a node; `node_state`
//! what its NodeStatus says; `network` whether it can serve; `coverage` and `tally` how all nodes fare
//! with an object; `objects` what its conditions say; `news` and `events` what is told, how often;
//! `queue` and `pace` in which order and how fast.

mod board;
mod coverage;
mod events;
mod facts;
mod network;
mod news;
mod node_state;
mod objects;
mod pace;
mod queue;
mod reasons;
mod tally;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crd::NodeStatus;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::board::{Board, Key, Outcome, Sources};
use self::write::Writer;
use crate::reconcile::View;
use crate::registry::Registry;
use crate::source::files::now as wall;
use crate::source::kubernetes::{Nodes, Verdicts};

/// Looks are at least so far apart: what happens in between is looked at together.
const BREATHE: Duration = Duration::from_millis(250);
/// Writes under way at once.
const AT_ONCE: usize = 16;

/// What is told of the writes, for metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Arc<Mutex<Counts>>);

/// Since this controller began to lead.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Writes that the API server took, by what was written.
    pub(crate) written: BTreeMap<&'static str, u64>,
    /// Writes that it did not take.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    /// What waits to be written.
    pub(crate) waiting: u64,
    /// NodeStatus objects of which only numbers wait, which takes its time.
    pub(crate) numbers_waiting: u64,
    /// Events that were only counted, in another event or here.
    pub(crate) uncounted_events: u64,
}

impl Numbers {
    /// As of now.
    pub(crate) fn counts(&self) -> Counts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Keeps what users see up to date, in the leader.
pub(crate) struct Status {
    pub(crate) client: Client,
    /// This controller's name, for events.
    pub(crate) pod: String,
    pub(crate) registry: Arc<Registry>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) verdicts: watch::Receiver<Verdicts>,
    pub(crate) nodes: watch::Receiver<Arc<Nodes>>,
    pub(crate) numbers: Numbers,
}

impl Status {
    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let writer = Writer::new(self.client.clone(), &self.pod);
        let objects: Api<NodeStatus> = Api::all(self.client.clone());
        let mut watching = pin!(watcher(objects, watcher::Config::default()).default_backoff());
        let mut board = Board::new(Instant::now());
        let mut listing = Listing::default();
        let mut writing = FuturesUnordered::new();
        let (mut changed, mut touched) = (true, self.registry.touched());
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            let due =
                changed || !touched.is_empty() || board.next_look().is_some_and(|at| at <= now);
            if listing.is_whole && due && now >= looked + BREATHE {
                touched.append(&mut self.registry.touched());
                self.look(&mut board, std::mem::take(&mut touched), changed, now);
                (changed, looked) = (false, now);
            }
            while listing.is_whole && writing.len() < AT_ONCE {
                let Some((key, write)) = board.next_write(now, wall()) else {
                    break;
                };
                let writer = writer.clone();
                writing.push(async move {
                    let outcome = writer.carry_out(&write).await;
                    (key, write, outcome)
                });
            }
            self.numbers.change(|counts| {
                counts.waiting = board.queue.len() as u64;
                counts.numbers_waiting = board.queue.numbers() as u64;
                counts.uncounted_events = board.events.dropped;
            });
            let wake = self.wake(&board, changed || !touched.is_empty(), looked, now);
            tokio::select! {
                () = stop.cancelled() => return,
                it = self.view.changed() => { if it.is_err() { return } changed = true; }
                it = self.verdicts.changed() => { if it.is_err() { return } changed = true; }
                it = self.nodes.changed() => { if it.is_err() { return } changed = true; }
                () = self.registry.touching() => touched.append(&mut self.registry.touched()),
                Some(event) = watching.next() => match event {
                    Ok(event) => listing.follow(event, &mut board),
                    Err(error) => debug!(%error, "watch of NodeStatus objects"),
                },
                Some((key, write, outcome)) = writing.next() => {
                    self.count(&key, &outcome);
                    board.done(&key, write, outcome, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// When there is something to do although nothing happens.
    fn wake(&self, board: &Board, due: bool, looked: Instant, now: Instant) -> Instant {
        let look = match due {
            true => Some(looked + BREATHE),
            false => board.next_look().map(|at| at.max(looked + BREATHE)),
        };
        let write = board.queue.next(now);
        let wake = look.into_iter().chain(write).min();
        wake.unwrap_or(now + Duration::from_secs(60))
    }

    fn look(&mut self, board: &mut Board, touched: BTreeSet<String>, is_new: bool, now: Instant) {
        let view = self.view.borrow_and_update();
        let verdicts = self.verdicts.borrow_and_update();
        let nodes = self.nodes.borrow_and_update();
        let sources = Sources {
            view: &view,
            verdicts: &verdicts,
            nodes: &nodes,
            registry: &self.registry,
            is_new,
        };
        board.look(&sources, touched, now, wall());
    }

    fn count(&self, key: &Key, outcome: &Outcome) {
        let what = match key {
            Key::Network(_) => "Node",
            Key::Object(object) => object.kind.name(),
            Key::NodeStatus(_) => "NodeStatus",
            Key::Event(_) => "Event",
        };
        self.numbers.change(|counts| {
            let of = match outcome {
                Outcome::Done(_) => &mut counts.written,
                Outcome::Gone | Outcome::Failed(_) => &mut counts.failed,
            };
            *of.entry(what).or_default() += 1;
        });
    }
}

/// The watch of NodeStatus objects: what is there already is not written again.
#[derive(Default)]
struct Listing {
    /// The list that is under way.
    listed: BTreeSet<String>,
    /// A whole list was seen.
    is_whole: bool,
}

impl Listing {
    fn follow(&mut self, event: Event<NodeStatus>, board: &mut Board) {
        let now = Instant::now();
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let name = object.name_any();
                board.has(&name, Some(write::known(object)), now);
                self.listed.insert(name);
            }
            Event::InitDone => {
                for node in board.has_of() {
                    if !self.listed.contains(&node) {
                        board.has(&node, None, now);
                    }
                }
                self.listed.clear();
                if !std::mem::replace(&mut self.is_whole, true) {
                    info!(
                        objects = board.has_of().len(),
                        "status: listed what is there"
                    );
                }
            }
            Event::Apply(object) => {
                let name = object.name_any();
                board.has(&name, Some(write::known(object)), now);
            }
            Event::Delete(object) => board.has(&object.name_any(), None, now),
        }
    }
}

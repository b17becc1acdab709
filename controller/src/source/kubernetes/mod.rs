//! Resources and nodes from a Kubernetes API server.
//!
//! ```text
//!  watch of Nodes ──────────┐
//!  watch of each of our  ───┼─► mirrors ─quiet for a moment─► judge ─► accepted ─► SourceState
//!  five kinds               │                                   (ConfigMap)        Verdicts
//! ```
//!
//! Only the leader does this: one watch of each kind in the whole cluster. Every object is judged by
//! itself: one that is wrong stays as it was when it was right last, and the others go on changing.
//! Nothing is published before the first whole list of every kind.

mod mirror;
mod node;
mod object;
mod verdict;
mod watches;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::SourceFile;
use crd::{Kind, WRITTEN_BY_USERS};
use kube::Client;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use node::KubeNode;
pub(crate) use verdict::{Key, Outcome, Verdict, Verdicts};

use self::mirror::Mirror;
use self::object::Object;
use self::watches::Notice;
use super::files::now;
use super::{Loaded, SourceState};

/// How long nothing must change before the whole is judged; changes rarely come alone.
const SETTLE: Duration = Duration::from_millis(30);
/// It is judged after this long even if changes do not stop.
const SETTLE_MOST: Duration = Duration::from_millis(300);

/// Nodes as the API server has them, by name.
pub(crate) type Nodes = BTreeMap<String, Arc<KubeNode>>;

/// What is published, for those who write to the API server.
pub(crate) struct Published {
    /// What the reconcile loop works with.
    pub(crate) state: watch::Receiver<SourceState>,
    /// What is thought of every object that a user wrote.
    #[allow(dead_code, reason = "for the status writer")]
    pub(crate) verdicts: watch::Receiver<Verdicts>,
    /// The nodes.
    #[allow(dead_code, reason = "for those who write to nodes")]
    pub(crate) nodes: watch::Receiver<Arc<Nodes>>,
}

/// The cluster as the API server tells it.
pub(crate) struct Cluster {
    client: Client,
    nodes: Mirror<Arc<KubeNode>>,
    objects: BTreeMap<Kind, Mirror<Object>>,
    state: watch::Sender<SourceState>,
    verdicts: watch::Sender<Verdicts>,
    published_nodes: watch::Sender<Arc<Nodes>>,
}

impl Cluster {
    /// One that has not begun to look; what it finds is published in `state`.
    pub(crate) fn new(client: Client, state: watch::Sender<SourceState>) -> Cluster {
        let objects = WRITTEN_BY_USERS.map(|kind| (kind, Mirror::default()));
        Cluster {
            client,
            nodes: Mirror::default(),
            objects: objects.into(),
            state,
            verdicts: watch::Sender::default(),
            published_nodes: watch::Sender::default(),
        }
    }

    /// Where the newest of everything can be seen.
    pub(crate) fn subscribe(&self) -> Published {
        Published {
            state: self.state.subscribe(),
            verdicts: self.verdicts.subscribe(),
            nodes: self.published_nodes.subscribe(),
        }
    }

    /// Watches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut notices = std::pin::pin!(watches::all(&self.client));
        // When to judge: the moment of the first change not judged yet, and of the last.
        let mut changed: Option<(Instant, Instant)> = None;
        loop {
            let due = changed.map(|(first, last)| (last + SETTLE).min(first + SETTLE_MOST));
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    changed = None;
                    self.judge();
                }
                Some(notice) = notices.next() => if self.follow(notice) {
                    let now = Instant::now();
                    changed = Some((changed.map_or(now, |(first, _)| first), now));
                },
            }
        }
    }

    /// Takes in what a watch says. Whether there is something to judge.
    fn follow(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::Node(event) => {
                let keep = |mut node: KubeNode| {
                    node.strip();
                    Arc::new(node)
                };
                self.nodes.follow(event, keep)
            }
            Notice::Object(kind, event) => {
                let keep = |object| Object::new(kind, object);
                self.objects.entry(kind).or_default().follow(event, keep)
            }
            Notice::Undefined(kind) => self.objects.entry(kind).or_default().undefined(),
        }
    }

    /// Judges what is there, and publishes it.
    fn judge(&mut self) {
        let complete = self.nodes.is_complete() && self.objects.values().all(Mirror::is_complete);
        if !complete {
            return;
        }
        self.published_nodes
            .send_replace(Arc::new(self.nodes.objects().clone()));
        let mut problems = Vec::new();
        let mut nodes = Vec::new();
        for (name, node) in self.nodes.objects() {
            match node.resource(false) {
                Ok(node) => nodes.push(node),
                Err(reasons) => problems.extend(reasons.into_iter().map(|r| (name.clone(), r))),
            }
        }
        let files: Vec<SourceFile> = self.objects().map(|(key, it)| it.file(&key)).collect();
        let judged = api::parse_objects(&files, nodes);
        let verdicts = self.objects().map(|(key, object)| {
            let name = verdict::name(&key);
            let outcome = match &judged {
                Ok(parsed) => Outcome::Accepted {
                    warnings: verdict::about(&parsed.warnings, &name),
                },
                Err(mistakes) => Outcome::Refused {
                    reasons: verdict::about(mistakes, &name),
                    in_force: None,
                },
            };
            (key, Verdict::new(object, outcome))
        });
        self.verdicts.send_replace(Arc::new(verdicts.collect()));
        match judged {
            Ok(parsed) => {
                info!(nodes = parsed.resources.nodes.len(), "resources accepted");
                let loaded = Loaded {
                    resources: parsed.resources,
                    files,
                    warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
                    problems,
                    at: now(),
                };
                self.state.send_modify(|state| {
                    state.in_force = Some(Arc::new(loaded));
                    state.refused.clear();
                });
            }
            Err(mistakes) => {
                let reasons: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                for reason in &reasons {
                    warn!(%reason, "resources refused");
                }
                self.state.send_modify(|state| {
                    state.refused = reasons;
                    state.refusals += 1;
                });
            }
        }
    }

    fn objects(&self) -> impl Iterator<Item = (Key, &Object)> {
        self.objects.iter().flat_map(|(kind, mirror)| {
            let objects = mirror.objects().iter();
            objects.map(|(name, object)| ((*kind, name.clone()), object))
        })
    }
}

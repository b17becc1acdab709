//! Resources and nodes from a Kubernetes API server.
//!
//! ```text
//!  watch of Nodes ──────────┐
//!  watch of each of our  ───┼─► mirrors ─quiet for a moment─► judge ─► accepted ─► SourceState
//!  five kinds               │                                   (ConfigMap)        Verdicts
//! ```
//!
//! Only the leader does this: one watch of each kind in the whole cluster, and of nothing that nobody
//! reads. Every object is judged by itself: one that is wrong stays as it was when it was right last,
//! and the others go on changing (`judge`). What was right last is kept for the next leader before it
//! is in force (`accepted`).
//! Nothing is published before the first whole list of every kind.

mod accepted;
mod definitions;
mod judge;
mod mirror;
mod node;
mod object;
mod verdict;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Parsed, SourceFile};
use crd::{Kind, WRITTEN_BY_USERS};
use kube::Client;
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use node::KubeNode;
pub(crate) use verdict::{Key, Outcome, Verdict, Verdicts};

use self::accepted::{Accepted, AcceptedError, Keeper};
use self::definitions::Definition;
use self::judge::{Judged, NodeSeen, Seen, judge};
use self::mirror::Mirror;
use self::object::Object;
use self::watches::Notice;
use super::files::now;
use super::{Loaded, SourceState};

/// How long nothing must change before the whole is judged; changes rarely come alone.
const SETTLE: Duration = Duration::from_millis(30);
/// It is judged after this long even if changes do not stop.
const SETTLE_MOST: Duration = Duration::from_millis(300);
/// When the API server cannot be asked or written to, it is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Nodes as the API server has them, by name.
pub(crate) type Nodes = BTreeMap<String, Arc<KubeNode>>;

/// What is published, for those who write to the API server.
pub(crate) struct Published {
    /// What the reconcile loop works with.
    pub(crate) state: watch::Receiver<SourceState>,
    /// What is thought of every object that a user wrote.
    pub(crate) verdicts: watch::Receiver<Verdicts>,
    /// The nodes.
    pub(crate) nodes: watch::Receiver<Arc<Nodes>>,
}

/// A node, and what it is to us.
#[derive(Clone, PartialEq)]
struct NodeThere {
    node: Arc<KubeNode>,
    resource: NodeSeen,
}

/// The cluster as the API server tells it.
pub(crate) struct Cluster {
    client: Client,
    nodes: Mirror<NodeThere>,
    objects: BTreeMap<Kind, Mirror<Object>>,
    keeper: Keeper,
    /// What was right last; none before it was read.
    accepted: Option<Accepted>,
    /// The nodes in force, and whether all of them are in here.
    good_nodes: BTreeMap<String, Arc<api::Node>>,
    all_known: bool,
    /// Kinds whose definition may be another than when it was looked at last.
    doubted: BTreeSet<Kind>,
    state: watch::Sender<SourceState>,
    verdicts: watch::Sender<Verdicts>,
    published_nodes: watch::Sender<Arc<Nodes>>,
}

impl Cluster {
    /// One that has not begun to look; what it finds is published in `state`. `identity` is who this
    /// process is in the Lease.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        identity: String,
        state: watch::Sender<SourceState>,
    ) -> Cluster {
        let objects = WRITTEN_BY_USERS.map(|kind| (kind, Mirror::default()));
        Cluster {
            keeper: Keeper::new(client.clone(), namespace, identity),
            client,
            nodes: Mirror::default(),
            objects: objects.into(),
            accepted: None,
            good_nodes: BTreeMap::new(),
            all_known: false,
            doubted: WRITTEN_BY_USERS.into(),
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
        let working = async {
            let mut notices = std::pin::pin!(watches::all(&self.client));
            let mut due = None;
            // Of the first change that has not been judged.
            let mut first = None;
            loop {
                tokio::select! {
                    () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                        (due, first) = (self.judge().await, None);
                    }
                    Some(notice) = notices.next() => if self.follow(notice) {
                        let now = Instant::now();
                        let first = *first.get_or_insert(now);
                        due = Some((now + SETTLE).min(first + SETTLE_MOST));
                    },
                }
            }
        };
        tokio::select! {
            () = working => {}
            () = stop.cancelled() => {}
        }
    }

    /// Takes in what a watch says. Whether there is something to judge.
    fn follow(&mut self, notice: Notice) -> bool {
        match notice {
            Notice::Node(event) => {
                let keep = |node: KubeNode| NodeThere {
                    resource: node.resource().map(Arc::new),
                    node: Arc::new(node.kept()),
                };
                self.nodes.follow(event, keep)
            }
            Notice::Object(kind, event) => {
                // A list that is whole may be the first one under another definition.
                if matches!(event, Event::InitDone | Event::Delete(_)) {
                    self.doubted.insert(kind);
                }
                let keep = |object| Object::new(kind, object);
                self.objects.entry(kind).or_default().follow(event, keep)
            }
            Notice::Undefined(kind) => {
                self.doubted.insert(kind);
                self.objects.entry(kind).or_default().undefined()
            }
        }
    }

    /// Judges what is there, keeps what is right, and publishes it; when to try again if that failed.
    async fn judge(&mut self) -> Option<Instant> {
        let complete = self.nodes.is_complete() && self.objects.values().all(Mirror::is_complete);
        if !complete {
            return None; // the rest is an event too
        }
        match self.try_judge().await {
            Ok(()) => None,
            Err(error) => {
                let text = format!("{error:#}");
                let told = format!("nothing new is put in force: {text}");
                if self.state.borrow().refused.last() != Some(&told) {
                    warn!(error = text, "nothing new is put in force");
                    self.state.send_modify(|state| state.refused = vec![told]);
                }
                Some(Instant::now() + RETRY)
            }
        }
    }

    async fn try_judge(&mut self) -> anyhow::Result<()> {
        let mut accepted = match self.accepted.take() {
            Some(accepted) => accepted,
            None => self.read_accepted().await?,
        };
        let nodes = self.nodes.objects().iter();
        let nodes = nodes.map(|(name, there)| (name.clone(), Arc::clone(&there.node)));
        self.published_nodes.send_replace(Arc::new(nodes.collect()));
        let held = self.hold(&mut accepted).await;
        // Kept whatever comes: it is asked for once.
        let accepted = self.accepted.insert(accepted);
        held?;

        let seen = Seen {
            objects: self
                .objects
                .iter()
                .flat_map(|(kind, mirror)| {
                    let objects = mirror.objects().iter();
                    objects.map(|(name, object)| ((*kind, name.clone()), object))
                })
                .collect(),
            nodes: self
                .nodes
                .objects()
                .iter()
                .map(|(name, there)| (name.as_str(), &there.resource))
                .collect(),
        };
        let judged = tokio::task::block_in_place(|| {
            judge(&seen, &accepted.objects, &self.good_nodes, self.all_known)
        });
        let refused = judged.refused_nodes.iter();
        let next = Accepted {
            objects: judged.good.clone(),
            nodes: refused
                .filter_map(|name| Some((name.clone(), Arc::clone(judged.good_nodes.get(name)?))))
                .collect(),
            definitions: accepted.definitions.clone(),
        };
        self.keeper.write(&next).await?;
        let verdicts = seen.objects.iter().filter_map(|(key, object)| {
            let outcome = judged.outcomes.get(key)?.clone();
            Some((key.clone(), Verdict::new(object, outcome)))
        });
        let verdicts: Verdicts = Arc::new(verdicts.collect());
        self.accepted = Some(next);
        self.publish(judged, verdicts);
        Ok(())
    }

    async fn read_accepted(&mut self) -> Result<Accepted, AcceptedError> {
        let accepted = self.keeper.read().await?;
        self.good_nodes.clone_from(&accepted.nodes);
        info!(
            objects = accepted.objects.len(),
            nodes = accepted.nodes.len(),
            "last good versions read"
        );
        Ok(accepted)
    }

    /// Objects that are gone because their kind was deleted are held.
    async fn hold(&mut self, accepted: &mut Accepted) -> anyhow::Result<()> {
        while let Some(kind) = self.doubted.first().copied() {
            let definition = definitions::read(&self.client, kind).await?;
            let known = accepted.definitions.get(&kind);
            let replaced = match &definition {
                Definition::There(uid) => known.is_some_and(|known| known != uid),
                Definition::Gone => true,
                Definition::Hidden => false,
            };
            let there = self.objects.get(&kind).map(Mirror::objects);
            for ((_, name), good) in accepted.objects.iter_mut().filter(|(key, _)| key.0 == kind) {
                let is_there = there.is_some_and(|there| there.contains_key(name));
                if replaced && !is_there && !std::mem::replace(&mut good.held, true) {
                    warn!(
                        %kind,
                        name,
                        "deleted together with the CustomResourceDefinition; it stays in force until there \
                         is one of this name again"
                    );
                }
            }
            if let Definition::There(uid) = definition {
                accepted.definitions.insert(kind, uid);
            }
            self.doubted.remove(&kind);
        }
        Ok(())
    }

    fn publish(&mut self, judged: Judged, verdicts: Verdicts) {
        self.verdicts.send_if_modified(|current| {
            let changed = *current != verdicts;
            *current = verdicts;
            changed
        });
        let mut refused = judged.refused;
        let loaded = match judged.parsed {
            Ok(parsed) => {
                self.good_nodes = judged.good_nodes;
                self.all_known = true;
                Some(loaded(parsed, &judged.good, judged.problems))
            }
            Err(reasons) => {
                refused.extend(reasons);
                None
            }
        };
        self.state.send_if_modified(|state| {
            let mut changed = state.refused != refused;
            if changed {
                for reason in refused.iter().filter(|r| !state.refused.contains(r)) {
                    warn!(%reason, "refused");
                }
                state.refusals += u64::from(!refused.is_empty());
                state.refused = refused;
            }
            // What is the same need not be planned again.
            let loaded = loaded.filter(|loaded| {
                state.in_force.as_ref().is_none_or(|old| {
                    old.resources != loaded.resources
                        || old.warnings != loaded.warnings
                        || old.problems != loaded.problems
                        || old.files != loaded.files
                })
            });
            if let Some(loaded) = loaded {
                info!(
                    objects = loaded.files.len(),
                    nodes = loaded.resources.nodes.len(),
                    warnings = loaded.warnings.len(),
                    "resources accepted"
                );
                state.in_force = Some(Arc::new(loaded));
                changed = true;
            }
            changed
        });
    }
}

fn loaded(
    parsed: Parsed,
    good: &BTreeMap<Key, judge::Good>,
    problems: Vec<(String, String)>,
) -> Loaded {
    let files = good.iter().map(|(key, good)| SourceFile {
        name: verdict::name(key),
        text: good.text.clone(),
    });
    Loaded {
        resources: parsed.resources,
        files: files.collect(),
        warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
        problems,
        at: now(),
    }
}

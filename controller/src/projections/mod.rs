//! Writes the ledger where everybody looks: one NodeSubnets object a node, and `spec.podCIDRs` of Nodes.
//!
//! ```text
//!  View ─► wanted ─► Slot::step ─► requests ─► Answer ─► slots ─► Released ─► reconcile
//!                                             watch of NodeSubnets ─┘
//! ```
//!
//! Only what was committed gets here, and only what is gone from here is freed. So what these objects
//! say never contradicts itself either, whoever else takes himself for the leader and however late his
//! requests arrive:
//!
//! - Every request that puts subnets into an object names the version of the object that it replaces, and
//!   is sent only after it was seen that the ledger is still this controller's, later than that version
//!   was seen ([`Projections::still_leads`]). A successor writes to the ledger first and looks at the
//!   objects then: either it finds the version, or the check fails.
//! - To free a subnet, the object that showed it is replaced or removed, even when it shows it no more
//!   ([`slots::Slot::is_clear_of`]): from then on nothing that is under way can bring it back.
//! - A Node's podCIDRs are written once, and only into the Node with this uid; they go with it.

mod feedback;
mod slots;
mod trouble;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use crd::NodeSubnets;
use crd::names::{FIELD_MANAGER, MANAGED_BY_LABEL};
use futures::{FutureExt as _, StreamExt as _};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(crate) use self::feedback::Feedback;
use self::slots::{Answer, Slots, Step};
use self::trouble::{Failure, Trouble, What};
use self::wanted::Released;
use self::wanted::Wanted;
use crate::reconcile::View;
use crate::source::kubernetes::Nodes;
use crate::store::kubernetes::WriterCheck;

/// Requests under way at a time.
const CONCURRENCY: usize = 16;
/// How long a request may take. What is slower counts as unclear.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers and events are taken together for so long.
const SETTLE: Duration = Duration::from_millis(20);

/// Steps, by node.
type Steps = Vec<(String, Step)>;

/// The task.
pub(crate) struct Projections {
    objects: Api<NodeSubnets>,
    nodes: Api<Node>,
    check: WriterCheck,
    view: watch::Receiver<View>,
    known_nodes: watch::Receiver<Arc<Nodes>>,
    released: watch::Sender<Arc<BTreeSet<Released>>>,
    slots: Slots,
    /// The uid of Nodes whose podCIDRs were written.
    written: BTreeMap<String, String>,
    /// What failed.
    trouble: Trouble,
}

impl Projections {
    /// One that follows `view`.
    pub(crate) fn new(
        client: Client,
        check: WriterCheck,
        view: watch::Receiver<View>,
        known_nodes: watch::Receiver<Arc<Nodes>>,
    ) -> Projections {
        Projections {
            objects: Api::all(client.clone()),
            nodes: Api::all(client),
            check,
            view,
            known_nodes,
            released: watch::Sender::default(),
            slots: Slots::default(),
            written: BTreeMap::new(),
            trouble: Trouble::default(),
        }
    }

    /// What the reconcile loop has to know of it.
    pub(crate) fn feedback(&self) -> Feedback {
        Feedback::new(self.known_nodes.clone(), self.released.subscribe())
    }

    /// Works until `stop`; fails when another controller has taken over.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        // What is listed must be newer than this controller's first commit.
        let begun = self.view.wait_for(|view| view.leads_since > 0);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            begun = begun => if begun.is_err() {
                return Ok(()); // the reconcile loop is gone: shutting down
            },
        }
        let events = watcher(self.objects.clone(), watcher::Config::default());
        let mut events = std::pin::pin!(events.default_backoff());
        loop {
            let retry = self.trouble.next(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.next() => {
                    self.follow(event);
                    while let Some(event) = events.next().now_or_never() {
                        self.follow(event);
                    }
                }
                changed = self.view.changed() => if changed.is_err() {
                    return Ok(());
                },
                changed = self.known_nodes.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
            if self.slots.is_complete() && !self.trouble.is_of_all(Instant::now()) {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    done = self.pass() => done?,
                }
                tokio::time::sleep(SETTLE).await;
            }
        }
    }

    fn follow(&mut self, event: Option<watcher::Result<watcher::Event<NodeSubnets>>>) {
        match event {
            Some(Ok(event)) => self.slots.follow(event),
            Some(Err(error)) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot watch NodeSubnets"
                );
            }
            None => debug!("the watch of NodeSubnets ended"),
        }
    }

    /// Brings everything as far as it can be brought now.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let (wanted, pod_cidrs) = {
            let (view, nodes) = (
                self.view.borrow_and_update(),
                self.known_nodes.borrow_and_update(),
            );
            (
                wanted::wanted(&view, &nodes),
                wanted::pod_cidrs(&view, &nodes),
            )
        };
        let (first, _) = self.steps(&wanted);
        self.carry_out(first).await;
        // The versions that are replaced now were all seen before the check.
        let (_, second) = self.steps(&wanted);
        let now = Instant::now();
        let pod_cidrs: Vec<_> = pod_cidrs
            .into_iter()
            .filter(|(node, (uid, _))| self.written.get(node) != Some(uid))
            .filter(|(node, _)| self.trouble.may(What::PodCidrs, node, now))
            .collect();
        let is_left = !second.is_empty() || !pod_cidrs.is_empty();
        if is_left && !self.trouble.is_of_all(now) {
            if !self.still_leads().await? {
                self.trouble.all_failed(None, Instant::now());
                return Ok(());
            }
            self.carry_out(second).await;
            self.write_pod_cidrs(pod_cidrs).await;
        }
        self.release(&wanted);
        Ok(())
    }

    /// What to do now: first what only looks or makes empty objects, then the rest.
    fn steps(&self, wanted: &Wanted) -> (Steps, Steps) {
        let all: BTreeSet<&String> = self.slots.nodes().chain(wanted.nodes.keys()).collect();
        let now = Instant::now();
        let may = |node: &&String| self.trouble.may(What::NodeSubnets, node, now);
        let steps = all.into_iter().filter(may).filter_map(|node| {
            let slot = self.slots.get(node);
            let step = slot.step(wanted.nodes.get(node), wanted.since)?;
            Some((node.clone(), step))
        });
        steps.partition(|(_, step)| matches!(step, Step::Read | Step::Create))
    }

    /// Whether the ledger is this controller's; an error when it is another's, `false` when that cannot
    /// be seen.
    async fn still_leads(&self) -> anyhow::Result<bool> {
        match self.check.writer().await {
            Ok(Some(writer)) if writer != self.check.identity() => bail!(
                "controller {writer} has taken over the ledger: it leads now, and this one stops"
            ),
            Ok(writer) => Ok(writer.is_some()),
            Err(error) => {
                debug!(%error, "cannot see whether this controller still leads");
                Ok(false)
            }
        }
    }

    async fn carry_out(&mut self, steps: Steps) {
        let objects = self.objects.clone();
        let is_answered = AtomicBool::new(true);
        let requests = steps.into_iter().map(|(node, step)| {
            let (objects, is_answered) = (objects.clone(), &is_answered);
            async move {
                // What was not sent yet need not be when the API server answers nobody.
                if !is_answered.load(Ordering::Relaxed) {
                    return None;
                }
                let answer = in_time(request(&objects, &node, &step)).await;
                if matches!(answer, Err(Failure::Server(..))) {
                    is_answered.store(false, Ordering::Relaxed);
                }
                Some((node, step, answer))
            }
        });
        let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some(answered) = answers.next().await {
            let Some((node, step, answer)) = answered else {
                continue;
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(failure) => {
                    self.trouble(What::NodeSubnets, &node, failure);
                    self.slots.answered(&node, &step, Answer::Unclear);
                    continue;
                }
            };
            match answer {
                Answer::Conflict => {
                    let now = Instant::now();
                    self.trouble.failed(What::NodeSubnets, &node, now);
                }
                _ if step != Step::Read => self.trouble.written(What::NodeSubnets, &node),
                _ => {}
            }
            self.slots.answered(&node, &step, answer);
        }
    }

    async fn write_pod_cidrs(&mut self, wanted: Vec<(String, (String, Vec<IpNetwork>))>) {
        let nodes = self.nodes.clone();
        let is_answered = AtomicBool::new(true);
        let requests = wanted.into_iter().map(|(node, (uid, cidrs))| {
            let (nodes, is_answered) = (nodes.clone(), &is_answered);
            async move {
                if !is_answered.load(Ordering::Relaxed) {
                    return None;
                }
                let patch = serde_json::json!({
                    "metadata": { "uid": uid },
                    "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
                });
                let parameters = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patch = Patch::Merge(patch);
                let answer = in_time(async {
                    let answer = nodes.patch_metadata(&node, &parameters, &patch).await;
                    answer.map(drop).map_err(|error| Failure::of(&error))
                });
                let answer = answer.await;
                if matches!(answer, Err(Failure::Server(..))) {
                    is_answered.store(false, Ordering::Relaxed);
                }
                Some((node, uid, cidrs, answer))
            }
        });
        let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some(answered) = answers.next().await {
            let Some((node, uid, cidrs, answer)) = answered else {
                continue;
            };
            match answer {
                Ok(()) => {
                    debug!(node, ?cidrs, "podCIDRs written");
                    self.trouble.written(What::PodCidrs, &node);
                    self.written.insert(node, uid);
                }
                // Where the Node is gone, replaced, or given podCIDRs by somebody else, its watch says so.
                Err(failure) => self.trouble(What::PodCidrs, &node, failure),
            }
        }
    }

    /// Something was not written.
    fn trouble(&mut self, what: What, node: &str, failure: Failure) {
        let now = Instant::now();
        match failure {
            Failure::This(error) => {
                warn!(
                    node,
                    ?what,
                    error,
                    "the API server refuses a write; it is tried again"
                );
                self.trouble.failed(what, node, now);
            }
            Failure::Server(asked, error) => {
                if !self.trouble.is_of_all(now) {
                    warn!(
                        node,
                        ?what,
                        error,
                        "nothing can be written of nodes; it is tried again"
                    );
                }
                self.trouble.all_failed(asked, now);
            }
        }
    }

    /// Says what stands nowhere any more.
    fn release(&self, wanted: &Wanted) {
        let view = self.view.borrow();
        let due = view.due.iter().filter_map(|subnet| {
            let lease = view.ledger.get(*subnet)?;
            let slot = self.slots.get(&lease.node);
            let clear = slot.is_clear_of(*subnet, wanted.since);
            clear.then(|| (*subnet, lease.node.clone(), lease.since))
        });
        let released: BTreeSet<Released> = due.collect();
        self.released.send_if_modified(|before| {
            let changed = **before != released;
            if changed {
                *before = Arc::new(released);
            }
            changed
        });
    }
}

/// An answer, if it comes in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::Server(None, format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|it| Err(late(it)))
}

/// One request; an error means that nobody knows what came of it.
async fn request(objects: &Api<NodeSubnets>, node: &str, step: &Step) -> Result<Answer, Failure> {
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let there = |object| Answer::There(Box::new(object));
    let answer = match step {
        Step::Read => {
            let read = objects.get_opt(node).await;
            read.map(|object| object.map_or(Answer::Absent, there))
        }
        Step::Create => {
            let mut empty = NodeSubnets::default();
            empty.metadata.name = Some(node.to_owned());
            let labels = [(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned())];
            empty.metadata.labels = Some(labels.into());
            objects.create(&parameters, &empty).await.map(there)
        }
        Step::Write(next) => objects.replace(node, &parameters, next).await.map(there),
        Step::Remove(seen) => {
            let parameters = DeleteParams::default().preconditions(Preconditions {
                resource_version: seen.metadata.resource_version.clone(),
                uid: seen.metadata.uid.clone(),
            });
            let removed = objects.delete(node, &parameters).await;
            removed.map(|_| Answer::Absent)
        }
    };
    match answer {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Answer::Conflict),
        Err(kube::Error::Api(status)) if status.code == 404 && *step != Step::Create => {
            Ok(Answer::Absent)
        }
        // The kind is not there, for any node.
        Err(error) if *step == Step::Create && is_not_found(&error) => {
            Err(Failure::Server(None, error.to_string()))
        }
        Err(error) => Err(Failure::of(&error)),
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

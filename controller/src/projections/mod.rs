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
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
use tracing::{debug, info, warn};

pub(crate) use self::feedback::Feedback;
use self::slots::{Answer, Slots, Step};
use self::wanted::Released;
use self::wanted::Wanted;
use crate::reconcile::View;
use crate::source::kubernetes::Nodes;
use crate::store::kubernetes::WriterCheck;

/// Requests under way at a time.
const CONCURRENCY: usize = 16;
/// How long a request may take. What is slower counts as unclear.
const PATIENCE: Duration = Duration::from_secs(5);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
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
    /// Something failed; try again then.
    retry: Option<Instant>,
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
            retry: None,
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
            let retry = self.retry;
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
            if self.slots.is_complete() {
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
        self.retry = None;
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
        let pod_cidrs: Vec<_> = pod_cidrs
            .into_iter()
            .filter(|(node, (uid, _))| self.written.get(node) != Some(uid))
            .collect();
        if !second.is_empty() || !pod_cidrs.is_empty() {
            if !self.still_leads().await? {
                self.fail();
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
        let steps = all.into_iter().filter_map(|node| {
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
        let requests = steps.into_iter().map(|(node, step)| {
            let objects = objects.clone();
            async move {
                let answer = timeout(PATIENCE, request(&objects, &node, &step)).await;
                let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                (node, step, answer)
            }
        });
        let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((node, step, answer)) = answers.next().await {
            let answer = answer.unwrap_or_else(|error| {
                warn!(node, error, "cannot write NodeSubnets; it is tried again");
                Answer::Unclear
            });
            if matches!(answer, Answer::Conflict | Answer::Unclear) {
                self.retry = Some(Instant::now() + RETRY);
            }
            self.slots.answered(&node, &step, answer);
        }
    }

    async fn write_pod_cidrs(&mut self, wanted: Vec<(String, (String, Vec<IpNetwork>))>) {
        let nodes = self.nodes.clone();
        let requests = wanted.into_iter().map(|(node, (uid, cidrs))| {
            let nodes = nodes.clone();
            async move {
                let patch = serde_json::json!({
                    "metadata": { "uid": uid },
                    "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
                });
                let parameters = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patch = Patch::Merge(patch);
                let answer = nodes.patch_metadata(&node, &parameters, &patch);
                let answer = match timeout(PATIENCE, answer).await {
                    Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                (node, uid, cidrs, answer)
            }
        });
        let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((node, uid, cidrs, answer)) = answers.next().await {
            match answer {
                Ok(()) => {
                    debug!(node, ?cidrs, "podCIDRs written");
                    self.written.insert(node, uid);
                }
                Err(error) => {
                    // Gone, replaced, or given podCIDRs by somebody else: the watch of Nodes says so.
                    info!(node, error, "podCIDRs are not written; it is tried again");
                    self.retry = Some(Instant::now() + RETRY);
                }
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

    fn fail(&mut self) {
        self.retry = Some(Instant::now() + RETRY);
    }
}

/// One request; an error means that nobody knows what came of it.
async fn request(objects: &Api<NodeSubnets>, node: &str, step: &Step) -> Result<Answer, String> {
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
        Err(error) => Err(error.to_string()),
    }
}

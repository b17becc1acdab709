//! Carries out writes. Each touches only what is ours: server-side apply of a status under our own
//! name, one condition of a Node by its type, events that are new. What an object's uid was is said
//! with every write, so that another object of the same name is never meant.

use std::time::Duration;

use crd::names::{FIELD_MANAGER, MANAGED_BY_LABEL, REPORTING_CONTROLLER};
use crd::{Kind, NodeStatus, Written};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Error, Resource as _};
use serde_json::json;
use tracing::{debug, warn};

use super::board::{Answer, Known, Outcome, Write};
use super::coverage::Object;
use super::events::{About, EventKey, Telling};
use super::network::NETWORK_UNAVAILABLE;
use super::node_state::cut;
use super::queue::Failure;
use super::reasons::Reason;

/// Events of objects that are in no namespace are in this one.
const EVENTS_IN: &str = "default";
/// Longest text of an event.
const LONGEST_NOTE: usize = 1024;
/// A write that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Writes for one controller.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    /// Who reports events.
    instance: String,
}

impl Writer {
    /// `instance` is this controller's name in events.
    pub(crate) fn new(client: Client, instance: &str) -> Writer {
        Writer {
            client,
            instance: cut(instance, 128),
        }
    }

    /// Carries out one write.
    pub(crate) async fn carry_out(&self, write: &Write) -> Outcome {
        let written = tokio::time::timeout(PATIENCE, self.write(write)).await;
        match written {
            Ok(Ok(answer)) => Outcome::Done(answer),
            Ok(Err(error)) => outcome(write, &error),
            Err(_) => {
                warn!(what = %name(write), "the API server did not answer a write in time");
                Outcome::Failed(Failure::Server(None))
            }
        }
    }

    async fn write(&self, write: &Write) -> Result<Answer, Error> {
        let client = self.client.clone();
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        match write {
            Write::Object {
                object,
                uid,
                status,
            } => {
                let resource = object.kind.api_resource();
                let objects: Api<Written> = Api::all_with(client, &resource);
                let patch = json!({
                    "apiVersion": api::API_VERSION,
                    "kind": object.kind.name(),
                    "metadata": {"name": object.name, "uid": uid},
                    "status": status,
                });
                objects
                    .patch_status(&object.name, &apply, &Patch::Apply(patch))
                    .await?;
                Ok(Answer::Nothing)
            }
            Write::NodeStatus { node, state } => {
                let objects: Api<NodeStatus> = Api::all(client);
                let patch = json!({
                    "apiVersion": api::API_VERSION,
                    "kind": Kind::NodeStatus.name(),
                    "metadata": {"name": node, "labels": {MANAGED_BY_LABEL: FIELD_MANAGER}},
                    "status": state,
                });
                let now = objects.patch(node, &apply, &Patch::Apply(patch)).await?;
                Ok(Answer::NodeStatus(Box::new(known(now))))
            }
            Write::RemoveNodeStatus { node, uid } => {
                let objects: Api<NodeStatus> = Api::all(client);
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                objects.delete(node, &parameters).await?;
                Ok(Answer::Nothing)
            }
            Write::Network {
                node,
                uid,
                unavailable,
                reason,
                message,
            } => {
                let nodes: Api<Node> = Api::all(client);
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let patch = json!({
                    "metadata": {"uid": uid},
                    "status": {"conditions": [{
                        "type": NETWORK_UNAVAILABLE,
                        "status": if *unavailable { "True" } else { "False" },
                        "reason": reason.as_str(),
                        "message": cut(message, LONGEST_NOTE),
                        "lastHeartbeatTime": now,
                        "lastTransitionTime": now,
                    }]},
                });
                let parameters = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                nodes
                    .patch_status(node, &parameters, &Patch::Strategic(patch))
                    .await?;
                Ok(Answer::Nothing)
            }
            Write::Event {
                key,
                telling,
                uid,
                related_uid,
            } => self.event(key, telling, uid, related_uid.as_deref()).await,
        }
    }

    async fn event(
        &self,
        key: &EventKey,
        telling: &Telling,
        uid: &str,
        related_uid: Option<&str>,
    ) -> Result<Answer, Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), EVENTS_IN);
        let now = Timestamp::now();
        let note = match telling {
            Telling::Again { name, count } => {
                let series = EventSeries {
                    count: i32::try_from(*count).unwrap_or(i32::MAX),
                    last_observed_time: MicroTime(now),
                };
                let patch = Patch::Merge(json!({"series": series}));
                events.patch(name, &PatchParams::default(), &patch).await?;
                return Ok(Answer::Event(name.clone()));
            }
            Telling::New { note } => note,
        };
        let regarding = reference(&key.about, uid);
        let of = regarding.name.clone().unwrap_or_default();
        let name = format!("{}.{:x}", cut_name(&of), now.as_nanosecond());
        let related = key.related.clone().map(About::Object);
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(EVENTS_IN.to_owned()),
                ..ObjectMeta::default()
            },
            action: Some(action(key.reason).to_owned()),
            reason: Some(key.reason.as_str().to_owned()),
            note: Some(cut(note, LONGEST_NOTE)),
            type_: Some(
                if is_good(key.reason) {
                    "Normal"
                } else {
                    "Warning"
                }
                .to_owned(),
            ),
            event_time: Some(MicroTime(now)),
            regarding: Some(regarding),
            related: related
                .zip(related_uid)
                .map(|(it, uid)| reference(&it, uid)),
            reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await?;
        Ok(Answer::Event(name))
    }
}

/// A NodeStatus as it was read.
pub(crate) fn known(object: NodeStatus) -> Known {
    let metadata = object.metadata;
    let version = metadata.resource_version.and_then(|text| text.parse().ok());
    Known {
        uid: metadata.uid.unwrap_or_default(),
        // Compared since Kubernetes 1.35 says that they may be; 0 is older than any.
        version: version.unwrap_or(0),
        state: object.status,
    }
}

fn reference(to: &About, uid: &str) -> ObjectReference {
    let (api_version, kind, name) = match to {
        About::Node(node) => {
            let version = Node::api_version(&()).into_owned();
            (version, Node::kind(&()).into_owned(), node)
        }
        About::Object(Object { kind, name }) => {
            (api::API_VERSION.to_owned(), kind.name().to_owned(), name)
        }
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(kind),
        name: Some(name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// An event's name is at most 253 letters; what is added to it has less than 40.
fn cut_name(name: &str) -> &str {
    let end = name.len().min(200);
    name.get(..end)
        .unwrap_or("routeshare")
        .trim_end_matches(['.', '-'])
}

fn is_good(reason: Reason) -> bool {
    matches!(reason, Reason::SessionUp | Reason::Accepted)
}

/// What was done when it happened, in the words of events.
fn action(reason: Reason) -> &'static str {
    match reason {
        Reason::SessionUp | Reason::SessionDown => "Peering",
        Reason::PoolFull | Reason::PoolNearlyFull | Reason::NoSubnet => "AssigningSubnets",
        _ => "Configuring",
    }
}

/// What a write is about, for the log.
fn name(write: &Write) -> String {
    match write {
        Write::Network { node, .. } => format!("NetworkUnavailable of Node {node}"),
        Write::Object { object, .. } => format!("status of {object}"),
        Write::NodeStatus { node, .. } | Write::RemoveNodeStatus { node, .. } => {
            format!("NodeStatus {node}")
        }
        Write::Event { key, .. } => match &key.about {
            About::Node(node) => format!("event {} of Node {node}", key.reason),
            About::Object(object) => format!("event {} of {object}", key.reason),
        },
    }
}

fn outcome(write: &Write, error: &Error) -> Outcome {
    let Error::Api(status) = error else {
        debug!(%error, what = %name(write), "cannot write");
        return Outcome::Failed(Failure::Server(None));
    };
    match status.code {
        429 | 500.. => {
            debug!(%error, what = %name(write), "cannot write");
            let seconds = status.details.as_ref().map(|it| it.retry_after_seconds);
            let asked = seconds.filter(|seconds| *seconds > 0);
            let asked = asked.map(|seconds| Duration::from_secs(seconds.into()));
            Outcome::Failed(Failure::Server(asked))
        }
        404 | 409 if is_of_object(write) => {
            debug!(%error, what = %name(write), "not written: the object is gone or another one");
            Outcome::Gone
        }
        _ => {
            warn!(%error, what = %name(write), "the API server refuses a write; trying again later");
            Outcome::Failed(Failure::This)
        }
    }
}

/// Whether the write needs an object that may be gone.
fn is_of_object(write: &Write) -> bool {
    match write {
        Write::Network { .. } | Write::Object { .. } | Write::RemoveNodeStatus { .. } => true,
        Write::NodeStatus { .. } => false,
        Write::Event { telling, .. } => matches!(telling, Telling::Again { .. }),
    }
}

//! An object that a user wrote, as far as we look at it.

use crd::{Kind, Written, WrittenStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    /// Tells it from another object of the same name.
    pub(super) uid: String,
    /// Counts up with its spec.
    pub(super) generation: i64,
    /// When it was made.
    pub(super) created: Option<Time>,
    /// What it says, as text that `api` reads: always the same for the same.
    pub(super) text: String,
    /// What its status says at the moment.
    pub(super) status: WrittenStatus,
}

impl Object {
    pub(super) fn new(kind: Kind, object: Written) -> Object {
        // Annotations are for others, and every other field of the metadata is the API server's.
        let text = serde_json::json!({
            "apiVersion": api::API_VERSION,
            "kind": kind.name(),
            "metadata": {
                "name": object.name_any(),
                "labels": object.labels(),
            },
            "spec": object.spec,
        });
        Object {
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            created: object.metadata.creation_timestamp,
            text: text.to_string(),
            status: object.status.unwrap_or_default(),
        }
    }
}

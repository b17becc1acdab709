//! Whether objects that are gone were deleted, or their kind was.
//!
//! Deleting a CustomResourceDefinition marks it as going before any of its objects goes, so reading it
//! after an object was seen to go tells the two apart without a doubt.

use std::time::Duration;

use anyhow::{Context as _, bail};
use crd::Kind;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, ResourceExt as _};
use tokio::time::timeout;
use tracing::warn;

/// No request may take longer.
const REQUEST: Duration = Duration::from_secs(5);

/// How a kind's definition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Definition {
    /// There, with this uid.
    There(String),
    /// Deleted, or about to be.
    Gone,
    /// We may not know. Then every deletion counts as meant.
    Hidden,
}

/// Reads the definition of a kind.
pub(super) async fn read(client: &Client, kind: Kind) -> anyhow::Result<Definition> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let name = kind.definition();
    match timeout(REQUEST, api.get_metadata_opt(&name)).await {
        Ok(Ok(Some(found))) if found.metadata.deletion_timestamp.is_some() => Ok(Definition::Gone),
        Ok(Ok(Some(found))) => Ok(Definition::There(found.uid().unwrap_or_default())),
        Ok(Ok(None)) => Ok(Definition::Gone),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            warn!(
                name,
                "this controller may not read the CustomResourceDefinition: if it is deleted, so are \
                 its objects as if a person had deleted each"
            );
            Ok(Definition::Hidden)
        }
        Ok(Err(error)) => {
            Err(error).with_context(|| format!("cannot read CustomResourceDefinition {name}"))
        }
        Err(_) => bail!(
            "cannot read CustomResourceDefinition {name}: no answer within {} s",
            REQUEST.as_secs()
        ),
    }
}

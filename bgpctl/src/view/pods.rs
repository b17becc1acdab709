//! Containers and their addresses.

use proto::speaker::v1 as speaker;
use serde::Serialize;

use super::{Text, some};
use crate::time::rfc3339;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    container: String,
    interface: String,
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Text,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Text,
    /// It was attached before the machine was booted last, and is not running any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    earlier_boot: bool,
}

impl From<&speaker::Pod> for Pod {
    fn from(pod: &speaker::Pod) -> Pod {
        Pod {
            container: pod.container.clone(),
            interface: pod.ifname.clone(),
            network: pod.network.clone(),
            mode: some(&pod.mode),
            addresses: pod.addresses.clone(),
            name: some(&pod.name),
            namespace: some(&pod.namespace),
            aliases: pod.aliases.clone(),
            netns: some(&pod.netns),
            since: rfc3339(pod.since_ms),
            earlier_boot: pod.earlier_boot,
        }
    }
}

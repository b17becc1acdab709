//! A Kubernetes Node, as far as we look at it, and what it is to us.

use std::borrow::Cow;
use std::net::IpAddr;

use api::{AsNumber, Metadata, NodeSpec};
use bgp::types::Prefix;
use crd::names::{ADDRESSES_ANNOTATION, ASN_ANNOTATION, ROUTER_ID_ANNOTATION};
use ipnetwork::IpNetwork;
use k8s_openapi::ClusterResourceScope;
use kube::api::ObjectMeta;
use serde::Deserialize;

/// The condition by which a node says that its pods cannot be reached.
pub(crate) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// The parts of a Node that are read; the rest of it (images, capacity, conditions) is most of its size.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct KubeNode {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: KubeNodeSpec,
    #[serde(default)]
    pub(crate) status: KubeNodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KubeNodeSpec {
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct KubeNodeStatus {
    pub(crate) addresses: Vec<KubeNodeAddress>,
    pub(crate) conditions: Vec<KubeNodeCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct KubeNodeCondition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct KubeNodeAddress {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) address: String,
}

impl kube::Resource for KubeNode {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn api_version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl KubeNode {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// What of it is looked at once it is a resource of ours ([`KubeNode::resource`]): the rest is most of its size,
    /// and a kubelet that says every few minutes that nothing has changed makes the same of it again.
    pub(super) fn kept(self) -> KubeNode {
        let mut conditions = self.status.conditions;
        conditions.retain(|condition| condition.kind == NETWORK_UNAVAILABLE);
        conditions.shrink_to_fit();
        KubeNode {
            metadata: ObjectMeta {
                name: self.metadata.name,
                uid: self.metadata.uid,
                deletion_timestamp: self.metadata.deletion_timestamp,
                ..ObjectMeta::default()
            },
            spec: self.spec,
            status: KubeNodeStatus {
                addresses: Vec::new(),
                conditions,
            },
        }
    }

    /// The node as a resource of ours. Its podCIDRs are its subnets, which count only where the Fabric
    /// adopts them.
    ///
    /// # Errors
    ///
    /// What of it cannot be read, and what to write instead.
    pub(super) fn resource(&self) -> Result<api::Node, Vec<String>> {
        let mut mistakes = Vec::new();
        let spec = NodeSpec {
            addresses: self.addresses(&mut mistakes),
            asn: self.asn(&mut mistakes),
            router_id: self.annotation(ROUTER_ID_ANNOTATION, "an IPv4 address", &mut mistakes),
            subnets: self.subnets(&mut mistakes),
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(api::Node {
            metadata: Metadata {
                name: self.name().to_owned(),
                labels: self.metadata.labels.clone().unwrap_or_default(),
                ..Metadata::default()
            },
            spec,
        })
    }

    fn annotation<T: std::str::FromStr>(
        &self,
        name: &str,
        allowed: &str,
        mistakes: &mut Vec<String>,
    ) -> Option<T> {
        let text = self.metadata.annotations.as_ref()?.get(name)?.trim();
        let parsed = text.parse().ok();
        if parsed.is_none() {
            mistakes.push(format!(
                "annotation {name}: found `{text}`; allowed: {allowed}"
            ));
        }
        parsed
    }

    fn asn(&self, mistakes: &mut Vec<String>) -> Option<AsNumber> {
        let text = self.metadata.annotations.as_ref()?.get(ASN_ANNOTATION)?;
        let value: serde_json::Value = match text.trim().parse::<u64>() {
            Ok(number) => number.into(),
            Err(_) => text.trim().into(),
        };
        match serde_json::from_value(value) {
            Ok(asn) => Some(asn),
            Err(error) => {
                mistakes.push(format!("annotation {ASN_ANNOTATION}: {error}"));
                None
            }
        }
    }

    /// Those of the annotation, else every InternalIP.
    fn addresses(&self, mistakes: &mut Vec<String>) -> Vec<IpAddr> {
        let annotations = self.metadata.annotations.as_ref();
        let said = annotations.and_then(|all| all.get(ADDRESSES_ANNOTATION));
        let mut read = |text: &str, from: &str| {
            let address = text.parse().ok();
            if address.is_none() {
                mistakes.push(format!(
                    "{from}: found `{text}`; allowed: IP addresses, separated by commas"
                ));
            }
            address
        };
        match said {
            Some(said) => {
                let parts = said.split(',').map(str::trim).filter(|p| !p.is_empty());
                let from = format!("annotation {ADDRESSES_ANNOTATION}");
                parts.filter_map(|part| read(part, &from)).collect()
            }
            None => {
                let own = self.status.addresses.iter();
                let own = own.filter(|address| address.kind == "InternalIP");
                own.filter_map(|address| read(&address.address, "status.addresses"))
                    .collect()
            }
        }
    }

    fn subnets(&self, mistakes: &mut Vec<String>) -> Vec<Prefix> {
        let mut subnets = Vec::new();
        for text in &self.spec.pod_cidrs {
            match text.parse::<IpNetwork>() {
                Ok(network) => subnets.push(Prefix::from(network)),
                Err(_) => mistakes.push(format!("spec.podCIDRs: found `{text}`")),
            }
        }
        subnets
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(version: u32, heartbeat: &str, images: usize) -> KubeNode {
        let image = json!({"names": ["registry.example/a:1"], "sizeBytes": 1});
        let node = json!({
            "metadata": {
                "name": "n1",
                "uid": "u",
                "resourceVersion": version.to_string(),
                "labels": {"rack": "r1"},
                "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
                "managedFields": [{
                    "manager": "kubelet",
                    "operation": "Update",
                    "fieldsV1": {"f:status": {"f:conditions": {}}},
                    "time": heartbeat,
                }],
            },
            "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                ],
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": heartbeat},
                    {"type": "NetworkUnavailable", "status": "False", "reason": "Serving"},
                ],
                "images": vec![image; images],
            },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn what_is_kept_of_a_node_is_the_same_after_its_kubelet_has_said_that_all_is_well() {
        let before = node(7, "2026-11-21T12:00:00Z", 2);
        let after = node(8, "2026-11-21T12:05:00Z", 3);
        assert_ne!(before, after);
        assert_eq!(before.resource(), after.resource());
        assert_eq!(before.kept(), after.kept());
    }

    #[test]
    fn what_others_look_at_is_kept_of_a_node() {
        let kept = node(7, "2026-11-21T12:00:00Z", 2).kept();
        assert_eq!(kept.name(), "n1");
        assert_eq!(kept.metadata.uid.as_deref(), Some("u"));
        assert_eq!(kept.spec.pod_cidrs, ["10.0.0.0/24"]);
        let [condition] = kept.status.conditions.as_slice() else {
            panic!("{kept:?}");
        };
        assert_eq!(condition.kind, NETWORK_UNAVAILABLE);
    }
}

//! Fabric: what the CNI plugin gives to pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::values::Number;

/// What the CNI plugin gives to pods, and which plugins come after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodsSpec {
    /// MTU of the pods' interfaces. When not given, the smallest of the node's links towards its peers
    /// and the next hops of learned routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Number<u32, 1280, 65535>>,
    /// How long an address that a pod has given back is not used again.
    pub cooldown_seconds: Number<u32, 0, 86_400>,
    /// Plugins that the runtime runs after ours, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chained: Vec<ChainedPlugin>,
    /// What `tuning` sets in every pod, such as `net.core.somaxconn: "1024"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// A resolver on every node, by which containers find those of their networks by name. When not
    /// given, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<NamesSpec>,
}

/// The resolver for names of containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamesSpec {
    /// What names in full end in, behind the name of the network.
    pub domain: String,
    /// Who is asked for all other names, in this order; nobody when the list is empty. When not given,
    /// the resolvers of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Vec<IpAddr>>,
}

impl Default for NamesSpec {
    fn default() -> NamesSpec {
        NamesSpec {
            domain: "pods.internal".to_owned(),
            forward: None,
        }
    }
}

impl Default for PodsSpec {
    fn default() -> PodsSpec {
        PodsSpec {
            mtu: None,
            cooldown_seconds: Number::new(60).expect("a minute is less than a day"),
            chained: Vec::new(),
            sysctls: BTreeMap::new(),
            names: None,
        }
    }
}

impl PodsSpec {
    pub(crate) fn says_nothing(&self) -> bool {
        *self == PodsSpec::default()
    }
}

/// A plugin of the CNI project that works on the interface that ours has made, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum ChainedPlugin {
    /// Ports of the node that lead to a pod (`hostPort`).
    Portmap,
    /// Limits of what a pod sends and receives.
    Bandwidth,
    /// Sysctls and MAC address of the pod's interface.
    Tuning,
}

impl ChainedPlugin {
    /// As network configurations and binaries are called.
    pub fn name(self) -> &'static str {
        match self {
            ChainedPlugin::Portmap => "portmap",
            ChainedPlugin::Bandwidth => "bandwidth",
            ChainedPlugin::Tuning => "tuning",
        }
    }
}

//! Fabric: the cluster's BGP as a whole.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::Selector;
use crate::peer::BfdSpec;
use crate::pods::PodsSpec;
use crate::values::{AsNumber, AsnRange, Number, Port};

/// The cluster's BGP as a whole; there is exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FabricSpec {
    /// Where a node's AS number comes from, unless the node says its own.
    pub asn: AsnSource,
    /// Who peers with whom, besides what `Peer`s say.
    #[serde(default)]
    pub topology: Topology,
    /// Which nodes reflect routes; with the topology `Reflectors`, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflectors: Option<ReflectorsSpec>,
    /// Where speakers listen.
    #[serde(default = "bgp_port")]
    pub listen_port: Port,
    /// Timers of every session that does not say its own.
    #[serde(default)]
    pub timers: TimersSpec,
    /// Graceful restart of every session that does not say its own.
    #[serde(default)]
    pub graceful_restart: GracefulRestartSpec,
    /// BFD beside every session that does not say otherwise, also of a mesh; off when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// How the best route is chosen.
    #[serde(default)]
    pub decision: DecisionSpec,
    /// Where learned routes go on the nodes.
    #[serde(default)]
    pub kernel: KernelSpec,
    /// What the CNI plugin gives to pods.
    #[serde(default, skip_serializing_if = "PodsSpec::says_nothing")]
    pub pods: PodsSpec,
    /// Where the nodes' subnets come from.
    #[serde(default)]
    pub node_subnets: SubnetSource,
    /// How long a subnet stays reserved after its node is gone, in seconds.
    #[serde(default = "subnet_grace")]
    pub subnet_grace_seconds: Number<u32, 0, 31_536_000>,
}

/// Where a node's AS number comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AsnSource {
    /// All nodes have this one.
    Value(AsNumber),
    /// Nodes with an equal label have an equal number.
    PerRack(PerRack),
    /// Every node has its own, given out by the controller.
    PerNode(PerNode),
}

/// A number for each value of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PerRack {
    /// The node's label that names its rack.
    #[serde(default = "rack_label")]
    pub label: String,
    /// The number of each rack; racks that are not listed get one out of `range`. Without both the
    /// label holds the number itself.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub values: std::collections::BTreeMap<String, AsNumber>,
    /// Numbers the controller gives out to racks that are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<AsnRange>,
}

impl PerRack {
    /// Whether the label holds the number itself.
    pub fn is_in_label(&self) -> bool {
        self.values.is_empty() && self.range.is_none()
    }
}

/// A number for each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PerNode {
    /// Numbers the controller gives out.
    pub range: AsnRange,
}

/// Who peers with whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Topology {
    /// Nodes peer with their rack's routers, as the `Peer`s say; nothing is added.
    #[default]
    ToR,
    /// Every node peers with every other one too (iBGP).
    Mesh,
    /// Some nodes reflect the routes of all (iBGP), as `reflectors` says. RFC 4456.
    Reflectors,
}

/// Which nodes reflect routes. RFC 4456.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReflectorsSpec {
    /// Those that do; two or more, so that each can be away.
    pub node_selector: Selector,
    /// One cluster of all reflectors; when not given, each is a cluster of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Ipv4Addr>,
}

/// Where the nodes' subnets come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SubnetSource {
    /// The controller gives them out of the Pools.
    #[default]
    Assign,
    /// Somebody else has given them out: they are what the nodes say (`spec.subnets` of a Node in a file,
    /// `spec.podCIDRs` of a Kubernetes Node). Nothing is given out of the Pools.
    Adopt,
}

/// Timers of a session, in whole seconds; what is not given comes from the Fabric, and there from
/// the defaults 90, a third of the hold time, and 5. RFC 4271 §10.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimersSpec {
    /// The peer is taken for dead after this long without a word; 0 means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<HoldTime>,
    /// Time between two KEEPALIVE messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_seconds: Option<Number<u16, 1, 21845>>,
    /// Time between two attempts to connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_retry_seconds: Option<Number<u16, 1, 65535>>,
}

/// Graceful restart; what is not given comes from the Fabric, and there from the defaults: on, 120 s
/// and 360 s. RFC 4724, RFC 8538.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GracefulRestartSpec {
    /// Whether it is offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How long a speaker may take to come back: the other side keeps its routes for so long, and it
    /// waits for so long for the other side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_seconds: Option<Number<u16, 1, 4095>>,
    /// How long routes of another side that is back are kept if it does not repeat them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<Number<u16, 1, 65535>>,
    /// What follows the restart time.
    #[serde(default, skip_serializing_if = "LongLivedSpec::says_nothing")]
    pub long_lived: LongLivedSpec,
}

/// Long-lived graceful restart; what is not given comes from the Fabric, and there from the defaults:
/// off, but on where a time is given. RFC 9494.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LongLivedSpec {
    /// Whether it is offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How long the other side is to keep our routes, as the last choice, after the restart time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<Number<u32, 1, 16_777_215>>,
    /// How long we keep routes of the other side at most, whatever it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_seconds: Option<Number<u32, 1, 16_777_215>>,
    /// What other sides are told of routes so kept that do not know what that means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unaware_peers: Option<UnawarePeers>,
}

impl LongLivedSpec {
    fn says_nothing(&self) -> bool {
        *self == LongLivedSpec::default()
    }

    /// Whether it is offered, where that is said.
    pub fn says_on(&self) -> Option<bool> {
        self.enabled.or(self.stale_seconds.map(|_| true))
    }
}

/// What a peer is told of long-lived stale routes that does not know what they are. RFC 9494 §4.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum UnawarePeers {
    /// Nothing.
    #[default]
    Withhold,
    /// Internal peers: LOCAL_PREF 0 and NO_EXPORT; others: nothing.
    LastChoice,
}

/// A hold time in seconds: 0 (never expires) or 3 to 65535. RFC 4271 §4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct HoldTime(u16);

impl HoldTime {
    /// Whole seconds.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for HoldTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<HoldTime, D::Error> {
        let seconds: Number<u16, 0, 65535> = Deserialize::deserialize(deserializer)?;
        if matches!(seconds.get(), 1 | 2) {
            return Err(serde::de::Error::invalid_value(
                serde::de::Unexpected::Unsigned(seconds.get().into()),
                &"0 (the session never expires) or 3 to 65535 seconds",
            ));
        }
        Ok(HoldTime(seconds.get()))
    }
}

/// How the best route is chosen among several. RFC 4271 §9.1.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DecisionSpec {
    /// Compare MED between routes of different neighbour ASes too.
    pub always_compare_med: bool,
    /// Compare routes of one neighbour AS with one another first.
    pub deterministic_med: bool,
    /// Between eBGP routes let the lower BGP Identifier win; otherwise the older route stays.
    pub compare_router_id: bool,
    /// How many equal routes are used at once; 1 switches multipath off.
    pub max_paths: Number<u16, 1, 256>,
    /// Use equal routes of different neighbour ASes together.
    pub multipath_different_as: bool,
    /// Where packets have one next hop only, keep that of the second best route ready in the kernel.
    pub backup_paths: bool,
}

impl Default for DecisionSpec {
    fn default() -> DecisionSpec {
        DecisionSpec {
            always_compare_med: false,
            deterministic_med: true,
            compare_router_id: true,
            max_paths: Number::new(8).expect("8 is between 1 and 256"),
            multipath_different_as: true,
            backup_paths: false,
        }
    }
}

/// Where learned routes go on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KernelSpec {
    /// The routing table; 254 is `main`.
    pub table: Number<u32, 1, 4_294_967_295>,
    /// The number our routes carry (`proto` in `ip route`), by which we know them again.
    pub protocol: Number<u8, 5, 255>,
    /// Their metric.
    pub metric: Number<u32, 1, 4_294_967_295>,
    /// Whether learned routes are installed at all.
    pub install: bool,
}

impl Default for KernelSpec {
    fn default() -> KernelSpec {
        KernelSpec {
            table: Number::new(254).expect("254 is not 0"),
            protocol: Number::new(149).expect("149 is between 5 and 255"),
            metric: Number::new(512).expect("512 is not 0"),
            install: true,
        }
    }
}

fn bgp_port() -> Port {
    Number::new(179).expect("179 is a port")
}

fn subnet_grace() -> Number<u32, 0, 31_536_000> {
    Number::new(3600).expect("an hour is less than a year")
}

fn rack_label() -> String {
    "rack".into()
}

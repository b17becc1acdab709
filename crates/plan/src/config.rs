//! What one node's speaker is told: the whole of it, every time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bgp::config::KeySource;
use bgp::types::Prefix;
use serde::Serialize;

/// Everything one node's speaker does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The node's name.
    pub node: String,
    /// Grows with every change of content; 0 until the controller has numbered it.
    pub version: u64,
    /// The engine's part.
    pub bgp: bgp::config::Config,
    /// Where the speaker listens for BGP.
    pub listen_port: u16,
    /// The node's subnets, in the order of their prefixes.
    pub subnets: Vec<Subnet>,
    /// Where learned routes go.
    pub kernel: KernelConfig,
    /// What the CNI plugin gives to pods.
    pub pods: PodsConfig,
    /// BFD sessions, in the order of the peers they watch over.
    pub bfd: Vec<BfdSession>,
    /// Whose packets leave the cluster with the node's own address as their source; nobody's when
    /// absent.
    pub masquerade: Option<Masquerade>,
}

/// Whose packets leave the cluster with the node's own address as their source, and which do not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Masquerade {
    /// Pools that say so and of which the node has subnets, in the order of their names; at least
    /// one.
    pub pools: Vec<MasqueradedPool>,
    /// What knows the way back to every pod: all Pools, static subnets and addresses of nodes, in
    /// as few prefixes as possible and in their order; of the nodes only what some Pool does not
    /// exempt. The same for all nodes. The node's BGP peers
    /// are exempt too and not in here.
    #[serde(serialize_with = "list")]
    pub direct: Arc<[Prefix]>,
}

fn list<S: serde::Serializer>(prefixes: &Arc<[Prefix]>, to: S) -> Result<S::Ok, S::Error> {
    prefixes[..].serialize(to)
}

/// The part of [`Masquerade`] that one Pool says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MasqueradedPool {
    /// Its name.
    pub pool: String,
    /// The node's subnets of it.
    pub subnets: Vec<Prefix>,
    /// Towards these its pods keep their addresses.
    pub exempt: Vec<Prefix>,
}

/// A BFD session beside a peer's BGP session. RFC 5880.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BfdSession {
    /// The peer's name.
    pub peer: String,
    /// The other side.
    pub remote: IpAddr,
    /// Our side; the kernel chooses when absent.
    pub local: Option<IpAddr>,
    /// Several hops away (RFC 5883), else on the same link (RFC 5881).
    pub multihop: bool,
    /// Desired Min TX Interval, 10 to 60000.
    pub min_tx_millis: u16,
    /// Required Min RX Interval, 10 to 60000.
    pub min_rx_millis: u16,
    /// Detect Mult, at least 1.
    pub multiplier: u8,
    /// Held in AdminDown, because the BGP session is shut down.
    pub admin_down: bool,
    /// Absent: packets are not authenticated.
    pub authentication: Option<BfdAuthentication>,
    /// Echo packets this often, and the other side's are looped as often; never over several hops.
    pub echo_millis: Option<u16>,
}

/// With what BFD packets are authenticated. RFC 5880 §6.7.4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BfdAuthentication {
    /// Meticulous Keyed SHA1 rather than Keyed SHA1.
    pub meticulous: bool,
    /// The key's number.
    pub key_id: u8,
    /// Where the key is. The key itself is in no configuration.
    pub key: KeySource,
}

/// A subnet of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Subnet {
    /// The addresses.
    pub prefix: Prefix,
    /// The Pool it is out of; empty for a Node's static subnet.
    pub pool: String,
    /// What the addresses are for.
    pub purpose: Purpose,
    /// Parts of it that nobody is given.
    pub reserved: Vec<Prefix>,
    /// Addresses in use stay, and nobody is given another one: the Pools would not give the node this
    /// subnet any more.
    pub draining: bool,
}

impl Subnet {
    /// One that is given to pods whole.
    pub fn new(prefix: Prefix, pool: impl Into<String>, purpose: Purpose) -> Subnet {
        Subnet {
            prefix,
            pool: pool.into(),
            purpose,
            reserved: Vec::new(),
            draining: false,
        }
    }
}

/// What a subnet's addresses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Purpose {
    /// Containers on the node.
    Pods,
}

impl From<api::Purpose> for Purpose {
    fn from(purpose: api::Purpose) -> Purpose {
        match purpose {
            api::Purpose::Pods => Purpose::Pods,
        }
    }
}

/// What the CNI plugin gives to pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodsConfig {
    /// Of the pods' interfaces; absent: of the path.
    pub mtu: Option<u32>,
    /// How long an address is not used again.
    pub cooldown_seconds: u32,
    /// Plugins of these names come after ours.
    pub chained: Vec<String>,
    /// What `tuning` sets in every pod.
    pub sysctls: BTreeMap<String, String>,
    /// The resolver for names of containers; none when absent.
    pub names: Option<NamesConfig>,
}

/// What the resolver for names of containers answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamesConfig {
    /// What names in full end in: `pods.internal`.
    pub domain: String,
    /// Who is asked for other names; the host's resolvers when absent.
    pub forward: Option<Vec<IpAddr>>,
}

impl From<&api::PodsSpec> for PodsConfig {
    fn from(spec: &api::PodsSpec) -> PodsConfig {
        let chained = spec.chained.iter();
        PodsConfig {
            mtu: spec.mtu.map(|mtu| mtu.get()),
            cooldown_seconds: spec.cooldown_seconds.get(),
            chained: chained.map(|plugin| plugin.name().to_owned()).collect(),
            sysctls: spec.sysctls.clone(),
            names: spec.names.as_ref().map(|names| NamesConfig {
                domain: names.domain.clone(),
                forward: names.forward.clone(),
            }),
        }
    }
}

impl Default for PodsConfig {
    fn default() -> PodsConfig {
        PodsConfig::from(&api::PodsSpec::default())
    }
}

/// Where learned routes go on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KernelConfig {
    /// The routing table; 254 is `main`.
    pub table: u32,
    /// The protocol number our routes carry, by which we know them again.
    pub protocol: u8,
    /// Their metric.
    pub metric: u32,
    /// Whether learned routes are installed at all.
    pub install: bool,
}

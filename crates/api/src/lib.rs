//! The resources a user writes: Fabric, Pool, Peer, RoutePolicy, Advertisement, Node.
//!
//! One schema for YAML files and, later, Kubernetes custom resources: group `routeshare.io`, version
//! `v1alpha1`. [`parse`] reads them and gives either [`Resources`] that cannot be wrong or every
//! [`Mistake`] in all of them. In reading order:
//!
//! - [`resources`](Resources): all of them together, names, labels, selectors;
//! - one file per kind (and parts of them): `fabric`, `pool`, `node`, `peer`, `policy`, `advertisement`;
//! - `values`: numbers, ranges and communities that say what they allow;
//! - `parse`: files → resources;
//! - `mistake`: what is told to the user.

mod advertisement;
mod check;
mod decode;
mod fabric;
mod from_node;
mod hints;
mod limits;
mod mistake;
mod names;
mod node;
mod parse;
mod peer;
mod pods;
mod policy;
mod pool;
mod resources;
#[cfg(feature = "schema")]
mod schema;
mod tree;
mod values;

pub use advertisement::{AdvertisementSpec, NodeSubnets};
pub use fabric::{
    AsnSource, DecisionSpec, FabricSpec, GracefulRestartSpec, HoldTime, KernelSpec, LongLivedSpec,
    PerNode, PerRack, ReflectorsSpec, SubnetSource, TimersSpec, Topology, UnawarePeers,
};
pub use from_node::{FromNode, NoValue, NodeText};
pub use limits::{LimitActionSpec, MaxPrefixes, RestartSeconds};
pub use mistake::Mistake;
pub use node::NodeSpec;
pub use parse::{Parsed, SourceFile, parse, parse_objects, parse_without_kubernetes};
pub use peer::{
    BfdAuthKind, BfdAuthentication, BfdSpec, LocalAddress, NextHopSpec, PasswordSpec, PeerSpec,
    SecretKey, Shutdown, TcpAoAlgorithm, TcpAoKey, TcpAoSpec, TtlSecurity,
};
pub use pods::{ChainedPlugin, NamesSpec, PodsSpec};
pub use policy::{
    ActionSpec, LengthSpec, MatchSpec, OriginSpec, PrefixSpec, PrependSpec, RoutePolicySpec,
    RuleSpec, SetNextHop, SetSpec, SourceSpec,
};
pub use pool::{Encapsulation, NodeSubnetLength, PoolSpec, Purpose};
pub use resources::{
    Advertisement, Expression, Fabric, Metadata, Node, Operator, Peer, Pool, Resource, Resources,
    RoutePolicy, Selector,
};
pub use values::{AnyCommunity, AsNumber, AsnRange, Number, ParseError, Port};

/// What every document's `apiVersion` says.
pub const API_VERSION: &str = "routeshare.io/v1alpha1";

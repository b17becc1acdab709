//! The kinds, and how each is called.

use kube::core::ApiResource;

use crate::names::{GROUP, VERSION};

/// A kind of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The cluster's BGP as a whole.
    Fabric,
    /// Address space that nodes get subnets out of.
    Pool,
    /// A session template.
    Peer,
    /// Rules for routes received or sent.
    RoutePolicy,
    /// What is announced to whom.
    Advertisement,
    /// The subnets of a node.
    NodeSubnets,
    /// How a node fares.
    NodeStatus,
}

/// The kinds that users write.
pub const WRITTEN_BY_USERS: [Kind; 5] = [
    Kind::Fabric,
    Kind::Pool,
    Kind::Peer,
    Kind::RoutePolicy,
    Kind::Advertisement,
];

/// Every kind.
pub const KINDS: [Kind; 7] = [
    Kind::Fabric,
    Kind::Pool,
    Kind::Peer,
    Kind::RoutePolicy,
    Kind::Advertisement,
    Kind::NodeSubnets,
    Kind::NodeStatus,
];

impl Kind {
    /// As `kind:` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Fabric => "Fabric",
            Kind::Pool => "Pool",
            Kind::Peer => "Peer",
            Kind::RoutePolicy => "RoutePolicy",
            Kind::Advertisement => "Advertisement",
            Kind::NodeSubnets => "NodeSubnets",
            Kind::NodeStatus => "NodeStatus",
        }
    }

    /// As requests say it.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Fabric => "fabrics",
            Kind::Pool => "pools",
            Kind::Peer => "peers",
            Kind::RoutePolicy => "routepolicies",
            Kind::Advertisement => "advertisements",
            Kind::NodeSubnets => "nodesubnets",
            Kind::NodeStatus => "nodestatuses",
        }
    }

    /// As one of them is called on a command line.
    pub const fn singular(self) -> &'static str {
        match self {
            Kind::Fabric => "fabric",
            Kind::Pool => "pool",
            Kind::Peer => "peer",
            Kind::RoutePolicy => "routepolicy",
            Kind::Advertisement => "advertisement",
            Kind::NodeSubnets => "nodesubnet",
            Kind::NodeStatus => "nodestatus",
        }
    }

    /// Shorter names for a command line. All begin with `rs` or `bgp`, so that they are nobody else's.
    pub const fn short_names(self) -> &'static [&'static str] {
        match self {
            Kind::Fabric => &["bgpfabric"],
            Kind::Pool => &["rspool"],
            Kind::Peer => &["bgppeer"],
            Kind::RoutePolicy => &["bgppolicy"],
            Kind::Advertisement => &["bgpadv"],
            Kind::NodeSubnets => &["rssubnets"],
            Kind::NodeStatus => &["rsnodes"],
        }
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    /// What [`kube::Api::all_with`] wants to know.
    pub fn api_resource(self) -> ApiResource {
        ApiResource {
            group: GROUP.into(),
            version: VERSION.into(),
            api_version: api::API_VERSION.into(),
            kind: self.name().into(),
            plural: self.plural().into(),
        }
    }

    /// The name of its CustomResourceDefinition.
    pub fn definition(self) -> String {
        format!("{}.{GROUP}", self.plural())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

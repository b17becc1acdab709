//! The other side: BIRD, FRR and GoBGP as the ToR router of our node, with one set of words for all.

mod bird;
mod frr;
mod gobgp;

use std::path::Path;

use lab::Namespace;

pub(crate) use bird::BirdTor;
pub(crate) use frr::FrrTor;
pub(crate) use gobgp::GobgpTor;

/// A ToR with sessions to nodes.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    pub(crate) asn: u32,
    pub(crate) router_id: &'static str,
    /// The nodes' addresses and AS numbers.
    pub(crate) nodes: Vec<(&'static str, u32)>,
    /// IPv4 routes get IPv6 next hops (RFC 8950); for sessions over IPv6.
    pub(crate) extended_next_hop: bool,
}

impl Sessions {
    pub(crate) fn new(asn: u32, node: &'static str, node_asn: u32) -> Sessions {
        Sessions {
            asn,
            router_id: "10.1.0.1",
            nodes: vec![(node, node_asn)],
            extended_next_hop: false,
        }
    }
}

/// A route as a ToR has it. Communities are written as we write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) as_path: String,
    pub(crate) next_hop: String,
    pub(crate) communities: Vec<String>,
    pub(crate) large: Vec<String>,
    pub(crate) extended: Vec<String>,
}

/// What every ToR can be asked and told.
pub(crate) trait Tor {
    /// Starts it on a machine; its files lie in a directory.
    fn start(machine: &Namespace, directory: &Path, sessions: &Sessions) -> anyhow::Result<Self>
    where
        Self: Sized;

    /// The best route for a prefix; an error when there is none.
    fn route(&self, prefix: &str) -> anyhow::Result<Route>;

    /// Announces a prefix with the communities `65101:7`, `65101:7:7` and `rt:65101:7`.
    fn announce(&mut self, prefix: &str) -> anyhow::Result<()>;

    /// Withdraws what [`announce`](Tor::announce) announced.
    fn withdraw(&mut self, prefix: &str) -> anyhow::Result<()>;

    /// Ends the session with a node and opens it again (Cease, Administrative Reset).
    fn reset(&self, node: &str) -> anyhow::Result<()>;

    /// Asks a node for its routes once more (ROUTE-REFRESH).
    fn refresh(&self, node: &str) -> anyhow::Result<()>;

    /// Ends the session with a node for good, with a text for it (one word).
    fn shut_down(&self, node: &str, text: &str) -> anyhow::Result<()>;

    /// Lets the session come up again.
    fn enable(&self, node: &str) -> anyhow::Result<()>;

    /// What it has to say about the last end of the session with a node.
    fn last_words(&self, node: &str) -> anyhow::Result<String>;
}

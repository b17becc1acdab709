//! What the reconcile loop has to know of what stands elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipam::pool::{Ledger, State};
use ipnetwork::IpNetwork;
use tokio::sync::watch;

use super::wanted::Released;
use crate::source::kubernetes::Nodes;

/// What stands in Nodes and NodeSubnets.
#[derive(Clone)]
pub(crate) struct Feedback {
    nodes: watch::Receiver<Arc<Nodes>>,
    released: watch::Receiver<Arc<BTreeSet<Released>>>,
}

impl Feedback {
    pub(super) fn new(
        nodes: watch::Receiver<Arc<Nodes>>,
        released: watch::Receiver<Arc<BTreeSet<Released>>>,
    ) -> Feedback {
        Feedback { nodes, released }
    }

    /// Returns when a subnet stands nowhere any more; never without a cluster.
    pub(crate) async fn changed(feedback: Option<&mut Feedback>) {
        let changed = match feedback {
            Some(feedback) => feedback.released.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending().await
        }
    }

    /// The podCIDRs of Nodes, whoever wrote them.
    pub(crate) fn found(&self) -> Vec<(String, IpNetwork)> {
        let nodes = self.nodes.borrow();
        let found = nodes.iter().flat_map(|(name, node)| {
            let cidrs = node.spec.pod_cidrs.iter();
            cidrs.filter_map(|cidr| Some((name.clone(), whole(cidr.parse().ok()?))))
        });
        found.collect()
    }

    /// Subnets that wait and may still stand somewhere.
    pub(crate) fn shown(&self, ledger: &Ledger) -> BTreeSet<IpNetwork> {
        let released = self.released.borrow();
        let waiting = ledger.iter().filter(|(subnet, lease)| {
            let waits = matches!(lease.state, State::Waiting { .. });
            waits && !released.contains(&(*subnet, lease.node.clone(), lease.since))
        });
        waiting.map(|(subnet, _)| subnet).collect()
    }
}

/// Without the bits of a host, if somebody wrote any.
fn whole(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

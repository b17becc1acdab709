//! The subnets of one node, and which of them pods still get addresses out of.

use std::collections::BTreeMap;

use api::{Node, Pool};
use bgp::types::Prefix;

use crate::{Purpose, Snapshot, Subnet};

/// Those given out and the static ones, each once, in the order of their prefixes.
pub(crate) fn of(snapshot: &Snapshot, node: &Node, problems: &mut Vec<String>) -> Vec<Subnet> {
    let given = snapshot
        .subnets
        .get(&node.metadata.name)
        .into_iter()
        .flatten();
    let mut by_prefix: BTreeMap<Prefix, Subnet> = given
        .map(|subnet| {
            let pool = snapshot.resources.pools.get(&subnet.pool);
            (subnet.prefix, as_the_pool_says(subnet, pool, node))
        })
        .collect();
    for prefix in &node.spec.subnets {
        by_prefix
            .entry(*prefix)
            .or_insert_with(|| Subnet::new(*prefix, "", Purpose::Pods));
    }
    let subnets: Vec<Subnet> = by_prefix.into_values().collect();
    if !subnets.is_empty() && subnets.iter().all(|subnet| subnet.draining) {
        problems.push(format!(
            "no new pod gets an address: no Pool gives the node its subnets any more ({}); widen a Pool's \
             spec.nodeSelector or spec.prefixes, or move the pods to another node",
            crate::node::listed_names(subnets.iter().map(|subnet| subnet.prefix))
        ));
    }
    subnets
}

/// What was given stays the node's, but where its Pool would not give it today it drains.
fn as_the_pool_says(given: &Subnet, pool: Option<&Pool>, node: &Node) -> Subnet {
    let mut subnet = given.clone();
    let Some(pool) = pool.filter(|pool| pool.spec.node_selector.selects(&node.metadata)) else {
        subnet.draining = true;
        return subnet;
    };
    let has = |prefixes: &[Prefix]| prefixes.iter().any(|it| it.contains(given.prefix));
    subnet.draining = !has(&pool.spec.prefixes) || has(&pool.spec.reserved);
    let inside = |reserved: &&Prefix| given.prefix.contains(**reserved);
    subnet.reserved = (pool.spec.reserved.iter().filter(inside).copied()).collect();
    subnet
}

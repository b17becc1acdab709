//! How all nodes together fare with each object.

use std::collections::BTreeMap;

use api::Resources;
use crd::{Kind, NodeState};
use ipam::pool::Family;
use ipnetwork::IpNetwork;

use super::coverage::{Coverage, Does, Object};
use super::facts::NodeFacts;
use super::node_state::ESTABLISHED;

/// How the nodes that an object concerns fare. Names are in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally<'a> {
    /// How many it concerns.
    pub(crate) nodes: usize,
    /// Those that do not have it in force as it is.
    pub(crate) waiting: Vec<&'a str>,
    /// How many of these may have, but have not said so to this controller yet.
    pub(crate) unheard: usize,
    /// Of these, those that refuse to, and why.
    pub(crate) refusing: Vec<(&'a str, &'a str)>,
    /// Of all, those without a connection to the controller.
    pub(crate) away: Vec<&'a str>,
    /// Selected nodes that have nothing of it.
    pub(crate) not_planned: Vec<&'a str>,
    /// Sessions of a Peer, or between nodes.
    pub(crate) sessions: usize,
    /// Of these, those that are Established.
    pub(crate) established: usize,
    /// Nodes of those that are not, and should be.
    pub(crate) down: Vec<&'a str>,
    /// Nodes that have not said how their session is.
    pub(crate) unknown: Vec<&'a str>,
    /// Nodes whose key for the session cannot be used.
    pub(crate) no_key: Vec<&'a str>,
    /// Nodes whose session has more prefixes than allowed, or nearly.
    pub(crate) over_limit: Vec<&'a str>,
    /// Nodes on which no session carries an Advertisement.
    pub(crate) no_peers: Vec<&'a str>,
    /// Nodes that a Pool has no subnet for.
    pub(crate) without: Vec<&'a str>,
    /// Nodes that hold what a Pool no longer has.
    pub(crate) outside: Vec<&'a str>,
}

/// What tallies are made of.
pub(crate) struct Sources<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) facts: &'a BTreeMap<String, NodeFacts>,
    pub(crate) coverage: &'a Coverage,
    /// What the NodeStatus objects should say.
    pub(crate) states: &'a BTreeMap<String, NodeState>,
}

/// A tally for every object that concerns a node or should.
pub(crate) fn tallies<'a>(sources: &Sources<'a>) -> BTreeMap<Object, Tally<'a>> {
    let mut tallies: BTreeMap<Object, Tally<'a>> = BTreeMap::new();
    for (node, object, does) in sources.coverage.iter() {
        // By reference first: an object is new once, and has thousands of nodes.
        if !tallies.contains_key(object) {
            tallies.insert(object.clone(), Tally::default());
        }
        if let Some(tally) = tallies.get_mut(object) {
            covered(tally, node, does, sources.states.get(node));
        }
    }
    sessions(sources, &mut tallies);
    not_planned(sources, &mut tallies);
    pools(sources, &mut tallies);
    tallies
}

fn covered<'a>(tally: &mut Tally<'a>, node: &'a str, does: Does, state: Option<&'a NodeState>) {
    tally.nodes += 1;
    if does != Does::Yes {
        tally.waiting.push(node);
        tally.unheard += usize::from(does == Does::Unheard);
        if let Some(state) = state.filter(|state| !state.refused.is_empty()) {
            tally.refusing.push((node, &state.refused));
        }
    }
    if state.is_none_or(|state| state.connected_since.is_none()) {
        tally.away.push(node);
    }
}

/// What the speakers said of their sessions. Those that no Peer asked for are the Fabric's.
fn sessions<'a>(sources: &Sources<'a>, tallies: &mut BTreeMap<Object, Tally<'a>>) {
    let fabric = Object::new(Kind::Fabric, &sources.resources.fabric.metadata.name);
    let peers: BTreeMap<&str, Object> = sources
        .resources
        .peers
        .keys()
        .map(|name| (name.as_str(), Object::new(Kind::Peer, name)))
        .collect();
    for (node, facts) in sources.facts {
        let (Some(config), Some(state)) = (&facts.config, sources.states.get(node)) else {
            continue;
        };
        let told: BTreeMap<&str, &str> = state
            .sessions
            .iter()
            .map(|session| (session.peer.as_str(), session.state.as_str()))
            .collect();
        for peer in &config.peers {
            let object = peers.get(peer.name.as_str()).unwrap_or(&fabric);
            let Some(tally) = tallies.get_mut(object) else {
                continue;
            };
            tally.sessions += 1;
            match told.get(peer.name.as_str()) {
                Some(&ESTABLISHED) => tally.established += 1,
                _ if peer.shutdown.is_some() => {}
                Some(_) => once(&mut tally.down, node),
                None => once(&mut tally.unknown, node),
            }
        }
        for advertisement in config
            .advertisements
            .iter()
            .filter(|it| it.peers.is_empty())
        {
            let object = Object::new(Kind::Advertisement, &advertisement.name);
            if let Some(tally) = tallies.get_mut(&object) {
                tally.no_peers.push(node);
            }
        }
        for problem in state.problems.iter().filter(|it| !it.peer.is_empty()) {
            let Some(tally) = peers
                .get(problem.peer.as_str())
                .and_then(|it| tallies.get_mut(it))
            else {
                continue;
            };
            match problem.reason.as_str() {
                "NoKey" | "NoTcpAo" => once(&mut tally.no_key, node),
                "PrefixLimitExceeded" | "PrefixLimitNear" => once(&mut tally.over_limit, node),
                _ => {}
            }
        }
    }
}

/// Nodes that a Peer selects and that have no session of it, and those without any configuration.
fn not_planned<'a>(sources: &Sources<'a>, tallies: &mut BTreeMap<Object, Tally<'a>>) {
    let resources = sources.resources;
    let fabric = Object::new(Kind::Fabric, &resources.fabric.metadata.name);
    let with_problems = sources.facts.iter().filter(|(_, facts)| facts.exists);
    for (node, facts) in with_problems.filter(|(_, facts)| !facts.problems.is_empty()) {
        let Some(config) = &facts.config else {
            let tally = tallies.entry(fabric.clone()).or_default();
            tally.nodes += 1;
            tally.not_planned.push(node);
            tally.waiting.push(node);
            continue;
        };
        let Some(metadata) = resources.nodes.get(node).map(|node| &node.metadata) else {
            continue;
        };
        for peer in resources.peers.values() {
            let name = &peer.metadata.name;
            let has = config.peers.iter().any(|it| it.name == *name);
            if !has && peer.spec.node_selector.selects(metadata) {
                let tally = tallies.entry(Object::new(Kind::Peer, name)).or_default();
                tally.not_planned.push(node);
            }
        }
    }
}

fn pools<'a>(sources: &Sources<'a>, tallies: &mut BTreeMap<Object, Tally<'a>>) {
    for (node, facts) in sources.facts {
        for (pool, _) in facts.without.iter().filter(|_| facts.exists) {
            let tally = tallies.entry(Object::new(Kind::Pool, pool)).or_default();
            once(&mut tally.without, node);
        }
        for held in facts.subnets.iter().filter(|held| !held.pool.is_empty()) {
            let Some(pool) = sources.resources.pools.get(&held.pool) else {
                continue;
            };
            let prefixes = pool.spec.prefixes.iter();
            let mut prefixes = prefixes.map(|prefix| IpNetwork::from(*prefix));
            if !prefixes.any(|prefix| contains(prefix, held.subnet)) {
                let tally = tallies
                    .entry(Object::new(Kind::Pool, &held.pool))
                    .or_default();
                once(&mut tally.outside, node);
            }
        }
    }
}

fn contains(outer: IpNetwork, inner: IpNetwork) -> bool {
    Family::of(outer) == Family::of(inner)
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

/// Nodes come in order, so one that is there is the last.
fn once<'a>(nodes: &mut Vec<&'a str>, node: &'a str) {
    if nodes.last() != Some(&node) {
        nodes.push(node);
    }
}

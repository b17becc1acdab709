//! What must come of it all, computed anew and in the simplest way: no table is kept, no change is
//! followed, nothing is remembered. What it says of import, decision and export is RFC 4271 §9 read
//! once more; policies are functions here, not rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bgp::attributes::{Attributes, NextHop};
use bgp::config::{NextHopMode, Origin, Source};
use bgp::engine::NextHopState;
use bgp::types::{Asn, Family, Prefix};

use super::menu::{self, ADDED, MARK, NO_ADVERTISE, NO_EXPORT, OUR_ASN, OUR_ID, PEERS, Wanted};

/// What is known of the world.
pub(super) struct Facts<'a> {
    pub(super) wanted: &'a Wanted,
    /// What the peers of Established sessions have said last.
    pub(super) said: &'a [Option<BTreeMap<Prefix, Attributes>>],
    pub(super) hops: &'a dyn Fn(IpAddr) -> Option<NextHopState>,
}

/// A route that could be used.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// `None`: ourselves.
    pub(super) peer: Option<usize>,
    pub(super) attributes: Attributes,
    metric: u32,
}

impl Route {
    fn source(&self) -> Source {
        match self.peer {
            None => Source::Local,
            Some(peer) if menu::is_external(peer) => Source::Ebgp,
            Some(_) => Source::Ibgp,
        }
    }
}

impl Facts<'_> {
    /// Whether a peer is our reflector client. RFC 4456.
    fn is_client(&self, peer: usize) -> bool {
        let wanted = &self.wanted.peers[peer];
        wanted.configured && wanted.client && !menu::is_external(peer)
    }

    /// The cluster we are of, while we have clients.
    fn cluster(&self) -> Option<Ipv4Addr> {
        let id = match self.wanted.cluster {
            true => menu::OTHER_CLUSTER.into(),
            false => OUR_ID.0,
        };
        (0..PEERS).any(|peer| self.is_client(peer)).then_some(id)
    }

    /// All prefixes that anybody has.
    pub(super) fn prefixes(&self) -> BTreeSet<Prefix> {
        let said = self.said.iter().flatten().flat_map(BTreeMap::keys).copied();
        said.chain(menu::originated(self.wanted.originate))
            .collect()
    }

    /// What a peer's routes are after import, where they are let in at all.
    pub(super) fn accepted(&self, peer: usize, prefix: Prefix) -> Option<Attributes> {
        let received = self.said[peer].as_ref()?.get(&prefix)?;
        let own = received.as_path.asns.iter().filter(|asn| **asn == OUR_ASN);
        if own.count() > usize::from(self.wanted.peers[peer].allow_own_as)
            || received.originator_id == Some(OUR_ID)
            || (self.cluster()).is_some_and(|id| received.cluster_list.contains(&id))
            || menu::is_martian(prefix)
            || (self.wanted.own_subnet && menu::own_subnet().contains(prefix))
        {
            return None;
        }
        let next_hop = received.next_hop?.address;
        let nonsense = ["192.0.2.1", "169.254.1.1", "2001:db8::1", "fe80::1"];
        if nonsense.contains(&next_hop.to_string().as_str()) {
            return None;
        }
        let mut attributes = received.clone();
        let marked = received.communities.contains(&MARK);
        match self.wanted.peers[peer].import {
            0 if menu::is_external(peer) => return None,
            2 if prefix.to_string().starts_with("10.") && prefix.length() == 24 => return None,
            3 if marked => attributes.local_pref = Some(300),
            4 => {
                attributes.communities.push(ADDED);
                attributes.med = Some(5);
            }
            5 if prefix.family() == Family::Ipv4 => {
                attributes.next_hop = Some(NextHop::from(IpAddr::from([10, 9, 9, 2])));
            }
            5 if marked => return None,
            _ => {}
        }
        attributes.canonicalize();
        Some(attributes)
    }

    /// The routes to a prefix that packets could take.
    fn usable(&self, prefix: Prefix) -> Vec<Route> {
        let mut routes = Vec::new();
        if menu::originated(self.wanted.originate).any(|ours| ours == prefix) {
            routes.push(Route {
                peer: None,
                attributes: Attributes::default(),
                metric: 0,
            });
        }
        for peer in 0..PEERS {
            let Some(attributes) = self.accepted(peer, prefix) else {
                continue;
            };
            let next_hop = attributes.next_hop.expect("checked").address;
            let Some(state) = (self.hops)(next_hop) else {
                continue;
            };
            let connected = state.via.is_none_or(|via| via == next_hop);
            let received = &self.said[peer].as_ref().expect("checked")[&prefix];
            let as_received = received.next_hop == attributes.next_hop;
            if menu::is_external(peer) && as_received && !connected {
                continue;
            }
            routes.push(Route {
                peer: Some(peer),
                attributes,
                metric: state.metric,
            });
        }
        routes
    }

    /// The best route of a prefix first, then those that are used with it. `several`: any of them
    /// may be the best one, because the rules ask which was there first.
    pub(super) fn chosen(&self, prefix: Prefix) -> (Vec<Route>, bool) {
        let mut left = self.usable(prefix);
        keep_least(&mut left, |r| r.source() != Source::Local);
        keep_least(&mut left, |r| {
            u32::MAX - r.attributes.local_pref.unwrap_or(100)
        });
        keep_least(&mut left, |r| r.attributes.as_path.asns.len());
        keep_least(&mut left, |r| r.attributes.origin);
        let med = |r: &Route| r.attributes.med.unwrap_or(0);
        let neighbor = |r: &Route| r.attributes.as_path.asns.first().copied();
        if self.wanted.rules == 1 {
            keep_least(&mut left, med);
        } else {
            let all = left.clone();
            left.retain(|r| {
                let mut same_as = all.iter().filter(|other| neighbor(other) == neighbor(r));
                same_as.all(|other| med(r) <= med(other))
            });
        }
        keep_least(&mut left, |r| r.source() != Source::Ebgp);
        keep_least(&mut left, |r| r.metric);
        // From here on packets do not care.
        left.sort_by_key(|r| {
            let peer = r.peer.unwrap_or_default();
            let id = r.attributes.originator_id.unwrap_or(menu::router_id(peer));
            (
                u32::from(id.0),
                r.attributes.cluster_list.len(),
                menu::address(peer),
            )
        });
        if self.wanted.rules == 4 && left.len() > 1 && left[0].source() == Source::Ebgp {
            return (left, true);
        }
        let (most, different_as) = match self.wanted.rules {
            2 => (1, true),
            3 => (2, false),
            _ => (8, true),
        };
        if let Some(best) = left.first().cloned() {
            left.retain(|r| different_as || neighbor(r) == neighbor(&best));
        }
        left.truncate(most);
        (left, false)
    }

    /// What a peer is to know of a prefix whose best route is `best`.
    pub(super) fn told(&self, peer: usize, prefix: Prefix, best: &Route) -> Option<Attributes> {
        let wanted = &self.wanted.peers[peer];
        let external = menu::is_external(peer);
        let source = best.source();
        let communities = &best.attributes.communities;
        let between_internal = source == Source::Ibgp && !external;
        let by_client = best.peer.is_some_and(|from| self.is_client(from));
        if best.peer == Some(peer)
            || (between_internal && !by_client && !self.is_client(peer))
            || communities.contains(&NO_ADVERTISE)
            || (external && communities.contains(&NO_EXPORT))
            || (external && wanted.export == 0)
        {
            return None;
        }
        let mut route = best.attributes.clone();
        if source == Source::Local {
            if self.wanted.heard_by & 1 << peer == 0 {
                return None;
            }
            route.med = Some(3);
        } else if external {
            route.med = None;
            route.extended_communities.retain(|c| c.0[0] & 0x40 == 0);
        }
        let ours = match wanted.next_hop {
            NextHopMode::Self_ => !between_internal,
            NextHopMode::Auto => external || source == Source::Local,
            NextHopMode::Unchanged => source == Source::Local,
        };
        if ours {
            route.next_hop = None;
        }
        match wanted.export {
            2 if route.as_path.asns.first() == Some(&Asn(65002)) => return None,
            3 => {
                route.as_path.asns.splice(0..0, [OUR_ASN; 2]);
                route.med = Some(7);
                route.communities.retain(|c| *c != MARK);
            }
            4 => route.next_hop = None,
            5 if source == Source::Ibgp => return None,
            5 if route.as_path.asns.len() <= 1 => {
                route.communities.push(ADDED);
                route.origin = Origin::Incomplete;
            }
            5 if best.peer != Some(0) => return None,
            _ => {}
        }
        route.canonicalize();
        let own = match prefix.family() {
            Family::Ipv4 => menu::OUR_ADDRESS,
            Family::Ipv6 => menu::OUR_ADDRESS6,
        };
        route.next_hop = Some(route.next_hop.unwrap_or(NextHop::from(own)));
        if external {
            route.as_path.asns.insert(0, OUR_ASN);
            route.local_pref = None;
            route.originator_id = None;
            route.cluster_list.clear();
        } else {
            route.local_pref = Some(route.local_pref.unwrap_or(100));
        }
        if between_internal {
            let originator = menu::router_id(best.peer.expect("an internal peer's"));
            route.originator_id.get_or_insert(originator);
            route.cluster_list.splice(0..0, self.cluster());
        }
        Some(route)
    }
}

fn keep_least<T: Ord>(routes: &mut Vec<Route>, by: impl Fn(&Route) -> T) {
    if let Some(least) = routes.iter().map(&by).min() {
        routes.retain(|route| by(route) == least);
    }
}

//! How each BGP next hop is reached: the kernel's answer, judged, and followed as it changes.
//!
//! Pure: the driver of `fib` asks the kernel and hands the answers over.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::engine::NextHopState;
use kernel::{Link, Path, RouteKind};

/// All next hops that somebody wants to know about.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    hops: BTreeMap<IpAddr, Hop>,
    links: BTreeMap<u32, Link>,
}

#[derive(Debug, Default)]
struct Hop {
    /// The engine wants to hear of it.
    told: bool,
    /// Nexthop groups that hold it.
    groups: u32,
    /// `None`: not looked up yet.
    state: Option<Option<Resolution>>,
}

/// How a next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// Of the route used; 0 for a connected one.
    metric: u32,
    /// Every way there whose link is up, sorted; at least one. The gateway is always given: on a
    /// connected network it is the next hop itself.
    pub(crate) paths: Vec<Path>,
    /// Of the first path; `None` when the next hop is on a connected network.
    via: Option<IpAddr>,
    /// Of the first path.
    interface: String,
}

impl Resolution {
    fn state(&self) -> NextHopState {
        NextHopState {
            metric: self.metric,
            via: self.via,
            interface: self.interface.clone(),
        }
    }
}

/// The route that would be taken to a next hop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) kind: RouteKind,
    pub(crate) metric: u32,
    pub(crate) paths: &'a [Path],
}

impl NextHops {
    pub(crate) fn set_links(&mut self, links: Vec<Link>) {
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
    }

    /// True when something about the link that concerns us changed.
    pub(crate) fn set_link(&mut self, link: Link) -> bool {
        self.links.insert(link.index, link.clone()).as_ref() != Some(&link)
    }

    pub(crate) fn remove_link(&mut self, link: &Link) {
        self.links.remove(&link.index);
    }

    pub(crate) fn link_name(&self, index: u32) -> &str {
        self.links
            .get(&index)
            .map_or("(gone)", |link| link.name.as_str())
    }

    /// The engine wants to hear of `address`. Gives the state when it is known already.
    pub(crate) fn track(&mut self, address: IpAddr) -> Option<Option<NextHopState>> {
        let hop = self.hops.entry(address).or_default();
        hop.told = true;
        let state = hop.state.as_ref()?;
        Some(state.as_ref().map(Resolution::state))
    }

    pub(crate) fn untrack(&mut self, address: IpAddr) {
        if let Some(hop) = self.hops.get_mut(&address) {
            hop.told = false;
        }
        self.forget_unused(address);
    }

    /// A nexthop group with `address` comes into use. True when the address must be looked up.
    pub(crate) fn hold(&mut self, address: IpAddr) -> bool {
        let hop = self.hops.entry(address).or_default();
        hop.groups += 1;
        hop.state.is_none()
    }

    /// Ends one [`NextHops::hold`].
    pub(crate) fn release(&mut self, address: IpAddr) {
        if let Some(hop) = self.hops.get_mut(&address) {
            hop.groups = hop.groups.saturating_sub(1);
        }
        self.forget_unused(address);
    }

    fn forget_unused(&mut self, address: IpAddr) {
        if self
            .hops
            .get(&address)
            .is_some_and(|hop| !hop.told && hop.groups == 0)
        {
            self.hops.remove(&address);
        }
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.hops.keys().copied().collect()
    }

    /// Ways to reach `address` now; none when it is not known to be reachable.
    pub(crate) fn paths(&self, address: IpAddr) -> &[Path] {
        match self.hops.get(&address).map(|hop| &hop.state) {
            Some(Some(Some(resolution))) => &resolution.paths,
            _ => &[],
        }
    }

    /// Whether any of them is reached by this gateway.
    pub(crate) fn has_gateway(&self, interface: u32, gateway: IpAddr) -> bool {
        let by = |path: &Path| (path.interface, path.gateway) == (interface, Some(gateway));
        let resolutions = self.hops.values().filter_map(|hop| hop.state.as_ref());
        let mut known = resolutions.flatten();
        known.any(|resolution| resolution.paths.iter().any(by))
    }

    /// The smallest MTU of the links by which any of them is reached; `None` when none is.
    pub(crate) fn mtu(&self) -> Option<u32> {
        let resolutions = self.hops.values().filter_map(|hop| hop.state.as_ref());
        let paths = resolutions.flatten().flat_map(|known| &known.paths);
        let links = paths.filter_map(|path| self.links.get(&path.interface));
        links.map(|link| link.mtu).min()
    }

    /// Takes in how the kernel would reach `address`. Says whether anything changed, and what the
    /// engine must be told.
    pub(crate) fn resolve(
        &mut self,
        address: IpAddr,
        way: Option<Way<'_>>,
    ) -> (bool, Option<Option<NextHopState>>) {
        let new = way.and_then(|way| judge(address, way, &self.links));
        let Some(hop) = self.hops.get_mut(&address) else {
            return (false, None);
        };
        let state = |resolution: &Option<Resolution>| resolution.as_ref().map(Resolution::state);
        let known = hop.state.as_ref().map(state);
        let changed = hop.state.as_ref() != Some(&new);
        let now = state(&new);
        hop.state = Some(new);
        let tell = hop.told && known.as_ref() != Some(&now);
        (changed, tell.then_some(now))
    }
}

/// What a route makes of a next hop: nothing when it does not lead off this host by a link that is
/// up.
fn judge(address: IpAddr, way: Way<'_>, links: &BTreeMap<u32, Link>) -> Option<Resolution> {
    if way.kind != RouteKind::Unicast {
        return None; // an address of our own, or one that is refused
    }
    let up = |path: &&Path| links.get(&path.interface).is_some_and(|link| link.up);
    let mut usable: Vec<Path> = way.paths.iter().filter(up).copied().collect();
    usable.sort_unstable();
    usable.dedup();
    let first = usable.first()?;
    let interface = links.get(&first.interface)?.name.clone();
    let via = first.gateway;
    for path in &mut usable {
        path.gateway = path.gateway.or(Some(address));
    }
    Some(Resolution {
        metric: way.metric,
        via,
        interface,
        paths: usable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn link(index: u32, up: bool) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            up,
            mtu: 1500 + 100 * index,
        }
    }

    fn path(gateway: Option<&str>, interface: u32) -> Path {
        Path {
            gateway: gateway.map(|text| text.parse().unwrap()),
            interface,
            on_link: false,
        }
    }

    fn unicast(paths: &[Path]) -> Option<Way<'_>> {
        Some(Way {
            kind: RouteKind::Unicast,
            metric: 20,
            paths,
        })
    }

    fn tracker() -> NextHops {
        let mut hops = NextHops::default();
        hops.set_links(vec![link(1, true), link(2, false), link(3, true)]);
        assert_eq!(hops.track(HOP), None);
        hops
    }

    #[test]
    fn a_connected_next_hop_is_its_own_gateway() {
        let mut hops = tracker();
        let (changed, told) = hops.resolve(HOP, unicast(&[path(None, 1)]));
        assert!(changed);
        let state = told.flatten().unwrap();
        assert_eq!((state.via, state.interface.as_str()), (None, "eth1"));
        assert_eq!(hops.paths(HOP), [path(Some("192.0.2.7"), 1)]);
    }

    #[test]
    fn a_recursive_next_hop_takes_every_gateway_whose_link_is_up() {
        let mut hops = tracker();
        let paths = [
            path(Some("198.51.100.9"), 3),
            path(Some("203.0.113.1"), 2),
            path(Some("198.51.100.1"), 1),
        ];
        let (_, told) = hops.resolve(HOP, unicast(&paths));
        assert_eq!(told.flatten().unwrap().via, paths[2].gateway);
        assert_eq!(hops.paths(HOP), [paths[2], paths[0]]);
    }

    #[test]
    fn a_next_hop_of_our_own_or_behind_a_dead_link_is_not_reachable() {
        let mut hops = tracker();
        let local = Way {
            kind: RouteKind::Local,
            metric: 0,
            paths: &[path(None, 1)],
        };
        assert_eq!(hops.resolve(HOP, Some(local)), (true, Some(None)));
        assert_eq!(hops.resolve(HOP, unicast(&[path(None, 2)])), (false, None));
        assert_eq!(hops.resolve(HOP, None), (false, None));
        assert!(hops.paths(HOP).is_empty());
    }

    #[test]
    fn the_mtu_is_that_of_the_narrowest_link_in_use() {
        let mut hops = tracker();
        let other: IpAddr = "192.0.2.8".parse().unwrap();
        assert_eq!(hops.mtu(), None);
        hops.resolve(HOP, unicast(&[path(None, 3), path(None, 2)]));
        assert_eq!(hops.mtu(), Some(1800), "eth2 is down");
        assert!(hops.hold(other));
        hops.resolve(other, unicast(&[path(None, 1)]));
        assert_eq!(hops.mtu(), Some(1600));
        hops.release(other);
        assert_eq!(hops.mtu(), Some(1800));
        assert!(hops.set_link(Link {
            mtu: 1450,
            ..link(3, true)
        }));
        assert_eq!(hops.mtu(), Some(1450));
    }

    #[test]
    fn the_engine_is_told_only_of_what_it_tracks_and_only_of_changes() {
        let mut hops = tracker();
        let way = [path(None, 1)];
        assert!(hops.resolve(HOP, unicast(&way)).1.is_some());
        assert_eq!(hops.resolve(HOP, unicast(&way)), (false, None));
        assert!(hops.track(HOP).is_some(), "known already");
        assert!(!hops.hold(HOP), "no need to look it up again");
        hops.untrack(HOP);
        assert_eq!(hops.resolve(HOP, None), (true, None));
        hops.release(HOP);
        assert!(hops.addresses().is_empty());
    }
}

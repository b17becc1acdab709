//! Is a container attached as `add` left it?

use std::net::IpAddr;

use cni::spec::{Error, Interface};
use kernel::link::{self, By, LinkDetails};
use kernel::lookup::lookup;
use kernel::{Mac, Netlink, NetlinkError, RouteKind, list};

use super::super::steps::{BEHIND, MAIN, STATIC};
use super::super::{Attached, loopback, routers, sources};
use super::{gateway, host_route};
use crate::answer::unheard;
use crate::mark::{HOST_MAC, host_name};

/// What differs, in words for people.
pub(in super::super) fn check(attached: &mut Attached<'_>) -> Result<Vec<String>, Error> {
    let mut checking = Checking {
        differs: Vec::new(),
        addresses: attached.lease.addresses.iter().map(|a| a.ip()).collect(),
    };
    let heard = checking.all(attached).map_err(|error| unheard(&error))?;
    checking.differs.extend(heard);
    checking
        .differs
        .extend(loopback::check(attached.container)?);
    checking.sysctls(attached)?;
    Ok(checking.differs)
}

struct Checking {
    differs: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Checking {
    fn says(&mut self, right: bool, otherwise: impl FnOnce() -> String) {
        if !right {
            self.differs.push(otherwise());
        }
    }

    /// What keeps from looking further, if anything does.
    fn all(&mut self, attached: &mut Attached<'_>) -> Result<Option<String>, NetlinkError> {
        let environment = &attached.request.environment;
        let name = host_name(&environment.container, &environment.ifname);
        let ifname = environment.ifname.as_str();
        let Some(host) = link::find(attached.host, By::Name(&name))? else {
            return Ok(Some(format!("the host has no interface {name}")));
        };
        let Some(container) = link::find(attached.container, By::Name(ifname))? else {
            return Ok(Some(format!("the container has no interface {ifname}")));
        };
        let mark = attached.mark.to_string();
        for (link, where_) in [(&host, "the host's"), (&container, "the container's")] {
            let here = format!("{where_} {}", link.name);
            self.says(link.kind.as_deref() == Some("veth"), || {
                format!("{here} is no veth")
            });
            self.says(link.up, || format!("{here} is switched off"));
            self.says(link.alias == mark, || {
                format!("{here} bears the note {:?} instead of {mark:?}", link.alias)
            });
            let told = attached
                .result
                .interfaces
                .iter()
                .find(|told| told.name == link.name);
            self.as_told(&here, link, told);
        }
        self.says(host.parent == Some(container.index), || {
            format!("{name} and the container's {ifname} are no pair")
        });
        self.host(attached.host, &host, container.mac)?;
        self.container(attached, &container)?;
        Ok(None)
    }

    /// MAC address and MTU as the result of ADD says.
    fn as_told(&mut self, here: &str, link: &LinkDetails, told: Option<&Interface>) {
        let Some(told) = told else {
            self.differs.push(format!("{here} is not in prevResult"));
            return;
        };
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        self.says(
            told.mac.is_empty() || told.mac.eq_ignore_ascii_case(&mac),
            || format!("{here} has the MAC address {mac} instead of {}", told.mac),
        );
        let mtu = told.mtu.unwrap_or(link.mtu);
        self.says(mtu == link.mtu, || {
            format!("{here} has MTU {} instead of {mtu}", link.mtu)
        });
    }

    fn host(
        &mut self,
        host: &mut Netlink,
        link: &LinkDetails,
        container: Option<Mac>,
    ) -> Result<(), NetlinkError> {
        let routes = lookup(host, &self.addresses)?;
        let neighbours = list::neighbours(host, link.index)?;
        for (address, route) in self.addresses.clone().into_iter().zip(routes) {
            let found = route.filter(|route| route.destination == host_route(address));
            let right = found.as_ref().is_some_and(|route| {
                route.kind == RouteKind::Unicast
                    && route.paths.iter().all(|path| path.interface == link.index)
                    && !route.paths.is_empty()
            });
            let ours = found.is_some_and(|route| route.owner.protocol == cni::ROUTE_PROTOCOL);
            let name = &link.name;
            self.says(right, || {
                format!("the host has no route to {address} out of {name}")
            });
            self.says(!right || ours, || {
                format!(
                    "the host's route to {address} is not of protocol {}",
                    cni::ROUTE_PROTOCOL
                )
            });
            let known = neighbours
                .iter()
                .any(|n| n.address == address && n.permanent && n.mac == container);
            self.says(known, || {
                format!("the host has no permanent neighbour {address} with the container's MAC address on {name}")
            });
        }
        Ok(())
    }

    fn container(
        &mut self,
        attached: &mut Attached<'_>,
        link: &LinkDetails,
    ) -> Result<(), NetlinkError> {
        let there = list::addresses(attached.container, link.index)?;
        let neighbours = list::neighbours(attached.container, link.index)?;
        let name = &link.name;
        for address in self.addresses.clone() {
            let length = host_route(address).length;
            let found = there
                .iter()
                .find(|a| a.address == address && a.length == length);
            self.says(found.is_some(), || {
                format!("the container's {name} does not have {address}/{length}")
            });
            self.says(found.is_none_or(|address| !address.unusable), || {
                format!("{address} is tentative or duplicate on the container's {name}")
            });
            let gateway = gateway(address);
            let known = neighbours
                .iter()
                .any(|n| n.address == gateway && n.permanent && n.mac == Some(HOST_MAC));
            self.says(known, || {
                format!(
                    "the container has no permanent neighbour {gateway} with {HOST_MAC} on {name}"
                )
            });
        }
        let behind = |route: &cni::spec::Route| route.priority > Some(BEHIND);
        if attached.result.routes.iter().any(behind) {
            let (interface, addresses) = (link.index, &self.addresses);
            let differs = sources::check(attached.container, interface, addresses)?;
            self.differs.extend(differs);
        }
        let routes = list::routes(attached.container, MAIN, |route| {
            route.paths.iter().any(|path| path.interface == link.index)
        })?;
        let wanted = attached
            .result
            .routes
            .iter()
            .filter(|route| route.gw.is_some_and(|gw| gw == gateway(gw)));
        for route in wanted {
            let (dst, gw) = (route.dst, route.gw);
            let found = routes.iter().any(|found| {
                found.destination.address == dst.network()
                    && found.destination.length == dst.prefix()
                    && found.owner.protocol == STATIC
                    && found.paths.iter().any(|path| path.gateway == gw)
            });
            self.says(found, || {
                let gw = gw.map(|gw| gw.to_string()).unwrap_or_default();
                format!("the container has no route to {dst} via {gw} out of {name}")
            });
        }
        Ok(())
    }

    /// The host forwards, in both directions, and the container has IPv6 if it has such an address.
    fn sysctls(&mut self, attached: &Attached<'_>) -> Result<(), Error> {
        let environment = &attached.request.environment;
        let name = host_name(&environment.container, &environment.ifname);
        let read = |path: String| {
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        self.differs.extend(routers::check(&name));
        if self.addresses.iter().any(IpAddr::is_ipv4) {
            for of in ["all", &name] {
                let path = format!("/proc/sys/net/ipv4/conf/{of}/forwarding");
                let right = read(path.clone()).as_deref() == Some("1");
                self.says(right, || format!("{path} of the host is not 1"));
            }
        }
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            let path = "/proc/sys/net/ipv6/conf/all/forwarding".to_owned();
            let right = read(path.clone()).as_deref() == Some("1");
            self.says(right, || format!("{path} of the host is not 1"));
            let path = format!(
                "/proc/sys/net/ipv6/conf/{}/disable_ipv6",
                environment.ifname
            );
            let value = attached.netns.inside(|| read(path.clone()))?;
            self.says(value.as_deref() != Some("1"), || {
                format!("{path} of the container is 1")
            });
        }
        Ok(())
    }
}

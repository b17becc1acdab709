//! The container's half of the modes whose links have others on them, too: addresses with the length of their
//! subnet, routes, and packets that tell the others who is there now.

use std::fs;
use std::io;
use std::net::IpAddr;

use cni::ipam::Addressing;
use cni::leases::Lease;
use cni::spec::{Address, Code, Error, Interface, Route};
use ipnetwork::IpNetwork;
use kernel::link::{self, By, LinkDetails};
use kernel::route::Owner;
use kernel::{Destination, LinkChange, NetlinkError, Path, list};

use super::sources::{self, Way};
use super::steps::{BEHIND, MAIN, STATIC, Steps};
use super::{Attached, Attachment, loopback};
use crate::answer::{refused, unheard};
use crate::netns::Netns;

/// What the container's interface is to have.
pub(super) struct OnLink {
    /// With the length of their subnet, or alone.
    pub(super) addresses: Vec<IpNetwork>,
    /// Destination and next hop; without one, the destination is on the link.
    routes: Vec<(IpNetwork, Option<IpAddr>)>,
    /// Its neighbours are found, and find it, with ARP and neighbour discovery.
    resolves: bool,
}

impl OnLink {
    /// `resolves`: neighbours on the link ask for MAC addresses. Otherwise each address stands alone.
    pub(super) fn of(lease: &Lease, addressing: &Addressing, resolves: bool) -> OnLink {
        let alone = |address: &IpNetwork| IpNetwork::from(address.ip());
        let addresses = lease.addresses.iter();
        let addresses: Vec<IpNetwork> = match resolves {
            true => addresses.copied().collect(),
            false => addresses.map(alone).collect(),
        };
        let alone: Vec<IpAddr> = addresses.iter().map(|it| it.ip()).collect();
        OnLink {
            routes: addressing.routes_of(&alone),
            addresses,
            resolves,
        }
    }

    /// Sets up the interface of this number in the container, which is off and has nothing; it is on then.
    /// The routes that there are then.
    pub(super) fn set_up(
        &self,
        attachment: &mut Attachment<'_>,
        interface: u32,
    ) -> Result<Vec<Route>, Error> {
        let ifname = attachment.request.environment.ifname.as_str();
        let path = attachment.netns.path().display();
        attachment.netns.inside(|| self.set(ifname))??;
        let alias = attachment.mark.to_string();
        let on = |alias| LinkChange {
            up: Some(true),
            alias,
            ..LinkChange::default()
        };
        let mut steps = Steps::default();
        // Addresses first: the others are told of those that are there when it is switched on.
        for address in &self.addresses {
            steps.add(format!("add the address {address}"), |requests| {
                requests.add_address(interface, address.ip(), address.prefix());
            });
        }
        steps.add("switch it on", |requests| {
            requests.set_link(By::Index(interface), &on(Some(&alias)));
        });
        steps.add("switch on lo", |requests| {
            requests.set_link(By::Index(loopback::INDEX), &on(None));
        });
        let before = steps.len();
        for route in &self.routes {
            add_route(&mut steps, *route, interface, 0);
        }
        let failed = steps.carry_out(attachment.container)?;
        // Another network of the container has such a route: ours stands behind it.
        let (taken, others): (Vec<_>, Vec<_>) = failed
            .into_iter()
            .partition(|(_, failure)| failure.errno == libc::EEXIST && failure.request >= before);
        let mut failures = others;
        let mut routes: Vec<Route> = self.routes.iter().map(|(to, by)| route(*to, *by)).collect();
        for (_, failure) in taken {
            let place = failure.request - before;
            let metric = BEHIND + interface;
            routes[place].priority = Some(metric);
            add_route(&mut steps, self.routes[place], interface, metric);
        }
        failures.extend(steps.carry_out(attachment.container)?);
        if failures.is_empty() && self.stands_behind(&routes) {
            let addresses: Vec<IpAddr> = self.addresses.iter().map(|it| it.ip()).collect();
            sources::arrange(attachment.container, interface, &addresses, &self.ways())?;
        }
        match failures.first() {
            None => Ok(routes),
            Some((what, failure)) => Err(refused(
                &format!("set up {ifname} in {path}: {what}"),
                failure,
            )),
        }
    }

    /// Whether another network of the container has the default route.
    fn stands_behind(&self, routes: &[Route]) -> bool {
        let behind = |route: &Route| route.dst.prefix() == 0 && route.priority > Some(BEHIND);
        routes.iter().any(behind)
    }

    /// Where its addresses send: on the link, and as the network says.
    fn ways(&self) -> Vec<Way> {
        let way = |to, by| Way {
            to,
            by,
            on_link: false,
        };
        let subnets = self.addresses.iter().filter(|_| self.resolves);
        let subnets = subnets.filter_map(|it| IpNetwork::new(it.network(), it.prefix()).ok());
        subnets
            .map(|subnet| way(subnet, None))
            .chain(self.routes.iter().map(|(to, by)| way(*to, *by)))
            .collect()
    }

    /// In the container's namespace, before the interface is switched on: nobody is asked whether an address
    /// is free, leases say so; the others hear of each at once; and routers on the link do not give further
    /// addresses and routes.
    fn set(&self, ifname: &str) -> Result<(), Error> {
        let has = |v4: bool| self.addresses.iter().any(|it| it.is_ipv4() == v4);
        let mut settings = Vec::new();
        if self.resolves && has(true) {
            settings.push(("ipv4", "arp_notify", "1"));
        }
        if has(false) {
            settings.push(("ipv6", "disable_ipv6", "0"));
            settings.push(("ipv6", "accept_dad", "0"));
            settings.push(("ipv6", "accept_ra", "0"));
            if self.resolves {
                settings.push(("ipv6", "ndisc_notify", "1"));
            }
        }
        for (family, name, value) in settings {
            let path = format!("/proc/sys/net/{family}/conf/{ifname}/{name}");
            fs::write(&path, value).map_err(|error| cannot_set(&path, value, &error))?;
        }
        Ok(())
    }

    /// Addresses for the result, of the interface at this place of it.
    pub(super) fn ips(&self, addressing: &Addressing, place: usize) -> Vec<Address> {
        let ips = self.addresses.iter().map(|address| Address {
            address: *address,
            gateway: addressing.gateway_of(address.ip()),
            interface: Some(place),
        });
        ips.collect()
    }

    /// What is not as [`OnLink::set_up`] left it on the interface.
    pub(super) fn check(
        &self,
        attached: &mut Attached<'_>,
        link: &LinkDetails,
    ) -> Result<Vec<String>, NetlinkError> {
        let mut differs = Vec::new();
        let name = &link.name;
        let there = list::addresses(attached.container, link.index)?;
        for wanted in &self.addresses {
            let found = there
                .iter()
                .find(|it| it.address == wanted.ip() && it.length == wanted.prefix());
            match found {
                None => differs.push(format!("the container's {name} does not have {wanted}")),
                Some(found) if found.unusable => differs.push(format!(
                    "{wanted} is tentative or duplicate on the container's {name}"
                )),
                Some(_) => {}
            }
        }
        if self.stands_behind(&attached.result.routes) {
            let addresses: Vec<IpAddr> = self.addresses.iter().map(|it| it.ip()).collect();
            differs.extend(sources::check(attached.container, link.index, &addresses)?);
        }
        let routes = list::routes(attached.container, MAIN, |route| {
            route.paths.iter().any(|path| path.interface == link.index)
        })?;
        for (to, by) in &self.routes {
            let found = routes.iter().any(|route| {
                route.destination.address == to.network()
                    && route.destination.length == to.prefix()
                    && route.paths.iter().any(|path| path.gateway == *by)
            });
            if !found {
                let by = by.map_or(String::new(), |by| format!(" via {by}"));
                differs.push(format!(
                    "the container has no route to {to}{by} out of {name}"
                ));
            }
        }
        Ok(differs)
    }
}

/// The interface in the container, and what is wrong with it in every mode; `None` and what to say when there is
/// none.
pub(super) fn check_interface(
    attached: &mut Attached<'_>,
) -> Result<(Option<LinkDetails>, Vec<String>), NetlinkError> {
    let ifname = attached.request.environment.ifname.as_str();
    let mut differs = Vec::new();
    let Some(link) = link::find(attached.container, By::Name(ifname))? else {
        differs.push(format!("the container has no interface {ifname}"));
        return Ok((None, differs));
    };
    check_link(attached, &link, "the container's", &mut differs);
    Ok((Some(link), differs))
}

/// Whether a link of ours is on, bears our note, and has what the result of ADD says.
pub(super) fn check_link(
    attached: &Attached<'_>,
    link: &LinkDetails,
    whose: &str,
    differs: &mut Vec<String>,
) {
    let here = format!("{whose} {}", link.name);
    let mark = attached.mark.to_string();
    if !link.up {
        differs.push(format!("{here} is switched off"));
    }
    if link.alias != mark {
        differs.push(format!(
            "{here} bears the note {:?} instead of {mark:?}",
            link.alias
        ));
    }
    let mut told = attached.result.interfaces.iter();
    let Some(told) = told.find(|told| told.name == link.name) else {
        differs.push(format!("{here} is not in prevResult"));
        return;
    };
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac) {
        differs.push(format!(
            "{here} has the MAC address {mac} instead of {}",
            told.mac
        ));
    }
    if let Some(mtu) = told.mtu.filter(|mtu| *mtu != link.mtu) {
        differs.push(format!("{here} has MTU {} instead of {mtu}", link.mtu));
    }
}

/// The container's interface for the result.
pub(super) fn told(link: &LinkDetails, netns: &Netns) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: Some(link.mtu),
        sandbox: netns.path().display().to_string(),
        ..Interface::default()
    }
}

/// The link in the container, which has just been made.
pub(super) fn made(attachment: &mut Attachment<'_>, link: By<'_>) -> Result<LinkDetails, Error> {
    let found = link::find(attachment.container, link);
    found.map_err(|error| unheard(&error))?.ok_or_else(|| {
        Error::new(
            Code::TryAgainLater,
            format!(
                "the container's interface {} is gone again: somebody else removed it",
                attachment.request.environment.ifname
            ),
        )
    })
}

fn route(to: IpNetwork, by: Option<IpAddr>) -> Route {
    match by {
        Some(by) => Route::via(to, by),
        None => Route::on_link(to),
    }
}

fn add_route(
    steps: &mut Steps,
    (to, by): (IpNetwork, Option<IpAddr>),
    interface: u32,
    metric: u32,
) {
    let owner = Owner {
        table: MAIN,
        protocol: STATIC,
        metric,
    };
    let destination = Destination {
        address: to.network(),
        length: to.prefix(),
    };
    let path = Path {
        gateway: by,
        interface,
        on_link: false,
    };
    steps.add(format!("add the route to {to}"), |requests| {
        requests.add_path_route(&owner, destination, &path);
    });
}

fn cannot_set(path: &str, value: &str, error: &io::Error) -> Error {
    let failed = Error::new(
        Code::Io,
        format!("cannot set {path} of the container to {value}: {error}"),
    );
    match error.kind() {
        io::ErrorKind::NotFound => failed.details(
            "the kernel has no IPv6, or it is switched off: give the network no IPv6 subnet",
        ),
        _ => failed,
    }
}

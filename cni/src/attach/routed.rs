//! Mode `routed`: a veth pair and routes; no bridge, no translation, nothing asked on the wire.
//!
//! - The container has its addresses as /32 and /128, and routes by way of [`GATEWAY4`] and
//!   [`GATEWAY6`], which no interface has: a permanent neighbour entry says that the host's end of the
//!   pair is there.
//! - The host has a route to each address out of the pair, and a permanent neighbour entry for it.
//!
//! Three requests to the kernel, each of many parts: the pair; the container's half; the host's half.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni::leases::Lease;
use cni::node::NodeFile;
use cni::spec::{Address, Code, Dns, Error, Interface, Route, Success};
use ipnetwork::IpNetwork;
use kernel::link::By;
use kernel::route::Owner;
use kernel::veth::{Veth, VethEnd, VethIndexes};
use kernel::{Destination, Failure, LinkChange, Mac, Path, Requests};

use super::sources::{self, Way};
use super::steps::{BEHIND, MAIN, STATIC, Steps};
use super::{Attachment, loopback, remove_link, routers};
use crate::answer::{refused, unheard};
use crate::mark::{HOST_MAC, container_mac, host_name};
use crate::request::Request;

mod check;

pub(super) use check::check;

/// Where containers send IPv4 packets.
pub(super) const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// Where containers send IPv6 packets.
pub(super) const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// What is to be made.
struct Plan {
    host_name: String,
    mac: Mac,
    mtu: u32,
    protocol: u8,
    addresses: Vec<IpAddr>,
    routes: Vec<IpNetwork>,
}

pub(super) fn add(attachment: &mut Attachment<'_>) -> Result<Success, Error> {
    let plan = Plan::of(attachment)?;
    let made = plan.make_pair(attachment)?;
    // The container's half first: what the kernel does behind our back for an IPv6 address is done by the
    // time that the host's half is, too.
    let outcome = routers::ignore(&plan.host_name)
        .and_then(|()| plan.set_up_container(attachment, made))
        .and_then(|routes| plan.set_up_host(attachment, made).map(|()| routes));
    match outcome {
        Ok(routes) => Ok(plan.result(attachment, routes)),
        Err(error) => {
            // The first error is the one to tell.
            remove_link(attachment.host, By::Index(made.here), &plan.host_name).ok();
            Err(error)
        }
    }
}

impl Plan {
    fn of(attachment: &Attachment<'_>) -> Result<Plan, Error> {
        let (request, node) = (attachment.request, attachment.node);
        let node = node.expect("mode routed has refused to go on without a node file");
        let environment = &request.environment;
        let addresses: Vec<IpAddr> = attachment.lease.addresses.iter().map(|a| a.ip()).collect();
        Ok(Plan {
            host_name: host_name(&environment.container, &environment.ifname),
            mac: super::requested_mac(request)?
                .unwrap_or_else(|| container_mac(&environment.container, &environment.ifname)),
            mtu: request.config.mtu.unwrap_or(node.mtu),
            protocol: node.route_protocol,
            routes: routes(request, &addresses)?,
            addresses,
        })
    }

    fn make_pair(&self, attachment: &mut Attachment<'_>) -> Result<VethIndexes, Error> {
        let ifname = attachment.request.environment.ifname.as_str();
        let alias = attachment.mark.to_string();
        let pair = Veth {
            here: VethEnd {
                name: &self.host_name,
                mac: HOST_MAC,
            },
            there: VethEnd {
                name: ifname,
                mac: self.mac,
            },
            namespace: std::os::fd::AsFd::as_fd(attachment.netns),
            mtu: self.mtu,
            alias: &alias,
            group: cni::INTERFACE_GROUP,
        };
        super::make_pair(attachment, &pair)
    }

    fn set_up_host(&self, attachment: &mut Attachment<'_>, made: VethIndexes) -> Result<(), Error> {
        let owner = Owner {
            table: MAIN,
            protocol: self.protocol,
            metric: 0,
        };
        let path = Path {
            gateway: None,
            interface: made.here,
            on_link: false,
        };
        let mut requests = Requests::new();
        for address in &self.addresses {
            requests.add_permanent_neighbour(*address, made.here, self.mac);
            requests.add_path_route(&owner, host_route(*address), &path);
        }
        let mut failures = Vec::new();
        attachment
            .host
            .carry_out(&mut requests, &mut failures)
            .map_err(|error| unheard(&error))?;
        let Some(failure) = failures.first() else {
            return Ok(());
        };
        let address = self.addresses[failure.request / 2];
        let attempt = match failure.request % 2 {
            0 => format!("write down on the host who answers at {address}"),
            _ => format!("add the host's route to {address}"),
        };
        let error = refused(&attempt, failure);
        Err(match failure.errno {
            libc::EEXIST => error.details(format!(
                "another interface has this address: see `ip route show {address}`; if its container is \
                 gone, `ip link delete` it"
            )),
            _ => error,
        })
    }

    /// The routes that there are then.
    fn set_up_container(
        &self,
        attachment: &mut Attachment<'_>,
        made: VethIndexes,
    ) -> Result<Vec<Route>, Error> {
        let ifname = &attachment.request.environment.ifname;
        let alias = attachment.mark.to_string();
        let mut steps = Steps::default();
        let up = |alias| LinkChange {
            up: Some(true),
            alias,
            ..LinkChange::default()
        };
        steps.add("leave its link-local address to us", |requests| {
            requests.set_link(By::Index(made.there), &LinkChange::no_link_local());
        });
        steps.add("switch it on", |requests| {
            requests.set_link(By::Index(made.there), &up(Some(&alias)));
        });
        steps.add("switch on lo", |requests| {
            requests.set_link(By::Index(loopback::INDEX), &up(None));
        });
        self.add_family(&mut steps, true, made.there);
        let v6 = steps.len();
        self.add_family(&mut steps, false, made.there);
        let mut failed = steps.carry_out(attachment.container)?;
        failed.retain(|(_, failure)| !(failure.request == 0 && failure.says_no_ipv6()));

        // IPv6 is switched off in this namespace, as some runtimes have it.
        let is_off = |failure: &Failure| failure.request >= v6 && failure.errno == libc::EACCES;
        if failed.iter().any(|(_, failure)| is_off(failure)) {
            attachment.netns.inside(|| switch_on_ipv6(ifname))??;
            failed.retain(|(_, failure)| failure.request < v6);
            self.add_family(&mut steps, false, made.there);
            failed.extend(steps.carry_out(attachment.container)?);
        }

        // A default route of another network of the container: ours stands behind it.
        let metric = BEHIND + made.there;
        let mut routes = Vec::new();
        let mut stands_behind = false;
        for to in &self.routes {
            let mut route = Route::via(*to, gateway(to.ip()));
            let is_taken = |(what, failure): &(String, Failure)| {
                to.prefix() == 0 && failure.errno == libc::EEXIST && *what == route_step(*to)
            };
            if let Some(place) = failed.iter().position(is_taken) {
                failed.remove(place);
                stands_behind = true;
                route.priority = Some(metric);
                add_route(&mut steps, *to, made.there, metric);
            }
            routes.push(route);
        }
        failed.extend(steps.carry_out(attachment.container)?);
        stands_behind = stands_behind
            || self.has_no_default() && sources::other_default(attachment.container, made.there)?;
        if failed.is_empty() && stands_behind {
            let (interface, addresses) = (made.there, &self.addresses);
            sources::arrange(attachment.container, interface, addresses, &self.ways())?;
        }
        match failed.first() {
            None => Ok(routes),
            Some((what, failure)) => {
                let netns = attachment.netns.path().display();
                let attempt = format!("set up {ifname} in {netns}: {what}");
                Err(refused(&attempt, failure))
            }
        }
    }

    /// For an address at least the network has no default route: another one's is taken, where there is one.
    fn has_no_default(&self) -> bool {
        let is_default =
            |to: &IpNetwork, of: &IpAddr| to.prefix() == 0 && to.is_ipv4() == of.is_ipv4();
        let mut addresses = self.addresses.iter();
        addresses.any(|of| !self.routes.iter().any(|to| is_default(to, of)))
    }

    /// Where its addresses send: everywhere by the gateway.
    fn ways(&self) -> Vec<Way> {
        let ways = self.addresses.iter().map(|address| Way {
            to: cni::ipam::default(address.is_ipv4()),
            by: Some(gateway(*address)),
            on_link: true,
        });
        ways.collect()
    }

    /// The addresses of a family, the gateway's neighbour entry, and the routes.
    fn add_family(&self, steps: &mut Steps, v4: bool, interface: u32) {
        for address in self.addresses.iter().filter(|it| it.is_ipv4() == v4) {
            steps.add(format!("add the address {address}"), |requests| {
                requests.add_address(interface, *address, host_route(*address).length);
            });
            if address.is_ipv6() {
                steps.add("add its link-local address", |requests| {
                    requests.add_address(interface, link_local(self.mac).into(), 64);
                });
            }
            let gateway = gateway(*address);
            steps.add(format!("write down who answers at {gateway}"), |requests| {
                requests.add_permanent_neighbour(gateway, interface, HOST_MAC);
            });
        }
        for route in self.routes.iter().filter(|it| it.is_ipv4() == v4) {
            add_route(steps, *route, interface, 0);
        }
    }

    fn result(&self, attachment: &Attachment<'_>, routes: Vec<Route>) -> Success {
        let request = attachment.request;
        let ips = self.addresses.iter().map(|address| Address {
            address: IpNetwork::from(*address),
            gateway: Some(gateway(*address)),
            interface: Some(1),
        });
        Success {
            interfaces: vec![
                Interface {
                    name: self.host_name.clone(),
                    mac: HOST_MAC.to_string(),
                    mtu: Some(self.mtu),
                    ..Interface::default()
                },
                Interface {
                    name: request.environment.ifname.clone(),
                    mac: self.mac.to_string(),
                    mtu: Some(self.mtu),
                    sandbox: attachment.netns.path().display().to_string(),
                    ..Interface::default()
                },
            ],
            ips: ips.collect(),
            routes,
            dns: name_servers(request, attachment.node, attachment.lease),
        }
    }
}

fn route_step(to: IpNetwork) -> String {
    format!("add the route to {to}")
}

fn add_route(steps: &mut Steps, to: IpNetwork, interface: u32, metric: u32) {
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
        gateway: Some(gateway(to.ip())),
        interface,
        on_link: true,
    };
    steps.add(route_step(to), |requests| {
        requests.add_path_route(&owner, destination, &path);
    });
}

/// The container's routes: as configured, else default routes; of its families only.
fn routes(request: &Request, addresses: &[IpAddr]) -> Result<Vec<IpNetwork>, Error> {
    let configured = request
        .config
        .ipam
        .as_ref()
        .and_then(|ipam| ipam.routes.as_ref());
    let wanted: Vec<IpNetwork> = match configured {
        None => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
            .into_iter()
            .filter_map(|any: IpAddr| IpNetwork::new(any, 0).ok())
            .collect(),
        Some(routes) => {
            if let Some(route) = routes
                .iter()
                .find(|route| route.gw.is_some_and(|gw| gw != gateway(gw)))
            {
                return Err(Error::new(
                    Code::InvalidConfig,
                    format!(
                        "ipam.routes: {} has a gw; mode \"routed\" has one of its own",
                        route.dst
                    ),
                )
                .details("leave out gw"));
            }
            routes.iter().map(|route| route.dst).collect()
        }
    };
    let of_family = |to: &IpNetwork| addresses.iter().any(|a| a.is_ipv4() == to.is_ipv4());
    Ok(wanted.into_iter().filter(of_family).collect())
}

/// The node's resolver, by the addresses that the container can reach.
fn name_servers(request: &Request, node: Option<&NodeFile>, lease: &Lease) -> Dns {
    let has = |v4: bool| lease.addresses.iter().any(|it| it.is_ipv4() == v4);
    super::name_servers(request, node, |names| {
        let v4 = names.address4.filter(|_| has(true)).map(|a| a.to_string());
        let v6 = names.address6.filter(|_| has(false)).map(|a| a.to_string());
        v4.into_iter().chain(v6).collect()
    })
}

fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        GATEWAY4
    } else {
        GATEWAY6
    }
}

fn host_route(address: IpAddr) -> Destination {
    Destination {
        address,
        length: if address.is_ipv4() { 32 } else { 128 },
    }
}

/// RFC 4291, appendix A.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

/// In the namespace of the calling thread.
fn switch_on_ipv6(ifname: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
    std::fs::write(&path, "0").map_err(|error| {
        Error::new(
            Code::Io,
            format!(
                "IPv6 is switched off in the container, and {path} cannot be set to 0: {error}"
            ),
        )
        .details("switch IPv6 on in the container, or give the network no IPv6 subnet")
    })
}

//! The modes: how a container is attached. A mode has a file with
//!
//! - `add`: makes interfaces, addresses and routes, or nothing;
//! - `check`: says what is not as `add` left it.
//!
//! and those with fields of their own in the configuration a `validate`, which looks at them before
//! anything is written or made.
//!
//! Taking away is the same for all ([`remove`]): what is on the host goes by its name, which depends on
//! nothing but container and interface; what is only in the container goes by the note on it.

mod bridge;
mod departure;
pub(crate) mod loopback;
mod on_link;
mod on_parent;
mod ready;
mod routed;
mod routers;
mod shape;
mod sources;
mod steps;

use std::net::IpAddr;

use cni::ipam::{Addressing, Gateways};
use cni::leases::Lease;
use cni::node::{Names, NodeFile};
use cni::spec::{Code, Dns, Error, Mode, Success};
use kernel::link::{self, By};
use kernel::veth::{self, Veth, VethIndexes};
use kernel::{Mac, Netlink, Requests};

use crate::answer::{refused, unheard};
use crate::mark::{Mark, host_name};
use crate::netns::Netns;
use crate::request::Request;

/// A container on its way to being attached.
pub(crate) struct Attachment<'a> {
    pub(crate) request: &'a Request,
    /// `None` only for modes that do without.
    pub(crate) node: Option<&'a NodeFile>,
    /// Its addresses.
    pub(crate) lease: &'a Lease,
    /// The note for all its interfaces.
    pub(crate) mark: Mark<'a>,
    pub(crate) netns: &'a Netns,
    /// A socket on the host.
    pub(crate) host: &'a mut Netlink,
    /// A socket in the container.
    pub(crate) container: &'a mut Netlink,
}

/// An attachment that is said to be there.
pub(crate) struct Attached<'a> {
    pub(crate) request: &'a Request,
    /// `None` only for modes that do without.
    pub(crate) node: Option<&'a NodeFile>,
    /// The result of the whole chain.
    pub(crate) result: &'a Success,
    pub(crate) lease: &'a Lease,
    pub(crate) mark: Mark<'a>,
    pub(crate) netns: &'a Netns,
    pub(crate) host: &'a mut Netlink,
    pub(crate) container: &'a mut Netlink,
}

/// Looks at what the configuration says for its mode, before anything is written or made.
pub(crate) fn validate(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let ipam = request.config.ipam.as_ref();
    let of_node = request.needs_node_file();
    let mut subnets = ipam.into_iter().flat_map(|ipam| &ipam.subnets);
    shape::check(request, of_node || subnets.any(|it| it.subnet.is_ipv6()))?;
    match request.config.mode {
        Mode::Bridge => bridge::validate(request, host)?,
        Mode::Macvlan | Mode::Ipvlan => on_parent::validate(request, host)?,
        Mode::Routed | Mode::Host | Mode::None => return Ok(()),
    }
    said(request).map(drop)
}

/// What the configuration itself says of addresses.
fn said(request: &Request) -> Result<(Addressing, Gateways), Error> {
    let config = &request.config;
    let gateways = match config.mode {
        Mode::Macvlan | Mode::Ipvlan => on_parent::gateways(request)?,
        _ => bridge::GATEWAYS,
    };
    let checked = Addressing::check(config.ipam.as_ref(), gateways);
    let mut said = checked.map_err(|error| shape::invalid(error.to_string()))?;
    if config.internal && said.routes.is_none() {
        said.routes = Some(Vec::new());
    }
    Ok((said, gateways))
}

/// Where the network's addresses come from, and what goes with them; not for mode `routed`.
pub(crate) fn addressing(request: &Request, node: Option<&NodeFile>) -> Result<Addressing, Error> {
    let (mut addressing, gateways) = said(request)?;
    if let (Some(node), true) = (node, request.needs_node_file()) {
        let ipam = request.config.ipam.as_ref();
        let pool = ipam.and_then(|ipam| ipam.pool.as_deref());
        addressing.add_node_subnets(node, pool, gateways);
    }
    Ok(addressing)
}

/// Makes the interfaces, and waits until packets pass. What a failed call made is gone again; what was there
/// before is not.
pub(crate) fn add(attachment: &mut Attachment<'_>) -> Result<Success, Error> {
    let mode = attachment.request.config.mode;
    let made = match mode {
        Mode::Routed => routed::add(attachment),
        Mode::Bridge => bridge::add(attachment),
        Mode::Macvlan | Mode::Ipvlan => on_parent::add(attachment),
        Mode::Host | Mode::None => return Ok(Success::default()),
    }?;
    let environment = &attachment.request.environment;
    let on_host = matches!(mode, Mode::Routed | Mode::Bridge)
        .then(|| host_name(&environment.container, &environment.ifname));
    let addresses: Vec<IpAddr> = attachment.lease.addresses.iter().map(|a| a.ip()).collect();
    let ready = on_host
        .map_or(Ok(()), |name| ready::operational(attachment.host, &name))
        .and_then(|()| ready::local(attachment.container, &addresses));
    match ready {
        Ok(()) => Ok(made),
        Err(error) => {
            // The first error is the one to tell.
            remove(attachment.request, attachment.host, Some(attachment.netns)).ok();
            Err(error)
        }
    }
}

/// What is not as [`add`] left it, in words for people.
pub(crate) fn check(attached: &mut Attached<'_>) -> Result<Vec<String>, Error> {
    match attached.request.config.mode {
        Mode::Routed => routed::check(attached),
        Mode::Bridge => bridge::check(attached),
        Mode::Macvlan | Mode::Ipvlan => on_parent::check(attached),
        Mode::Host | Mode::None => Ok(Vec::new()),
    }
}

/// What containers of a network had in common, once none is left of it.
pub(crate) fn collect(network: &str, host: &mut Netlink) -> Result<(), Error> {
    bridge::collect(network, host)
}

/// Takes away what there is of an attachment.
pub(crate) fn remove(
    request: &Request,
    host: &mut Netlink,
    netns: Option<&Netns>,
) -> Result<(), Error> {
    if !remove_on_host(request, host)?
        && let Some(netns) = netns
    {
        remove_in(netns, request)?;
    }
    Ok(())
}

/// Takes away the host's interface of an attachment, and with it the one in the container, addresses,
/// neighbours and routes. Whether there was one.
pub(crate) fn remove_on_host(request: &Request, host: &mut Netlink) -> Result<bool, Error> {
    let environment = &request.environment;
    let name = host_name(&environment.container, &environment.ifname);
    remove_link(host, By::Name(&name), &name)
}

/// [`remove_on_host`] without waiting until the kernel has done with it, where that is possible: for DEL, which does nothing
/// else with interfaces.
pub(crate) fn see_off(request: &Request, host: &mut Netlink) -> Result<bool, Error> {
    let environment = &request.environment;
    let name = host_name(&environment.container, &environment.ifname);
    match departure::seen(&name) {
        true => Ok(true),
        false => remove_on_host(request, host),
    }
}

/// Whether there is an interface of this attachment, on the host or in the container.
pub(crate) fn is_there(
    request: &Request,
    host: &mut Netlink,
    container: &mut Netlink,
) -> Result<bool, Error> {
    let environment = &request.environment;
    let name = host_name(&environment.container, &environment.ifname);
    let find = |netlink: &mut Netlink, name: &str| {
        link::find(netlink, By::Name(name)).map_err(|error| unheard(&error))
    };
    if find(host, &name)?.is_some() {
        return Ok(true);
    }
    let inside = find(container, &environment.ifname)?;
    Ok(inside.is_some_and(|link| Mark::read(&link.alias) == Some(mark_of(request))))
}

/// Takes away the container's interface, if it is there and ours.
pub(crate) fn remove_in(netns: &Netns, request: &Request) -> Result<(), Error> {
    remove_marked(netns, &request.environment.ifname, mark_of(request))
}

/// The note for interfaces of this attachment.
pub(crate) fn mark_of(request: &Request) -> Mark<'_> {
    Mark {
        network: &request.config.name,
        container: &request.environment.container,
        ifname: &request.environment.ifname,
    }
}

/// Takes away the interface `ifname` in a namespace if it bears this note, of whatever network, and one that
/// an ADD which was killed has not yet given its name.
pub(crate) fn remove_marked(netns: &Netns, ifname: &str, ours: Mark<'_>) -> Result<(), Error> {
    let mut container = netns.netlink()?;
    let found = link::find(&mut container, By::Name(ifname)).map_err(|error| unheard(&error))?;
    let is_ours = |mark: Mark<'_>| (mark.container, mark.ifname) == (ours.container, ours.ifname);
    if let Some(link) = found
        && Mark::read(&link.alias).is_some_and(is_ours)
    {
        remove_link(&mut container, By::Index(link.index), ifname)?;
    }
    let name = host_name(ours.container, ours.ifname);
    remove_link(&mut container, By::Name(&name), &name).map(drop)
}

/// Whether there was one.
fn remove_link(netlink: &mut Netlink, link: By<'_>, name: &str) -> Result<bool, Error> {
    let mut requests = Requests::new();
    requests.remove_link(link);
    let mut failures = Vec::new();
    netlink
        .carry_out(&mut requests, &mut failures)
        .map_err(|error| unheard(&error))?;
    match failures.first() {
        None => Ok(true),
        Some(failure) if failure.errno == libc::ENODEV => Ok(false),
        Some(failure) => Err(refused(&format!("remove the interface {name}"), failure)),
    }
}

/// The MAC address that the runtime (capability `mac`) or the user (`CNI_ARGS`) wants.
pub(crate) fn requested_mac(request: &Request) -> Result<Option<Mac>, Error> {
    let wanted = request.config.runtime_config.mac.as_deref();
    let wanted = wanted.or(request.environment.arg("MAC"));
    let Some(text) = wanted.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<Mac>() {
        Ok(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => Ok(Some(mac)),
        _ => Err(Error::new(
            Code::InvalidConfig,
            format!(
                "the requested MAC address is {text:?}; must be a unicast one, as 02:00:00:00:00:01"
            ),
        )),
    }
}

/// Makes a veth pair for the attachment. One that this container had in a namespace which it no longer has
/// gives way.
fn make_pair(attachment: &mut Attachment<'_>, pair: &Veth<'_>) -> Result<VethIndexes, Error> {
    let (name, ifname) = (pair.here.name, pair.there.name);
    let attempt = || {
        format!(
            "make the interface {ifname} (MTU {}) in {} and {name} on the host",
            pair.mtu,
            attachment.netns.path().display(),
        )
    };
    for _ in 0..2 {
        let outcome = veth::create(attachment.host, pair).map_err(|error| unheard(&error))?;
        let failure = match outcome {
            Ok(made) => return Ok(made),
            Err(failure) if failure.errno == libc::EEXIST => failure,
            Err(failure) => return Err(refused(&attempt(), &failure)),
        };
        let there = link::find(attachment.container, By::Name(ifname));
        if there.map_err(|error| unheard(&error))?.is_some() {
            return Err(refused(&attempt(), &failure).details(is_taken(ifname)));
        }
        remove_link(attachment.host, By::Name(name), name)?;
    }
    Err(Error::new(
        Code::TryAgainLater,
        format!("cannot {}: somebody else makes it, too", attempt()),
    ))
}

/// What to do about an interface of the container that is there already.
fn is_taken(ifname: &str) -> String {
    format!("the container has an interface {ifname}: DEL it first, or choose another CNI_IFNAME")
}

/// What goes into the container's `resolv.conf`: as configured, else the node's resolver where it serves
/// names.
fn name_servers(
    request: &Request,
    node: Option<&NodeFile>,
    servers: impl FnOnce(&Names) -> Vec<String>,
) -> Dns {
    if let Some(dns) = &request.config.dns {
        return dns.clone();
    }
    let Some(names) = node.and_then(|node| node.names.as_ref()) else {
        return Dns::default();
    };
    let domain = format!("{}.{}", request.config.name, names.domain).to_lowercase();
    Dns {
        nameservers: servers(names),
        search: vec![domain.clone()],
        domain,
        options: Vec::new(),
    }
}

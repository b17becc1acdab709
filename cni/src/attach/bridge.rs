//! Mode `bridge`: a veth pair into a bridge of the network's own.
//!
//! - The bridge is made by the first container and stays when the last one goes, so that its MAC address and
//!   what neighbours know of it stay, too; GC removes it once no container is left. It has the gateway's
//!   address of each subnet. A bridge that somebody else made is used as it is.
//! - Bridges of one host do not reach each other: see [`isolation`].

use std::os::fd::AsFd as _;

use cni::bridges::Says;
use cni::ipam::{Addressing, Gateways};
use cni::spec::{Code, Error, Interface, Success};
use kernel::link::{self, By, LinkDetails};
use kernel::veth::{Veth, VethEnd, VethIndexes};
use kernel::{BridgePort, LinkChange, Mac, Netlink, Requests, VirtualKind, VirtualLink, list};

use super::on_link::{self, OnLink};
use super::steps::Steps;
use super::{
    Attached, Attachment, addressing, name_servers, remove_link, requested_mac, routers, shape,
};
use crate::answer::{refused, unheard};
use crate::mark::{bridge_name, container_mac, host_name, port_mac};
use crate::request::Request;

mod isolation;

/// The longest note on an interface, in bytes (`IFALIASZ` less the NUL).
const NOTE_LENGTH: usize = 255;
/// A bridge that is removed by GC while it is used is made again, this often.
const TRIES: usize = 3;
const DEFAULT_MTU: u32 = 1500;
/// The number of no interface: of all of them.
const ALL: u32 = 0;

/// A bridge has an address in each subnet, for containers to send to.
pub(super) const GATEWAYS: Gateways = Gateways::Always;

/// What the network's bridge is called.
pub(super) fn name(request: &Request) -> String {
    match &request.config.bridge {
        Some(name) => name.clone(),
        None => default_name(&request.config.name),
    }
}

fn default_name(network: &str) -> String {
    let name = format!("br-{network}");
    match name.len() <= shape::IFNAME {
        true => name,
        false => bridge_name(network),
    }
}

/// The note on a bridge of ours: whose it is, and what its network says.
fn note(request: &Request) -> String {
    isolation::says(request).note(&request.config.name)
}

/// What the notes on the bridges of this host say.
fn noted(host: &mut Netlink) -> Result<Vec<Says>, Error> {
    let links = list::links(host).map_err(|error| unheard(&error))?;
    Ok(links.iter().filter_map(read_note).collect())
}

/// `None`: the link is no bridge of ours.
fn read_note(link: &LinkDetails) -> Option<Says> {
    Says::read(&link.name, &link.alias)
}

/// What can be told before anything is made. `found`: the link of the bridge's name.
pub(super) fn validate(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let config = &request.config;
    let name = name(request);
    shape::interface_name("bridge", &name)?;
    for connected in &config.connected {
        shape::interface_name("connected", connected)?;
        if *connected == name {
            return Err(shape::invalid(format!(
                "connected names {name}, the bridge of the network itself"
            )));
        }
    }
    if note(request).len() > NOTE_LENGTH {
        return Err(shape::invalid(format!(
            "connected names {} bridges, more than fit on a bridge as a note",
            config.connected.len()
        )));
    }
    let Some(link) = find(host, &name)? else {
        return no_overlap(request, host);
    };
    if link.virtual_kind != Some(VirtualKind::Bridge) {
        return Err(shape::invalid(format!(
            "bridge is {name}, and the host's interface of this name is no bridge"
        )));
    }
    if !is_ours(&link) && (config.internal || config.ip_masq || !config.connected.is_empty()) {
        return Err(shape::invalid(format!(
            "internal, connected and ipMasq are only for bridges that this plugin makes, and {name} is somebody \
             else's"
        )));
    }
    Ok(())
}

/// A new bridge's subnets are on no other interface of the host: packets to them would go there.
fn no_overlap(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let subnets = request.config.ipam.iter().flat_map(|ipam| &ipam.subnets);
    let subnets: Vec<_> = subnets.map(|of| of.subnet).collect();
    if subnets.is_empty() {
        return Ok(());
    }
    let there = list::addresses(host, ALL).map_err(|error| unheard(&error))?;
    for (place, subnet) in subnets.iter().enumerate() {
        let Some(taken) = there.iter().find(|it| subnet.contains(it.address)) else {
            continue;
        };
        let link = link::find(host, By::Index(taken.interface)).map_err(|error| unheard(&error))?;
        return Err(shape::invalid(format!(
            "ipam.subnets[{place}].subnet is {subnet}, and the host's {} has {} of it",
            link.map_or_else(|| "interface".to_owned(), |link| link.name),
            taken.address
        )));
    }
    Ok(())
}

pub(super) fn add(attachment: &mut Attachment<'_>) -> Result<Success, Error> {
    let request = attachment.request;
    let addressing = addressing(request, attachment.node)?;
    let inside = OnLink::of(attachment.lease, &addressing, true);
    if !is_foreign(request, attachment.host)? {
        isolation::arrange(request, attachment.host)?;
    }
    let (pair, port) = make(attachment, &addressing, &inside)?;
    let outcome = inside.set_up(attachment, pair.there).and_then(|routes| {
        ready(attachment, &port, &addressing, &inside)?;
        Ok((routes, on_link::made(attachment, By::Index(pair.there))?))
    });
    let (routes, there) = match outcome {
        Ok(both) => both,
        Err(error) => {
            // The first error is the one to tell.
            remove_link(attachment.host, By::Index(pair.here), &port.name).ok();
            return Err(error);
        }
    };
    let ips = inside.ips(&addressing, 2);
    // The resolver answers there, too.
    let gateways = ips.iter().filter_map(|ip| ip.gateway);
    let gateways: Vec<String> = gateways.map(|it| it.to_string()).collect();
    let on_host = |link: &LinkDetails| Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let bridge = find(attachment.host, &name(request))?.ok_or_else(|| gone(request))?;
    Ok(Success {
        interfaces: vec![
            on_host(&bridge),
            on_host(&port),
            on_link::told(&there, attachment.netns),
        ],
        ips,
        routes,
        dns: match is_ours(&bridge) {
            true => name_servers(request, attachment.node, |_| gateways),
            false => request.config.dns.clone().unwrap_or_default(),
        },
    })
}

/// Waits until a bridge of ours that has just got its first port sends, and takes in what is for the gateways.
fn ready(
    attachment: &mut Attachment<'_>,
    port: &LinkDetails,
    addressing: &Addressing,
    inside: &OnLink,
) -> Result<(), Error> {
    let request = attachment.request;
    if is_foreign(request, attachment.host)? {
        return Ok(());
    }
    // The bridge has a carrier when a port of it has.
    super::ready::operational(attachment.host, &port.name)?;
    super::ready::operational(attachment.host, &name(request))?;
    let gateways = inside.addresses.iter();
    let gateways: Vec<_> = gateways
        .filter_map(|it| addressing.gateway_of(it.ip()))
        .collect();
    super::ready::local(attachment.host, &gateways)
}

/// The bridge, as it has to be, and a port of it.
fn make(
    attachment: &mut Attachment<'_>,
    addressing: &Addressing,
    inside: &OnLink,
) -> Result<(VethIndexes, LinkDetails), Error> {
    let request = attachment.request;
    for _ in 0..TRIES {
        let bridge = bridge(attachment)?;
        if is_ours(&bridge) {
            give_gateways(attachment, &bridge, addressing, inside)?;
        }
        let pair = pair(attachment, bridge.mtu)?;
        let outcome = plug(attachment.host, request, &pair, bridge.index);
        match outcome {
            Ok(Some(port)) => return Ok((pair, port)),
            Ok(None) => {
                remove_link(attachment.host, By::Index(pair.here), "of the pair")?;
            }
            Err(error) => {
                remove_link(attachment.host, By::Index(pair.here), "of the pair").ok();
                return Err(error);
            }
        };
    }
    Err(gone(request))
}

/// The network's bridge, made if it is not there.
fn bridge(attachment: &mut Attachment<'_>) -> Result<LinkDetails, Error> {
    let request = attachment.request;
    let name = name(request);
    let said = request.config.mtu;
    let mtu = said.or(attachment.node.map(|node| node.mtu));
    if let Some(found) = find(attachment.host, &name)? {
        let mtu = mtu.unwrap_or(found.mtu);
        if !is_ours(&found) {
            // Ports take the MTU that is wanted; the bridge is not ours to change.
            return Ok(LinkDetails {
                mtu: said.unwrap_or(found.mtu),
                ..found
            });
        }
        // The call that made it may have been killed before it did.
        routers::ignore(&name)?;
        let note = note(request);
        // Networks may share a bridge; the note is that of the first one.
        let is_renewed = is_of(&found, &request.config.name) && found.alias != note;
        let group = cni::INTERFACE_GROUP;
        if mtu != found.mtu || !found.up || is_renewed || group != found.group {
            let change = LinkChange {
                mtu: Some(mtu),
                group: Some(group),
                up: Some(true),
                alias: is_renewed.then_some(&note),
                ..LinkChange::default()
            };
            let mut steps = Steps::default();
            steps.add(
                format!("set up the bridge {name} (MTU {mtu})"),
                |requests| {
                    requests.set_link(By::Index(found.index), &change);
                },
            );
            steps.all(attachment.host)?;
        }
        return Ok(LinkDetails { mtu, ..found });
    }
    let note = note(request);
    let bridge = VirtualLink {
        name: &name,
        kind: VirtualKind::Bridge,
        parent: None,
        namespace: None,
        mtu: Some(mtu.unwrap_or(DEFAULT_MTU)),
        // Without one of its own it takes that of a port, and another one when the port goes.
        mac: Some(random_mac()?),
        group: cni::INTERFACE_GROUP,
        up: true,
    };
    // In one go: a process that is killed leaves a bridge with our note, or none.
    let mut requests = Requests::new();
    requests.add_virtual_link(&bridge);
    requests.set_link(
        By::Name(&name),
        &LinkChange {
            alias: Some(&note),
            ..LinkChange::default()
        },
    );
    let mut failures = Vec::new();
    let asked = attachment.host.carry_out(&mut requests, &mut failures);
    asked.map_err(|error| unheard(&error))?;
    // Another call was quicker.
    failures.retain(|failure| failure.errno != libc::EEXIST);
    if let Some(failure) = failures.first() {
        return Err(refused(&format!("make the bridge {name}"), failure));
    }
    routers::ignore(&name)?;
    find(attachment.host, &name)?.ok_or_else(|| gone(request))
}

/// The gateways' addresses of the container's subnets.
fn give_gateways(
    attachment: &mut Attachment<'_>,
    bridge: &LinkDetails,
    addressing: &Addressing,
    inside: &OnLink,
) -> Result<(), Error> {
    let mut steps = Steps::default();
    for address in &inside.addresses {
        let Some(gateway) = addressing.gateway_of(address.ip()) else {
            continue;
        };
        let what = format!("give the bridge {} the address {gateway}", bridge.name);
        steps.add(what, |requests| {
            requests.add_address(bridge.index, gateway, address.prefix());
        });
    }
    let failed = steps.carry_out(attachment.host)?;
    let mut failed = failed.iter();
    match failed.find(|(_, failure)| failure.errno != libc::EEXIST) {
        None => Ok(()),
        Some((what, failure)) => Err(refused(what, failure)),
    }
}

/// The container's interface, off, and its other end on the host, in no bridge yet.
fn pair(attachment: &mut Attachment<'_>, mtu: u32) -> Result<VethIndexes, Error> {
    let environment = &attachment.request.environment;
    let (container, ifname) = (&environment.container, &environment.ifname);
    let name = host_name(container, ifname);
    let mac = requested_mac(attachment.request)?;
    let alias = attachment.mark.to_string();
    let wanted = Veth {
        here: VethEnd {
            name: &name,
            mac: port_mac(container, ifname),
        },
        there: VethEnd {
            name: ifname,
            mac: mac.unwrap_or_else(|| container_mac(container, ifname)),
        },
        namespace: attachment.netns.as_fd(),
        mtu,
        alias: &alias,
        group: 0,
    };
    super::make_pair(attachment, &wanted)
}

/// Makes the pair's end here a port; `None` when the bridge is gone.
fn plug(
    host: &mut Netlink,
    request: &Request,
    pair: &VethIndexes,
    bridge: u32,
) -> Result<Option<LinkDetails>, Error> {
    let mut steps = Steps::default();
    let name = name(request);
    steps.add(format!("make it a port of the bridge {name}"), |requests| {
        let master = LinkChange {
            master: Some(bridge),
            ..LinkChange::default()
        };
        requests.set_link(By::Index(pair.here), &master);
    });
    steps.add(format!("set the flags of its port of {name}"), |requests| {
        requests.set_bridge_port(By::Index(pair.here), port(request));
    });
    let failed = steps.carry_out(host)?;
    match failed.first() {
        Some((_, failure)) if failure.errno == libc::ENODEV => return Ok(None),
        Some((what, failure)) => return Err(refused(what, failure)),
        None => {}
    }
    link::find(host, By::Index(pair.here)).map_err(|error| unheard(&error))
}

fn port(request: &Request) -> BridgePort {
    BridgePort {
        hairpin: request.config.hairpin.unwrap_or(true),
        isolated: request.config.isolated,
    }
}

pub(super) fn check(attached: &mut Attached<'_>) -> Result<Vec<String>, Error> {
    let addressing = addressing(attached.request, attached.node)?;
    let mut differs = check_links(attached, &addressing).map_err(|error| unheard(&error))?;
    if !is_foreign(attached.request, attached.host)? {
        differs.extend(isolation::check(attached.request)?);
    }

    Ok(differs)
}

fn check_links(
    attached: &mut Attached<'_>,
    addressing: &Addressing,
) -> Result<Vec<String>, kernel::NetlinkError> {
    let request = attached.request;
    let inside = OnLink::of(attached.lease, addressing, true);
    let (there, mut differs) = on_link::check_interface(attached)?;
    if let Some(there) = &there {
        differs.extend(inside.check(attached, there)?);
    }
    let environment = &request.environment;
    let (port_name, bridge_name) = (
        host_name(&environment.container, &environment.ifname),
        name(request),
    );
    let here = link::find(attached.host, By::Name(&port_name))?;
    let bridge = link::find(attached.host, By::Name(&bridge_name))?;
    let Some(bridge) = bridge else {
        differs.push(format!("the host has no bridge {bridge_name}"));
        return Ok(differs);
    };
    if !bridge.up {
        differs.push(format!("the host's {bridge_name} is switched off"));
    }
    match here {
        None => differs.push(format!("the host has no interface {port_name}")),
        Some(here) => {
            on_link::check_link(attached, &here, "the host's", &mut differs);
            if there.is_some_and(|there| here.parent != Some(there.index)) {
                differs.push(format!(
                    "{port_name} and the container's {} are no pair",
                    environment.ifname
                ));
            }
            let wanted = port(request);
            match (here.master, here.port) {
                (Some(master), Some(flags)) if master == bridge.index => {
                    for (name, wanted, found) in [
                        ("hairpin", wanted.hairpin, flags.hairpin),
                        ("isolated", wanted.isolated, flags.isolated),
                    ] {
                        if wanted != found {
                            differs.push(format!(
                                "{name} of the port {port_name} is {found} instead of {wanted}"
                            ));
                        }
                    }
                }
                _ => differs.push(format!("{port_name} is no port of {bridge_name}")),
            }
        }
    }
    if is_ours(&bridge) {
        differs.extend(routers::check(&bridge.name));
        let there = list::addresses(attached.host, bridge.index)?;
        let gateways = inside.addresses.iter();
        for gateway in gateways.filter_map(|it| addressing.gateway_of(it.ip())) {
            if !there.iter().any(|it| it.address == gateway) {
                differs.push(format!(
                    "the host's {bridge_name} does not have the gateway's address {gateway}"
                ));
            }
        }
    }
    Ok(differs)
}

/// GC: the network's bridges without ports go, when no container of the network is left.
pub(super) fn collect(network: &str, host: &mut Netlink) -> Result<(), Error> {
    let links = list::links(host).map_err(|error| unheard(&error))?;
    let is_empty = |bridge: &&LinkDetails| {
        is_of(bridge, network) && !links.iter().any(|link| link.master == Some(bridge.index))
    };
    for bridge in links.iter().filter(is_empty) {
        remove_link(host, By::Index(bridge.index), &bridge.name)?;
        isolation::forget(&bridge.name)?;
    }
    Ok(())
}

fn is_ours(bridge: &LinkDetails) -> bool {
    read_note(bridge).is_some()
}

/// Somebody else's bridge is kept apart from none: the host's own way out may be by it.
fn is_foreign(request: &Request, host: &mut Netlink) -> Result<bool, Error> {
    let found = find(host, &name(request))?;
    Ok(found.is_some_and(|bridge| !is_ours(&bridge)))
}

/// Whether it was made for this network.
fn is_of(bridge: &LinkDetails, network: &str) -> bool {
    is_ours(bridge) && bridge.alias.split(' ').nth(1) == Some(network)
}

fn find(host: &mut Netlink, name: &str) -> Result<Option<LinkDetails>, Error> {
    link::find(host, By::Name(name)).map_err(|error| unheard(&error))
}

fn gone(request: &Request) -> Error {
    Error::new(
        Code::TryAgainLater,
        format!(
            "the bridge {} is gone each time it is made: somebody removes it",
            name(request)
        ),
    )
}

fn random_mac() -> Result<Mac, Error> {
    let mut octets = [0; 6];
    // SAFETY: the pointer and the length are those of `octets`.
    let got = unsafe { libc::getrandom(octets.as_mut_ptr().cast(), octets.len(), 0) };
    if got != octets.len() as isize {
        let error = std::io::Error::last_os_error();
        return Err(Error::new(
            Code::Io,
            format!("cannot get random bytes for a MAC address: {error}"),
        ));
    }
    // Locally administered, of one interface.
    octets[0] = octets[0] & 0xfe | 0x02;
    Ok(Mac(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_called_after_its_network() {
        assert_eq!(default_name("blue"), "br-blue");
        assert_eq!(default_name("twelve-bytes"), "br-twelve-bytes");
        let long = default_name("a-network-with-a-long-name");
        assert_eq!(long.len(), 15);
        assert!(long.starts_with("br-"));
        assert_ne!(long, default_name("another-network-with-a-long-name"));
    }
}

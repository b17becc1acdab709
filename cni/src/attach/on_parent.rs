//! Modes `macvlan` and `ipvlan`: a link of the container's own on an interface of the host.
//!
//! - `macvlan`, and `ipvlan` of mode `l2`: on the parent's own link, with its routers and other hosts. Addresses
//!   are of that link's subnets, and the host itself is not reached (the kernel's rule).
//! - `ipvlan` of modes `l3` and `l3s`: each address stands alone, and the subnets are routed to the host.
//! - A VLAN of the parent is made when it is not there, and stays: others may use it.

use std::os::fd::AsFd as _;

use cni::ipam::Gateways;
use cni::spec::{Code, Error, Mode, Success};
use kernel::link::{self, By, LinkDetails};
use kernel::{
    Failure, IpvlanMode, LinkChange, MacvlanMode, Netlink, Requests, VirtualKind, VirtualLink,
};

use super::on_link::{self, OnLink};
use super::steps::Steps;
use super::{Attached, Attachment, addressing, remove_link, requested_mac, shape};
use crate::answer::{refused, unheard};
use crate::mark::host_name;
use crate::request::Request;

mod one_mode;

/// The note on a VLAN link of ours.
const VLAN_NOTE: &str = "routeshare-vlan";
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// What the container gets, by its configuration.
fn kind(request: &Request) -> Result<VirtualKind, Error> {
    let config = &request.config;
    let one_of = |field: &str, found: &str, all: &str| {
        shape::invalid(format!("{field} is {found:?}; must be one of {all}"))
    };
    Ok(match config.mode {
        Mode::Macvlan => {
            VirtualKind::Macvlan(match config.macvlan_mode.as_deref().unwrap_or("bridge") {
                "bridge" => MacvlanMode::Bridge,
                "private" => MacvlanMode::Private,
                "vepa" => MacvlanMode::Vepa,
                "passthru" => MacvlanMode::Passthru,
                other => {
                    return Err(one_of(
                        "macvlanMode",
                        other,
                        "bridge, private, vepa, passthru",
                    ));
                }
            })
        }
        _ => VirtualKind::Ipvlan(match config.ipvlan_mode.as_deref().unwrap_or("l3") {
            "l2" => IpvlanMode::L2,
            "l3" => IpvlanMode::L3,
            "l3s" => IpvlanMode::L3s,
            other => return Err(one_of("ipvlanMode", other, "l2, l3, l3s")),
        }),
    })
}

/// Routers are others' on the parent's link; there are none where addresses stand alone.
pub(super) fn gateways(request: &Request) -> Result<Gateways, Error> {
    Ok(match is_routed(kind(request)?) {
        true => Gateways::Never,
        false => Gateways::AsSaid,
    })
}

fn is_routed(kind: VirtualKind) -> bool {
    matches!(kind, VirtualKind::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s))
}

/// What can be told before anything is made.
pub(super) fn validate(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let config = &request.config;
    let kind = kind(request)?;
    let parent = parent(request, host)?;
    if let Some(mtu) = config.mtu.filter(|mtu| *mtu > parent.mtu) {
        return Err(shape::invalid(format!(
            "mtu is {mtu}, and that of its parent {} is {}",
            parent.name, parent.mtu
        )));
    }
    let Some(id) = config.vlan else {
        return one_mode::check(request, kind, &parent);
    };
    if !VLANS.contains(&id) {
        return Err(shape::invalid(format!("vlan is {id}; must be 1 to 4094")));
    }
    let name = vlan_name(&parent, id)?;
    match find(host, &name)? {
        Some(link) if !is_vlan(&link, &parent, id) => Err(shape::invalid(format!(
            "vlan is {id}, and the host's interface {name} is not this VLAN of {}",
            parent.name
        ))),
        Some(link) => one_mode::check(request, kind, &link),
        None => Ok(()),
    }
}

/// The interface that the configuration names.
fn parent(request: &Request, host: &mut Netlink) -> Result<LinkDetails, Error> {
    let Some(name) = &request.config.parent else {
        return Err(shape::invalid(format!(
            "parent is missing: mode {:?} needs an interface of the host",
            request.config.mode.as_str()
        )));
    };
    let parent = find(host, name)?;
    let parent = parent.ok_or_else(|| {
        shape::invalid(format!(
            "parent is {name}, and the host has no interface of this name"
        ))
    })?;
    match parent.mac {
        Some(mac) if mac.0 != [0; 6] => Ok(parent),
        _ => Err(shape::invalid(format!(
            "parent is {name}, which has no MAC address: it must be an Ethernet interface"
        ))),
    }
}

fn vlan_name(parent: &LinkDetails, id: u16) -> Result<String, Error> {
    let name = format!("{}.{id}", parent.name);
    match name.len() <= shape::IFNAME {
        true => Ok(name),
        false => Err(shape::invalid(format!(
            "vlan is {id}: {name} is longer than the {} bytes of an interface's name; make the VLAN yourself \
             under another name, and name that as the parent",
            shape::IFNAME
        ))),
    }
}

fn is_vlan(link: &LinkDetails, parent: &LinkDetails, id: u16) -> bool {
    link.virtual_kind == Some(VirtualKind::Vlan(id)) && link.parent == Some(parent.index)
}

pub(super) fn add(attachment: &mut Attachment<'_>) -> Result<Success, Error> {
    let request = attachment.request;
    let kind = kind(request)?;
    let addressing = addressing(request, attachment.node)?;
    let inside = OnLink::of(attachment.lease, &addressing, !is_routed(kind));
    let parent = match request.config.vlan {
        None => parent(request, attachment.host)?,
        Some(id) => vlan(request, attachment.host, id)?,
    };
    let made = make(attachment, kind, &parent)?;
    let outcome = rename(attachment, &made).and_then(|there| {
        let routes = inside.set_up(attachment, there.index)?;
        Ok((there, routes))
    });
    let (there, routes) = match outcome {
        Ok(both) => both,
        Err(error) => {
            // The first error is the one to tell.
            remove_link(attachment.container, By::Index(made.index), &made.name).ok();
            return Err(error);
        }
    };
    Ok(Success {
        interfaces: vec![on_link::told(&there, attachment.netns)],
        ips: inside.ips(&addressing, 0),
        routes,
        dns: request.config.dns.clone().unwrap_or_default(),
    })
}

/// The VLAN of the parent, made if it is not there.
fn vlan(request: &Request, host: &mut Netlink, id: u16) -> Result<LinkDetails, Error> {
    let parent = parent(request, host)?;
    let name = vlan_name(&parent, id)?;
    if let Some(found) = find(host, &name)? {
        return Ok(found); // validated
    }
    let mut requests = Requests::new();
    requests.add_virtual_link(&VirtualLink {
        name: &name,
        kind: VirtualKind::Vlan(id),
        parent: Some(parent.index),
        namespace: None,
        mtu: None,
        mac: None,
        group: 0,
        up: true,
    });
    let note = LinkChange {
        alias: Some(VLAN_NOTE),
        ..LinkChange::default()
    };
    requests.set_link(By::Name(&name), &note);
    let mut failures = Vec::new();
    host.carry_out(&mut requests, &mut failures)
        .map_err(|error| unheard(&error))?;
    // Another call was quicker.
    failures.retain(|failure| failure.errno != libc::EEXIST);
    if let Some(failure) = failures.first() {
        let attempt = format!("make {name}, VLAN {id} of {}", parent.name);
        return Err(without_driver(
            refused(&attempt, failure),
            failure,
            "8021q",
            "VLAN_8021Q",
        ));
    }
    find(host, &name)?.ok_or_else(|| {
        Error::new(
            Code::TryAgainLater,
            format!("{name} is gone again: somebody else removed it"),
        )
    })
}

/// The container's interface, off, and under the name that it would have on the host: kernels before 6.13 do
/// not make an `eth0` in the container if the host has one.
fn make(
    attachment: &mut Attachment<'_>,
    kind: VirtualKind,
    parent: &LinkDetails,
) -> Result<LinkDetails, Error> {
    let request = attachment.request;
    let ifname = request.environment.ifname.as_str();
    let name = host_name(&request.environment.container, ifname);
    let mut requests = Requests::new();
    requests.add_virtual_link(&VirtualLink {
        name: &name,
        kind,
        parent: Some(parent.index),
        namespace: Some(attachment.netns.as_fd()),
        mtu: request.config.mtu,
        mac: match kind {
            VirtualKind::Macvlan(_) => requested_mac(request)?,
            _ => None,
        },
        group: 0,
        up: false,
    });
    let mut failures = Vec::new();
    let asked = attachment.host.carry_out(&mut requests, &mut failures);
    asked.map_err(|error| unheard(&error))?;
    let Some(failure) = failures.first() else {
        return on_link::made(attachment, By::Name(&name));
    };
    let (driver, option) = match kind {
        VirtualKind::Macvlan(_) => ("macvlan", "MACVLAN"),
        _ => ("ipvlan", "IPVLAN"),
    };
    let mode = match kind {
        VirtualKind::Macvlan(MacvlanMode::Passthru) => " (passthru)",
        _ => "",
    };
    let attempt = format!(
        "make the {driver} interface {ifname}{mode} on {} in {}",
        parent.name,
        attachment.netns.path().display()
    );
    let error = refused(&attempt, failure);
    Err(match (failure.errno, kind) {
        (libc::EEXIST, _) => error.details(format!(
            "{name} is left of an ADD of this container that was killed: DEL it first"
        )),
        (libc::EINVAL, VirtualKind::Macvlan(_)) => error.details(format!(
            "with passthru, {} has one container and no other macvlan interface",
            parent.name
        )),
        (libc::EBUSY, _) => error.details(format!(
            "{} is a port of a bridge or bond, or has interfaces of another driver (macvlan and ipvlan do not \
             go together)",
            parent.name
        )),
        _ => without_driver(error, failure, driver, option),
    })
}

/// Gives it its name and our note.
fn rename(attachment: &mut Attachment<'_>, made: &LinkDetails) -> Result<LinkDetails, Error> {
    let ifname = attachment.request.environment.ifname.as_str();
    let alias = attachment.mark.to_string();
    let change = LinkChange {
        name: Some(ifname),
        alias: Some(&alias),
        ..LinkChange::default()
    };
    let mut steps = Steps::default();
    let path = attachment.netns.path().display();
    steps.add(
        format!("call the new interface in {path} {ifname}"),
        |requests| {
            requests.set_link(By::Index(made.index), &change);
        },
    );
    match steps.carry_out(attachment.container)?.first() {
        None => on_link::made(attachment, By::Index(made.index)),
        Some((what, failure)) if failure.errno == libc::EEXIST => {
            Err(refused(what, failure).details(super::is_taken(ifname)))
        }
        Some((what, failure)) => Err(refused(what, failure)),
    }
}

fn without_driver(error: Error, failure: &Failure, driver: &str, option: &str) -> Error {
    match failure.errno {
        libc::EOPNOTSUPP => error.details(format!(
            "the kernel has no driver {driver} (CONFIG_{option}): modprobe {driver}"
        )),
        _ => error,
    }
}

pub(super) fn check(attached: &mut Attached<'_>) -> Result<Vec<String>, Error> {
    let request = attached.request;
    let kind = kind(request)?;
    let addressing = addressing(request, attached.node)?;
    let inside = OnLink::of(attached.lease, &addressing, !is_routed(kind));
    let parent = match request.config.vlan {
        None => request.config.parent.clone(),
        Some(id) => Some(vlan_name(&parent(request, attached.host)?, id)?),
    };
    let parent = parent.unwrap_or_default();
    let found = find(attached.host, &parent)?;
    let look = || {
        let (there, mut differs) = on_link::check_interface(attached)?;
        let Some(there) = there else {
            return Ok(differs);
        };
        let name = &there.name;
        if there.virtual_kind != Some(kind) {
            differs.push(format!(
                "the container's {name} is {:?} instead of {kind:?}",
                there.virtual_kind
            ));
        }
        match found {
            None => differs.push(format!("the host has no interface {parent}")),
            Some(found) if there.parent != Some(found.index) => {
                differs.push(format!(
                    "the container's {name} is not on the host's {parent}"
                ));
            }
            Some(found) if !found.up => {
                differs.push(format!("the host's {parent} is switched off"));
            }
            Some(_) => {}
        }
        differs.extend(inside.check(attached, &there)?);
        Ok(differs)
    };
    look().map_err(|error: kernel::NetlinkError| unheard(&error))
}

fn find(host: &mut Netlink, name: &str) -> Result<Option<LinkDetails>, Error> {
    link::find(host, By::Name(name)).map_err(|error| unheard(&error))
}

//! A container of several networks answers by the interface that was asked: what it sends with an address of
//! the second one goes by the routes of that network, though the first one has the default route.
//!
//! Otherwise its answers leave by the first network with the second one's address, and are lost where somebody
//! looks at that: routers, firewalls, and the host (`speaker/src/host/ruleset.rs`).
//!
//! A table of its own for the interface, and a rule for each address. Table and routes go with the interface; a
//! rule without its address means nothing, and goes when the container is attached to a network once more.

use std::net::IpAddr;

use cni::spec::Error;
use ipnetwork::IpNetwork;
use kernel::route::Owner;
use kernel::{Destination, Netlink, NetlinkError, Path, Route, SourceRule, list};

use super::steps::{BEHIND, MAIN, Steps};
use crate::answer::{refused, unheard};

/// A route of such a table: destination and next hop; without one, the destination is on the link.
pub(super) struct Way {
    pub(super) to: IpNetwork,
    pub(super) by: Option<IpAddr>,
    /// The next hop is on the link, though no route says so.
    pub(super) on_link: bool,
}

/// Before the rules that others make without saying where, and before the main table.
const PRIORITY: u32 = 2048;
/// The number of no interface: of all of them.
const ALL: u32 = 0;

/// Has what the container sends with these addresses go by these ways out of the interface.
pub(super) fn arrange(
    container: &mut Netlink,
    interface: u32,
    addresses: &[IpAddr],
    ways: &[Way],
) -> Result<(), Error> {
    let mut steps = Steps::default();
    for rule in left_over(container, interface).map_err(|error| unheard(&error))? {
        let what = format!("remove the rule for {}", rule.source);
        steps.add(what, |requests| requests.remove_source_rule(&rule));
    }
    let owner = Owner {
        table: table(interface),
        protocol: cni::ROUTE_PROTOCOL,
        metric: 0,
    };
    for Way { to, by, on_link } in ways {
        let destination = Destination {
            address: to.network(),
            length: to.prefix(),
        };
        let path = Path {
            gateway: *by,
            interface,
            on_link: *on_link,
        };
        let what = format!("add the route to {to} for what its addresses send");
        steps.add(what, |requests| {
            requests.add_path_route(&owner, destination, &path);
        });
    }
    for address in addresses {
        let what = format!("add the rule for what {address} sends");
        steps.add(what, |requests| {
            requests.add_source_rule(&rule(*address, interface));
        });
    }
    let failed = steps.carry_out(container)?;
    // Somebody else took a rule away just now; a table is left of an interface of this number.
    let is_so = |errno| matches!(errno, libc::ENOENT | libc::EEXIST);
    match failed.iter().find(|(_, failure)| !is_so(failure.errno)) {
        None => Ok(()),
        Some((what, failure)) => Err(refused(what, failure)),
    }
}

/// Whether the container has a default route out of another interface.
pub(super) fn other_default(container: &mut Netlink, interface: u32) -> Result<bool, Error> {
    let other = |route: &Route| {
        let mut paths = route.paths.iter();
        route.destination.length == 0 && paths.any(|path| path.interface != interface)
    };
    let found = list::routes(container, MAIN, other).map_err(|error| unheard(&error))?;
    Ok(!found.is_empty())
}

/// What is not as [`arrange`] left it.
pub(super) fn check(
    container: &mut Netlink,
    interface: u32,
    addresses: &[IpAddr],
) -> Result<Vec<String>, NetlinkError> {
    let there = list::source_rules(container)?;
    let missing = addresses
        .iter()
        .filter(|address| !there.contains(&rule(**address, interface)));
    Ok(missing
        .map(|address| {
            let table = table(interface);
            format!("the container has no rule from {address} to the table {table}")
        })
        .collect())
}

/// Rules of ours whose address the container has no more, or has on an interface of this number now.
fn left_over(container: &mut Netlink, interface: u32) -> Result<Vec<SourceRule>, NetlinkError> {
    let mut rules = list::source_rules(container)?;
    rules.retain(|rule| rule.protocol == cni::ROUTE_PROTOCOL);
    if rules.is_empty() {
        return Ok(rules);
    }
    let there = list::addresses(container, ALL)?;
    rules.retain(|rule| {
        let mut of_it = there.iter().filter(|it| it.address == rule.source);
        !of_it.any(|it| rule.table == table(it.interface) && it.interface != interface)
    });
    Ok(rules)
}

fn rule(source: IpAddr, interface: u32) -> SourceRule {
    SourceRule {
        source,
        table: table(interface),
        priority: PRIORITY,
        protocol: cni::ROUTE_PROTOCOL,
    }
}

fn table(interface: u32) -> u32 {
    BEHIND + interface
}

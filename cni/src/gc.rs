//! GC: removes what the runtime no longer knows: interfaces, routes and leases of this network.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use cni::leases::Snapshot;
use cni::spec::Error;
use cni::spec::config::Attachment;
use kernel::link::By;
use kernel::{Netlink, Requests, Route, list};

use crate::addresses::{open, unusable};
use crate::answer::{refused, unheard};
use crate::attach;
use crate::mark::Mark;
use crate::netns::{Netns, host_netlink};
use crate::request::{Request, now};

/// Interfaces before leases, as at DEL. Goes on where something cannot be removed, and says so at
/// the end.
///
/// # Errors
///
/// Those of the specification.
pub(crate) fn gc(request: &Request) -> Result<(), Error> {
    let network = request.config.name.as_str();
    let snapshot = Snapshot::read(request.data_dir(), &now()?).map_err(|error| unusable(&error))?;
    let keep = Keep::read(request, &snapshot);
    let keep = |container: &str, ifname: &str| keep.has(container, ifname);
    let mut host = host_netlink()?;
    let mut remains = Remains::default();
    interfaces(&mut host, network, keep, &mut remains)?;

    // Those that are only in a container that is still there.
    let over = snapshot.leases.iter().filter(|lease| {
        lease.network == network && !keep(&lease.owner.container, &lease.owner.ifname)
    });
    for owner in over.map(|lease| &lease.owner) {
        let mark = Mark {
            network,
            container: &owner.container,
            ifname: &owner.ifname,
        };
        if let Err(error) = in_container(mark, owner.netns.as_deref()) {
            remains.keep(mark, error);
        }
    }
    let stays = |container: &str, ifname: &str| {
        keep(container, ifname)
            || remains
                .of
                .contains(&(container.to_owned(), ifname.to_owned()))
    };
    let freed = open(request)?.retain(stays);
    freed.map_err(|error| unusable(&error))?;
    routes(request, &mut host)?;
    if open(request)?.all().next().is_none() {
        attach::collect(network, &mut host)?;
    }
    remains.first.map_or(Ok(()), Err)
}

/// What is to stay.
enum Keep<'a> {
    /// What the runtime says.
    Listed(BTreeSet<&'a Attachment>),
    /// The runtime does not say: everything but what was in namespaces that are gone.
    AllBut(BTreeSet<Attachment>),
}

impl Keep<'_> {
    fn read<'a>(request: &'a Request, snapshot: &Snapshot) -> Keep<'a> {
        if let Some(valid) = request.config.valid_attachments() {
            return Keep::Listed(valid.iter().collect());
        }
        let ours = snapshot
            .leases
            .iter()
            .filter(|lease| lease.network == request.config.name);
        let gone = ours.filter(|lease| {
            let netns = lease.owner.netns.as_deref();
            netns.is_some_and(|path| matches!(Netns::find(path.as_ref()), Ok(None)))
        });
        Keep::AllBut(
            gone.map(|lease| attachment(&lease.owner.container, &lease.owner.ifname))
                .collect(),
        )
    }

    fn has(&self, container: &str, ifname: &str) -> bool {
        let attachment = attachment(container, ifname);
        match self {
            Keep::Listed(valid) => valid.contains(&attachment),
            Keep::AllBut(gone) => !gone.contains(&attachment),
        }
    }
}

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment {
        container: container.to_owned(),
        ifname: ifname.to_owned(),
    }
}

/// Attachments whose interfaces could not be removed: their leases stay, too.
#[derive(Default)]
struct Remains {
    of: HashSet<(String, String)>,
    first: Option<Error>,
}

impl Remains {
    fn keep(&mut self, mark: Mark<'_>, error: Error) {
        self.of
            .insert((mark.container.to_owned(), mark.ifname.to_owned()));
        self.first.get_or_insert(error);
    }
}

/// The host's interfaces of this network.
fn interfaces(
    host: &mut Netlink,
    network: &str,
    keep: impl Fn(&str, &str) -> bool,
    remains: &mut Remains,
) -> Result<(), Error> {
    let links = list::links(host).map_err(|error| unheard(&error))?;
    let marked = links
        .iter()
        .filter_map(|link| Some((link, Mark::read(&link.alias)?)));
    let over: Vec<_> = marked
        .filter(|(_, mark)| mark.network == network && !keep(mark.container, mark.ifname))
        .collect();
    let mut requests = Requests::new();
    for (link, _) in &over {
        requests.remove_link(By::Index(link.index));
    }
    let mut failures = Vec::new();
    host.carry_out(&mut requests, &mut failures)
        .map_err(|error| unheard(&error))?;
    for failure in failures
        .iter()
        .filter(|failure| failure.errno != libc::ENODEV)
    {
        let (link, mark) = &over[failure.request];
        let attempt = format!("remove the interface {}", link.name);
        remains.keep(*mark, refused(&attempt, failure));
    }
    Ok(())
}

/// The container's interface, where the container is still there.
fn in_container(mark: Mark<'_>, netns: Option<&str>) -> Result<(), Error> {
    let Some(path) = netns else { return Ok(()) };
    match Netns::find_to_remove(path.as_ref())? {
        Some(netns) => attach::remove_marked(&netns, mark.ifname, mark),
        None => Ok(()),
    }
}

/// Routes to containers go with their interfaces. One that somebody made stay otherwise goes when
/// nobody has its address. Those over a container's interface that is there are its own: it may be written
/// down elsewhere, in another `dataDir`.
fn routes(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let is_ours = |route: &Route| {
        let length = if route.destination.address.is_ipv4() {
            32
        } else {
            128
        };
        route.owner.protocol == cni::ROUTE_PROTOCOL && route.destination.length == length
    };
    let found = list::routes(host, MAIN, is_ours).map_err(|error| unheard(&error))?;
    if found.is_empty() {
        return Ok(());
    }
    // Read after the routes: a lease is there before its route.
    let snapshot = Snapshot::read(request.data_dir(), &now()?).map_err(|error| unusable(&error))?;
    let leases = snapshot.leases.iter();
    let leased: HashSet<IpAddr> = leases
        .flat_map(|of| of.addresses.iter().map(|a| a.ip()))
        .collect();
    let over = |route: &&Route| !leased.contains(&route.destination.address);
    if !found.iter().any(|route| over(&route)) {
        return Ok(());
    }
    let links = list::links(host).map_err(|error| unheard(&error))?;
    let marked = links
        .iter()
        .filter(|link| Mark::read(&link.alias).is_some());
    let marked: HashSet<u32> = marked.map(|link| link.index).collect();
    let is_owned = |route: &Route| {
        let mut paths = route.paths.iter();
        paths.any(|path| marked.contains(&path.interface))
    };
    let mut requests = Requests::new();
    for route in found.iter().filter(over).filter(|route| !is_owned(route)) {
        requests.remove_route(&route.owner, route.destination, None);
    }
    let mut failures = Vec::new();
    host.carry_out(&mut requests, &mut failures)
        .map_err(|error| unheard(&error))?;
    let failure = failures.iter().find(|failure| failure.errno != libc::ESRCH);
    failure.map_or(Ok(()), |failure| {
        Err(refused(
            "remove the route of a container that is gone",
            failure,
        ))
    })
}

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

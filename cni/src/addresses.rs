//! Out of which ranges a container gets its addresses, and the lease on them.

use std::thread;
use std::time::{Duration, Instant};

use cni::leases::{
    AllocateError, Durable, Exhausted, Lease, Leases, LogError, Range, Request as Wanted, Snapshot,
};
use cni::node::NodeFile;
use cni::spec::{Code, Error, Mode};

use crate::attach;
use crate::request::{Request, chain, now};

/// For networks with subnets of their own on a host without a node file.
const COOLDOWN: Duration = Duration::from_secs(60);

/// How long an ADD waits for a further subnet; a runtime waits some minutes for an ADD.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it looks whether there is one.
const LOOK: Duration = Duration::from_millis(50);

/// A lease, and whether this call began it: what was there before outlives a failure of ours.
pub(crate) struct Leased {
    pub(crate) lease: Lease,
    pub(crate) durable: Durable,
    pub(crate) is_new: bool,
}

/// Takes addresses for the container and writes down that it has them.
///
/// When the node's subnets have none left, a further one may be on its way (the speaker asks for it before
/// that, but containers may come faster), or the first cool-down nearly over: it is waited for a while.
pub(crate) fn lease(request: &Request, node: Option<&NodeFile>) -> Result<Leased, Error> {
    let give_up = Instant::now() + PATIENCE;
    let mut newer = None;
    loop {
        let error = match attempt(request, newer.as_ref().or(node))? {
            Ok(leased) => return Ok(leased),
            Err(error) => error,
        };
        let left = give_up.saturating_duration_since(Instant::now());
        let soon = |exhausted: &Exhausted| exhausted.next.is_some_and(|next| next.after < left);
        let worth_it = match &error {
            AllocateError::Exhausted(exhausted) => request.needs_node_file() || soon(exhausted),
            _ => false,
        };
        if !worth_it || left.is_zero() {
            return Err(refused(request, &error));
        }
        thread::sleep(LOOK.min(left));
        newer = request.node_file()?;
    }
}

/// The inner result is whether there was an address.
fn attempt(
    request: &Request,
    node: Option<&NodeFile>,
) -> Result<Result<Leased, AllocateError>, Error> {
    let wanted = Wanted {
        ranges: ranges(request, node)?,
        requested: request.requested()?,
        cooldown: node.map_or(COOLDOWN, |node| Duration::from_secs(node.cooldown_seconds)),
    };
    let environment = &request.environment;
    let leases = open(request)?;
    if let Some(other) = leases.elsewhere(&environment.container, &environment.ifname) {
        return Err(Error::new(
            Code::InvalidEnvironment,
            format!(
                "CNI_IFNAME is {}, by which the container {} is attached to the network {} already",
                environment.ifname, environment.container, other.network
            ),
        )
        .details("DEL it there first, or choose another CNI_IFNAME"));
    }
    let before = leases.of(&environment.container, &environment.ifname);
    let is_new = before.is_none_or(|lease| lease.earlier_boot);
    let allocated = leases.allocate(request.owner(), &wanted);
    Ok(allocated.map(|(lease, durable)| Leased {
        lease,
        durable,
        is_new,
    }))
}

/// Ends the lease of the attachment, if it has one.
pub(crate) fn release(request: &Request) -> Result<(), Error> {
    let environment = &request.environment;
    let ended = open(request)?.release(&environment.container, &environment.ifname);
    ended.map(drop).map_err(|error| unusable(&error))
}

/// Ends what leases there are for this interface of the container, whatever its network was called at ADD.
pub(crate) fn release_everywhere(request: &Request) -> Result<(), Error> {
    let environment = &request.environment;
    // Where there never was a lease, none is looked for: nothing is made on such a host.
    let log = Snapshot::path(request.data_dir());
    if log.parent().is_some_and(|directory| !directory.exists()) {
        return Ok(());
    }
    let ended = open(request)?.release_everywhere(&environment.container, &environment.ifname);
    ended.map(drop).map_err(|error| unusable(&error))
}

/// The network's leases, locked.
pub(crate) fn open(request: &Request) -> Result<Leases, Error> {
    let leases = Leases::open(request.data_dir(), &request.config.name, now()?);
    leases.map_err(|error| unusable(&error))
}

/// The leases cannot be read or written.
pub(crate) fn unusable(error: &LogError) -> Error {
    Error::new(Code::Io, chain(error))
}

fn refused(request: &Request, error: &AllocateError) -> Error {
    let code = match error {
        _ if error.is_temporary() => Code::TryAgainLater,
        AllocateError::Log(_) => Code::Io,
        _ => Code::NoAddress,
    };
    let advice = match error {
        AllocateError::Exhausted(_) if request.needs_node_file() => {
            "the node is given a further subnet when its Pool has one left (`bgpctl show subnets` says what it \
             has); otherwise end containers, or add a prefix to the Pool"
        }
        AllocateError::Exhausted(_) => {
            "end containers, or give the network more addresses: ipam.subnets, their ranges and reserved"
        }
        _ => "",
    };
    Error::new(code, chain(error)).details(advice)
}

fn ranges(request: &Request, node: Option<&NodeFile>) -> Result<Vec<Range>, Error> {
    let ipam = request.config.ipam.as_ref();
    let pool = ipam.and_then(|ipam| ipam.pool.as_deref());
    let ranges = match (request.config.mode, node) {
        (Mode::Routed, Some(node)) => Range::of_node_file(node, pool, Range::routed),
        _ => attach::addressing(request, node)?.ranges,
    };
    if ranges.is_empty() && request.needs_node_file() {
        return Err(no_subnet(request, pool));
    }
    Ok(ranges)
}

/// The node has no subnet for the network: one may come.
pub(crate) fn no_subnet(request: &Request, pool: Option<&str>) -> Error {
    let path = NodeFile::path(request.data_dir());
    let of = pool.map_or(String::new(), |pool| format!(" out of the Pool {pool}"));
    Error::new(
        Code::TryAgainLater,
        format!(
            "this node has no subnet for pods{of}, says {}",
            path.display()
        ),
    )
    .details(match pool {
        Some(pool) => format!(
            "is there a Pool {pool}, and does it select this node? `bgpctl show subnets`, which asks the \
             controller, says what the node has"
        ),
        None => "`bgpctl show status` on this node and `bgpctl show nodes`, which asks the controller, say \
                 why none was given; on a host without a controller spec.subnets of its Node are its subnets"
            .to_owned(),
    })
}

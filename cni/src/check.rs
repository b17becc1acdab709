//! CHECK: is a container attached as ADD left it?

use cni::leases::{Lease, Snapshot};
use cni::spec::{Code, Error, Mode, Success};

use crate::addresses::unusable;
use crate::attach::{self, Attached, loopback};
use crate::netns::{Netns, host_netlink};
use crate::request::{Request, now};

/// # Errors
///
/// [`Code::Differs`] with everything that is not as it should be; those of the specification.
pub(crate) fn check(request: &Request) -> Result<(), Error> {
    let (environment, config) = (&request.environment, &request.config);
    let Some(result) = &config.prev_result else {
        return Err(Error::new(
            Code::InvalidConfig,
            "the network configuration has no prevResult: CHECK compares with what ADD said",
        ));
    };
    if config.mode == Mode::Host {
        return Ok(());
    }
    let path = environment.netns.as_deref();
    let netns = Netns::open(path.expect("the environment of a CHECK has it"))?;
    let mut container = netns.netlink()?;
    if config.mode == Mode::None {
        return differs(request, loopback::check(&mut container)?);
    }
    let snapshot = Snapshot::read(request.data_dir(), &now()?).map_err(|error| unusable(&error))?;
    let mut leases = snapshot.leases.iter();
    let lease =
        leases.find(|lease| lease.is_of(&config.name, &environment.container, &environment.ifname));
    let Some(lease) = lease else {
        return Err(Error::new(
            Code::UnknownContainer,
            format!(
                "{} of container {} has no lease in {}",
                environment.ifname,
                environment.container,
                request.data_dir().display()
            ),
        )
        .details(
            "it was never attached, or is detached: the address may be another container's by now",
        ));
    };
    let mut found = as_leased(request, result, lease);
    // What the node gives to others by now, or does not say, is no matter of this container.
    let node = request.node_file().ok().flatten();
    found.extend(attach::check(&mut Attached {
        request,
        node: node.as_ref(),
        result,
        lease,
        mark: attach::mark_of(request),
        netns: &netns,
        host: &mut host_netlink()?,
        container: &mut container,
    })?);
    differs(request, found)
}

/// Do the addresses of the interface in the result of ADD agree with the lease?
fn as_leased(request: &Request, result: &Success, lease: &Lease) -> Vec<String> {
    let ifname = &request.environment.ifname;
    let ours = |place: usize| {
        let interface = result.interfaces.get(place);
        interface.is_some_and(|it| it.name == *ifname && !it.sandbox.is_empty())
    };
    let ips = result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_some_and(ours));
    let mut told: Vec<_> = ips.map(|ip| ip.address.ip()).collect();
    let mut leased: Vec<_> = lease.addresses.iter().map(|address| address.ip()).collect();
    told.sort();
    leased.sort();
    if told == leased {
        return Vec::new();
    }
    vec![format!(
        "prevResult gives {ifname} the addresses {told:?}, the lease {leased:?}"
    )]
}

fn differs(request: &Request, found: Vec<String>) -> Result<(), Error> {
    if found.is_empty() {
        return Ok(());
    }
    let environment = &request.environment;
    Err(Error::new(
        Code::Differs,
        format!(
            "{} of container {} is not as ADD left it: {}",
            environment.ifname,
            environment.container,
            found.join("; ")
        ),
    )
    .details("start the container anew (DEL and ADD)"))
}

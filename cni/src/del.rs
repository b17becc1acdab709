//! DEL: detaches a container, however much of it is there, and whatever the network's configuration
//! says by now: its name, too, may be another one than at ADD.

use cni::leases::Snapshot;
use cni::spec::Error;

use crate::addresses;
use crate::attach;
use crate::netns::{Netns, host_netlink};
use crate::request::{Request, now};

/// Interfaces first, then the lease: an address is never free while somebody has it.
///
/// # Errors
///
/// Those of the specification, for the runtime.
pub(crate) fn del(request: &Request) -> Result<(), Error> {
    let mut host = host_netlink()?;
    if !attach::see_off(request, &mut host)? {
        // Nothing of it on the host: its interface may be the container's alone.
        let netns = match request.environment.netns.as_deref() {
            Some(path) => Netns::find_to_remove(path)?,
            None => netns_of_lease(request)?,
        };
        if let Some(netns) = netns {
            attach::remove_in(&netns, request)?;
        }
    }
    addresses::release_everywhere(request)
}

/// Where it was, by what was written down at ADD.
fn netns_of_lease(request: &Request) -> Result<Option<Netns>, Error> {
    let environment = &request.environment;
    let snapshot = Snapshot::read(request.data_dir(), &now()?);
    let snapshot = snapshot.map_err(|error| addresses::unusable(&error))?;
    let mut leases = snapshot.leases.iter().rev();
    let lease = leases.find(|lease| lease.is_for(&environment.container, &environment.ifname));
    match lease.and_then(|lease| lease.owner.netns.as_deref()) {
        Some(path) => Netns::find_to_remove(path.as_ref()),
        None => Ok(None),
    }
}

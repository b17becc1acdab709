//! STATUS: can ADD be served?

use cni::leases::Snapshot;
use cni::node::{NodeFile, State};
use cni::spec::{Code, Error, Mode};

use crate::addresses::{no_subnet, unusable};
use crate::attach;
use crate::netns::host_netlink;
use crate::request::{Request, now};

/// That addresses are used up, for a while, is no error: a runtime would take the whole node for
/// broken.
///
/// # Errors
///
/// [`Code::NotAvailable`], [`Code::NotAvailableLimited`].
pub(crate) fn status(request: &Request) -> Result<(), Error> {
    let config = &request.config;
    if matches!(config.mode, Mode::Host | Mode::None) {
        return Ok(());
    }
    let node = request.node_file().map_err(not_available)?;
    if let (Some(node), true) = (&node, request.needs_node_file()) {
        let pool = config.ipam.as_ref().and_then(|ipam| ipam.pool.as_deref());
        let mut active = node
            .active()
            .filter(|of| pool.is_none_or(|pool| of.pool == pool));
        if active.next().is_none() {
            return Err(not_available(no_active_subnet(request, node, pool)));
        }
    }
    let read = now()
        .and_then(|now| Snapshot::read(request.data_dir(), &now).map_err(|error| unusable(&error)));
    read.map_err(not_available)?;
    Snapshot::check_writable(request.data_dir())
        .map_err(|error| not_available(unusable(&error)))?;
    let mut host = host_netlink()?;
    attach::validate(request, &mut host).map_err(not_available)?;
    if config.mode == Mode::Routed {
        forwards(node.as_ref())?;
    }
    Ok(())
}

/// Of all that a routed container needs of the host, this is what others switch off.
fn forwards(node: Option<&NodeFile>) -> Result<(), Error> {
    let subnets = node.map_or(&[][..], |node| &node.subnets);
    for (v4, path) in [
        (true, "/proc/sys/net/ipv4/ip_forward"),
        (false, "/proc/sys/net/ipv6/conf/all/forwarding"),
    ] {
        let has_family = subnets.iter().any(|subnet| subnet.prefix.is_ipv4() == v4);
        let value = std::fs::read_to_string(path).unwrap_or_default();
        if has_family && value.trim() != "1" {
            return Err(Error::new(
                Code::NotAvailableLimited,
                format!("the host does not forward: {path} is {:?}", value.trim()),
            )
            .details(
                "set it to 1; routeshare-speaker does where it is started with --cni-conf-dir, and \
                 `bgpctl show status` on this node says (Forwarding) if it cannot",
            ));
        }
    }
    Ok(())
}

fn no_active_subnet(request: &Request, node: &NodeFile, pool: Option<&str>) -> Error {
    let mut error = no_subnet(request, pool);
    if node
        .subnets
        .iter()
        .any(|subnet| subnet.state == State::Draining)
    {
        error.details =
            "those it has are being drained: containers keep their addresses, and no other \
                         gets one"
                .into();
    }
    error
}

fn not_available(error: Error) -> Error {
    Error {
        code: Code::NotAvailable,
        ..error
    }
}

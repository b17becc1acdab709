//! Mode `none`: the container's loopback interface is switched on, and it has no other.

use cni::spec::{Address, Error, Interface, Success};
use kernel::link::By;
use kernel::{LinkChange, Netlink, Requests};

use crate::answer::{refused, unheard};
use crate::netns::Netns;

/// The kernel gives it to every namespace first.
pub(super) const INDEX: u32 = 1;

/// Switches it on.
pub(crate) fn add(netns: &Netns) -> Result<Success, Error> {
    let mut container = netns.netlink()?;
    let mut requests = Requests::new();
    requests.set_link(
        By::Index(INDEX),
        &LinkChange {
            up: Some(true),
            ..LinkChange::default()
        },
    );
    let mut failures = Vec::new();
    container
        .carry_out(&mut requests, &mut failures)
        .map_err(|error| unheard(&error))?;
    if let Some(failure) = failures.first() {
        return Err(refused("switch on the container's interface lo", failure));
    }
    let addresses =
        kernel::list::addresses(&mut container, INDEX).map_err(|error| unheard(&error))?;
    let ips = addresses.into_iter().filter_map(|of| {
        Some(Address {
            address: ipnetwork::IpNetwork::new(of.address, of.length).ok()?,
            gateway: None,
            interface: Some(0),
        })
    });
    Ok(Success {
        interfaces: vec![Interface {
            name: "lo".into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: netns.path().display().to_string(),
            ..Interface::default()
        }],
        ips: ips.collect(),
        ..Success::default()
    })
}

/// What is not as [`add`] left it.
pub(crate) fn check(container: &mut Netlink) -> Result<Vec<String>, Error> {
    let found = kernel::link::find(container, By::Index(INDEX)).map_err(|error| unheard(&error))?;
    match found {
        Some(link) if link.up => Ok(Vec::new()),
        _ => Ok(vec!["the container's interface lo is switched off".into()]),
    }
}

//! The modes: how a container is attached. A mode has a file with
//!
//! - `add`: makes interfaces, addresses and routes, or nothing;
//! - `check`: says what is not as `add` left it.
//!
//! Taking away is the same for all ([`remove`]): what is on the host goes by its name, which depends on
//! nothing but container and interface; what is only in the container goes by the note on it.

pub(crate) mod loopback;
mod routed;

use cni::leases::Lease;
use cni::node::NodeFile;
use cni::spec::{Code, Error, Mode, Success};
use kernel::link::{self, By};
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
    /// The result of the whole chain.
    pub(crate) result: &'a Success,
    pub(crate) lease: &'a Lease,
    pub(crate) mark: Mark<'a>,
    pub(crate) netns: &'a Netns,
    pub(crate) host: &'a mut Netlink,
    pub(crate) container: &'a mut Netlink,
}

/// Makes the interfaces. What a failed call made is gone again; what was there before is not.
pub(crate) fn add(attachment: &mut Attachment<'_>) -> Result<Success, Error> {
    match attachment.request.config.mode {
        Mode::Routed => routed::add(attachment),
        Mode::Host | Mode::None => Ok(Success::default()),
        mode => Err(unknown(mode)),
    }
}

/// What is not as [`add`] left it, in words for people.
pub(crate) fn check(attached: &mut Attached<'_>) -> Result<Vec<String>, Error> {
    match attached.request.config.mode {
        Mode::Routed => routed::check(attached),
        Mode::Host | Mode::None => Ok(Vec::new()),
        mode => Err(unknown(mode)),
    }
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

/// Takes away the container's interface, if it is there and ours.
pub(crate) fn remove_in(netns: &Netns, request: &Request) -> Result<(), Error> {
    let environment = &request.environment;
    let ours = Mark {
        network: &request.config.name,
        container: &environment.container,
        ifname: &environment.ifname,
    };
    remove_marked(netns, &environment.ifname, ours)
}

/// Takes away the interface `ifname` in a namespace if it bears this note.
pub(crate) fn remove_marked(netns: &Netns, ifname: &str, ours: Mark<'_>) -> Result<(), Error> {
    let mut container = netns.netlink()?;
    let found = link::find(&mut container, By::Name(ifname)).map_err(|error| unheard(&error))?;
    if let Some(link) = found
        && Mark::read(&link.alias) == Some(ours)
    {
        remove_link(&mut container, By::Index(link.index), ifname)?;
    }
    Ok(())
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

fn unknown(mode: Mode) -> Error {
    Error::new(
        Code::UnsupportedField,
        format!(
            "field \"mode\" of the network configuration is {:?}, which is not built in",
            mode.as_str()
        ),
    )
}

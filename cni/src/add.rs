//! ADD: attaches a container.
//!
//! The lease is written first and is durable before the runtime hears of it; then the interface is
//! made. A call that fails takes back what it made itself, and nothing else; one that is killed leaves
//! what DEL and GC find: a lease without an interface, or both.

use cni::spec::{Code, Error, Mode, Success};

use crate::addresses;
use crate::attach::{self, Attachment};
use crate::netns::{Netns, host_netlink};
use crate::request::{Request, chain};

/// # Errors
///
/// Those of the specification, for the runtime.
pub(crate) fn add(request: &Request) -> Result<Success, Error> {
    let (environment, config) = (&request.environment, &request.config);
    let mut result = config.prev_result.clone().unwrap_or_default();
    if config.mode == Mode::Host {
        return Ok(result);
    }
    let node = request.node_file()?;
    let path = environment.netns.as_deref();
    let netns = Netns::open(path.expect("the environment of an ADD has it"))?;
    if config.mode == Mode::None {
        result.append(attach::loopback::add(&netns)?);
        return Ok(result);
    }
    let mark = attach::mark_of(request);
    if !mark.fits() {
        return Err(Error::new(
            Code::InvalidEnvironment,
            format!("network name and CNI_CONTAINERID are too long together: {mark:?}"),
        ));
    }
    let mut host = host_netlink()?;
    attach::validate(request, &mut host)?;
    let mut container = netns.netlink()?;
    let leased = addresses::lease(request, node.as_ref())?;
    let made = attach::add(&mut Attachment {
        request,
        node: node.as_ref(),
        lease: &leased.lease,
        mark,
        netns: &netns,
        host: &mut host,
        container: &mut container,
    });
    let durable = leased
        .durable
        .wait()
        .map_err(|error| Error::new(Code::Io, chain(&error)));
    match (made, durable) {
        (Ok(made), Ok(())) => {
            result.append(made);
            Ok(result)
        }
        (made, durable) => {
            if made.is_ok() {
                attach::remove(request, &mut host, Some(&netns))?;
            }
            // An attachment of the same name that is there stays, and its lease.
            if leased.is_new && !attach::is_there(request, &mut host, &mut container)? {
                addresses::release(request)?;
            }
            Err(made.err().or(durable.err()).expect("one of them failed"))
        }
    }
}

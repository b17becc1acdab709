//! What the kernel has only begun when it answers: workers of its own do the rest, within a millisecond or, on a
//! busy machine, much later. What a container is sent before that is lost, so ADD waits for both.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cni::spec::{Code, Error};
use kernel::link::{self, By};
use kernel::lookup::lookup;
use kernel::{Netlink, RouteKind};

use crate::answer::unheard;

/// Longer than any worker takes on a machine that still works.
const LONGEST: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_micros(300);

/// Waits until packets go out of the host's end of a pair whose other end has been switched on.
///
/// The end that was switched on first had no carrier then. What is sent by it is lost, and a bridge does not
/// send to it, until a worker has noticed the carrier. A kernel since 6.8 does that worker's work for a link that
/// is asked for; older ones are asked again.
pub(super) fn operational(host: &mut Netlink, name: &str) -> Result<(), Error> {
    until(|| {
        let link = link::find(host, By::Name(name)).map_err(|error| unheard(&error))?;
        Ok(link.is_some_and(|link| link.operational))
    })?
    .ok_or_else(|| {
        Error::new(
            Code::TryAgainLater,
            format!(
                "the interface {name} that was made has no carrier after {LONGEST:?}, or is gone"
            ),
        )
        .details("somebody else has removed it, or switched it or its other end off")
    })
}

/// Waits until packets to these addresses of the container are taken in.
///
/// The route that says an IPv6 address is the machine's own is made by a worker, also where no duplicate is looked
/// for.
pub(super) fn local(container: &mut Netlink, addresses: &[IpAddr]) -> Result<(), Error> {
    let v6: Vec<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
    if v6.is_empty() {
        return Ok(());
    }
    until(|| {
        let routes = lookup(container, &v6).map_err(|error| unheard(&error))?;
        let local = |kind| kind == RouteKind::Local;
        Ok(routes
            .iter()
            .all(|route| route.as_ref().is_some_and(|route| local(route.kind))))
    })?
    .ok_or_else(|| {
        Error::new(
            Code::TryAgainLater,
            format!("the kernel takes in no packets for {v6:?} after {LONGEST:?}"),
        )
        .details("somebody else has removed the address, or switched the interface off")
    })
}

/// Asks until it is so; `None` when it never was.
fn until(mut so: impl FnMut() -> Result<bool, Error>) -> Result<Option<()>, Error> {
    let begun = Instant::now();
    while !so()? {
        if begun.elapsed() > LONGEST {
            return Ok(None);
        }
        sleep(PAUSE);
    }
    Ok(Some(()))
}

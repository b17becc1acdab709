//! `ListRoutes`: what was asked for, and the answer page by page.
//!
//! ```text
//!   engine's loop:   page 1 │        │ page 2 │        │ page 3
//!   kernel's thread:        │ join 1 │        │ join 2 │
//!   here:                   │        │ send 1 │        │ send 2
//! ```
//!
//! The loop makes a page, a bounded piece of work that copies no more than bytes; everything else is
//! done here, while it makes the next one. A client that does not read keeps a page or two waiting.

use std::net::IpAddr;
use std::sync::Arc;

use bgp::query::{Cursor, Destinations, RoutePage, RouteQuery, View};
use bgp::types::{Family, Prefix};
use prost::Message as _;
use proto::speaker::v1 as pb;
use tokio::sync::mpsc;
use tonic::Status;

use super::{convert, in_time};
use crate::clock::wall_ms_or_0;
use crate::daemon::Asker;
use crate::fib::{Fib, RouteState};

/// Routes in a page: one turn of the loop, and below the 4 MiB that a gRPC client takes.
const PAGE: usize = 2048;

/// Octets of routes in words after which another message begins, for the same reason.
const OCTETS: usize = 1 << 20;

/// A page, and whom to ask what the kernel has of it.
type Asked = (RoutePage, Option<Arc<Fib>>);

/// Asks the loop for a page.
pub(super) async fn next_page(
    asker: &Asker,
    query: &RouteQuery,
    after: Option<Cursor>,
) -> Result<Asked, Status> {
    let query = query.clone();
    let ask = asker.ask(move |daemon| {
        let page = daemon.engine.routes(&query, after, PAGE);
        page.map(|page| (page, daemon.kernel.fib()))
    });
    let page = ask.await?;
    page.map_err(|error| Status::not_found(error.to_string()))
}

/// Sends the first page and all that follow, until the client goes.
pub(super) async fn send_pages(
    asker: &Asker,
    query: &RouteQuery,
    first: Asked,
    compact: bool,
    sender: &mpsc::Sender<Result<pb::RoutePage, Status>>,
) -> Result<(), Status> {
    let mut asked = Some(first);
    while let Some((page, fib)) = asked {
        let following = async {
            match page.next {
                Some(after) => next_page(asker, query, Some(after)).await.map(Some),
                None => Ok(None),
            }
        };
        let joined = kernel_states(query, &page, fib);
        // The loop is asked first, and makes the next page meanwhile.
        let (following, states) = tokio::join!(following, joined);
        if !page.routes.is_empty() {
            for page in convert(page, states, compact) {
                if sender.send(Ok(page)).await.is_err() {
                    return Ok(());
                }
            }
        }
        asked = following?;
    }
    Ok(())
}

/// What the kernel has of the best routes of a page, in their order; nothing for views of what was
/// said and heard.
async fn kernel_states(
    query: &RouteQuery,
    page: &RoutePage,
    fib: Option<Arc<Fib>>,
) -> Vec<RouteState> {
    let joined = matches!(query.view, View::Best | View::All);
    let Some(fib) = fib.filter(|_| joined) else {
        return Vec::new();
    };
    let best = page.routes.iter().filter(|route| route.best);
    let best: Vec<Prefix> = best.map(|route| route.prefix).collect();
    match best.is_empty() {
        true => Vec::new(),
        false => in_time(fib.route_states(best)).await,
    }
}

/// One message, or several where a route is long in words.
fn convert(page: RoutePage, states: Vec<RouteState>, compact: bool) -> Vec<pb::RoutePage> {
    let mut states = states.into_iter();
    if compact {
        let kernel = match states.len() {
            0 => Vec::new(),
            _ => (page.routes.iter())
                .map(|route| route.best.then(|| states.next()).flatten())
                .map(|state| state.map_or(pb::KernelRoute::Unspecified, convert::kernel_route))
                .collect(),
        };
        let began_ms = wall_ms_or_0(page.began);
        return vec![pb::RoutePage {
            compact: Some(plan::wire::routes::compact(page, began_ms, kernel)),
            ..pb::RoutePage::default()
        }];
    }
    let mut pages = vec![pb::RoutePage::default()];
    let mut octets = 0;
    for row in page.rows() {
        let state = row.best.then(|| states.next()).flatten();
        let route = convert::route(row, state);
        octets += route.encoded_len();
        if octets > OCTETS {
            octets = route.encoded_len();
            pages.push(pb::RoutePage::default());
        }
        if let Some(last) = pages.last_mut() {
            last.routes.push(route);
        }
    }
    pages
}

/// What a person typed where a prefix or an address may stand.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Prefix(Prefix),
    Address(IpAddr),
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Target, Status> {
        if let Ok(address) = text.parse() {
            return Ok(Target::Address(address));
        }
        if !text.contains('/') {
            return Err(Status::invalid_argument(format!(
                "`{text}` is not an address; give a prefix or an address"
            )));
        }
        text.parse().map(Target::Prefix).map_err(|error| {
            Status::invalid_argument(format!("{error}; give a prefix or an address"))
        })
    }
}

pub(super) fn host(address: IpAddr) -> Prefix {
    Prefix::new(address, u8::MAX)
}

pub(super) fn query(request: pb::ListRoutesRequest) -> Result<RouteQuery, Status> {
    let peer = request.peer;
    let needs_peer = |view: fn(String) -> View| match peer.is_empty() {
        false => Ok(view(peer.clone())),
        true => Err(Status::invalid_argument(format!(
            "view `{}` needs a peer",
            request.view
        ))),
    };
    let view = match request.view.as_str() {
        "" | "Best" => View::Best,
        "All" => View::All,
        "Received" => needs_peer(|peer| View::Received { peer })?,
        "Advertised" => needs_peer(|peer| View::Advertised { peer })?,
        other => {
            let allowed = "Best, All, Received, Advertised";
            return Err(Status::invalid_argument(format!(
                "no view `{other}`; there are {allowed}"
            )));
        }
    };
    let family = match request.family.as_str() {
        "" => None,
        "IPv4" => Some(Family::Ipv4),
        "IPv6" => Some(Family::Ipv6),
        other => {
            return Err(Status::invalid_argument(format!(
                "no family `{other}`; IPv4 or IPv6"
            )));
        }
    };
    let destinations = match request.prefix.as_str() {
        "" => Destinations::All,
        text => match Target::parse(text)? {
            Target::Address(address) => Destinations::LongestMatch(host(address)),
            Target::Prefix(prefix) if request.longer_prefixes => Destinations::Longer(prefix),
            Target::Prefix(prefix) if request.longest_match => Destinations::LongestMatch(prefix),
            Target::Prefix(prefix) => Destinations::Exact(prefix),
        },
    };
    Ok(RouteQuery {
        view,
        destinations,
        family,
    })
}

/// Whether a watcher asked for this destination.
pub(super) fn concerns(query: &RouteQuery, prefix: Prefix) -> bool {
    let family = query.family.is_none_or(|family| family == prefix.family());
    family
        && match query.destinations {
            Destinations::All => true,
            Destinations::Exact(wanted) => wanted == prefix,
            Destinations::Longer(wanted) => wanted.contains(prefix),
            // Any of these may be, or have been, the longest match.
            Destinations::LongestMatch(wanted) => prefix.contains(wanted),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(view: &str, prefix: &str) -> pb::ListRoutesRequest {
        pb::ListRoutesRequest {
            view: view.into(),
            prefix: prefix.into(),
            ..pb::ListRoutesRequest::default()
        }
    }

    #[test]
    fn an_address_asks_for_its_longest_match_and_a_prefix_for_itself() {
        let asked = |prefix| query(request("", prefix)).unwrap().destinations;
        assert_eq!(asked(""), Destinations::All);
        assert_eq!(
            asked("192.0.2.1"),
            Destinations::LongestMatch("192.0.2.1/32".parse().unwrap())
        );
        let prefix: Prefix = "192.0.2.0/24".parse().unwrap();
        assert_eq!(asked("192.0.2.0/24"), Destinations::Exact(prefix));
        let longer = pb::ListRoutesRequest {
            longer_prefixes: true,
            ..request("", "192.0.2.0/24")
        };
        assert_eq!(
            query(longer).unwrap().destinations,
            Destinations::Longer(prefix)
        );
    }

    #[test]
    fn wrong_questions_say_what_is_allowed() {
        let refused = |view, prefix| {
            query(request(view, prefix))
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert!(refused("Worst", "").contains("Best, All, Received, Advertised"));
        assert!(refused("Received", "").contains("needs a peer"));
        assert!(
            refused("", "192.0.2.1/24").contains("host") || !refused("", "192.0.2.1/24").is_empty()
        );
        assert!(refused("", "tor-a").contains("give a prefix or an address"));
        assert!(refused("", "10.64.300.0").contains("`10.64.300.0` is not an address"));
    }

    #[test]
    fn a_watcher_of_an_address_hears_of_every_prefix_that_holds_it() {
        let watch = query(request("", "10.1.2.3")).unwrap();
        for (prefix, heard) in [
            ("10.0.0.0/8", true),
            ("10.1.2.0/24", true),
            ("10.1.3.0/24", false),
        ] {
            assert_eq!(concerns(&watch, prefix.parse().unwrap()), heard, "{prefix}");
        }
    }
}

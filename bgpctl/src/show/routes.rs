//! `show routes`: a view of a table, a destination in it, or changes as they happen.
//!
//! Pages are printed as they come; nothing but the first one is kept. `tables` makes columns of
//! them, `texts` the words of a route that came in the compact form, `watch` follows changes.

mod tables;
mod texts;
mod watch;

use plan::wire::routes::CompactPage;
use proto::speaker::v1::{ListRoutesRequest, RoutePage};
use tokio_stream::StreamExt as _;

use self::tables::Tables;
pub(crate) use self::tables::stale;
use self::texts::Texts;
use crate::cli::Routes;
use crate::client::{Connector, Speaker};
use crate::error::Failure;
use crate::output::{List, Output};
use crate::show::Missing;
use crate::view::{OfNode, Route};

pub(crate) async fn show(
    arguments: &Routes,
    connector: &Connector<'_>,
    output: Output,
) -> Result<usize, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let mut missing = Missing::new(output, speakers.len() == 1 && away.is_empty(), away);
    let request = request(arguments);
    if arguments.watch {
        return watch::watch(request, speakers, missing, output).await;
    }
    let mut sink = match output.is_table() {
        true => Sink::Tables(Box::new(Tables::new(output))),
        false => Sink::List(output.list()),
    };
    let mut texts = Texts::new(!output.is_table() || output.is_wide());
    let mut count = 0_u64;
    for mut speaker in speakers {
        match list(&mut speaker, request.clone(), &mut texts, &mut sink).await {
            Ok(routes) => count += routes,
            Err(failure) => missing.note(failure)?,
        }
    }
    sink.finish()?;
    if count == 0 && output.is_table() {
        output.warn(&nothing(arguments));
    }
    Ok(missing.finish())
}

fn request(arguments: &Routes) -> ListRoutesRequest {
    let (view, peer) = match (&arguments.received, &arguments.advertised) {
        (Some(peer), _) => ("Received", peer.clone()),
        (_, Some(peer)) => ("Advertised", peer.clone()),
        _ if arguments.all_paths => ("All", String::new()),
        _ => ("Best", String::new()),
    };
    let prefix = arguments.destination.clone().unwrap_or_default();
    ListRoutesRequest {
        view: view.into(),
        peer,
        longest_match: !prefix.is_empty() && !prefix.contains('/'),
        prefix,
        longer_prefixes: arguments.longer_prefixes,
        family: arguments
            .family
            .map(|family| family.name())
            .unwrap_or_default()
            .into(),
        compact: !arguments.watch,
    }
}

/// What is said instead of an empty table.
fn nothing(arguments: &Routes) -> String {
    match (
        &arguments.destination,
        &arguments.received,
        &arguments.advertised,
    ) {
        (Some(destination), _, _) => {
            format!("no route for {destination}; `bgpctl explain {destination}` says why")
        }
        (_, Some(peer), _) => format!("nothing has been received from {peer}"),
        (_, _, Some(peer)) => format!("nothing has been sent to {peer}"),
        _ => "there are no routes".into(),
    }
}

async fn list(
    speaker: &mut Speaker,
    request: ListRoutesRequest,
    texts: &mut Texts,
    sink: &mut Sink,
) -> Result<u64, Failure> {
    let answer = speaker.client.list_routes(request).await;
    let mut pages = answer
        .map_err(|status| speaker.refused(status))?
        .into_inner();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|status| speaker.refused(status))?;
        count += push_page(page, speaker, texts, sink)?;
    }
    Ok(count)
}

/// Prints a page; how many routes it has.
fn push_page(
    page: RoutePage,
    speaker: &Speaker,
    texts: &mut Texts,
    sink: &mut Sink,
) -> Result<u64, Failure> {
    let node = speaker.node.as_deref();
    // From a speaker that does not know the compact form.
    for route in &page.routes {
        sink.push(node, &Route::from(route))?;
    }
    let mut count = page.routes.len();
    if let Some(compact) = page.compact {
        let compact = CompactPage::new(compact)
            .map_err(|error| Failure::Answer(format!("{} sent {error}", speaker.name())))?;
        count += compact.len();
        texts.begin(&compact);
        for route in compact.routes() {
            sink.push(node, &texts.route(&route))?;
        }
    }
    Ok(count as u64)
}

/// Where routes go.
enum Sink {
    Tables(Box<Tables>),
    List(List),
}

impl Sink {
    fn push(&mut self, node: Option<&str>, route: &Route<'_>) -> Result<(), Failure> {
        match self {
            Sink::Tables(tables) => tables.push(node, route),
            Sink::List(list) => list.push(&OfNode {
                node: node.map(str::to_owned),
                answer: route,
            }),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Sink::Tables(tables) => tables.finish(),
            Sink::List(list) => list.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, Show};

    fn parsed(words: &str) -> ListRoutesRequest {
        let words = ["bgpctl", "show", "routes"]
            .into_iter()
            .chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Show(Show::Routes(arguments)) => request(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_asks_for_its_longest_match_and_a_prefix_for_itself() {
        assert!(parsed("10.64.1.7").longest_match);
        assert!(!parsed("10.64.1.0/24").longest_match);
        assert!(!parsed("").longest_match);
    }

    #[test]
    fn each_view_is_a_table_of_the_rfc() {
        assert_eq!(parsed("").view, "Best");
        assert_eq!(parsed("--all-paths").view, "All");
        let received = parsed("--received tor --family ipv6");
        assert_eq!(
            (received.view.as_str(), received.peer.as_str()),
            ("Received", "tor")
        );
        assert_eq!(received.family, "IPv6");
        assert_eq!(parsed("--advertised tor").view, "Advertised");
        assert!(parsed("--all-paths").compact && !parsed("--watch").compact);
    }
}

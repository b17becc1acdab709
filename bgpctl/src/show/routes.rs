//! `show routes`: a view of a table, a destination in it, or changes as they happen.
//!
//! Pages are printed as they come; nothing but the first one is kept.

use std::io::{BufWriter, Stdout, Write as _};

use proto::speaker::v1::{Attributes, ListRoutesRequest, Route, RouteChange};
use tokio_stream::{StreamExt as _, StreamMap};

use crate::cli::Routes;
use crate::client::{Connector, Speaker};
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, List, Output, SOON};
use crate::show::Missing;
use crate::table::{Cell, Column, Table};
use crate::time::{age, clock, now};
use crate::view::{self, OfNode};

pub(crate) async fn show(
    arguments: &Routes,
    connector: &Connector<'_>,
    output: Output,
) -> Result<usize, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let mut missing = Missing::new(output, speakers.len() == 1 && away.is_empty(), away);
    let request = request(arguments);
    if arguments.watch {
        return watch(request, speakers, missing, output).await;
    }
    let mut sink = match output.is_table() {
        true => Sink::Tables(Tables::new(output)),
        false => Sink::List(output.list()),
    };
    let mut count = 0_u64;
    for mut speaker in speakers {
        match list(&mut speaker, request.clone(), &mut sink).await {
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
    sink: &mut Sink,
) -> Result<u64, Failure> {
    let answer = speaker.client.list_routes(request).await;
    let mut pages = answer
        .map_err(|status| speaker.refused(status))?
        .into_inner();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        for route in page.map_err(|status| speaker.refused(status))?.routes {
            sink.push(speaker.node.as_deref(), &route)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Where routes go.
enum Sink {
    Tables(Tables),
    List(List),
}

impl Sink {
    fn push(&mut self, node: Option<&str>, route: &Route) -> Result<(), Failure> {
        match self {
            Sink::Tables(tables) => tables.push(node, route),
            Sink::List(list) => list.push(&OfNode {
                node: node.map(str::to_owned),
                answer: view::Route::from(route),
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

/// A table for each run of routes of one family, whose widths then fit.
struct Tables {
    output: Output,
    now: i64,
    family: Option<bool>,
    table: Option<Table<BufWriter<Stdout>>>,
    last: (String, String),
}

impl Tables {
    fn new(output: Output) -> Tables {
        Tables {
            output,
            now: now(),
            family: None,
            table: None,
            last: (String::new(), String::new()),
        }
    }

    fn push(&mut self, node: Option<&str>, route: &Route) -> Result<(), Failure> {
        let ipv6 = route.prefix.contains(':');
        // Nodes are asked one after the other: their tables may take turns between families, which
        // one table has to bear.
        let next_family = self.family.is_some_and(|family| family != ipv6) && node.is_none();
        let mut table = match self.table.take() {
            Some(table) if !next_family => table,
            Some(table) => {
                let mut writer = table.finish()?;
                writer.write_all(b"\n")?;
                Table::new(self.output, writer, columns(self.output))
            }
            None => Table::new(self.output, self.output.writer(), columns(self.output)),
        };
        self.family = Some(ipv6);
        let again = self.last.0 == route.prefix && node.unwrap_or_default() == self.last.1;
        table.push(self.row(node, route, again))?;
        self.table = Some(table);
        if !again {
            self.last = (route.prefix.clone(), node.unwrap_or_default().to_owned());
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self.table {
            Some(table) => table.finish().map(drop),
            None => Ok(()),
        }
    }

    fn row(&self, node: Option<&str>, route: &Route, again: bool) -> Vec<Cell> {
        let none = Attributes::default();
        let attributes = route.attributes.as_ref().unwrap_or(&none);
        let mut row: Vec<Cell> = vec![
            node.unwrap_or_default().into(),
            match again {
                true => Cell::styled(DIM, route.prefix.as_str()),
                false => route.prefix.as_str().into(),
            },
            match attributes.next_hop.as_str() {
                "" => Cell::styled(DIM, "-"),
                next_hop => next_hop.into(),
            },
            match route.peer.as_str() {
                "" => Cell::styled(DIM, "local"),
                peer => peer.into(),
            },
            match attributes.as_path.as_str() {
                "" => Cell::styled(DIM, "-"),
                path => path.into(),
            },
            age(route.since_ms, self.now).into(),
        ];
        if self.output.is_wide() {
            row.extend([
                number(attributes.local_preference),
                number(attributes.med),
                attributes.origin.as_str().into(),
                communities(attributes).into(),
                others(attributes).into(),
            ]);
        }
        row.extend([state(route), kernel(route)]);
        row
    }
}

fn columns(output: Output) -> Vec<Column> {
    let mut columns = vec![
        Column::all_or_none("NODE"),
        // The longest IPv4 prefix; most IPv6 prefixes and every age are not longer.
        Column::text("PREFIX").room(18),
        Column::text("NEXT HOP"),
        Column::text("FROM"),
        Column::text("AS PATH"),
        Column::text("AGE").room(6),
    ];
    if output.is_wide() {
        columns.extend([
            Column::optional("PREF"),
            Column::optional("MED"),
            Column::text("ORIGIN"),
            Column::optional("COMMUNITIES"),
            Column::optional("OTHER"),
        ]);
    }
    columns.extend([Column::optional("STATE"), Column::optional("KERNEL")]);
    columns
}

fn state(route: &Route) -> Cell {
    match (route.best, route.multipath, route.reason.as_str()) {
        (true, _, _) => Cell::styled(GOOD, "best"),
        (_, true, _) => Cell::styled(GOOD, "multipath"),
        (_, _, "") => Cell::default(),
        (_, _, reason) if route.backup => Cell::styled(SOON, format!("backup; {reason}")),
        (_, _, reason) => Cell::styled(SOON, reason),
    }
}

fn kernel(route: &Route) -> Cell {
    let style = match route.kernel.as_str() {
        "Installed" => GOOD,
        "Refused" => BAD,
        "Pending" => SOON,
        _ => DIM,
    };
    let text = match route.kernel.as_str() {
        "NotInstalled" => "not installed".to_owned(),
        word => word.to_lowercase(),
    };
    Cell::styled(style, text)
}

fn number(number: Option<u32>) -> Cell {
    number
        .map(|number| number.to_string())
        .unwrap_or_default()
        .into()
}

fn communities(attributes: &Attributes) -> String {
    let all = [
        &attributes.communities,
        &attributes.large_communities,
        &attributes.extended_communities,
    ];
    let all: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
    all.join(" ")
}

/// What has no column of its own.
fn others(attributes: &Attributes) -> String {
    let mut others = Vec::new();
    if attributes.atomic_aggregate {
        others.push("atomic-aggregate".to_owned());
    }
    if !attributes.aggregator.is_empty() {
        others.push(format!("aggregator {}", attributes.aggregator));
    }
    if !attributes.originator_id.is_empty() {
        others.push(format!("originator {}", attributes.originator_id));
    }
    if !attributes.cluster_list.is_empty() {
        others.push(format!("clusters {}", attributes.cluster_list.join(" ")));
    }
    let unknown = attributes.unknown.iter();
    others.extend(unknown.map(|it| format!("type {} {}", it.r#type, view::hex(&it.value))));
    others.join(", ")
}

/// Prints a line whenever a best route changes, until nobody is left to tell of it.
async fn watch(
    request: ListRoutesRequest,
    speakers: Vec<Speaker>,
    mut missing: Missing,
    output: Output,
) -> Result<usize, Failure> {
    let mut streams = StreamMap::new();
    for (index, mut speaker) in speakers.into_iter().enumerate() {
        match speaker.client.watch_routes(request.clone()).await {
            Ok(answer) => {
                let node = speaker.node.clone();
                drop(streams.insert((index, node), answer.into_inner()));
            }
            Err(status) => missing.note(speaker.refused(status))?,
        }
    }
    let mut list = output.endless_list();
    let mut writer = output.writer();
    while let Some(((_, node), event)) = streams.next().await {
        let change = event.map_err(|status| Failure::Refused {
            who: node.clone().unwrap_or_else(|| "the speaker".into()),
            status: Box::new(status),
        })?;
        if output.is_table() {
            writeln!(writer, "{}", line(output, node.as_deref(), &change))?;
            writer.flush()?;
        } else {
            list.push(&OfNode {
                node,
                answer: view::RouteChange::from(&change),
            })?;
        }
    }
    Ok(missing.finish())
}

fn line(output: Output, node: Option<&str>, change: &RouteChange) -> String {
    let at = output.paint(DIM, &clock(change.at_ms));
    let node = node.map(|node| format!("{node:<12} ")).unwrap_or_default();
    if change.missed {
        let text = "… changes were lost: this reader is too slow, or there are too many";
        return format!("{at}  {node}{}", output.paint(SOON, text));
    }
    let none = Route::default();
    let route = change.route.as_ref().unwrap_or(&none);
    if change.withdrawn {
        return format!("{at}  {node}{} {}", output.paint(BAD, "-"), route.prefix);
    }
    let attributes = route.attributes.clone().unwrap_or_default();
    let from = match route.peer.as_str() {
        "" => "local".to_owned(),
        peer => format!("via {} from {peer}", attributes.next_hop),
    };
    let path = match attributes.as_path.as_str() {
        "" => String::new(),
        path => format!(", AS path {path}"),
    };
    let sign = output.paint(GOOD, "+");
    format!("{at}  {node}{sign} {:<20} {from}{path}", route.prefix)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Color, Command, Format, Show};

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
    }

    #[test]
    fn changes_read_as_a_sentence() {
        let change = RouteChange {
            route: Some(Route {
                prefix: "10.64.1.0/24".into(),
                peer: "tor".into(),
                attributes: Some(Attributes {
                    next_hop: "10.1.0.1".into(),
                    as_path: "65101 65000".into(),
                    ..Attributes::default()
                }),
                ..Route::default()
            }),
            ..RouteChange::default()
        };
        let line = line(Output::new(Format::Table, Color::Never), None, &change);
        let expected = "+ 10.64.1.0/24         via 10.1.0.1 from tor, AS path 65101 65000";
        assert!(line.ends_with(expected), "{line}");
    }
}

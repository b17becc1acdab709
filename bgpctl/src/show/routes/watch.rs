//! Changes of best routes as they happen.

use std::io::Write as _;

use proto::speaker::v1::{ListRoutesRequest, Route, RouteChange};
use tokio_stream::{StreamExt as _, StreamMap};

use crate::client::Speaker;
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON};
use crate::show::Missing;
use crate::time::clock;
use crate::view::{self, OfNode};

/// Prints a line whenever a best route changes, until nobody is left to tell of it.
pub(super) async fn watch(
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
    use proto::speaker::v1::Attributes;

    use super::*;
    use crate::cli::{Color, Format};

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

//! `show bfd`: the BFD sessions beside peers, and how near they are to an alarm.

use proto::bfd::v1::Session;
use proto::speaker::v1::{ListPeersRequest, Peer};

use crate::cli::Bfd;
use crate::client::Connector;
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON};
use crate::show::Missing;
use crate::table::{Cell, Column, Table};
use crate::time::{age, now};
use crate::view::{self, OfNode};

pub(crate) async fn show(
    arguments: &Bfd,
    connector: &Connector<'_>,
    output: Output,
) -> Result<usize, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let mut missing = Missing::new(output, speakers.len() == 1 && away.is_empty(), away);
    let mut found: Vec<(Option<String>, Peer)> = Vec::new();
    for mut speaker in speakers {
        let request = ListPeersRequest {
            peer: arguments.peer.clone().unwrap_or_default(),
        };
        match speaker.client.list_peers(request).await {
            Ok(answer) => {
                let peers = answer.into_inner().peers.into_iter();
                let watched = peers.filter(|peer| peer.bfd.is_some());
                found.extend(watched.map(|peer| (speaker.node.clone(), peer)));
            }
            Err(status) => missing.note(speaker.refused(status))?,
        }
    }
    if !output.is_table() {
        let mut list = output.list();
        for (node, peer) in found {
            list.push(&OfNode {
                node,
                answer: view::WatchedPeer::from(&peer),
            })?;
        }
        list.finish()?;
    } else if found.is_empty() {
        output.warn("no peer has BFD; Peer or Fabric spec.bfd asks for it");
    } else {
        table(output, &found)?;
    }
    Ok(missing.finish())
}

fn table(output: Output, found: &[(Option<String>, Peer)]) -> Result<(), Failure> {
    let mut columns = vec![
        Column::optional("NODE"),
        Column::text("PEER"),
        Column::text("ADDRESS"),
        Column::text("STATE"),
        Column::text("SINCE"),
        Column::text("REMOTE"),
        Column::number("EVERY"),
        Column::number("DOWN AFTER"),
        Column::number("LONGEST"),
        Column::number("DOWNS"),
        Column::number("LATE"),
    ];
    if output.is_wide() {
        columns.extend([
            Column::text("HOPS"),
            Column::text("DISCRIMINATORS"),
            Column::number("SENT"),
            Column::number("RECEIVED"),
            Column::number("REFUSED"),
            Column::number("SENT LATE"),
            Column::text("C BIT"),
            Column::optional("ECHO"),
        ]);
    }
    columns.push(Column::optional("REASON"));
    let mut table = Table::new(output, output.writer(), columns);
    let now = now();
    for (node, peer) in found {
        let Some(it) = &peer.bfd else { continue };
        let mut row: Vec<Cell> = vec![
            node.as_deref().unwrap_or_default().into(),
            peer.name.as_str().into(),
            peer.address.as_str().into(),
            state(it),
            match it.state.as_str() {
                "" => dash(),
                _ => age(it.since_ms, now).into(),
            },
            match it.remote_state.as_str() {
                "" => dash(),
                state => state.into(),
            },
            millis(it.tx_interval_micros),
            millis(it.detection_micros),
            millis(it.longest_silence_micros),
            it.downs.to_string().into(),
            it.late_received.to_string().into(),
        ];
        if output.is_wide() {
            let independent = it.remote_control_plane_independent;
            row.extend([
                Cell::from(if it.multihop { "several" } else { "one" }),
                format!(
                    "{:#010x} {:#010x}",
                    it.discriminator, it.remote_discriminator
                )
                .into(),
                it.sent.to_string().into(),
                it.received.to_string().into(),
                it.discarded.to_string().into(),
                it.late_sent.to_string().into(),
                Cell::from(if independent { "set" } else { "clear" }),
                echo(it),
            ]);
        }
        row.push(Cell::styled(BAD, reason(it)));
        table.push(row)?;
    }
    table.finish().map(drop)
}

fn state(it: &Session) -> Cell {
    match it.state.as_str() {
        "" => Cell::styled(BAD, "not known"),
        "Up" => Cell::styled(GOOD, "Up"),
        "Init" => Cell::styled(SOON, "Init"),
        state => Cell::styled(BAD, state),
    }
}

/// Why it is not Up.
fn reason(it: &Session) -> String {
    if it.state == "Up" {
        return String::new();
    }
    let reason = match (it.remote_state.as_str(), it.ups) {
        ("AdminDown", _) => "the other side is administratively down",
        (_, 0) => "never up",
        _ => it.diagnostic.as_str(),
    };
    match (it.state.as_str(), it.problem.as_str()) {
        ("", problem) => problem.to_owned(),
        (_, "") => reason.to_owned(),
        (_, problem) => format!("{reason}; {problem}"),
    }
}

/// How many Echo packets came back, or why they are of no use.
fn echo(it: &Session) -> Cell {
    match &it.echo {
        None => Cell::default(),
        Some(echo) if !echo.problem.is_empty() => Cell::styled(SOON, echo.problem.as_str()),
        Some(echo) => format!("{} of {} back", echo.returned, echo.sent).into(),
    }
}

fn millis(micros: u64) -> Cell {
    match micros {
        0 => dash(),
        micros => format!("{} ms", micros as f64 / 1000.0).into(),
    }
}

fn dash() -> Cell {
    Cell::styled(DIM, "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_problem_where_nothing_else_is_known() {
        let of = |state: &str, ups, problem: &str| {
            reason(&Session {
                state: state.into(),
                diagnostic: "silence".into(),
                ups,
                problem: problem.into(),
                ..Session::default()
            })
        };
        assert_eq!(of("Up", 1, ""), "");
        assert_eq!(of("", 0, "nobody answers"), "nobody answers");
        assert_eq!(of("Down", 0, ""), "never up");
        assert_eq!(of("Down", 1, ""), "silence");
        assert_eq!(of("Down", 1, "no route"), "silence; no route");
    }
}

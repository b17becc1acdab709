//! `show peers`: all sessions in a table, one of them in full, or their changes as they happen.

use std::io::Write;

use proto::speaker::v1::{FamilyState, Key, ListPeersRequest, Peer, WatchPeersRequest};
use tokio_stream::{StreamExt as _, StreamMap};

use crate::cli::Peers;
use crate::client::{Connector, Speaker};
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON};
use crate::show::Missing;
use crate::table::{Cell, Column, Table};
use crate::time::{age, clock, now};
use crate::view::{self, OfNode};

mod detail;

use detail::detail;

pub(crate) async fn show(
    arguments: &Peers,
    connector: &Connector<'_>,
    output: Output,
) -> Result<usize, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let mut missing = Missing::new(output, speakers.len() == 1 && away.is_empty(), away);
    if arguments.watch {
        return watch(arguments.peer.as_deref(), speakers, missing, output).await;
    }
    let mut peers: Vec<(Option<String>, Peer)> = Vec::new();
    for mut speaker in speakers {
        let request = ListPeersRequest {
            peer: arguments.peer.clone().unwrap_or_default(),
        };
        match speaker.client.list_peers(request).await {
            Ok(answer) => {
                let answer = answer.into_inner().peers.into_iter();
                peers.extend(answer.map(|peer| (speaker.node.clone(), peer)));
            }
            Err(status) => missing.note(speaker.refused(status))?,
        }
    }
    if !output.is_table() {
        let mut list = output.list();
        for (node, peer) in peers {
            list.push(&OfNode {
                node,
                answer: view::Peer::from(&peer),
            })?;
        }
        list.finish()?;
    } else if arguments.peer.is_some() {
        let mut writer = output.writer();
        for (index, (node, peer)) in peers.iter().enumerate() {
            if index > 0 {
                writeln!(writer)?;
            }
            detail(&mut writer, output, node.as_deref(), peer)?;
        }
        writer.flush()?;
    } else if peers.is_empty() {
        output.warn("there are no peers; they are resources of kind Peer");
    } else {
        table(output, &peers)?;
    }
    Ok(missing.finish())
}

fn table(output: Output, peers: &[(Option<String>, Peer)]) -> Result<(), Failure> {
    let mut columns = vec![
        Column::optional("NODE"),
        Column::text("PEER"),
        Column::text("ADDRESS"),
        Column::number("AS"),
        Column::text("STATE"),
        Column::text("SINCE"),
        Column::number("RECEIVED"),
        Column::number("ACCEPTED"),
        Column::number("SENT"),
    ];
    if output.is_wide() {
        columns.extend([
            Column::text("ROUTER ID"),
            Column::text("LOCAL ADDRESS"),
            Column::text("FAMILIES"),
            Column::number("UPS"),
            Column::number("FAULTS"),
            Column::optional("DESCRIPTION"),
        ]);
    }
    columns.push(Column::optional("LAST ERROR"));
    let mut table = Table::new(output, output.writer(), columns);
    let now = now();
    for (node, peer) in peers {
        let sum = |count: fn(&FamilyState) -> u64| peer.families.iter().map(count).sum::<u64>();
        let mut row: Vec<Cell> = vec![
            node.as_deref().unwrap_or_default().into(),
            peer.name.as_str().into(),
            peer.address.as_str().into(),
            peer.remote_asn.to_string().into(),
            state(peer),
            age(peer.since_ms, now).into(),
            sum(|family| family.received).to_string().into(),
            sum(|family| family.accepted).to_string().into(),
            sum(|family| family.advertised).to_string().into(),
        ];
        if output.is_wide() {
            let families = peer.families.iter().filter(|family| family.negotiated);
            let families: Vec<&str> = families.map(|family| family.family.as_str()).collect();
            row.extend([
                or_dash(&peer.remote_router_id),
                or_dash(&peer.local_address),
                or_dash(&families.join(" ")),
                peer.established_count.to_string().into(),
                peer.faults.values().sum::<u64>().to_string().into(),
                peer.description.as_str().into(),
            ]);
        }
        // Of an established session the last error is history; the detail shows it.
        row.push(match peer.state.as_str() {
            "Established" => Cell::default(),
            _ => Cell::styled(BAD, peer.last_error.as_str()),
        });
        table.push(row)?;
    }
    table.finish().map(drop)
}

fn state(peer: &Peer) -> Cell {
    if peer.shutdown.is_some() {
        return Cell::styled(SOON, format!("{} (shut down)", peer.state));
    }
    let has_problem = |key: &Key| !key.problem.is_empty();
    if peer.key.as_ref().is_some_and(has_problem) && peer.state != "Established" {
        return Cell::styled(BAD, format!("{} (no key)", peer.state));
    }
    if peer.over_limit {
        return Cell::styled(BAD, format!("{} (too many prefixes)", peer.state));
    }
    let style = match peer.state.as_str() {
        "Established" => GOOD,
        "OpenSent" | "OpenConfirm" => SOON,
        _ => BAD,
    };
    Cell::styled(style, peer.state.as_str())
}

fn or_dash(text: &str) -> Cell {
    match text {
        "" => Cell::styled(DIM, "-"),
        text => text.into(),
    }
}

/// Prints a line whenever a session changes, until nobody is left to tell of it.
async fn watch(
    wanted: Option<&str>,
    speakers: Vec<Speaker>,
    mut missing: Missing,
    output: Output,
) -> Result<usize, Failure> {
    let mut streams = StreamMap::new();
    for (index, mut speaker) in speakers.into_iter().enumerate() {
        match speaker.client.watch_peers(WatchPeersRequest {}).await {
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
        let who = node.as_deref().unwrap_or("the speaker");
        let peer = event.map_err(|status| Failure::Refused {
            who: who.to_owned(),
            status: Box::new(status),
        })?;
        if wanted.is_some_and(|wanted| wanted != peer.name && wanted != peer.address) {
            continue;
        }
        if !output.is_table() {
            list.push(&OfNode {
                node,
                answer: view::Peer::from(&peer),
            })?;
            continue;
        }
        let node = node.map(|node| format!("{node:<12} ")).unwrap_or_default();
        let state = match peer.state.as_str() {
            "Established" => output.paint(GOOD, "Established"),
            state => output.paint(BAD, &format!("{state:<11}")),
        };
        writeln!(
            writer,
            "{}  {node}{:<16} {state}  {}",
            output.paint(DIM, &clock(peer.since_ms)),
            peer.name,
            if peer.state == "Established" {
                ""
            } else {
                &peer.last_error
            },
        )?;
        writer.flush()?;
    }
    Ok(missing.finish())
}

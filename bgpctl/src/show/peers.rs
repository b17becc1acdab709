//! `show peers`: all sessions in a table, one of them in full, or their changes as they happen.

use std::io::Write;

use proto::controller::v1::PrefixLimits;
use proto::speaker::v1::{
    FamilyState, GracefulRestart, ListPeersRequest, MessageCounts, Peer, WatchPeersRequest,
};
use tokio_stream::{StreamExt as _, StreamMap};

use crate::cli::Peers;
use crate::client::{Connector, Speaker};
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON, TITLE};
use crate::show::Missing;
use crate::table::{Cell, Column, Table};
use crate::time::{age, clock, now, until};
use crate::view::{self, OfNode};

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

/// Everything about one session.
fn detail(
    writer: &mut impl Write,
    output: Output,
    node: Option<&str>,
    peer: &Peer,
) -> Result<(), Failure> {
    let now = now();
    let on = node.map(|node| format!(" on {node}")).unwrap_or_default();
    let kind = match peer.remote_asn == peer.local_asn {
        true => "iBGP",
        false => "eBGP",
    };
    writeln!(
        writer,
        "{}{on}: {} port {}, AS {} ({kind}; we are AS {})",
        output.paint(TITLE, &format!("Peer {}", peer.name)),
        peer.address,
        peer.port,
        peer.remote_asn,
        peer.local_asn,
    )?;
    let mut line = |title: &str, text: String| writeln!(writer, "  {title:<14}{text}");
    if !peer.description.is_empty() {
        line("description", peer.description.clone())?;
    }
    line("state", state_in_words(output, peer, now))?;
    if let Some(text) = &peer.shutdown {
        let text = match text.as_str() {
            "" => "administratively, without a message; `bgpctl enable` ends it".to_owned(),
            text => format!("administratively: “{text}”"),
        };
        line("shut down", text)?;
    }
    if peer.retry_at_ms > now {
        line(
            "next attempt",
            format!("in {}", until(peer.retry_at_ms, now)),
        )?;
    }
    let passive = if peer.passive {
        ", passive (waits for the other side)"
    } else {
        ""
    };
    let ours = match peer.local_address.as_str() {
        "" => "chosen by the kernel".to_owned(),
        address => address.to_owned(),
    };
    line("our address", format!("{ours}{passive}"))?;
    if !peer.remote_router_id.is_empty() {
        line("router id", peer.remote_router_id.clone())?;
    }
    let timers = match (peer.hold_seconds, peer.keepalive_seconds) {
        (0, _) if peer.state != "Established" => "agreed on when the session comes up".to_owned(),
        (0, _) => "the session never expires".to_owned(),
        (hold, keepalive) => format!("hold {hold} s, keepalive {keepalive} s"),
    };
    line("timers", timers)?;
    if let Some(session) = &peer.bfd {
        line("bfd", bfd(output, session, now))?;
    }
    if let Some(limits) = &peer.max_prefixes {
        line("prefix limits", prefix_limits(limits))?;
    }
    if let Some(restart) = &peer.graceful_restart {
        line("restart", graceful_restart(output, restart, peer, now))?;
    }
    line("policies", policies(peer))?;
    let error = match peer.last_error.as_str() {
        "" => "none".to_owned(),
        error => format!("{} ago: {error}", age(peer.last_error_ms, now)),
    };
    line("last error", error)?;
    if !peer.capabilities_received.is_empty() {
        line(
            "both can",
            both(&peer.capabilities_sent, &peer.capabilities_received),
        )?;
        for (title, these, those) in [
            (
                "only we can",
                &peer.capabilities_sent,
                &peer.capabilities_received,
            ),
            (
                "only they can",
                &peer.capabilities_received,
                &peer.capabilities_sent,
            ),
        ] {
            let only = without(these, those);
            if !only.is_empty() {
                line(title, only)?;
            }
        }
    } else {
        line("we offer", peer.capabilities_sent.join(", "))?;
    }
    families(writer, output, peer)?;
    messages(writer, output, peer)?;
    faults(writer, output, peer)
}

fn bfd(output: Output, session: &proto::bfd::v1::Session, now: i64) -> String {
    let hops = if session.multihop {
        "multihop"
    } else {
        "single hop"
    };
    let problem = match session.problem.as_str() {
        "" => String::new(),
        problem => format!("; {problem}"),
    };
    if session.state.is_empty() {
        return format!("{}, {hops}{problem}", output.paint(BAD, "not known"));
    }
    let since = age(session.since_ms, now);
    if session.state == "Up" {
        let times = format!(
            "a packet every {} ms, down after {} ms of silence",
            session.tx_interval_micros as f64 / 1000.0,
            session.detection_micros as f64 / 1000.0
        );
        return format!("{} for {since}, {hops}, {times}", output.paint(GOOD, "Up"));
    }
    let reason = match (session.remote_state.as_str(), session.ups) {
        ("AdminDown", _) => ", the other side is administratively down".to_owned(),
        (_, 0) => ", never up".to_owned(),
        _ => format!(", {}", session.diagnostic),
    };
    let state = output.paint(BAD, &session.state);
    format!("{state} for {since}, {hops}{reason}{problem}")
}

fn state_in_words(output: Output, peer: &Peer, now: i64) -> String {
    let style = match peer.state.as_str() {
        "Established" => GOOD,
        _ => BAD,
    };
    let times = match peer.established_count {
        0 => "never established".to_owned(),
        1 => "established once".to_owned(),
        times => format!("established {times} times"),
    };
    let since = age(peer.since_ms, now);
    format!("{} for {since} ({times})", output.paint(style, &peer.state))
}

/// What happens when one of the two sides restarts.
fn graceful_restart(output: Output, restart: &GracefulRestart, peer: &Peer, now: i64) -> String {
    let covered = peer.families.iter().any(|family| family.graceful_restart);
    let theirs = match restart.peer_seconds {
        None if peer.state != "Established" => String::new(),
        None => "; the other side does not offer it".to_owned(),
        Some(_) if !covered => "; the other side keeps our routes and asks for no more".to_owned(),
        Some(seconds) => format!("; theirs {seconds} s"),
    };
    let notification = match restart.notification {
        true => ", also after a NOTIFICATION",
        false => "",
    };
    let stale: u64 = peer.families.iter().map(|family| family.stale).sum();
    let kept = match restart.stale_until_ms {
        0 => String::new(),
        until_ms => {
            let text = format!(
                "{stale} stale routes kept for {} more",
                until(until_ms, now)
            );
            format!("; {}", output.paint(SOON, &text))
        }
    };
    let ours = restart.restart_seconds;
    format!("graceful, ours {ours} s{theirs}{notification}{kept}")
}

fn policies(peer: &Peer) -> String {
    let external = peer.remote_asn != peer.local_asn;
    let names = |names: &[String]| match (names, external) {
        ([], true) => "none, so nothing passes (RFC 8212)".to_owned(),
        ([], false) => "none, everything passes".to_owned(),
        (names, _) => names.join(", "),
    };
    format!(
        "import {}; export {}",
        names(&peer.import_policies),
        names(&peer.export_policies)
    )
}

fn prefix_limits(limits: &PrefixLimits) -> String {
    let limit = |limit: Option<u32>, family| Some(format!("{} of {family}", limit?));
    let all = [limit(limits.ipv4, "IPv4"), limit(limits.ipv6, "IPv6")];
    let all: Vec<String> = all.into_iter().flatten().collect();
    let beyond = match (limits.action.as_str(), limits.restart_seconds) {
        ("Warn", _) => "with more, the session goes on".to_owned(),
        (_, Some(seconds)) => format!("with more, the session is down for {seconds} s"),
        (_, None) => "with more, the session is down until `bgpctl enable`".to_owned(),
    };
    let percent = limits.warn_at_percent;
    format!("{}; warns at {percent} %; {beyond}", all.join(", "))
}

fn both(ours: &[String], theirs: &[String]) -> String {
    let common: Vec<&str> = ours
        .iter()
        .filter(|name| theirs.contains(name))
        .map(String::as_str)
        .collect();
    match common.is_empty() {
        true => "nothing in common".into(),
        false => common.join(", "),
    }
}

fn without(these: &[String], those: &[String]) -> String {
    let only: Vec<&str> = these
        .iter()
        .filter(|name| !those.contains(name))
        .map(String::as_str)
        .collect();
    only.join(", ")
}

/// A table with two blanks before each line.
fn indented(
    writer: &mut impl Write,
    output: Output,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
) -> Result<(), Failure> {
    let mut table = Table::new(output, Vec::new(), columns);
    for row in rows {
        table.push(row)?;
    }
    let text = table.finish()?;
    writeln!(writer)?;
    for line in String::from_utf8_lossy(&text).lines() {
        writeln!(writer, "  {line}")?;
    }
    Ok(())
}

fn families(writer: &mut impl Write, output: Output, peer: &Peer) -> Result<(), Failure> {
    let yes = |yes: bool| match yes {
        true => Cell::styled(GOOD, "yes"),
        false => Cell::styled(DIM, "no"),
    };
    let columns = vec![
        Column::text("FAMILY"),
        Column::text("NEGOTIATED"),
        Column::number("RECEIVED"),
        Column::number("STALE"),
        Column::number("ACCEPTED"),
        Column::number("BEST"),
        Column::number("SENT"),
        Column::number("TO SEND"),
        Column::text("END-OF-RIB IN"),
        Column::text("OUT"),
        Column::optional("NEXT HOPS"),
    ];
    let rows = peer.families.iter().map(|family| {
        vec![
            family.family.as_str().into(),
            yes(family.negotiated),
            family.received.to_string().into(),
            match family.stale {
                0 => Cell::styled(DIM, "-"),
                stale => Cell::styled(SOON, stale.to_string()),
            },
            family.accepted.to_string().into(),
            family.best.to_string().into(),
            family.advertised.to_string().into(),
            family.pending.to_string().into(),
            yes(family.end_of_rib_received),
            yes(family.end_of_rib_sent),
            match family.extended_next_hop {
                true => "IPv6 too (RFC 8950)".into(),
                false => Cell::default(),
            },
        ]
    });
    indented(writer, output, columns, rows.collect())
}

fn messages(writer: &mut impl Write, output: Output, peer: &Peer) -> Result<(), Failure> {
    let columns = vec![
        Column::text("MESSAGES"),
        Column::number("OPEN"),
        Column::number("UPDATE"),
        Column::number("KEEPALIVE"),
        Column::number("NOTIFICATION"),
        Column::number("ROUTE-REFRESH"),
        Column::number("BYTES"),
    ];
    let row = |title: &str, counts: &Option<MessageCounts>| {
        let counts = (*counts).unwrap_or_default();
        let numbers = [
            counts.open,
            counts.update,
            counts.keepalive,
            counts.notification,
            counts.route_refresh,
            counts.bytes,
        ];
        let numbers = numbers.map(|number| Cell::from(number.to_string()));
        std::iter::once(Cell::from(title)).chain(numbers).collect()
    };
    let rows = vec![row("received", &peer.received), row("sent", &peer.sent)];
    indented(writer, output, columns, rows)
}

fn faults(writer: &mut impl Write, output: Output, peer: &Peer) -> Result<(), Failure> {
    let mut faults: Vec<(&String, &u64)> = peer.faults.iter().filter(|(_, n)| **n > 0).collect();
    if faults.is_empty() && peer.last_fault.is_empty() {
        return Ok(());
    }
    faults.sort();
    let columns = vec![Column::text("FAULT"), Column::number("COUNT")];
    let rows = faults
        .iter()
        .map(|(name, count)| vec![Cell::styled(BAD, name.as_str()), count.to_string().into()]);
    indented(writer, output, columns, rows.collect())?;
    if !peer.last_fault.is_empty() {
        writeln!(writer, "  the last: {}", peer.last_fault)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Color, Format};

    fn text(peer: &Peer) -> String {
        let mut text = Vec::new();
        let output = Output::new(Format::Table, Color::Never);
        detail(&mut text, output, Some("a1"), peer).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_established_session_shows_what_both_sides_can() {
        let text = text(&Peer {
            name: "tor".into(),
            address: "10.1.0.1".into(),
            port: 179,
            state: "Established".into(),
            since_ms: now() - 5_000,
            remote_asn: 65101,
            local_asn: 65201,
            established_count: 1,
            hold_seconds: 90,
            keepalive_seconds: 30,
            capabilities_sent: vec!["ipv4-unicast".into(), "route-refresh".into()],
            capabilities_received: vec!["ipv4-unicast".into(), "graceful-restart".into()],
            ..Peer::default()
        });
        assert!(
            text.starts_with(
                "Peer tor on a1: 10.1.0.1 port 179, AS 65101 (eBGP; we are AS 65201)\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("  state         Established for 5s (established once)\n"),
            "{text}"
        );
        assert!(text.contains("both can      ipv4-unicast\n"), "{text}");
        assert!(text.contains("only we can   route-refresh\n"), "{text}");
        assert!(text.contains("only they can graceful-restart\n"), "{text}");
    }

    #[test]
    fn limits_are_shown_with_what_becomes_of_a_session_beyond_them() {
        let text = text(&Peer {
            name: "tor".into(),
            state: "Idle".into(),
            over_limit: true,
            max_prefixes: Some(PrefixLimits {
                ipv4: Some(1000),
                ipv6: Some(50),
                warn_at_percent: 75,
                action: "Drop".into(),
                restart_seconds: Some(300),
            }),
            ..Peer::default()
        });
        let line = "prefix limits 1000 of IPv4, 50 of IPv6; warns at 75 %; with more, the session is \
                    down for 300 s\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn faults_are_shown_with_their_last() {
        let text = text(&Peer {
            name: "tor".into(),
            state: "Idle".into(),
            faults: [("treat-as-withdraw".into(), 3)].into(),
            last_fault: "ORIGIN is 9".into(),
            ..Peer::default()
        });
        assert!(text.contains("treat-as-withdraw      3\n"), "{text}");
        assert!(text.contains("the last: ORIGIN is 9\n"), "{text}");
    }
}

//! Everything about one session.

use std::io::Write;

use proto::controller::v1::PrefixLimits;
use proto::speaker::v1::{GracefulRestart, Key, MessageCounts, Peer};

use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON, TITLE};
use crate::table::{Cell, Column, Table};
use crate::time::{age, now, until};

/// Everything about one session.
pub(super) fn detail(
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
    if peer.reflector_client {
        line("reflection", "our reflector client (RFC 4456)".to_owned())?;
    }
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
    if let Some(hops) = peer.ttl_security {
        line("ttl security", ttl_security(hops))?;
    }
    if let Some(it) = &peer.key {
        line("key", key(output, it, now))?;
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
        let echo = session.echo.as_ref().map_or(String::new(), echo);
        let up = output.paint(GOOD, "Up");
        return format!("{up} for {since}, {hops}, {times}{echo}");
    }
    let reason = match (session.remote_state.as_str(), session.ups) {
        ("AdminDown", _) => ", the other side is administratively down".to_owned(),
        (_, 0) => ", never up".to_owned(),
        _ => format!(", {}", session.diagnostic),
    };
    let state = output.paint(BAD, &session.state);
    format!("{state} for {since}, {hops}{reason}{problem}")
}

/// What the Echo function adds.
fn echo(it: &proto::bfd::v1::Echo) -> String {
    let every = format!(
        "echo packets every {} ms",
        it.interval_micros as f64 / 1000.0
    );
    match (it.problem.as_str(), it.relied_on) {
        ("", true) => format!("; {every} come back"),
        ("", false) => format!("; {every} are not relied on yet"),
        (problem, _) => format!("; echo packets are not relied on: {problem}"),
    }
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
            let began = restart.long_lived.as_ref().is_some_and(|it| it.began);
            let kind = if began { "long-lived stale" } else { "stale" };
            let last_choice = if began { ", as the last choice" } else { "" };
            let text = format!(
                "{stale} {kind} routes kept for {} more{last_choice}",
                until(until_ms, now)
            );
            format!("; {}", output.paint(SOON, &text))
        }
    };
    let long_lived = restart.long_lived.as_ref().map_or(String::new(), |it| {
        let theirs = match it.peer_seconds {
            None if peer.state != "Established" => String::new(),
            None => ", the other side does not offer that".to_owned(),
            Some(seconds) => format!(", theirs {seconds} s"),
        };
        format!("; then long-lived, ours {} s{theirs}", it.stale_seconds)
    });
    let ours = restart.restart_seconds;
    format!("graceful, ours {ours} s{theirs}{notification}{long_lived}{kept}")
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

/// RFC 5082.
fn ttl_security(hops: u32) -> String {
    let far = match hops {
        1 => "the same link".to_owned(),
        hops => format!("{hops} hops"),
    };
    let least = 256_u32.saturating_sub(hops);
    format!("sends TTL 255, drops what has less than {least}: nothing from beyond {far}")
}

fn key(output: Output, key: &Key, now: i64) -> String {
    let Key {
        file,
        problem,
        since_ms,
        kind,
    } = key;
    match (problem.as_str(), since_ms) {
        ("", 0) => format!("{kind}, in {file}, not read yet"),
        ("", since) => format!("{kind}, in {file}, unchanged for {}", age(*since, now)),
        (problem, since) => {
            let since = age(*since, now);
            format!("{} for {since}: {problem}", output.paint(BAD, "missing"))
        }
    }
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
    fn a_reflector_s_client_is_called_so() {
        let peer = |reflector_client| Peer {
            name: "client-n1".into(),
            reflector_client,
            ..Peer::default()
        };
        let line = "  reflection    our reflector client (RFC 4456)\n";
        assert!(text(&peer(true)).contains(line));
        assert!(!text(&peer(false)).contains("reflect"));
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
    fn ttl_security_is_shown_with_what_is_dropped() {
        for (hops, words) in [
            (1, "less than 255: nothing from beyond the same link\n"),
            (3, "less than 253: nothing from beyond 3 hops\n"),
        ] {
            let ttl_security = Some(hops);
            let text = text(&Peer {
                ttl_security,
                ..Peer::default()
            });
            let line = format!("  ttl security  sends TTL 255, drops what has {words}");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn a_key_is_shown_by_its_file_and_what_is_wrong_with_it() {
        let with = |problem: &str| {
            text(&Peer {
                key: Some(Key {
                    kind: "TCP MD5".into(),
                    file: "/etc/routeshare/tor.key".into(),
                    problem: problem.into(),
                    since_ms: now() - 5_000,
                }),
                ..Peer::default()
            })
        };
        let line = "  key           TCP MD5, in /etc/routeshare/tor.key, unchanged for 5s\n";
        assert!(with("").contains(line), "{}", with(""));
        let line = "  key           missing for 5s: cannot read it\n";
        let text = with("cannot read it");
        assert!(text.contains(line), "{text}");
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

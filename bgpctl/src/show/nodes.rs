//! `show nodes`.

use std::io::Write as _;

use proto::controller::v1::Node;

use crate::client::{Connector, nodes};
use crate::error::Failure;
use crate::output::{BAD, GOOD, Output, SOON};
use crate::table::{Cell, Column, Table};
use crate::time::{age, now};
use crate::view;

pub(crate) async fn show(connector: &Connector<'_>, output: Output) -> Result<(), Failure> {
    let mut admin = connector.controller().await?;
    let wanted = connector.named_nodes();
    let mut nodes = nodes(&mut admin).await?;
    nodes.retain(|node| wanted.is_empty() || wanted.contains(&node.name));
    if !output.is_table() {
        let mut list = output.list();
        for node in &nodes {
            list.push(&view::Node::from(node))?;
        }
        return list.finish();
    }
    if nodes.is_empty() {
        output.warn("there are no such nodes; nodes are resources of kind Node");
        return Ok(());
    }
    let mut columns = vec![
        Column::text("NODE"),
        Column::text("STATE"),
        Column::text("SINCE"),
        Column::number("AS"),
        Column::text("SUBNETS"),
        Column::text("SESSIONS"),
        Column::text("CONFIG"),
    ];
    if output.is_wide() {
        columns.extend([
            Column::text("ROUTER ID"),
            Column::text("ADDRESSES"),
            Column::optional("LABELS"),
            Column::text("SOFTWARE"),
        ]);
    }
    let mut table = Table::new(output, output.writer(), columns);
    let now = now();
    for node in &nodes {
        let mut row = vec![
            node.name.as_str().into(),
            state(node),
            age(node.connected_since_ms.max(node.away_since_ms), now).into(),
            node.asn.to_string().into(),
            list(&node.subnets).into(),
            sessions(node),
            version(node),
        ];
        if output.is_wide() {
            let report = node.report.as_ref();
            row.extend([
                node.router_id.as_str().into(),
                list(&node.addresses).into(),
                labels(node).into(),
                report.map_or("-", |report| report.software.as_str()).into(),
            ]);
        }
        table.push(row)?;
    }
    let mut writer = table.finish()?;
    for line in problems(&nodes) {
        writeln!(writer, "{} {line}", output.paint(BAD, "!"))?;
    }
    Ok(writer.flush()?)
}

fn state(node: &Node) -> Cell {
    match (node.connected, &node.report) {
        (true, _) => Cell::styled(GOOD, "connected"),
        (false, Some(_)) => Cell::styled(BAD, "away"),
        (false, None) => Cell::styled(SOON, "never seen"),
    }
}

/// Established sessions out of all.
fn sessions(node: &Node) -> Cell {
    let Some(report) = &node.report else {
        return "-".into();
    };
    let all = report.sessions.len();
    let up = |session: &&proto::controller::v1::SessionReport| session.state == "Established";
    let established = report.sessions.iter().filter(up).count();
    let style = match established {
        _ if !node.connected => crate::output::DIM,
        up if up == all => GOOD,
        0 => BAD,
        _ => SOON,
    };
    Cell::styled(style, format!("{established}/{all}"))
}

/// The version in force, and the one on its way.
fn version(node: &Node) -> Cell {
    let desired = node.desired_version;
    match node.report.as_ref().map(|report| report.version) {
        Some(version) if version == desired => format!("v{version}").into(),
        Some(0) | None => Cell::styled(SOON, format!("- → v{desired}")),
        Some(version) => Cell::styled(SOON, format!("v{version} → v{desired}")),
    }
}

/// What stands under the table: which node has which problem.
fn problems(nodes: &[Node]) -> Vec<String> {
    let mut lines = Vec::new();
    for node in nodes {
        let name = &node.name;
        lines.extend(
            node.problems
                .iter()
                .map(|problem| format!("{name}: {problem}")),
        );
        let Some(report) = &node.report else { continue };
        if !report.refused.is_empty() {
            lines.push(format!(
                "{name}: refused its configuration: {}",
                report.refused
            ));
        }
        for problem in &report.problems {
            lines.push(format!("{name}: {}: {}", problem.reason, problem.message));
        }
        for session in &report.sessions {
            if session.state != "Established" && !session.last_error.is_empty() {
                lines.push(format!(
                    "{name}: session with {} is {}: {}",
                    session.peer, session.state, session.last_error
                ));
            }
        }
    }
    lines
}

fn labels(node: &Node) -> String {
    let mut labels: Vec<String> = node
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    labels.join(" ")
}

fn list(values: &[String]) -> String {
    match values {
        [] => "-".into(),
        values => values.join(" "),
    }
}

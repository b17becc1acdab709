//! `show status`: how a speaker fares, or the controller.

use std::io::Write;

use proto::controller::v1 as controller;
use proto::speaker::v1 as speaker;

use crate::client::{Connector, controller_refused};
use crate::error::Failure;
use crate::output::{BAD, GOOD, Output, SOON, TITLE};
use crate::show::Missing;
use crate::table::{Column, Table};
use crate::time::{age, now, until};
use crate::view::{self, OfNode};

/// A controller without a node is asked for itself.
pub(crate) async fn show(connector: &Connector<'_>, output: Output) -> Result<usize, Failure> {
    if connector.asks_controller() && connector.named_nodes().is_empty() && !connector.all() {
        of_controller(connector, output).await?;
        return Ok(0);
    }
    let (speakers, away) = connector.speakers().await?;
    let alone = speakers.len() == 1 && away.is_empty();
    let mut missing = Missing::new(output, alone, away);
    let mut list = output.list();
    let mut writer = output.writer();
    for (index, mut speaker) in speakers.into_iter().enumerate() {
        let answer = speaker
            .client
            .get_status(speaker::GetStatusRequest {})
            .await;
        let status = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                missing.note(speaker.refused(status))?;
                continue;
            }
        };
        if output.is_table() {
            if index > 0 {
                writeln!(writer)?;
            }
            of_speaker(&mut writer, output, &status)?;
        } else {
            let value = OfNode {
                node: speaker.node,
                answer: view::SpeakerStatus::from(&status),
            };
            match alone {
                true => output.print_value(&value)?,
                false => list.push(&value)?,
            }
        }
    }
    if !output.is_table() && !alone {
        list.finish()?;
    }
    writer.flush()?;
    Ok(missing.finish())
}

fn of_speaker(
    writer: &mut impl Write,
    output: Output,
    status: &speaker::Status,
) -> Result<(), Failure> {
    let now = now();
    let title = output.paint(TITLE, &format!("Speaker {}", status.node));
    writeln!(
        writer,
        "{title}, AS {}, router id {}, up {}",
        status.asn,
        or_dash(&status.router_id),
        age(status.started_ms, now)
    )?;
    let mut line = |title: &str, text: String| writeln!(writer, "  {title:<14}{text}");
    line("software", status.software.clone())?;
    line("configuration", configuration(output, status))?;
    if !status.refused.is_empty() {
        line("refused", output.paint(BAD, &status.refused))?;
    }
    line(
        "routes",
        format!(
            "{} IPv4, {} IPv6, {} attribute sets",
            status.routes_ipv4, status.routes_ipv6, status.attribute_sets
        ),
    )?;
    let pending = match status.kernel_pending {
        0 => String::new(),
        pending => output.paint(SOON, &format!(", {pending} on their way")),
    };
    line(
        "kernel",
        format!("{} routes{pending}", status.kernel_routes),
    )?;
    if !status.restart_waiting_for.is_empty() {
        let text = format!(
            "waits for all routes of {}, at most {} more",
            status.restart_waiting_for.join(", "),
            until(status.restart_until_ms, now)
        );
        line("restart", output.paint(SOON, &text))?;
    }
    for (index, subnet) in status.subnets.iter().enumerate() {
        let title = if index == 0 { "subnets" } else { "" };
        line(title, subnet.prefix.clone())?;
    }
    for problem in &status.problems {
        let text = format!("{}: {}", problem.reason, problem.message);
        line("problem", output.paint(BAD, &text))?;
    }
    Ok(())
}

fn configuration(output: Output, status: &speaker::Status) -> String {
    if status.version == 0 && status.config_source.is_empty() {
        let why = match status.controller_connected {
            true => {
                "none yet: the controller is connected and has none for this node; `bgpctl show nodes` there says why"
            }
            false => "none yet",
        };
        return output.paint(SOON, why);
    }
    let link = match (status.config_source.as_str(), status.controller_connected) {
        ("files", _) => "from files".to_owned(),
        (_, true) => format!("from the controller, {}", output.paint(GOOD, "connected")),
        (source, false) => format!(
            "from {}, the controller is {}",
            if source == "disk" {
                "the last copy on disk"
            } else {
                "the controller"
            },
            output.paint(BAD, "away")
        ),
    };
    format!("v{}, {link}", status.version)
}

async fn of_controller(connector: &Connector<'_>, output: Output) -> Result<(), Failure> {
    let mut admin = connector.controller().await?;
    let answer = admin.get_status(controller::GetStatusRequest {}).await;
    let status = answer.map_err(controller_refused)?.into_inner();
    if !output.is_table() {
        return output.print_value(&view::ControllerStatus::from(&status));
    }
    let mut writer = output.writer();
    let now = now();
    writeln!(
        writer,
        "{}, {}",
        output.paint(TITLE, "Controller"),
        status.software
    )?;
    let style = match status.nodes_connected == status.nodes {
        true => GOOD,
        false => SOON,
    };
    let connected = format!("{} of {} connected", status.nodes_connected, status.nodes);
    writeln!(
        writer,
        "  {:<14}{}",
        "nodes",
        output.paint(style, &connected)
    )?;
    let loaded = format!(
        "generation {}, read {} ago",
        status.generation,
        age(status.loaded_ms, now)
    );
    writeln!(writer, "  {:<14}{loaded}", "resources")?;
    for (index, mistake) in status.refused.iter().enumerate() {
        if index == 0 {
            let text = "the newest resources are refused; the generation above stays in force";
            writeln!(writer, "  {:<14}{}", "refused", output.paint(BAD, text))?;
        }
        writeln!(writer, "  {:<14}{mistake}", "")?;
    }
    for warning in &status.warnings {
        writeln!(writer, "  {:<14}{}", "warning", output.paint(SOON, warning))?;
    }
    writeln!(writer)?;
    let columns = vec![
        Column::text("POOL"),
        Column::text("PREFIX"),
        Column::number("NODE SUBNETS"),
        Column::number("USED"),
        Column::number("WAITING"),
    ];
    let mut table = Table::new(output, writer, columns);
    for pool in &status.pools {
        table.push(vec![
            pool.name.as_str().into(),
            pool.prefix.as_str().into(),
            pool.subnets_total.to_string().into(),
            pool.subnets_used.to_string().into(),
            pool.subnets_waiting.to_string().into(),
        ])?;
    }
    table.finish().map(drop)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

//! `explain PREFIX`: every candidate and what became of it, who is told, what the kernel holds.

use std::io::Write;
use std::process::ExitCode;

use proto::speaker::v1::{
    AdvertisedTo, Attributes, Candidate, ExplainRequest, Explanation, KernelState, PolicyTrace,
};

use crate::cli::Explain;
use crate::client::Connector;
use crate::error::Failure;
use crate::output::{BAD, DIM, GOOD, Output, SOON, TITLE};
use crate::show::{Missing, stale};
use crate::time::{age, now};
use crate::view::{self, OfNode, Route};

pub(crate) async fn run(
    arguments: &Explain,
    connector: &Connector<'_>,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let alone = speakers.len() == 1 && away.is_empty();
    let mut missing = Missing::new(*output, alone, away);
    let mut list = output.list();
    let mut writer = output.writer();
    for (index, mut speaker) in speakers.into_iter().enumerate() {
        let request = ExplainRequest {
            prefix: arguments.destination.clone(),
        };
        let explanation = match speaker.client.explain(request).await {
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
            print(&mut writer, *output, speaker.node.as_deref(), &explanation)?;
            continue;
        }
        let value = OfNode {
            node: speaker.node,
            answer: view::Explanation::from(&explanation),
        };
        match alone {
            true => output.print_value(&value)?,
            false => list.push(&value)?,
        }
    }
    if !output.is_table() && !alone {
        list.finish()?;
    }
    writer.flush()?;
    Ok(match missing.finish() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn print(
    writer: &mut impl Write,
    output: Output,
    node: Option<&str>,
    explanation: &Explanation,
) -> Result<(), Failure> {
    let on = node.map(|node| format!(" on {node}")).unwrap_or_default();
    let title = output.paint(TITLE, &explanation.prefix);
    writeln!(writer, "{title}{on}: {}", explanation.summary)?;
    if !explanation.candidates.is_empty() {
        section(writer, output, "Candidates")?;
    }
    for candidate in &explanation.candidates {
        print_candidate(writer, output, candidate)?;
    }
    if let Some(kernel) = &explanation.kernel {
        section(writer, output, "Kernel")?;
        print_kernel(writer, output, kernel)?;
    }
    if !explanation.advertised.is_empty() {
        section(writer, output, "Advertised to")?;
    }
    let widest = explanation.advertised.iter().map(|to| to.peer.len()).max();
    for to in &explanation.advertised {
        print_advertised(writer, output, to, widest.unwrap_or_default())?;
    }
    Ok(())
}

fn section(writer: &mut impl Write, output: Output, title: &str) -> Result<(), Failure> {
    Ok(writeln!(writer, "\n{}", output.paint(TITLE, title))?)
}

fn print_candidate(
    writer: &mut impl Write,
    output: Output,
    candidate: &Candidate,
) -> Result<(), Failure> {
    let route = candidate.route.clone().unwrap_or_default();
    let received = route.attributes.clone().unwrap_or_default();
    let from = match route.peer.as_str() {
        "" => "our own".to_owned(),
        peer => format!("from {peer}"),
    };
    let (mark, style) = match candidate.outcome.as_str() {
        "best" => ("●", GOOD),
        "multipath" => ("●", GOOD),
        "lost" => ("○", SOON),
        _ => ("✗", BAD),
    };
    writeln!(
        writer,
        "  {} {from}, {} old: {}{}{}",
        output.paint(style, mark),
        age(route.since_ms, now()),
        output.paint(style, &outcome(candidate)),
        match route.backup {
            true => output.paint(GOOD, ", kept ready as backup"),
            false => String::new(),
        },
        match stale(&Route::from(&route)) {
            Some(stale) => output.paint(
                SOON,
                &format!(", {stale} (kept from a session that was lost)"),
            ),
            None => String::new(),
        },
    )?;
    let mut line = |title: &str, text: &str| writeln!(writer, "      {title:<12}{text}");
    line("attributes", &attributes(&received))?;
    if let Some(import) = &candidate.import {
        line("import", &trace(import))?;
    }
    if let Some(accepted) = &candidate.accepted
        && *accepted != received
    {
        line("accepted as", &attributes(accepted))?;
    }
    if let Some(next_hop) = &candidate.next_hop {
        let how = match (next_hop.resolved, next_hop.via.as_str()) {
            (false, _) => output.paint(BAD, "the kernel has no route to it"),
            (true, "") => format!("directly on {}", next_hop.interface),
            (true, via) => format!(
                "by {via} on {}, metric {}",
                next_hop.interface, next_hop.metric
            ),
        };
        line("next hop", &format!("{}: {how}", next_hop.address))?;
    }
    if !route.advertisements.is_empty() {
        line(
            "advertised",
            &format!("by {}", route.advertisements.join(", ")),
        )?;
    }
    Ok(())
}

/// What became of a candidate, in words.
fn outcome(candidate: &Candidate) -> String {
    match candidate.outcome.as_str() {
        "best" => "best".into(),
        "multipath" => "used together with the best".into(),
        "lost" => {
            let to = match candidate.lost_to.as_str() {
                "" | "local" => "our own route",
                peer => peer,
            };
            format!("lost to {to} by {}", candidate.step)
        }
        outcome if candidate.reason.is_empty() => outcome.to_owned(),
        outcome => format!("{outcome}: {}", candidate.reason),
    }
}

fn trace(trace: &PolicyTrace) -> String {
    if !trace.text.is_empty() {
        return trace.text.clone();
    }
    match (trace.policy.as_str(), trace.rule.as_str()) {
        ("", _) => format!("{}: there is no policy", trace.verdict),
        (policy, "") => format!("{}: no rule of policy {policy} matches", trace.verdict),
        (policy, rule) => format!("{} by policy {policy}, rule {rule}", trace.verdict),
    }
}

/// Those that are there, the weightiest first.
fn attributes(attributes: &Attributes) -> String {
    let mut words = Vec::new();
    if !attributes.as_path.is_empty() {
        words.push(format!("AS path {}", attributes.as_path));
    }
    if !attributes.next_hop.is_empty() {
        words.push(format!("next hop {}", attributes.next_hop));
    }
    if !attributes.next_hop_link_local.is_empty() {
        words.push(format!("link-local {}", attributes.next_hop_link_local));
    }
    words.push(format!("origin {}", attributes.origin));
    if let Some(preference) = attributes.local_preference {
        words.push(format!("local preference {preference}"));
    }
    if let Some(med) = attributes.med {
        words.push(format!("MED {med}"));
    }
    for (name, values) in [
        ("communities", &attributes.communities),
        ("large", &attributes.large_communities),
        ("extended", &attributes.extended_communities),
        ("cluster list", &attributes.cluster_list),
    ] {
        if !values.is_empty() {
            words.push(format!("{name} {}", values.join(" ")));
        }
    }
    if !attributes.originator_id.is_empty() {
        words.push(format!("originator {}", attributes.originator_id));
    }
    if !attributes.aggregator.is_empty() {
        words.push(format!("aggregator {}", attributes.aggregator));
    }
    if attributes.atomic_aggregate {
        words.push("atomic aggregate".into());
    }
    for unknown in &attributes.unknown {
        words.push(format!(
            "type {} {}",
            unknown.r#type,
            view::hex(&unknown.value)
        ));
    }
    words.join(", ")
}

fn print_kernel(
    writer: &mut impl Write,
    output: Output,
    kernel: &KernelState,
) -> Result<(), Failure> {
    let style = match kernel.state.as_str() {
        "Installed" => GOOD,
        "Pending" => SOON,
        "NotInstalled" => DIM,
        _ => BAD,
    };
    let hops = match kernel.next_hops.as_slice() {
        [] => String::new(),
        hops => format!(" {}", hops.join(", ")),
    };
    let place = match kernel.table {
        0 => String::new(),
        table => format!(
            " (table {table}, protocol {}, metric {})",
            kernel.protocol, kernel.metric
        ),
    };
    let state = output.paint(style, &words(&kernel.state));
    writeln!(writer, "  {state}{hops}{}", output.paint(DIM, &place))?;
    if !kernel.text.is_empty() {
        writeln!(writer, "  {}", kernel.text)?;
    }
    Ok(())
}

/// `NotInstalled` → `not installed`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn print_advertised(
    writer: &mut impl Write,
    output: Output,
    to: &AdvertisedTo,
    widest: usize,
) -> Result<(), Failure> {
    let (mark, style) = match to.state.as_str() {
        "advertised" => ("●", GOOD),
        "pending" => ("○", SOON),
        _ => ("✗", DIM),
    };
    let why = match (&to.export, to.reason.as_str()) {
        (_, reason) if !reason.is_empty() => format!(": {reason}"),
        (Some(export), _) => format!(": {}", trace(export)),
        _ => String::new(),
    };
    writeln!(
        writer,
        "  {} {:<widest$}  {}{why}",
        output.paint(style, mark),
        to.peer,
        output.paint(style, &to.state),
    )?;
    if let Some(attributes) = &to.attributes {
        writeln!(writer, "      as {}", self::attributes(attributes))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::speaker::v1::{NextHopState, Route};

    use super::*;
    use crate::cli::{Color, Format};

    fn text(explanation: &Explanation) -> String {
        let mut text = Vec::new();
        let output = Output::new(Format::Table, Color::Never);
        print(&mut text, output, Some("a1"), explanation).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_chain_reads_from_the_answer_to_its_reasons() {
        let received = Attributes {
            as_path: "65101 65000".into(),
            next_hop: "10.1.0.1".into(),
            origin: "igp".into(),
            ..Attributes::default()
        };
        let text = text(&Explanation {
            prefix: "10.64.1.0/24".into(),
            summary: "reached via 10.1.0.1".into(),
            candidates: vec![Candidate {
                route: Some(Route {
                    peer: "tor".into(),
                    attributes: Some(received.clone()),
                    ..Route::default()
                }),
                accepted: Some(received),
                outcome: "lost".into(),
                lost_to: "tor-2".into(),
                step: "AS path length".into(),
                import: Some(PolicyTrace {
                    policy: "from-tor".into(),
                    rule: "pods".into(),
                    verdict: "Accept".into(),
                    text: "accepted by policy from-tor, rule pods".into(),
                }),
                next_hop: Some(NextHopState {
                    address: "10.1.0.1".into(),
                    resolved: true,
                    interface: "eth0".into(),
                    ..NextHopState::default()
                }),
                ..Candidate::default()
            }],
            advertised: vec![AdvertisedTo {
                peer: "tor".into(),
                state: "not advertised".into(),
                reason: "the route came from this peer".into(),
                ..AdvertisedTo::default()
            }],
            kernel: Some(KernelState {
                state: "Installed".into(),
                next_hops: vec!["via 10.1.0.1 dev eth0".into()],
                table: 254,
                protocol: 149,
                metric: 512,
                ..KernelState::default()
            }),
            ..Explanation::default()
        });
        let expected = "\
10.64.1.0/24 on a1: reached via 10.1.0.1

Candidates
  ○ from tor, - old: lost to tor-2 by AS path length
      attributes  AS path 65101 65000, next hop 10.1.0.1, origin igp
      import      accepted by policy from-tor, rule pods
      next hop    10.1.0.1: directly on eth0

Kernel
  installed via 10.1.0.1 dev eth0 (table 254, protocol 149, metric 512)

Advertised to
  ✗ tor  not advertised: the route came from this peer
";
        assert_eq!(text, expected);
    }

    #[test]
    fn states_are_words() {
        assert_eq!(words("NotInstalled"), "not installed");
    }
}

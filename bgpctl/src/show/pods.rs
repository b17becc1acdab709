//! `show pods`: which container has which address in which network.

use proto::speaker::v1::{ListPodsRequest, Pod};
use tonic::{Code, Status};

use crate::cli::Pods;
use crate::client::Connector;
use crate::error::Failure;
use crate::output::{DIM, List, Output, SOON};
use crate::show::Missing;
use crate::table::{Cell, Column, Table};
use crate::time::{age, now};
use crate::view::{self, OfNode};

/// So much of a container's id tells it from the others of a node.
const ENOUGH: usize = 13;

pub(crate) async fn show(
    arguments: &Pods,
    connector: &Connector<'_>,
    output: Output,
) -> Result<usize, Failure> {
    let (speakers, away) = connector.speakers().await?;
    let asked = speakers.len();
    let mut missing = Missing::new(output, asked == 1 && away.is_empty(), away);
    // A container is on one node: that others do not have it is no news.
    let (mut seen, mut nowhere) = (false, false);
    let mut found = match output.is_table() {
        true => Found::Table(table(output), 0),
        false => Found::List(output.list()),
    };
    for mut speaker in speakers {
        let request = ListPodsRequest {
            pod: arguments.pod.clone().unwrap_or_default(),
            network: arguments.network.clone().unwrap_or_default(),
        };
        // Pages are printed as they come: a fabric has any number of pods.
        let mut pages = match speaker.client.list_pods(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if asked > 1 && status.code() == Code::NotFound => {
                nowhere = true;
                continue;
            }
            Err(status) => {
                missing.note(speaker.refused(status))?;
                continue;
            }
        };
        loop {
            match pages.message().await {
                Ok(Some(page)) => {
                    seen |= !page.pods.is_empty();
                    for pod in &page.pods {
                        found.push(speaker.node.as_deref(), pod, output)?;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    missing.note(speaker.refused(status))?;
                    break;
                }
            }
        }
    }
    if nowhere && !seen {
        missing.note(Failure::Refused {
            who: format!("{asked} nodes were asked"),
            status: Box::new(Status::not_found(none(arguments))),
        })?;
        found.finish_quietly()?;
    } else {
        found.finish(output, &none(arguments))?;
    }
    Ok(missing.finish())
}

/// What is said when there is none.
fn none(arguments: &Pods) -> String {
    let network = match &arguments.network {
        Some(network) => format!("the network {network}"),
        None => "a network of ours".to_owned(),
    };
    match &arguments.pod {
        Some(pod) => format!("no container {pod} is attached to {network}"),
        None => format!("no container is attached to {network}"),
    }
}

/// Where the pods go.
enum Found {
    /// And how many there were.
    Table(Table<std::io::BufWriter<std::io::Stdout>>, usize),
    List(List),
}

impl Found {
    fn push(&mut self, node: Option<&str>, pod: &Pod, output: Output) -> Result<(), Failure> {
        match self {
            Found::List(list) => list.push(&OfNode {
                node: node.map(str::to_owned),
                answer: view::Pod::from(pod),
            }),
            Found::Table(table, count) => {
                *count += 1;
                table.push(row(node, pod, output))
            }
        }
    }

    fn finish(self, output: Output, none: &str) -> Result<(), Failure> {
        if let Found::Table(_, 0) = self {
            output.warn(none);
        }
        self.finish_quietly()
    }

    fn finish_quietly(self) -> Result<(), Failure> {
        match self {
            Found::List(list) => list.finish(),
            Found::Table(table, 1..) => table.finish().map(drop),
            Found::Table(_, 0) => Ok(()),
        }
    }
}

fn table(output: Output) -> Table<std::io::BufWriter<std::io::Stdout>> {
    let mut columns = vec![
        Column::all_or_none("NODE"),
        Column::text("CONTAINER").room(ENOUGH),
        Column::text("NAME"),
        Column::text("NETWORK"),
        Column::text("INTERFACE"),
        Column::text("MODE"),
        Column::text("ADDRESSES"),
        Column::text("SINCE"),
    ];
    if output.is_wide() {
        columns.extend([Column::optional("ALIASES"), Column::optional("NETNS")]);
    }
    columns.push(Column::optional("REMARK"));
    Table::new(output, output.writer(), columns)
}

fn row(node: Option<&str>, pod: &Pod, output: Output) -> Vec<Cell> {
    let dash = || Cell::styled(DIM, "-");
    let or_dash = |text: String| match text.is_empty() {
        true => dash(),
        false => text.into(),
    };
    let short = || pod.container.chars().take(ENOUGH).collect::<String>();
    let mut row: Vec<Cell> = vec![
        node.unwrap_or_default().into(),
        match output.is_wide() {
            true => pod.container.as_str().into(),
            false => short().into(),
        },
        or_dash(name(pod)),
        pod.network.as_str().into(),
        pod.ifname.as_str().into(),
        or_dash(pod.mode.clone()),
        or_dash(addresses(pod)),
        age(pod.since_ms, now()).into(),
    ];
    if output.is_wide() {
        row.extend([pod.aliases.join(" ").into(), pod.netns.as_str().into()]);
    }
    row.push(match pod.earlier_boot {
        true => Cell::styled(SOON, "of an earlier boot: not running"),
        false => Cell::default(),
    });
    row
}

/// As Kubernetes writes it.
fn name(pod: &Pod) -> String {
    match pod.namespace.as_str() {
        "" => pod.name.clone(),
        namespace => format!("{namespace}/{}", pod.name),
    }
}

/// Without the lengths of their subnets.
fn addresses(pod: &Pod) -> String {
    let addresses = pod.addresses.iter();
    let addresses = addresses.map(|it| it.split_once('/').map_or(it.as_str(), |(it, _)| it));
    addresses.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_as_people_write_them() {
        let mut pod = Pod {
            name: "web-0".into(),
            addresses: vec!["10.64.0.5/24".into(), "fd00::5/64".into()],
            ..Pod::default()
        };
        assert_eq!(name(&pod), "web-0");
        assert_eq!(addresses(&pod), "10.64.0.5 fd00::5");
        pod.namespace = "shop".into();
        assert_eq!(name(&pod), "shop/web-0");
    }
}

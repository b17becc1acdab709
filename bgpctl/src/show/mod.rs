//! `bgpctl show …`: one file for each kind of thing.

mod bfd;
mod config;
mod nodes;
mod peers;
mod pods;
mod routes;
mod status;
mod subnets;

use std::process::ExitCode;

use proto::controller::v1::Node;

use crate::cli::Show;
use crate::client::Connector;
use crate::error::Failure;
use crate::output::Output;
use crate::time;

pub(crate) use self::routes::stale;

/// Carries out one `show`. The exit code is 1 when some of the nodes asked did not answer.
pub(crate) async fn run(
    what: &Show,
    connector: &Connector<'_>,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let missing = match what {
        Show::Nodes => {
            nodes::show(connector, *output).await?;
            0
        }
        Show::Subnets => {
            subnets::show(connector, *output).await?;
            0
        }
        Show::Peers(arguments) => peers::show(arguments, connector, *output).await?,
        Show::Bfd(arguments) => bfd::show(arguments, connector, *output).await?,
        Show::Pods(arguments) => pods::show(arguments, connector, *output).await?,
        Show::Routes(arguments) => routes::show(arguments, connector, *output).await?,
        Show::Config => config::show(connector, *output).await?,
        Show::Status => status::show(connector, *output).await?,
    };
    Ok(match missing {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What could not be asked, said after what could. Counts, for the exit code.
pub(crate) struct Missing {
    output: Output,
    alone: bool,
    failures: Vec<Failure>,
    away: Vec<Node>,
}

impl Missing {
    /// `alone`: only one speaker is asked, whose failure is that of the command.
    pub(crate) fn new(output: Output, alone: bool, away: Vec<Node>) -> Missing {
        Missing {
            output,
            alone,
            failures: Vec::new(),
            away,
        }
    }

    /// One speaker did not answer; the others are still to be asked.
    pub(crate) fn note(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.alone || matches!(failure, Failure::Print(_)) {
            return Err(failure);
        }
        self.failures.push(failure);
        Ok(())
    }

    /// Says what is missing from the answer, and how much it is.
    pub(crate) fn finish(self) -> usize {
        for failure in &self.failures {
            self.output.complain(failure);
        }
        for node in &self.away {
            let last = match node.away_since_ms {
                0 => "it has not connected since the controller started".to_owned(),
                since => format!(
                    "its last connection ended {} ago",
                    time::age(since, time::now())
                ),
            };
            self.output.warn(&format!(
                "node {} is not connected to the controller and could not be asked; {last}",
                node.name
            ));
        }
        self.failures.len() + self.away.len()
    }
}

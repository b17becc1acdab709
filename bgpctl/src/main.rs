//! `bgpctl`: asks speakers and the controller, and tells them what to do.
//!
//! - `cli`: the words of the command line; `client`: whom to ask, and how to reach them; `kubernetes`: a
//!   controller that runs there;
//! - `show`, `explain`, `command`, `check`, `pki`: one file (or folder) for each command;
//! - `table`, `output`, `time`: how answers look; `view`: how they look to programs.

mod check;
mod cli;
mod client;
mod command;
mod error;
mod explain;
mod kubernetes;
mod output;
mod pki;
mod show;
mod table;
mod time;
mod view;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser as _};

use crate::cli::{Cli, Command};
use crate::client::{Connector, Surroundings};
use crate::error::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match client::is_plugin() {
        true => parse_as_plugin(),
        false => Cli::parse(),
    };
    let output = Output::new(cli.output, cli.color);
    match run(&cli, &output) {
        Ok(code) => code,
        // The reader (`head`, a pager) has seen enough.
        Err(Failure::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            output.complain(&failure);
            ExitCode::FAILURE
        }
    }
}

/// As `kubectl bgp`, which is what help and errors call it then.
fn parse_as_plugin() -> Cli {
    let matches = Cli::command().bin_name("kubectl bgp").get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn run(cli: &Cli, output: &Output) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Check(arguments) => return check::run(arguments, output),
        Command::Pki(command) => pki::run(command)?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "bgpctl", &mut script);
            std::io::stdout().write_all(&script)?;
        }
        Command::Show(_)
        | Command::Explain(_)
        | Command::Reset(_)
        | Command::Shutdown(_)
        | Command::Enable(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Failure::Start)?;
            let connector = Connector::new(&cli.target, Surroundings::look());
            return runtime.block_on(ask(cli, &connector, output));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(cli: &Cli, connector: &Connector<'_>, output: &Output) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Show(what) => return show::run(what, connector, output).await,
        Command::Explain(arguments) => {
            return explain::run(arguments, connector, output).await;
        }
        Command::Reset(arguments) => command::reset(arguments, connector, output).await?,
        Command::Shutdown(arguments) => command::shutdown(arguments, connector, output).await?,
        Command::Enable(arguments) => command::enable(arguments, connector, output).await?,
        Command::Check(_) | Command::Pki(_) | Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

//! `routeshare-cni`: the CNI plugin. A runtime starts it for each command; it works by files and the
//! kernel alone and is gone again. Decision 0022.
//!
//! - `request.rs`: what the runtime wants; `answer.rs`: what it is told;
//! - `add.rs`, `del.rs`, `check.rs`, `status.rs`, `gc.rs`: a command each;
//! - `addresses.rs`: out of which ranges a container gets its addresses;
//! - `attach/`: the modes, a file each;
//! - `install.rs`: puts the program where runtimes look for it;
//! - `mark.rs`: by which interfaces of ours are known; `netns.rs`: a container's namespace.

mod add;
mod addresses;
mod answer;
mod attach;
mod check;
mod del;
mod gc;
mod install;
mod mark;
mod netns;
mod request;
mod status;

use std::io::{ErrorKind, Read as _, Write as _};
use std::process::ExitCode;

use cni::spec::{Code, Command, Environment, Error, Version, config};

use request::Request;

/// Octets of a network configuration, at most; that of a GC names each container of the machine.
const LONGEST: u64 = 16 << 20;

fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        return about(&argument);
    }
    let (version, outcome) = carry_out();
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version), ExitCode::FAILURE),
    };
    if text.is_empty() {
        return code;
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => code,
        Err(error) => {
            eprintln!("routeshare-cni: cannot write the result to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What goes to standard output, and the version it is to be in if it is an error.
fn carry_out() -> (Version, Result<String, Error>) {
    // Read first: a runtime that writes to a program which is gone gets a signal.
    let mut text = String::new();
    let read = std::io::stdin().take(LONGEST + 1).read_to_string(&mut text);
    let read = match read {
        Ok(_) if text.len() as u64 > LONGEST => {
            text.clear();
            Err(ErrorKind::FileTooLarge.into())
        }
        read => read,
    };
    let version = config::version_of(&text);
    let outcome = read
        .map_err(|error| {
            let code = match error.kind() {
                // No UTF-8, or more than any runtime has to say.
                ErrorKind::InvalidData | ErrorKind::FileTooLarge => Code::Decoding,
                _ => Code::Io,
            };
            Error::new(
                code,
                format!("cannot read the network configuration from standard input: {error}"),
            )
        })
        .and_then(|_| Environment::read(|name| std::env::var(name).ok()))
        .and_then(|environment| dispatch(environment, &text));
    (version, outcome)
}

fn dispatch(environment: Environment, text: &str) -> Result<String, Error> {
    let command = environment.command;
    if command == Command::Version {
        return Ok(answer::versions(text));
    }
    let request = Request::read(environment, text)?;
    match command {
        Command::Add => add::add(&request).map(|made| made.to_json(request.config.cni_version)),
        Command::Del => del::del(&request).map(|()| String::new()),
        Command::Check => check::check(&request).map(|()| String::new()),
        Command::Status => status::status(&request).map(|()| String::new()),
        Command::Gc => gc::gc(&request).map(|()| String::new()),
        Command::Version => Ok(answer::versions(text)),
    }
}

/// For people who start it by hand.
fn about(argument: &str) -> ExitCode {
    match argument {
        "--version" | "-V" => {
            println!("routeshare-cni {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        "--help" | "-h" => {
            println!(
                "routeshare-cni {}: the CNI plugin of routeshare\n\n\
                 A container runtime starts it, with CNI_COMMAND and its companions in the environment and a\n\
                 network configuration on standard input (https://www.cni.dev/docs/spec/).\n\n\
                 routeshare-cni install --to DIR   puts this program into DIR, such as /opt/cni/bin",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::SUCCESS
        }
        "install" => {
            let directory = install::directory(std::env::args().skip(2));
            match directory.and_then(|directory| install::install(&directory)) {
                Ok(done) => {
                    println!("{done}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("routeshare-cni: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        _ => {
            eprintln!("routeshare-cni: unknown argument {argument:?}; see --help");
            ExitCode::from(2)
        }
    }
}

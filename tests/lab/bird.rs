//! BIRD 2 on a machine of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::packages;
use crate::process::{Daemon, output};
use crate::wait::try_wait_for;

/// A running BIRD; ended when dropped.
#[derive(Debug)]
pub struct Bird {
    daemon: Daemon,
    config: PathBuf,
    socket: PathBuf,
}

impl Bird {
    /// Starts BIRD with this configuration and waits until it answers. Its files lie in `directory`
    /// under `name`.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        config: &str,
    ) -> anyhow::Result<Bird> {
        let file = directory.join(format!("{name}.bird.conf"));
        let socket = directory.join(format!("{name}.bird.ctl"));
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let program = packages::BIRD
            .find()
            .context("bird is not installed (package bird2)")?;
        let mut command = machine.command(program);
        command
            .arg("-f")
            .arg("-c")
            .arg(&file)
            .arg("-s")
            .arg(&socket);
        let log = directory.join(format!("{name}.bird.log"));
        let mut bird = Bird {
            daemon: machine.start("bird", command, &log)?,
            config: file,
            socket,
        };
        try_wait_for("BIRD to answer", Duration::from_secs(10), || {
            bird.daemon.check()?;
            bird.ask("show status")
        })?;
        Ok(bird)
    }

    /// A command of `birdc`, such as `show route all`.
    ///
    /// # Errors
    ///
    /// When BIRD does not answer.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        output(
            Command::new(packages::Tool::find(BIRDC).unwrap_or_else(|| "birdc".into()))
                .arg("-s")
                .arg(&self.socket)
                .arg("-r")
                .args(command.split(' ')),
        )
    }

    /// A command that changes something, such as `disable NAME`.
    ///
    /// # Errors
    ///
    /// When BIRD does not answer.
    pub fn tell(&self, command: &str) -> anyhow::Result<String> {
        output(
            Command::new(packages::Tool::find(BIRDC).unwrap_or_else(|| "birdc".into()))
                .arg("-s")
                .arg(&self.socket)
                .args(command.split(' ')),
        )
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    ///
    /// When it cannot be written or BIRD does not answer.
    pub fn configure(&self, config: &str) -> anyhow::Result<()> {
        fs::write(&self.config, config)?;
        self.tell("configure").map(drop)
    }

    /// Ends it without a chance to say goodbye.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Stops it from doing anything, as a hanging machine would (SIGSTOP).
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.daemon.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`freeze`](Bird::freeze).
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.daemon.signal(Signal::SIGCONT)
    }

    /// The program, to be left running or ended.
    pub fn into_daemon(self) -> Daemon {
        self.daemon
    }
}

const BIRDC: packages::Tool = packages::Tool {
    program: "birdc",
    package: "bird2",
};

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
    machine: Namespace,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
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
        let log = directory.join(format!("{name}.bird.log"));
        let mut bird = Bird {
            daemon: launch(machine, &file, &socket, &log, false)?,
            machine: Namespace::existing(machine.name()).context("the machine is gone")?,
            config: file,
            socket,
            log,
        };
        bird.answers()?;
        Ok(bird)
    }

    fn answers(&mut self) -> anyhow::Result<()> {
        let answered = try_wait_for("BIRD to answer", Duration::from_secs(10), || {
            self.daemon.check()?;
            self.ask("show status")
        });
        Ok(answered.map(drop)?)
    }

    /// Starts it again after [`kill`](Bird::kill).
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.daemon = launch(&self.machine, &self.config, &self.socket, &self.log, false)?;
        self.answers()
    }

    /// Lets it end as before an upgrade (`graceful restart`): its kernel routes stay, and nobody is
    /// told.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn leave_gracefully(&mut self) -> anyhow::Result<()> {
        self.tell("graceful restart")?;
        self.daemon.wait_for_end()
    }

    /// Starts it after that, to take up what it left (`-R`).
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn recover(&mut self) -> anyhow::Result<()> {
        self.daemon = launch(&self.machine, &self.config, &self.socket, &self.log, true)?;
        self.answers()
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

fn launch(
    machine: &Namespace,
    config: &Path,
    socket: &Path,
    log: &Path,
    recovering: bool,
) -> anyhow::Result<Daemon> {
    let program = packages::BIRD
        .find()
        .context("bird is not installed (package bird2)")?;
    let mut command = machine.command(program);
    command
        .arg("-f")
        .arg("-c")
        .arg(config)
        .arg("-s")
        .arg(socket);
    if recovering {
        command.arg("-R");
    }
    machine.start("bird", command, log)
}

const BIRDC: packages::Tool = packages::Tool {
    program: "birdc",
    package: "bird2",
};

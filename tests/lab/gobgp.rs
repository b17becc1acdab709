//! GoBGP on a machine of the lab. It installs no routes; it is a peer to talk with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::namespace::Namespace;
use crate::packages;
use crate::process::{Daemon, output};
use crate::wait::try_wait_for;

/// A running gobgpd; ended when dropped.
#[derive(Debug)]
pub struct Gobgp {
    daemon: Daemon,
    machine: Namespace,
    config: PathBuf,
    log: PathBuf,
}

impl Gobgp {
    /// Starts gobgpd with this configuration (TOML) and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        config: &str,
    ) -> anyhow::Result<Gobgp> {
        let file = directory.join(format!("{name}.gobgp.toml"));
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let log = directory.join(format!("{name}.gobgp.log"));
        let mut gobgp = Gobgp {
            daemon: launch(machine, &file, &log)?,
            machine: Namespace::existing(machine.name()).context("the machine is gone")?,
            config: file,
            log,
        };
        gobgp.answers()?;
        Ok(gobgp)
    }

    fn answers(&mut self) -> anyhow::Result<()> {
        let answered = try_wait_for("GoBGP to answer", Duration::from_secs(15), || {
            self.daemon.check()?;
            self.ask("global")
        });
        Ok(answered.map(drop)?)
    }

    /// Ends it without a chance to say goodbye.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Starts it again after [`kill`](Gobgp::kill).
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.daemon = launch(&self.machine, &self.config, &self.log)?;
        self.answers()
    }

    /// A command of `gobgp`, such as `neighbor` or `global rib add 192.0.2.0/24`.
    ///
    /// # Errors
    ///
    /// When GoBGP refuses or does not answer.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        output(self.machine.command("gobgp").args(command.split(' ')))
    }
    /// The last lines it logged.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }
}

fn launch(machine: &Namespace, config: &Path, log: &Path) -> anyhow::Result<Daemon> {
    let program = packages::GOBGP
        .find()
        .context("gobgpd is not installed (package gobgpd)")?;
    let mut command = machine.command(program);
    command
        .arg("-f")
        .arg(config)
        .args(["--api-hosts", "127.0.0.1:50051"]);
    machine.start("gobgpd", command, log)
}

//! Packets without a pause, and which of them were lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::namespace::Namespace;
use crate::process::Daemon;
use crate::wait::wait_for;

/// Pings fifty times a second until it is dropped or asked.
#[derive(Debug)]
pub struct Pinging {
    daemon: Daemon,
    log: PathBuf,
}

impl Pinging {
    /// Starts on a machine, and waits for the first answers; its log is in `directory`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    ///
    /// # Panics
    ///
    /// When there are no answers.
    #[track_caller]
    pub fn start(directory: &Path, from: &Namespace, to: &str) -> anyhow::Result<Pinging> {
        let mut command = from.command("ping");
        command.args(["-n", "-O", "-D", "-i", "0.02", to]);
        let log = directory.join(format!("ping-{}-{to}.log", from.name()));
        let daemon = from.start("ping", command, &log)?;
        let pinging = Pinging { daemon, log };
        pinging.answered(10);
        Ok(pinging)
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for more answers than there are now.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[track_caller]
    pub fn answered(&self, more: usize) {
        let answers = || {
            let lines = self.lines();
            lines.iter().filter(|line| line.contains("time=")).count()
        };
        let before = answers();
        wait_for("answers to pings", Duration::from_secs(30), || {
            let now = answers();
            anyhow::ensure!(now >= before + more, "{now} answers, {before} before");
            Ok(())
        });
    }

    /// What was not answered so far, with the time of day.
    pub fn lost(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.contains("no answer") || line.contains("nreachable"));
        lines
    }

    /// Ends.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }
}

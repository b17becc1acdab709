//! A program of the control plane, which can be stopped and started again with the same data.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use nix::sys::signal::Signal;

use crate::process::Daemon;

/// A running program; ended when dropped.
pub struct Component {
    name: String,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    log: PathBuf,
    daemon: Mutex<Option<Daemon>>,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Component {
    /// Starts what `command` gives; its log is `NAME.log` in `directory`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn start(
        name: &str,
        directory: &std::path::Path,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> anyhow::Result<Component> {
        let component = Component {
            name: name.to_owned(),
            command: Box::new(command),
            log: directory.join(format!("{name}.log")),
            daemon: Mutex::new(None),
        };
        component.start_again()?;
        Ok(component)
    }

    /// Starts it after [`kill`](Component::kill) or [`stop`](Component::stop); one that runs is left
    /// alone.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut daemon = self.daemon();
        if daemon.is_none() {
            *daemon = Some(Daemon::start(&self.name, (self.command)(), &self.log)?);
        }
        Ok(())
    }

    /// Ends it without a chance to say goodbye (SIGKILL).
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&self) -> anyhow::Result<()> {
        match self.daemon().take() {
            Some(mut daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it does not end in half a minute; then it is killed.
    pub fn stop(&self) -> anyhow::Result<()> {
        match self.daemon().take() {
            Some(mut daemon) => daemon.stop(),
            None => Ok(()),
        }
    }

    /// Sends it a signal: SIGSTOP makes it hang with its connections open, SIGCONT lets it go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let daemon = self.daemon();
        let daemon = daemon.as_ref();
        daemon
            .with_context(|| format!("{} does not run", self.name))?
            .signal(signal)
    }

    /// Whether it runs.
    ///
    /// # Errors
    ///
    /// When it has ended by itself, with how and what it printed last; when it has been stopped.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.daemon().as_mut() {
            Some(daemon) => daemon.check(),
            None => anyhow::bail!("{} has been stopped", self.name),
        }
    }

    /// Its process number, while it has not been stopped.
    pub fn id(&self) -> Option<u32> {
        self.daemon().as_ref().and_then(Daemon::id)
    }

    /// All that it has printed so far, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        // A test that panicked has to end it all the same.
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

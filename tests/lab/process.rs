//! Programs: finding them, running them to their end, and running them until dropped.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::try_wait_for;

/// How long a program may take to end; the machines of the tests are busy.
const END: Duration = Duration::from_secs(30);

/// Where one of our own programs is: beside the running one, as cargo puts them, or in the directory
/// that the environment variable `ROUTESHARE_BIN` names.
///
/// # Errors
///
/// When it is not there, with the command that builds it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("ROUTESHARE_BIN") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe().context("cannot find the running program")?;
            // target/debug/xtask, or target/debug/deps/interop-0123456789abcdef.
            own.ancestors()
                .skip(1)
                .find(|directory| !directory.ends_with("deps"))
                .map(Path::to_owned)
                .unwrap_or_default()
        }
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!(
            "{} is not there; build it first: cargo build --workspace --bins",
            path.display()
        );
    }
    Ok(path)
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
///
/// When it cannot be started or does not succeed, with the command and what it printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", words(command)))?;
    if !result.status.success() {
        bail!(
            "`{}` ended with {}: {}{}",
            words(command),
            describe(result.status),
            String::from_utf8_lossy(&result.stderr).trim(),
            String::from_utf8_lossy(&result.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// The command as a person would type it.
fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".into(),
    }
}

/// A program that runs until it is stopped or dropped. What it prints goes to a file; the end of
/// that file is printed when a test panics while it runs.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts `command`; its output is appended to `log`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Daemon> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", words(&command)))?;
        Ok(Daemon {
            name: name.to_owned(),
            log: log.to_owned(),
            child: Some(child),
        })
    }

    /// Its process number, while it has not been stopped.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// All that it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it printed.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Whether it is still running.
    ///
    /// # Errors
    ///
    /// When it has ended by itself, with how and what it printed last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.as_mut().map(Child::try_wait).transpose()? {
            Some(None) => Ok(()),
            Some(Some(status)) => bail!(
                "{} ended with {}; its last words:\n{}",
                self.name,
                describe(status),
                self.log_tail()
            ),
            None => bail!("{} has been stopped", self.name),
        }
    }

    /// Ends it without a chance to say goodbye, as a crash would (SIGKILL).
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("cannot kill")?;
            child.wait().context("cannot wait")?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it is still there after half a minute; then it is killed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let id = i32::try_from(child.id()).context("process number out of range")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).context("cannot signal")?;
        let ended = try_wait_for("the program to end", END, || {
            child.try_wait()?.context("still running")
        });
        if let Err(error) = ended {
            child.kill()?;
            child.wait()?;
            bail!(
                "{} ignored SIGTERM: {error}\n{}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it is still there after half a minute.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            try_wait_for("the program to end", END, || {
                child.try_wait()?.context("still running")
            })?;
            self.child = None;
        }
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.id().context("it has been stopped")?;
        let id = i32::try_from(id).context("process number out of range")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Lets it run on when this value is gone.
    pub fn leave_running(mut self) {
        self.child = None;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} ({})\n{}",
                self.name,
                self.log.display(),
                self.log_tail()
            );
        }
        if self.kill().is_err() {
            eprintln!("cannot end {}", self.name);
        }
    }
}

//! A CNI plugin, started as a runtime starts it and timed.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::wait;
use serde_json::{Value, json};

/// A network of one plugin.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    /// What is started.
    pub(crate) program: PathBuf,
    /// Where the plugins are that it starts itself.
    pub(crate) directory: PathBuf,
    /// Its configuration, as a runtime hands it over.
    pub(crate) configuration: Value,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Called {
    /// From before the program is started until it has ended and all is read.
    pub(crate) took: Duration,
    /// What it printed; `null` for nothing.
    pub(crate) result: Value,
}

impl Plugin {
    /// Calls it on the calling thread's machine.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or says that it failed.
    pub(crate) fn call(
        &self,
        command: &str,
        container: &str,
        namespace: &Path,
        previous: Option<&Value>,
    ) -> Result<Called> {
        let mut configuration = self.configuration.clone();
        if let Some(previous) = previous {
            configuration["prevResult"] = previous.clone();
        }
        let input = configuration.to_string();
        let mut program = Command::new(&self.program);
        program
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", namespace)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let begun = Instant::now();
        let mut child = program
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("no input")?;
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let mut said = String::new();
        child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut said)?;
        let status = child.wait()?;
        let took = begun.elapsed();
        ensure!(
            status.success(),
            "{} {command} for {container} ended with {status}: {said}",
            self.program.display()
        );
        let result = match said.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)?,
        };
        Ok(Called { took, result })
    }

    /// The addresses that it says it has given.
    pub(crate) fn addresses(result: &Value) -> Vec<String> {
        let list = result["ips"].as_array().into_iter().flatten();
        let text = |ip: &Value| Some(ip["address"].as_str()?.split('/').next()?.to_owned());
        list.filter_map(text).collect()
    }
}

/// From now on processes that a plugin leaves behind are this process's, so that they can be waited for and count.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn adopt() -> Result<()> {
    set_child_subreaper(true).context("cannot become the parent of what plugins leave behind")
}

/// Waits until no process is left of plugins that have ended. Only when no other child of this process is to be
/// waited for.
///
/// # Errors
///
/// When they cannot be waited for.
pub(crate) fn settle() -> Result<()> {
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error).context("cannot wait for what a plugin left behind"),
        }
    }
}

/// CPU seconds of all children that have ended.
pub(crate) fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)
        .map(|usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    usage.unwrap_or(0) as f64 / 1e6
}

/// `{"cniVersion": "1.0.0", "name": "bench", …}`: the newest version that Debian's plugins know.
pub(crate) fn network(plugin: &Value) -> Value {
    let mut configuration = json!({"cniVersion": "1.0.0", "name": "bench"});
    if let (Some(all), Some(plugin)) = (configuration.as_object_mut(), plugin.as_object()) {
        all.extend(plugin.clone());
    }
    configuration
}

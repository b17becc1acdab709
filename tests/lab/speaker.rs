//! Our own speaker on a machine of the lab, told by files or by a controller, with `bgpctl` to ask it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::controller::Controller;
use crate::namespace::Namespace;
use crate::process::{Daemon, output, program};
use crate::wait::{try_wait_for, wait_for};

/// Where each serves its metrics; the machine is its own.
const METRICS: u16 = 9180;

/// A running speaker; ended when dropped.
#[derive(Debug)]
pub struct Speaker<'a> {
    machine: &'a Namespace,
    node: String,
    program: String,
    /// The arguments that say where its configuration comes from.
    told: Vec<String>,
    directory: PathBuf,
    daemon: Daemon,
}

impl<'a> Speaker<'a> {
    /// Starts a standalone speaker for `node` with these resources (YAML) and waits until it
    /// answers. Its files lie in a directory `node` in `directory`.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        resources: &str,
    ) -> anyhow::Result<Speaker<'a>> {
        Speaker::start_saying(machine, directory, node, resources, &[])
    }

    /// [`Speaker::start`] with further arguments, now and at every further start.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_saying(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        resources: &str,
        arguments: &[String],
    ) -> anyhow::Result<Speaker<'a>> {
        let files = directory.join(node).join("resources");
        fs::create_dir_all(&files)?;
        fs::write(files.join("resources.yaml"), resources)?;
        let told = ["--standalone", "--resources", &files.display().to_string()];
        let told = told.map(str::to_owned).into_iter();
        let told = told.chain(arguments.iter().cloned()).collect();
        Speaker::launched(machine, directory, node, told)
    }

    /// Starts a speaker for `node` that a controller tells what to do, and waits until it answers.
    /// `address` is where the node reaches the controller.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_told(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        controller: &Controller,
        address: &str,
    ) -> anyhow::Result<Speaker<'a>> {
        Speaker::start_with(
            machine,
            directory,
            node,
            controller.arguments(node, address),
        )
    }

    /// Starts a speaker for `node` with the arguments that say where its configuration comes from, and
    /// waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_with(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        told: Vec<String>,
    ) -> anyhow::Result<Speaker<'a>> {
        fs::create_dir_all(directory.join(node))?;
        Speaker::launched(machine, directory, node, told)
    }

    fn launched(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        told: Vec<String>,
    ) -> anyhow::Result<Speaker<'a>> {
        let directory = directory.join(node);
        let program = "routeshare-speaker".to_owned();
        let mut speaker = Speaker {
            machine,
            node: node.to_owned(),
            daemon: launch(machine, &program, node, &told, &directory)?,
            program,
            told,
            directory,
        };
        speaker.answers()?;
        Ok(speaker)
    }

    /// The next start is of another program beside ours.
    pub fn set_program(&mut self, name: &str) {
        name.clone_into(&mut self.program);
    }

    fn answers(&mut self) -> anyhow::Result<()> {
        let waited = try_wait_for("the speaker to answer", Duration::from_secs(20), || {
            self.daemon.check()?;
            self.bgpctl("show status")
        });
        waited
            .map(drop)
            .with_context(|| format!("{} said:\n{}", self.node, self.daemon.log_tail()))
    }

    /// Replaces its resources, as an editor does: a new file in the old one's place.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn edit(&self, resources: &str) -> anyhow::Result<()> {
        let new = self.directory.join("resources/.resources.yaml.new");
        fs::write(&new, resources)?;
        fs::rename(new, self.directory.join("resources/resources.yaml"))?;
        Ok(())
    }

    /// Ends it without a chance to say goodbye, as a crash would.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it does not end in half a minute.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.stop()
    }

    /// Starts it again after [`kill`](Speaker::kill) or [`stop`](Speaker::stop).
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.start_again_with(&[])
    }

    /// As [`start_again`](Speaker::start_again), with these arguments too.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_again_with(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        let more = arguments.iter().map(|argument| (*argument).to_owned());
        let told: Vec<String> = self.told.iter().cloned().chain(more).collect();
        self.daemon = launch(
            self.machine,
            &self.program,
            &self.node,
            &told,
            &self.directory,
        )?;
        self.answers()
    }

    /// Its process number.
    pub fn id(&self) -> Option<u32> {
        self.daemon.id()
    }

    /// All that it has printed so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// A number out of its `/proc/PID/status`, such as `VmRSS`, the memory in use in KiB, or `VmHWM`,
    /// the most that ever was.
    ///
    /// # Errors
    ///
    /// When it has ended, or there is no such line.
    pub fn proc_status(&self, field: &str) -> anyhow::Result<u64> {
        let id = self.id().context("it has ended")?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        let number = number.with_context(|| format!("no {field} in {status}"))?;
        Ok(number.parse()?)
    }

    /// How many files and sockets it has open.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        let id = self.id().context("it has ended")?;
        Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }

    /// A metric by its name and labels, as its line begins.
    ///
    /// # Errors
    ///
    /// When it cannot be asked, or has no such metric.
    pub fn metric(&self, name: &str) -> anyhow::Result<u64> {
        self.machine.entrance()?.metric(METRICS, name)
    }

    /// What `bgpctl` prints for a command line such as `show peers`.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, with what it printed.
    pub fn bgpctl(&self, line: &str) -> anyhow::Result<String> {
        output(
            Command::new(program("bgpctl")?)
                .arg("--socket")
                .arg(self.directory.join("speaker.sock"))
                .args(line.split_whitespace()),
        )
    }

    /// What `bgpctl … --output json` prints.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, with what it printed.
    pub fn json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.bgpctl(&format!("{line} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("bgpctl {line} gave no JSON: {text}"))
    }

    /// One peer, as `show peers NAME` has it.
    ///
    /// # Errors
    ///
    /// When there is no such peer.
    pub fn peer(&self, name: &str) -> anyhow::Result<Value> {
        let peers = self.json(&format!("show peers {name}"))?;
        peers
            .get(0)
            .cloned()
            .with_context(|| format!("no peer {name}: {peers}"))
    }

    /// Waits until a session is in a state.
    ///
    /// # Panics
    ///
    /// When it is not after 30 seconds.
    #[track_caller]
    pub fn wait_for_state(&self, peer: &str, state: &str) {
        wait_for(
            &format!("{}'s session with {peer} to be {state}", self.node),
            Duration::from_secs(30),
            || {
                let peer = self.peer(peer)?;
                anyhow::ensure!(
                    peer["state"] == state,
                    "{} ({})",
                    peer["state"],
                    peer["lastError"]
                );
                Ok(())
            },
        );
    }

    /// The best routes for a prefix, as `show routes PREFIX` has them.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, as for a prefix that is not there.
    pub fn routes(&self, prefix: &str) -> anyhow::Result<Vec<Value>> {
        match self.json(&format!("show routes {prefix}"))? {
            Value::Array(routes) => Ok(routes),
            other => anyhow::bail!("no list of routes: {other}"),
        }
    }

    /// Waits until there is a best route for a prefix, and gives the first.
    ///
    /// # Panics
    ///
    /// When there is none after 30 seconds.
    #[track_caller]
    pub fn wait_for_route(&self, prefix: &str) -> Value {
        wait_for(
            &format!("{} to have a route for {prefix}", self.node),
            Duration::from_secs(30),
            || {
                let mut routes = self.routes(prefix)?;
                anyhow::ensure!(!routes.is_empty(), "no route");
                Ok(routes.remove(0))
            },
        )
    }

    /// Waits until there is no route for a prefix.
    ///
    /// # Panics
    ///
    /// When there still is one after 30 seconds.
    #[track_caller]
    pub fn wait_for_no_route(&self, prefix: &str) {
        wait_for(
            &format!("{} to have no route for {prefix}", self.node),
            Duration::from_secs(30),
            || {
                let routes = self.routes(prefix)?;
                anyhow::ensure!(routes.is_empty(), "{routes:?}");
                Ok(())
            },
        );
    }
}

fn launch(
    machine: &Namespace,
    name: &str,
    node: &str,
    told: &[String],
    directory: &Path,
) -> anyhow::Result<Daemon> {
    let mut command = machine.command(program(name)?);
    command
        .args(["--node", node])
        .args(told)
        .arg("--state-dir")
        .arg(directory.join("state"))
        .arg("--socket")
        .arg(directory.join("speaker.sock"))
        .arg("--bfd-socket")
        .arg(directory.join("bfd.sock"))
        .args(["--metrics", &format!("127.0.0.1:{METRICS}")])
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "info,routeshare_speaker=debug");
    machine.start(
        "routeshare-speaker",
        command,
        &directory.join("speaker.log"),
    )
}

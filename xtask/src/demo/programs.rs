//! Our programs on the demo's machines: certificates, files, starting them, asking them.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use lab::{Daemon, Namespace, output, program};
use serde_json::Value;

use super::runtime;
use super::topology::CONTROLLER;
use crate::cargo;

/// Where everything is.
pub(crate) struct Programs {
    directory: PathBuf,
    bgpctl: PathBuf,
    /// Those that were started; they run on when this value is gone.
    running: RefCell<Vec<Daemon>>,
}

impl Programs {
    /// An empty directory, which is not there yet.
    pub(crate) fn new(directory: &Path) -> anyhow::Result<Programs> {
        for name in ["", "pki", "log", "state"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        // FRR runs as a user of its own, who has to pass through.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
        Ok(Programs {
            directory: directory.to_owned(),
            bgpctl: program("bgpctl")?,
            running: RefCell::default(),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The controller's socket, as `bgpctl --controller` takes it.
    pub(crate) fn controller_socket(&self) -> String {
        format!("unix:{}", self.directory.join("controller.sock").display())
    }

    /// A speaker's socket.
    pub(crate) fn socket(&self, speaker: &str) -> PathBuf {
        self.directory.join(format!("{speaker}.sock"))
    }

    /// The file with the nodes, which the controller watches.
    pub(crate) fn nodes_file(&self) -> PathBuf {
        self.directory.join("two-racks/nodes.yaml")
    }

    /// Copies a directory of `examples/` into ours, and says where it is.
    pub(crate) fn copy_example(&self, name: &str) -> anyhow::Result<PathBuf> {
        let from = cargo::root().join("examples").join(name);
        let to = self
            .directory
            .join(Path::new(name).file_name().unwrap_or_default());
        fs::create_dir_all(&to)?;
        let entries =
            fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(to)
    }

    /// An authority, and certificates for the controller and these nodes.
    pub(crate) fn certificates<'a>(
        &self,
        nodes: impl Iterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let directory = self.directory.join("pki");
        let pki = |words: &[&str]| {
            output(
                Command::new(&self.bgpctl)
                    .args(["pki", words[0]])
                    .arg(&directory)
                    .args(&words[1..]),
            )
        };
        pki(&["init"])?;
        pki(&["controller", "--ip", CONTROLLER])?;
        for node in nodes {
            pki(&["node", node])?;
        }
        Ok(())
    }

    /// Starts the controller with the resources of `examples/two-racks`.
    pub(crate) fn controller(&self, machine: &Namespace) -> anyhow::Result<()> {
        let resources = self.copy_example("two-racks")?;
        let mut command = machine.command(program("routeshare-controller")?);
        command
            .arg("--resources")
            .arg(resources)
            .arg("--state")
            .arg(self.directory.join("state/controller.redb"))
            .args(["--listen", &format!("{CONTROLLER}:7443")])
            .arg("--socket")
            .arg(self.directory.join("controller.sock"));
        self.certificate(&mut command, "controller");
        self.start(machine, "controller", command)
    }

    /// Starts the speaker of a node that is told by the controller.
    pub(crate) fn node(&self, machine: &Namespace, node: &str) -> anyhow::Result<()> {
        let mut command = self.speaker(machine, node)?;
        command.args(["--controller", &format!("https://{CONTROLLER}:7443")]);
        let (conf, data) = (
            runtime::conf_dir(&self.directory, node),
            runtime::data_dir(&self.directory, node),
        );
        fs::create_dir_all(&conf).with_context(|| format!("cannot make {}", conf.display()))?;
        command.arg("--cni-conf-dir").arg(conf);
        command.arg("--cni-data-dir").arg(data);
        self.certificate(&mut command, node);
        self.start(machine, node, command)
    }

    /// Starts a speaker that is told by files.
    pub(crate) fn standalone(
        &self,
        machine: &Namespace,
        name: &str,
        resources: &Path,
    ) -> anyhow::Result<()> {
        let mut command = self.speaker(machine, name)?;
        command
            .arg("--standalone")
            .arg("--resources")
            .arg(resources);
        self.start(machine, name, command)
    }

    fn speaker(&self, machine: &Namespace, name: &str) -> anyhow::Result<Command> {
        let mut command = machine.command(program("routeshare-speaker")?);
        command
            .args(["--node", name, "--state-dir"])
            .arg(self.directory.join("state").join(name))
            .arg("--socket")
            .arg(self.socket(name));
        Ok(command)
    }

    fn certificate(&self, command: &mut Command, owner: &str) {
        let pki = self.directory.join("pki");
        command.arg("--ca").arg(pki.join("ca.crt"));
        command.arg("--cert").arg(pki.join(format!("{owner}.crt")));
        command.arg("--key").arg(pki.join(format!("{owner}.key")));
    }

    fn start(&self, machine: &Namespace, name: &str, mut command: Command) -> anyhow::Result<()> {
        // A group of its own: Ctrl-C in the terminal that started the demo is not for it.
        command.process_group(0).env("NO_COLOR", "1");
        let log = self.directory.join("log").join(format!("{name}.log"));
        let daemon = machine.start(name, command, &log)?;
        self.running.borrow_mut().push(daemon);
        Ok(())
    }

    /// Whether all that were started still run.
    ///
    /// # Errors
    ///
    /// When one has ended, with its last words.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.running
            .borrow_mut()
            .iter_mut()
            .try_for_each(Daemon::check)
    }

    /// What `bgpctl` prints, asking the controller.
    pub(crate) fn bgpctl(&self, line: &str) -> anyhow::Result<String> {
        output(
            Command::new(&self.bgpctl)
                .args(["--controller", &self.controller_socket()])
                .args(line.split_whitespace()),
        )
    }

    /// The same as JSON.
    pub(crate) fn json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.bgpctl(&format!("{line} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("bgpctl {line} gave no JSON: {text}"))
    }

    /// The sessions of a standalone speaker.
    pub(crate) fn peers_of(&self, speaker: &str) -> anyhow::Result<Value> {
        let text = output(
            Command::new(&self.bgpctl)
                .arg("--socket")
                .arg(self.socket(speaker))
                .args(["show", "peers", "--output", "json"]),
        )?;
        serde_json::from_str(&text).context("bgpctl show peers gave no JSON")
    }

    /// The last lines of every log, for when something went wrong.
    pub(crate) fn log_tails(&self) -> String {
        let mut text = String::new();
        let Ok(entries) = fs::read_dir(self.directory.join("log")) else {
            return text;
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let log = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(8)..];
            text += &format!("--- {}\n{}\n", file.display(), tail.join("\n"));
        }
        text
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.running
            .take()
            .into_iter()
            .for_each(Daemon::leave_running);
    }
}

/// Puts a new file in an old one's place, as editors do, so that nobody reads half of it.
pub(crate) fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("cannot replace {}", file.display()))
}

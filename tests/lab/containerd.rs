//! containerd and runc of Debian on a machine of the lab: real containers, for which it calls CNI plugins.
//!
//! Everything of it is in process and mount namespaces of its own and ends with this value. Containers share
//! one root file system, with busybox as its only program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cni::{CniNode, find_plugin};
use crate::namespace::Lab;
use crate::packages::{BUSYBOX, CONTAINERD, RUNC};
use crate::process::{Daemon, output};
use crate::wait::try_wait_for;

/// Where `ctr` and containerd look for network configurations and plugins.
const PLACES: [&str; 2] = ["/etc/cni/net.d", "/opt/cni/bin"];

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    /// Its own containers' names are apart from all others'.
    namespace: String,
    directory: PathBuf,
    daemon: Daemon,
    /// The process number of containerd; that of `daemon` is its parent's.
    id: String,
}

impl Containerd {
    /// Starts it on a node: it sees the node's network configurations, and `plugins` in /opt/cni/bin.
    ///
    /// # Errors
    ///
    /// When something is missing or it does not come up, with what it said.
    pub fn start(lab: &Lab, node: &CniNode<'_>, plugins: &[&str]) -> anyhow::Result<Containerd> {
        for tool in [CONTAINERD, RUNC, BUSYBOX] {
            tool.find().with_context(|| {
                format!(
                    "{} is missing: apt-get install {}",
                    tool.program, tool.package
                )
            })?;
        }
        let directory = lab.directory().join("containerd");
        let binaries = directory.join("cni-bin");
        fs::create_dir_all(&binaries)?;
        for plugin in plugins {
            symlink(find_plugin(plugin)?, binaries.join(plugin))?;
        }
        for place in PLACES {
            fs::create_dir_all(place)?;
        }
        root_file_system(&directory.join("rootfs"))?;
        let config = directory.join("config.toml");
        let at = directory.display();
        fs::write(
            &config,
            format!(
                "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\naddress = \"{at}/containerd.sock\"\n"
            ),
        )?;
        let mut command = node.command("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-ec"])
            .arg(format!(
                "mount --bind \"$0\" {}; mount --bind \"$1\" {}; exec containerd --config \"$2\"",
                PLACES[0], PLACES[1]
            ))
            .arg(node.conf_dir())
            .arg(&binaries)
            .arg(&config);
        let mut daemon =
            node.machine()
                .start("containerd", command, &directory.join("containerd.log"))?;
        let id = try_wait_for("containerd to start", Duration::from_secs(20), || {
            daemon.check()?;
            let parent = daemon.id().context("it has ended")?;
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
            let child = children.split_whitespace().next().context("no child")?;
            let name = fs::read_to_string(format!("/proc/{child}/comm"))?;
            ensure!(name.trim() == "containerd", "it is still {name}");
            Ok(child.to_owned())
        })?;
        let namespace = lab.directory().file_name().context("no name")?;
        let mut containerd = Containerd {
            namespace: namespace.to_string_lossy().into_owned(),
            directory,
            daemon,
            id,
        };
        let answers = try_wait_for("containerd to answer", Duration::from_secs(20), || {
            containerd.daemon.check()?;
            output(containerd.ctr(&["version"]).env("LC_ALL", "C"))
        });
        answers
            .map(drop)
            .with_context(|| containerd.daemon.log_tail())?;
        Ok(containerd)
    }

    /// `ctr` with these arguments, where containerd is.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.id, "--mount", "--pid", "--net", "--"])
            .args(["ctr", "--address"])
            .arg(self.directory.join("containerd.sock"))
            .args(["--namespace", &self.namespace])
            .args(arguments);
        command
    }

    /// Runs a container with a network until it is ended: a program of busybox with its arguments.
    ///
    /// # Errors
    ///
    /// When `ctr` cannot be started.
    pub fn run(&self, name: &str, program: &[&str]) -> anyhow::Result<Daemon> {
        let rootfs = self.directory.join("rootfs").display().to_string();
        let mut command = self.ctr(&["run", "--rm", "--cni", "--rootfs", &rootfs, name]);
        command.args(program);
        let log = self.directory.join(format!("{name}.log"));
        Daemon::start(&format!("the container {name}"), command, &log)
    }

    /// Runs a program in a container to its end.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn exec(&self, name: &str, program: &[&str]) -> anyhow::Result<String> {
        let mut command = self.ctr(&["task", "exec", "--exec-id"]);
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        command.arg(id.trim()).arg(name).args(program);
        output(&mut command)
    }

    /// Ends a container, and waits until `ctr` has taken its network away.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn kill(&self, name: &str, mut running: Daemon) -> anyhow::Result<()> {
        output(&mut self.ctr(&["task", "kill", "--signal", "SIGKILL", name]))?;
        running.wait_for_end()
    }

    /// What containerd printed last.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }
}

fn root_file_system(root: &Path) -> anyhow::Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "etc", "run", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = BUSYBOX.find().context("busybox is missing")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for name in ["sh", "ip", "ping", "sleep"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    Ok(())
}

//! A machine with CNI plugins, and containers on it: namespaces that are attached to networks by `cnitool`,
//! as a runtime would, or by a plugin started with exactly the environment and bytes that a test says.
//!
//! What a runtime keeps (libcni's cache) and what the reference plugins keep (addresses of `host-local`) lies
//! in `/var/lib/cni`; every node has one of its own there.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::modules;
use crate::namespace::{Lab, Namespace};
use crate::process::{output, program};

/// Our plugin, as a network configuration's `type` names it.
pub const PLUGIN: &str = "routeshare-cni";

/// Where libcni and `host-local` keep what they know; they cannot be told otherwise.
const KEPT: &str = "/var/lib/cni";

/// A machine on which containers are attached to networks.
///
/// Any number of threads may use it at once.
#[derive(Debug)]
pub struct CniNode<'a> {
    machine: &'a Namespace,
    directory: PathBuf,
}

/// A container: a network namespace as a runtime makes it, with nothing set and its loopback down.
#[derive(Debug)]
pub struct Container {
    namespace: Namespace,
    path: PathBuf,
}

/// What a runtime says beside network and container.
#[derive(Clone, Debug, Default)]
pub struct With<'a> {
    /// The interface in the container; `eth0` when not said.
    pub ifname: Option<&'a str>,
    /// `CNI_ARGS`, such as `IP=10.64.0.9;K8S_POD_NAME=a`.
    pub args: Option<&'a str>,
    /// Values for the capabilities that plugins of the network have said they have, such as
    /// `{"portMappings": […]}`; `null` is none.
    pub capabilities: Value,
}

/// What a plugin that was started without a runtime did.
#[derive(Debug)]
pub struct Invoked {
    /// Its exit code; `None` when it was killed.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// All that it printed to standard output.
    pub stdout: String,
    /// And to standard error.
    pub stderr: String,
}

/// What a plugin said instead of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The version of the specification that the answer is of.
    pub version: String,
    /// Below 100: the specification's.
    pub code: u64,
    /// In short.
    pub msg: String,
    /// At length; may be empty.
    pub details: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}: {}", self.code, self.msg, self.details)
    }
}

impl std::error::Error for CniError {}

impl Lab {
    /// A new container. It is on no machine: it comes to be on the one whose plugins attach it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn container(&self, name: &str) -> anyhow::Result<Container> {
        let namespace = self.bare(name)?;
        let path = namespace.path();
        Ok(Container { namespace, path })
    }
}

impl Container {
    /// The namespace, for programs in it.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// As a runtime names it to plugins.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command line (words between blanks, no quoting) in it.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        self.namespace.run(line)
    }

    /// What `ip -json` prints for a line such as `address show eth0`.
    ///
    /// # Errors
    ///
    /// When `ip` does not succeed, as for an interface that is not there.
    pub fn ip_json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.run(&format!("ip -json -details {line}"))?;
        // Nothing at all is printed when there is nothing to list.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).with_context(|| format!("ip {line} gave no JSON: {text}"))
    }
}

impl<'a> CniNode<'a> {
    /// Makes `machine` a node; its files lie in a directory `name` in that of the lab.
    ///
    /// # Errors
    ///
    /// When the directories cannot be made.
    pub fn new(lab: &Lab, machine: &'a Namespace, name: &str) -> anyhow::Result<CniNode<'a>> {
        let node = CniNode {
            machine,
            directory: lab.directory().join(format!("{name}-cni")),
        };
        for directory in [node.conf_dir(), node.data_dir(), node.kept()] {
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        // Each call mounts the node's own over it.
        fs::create_dir_all(KEPT).with_context(|| format!("cannot make {KEPT}"))?;
        Ok(node)
    }

    /// The machine.
    pub fn machine(&self) -> &'a Namespace {
        self.machine
    }

    /// Network configurations, as `/etc/cni/net.d`.
    pub fn conf_dir(&self) -> PathBuf {
        self.directory.join("net.d")
    }

    /// What our plugin keeps, as `/var/lib/routeshare/cni`: `node.json`, `leases/`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What is `/var/lib/cni` for this node's runtime and the reference plugins.
    pub fn kept(&self) -> PathBuf {
        self.directory.join("var-lib-cni")
    }

    /// Writes the node file with these subnets, as a speaker does: all else as by default. `more` replaces
    /// fields of the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_node_file(&self, subnets: &[&str], more: Value) -> anyhow::Result<()> {
        let subnets: Vec<Value> = subnets
            .iter()
            .map(|prefix| {
                json!({"prefix": prefix, "pool": "pods", "purpose": "Pods", "reserved": [], "state": "Active"})
            })
            .collect();
        let mut file = json!({
            "version": 1,
            "subnets": subnets,
            "mtu": 1500,
            "cooldownSeconds": 60,
            "routeProtocol": 150,
        });
        if let (Some(file), Value::Object(more)) = (file.as_object_mut(), more) {
            file.extend(more);
        }
        let path = self.data_dir().join("node.json");
        let new = self.data_dir().join(".node.json.new");
        fs::write(&new, serde_json::to_vec_pretty(&file)?)?;
        fs::rename(new, path)?;
        Ok(())
    }

    /// Our plugin's part of a network configuration that keeps its files on this node; `more` are further
    /// fields, such as `{"mode": "routed"}`.
    pub fn plugin(&self, more: Value) -> Value {
        let mut plugin = json!({"type": PLUGIN, "dataDir": self.data_dir()});
        if let (Some(plugin), Value::Object(more)) = (plugin.as_object_mut(), more) {
            plugin.extend(more);
        }
        plugin
    }

    /// Writes the configuration of a network of these plugins, of version 1.1.0.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn network(&self, name: &str, plugins: &[Value]) -> anyhow::Result<()> {
        self.network_of_version("1.1.0", name, plugins)
    }

    /// As [`network`](CniNode::network), of another version of the specification.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn network_of_version(
        &self,
        version: &str,
        name: &str,
        plugins: &[Value],
    ) -> anyhow::Result<()> {
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        fs::write(
            self.conf_dir().join(format!("{name}.conflist")),
            serde_json::to_vec_pretty(&list)?,
        )
        .context("cannot write the network configuration")
    }

    /// Attaches a container as `eth0`, and gives the result of the last plugin.
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed, with what it printed.
    pub fn add(&self, network: &str, container: &Container) -> anyhow::Result<Value> {
        self.add_with(network, container, &With::default())
    }

    /// As [`add`](CniNode::add).
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed, with what it printed.
    pub fn add_with(
        &self,
        network: &str,
        container: &Container,
        with: &With<'_>,
    ) -> anyhow::Result<Value> {
        let text = self.tool("add", network, container, with)?;
        serde_json::from_str(&text).with_context(|| format!("cnitool add printed no JSON: {text}"))
    }

    /// Detaches it again.
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed, with what it printed.
    pub fn del(&self, network: &str, container: &Container) -> anyhow::Result<()> {
        self.silent("del", network, container, &With::default())
    }

    /// As [`del`](CniNode::del).
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed, with what it printed.
    pub fn del_with(
        &self,
        network: &str,
        container: &Container,
        with: &With<'_>,
    ) -> anyhow::Result<()> {
        self.silent("del", network, container, with)
    }

    /// Checks its attachment.
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed: with what the plugin found wrong.
    pub fn check(&self, network: &str, container: &Container) -> anyhow::Result<()> {
        self.silent("check", network, container, &With::default())
    }

    /// As [`check`](CniNode::check).
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed: with what the plugin found wrong.
    pub fn check_with(
        &self,
        network: &str,
        container: &Container,
        with: &With<'_>,
    ) -> anyhow::Result<()> {
        self.silent("check", network, container, with)
    }

    /// Asks whether the network can take containers.
    ///
    /// # Errors
    ///
    /// When it cannot, with the plugin's reason.
    pub fn status(&self, network: &str) -> anyhow::Result<()> {
        let nowhere = self.directory.join("none");
        self.call("status", network, &nowhere, &With::default())
            .map(drop)
    }

    /// Collects what belongs to no attachment. `cnitool` knows of no attachment that is to stay: it detaches
    /// all that its cache has first. For others, call [`invoke`](CniNode::invoke).
    ///
    /// # Errors
    ///
    /// When `cnitool` does not succeed, with what it printed.
    pub fn gc(&self, network: &str) -> anyhow::Result<()> {
        let nowhere = self.directory.join("none");
        self.call("gc", network, &nowhere, &With::default())
            .map(drop)
    }

    fn silent(
        &self,
        verb: &str,
        network: &str,
        container: &Container,
        with: &With<'_>,
    ) -> anyhow::Result<()> {
        let text = self.tool(verb, network, container, with)?;
        if !text.is_empty() {
            bail!("cnitool {verb} {network} printed: {text}");
        }
        Ok(())
    }

    fn tool(
        &self,
        verb: &str,
        network: &str,
        container: &Container,
        with: &With<'_>,
    ) -> anyhow::Result<String> {
        self.call(verb, network, container.path(), with)
    }

    fn call(
        &self,
        verb: &str,
        network: &str,
        path: &Path,
        with: &With<'_>,
    ) -> anyhow::Result<String> {
        let mut command = self.command(modules::find("cnitool")?);
        command
            .args([verb, network])
            .arg(path)
            .env("NETCONFPATH", self.conf_dir())
            .env("CNI_PATH", cni_path()?)
            .env("CNI_IFNAME", with.ifname.unwrap_or("eth0"));
        if let Some(args) = with.args {
            command.env("CNI_ARGS", args);
        }
        if !with.capabilities.is_null() {
            command.env("CAP_ARGS", with.capabilities.to_string());
        }
        output(&mut command)
    }

    /// A program on this machine for which `/var/lib/cni` is this node's, and which has no `CNI_` variables.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.machine.command("unshare");
        command
            .args(["--mount", "--propagation", "slave", "sh", "-c"])
            .arg(format!("mount --bind \"$0\" {KEPT} && exec \"$@\""))
            .arg(self.kept())
            .arg(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CNI_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts a plugin as a runtime does, without one: with these variables (and `CNI_PATH`), and these bytes
    /// as its input.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn invoke(
        &self,
        plugin: &str,
        variables: &[(&str, &str)],
        input: &[u8],
    ) -> anyhow::Result<Invoked> {
        let mut command = self.command(find_plugin(plugin)?);
        command
            .env("CNI_PATH", cni_path()?)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {plugin}"))?;
        let mut stdin = child.stdin.take().context("it has no input")?;
        // One that ends without reading all is a result.
        stdin.write_all(input).ok();
        drop(stdin);
        Ok(child.wait_with_output()?.into())
    }

    /// Starts our plugin for a command such as `ADD` on a container's `eth0`, whose ID is its namespace's name.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn ours(
        &self,
        command: &str,
        container: &Container,
        configuration: &Value,
    ) -> anyhow::Result<Invoked> {
        let path = container.path().display().to_string();
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container.namespace.name()),
            ("CNI_NETNS", &path),
            ("CNI_IFNAME", "eth0"),
        ];
        self.invoke(PLUGIN, &variables, configuration.to_string().as_bytes())
    }
}

impl From<Output> for Invoked {
    fn from(output: Output) -> Invoked {
        Invoked {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Invoked {
    /// The result: the one JSON value that it printed, or `null` when it printed nothing.
    ///
    /// # Errors
    ///
    /// With a [`CniError`] when it failed and said why; with another when it did what no plugin may.
    pub fn result(&self) -> anyhow::Result<Value> {
        let code = self.code.with_context(|| format!("killed: {self:?}"))?;
        let said = match self.stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text)
                .with_context(|| format!("standard output is not one JSON value: {self:?}"))?,
        };
        if code == 0 {
            return Ok(said);
        }
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let error = CniError {
            version: text("cniVersion"),
            code: said["code"]
                .as_u64()
                .with_context(|| format!("failed without a code: {self:?}"))?,
            msg: text("msg"),
            details: text("details"),
        };
        Err(error.into())
    }

    /// What it said instead of a result.
    ///
    /// # Errors
    ///
    /// When it succeeded, or did what no plugin may.
    pub fn error(&self) -> anyhow::Result<CniError> {
        match self.result() {
            Ok(result) => bail!("succeeded: {result}"),
            Err(error) => error.downcast(),
        }
    }
}

/// Where a plugin is: ours, or one of the reference plugins.
///
/// # Errors
///
/// When it is not there, with what makes it.
pub fn find_plugin(name: &str) -> anyhow::Result<PathBuf> {
    match name {
        PLUGIN => program(PLUGIN),
        name => modules::find(name),
    }
}

/// Ours are looked for first, beside our other programs.
fn cni_path() -> anyhow::Result<OsString> {
    let ours = program(PLUGIN).ok();
    let reference = modules::find("host-local")?;
    let directories = [ours.as_deref(), Some(&reference)];
    let directories = directories.into_iter().flatten().filter_map(Path::parent);
    std::env::join_paths(directories).context("a directory of plugins has a colon in its name")
}

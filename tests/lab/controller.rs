//! Our own controller on a machine of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::namespace::Namespace;
use crate::process::{Daemon, output, program};
use crate::wait::try_wait_for;

/// A running controller; ended when dropped.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    directory: PathBuf,
}

impl Controller {
    /// Starts it with these resources (YAML), for speakers of these nodes, which reach it under these
    /// addresses, and waits until it answers. Its files lie in a directory `controller` in
    /// `directory`.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start(
        machine: &Namespace,
        directory: &Path,
        addresses: &[&str],
        nodes: &[&str],
        resources: &str,
    ) -> anyhow::Result<Controller> {
        let directory = directory.join("controller");
        fs::create_dir_all(directory.join("resources"))?;
        fs::write(directory.join("resources/resources.yaml"), resources)?;
        certificates(&directory.join("pki"), addresses, nodes)?;
        let mut command = machine.command(program("routeshare-controller")?);
        command
            .arg("--resources")
            .arg(directory.join("resources"))
            .arg("--state")
            .arg(directory.join("state.redb"))
            .arg("--socket")
            .arg(directory.join("controller.sock"))
            .args(certificate(&directory, "controller"))
            .env("NO_COLOR", "1");
        for address in addresses {
            command.args(["--listen", &format!("{address}:7443")]);
        }
        let controller = Controller {
            daemon: machine.start(
                "routeshare-controller",
                command,
                &directory.join("controller.log"),
            )?,
            directory,
        };
        controller.answers()?;
        Ok(controller)
    }

    fn answers(&self) -> anyhow::Result<()> {
        let socket = self.directory.join("controller.sock");
        let answered = try_wait_for("the controller to answer", Duration::from_secs(20), || {
            output(
                Command::new(program("bgpctl")?)
                    .arg("--controller")
                    .arg(format!("unix:{}", socket.display()))
                    .args(["show", "nodes"]),
            )
        });
        answered
            .map(drop)
            .with_context(|| format!("the controller said:\n{}", self.daemon.log_tail()))
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

    /// Ends it without a chance to say goodbye.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// The arguments with which a node's speaker asks it under this address.
    pub fn arguments(&self, node: &str, address: &str) -> Vec<String> {
        let mut arguments = vec!["--controller".to_owned(), format!("https://{address}:7443")];
        arguments.extend(certificate(&self.directory, node));
        arguments
    }
}

/// An authority, and certificates for the controller and these nodes.
pub(crate) fn certificates(
    directory: &Path,
    addresses: &[&str],
    nodes: &[&str],
) -> anyhow::Result<()> {
    let pki = |words: &[&str]| -> anyhow::Result<()> {
        let mut command = Command::new(program("bgpctl")?);
        command
            .args(["pki", words[0]])
            .arg(directory)
            .args(&words[1..]);
        output(&mut command).map(drop)
    };
    pki(&["init"])?;
    let mut words = vec!["controller"];
    for address in addresses {
        words.extend(["--ip", address]);
    }
    pki(&words)?;
    nodes.iter().try_for_each(|node| pki(&["node", node]))
}

/// The arguments that name somebody's certificate.
pub(crate) fn certificate(directory: &Path, owner: &str) -> [String; 6] {
    let file = |name: String| directory.join("pki").join(name).display().to_string();
    let files = [
        "ca.crt".to_owned(),
        format!("{owner}.crt"),
        format!("{owner}.key"),
    ];
    let [ca, cert, key] = files.map(file);
    [
        "--ca".into(),
        ca,
        "--cert".into(),
        cert,
        "--key".into(),
        key,
    ]
}

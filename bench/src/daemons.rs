//! The daemons under test: how each is configured and started for the same work.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use lab::Namespace;

/// AS number of the daemon under test; its peers are this plus 1, plus 2, …
pub(crate) const DAEMON_ASN: u32 = 65000;

/// A daemon that can do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// This program.
    Routeshare,
    /// BIRD 2 of Debian.
    Bird,
}

/// A peer of the daemon under test.
pub(crate) struct Peer {
    pub(crate) asn: u32,
    pub(crate) address: IpAddr,
}

impl Engine {
    /// As `--peer` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Routeshare => "routeshare",
            Engine::Bird => "bird",
        }
    }

    /// Its version, as it says itself.
    pub(crate) fn version(self, binaries: &Path) -> String {
        let speaker = binaries.join("routeshare-speaker");
        let (program, argument) = match self {
            Engine::Routeshare => (speaker.as_path(), "--version"),
            Engine::Bird => (Path::new("bird"), "--version"),
        };
        Command::new(program)
            .arg(argument)
            .output()
            .map(|output| {
                let text = [output.stdout, output.stderr].concat();
                String::from_utf8_lossy(&text)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .unwrap_or_else(|error| format!("{}: {error}", program.display()))
    }

    /// Starts it in `namespace` with sessions to `peers` (who connect to it), everything accepted,
    /// everything sent on, everything put into the kernel.
    ///
    /// # Errors
    ///
    /// When its files cannot be written or it cannot be started.
    pub(crate) fn start(
        self,
        namespace: &Namespace,
        peers: &[Peer],
        binaries: &Path,
        folder: &Path,
    ) -> Result<lab::Daemon> {
        let command = match self {
            Engine::Bird => {
                let mut command = namespace.command("bird");
                command
                    .arg("-f")
                    .arg("-c")
                    .arg(write(folder, "bird.conf", &bird(peers))?)
                    .arg("-s")
                    .arg(folder.join("bird.ctl"));
                command
            }
            Engine::Routeshare => {
                let resources = folder.join("resources");
                fs::create_dir_all(&resources)?;
                write(&resources, "bench.yaml", &routeshare(peers))?;
                let mut command = namespace.command(binaries.join("routeshare-speaker"));
                command
                    .args(["--node", "bench", "--standalone", "--resources"])
                    .arg(resources)
                    .arg("--state-dir")
                    .arg(folder.join("state"))
                    .arg("--socket")
                    .arg(folder.join("speaker.sock"));
                command
            }
        };
        namespace.start(
            self.name(),
            command,
            &folder.join(format!("{}.log", self.name())),
        )
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn bird(peers: &[Peer]) -> String {
    let mut text = String::from(
        "log stderr all;\n\
         router id 192.0.2.1;\n\
         protocol device {}\n\
         protocol kernel k4 { ipv4 { import none; export all; }; }\n\
         protocol kernel k6 { ipv6 { import none; export all; }; }\n",
    );
    for (index, peer) in peers.iter().enumerate() {
        text += &format!(
            "protocol bgp p{index} {{\n  local as {DAEMON_ASN};\n  neighbor {} as {};\n  passive;\n  \
             ipv4 {{ import all; export all; next hop self; }};\n  \
             ipv6 {{ import all; export all; next hop self; }};\n}}\n",
            peer.address, peer.asn
        );
    }
    text
}

fn routeshare(peers: &[Peer]) -> String {
    let mut text = format!(
        "apiVersion: routeshare.io/v1alpha1\n\
         kind: Fabric\n\
         metadata: {{name: bench}}\n\
         spec:\n  asn: {{value: {DAEMON_ASN}}}\n\
         ---\n\
         apiVersion: routeshare.io/v1alpha1\n\
         kind: Node\n\
         metadata: {{name: bench}}\n\
         spec: {{routerId: 192.0.2.1, addresses: [192.0.2.1]}}\n\
         ---\n\
         apiVersion: routeshare.io/v1alpha1\n\
         kind: RoutePolicy\n\
         metadata: {{name: all}}\n\
         spec:\n  rules:\n    - {{name: all, action: Accept}}\n"
    );
    for (index, peer) in peers.iter().enumerate() {
        text += &format!(
            "---\n\
             apiVersion: routeshare.io/v1alpha1\n\
             kind: Peer\n\
             metadata: {{name: p{index}}}\n\
             spec:\n  address: {}\n  remoteAsn: {}\n  passive: true\n  import: [all]\n  export: [all]\n",
            peer.address, peer.asn
        );
    }
    text
}

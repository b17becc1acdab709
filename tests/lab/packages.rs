//! Programs of other people that have to be there, and the Debian packages they come in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::unistd::Uid;

use crate::process::output;

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What is started; a name, or a path for what is not in PATH.
    pub program: &'static str,
    /// Its Debian package.
    pub package: &'static str,
}

/// Namespaces, cables and addresses.
pub const IPROUTE: Tool = tool("ip", "iproute2");
/// Programs in namespaces.
pub const NSENTER: Tool = tool("nsenter", "util-linux");
/// Reachability.
pub const PING: Tool = tool("ping", "iputils-ping");
/// What is on a cable.
pub const TCPDUMP: Tool = tool("tcpdump", "tcpdump");
/// Cables that lose packets without telling anybody.
pub const NFT: Tool = tool("nft", "nftables");
/// A resolver.
pub const DNSMASQ: Tool = tool("dnsmasq", "dnsmasq-base");
/// Questions to resolvers.
pub const DIG: Tool = tool("dig", "bind9-dnsutils");
/// BIRD 2.
pub const BIRD: Tool = tool("bird", "bird2");
/// FRR.
pub const FRR: Tool = tool("/usr/lib/frr/bgpd", "frr");
/// GoBGP.
pub const GOBGP: Tool = tool("gobgpd", "gobgpd");
/// Go, which builds Kubernetes; the version in go.mod or newer.
pub const GO: Tool = tool("go", "golang-go");
/// The CNI plugins that Debian has.
pub const CNI_PLUGINS: Tool = tool("/usr/lib/cni/bridge", "containernetworking-plugins");
/// A runtime of containers, which calls CNI plugins.
pub const CONTAINERD: Tool = tool("containerd", "containerd");
/// What it starts containers with.
pub const RUNC: Tool = tool("runc", "runc");
/// All programs in one, for containers that have nothing else.
pub const BUSYBOX: Tool = tool("busybox", "busybox-static");
/// Throughput.
pub const IPERF: Tool = tool("iperf3", "iperf3");
/// Clocks that are wrong, for one program.
pub const FAKETIME: Tool = tool("faketime", "faketime");
/// A kernel that runs as a program, with drivers that this machine's may lack.
pub const USER_MODE_LINUX: Tool = tool("linux.uml", "user-mode-linux");
/// Drivers for it.
pub const KMOD: Tool = tool("insmod", "kmod");
/// A firewall for it: its nf_tables knows no families. Its package has what the reference plugin `portmap` maps
/// ports with, too.
pub const IPTABLES: Tool = tool("iptables-legacy", "iptables");
/// A C++ compiler, for libFuzzer, and with it one for C.
pub const CXX: Tool = tool("c++", "g++");

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

impl Tool {
    /// Where it is, if it is.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A user's PATH may lack the directories of root's programs.
        // Go's own installer leaves it to its user to put it there.
        let system = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/go/bin"];
        std::env::split_paths(&path)
            .chain(system.map(PathBuf::from))
            .map(|directory| directory.join(self.program))
            .find(|path| path.is_file())
    }
}

/// Where tools that are built, not installed, are kept: they outlive a clone.
///
/// # Errors
///
/// When the environment does not say where.
pub fn cache() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set; where should tools be kept?")?;
    Ok(base.join("routeshare/tools"))
}

/// Those that are missing.
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools
        .iter()
        .copied()
        .filter(|tool| tool.find().is_none())
        .collect()
}

/// Installs with apt-get what is missing, telling `say` what is done.
///
/// # Errors
///
/// When something is missing and cannot be installed: not root, no apt-get, or apt-get fails. The
/// message names what to install.
pub fn ensure(tools: &[Tool], say: impl Fn(&str)) -> anyhow::Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let packages = packages.join(" ");
    let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    let programs = programs.join(", ");
    if !Uid::effective().is_root() || tool("apt-get", "apt").find().is_none() {
        bail!("missing: {programs}; install with: sudo apt-get install {packages}");
    }
    say(&format!(
        "installing {packages} (for {programs}) with apt-get"
    ));
    install(&packages).with_context(|| {
        format!("missing: {programs}; could not be installed by: apt-get install {packages}")
    })?;
    let still: Vec<&str> = self::missing(tools)
        .iter()
        .map(|tool| tool.program)
        .collect();
    if !still.is_empty() {
        bail!(
            "still missing after apt-get install {packages}: {}",
            still.join(", ")
        );
    }
    Ok(())
}

fn install(packages: &str) -> anyhow::Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        output(&mut command)
    };
    // The packages of routing daemons start them at once, on the machine itself; ours run in
    // namespaces only.
    let _quiet = NoServices::start()?;
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages.split(' '));
    apt(&arguments).map(drop)
}

/// While this lives, packages being installed start no services (Debian's `policy-rc.d`).
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn start() -> anyhow::Result<NoServices> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(NoServices(None)); // somebody else's; it stays as it is
        }
        fs::write(path, "#!/bin/sh\nexit 101\n").context("cannot write /usr/sbin/policy-rc.d")?;
        let guard = NoServices(Some(path));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!(
                "cannot remove {}: {error}; remove it by hand",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_found_missing() {
        let nothing = tool("no-such-program-here", "nothing");
        assert_eq!(missing(&[tool("sh", "dash"), nothing]), [nothing]);
    }
}

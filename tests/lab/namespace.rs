//! Machines made of network namespaces, and cables between them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::process::{Daemon, output};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// Names of a lab's namespaces start with this and the number of the process that made them.
const PREFIX: &str = "rslab";

/// Says that root is needed, and what for, when we are not.
///
/// # Errors
///
/// When this process is not root's.
pub fn require_root() -> anyhow::Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    bail!(
        "network namespaces, addresses and kernel routes need root (CAP_NET_ADMIN and CAP_SYS_ADMIN); \
         run it again as: sudo -E env PATH=\"$PATH\" cargo xtask …"
    )
}

/// One test's machines and files. Names are unique among all labs that run.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: TempDir,
}

impl Lab {
    /// An empty lab. What killed labs left behind is removed first.
    ///
    /// # Errors
    ///
    /// Without root.
    pub fn new() -> anyhow::Result<Lab> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        require_root()?;
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix("routeshare-lab-")
            .tempdir()
            .context("cannot make a directory for the lab")?;
        // Daemons with users of their own have to pass through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Lab {
            prefix: format!("{PREFIX}{}-{number}", std::process::id()),
            directory,
        })
    }

    /// A new machine: a namespace with its loopback up, which forwards both families.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn machine(&self, name: &str) -> anyhow::Result<Namespace> {
        Namespace::create(&format!("{}-{name}", self.prefix))
    }

    /// A new namespace with nothing set, and its loopback down.
    pub(crate) fn bare(&self, name: &str) -> anyhow::Result<Namespace> {
        Namespace::bare(&format!("{}-{name}", self.prefix))
    }

    /// For files of this lab; gone with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// A network namespace and every process in it; gone when dropped unless [kept](Namespace::keep).
#[derive(Debug)]
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes a namespace of this very name; one that is there is removed with all its processes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn create(name: &str) -> anyhow::Result<Namespace> {
        let namespace = Namespace::bare(name)?;
        namespace.ip(["link set lo up"])?;
        namespace.set(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Addresses are usable at once, and come from nobody but us.
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            // ECMP by addresses and ports, so that flows between two machines spread.
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ])?;
        Ok(namespace)
    }

    fn bare(name: &str) -> anyhow::Result<Namespace> {
        remove(name)?;
        output(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Namespace {
            name: name.to_owned(),
            keep: false,
        })
    }

    /// A namespace that is there already; it stays when this value is dropped.
    pub fn existing(name: &str) -> Option<Namespace> {
        path(name).exists().then(|| Namespace {
            name: name.to_owned(),
            keep: true,
        })
    }

    /// Lets it stay when this value is dropped; [`remove`](Namespace::remove) ends it then.
    pub fn keep(mut self) -> Namespace {
        self.keep = true;
        self
    }

    /// Its name for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, as runtimes name it to CNI plugins.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// A program on this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Namespace::command_in(&self.name, program)
    }

    /// A program on the machine of this [name](Namespace::name).
    pub fn command_in(name: &str, program: impl AsRef<OsStr>) -> Command {
        // Not `ip netns exec`: that mounts a new /sys, which hides the cgroup trees.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", path(name).display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command line (words between blanks, no quoting) to its end and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        output(self.command(program).args(words)).with_context(|| format!("in {}", self.name))
    }

    /// Runs lines of `ip` (without that word), all in one process.
    ///
    /// # Errors
    ///
    /// At the first line that fails; those before it have been carried out.
    pub fn ip<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
        let lines: Vec<&str> = lines.into_iter().collect();
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip (package iproute2)")?;
        let mut stdin = child.stdin.take().context("ip has no input")?;
        stdin.write_all(lines.join("\n").as_bytes())?;
        stdin.write_all(b"\n")?;
        drop(stdin);
        let result = child.wait_with_output()?;
        if !result.status.success() {
            bail!(
                "ip in {}: {}; the lines were:\n{}",
                self.name,
                String::from_utf8_lossy(&result.stderr).trim(),
                lines.join("\n")
            );
        }
        Ok(())
    }

    /// Kernel settings, by their path under /proc/sys.
    ///
    /// # Errors
    ///
    /// When one is refused.
    pub fn set(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let script: String = settings
            .iter()
            .map(|(key, value)| format!("echo {value} > /proc/sys/{key}\n"))
            .collect();
        output(self.command("sh").args(["-e", "-c", &script])).map(drop)
    }

    /// A cable from `interface` here to `other_interface` of `other`, both up. Addresses such as
    /// `10.0.0.1/30` may be given to both ends.
    ///
    /// # Errors
    ///
    /// When a name is taken or an address is none.
    pub fn cable(
        &self,
        interface: &str,
        addresses: &[&str],
        other: &Namespace,
        other_interface: &str,
        other_addresses: &[&str],
    ) -> anyhow::Result<()> {
        self.ip([format!(
            "link add {interface} type veth peer name {other_interface} netns {}",
            other.name
        )
        .as_str()])?;
        self.raise(interface, addresses)?;
        other.raise(other_interface, other_addresses)
    }

    /// Gives an interface addresses and brings it up.
    ///
    /// # Errors
    ///
    /// When there is no such interface or an address is none.
    pub fn raise(&self, interface: &str, addresses: &[&str]) -> anyhow::Result<()> {
        let mut lines: Vec<String> = addresses
            .iter()
            .map(|address| match address.contains(':') {
                true => format!("address add {address} dev {interface} nodad"),
                false => format!("address add {address} dev {interface}"),
            })
            .collect();
        lines.push(format!("link set {interface} up"));
        self.ip(lines.iter().map(String::as_str))
    }

    /// A bridge with these interfaces as its ports, up, with addresses of its own.
    ///
    /// # Errors
    ///
    /// When a name is taken or there is no such interface.
    pub fn bridge(&self, name: &str, ports: &[&str], addresses: &[&str]) -> anyhow::Result<()> {
        let mut lines = vec![format!("link add {name} type bridge")];
        lines.extend(
            ports
                .iter()
                .map(|port| format!("link set {port} master {name}")),
        );
        self.ip(lines.iter().map(String::as_str))?;
        self.raise(name, addresses)
    }

    /// Starts a program that runs until it is dropped; its output goes to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(&self, name: &str, command: Command, log: &Path) -> anyhow::Result<Daemon> {
        Daemon::start(&format!("{name} in {}", self.name), command, log)
    }

    /// Calls `work` on a thread that is on this machine: a socket opened there stays there.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.entrance()?.within(work)
    }

    /// A way in that can be kept and given to others.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub fn entrance(&self) -> anyhow::Result<Entrance> {
        let handle = fs::File::open(path(&self.name))
            .with_context(|| format!("cannot open the namespace {}", self.name))?;
        Ok(Entrance(Arc::new(handle)))
    }

    /// Ends every process in it and removes it, now.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn remove(self) -> anyhow::Result<()> {
        remove(&self.name)
    }
}

/// A way into a namespace; the namespace's processes and cables are [`Namespace`]'s all the same.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<fs::File>);

impl Entrance {
    /// As [`Namespace::within`].
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> anyhow::Result<T> {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter")?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// What an HTTP server on the loopback address of this machine answers to a GET, with its headers.
    ///
    /// # Errors
    ///
    /// When nobody answers there.
    pub fn http_get(&self, port: u16, path: &str) -> anyhow::Result<String> {
        let answer = self.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })?;
        answer.with_context(|| format!("cannot get {path} from port {port}"))
    }

    /// A metric of the program that serves them on this port, by its name and labels, as its line
    /// begins.
    ///
    /// # Errors
    ///
    /// When it cannot be asked, or has no such metric.
    pub fn metric(&self, port: u16, name: &str) -> anyhow::Result<u64> {
        let text = self.http_get(port, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no metric {name} in {text}"))?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.name)
        {
            eprintln!("cannot remove the namespace {}: {error:#}", self.name);
        }
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Ends every process in a namespace and removes it; one that is not there is no error.
fn remove(name: &str) -> anyhow::Result<()> {
    if !path(name).exists() {
        return Ok(());
    }
    // A name without a namespace (left by a crash of `ip netns add`) has no processes to list.
    let pids = output(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // One that ended in between needs no ending.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Removes namespaces of labs whose process is gone.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return; // no namespace was ever made here
    };
    let names: BTreeSet<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| maker(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()))
        .collect();
    for name in names {
        if let Err(error) = remove(&name) {
            // Another lab may be removing it at this moment.
            eprintln!("cannot remove the leftover {name}: {error:#}");
        }
    }
}

/// The process number in the name of a lab's namespace.
fn maker(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_a_maker() {
        assert_eq!(maker("rslab123-1-tor"), Some("123"));
        assert_eq!(maker("rslabx-1-tor"), None);
        assert_eq!(maker("rs-tor-a"), None);
    }
}

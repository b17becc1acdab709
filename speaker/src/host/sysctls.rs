//! Settings of the kernel that packets of pods depend on, under `/proc/sys/net`.
//!
//! | setting | becomes | why |
//! |---|---|---|
//! | `ipv4.ip_forward`, `ipv6.conf.all.forwarding` | 1 | packets from one interface to another one |
//! | `ipv6.conf.IF.accept_ra` | 1 → 2, where routes come from router advertisements | forwarding would take these routes away |
//! | `ipv4.conf.IF.rp_filter` of interfaces towards peers | 1 → 2 | packets may come by another way than they go |
//!
//! Those of a family only where pods have addresses of it. They stay when the speaker ends. What
//! somebody has switched off on one interface alone is told, not changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bgp::types::Family;
use kernel::link::{self, By};
use kernel::lookup::lookup;
use kernel::{NetconfMonitor, Netlink, NetlinkError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Problem, Wanted};
use crate::desired::chain;

/// Room for the answers to a few questions.
const RECEIVE: usize = 1 << 20;
/// `/proc/net/ipv6_route`: a default router, or a prefix, that was advertised.
const ADVERTISED: u32 = 0x0004_0000;
const DEFAULT_OR_PREFIX: u32 = 0x0001_0000 | 0x0008_0000;

/// The settings, where they are, and eyes on forwarding.
pub(super) struct Sysctls {
    directory: PathBuf,
    netlink: Option<Netlink>,
    monitor: Option<AsyncFd<NetconfMonitor>>,
    /// Those that were as they should be.
    right: BTreeSet<String>,
}

impl Sysctls {
    pub(super) fn new(directory: PathBuf) -> Sysctls {
        Sysctls {
            directory,
            netlink: None,
            monitor: None,
            right: BTreeSet::new(),
        }
    }

    /// Opens the socket that hears of changes, if it is not open yet. On a thread of the runtime. Without it they
    /// are found out from time to time.
    pub(super) fn open(&mut self) {
        if self.monitor.is_some() {
            return;
        }
        let Ok(monitor) = NetconfMonitor::open(RECEIVE) else {
            return;
        };
        // SAFETY: the monitor owns its socket, which is the same one for as long as the monitor is there.
        let monitor = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
        self.monitor = monitor.ok();
    }

    /// Resolves when forwarding may have been switched, by whomever.
    pub(super) async fn changed(&mut self) {
        let Some(monitor) = &mut self.monitor else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = monitor.readable_mut().await else {
                return std::future::pending().await; // the runtime is ending
            };
            let heard = ready.get_inner_mut().read();
            ready.clear_ready();
            // When changes are lost: look.
            if heard.unwrap_or(true) {
                return;
            }
        }
    }

    /// Sets what is not as it should be, and adds what cannot be set to `problems`.
    pub(super) fn put_right(&mut self, wanted: &Wanted, problems: &mut Vec<Problem>) {
        let towards_peers = match self.towards_peers(&wanted.peers) {
            Ok(interfaces) => interfaces,
            Err(error) => {
                let why = chain(&error);
                let message =
                    format!("cannot find out by which interfaces peers are reached: {why}");
                problems.push(("Forwarding", message));
                BTreeSet::new()
            }
        };
        let has = |family| {
            wanted
                .subnets
                .iter()
                .any(|subnet| subnet.family() == family)
        };
        if has(Family::Ipv4) {
            for interface in &towards_peers {
                self.loosen(interface, problems);
            }
            match self.forward_ipv4() {
                Ok(()) => self.all_forward("ipv4", &towards_peers, problems),
                Err(why) => problems.push(("Forwarding", why)),
            }
        }
        if has(Family::Ipv6) {
            match self.forward_ipv6() {
                Ok(()) => self.all_forward("ipv6", &towards_peers, problems),
                Err(why) => problems.push(("Forwarding", why)),
            }
        }
    }

    fn forward_ipv4(&mut self) -> Result<(), String> {
        self.bring("ipv4/ip_forward", "1")
    }

    fn forward_ipv6(&mut self) -> Result<(), String> {
        const ALL: &str = "ipv6/conf/all/forwarding";
        if self.read(ALL).is_ok_and(|value| value == "1") {
            return Ok(());
        }
        // First: with forwarding the kernel drops routes of router advertisements where this is 1.
        for interface in advertised_interfaces() {
            let setting = format!("ipv6/conf/{interface}/accept_ra");
            if self.read(&setting).is_ok_and(|value| value == "1") {
                self.bring(&setting, "2").map_err(|why| {
                    format!(
                        "{why}; IPv6 forwarding stays off, because it would take the routes away that \
                         {interface} has from router advertisements"
                    )
                })?;
            }
        }
        self.bring(ALL, "1")
    }

    /// The stricter one of the setting for all interfaces and that of one holds, unless the one is 2.
    fn loosen(&mut self, interface: &str, problems: &mut Vec<Problem>) {
        let own = format!("ipv4/conf/{interface}/rp_filter");
        let value = |setting: &str| -> u8 {
            let value = self.read(setting).unwrap_or_default();
            value.parse().unwrap_or(0)
        };
        if value("ipv4/conf/all/rp_filter").max(value(&own)) != 1 {
            return;
        }
        if let Err(why) = self.bring(&own, "2") {
            let message = format!(
                "{why}; packets to pods that come by {interface} are dropped when the way back goes by another \
                 interface"
            );
            problems.push(("ReversePathFilter", message));
        }
    }

    /// An interface forwards when all do, unless somebody switched that one off.
    fn all_forward(
        &self,
        family: &str,
        interfaces: &BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) {
        for interface in interfaces {
            let setting = format!("{family}/conf/{interface}/forwarding");
            if self.read(&setting).is_ok_and(|value| value == "0") {
                let name = dotted(&setting);
                let message = format!(
                    "{name} is 0, so that packets to pods that come in there are dropped; if that is not meant \
                     so, set it on the host (sysctl -w {name}=1)"
                );
                problems.push(("Forwarding", message));
            }
        }
    }

    /// Reads a setting, and writes it if it is another one.
    fn bring(&mut self, setting: &str, value: &str) -> Result<(), String> {
        let name = dotted(setting);
        let was = self
            .read(setting)
            .map_err(|error| format!("cannot read {name}: {error}"))?;
        if was == value {
            self.right.insert(setting.to_owned());
            return Ok(());
        }
        match fs::write(self.directory.join(setting), value) {
            Ok(()) => {
                match self.right.insert(setting.to_owned()) {
                    true => {
                        tracing::info!(setting = name, was, now = value, "kernel setting changed")
                    }
                    false => tracing::warn!(
                        setting = name,
                        was,
                        now = value,
                        "somebody else changed a kernel setting; putting it right"
                    ),
                }
                Ok(())
            }
            Err(error) => {
                let mounted = self.directory.display();
                Err(format!(
                    "{name} is {was} and cannot be set to {value} ({error}), without which this host does not \
                     forward packets of pods as it should; set it on the host (sysctl -w {name}={value}, and a \
                     line in /etc/sysctl.d), or let the speaker write below {mounted} (--sysctl-dir)"
                ))
            }
        }
    }

    fn read(&self, setting: &str) -> io::Result<String> {
        let text = fs::read_to_string(self.directory.join(setting))?;
        Ok(text.trim().to_owned())
    }

    /// Names of the interfaces by which packets go to these addresses.
    fn towards_peers(
        &mut self,
        peers: &BTreeSet<IpAddr>,
    ) -> Result<BTreeSet<String>, NetlinkError> {
        let netlink = match &mut self.netlink {
            Some(netlink) => netlink,
            closed => closed.insert(Netlink::open(RECEIVE)?),
        };
        let peers: Vec<IpAddr> = peers.iter().copied().collect();
        let routes = lookup(netlink, &peers)?.into_iter().flatten();
        let paths = routes.flat_map(|route| route.paths);
        let interfaces: BTreeSet<u32> = paths.map(|path| path.interface).collect();
        let mut names = BTreeSet::new();
        for index in interfaces {
            let found = link::find(netlink, By::Index(index))?;
            names.extend(found.map(|link| link.name).filter(|name| name != "lo"));
        }
        Ok(names)
    }
}

/// `net.ipv4.ip_forward`, as `sysctl` calls it; a dot in an interface's name is a slash there.
fn dotted(setting: &str) -> String {
    let swap = |letter| match letter {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", setting.chars().map(swap).collect::<String>())
}

/// Interfaces that have a default route or a prefix from router advertisements.
fn advertised_interfaces() -> BTreeSet<String> {
    // Of this thread's namespace; without IPv6 there is no such file.
    let routes = Path::new("/proc/thread-self/net/ipv6_route");
    advertised(&fs::read_to_string(routes).unwrap_or_default())
}

fn advertised(routes: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let [.., flags, interface] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let learned = flags & ADVERTISED != 0 && flags & DEFAULT_OR_PREFIX != 0;
        learned.then(|| interface.to_owned())
    };
    routes.lines().filter_map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_s_dot_is_a_slash_as_for_sysctl() {
        assert_eq!(dotted("ipv4/ip_forward"), "net.ipv4.ip_forward");
        assert_eq!(
            dotted("ipv4/conf/eth0.100/rp_filter"),
            "net.ipv4.conf.eth0/100.rp_filter"
        );
    }

    #[test]
    fn routes_of_router_advertisements_are_known_by_their_flags() {
        let routes = "\
            20010db8000000000000000000000000 40 0 00 0 00000100 00000001 00000000 000c0001     eth0\n\
            00000000000000000000000000000000 00 0 00 fe80 00000400 00000001 00000000 00450003     eth1\n\
            fe800000000000000000000000000000 40 0 00 0 00000100 00000001 00000000 00000001     eth2\n\
            fd000000000000000000000000000000 40 0 00 0 00000100 00000001 00000000 00000001     eth3\n";
        let found: Vec<String> = advertised(routes).into_iter().collect();
        assert_eq!(found, ["eth0", "eth1"]);
    }
}

//! Pods: namespaces that the CNI plugin has attached, and whether they reach one another.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::{Namespace, output, try_wait_for};

use super::PODS;
use super::runtime::Runtime;
use super::site::Site;
use super::topology::pod;

/// So many pings run at once.
const AT_ONCE: usize = 16;

/// One pod.
pub(crate) struct Pod {
    pub(crate) machine: Namespace,
    pub(crate) name: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    resolv_conf: PathBuf,
}

/// Makes the pods of a node, and has each attached by the plugins of its network configuration.
pub(crate) fn create_pods(
    site: &Site,
    directory: &Path,
    node: &str,
    runtime: &Runtime<'_>,
) -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in 1..=PODS {
        let name = pod(node, number);
        let machine = site.create(&name)?;
        let (addresses, text) = runtime.attach(&name, &machine)?;
        let resolv_conf = directory.join(format!("{name}.resolv.conf"));
        std::fs::write(&resolv_conf, text)?;
        let address = |v6: bool| {
            let mut of_family = addresses.iter().filter(|address| address.is_ipv6() == v6);
            let address = of_family.next().copied();
            address.with_context(|| format!("{name} has no address of one family: {addresses:?}"))
        };
        let (v4, v6) = (address(false)?, address(true)?);
        pods.push(Pod {
            machine,
            name,
            v4,
            v6,
            resolv_conf,
        });
    }
    Ok(pods)
}

/// Asks the C library of every pod for the name of every other until it has the right address; gives how
/// many names were asked for.
///
/// # Errors
///
/// When one is not known after `deadline`.
pub(crate) fn find_all(
    pods: &[Pod],
    deadline: Duration,
    now: impl Fn(&str),
) -> anyhow::Result<usize> {
    let mut asked = 0;
    for from in pods {
        now(&from.name);
        for to in pods.iter().filter(|to| to.name != from.name) {
            let what = format!("{} to find {}", from.name, to.name);
            try_wait_for(&what, deadline, || {
                let found = from.lookup(&to.name)?;
                let is_it = found.starts_with(&format!("{} ", to.v4));
                ensure!(is_it, "{found}");
                Ok(())
            })?;
            asked += 1;
        }
    }
    Ok(asked)
}

impl Pod {
    fn lookup(&self, name: &str) -> anyhow::Result<String> {
        let mut command = self.machine.command("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/resolv.conf && exec getent ahostsv4 \"$1\"")
            .arg(&self.resolv_conf)
            .arg(name);
        output(&mut command)
    }
}

/// The address with this number in a subnet: `10.64.1.0/24`, 200 → `10.64.1.200`.
pub(crate) fn host(subnet: &str, number: usize) -> anyhow::Result<IpAddr> {
    let (network, _) = subnet
        .split_once('/')
        .context("a subnet without a length")?;
    Ok(match network.parse()? {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + u32::try_from(number)?).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + number as u128).into()),
    })
}

/// One way from a pod to another in one family.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    from: &'a Pod,
    to: &'a Pod,
    address: IpAddr,
}

/// Every way from each of `from` to each of `to`, in both families; none from a pod to itself.
pub(crate) fn ways<'a>(
    from: impl Iterator<Item = &'a Pod>,
    to: impl Iterator<Item = &'a Pod> + Clone,
) -> Vec<Way<'a>> {
    from.flat_map(|from| {
        to.clone()
            .filter(move |to| to.name != from.name)
            .flat_map(move |to| [to.v4, to.v6].map(|address| Way { from, to, address }))
    })
    .collect()
}

/// Pings every way until each has answered once.
///
/// # Errors
///
/// When some have not after `deadline`, with those.
pub(crate) fn reach_all(
    ways: &[Way<'_>],
    deadline: Duration,
    now: impl Fn(&str) + Sync,
) -> anyhow::Result<()> {
    let mut left: Vec<Way<'_>> = ways.to_vec();
    let total = ways.len();
    let all = try_wait_for("every pod to answer every other", deadline, || {
        left = unanswered(&left, |answered| {
            now(&format!("{} of {total}", total - left.len() + answered));
        });
        if left.is_empty() {
            return Ok(());
        }
        let some: Vec<String> = left
            .iter()
            .take(6)
            .map(|way| format!("{} → {} {}", way.from.name, way.to.name, way.address))
            .collect();
        bail!("{} of {total} are silent: {}", left.len(), some.join(", "))
    });
    Ok(all?)
}

/// Pings each way once; those that did not answer.
fn unanswered<'a>(ways: &[Way<'a>], now: impl Fn(usize) + Sync) -> Vec<Way<'a>> {
    let next = AtomicUsize::new(0);
    let answered = AtomicUsize::new(0);
    let silent = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(ways.len()) {
            scope.spawn(|| {
                while let Some(way) = ways.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ping = format!("ping -n -q -c 1 -W 1 {}", way.address);
                    match way.from.machine.run(&ping) {
                        Ok(_) => now(answered.fetch_add(1, Ordering::Relaxed) + 1),
                        Err(_) => {
                            silent
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(*way);
                        }
                    }
                }
            });
        }
    });
    silent.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_from_that_of_the_network() {
        assert_eq!(host("10.64.1.0/24", 2).unwrap().to_string(), "10.64.1.2");
        assert_eq!(
            host("fd00:64:0:1::/64", 3).unwrap().to_string(),
            "fd00:64:0:1::3"
        );
    }
}

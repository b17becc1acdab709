//! Pods: namespaces with addresses of their node's subnet, and whether they reach one another.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab::{Namespace, try_wait_for};

use super::PODS;
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
}

/// Makes the pods of a node out of its subnets: a cable each, host routes on the node, a link-local
/// gateway for both families in the pod, and nothing that rewrites packets.
pub(crate) fn create_pods(
    site: &Site,
    node: &str,
    machine: &Namespace,
    subnets: &[String],
) -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in 1..=PODS {
        let address = |v6: bool| {
            let subnet = subnets.iter().find(|subnet| subnet.contains(':') == v6);
            subnet
                .with_context(|| format!("{node} has no subnet of one family: {subnets:?}"))
                .and_then(|subnet| host(subnet, number))
        };
        let (v4, v6) = (address(false)?, address(true)?);
        let name = pod(node, number);
        let pod = site.create(&name)?;
        let inside = [format!("{v4}/32"), format!("{v6}/128")];
        let outside = format!("pod{number}");
        pod.cable(
            "eth0",
            &[&inside[0], &inside[1]],
            machine,
            &outside,
            // The same on every cable of every node: no address is used up for gateways.
            &["fe80::1/64"],
        )?;
        pod.ip([
            "route add 0.0.0.0/0 via inet6 fe80::1 dev eth0 onlink",
            "route add ::/0 via fe80::1 dev eth0 onlink",
        ])?;
        machine.ip([
            format!("route add {v4}/32 dev {outside}").as_str(),
            &format!("route add {v6}/128 dev {outside}"),
        ])?;
        pods.push(Pod {
            machine: pod,
            name,
            v4,
            v6,
        });
    }
    Ok(pods)
}

/// The address with this number (1 is the first after the network's) and one more in a subnet:
/// `10.64.1.0/24`, 1 → `10.64.1.2`.
pub(crate) fn host(subnet: &str, number: usize) -> anyhow::Result<IpAddr> {
    let (network, _) = subnet
        .split_once('/')
        .context("a subnet without a length")?;
    let number = number + 1;
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
    fn pods_have_the_first_addresses_of_a_subnet_but_one() {
        assert_eq!(host("10.64.1.0/24", 1).unwrap().to_string(), "10.64.1.2");
        assert_eq!(
            host("fd00:64:0:1::/64", 2).unwrap().to_string(),
            "fd00:64:0:1::3"
        );
    }
}

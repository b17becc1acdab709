//! `ListPods`: which container has which address.

use std::net::IpAddr;
use std::sync::Arc;

use cni::leases::Lease;
use proto::speaker::v1 as pb;
use tonic::Status;

use crate::leases::Known;

/// So many at once.
const PAGE: usize = 256;

/// Those that are asked for, in pages that are made one by one; not found when one is named that is
/// not there.
pub(super) fn pages(
    known: &Arc<Known>,
    request: pb::ListPodsRequest,
) -> Result<impl Iterator<Item = pb::PodPage> + Send + use<>, Status> {
    let concerned: Vec<usize> = {
        let leases = known.leases.iter().enumerate();
        let leases = leases.filter(|(_, lease)| concerns(&request, lease));
        leases.map(|(place, _)| place).collect()
    };
    if concerned.is_empty() {
        // What cannot be read may have what is missing.
        if let Some(problem) = &known.problem {
            return Err(Status::failed_precondition(problem.clone()));
        }
        if !request.pod.is_empty() {
            return Err(Status::not_found(format!(
                "no container whose id begins with `{0}`, or that has the name, alias or address {0}, is \
                 attached to a network of this node; `bgpctl show pods` lists those that are",
                request.pod
            )));
        }
    }
    let known = Arc::clone(known);
    let mut places = concerned.into_iter().peekable();
    Ok(std::iter::from_fn(move || {
        places.peek()?;
        let page = places.by_ref().take(PAGE);
        let pods = page.map(|place| convert(&known.leases[place])).collect();
        Some(pb::PodPage { pods })
    }))
}

fn concerns(request: &pb::ListPodsRequest, lease: &Lease) -> bool {
    let wanted = request.pod.as_str();
    let owner = &lease.owner;
    let of_network = request.network.is_empty() || lease.network == request.network;
    let address: Option<IpAddr> = wanted.parse().ok();
    let full_name = || {
        let (namespace, name) = (owner.namespace.as_ref()?, owner.name.as_ref()?);
        Some(format!("{namespace}/{name}"))
    };
    of_network
        && (wanted.is_empty()
            || owner.container.starts_with(wanted)
            || owner.name.as_deref() == Some(wanted)
            || full_name().as_deref() == Some(wanted)
            || owner.aliases.iter().any(|alias| alias == wanted)
            || lease.addresses.iter().any(|it| Some(it.ip()) == address))
}

fn convert(lease: &Lease) -> pb::Pod {
    let owner = &lease.owner;
    pb::Pod {
        container: owner.container.clone(),
        ifname: owner.ifname.clone(),
        network: lease.network.clone(),
        mode: owner.mode.clone(),
        addresses: lease.addresses.iter().map(ToString::to_string).collect(),
        name: owner.name.clone().unwrap_or_default(),
        namespace: owner.namespace.clone().unwrap_or_default(),
        aliases: owner.aliases.clone(),
        netns: owner.netns.clone().unwrap_or_default(),
        since_ms: lease.since_ms(),
        earlier_boot: lease.earlier_boot,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cni::leases::{Leases, Now, Owner, Range, Request, Snapshot};

    use super::*;

    fn attach(directory: &Path, container: &str, name: &str) {
        let owner = Owner {
            container: container.into(),
            ifname: "eth0".into(),
            mode: "routed".into(),
            name: Some(name.into()),
            namespace: Some("shop".into()),
            aliases: vec!["all".into()],
            ..Owner::default()
        };
        let request = Request {
            ranges: vec![Range::routed("10.64.0.0/16".parse().unwrap())],
            ..Request::default()
        };
        let leases = Leases::open(directory, "pods", Now::read().unwrap()).unwrap();
        leases.allocate(owner, &request).unwrap().1.wait().unwrap();
    }

    #[test]
    fn pods_are_found_by_what_people_call_them_and_told_in_pages() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..300 {
            attach(
                directory.path(),
                &format!("c{number:03}"),
                &format!("web-{number}"),
            );
        }
        let snapshot = Snapshot::read(directory.path(), &Now::read().unwrap()).unwrap();
        let known = Arc::new(Known {
            leases: snapshot.leases,
            ..Known::default()
        });
        let asked = |pod: &str, network: &str| {
            let request = pb::ListPodsRequest {
                pod: pod.into(),
                network: network.into(),
            };
            let pages = pages(&known, request)?;
            Ok::<Vec<usize>, Status>(pages.map(|page| page.pods.len()).collect())
        };
        assert_eq!(asked("", "").unwrap(), [256, 44]);
        assert_eq!(asked("all", "pods").unwrap(), [256, 44]);
        assert_eq!(asked("c00", "").unwrap(), [10]);
        for one in ["c007", "web-7", "shop/web-7", "10.64.0.8"] {
            assert_eq!(asked(one, "").unwrap(), [1], "{one}");
        }
        assert!(asked("", "other").unwrap().is_empty());
        let error = asked("web-300", "").unwrap_err();
        assert!(
            error
                .message()
                .starts_with("no container whose id begins with `web-300`")
        );
    }
}

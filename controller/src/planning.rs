//! Between the resources, what was given out, and `ipam` and `plan`: conversions without state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipam::Millis;
use ipam::numbers::{self, Wanted};
use ipam::pool::{self, Family, Ledger, State};
use ipnetwork::IpNetwork;
use plan::Snapshot;
use prost::Message as _;
use proto::controller::v1 as pb;

use crate::source::Loaded;
use crate::store::{Contents, Version, hex};

/// The configurations with their versions.
pub(crate) struct Numbered {
    pub(crate) configs: BTreeMap<String, Arc<pb::NodeConfig>>,
    /// What keeps a node from having its configuration or a part of it: name and reason.
    pub(crate) problems: Vec<(String, String)>,
    pub(crate) changes: Vec<(String, Option<Version>)>,
    pub(crate) last_version: u64,
}

/// Plans, and gives each configuration its version: the stored one when its content is the same, else one
/// higher than any before. The version of a node that is gone is kept for as long as its subnets.
///
/// A configuration that is as it was `before` is that very one: thousands are made anew only to be compared,
/// and one at a time.
pub(crate) fn plan(
    snapshot: &Snapshot,
    contents: &Contents,
    ledger: &Ledger,
    before: &BTreeMap<String, Arc<pb::NodeConfig>>,
) -> Numbered {
    let mut configs = BTreeMap::new();
    let mut changes = Vec::new();
    let mut last_version = contents.last_version;
    let problems = plan::plan_each(snapshot, |config| {
        let mut config = plan::wire::to_proto(&config);
        let node = config.node.clone();
        let digest = digest(&config);
        let known = contents.versions.get(&node);
        // Older controllers kept all of the digest.
        config.version = match known.filter(|known| known.digest.starts_with(&digest)) {
            Some(known) => known.version,
            None => {
                last_version += 1;
                let version = last_version;
                changes.push((node.clone(), Some(Version { version, digest })));
                version
            }
        };
        let same = before.get(&node).filter(|before| ***before == config);
        let config = same.map_or_else(|| Arc::new(config), Arc::clone);
        configs.insert(node, config);
    });
    let holding: BTreeSet<&str> = ledger.iter().map(|(_, l)| l.node.as_str()).collect();
    for node in contents.versions.keys() {
        if !configs.contains_key(node) && !holding.contains(node.as_str()) {
            changes.push((node.clone(), None));
        }
    }
    let problems = problems.into_iter().map(|it| (it.node, it.message));
    Numbered {
        configs,
        problems: problems.collect(),
        changes,
        last_version,
    }
}

/// 64 bits of the encoding's SHA-256: enough to see that a configuration changed, and short, because the
/// store has one for every node. The encoding is the same for the same content (there are no maps in it).
fn digest(config: &pb::NodeConfig) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, &config.encode_to_vec());
    hex(&digest.as_ref()[..8])
}

/// What the plan may know: only grants that are in the ledger. A static subnet that somebody else
/// still holds is left out until it is free.
pub(crate) fn snapshot(
    loaded: &Loaded,
    ledger: &Ledger,
    numbers: &BTreeMap<String, numbers::NumberLease>,
) -> Snapshot {
    let mut resources = loaded.resources.clone();
    for (name, node) in &mut resources.nodes {
        node.spec.subnets.retain(|subnet| {
            let lease = ledger.get(IpNetwork::from(*subnet));
            lease.is_some_and(|l| l.node == *name && l.fixed && l.state == State::Assigned)
        });
    }
    let mut subnets: BTreeMap<String, Vec<plan::Subnet>> = BTreeMap::new();
    for (subnet, lease) in ledger.iter() {
        if lease.fixed || lease.state != State::Assigned {
            continue;
        }
        let purpose = match resources.pools.get(&lease.pool) {
            Some(pool) => pool.spec.purpose.into(),
            None => plan::Purpose::Pods, // the pool is gone; its subnets are kept
        };
        subnets
            .entry(lease.node.clone())
            .or_default()
            .push(plan::Subnet::new(subnet.into(), &lease.pool, purpose));
    }
    let numbers = numbers
        .iter()
        .filter(|(_, lease)| lease.free_at.is_none())
        .map(|(key, lease)| (key.clone(), bgp::types::Asn(lease.asn)));
    Snapshot {
        resources,
        subnets,
        numbers: numbers.collect(),
    }
}

pub(crate) fn wanted_numbers(loaded: &Loaded, grace: Millis) -> Wanted {
    let wanted = plan::wanted_numbers(&loaded.resources);
    let range = wanted.first().map(|first| first.range);
    let taken = plan::fixed_numbers(&loaded.resources);
    Wanted {
        keys: wanted.into_iter().map(|wanted| wanted.key).collect(),
        range: range.map(|range| range.first.0..=range.last.0),
        taken: taken.into_iter().map(|asn| asn.0).collect(),
        grace,
    }
}

pub(crate) fn pool_of(pool: &api::Pool) -> pool::Pool {
    let spec = &pool.spec;
    pool::Pool {
        name: pool.metadata.name.clone(),
        prefixes: spec.prefixes.iter().map(|p| (*p).into()).collect(),
        ipv4_length: spec.node_subnet_length.ipv4.get(),
        ipv6_length: spec.node_subnet_length.ipv6.get(),
        reserved: spec.reserved.iter().map(|p| (*p).into()).collect(),
    }
}

pub(crate) fn family_of(family: bgp::types::Family) -> Family {
    match family {
        bgp::types::Family::Ipv4 => Family::Ipv4,
        bgp::types::Family::Ipv6 => Family::Ipv6,
    }
}

pub(crate) fn grace(loaded: &Loaded) -> Duration {
    let seconds = loaded.resources.fabric.spec.subnet_grace_seconds.get();
    Duration::from_secs(seconds.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(hold_of_a: u32) -> Snapshot {
        let fabric = "spec: {asn: {value: 64512}}";
        let peer = format!(
            "spec: {{nodeSelector: {{names: [a]}}, address: 192.0.2.9, remoteAsn: 64512, timers: {{holdSeconds: {hold_of_a}}}}}"
        );
        let node = |last: u8| format!("spec: {{addresses: [192.0.2.{last}]}}");
        let documents = [
            ("Fabric", "fabric", fabric.to_owned()),
            ("Peer", "p", peer),
            ("Node", "a", node(1)),
            ("Node", "b", node(2)),
        ];
        let files = documents.map(|(kind, name, spec)| api::SourceFile {
            name: format!("{kind}/{name}"),
            text: format!(
                "apiVersion: routeshare.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n{spec}\n"
            ),
        });
        Snapshot {
            resources: api::parse(&files).unwrap().resources,
            subnets: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn planned(hold: u32, contents: &mut Contents, before: &Numbered) -> Numbered {
        let numbered = plan(
            &snapshot(hold),
            contents,
            &Ledger::default(),
            &before.configs,
        );
        contents.apply(&crate::store::Commit {
            versions: &numbered.changes,
            last_version: numbered.last_version,
            ..crate::store::Commit::default()
        });
        numbered
    }

    #[test]
    fn a_configuration_that_has_not_changed_is_kept_and_not_made_again() {
        let nothing = Numbered {
            configs: BTreeMap::new(),
            problems: Vec::new(),
            changes: Vec::new(),
            last_version: 0,
        };
        let contents = &mut Contents::default();
        let first = planned(90, contents, &nothing);
        let second = planned(30, contents, &first);
        assert_eq!(first.configs["a"].version, 1);
        assert_eq!(second.configs["a"].version, 3);
        assert_eq!(second.configs["a"].peers[0].hold_seconds, 30);
        assert_eq!(second.configs["b"].version, 2);
        assert!(Arc::ptr_eq(&first.configs["b"], &second.configs["b"]));
    }
}

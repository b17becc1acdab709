//! A lost ledger, made again from what repeats it: the NodeSubnets objects.
//!
//! What the Nodes' podCIDRs say beyond that is taken over by the reconcile loop, as from any other
//! allocator.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crd::{GivenAsn, NodeSubnets, State as Shown};
use ipam::Millis;
use ipam::numbers::NumberLease;
use ipam::pool::{Change, Lease, Ledger, State};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Client};

use super::Contents;

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// What could be found out.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) contents: Contents,
    /// The highest of those the objects repeat.
    pub(super) generation: u64,
    /// What cannot be true at once, and was left out.
    pub(super) contradictions: Vec<String>,
}

/// Reads all NodeSubnets.
pub(super) async fn from_node_subnets(client: &Client) -> Result<Rebuilt, kube::Error> {
    let api: Api<NodeSubnets> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = match api.list(&parameters).await {
            // The kind is not defined yet.
            Err(kube::Error::Api(status)) if status.code == 404 => break,
            page => page?,
        };
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => break,
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    Ok(merge(objects, now))
}

/// Puts the objects together. Where two contradict one another, the one that repeats a newer ledger is
/// right.
fn merge(mut objects: Vec<NodeSubnets>, now: Millis) -> Rebuilt {
    objects.sort_by_key(|object| std::cmp::Reverse(object.spec.ledger_generation));
    let mut rebuilt = Rebuilt::default();
    let mut ledger = Ledger::default();
    let mut given: BTreeMap<u32, String> = BTreeMap::new();
    for object in objects {
        let node = object.metadata.name.unwrap_or_default();
        let generation = u64::try_from(object.spec.ledger_generation).unwrap_or(0);
        rebuilt.generation = rebuilt.generation.max(generation);
        if let Some(GivenAsn { asn, to }) = object.spec.given_asn
            && let Ok(asn) = u32::try_from(asn)
        {
            let numbers = &mut rebuilt.contents.numbers;
            match (given.get(&asn), numbers.get(&to)) {
                (Some(other), _) if *other != to => rebuilt.contradictions.push(format!(
                    "NodeSubnets {node} says that {to} has AS {asn}, and another that {other} has it"
                )),
                (_, Some(other)) if other.asn != asn => rebuilt.contradictions.push(format!(
                    "NodeSubnets {node} says that {to} has AS {asn}, and another says {}",
                    other.asn
                )),
                _ => {
                    given.insert(asn, to.clone());
                    numbers.insert(to, NumberLease { asn, free_at: None });
                }
            }
        }
        for subnet in object.spec.subnets {
            if let Some((held, other)) = ledger.overlapping(subnet.prefix) {
                rebuilt.contradictions.push(format!(
                    "NodeSubnets {node} says {}, and NodeSubnets {} says {held}",
                    subnet.prefix, other.node
                ));
                continue;
            }
            let since = subnet.since.as_ref().map_or(now, millis);
            // Nobody can say how long it has waited by a clock that can be relied on: it waits anew.
            let grace = subnet
                .free_at
                .as_ref()
                .map_or(0, millis)
                .saturating_sub(since);
            let state = match subnet.state {
                Shown::Assigned => State::Assigned,
                Shown::Waiting => State::Waiting {
                    free_at: now.saturating_add(grace),
                },
            };
            let lease = Lease {
                pool: subnet.pool,
                node: node.clone(),
                fixed: subnet.fixed,
                state,
                since,
            };
            ledger.apply(&[Change::Set(subnet.prefix, lease)]);
        }
    }
    rebuilt.contents.ledger = ledger;
    // The versions are lost: new ones must be higher than any that was given, and none grows by a
    // million a second.
    rebuilt.contents.last_version = match rebuilt.generation {
        0 => 0,
        _ => now,
    };
    rebuilt
}

fn millis(time: &Time) -> Millis {
    u64::try_from(time.0.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use crd::{Family, NodeSubnet};

    use super::*;

    fn object(node: &str, ledger_generation: i64, subnets: &[(&str, Shown)]) -> NodeSubnets {
        let subnets = subnets.iter().map(|(prefix, state)| NodeSubnet {
            prefix: prefix.parse().unwrap(),
            pool: "pods".to_owned(),
            family: Family::Ipv4,
            state: *state,
            since: crd::time(1_000_000),
            free_at: (*state == Shown::Waiting)
                .then(|| crd::time(4_600_000))
                .flatten(),
            fixed: false,
        });
        let mut object = NodeSubnets::default();
        object.metadata.name = Some(node.to_owned());
        object.spec.ledger_generation = ledger_generation;
        object.spec.subnets = subnets.collect();
        object
    }

    #[test]
    fn the_newer_of_two_objects_that_contradict_one_another_is_right() {
        let assigned = Shown::Assigned;
        let objects = vec![
            object(
                "old",
                3,
                &[("10.0.0.0/24", assigned), ("10.0.1.0/24", assigned)],
            ),
            object("new", 9, &[("10.0.0.0/23", assigned)]),
            object(
                "other",
                5,
                &[("10.0.2.0/24", assigned), ("10.0.3.0/24", assigned)],
            ),
        ];
        let rebuilt = merge(objects, 77);
        let held: Vec<String> = rebuilt
            .contents
            .ledger
            .iter()
            .map(|(subnet, lease)| format!("{subnet} {}", lease.node))
            .collect();
        assert_eq!(
            held,
            ["10.0.0.0/23 new", "10.0.2.0/24 other", "10.0.3.0/24 other"]
        );
        assert_eq!(rebuilt.contradictions.len(), 2);
        assert_eq!(rebuilt.generation, 9);
    }

    #[test]
    fn what_waited_waits_for_its_whole_grace_time_again() {
        let rebuilt = merge(
            vec![object("gone", 1, &[("10.0.0.0/24", Shown::Waiting)])],
            50_000_000,
        );
        let (_, lease) = rebuilt.contents.ledger.iter().next().unwrap();
        let free_at = 50_000_000 + 3_600_000;
        assert_eq!(lease.state, State::Waiting { free_at });
    }

    #[test]
    fn who_was_given_which_as_number_is_known_again_and_nobody_has_anothers() {
        let with = |node: &str, generation, asn, to: &str| {
            let mut object = object(node, generation, &[]);
            let to = to.to_owned();
            object.spec.given_asn = Some(GivenAsn { asn, to });
            object
        };
        let objects = vec![
            with("a", 3, 65001, "node/a"),
            with("b", 9, 65002, "node/b"),
            with("r1", 4, 65010, "rack/r"),
            with("r2", 5, 65010, "rack/r"),
            // Older words about a number that somebody else has now, and about a rack.
            with("late", 2, 65002, "node/late"),
            with("r3", 1, 65011, "rack/r"),
        ];
        let rebuilt = merge(objects, 77);
        let numbers = rebuilt.contents.numbers.iter();
        let numbers: Vec<_> = numbers.map(|(key, it)| (key.as_str(), it.asn)).collect();
        assert_eq!(
            numbers,
            [("node/a", 65001), ("node/b", 65002), ("rack/r", 65010)]
        );
        assert_eq!(rebuilt.contradictions.len(), 2);
    }

    #[test]
    fn nothing_makes_an_empty_ledger_of_a_new_cluster() {
        let rebuilt = merge(Vec::new(), 77);
        assert_eq!(rebuilt.contents.ledger.iter().count(), 0);
        assert_eq!((rebuilt.contents.last_version, rebuilt.generation), (0, 0));
    }
}

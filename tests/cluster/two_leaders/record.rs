//! Every version of everything that says who holds which subnet, and what cannot be true of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use crd::{NodeSubnets, names};
use flate2::read::GzDecoder;
use futures::{StreamExt as _, TryStreamExt as _};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use lab::cluster::Cluster;
use lab::wait_for;
use tokio::task::JoinHandle;

/// Where something stands: the kind and the name.
type Place = (&'static str, String);
/// Who holds what, according to one object.
type Claims = Vec<(IpNetwork, String)>;

/// One version of an object.
struct Version {
    number: u64,
    place: Place,
    claims: Claims,
    /// Who wrote it, of the ledger.
    writer: Option<String>,
}

/// Watches until it is told to finish.
pub(super) struct Recorder {
    versions: Arc<Mutex<Vec<Version>>>,
    watches: Vec<JoinHandle<()>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) versions: usize,
    pub(super) ledgers: usize,
    /// Processes that wrote the ledger.
    pub(super) writers: usize,
    /// How often a subnet was given to another node than the one before.
    pub(super) changes_of_hands: usize,
    pub(super) contradictions: Vec<String>,
}

impl Recorder {
    pub(super) fn start(cluster: &Cluster) -> Recorder {
        let versions = Arc::default();
        let client = cluster.client();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), names::NAMESPACE);
        let watches = cluster.block_on(async {
            vec![
                watch(maps, "ConfigMap", &versions, ledger).await,
                watch(Api::all(client.clone()), "NodeSubnets", &versions, object).await,
                watch(Api::all(client), "Node", &versions, pod_cidrs).await,
            ]
        });
        Recorder { versions, watches }
    }

    /// Waits until the watches have seen what is there now, and judges all of it.
    pub(super) fn finish(self, cluster: &Cluster) -> Seen {
        let node = cluster.create_node("last", &["10.99.1.250"], &[]).unwrap();
        let last: u64 = node.resource_version().unwrap().parse().unwrap();
        wait_for(
            "the watches to be up to date",
            Duration::from_secs(30),
            || {
                let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
                let newest = |kind| {
                    let of_kind = versions.iter().filter(|v| v.place.0 == kind);
                    of_kind.map(|v| v.number).max().unwrap_or(0)
                };
                ensure!(
                    newest("Node") >= last,
                    "Nodes to {} of {last}",
                    newest("Node")
                );
                Ok(())
            },
        );
        for watch in &self.watches {
            assert!(!watch.is_finished(), "a watch ended: versions were missed");
            watch.abort();
        }
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        judge(&mut versions)
    }
}

/// The newest version there is. The store of a kind that was defined a moment ago may still be made: the
/// API server says so by 429, and there is no event to wait for.
async fn newest<K>(api: &Api<K>, kind: &str) -> String
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let asked = async {
        loop {
            match api.list_metadata(&ListParams::default()).await {
                Ok(listed) => return listed.metadata.resource_version.unwrap(),
                Err(kube::Error::Api(status)) if status.code == 429 => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("cannot list {kind}: {error}"),
            }
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(30), asked).await;
    asked.unwrap_or_else(|_| panic!("{kind} cannot be listed after 30 s: 429"))
}

/// A plain watch from the newest version on: every version comes, in order.
async fn watch<K>(
    api: Api<K>,
    kind: &'static str,
    versions: &Arc<Mutex<Vec<Version>>>,
    claims: fn(&K) -> (Claims, Option<String>),
) -> JoinHandle<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let from = newest(&api, kind).await;
    let versions = Arc::clone(versions);
    tokio::spawn(async move {
        // Longer than any run.
        let parameters = WatchParams::default().timeout(290);
        let mut from = from;
        loop {
            let Ok(events) = api.watch(&parameters, &from).await else {
                return;
            };
            let mut events = events.boxed();
            while let Ok(Some(event)) = events.try_next().await {
                let (object, gone) = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                    WatchEvent::Deleted(object) => (object, true),
                    WatchEvent::Bookmark(mark) => {
                        from = mark.metadata.resource_version;
                        continue;
                    }
                    WatchEvent::Error(_) => return,
                };
                from = object.resource_version().unwrap();
                let (claims, writer) = match gone {
                    true => (Claims::new(), None),
                    false => claims(&object),
                };
                let version = Version {
                    number: from.parse().unwrap(),
                    place: (kind, object.name_any()),
                    claims,
                    writer,
                };
                versions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(version);
            }
        }
    })
}

fn object(object: &NodeSubnets) -> (Claims, Option<String>) {
    let subnets = object.spec.subnets.iter();
    let claims = subnets.map(|subnet| (subnet.prefix, object.name_any()));
    (claims.collect(), None)
}

fn pod_cidrs(node: &Node) -> (Claims, Option<String>) {
    let cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    let claims = cidrs.into_iter().flatten();
    let claims = claims.map(|cidr| (cidr.parse().unwrap(), node.name_any()));
    (claims.collect(), None)
}

fn ledger(map: &ConfigMap) -> (Claims, Option<String>) {
    if map.name_any() != names::LEDGER {
        return (Claims::new(), None);
    }
    let packed = &map.binary_data.as_ref().unwrap()["ledger.json.gz"].0;
    let mut json = String::new();
    GzDecoder::new(packed.as_slice())
        .read_to_string(&mut json)
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut claims = Claims::new();
    for (node, held) in json["nodes"].as_object().unwrap() {
        let subnets = held["subnets"].as_object().into_iter().flatten();
        claims.extend(subnets.map(|(subnet, _)| (subnet.parse().unwrap(), node.clone())));
    }
    let writer = json["writer"].as_str().unwrap().to_owned();
    (claims, Some(writer))
}

/// Goes through the versions in the order in which they were made.
fn judge(versions: &mut [Version]) -> Seen {
    versions.sort_by_key(|version| version.number);
    let mut seen = Seen::default();
    let mut writers = BTreeSet::new();
    // Subnet → who holds it according to which place.
    let mut held: BTreeMap<IpNetwork, BTreeMap<Place, String>> = BTreeMap::new();
    let mut last_holder: BTreeMap<IpNetwork, String> = BTreeMap::new();
    for version in versions {
        seen.versions += 1;
        if let Some(writer) = &version.writer {
            seen.ledgers += 1;
            writers.insert(writer.clone());
        }
        held.retain(|_, places| {
            places.retain(|place, _| *place != version.place);
            !places.is_empty()
        });
        for (subnet, node) in &version.claims {
            for (other, places) in held.iter().filter(|(other, _)| overlap(**other, *subnet)) {
                for (place, holder) in places.iter().filter(|(_, holder)| *holder != node) {
                    seen.contradictions.push(format!(
                        "version {}: {subnet} is {node}'s in {:?}, and {other} is {holder}'s in {place:?}",
                        version.number, version.place
                    ));
                }
            }
            let places = held.entry(*subnet).or_default();
            if let Some(other) = places.insert(version.place.clone(), node.clone()) {
                seen.contradictions.push(format!(
                    "version {}: {subnet} is {node}'s and {other}'s in {:?}",
                    version.number, version.place
                ));
            }
            let before = last_holder.insert(*subnet, node.clone());
            seen.changes_of_hands += usize::from(before.is_some_and(|before| before != *node));
        }
    }
    seen.writers = writers.len();
    seen
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, kind: &'static str, name: &str, claims: &[(&str, &str)]) -> Version {
        let claims = claims
            .iter()
            .map(|(subnet, node)| (subnet.parse().unwrap(), (*node).to_owned()));
        Version {
            number,
            place: (kind, name.to_owned()),
            claims: claims.collect(),
            writer: None,
        }
    }

    #[test]
    fn the_judge_sees_a_subnet_that_is_still_shown_when_it_is_given_to_another() {
        let ledger = |number, claims| version(number, "ConfigMap", "routeshare-ledger", claims);
        let mut good = vec![
            ledger(1, &[("10.0.0.0/24", "a")]),
            version(2, "NodeSubnets", "a", &[("10.0.0.0/24", "a")]),
            version(5, "NodeSubnets", "a", &[]),
            ledger(6, &[]),
            ledger(7, &[("10.0.0.0/25", "b")]),
        ];
        let seen = judge(&mut good);
        assert_eq!(seen.contradictions, [""; 0]);
        let mut bad = vec![
            ledger(1, &[("10.0.0.0/24", "a")]),
            version(2, "NodeSubnets", "a", &[("10.0.0.0/24", "a")]),
            ledger(6, &[]),
            ledger(7, &[("10.0.0.0/25", "b")]),
            version(8, "NodeSubnets", "a", &[]),
        ];
        assert_eq!(judge(&mut bad).contradictions.len(), 1);
    }
}

//! What users see: conditions, NodeStatus objects, events, NetworkUnavailable; and how often it is
//! written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crd::conditions::get;
use crd::{Kind, NodeStatus, Written};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams};
use lab::cluster::{Cluster, Settings};
use lab::wait_for;
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::mesh::{self, SOON};

/// A NodeStatus of which much was told is told of once in this.
const ONE_IN: Duration = Duration::from_secs(90);

/// Status, reason and message of a condition of an object that a user wrote.
fn condition(
    cluster: &Cluster,
    kind: Kind,
    name: &str,
    condition: &str,
) -> anyhow::Result<(String, String, String)> {
    let objects: Api<Written> = Api::all_with(cluster.client(), &kind.api_resource());
    let object = cluster.block_on(objects.get(name))?;
    let status = object.status.context("there is no status yet")?;
    let it = get(&status.conditions, condition).context("the condition is not there yet")?;
    Ok((it.status.clone(), it.reason.clone(), it.message.clone()))
}

#[track_caller]
fn wait_for_condition(cluster: &Cluster, kind: Kind, name: &str, wanted: [&str; 3]) -> String {
    let [of, status, reason] = wanted;
    let what = format!("{kind} {name}: {of} {status}, {reason}");
    wait_for(&what, SOON, || {
        let said = condition(cluster, kind, name, of)?;
        ensure!(said.0 == status && said.1 == reason, "{said:?}");
        Ok(said.2)
    })
}

fn node_status(cluster: &Cluster, node: &str) -> anyhow::Result<NodeStatus> {
    let objects: Api<NodeStatus> = Api::all(cluster.client());
    Ok(cluster.block_on(objects.get(node))?)
}

/// Status and reason of a Node's NetworkUnavailable.
fn network_unavailable(cluster: &Cluster, node: &str) -> anyhow::Result<(String, String)> {
    let nodes: Api<Node> = Api::all(cluster.client());
    let node = cluster.block_on(nodes.get(node))?;
    let conditions = node.status.and_then(|status| status.conditions);
    let mut conditions = conditions.unwrap_or_default().into_iter();
    let it = conditions.find(|it| it.type_ == "NetworkUnavailable");
    let it = it.context("there is no such condition yet")?;
    Ok((it.status, it.reason.unwrap_or_default()))
}

/// Kind and name of what events with this reason are about.
fn events(cluster: &Cluster, reason: &str) -> anyhow::Result<Vec<String>> {
    let events: Api<Event> = Api::namespaced(cluster.client(), "default");
    let events = cluster.block_on(events.list(&ListParams::default()))?;
    let about = events.items.into_iter().filter_map(|event| {
        let it = event
            .regarding
            .filter(|_| event.reason.as_deref() == Some(reason))?;
        Some(format!("{} {}", it.kind?, it.name?))
    });
    Ok(about.collect())
}

#[test]
fn what_became_of_it_is_told_in_conditions_node_statuses_and_events() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes = [1, 2].map(|number| cluster.node(&format!("n{number}"), number, &[]).unwrap());
    let controller = mesh::controller(&cluster);
    wait_for("a new node to be unavailable", SOON, || {
        let said = network_unavailable(&cluster, "n1")?;
        ensure!(
            said == ("True".to_owned(), "RouteshareNotReady".to_owned()),
            "{said:?}"
        );
        Ok(())
    });
    let one = cluster.speaker(&nodes[0], &controller).unwrap();
    let two = cluster.speaker(&nodes[1], &controller).unwrap();

    // All is well, and is told.
    for (kind, name) in [(Kind::Fabric, "fabric"), (Kind::Pool, "pods")] {
        wait_for_condition(&cluster, kind, name, ["Accepted", "True", "Valid"]);
        let text = wait_for_condition(&cluster, kind, name, ["Programmed", "True", "AllNodes"]);
        assert_eq!(text, "in force on 2 of 2 nodes");
        wait_for_condition(&cluster, kind, name, ["Degraded", "False", "AsDesired"]);
    }
    for node in ["n1", "n2"] {
        wait_for(&format!("{node} to be available"), SOON, || {
            let said = network_unavailable(&cluster, node)?;
            ensure!(
                said == ("False".to_owned(), "RouteshareReady".to_owned()),
                "{said:?}"
            );
            Ok(())
        });
        wait_for(&format!("NodeStatus {node}"), SOON, || {
            let status = node_status(&cluster, node)?.status;
            ensure!(status.sessions_established == "1/1", "{status:?}");
            ensure!(status.subnets.len() == 2, "{status:?}");
            ensure!(status.version.in_force > 0, "{status:?}");
            for condition in ["Connected", "Programmed"] {
                let holds = get(&status.conditions, condition).map(|it| it.status.as_str());
                ensure!(holds == Some("True"), "{status:?}");
            }
            Ok(())
        });
    }
    for about in ["Node n1", "Node n2", "Fabric fabric"] {
        wait_for(&format!("event SessionUp of {about}"), SOON, || {
            let events = events(&cluster, "SessionUp")?;
            ensure!(events.iter().any(|it| it == about), "{events:?}");
            Ok(())
        });
    }
    let shown = cluster.kubectl(&["get", "nodestatuses"]).unwrap();
    assert!(shown.contains("n1") && shown.contains("1/1"), "{shown}");

    // An object that refers to nothing is refused, and says so.
    let peer = "{apiVersion: routeshare.io/v1alpha1, kind: Peer, metadata: {name: tor}, \
                spec: {address: 10.99.0.250, remoteAsn: 64999, import: [nobody]}}";
    cluster.apply(peer).unwrap();
    let text = wait_for_condition(
        &cluster,
        Kind::Peer,
        "tor",
        ["Accepted", "False", "Refused"],
    );
    assert!(text.contains("nobody"), "{text}");
    wait_for("an event of it", SOON, || {
        let events = events(&cluster, "Refused")?;
        ensure!(events == ["Peer tor"], "{events:?}");
        Ok(())
    });
    // Put right, it is in force, and its sessions are not Established: nobody is there.
    cluster
        .apply(&peer.replace("import: [nobody]", "import: []"))
        .unwrap();
    let wanted = ["Accepted", "True", "ValidWithWarnings"];
    let text = wait_for_condition(&cluster, Kind::Peer, "tor", wanted);
    assert!(text.contains("spec.import"), "{text}");
    wait_for_condition(
        &cluster,
        Kind::Peer,
        "tor",
        ["Programmed", "True", "AllNodes"],
    );
    let wanted = ["Degraded", "True", "SessionsDown"];
    let text = wait_for_condition(&cluster, Kind::Peer, "tor", wanted);
    assert!(
        text.contains("2 of 2") && text.ends_with("n1 and n2"),
        "{text}"
    );

    // A node is lost: its neighbour's session is, and it may serve on for all that anybody knows.
    drop(two);
    // What came before may have cost it all that it may have at once.
    wait_for("n2 to be away", 2 * ONE_IN, || {
        let status = node_status(&cluster, "n2")?.status;
        let connected = get(&status.conditions, "Connected").map(|it| it.reason.as_str());
        ensure!(connected == Some("NotConnected"), "{status:?}");
        ensure!(status.away_since.is_some(), "{status:?}");
        ensure!(status.sessions.len() == 2, "what it told last: {status:?}");
        Ok(())
    });
    let unavailable = network_unavailable(&cluster, "n2").unwrap();
    assert_eq!(unavailable.0, "False", "silence is no reason");
    let text = wait_for_condition(
        &cluster,
        Kind::Fabric,
        "fabric",
        ["Degraded", "True", "NodesNotConnected"],
    );
    assert!(text.contains("n2"), "{text}");
    drop(one);
}

/// A stream of a speaker that is told what to report.
struct Stream {
    reports: watch::Sender<pb::NodeReport>,
    version: watch::Receiver<Option<pb::NodeConfig>>,
}

/// Where the controller can be asked without a certificate.
async fn connect(socket: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await;
            stream.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://controller")
        .connect_with_connector(connect)
        .await
        .unwrap()
}

async fn open(channel: Channel, node: &str) -> Stream {
    let report = pb::NodeReport {
        node: node.to_owned(),
        ..pb::NodeReport::default()
    };
    let (reports, receiver) = watch::channel(report);
    let mut client = ConfigServiceClient::new(channel);
    let configs = client.watch(WatchStream::new(receiver)).await.unwrap();
    let mut configs = configs.into_inner();
    let (newest, version) = watch::channel(None);
    tokio::spawn(async move {
        while let Ok(Some(config)) = configs.message().await {
            newest.send_replace(Some(config));
        }
    });
    Stream { reports, version }
}

impl Stream {
    /// The newest configuration is in force, all sessions are up, and these are the numbers.
    fn report(&self, number: u64) {
        let Some(config) = self.version.borrow().clone() else {
            return;
        };
        self.reports.send_modify(|report| {
            report.version = config.version;
            let session = |peer: &pb::PeerConfig| pb::SessionReport {
                peer: peer.name.clone(),
                address: peer.address.clone(),
                state: "Established".to_owned(),
                since_ms: 1_700_000_000_000,
                prefixes_received: number,
                ..pb::SessionReport::default()
            };
            report.sessions = config.peers.iter().map(session).collect();
            let subnet = |subnet: &pb::Subnet| pb::SubnetUse {
                prefix: subnet.prefix.clone(),
                used: number % 100,
                size: 256,
                cooling: 0,
            };
            report.subnets = config.subnets.iter().map(subnet).collect();
        });
    }
}

/// One session a node, with somebody outside.
const TOR: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: tor}
spec: {address: 10.99.0.250, remoteAsn: 64999}
";

/// How often each NodeStatus was changed: it has no status subresource, so its generation counts.
fn generations(cluster: &Cluster) -> Vec<i64> {
    let objects: Api<NodeStatus> = Api::all(cluster.client());
    let objects = cluster
        .block_on(objects.list(&ListParams::default()))
        .unwrap();
    let metadata = objects.items.into_iter().map(|it| it.metadata);
    metadata
        .map(|it: ObjectMeta| it.generation.unwrap_or_default())
        .collect()
}

#[test]
fn numbers_that_flap_cost_less_than_a_write_a_minute_a_node_and_a_new_leader_writes_nothing() {
    const COUNT: usize = 40;
    let cluster = mesh::cluster(&Settings::default());
    let fabric: Api<Written> = Api::all_with(cluster.client(), &Kind::Fabric.api_resource());
    let to_tor = Patch::Merge(serde_json::json!({"spec": {"topology": "ToR"}}));
    let parameters = PatchParams::default();
    cluster
        .block_on(fabric.patch("fabric", &parameters, &to_tor))
        .unwrap();
    cluster.apply(TOR).unwrap();
    let names: Vec<String> = (0..COUNT).map(|number| format!("s{number:03}")).collect();
    for (number, name) in names.iter().enumerate() {
        let address = format!("10.98.0.{}", number + 1);
        cluster.create_node(name, &[&address], &[]).unwrap();
    }
    let mut controller = mesh::controller(&cluster);
    let open_all = |pod: &str| -> Vec<Stream> {
        let socket = cluster.lab().directory().join(pod).join("controller.sock");
        let names = names.clone();
        cluster.block_on(async move {
            let channel = connect(socket).await;
            let mut streams = Vec::new();
            for name in &names {
                streams.push(open(channel.clone(), name).await);
            }
            streams
        })
    };
    let streams = open_all("controller-a");
    let all_up = || {
        wait_for("all sessions in the Peer's status", SOON, || {
            for stream in &streams {
                stream.report(1);
            }
            let objects: Api<Written> = Api::all_with(cluster.client(), &Kind::Peer.api_resource());
            let status = cluster
                .block_on(objects.get("tor"))?
                .status
                .unwrap_or_default();
            ensure!(status.sessions == format!("{COUNT}/{COUNT}"), "{status:?}");
            Ok(())
        });
        wait_for("all NodeStatus objects", SOON, || {
            let objects: Api<NodeStatus> = Api::all(cluster.client());
            let objects = cluster.block_on(objects.list(&ListParams::default()))?;
            let up = objects
                .items
                .iter()
                .filter(|it| it.status.sessions_established == "1/1");
            ensure!(up.count() == COUNT);
            Ok(())
        });
    };
    all_up();
    // Changes that concern every node, and that every node takes over: no write of each node.
    let before = generations(&cluster);
    let asked = cluster.block_on(cluster.writes()).unwrap();
    let begun = Instant::now();
    for hold in 31..36 {
        let timers = serde_json::json!({"spec": {"timers": {"holdSeconds": hold}}});
        let timers = Patch::Merge(timers);
        let changed = fabric.patch("fabric", &parameters, &timers);
        let generation = cluster.block_on(changed).unwrap().metadata.generation;
        wait_for("a change to be in force everywhere", SOON, || {
            for stream in &streams {
                stream.report(1);
            }
            let status = cluster.block_on(fabric.get("fabric"))?.status;
            let status = status.context("the status is gone")?;
            let it = get(&status.conditions, "Programmed").context("no Programmed")?;
            ensure!(
                it.status == "True" && it.observed_generation == generation,
                "{it:?}"
            );
            Ok(())
        });
    }
    let after = generations(&cluster);
    let writes = after.iter().sum::<i64>() - before.iter().sum::<i64>();
    let seconds = begun.elapsed().as_secs();
    println!("five changes for all of {COUNT} nodes: {writes} writes of NodeStatus in {seconds} s");
    assert!(
        u64::try_from(writes).unwrap() <= seconds + 1,
        "{writes} writes in {seconds} s"
    );
    // The change itself, the ledger, the last good versions, and the status as nodes follow; NodeStatus
    // objects were counted above. Events of the sessions that came up before may be told as late as now; a
    // change adds none of a node.
    let told: usize = ["SessionUp", "Accepted"]
        .map(|reason| events(&cluster, reason).unwrap().len())
        .iter()
        .sum();
    let all = cluster.block_on(cluster.writes()).unwrap();
    let since = all.iter().filter_map(|(what, count)| {
        let new = count - asked.get(what).copied().unwrap_or(0);
        let counted = !what.ends_with("nodestatuses") && !what.ends_with("events");
        (new > 0 && counted).then_some((what, new))
    });
    let since: Vec<_> = since.collect();
    println!("other writes: {since:?}");
    let count: u64 = since.iter().map(|(_, count)| count).sum();
    assert!(count <= 5 * 8, "{since:?}");
    assert!(told <= COUNT + 20, "{told} events of changes and sessions");
    // Another number with every second.
    let before = generations(&cluster);
    assert_eq!(before.len(), COUNT);
    let begun = Instant::now();
    let mut number = 1;
    wait_for(
        "a minute and a half of numbers that flap",
        Duration::from_secs(150),
        || {
            number += 1;
            for stream in &streams {
                stream.report(number);
            }
            ensure!(begun.elapsed() >= Duration::from_secs(90), "not yet");
            Ok(())
        },
    );
    let seconds = begun.elapsed().as_secs();
    let after = generations(&cluster);
    let writes: i64 = after.iter().sum::<i64>() - before.iter().sum::<i64>();
    println!("{writes} writes of {COUNT} NodeStatus objects in {seconds} s");
    assert!(writes > 0, "the numbers are written in the end");
    // One in 75 s each, and one that was due already.
    let most = COUNT as u64 * (seconds / 75 + 1);
    assert!(
        u64::try_from(writes).unwrap() <= most,
        "{writes} writes in {seconds} s"
    );

    // The next leader finds all of it as it should be.
    let newest = after.iter().sum::<i64>();
    controller.kill().unwrap();
    drop(controller);
    let controller = mesh::replica(&cluster, 2);
    wait_for("the next controller to lead", SOON, || {
        controller.bgpctl("show nodes")
    });
    let streams = open_all("controller-2");
    wait_for("all to be connected to the next controller", SOON, || {
        for stream in &streams {
            stream.report(number);
        }
        let reported = streams
            .iter()
            .filter(|stream| stream.reports.borrow().version > 0);
        ensure!(reported.count() == COUNT);
        Ok(())
    });
    let quiet = Instant::now();
    wait_for("twenty seconds to pass", Duration::from_secs(40), || {
        ensure!(quiet.elapsed() >= Duration::from_secs(20), "not yet");
        Ok(())
    });
    let writes = generations(&cluster).iter().sum::<i64>() - newest;
    println!("{writes} writes of NodeStatus by the next leader");
    assert_eq!(writes, 0);
}

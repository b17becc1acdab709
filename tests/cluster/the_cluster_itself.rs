//! What the other tests stand on.

use std::time::Duration;

use crd::names;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use lab::cluster::{Cluster, Settings};
use lab::wait_for;

#[test]
fn objects_outlive_an_api_server_and_an_etcd_that_are_killed() {
    let cluster = Cluster::start_with(&Settings {
        durable: true,
        ..Settings::default()
    })
    .unwrap();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    cluster.api_server.kill().unwrap();
    cluster.etcd.kill().unwrap();
    let nodes: Api<Node> = Api::all(cluster.client());
    cluster.block_on(nodes.get("n1")).unwrap_err();
    cluster.etcd.start_again().unwrap();
    cluster.api_server.start_again().unwrap();
    cluster.wait_until_ready().unwrap();
    let node = cluster.block_on(nodes.get("n1")).unwrap();
    let addresses = node.status.unwrap().addresses.unwrap();
    assert_eq!(addresses[0].address, "10.99.1.1");
}

#[test]
fn the_token_of_a_speakers_pod_says_its_node() {
    let cluster = Cluster::start().unwrap();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    let token = cluster.speaker_token("n1").unwrap();
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
            token,
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(cluster.client());
    let review = cluster.block_on(reviews.create(&PostParams::default(), &review));
    let status = review.unwrap().status.unwrap();
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    let extra = status.user.unwrap().extra.unwrap();
    assert_eq!(extra["authentication.kubernetes.io/node-name"], ["n1"]);
}

#[test]
fn a_node_may_change_itself_and_nothing_else() {
    let cluster = Cluster::start().unwrap();
    let node = cluster.node("n1", 1, &[("rack", "a")]).unwrap();
    node.machine.run("ping -c 1 -W 5 10.99.0.1").unwrap();
    node.machine.run("ping -c 1 -W 5 fd99::1").unwrap();
    let kubelet = cluster
        .user("system:node:n1", Some("system:nodes"))
        .unwrap();
    let client = cluster.client_as("system:node:n1", &kubelet).unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    cluster.block_on(nodes.get("n1")).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some("mine".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    };
    let refused = cluster.block_on(maps.create(&PostParams::default(), &map));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("forbidden"), "{refused}");
}

#[test]
fn another_allocator_gives_both_families_to_nodes() {
    let cluster = Cluster::start_with(&Settings {
        controllers: &["node-ipam-controller"],
        cluster_cidr: "10.244.0.0/16,fd44::/48",
        ..Settings::default()
    })
    .unwrap();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    let nodes: Api<Node> = Api::all(cluster.client());
    wait_for("the node's podCIDRs", Duration::from_secs(30), || {
        let node = cluster.block_on(nodes.get("n1"))?;
        let given = node.spec.unwrap().pod_cidrs.unwrap_or_default();
        anyhow::ensure!(given.len() == 2, "{given:?}");
        Ok(())
    });
}

#[test]
fn manifests_are_applied_and_refused_with_a_reason() {
    let cluster = Cluster::start().unwrap();
    let map =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}, data: {a: b}}";
    cluster.apply(map).unwrap();
    let read = ["get", "configmap", "a", "-o", "jsonpath={.data.a}"];
    assert_eq!(cluster.kubectl(&read).unwrap(), "b");
    let refused = cluster.apply(&map.replace("name: a", "name: A"));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("lowercase"), "{refused}");
}

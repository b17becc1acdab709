//! Objects that are wrong, deleted although they are needed, or gone with their kind: what is in force
//! stays as it was when it was right last, also for the next leader; all else goes on changing.

use anyhow::ensure;
use lab::cluster::{Cluster, Controller, Settings};
use lab::speaker::Speaker;
use lab::wait_for;

use crate::mesh::{self, Pair, SOON, a_node_comes};

const TOR: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: RoutePolicy
metadata: {name: all}
spec: {rules: [{action: Accept}]}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: tor}
spec:
  address: 10.99.0.200
  remoteAsn: 64601
  nodeSelector: {matchLabels: {rack: a}}
  import: [all]
  export: [all]
";

/// Waits until what is refused (one line each) has all these words; none for nothing refused.
#[track_caller]
fn wait_until_refused(controller: &Controller, words: &[&str]) {
    wait_for("what is refused", SOON, || {
        let refused = controller.json("show status")?["refused"].to_string();
        let nothing = refused == "[]" || refused == "null";
        ensure!(nothing == words.is_empty(), "{refused}");
        ensure!(words.iter().all(|word| refused.contains(word)), "{refused}");
        Ok(())
    });
}

#[track_caller]
fn wait_for_peer(speaker: &Speaker<'_>, there: bool) {
    wait_for("the peer tor on the node", SOON, || {
        ensure!(speaker.peer("tor").is_ok() == there);
        Ok(())
    });
}

fn delete(cluster: &Cluster, what: &[&str]) {
    let arguments = [&["delete"], what].concat();
    cluster.kubectl(&arguments).unwrap();
}

#[test]
fn a_bad_object_stays_as_it_was_also_for_the_next_leader() {
    let cluster = mesh::cluster(&Settings::default());
    cluster.apply(TOR).unwrap();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let mut first = mesh::replica(&cluster, 1);
    wait_until_refused(&first, &[]);
    let second = mesh::replica(&cluster, 2);
    let speaker = cluster.speaker(&node, &second).unwrap();
    mesh::subnets(&first, "n1");

    // Labels of a node choose its sessions.
    wait_for_peer(&speaker, false);
    cluster.kubectl(&["label", "node", "n1", "rack=a"]).unwrap();
    wait_for_peer(&speaker, true);
    cluster
        .kubectl(&["label", "node", "n1", "rack=b", "--overwrite"])
        .unwrap();
    wait_for_peer(&speaker, false);
    cluster
        .kubectl(&["label", "node", "n1", "rack=a", "--overwrite"])
        .unwrap();
    wait_for_peer(&speaker, true);

    // It names a policy that is not there; another object changes all the same.
    cluster
        .apply(&TOR.replace("import: [all]", "import: [later]"))
        .unwrap();
    let refused = [
        "Peer `tor`",
        "there is no RoutePolicy `later`",
        "its generation 1 stays in force",
    ];
    wait_until_refused(&first, &refused);
    let more = mesh::RESOURCES
        .replace("{name: pods}", "{name: more}")
        .replace("64", "65");
    let more = more.split("---\n").nth(1).unwrap();
    cluster.apply(more).unwrap();
    wait_for("subnets of the other pool", SOON, || {
        let subnets = first.subnets("n1")?;
        ensure!(subnets.len() == 4, "{subnets:?}");
        Ok(())
    });
    // A policy that is named is deleted: it stays.
    delete(&cluster, &["routepolicies", "all"]);
    wait_until_refused(
        &first,
        &[
            "RoutePolicy `all`",
            "it stays in force though it is deleted",
        ],
    );

    first.kill().unwrap();
    wait_until_refused(&second, &refused);
    wait_until_refused(
        &second,
        &[
            "RoutePolicy `all`",
            "it stays in force though it is deleted",
        ],
    );
    wait_for_peer(&speaker, true);
    assert_eq!(second.subnets("n1").unwrap().len(), 4);

    // What is put right comes into force, and what nobody names any more goes.
    let later = TOR.split("---\n").next().unwrap().replace("all", "later");
    cluster.apply(&later).unwrap();
    cluster.apply(&TOR.replace("all", "later")).unwrap();
    wait_until_refused(&second, &[]);
    wait_for_peer(&speaker, true);
    delete(&cluster, &["peers", "tor"]);
    wait_for_peer(&speaker, false);
}

/// `kubectl delete -f deploy/crds`, or the removal of a chart that has them, deletes every object.
#[test]
fn definitions_that_are_deleted_take_nothing_down_with_them() {
    let cluster = mesh::cluster(&Settings::default());
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    let mut controller = mesh::controller(&cluster);
    let pair = Pair::start(&cluster, &controller, &nodes);
    let since = pair.since();
    delete(
        &cluster,
        &["crd", "fabrics.routeshare.io", "pools.routeshare.io"],
    );
    let words = [
        "Fabric `fabric`",
        "Pool `pods`",
        "deleted together with the CustomResourceDefinition",
    ];
    wait_until_refused(&controller, &words);
    pair.nothing_was_lost();
    // A leader that begins without them goes on with what was.
    controller.stop().unwrap();
    let second = mesh::replica(&cluster, 2);
    wait_until_refused(&second, &words);
    // They are there again, and as yet no object is.
    cluster.apply_directory("deploy/crds").unwrap();
    wait_until_refused(&second, &words);
    pair.nothing_was_lost();
    cluster.apply(mesh::RESOURCES).unwrap();
    wait_until_refused(&second, &[]);
    pair.nothing_was_lost();
    assert_eq!(pair.since(), since);
}

/// kube-controller-manager gives the nodes their podCIDRs, after they were made.
#[test]
fn subnets_that_another_allocator_gave_out_are_adopted() {
    let cluster = mesh::cluster(&Settings {
        controllers: &["node-ipam-controller"],
        cluster_cidr: "10.100.0.0/16,fd00:100::/48",
        ..Settings::default()
    });
    let adopt = mesh::RESOURCES.split("---\n").next().unwrap();
    let adopt = adopt.replace("topology: Mesh", "topology: Mesh, nodeSubnets: Adopt");
    cluster.apply(&adopt).unwrap();
    let nodes =
        [("n1", 1), ("n2", 2)].map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    let controller = mesh::controller(&cluster);
    for node in &nodes {
        let given = cluster.kubectl(&[
            "get",
            "node",
            &node.name,
            "-o",
            "jsonpath={.spec.podCIDRs[*]}",
        ]);
        let mut given: Vec<String> = given.unwrap().split(' ').map(str::to_owned).collect();
        let mut subnets = mesh::subnets(&controller, &node.name);
        given.sort();
        subnets.sort();
        assert_eq!(subnets, given);
    }
    let pair = Pair::start(&cluster, &controller, &nodes);
    a_node_comes(&cluster, &controller, "n3", 3, &pair.one);
    pair.nothing_was_lost();
}

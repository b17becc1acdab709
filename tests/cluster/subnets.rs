//! Who gets which subnet, and where that stands.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use crd::{NodeSubnets, State, names};
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeSpec};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use lab::cluster::{Cluster, Controller, Replica, node};
use lab::wait_for;

const PATIENCE: Duration = Duration::from_secs(60);

/// Our kinds, and a fabric whose subnets wait for `grace` seconds, with one pool of these prefixes.
pub(crate) fn install(cluster: &Cluster, grace: u32, prefixes: &[&str]) {
    cluster.apply_directory("deploy/crds").unwrap();
    cluster.ensure_namespace(names::NAMESPACE).unwrap();
    let fabric = format!(
        "apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {{name: fabric}}
spec:
  asn: {{value: 64512}}
  topology: Mesh
  subnetGraceSeconds: {grace}
"
    );
    cluster.apply(&fabric).unwrap();
    pool(cluster, prefixes);
}

/// The pool, with these prefixes.
fn pool(cluster: &Cluster, prefixes: &[&str]) {
    let pool = format!(
        "apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {{name: pods}}
spec:
  prefixes: [{}]
  nodeSubnetLength: {{ipv4: 26, ipv6: 64}}
",
        prefixes
            .iter()
            .map(|p| format!("\"{p}\""))
            .collect::<Vec<_>>()
            .join(", ")
    );
    cluster.apply(&pool).unwrap();
}

fn controller(cluster: &Cluster, number: u8) -> Controller {
    let replica = Replica {
        pod: &format!("controller-{number}"),
        number,
        ..Replica::default()
    };
    cluster.controller(&replica).unwrap()
}

/// What stands in a node's NodeSubnets.
fn subnets(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<(String, State)>> {
    let objects: Api<NodeSubnets> = Api::all(cluster.client());
    let object = cluster.block_on(objects.get_opt(node))?;
    let object = object.with_context(|| format!("there is no NodeSubnets {node}"))?;
    let subnets = object.spec.subnets.iter();
    Ok(subnets.map(|s| (s.prefix.to_string(), s.state)).collect())
}

/// `spec.podCIDRs` of a Node.
fn pod_cidrs(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(cluster.client());
    let spec = cluster.block_on(nodes.get(node))?.spec;
    Ok(spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default())
}

/// Waits until a node has these podCIDRs and nothing else stands in its NodeSubnets.
fn wait_until_assigned(cluster: &Cluster, node: &str, expected: &[&str]) {
    wait_for(&format!("the subnets of {node}"), PATIENCE, || {
        let assigned: Vec<_> = expected
            .iter()
            .map(|subnet| ((*subnet).to_owned(), State::Assigned))
            .collect();
        let subnets = subnets(cluster, node)?;
        ensure!(subnets == assigned, "NodeSubnets {subnets:?}");
        let cidrs = pod_cidrs(cluster, node)?;
        ensure!(cidrs == expected, "podCIDRs {cidrs:?}");
        Ok(())
    });
}

fn create(cluster: &Cluster, name: &str, number: u8) {
    let address = format!("10.99.1.{number}");
    cluster.create_node(name, &[&address], &[]).unwrap();
}

/// Makes a node to which another allocator has given something.
fn create_with_pod_cidrs(cluster: &Cluster, name: &str, number: u8, cidrs: &[&str]) {
    let mut node = node(name, &[&format!("10.99.1.{number}")], &[]);
    node.spec = Some(NodeSpec {
        pod_cidr: cidrs.first().map(|cidr| (*cidr).to_owned()),
        pod_cidrs: Some(cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()),
        ..NodeSpec::default()
    });
    let nodes: Api<Node> = Api::all(cluster.client());
    cluster
        .block_on(nodes.create(&PostParams::default(), &node))
        .unwrap();
}

fn delete(cluster: &Cluster, name: &str) {
    let nodes: Api<Node> = Api::all(cluster.client());
    cluster
        .block_on(nodes.delete(name, &DeleteParams::default()))
        .unwrap();
}

#[test]
fn a_node_deleted_by_mistake_has_its_subnets_again_and_after_the_grace_time_another_gets_them() {
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/24", "fd64::/48"]);
    let controller = controller(&cluster, 1);
    create(&cluster, "n1", 1);
    create(&cluster, "n2", 2);
    let (first, second) = (
        ["10.64.0.0/26", "fd64::/64"],
        ["10.64.0.64/26", "fd64:0:0:1::/64"],
    );
    wait_until_assigned(&cluster, "n1", &first);
    wait_until_assigned(&cluster, "n2", &second);

    delete(&cluster, "n2");
    wait_for("the subnets of n2 to wait", PATIENCE, || {
        let subnets = subnets(&cluster, "n2")?;
        ensure!(
            subnets.iter().all(|(_, state)| *state == State::Waiting),
            "{subnets:?}"
        );
        Ok(())
    });
    create(&cluster, "n3", 3);
    wait_until_assigned(&cluster, "n3", &["10.64.0.128/26", "fd64:0:0:2::/64"]);
    create(&cluster, "n2", 2);
    wait_until_assigned(&cluster, "n2", &second);

    // With a short grace time it is gone for good, and so is what stood in its object.
    cluster
        .kubectl(&[
            "patch",
            "fabric",
            "fabric",
            "--type=merge",
            "-p",
            r#"{"spec":{"subnetGraceSeconds":1}}"#,
        ])
        .unwrap();
    wait_for("the shorter grace time to be in force", PATIENCE, || {
        let status = controller.bgpctl("show status -o json")?;
        ensure!(status.contains("\"generation\": 2"), "{status}");
        Ok(())
    });
    delete(&cluster, "n2");
    wait_for("the object of n2 to go", PATIENCE, || {
        ensure!(subnets(&cluster, "n2").is_err());
        Ok(())
    });
    create(&cluster, "n4", 4);
    wait_until_assigned(&cluster, "n4", &second);
}

#[test]
fn a_full_pool_is_told_and_serves_at_once_when_it_has_grown() {
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/26"]);
    let controller = controller(&cluster, 1);
    create(&cluster, "n1", 1);
    wait_until_assigned(&cluster, "n1", &["10.64.0.0/26"]);
    create(&cluster, "n2", 2);
    wait_for("the full pool to be told", PATIENCE, || {
        let nodes = controller.bgpctl("show nodes -o json")?;
        ensure!(
            nodes.contains("pool pods has no free IPv4 subnet of /26 for node n2"),
            "{nodes}"
        );
        Ok(())
    });
    pool(&cluster, &["10.64.0.0/26", "10.64.1.0/26"]);
    wait_until_assigned(&cluster, "n2", &["10.64.1.0/26"]);
    wait_until_assigned(&cluster, "n1", &["10.64.0.0/26"]);
}

#[test]
fn pod_cidrs_of_another_allocator_are_taken_over_where_they_fit_and_told_where_not() {
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/24"]);
    create_with_pod_cidrs(&cluster, "fits", 1, &["10.64.0.0/26"]);
    create_with_pod_cidrs(&cluster, "outside", 2, &["10.9.0.0/26"]);
    create(&cluster, "plain", 3);
    let controller = controller(&cluster, 1);
    wait_until_assigned(&cluster, "fits", &["10.64.0.0/26"]);
    wait_until_assigned(&cluster, "plain", &["10.64.0.128/26"]);
    create_with_pod_cidrs(&cluster, "taken", 4, &["10.64.0.128/26"]);
    for (node, problem) in [
        (
            "outside",
            "node outside has podCIDR 10.9.0.0/26, which no Pool contains",
        ),
        (
            "taken",
            "node taken has podCIDR 10.64.0.128/26, which overlaps 10.64.0.128/26 of node plain",
        ),
    ] {
        wait_for(&format!("the problem of {node}"), PATIENCE, || {
            let nodes = controller.bgpctl("show nodes -o json")?;
            ensure!(nodes.contains(problem), "{nodes}");
            Ok(())
        });
    }
    assert_eq!(pod_cidrs(&cluster, "outside").unwrap(), ["10.9.0.0/26"]);
    let expected = [
        ("fits", "10.64.0.0/26"),
        ("outside", "10.64.0.64/26"),
        ("plain", "10.64.0.128/26"),
        ("taken", "10.64.0.192/26"),
    ];
    for (node, subnet) in expected {
        wait_for(&format!("the subnet of {node}"), PATIENCE, || {
            let subnets = subnets(&cluster, node)?;
            ensure!(
                subnets == [(subnet.to_owned(), State::Assigned)],
                "{subnets:?}"
            );
            Ok(())
        });
    }
}

#[test]
fn a_ledger_that_is_lost_is_written_again_or_rebuilt_and_a_damaged_one_is_refused() {
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/24", "fd64::/48"]);
    let mut first = controller(&cluster, 1);
    let expected: BTreeMap<&str, [&str; 2]> = [
        ("n1", ["10.64.0.0/26", "fd64::/64"]),
        ("n2", ["10.64.0.64/26", "fd64:0:0:1::/64"]),
        ("n3", ["10.64.0.128/26", "fd64:0:0:2::/64"]),
    ]
    .into();
    create(&cluster, "n1", 1);
    wait_until_assigned(&cluster, "n1", &expected["n1"]);

    // While a controller leads, it knows all that stood there.
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), names::NAMESPACE);
    let remove = || {
        cluster
            .block_on(maps.delete(names::LEDGER, &DeleteParams::default()))
            .unwrap();
    };
    remove();
    create(&cluster, "n2", 2);
    wait_until_assigned(&cluster, "n2", &expected["n2"]);
    assert!(
        first
            .log()
            .contains("the ledger was deleted; it is written again")
    );

    // Otherwise the objects say it.
    first.stop().unwrap();
    remove();
    delete(&cluster, "n2");
    let mut second = controller(&cluster, 2);
    create(&cluster, "n3", 3);
    wait_until_assigned(&cluster, "n3", &expected["n3"]);
    wait_until_assigned(&cluster, "n1", &expected["n1"]);
    assert!(second.log().contains("the ledger was lost; it is rebuilt"));
    create(&cluster, "n2", 2);
    wait_until_assigned(&cluster, "n2", &expected["n2"]);

    // An old copy is none that can be used.
    let copy = cluster.block_on(maps.get(names::LEDGER)).unwrap();
    create(&cluster, "n4", 4);
    wait_until_assigned(&cluster, "n4", &["10.64.0.192/26", "fd64:0:0:3::/64"]);
    second.stop().unwrap();
    let put_back = ConfigMap {
        metadata: ObjectMeta {
            name: copy.metadata.name.clone(),
            labels: copy.metadata.labels.clone(),
            ..ObjectMeta::default()
        },
        ..copy
    };
    let parameters = PostParams::default();
    cluster
        .block_on(maps.replace(names::LEDGER, &parameters, &put_back))
        .unwrap();
    let mut third = controller(&cluster, 3);
    wait_for("the old copy to be told", PATIENCE, || {
        let log = third.log();
        ensure!(log.contains("routeshare-ledger is an old copy"), "{log}");
        Ok(())
    });
    remove();
    create(&cluster, "n5", 5);
    wait_for("the ledger to be rebuilt", PATIENCE, || {
        let log = third.log();
        ensure!(
            log.contains("pool pods has no free IPv4 subnet of /26 for node n5"),
            "{log}"
        );
        Ok(())
    });
    wait_until_assigned(&cluster, "n4", &["10.64.0.192/26", "fd64:0:0:3::/64"]);

    third.stop().unwrap();
    cluster
        .kubectl(&[
            "--namespace",
            names::NAMESPACE,
            "patch",
            "configmap",
            names::LEDGER,
            "--type=merge",
            "-p",
            r#"{"data":{"sha256":"00"}}"#,
        ])
        .unwrap();
    let fourth = controller(&cluster, 1);
    wait_for("the damage to be told", PATIENCE, || {
        let log = fourth.log();
        ensure!(
            log.contains("binaryData.ledger.json.gz does not have the checksum"),
            "{log}"
        );
        Ok(())
    });
}

/// Two nodes with one number would refuse each other's routes.
#[test]
fn a_ledger_that_is_rebuilt_knows_who_has_which_as_number() {
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/24"]);
    let fabric = |range: &str| {
        let patch = format!(
            r#"{{"spec":{{"asn":{{"value":null,"perNode":{{"range":"{range}"}}}},"topology":"ToR"}}}}"#
        );
        let fabric = ["patch", "fabric", "fabric", "--type=merge", "-p", &patch];
        cluster.kubectl(&fabric).unwrap();
    };
    fabric("65001-65009");
    let mut first = controller(&cluster, 1);
    let numbers = |names: &[&str]| {
        wait_for("AS numbers", PATIENCE, || {
            let objects: Api<NodeSubnets> = Api::all(cluster.client());
            let mut numbers = BTreeMap::new();
            for name in names {
                let object = cluster.block_on(objects.get_opt(name))?;
                let object = object.with_context(|| format!("no NodeSubnets {name}"))?;
                let given = object.spec.given_asn;
                let given = given.with_context(|| format!("{name} has no number"))?;
                ensure!(given.to == format!("node/{name}"), "{given:?}");
                numbers.insert((*name).to_owned(), given.asn);
            }
            Ok(numbers)
        })
    };
    // In this order: the numbers are not in that of the names.
    let names = ["c", "b", "a"];
    for (name, number) in names.into_iter().zip(1..) {
        create(&cluster, name, number);
        numbers(&[name]);
    }
    let before = numbers(&names);
    assert_eq!(before["c"], 65001, "{before:?}");
    // One that no Pool selects has a number all the same.
    let selects = r#"{"spec":{"nodeSelector":{"matchLabels":{"pods":"yes"}}}}"#;
    let patch = ["patch", "pool", "pods", "--type=merge", "-p", selects];
    cluster.kubectl(&patch).unwrap();
    create(&cluster, "d", 4);
    let before = numbers(&["a", "b", "c", "d"]);

    first.stop().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), names::NAMESPACE);
    cluster
        .block_on(maps.delete(names::LEDGER, &DeleteParams::default()))
        .unwrap();
    delete(&cluster, "b");
    let second = controller(&cluster, 2);
    create(&cluster, "0-first-by-name", 5);
    let new = numbers(&["0-first-by-name"]);
    assert!(second.log().contains("the ledger was lost; it is rebuilt"));
    let after = numbers(&["a", "c", "d"]);
    for (name, number) in &after {
        assert_eq!(before[name], *number, "{name}: {before:?}, {after:?}");
    }
    let given = new["0-first-by-name"];
    assert!(
        !before.values().any(|it| *it == given),
        "{before:?}, {new:?}"
    );
}

/// As an upgrade of the definitions by deleting them would.
#[test]
fn a_definition_of_node_subnets_that_is_gone_keeps_nobody_busy_and_comes_back_filled() {
    const NODES: u8 = 30;
    let cluster = Cluster::start().unwrap();
    install(&cluster, 3600, &["10.64.0.0/16"]);
    let controller = controller(&cluster, 1);
    let name = |number: u8| format!("n{number:02}");
    for number in 1..=NODES {
        create(&cluster, &name(number), number);
    }
    let all = || -> anyhow::Result<BTreeMap<String, Vec<(String, State)>>> {
        let of = |number| Ok((name(number), subnets(&cluster, &name(number))?));
        (1..=NODES).map(of).collect()
    };
    let before = wait_for("all objects", PATIENCE, || {
        let all = all()?;
        ensure!(all.values().all(|subnets| subnets.len() == 1), "{all:?}");
        Ok(all)
    });
    let seen = controller.log().len();
    cluster
        .kubectl(&["delete", "crd", "nodesubnets.routeshare.io"])
        .unwrap();
    controller.wait_until_it_says("nothing can be written of nodes", seen);
    // It asks again after ever longer pauses, and not once for every node.
    let asked = || {
        let requests = cluster.block_on(cluster.requests())?;
        anyhow::Ok(requests.get("POST nodesubnets").copied().unwrap_or(0))
    };
    let begun = asked().unwrap();
    let says = || {
        controller.log()[seen..]
            .matches("nothing can be written")
            .count()
    };
    let times = says();
    wait_for("three more attempts", PATIENCE, || {
        ensure!(says() >= times + 3, "{} attempts", says());
        Ok(())
    });
    let requests = asked().unwrap() - begun;
    assert!(requests <= 4 * 16, "{requests} requests in four attempts");

    cluster.apply_directory("deploy/crds").unwrap();
    wait_for("all objects again", PATIENCE, || {
        let all = all()?;
        ensure!(all == before, "{all:?}");
        Ok(())
    });
}

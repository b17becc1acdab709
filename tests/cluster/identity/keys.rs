//! Keys of peers out of Secrets: TCP MD5 with BIRD, and between two speakers of ours.

use std::fs;
use std::path::Path;

use crd::names;
use lab::bird::Bird;
use lab::cluster::Cluster;
use lab::speaker::Speaker;
use lab::{Namespace, memory, wait_for};

use super::rights::installed_controller;
use super::{Mounts, SOON, cluster, speaker, wait_until_told};

/// The ToR beside the nodes.
const TOR: &str = "10.99.1.9";

/// n1 has sessions with the ToR and with n2, n3 has none.
const PEERS: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: tor}
spec:
  nodeSelector: {names: [n1]}
  address: 10.99.1.9
  remoteAsn: 65101
  password: {secret: {name: bgp-keys, key: tor}}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: n2}
spec:
  nodeSelector: {names: [n1]}
  address: 10.99.1.2
  remoteAsn: 65201
  password: {secret: {name: bgp-keys, key: nodes}}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: n1}
spec:
  nodeSelector: {names: [n2]}
  address: 10.99.1.1
  remoteAsn: 65201
  password: {secret: {name: bgp-keys, key: nodes}}
";

/// Replaces the Secret.
pub(super) fn secret(cluster: &Cluster, kind: &str, keys: &[(&str, &str)]) {
    let data: Vec<String> = keys
        .iter()
        .map(|(name, key)| format!("  {name}: {key:?}\n"))
        .collect();
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bgp-keys, namespace: {}}}\ntype: {kind}\n\
         stringData:\n{}",
        names::NAMESPACE,
        data.concat()
    );
    cluster.apply(&manifest).unwrap();
}

fn remove_secret(cluster: &Cluster) {
    let arguments = ["-n", names::NAMESPACE, "delete", "secret", "bgp-keys"];
    cluster.kubectl(&arguments).unwrap();
}

fn bird_config(key: &str) -> String {
    format!(
        "router id {TOR};\nprotocol device {{}}\n\
         protocol bgp node {{ local as 65101; neighbor 10.99.1.1 as 65201; hold time 9;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2; password \"{key}\";\n\
         ipv4 {{ import all; export none; }}; }}\n"
    )
}

fn bird(machine: &Namespace, cluster: &Cluster, key: &str) -> Bird {
    let directory = cluster.lab().directory().join("tor");
    fs::create_dir_all(&directory).unwrap();
    Bird::start(machine, &directory, "tor", &bird_config(key)).unwrap()
}

#[track_caller]
pub(super) fn wait_for_error(speaker: &Speaker<'_>, peer: &str, words: &str) {
    wait_for(&format!("`{words}` in show peers"), SOON, || {
        let peer = speaker.peer(peer)?;
        let error = peer["lastError"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains(words), "{peer}");
        anyhow::ensure!(peer["state"] != "Established", "{peer}");
        Ok(())
    });
}

fn established_count(speaker: &Speaker<'_>, peer: &str) -> u64 {
    let peer = speaker.peer(peer).unwrap();
    peer["establishedCount"].as_u64().unwrap()
}

/// No file below has one of these keys in it.
#[track_caller]
fn no_file_has(directory: &Path, keys: &[&str]) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // etcd has the Secret, and BIRD its own configuration.
        if path.ends_with("etcd") || path.ends_with("tor") {
            continue;
        }
        if path.is_dir() {
            no_file_has(&path, keys);
        } else if let Ok(octets) = fs::read(&path) {
            for key in keys {
                let has = memory::has(&octets, key.as_bytes());
                assert!(!has, "{key} is in {}", path.display());
            }
        }
    }
}

#[test]
fn a_key_out_of_a_secret_comes_changes_and_goes_like_a_file_and_is_nowhere_else() {
    let [first, second, nodes, nodes_later] = [
        "a key that is nowhere else",
        "and another of that kind..",
        "the key between two nodes.",
        "and what follows it later.",
    ];
    let cluster = cluster();
    cluster.apply(PEERS).unwrap();
    let machines = [("n1", 1), ("n2", 2), ("n3", 3)]
        .map(|(name, number)| cluster.node(name, number, &[]).unwrap());
    let tor = cluster.machine("tor", 9).unwrap();
    let bird = bird(&tor.machine, &cluster, first);
    let mut controller = installed_controller(&cluster, 1, &[]);
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = |node: &str| keys.path().join(node);
    let [mut n1, n2, n3] = machines.each_ref().map(|node| {
        let mounts = Mounts::new(&cluster, &node.name);
        speaker(&cluster, node, &controller, &mounts, &place(&node.name))
    });
    for speaker in [&n1, &n2, &n3] {
        wait_until_told(speaker);
    }

    let missing = "there is no Secret bgp-keys of type routeshare.io/key in namespace routeshare";
    wait_for_error(&n1, "tor", missing);
    let status = n1.bgpctl("show status -o json").unwrap();
    assert!(status.contains("NoKey"), "{status}");
    secret(&cluster, "Opaque", &[("tor", first)]);
    secret_is_refused(&n1, missing);
    remove_secret(&cluster);
    secret(&cluster, "routeshare.io/key", &[("nodes", nodes)]);
    n1.wait_for_state("n2", "Established");
    wait_for_error(&n1, "tor", "Secret bgp-keys has no key tor");
    let long = "x".repeat(81);
    secret(
        &cluster,
        "routeshare.io/key",
        &[("nodes", nodes), ("tor", &long)],
    );
    wait_for_error(&n1, "tor", "has 81 octets");
    secret(
        &cluster,
        "routeshare.io/key",
        &[("nodes", nodes), ("tor", first)],
    );
    n1.wait_for_state("tor", "Established");

    // Each has what its sessions need.
    let has = |node: &str| {
        let files = fs::read_dir(place(node).join("bgp-keys"));
        let files = files
            .into_iter()
            .flatten()
            .map(|it| it.unwrap().file_name());
        let mut names: Vec<String> = files.map(|it| it.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(has("n1"), ["nodes", "tor"]);
    assert_eq!(has("n2"), ["nodes"]);
    assert_eq!(has("n3"), [""; 0]);

    // A speaker that is back has its keys while nobody else is there.
    controller.kill().unwrap();
    n1.kill().unwrap();
    n1.start_again().unwrap();
    n1.wait_for_state("tor", "Established");
    n1.wait_for_state("n2", "Established");
    drop(controller);
    let controller = installed_controller(&cluster, 1, &[]);
    wait_until_told(&n1);

    // Both ends of a session change over, and it stays.
    let before = established_count(&n1, "n2");
    secret(
        &cluster,
        "routeshare.io/key",
        &[("nodes", nodes_later), ("tor", second)],
    );
    bird.configure(&bird_config(second)).unwrap();
    wait_for("both to sign with the new key", SOON, || {
        for speaker in [&n1, &n2] {
            let log = speaker.log();
            anyhow::ensure!(log.contains("signed with the new key"), "{log}");
        }
        Ok(())
    });
    let received = || {
        n1.peer("n2").unwrap()["received"]["keepalive"]
            .as_u64()
            .unwrap()
    };
    let then = received();
    wait_for("two more KEEPALIVEs", SOON, || {
        anyhow::ensure!(received() >= then + 2, "{}", received());
        Ok(())
    });
    assert_eq!(established_count(&n1, "n2"), before);
    n1.wait_for_state("tor", "Established");

    // Memory, disk and words.
    let all = [first, second, nodes, nodes_later];
    wait_for("old keys to be wiped", SOON, || {
        let found = memory::find(n1.id().unwrap(), &all)?;
        anyhow::ensure!(found.looked > 1_000_000, "{found:?}");
        anyhow::ensure!(found.dumped.is_empty(), "{found:?}");
        let mut kept = found.kept;
        kept.sort();
        anyhow::ensure!(kept == [second, nodes_later], "{kept:?}");
        Ok(())
    });
    let found = memory::find(n3.id().unwrap(), &all).unwrap();
    assert!(
        found.dumped.is_empty() && found.kept.is_empty(),
        "{found:?}"
    );
    let found = memory::find(controller.id().unwrap(), &all).unwrap();
    assert_eq!(found.dumped, [], "{found:?}");
    assert!(!found.kept.contains(&first.to_owned()), "{found:?}");
    no_file_has(cluster.lab().directory(), &all);
    for line in [
        "show peers tor -o json",
        "show config -o json",
        "show status -o json",
    ] {
        let text = n1.bgpctl(line).unwrap();
        assert!(all.iter().all(|key| !text.contains(key)), "{text}");
    }
    let config = controller.bgpctl("--node n1 show config -o json").unwrap();
    assert!(config.contains("secret:bgp-keys/tor"), "{config}");

    // What stands goes on without; it does not come back without.
    remove_secret(&cluster);
    wait_for("the key to be missed", SOON, || {
        let status = n1.bgpctl("show status -o json")?;
        anyhow::ensure!(status.contains("goes on with the key it had"), "{status}");
        Ok(())
    });
    assert_eq!(has("n1"), [""; 0]);
    assert_eq!(n1.peer("n2").unwrap()["state"], "Established");
    n1.bgpctl("reset tor").unwrap();
    wait_for_error(&n1, "tor", missing);
    secret(
        &cluster,
        "routeshare.io/key",
        &[("nodes", nodes_later), ("tor", second)],
    );
    n1.wait_for_state("tor", "Established");
    let log = controller.log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

/// The controller has heard of it by now, and it is still not there.
#[track_caller]
fn secret_is_refused(speaker: &Speaker<'_>, missing: &str) {
    let peer = speaker.peer("tor").unwrap();
    assert_ne!(peer["state"], "Established", "{peer}");
    assert!(
        peer["lastError"]
            .as_str()
            .unwrap_or_default()
            .contains(missing),
        "{peer}"
    );
}

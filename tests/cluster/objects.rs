//! The API server and the resources: what is right is taken and comes back as it was, what is wrong is
//! refused with the name of the field, and what was stored before there was a rule stays usable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::{Parsed, SourceFile};
use crd::{Kind, Written, WrittenStatus, conditions};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::Status;
use lab::cluster::Cluster;
use serde_json::{Value, json};

mod generate;

/// Documents that are wrong, and that the API server takes: what is wrong with them is seen beside
/// another object only, or is beyond CEL. File, resource, and why.
const NEED_MORE_THAN_ONE_OBJECT: &[(&str, &str, &str)] = &[
    (
        "client-of-another-as.yaml",
        "Peer `tor`",
        "the Fabric has the node's AS number",
    ),
    (
        "reflectors-with-several-numbers.yaml",
        "Peer `reflector-n1`",
        "the Fabric's topology has the name",
    ),
    (
        "next-hop-self-on-import.yaml",
        "Peer `tor`",
        "the RoutePolicy says Self",
    ),
    (
        "overlapping-pools.yaml",
        "Pool `more`",
        "overlaps another Pool",
    ),
    (
        "peer-is-the-node.yaml",
        "Peer `tor`",
        "the Node has the address",
    ),
    (
        "peers-with-one-address.yaml",
        "Peer `other`",
        "another Peer has the address",
    ),
    (
        "policy-missing.yaml",
        "Peer `tor`",
        "there is no such RoutePolicy",
    ),
    (
        "rule-hidden.yaml",
        "RoutePolicy `all`",
        "compares all rules with one another",
    ),
    (
        "local-address-of-nobody.yaml",
        "Peer `tor`",
        "no Node has the address",
    ),
    (
        "local-address-of-nobody.yaml",
        "Peer `other`",
        "no Node has the address",
    ),
    (
        "two-fabrics.yaml",
        "Fabric `other`",
        "there is another Fabric",
    ),
    (
        "wrong-kind.yaml",
        "",
        "is no kind of ours, or of another version",
    ),
    (
        "half-written.yaml",
        "",
        "an empty field is dropped by the API server",
    ),
    (
        "same-key-twice.yaml",
        "",
        "YAML is read before the API server sees it",
    ),
];

fn cluster() -> Cluster {
    let cluster = Cluster::start().unwrap();
    cluster.apply_directory("deploy/crds").unwrap();
    cluster
}

/// Asks the API server to make an object, with strict validation as kubectl does.
fn create(cluster: &Cluster, object: &Value, dry_run: bool) -> Result<Value, Box<Status>> {
    send(
        cluster,
        object,
        &format!(
            "fieldValidation=Strict{}",
            if dry_run { "&dryRun=All" } else { "" }
        ),
    )
}

fn send(cluster: &Cluster, object: &Value, query: &str) -> Result<Value, Box<Status>> {
    let kind = Kind::of(object["kind"].as_str().unwrap()).expect("a kind of ours");
    let resource = kind.api_resource();
    let request = http::Request::post(format!(
        "/apis/{}/{}?{query}",
        resource.api_version, resource.plural
    ))
    .header("content-type", "application/json")
    .body(object.to_string().into_bytes())
    .unwrap();
    match cluster.block_on(cluster.client().request::<Value>(request)) {
        Ok(value) => Ok(value),
        Err(kube::Error::Api(status)) => Err(status),
        Err(error) => panic!("no answer for {object}: {error}"),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> SourceFile {
    SourceFile {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        text: std::fs::read_to_string(path).unwrap(),
    }
}

/// The YAML files of a directory and of those below it, by directory; without `bad`.
fn examples(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<SourceFile>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|it| it != "bad") {
            examples(&path, found);
        } else if path.extension().is_some_and(|it| it == "yaml") {
            found
                .entry(directory.to_owned())
                .or_default()
                .push(read(&path));
        }
    }
}

/// The documents of a file, as JSON; `None` where it is no YAML.
fn documents(text: &str) -> Option<Vec<Value>> {
    serde_saphyr::from_multiple(text).ok()
}

fn is_ours(document: &Value) -> bool {
    document["apiVersion"] == api::API_VERSION
        && document["kind"].as_str().and_then(Kind::of).is_some()
}

fn parsed(files: &[SourceFile]) -> Parsed {
    api::parse(files).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

#[test]
fn every_example_is_taken_and_comes_back_as_it_was() {
    let cluster = cluster();
    let mut sets = BTreeMap::new();
    examples(&repository().join("examples"), &mut sets);
    assert!(sets.len() >= 5, "only {} sets of examples", sets.len());
    for (directory, files) in sets {
        let mut back = Vec::new();
        for document in files.iter().flat_map(|file| documents(&file.text).unwrap()) {
            let text = match is_ours(&document) {
                true => {
                    let answer = create(&cluster, &document, false);
                    let answer = answer
                        .unwrap_or_else(|status| panic!("{}: {status:?}", directory.display()));
                    // As the controller hands it to `api`: what the API server adds left out.
                    json!({
                        "apiVersion": answer["apiVersion"],
                        "kind": answer["kind"],
                        "metadata": {"name": answer["metadata"]["name"],
                            "labels": answer["metadata"].get("labels").unwrap_or(&json!({}))},
                        "spec": answer["spec"],
                    })
                    .to_string()
                }
                // Nodes are Kubernetes' own.
                false => document.to_string(),
            };
            back.push(SourceFile {
                name: format!("{}", back.len()),
                text,
            });
        }
        assert_eq!(
            parsed(&back).resources,
            parsed(&files).resources,
            "{}",
            directory.display()
        );
        for kind in crd::WRITTEN_BY_USERS {
            cluster
                .kubectl(&["delete", kind.plural(), "--all"])
                .unwrap();
        }
    }
}

#[test]
fn every_bad_example_is_refused_or_needs_more_than_one_object() {
    let cluster = cluster();
    let mut wrong = Vec::new();
    let mut used = vec![false; NEED_MORE_THAN_ONE_OBJECT.len()];
    let mut refused = 0;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(repository().join("examples/bad"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    paths.sort();
    for path in paths {
        let file = read(&path);
        let name = file.name.clone();
        let mistakes = api::parse(std::slice::from_ref(&file))
            .err()
            .unwrap_or_default();
        let Some(documents) = documents(&file.text) else {
            continue; // no YAML at all, or one that a reader of YAML refuses
        };
        for document in documents.iter().filter(|it| is_ours(it)) {
            let resource = format!(
                "{} `{}`",
                document["kind"].as_str().unwrap(),
                document["metadata"]["name"].as_str().unwrap_or_default()
            );
            let own: Vec<_> = mistakes
                .iter()
                .filter(|it| it.resource == resource)
                .collect();
            let answer = create(&cluster, document, true);
            let known = NEED_MORE_THAN_ONE_OBJECT
                .iter()
                .position(|(file, of, _)| *file == name && (*of == resource || of.is_empty()));
            match (answer, own.as_slice()) {
                (Ok(_), []) => {}
                (Ok(_), own) => match known {
                    Some(index) => used[index] = true,
                    None => wrong.push(format!("{name}: {resource} is taken, though {own:?}")),
                },
                (Err(status), own) => {
                    refused += 1;
                    let told = format!("{status:?}");
                    let meant = |field: &str| {
                        let field = field.trim_end_matches(|c| c == ']' || char::is_numeric(c));
                        told.contains(field.trim_end_matches('['))
                    };
                    // The API server may name the field, or what the field stands in.
                    let names = own.iter().any(|it| {
                        let field = it.field.as_str();
                        meant(field)
                            || field
                                .rsplit_once('.')
                                .is_some_and(|(outer, _)| meant(outer))
                    });
                    if !names {
                        wrong.push(format!(
                            "{name}: {resource} is refused with {told}, but {own:?}"
                        ));
                    }
                }
            }
        }
    }
    for (entry, used) in NEED_MORE_THAN_ONE_OBJECT.iter().zip(used) {
        if !used && !entry.1.is_empty() {
            wrong.push(format!(
                "{entry:?}: is not taken any more; remove it from the list"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 25, "only {refused} documents were refused");
}

#[test]
fn a_field_that_nobody_knows_is_refused_where_the_client_asks_for_it_and_dropped_where_not() {
    let cluster = cluster();
    let fabric = json!({
        "apiVersion": api::API_VERSION,
        "kind": "Fabric",
        "metadata": {"name": "fabric"},
        "spec": {"asn": {"value": 64512}, "holdTime": 90},
    });
    let refused = create(&cluster, &fabric, true).unwrap_err();
    assert!(
        refused.message.contains("unknown field \"spec.holdTime\""),
        "{refused:?}"
    );
    // kubectl asks for it without being told to.
    let refused = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &fabric.to_string());
    assert!(refused.unwrap_err().to_string().contains("holdTime"));
    let taken = send(&cluster, &fabric, "fieldValidation=Warn").unwrap();
    assert_eq!(taken["spec"], json!({"asn": {"value": 64512}}));
}

/// The rules of the API server are no stricter than ours: whoever moves files into a cluster can.
#[test]
fn what_is_right_in_a_file_is_right_in_a_cluster() {
    let cluster = cluster();
    let mut generator = generate::Generator::new();
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    while taken.values().sum::<usize>() < 400 && wrong.len() < 10 {
        for kind in crd::WRITTEN_BY_USERS {
            let object = generator.right(kind);
            match create(&cluster, &object, true) {
                Ok(_) => *taken.entry(kind.name()).or_default() += 1,
                Err(status) => wrong.push(format!("{object}\n  {}", status.message)),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {}:\n{}",
        generator.seed,
        wrong.join("\n")
    );
    for kind in crd::WRITTEN_BY_USERS {
        assert!(taken[kind.name()] >= 50, "{taken:?}");
    }
}

/// What an upgrade meets: an object from before there was a rule.
#[test]
fn an_object_from_before_a_rule_can_be_read_and_be_given_a_status() {
    let cluster = Cluster::start().unwrap();
    let path = repository().join("deploy/crds/peers.yaml");
    let mut lax: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    without_rules(&mut lax);
    cluster.apply(&lax.to_string()).unwrap();
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/peers.routeshare.io",
        ])
        .unwrap();
    let old = json!({
        "apiVersion": api::API_VERSION,
        "kind": "Peer",
        "metadata": {"name": "old"},
        "spec": {"address": "192.0.2.1", "remoteAsn": 65535, "ttl": 3, "ttlSecurity": {}},
    });
    let soon = Duration::from_secs(60);
    lab::wait_for("the definition without rules is in force", soon, || {
        create(&cluster, &old, true).map_err(|status| anyhow::anyhow!("{}", status.message))
    });
    create(&cluster, &old, false).unwrap();
    cluster.apply_directory("deploy/crds").unwrap();
    let mut other = old.clone();
    other["metadata"]["name"] = json!("new");
    lab::wait_for("the rules are in force", soon, || {
        match create(&cluster, &other, true) {
            Ok(_) => anyhow::bail!("it is taken"),
            Err(_) => Ok(()),
        }
    });

    let peers: Api<Written> = Api::all_with(cluster.client(), &Kind::Peer.api_resource());
    let peer = cluster.block_on(peers.get("old")).unwrap();
    assert_eq!(peer.spec, old["spec"]);
    let mut status = WrittenStatus::default();
    conditions::set(
        &mut status.conditions,
        conditions::ACCEPTED,
        conditions::Holds::False,
        "Invalid",
        "spec.remoteAsn: found 65535",
        Some(1),
        &crd::time(1_000).unwrap(),
    );
    let patch = json!({
        "apiVersion": api::API_VERSION, "kind": "Peer", "status": status,
    });
    let parameters = PatchParams::apply(crd::names::FIELD_MANAGER);
    let answer = cluster.block_on(peers.patch_status("old", &parameters, &Patch::Apply(&patch)));
    assert_eq!(answer.unwrap().status, Some(status));
    // What is not touched may stay as it is; a touched field must be right.
    cluster
        .kubectl(&["label", "peer", "old", "rack=a"])
        .unwrap();
    cluster
        .kubectl(&[
            "patch",
            "peer",
            "old",
            "--type=merge",
            "-p",
            "{\"spec\":{\"remoteAsn\":23456}}",
        ])
        .unwrap_err();
}

fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

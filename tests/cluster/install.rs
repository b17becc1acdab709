//! What users apply: the Kustomize base by the real kubectl, the chart by the real Helm, on a fresh API
//! server; and programs started as these manifests say, by the hand of the test instead of a kubelet's.

mod pod;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use lab::cluster::{Cluster, ClusterNode};
use lab::wait_for;
use serde_json::{Value, json};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/base");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/routeshare");
const RELEASE: [&str; 4] = ["routeshare", CHART, "--namespace", "routeshare"];
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: routeshare}}";
/// Long enough for anything that comes true at all.
const SOON: Duration = Duration::from_secs(60);
/// What tokens for the API server are made for.
const API: &str = "https://kubernetes.default.svc.cluster.local";

/// Where an object is.
type Key = (String, String, String);

/// Objects without what Helm writes on its own.
fn objects(yaml: &str) -> BTreeMap<Key, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    let documents = documents.into_iter().filter(|it| !it.is_null());
    let keyed = documents.map(|mut object| {
        let metadata = object["metadata"].as_object_mut().unwrap();
        for (field, keys) in [
            (
                "labels",
                ["app.kubernetes.io/managed-by", "helm.sh/chart"].as_slice(),
            ),
            ("annotations", &["helm.sh/resource-policy"]),
        ] {
            let Some(map) = metadata.get_mut(field).and_then(Value::as_object_mut) else {
                continue;
            };
            map.retain(|key, _| !keys.contains(&key.as_str()));
            if map.is_empty() {
                metadata.remove(field);
            }
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = &object["metadata"];
        let key = (
            text(&object["kind"]),
            text(&name["namespace"]),
            text(&name["name"]),
        );
        (key, object)
    });
    keyed.collect()
}

fn get(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Value {
    let text = cluster.kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
    serde_json::from_str(&text.unwrap()).unwrap()
}

fn names(cluster: &Cluster, kinds: &str) -> String {
    cluster
        .kubectl(&[
            "get",
            kinds,
            "-A",
            "-l",
            "app.kubernetes.io/managed-by=Helm",
            "-o",
            "name",
        ])
        .unwrap()
}

/// `controller.certificateSecret`: the controllers have all of it, the speakers what they trust and not
/// the key.
#[track_caller]
fn a_certificate_of_ones_own_is_mounted(cluster: &Cluster) {
    let own = [
        "--reset-then-reuse-values",
        "--set",
        "controller.certificateSecret=own",
    ];
    cluster
        .helm(&[&["upgrade"], &RELEASE[..], &own].concat())
        .unwrap();
    let pod = |kind: &str, name: &str| {
        let workload = get(cluster, kind, "routeshare", name);
        workload["spec"]["template"]["spec"].clone()
    };
    let volume = |pod: &Value, name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        volume.unwrap_or(&Value::Null).clone()
    };
    let controller = pod("deployment", "routeshare-controller");
    let container = &controller["containers"][0];
    for (option, file) in [("ca", "ca.crt"), ("cert", "tls.crt"), ("key", "tls.key")] {
        let argument = json!(format!("--{option}=/etc/routeshare/pki/{file}"));
        let arguments = container["args"].as_array().unwrap();
        assert!(arguments.contains(&argument), "{arguments:?}");
    }
    let pki = json!({"name": "pki", "mountPath": "/etc/routeshare/pki", "readOnly": true});
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(&pki), "{mounts:?}");
    let secret = &volume(&controller, "pki")["secret"];
    assert_eq!(secret["secretName"], "own", "{secret}");

    let speaker = pod("daemonset", "routeshare-speaker");
    let authority = volume(&speaker, "authority");
    assert!(authority["configMap"].is_null(), "{authority}");
    assert_eq!(authority["secret"]["secretName"], "own", "{authority}");
    let items = json!([{"key": "ca.crt", "path": "ca.crt"}]);
    assert_eq!(authority["secret"]["items"], items, "{authority}");
    let arguments = speaker["containers"][0]["args"].to_string();
    assert!(
        arguments.contains("--ca=/etc/routeshare/authority/ca.crt"),
        "{arguments}"
    );
}

#[test]
fn helm_makes_the_objects_of_the_base_upgrades_them_and_leaves_only_the_kinds() {
    let cluster = Cluster::start().unwrap();
    let template = ["template", "--kube-version", "v1.36.2"];
    let chart = cluster.helm(&[&template, &RELEASE[..]].concat()).unwrap();
    let (chart, mut base) = (
        objects(&chart),
        objects(&cluster.kubectl(&["kustomize", BASE]).unwrap()),
    );
    // Helm's --create-namespace makes it.
    base.retain(|(kind, ..), _| kind != "Namespace");
    let keys = |all: &BTreeMap<Key, Value>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&chart), keys(&base));
    for (key, object) in &base {
        assert_eq!(&chart[key], object, "{key:?}");
    }

    let refused = cluster.helm(
        &[
            &["install"],
            &RELEASE[..],
            &["--set", "speaker.metrics=7445"],
        ]
        .concat(),
    );
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("/speaker/metrics"), "{refused}");
    let install = [&["install"], &RELEASE[..], &["--create-namespace"]].concat();
    let notes = cluster.helm(&install).unwrap();
    assert!(notes.contains("First peer"), "{notes}");
    let other = [
        "--set",
        "controller.port=7555,controller.replicas=2,bfd.echo=true,images.registry=mirror.example/r",
    ];
    cluster
        .helm(&[&["upgrade"], &RELEASE[..], &other].concat())
        .unwrap();
    let deployment = get(
        &cluster,
        "deployment",
        "routeshare",
        "routeshare-controller",
    );
    assert_eq!(deployment["spec"]["replicas"], 2);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"],
        "mirror.example/r/routeshare-controller:v0.1.0"
    );
    assert_eq!(container["args"][1], "--listen=[::]:7555");
    let bfd = get(&cluster, "daemonset", "routeshare", "routeshare-bfd");
    let bfd = &bfd["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(
        bfd["capabilities"]["add"],
        json!(["SYS_NICE", "IPC_LOCK", "NET_RAW"])
    );

    a_certificate_of_ones_own_is_mounted(&cluster);

    let ours = "all,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,pdb";
    assert!(
        names(&cluster, ours).contains("clusterrole"),
        "{}",
        names(&cluster, ours)
    );
    cluster
        .helm(&["uninstall", "routeshare", "--namespace", "routeshare"])
        .unwrap();
    assert_eq!(names(&cluster, ours), "");
    let kinds = names(&cluster, "crds");
    assert_eq!(kinds.lines().count(), crd::KINDS.len(), "{kinds}");
    // And back again, onto the kinds that were left.
    cluster.helm(&install).unwrap();
}

#[test]
fn kubectl_applies_the_base_and_it_goes_again() {
    let cluster = Cluster::start().unwrap();
    cluster.apply(NAMESPACE).unwrap();
    let apply = ["apply", "--server-side", "-k", BASE];
    let dry = [&apply[..], &["--dry-run=server"]].concat();
    cluster.kubectl(&dry).unwrap();
    cluster.kubectl(&apply).unwrap();
    let again = cluster.kubectl(&apply).unwrap();
    assert!(
        again.contains("deployment.apps/routeshare-controller serverside-applied"),
        "{again}"
    );
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ])
        .unwrap();
    cluster
        .kubectl(&["delete", "-k", BASE, "--wait=false"])
        .unwrap();
    // The API server takes its time to empty a kind; where it meets a conflict with itself it looks again
    // after 5 minutes only.
    wait_for("everything to be gone", 7 * SOON, || {
        let left = cluster.kubectl(&[
            "get",
            "crds,clusterroles,clusterrolebindings,roles,rolebindings",
            "-A",
            "-o",
            "name",
        ])?;
        let left: Vec<&str> = left
            .lines()
            .filter(|it| it.contains("routeshare"))
            .collect();
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

/// The pod that a controller of Kubernetes would make of a workload, on this node.
fn pod(cluster: &Cluster, workload: &Value, namespace: &str, node: &str) -> anyhow::Result<Pod> {
    let mut pod = workload["spec"]["template"].clone();
    let name = format!("{}-{node}", workload["metadata"]["name"].as_str().unwrap());
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["nodeName"] = json!(node);
    let pod: Pod = serde_json::from_value(pod)?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    Ok(cluster.block_on(pods.create(&PostParams::default(), &pod))?)
}

/// Nothing is privileged, and all is dropped but what is listed.
fn assert_confined(workload: &Value, capabilities: &Value) {
    let spec = &workload["spec"]["template"]["spec"];
    assert_eq!(
        spec["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let first = spec["initContainers"].as_array().into_iter().flatten();
    let containers = spec["containers"].as_array().unwrap().iter();
    let none = Value::Null;
    let all = first
        .map(|it| (it, &none))
        .chain(containers.map(|it| (it, capabilities)));
    for (container, capabilities) in all {
        let context = &container["securityContext"];
        assert_eq!(context["privileged"], Value::Null);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(&context["capabilities"]["add"], capabilities);
    }
}

/// Waits until a probe of the pod's container is answered with 200.
#[track_caller]
fn wait_for_probe(
    machine: &lab::Namespace,
    workload: &Value,
    name: &str,
    daemon: &mut lab::Daemon,
) {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    wait_for(&format!("{name} to be answered"), SOON, || {
        daemon.check()?;
        let answer = pod::probe(machine, &container[name])?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(())
    });
}

#[test]
fn the_programs_run_as_the_manifests_say_and_a_node_gets_its_subnets() {
    let cluster = Cluster::start().unwrap();
    cluster
        .kubectl(&["apply", "--server-side", "-k", BASE])
        .unwrap();
    let ClusterNode { machine, .. } = &cluster.node("n1", 1, &[]).unwrap();
    let control = cluster.control();
    let deployment = get(
        &cluster,
        "deployment",
        "routeshare",
        "routeshare-controller",
    );
    let speakers = get(&cluster, "daemonset", "routeshare", "routeshare-speaker");
    let bfds = get(&cluster, "daemonset", "routeshare", "routeshare-bfd");
    assert_confined(&deployment, &Value::Null);
    assert_confined(&speakers, &json!(["NET_ADMIN", "NET_BIND_SERVICE"]));
    assert_confined(&bfds, &json!(["SYS_NICE", "IPC_LOCK"]));

    // Where Pod Security is enforced, the namespace's label lets the pods in; below it they are refused.
    for level in ["baseline", "restricted"] {
        let strict = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {level}, labels: \
             {{pod-security.kubernetes.io/enforce: {level}}}}}}}"
        );
        cluster.apply(&strict).unwrap();
        cluster.ensure_account(level, "routeshare-speaker").unwrap();
        let refused = pod(&cluster, &speakers, level, "n1")
            .unwrap_err()
            .to_string();
        assert!(refused.contains("violates PodSecurity"), "{refused}");
    }

    // A stand-in for kube-proxy: the Service's address is the controller's machine.
    let service = get(&cluster, "service", "routeshare", "routeshare-controller");
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    control
        .ip([format!("address add {address}/32 dev lo").as_str()])
        .unwrap();
    machine
        .ip([format!("route add {address} via 10.99.0.1").as_str()])
        .unwrap();

    let controller_pod = pod(&cluster, &deployment, "routeshare", "control").unwrap();
    let token = cluster.token(
        "routeshare",
        "routeshare-controller",
        API,
        Some(&controller_pod),
    );
    let authority = std::fs::read_to_string(cluster.lab().directory().join("ca.crt")).unwrap();
    let mut controller = pod::run(
        cluster.lab(),
        control,
        "routeshare-controller-control",
        &deployment["spec"]["template"],
        &[
            ("metadata.name", "routeshare-controller-control"),
            ("metadata.namespace", "routeshare"),
            ("status.podIP", "10.99.0.1"),
            ("KUBERNETES_SERVICE_HOST", "10.99.0.1"),
            ("KUBERNETES_SERVICE_PORT", "6443"),
        ],
        &[
            (
                "/var/run/secrets/kubernetes.io/serviceaccount/token",
                &token.unwrap(),
            ),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
                &authority,
            ),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount/namespace",
                "routeshare",
            ),
        ],
    );
    wait_for_probe(control, &deployment, "livenessProbe", &mut controller);
    cluster
        .apply(
            "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {name: fabric}\n\
             spec: {asn: {value: 64512}, topology: Mesh}\n---\n\
             apiVersion: routeshare.io/v1alpha1\nkind: Pool\nmetadata: {name: pods}\n\
             spec: {prefixes: [10.64.0.0/16, fd00:64::/48]}\n",
        )
        .unwrap();
    wait_for_probe(control, &deployment, "readinessProbe", &mut controller);
    let public = wait_for("the authority's certificate", SOON, || {
        let map = cluster.kubectl(&[
            "get",
            "configmap",
            "routeshare-ca",
            "-n",
            "routeshare",
            "-o",
            "json",
        ])?;
        let map: Value = serde_json::from_str(&map)?;
        map["data"]["ca.crt"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| anyhow::anyhow!("{map}"))
    });

    let speaker_pod = pod(&cluster, &speakers, "routeshare", "n1").unwrap();
    let token = cluster.token(
        "routeshare",
        "routeshare-speaker",
        "routeshare-controller",
        Some(&speaker_pod),
    );
    let service_address = format!("tcp://{address}:7443");
    // First its other container installs the plugin, also over one that is there already.
    let installed = pod::on_host(cluster.lab(), "routeshare-speaker-n1", "/opt/cni/bin");
    let spec = &speakers["spec"]["template"]["spec"];
    for said in ["installed", "already"] {
        let mut first = pod::command(
            cluster.lab(),
            machine,
            "routeshare-speaker-n1",
            (spec, &spec["initContainers"][0]),
            &[],
            &[],
        );
        let text = lab::output(&mut first).unwrap();
        assert!(text.contains(said), "{text}");
    }
    let mut plugin = std::process::Command::new(installed.join("routeshare-cni"));
    let version = lab::output(plugin.env("CNI_COMMAND", "VERSION")).unwrap();
    assert!(version.contains("1.1.0"), "{version}");
    let mut speaker = pod::run(
        cluster.lab(),
        machine,
        "routeshare-speaker-n1",
        &speakers["spec"]["template"],
        &[
            ("spec.nodeName", "n1"),
            ("ROUTESHARE_CONTROLLER_PORT", &service_address),
        ],
        &[
            ("/etc/routeshare/authority/ca.crt", &public),
            ("/var/run/secrets/routeshare/token", &token.unwrap()),
        ],
    );
    wait_for_probe(machine, &speakers, "livenessProbe", &mut speaker);
    wait_for_probe(machine, &speakers, "readinessProbe", &mut speaker);
    wait_for(
        "the node to work by the controller's configuration",
        SOON,
        || {
            speaker.check()?;
            controller.check()?;
            let metrics = pod::http(machine, 7445, "/metrics")?;
            let line = |name: &str| {
                metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            };
            let connected: Option<u64> = line("routeshare_speaker_controller_connected{} ");
            let version: Option<u64> = line("routeshare_speaker_config_version{} ");
            anyhow::ensure!(
                connected == Some(1) && version >= Some(1),
                "{metrics}
{}",
                speaker.log_tail()
            );
            let routes = machine.run("ip route show proto 149")?;
            anyhow::ensure!(routes.contains("unreachable 10.64.0.0/24"), "{routes:?}");
            Ok(())
        },
    );
    // Alone on the network it has no peer to wait for: pods can start, by these two files of the host.
    let on_host = |path: &str| pod::on_host(cluster.lab(), "routeshare-speaker-n1", path);
    wait_for("the network configuration", SOON, || {
        let text = std::fs::read_to_string(on_host("/etc/cni/net.d/10-routeshare.conflist"))?;
        let configuration: Value = serde_json::from_str(&text)?;
        let plugin = &configuration["plugins"][0];
        anyhow::ensure!(plugin["type"] == "routeshare-cni", "{configuration:#}");
        // Where the host has it, and not only the container.
        anyhow::ensure!(plugin["dataDir"] == Value::Null, "{configuration:#}");
        let node = std::fs::read_to_string(on_host("/var/lib/routeshare").join("cni/node.json"))?;
        anyhow::ensure!(node.contains("10.64.0.0/24"), "{node}");
        Ok(())
    });
    // It listens on port 179 with no more than the listed capabilities.
    let listening = machine.run("ss -tln").unwrap();
    assert!(listening.contains(":179 "), "{listening}");
    for daemon in [&controller, &speaker] {
        let log = daemon.log();
        assert!(!log.contains("forbidden"), "{log}");
        assert!(!log.contains("denied"), "{log}");
    }

    // BFD: real-time priority with the listed capabilities.
    let bfd = pod::run(
        cluster.lab(),
        machine,
        "routeshare-bfd-n1",
        &bfds["spec"]["template"],
        &[],
        &[],
    );
    wait_for("routeshare-bfd to be ready", SOON, || {
        let log = bfd.log();
        anyhow::ensure!(log.contains("SCHED_FIFO 50"), "{log}");
        anyhow::ensure!(!log.contains("not locked"), "{log}");
        Ok(())
    });
}

#[test]
fn the_accounts_have_no_other_rights() {
    let cluster = Cluster::start().unwrap();
    cluster
        .kubectl(&["apply", "--server-side", "-k", BASE])
        .unwrap();
    let may = |account: &str, words: &[&str]| {
        let who = format!("--as=system:serviceaccount:routeshare:{account}");
        let answer = cluster.kubectl(&[&["auth", "can-i", &who], words].concat());
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    for words in [
        ["list", "nodes", "-A"].as_slice(),
        &["watch", "peers.routeshare.io", "-A"],
        &["update", "configmap/routeshare-ledger", "-n", "routeshare"],
        &["create", "tokenreviews.authentication.k8s.io", "-A"],
    ] {
        assert!(may("routeshare-controller", words), "{words:?}");
        assert!(!may("routeshare-speaker", words), "{words:?}");
        assert!(!may("routeshare-operator", words), "{words:?}");
    }
    for words in [
        ["get", "secret/other", "-n", "routeshare"].as_slice(),
        &["list", "secrets", "-n", "kube-system"],
        &["list", "pods", "-A"],
        &["delete", "nodes", "-A"],
        &["update", "configmap/other", "-n", "routeshare"],
        &["create", "serviceaccounts/token", "-n", "routeshare"],
        &["delete", "peers.routeshare.io", "-A"],
        &["create", "clusterrolebindings", "-A"],
        &["impersonate", "users", "-A"],
    ] {
        for account in [
            "routeshare-controller",
            "routeshare-speaker",
            "routeshare-operator",
        ] {
            assert!(!may(account, words), "{account} {words:?}");
        }
    }
}

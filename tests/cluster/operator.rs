//! `bgpctl` with nothing but a kubeconfig: the leader is found by its Lease, trusted by the authority it
//! publishes, and asked with a token that the API server makes.

mod kubelet;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crd::names::{CONTROLLER_ACCOUNT, NAMESPACE};
use lab::cluster::{Cluster, Controller, Replica};
use lab::{output, program, try_wait_for, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Alice has the Role that `deploy` has for operators; Bob may look, and no more.
const BINDINGS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: alice, namespace: routeshare}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: routeshare-operator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: routeshare}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get]}
- {apiGroups: [''], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bob, namespace: routeshare}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: bob}]
";

const RESOURCES: &str = "
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 64512}}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16]}
";

fn cluster() -> Cluster {
    let cluster = Cluster::start().unwrap();
    cluster.apply_directory("deploy/crds").unwrap();
    cluster.install_rights().unwrap();
    cluster.apply(BINDINGS).unwrap();
    cluster.apply(RESOURCES).unwrap();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    cluster
}

fn replica(cluster: &Cluster, pod: &str, number: u8) -> Controller {
    let replica = Replica {
        pod,
        number,
        ..Replica::default()
    };
    cluster.controller(&replica).unwrap()
}

fn kubeconfig(cluster: &Cluster, user: &str) -> PathBuf {
    let credentials = cluster.user(user, None).unwrap();
    cluster.kubeconfig(user, &credentials).unwrap()
}

/// What `bgpctl` prints, started where only the kubeconfig can lead to the controller.
fn bgpctl(cluster: &Cluster, kubeconfig: &Path, line: &str) -> anyhow::Result<String> {
    let mut command = cluster.control().command(program("bgpctl")?);
    command
        .args(line.split_whitespace())
        .arg("--kubeconfig")
        .arg(kubeconfig);
    output(&mut command)
}

#[test]
fn an_operator_asks_whoever_leads_with_nothing_but_a_kubeconfig() {
    let cluster = cluster();
    let mut first = replica(&cluster, "controller-1", 1);
    let alice = kubeconfig(&cluster, "alice");
    let nodes = wait_for("the first leader to answer", SOON, || {
        let nodes = bgpctl(&cluster, &alice, "show nodes --direct")?;
        anyhow::ensure!(nodes.contains("10.64.0.0/24"), "{nodes}");
        Ok(nodes)
    });
    assert!(nodes.contains("n1"), "{nodes}");
    // By an address somebody says, with the cluster's authority and token.
    let url = format!("show subnets --controller https://{}", first.address());
    let subnets = bgpctl(&cluster, &alice, &url).unwrap();
    assert!(subnets.contains("10.64.0.0/24"), "{subnets}");

    let second = replica(&cluster, "controller-2", 2);
    // One that stands by says where the leader is.
    let elsewhere = format!("show nodes --controller https://{}", second.address());
    let nodes = wait_for("the leader's answer, by way of another one", SOON, || {
        bgpctl(&cluster, &alice, &elsewhere)
    });
    assert!(nodes.contains("10.64.0.0/24"), "{nodes}");
    first.kill().unwrap();
    let lease = [
        "-n",
        NAMESPACE,
        "get",
        "lease",
        "routeshare-controller",
        "-o",
        "yaml",
    ];
    wait_for("the second to lead", SOON, || {
        let lease = cluster.kubectl(&lease)?;
        anyhow::ensure!(lease.contains("routeshare.io/pod: controller-2"), "{lease}");
        let nodes = bgpctl(&cluster, &alice, "show nodes --direct")?;
        anyhow::ensure!(nodes.contains("10.64.0.0/24"), "{nodes}");
        Ok(())
    });
}

#[test]
fn who_may_not_make_operators_tokens_is_no_operator() {
    let cluster = cluster();
    let leader = replica(&cluster, "controller-1", 1);
    let bob = kubeconfig(&cluster, "bob");
    let told = wait_for("the controller to publish its authority", SOON, || {
        let told = bgpctl(&cluster, &bob, "show nodes --direct");
        let told = told.expect_err("bob is no operator").to_string();
        anyhow::ensure!(!told.contains("routeshare-ca"), "{told}");
        Ok(told)
    });
    assert!(
        told.contains("cannot have a token of service account routeshare-operator made"),
        "{told}"
    );
    assert!(told.contains("forbidden"), "{told}");
    assert!(
        told.contains("create serviceaccounts/token of routeshare-operator"),
        "{told}"
    );
    let url = format!("show nodes --controller https://{}", leader.address());
    bgpctl(&cluster, &bob, &url).unwrap_err();
    let nobody = bgpctl(&cluster, Path::new("/nowhere"), "show nodes").unwrap_err();
    assert!(nobody.to_string().contains("--kubeconfig"), "{nobody}");
}

#[test]
fn kubectl_has_it_as_a_plugin() {
    let cluster = cluster();
    let _leader = replica(&cluster, "controller-1", 1);
    let directory = cluster.lab().directory().join("plugins");
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(program("bgpctl").unwrap(), directory.join("kubectl-bgp")).unwrap();
    let alice = kubeconfig(&cluster, "alice");
    let path = std::env::var("PATH").unwrap();
    let nodes = wait_for("the plugin to be answered", SOON, || {
        let kubectl = lab::cluster::kubectl_program()?;
        let mut command = cluster.control().command(kubectl);
        command
            .args(["bgp", "show", "nodes", "--direct"])
            .env("PATH", format!("{}:{path}", directory.display()))
            .env("KUBECONFIG", &alice);
        let nodes = output(&mut command)?;
        anyhow::ensure!(nodes.contains("10.64.0.0/24"), "{nodes}");
        Ok(nodes)
    });
    assert!(nodes.starts_with("NODE"), "{nodes}");
}

/// The API server, its authorisation, the Lease, the token and the TLS inside are real; the kubelet is
/// a stand-in that does what a kubelet does with this request.
#[test]
fn without_a_way_of_its_own_the_connection_goes_through_the_api_server() {
    let cluster = cluster();
    // The API server asks the kubelet at the node's address.
    cluster.create_node("control", &["10.99.0.1"], &[]).unwrap();
    let status = r#"{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}}}}"#;
    let patch = [
        "patch",
        "node",
        "control",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    cluster.kubectl(&patch).unwrap();
    cluster
        .create_pod(NAMESPACE, "controller-1", CONTROLLER_ACCOUNT, "control")
        .unwrap();
    let leader = replica(&cluster, "controller-1", 1);
    let kubelet = kubelet::Kubelet::start(cluster.control(), "10.99.0.1:10250", leader.address());
    let alice = kubeconfig(&cluster, "alice");
    let answered = try_wait_for("an answer through the API server", SOON, || {
        let nodes = bgpctl(&cluster, &alice, "show nodes")?;
        anyhow::ensure!(nodes.contains("10.64.0.0/24"), "{nodes}");
        Ok(())
    });
    answered.unwrap_or_else(|error| panic!("{error:#}\n{:?}", kubelet.requests()));
    assert!(
        kubelet.requests().iter().all(|request| request
            == "/portForward/routeshare/controller-1?port=7443"
            || request == "/portForward/routeshare/controller-1?ports=7443"),
        "{:?}",
        kubelet.requests()
    );
    // Who may not forward ports does not get there.
    let bob = kubeconfig(&cluster, "bob");
    bgpctl(&cluster, &bob, "show nodes").unwrap_err();
}

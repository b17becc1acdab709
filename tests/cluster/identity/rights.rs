//! What each of us may do at the API server: what `deploy` gives, and nothing beyond.

use crd::names;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::Api;
use kube::api::ListParams;
use lab::cluster::{Cluster, Controller, Credentials, Replica};
use lab::wait_for;

use super::{Mounts, SOON, cluster, speaker, wait_until_told};

/// What tokens for the API server itself are for.
const API_SERVER: &str = "https://kubernetes.default.svc.cluster.local";

/// The controller as its service account, with a token as its pod has it.
pub(super) fn installed_controller(
    cluster: &Cluster,
    number: u8,
    arguments: &[&str],
) -> Controller {
    let account = names::CONTROLLER_ACCOUNT;
    let pod = format!("controller-{number}");
    let token = cluster
        .token(names::NAMESPACE, account, API_SERVER, None)
        .unwrap();
    let kubeconfig = cluster
        .kubeconfig(&pod, &Credentials::Token(token))
        .unwrap();
    let replica = Replica {
        pod: &pod,
        number,
        kubeconfig: Some(kubeconfig),
        arguments,
        ..Replica::default()
    };
    cluster.controller(&replica).unwrap()
}

#[test]
fn the_controller_works_with_the_rights_it_is_installed_with() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let controller = installed_controller(&cluster, 1, &[]);
    let mounts = Mounts::new(&cluster, "n1");
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let speaker = speaker(&cluster, &node, &controller, &mounts, keys.path());
    wait_until_told(&speaker);
    wait_for("a subnet of the node", SOON, || {
        let subnets = controller.bgpctl("show subnets")?;
        anyhow::ensure!(subnets.contains("n1"), "{subnets}");
        Ok(())
    });
    wait_for("the Secrets to be known", SOON, || {
        let log = controller.log();
        anyhow::ensure!(log.contains("Secrets with keys of peers"), "{log}");
        Ok(())
    });
    let log = controller.log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

#[test]
fn a_speaker_and_an_operator_may_do_nothing_at_the_api_server() {
    let cluster = cluster();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    // The token of a speaker's pod is not even one for the API server.
    let bound = cluster.speaker_token("n1").unwrap();
    let of = |account: &str| {
        cluster
            .token(names::NAMESPACE, account, API_SERVER, None)
            .unwrap()
    };
    for (name, token, code) in [
        ("bound", bound, 401),
        ("speaker", of(names::SPEAKER_ACCOUNT), 403),
        ("operator", of(names::OPERATOR_ACCOUNT), 403),
    ] {
        let client = cluster.client_as(name, &Credentials::Token(token)).unwrap();
        let list = ListParams::default();
        let ours = names::NAMESPACE;
        let outcomes = cluster.block_on(async {
            [
                Api::<Node>::all(client.clone()).list(&list).await.map(drop),
                Api::<Pod>::all(client.clone()).list(&list).await.map(drop),
                Api::<Secret>::namespaced(client.clone(), ours)
                    .list(&list)
                    .await
                    .map(drop),
                Api::<Secret>::namespaced(client.clone(), ours)
                    .get(names::CA)
                    .await
                    .map(drop),
                Api::<ConfigMap>::namespaced(client.clone(), ours)
                    .get(names::LEDGER)
                    .await
                    .map(drop),
                Api::<ConfigMap>::namespaced(client, ours)
                    .get(names::CA)
                    .await
                    .map(drop),
            ]
        });
        for outcome in outcomes {
            match outcome {
                Err(kube::Error::Api(status)) if status.code == code => {}
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

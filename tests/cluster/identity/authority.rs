//! The authority that the controllers keep.

use std::time::{Duration, Instant};

use crd::names;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use lab::cluster::{Cluster, Controller};
use lab::wait_for;
use serde_json::json;
use tonic::Code;

use super::{Client, Mounts, SOON, bundle, cluster, controller, refused, speaker, wait_until_told};

fn secrets(cluster: &Cluster) -> Api<Secret> {
    Api::namespaced(cluster.client(), names::NAMESPACE)
}

/// Changes the Secret, as a person does.
fn change(cluster: &Cluster, patch: &serde_json::Value) {
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    let secrets = secrets(cluster);
    let patched = secrets.patch(names::CA, &params, &patch);
    cluster.block_on(patched).unwrap();
}

/// Deletes the Secret.
fn delete(cluster: &Cluster) {
    let secrets = secrets(cluster);
    let params = DeleteParams::default();
    let deleted = secrets.delete(names::CA, &params);
    cluster.block_on(deleted).unwrap();
}

/// The one that leads.
fn leader(controllers: &[Controller; 2]) -> &Controller {
    wait_for("one to lead", SOON, || {
        let leads = controllers
            .iter()
            .find(|it| it.bgpctl("show nodes").is_ok());
        leads.ok_or_else(|| anyhow::anyhow!("nobody leads"))
    })
}

/// How many certificates there are.
fn count(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn of_two_controllers_that_start_at_once_one_makes_the_authority_and_both_have_it() {
    let cluster = cluster();
    cluster.create_node("n1", &["10.99.1.1"], &[]).unwrap();
    let controllers = std::thread::scope(|scope| {
        let start = |number| {
            scope.spawn({
                let cluster = &cluster;
                move || controller(cluster, number, &[])
            })
        };
        [1, 2].map(start).map(|thread| thread.join().unwrap())
    });
    let bundle = wait_for("the bundle", SOON, || bundle(&cluster));
    assert_eq!(count(&bundle), 1, "{bundle}");
    let token = cluster.speaker_token("n1").unwrap();
    let clients = controllers.each_ref().map(|controller| Client {
        cluster: &cluster,
        controller,
        bundle: bundle.clone(),
        token: Some(token.clone()),
    });
    wait_for("one to lead and the other to say so", SOON, || {
        let answers = clients.each_ref().map(|client| client.watch("n1"));
        let [one, other] = answers.each_ref().map(Result::is_ok);
        anyhow::ensure!(one != other, "{answers:?}");
        let standby = answers.into_iter().find_map(Result::err);
        let says = standby
            .as_ref()
            .map(|it| it.metadata().contains_key("routeshare-leader"));
        anyhow::ensure!(says == Some(true), "{standby:?}");
        Ok(())
    });
    let made = controllers
        .each_ref()
        .map(|it| it.log().contains("made an authority for TLS"));
    assert!(made[0] != made[1], "{made:?}");
}

#[test]
fn another_authority_takes_over_under_streams_that_go_on() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let arguments = ["--ca-publish", "20s", "--certificate-validity", "15s"];
    let controllers = [1, 2].map(|number| controller(&cluster, number, &arguments));
    let mounts = Mounts::new(&cluster, "n1");
    let first = bundle(&cluster).unwrap();
    let leader = leader(&controllers);
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let told = speaker(&cluster, &node, leader, &mounts, keys.path());
    wait_until_told(&told);
    let begun = Instant::now();
    let asked = json!({"metadata": {"annotations": {"routeshare.io/rotate": "now"}}});
    change(&cluster, &asked);

    let both = wait_for("two authorities in the bundle", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(count(&bundle) == 2, "{bundle}");
        Ok(bundle)
    });
    assert!(both.starts_with(&first), "the old one still signs");
    let client = |bundle: &str| Client {
        cluster: &cluster,
        controller: leader,
        bundle: bundle.to_owned(),
        token: Some(cluster.speaker_token("n1").unwrap()),
    };
    // Who has not heard of it yet still comes in.
    refused(
        client(&first).watch("n2"),
        Code::PermissionDenied,
        "speaker of node n1",
    );
    let used = wait_for("the new one to sign", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(
            !bundle.starts_with(&first) && count(&bundle) == 2,
            "{bundle}"
        );
        Ok(begun.elapsed())
    });
    assert!(used >= Duration::from_secs(20), "used after {used:?}");
    mounts.refresh(&cluster).unwrap();
    let second = wait_for("the old one to be gone", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(count(&bundle) == 1, "{bundle}");
        Ok(bundle)
    });
    assert_ne!(first, second);
    // Both controllers follow, also the one that stands by.
    for controller in &controllers {
        let at = |bundle: &str| Client {
            controller,
            ..client(bundle)
        };
        wait_for("a certificate of the new authority", SOON, || {
            match at(&second).watch("n2") {
                Err(status) if status.code() == Code::PermissionDenied => Ok(()),
                Err(status) if status.metadata().contains_key("routeshare-leader") => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        });
        refused(at(&first).watch("n2"), Code::Unavailable, "");
        let status = at(&first).watch("n2").unwrap_err();
        assert!(
            !status.metadata().contains_key("routeshare-leader"),
            "{status:?}"
        );
    }
    // The stream that was there is the same one; another speaker comes in with what it has read since.
    let log = told.log();
    assert_eq!(
        log.matches("connected to the controller").count(),
        1,
        "{log}"
    );
    drop(told);
    mounts.refresh(&cluster).unwrap();
    let again = speaker(&cluster, &node, leader, &mounts, keys.path());
    wait_until_told(&again);
}

#[test]
fn an_authority_that_ends_is_replaced_in_time() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let arguments = [
        "--ca-validity",
        "90s",
        "--ca-publish",
        "10s",
        "--certificate-validity",
        "15s",
    ];
    let controller = controller(&cluster, 1, &arguments);
    let mounts = Mounts::new(&cluster, "n1");
    let first = bundle(&cluster).unwrap();
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let told = speaker(&cluster, &node, &controller, &mounts, keys.path());
    wait_until_told(&told);
    wait_for(
        "the first authority to be gone",
        Duration::from_secs(240),
        || {
            mounts.refresh(&cluster)?;
            let bundle = bundle(&cluster)?;
            anyhow::ensure!(!bundle.contains(&first), "{bundle}");
            Ok(())
        },
    );
    let log = told.log();
    assert_eq!(
        log.matches("connected to the controller").count(),
        1,
        "{log}"
    );
    drop(told);
    let again = speaker(&cluster, &node, &controller, &mounts, keys.path());
    wait_until_told(&again);
}

/// The Secret counts its changes from the beginning then, and what speakers are told must not stay that of
/// the one before.
#[test]
fn a_secret_that_is_deleted_after_a_change_is_made_anew_and_speakers_hear_of_it() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let controllers = [1, 2].map(|number| controller(&cluster, number, &["--ca-publish", "1s"]));
    let mounts = Mounts::new(&cluster, "n1");
    let first = bundle(&cluster).unwrap();
    let asked = json!({"metadata": {"annotations": {"routeshare.io/rotate": "now"}}});
    change(&cluster, &asked);
    let second = wait_for("another authority alone", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(count(&bundle) == 1 && bundle != first, "{bundle}");
        Ok(bundle)
    });
    delete(&cluster);
    wait_for("the authority of the new Secret", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(count(&bundle) == 1 && bundle != second, "{bundle}");
        Ok(())
    });
    mounts.refresh(&cluster).unwrap();
    let leader = leader(&controllers);
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let told = speaker(&cluster, &node, leader, &mounts, keys.path());
    wait_until_told(&told);
}

/// Nobody would take a certificate that another key has signed.
#[test]
fn a_secret_that_is_damaged_is_told_and_what_was_there_goes_on() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let controller = controller(&cluster, 1, &[]);
    let mounts = Mounts::new(&cluster, "n1");
    let seen = controller.log().len();
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let damage = json!({"stringData": {"ca.key": other}});
    change(&cluster, &damage);
    controller.wait_until_it_says("the key is not that of the certificate", seen);
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let told = speaker(&cluster, &node, &controller, &mounts, keys.path());
    wait_until_told(&told);
    // As the message says: another one is made.
    let damaged = bundle(&cluster).unwrap();
    delete(&cluster);
    wait_for("the authority of the new Secret", SOON, || {
        let bundle = bundle(&cluster)?;
        anyhow::ensure!(count(&bundle) == 1 && bundle != damaged, "{bundle}");
        Ok(())
    });
    controller.wait_until_it_says("the authority is kept up again", seen);
}

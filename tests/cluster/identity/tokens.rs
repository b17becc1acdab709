//! Tokens in time: one is replaced under a stream, one expires, hundreds come at once.

use std::time::{Duration, Instant};

use lab::{FalseClock, wait_for};

use super::{Client, Mounts, SOON, bundle, cluster, controller, forged, speaker, wait_until_told};

/// Speakers that come at once.
const SPEAKERS: usize = 300;

#[test]
fn a_token_that_kubelet_replaces_is_shown_by_a_new_stream_beside_the_old_one() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let controller = controller(&cluster, 1, &[]);
    let mounts = Mounts::new(&cluster, "n1");
    let keys = cluster.lab().directory().join("keys");
    let speaker = speaker(&cluster, &node, &controller, &mounts, &keys);
    wait_until_told(&speaker);
    let connections = || controller.log().matches("speaker connected").count();
    assert_eq!(connections(), 1);

    mounts.write("token", &cluster.speaker_token("n1").unwrap());
    wait_for("a stream with the new token", SOON, || {
        anyhow::ensure!(connections() == 2, "{} connections", connections());
        Ok(())
    });
    let status = speaker.json("show status").unwrap();
    assert_eq!(status["controllerConnected"], true, "{status}");
    let log = speaker.log();
    assert!(!log.contains("no configuration stream"), "{log}");
    // It is the new one that is listened to.
    let version = status["version"].as_u64();
    let fabric = super::FABRIC.replace("holdSeconds: 9", "holdSeconds: 12");
    cluster.apply(&fabric).unwrap();
    cluster.create_node("n2", &["10.99.1.2"], &[]).unwrap();
    let peer = "{apiVersion: routeshare.io/v1alpha1, kind: Peer, metadata: {name: n2}, \
                spec: {nodeSelector: {names: [n1]}, address: 10.99.1.2, remoteAsn: 65201}}";
    cluster.apply(peer).unwrap();
    wait_for("a newer configuration", SOON, || {
        let status = speaker.json("show status")?;
        anyhow::ensure!(status["version"].as_u64() > version, "{status}");
        Ok(())
    });
    assert_eq!(connections(), 2);
    // One that the controller refuses does not end what is there.
    mounts.write("token", "not.a.token");
    wait_for("the speaker to have tried it", SOON, || {
        let log = speaker.log();
        anyhow::ensure!(log.contains("the old one stays"), "{log}");
        Ok(())
    });
    let status = speaker.json("show status").unwrap();
    assert_eq!(status["controllerConnected"], true, "{status}");
}

#[test]
fn a_token_that_has_expired_is_refused_until_there_is_another() {
    let cluster = cluster();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let controller = controller(&cluster, 1, &[]);
    let mounts = Mounts::new(&cluster, "n1");
    let token = cluster.speaker_token("n1").unwrap();
    let expired = forged(&token, |claims| claims["exp"] = 1_700_000_000.into());
    mounts.write("token", &expired);
    let keys = cluster.lab().directory().join("keys");
    let speaker = speaker(&cluster, &node, &controller, &mounts, &keys);
    wait_for("the token to be refused", SOON, || {
        let status = speaker.bgpctl("show status")?;
        anyhow::ensure!(status.contains("the token has expired"), "{status}");
        Ok(())
    });
    mounts.write("token", &cluster.speaker_token("n1").unwrap());
    wait_until_told(&speaker);
}

/// A host whose clock is set to the local time as if it were UTC, say.
#[test]
fn a_controller_whose_clock_is_hours_off_lets_its_speakers_in() {
    for distance in ["+3h", "-3h"] {
        let cluster = cluster();
        let node = cluster.node("n1", 1, &[]).unwrap();
        let clock = FalseClock::new(cluster.lab().directory()).unwrap();
        clock.set(distance).unwrap();
        let environment = clock.environment();
        let environment = environment
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let replica = lab::cluster::Replica {
            pod: "controller-1",
            number: 1,
            environment: &environment,
            ..lab::cluster::Replica::default()
        };
        let controller = cluster.controller(&replica).unwrap();
        let mounts = Mounts::new(&cluster, "n1");
        let keys = cluster.lab().directory().join("keys");
        let speaker = speaker(&cluster, &node, &controller, &mounts, &keys);
        wait_until_told(&speaker);
    }
}

#[test]
fn hundreds_of_speakers_that_come_at_once_are_all_let_in() {
    let cluster = cluster();
    let controller = controller(&cluster, 1, &[]);
    let bundle = wait_for("the bundle", SOON, || bundle(&cluster));
    let tokens: Vec<(String, String)> = (0..SPEAKERS)
        .map(|number| {
            let name = format!("n{number}");
            let address = format!("10.98.{}.{}", number / 250, number % 250 + 1);
            cluster.create_node(&name, &[&address], &[]).unwrap();
            let token = cluster.speaker_token(&name).unwrap();
            (name, token)
        })
        .collect();
    let client = Client {
        cluster: &cluster,
        controller: &controller,
        bundle,
        token: None,
    };
    wait_for("the controller to lead", SOON, || {
        controller.bgpctl("show nodes")
    });
    let begun = Instant::now();
    let took = client.watch_all(&tokens).unwrap();
    println!(
        "{SPEAKERS} connections with TLS and a token each: the last stream is open after {:?}",
        begun.elapsed()
    );
    assert_eq!(took, SPEAKERS);
    assert!(begun.elapsed() < Duration::from_secs(120));
    let log = controller.log();
    assert!(!log.contains("could not be reviewed"), "{log}");
}

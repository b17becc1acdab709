//! Keys of peers out of Secrets, with routers that others have written: TCP MD5 with FRR, and BFD's
//! Meticulous Keyed SHA-1 with BIRD.

use std::fs;

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Daemon, program, wait_for};

use super::keys::{secret, wait_for_error};
use super::rights::installed_controller;
use super::{Mounts, SOON, cluster, speaker, wait_until_told};

const PEERS: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: frr}
spec:
  address: 10.99.1.8
  remoteAsn: 65108
  password: {secret: {name: bgp-keys, key: frr}}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: bird}
spec:
  address: 10.99.1.9
  remoteAsn: 65109
  bfd:
    minTxMillis: 100
    minRxMillis: 100
    authentication: {kind: MeticulousKeyedSha1, keyId: 7, keySecret: {name: bgp-keys, key: bfd}}
";

const KIND: &str = "routeshare.io/key";

fn frr_config(key: &str) -> String {
    format!(
        "router bgp 65108\n bgp router-id 10.99.1.8\n no bgp ebgp-requires-policy\n timers bgp 3 9\n \
         neighbor 10.99.1.1 remote-as 65201\n neighbor 10.99.1.1 password {key}\n \
         neighbor 10.99.1.1 timers connect 1\n"
    )
}

fn bird_config(key: &str) -> String {
    format!(
        "router id 10.99.1.9;\nprotocol device {{}}\n\
         protocol bfd {{ interface \"*\" {{ interval 100 ms; multiplier 3;\n\
         authentication meticulous keyed sha1; password \"{key}\" {{ id 7; }}; }}; }}\n\
         protocol bgp node {{ local 10.99.1.9 as 65109; neighbor 10.99.1.1 as 65201; hold time 9;\n\
         bfd on; connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
         ipv4 {{ import all; export none; }}; }}\n"
    )
}

#[track_caller]
fn wait_for_bfd(speaker: &Speaker<'_>, state: &str) {
    wait_for(&format!("BFD with BIRD to be {state}"), SOON, || {
        let peer = speaker.peer("bird")?;
        anyhow::ensure!(peer["bfd"]["state"] == state, "{}", peer["bfd"]);
        Ok(())
    });
}

#[test]
fn keys_out_of_secrets_are_those_of_frrs_tcp_md5_and_of_birds_bfd() {
    let [md5, bfd_key] =
        ["what FRR signs with", "what BFD signs with"].map(|it| it.replace(' ', "-"));
    let cluster = cluster();
    cluster.apply(PEERS).unwrap();
    let node = cluster.node("n1", 1, &[]).unwrap();
    let [frr_machine, bird_machine] =
        [("frr", 8), ("bird", 9)].map(|(name, number)| cluster.machine(name, number).unwrap());
    let directory = cluster.lab().directory().join("routers");
    fs::create_dir_all(&directory).unwrap();
    let frr = Frr::start(&frr_machine.machine, &directory, "frr", &frr_config(&md5)).unwrap();
    let bird = Bird::start(
        &bird_machine.machine,
        &directory,
        "bird",
        &bird_config(&bfd_key),
    )
    .unwrap();
    let controller = installed_controller(&cluster, 1, &[]);
    let mounts = Mounts::new(&cluster, "n1");
    let keys = tempfile::tempdir_in("/dev/shm").unwrap();
    let speaker = speaker(&cluster, &node, &controller, &mounts, keys.path());
    wait_until_told(&speaker);
    let files = cluster.lab().directory().join("n1");
    let mut bfd = node.machine.command(program("routeshare-bfd").unwrap());
    bfd.arg("--socket").arg(files.join("bfd.sock"));
    let _bfd: Daemon = (node.machine)
        .start("routeshare-bfd", bfd, &files.join("bfd.log"))
        .unwrap();

    // Nothing without keys, and nothing with wrong ones.
    wait_for_error(&speaker, "frr", "there is no Secret bgp-keys");
    wait_for("BFD to say what it lacks", SOON, || {
        let peer = speaker.peer("bird")?.to_string();
        let status = speaker.bgpctl("show status -o json")?;
        anyhow::ensure!(
            status.contains("there is no Secret bgp-keys"),
            "{status}\n{peer}"
        );
        Ok(())
    });
    secret(&cluster, KIND, &[("frr", "another"), ("bfd", "another")]);
    wait_for("both keys to be there", SOON, || {
        let log = speaker.bgpctl("show status -o json")?;
        anyhow::ensure!(!log.contains("NoKey"), "{log}");
        Ok(())
    });
    let seen = speaker.peer("frr").unwrap();
    assert_ne!(seen["state"], "Established", "{seen}");
    let sessions = bird.ask("show bfd sessions").unwrap();
    assert!(!sessions.contains(" Up "), "{sessions}");

    secret(&cluster, KIND, &[("frr", &md5), ("bfd", &bfd_key)]);
    speaker.wait_for_state("frr", "Established");
    speaker.wait_for_state("bird", "Established");
    wait_for_bfd(&speaker, "Up");
    wait_for("both routers to say so", SOON, || {
        let sessions = bird.ask("show bfd sessions")?;
        anyhow::ensure!(sessions.contains(" Up "), "{sessions}");
        let summary = frr.ask("show bgp summary json")?;
        anyhow::ensure!(summary.contains("\"state\":\"Established\""), "{summary}");
        Ok(())
    });
    // And not because nobody looks: a router with another key does not come up again.
    bird.configure(&bird_config("no-longer-this-one")).unwrap();
    wait_for("BFD with another key to fail", SOON, || {
        let peer = speaker.peer("bird")?;
        anyhow::ensure!(peer["bfd"]["state"] != "Up", "{}", peer["bfd"]);
        Ok(())
    });
}

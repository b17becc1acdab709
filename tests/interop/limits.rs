//! A neighbour that sends more prefixes than it may.

use lab::{Lab, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{SOON, number};
use crate::tor::{BirdTor, Sessions, Tor};

#[test]
fn bird_is_told_its_limit_kept_away_and_let_in_again() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let sessions = Sessions::new(65101, NODE, 65201);
    let mut bird = BirdTor::start(&tor, lab.directory(), &sessions).unwrap();
    let mut host = host();
    host.peers[0].more = "maxPrefixes: {ipv4: 4, restartSeconds: 3}";
    let speaker = host.start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    let received = |n: u64| {
        wait_for(&format!("{n} prefixes of BIRD"), SOON, || {
            let peer = speaker.peer("tor")?;
            let received = number(&peer["families"][0], "received");
            anyhow::ensure!(received == n, "{received}");
            Ok(())
        });
    };
    let problem = |reason: &str| {
        wait_for(reason, SOON, || {
            let status = speaker.bgpctl("show status -o json")?;
            anyhow::ensure!(status.contains(reason), "{status}");
            Ok(())
        });
    };
    for n in 1..=3 {
        bird.announce(&format!("10.77.{n}.0/24")).unwrap();
    }
    received(3);
    problem("PrefixLimitNear");
    bird.announce("10.77.4.0/24").unwrap();
    received(4);

    bird.announce("10.77.5.0/24").unwrap();
    wait_for("the session to be dropped", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["overLimit"] == true, "{peer}");
        anyhow::ensure!(peer["state"] == "Idle", "{peer}");
        Ok(())
    });
    problem("PrefixLimitExceeded");
    wait_for("BIRD to know why", SOON, || {
        let words = bird.last_words(NODE)?;
        let known = words.contains("Maximum number of prefixes reached");
        anyhow::ensure!(known, "{words}");
        Ok(())
    });
    bird.withdraw("10.77.5.0/24").unwrap();
    speaker.wait_for_state("tor", "Established");
    received(4);
}

//! Long-lived graceful restart (RFC 9494) with BIRD, FRR and GoBGP, both ways: they keep the routes of
//! a speaker that is away for longer than its restart time, and it keeps theirs.

use std::time::Duration;

use lab::bird::Bird;
use lab::frr::Frr;
use lab::gobgp::Gobgp;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use crate::host::{Host, Peer, SOON, kernel_route, number};

const NEAR: &str = "10.64.1.0/24";
/// What each of the others announces: BIRD, FRR, GoBGP.
const FAR: [&str; 3] = ["10.77.1.0/24", "10.77.2.0/24", "10.77.3.0/24"];
const NAMES: [&str; 3] = ["bird", "frr", "gobgp"];

const BIRD: &str = "
router id 10.1.1.1;
protocol device {}
protocol static { ipv4; route 10.77.1.0/24 blackhole; }
protocol bgp node {
  local as 65101; neighbor 10.1.1.11 as 65201;
  hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;
  graceful restart on; graceful restart time 3;
  long lived graceful restart on; long lived stale time 100;
  ipv4 { import all; export where source = RTS_STATIC; };
}
";

const FRR: &str = "
router bgp 65102
 bgp router-id 10.1.2.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart restart-time 3
 bgp graceful-restart preserve-fw-state
 bgp long-lived-graceful-restart stale-time 100
 timers bgp 3 9
 neighbor 10.1.2.11 remote-as 65201
 neighbor 10.1.2.11 timers connect 1
 neighbor 10.1.2.11 advertisement-interval 0
 address-family ipv4 unicast
  network 10.77.2.0/24
 exit-address-family
";

const GOBGP: &str = r#"
[global.config]
  as = 65103
  router-id = "10.1.3.1"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "10.1.3.11"
    peer-as = 65201
  [neighbors.timers.config]
    hold-time = 9
    keepalive-interval = 3
    connect-retry = 1
    idle-hold-time-after-reset = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 3
    long-lived-enabled = true
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv4-unicast"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
    [neighbors.afi-safis.long-lived-graceful-restart.config]
      enabled = true
      restart-time = 100
"#;

/// Our side: a session with each.
fn host() -> Host {
    let more = "families: [IPv4]";
    Host {
        addresses: vec!["10.1.1.11"],
        subnets: vec![NEAR],
        peers: vec![
            Peer::new("bird", "10.1.1.1", 65101).with(more),
            Peer::new("frr", "10.1.2.1", 65102).with(more),
            Peer::new("gobgp", "10.1.3.1", 65103).with(more),
        ],
        fabric: "  gracefulRestart: {restartSeconds: 3, longLived: {staleSeconds: 100}}\n".into(),
        ..Host::new("n1", 65201)
    }
}

/// What each of the others says of our route; empty where it has none.
fn their_words(bird: &Bird, frr: &Frr, gobgp: &Gobgp) -> [String; 3] {
    let said = |answer: anyhow::Result<String>| answer.unwrap_or_default();
    [
        said(bird.ask(&format!("show route {NEAR} all"))),
        said(frr.ask(&format!("show bgp ipv4 unicast {NEAR}"))),
        said(gobgp.ask(&format!("global rib {NEAR}"))),
    ]
}

/// As each of them writes the community.
const MARKS: [&str; 3] = ["(65535,6)", "retained for a longer time", "llgr-stale"];

/// Every session is up, and nothing is stale.
fn wait_until_all_is_well(speaker: &Speaker<'_>) {
    for (name, far) in NAMES.iter().zip(FAR) {
        wait_for(&format!("{name} to be back"), SOON, || {
            let peer = speaker.peer(name)?;
            let family = &peer["families"][0];
            let well = peer["state"] == "Established" && number(family, "stale") == 0;
            let both = family["endOfRibReceived"] == true && family["endOfRibSent"] == true;
            anyhow::ensure!(well && both, "{peer}");
            let routes = speaker.routes(far)?;
            anyhow::ensure!(routes.len() == 1, "{routes:?}");
            Ok(())
        });
    }
}

fn cabled(lab: &Lab) -> (Namespace, [Namespace; 3]) {
    let node = lab.machine("node").unwrap();
    let others = NAMES.map(|name| lab.machine(name).unwrap());
    for (index, other) in others.iter().enumerate() {
        let k = index + 1;
        let [here, there] = [11, 1].map(|last| format!("10.1.{k}.{last}/24"));
        node.cable(&format!("eth{k}"), &[&here], other, "eth0", &[&there])
            .unwrap();
    }
    (node, others)
}

#[test]
fn routes_outlive_the_restart_time_on_both_sides_as_the_last_choice() {
    let lab = Lab::new().unwrap();
    let (node, [one, two, three]) = cabled(&lab);
    let mut bird = Bird::start(&one, lab.directory(), "bird", BIRD).unwrap();
    let mut frr = Frr::start(&two, lab.directory(), "frr", FRR).unwrap();
    let mut gobgp = Gobgp::start(&three, lab.directory(), "gobgp", GOBGP).unwrap();
    gobgp.ask(&format!("global rib add {}", FAR[2])).unwrap();
    let mut speaker = host().start(&lab, &node);
    wait_until_all_is_well(&speaker);
    for name in NAMES {
        let peer = speaker.peer(name).unwrap();
        let long_lived = &peer["gracefulRestart"]["longLived"];
        assert_eq!(number(long_lived, "peerSeconds"), 100, "{name}: {peer}");
    }
    for (name, said) in NAMES.iter().zip(their_words(&bird, &frr, &gobgp)) {
        assert!(said.contains("10.64.1.0/24"), "{name}: {said}");
    }

    // We are away for longer than our three seconds.
    speaker.kill().unwrap();
    let twice = Duration::from_secs(60);
    wait_for(
        "all of them to call our route long-lived stale",
        twice,
        || {
            let words = their_words(&bird, &frr, &gobgp);
            let marked = words
                .iter()
                .zip(MARKS)
                .all(|(said, mark)| said.contains(mark));
            anyhow::ensure!(marked, "{words:#?}");
            Ok(())
        },
    );
    speaker.start_again().unwrap();
    wait_until_all_is_well(&speaker);
    wait_for("none of them to call it so any more", SOON, || {
        let words = their_words(&bird, &frr, &gobgp);
        let mut each = words.iter().zip(MARKS);
        let fresh = each.all(|(said, mark)| said.contains("10.64.1.0/24") && !said.contains(mark));
        anyhow::ensure!(fresh, "{words:#?}");
        Ok(())
    });

    // They are.
    bird.kill().unwrap();
    frr.kill_bgpd().unwrap();
    gobgp.kill().unwrap();
    for (name, far) in NAMES.iter().zip(FAR) {
        wait_for(
            &format!("{name}'s route to be long-lived stale"),
            SOON,
            || {
                let peer = speaker.peer(name)?;
                anyhow::ensure!(number(&peer["families"][0], "longLivedStale") > 0, "{peer}");
                let routes = speaker.routes(far)?;
                let marked = routes[0]["communities"].to_string().contains("llgr-stale");
                anyhow::ensure!(routes[0]["longLivedStale"] == true && marked, "{routes:?}");
                let kernel = kernel_route(&node, far)?;
                anyhow::ensure!(kernel.contains("proto 149"), "{kernel}");
                Ok(())
            },
        );
    }
    let shown = speaker.bgpctl("show peers bird").unwrap();
    assert!(
        shown.contains("long-lived stale routes kept for 1m"),
        "{shown}"
    );
    let shown = speaker.bgpctl(&format!("show routes {}", FAR[0])).unwrap();
    assert!(shown.contains("best, long-lived stale for 1m"), "{shown}");
    let explained = speaker.bgpctl(&format!("explain {}", FAR[0])).unwrap();
    assert!(explained.contains("long-lived stale"), "{explained}");

    bird.start_again().unwrap();
    frr.start_bgpd_again().unwrap();
    gobgp.start_again().unwrap();
    gobgp.ask(&format!("global rib add {}", FAR[2])).unwrap();
    wait_until_all_is_well(&speaker);
}

//! BFD beside BGP: the speaker asks for it, FRR and BIRD answer it.

use std::time::{Duration, Instant};

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};

use super::client::Bfd;
use super::{SOON, cut, mend, pair};
use crate::host::{Host, Peer};

pub(super) const FRR_BGP: &str = "router bgp 65101\n bgp router-id 10.0.0.2\n no bgp ebgp-requires-policy\n \
    no bgp network import-check\n neighbor 10.0.0.1 remote-as 65201\n \
    neighbor 10.0.0.1 bfd\n neighbor 10.0.0.1 bfd profile fast\n \
    address-family ipv4 unicast\n  network 10.77.0.0/24\n exit-address-family\n";
const FRR_BFD: &str =
    "bfd\n profile fast\n  receive-interval 100\n  transmit-interval 100\n exit\nexit\n";

const FAST: &str =
    "timers: {holdSeconds: 90}\nfamilies: [IPv4]\nbfd: {minTxMillis: 100, minRxMillis: 100}";

pub(super) const BIRD_BGP: &str = "router id 10.0.0.2;\nprotocol device {}\n\
    protocol bfd { interface \"eth0\" { interval 100 ms; multiplier 3; }; }\n\
    protocol static { ipv4; route 10.77.0.0/24 blackhole; }\n\
    protocol bgp node {\n  local 10.0.0.2 as 65101;\n  neighbor 10.0.0.1 as 65201;\n  bfd on; error wait time 1, 2;\n  \
    ipv4 { import all; export all; };\n}\n";

fn host(bfd: &'static str) -> Host {
    let mut peer = Peer::new("tor", "10.0.0.2", 65101);
    peer.more = bfd;
    let mut host = Host::new("node", 65201);
    host.addresses = vec!["10.0.0.1"];
    host.subnets = vec!["10.64.1.0/24"];
    host.peers = vec![peer];
    host
}

/// A speaker with BFD towards 10.0.0.2, as `bfd` says: lines of a Peer's `spec`.
pub(super) fn start<'a>(
    lab: &Lab,
    machine: &'a Namespace,
    bfd: &'static str,
) -> (Speaker<'a>, Bfd) {
    let speaker = host(bfd).start(lab, machine);
    let bfd = Bfd::beside(machine, lab.directory(), "node");
    (speaker, bfd)
}

#[track_caller]
pub(super) fn wait_for_bfd(speaker: &Speaker<'_>, state: &str) {
    wait_for(&format!("BFD to be {state}"), SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["bfd"]["state"] == state, "{}", peer["bfd"]);
        Ok(())
    });
}

/// Cuts the cable silently; the BGP session has to be down in less than a second.
#[track_caller]
fn falls_in_a_second(left: &Namespace, right: &Namespace, speaker: &Speaker<'_>) -> Duration {
    wait_for("100 ms × 3 to be agreed on", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["bfd"]["detectionMicros"] == 300_000, "{}", peer["bfd"]);
        Ok(())
    });
    let start = Instant::now();
    cut(left);
    cut(right);
    wait_for("the BGP session to be down", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(peer["state"] != "Established", "still there");
        Ok(())
    });
    let took = start.elapsed();
    let error = speaker.peer("tor").unwrap()["lastError"].to_string();
    assert!(error.contains("BFD"), "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    took
}

#[test]
fn a_silent_cut_ends_the_bgp_session_with_frr_in_less_than_a_second() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let frr = Frr::start_with_bfd(&right, lab.directory(), "frr", FRR_BGP, FRR_BFD).unwrap();
    let (mut speaker, bfd) = start(&lab, &left, FAST);
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
    speaker.wait_for_route("10.77.0.0/24");
    let took = falls_in_a_second(&left, &right, &speaker);
    println!("BGP with FRR was down {took:?} after a silent cut");
    mend(&left);
    mend(&right);
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");

    // The speaker restarts: BFD stays up on both sides.
    let ups = bfd.session("10.0.0.2").ups;
    let downs = frr.ask("show bfd peers counters json").unwrap();
    speaker.kill().unwrap();
    speaker.start_again().unwrap();
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
    assert_eq!(bfd.session("10.0.0.2").ups, ups);
    let field = |text: &str| {
        let (_, rest) = text.split_once("\"session-down\":").unwrap();
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    let now = frr.ask("show bfd peers counters json").unwrap();
    assert_eq!(field(&now), field(&downs));
}

#[test]
fn a_silent_cut_ends_the_bgp_session_with_bird_in_less_than_a_second() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let _bird = Bird::start(&right, lab.directory(), "bird", BIRD_BGP).unwrap();
    let (speaker, _bfd) = start(&lab, &left, FAST);
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
    wait_for("what is agreed on to be shown", SOON, || {
        let text = speaker.bgpctl("show peers tor")?;
        anyhow::ensure!(text.contains("down after 300 ms of silence"), "{text}");
        Ok(())
    });
    let table = speaker.bgpctl("show bfd").unwrap();
    assert!(
        table.contains("DOWN AFTER") && table.contains("300 ms"),
        "{table}"
    );
    let wide = speaker.bgpctl("show bfd tor -o wide").unwrap();
    assert!(
        wide.contains("clear"),
        "BIRD 2.0 does not set the C bit: {wide}"
    );
    let took = falls_in_a_second(&left, &right, &speaker);
    println!("BGP with BIRD was down {took:?} after a silent cut");
    mend(&left);
    mend(&right);
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
}

#[test]
fn a_speaker_that_leaves_takes_its_bfd_sessions_away_and_one_that_comes_back_does_not() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let _bird = Bird::start(&right, lab.directory(), "bird", BIRD_BGP).unwrap();
    let (mut speaker, bfd) = start(&lab, &left, FAST);
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
    speaker.stop().unwrap();
    assert_eq!(bfd.session("10.0.0.2").state, "Up");
    speaker.start_again_with(&["--on-stop", "leaving"]).unwrap();
    speaker.wait_for_state("tor", "Established");
    wait_for_bfd(&speaker, "Up");
    assert_eq!(bfd.session("10.0.0.2").ups, 1);
    speaker.stop().unwrap();
    assert_eq!(bfd.list(), []);
}

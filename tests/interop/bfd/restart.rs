//! `routeshare-bfd` is killed, stopped and started, and replaced by another process: the other side
//! notices nothing.

use lab::bird::Bird;
use lab::frr::Frr;
use lab::{Lab, wait_for};

use super::client::{self, Bfd, wanted};
use super::with_bgp::{BIRD_BGP, FRR_BGP, start, wait_for_bfd};
use super::{SOON, cut, pair};

/// Packets that the other side may miss: the usual 3 are enough for a restart, but not for this machine
/// when everything is tested on it at once.
const PATIENCE: u32 = 10;

const PATIENT: &str = "timers: {holdSeconds: 90}\nfamilies: [IPv4]\nbfd: {multiplier: 10}";

/// How a process makes room for the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Killed,
    Stopped,
    Replaced,
}

pub(crate) const ENDS: [End; 4] = [End::Killed, End::Stopped, End::Replaced, End::Killed];

impl End {
    /// Ends this process and starts the next one, which answers when this returns.
    pub(crate) fn carry_out(self, mut bfd: Bfd, start: impl FnOnce() -> Bfd) -> Bfd {
        match self {
            End::Killed => bfd.kill(),
            End::Stopped => bfd.stop(),
            End::Replaced => {
                bfd.replace();
                return bfd;
            }
        }
        drop(bfd);
        start()
    }
}

#[test]
fn another_process_goes_on_with_the_sessions_and_the_other_side_misses_nothing() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let start = || Bfd::start(&left, lab.directory(), "left");
    let mut a = start();
    let mut b = Bfd::start(&right, lab.directory(), "right");
    let file = lab.directory().join("key");
    std::fs::write(&file, "a common secret").unwrap();
    let patient = |remote| client::with(wanted(remote, 300), |it| it.multiplier = PATIENCE);
    let meticulous = |remote, local: &str| {
        let session = client::with(patient(remote), |it| it.local = local.into());
        client::signed(session, "MeticulousKeyedSha1", &file)
    };
    a.want(vec![patient("10.0.0.2"), meticulous("fd00::2", "fd00::1")]);
    b.want(vec![patient("10.0.0.1"), meticulous("fd00::1", "fd00::2")]);
    for remote in ["10.0.0.1", "fd00::1"] {
        b.wait_for(remote, "Up");
    }
    wait_for("300 ms to be agreed on by both", SOON, || {
        let all = [a.list(), b.list()].concat();
        let agreed = all.iter().all(|it| it.detection_micros == 3_000_000);
        anyhow::ensure!(agreed, "{all:?}");
        Ok(())
    });
    let essence = |bfd: &Bfd| -> Vec<_> {
        let sessions = bfd.list().into_iter();
        let essence = |it: client::pb::Session| (it.discriminator, it.state, it.ups, it.downs);
        sessions.map(essence).collect()
    };
    let before = (essence(&a), essence(&b));
    for end in ENDS {
        a = end.carry_out(a, start);
        // Nobody has subscribed to the new process yet.
        assert_eq!(essence(&a), before.0, "{end:?}");
        let silent = a.silent_millis().expect("it goes on with what was left");
        println!("{end:?}: nothing was sent for {silent} ms, up to 300 of which were pace");
        let sent = b.list().iter().map(|it| it.received).collect::<Vec<_>>();
        wait_for("ten more packets of each session to arrive", SOON, || {
            let now = b.list().iter().map(|it| it.received).collect::<Vec<_>>();
            let more = sent.iter().zip(&now).all(|(was, is)| was + 10 <= *is);
            anyhow::ensure!(more, "{now:?}");
            Ok(())
        });
        assert_eq!((essence(&a), essence(&b)), before, "{end:?}");
    }
}

#[test]
fn in_a_rolling_update_the_next_process_waits_for_its_turn_and_the_other_side_misses_nothing() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    let patient = |remote| client::with(wanted(remote, 300), |it| it.multiplier = PATIENCE);
    a.want(vec![patient("10.0.0.2")]);
    b.want(vec![patient("10.0.0.1")]);
    a.wait_for("10.0.0.2", "Up");
    let before = b.wait_for("10.0.0.1", "Up");
    for (killed, log) in [(false, "second.log"), (true, "third.log")] {
        let next = Bfd::start_as_next(&left, lab.directory(), "left", log);
        match killed {
            false => a.stop(),
            true => a.kill(),
        }
        a = next;
        a.answers();
        a.answer(); // it has begun, and logged what with
        let silent = a.silent_millis().expect("it goes on with what was left");
        println!(
            "killed: {killed}; nothing was sent for {silent} ms, up to 300 of which were pace"
        );
        let received = b.session("10.0.0.1").received;
        wait_for("ten more packets to arrive", SOON, || {
            let now = b.session("10.0.0.1").received;
            anyhow::ensure!(now >= received + 10, "{now} after {received}");
            Ok(())
        });
        assert_eq!(a.session("10.0.0.2").state, "Up");
        let after = b.session("10.0.0.1");
        assert_eq!(
            (after.state, after.downs),
            (before.state.clone(), before.downs)
        );
    }
}

#[test]
fn a_path_that_dies_while_nobody_watches_or_listens_is_told_to_the_next_subscriber() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    a.want(vec![wanted("10.0.0.2", 300)]);
    b.want(vec![wanted("10.0.0.1", 300)]);
    a.wait_for("10.0.0.2", "Up");
    b.wait_for("10.0.0.1", "Up");
    a.kill();
    cut(&left);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    a.wait_for("10.0.0.2", "Down");
    a.want(vec![wanted("10.0.0.2", 300)]);
    assert!(a.told("10.0.0.2").failed);
}

#[test]
fn bgp_with_frr_and_bird_stays_while_routeshare_bfd_is_killed_stopped_and_replaced() {
    for bird in [false, true] {
        let lab = Lab::new().unwrap();
        let (left, right) = pair(&lab);
        let directory = lab.directory();
        let (mut frr_runs, mut bird_runs) = (None, None);
        match bird {
            false => {
                let bfd = "bfd\n profile fast\n  receive-interval 300\n  \
                           transmit-interval 300\n exit\nexit\n";
                let frr = Frr::start_with_bfd(&right, directory, "frr", FRR_BGP, bfd);
                frr_runs = Some(frr.unwrap());
            }
            true => {
                let config = BIRD_BGP.replace("100 ms", "300 ms");
                bird_runs = Some(Bird::start(&right, directory, "bird", &config).unwrap());
            }
        }
        let (speaker, mut bfd) = start(&lab, &left, PATIENT);
        speaker.wait_for_state("tor", "Established");
        wait_for_bfd(&speaker, "Up");
        speaker.wait_for_route("10.77.0.0/24");
        wait_for("300 ms × 3 to be agreed on", SOON, || {
            let it = bfd.session("10.0.0.2");
            anyhow::ensure!(it.detection_micros == 900_000, "{it:?}");
            Ok(())
        });
        // What changes with every fall, as the other side tells it.
        let falls = || match (&frr_runs, &bird_runs) {
            (Some(frr), _) => {
                let counters = frr.ask("show bfd peers counters json").unwrap();
                let (_, rest) = counters.split_once("\"session-down\":").unwrap();
                rest.split([',', '}']).next().unwrap().to_owned()
            }
            (_, Some(bird)) => {
                let sessions = bird.ask("show bfd sessions").unwrap();
                let line = sessions.lines().find(|it| it.contains("10.0.0.1"));
                let words: Vec<&str> = line.unwrap().split_whitespace().collect();
                // Address, interface, state, since.
                words[2..4].join(" ")
            }
            _ => unreachable!("one of the two runs"),
        };
        let before = (falls(), bfd.session("10.0.0.2").ups);
        let since = speaker.peer("tor").unwrap()["since"].clone();
        for end in ENDS {
            bfd = end.carry_out(bfd, || Bfd::beside(&left, directory, "node"));
            wait_for_bfd(&speaker, "Up");
            let received = bfd.session("10.0.0.2").received;
            wait_for("ten more packets to arrive", SOON, || {
                let it = bfd.session("10.0.0.2");
                anyhow::ensure!(it.received >= received + 10, "{it:?}");
                Ok(())
            });
            assert_eq!((falls(), bfd.session("10.0.0.2").ups), before, "{end:?}");
            let peer = speaker.peer("tor").unwrap();
            assert_eq!(peer["state"], "Established", "{end:?}: {peer}");
            assert_eq!(peer["since"], since, "{end:?}: {peer}");
        }
        // Gone for good: the speaker takes that for no failure, and reports it.
        bfd.leave_for_good();
        wait_for("the speaker to report it", SOON, || {
            let status = speaker.bgpctl("show status")?;
            anyhow::ensure!(status.contains("hold timers"), "{status}");
            Ok(())
        });
        let error = speaker.peer("tor").unwrap()["lastError"].to_string();
        assert!(!error.contains("sent Cease, BFD Down"), "{error}");
        // FRR 8.4 and BIRD 2.0 take AdminDown for a failure and end BGP; all of it comes back.
        let _bfd = Bfd::beside(&left, directory, "node");
        wait_for_bfd(&speaker, "Up");
        speaker.wait_for_state("tor", "Established");
    }
}

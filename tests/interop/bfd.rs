//! `routeshare-bfd` against itself, FRR's bfdd and BIRD, over real sockets.

pub(crate) mod client;
mod echo;
pub(crate) mod restart;
mod with_bgp;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab::bird::Bird;
use lab::frr::Frr;
use lab::{Lab, Namespace, wait_for};

use client::{Bfd, wanted};

const SOON: Duration = Duration::from_secs(15);

/// Two machines with a cable, 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2.
fn pair(lab: &Lab) -> (Namespace, Namespace) {
    let (left, right) = (lab.machine("left").unwrap(), lab.machine("right").unwrap());
    left.cable(
        "eth0",
        &["10.0.0.1/16", "fd00::1/64"],
        &right,
        "eth0",
        &["10.0.0.2/16", "fd00::2/64"],
    )
    .unwrap();
    (left, right)
}

/// From now on nothing arrives at this machine, and nobody is told.
fn cut(machine: &Namespace) {
    machine.run("nft add table inet cut").unwrap();
    machine
        .run("nft add chain inet cut everything { type filter hook input priority -300 ; policy drop ; }")
        .unwrap();
}

fn mend(machine: &Namespace) {
    machine.run("nft delete table inet cut").unwrap();
}

#[test]
fn two_of_ours_come_up_and_notice_a_silent_cut_in_less_than_a_second() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    let six = |it| client::with(it, |it| it.multihop = true);
    a.want(vec![wanted("10.0.0.2", 300), six(wanted("fd00::2", 300))]);
    b.want(vec![wanted("10.0.0.1", 300), six(wanted("fd00::1", 300))]);
    for remote in ["10.0.0.2", "fd00::2"] {
        let up = a.wait_for(remote, "Up");
        assert!(up.remote_control_plane_independent);
    }
    for remote in ["10.0.0.1", "fd00::1"] {
        b.wait_for(remote, "Up");
    }
    wait_for("300 ms to be agreed on", SOON, || {
        let all = a.list();
        anyhow::ensure!(
            all.iter().all(|it| it.detection_micros == 900_000),
            "{all:?}"
        );
        Ok(())
    });
    cut(&left);
    let start = Instant::now();
    let down = a.wait_for_change("Down");
    let took = start.elapsed();
    println!("a silent cut was noticed after {took:?}");
    assert!(down.failed, "{down:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    b.wait_for("10.0.0.1", "Down");
    mend(&left);
    a.wait_for("10.0.0.2", "Up");
}

#[test]
fn sessions_outlive_their_subscriber_and_end_with_the_grace_time() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start_with(&left, lab.directory(), "left", &["--grace-seconds", "4"]);
    let mut b = Bfd::start(&right, lab.directory(), "right");
    a.want(vec![wanted("10.0.0.2", 50)]);
    b.want(vec![wanted("10.0.0.1", 50)]);
    a.wait_for("10.0.0.2", "Up");
    b.wait_for("10.0.0.1", "Up");
    a.leave();
    // Back within the grace time: nobody has noticed.
    wait_for("the subscriber to be gone", SOON, || {
        anyhow::ensure!(!a.answer().subscribed, "still there");
        Ok(())
    });
    a.want(vec![wanted("10.0.0.2", 50)]);
    assert_eq!(
        (a.session("10.0.0.2").ups, b.session("10.0.0.1").ups),
        (1, 1)
    );
    assert_eq!(b.session("10.0.0.1").state, "Up");
    // Gone for good: the other side is told, and that is no failure.
    a.leave();
    let down = b.wait_for_change("Down");
    assert_eq!(
        (down.remote_state.as_str(), down.failed),
        ("AdminDown", false)
    );
}

#[test]
fn leaving_for_good_is_no_failure_to_the_other_side_and_not_coming_back_is_one() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut b = Bfd::start(&right, lab.directory(), "right");
    b.want(vec![wanted("10.0.0.1", 100)]);
    for failed in [false, true] {
        let mut a = Bfd::start(&left, lab.directory(), "left");
        a.want(vec![wanted("10.0.0.2", 100)]);
        b.wait_for_change("Up");
        match failed {
            false => a.leave_for_good(),
            true => a.stop(),
        }
        assert_eq!(b.wait_for_change("Down").failed, failed);
    }
}

#[test]
fn both_kinds_of_sha1_work_between_processes_and_a_missing_key_is_named() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    let file = lab.directory().join("key");
    for kind in ["KeyedSha1", "MeticulousKeyedSha1"] {
        let signed = |remote| client::signed(wanted(remote, 50), kind, &file);
        std::fs::remove_file(&file).ok();
        a.want(vec![signed("10.0.0.2")]);
        let problem = a.session("10.0.0.2").problem;
        assert!(problem.contains("cannot read the key"), "{problem}");
        std::fs::write(&file, "a common secret\n").unwrap();
        a.want(vec![signed("10.0.0.2")]);
        b.want(vec![signed("10.0.0.1")]);
        a.wait_for("10.0.0.2", "Up");
        b.wait_for("10.0.0.1", "Up");
        a.want(Vec::new());
        b.want(Vec::new());
    }
}

#[test]
fn frrs_bfdd_comes_up_and_both_notice_a_silent_cut() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let frr = Frr::start_with_bfd(
        &right,
        lab.directory(),
        "frr",
        "router bgp 65002\n",
        "bfd\n peer 10.0.0.1 interface eth0\n  detect-multiplier 3\n  receive-interval 100\n  \
         transmit-interval 100\n  no shutdown\n !\n peer fd00::1 local-address fd00::2 multihop\n  \
         receive-interval 100\n  transmit-interval 100\n  no shutdown\n !\n!\n",
    )
    .unwrap();
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let six = client::with(wanted("fd00::2", 100), |it| {
        it.multihop = true;
        it.local = "fd00::1".into();
    });
    a.want(vec![wanted("10.0.0.2", 100), six]);
    a.wait_for("10.0.0.2", "Up");
    a.wait_for("fd00::2", "Up");
    let frr_has = |status: &str| {
        let peers = frr.ask("show bfd peers json")?;
        let count = peers.matches(&format!("\"status\":\"{status}\"")).count();
        anyhow::ensure!(count == 2, "{peers}");
        Ok(())
    };
    wait_for("FRR to have both sessions up", SOON, || frr_has("up"));
    wait_for("100 ms × 3 to be agreed on", SOON, || {
        let it = a.session("10.0.0.2");
        anyhow::ensure!(it.detection_micros == 300_000, "{it:?}");
        Ok(())
    });
    cut(&left);
    cut(&right);
    let start = Instant::now();
    assert!(a.wait_for_change("Down").failed);
    let took = start.elapsed();
    println!("towards FRR a silent cut was noticed after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    wait_for("FRR to notice too", SOON, || frr_has("down"));
    mend(&left);
    mend(&right);
    a.wait_for("10.0.0.2", "Up");
    a.wait_for("fd00::2", "Up");
    // FRR stops with AdminDown: nothing has failed.
    frr.tell(&[
        "configure terminal",
        "bfd",
        "peer 10.0.0.1 interface eth0",
        "shutdown",
    ])
    .unwrap();
    wait_for("FRR's session to be shut down", SOON, || {
        let it = a.session("10.0.0.2");
        anyhow::ensure!(
            it.state == "Down" && it.remote_state == "AdminDown",
            "{it:?}"
        );
        Ok(())
    });
}

#[test]
fn bird_comes_up_also_with_sha1_and_both_notice_a_silent_cut() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let bird = Bird::start(
        &right,
        lab.directory(),
        "bird",
        "router id 10.0.0.2;\nprotocol device {}\nprotocol bfd {\n  interface \"eth0\" {\n    \
         min rx interval 100 ms; min tx interval 100 ms; multiplier 3;\n    \
         authentication meticulous keyed sha1; password \"a common secret\" { id 7; };\n  };\n  \
         multihop { interval 100 ms; multiplier 3; };\n  \
         neighbor 10.0.0.1 dev \"eth0\";\n  \
         neighbor fd00::1 local fd00::2 multihop;\n}\n",
    )
    .unwrap();
    let file = lab.directory().join("key");
    std::fs::write(&file, "a common secret").unwrap();
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let signed = client::signed(wanted("10.0.0.2", 100), "MeticulousKeyedSha1", &file);
    let six = client::with(wanted("fd00::2", 100), |it| it.multihop = true);
    a.want(vec![signed, six]);
    a.wait_for("10.0.0.2", "Up");
    a.wait_for("fd00::2", "Up");
    let bird_has = |status: &str| {
        let sessions = bird.ask("show bfd sessions")?;
        anyhow::ensure!(sessions.matches(status).count() == 2, "{sessions}");
        Ok(())
    };
    wait_for("BIRD to have both sessions up", SOON, || bird_has("Up "));
    wait_for("100 ms × 3 to be agreed on", SOON, || {
        let it = a.session("10.0.0.2");
        anyhow::ensure!(it.detection_micros == 300_000, "{it:?}");
        Ok(())
    });
    cut(&left);
    cut(&right);
    let start = Instant::now();
    assert!(a.wait_for_change("Down").failed);
    let took = start.elapsed();
    println!("towards BIRD a silent cut was noticed after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    wait_for("BIRD to notice too", SOON, || bird_has("Down "));
    mend(&left);
    mend(&right);
    a.wait_for("10.0.0.2", "Up");
    a.wait_for("fd00::2", "Up");
}

/// 500 sessions at 50 ms × 3: 10,000 packets a second each way.
#[test]
fn five_hundred_sessions_run_for_twenty_seconds_without_a_false_alarm() {
    const SESSIONS: u32 = 500;
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    // 25 addresses on the left and 20 on the right: the kernel's table of neighbours holds 1,024 for
    // all namespaces together, so that sessions with addresses of their own would not fit in.
    let address = |side: u32, session: u32| {
        let host = if side == 0 {
            session % 25
        } else {
            session / 25
        };
        format!("10.0.{}.{}", side + 1, host + 1)
    };
    let mut sides = Vec::new();
    for (side, machine) in [(0, &left), (1, &right)] {
        let addresses: BTreeSet<String> = (0..SESSIONS).map(|it| address(side, it)).collect();
        let lines: Vec<String> = (addresses.iter())
            .map(|address| format!("address add {address}/16 dev eth0"))
            .collect();
        machine.ip(lines.iter().map(String::as_str)).unwrap();
        let name = ["left", "right"][side as usize];
        let mut bfd = Bfd::start(machine, lab.directory(), name);
        let one = |session| {
            client::with(wanted(&address(1 - side, session), 50), |it| {
                it.local = address(side, session);
            })
        };
        bfd.want((0..SESSIONS).map(one).collect());
        sides.push(bfd);
    }
    for bfd in &sides {
        wait_for(
            "all sessions to be up at 50 ms",
            Duration::from_secs(60),
            || {
                let sessions = bfd.list();
                let up = sessions
                    .iter()
                    .filter(|it| it.state == "Up" && it.detection_micros == 150_000);
                let up = up.count();
                anyhow::ensure!(up == SESSIONS as usize, "{up} of {}", sessions.len());
                Ok(())
            },
        );
    }
    let before: Vec<_> = sides.iter().map(Bfd::list).collect();
    let cpu: Vec<_> = sides.iter().map(Bfd::cpu_seconds).collect();
    let start = Instant::now();
    wait_for("20 seconds to pass", Duration::from_secs(30), || {
        let passed = start.elapsed();
        anyhow::ensure!(passed >= Duration::from_secs(20), "{passed:?}");
        Ok(())
    });
    let seconds = start.elapsed().as_secs_f64();
    for ((bfd, before), cpu) in sides.iter().zip(before).zip(cpu) {
        let after = bfd.list();
        let packets = |list: &[client::pb::Session]| -> u64 { list.iter().map(|it| it.sent).sum() };
        println!(
            "{:.0} packets/s sent, {:.2} CPU seconds a second, {}",
            (packets(&after) - packets(&before)) as f64 / seconds,
            (bfd.cpu_seconds() - cpu) / seconds,
            bfd.answer().priority,
        );
        let fell = before
            .iter()
            .zip(&after)
            .filter(|(was, is)| was.ups != is.ups || is.state != "Up");
        assert_eq!(fell.count(), 0, "false alarms");
    }
}

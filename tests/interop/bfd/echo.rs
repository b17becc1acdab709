//! The Echo function: ours looped by FRR's kernel, FRR's looped by ours, and a neighbour that does not
//! forward.

use std::time::{Duration, Instant};

use lab::frr::Frr;
use lab::{Lab, wait_for};

use super::client::{self, Bfd, pb, wanted};
use super::{SOON, pair};

fn echoed(remote: &str, millis: u32) -> pb::SessionConfig {
    client::with(wanted(remote, millis), |it| it.echo_millis = 50)
}

#[track_caller]
fn wait_for_echo(bfd: &Bfd, remote: &str) -> pb::Echo {
    wait_for("Echo packets to be relied on", SOON, || {
        let it = bfd.session(remote);
        let echo = it.echo.clone().filter(|echo| echo.relied_on);
        echo.ok_or_else(|| anyhow::anyhow!("{it:?}"))
    })
}

#[test]
fn two_of_ours_loop_each_others_echoes_and_notice_when_the_other_kernel_stops_forwarding() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    a.want(vec![echoed("10.0.0.2", 1000), echoed("fd00::2", 1000)]);
    b.want(vec![echoed("10.0.0.1", 1000), echoed("fd00::1", 1000)]);
    for remote in ["10.0.0.2", "fd00::2"] {
        wait_for_echo(&a, remote);
    }
    wait_for_echo(&b, "10.0.0.1");
    // BFD over there goes on, Control packets are slow; but packets are forwarded no more.
    right.set(&[("net/ipv4/ip_forward", "0")]).unwrap();
    let start = Instant::now();
    let down = a.wait_for_change("Down");
    let took = start.elapsed();
    println!("that nothing is forwarded was noticed after {took:?}");
    assert_eq!((down.remote.as_str(), down.failed), ("10.0.0.2", true));
    assert!(down.diagnostic.contains("echo"), "{}", down.diagnostic);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(a.session("fd00::2").state, "Up");
    // It comes up again without them, and says why.
    a.wait_for("10.0.0.2", "Up");
    wait_for("the reason to be told", SOON, || {
        let echo = a.session("10.0.0.2").echo.unwrap();
        anyhow::ensure!(echo.problem.contains("ip_forward"), "{echo:?}");
        Ok(())
    });
}

#[test]
fn echoes_go_both_ways_with_frr() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    let frr = Frr::start_with_bfd(
        &right,
        lab.directory(),
        "frr",
        "router bgp 65002\n",
        "bfd\n peer 10.0.0.1 local-address 10.0.0.2 interface eth0\n  echo-mode\n  echo transmit-interval 50\n  \
         echo receive-interval 50\n  no shutdown\n !\n!\n",
    )
    .unwrap();
    let mut a = Bfd::start(&left, lab.directory(), "left");
    a.want(vec![echoed("10.0.0.2", 300)]);
    a.wait_for("10.0.0.2", "Up");
    let before = wait_for_echo(&a, "10.0.0.2");
    // FRR takes the session down when its own do not come back.
    wait_for("a hundred of each to come back", SOON, || {
        let counters = frr.ask("show bfd peers counters json")?;
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = counters.split_once(&format!("\"{name}\":"))?;
            rest.split([',', '}']).next()?.trim().parse().ok()
        };
        let theirs = number("echo-packet-input").unwrap_or(0);
        let ours = a.session("10.0.0.2").echo.map_or(0, |it| it.returned);
        anyhow::ensure!(
            theirs > 100 && ours > before.returned + 100,
            "{ours}; {counters}"
        );
        Ok(())
    });
    assert_eq!(a.session("10.0.0.2").ups, 1);
    assert!(a.session("10.0.0.2").echo.unwrap().relied_on);
}

#[test]
fn a_neighbour_that_does_not_loop_them_gets_none() {
    let lab = Lab::new().unwrap();
    let (left, right) = pair(&lab);
    right.set(&[("net/ipv4/ip_forward", "0")]).unwrap();
    let mut a = Bfd::start(&left, lab.directory(), "left");
    let mut b = Bfd::start(&right, lab.directory(), "right");
    a.want(vec![echoed("10.0.0.2", 100)]);
    b.want(vec![echoed("10.0.0.1", 100)]);
    a.wait_for("10.0.0.2", "Up");
    wait_for("the reason to be told", SOON, || {
        let echo = a.session("10.0.0.2").echo.unwrap();
        anyhow::ensure!(echo.problem.contains("does not loop"), "{echo:?}");
        assert_eq!(echo.sent, 0);
        Ok(())
    });
    // The one that does not forward has its own looped all the same.
    wait_for_echo(&b, "10.0.0.1");
}

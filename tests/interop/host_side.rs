//! What the host does for its pods: masquerade, segments that fit the path, settings of the kernel.
//!
//! ```text
//!  pod (routed, our plugin) ── n1 ── eth0 ═══ ToR, a speaker of ours ═══ others
//! ```
//!
//! `others` is one machine with the addresses of all who may be meant: an outside server, one in an
//! exempt network, a pod and the address of another node. It says who asks.

mod flush;
mod ports;
mod settings;
mod site;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::ensure;
use lab::wait_for;

use site::{CLAMPED, Machines, OUTSIDE, OUTSIDE6, Site};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn only_what_leaves_the_cluster_and_is_not_exempt_has_the_node_s_address() {
    let machines = Machines::new().unwrap();
    let site = Site::start(&machines, site::FABRIC, site::MASQUERADE).unwrap();
    let (pod4, pod6) = site.pod_addresses();
    let (neighbour4, neighbour6) = site.neighbour_addresses();
    let cases = [
        ("a pod on this node", neighbour4.as_str(), pod4.as_str()),
        ("a pod on this node", &neighbour6, &pod6),
        ("an outside server", OUTSIDE, "10.0.1.11"),
        ("an exempt network", "172.16.0.9", &pod4),
        ("a pod on another node", "10.64.2.9", &pod4),
        ("another node", "10.0.9.12", &pod4),
        ("the peer", "10.0.1.1", &pod4),
        ("an outside server", OUTSIDE6, "fd00:1::11"),
        ("an exempt network", "2001:db8:e::9", &pod6),
        ("a pod on another node", "fd00:64:0:2::9", &pod6),
        ("another node", "fd00:9::12", &pod6),
        ("the peer", "fd00:1::1", &pod6),
    ];
    for (what, to, expected) in cases {
        assert_eq!(site.seen_by(to).unwrap(), expected, "{what}, {to}");
    }
    // From outside to the pod, where the way is known: nothing is rewritten, in either direction.
    assert_eq!(site.pod_is_asked_by_others().unwrap(), "172.16.0.9");

    // Off again, and on.
    site.edit(site::FABRIC, "").unwrap();
    wait_for("the pod's own address everywhere", SOON, || {
        let seen = site.seen_by("172.16.0.9")?;
        ensure!(
            seen == pod4 && !site.table()?.contains("masquerade"),
            "{seen}"
        );
        Ok(())
    });
    site.edit(site::FABRIC, "masquerade: {}").unwrap();
    wait_for("no exemption", SOON, || {
        let seen = site.seen_by("172.16.0.9")?;
        ensure!(seen == "10.0.1.11", "{seen}");
        Ok(())
    });
}

#[test]
fn connections_go_on_while_the_speaker_is_killed_and_while_its_table_is_taken_away() {
    let machines = Machines::new().unwrap();
    let mut site = Site::start(&machines, site::FABRIC, site::MASQUERADE).unwrap();
    site.node_run("nft add table inet foreign").unwrap();
    let foreign = "nft list table inet foreign";
    let before = site.node_run(foreign).unwrap();
    let mut flows = [OUTSIDE, OUTSIDE6].map(|to| site.connect(to).unwrap());
    let mut say = |what: &str| {
        for flow in &mut flows {
            flow.write_all(what.as_bytes()).unwrap();
            let mut heard = vec![0; what.len()];
            flow.read_exact(&mut heard).unwrap();
            assert_eq!(String::from_utf8_lossy(&heard), what);
        }
    };
    say("before");
    let table = site.table().unwrap();
    site.speaker.kill().unwrap();
    say("while there is no speaker");
    assert_eq!(site.table().unwrap(), table);
    site.speaker.start_again().unwrap();
    say("with the next one");
    site.speaker.stop().unwrap();
    say("after a stop");
    assert_eq!(site.table().unwrap(), table);
    site.speaker.start_again().unwrap();
    site.wait_for_host_side();
    for change in [
        "delete table inet routeshare",
        "flush chain inet routeshare postrouting",
        "flush set inet routeshare direct4",
        "add rule inet routeshare forward counter drop",
    ] {
        site.node_run(&format!("nft {change}")).unwrap();
        wait_for("the table as it was", SOON, || {
            let now = site.table()?;
            ensure!(now == table, "after {change}: {now}");
            Ok(())
        });
        say(change);
        assert_eq!(site.seen_by(OUTSIDE).unwrap(), "10.0.1.11", "{change}");
    }
    assert_eq!(site.node_run(foreign).unwrap(), before);
    let log = site.speaker.log();
    assert!(log.contains("somebody else changed our table"), "{log}");
}

#[test]
fn segments_fit_a_narrow_path_on_which_nobody_hears_of_it() {
    let machines = Machines::new().unwrap();
    let mut site = Site::start(&machines, CLAMPED, site::MASQUERADE).unwrap();
    site.narrow(1400).unwrap();
    for to in [OUTSIDE, OUTSIDE6] {
        site.transfers(to, SOON).unwrap();
    }
    // The same without us stalls: the path is as narrow as it is said to be.
    site.speaker.kill().unwrap();
    site.node_run("nft delete chain inet routeshare forward")
        .unwrap();
    for to in [OUTSIDE, OUTSIDE6] {
        let outcome = site.transfers(to, Duration::from_secs(3));
        assert!(outcome.is_err(), "{to} needs no clamp");
    }
    site.speaker.start_again().unwrap();
    wait_for("the chain", SOON, || {
        let table = site.table()?;
        ensure!(table.contains("chain forward"), "{table}");
        Ok(())
    });
    for to in [OUTSIDE, OUTSIDE6] {
        site.transfers(to, SOON).unwrap();
    }
}

//! Firewalls that begin with `flush ruleset`: what they take away is back before anybody notices.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::wait_for;
use serde_json::json;

use super::SOON;
use super::site::{FABRIC, MASQUERADE, Machines, OUTSIDE, OUTSIDE6, Site};

/// A firewall of the host's own, as `/etc/nftables.conf` of distributions begins.
const FIREWALL: &str = "\
flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; policy accept; }
    chain forward { type filter hook forward priority filter; policy accept; }
}
";
const TIMES: u32 = 10;

#[test]
fn what_a_firewall_flushes_is_back_at_once() {
    let machines = Machines::new().unwrap();
    let mut site = Site::start(&machines, FABRIC, MASQUERADE).unwrap();
    let subnets = json!([{"subnet": "10.91.1.0/24"}, {"subnet": "fd91::/64"}]);
    let bridge = json!({"mode": "bridge", "ipMasq": true, "ipam": {"subnets": subnets}});
    let plugin = site.cni.plugin(bridge);
    site.cni.network("blue", &[plugin]).unwrap();
    let inside = json!([{"subnet": "10.91.2.0/24"}]);
    let internal = json!({"mode": "bridge", "internal": true, "ipam": {"subnets": inside}});
    let plugin = site.cni.plugin(internal);
    site.cni.network("inside", &[plugin]).unwrap();
    let blue = site.attached("blue", "blue").unwrap();
    let _inside = site.attached("inside", "inside").unwrap();
    let before = both(&site).unwrap();
    assert!(before.1.contains("iifname @masquerade"), "{}", before.1);
    let mut flows = [OUTSIDE, OUTSIDE6].map(|to| site.connect(to).unwrap());
    let file = machines.directory().join("nftables.conf");
    std::fs::write(&file, FIREWALL).unwrap();

    let mut longest = Duration::ZERO;
    for change in [
        format!("nft -f {}", file.display()),
        "nft flush ruleset".into(),
    ] {
        for _ in 0..TIMES {
            site.node_run(&change).unwrap();
            let flushed = Instant::now();
            wait_for("both tables", SOON, || {
                let now = both(&site)?;
                ensure!(now == before, "after {change}: {now:?}");
                Ok(())
            });
            longest = longest.max(flushed.elapsed());
        }
        // As new connections, so those that there were.
        for (to, flow) in [OUTSIDE, OUTSIDE6].into_iter().zip(&mut flows) {
            let expected = if to == OUTSIDE {
                "10.0.1.11"
            } else {
                "fd00:1::11"
            };
            assert_eq!(site.seen_by(to).unwrap(), expected);
            assert_eq!(site.seen_of(&blue, to).unwrap(), expected);
            flow.write_all(b"still").unwrap();
            let mut heard = [0; 5];
            flow.read_exact(&mut heard).unwrap();
        }
    }
    eprintln!("both tables were back within {longest:?}, as nft sees it");

    // While there is no speaker, nobody puts them back; the next one does.
    site.speaker.kill().unwrap();
    site.node_run("nft flush ruleset").unwrap();
    site.speaker.start_again().unwrap();
    wait_for("both tables", SOON, || {
        let now = both(&site)?;
        ensure!(now == before, "{now:?}");
        Ok(())
    });
}

/// Both tables, as `nft` prints them.
fn both(site: &Site<'_>) -> anyhow::Result<(String, String)> {
    let bridges = site.node_run("nft --stateless list table inet routeshare-bridges")?;
    Ok((site.table()?, bridges))
}

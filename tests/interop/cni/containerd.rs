//! A real runtime: containerd and runc of Debian start containers, and our plugin attaches them.

use std::time::Duration;

use lab::containerd::Containerd;
use lab::{Lab, wait_for};
use serde_json::json;

use super::scene::{leases, node, nothing_is_left};

#[test]
fn containerd_attaches_its_containers_with_our_plugin() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    // As a speaker writes it, for runtimes that do not know version 1.1.0 and for those that do.
    let list = json!({
        "cniVersion": "0.4.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "routeshare",
        "plugins": [node.plugin(json!({"mode": "routed"}))],
    });
    // The first in the order of names is taken.
    let file = node.conf_dir().join("10-routeshare.conflist");
    std::fs::write(file, list.to_string()).unwrap();
    let containerd = Containerd::start(&lab, &node, &[lab::cni::PLUGIN]).unwrap();
    let running: Vec<_> = ["c1", "c2"]
        .map(|name| (name, containerd.run(name, &["/bin/sleep", "600"]).unwrap()))
        .into_iter()
        .collect();
    let addresses: Vec<String> = ["c1", "c2"]
        .iter()
        .flat_map(|name| {
            wait_for("containerd to attach it", Duration::from_secs(30), || {
                let all = leases(&node);
                let of = |lease: &&String| lease.contains(&format!("-{name}/eth0 "));
                let lease = all.iter().find(of);
                let lease = lease.ok_or_else(|| {
                    anyhow::anyhow!("{all:?}; containerd: {}", containerd.log_tail())
                })?;
                let words = lease.split(' ').skip(1);
                let addresses = words.filter_map(|word| Some(word.split('/').next()?.to_owned()));
                Ok(addresses.collect::<Vec<String>>())
            })
        })
        .collect();
    assert_eq!(addresses.len(), 4);
    for (name, to) in [("c1", &addresses[2..]), ("c2", &addresses[..2])] {
        for address in to {
            wait_for("an answer", Duration::from_secs(10), || {
                containerd.exec(name, &["/bin/ping", "-c", "1", "-W", "3", address])
            });
        }
    }
    for (name, daemon) in running {
        containerd.kill(name, daemon).unwrap();
    }
    nothing_is_left(&node);
}

//! Settings of the kernel: set where they may be, told where they may not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, advertise, output, wait_for};

use super::SOON;

const RESOURCES: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec: {asn: {value: 65001}}
---
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {name: n1}
spec: {addresses: [10.0.1.11], subnets: [10.64.1.0/24, \"fd00:64:0:1::/64\"]}
---
apiVersion: routeshare.io/v1alpha1
kind: Peer
metadata: {name: tor}
spec: {address: 10.0.1.1, remoteAsn: 65000}
";

/// A host that does not forward yet, and its router.
fn machines(lab: &Lab) -> anyhow::Result<[Namespace; 2]> {
    let [node, tor] = [lab.machine("n1")?, lab.machine("tor")?];
    node.set(&[
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv6/conf/default/accept_ra", "1"),
        ("net/ipv4/conf/default/rp_filter", "1"),
        ("net/ipv4/conf/all/rp_filter", "1"),
    ])?;
    node.cable("eth0", &["10.0.1.11/24"], &tor, "eth0", &["10.0.1.1/24"])?;
    node.cable("eth1", &["10.0.3.11/24"], &tor, "eth1", &["10.0.3.1/24"])?;
    Ok([node, tor])
}

/// A speaker for pods.
fn start<'a>(lab: &Lab, node: &'a Namespace, more: &[String]) -> anyhow::Result<Speaker<'a>> {
    let files = lab.directory().join("resources");
    fs::create_dir_all(&files)?;
    fs::write(files.join("resources.yaml"), RESOURCES)?;
    let net = lab.directory().join("net.d");
    fs::create_dir_all(&net)?;
    let mut told = vec![
        "--standalone".to_owned(),
        format!("--resources={}", files.display()),
        format!("--cni-conf-dir={}", net.display()),
    ];
    told.extend_from_slice(more);
    Speaker::start_with(node, lab.directory(), "n1", told)
}

#[test]
fn a_host_that_has_nothing_to_do_with_pods_stays_as_it_is() {
    let lab = Lab::new().unwrap();
    let [node, _tor] = machines(&lab).unwrap();
    let adopts = RESOURCES.replace(
        "{asn: {value: 65001}}",
        "{asn: {value: 65001}, nodeSubnets: Adopt}",
    );
    let pool = |more: &str| {
        format!(
            "{adopts}---\napiVersion: routeshare.io/v1alpha1\nkind: Pool\nmetadata: {{name: pods}}\n\
             spec: {{prefixes: [10.64.0.0/16], {more}}}\n"
        )
    };
    let speaker = Speaker::start(&node, lab.directory(), "n1", &pool("")).unwrap();
    let table = || node.run("nft list tables");
    wait_for("the configuration", SOON, || {
        let status = speaker.json("show status")?;
        ensure!(status["version"] == 1, "{status}");
        Ok(())
    });
    assert_eq!(table().unwrap(), "");
    assert_eq!(setting(&node, "ipv4/ip_forward").unwrap(), "0");
    // One that masquerades has something to do, and no more when it does not.
    speaker.edit(&pool("masquerade: {}")).unwrap();
    wait_for("the table, and forwarding", SOON, || {
        ensure!(table()?.contains("inet routeshare"), "no table");
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            ensure!(setting(&node, name)? == "1", "{name} is off");
        }
        Ok(())
    });
    speaker.edit(&pool("")).unwrap();
    wait_for("no table", SOON, || {
        let tables = table()?;
        ensure!(!tables.contains("routeshare"), "{tables}");
        Ok(())
    });
}

/// A directory that can be read at another place, and not written; until it is dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(what: &str, at: &Path) -> anyhow::Result<ReadOnly> {
        fs::create_dir_all(at)?;
        output(Command::new("mount").args(["--bind", what]).arg(at))?;
        let mounted = ReadOnly(at.to_owned());
        output(
            Command::new("mount")
                .args(["-o", "remount,bind,ro"])
                .arg(at),
        )?;
        Ok(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("umount").arg(&self.0)) {
            eprintln!("cannot unmount {}: {error:#}", self.0.display());
        }
    }
}

fn setting(machine: &Namespace, name: &str) -> anyhow::Result<String> {
    let value = machine.run(&format!("cat /proc/sys/net/{name}"))?;
    Ok(value.trim().to_owned())
}

#[test]
fn a_host_comes_to_forward_and_keeps_the_router_that_was_advertised_to_it() {
    let lab = Lab::new().unwrap();
    let [node, tor] = machines(&lab).unwrap();
    let default = || node.run("ip -6 route show default dev eth0");
    wait_for("a default route by router advertisement", SOON, || {
        advertise(&tor, "eth0", &[])?;
        let found = default()?;
        ensure!(found.contains("proto ra"), "{found}");
        Ok(())
    });
    let speaker = start(&lab, &node, &[]).unwrap();
    let expected = [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/eth0/accept_ra", "2"),
        ("ipv6/conf/eth1/accept_ra", "1"),
        ("ipv4/conf/eth0/rp_filter", "2"),
        ("ipv4/conf/eth1/rp_filter", "1"),
        ("ipv4/conf/all/rp_filter", "1"),
    ];
    wait_for("the settings", SOON, || {
        for (name, value) in expected {
            let found = setting(&node, name)?;
            ensure!(found == value, "{name} is {found}, not {value}");
        }
        Ok(())
    });
    assert!(default().unwrap().contains("proto ra"));
    // What somebody sets back is set again.
    node.set(&[("net/ipv4/ip_forward", "0")]).unwrap();
    let off = Instant::now();
    wait_for("forwarding again", SOON, || {
        ensure!(setting(&node, "ipv4/ip_forward")? == "1", "it is off");
        Ok(())
    });
    eprintln!("it was off for {:?}", off.elapsed());
    let log = speaker.log();
    assert!(
        log.contains("somebody else changed a kernel setting"),
        "{log}"
    );
    drop(speaker);
    assert_eq!(setting(&node, "ipv4/ip_forward").unwrap(), "1");
}

#[test]
fn what_cannot_be_set_is_told_with_what_to_do() {
    let lab = Lab::new().unwrap();
    let [node, _tor] = machines(&lab).unwrap();
    let mounted = lab.directory().join("sys-net");
    let _mount = ReadOnly::mount("/proc/sys/net", &mounted).unwrap();
    let told = [format!("--sysctl-dir={}", mounted.display())];
    let speaker = start(&lab, &node, &told).unwrap();
    let problems = wait_for("the problems", SOON, || {
        let status = speaker.json("show status")?;
        let problems = status["problems"].to_string();
        for part in [
            "net.ipv4.ip_forward",
            "net.ipv6.conf.all.forwarding",
            "eth0.rp_filter",
        ] {
            ensure!(problems.contains(part), "{problems}");
        }
        Ok(problems)
    });
    assert!(problems.contains("Read-only file system"), "{problems}");
    assert!(
        problems.contains("sysctl -w net.ipv4.ip_forward=1"),
        "{problems}"
    );
    // Somebody does as he was told.
    let values = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ];
    node.set(&values).unwrap();
    node.set(&[("net/ipv4/conf/eth0/rp_filter", "2")]).unwrap();
    wait_for("no problem any more", SOON, || {
        let status = speaker.json("show status")?;
        let problems = status["problems"].to_string();
        ensure!(!problems.contains("net.ipv"), "{problems}");
        Ok(())
    });
}

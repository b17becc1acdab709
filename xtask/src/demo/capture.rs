//! What is on a cable between ToR and spine while pods talk: bare pod addresses, nothing around them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab::{Daemon, Namespace, output, packages, try_wait_for};

/// A capture that is going on.
pub(crate) struct Capture {
    file: PathBuf,
    log: PathBuf,
    tcpdump: Daemon,
}

impl Capture {
    /// Starts to write down every packet on a machine's interface, and waits until that has begun.
    pub(crate) fn start(
        machine: &Namespace,
        interface: &str,
        directory: &Path,
    ) -> anyhow::Result<Capture> {
        let file = directory.join("spine.pcap");
        let log = directory.join("log/tcpdump.log");
        let program = packages::TCPDUMP
            .find()
            .context("tcpdump is not installed")?;
        let mut command = machine.command(program);
        command
            .args([
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-i",
                interface,
                "-w",
            ])
            .arg(&file);
        let mut capture = Capture {
            tcpdump: machine.start("tcpdump", command, &log)?,
            file,
            log,
        };
        try_wait_for("tcpdump to listen", Duration::from_secs(10), || {
            capture.tcpdump.check()?;
            let said = std::fs::read_to_string(&capture.log)?;
            anyhow::ensure!(said.contains("listening on"), "{said}");
            Ok(())
        })?;
        Ok(capture)
    }

    /// Ends it and gives what was on the cable, a line a packet.
    pub(crate) fn finish(mut self) -> anyhow::Result<Packets> {
        self.tcpdump.stop()?;
        let mut command = Command::new(packages::TCPDUMP.find().context("tcpdump is gone")?);
        command.args(["-n", "-t", "-r"]).arg(&self.file);
        let text = output(&mut command)?;
        Ok(Packets {
            lines: text.lines().map(str::to_owned).collect(),
        })
    }
}

/// Captured packets, as tcpdump tells them.
pub(crate) struct Packets {
    lines: Vec<String>,
}

impl Packets {
    /// One echo request of each family, as it was on the cable.
    ///
    /// # Errors
    ///
    /// When there is none of a family, or a packet that is not one of those that belong there: pings
    /// between pods, BGP between the routers, and what a link needs itself.
    pub(crate) fn check(&self) -> anyhow::Result<Vec<&str>> {
        let strange = |line: &&String| !expected(line);
        if let Some(line) = self.lines.iter().find(strange) {
            bail!("something else than pings, BGP and neighbour discovery is on the cable: {line}");
        }
        let echo = |family: &str, echo: &str| {
            let found = self
                .lines
                .iter()
                .find(|line| line.starts_with(family) && line.contains(echo));
            found.map(String::as_str).with_context(|| {
                format!(
                    "no {echo} was on the cable, of {} packets",
                    self.lines.len()
                )
            })
        };
        Ok(vec![
            echo("IP ", "ICMP echo request")?,
            echo("IP6 ", "ICMP6, echo request")?,
        ])
    }
}

fn expected(line: &str) -> bool {
    let pod = |word: &str| line.matches(word).count() >= 2;
    if line.starts_with("ARP") || line.contains("ICMP6, neighbor ") {
        return true;
    }
    if line.contains("ICMP6, router ") || line.contains("listener report") {
        return true; // hosts and multicast listeners make themselves known
    }
    if line.contains(".179 > ") || line.contains(".179: Flags") {
        return true;
    }
    match line.split_once(' ') {
        Some(("IP", rest)) => rest.contains("ICMP echo") && pod("10.64."),
        Some(("IP6", rest)) => rest.contains("ICMP6, echo") && pod("fd00:64:"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_between_pods_and_bgp_belong_there() {
        for line in [
            "IP 10.64.0.2 > 10.64.2.3: ICMP echo request, id 7, seq 1, length 64",
            "IP6 fd00:64::2 > fd00:64:0:2::3: ICMP6, echo reply, id 7, seq 1, length 64",
            "IP 10.0.1.1.43210 > 10.0.1.0.179: Flags [P.], seq 1:20, ack 1, win 64, length 19: BGP",
            "ARP, Request who-has 10.0.1.0 tell 10.0.1.1, length 28",
        ] {
            assert!(expected(line), "{line}");
        }
    }

    #[test]
    fn wrapped_and_rewritten_packets_do_not() {
        for line in [
            "IP 10.0.1.1 > 10.0.2.1: IP 10.64.0.2 > 10.64.2.3: ICMP time exceeded, length 64",
            "IP 10.1.0.11.5000 > 10.2.0.11.4789: VXLAN, flags [I] (0x08), vni 1",
            "IP 10.1.0.11 > 10.64.2.3: ICMP echo request, id 7, seq 1, length 64",
        ] {
            assert!(!expected(line), "{line}");
        }
    }
}

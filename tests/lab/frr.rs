//! FRR (zebra, bgpd and, where asked for, bfdd) on a machine of the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::namespace::Namespace;
use crate::process::{Daemon, output};
use crate::wait::try_wait_for;

/// Where Debian puts FRR's daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// A running FRR; ended when dropped.
#[derive(Debug)]
pub struct Frr {
    bgpd: Daemon,
    zebra: Daemon,
    bfdd: Option<Daemon>,
    directory: PathBuf,
    machine: Namespace,
}

impl Frr {
    /// Starts zebra and bgpd with this configuration (of bgpd; zebra needs none) and waits until
    /// they answer. Their files lie in a directory `name` in `directory`, which FRR's own user must
    /// be able to pass through.
    ///
    /// # Errors
    ///
    /// When one does not come up, with what it said.
    pub fn start(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        config: &str,
    ) -> anyhow::Result<Frr> {
        Frr::start_all(machine, directory, name, config, None)
    }

    /// As [`start`](Frr::start), and bfdd with a configuration of its own (which may be empty:
    /// bgpd asks it for what it needs).
    ///
    /// # Errors
    ///
    /// When one does not come up, with what it said.
    pub fn start_with_bfd(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        config: &str,
        bfd: &str,
    ) -> anyhow::Result<Frr> {
        Frr::start_all(machine, directory, name, config, Some(bfd))
    }

    fn start_all(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        config: &str,
        bfd: Option<&str>,
    ) -> anyhow::Result<Frr> {
        let directory = directory.join(format!("{name}.frr"));
        fs::create_dir_all(&directory)?;
        // FRR insists on its own user, who has to reach its files.
        output(Command::new("chown").arg("frr:frr").arg(&directory))?;
        let start = |program: &str, config: &str| -> anyhow::Result<Daemon> {
            fs::write(directory.join(format!("{program}.conf")), config)?;
            launch(machine, &directory, program)
        };
        let mut zebra = start("zebra", "log stdout\n")?;
        try_wait_for("zebra's socket", Duration::from_secs(10), || {
            zebra.check()?;
            anyhow::ensure!(directory.join("zserv.api").exists(), "no zserv.api yet");
            Ok(())
        })?;
        let bfdd = bfd.map(|config| start("bfdd", config)).transpose()?;
        let bgpd = start("bgpd", config)?;
        let mut frr = Frr {
            bgpd,
            zebra,
            bfdd,
            directory: directory.clone(),
            machine: Namespace::existing(machine.name()).context("the machine is gone")?,
        };
        try_wait_for("FRR to answer", Duration::from_secs(15), || {
            frr.zebra.check()?;
            frr.bgpd.check()?;
            if let Some(bfdd) = &mut frr.bfdd {
                bfdd.check()?;
                frr.ask("show bfd peers")?;
            }
            frr.ask("show bgp summary")
        })?;
        Ok(frr)
    }

    /// Ends bgpd without a chance to say goodbye. zebra stays, and with it the kernel's routes.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill_bgpd(&mut self) -> anyhow::Result<()> {
        self.bgpd.kill()
    }

    /// Starts bgpd after that.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn start_bgpd_again(&mut self) -> anyhow::Result<()> {
        self.bgpd = launch(&self.machine, &self.directory, "bgpd")?;
        let answered = try_wait_for("bgpd to answer", Duration::from_secs(15), || {
            self.bgpd.check()?;
            self.ask("show bgp summary")
        });
        Ok(answered.map(drop)?)
    }

    /// A command of `vtysh`, such as `show bgp ipv4 unicast json`.
    ///
    /// # Errors
    ///
    /// When FRR refuses or does not answer.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        self.tell(&[command])
    }

    /// Several commands, such as `configure`, `router bgp 65101`, `neighbor 10.0.0.2 shutdown`.
    ///
    /// # Errors
    ///
    /// When FRR refuses one or does not answer.
    pub fn tell(&self, commands: &[&str]) -> anyhow::Result<String> {
        let mut vtysh = Command::new("vtysh");
        vtysh.arg("--vty_socket").arg(&self.directory);
        // Without this it reads and complains about the machine's own /etc/frr.
        vtysh.arg("--config_dir").arg(&self.directory);
        for command in commands {
            vtysh.arg("-c").arg(command);
        }
        output(&mut vtysh)
    }

    /// The programs, to be left running or ended.
    pub fn into_daemons(self) -> Vec<Daemon> {
        let daemons = [Some(self.zebra), self.bfdd, Some(self.bgpd)];
        daemons.into_iter().flatten().collect()
    }
}

fn launch(machine: &Namespace, directory: &Path, program: &str) -> anyhow::Result<Daemon> {
    let mut command = machine.command(Path::new(DAEMONS).join(program));
    command
        .arg("--config_file")
        .arg(directory.join(format!("{program}.conf")))
        .arg("--pid_file")
        .arg(directory.join(format!("{program}.pid")))
        .arg("--socket")
        .arg(directory.join("zserv.api"))
        .arg("--vty_socket")
        .arg(directory)
        .args(["--vty_port", "0"])
        .args(["--log", "stdout"]);
    if program == "bfdd" {
        command.arg("--bfdctl").arg(directory.join("bfdd.sock"));
    }
    let log = directory.join(format!("{program}.log"));
    machine.start(program, command, &log)
}

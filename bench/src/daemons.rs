//! The daemons under test: where their programs are and how they are started.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::packages::{self, Tool};
use lab::{Daemon, Namespace};

use crate::configs;
use crate::measure::{self, Cost};

/// AS number of the daemon under test; its peers are this plus 1, plus 2, …
pub(crate) const DAEMON_ASN: u32 = 65000;

/// Where Debian puts FRR's daemons.
const FRR: &str = "/usr/lib/frr";
const OPENBGPD: Tool = Tool {
    program: "/usr/sbin/bgpd",
    package: "openbgpd",
};

/// A daemon that can do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// This program.
    Routeshare,
    /// BIRD 2 of Debian.
    Bird,
    /// FRR (zebra and bgpd) of Debian.
    Frr,
    /// GoBGP of Debian; it installs no routes.
    Gobgp,
    /// OpenBGPD of Debian; it installs no routes on Linux.
    Openbgpd,
    /// BIRD 3, the program that --bird3 names.
    Bird3,
    /// Another FRR, in the folder that --frr-new names.
    FrrNew,
    /// RustyBGP, the program that --rustybgp names; it installs no routes.
    Rustybgp,
}

/// Where programs are that are neither in PATH nor in Debian.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Programs {
    /// Where this program's release binaries are.
    #[arg(long, default_value = "target/release")]
    pub(crate) binaries: PathBuf,
    /// A program `bird` of BIRD 3, to be measured too.
    #[arg(long, value_name = "PATH")]
    pub(crate) bird3: Option<PathBuf>,
    /// A folder with `zebra` and `bgpd` of a newer FRR, to be measured too.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) frr_new: Option<PathBuf>,
    /// The program `rustybgpd`, to be measured too.
    #[arg(long, value_name = "PATH")]
    pub(crate) rustybgp: Option<PathBuf>,
}

/// A peer of the daemon under test.
pub(crate) struct Peer {
    pub(crate) asn: u32,
    pub(crate) address: Ipv4Addr,
}

/// What becomes of several routes to one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    /// One is used.
    One,
    /// Equal ones are used together.
    Several,
    /// The same, and every session has BFD at 100 ms × 3 beside it.
    SeveralWithBfd,
    /// One is used, and the next one kept ready, by those that can.
    Backup,
}

/// A daemon at work; ended when dropped.
pub(crate) struct Running {
    engine: Engine,
    daemons: Vec<Daemon>,
    /// Where its files are.
    pub(crate) folder: PathBuf,
}

impl Running {
    /// Programs of ours that somebody else has started.
    pub(crate) fn of(daemons: Vec<Daemon>, folder: PathBuf) -> Running {
        Running {
            engine: Engine::Routeshare,
            daemons,
            folder,
        }
    }

    /// What it and its children have cost so far.
    pub(crate) fn cost(&self) -> Cost {
        let ids: Vec<u32> = self.daemons.iter().filter_map(Daemon::id).collect();
        measure::cost(&measure::with_children(&ids))
    }

    /// `error`, with what the daemon printed last.
    pub(crate) fn told(&self, error: anyhow::Error) -> anyhow::Error {
        let logs: Vec<String> = self.daemons.iter().map(Daemon::log_tail).collect();
        error.context(format!(
            "{} printed last:\n{}",
            self.engine.name(),
            logs.join("\n")
        ))
    }
}

impl Engine {
    /// Those that Debian has, and those that `programs` names.
    pub(crate) fn all(programs: &Programs) -> Vec<Engine> {
        let mut all = vec![
            Engine::Routeshare,
            Engine::Bird,
            Engine::Frr,
            Engine::Gobgp,
            Engine::Openbgpd,
        ];
        all.extend(programs.bird3.as_ref().map(|_| Engine::Bird3));
        all.extend(programs.frr_new.as_ref().map(|_| Engine::FrrNew));
        all.extend(programs.rustybgp.as_ref().map(|_| Engine::Rustybgp));
        all
    }

    /// As `--peer` and the report name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Routeshare => "routeshare",
            Engine::Bird => "bird",
            Engine::Frr => "frr",
            Engine::Gobgp => "gobgp",
            Engine::Openbgpd => "openbgpd",
            Engine::Bird3 => "bird3",
            Engine::FrrNew => "frr-new",
            Engine::Rustybgp => "rustybgp",
        }
    }

    /// Whether it puts routes into the kernel (and can be measured there).
    pub(crate) fn installs(self) -> bool {
        !matches!(self, Engine::Gobgp | Engine::Openbgpd | Engine::Rustybgp)
    }

    /// Whether it can be told here to have BFD beside its sessions.
    pub(crate) fn has_bfd(self) -> bool {
        matches!(self, Engine::Routeshare | Engine::Bird | Engine::Bird3)
    }

    /// The Debian package it needs, if it is in one.
    pub(crate) fn package(self) -> Option<Tool> {
        match self {
            Engine::Bird => Some(packages::BIRD),
            Engine::Frr => Some(packages::FRR),
            Engine::Gobgp => Some(packages::GOBGP),
            Engine::Openbgpd => Some(OPENBGPD),
            _ => None,
        }
    }

    /// The program (the BGP one, where there are several).
    fn program(self, programs: &Programs) -> Result<PathBuf> {
        let given = |path: &Option<PathBuf>, option: &str| {
            path.clone().with_context(|| {
                format!(
                    "{} is measured only where {option} says where it is",
                    self.name()
                )
            })
        };
        let installed = |tool: Tool| {
            tool.find().with_context(|| {
                format!(
                    "{} is not installed (package {})",
                    tool.program, tool.package
                )
            })
        };
        match self {
            Engine::Routeshare => Ok(programs.binaries.join("routeshare-speaker")),
            Engine::Bird3 => given(&programs.bird3, "--bird3"),
            Engine::FrrNew => Ok(given(&programs.frr_new, "--frr-new")?.join("bgpd")),
            Engine::Rustybgp => given(&programs.rustybgp, "--rustybgp"),
            Engine::Bird => installed(packages::BIRD),
            Engine::Frr => Ok(Path::new(FRR).join("bgpd")),
            Engine::Gobgp => installed(packages::GOBGP),
            Engine::Openbgpd => installed(OPENBGPD),
        }
    }

    /// Its version, as it says itself.
    pub(crate) fn version(self, programs: &Programs) -> String {
        let argument = match self {
            Engine::Openbgpd => "-V",
            _ => "--version",
        };
        let said = self.program(programs).and_then(|program| {
            let output = Command::new(&program)
                .arg(argument)
                .output()
                .with_context(|| format!("cannot start {}", program.display()))?;
            Ok([output.stdout, output.stderr].concat())
        });
        match said {
            Ok(text) => String::from_utf8_lossy(&text)
                .lines()
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
            Err(error) => format!("{}: {error:#}", self.name()),
        }
    }

    /// Starts it in `machine` with sessions to `peers` (who connect to it), everything accepted,
    /// everything sent on, everything put into the kernel. Its files lie in `folder`.
    ///
    /// # Errors
    ///
    /// When its files cannot be written or it cannot be started.
    pub(crate) fn start(
        self,
        machine: &Namespace,
        peers: &[Peer],
        ways: Ways,
        programs: &Programs,
        folder: &Path,
    ) -> Result<Running> {
        let folder = folder.join(self.name());
        fs::create_dir_all(&folder)?;
        let program = self.program(programs)?;
        let mut command = machine.command(&program);
        let mut daemons = Vec::new();
        match self {
            Engine::Bird | Engine::Bird3 => {
                let config = write(&folder, "bird.conf", &configs::bird(peers, ways))?;
                command.arg("-f").arg("-c").arg(config);
                command.arg("-s").arg(folder.join("bird.ctl"));
            }
            Engine::Frr | Engine::FrrNew => {
                // FRR insists on its own user, who has to reach its files.
                lab::output(Command::new("chown").arg("frr:frr").arg(&folder))?;
                let zebra = program.with_file_name("zebra");
                let mut first = machine.command(&zebra);
                frr(&mut first, &folder, &zebra, "log stdout errors\n")?;
                let mut zebra = machine.start("zebra", first, &folder.join("zebra.log"))?;
                let socket = folder.join("zserv.api");
                lab::try_wait_for("zebra's socket", Duration::from_secs(10), || {
                    zebra.check()?;
                    anyhow::ensure!(socket.exists(), "no {} yet", socket.display());
                    Ok(())
                })?;
                daemons.push(zebra);
                let config = configs::frr(peers, ways);
                frr(&mut command, &folder, &program, &config)?;
            }
            Engine::Gobgp => {
                let config = write(&folder, "gobgp.toml", &configs::gobgp(peers))?;
                command.arg("-f").arg(config).args(["-l", "error"]);
                command.args(["--api-hosts", "127.0.0.1:50051"]);
            }
            Engine::Rustybgp => {
                let config = write(&folder, "rustybgp.toml", &configs::gobgp(peers))?;
                command.arg("-f").arg(config);
            }
            Engine::Openbgpd => {
                let text = configs::openbgpd(peers, &folder.join("bgpd.sock"));
                let config = write(&folder, "bgpd.conf", &text)?;
                // It refuses a file that others can read.
                fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
                command.arg("-d").arg("-f").arg(config);
                // Its unit file would make the folder that it locks itself into.
                if let Some(user) = nix::unistd::User::from_name("_openbgpd")? {
                    fs::create_dir_all(user.dir)?;
                }
            }
            Engine::Routeshare => {
                let resources = folder.join("resources");
                fs::create_dir_all(&resources)?;
                let text = configs::routeshare(peers, ways);
                write(&resources, "bench.yaml", &text)?;
                command.args(["--node", "bench", "--standalone", "--resources"]);
                command.arg(resources);
                command.arg("--state-dir").arg(folder.join("state"));
                command.arg("--socket").arg(folder.join("speaker.sock"));
                let socket = folder.join("bfd.sock");
                command.arg("--bfd-socket").arg(&socket);
                if ways == Ways::SeveralWithBfd {
                    let mut bfd = machine.command(program.with_file_name("routeshare-bfd"));
                    bfd.arg("--socket").arg(socket);
                    let log = folder.join("bfd.log");
                    daemons.push(machine.start("routeshare-bfd", bfd, &log)?);
                }
            }
        }
        let log = folder.join("log");
        daemons.push(machine.start(self.name(), command, &log)?);
        Ok(Running {
            engine: self,
            daemons,
            folder,
        })
    }
}

/// The arguments that all of FRR's daemons take.
fn frr(command: &mut Command, folder: &Path, program: &Path, config: &str) -> Result<()> {
    let name = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = write(folder, &format!("{name}.conf"), config)?;
    command.arg("--config_file").arg(file);
    command
        .arg("--pid_file")
        .arg(folder.join(format!("{name}.pid")));
    command.arg("--socket").arg(folder.join("zserv.api"));
    command.arg("--vty_socket").arg(folder);
    command.args(["--vty_port", "0", "--log", "stdout"]);
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

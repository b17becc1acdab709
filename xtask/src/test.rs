//! `cargo xtask test`: everything that must hold, in the order of how soon it is known.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use lab::modules::{self, Module, Progress};
use lab::{packages, require_root};

use crate::again;
use crate::cargo::{
    build_other_speaker, build_programs, cargo, cargo_deny, root, run as run_command,
};
use crate::progress::{bad, dim, good, step, title};

/// Every check and every test, as CI runs them
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Go on after a part that failed
    #[arg(long)]
    keep_going: bool,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formatting
    Fmt,
    /// Lints; a warning is an error
    Clippy,
    /// The checked-in CustomResourceDefinitions are those of the types
    Crds,
    /// Licences, sources and banned crates of what we use
    Deny,
    /// Unit and property tests of every crate
    Unit,
    /// Simulated networks in virtual time
    Sim,
    /// Bytes and events that nobody thought of: a fixed number, from the kept corpus
    Fuzz,
    /// The kernel: netlink in namespaces of its own (root)
    Kernel,
    /// Real BIRD, FRR and GoBGP; bad input; crashes (root)
    Lab,
    /// A real Kubernetes API server and etcd, our controller and speakers (root)
    Cluster,
    /// The demo's own assertions, with our speaker, BIRD and FRR as ToR (root)
    Demo,
}

const PARTS: [Part; 11] = [
    Part::Fmt,
    Part::Clippy,
    Part::Crds,
    Part::Deny,
    Part::Unit,
    Part::Sim,
    Part::Fuzz,
    Part::Kernel,
    Part::Lab,
    Part::Cluster,
    Part::Demo,
];

/// Packages whose tests need root and namespaces.
const LAB_PACKAGE: &str = "routeshare-tests";

impl Part {
    fn what(self) -> &'static str {
        match self {
            Part::Fmt => "formatting",
            Part::Clippy => "lints",
            Part::Crds => "CustomResourceDefinitions",
            Part::Deny => "licences, sources, banned crates",
            Part::Unit => "unit and property tests",
            Part::Sim => "simulated networks",
            Part::Fuzz => "fuzzing from the kept corpus",
            Part::Kernel => "netlink against this kernel",
            Part::Lab => "BIRD, FRR, GoBGP, bad input, crashes",
            Part::Cluster => "a real Kubernetes API server and etcd",
            Part::Demo => "the demo, with three kinds of ToR",
        }
    }

    fn needs_root(self) -> bool {
        matches!(self, Part::Kernel | Part::Lab | Part::Cluster | Part::Demo)
    }

    fn run(self) -> anyhow::Result<()> {
        let steps: &[&[&str]] = match self {
            Part::Fmt => &[&["fmt", "--all", "--check"]],
            Part::Clippy => &[&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]],
            Part::Crds => return crate::crds::check(),
            Part::Deny => return deny(),
            Part::Unit => &[&[
                "test",
                "--locked",
                "--workspace",
                "--exclude",
                LAB_PACKAGE,
                "--exclude",
                "kernel",
                "--no-fail-fast",
                "--quiet",
            ]],
            Part::Sim => &[&[
                "test",
                "--locked",
                "--package",
                "bgp",
                "--test",
                "sim",
                "--quiet",
            ]],
            Part::Fuzz => return crate::fuzz::test(),
            Part::Kernel => {
                let tools = [packages::IPROUTE, packages::NFT];
                packages::ensure(&tools, |text| println!("  {text}"))?;
                &[&["test", "--locked", "--package", "kernel", "--quiet"]]
            }
            Part::Lab => {
                let tools = [
                    packages::IPROUTE,
                    packages::NSENTER,
                    packages::PING,
                    packages::NFT,
                    packages::DNSMASQ,
                    packages::DIG,
                    packages::BIRD,
                    packages::FRR,
                    packages::GOBGP,
                    packages::CONTAINERD,
                    packages::RUNC,
                    packages::BUSYBOX,
                    packages::USER_MODE_LINUX,
                    packages::KMOD,
                    packages::IPTABLES,
                    packages::CXX,
                ];
                packages::ensure(&tools, |text| println!("  {text}"))?;
                from_modules("cnitool and the reference plugins", &modules::CNI)?;
                build_other_speaker()?;
                build_programs(true)?;
                // The cluster's tests are a part of their own.
                let targets = ["--lib", "--test", "interop"];
                let arguments = ["test", "--locked", "--package", LAB_PACKAGE];
                let arguments = [arguments.as_slice(), &targets].concat();
                return again::test(&arguments, &["--test-threads", "4"]);
            }
            Part::Cluster => return cluster(),
            Part::Demo => return demos(),
        };
        for arguments in steps {
            let what = format!("cargo {}", arguments.join(" "));
            run_command(&mut cargo(arguments), &what)?;
        }
        Ok(())
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted: Vec<Part> = PARTS
        .into_iter()
        .filter(|part| arguments.only.is_empty() || arguments.only.contains(part))
        .collect();
    // Said before the first minutes are spent.
    if let Some(part) = wanted.iter().find(|part| part.needs_root()) {
        require_root().with_context(|| {
            format!(
                "“{}” cannot be tested; --only names parts that need less",
                part.what()
            )
        })?;
    }
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for (index, part) in wanted.iter().enumerate() {
        let number = dim(&format!("[{}/{}]", index + 1, wanted.len()));
        println!("{number} {}", title(part.what()));
        let part_start = Instant::now();
        let result = part.run();
        let took = format!("{:>6.1} s", part_start.elapsed().as_secs_f64());
        match &result {
            Ok(()) => lines.push(format!("  {} {took}  {}", good("✔"), part.what())),
            Err(error) => {
                println!("{} {error:#}", bad("✘"));
                lines.push(format!("  {} {took}  {}", bad("✘"), part.what()));
                failed.push(part.what());
            }
        }
        if result.is_err() && !arguments.keep_going {
            break;
        }
    }
    println!("\n{}", lines.join("\n"));
    let took = start.elapsed().as_secs_f64();
    if !failed.is_empty() {
        bail!("failed after {took:.0} s: {}", failed.join("; "));
    }
    println!("{} in {took:.0} s", good("everything passes"));
    Ok(())
}

/// The programs of Kubernetes are built first, once on a machine.
fn cluster() -> anyhow::Result<()> {
    let tools = [
        packages::IPROUTE,
        packages::NSENTER,
        packages::PING,
        packages::FAKETIME,
    ];
    packages::ensure(&tools, |text| println!("  {text}"))?;
    from_modules("the programs of Kubernetes", &modules::CLUSTER)?;
    build_programs(true)?;
    let arguments = ["test", "--locked", "--package", LAB_PACKAGE];
    let arguments = [arguments.as_slice(), &["--test", "cluster"]].concat();
    again::test(&arguments, &["--test-threads", "3"])
}

/// Builds them, if they are not there.
fn from_modules(what: &str, modules: &[Module]) -> anyhow::Result<()> {
    step(what, |step| {
        modules::ensure(modules, &|progress| match progress {
            Progress::Step(text) => step.say(text),
            Progress::Now(text) => step.now(text),
        })?;
        Ok(String::new())
    })
}

fn deny() -> anyhow::Result<()> {
    let program = cargo_deny(|text| println!("  {text}"))?;
    let mut command = std::process::Command::new(program);
    command
        .args([
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ])
        .current_dir(root());
    run_command(&mut command, "cargo deny check licenses bans sources")
}

/// Each in a process of its own, as a person would start it.
fn demos() -> anyhow::Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    for tor in ["routeshare", "bird", "frr"] {
        let mut command = std::process::Command::new(Path::new(&own));
        command.args(["demo", "--exit", "--tor", tor]);
        run_command(
            &mut command,
            &format!("cargo xtask demo --exit --tor {tor}"),
        )?;
    }
    Ok(())
}

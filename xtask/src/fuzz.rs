//! `cargo xtask fuzz`: libFuzzer looks for bytes that break what `crates/bgp/fuzz` says must hold.
//!
//! It works with the stable compiler: what libFuzzer needs to see which code an input reaches is an
//! LLVM pass that `-C passes` turns on. (`cargo fuzz run` does the same, where that is installed; it
//! finds the same targets.) What is found goes to `target/fuzzing`, never into the tree by itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use lab::packages;

use crate::cargo::{cargo, root, run as run_command, target_directory};
use crate::progress::{bad, dim, step};

/// What the compiler has to do so that libFuzzer sees where an input leads.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// The longest input, in octets.
const LONGEST: &str = "4096";

/// Look for bytes, and orders of events, that break the BGP engine or the resolver
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    target: Vec<Target>,
    /// How long each is run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u64,
    /// How often each is run, instead of how long
    #[arg(long)]
    runs: Option<u64>,
    /// Run this input alone, as a debugger would want it
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    replay: Option<PathBuf>,
    /// Then add inputs that reach code which no kept one reaches to the kept ones
    #[arg(long)]
    keep: bool,
}

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Bytes from the wire
    Decoder,
    /// One session, events in any order
    Session,
    /// A whole engine, events in any order, against a model
    Decision,
    /// Questions about names of containers, and replies to them
    Names,
}

impl Target {
    const ALL: [Target; 4] = [
        Target::Decoder,
        Target::Session,
        Target::Decision,
        Target::Names,
    ];

    fn name(self) -> &'static str {
        match self {
            Target::Decoder => "decoder",
            Target::Session => "session",
            Target::Decision => "decision",
            Target::Names => "names",
        }
    }

    /// How often `cargo xtask test` runs it: about a quarter of a minute each.
    fn runs_in_tests(self) -> u64 {
        match self {
            Target::Decoder => 200_000,
            Target::Session => 30_000,
            Target::Decision => 2_500,
            Target::Names => 100_000,
        }
    }
}

/// How long a target is run.
#[derive(Clone, Copy)]
enum Budget {
    Seconds(u64),
    Runs(u64),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let wanted = match arguments.target.as_slice() {
        [] => &Target::ALL[..],
        some => some,
    };
    let binaries = build()?;
    if let Some(file) = &arguments.replay {
        let [target] = wanted else {
            bail!("whose input is it? Say --target decoder, session, decision or names");
        };
        let mut program = Command::new(binaries.join(target.name()));
        program.arg(file).env("RUST_BACKTRACE", "1");
        run_command(&mut program, target.name()).context("the input still breaks something")?;
        println!("nothing is broken by {}", file.display());
        return Ok(());
    }
    let budget = match arguments.runs {
        Some(runs) => Budget::Runs(runs),
        None => Budget::Seconds(arguments.time),
    };
    let mut broken = Vec::new();
    for target in wanted {
        let found = place()?.join("corpus").join(target.name());
        fs::create_dir_all(&found)?;
        let fuzzed = fuzz(*target, &binaries, &found, budget, None);
        if let Err(error) = fuzzed {
            eprintln!("{} {error:#}", bad("✘"));
            broken.push(target.name());
        } else if arguments.keep {
            keep(*target, &binaries, &found)?;
        }
    }
    ensure!(broken.is_empty(), "broken: {}", broken.join(", "));
    Ok(())
}

/// A fixed number of runs from the kept corpus, the same each time: a part of `cargo xtask test`.
///
/// # Errors
///
/// When something is broken; the input is kept as a file.
pub(crate) fn test() -> anyhow::Result<()> {
    let binaries = build()?;
    for target in Target::ALL {
        let found = place()?.join("test").join(target.name());
        // What an earlier run found would make this one another one.
        if found.exists() {
            fs::remove_dir_all(&found)?;
        }
        fs::create_dir_all(&found)?;
        let runs = Budget::Runs(target.runs_in_tests());
        fuzz(target, &binaries, &found, runs, Some(1))?;
    }
    Ok(())
}

/// Where everything is that this makes.
fn place() -> anyhow::Result<PathBuf> {
    let target = target_directory().context("cannot tell where this program was built")?;
    Ok(target.join("fuzzing"))
}

/// The folder of the programs.
fn build() -> anyhow::Result<PathBuf> {
    packages::ensure(&[packages::CXX], |text| println!("  {text}"))?;
    let place = place()?.join("build");
    let host = host()?;
    let mut build = cargo(&[
        "build",
        "--locked",
        "--quiet",
        "--profile",
        "fuzz",
        "--package",
        "bgp-fuzz",
        "--bins",
        "--features",
        "libfuzzer",
        "--target",
        &host,
    ]);
    build
        .env("CARGO_TARGET_DIR", &place)
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    step("building the fuzz targets", |_| {
        run_command(&mut build, "the build of the fuzz targets")?;
        Ok(String::new())
    })?;
    Ok(place.join(host).join("fuzz"))
}

/// The compiler's name for this kind of machine.
fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = lab::output(Command::new(rustc).arg("-vV").current_dir(root()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc -vV does not name its host")
}

fn kept(kind: &str, target: Target) -> PathBuf {
    root()
        .join("crates/bgp/fuzz")
        .join(kind)
        .join(target.name())
}

/// Runs libFuzzer; what reaches new code goes to `found`.
fn fuzz(
    target: Target,
    binaries: &Path,
    found: &Path,
    budget: Budget,
    seed: Option<u32>,
) -> anyhow::Result<()> {
    let name = target.name();
    let crashes = place()?.join("crashes");
    fs::create_dir_all(&crashes)?;
    let mut program = Command::new(binaries.join(name));
    program
        .arg(found)
        .arg(kept("corpus", target))
        // Not there for a target in which nothing was ever found.
        .args(Some(kept("found", target)).filter(|folder| folder.is_dir()))
        .arg(format!("-artifact_prefix={}/{name}-", crashes.display()))
        .arg(format!("-max_len={LONGEST}"))
        // An input of 4 KiB needs none of these; what does is a mistake too.
        .args(["-timeout=20", "-rss_limit_mb=1024", "-malloc_limit_mb=64"])
        .args(["-len_control=0", "-print_final_stats=1"])
        .env("RUST_BACKTRACE", "1");
    match budget {
        Budget::Seconds(seconds) => program.arg(format!("-max_total_time={seconds}")),
        Budget::Runs(runs) => program.arg(format!("-runs={runs}")),
    };
    if let Some(seed) = seed {
        program.arg(format!("-seed={seed}"));
    }
    step(&format!("fuzzing {name}"), |step| {
        let mut child = program
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = child.stderr.take().context("its output is not there")?;
        let mut said = Vec::new();
        let mut last = String::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            let is_progress = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            if line.strip_prefix('#').is_some_and(is_progress) {
                // `#16384  pulse  cov: 1090 ft: 2122 corp: 293/14Kb lim: 2048 exec/s: 5461 …`
                last = line
                    .split_whitespace()
                    .take(8)
                    .collect::<Vec<_>>()
                    .join(" ");
                step.now(&last);
            } else {
                said.push(line);
            }
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(last);
        }
        let broken = said.join("\n");
        let file = (said.iter()).find_map(|line| line.split_once("Test unit written to "));
        let Some((_, file)) = file else {
            bail!("{name} failed ({status}):\n{broken}");
        };
        let what = said.iter().position(|line| line.contains("panicked at"));
        let what = &said[what.unwrap_or(0)..];
        let what = what[..what.len().min(12)].join("\n");
        shrink(target, binaries, Path::new(file));
        bail!(
            "{what}\n{} {file}\n{} cargo xtask fuzz --target {name} --replay {file}\n{} \
             put it into {} with a name that says what it found, and mend what is broken",
            dim("the input: "),
            dim("again by:  "),
            dim("to keep it:"),
            kept("found", target).display()
        )
    })
}

/// Makes the input smaller for a while, in place; one that stays as it is will do, too.
fn shrink(target: Target, binaries: &Path, file: &Path) {
    let small = file.with_extension("small");
    let made = Command::new(binaries.join(target.name()))
        .args(["-minimize_crash=1", "-max_total_time=20"])
        .arg(format!("-exact_artifact_path={}", small.display()))
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if made.is_ok() && small.exists() && fs::rename(&small, file).is_err() {
        eprintln!("the smaller input is {}", small.display());
    }
}

/// Adds what reaches more than the kept corpus does.
fn keep(target: Target, binaries: &Path, found: &Path) -> anyhow::Result<()> {
    let corpus = kept("corpus", target);
    let count = || anyhow::Ok(fs::read_dir(&corpus)?.count());
    let before = count()?;
    let mut merge = Command::new(binaries.join(target.name()));
    merge
        .arg("-merge=1")
        .arg(format!("-max_len={LONGEST}"))
        .arg(&corpus)
        .arg(found)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let what = format!("keeping what {} found", target.name());
    step(&what, |_| {
        run_command(&mut merge, "the merge")?;
        Ok(format!("{before} inputs became {}", count()?))
    })
}

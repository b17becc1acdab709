//! `cargo xtask bench`: builds the release programs and lets `bench` measure them.

use std::ffi::OsString;

use anyhow::Context as _;

use crate::cargo;

/// Everything behind `bench` goes to the program of that name; `cargo xtask bench --help` shows it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// See `cargo xtask bench --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Measures this program beside others.
///
/// # Errors
///
/// When the build fails, or the measurement.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut build = vec!["build", "--locked", "--release"];
    for package in [
        "routeshare-speaker",
        "routeshare-bfd",
        "routeshare-controller",
        "bgpctl",
        "bench",
    ] {
        build.extend(["-p", package]);
    }
    cargo::run(&mut cargo::cargo(&build), "the release build")?;
    let asked = |scenario: &str| {
        arguments
            .arguments
            .iter()
            .any(|it| it == scenario || *it == *format!("--scenario={scenario}"))
    };
    if asked("cni") || asked("pods") {
        // As an installation has it.
        let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        let build = ["build", "--locked", "--release", "-p", "routeshare-cni"];
        let build = [build.as_slice(), &["--target", &target]].concat();
        cargo::run(&mut cargo::cargo(&build), "the static build of the plugin")
            .with_context(|| format!("it needs the target: rustup target add {target}"))?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let binaries = cargo::root().join(target).join("release");
    let mut bench = std::process::Command::new(binaries.join("bench"));
    bench
        .arg("--binaries")
        .arg(&binaries)
        .args(&arguments.arguments)
        .current_dir(cargo::root());
    cargo::run(&mut bench, "bench").context("nothing was measured to the end")
}

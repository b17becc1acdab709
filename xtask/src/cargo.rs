//! Running cargo, and tools that cargo installs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The repository: where the workspace's Cargo.toml is.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The cargo that runs us, in the repository.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    if let Some(target) = target_directory() {
        command.env("CARGO_TARGET_DIR", target);
    }
    // Set for us by `cargo run`; a nested cargo must not take it for its own.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Where this program was built, however it was started: what it builds has to be found beside it.
pub(crate) fn target_directory() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.parent()?.parent().map(Path::to_owned)
}

/// Builds our programs, where [`lab::program`] finds them: in the profile we were built with.
pub(crate) fn build_programs(quiet: bool) -> anyhow::Result<()> {
    let mut arguments = vec!["build", "--locked"];
    for package in [
        "routeshare-speaker",
        "routeshare-controller",
        "routeshare-bfd",
        "routeshare-cni",
        "bgpctl",
    ] {
        arguments.extend(["-p", package]);
    }
    if !cfg!(debug_assertions) {
        arguments.push("--release");
    }
    let mut command = cargo(&arguments);
    if quiet {
        command.arg("--quiet");
    }
    run(&mut command, "the build of our programs")
}

/// Builds the speaker once more with other settings, as `routeshare-speaker-other` beside the first: what
/// an upgrade brings is another program that finds the files of the last one.
///
/// # Errors
///
/// When it cannot be built or copied.
pub(crate) fn build_other_speaker() -> anyhow::Result<()> {
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    let other = format!("profile.{profile}.package.routeshare-speaker.opt-level=1");
    let mut arguments = vec!["build", "--locked", "--quiet", "-p", "routeshare-speaker"];
    arguments.extend(["--config", &other]);
    if profile == "release" {
        arguments.push("--release");
    }
    run(&mut cargo(&arguments), "another build of the speaker")?;
    let built = lab::program("routeshare-speaker")?;
    let copy = built.with_file_name("routeshare-speaker-other");
    std::fs::copy(&built, &copy)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", built.display(), copy.display()))
}

/// Runs a command whose output goes where ours goes.
pub(crate) fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// `cargo-deny`, wherever it is; installed into a cache of ours when it is nowhere.
///
/// # Errors
///
/// When it is missing and cannot be installed, with how to get it.
pub(crate) fn cargo_deny(say: impl Fn(&str)) -> anyhow::Result<PathBuf> {
    const NAME: &str = "cargo-deny";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = lab::packages::cache()?;
    let places = std::env::split_paths(&path).chain([cache.join("bin")]);
    if let Some(found) = places
        .map(|place| place.join(NAME))
        .find(|file| file.is_file())
    {
        return Ok(found);
    }
    say(&format!(
        "installing {NAME} into {} (once; some minutes)",
        cache.display()
    ));
    // Unoptimised: it is built much sooner, and fast enough for a workspace of this size.
    let mut install = cargo(&["install", NAME, "--locked", "--debug", "--quiet", "--root"]);
    install.arg(&cache);
    // Not into our own target directory: it has other dependencies.
    install.env_remove("CARGO_TARGET_DIR").current_dir("/");
    run(&mut install, "cargo install cargo-deny").context(
        "cargo-deny is missing; get it by: cargo install cargo-deny --locked (or your distribution's \
         package)",
    )?;
    Ok(cache.join("bin").join(NAME))
}

//! The commands of Kubernetes that a cluster is made of: those in `KUBEBUILDER_ASSETS`, where it is
//! set, otherwise our own, built once from the Go module `tests/cluster/kube`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use ring::digest::{Context as Digest, SHA256};

use crate::packages::{self, GO};
use crate::process::output;

/// Where controller-runtime's tests look for the same programs.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Where the Go module is, in this package.
const MODULE: &str = "cluster/kube";
const GO_MOD: &str = include_str!("../../cluster/kube/go.mod");
const GO_SUM: &str = include_str!("../../cluster/kube/go.sum");

/// A program, and the Go package it is the command of.
struct Asset {
    program: &'static str,
    package: &'static str,
}

/// A new one needs a line in `tools.go`, and `go mod tidy`.
const ASSETS: [Asset; 4] = [
    asset("etcd", "go.etcd.io/etcd/server/v3"),
    asset("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    asset(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    asset("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

const fn asset(program: &'static str, package: &'static str) -> Asset {
    Asset { program, package }
}

/// Told while they are built.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Something that stays to be read.
    Step(&'a str),
    /// What is done at the moment.
    Now(&'a str),
}

/// Where a program of Kubernetes is.
///
/// # Errors
///
/// When it is not there, with what makes it.
pub(super) fn find(program: &str) -> anyhow::Result<PathBuf> {
    if let Some(directory) = given() {
        let path = directory.join(program);
        if !path.is_file() {
            bail!(
                "{VARIABLE} is {}, and there is no {program} in it; unset {VARIABLE} and run \
                 `cargo xtask test --only cluster`, which builds all that is needed",
                directory.display()
            );
        }
        return Ok(path);
    }
    let path = cache()?.join(program);
    if !path.is_file() {
        bail!(
            "{} is not there; `cargo xtask test --only cluster` builds it, or set {VARIABLE} to a \
             directory that has it",
            path.display()
        );
    }
    Ok(path)
}

/// Builds what is missing.
///
/// # Errors
///
/// When something is missing in `KUBEBUILDER_ASSETS`; when there is no Go and none can be installed;
/// when the build fails.
pub fn ensure(tell: &dyn Fn(Progress<'_>)) -> anyhow::Result<()> {
    let missing = |directory: &Path| -> Vec<&Asset> {
        let there = |asset: &&Asset| !directory.join(asset.program).is_file();
        ASSETS.iter().filter(there).collect()
    };
    if let Some(directory) = given() {
        let missing = missing(&directory);
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(|asset| asset.program).collect();
        bail!(
            "{VARIABLE} is {}, and these are missing in it: {}; unset {VARIABLE} to have all of \
             them built",
            directory.display(),
            names.join(", ")
        );
    }
    let cache = cache()?;
    if missing(&cache).is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join(".lock"))?;
    tell(Progress::Now("waiting for another build of Kubernetes"));
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", cache.display()))?;
    let missing = missing(&cache);
    if missing.is_empty() {
        return Ok(()); // the other build made them
    }
    packages::ensure(&[GO], |text| tell(Progress::Step(text)))
        .context("Kubernetes is built from its Go modules")?;
    check_go()?;
    tell(Progress::Step(&format!(
        "building Kubernetes {} and etcd into {} (once; 8 to 10 minutes on two cores)",
        version()?,
        cache.display()
    )));
    for asset in missing {
        build(asset, &cache, tell)
            .with_context(|| format!("cannot build {} from {}", asset.program, asset.package))?;
    }
    Ok(())
}

fn given() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|directory| !directory.is_empty())
        .map(PathBuf::from)
}

/// Outside of the clone, as tools that cargo installs are; another for every other go.mod or go.sum.
fn cache() -> anyhow::Result<PathBuf> {
    let mut digest = Digest::new(&SHA256);
    digest.update(GO_MOD.as_bytes());
    digest.update(GO_SUM.as_bytes());
    let digest: String = digest.finish().as_ref()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = format!("kubernetes-{}-{digest}", version()?);
    Ok(crate::packages::cache()?.join(name))
}

/// Such as `v1.36.2`.
fn version() -> anyhow::Result<&'static str> {
    GO_MOD
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|rest| rest.split_whitespace().next())
        .context("tests/cluster/kube/go.mod names no version of k8s.io/kubernetes")
}

/// The Go that go.mod asks for, or a newer one.
fn check_go() -> anyhow::Result<()> {
    let needed = GO_MOD.lines().find_map(|line| line.strip_prefix("go "));
    let needed = needed.context("tests/cluster/kube/go.mod does not say which Go it needs")?;
    let advice = || {
        format!(
            "Kubernetes is built by Go {needed} or newer; install that (https://go.dev/dl, or your \
             distribution's backports) and put it into PATH or /usr/local/go, or let go get it \
             (GOTOOLCHAIN=auto, from Go 1.21 on), or set {VARIABLE} to a directory with the programs"
        )
    };
    let said = output(&mut go(&["version"])?).with_context(advice)?;
    let found = said.split_whitespace().nth(2).unwrap_or_default();
    let found = found.trim_start_matches("go");
    anyhow::ensure!(
        numbers(found) >= numbers(needed),
        "this is Go {found}. {}",
        advice()
    );
    Ok(())
}

/// `1.26.8` as numbers; what is none ends it.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

fn go(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(GO.find().context("there is no go")?);
    command
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(MODULE))
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .env("GOFLAGS", "-mod=readonly");
    Ok(command)
}

fn build(asset: &Asset, cache: &Path, tell: &dyn Fn(Progress<'_>)) -> anyhow::Result<()> {
    tell(Progress::Now(&format!("{}: its modules", asset.program)));
    let packages = output(&mut go(&["list", "-deps", asset.package])?)?;
    let all = packages.lines().count();
    // Unstamped it calls itself v0.0.0-master, which clients refuse.
    let mut parts = version()?.trim_start_matches('v').split('.');
    let stamp =
        |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    let flags = [
        "-s -w".to_owned(),
        stamp("gitVersion", version()?),
        stamp("gitMajor", parts.next().unwrap_or_default()),
        stamp("gitMinor", parts.next().unwrap_or_default()),
    ]
    .concat();
    // Under its own name only when it is whole.
    let unfinished = cache.join(format!(".{}", asset.program));
    let mut command = go(&["build", "-v", "-trimpath", "-ldflags", &flags, "-o"])?;
    command.arg(&unfinished).arg(asset.package);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start go")?;
    let stderr = child.stderr.take().context("go has no output")?;
    let complaints = follow(stderr, |built| {
        tell(Progress::Now(&format!(
            "{}: {built} packages of at most {all}",
            asset.program
        )));
    })?;
    let status = child.wait()?;
    if !status.success() {
        bail!("go build ended with {status}:\n{complaints}");
    }
    fs::rename(&unfinished, cache.join(asset.program))?;
    tell(Progress::Step(&format!("{} is built", asset.program)));
    Ok(())
}

/// Calls `built` with the number of packages compiled so far; gives the lines that name no package.
fn follow(stderr: impl Read, built: impl Fn(usize)) -> anyhow::Result<String> {
    let mut number = 0;
    let mut complaints = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        // A package's path has no blanks; what the compiler says of one has.
        if line.contains(' ') {
            complaints.push_str(&line);
            complaints.push('\n');
        } else {
            number += 1;
            built(number);
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_says_which_kubernetes() {
        let version = version().expect("go.mod has it");
        assert!(version.starts_with("v1."), "{version}");
        let tools = include_str!("../../cluster/kube/tools.go");
        for asset in &ASSETS {
            assert!(tools.contains(asset.package), "{}", asset.package);
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("1.26.0") > numbers("1.9.12"));
        assert!(numbers("1.19") < numbers("1.26.0"));
        assert_eq!(numbers("1.26rc1"), [1]);
    }

    #[test]
    fn packages_are_counted_and_complaints_kept() {
        let said = "internal/abi\nk8s.io/api/core/v1\n# k8s.io/x\nx.go:1: undefined: y\n";
        let complaints = follow(said.as_bytes(), |_| {}).expect("bytes can be read");
        assert_eq!(complaints, "# k8s.io/x\nx.go:1: undefined: y\n");
    }
}

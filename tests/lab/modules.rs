//! Programs that are built once from Go modules of ours, whose `go.sum` pins every byte.
//!
//! - [`CLUSTER`]: the commands of Kubernetes that a cluster is made of: those in `KUBEBUILDER_ASSETS`, where it
//!   is set, otherwise `tests/cluster/kube`; and Helm, `tests/cluster/helm`;
//! - [`CNI`]: cnitool and the reference plugins, `tests/interop/cni/reference`.

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

/// A Go module in this package, and the programs that are built from it.
#[derive(Debug)]
pub struct Module {
    /// What its cache is called after.
    name: &'static str,
    /// Where it is.
    folder: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// Whose version is that of the programs.
    main: &'static str,
    assets: &'static [Asset],
    /// They are what [`VARIABLE`] stands for.
    given: bool,
    /// What has them built.
    part: &'static str,
    /// How long it takes, on two cores.
    takes: &'static str,
    /// What the linker is to write into the programs, for this version.
    stamps: fn(&str) -> String,
}

/// A program, and the Go package it is the command of.
#[derive(Debug)]
struct Asset {
    program: &'static str,
    package: &'static str,
}

/// What a cluster is made of. A new program needs a line in `tools.go`, and `go mod tidy`.
pub static CLUSTER: [Module; 2] = [KUBERNETES, HELM];

/// What drives CNI plugins, and the plugins that ours are chained with.
pub static CNI: [Module; 1] = [PLUGINS];

const KUBERNETES: Module = Module {
    name: "kubernetes",
    folder: "cluster/kube",
    go_mod: include_str!("../cluster/kube/go.mod"),
    go_sum: include_str!("../cluster/kube/go.sum"),
    main: "k8s.io/kubernetes",
    assets: &[
        asset("etcd", "go.etcd.io/etcd/server/v3"),
        asset("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        asset(
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        asset("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    given: true,
    part: "cluster",
    takes: "8 to 10 minutes",
    // Unstamped it calls itself v0.0.0-master, which clients refuse.
    stamps: |version| {
        let mut parts = version.trim_start_matches('v').split('.');
        let stamp =
            |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
        [
            stamp("gitVersion", version),
            stamp("gitMajor", parts.next().unwrap_or_default()),
            stamp("gitMinor", parts.next().unwrap_or_default()),
        ]
        .concat()
    },
};

const HELM: Module = Module {
    name: "helm",
    folder: "cluster/helm",
    go_mod: include_str!("../cluster/helm/go.mod"),
    go_sum: include_str!("../cluster/helm/go.sum"),
    main: "helm.sh/helm/v3",
    assets: &[asset("helm", "helm.sh/helm/v3/cmd/helm")],
    given: false,
    part: "cluster",
    takes: "one or two minutes",
    stamps: |version| format!(" -X helm.sh/helm/v3/internal/version.version={version}"),
};

const PLUGINS: Module = Module {
    name: "cni-plugins",
    folder: "interop/cni/reference",
    go_mod: include_str!("../interop/cni/reference/go.mod"),
    go_sum: include_str!("../interop/cni/reference/go.sum"),
    main: "github.com/containernetworking/plugins",
    assets: &[
        asset("cnitool", "github.com/containernetworking/cni/cnitool"),
        asset(
            "bandwidth",
            "github.com/containernetworking/plugins/plugins/meta/bandwidth",
        ),
        asset(
            "bridge",
            "github.com/containernetworking/plugins/plugins/main/bridge",
        ),
        asset(
            "host-local",
            "github.com/containernetworking/plugins/plugins/ipam/host-local",
        ),
        asset(
            "loopback",
            "github.com/containernetworking/plugins/plugins/main/loopback",
        ),
        asset(
            "portmap",
            "github.com/containernetworking/plugins/plugins/meta/portmap",
        ),
        asset(
            "ptp",
            "github.com/containernetworking/plugins/plugins/main/ptp",
        ),
        asset(
            "tuning",
            "github.com/containernetworking/plugins/plugins/meta/tuning",
        ),
    ],
    given: false,
    part: "lab",
    takes: "one or two minutes",
    stamps: |version| {
        format!(
            " -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}"
        )
    },
};

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

/// Where a program is.
///
/// # Errors
///
/// When it is not there, with what makes it.
pub(crate) fn find(program: &str) -> anyhow::Result<PathBuf> {
    let of = |module: &&Module| module.assets.iter().any(|it| it.program == program);
    let module = CLUSTER.iter().chain(&CNI).find(of);
    let module = module.with_context(|| format!("no module has a program {program}"))?;
    if let Some(directory) = module.given() {
        let path = directory.join(program);
        if !path.is_file() {
            bail!(
                "{VARIABLE} is {}, and there is no {program} in it; unset {VARIABLE} and run \
                 `cargo xtask test --only {}`, which builds all that is needed",
                directory.display(),
                module.part
            );
        }
        return Ok(path);
    }
    let path = module.cache()?.join(program);
    if !path.is_file() {
        bail!(
            "{} is not there; `cargo xtask test --only {}` builds it{}",
            path.display(),
            module.part,
            match module.given {
                true => format!(", or set {VARIABLE} to a directory that has it"),
                false => String::new(),
            }
        );
    }
    Ok(path)
}

/// Builds what is missing of [`CLUSTER`] or [`CNI`].
///
/// # Errors
///
/// When something is missing in `KUBEBUILDER_ASSETS`; when there is no Go and none can be installed;
/// when the build fails.
pub fn ensure(modules: &[Module], tell: &dyn Fn(Progress<'_>)) -> anyhow::Result<()> {
    for module in modules {
        module.ensure(tell)?;
    }
    Ok(())
}

impl Module {
    /// The directory that somebody has given us.
    fn given(&self) -> Option<PathBuf> {
        std::env::var_os(VARIABLE)
            .filter(|directory| self.given && !directory.is_empty())
            .map(PathBuf::from)
    }

    /// Outside of the clone, as tools that cargo installs are; another for every other go.mod or go.sum.
    fn cache(&self) -> anyhow::Result<PathBuf> {
        let mut digest = Digest::new(&SHA256);
        digest.update(self.go_mod.as_bytes());
        digest.update(self.go_sum.as_bytes());
        let digest: String = digest.finish().as_ref()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = format!("{}-{}-{digest}", self.name, self.version()?);
        Ok(crate::packages::cache()?.join(name))
    }

    /// Such as `v1.36.2`.
    fn version(&self) -> anyhow::Result<&'static str> {
        let words = self.go_mod.lines().map(str::split_whitespace);
        let after_main = words.filter_map(|mut words| {
            let main = words.by_ref().find(|word| *word != "require")?;
            words.next().filter(|_| main == self.main)
        });
        let version = after_main.into_iter().next();
        version.with_context(|| format!("{}/go.mod names no version of {}", self.folder, self.main))
    }

    fn missing(&self, directory: &Path) -> Vec<&'static Asset> {
        let there = |asset: &&Asset| !directory.join(asset.program).is_file();
        self.assets.iter().filter(there).collect()
    }

    fn ensure(&self, tell: &dyn Fn(Progress<'_>)) -> anyhow::Result<()> {
        if let Some(directory) = self.given() {
            let missing = self.missing(&directory);
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
        let cache = self.cache()?;
        if self.missing(&cache).is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::create(cache.join(".lock"))?;
        tell(Progress::Now(&format!(
            "waiting for another build of {}",
            self.name
        )));
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {}", cache.display()))?;
        let missing = self.missing(&cache);
        if missing.is_empty() {
            return Ok(()); // the other build made them
        }
        packages::ensure(&[GO], |text| tell(Progress::Step(text)))
            .with_context(|| format!("{} is built from its Go modules", self.name))?;
        self.check_go()?;
        tell(Progress::Step(&format!(
            "building {} {} into {} (once; {} on two cores)",
            self.name,
            self.version()?,
            cache.display(),
            self.takes
        )));
        for asset in missing {
            self.build(asset, &cache, tell).with_context(|| {
                format!("cannot build {} from {}", asset.program, asset.package)
            })?;
        }
        Ok(())
    }

    /// The Go that go.mod asks for, or a newer one.
    fn check_go(&self) -> anyhow::Result<()> {
        let needed = self
            .go_mod
            .lines()
            .find_map(|line| line.strip_prefix("go "));
        let needed =
            needed.with_context(|| format!("{}/go.mod does not say which Go", self.folder))?;
        let advice = || {
            format!(
                "{} is built by Go {needed} or newer; install that (https://go.dev/dl, or your \
                 distribution's backports) and put it into PATH or /usr/local/go, or let go get it \
                 (GOTOOLCHAIN=auto, from Go 1.21 on){}",
                self.name,
                match self.given {
                    true => format!(", or set {VARIABLE} to a directory with the programs"),
                    false => String::new(),
                }
            )
        };
        let said = output(&mut self.go(&["version"])?).with_context(advice)?;
        let found = said.split_whitespace().nth(2).unwrap_or_default();
        let found = found.trim_start_matches("go");
        anyhow::ensure!(
            numbers(found) >= numbers(needed),
            "this is Go {found}. {}",
            advice()
        );
        Ok(())
    }

    fn go(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(GO.find().context("there is no go")?);
        command
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder))
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .env("GOFLAGS", "-mod=readonly");
        Ok(command)
    }

    fn build(
        &self,
        asset: &Asset,
        cache: &Path,
        tell: &dyn Fn(Progress<'_>),
    ) -> anyhow::Result<()> {
        tell(Progress::Now(&format!("{}: its modules", asset.program)));
        let packages = output(&mut self.go(&["list", "-deps", asset.package])?)?;
        let all = packages.lines().count();
        let flags = format!("-s -w{}", (self.stamps)(self.version()?));
        // Under its own name only when it is whole.
        let unfinished = cache.join(format!(".{}", asset.program));
        let mut command = self.go(&["build", "-v", "-trimpath", "-ldflags", &flags, "-o"])?;
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
}

/// `1.26.8` as numbers; what is none ends it.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
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
    fn the_modules_say_which_versions_and_programs() {
        let tools = [
            include_str!("../cluster/kube/tools.go"),
            include_str!("../cluster/helm/tools.go"),
            include_str!("../interop/cni/reference/tools.go"),
        ];
        let modules = CLUSTER.iter().chain(&CNI);
        for ((module, tools), begins) in modules.zip(tools).zip(["v1.", "v3.", "v1."]) {
            let version = module.version().expect("go.mod has it");
            assert!(version.starts_with(begins), "{version}");
            for asset in module.assets {
                assert!(tools.contains(asset.package), "{}", asset.package);
            }
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

//! A second kernel, for tests that need drivers which that of this machine lacks: Debian's User-Mode Linux, a
//! kernel that runs as a program. It sees this machine's files, read-only, and none of its networks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::namespace::Lab;
use crate::packages::{self, Tool};
use crate::process::{Daemon, output};
use crate::wait::try_wait_for;

/// What it needs.
pub const TOOLS: [Tool; 4] = [
    packages::USER_MODE_LINUX,
    packages::KMOD,
    packages::IPTABLES,
    packages::CXX,
];
/// Drivers of it that every lab needs.
const MODULES: [&str; 6] = [
    "ipv6",
    "veth",
    "bridge",
    "macvlan",
    "8021q",
    "iptable_filter",
];
/// Where the Debian package has them.
const DIRECTORY: &str = "/usr/lib/uml/modules";
/// Where it can write: empty there, but for what the test reads.
const COVERED: [&str; 3] = ["/tmp", "/run", "/var"];
/// Set for a test that runs there.
const INSIDE: &str = "ROUTESHARE_SECOND_KERNEL";
/// Printed behind the test's own words.
const PASSED: &str = "the test has passed";
const ENDED: &str = "the second kernel ends";
/// It takes ten times as long there.
const DEADLINE: Duration = Duration::from_secs(240);

/// Whether this is the second kernel.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs one test of the running test program, `cni::ipvlan::a_test`, under the second kernel with a further
/// driver such as `ipvlan`.
///
/// # Errors
///
/// When it fails, with what it printed; when the Debian packages user-mode-linux, kmod and g++ are missing.
pub fn test(name: &str, driver: &str) -> anyhow::Result<()> {
    if let Some(tool) = packages::missing(&TOOLS).first() {
        let package = tool.package;
        bail!("missing: apt-get install {package} (cargo xtask test --only lab does it)");
    }
    let lab = Lab::new()?;
    let directory = lab.directory();
    let registers = registers(directory)?;
    let script = directory.join("init");
    fs::write(&script, init(name, driver)?)?;
    let log = directory.join("second-kernel.log");
    let mut command = Command::new(
        packages::USER_MODE_LINUX
            .find()
            .context("linux.uml is gone")?,
    );
    command
        .args(["mem=768M", "quiet", "panic=-1"])
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        .args(["con=null", "con0=null,fd:1"])
        .args(["init=/bin/sh", "--"])
        .arg(&script)
        .env("TMPDIR", directory)
        .env("LD_PRELOAD", &registers)
        .env("LD_BIND_NOW", "1");
    let _kernel = Daemon::start("the second kernel", command, &log)?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let ended = try_wait_for("the second kernel to end", DEADLINE, || {
        let said = said();
        anyhow::ensure!(
            said.contains(ENDED) || said.contains("Kernel panic"),
            "{said}"
        );
        Ok(said)
    });
    match ended {
        Ok(said) if said.contains(PASSED) => Ok(()),
        Ok(said) => bail!("{name} failed under the second kernel:\n{said}"),
        Err(timed_out) => Err(timed_out.into()),
    }
}

/// Compiles what makes it run on newer processors.
fn registers(directory: &Path) -> anyhow::Result<PathBuf> {
    let source = directory.join("registers.c");
    fs::write(&source, include_str!("second_kernel/registers.c"))?;
    let library = directory.join("registers.so");
    let mut command = Command::new("cc");
    command
        .args(["-O1", "-shared", "-fPIC", "-Wl,-z,now", "-o"])
        .args([&library, &source]);
    output(&mut command)?;
    Ok(library)
}

/// What the kernel starts: a script that makes it a machine and runs the test.
fn init(name: &str, driver: &str) -> anyhow::Result<String> {
    let (release, order) = modules(driver)?;
    let load: String = order
        .iter()
        .map(|module| format!("insmod {DIRECTORY}/{release}/{module} || exit 1\n"))
        .collect();
    let program = std::env::current_exe()?;
    let uncover: String = needed(&program)
        .iter()
        .map(|tree| format!("mkdir -p '{tree}' && mount --bind '/mnt{tree}' '{tree}' || exit 1\n"))
        .collect();
    let variables: String = ["PATH", "HOME", "XDG_CACHE_HOME", "ROUTESHARE_BIN"]
        .iter()
        .filter_map(|name| Some((name, std::env::var(name).ok()?)))
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
        .collect();
    Ok(format!(
        "(\n{variables}export PATH=\"$PATH:/usr/sbin:/sbin\" {INSIDE}=1\n\
         mount -t proc proc /proc && mount -t sysfs sysfs /sys || exit 1\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount --bind / /mnt || exit 1\n\
         for directory in {covered}; do mount -t tmpfs tmpfs $directory || exit 1; done\n\
         mkdir -p /var/lib /run/netns\n\
         {uncover}\
         {load}\
         ip link set lo up\n\
         cd /tmp && '{}' --exact '{name}' --nocapture --test-threads 1 && echo '{PASSED}'\n\
         ) 2>&1\n\
         echo '{ENDED}'\n\
         echo o > /proc/sysrq-trigger\n\
         sleep 60\n",
        program.display(),
        covered = COVERED.join(" "),
    ))
}

/// What the test reads that is in one of the directories that are [`COVERED`].
fn needed(program: &Path) -> Vec<String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let target = program.parent().and_then(Path::parent);
    let variables = ["ROUTESHARE_BIN", "XDG_CACHE_HOME", "HOME"];
    let said = variables.iter().filter_map(std::env::var_os);
    let trees = said.map(PathBuf::from).chain(
        [repository, target]
            .into_iter()
            .flatten()
            .map(Path::to_path_buf),
    );
    trees
        .filter(|tree| COVERED.iter().any(|covered| tree.starts_with(covered)))
        .map(|tree| tree.display().to_string())
        .collect()
}

/// The release of the kernel, and the files of the modules it needs, each behind what it needs itself.
fn modules(driver: &str) -> anyhow::Result<(String, Vec<String>)> {
    let releases = fs::read_dir(DIRECTORY).with_context(|| format!("cannot read {DIRECTORY}"))?;
    let release = releases.flatten().next().context("it has no modules")?;
    let release = release.file_name().to_string_lossy().into_owned();
    let path = format!("{DIRECTORY}/{release}/modules.dep");
    let lines = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut order: Vec<String> = Vec::new();
    for wanted in MODULES.into_iter().chain([driver]) {
        let file = format!("/{wanted}.ko");
        let entry = lines.lines().filter_map(|line| line.split_once(':'));
        let found = entry
            .into_iter()
            .find(|(module, _)| module.ends_with(&file));
        let (module, needs) = found.with_context(|| format!("it has no module {wanted}"))?;
        // The last one needs no other.
        let needs = needs.split_whitespace().rev().chain([module]);
        let new: Vec<String> = needs
            .filter(|module| !order.iter().any(|known| known == module))
            .map(str::to_owned)
            .collect();
        order.extend(new);
    }
    Ok((release, order))
}

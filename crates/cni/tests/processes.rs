//! Leases taken by real processes: hundreds at once, and killed at any point, by the thousand.
//!
//! Each process is this test binary again ([`process`]), told by its environment what to do.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cni::leases::{AllocateError, Leases, Now, Owner, Range, Request, Snapshot};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tempfile::TempDir;

const TASK: &str = "ROUTESHARE_LEASES_TASK";
const DIRECTORY: &str = "ROUTESHARE_LEASES_DIRECTORY";
const NAME: &str = "ROUTESHARE_LEASES_NAME";

fn request() -> Request {
    let subnets = ["10.64.0.0/24", "10.64.1.0/24", "fd00:64::/64"];
    let ranges = subnets.map(|subnet| Range::routed(subnet.parse().unwrap()).of_node());
    Request {
        ranges: ranges.to_vec(),
        requested: Vec::new(),
        cooldown: Duration::ZERO,
    }
}

fn owner(container: &str) -> Owner {
    Owner {
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        netns: Some(format!("/var/run/netns/{container}")),
        mode: "routed".to_owned(),
        ..Owner::default()
    }
}

fn open(directory: &Path) -> Leases {
    Leases::open(directory, "pods", Now::read().unwrap()).unwrap()
}

fn add(directory: &Path, container: &str) -> Result<Vec<IpAddr>, AllocateError> {
    let (lease, durable) = open(directory).allocate(owner(container), &request())?;
    durable.wait()?;
    Ok(lease.addresses.iter().map(|it| it.ip()).collect())
}

/// What a process does that the tests below start.
#[test]
#[ignore = "the other tests start it as a process of its own"]
fn process() {
    let directory = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    let name = env::var(NAME).unwrap();
    match &*env::var(TASK).unwrap() {
        "add when told" => {
            io::stdin().read_exact(&mut [0]).unwrap();
            let addresses = add(&directory, &name).unwrap();
            say(&format!("{} {}", addresses[0], addresses[1]));
        }
        "add and delete until killed" => add_and_delete(&directory, &name),
        "delete with a limit" => {
            let (container, limit) = name.split_once(' ').unwrap();
            // SAFETY: it is ignored, no code of ours runs in it.
            unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
            setrlimit(Resource::RLIMIT_FSIZE, limit.parse().unwrap(), u64::MAX).unwrap();
            let released = open(&directory).release(container, "eth0");
            say(&released.map_or_else(|error| error.to_string(), |_| "deleted".to_owned()));
        }
        task => panic!("what is {task:?}?"),
    }
}

/// Says what is done once it is done, and marks the address as in use meanwhile, as an interface does.
fn add_and_delete(directory: &Path, name: &str) {
    for round in 0_u64.. {
        let container = format!("{name}-{round}");
        for address in add(directory, &container).unwrap() {
            let mark = directory.join(address.to_string());
            let mark = fs::File::options().write(true).create_new(true).open(mark);
            let mark = mark.and_then(|mut mark| mark.write_all(name.as_bytes()));
            mark.unwrap_or_else(|error| panic!("{address} is in use ({error})"));
        }
        say(&format!("added {container}"));
        // Some stay for a while, so that the log is not always short.
        if round % 8 < 3 {
            continue;
        }
        let leases = open(directory);
        let lease = leases.of(&container, "eth0").cloned().unwrap();
        drop(leases);
        for address in &lease.addresses {
            fs::remove_file(directory.join(address.ip().to_string())).unwrap();
        }
        open(directory).release(&container, "eth0").unwrap();
        say(&format!("deleted {container}"));
    }
}

/// In one write, so that it is said or not.
fn say(line: &str) {
    let mut out = io::stderr().lock();
    out.write_all(format!("> {line}\n").as_bytes()).unwrap();
}

fn start(task: &str, directory: &Path, name: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "process", "--ignored", "--nocapture"])
        .env(TASK, task)
        .env(DIRECTORY, directory)
        .env(NAME, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What a process said until it ended.
fn all_said(process: Child) -> Vec<String> {
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().filter_map(said).collect()
}

fn said(line: &str) -> Option<String> {
    line.strip_prefix("> ").map(str::to_owned)
}

/// In memory where that can be had: what kills a process leaves what it wrote.
fn quick_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

#[test]
fn two_hundred_processes_at_once_get_two_hundred_addresses() {
    let directory = tempfile::tempdir().unwrap();
    // The first of them make the log as well.
    let names: Vec<String> = (0..200).map(|number| format!("c{number}")).collect();
    let mut processes: Vec<Child> = names
        .iter()
        .map(|name| start("add when told", directory.path(), name))
        .collect();
    for process in &mut processes {
        process.stdin.take().unwrap().write_all(b"!").unwrap();
    }
    let given: Vec<String> = processes.into_iter().flat_map(all_said).collect();
    let addresses: BTreeSet<&str> = given.iter().flat_map(|line| line.split(' ')).collect();
    assert_eq!(addresses.len(), 400, "{given:?}");
    let leases = Snapshot::read(directory.path(), &Now::read().unwrap()).unwrap();
    assert_eq!(leases.leases.len(), 200);
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside the leases");
}

/// What one process had said when it was killed.
#[derive(Default)]
struct Said {
    added: BTreeSet<String>,
    deleted: BTreeSet<String>,
}

impl Said {
    fn take(&mut self, line: &str) {
        assert!(
            !line.contains("panicked") && !line.contains("in use"),
            "{line}"
        );
        let line = said(line);
        match line.as_deref().and_then(|line| line.split_once(' ')) {
            Some(("added", container)) => self.added.insert(container.to_owned()),
            Some((_, container)) => self.deleted.insert(container.to_owned()),
            None => false,
        };
    }
}

/// Kills a process some time after it has begun to say what it does.
fn kill(mut process: Child, after: Duration) -> Said {
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut said = Said::default();
    while said.added.is_empty() {
        let line = lines.next().expect("it says what it does");
        said.take(&line.unwrap());
    }
    let until = Instant::now() + after;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    process.kill().unwrap();
    process.wait().unwrap();
    for line in lines {
        said.take(&line.unwrap());
    }
    said
}

#[test]
fn processes_killed_at_any_point_leave_what_they_said_and_nothing_that_cannot_be_ended() {
    const ROUNDS: u32 = 500;
    let directory = quick_directory();
    let path = directory.path();
    let mut under_way = BTreeMap::new();
    for round in 0..ROUNDS {
        // One is killed while another one is at work.
        let names = [format!("a{round}"), format!("b{round}")];
        let start = |name: &String| start("add and delete until killed", path, name);
        let [first, second] = names.each_ref().map(start);
        // Times without a common measure, so that every point of a turn comes up.
        let first = kill(first, Duration::from_micros(u64::from(round * 373 % 6_007)));
        let second = kill(second, Duration::from_micros(u64::from(round * 97 % 1_009)));
        let leases = Snapshot::read(path, &Now::read().unwrap()).unwrap().leases;
        for (name, said) in names.iter().zip([&first, &second]) {
            let containers = leases.iter().map(|it| it.owner.container.clone());
            let ours = containers.filter(|it| it.split('-').next() == Some(name));
            let ours: BTreeSet<String> = ours.collect();
            let expected: BTreeSet<String> =
                said.added.difference(&said.deleted).cloned().collect();
            let differ = ours.symmetric_difference(&expected).count();
            assert!(differ <= 1, "{ours:?} are there, {expected:?} were to be");
            *under_way.entry(differ).or_insert(0) += 1;
        }
        // As GC does: interfaces first, then leases.
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let ended = open(path).retain(|_, _| false).unwrap();
        assert_eq!(ended.len(), leases.len());
    }
    println!(
        "{} kills; operations under way then: {under_way:?}",
        2 * ROUNDS
    );
    assert!(
        under_way[&1] > 10,
        "the kills met no operation: {under_way:?}"
    );
}

#[test]
fn a_disk_that_takes_only_a_part_of_a_line_leaves_the_log_whole() {
    let directory = quick_directory();
    let path = directory.path();
    for container in ["a", "b"] {
        add(path, container).unwrap();
    }
    let log = Snapshot::path(path);
    let before = fs::read(&log).unwrap();
    for more in (0..).step_by(13) {
        let name = format!("a {}", before.len() + more);
        let said = all_said(start("delete with a limit", path, &name));
        if said == ["deleted"] {
            assert!(more > 100);
            break;
        }
        let expected = format!("cannot append to {}: File too large", log.display());
        assert!(said[0].starts_with(&expected), "{said:?}");
        assert_eq!(fs::read(&log).unwrap(), before, "{more}");
    }
    assert!(open(path).of("a", "eth0").is_none());
    assert!(open(path).of("b", "eth0").is_some());
}

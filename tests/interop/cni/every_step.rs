//! `kill -9` at every step: before and after each system call of an ADD and of a DEL. What is left is what
//! DEL, and GC, remove.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use lab::cni::{CniNode, Container, PLUGIN, find_plugin};
use lab::{Lab, Namespace};
use serde_json::{Value, json};

const SUBNETS: [&str; 2] = ["10.64.0.0/24", "fd00:64::/64"];

/// A container and the plugin's configuration for it.
struct Victim<'a> {
    node: &'a CniNode<'a>,
    container: &'a Container,
    config: Value,
}

impl Victim<'_> {
    /// Runs a command, and kills it when it has come to a system call or back from one `stops` times.
    /// Whether it had not ended before.
    fn killed(&self, command: &str, stops: usize) -> bool {
        let netns = self.container.path().display().to_string();
        let mut plugin = Command::new(find_plugin(PLUGIN).unwrap());
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.container.namespace().name())
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let input = self.config.to_string();
        // Tracing is of one thread by one thread.
        let machine = self.node.machine();
        machine.within(|| kill_at(plugin, &input, stops)).unwrap()
    }

    fn run(&self, command: &str, more: Value) -> anyhow::Result<Value> {
        let mut config = self.config.clone();
        if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
            config.extend(more);
        }
        self.node.ours(command, self.container, &config)?.result()
    }

    /// Nothing is left of it: no interface, no route, no lease.
    #[track_caller]
    fn is_gone(&self, after: &str) {
        let inside = self.container.run("ip -brief link show").unwrap();
        assert_eq!(inside.lines().count(), 1, "more than lo {after}: {inside}");
        let machine = self.node.machine();
        let name = self.container.namespace().name();
        let links = machine.run("ip -details link show type veth").unwrap();
        assert!(!links.contains(name), "{after}: {links}");
        let error = self.run("CHECK", json!({"prevResult": {}})).unwrap_err();
        assert!(error.to_string().contains("no lease"), "{after}: {error}");
    }
}

/// See [`Victim::killed`].
fn kill_at(mut plugin: Command, input: &str, stops: usize) -> bool {
    // SAFETY: ptrace is a system call and nothing else; the child asks to be traced by this thread.
    unsafe {
        plugin.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    #[expect(
        clippy::zombie_processes,
        reason = "it is waited for below, stop by stop"
    )]
    let mut child = plugin.spawn().unwrap();
    let pid = child.id() as libc::pid_t;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let wait = || {
        let mut status = 0;
        // SAFETY: the pointer is to a number that outlives the call.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!(waited, pid, "{}", std::io::Error::last_os_error());
        status
    };
    assert!(
        libc::WIFSTOPPED(wait()),
        "it stops when it has become the plugin"
    );
    for _ in 0..stops {
        // SAFETY: the process is ours and stopped.
        let resumed = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, 0) };
        assert_eq!(resumed, 0, "{}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(wait()) {
            return false;
        }
    }
    // SAFETY: it is stopped, so that its number is still its own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    while !libc::WIFSIGNALED(wait()) {}
    true
}

/// `mode`: the fields of the network that say how its containers are attached.
fn with_victim(mode: Value, test: impl FnOnce(&Victim<'_>)) {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    // For containers on an interface of the host.
    machine
        .ip([
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "link set up1 up",
        ])
        .unwrap();
    let node = CniNode::new(&lab, &machine, "node").unwrap();
    node.write_node_file(&SUBNETS, json!({"cooldownSeconds": 0}))
        .unwrap();
    let is_routed = mode == json!({});
    let has_pair = mode["mode"] != "macvlan";
    let mut config = node.plugin(mode);
    config["cniVersion"] = json!("1.1.0");
    config["name"] = json!("pods");
    let bystander = lab.container("bystander").unwrap();
    let added = node.ours("ADD", &bystander, &config).unwrap();
    let result = added.result().unwrap();
    let container = lab.container("victim").unwrap();
    test(&Victim {
        node: &node,
        container: &container,
        config: config.clone(),
    });
    // Whoever was not meant is as before.
    config["prevResult"] = result;
    let check = node.ours("CHECK", &bystander, &config).unwrap();
    check.result().unwrap();
    let bystander = bystander.namespace().name();
    only_of(&machine, bystander, has_pair, is_routed);
}

/// All veths and routes of ours on the machine are one container's, if it has such.
fn only_of(machine: &Namespace, container: &str, has_pair: bool, is_routed: bool) {
    let links = machine
        .run("ip -json -details link show type veth")
        .unwrap();
    let links: Value = serde_json::from_str(&links).unwrap();
    let aliases: Vec<_> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|link| &link["ifalias"])
        .filter(|alias| !alias.is_null())
        .collect();
    let alias = json!(format!("routeshare pods {container} eth0"));
    let wanted: &[&Value] = if has_pair { &[&alias] } else { &[] };
    assert_eq!(aliases, wanted);
    for family in ["-4", "-6"] {
        let routes = machine
            .run(&format!("ip {family} route show proto 150"))
            .unwrap();
        assert_eq!(routes.lines().count(), usize::from(is_routed), "{routes}");
    }
}

/// Kills a command at every step, after `before`, and hands each outcome to `after`.
fn at_every_step(
    command: &str,
    victim: &Victim<'_>,
    before: impl Fn(),
    after: impl Fn(usize, &str),
) {
    let mut stops = 0;
    loop {
        before();
        let was_killed = victim.killed(command, stops);
        after(stops, &format!("{command} killed at its stop {stops}"));
        if !was_killed {
            break;
        }
        stops += 1;
    }
    assert!(
        stops > 100,
        "{command} has only {stops} stops: nothing was tried"
    );
    println!("{command} was killed at {stops} steps");
}

fn kill_adds(mode: Value) {
    with_victim(mode, |victim| {
        at_every_step(
            "ADD",
            victim,
            || (),
            |stops, what| {
                remove(victim, stops);
                victim.is_gone(what);
            },
        );
        // And then it can be attached.
        victim.run("ADD", json!({})).unwrap();
        victim.run("DEL", json!({})).unwrap();
    });
}

fn kill_dels(mode: Value) {
    with_victim(mode, |victim| {
        let add = || drop(victim.run("ADD", json!({})).unwrap());
        at_every_step("DEL", victim, add, |stops, what| {
            remove(victim, stops);
            victim.is_gone(what);
        });
    });
}

/// By DEL and by GC, each of them before and after system calls.
fn remove(victim: &Victim<'_>, stops: usize) {
    if (stops / 2).is_multiple_of(2) {
        victim.run("DEL", json!({})).unwrap();
    } else {
        let valid = valid_but(victim);
        victim
            .run("GC", json!({"cni.dev/valid-attachments": valid}))
            .unwrap();
    }
}

fn bridge() -> Value {
    json!({"mode": "bridge", "ipam": {"pool": "pods"}})
}

fn macvlan() -> Value {
    json!({"mode": "macvlan", "parent": "up0", "ipam": {"pool": "pods"}})
}

#[test]
fn an_add_killed_at_any_step_leaves_what_del_and_gc_remove() {
    kill_adds(json!({}));
}

#[test]
fn a_del_killed_at_any_step_is_finished_by_the_next_or_by_gc() {
    kill_dels(json!({}));
}

#[test]
fn an_add_to_a_bridge_killed_at_any_step_leaves_what_del_and_gc_remove() {
    kill_adds(bridge());
}

#[test]
fn an_add_to_a_parent_killed_at_any_step_leaves_what_del_and_gc_remove() {
    kill_adds(macvlan());
}

#[test]
fn a_del_from_a_parent_killed_at_any_step_is_finished_by_the_next_or_by_gc() {
    kill_dels(macvlan());
}

/// What a runtime has that has given up on the victim.
fn valid_but(victim: &Victim<'_>) -> Vec<Value> {
    let bystander = victim
        .container
        .namespace()
        .name()
        .replace("victim", "bystander");
    vec![json!({"containerID": bystander, "ifname": "eth0"})]
}

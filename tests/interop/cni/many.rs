//! Many at once, and many that do not come to their end.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lab::cni::{CniNode, Container, PLUGIN, find_plugin};
use lab::{Lab, Namespace};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::scene::{addresses, configuration, leases, node, nothing_is_left, on_host, reaches};

/// Starts our plugin, with nothing between it and this process, and calls `running` with its process number.
fn ours(
    machine: &Namespace,
    command: &str,
    container: &Container,
    configuration: &Value,
    running: impl FnOnce(u32) + Send,
) -> (Duration, std::process::Output) {
    let work = || {
        let begun = Instant::now();
        let mut child = std::process::Command::new(find_plugin(PLUGIN).unwrap())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container.namespace().name())
            .env("CNI_NETNS", container.path())
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // One that is killed early reads none of it.
        std::io::Write::write_all(&mut stdin, configuration.to_string().as_bytes()).ok();
        drop(stdin);
        running(child.id());
        (Instant::now() - begun, child.wait_with_output().unwrap())
    };
    machine.within(work).unwrap()
}

/// A command for each container, all at once; their results.
fn all_at_once(
    node: &CniNode<'_>,
    command: &str,
    containers: &[Container],
    configuration: &Value,
) -> Vec<Value> {
    std::thread::scope(|scope| {
        let calls: Vec<_> = containers
            .iter()
            .map(|container| {
                scope.spawn(move || {
                    let said = ours(node.machine(), command, container, configuration, |_| {}).1;
                    lab::cni::Invoked::from(said).result().unwrap()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

#[test]
fn two_hundred_at_once_get_two_hundred_addresses_of_each_family() {
    const CONTAINERS: usize = 200;
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let containers: Vec<Container> = (0..CONTAINERS)
        .map(|number| lab.container(&format!("c{number}")).unwrap())
        .collect();
    let configuration = configuration(&node, "1.1.0");
    let results = all_at_once(&node, "ADD", &containers, &configuration);
    let given: Vec<Vec<String>> = results.iter().map(addresses).collect();
    let different: BTreeSet<&String> = given.iter().flatten().collect();
    assert_eq!(different.len(), 2 * CONTAINERS);
    assert_eq!(leases(&node).len(), CONTAINERS);
    // Those who were told an address have it, and no other has.
    for (number, own) in given.iter().enumerate().step_by(23) {
        reaches(&containers[(number + 101) % CONTAINERS], own);
        let shown = containers[number].run("ip -oneline address show dev eth0");
        let shown = shown.unwrap();
        assert!(own.iter().all(|it| shown.contains(it)), "{own:?} {shown}");
    }
    all_at_once(&node, "DEL", &containers, &configuration);
    nothing_is_left(&node);
}

/// What GC is told by a runtime that knows these.
fn garbage(node: &CniNode<'_>, known: &[&Container]) {
    let known: Vec<Value> = known
        .iter()
        .map(|it| json!({"containerID": it.namespace().name(), "ifname": "eth0"}))
        .collect();
    let mut configuration = configuration(node, "1.1.0");
    configuration["cni.dev/valid-attachments"] = known.into();
    let input = configuration.to_string();
    let said = node.invoke(PLUGIN, &[("CNI_COMMAND", "GC")], input.as_bytes());
    said.unwrap().result().unwrap();
}

#[test]
fn killed_by_the_thousand_it_leaves_nothing_that_del_and_gc_do_not_remove() {
    const KILLS: usize = 1000;
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let configuration = configuration(&node, "1.1.0");
    let stays = lab.container("stays").unwrap();
    let added = ours(&machine, "ADD", &stays, &configuration, |_| {});
    let stays_with = addresses(&lab::cni::Invoked::from(added.1).result().unwrap());
    let stays_as = (on_host(&machine), leases(&node));
    let containers: Vec<Container> = (0..10)
        .map(|number| lab.container(&format!("c{number}")).unwrap())
        .collect();

    // As long as a whole call takes here, so that the kills are spread over all of it.
    let times: BTreeSet<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            ours(&machine, "ADD", &containers[0], &configuration, |_| {});
            let took = begun.elapsed();
            ours(&machine, "DEL", &containers[0], &configuration, |_| {});
            took
        })
        .collect();
    let longest = *times.iter().nth(2).unwrap_or(&Duration::from_millis(20));
    let seed = rand::random();
    println!("seed {seed}, kills within {longest:?}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut before, mut between, mut after) = (0, 0, 0);
    let mut killed = |command: &str, container: &Container| {
        let delay = longest.mul_f64(random.random());
        let (_, output) = ours(&machine, command, container, &configuration, |id| {
            let due = Instant::now() + delay;
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            // One that has ended already is not waited for yet: the number is still its own.
            kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL).ok();
        });
        let made = on_host(&machine).len() > stays_as.0.len();
        let leased = leases(&node).len() > stays_as.1.len();
        match (output.status.success(), made || leased) {
            (true, _) => after += 1,
            (false, true) => between += 1,
            (false, false) => before += 1,
        }
    };
    for (number, container) in containers.iter().cycle().take(KILLS / 2).enumerate() {
        killed("ADD", container);
        killed("DEL", container);
        if number % 2 == 0 {
            let said = ours(&machine, "DEL", container, &configuration, |_| {}).1;
            assert!(said.status.success(), "{said:?}");
        } else {
            garbage(&node, &[&stays]);
        }
        let left = (on_host(&machine), leases(&node));
        assert_eq!(left, stays_as, "after kill {number}");
        assert!(container.run("ip link show eth0").is_err());
    }
    println!("{before} killed with nothing there, {between} with something, {after} too late");
    assert!(between > KILLS / 20, "{before} {between} {after}");
    // Every one of them can be attached again, and what was there all the time still works.
    all_at_once(&node, "ADD", &containers, &configuration);
    reaches(&containers[9], &stays_with);
    all_at_once(&node, "DEL", &containers, &configuration);
    garbage(&node, &[]);
    nothing_is_left(&node);
}

//! `--scenario cni`: how long ADD and DEL take, of our plugin (mode `routed`) and of Debian's `bridge` and `ptp`
//! with `host-local`.
//!
//! A plugin is started as a runtime starts it, with nothing between: from before the process is made until it has
//! ended and its result is read. Containers are there before. Each plugin has a machine of its own. Alone: one
//! container after another on every machine, all plugins in turn (A B C, B C A, …), until each has all of them;
//! DEL in the same way. At once: as many processes as containers are started together, one plugin after
//! the other, several times. `floor` is `/bin/true`: what a process costs.
//!
//! A plugin may answer while a process that it has started still waits for the kernel. The next one has its turn when that has
//! ended, too; its CPU time counts, and when it ended is told (`no process left`).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use lab::cni::{CniNode, Container, PLUGIN};
use lab::packages::{CNI_PLUGINS, IPROUTE, NSENTER};
use lab::{Entrance, Lab, Namespace};
use serde_json::{Value, json};

use super::figures::{Families, OURS, Rows};
use super::plugin::{Called, Plugin, adopt, children_cpu, network, settle};
use crate::measure;

/// Containers at once.
const AT_ONCE: usize = 50;
/// How often that many are started together, in each round.
const BATCHES: usize = 4;
/// Where Debian has its plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// A plugin on its machine, and what it was seen to take.
struct Contender<'a> {
    name: &'static str,
    plugin: Plugin,
    machine: &'a Namespace,
    entrance: Entrance,
    containers: Vec<Container>,
    /// The results of ADD, of those that are attached.
    attached: Vec<Value>,
}

/// What one call took, in milliseconds.
struct Call {
    /// Until it has answered.
    took: f64,
    /// Until no process of it is left.
    settled: f64,
    cpu: f64,
}

/// Measures in so many rounds, prints the figures and writes them as JSON.
///
/// # Errors
///
/// When something is missing, or a plugin fails or leaves something behind.
pub(crate) fn run(binaries: &Path, rounds: usize, json: &Path) -> Result<()> {
    lab::packages::ensure(&[IPROUTE, NSENTER, CNI_PLUGINS], |doing| {
        println!("{doing}")
    })?;
    let ours = super::ours(binaries)?;
    adopt()?;
    let programs = format!(
        "{PLUGIN} of {} KiB; Debian's {} {}",
        std::fs::metadata(&ours)?.len() / 1024,
        CNI_PLUGINS.package,
        debian_version()?
    );
    println!("{}\n{programs}", measure::machine());
    let mut rows = Rows::default();
    for families in [Families::Ipv4, Families::Both] {
        measure_all(&ours, families, rounds, &mut rows)?;
        println!("\n{}", rows.table());
    }
    println!("{}", rows.goals());
    let report = json!({
        "date": jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
        "machine": measure::machine(),
        "programs": programs,
        "rounds": rounds,
        "rows": rows.0,
    });
    crate::write(json, &(serde_json::to_string(&report)? + "\n"))?;
    println!("figures: {}", json.display());
    Ok(())
}

fn debian_version() -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Version}", CNI_PLUGINS.package]);
    lab::output(&mut query)
}

fn measure_all(ours: &Path, families: Families, rounds: usize, rows: &mut Rows) -> Result<()> {
    let lab = Lab::new()?;
    let names = [OURS, "bridge", "ptp"];
    let machines = names.map(|name| lab.machine(name));
    let machines: Vec<Namespace> = machines.into_iter().collect::<Result<_>>()?;
    let mut contenders = Vec::new();
    for (name, machine) in names.into_iter().zip(&machines) {
        let containers = (0..families.alone().max(AT_ONCE))
            .map(|number| lab.container(&format!("{name}{number}")));
        contenders.push(Contender {
            name,
            plugin: plugin(&lab, machine, name, ours, families)?,
            machine,
            entrance: machine.entrance()?,
            containers: containers.collect::<Result<_>>()?,
            attached: Vec::new(),
        });
    }
    // Programs and files are read for the first time, and packets are seen to come through.
    for contender in &mut contenders {
        contender.rehearse(families)?;
    }
    for round in 1..=rounds {
        println!("{}, round {round} of {rounds}", families.name());
        for command in ["ADD", "DEL"] {
            let work = format!("{command} alone");
            for number in 0..families.alone() {
                for place in super::order(number, contenders.len()) {
                    let contender = &mut contenders[place];
                    let call = contender.one(command, number)?;
                    let row = rows.row(contender.name, families, &work);
                    row.milliseconds.push(call.took);
                    row.cpu_milliseconds.push(call.cpu);
                    row.settled_milliseconds.push(call.settled);
                }
                let row = rows.row("floor", families, "a process alone");
                row.milliseconds.push(process()?);
            }
            for contender in contenders.iter().filter(|_| command == "DEL") {
                contender.nothing_left()?;
            }
        }
        for (batch, command) in (0..BATCHES).flat_map(|batch| [(batch, "ADD"), (batch, "DEL")]) {
            let work = format!("{command}, {AT_ONCE} at once");
            for place in super::order(batch, contenders.len()) {
                let contender = &mut contenders[place];
                let (each, all) = contender.at_once(command)?;
                let row = rows.row(contender.name, families, &work);
                row.milliseconds.extend(each);
                row.all_milliseconds.push(all);
                if command == "DEL" {
                    contender.nothing_left()?;
                }
            }
        }
    }
    Ok(())
}

/// A plugin's network with a default route, of `families`.
fn plugin(
    lab: &Lab,
    machine: &Namespace,
    name: &str,
    ours: &Path,
    families: Families,
) -> Result<Plugin> {
    let subnets = families.subnets();
    let debian = |plugin: &str, more: Value| {
        let ranges: Vec<Value> = subnets
            .iter()
            .map(|subnet| json!([{"subnet": subnet}]))
            .collect();
        let routes = ["0.0.0.0/0", "::/0"].iter().take(subnets.len());
        let routes: Vec<Value> = routes.map(|dst| json!({"dst": dst})).collect();
        let ipam = json!({
            "type": "host-local",
            "ranges": ranges,
            "routes": routes,
            "dataDir": lab.directory().join(format!("{name}-host-local")),
        });
        let mut configuration = network(&json!({"type": plugin, "ipam": ipam}));
        merge(&mut configuration, more);
        Plugin {
            program: Path::new(DEBIAN).join(plugin),
            directory: DEBIAN.into(),
            configuration,
        }
    };
    Ok(match name {
        "bridge" => debian("bridge", json!({"bridge": "cni0", "isGateway": true})),
        "ptp" => debian("ptp", json!({})),
        _ => {
            let node = CniNode::new(lab, machine, name)?;
            node.write_node_file(subnets, json!({}))?;
            Plugin {
                program: ours.to_owned(),
                directory: DEBIAN.into(),
                configuration: network(&node.plugin(json!({"mode": "routed"}))),
            }
        }
    })
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

impl Contender<'_> {
    /// ADD or DEL of one container, with nothing else going on.
    fn one(&mut self, command: &str, number: usize) -> Result<Call> {
        let container = &self.containers[number];
        let previous = match command {
            "ADD" => None,
            _ => self.attached.get(number),
        };
        let (called, call) = self.entrance.within(|| -> Result<_> {
            let (before, begun) = (children_cpu(), Instant::now());
            let called = self.plugin.call(
                command,
                container.namespace().name(),
                container.path(),
                previous,
            )?;
            settle()?;
            let call = Call {
                took: milliseconds(called.took),
                settled: milliseconds(begun.elapsed()),
                cpu: (children_cpu() - before) * 1000.0,
            };
            Ok((called, call))
        })??;
        if command == "ADD" {
            self.attached.truncate(number);
            self.attached.push(called.result);
        }
        Ok(call)
    }

    /// ADD or DEL of many containers: milliseconds of each, and until the last has ended.
    fn at_once(&mut self, command: &str) -> Result<(Vec<f64>, f64)> {
        let containers = &self.containers[..AT_ONCE];
        let barrier = Barrier::new(AT_ONCE + 1);
        let (plugin, entrance, attached) = (&self.plugin, &self.entrance, &self.attached);
        let (called, all) = std::thread::scope(|scope| -> Result<_> {
            let calls: Vec<_> = (0..)
                .zip(containers)
                .map(|(number, container)| {
                    let barrier = &barrier;
                    let previous = attached.get(number).filter(|_| command == "DEL");
                    scope.spawn(move || {
                        entrance.within(|| {
                            barrier.wait();
                            plugin.call(
                                command,
                                container.namespace().name(),
                                container.path(),
                                previous,
                            )
                        })?
                    })
                })
                .collect();
            barrier.wait();
            let begun = Instant::now();
            let called = calls
                .into_iter()
                .map(|call| call.join().map_err(|_| anyhow!("a thread panicked"))?);
            let called: Vec<Called> = called.collect::<Result<_>>()?;
            let all = begun.elapsed();
            settle()?;
            Ok((called, all))
        })?;
        let each = called.iter().map(|it| milliseconds(it.took)).collect();
        if command == "ADD" {
            self.attached = called.into_iter().map(|it| it.result).collect();
            let given = self.attached.iter().flat_map(Plugin::addresses);
            let addresses: Vec<String> = given.collect();
            let different: BTreeSet<&String> = addresses.iter().collect();
            ensure!(
                different.len() == addresses.len(),
                "{} gave an address twice: {addresses:?}",
                self.name
            );
        }
        Ok((each, milliseconds(all)))
    }

    /// Attaches two containers, sends packets from one to the other, and detaches them.
    fn rehearse(&mut self, families: Families) -> Result<()> {
        for number in 0..2 {
            self.one("ADD", number)?;
        }
        let addresses = Plugin::addresses(&self.attached[1]);
        ensure!(
            addresses.len() == families.subnets().len(),
            "{} gave {addresses:?}",
            self.name
        );
        for address in addresses {
            self.containers[0]
                .run(&format!("ping -c 1 -W 5 {address}"))
                .with_context(|| format!("{} connects nothing", self.name))?;
        }
        for number in 0..2 {
            self.one("DEL", number)?;
        }
        self.nothing_left()
    }

    /// That neither the machine nor a container has an interface of the plugin any more.
    fn nothing_left(&self) -> Result<()> {
        let links = self.machine.run("ip -br link show type veth")?;
        ensure!(links.is_empty(), "{} left {links}", self.name);
        let links = self.containers[0].run("ip -br link show type veth")?;
        ensure!(links.is_empty(), "{} left {links}", self.name);
        Ok(())
    }
}

/// What it takes to start a process that does nothing, and to wait for its end.
fn process() -> Result<f64> {
    let begun = Instant::now();
    lab::output(&mut Command::new("/bin/true"))?;
    Ok(milliseconds(begun.elapsed()))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

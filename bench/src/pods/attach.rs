//! `--scenario cni`: how long ADD and DEL take, of our plugin (mode `routed`) and of Debian's `bridge` and `ptp`
//! with `host-local`.
//!
//! A plugin is started as a runtime starts it, with nothing between: from before the process is made until it has
//! ended and its result is read. Containers are there before. Each plugin has a machine of its own. Alone: one
//! container after another on every machine, all plugins in turn (A B C A B C), until each has all of them;
//! DEL in the same way. At once: as many processes as containers are started together, one plugin after
//! the other. `floor` is `/bin/true`: what
//! a process costs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use lab::cni::{CniNode, Container, PLUGIN};
use lab::packages::{CNI_PLUGINS, IPROUTE, NSENTER};
use lab::{Entrance, Lab, Namespace};
use serde::Serialize;
use serde_json::{Value, json};

use super::percentile::{median, percentile};
use super::plugin::{Called, Plugin, children_cpu, network};
use crate::measure;

/// Containers at once.
const AT_ONCE: usize = 50;
/// Where Debian has its plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// The families of containers' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Families {
    Ipv4,
    Both,
}

impl Families {
    fn name(self) -> &'static str {
        match self {
            Families::Ipv4 => "IPv4",
            Families::Both => "IPv4 and IPv6",
        }
    }

    /// Containers one after another: about as many as Kubernetes puts on a node; fewer where Debian's plugins wait
    /// seconds for duplicate address detection.
    fn alone(self) -> usize {
        match self {
            Families::Ipv4 => 100,
            Families::Both => 20,
        }
    }

    fn subnets(self) -> &'static [&'static str] {
        match self {
            Families::Ipv4 => &["10.64.0.0/16"],
            Families::Both => &["10.64.0.0/16", "fd00:64::/64"],
        }
    }
}

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

/// All measurements of one kind of work of one plugin.
#[derive(Serialize)]
struct Row {
    plugin: &'static str,
    families: Families,
    work: String,
    /// One for each call.
    milliseconds: Vec<f64>,
    /// CPU time of the plugin's processes, one for each call; where they were alone.
    cpu_milliseconds: Vec<f64>,
    /// Until the last of those that were started together had ended, one for each round.
    all_milliseconds: Vec<f64>,
}

/// In the order of measurement.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn row(&mut self, plugin: &'static str, families: Families, work: &str) -> &mut Row {
        let same =
            |row: &Row| (row.plugin, row.families, row.work.as_str()) == (plugin, families, work);
        let at = self.0.iter().position(same).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push(Row {
                plugin,
                families,
                work: work.to_owned(),
                milliseconds: Vec::new(),
                cpu_milliseconds: Vec::new(),
                all_milliseconds: Vec::new(),
            });
        }
        &mut self.0[at]
    }
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
        println!("\n{}", table(&rows.0));
    }
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
    let names = ["routeshare", "bridge", "ptp"];
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
                for contender in &mut contenders {
                    let (took, cpu) = contender.one(command, number)?;
                    let row = rows.row(contender.name, families, &work);
                    row.milliseconds.push(took);
                    row.cpu_milliseconds.push(cpu);
                }
                let row = rows.row("floor", families, "a process alone");
                row.milliseconds.push(process()?);
            }
            for contender in contenders.iter().filter(|_| command == "DEL") {
                contender.nothing_left()?;
            }
        }
        for command in ["ADD", "DEL"] {
            let work = format!("{command}, {AT_ONCE} at once");
            for contender in &mut contenders {
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
    /// ADD or DEL of one container, with nothing else going on; milliseconds, and those of CPU.
    fn one(&mut self, command: &str, number: usize) -> Result<(f64, f64)> {
        let container = &self.containers[number];
        let previous = match command {
            "ADD" => None,
            _ => self.attached.get(number),
        };
        let (called, cpu) = self.entrance.within(|| -> Result<_> {
            let before = children_cpu();
            let called = self.plugin.call(
                command,
                container.namespace().name(),
                container.path(),
                previous,
            )?;
            Ok((called, children_cpu() - before))
        })??;
        if command == "ADD" {
            self.attached.truncate(number);
            self.attached.push(called.result);
        }
        Ok((milliseconds(called.took), cpu * 1000.0))
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
            Ok((called, begun.elapsed()))
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

/// In Markdown.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| families | work | plugin | p50 | ÷ ours | p99 | ÷ ours | CPU | until all have ended |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut order: Vec<&Row> = rows.iter().collect();
    let mut kinds: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let kind = (row.families.name(), row.work.as_str());
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let place = |row: &&Row| {
        let kind = (row.families.name(), row.work.as_str());
        kinds.iter().position(|it| *it == kind)
    };
    order.sort_by_key(place);
    for row in order {
        let ours = rows.iter().find(|other| {
            other.plugin == "routeshare"
                && (other.families, &other.work) == (row.families, &row.work)
        });
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), |it| format!("{it:.1} ms"));
        let [p50, p99] = [50.0, 99.0].map(|percent| {
            let of = |row: &Row| percentile(&row.milliseconds, percent);
            let ratio = ours.and_then(of).zip(of(row)).map(|(ours, it)| it / ours);
            let ratio = ratio.map_or("–".to_owned(), |it| format!("{it:.2}"));
            format!("{} | {ratio}", shown(of(row)))
        });
        text += &format!(
            "| {} | {} | {} | {p50} | {p99} | {} | {} |\n",
            row.families.name(),
            row.work,
            row.plugin,
            shown(median(&row.cpu_milliseconds)),
            shown(median(&row.all_milliseconds)),
        );
    }
    text
}

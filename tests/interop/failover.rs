//! What becomes of packets, and what is written to the kernel, when one of two ways is lost.
//!
//! ```text
//!          10.1.0.0/24 ┌─ one (AS 65101)
//!  node ───────────────┤                    both announce the same routes, in our own words
//!          10.1.1.0/24 └─ two (AS 65102)
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use lab::raw::{self, Raw};
use lab::speaker::Speaker;
use lab::{Daemon, Lab, Namespace, wait_for};

use crate::host::{Host, Peer, SOON};

struct Machines {
    node: Namespace,
    /// One and two.
    peers: [Namespace; 2],
}

fn machines(lab: &Lab) -> Machines {
    let node = lab.machine("node").unwrap();
    let peers = ["one", "two"].map(|name| lab.machine(name).unwrap());
    for (index, peer) in peers.iter().enumerate() {
        let [ours, theirs] = [1, 2].map(|last| format!("10.1.{index}.{last}/24"));
        node.cable(&format!("eth{index}"), &[&ours], peer, "eth0", &[&theirs])
            .unwrap();
    }
    Machines { node, peers }
}

/// A host with a session to either, which waits for them.
fn host(fabric: &str) -> Host {
    const WAITS: &str = "passive: true\ntimers: {holdSeconds: 90, keepaliveSeconds: 30}";
    let mut host = Host::new("node", 65201);
    host.addresses = vec!["10.1.0.1", "10.1.1.1"];
    host.subnets = vec!["10.64.1.0/24"];
    host.peers = vec![
        Peer::new("one", "10.1.0.2", 65101).with(WAITS),
        Peer::new("two", "10.1.1.2", 65102).with(WAITS),
    ];
    host.fabric = fabric.into();
    host
}

/// The `index`th route.
fn prefix(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0B00_0000 + (index << 8))
}

/// A session of one or two, and its routes (by index), with a path that is longer by `more`.
fn session(machines: &Machines, index: u8, routes: std::ops::Range<u32>, more: usize) -> Raw {
    let (ours, theirs) = (
        Ipv4Addr::new(10, 1, index, 2),
        Ipv4Addr::new(10, 1, index, 1),
    );
    let asn = 65101 + u32::from(index);
    let to = SocketAddr::new(theirs.into(), 179);
    let peer = &machines.peers[usize::from(index)];
    let mut raw = wait_for("a session", SOON, || {
        let mut raw = Raw::connect(peer, to)?;
        raw.establish(asn, ours)?;
        Ok(raw)
    });
    let attributes = raw::attributes(&vec![asn; 1 + more], ours);
    let routes: Vec<(Ipv4Addr, u8)> = routes.map(|index| (prefix(index), 24)).collect();
    for some in routes.chunks(500) {
        raw.send(&raw::update(&attributes, some)).unwrap();
    }
    raw
}

/// The interfaces by which packets to a route leave.
fn taken(node: &Namespace, route: u32) -> BTreeSet<String> {
    let base = u32::from(prefix(route));
    let ways = (1..30).map(|host| {
        let to = Ipv4Addr::from(base + host);
        let text = node.run(&format!("ip route get {to}")).unwrap_or_default();
        let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
        words.nth(1).unwrap_or("nowhere").to_owned()
    });
    ways.collect()
}

#[track_caller]
fn wait_until_taken(node: &Namespace, route: u32, interfaces: &[&str]) {
    let wanted: BTreeSet<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
    wait_for(&format!("{interfaces:?} to be taken"), SOON, || {
        let taken = taken(node, route);
        anyhow::ensure!(taken == wanted, "{taken:?}");
        Ok(())
    });
}

/// Waits until all routes stand in the kernel.
fn wait_for_all(node: &Namespace, count: u32) {
    wait_for(&format!("{count} routes in the kernel"), SOON, || {
        let text = node.run("ip route show proto 149")?;
        let found = text.lines().filter(|line| line.starts_with("11.")).count();
        anyhow::ensure!(found == count as usize, "{found}");
        Ok(())
    });
}

/// What the kernel tells everybody of changed routes and nexthop objects.
struct Witness<'a> {
    node: &'a Namespace,
    _daemon: Daemon,
    log: PathBuf,
}

impl Witness<'_> {
    fn start<'a>(lab: &Lab, node: &'a Namespace) -> Witness<'a> {
        let mut command = node.command("ip");
        command.args(["monitor", "route", "nexthop"]);
        let log = lab.directory().join("monitor.log");
        let witness = Witness {
            node,
            _daemon: node.start("monitor", command, &log).unwrap(),
            log,
        };
        witness.reaches("203.0.113.1"); // it listens
        witness
    }

    /// Waits until it has heard of everything so far.
    fn reaches(&self, mark: &str) -> String {
        wait_for("the monitor to hear", SOON, || {
            // Twice the same would not be told.
            for what in ["add", "del"] {
                self.node
                    .run(&format!("ip route {what} blackhole {mark}"))?;
            }
            let text = std::fs::read_to_string(&self.log)?;
            anyhow::ensure!(text.contains(mark), "not yet: {text}");
            Ok(text)
        })
    }

    /// How often a route and a nexthop object of ours was written or removed.
    fn heard(&self) -> (usize, usize) {
        let text = self.reaches("203.0.113.2");
        let count = |begins: &str| {
            let lines = text
                .lines()
                .map(|line| line.trim_start_matches("[Deleted] ").trim());
            lines.filter(|line| line.starts_with(begins)).count()
        };
        (count("11."), count("id "))
    }
}

/// Waits until the lost session's routes are gone from the tables, and what follows from that has
/// reached the kernel's side.
fn wait_until_followed(speaker: &Speaker<'_>, count: u32) {
    wait_for("the routes to follow", SOON, || {
        let state = &speaker.peer("one")?["state"];
        anyhow::ensure!(state != "Established", "{state}");
        for index in [0, count / 2, count - 1] {
            let route = format!("{}/24", prefix(index));
            let best = speaker.routes(&route)?;
            anyhow::ensure!(best.len() == 1, "{best:?}");
            anyhow::ensure!(best[0]["peer"] == "two", "{best:?}");
            let kernel = &best[0]["kernel"];
            anyhow::ensure!(kernel == "Installed", "{kernel}");
        }
        Ok(())
    });
}

#[test]
fn what_a_lost_session_writes_to_the_kernel_does_not_depend_on_the_number_of_routes() {
    let mut costs = Vec::new();
    for count in [20, 5000] {
        let lab = Lab::new().unwrap();
        let machines = machines(&lab);
        let speaker = host("").start(&lab, &machines.node);
        let one = session(&machines, 0, 0..count, 0);
        let _two = session(&machines, 1, 0..count, 0);
        wait_for_all(&machines.node, count);
        wait_until_taken(&machines.node, 7, &["eth0", "eth1"]);
        wait_until_taken(&machines.node, count - 1, &["eth0", "eth1"]);
        let witness = Witness::start(&lab, &machines.node);
        drop(one);
        wait_until_taken(&machines.node, 7, &["eth1"]);
        wait_until_followed(&speaker, count);
        costs.push(witness.heard());

        // Half of the routes come back.
        let _one = session(&machines, 0, 0..count / 2, 0);
        wait_until_taken(&machines.node, 7, &["eth0", "eth1"]);
        assert_eq!(
            taken(&machines.node, count - 1),
            BTreeSet::from(["eth1".to_owned()])
        );
    }
    let (routes, objects) = costs[0];
    println!("a lost session: {routes} routes and {objects} nexthop objects written");
    assert_eq!(costs, [(0, objects); 2]);
    assert!((1..=4).contains(&objects), "{objects}");
}

#[test]
fn a_backup_takes_over_from_a_lost_session_and_from_a_lost_link() {
    let lab = Lab::new().unwrap();
    let machines = machines(&lab);
    let count = 3000;
    let backups = "  decision: {backupPaths: true}\n";
    let speaker = host(backups).start(&lab, &machines.node);
    let one = session(&machines, 0, 0..count, 0);
    let _two = session(&machines, 1, 0..count, 2);
    wait_for_all(&machines.node, count);
    wait_until_taken(&machines.node, 7, &["eth0"]);
    wait_for("the backup to be shown", SOON, || {
        let routes = speaker.json(&format!("show routes {}/24 --all-paths", prefix(7)))?;
        let text = routes.to_string();
        anyhow::ensure!(text.contains("\"backup\":true"), "{text}");
        let told = speaker.bgpctl(&format!("explain {}/24", prefix(7)))?;
        anyhow::ensure!(told.contains("(backup)"), "{told}");
        anyhow::ensure!(told.contains("kept ready as backup"), "{told}");
        Ok(())
    });
    let witness = Witness::start(&lab, &machines.node);
    drop(one);
    wait_until_taken(&machines.node, 7, &["eth1"]);
    wait_until_followed(&speaker, count);
    assert_eq!(witness.heard().0, 0, "no route was written");

    let _one = session(&machines, 0, 0..count, 0);
    wait_until_taken(&machines.node, 7, &["eth0"]);
    wait_until_taken(&machines.node, count - 1, &["eth0"]);
    machines.peers[0].ip(["link set eth0 down"]).unwrap();
    wait_until_taken(&machines.node, 7, &["eth1"]);
    wait_until_taken(&machines.node, count - 1, &["eth1"]);
    wait_for_all(&machines.node, count);
}

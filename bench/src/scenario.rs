//! What is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Namespace;

use crate::bgp::Session;
use crate::daemons::{Engine, Programs, Running, Ways};
use crate::measure::kernel_routes;
use crate::network::{MOST_PEERS, Network, Place};
use crate::outcome::Outcome;
use crate::table::{self, Family, Table};
use crate::work::{self, KernelGoal, Player, Tally};
use crate::{bfd, churn, failover, floor};

/// How many addresses tell whether a table is in the kernel.
const SAMPLES: usize = 2000;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// 1,000,000 IPv4 prefixes from one eBGP sender to a second eBGP peer and into the kernel.
    Table,
    /// 200,000 IPv6 prefixes likewise.
    Table6,
    /// The table from two senders, the second with longer paths for half of it.
    TwoTables,
    /// 100 peers send 1,000 prefixes each, and everybody gets everybody's.
    ManyPeers,
    /// The table withdrawn again by UPDATEs; announced once more, and the session dropped.
    Withdraw,
    /// 5,000 UPDATEs a second on a full table.
    Churn,
    /// Two next hops for every route, used together or one as the other's backup; a link, a BFD
    /// session or a BGP session goes down.
    Failover,
    /// 5,000 routes: resident memory.
    Idle,
    /// `bgpctl show routes` of a full table during churn.
    Query,
    /// 500 BFD sessions at 50 ms × 3 on one core while the table comes and goes.
    Bfd,
    /// A controller and 5,000 nodes; to be asked for alone.
    Cluster,
    /// ADD and DEL of our CNI plugin beside Debian's; to be asked for alone.
    Cni,
    /// Traffic between containers beside that over a bare veth pair; to be asked for alone.
    Pods,
}

/// Every scenario that compares daemons, in the order of the report.
pub(crate) const ALL: [Scenario; 10] = [
    Scenario::Table,
    Scenario::Table6,
    Scenario::TwoTables,
    Scenario::ManyPeers,
    Scenario::Withdraw,
    Scenario::Churn,
    Scenario::Failover,
    Scenario::Idle,
    Scenario::Query,
    Scenario::Bfd,
];

/// Who does the work, and how much of it.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) engine: Engine,
    pub(crate) programs: &'a Programs,
    /// Instead of the scenario's own number.
    pub(crate) prefixes: Option<usize>,
    /// Churn for so long.
    pub(crate) churn: Duration,
    pub(crate) round: usize,
}

impl Order<'_> {
    /// An empty row for `scenario` with `prefixes`.
    pub(crate) fn outcome(&self, scenario: &str, prefixes: usize) -> Outcome {
        Outcome {
            scenario: scenario.to_owned(),
            daemon: self.engine.name().to_owned(),
            round: self.round,
            prefixes,
            ..Outcome::default()
        }
    }
}

impl Scenario {
    /// As `--scenario` and the report name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Table => "table",
            Scenario::Table6 => "table6",
            Scenario::TwoTables => "two-tables",
            Scenario::ManyPeers => "many-peers",
            Scenario::Withdraw => "withdraw",
            Scenario::Churn => "churn",
            Scenario::Failover => "failover",
            Scenario::Idle => "idle",
            Scenario::Query => "query",
            Scenario::Bfd => "bfd",
            Scenario::Cluster => "cluster",
            Scenario::Cni => "cni",
            Scenario::Pods => "pods",
        }
    }

    /// Whether it is about something else than BGP daemons.
    pub(crate) fn is_apart(self) -> bool {
        matches!(self, Scenario::Cluster | Scenario::Cni | Scenario::Pods)
    }

    /// Whether `engine` can do it at all.
    pub(crate) fn is_for(self, engine: Engine) -> bool {
        match self {
            Scenario::Failover => engine.installs(),
            Scenario::Query | Scenario::Bfd => engine == Engine::Routeshare,
            _ => true,
        }
    }

    fn family(self) -> Family {
        match self {
            Scenario::Table6 => Family::Ipv6,
            _ => Family::Ipv4,
        }
    }

    /// How many prefixes it has by itself.
    pub(crate) fn prefixes(self) -> usize {
        match self {
            Scenario::Table6 => 200_000,
            Scenario::ManyPeers => 100_000,
            Scenario::Idle => 5_000,
            _ => 1_000_000,
        }
    }

    fn table(self, prefixes: Option<usize>, round: usize) -> Table {
        let len = prefixes.unwrap_or(self.prefixes());
        Table::new(self.family(), len, round as u64)
    }

    /// Gives the work to a daemon once, in fresh namespaces. One row, or several where there are
    /// several things to do.
    ///
    /// # Errors
    ///
    /// When the network cannot be made, the daemon does not start or does not finish the work.
    pub(crate) fn run(self, order: Order<'_>) -> Result<Vec<Outcome>> {
        if self == Scenario::Failover {
            return Ok(failover::run(order));
        }
        let table = self.table(order.prefixes, order.round);
        match self {
            Scenario::Bfd => bfd::run(order, &table),
            Scenario::TwoTables => two_tables(order, &table),
            Scenario::ManyPeers => many_peers(order, table),
            Scenario::Withdraw => withdraw(order, &table),
            Scenario::Churn | Scenario::Query => {
                let mut stage = Stage::two(order)?;
                stage.load(&table)?;
                stage.told(|stage| churn::run(stage, order, self, &table))
            }
            _ => {
                let mut stage = Stage::two(order)?;
                let before = stage.running.cost();
                let times = stage.load(&table)?;
                if self == Scenario::Idle {
                    // What was needed for a moment only is given back by then.
                    std::thread::sleep(Duration::from_secs(3));
                }
                let row = order.outcome(self.name(), table.len);
                Ok(vec![row.with(times, before, stage.running.cost())])
            }
        }
    }

    /// The kernel's floor for the same table, where there is one.
    ///
    /// # Errors
    ///
    /// When the network cannot be made or the kernel refuses a route.
    pub(crate) fn floor(self, prefixes: Option<usize>, round: usize) -> Result<Vec<Outcome>> {
        if matches!(
            self,
            Scenario::Churn | Scenario::Failover | Scenario::Idle | Scenario::Query | Scenario::Bfd
        ) {
            return Ok(Vec::new());
        }
        let table = self.table(prefixes, round);
        let network = Network::new(1, false)?;
        let (gateway, index) = network.gateway(table.family)?;
        let (written, removed) = network.dut.within(|| -> Result<_> {
            let written = floor::write(&table, gateway, index)?;
            let removed = match self {
                Scenario::Withdraw => Some(floor::remove(&table)?),
                _ => None,
            };
            Ok((written, removed))
        })??;
        let names = match self {
            Scenario::Withdraw => vec!["withdraw", "session-drop"],
            _ => vec![self.name()],
        };
        let row = |name: &str| Outcome {
            scenario: name.to_owned(),
            daemon: "floor".to_owned(),
            round,
            prefixes: table.len,
            kernel_seconds: Some(removed.unwrap_or(written).as_secs_f64()),
            ..Outcome::default()
        };
        Ok(names.into_iter().map(row).collect())
    }
}

/// A daemon with its sessions up, before the work.
pub(crate) struct Stage {
    // Dropped in this order: sessions, daemon, machines.
    pub(crate) players: Vec<Player>,
    pub(crate) places: Vec<Place>,
    pub(crate) running: Running,
    pub(crate) network: Network,
    installs: bool,
    /// Routes in the kernel before the first prefix, for both families.
    present: [u64; 2],
}

impl Stage {
    /// One sender and one receiver.
    fn two(order: Order<'_>) -> Result<Stage> {
        let places = vec![Place::on_cable(1), Place::on_cable(2)];
        Stage::new(order, Network::new(2, false)?, places)
    }

    fn new(order: Order<'_>, network: Network, places: Vec<Place>) -> Result<Stage> {
        let peers: Vec<_> = places.iter().map(|place| place.peer()).collect();
        let folder = network.lab.directory();
        let (engine, programs) = (order.engine, order.programs);
        let running = engine.start(&network.dut, &peers, Ways::One, programs, folder)?;
        let players = open(&network.peers, &places).map_err(|error| running.told(error))?;
        let present = network.dut.within(|| -> Result<_> {
            Ok([kernel_routes(Family::Ipv4)?, kernel_routes(Family::Ipv6)?])
        })??;
        Ok(Stage {
            players,
            places,
            running,
            network,
            installs: engine.installs(),
            present,
        })
    }

    /// What the kernel holds in the end: `extra` routes with these samples, or none of them.
    fn goal(&self, table: &Table, extra: usize) -> Option<KernelGoal> {
        let before = self.present[usize::from(table.family == Family::Ipv6)];
        self.installs.then(|| KernelGoal {
            family: table.family,
            samples: table.samples(SAMPLES),
            present: extra > 0,
            total: before + extra as u64,
        })
    }

    /// The first player sends `table`, the second receives it.
    fn load(&mut self, table: &Table) -> Result<work::Times> {
        let sender = self.places[0];
        let next_hop = sender.next_hop(table.family);
        self.players[0].messages = table.announcements(sender.asn, next_hop, 0);
        self.players[1].tally = Some(Tally::announcements(table.len, std::iter::empty()));
        let goal = self.goal(table, table.len);
        let times = self.work(goal.as_ref());
        self.players[0].messages = Vec::new();
        times
    }

    fn work(&mut self, goal: Option<&KernelGoal>) -> Result<work::Times> {
        work::run(&self.network.dut, &mut self.players, goal, Instant::now())
            .map_err(|error| self.running.told(error))
    }

    /// Does something with it; an error comes with what the daemon printed.
    fn told<T>(&mut self, work: impl FnOnce(&mut Stage) -> Result<T>) -> Result<T> {
        work(self).map_err(|error| self.running.told(error))
    }
}

/// Brings the sessions of `places` up, all from `machine`.
pub(crate) fn open(machine: &Namespace, places: &[Place]) -> Result<Vec<Player>> {
    machine.within(|| {
        let open = |place: &Place| {
            let patience = Duration::from_secs(30);
            let session = Session::open(place.address, place.daemon, place.asn, patience)?;
            Ok(Player {
                session,
                messages: Vec::new(),
                tally: None,
            })
        };
        places.iter().map(open).collect()
    })?
}

fn two_tables(order: Order<'_>, table: &Table) -> Result<Vec<Outcome>> {
    let places = (1..=3).map(Place::on_cable).collect();
    let mut stage = Stage::new(order, Network::new(3, false)?, places)?;
    for (index, extra) in [(0, 0), (1, 2)] {
        let place = stage.places[index];
        let mut messages = table.announcements(place.asn, place.next_hop(table.family), extra);
        // Behind each table a prefix of its own: when it is through, so is the table.
        let last = std::net::Ipv4Addr::new(10, 200, index as u8, 0);
        table::beacon(last, place.asn, Some(place.address), &mut messages);
        stage.players[index].messages = messages;
    }
    stage.players[2].tally = Some(Tally::announcements(table.len + 2, std::iter::empty()));
    let goal = stage.goal(table, table.len + 2);
    let before = stage.running.cost();
    let times = stage.work(goal.as_ref())?;
    let row = order.outcome("two-tables", table.len);
    Ok(vec![row.with(times, before, stage.running.cost())])
}

fn many_peers(order: Order<'_>, table: Table) -> Result<Vec<Outcome>> {
    const PEERS: usize = 100;
    const { assert!(PEERS <= MOST_PEERS) };
    let places = (0..PEERS).map(Place::among_many).collect();
    let mut stage = Stage::new(order, Network::new(1, true)?, places)?;
    let (goal, len) = (stage.goal(&table, table.len), table.len);
    let parts = table.split(PEERS);
    for ((player, place), part) in stage.players.iter_mut().zip(&stage.places).zip(&parts) {
        player.messages = part.announcements(place.asn, place.next_hop(part.family), 0);
        player.tally = Some(Tally::announcements(len - part.len, part.slots()));
    }
    let before = stage.running.cost();
    let times = stage.work(goal.as_ref())?;
    let row = order.outcome("many-peers", len);
    Ok(vec![row.with(times, before, stage.running.cost())])
}

fn withdraw(order: Order<'_>, table: &Table) -> Result<Vec<Outcome>> {
    let mut stage = Stage::two(order)?;
    stage.load(table)?;

    stage.players[0].messages = table.withdrawals();
    stage.players[1].tally = Some(Tally::withdrawals(table.len));
    let gone = stage.goal(table, 0);
    let before = stage.running.cost();
    let times = stage.work(gone.as_ref())?;
    let row = order.outcome("withdraw", table.len);
    let by_updates = row.with(times, before, stage.running.cost());

    stage.load(table).context("the table a second time")?;
    stage.players[1].tally = Some(Tally::withdrawals(table.len));
    let before = stage.running.cost();
    stage.players.remove(0).session.close();
    let times = stage.work(gone.as_ref())?;
    let row = order.outcome("session-drop", table.len);
    Ok(vec![
        by_updates,
        row.with(times, before, stage.running.cost()),
    ])
}

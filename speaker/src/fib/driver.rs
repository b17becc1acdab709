//! The thread: its sockets, what it knows, and the order of its work.
//!
//! Each turn does one bounded slice of everything there is to do, so that a dead link is seen
//! within about a millisecond even while a full table is being written.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::engine::{FibChange, NextHopSet};
use bgp::types::Prefix;
use kernel::route::Owner;
use kernel::{Event, Failure, Links, Monitor, Netlink, NetlinkError, Requests, Route, RouteKind};
use plan::KernelConfig;
use tokio::sync::{mpsc, oneshot};

use super::down::Downs;
use super::foreign::Foreign;
use super::groups::Groups;
use super::leave::Leaving;
use super::neighbours::Silent;
use super::plan::Step;
use super::queue::{Queue, Request, Wakes};
use super::relist::List;
use super::subnets::{METRIC, Subnets};
use super::table::{Entry, Slot, State, Table};
use super::write::Sent;
use super::{FibError, FibEvent, FibProblem, prefix_of};
use crate::nexthops::NextHops;

/// Room for the answers to a batch of which every request fails.
pub(super) const RECEIVE: usize = 8 << 20;
/// Messages of the kernel taken in per turn.
const HEARD: usize = 1024;

/// How often what is done, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Everything is listed again this often, or after a hundred times the time that a list takes.
    pub(super) relist: Duration,
    /// Next hops are looked up again at most this often, except when a link changes.
    pub(super) settle: Duration,
    /// Problems are told at most this often.
    pub(super) report: Duration,
    /// Bytes of changes made by others that may wait for us, as the kernel counts them; more is an
    /// overrun.
    pub(super) heard: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            relist: Duration::from_secs(60),
            settle: Duration::from_millis(20),
            report: Duration::from_secs(1),
            heard: 32 << 20, // some ten thousand changes
        }
    }
}

/// Everything the thread has.
pub(super) struct Driver {
    pub(super) queue: Arc<Queue>,
    wakes: Wakes,
    pub(super) events: mpsc::UnboundedSender<FibEvent>,
    pub(super) tuning: Tuning,
    pub(super) config: KernelConfig,

    /// For everything but the list of routes.
    pub(super) writer: Netlink,
    pub(super) links: Links,
    pub(super) lister: Netlink,
    monitor: Monitor,
    pub(super) requests: Requests,
    pub(super) failures: Vec<Failure>,

    pub(super) table: Table,
    pub(super) groups: Groups,
    pub(super) hops: NextHops,
    /// They are followed among `hops`, whether or not routes point at them.
    pub(super) peers: BTreeSet<IpAddr>,
    /// The MTU of the path, as last told, and whether it may be another one now.
    pub(super) path_mtu: Option<u32>,
    pub(super) paths_dirty: bool,
    pub(super) down: Downs,
    pub(super) silent: Silent,
    pub(super) foreign: Foreign,
    pub(super) subnets: Subnets,

    /// The batch being worked off.
    pub(super) batch: std::vec::IntoIter<FibChange>,
    /// The set of the last change: the next one mostly has the same.
    pub(super) last_set: Option<(Arc<NextHopSet>, Slot)>,
    /// What each of `requests` is about.
    pub(super) sent: Vec<(Prefix, Sent)>,
    /// Prefixes of which the removal of the old route is still to be sent.
    pub(super) moving: HashSet<Prefix>,
    /// Prefixes whose routes are to be removed.
    pub(super) leaving: Leaving,
    /// Repairs to be made.
    pub(super) steps: Vec<Step>,
    /// Where the walk over routes to be written stands; `None`: there is none.
    pub(super) backlog: Option<Option<Prefix>>,
    pub(super) list: Option<List>,
    pub(super) next_list: Instant,
    /// How long the last one took.
    pub(super) list_took: Duration,
    /// Routes taken over at the start, IPv4 and IPv6.
    pub(super) adopted: [u64; 2],
    /// What nobody asks for may go.
    pub(super) swept: bool,
    /// Groups may have become unused.
    pub(super) untidy: bool,
    /// Where our routes were before the configuration changed.
    pub(super) retired: Vec<KernelConfig>,

    /// Nexthop objects may not be what we think.
    pub(super) suspect: bool,
    pub(super) resolve_at: Option<Instant>,
    pub(super) resolved: Instant,
    /// The daemon has yet to be told that addresses of this host changed.
    pub(super) readdressed: bool,
    /// Ways out that the kernel does not take, and why.
    pub(super) refused_paths: BTreeMap<kernel::Path, String>,

    /// Why the kernel refused a route; of the first hundred.
    pub(super) refusals: BTreeMap<Prefix, String>,
    /// The last thing that went wrong with the kernel as a whole.
    pub(super) trouble: Option<String>,
    pub(super) repaired: u64,
    pub(super) overruns: u64,
    pub(super) problems: Vec<FibProblem>,
    /// The use of our subnets, as last told.
    pub(super) used: Vec<(Prefix, u64)>,
    /// Addresses that containers have, as the CNI plugin says.
    pub(super) leased: BTreeSet<Prefix>,
    pub(super) problems_dirty: bool,
    pub(super) report_at: Instant,
    ending: Option<Option<oneshot::Sender<()>>>,
}

impl Driver {
    pub(super) fn open(
        config: KernelConfig,
        queue: Arc<Queue>,
        wakes: Wakes,
        events: mpsc::UnboundedSender<FibEvent>,
        tuning: Tuning,
    ) -> Result<Driver, FibError> {
        let writer = Netlink::open(RECEIVE)?;
        let monitor = Monitor::open(&writer, tuning.heard)?;
        let lister = Netlink::open(RECEIVE)?;
        // Last: what waits for its answers must not be given up again on a task of the daemon.
        let links = Links::open()?;
        let now = Instant::now();
        Ok(Driver {
            queue,
            wakes,
            events,
            tuning,
            config,
            writer,
            links,
            lister,
            monitor,
            requests: Requests::new(),
            failures: Vec::new(),
            table: Table::default(),
            groups: Groups::new(config.protocol),
            hops: NextHops::default(),
            peers: BTreeSet::new(),
            path_mtu: None,
            paths_dirty: false,
            down: Downs::default(),
            silent: Silent::default(),
            foreign: Foreign::default(),
            subnets: Subnets::default(),
            batch: Vec::new().into_iter(),
            last_set: None,
            sent: Vec::new(),
            moving: HashSet::new(),
            leaving: Leaving::default(),
            steps: Vec::new(),
            backlog: None,
            list: None,
            next_list: now + tuning.relist,
            list_took: Duration::ZERO,
            adopted: [0; 2],
            swept: false,
            untidy: false,
            retired: Vec::new(),
            suspect: true,
            resolve_at: Some(now),
            resolved: now,
            readdressed: false,
            refused_paths: BTreeMap::new(),
            refusals: BTreeMap::new(),
            trouble: None,
            repaired: 0,
            overruns: 0,
            problems: Vec::new(),
            used: Vec::new(),
            leased: BTreeSet::new(),
            problems_dirty: false,
            report_at: now,
            ending: None,
        })
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self) {
        self.list_links();
        self.follow();
        self.adopt();
        loop {
            self.hear();
            self.take_hops_down();
            self.follow();
            self.take_requests();
            let more = self.work();
            self.tell_path_mtu();
            self.report();
            if more {
                continue;
            }
            if let Some(answer) = self.ending.take() {
                if let Some(answer) = answer {
                    let _ = answer.send(()); // nobody may be waiting any more
                }
                return;
            }
            self.rest();
        }
    }

    /// One slice of everything there is to do; false when nothing is left.
    fn work(&mut self) -> bool {
        let wrote = self.write_batch();
        let removed = self.remove_leaving();
        let repaired = self.work_off_steps();
        let caught_up = self.work_off_backlog();
        let listed = self.work_on_list();
        let busy = wrote || removed || repaired || caught_up || listed || !self.queue.is_empty();
        busy || self.tidy()
    }

    fn rest(&mut self) {
        let now = Instant::now();
        let report = self.problems_dirty.then_some(self.report_at);
        let next = [
            Some(self.next_list),
            self.resolve_at,
            report,
            self.silent.ask_at,
        ];
        let next = next.into_iter().flatten().min();
        let timeout = next.map(|next| next.saturating_duration_since(now));
        let fds = [self.monitor.fd(), self.wakes.fd()];
        if let Err(error) = kernel::socket::wait(&fds, timeout) {
            self.troubled("cannot wait for the kernel", &error);
        }
        self.wakes.clear();
        if Instant::now() >= self.next_list {
            self.begin_list();
        }
    }

    /// Requests up to the next batch; batches one at a time, so that each stays bounded.
    fn take_requests(&mut self) {
        while self.batch.len() == 0 {
            let (request, room) = self.queue.pop();
            if room {
                self.tell(FibEvent::Room);
            }
            match request {
                None => return,
                Some(Request::Apply(batch)) => self.batch = batch.into_iter(),
                Some(Request::Configure(config, subnets)) => self.configure(config, subnets),
                Some(Request::Sweep) => {
                    self.swept = true;
                    self.untidy = true;
                    self.begin_list();
                }
                Some(Request::Track(address)) => self.track(address),
                Some(Request::Untrack(address)) => {
                    self.hops.untrack(address);
                    self.paths_dirty = true;
                }
                Some(Request::Leased(leased)) => {
                    self.problems_dirty |= self.leased != leased;
                    self.leased = leased;
                }
                Some(Request::Peers(peers)) => self.follow_peers(peers),
                Some(Request::HandedOver(last_set)) => self.down.handed_over(last_set),
                Some(Request::States(prefixes, answer)) => {
                    let states = prefixes.into_iter().map(|prefix| self.state(prefix));
                    let _ = answer.send(states.collect()); // the asker may be gone
                }
                Some(Request::RouteStates(prefixes, answer)) => {
                    let _ = answer.send(self.route_states(&prefixes)); // the asker may be gone
                }
                Some(Request::Summary(answer)) => {
                    let _ = answer.send(self.summary()); // the asker may be gone
                }
                Some(Request::Shutdown(answer)) => {
                    // The handle is dropped after it has asked, which asks again.
                    self.ending.get_or_insert(answer);
                    return;
                }
            }
        }
    }

    fn configure(&mut self, config: KernelConfig, subnets: Vec<Prefix>) {
        let old = std::mem::replace(&mut self.config, config);
        if old != config {
            tracing::info!(
                table = config.table,
                protocol = config.protocol,
                metric = config.metric,
                install = config.install,
                "kernel routes move"
            );
            self.move_routes(old);
        }
        self.subnets.want(subnets);
        self.problems_dirty = true;
        self.write_subnets();
    }

    fn track(&mut self, address: IpAddr) {
        match self.hops.track(address) {
            Some(state) => self.tell(FibEvent::NextHop { address, state }),
            None => self.look_up(&[address]),
        }
    }

    /// Takes in what others changed.
    fn hear(&mut self) {
        let mut heard = Vec::new();
        let outcome = self.monitor.read(HEARD, |event| heard.push(event));
        for event in heard {
            self.on_event(event);
        }
        match outcome {
            Ok(_) => {}
            Err(NetlinkError::Overrun) => self.on_overrun(),
            Err(error) => self.troubled("cannot follow the kernel's changes", &error),
        }
    }

    /// Changes are lost: everything is looked at again.
    fn on_overrun(&mut self) {
        tracing::warn!("the kernel changed faster than we could follow; listing everything again");
        self.overruns += 1;
        self.list_links();
        self.suspect = true;
        self.silent.forget();
        self.readdressed = true;
        self.resolve_at = Some(Instant::now());
        self.begin_list(); // another one after one under way, which may be older than what is lost
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Link(link) => {
                if self.hops.set_link(link) {
                    self.on_link_change();
                }
            }
            Event::LinkGone(link) => {
                self.hops.remove_link(&link);
                self.pods_gone_with(link.index);
                self.on_link_change();
            }
            Event::Addresses => {
                self.refused_paths.clear();
                self.readdressed = true;
                self.resolve_soon();
            }
            Event::Neighbour(neighbour) => self.on_neighbour(neighbour),
            Event::NextHop(object) => {
                if object.protocol == self.config.protocol {
                    self.suspect = true;
                }
                self.resolve_soon();
            }
            Event::Route { route, .. } | Event::RouteGone { route, .. } if route.special => {}
            Event::Route { route, replaced } => self.on_route(route, replaced),
            Event::RouteGone { route, by_kernel } => self.on_route_gone(&route, by_kernel),
        }
    }

    /// The kernel has thrown away the nexthop objects of a link that went down.
    fn on_link_change(&mut self) {
        self.paths_dirty = true;
        self.suspect = true;
        self.refused_paths.clear();
        self.resolve_at = Some(Instant::now());
    }

    pub(super) fn is_ours(&self, route: &Route) -> bool {
        route.owner.protocol == self.config.protocol && route.owner.table == self.config.table
    }

    fn on_route(&mut self, route: Route, replaced: bool) {
        let prefix = prefix_of(route.destination);
        if !self.is_ours(&route) {
            self.resolve_soon();
            if route.owner.protocol != self.config.protocol {
                self.foreign.note_object(&route);
                if let Some(list) = &mut self.list {
                    list.foreign.note_object(&route);
                }
            }
            if route.owner.table == self.config.table {
                self.on_foreign_route(prefix, &route, replaced);
            }
            return;
        }
        self.touch(prefix);
        if route.owner.metric != self.config.metric || route.kind != RouteKind::Unicast {
            return; // an own subnet put back, or a stray: the next list tidies up
        }
        let from = route.next_hop.unwrap_or(0);
        match self.table.get(prefix) {
            None => self.steps.push(Step::Unasked { prefix, from }),
            Some(entry) if self.groups.id(entry.slot()) == from => {
                if !entry.in_kernel() {
                    self.steps.push(Step::Keep(prefix));
                }
            }
            Some(_) => {
                self.repaired += 1;
                self.steps.push(if replaced {
                    Step::Move { prefix, from }
                } else {
                    Step::RemoveExtra { prefix, from }
                });
            }
        }
    }

    fn on_foreign_route(&mut self, prefix: Prefix, route: &Route, replaced: bool) {
        if replaced {
            self.foreign.replace(route);
        } else {
            self.foreign.put(route);
        }
        if let Some(list) = &mut self.list {
            list.foreign.put(route);
        }
        self.problems_dirty = true;
        // It may have taken the place of ours. Ours cannot be put beside it, nor over it.
        if replaced
            && route.owner.metric == self.config.metric
            && let Some(entry) = self.table.get(prefix)
            && entry.state() == State::Installed
        {
            self.touch(prefix);
            self.table.put(prefix, entry.with(State::Foreign));
            // Of IPv6 it is not sure which one was replaced.
            self.list_soon();
        }
    }

    fn on_route_gone(&mut self, route: &Route, by_kernel: bool) {
        let prefix = prefix_of(route.destination);
        if !self.is_ours(route) {
            self.resolve_soon();
            if route.owner.table == self.config.table {
                self.on_foreign_route_gone(prefix, route);
            }
            return;
        }
        if route.kind == RouteKind::Unreachable && route.owner.metric == METRIC {
            if self.subnets.gone(prefix) {
                self.repaired += 1;
                self.write_subnets();
            }
            return;
        }
        let Some(entry) = self.table.get(prefix) else {
            return;
        };
        let same = route.owner.metric == self.config.metric
            && route.next_hop == Some(self.groups.id(entry.slot()));
        if !same || !entry.in_kernel() {
            return;
        }
        self.touch(prefix);
        if by_kernel {
            // It went with its group; with which others is seen from the objects.
            self.suspect = true;
            self.resolve_at = Some(Instant::now());
        }
        if !entry.is_wanted() {
            self.forget(prefix);
            return;
        }
        self.repaired += u64::from(!by_kernel);
        self.table.put(prefix, entry.with(State::Pending));
        let there = false;
        self.steps.push(Step::Install { prefix, there });
    }

    fn on_foreign_route_gone(&mut self, prefix: Prefix, route: &Route) {
        self.foreign.remove(route);
        if let Some(list) = &mut self.list {
            list.foreign.remove(route);
        }
        self.problems_dirty = true;
        if let Some(entry) = self.table.get(prefix)
            && entry.state() == State::Foreign
        {
            self.table.put(prefix, entry.with(State::Pending));
            let there = false;
            self.steps.push(Step::Install { prefix, there });
        }
        self.subnets.retry(prefix);
        self.write_subnets();
    }

    /// A prefix is in the kernel no more and wanted no more.
    pub(super) fn forget(&mut self, prefix: Prefix) {
        if let Some(entry) = self.table.remove(prefix) {
            self.untidy |= self.groups.uncount_route(entry.slot());
        }
    }

    /// Sets what a prefix wants and what became of it, and keeps the groups' counts.
    pub(super) fn put(&mut self, prefix: Prefix, entry: Entry) {
        let old = self.table.put(prefix, entry);
        self.recount(old, entry.slot());
    }

    /// A prefix that had `old` wants the group of `slot`.
    pub(super) fn recount(&mut self, old: Option<Entry>, slot: Slot) {
        if old.map(Entry::slot) != Some(slot) {
            self.groups.count_route(slot);
            if let Some(old) = old {
                self.untidy |= self.groups.uncount_route(old.slot());
            }
        }
    }

    pub(super) fn owner(&self) -> Owner {
        Owner {
            table: self.config.table,
            protocol: self.config.protocol,
            metric: self.config.metric,
        }
    }

    pub(super) fn tell(&self, event: FibEvent) {
        let _ = self.events.send(event); // the daemon may be ending
    }

    /// Something went wrong with the kernel as a whole.
    pub(super) fn troubled(&mut self, what: &str, error: &dyn std::error::Error) {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!(reason = text, "trouble with the kernel");
            self.trouble = Some(text);
            self.problems_dirty = true;
        }
    }
}

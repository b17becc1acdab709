//! A network namespace with two links, a [`Fib`] in it, and eyes on what the kernel has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::plan::KernelConfig;
use bgp::engine::{FibChange, NextHopSet, NextHopState};
use bgp::types::Prefix;
use kernel::list::{Progress, RouteList};
use kernel::{Monitor, Netlink, NextHop, Route, list};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::driver::Tuning;
use super::super::{Fib, FibEvent, FibProblem, FibSummary, KernelState, prefix_of};

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) const CONFIG: KernelConfig = KernelConfig {
    table: 254,
    protocol: 149,
    metric: 512,
    install: true,
};

/// Neighbours on the links `a0` and `a1`.
pub(super) const A: &str = "192.0.2.2";
pub(super) const B: &str = "198.51.100.2";
pub(super) const A6: &str = "2001:db8:1::2";
pub(super) const B6: &str = "2001:db8:2::2";

/// The namespace as a test sees it. The test's thread is in it.
pub(super) struct Lab {
    pub(super) fib: Option<Fib>,
    events: mpsc::UnboundedReceiver<FibEvent>,
    pub(super) hops: BTreeMap<IpAddr, Option<NextHopState>>,
    pub(super) problems: Vec<FibProblem>,
    pub(super) used: Vec<(Prefix, u64)>,
    pub(super) path_mtu: Option<u32>,
    pub(super) rooms: u32,
    /// How often it was told that addresses changed.
    pub(super) readdressed: u32,
    runtime: Runtime,
    pub(super) netlink: Netlink,
    sets: BTreeMap<Vec<IpAddr>, Arc<NextHopSet>>,
}

/// Lists only when told, and tells problems at once.
pub(super) fn tuning() -> Tuning {
    Tuning {
        relist: Duration::from_secs(3600),
        report: Duration::ZERO,
        ..Tuning::default()
    }
}

/// Runs a test in a fresh namespace, on a thread of its own.
pub(super) fn in_namespace(test: impl FnOnce(&mut Lab) + Send + 'static) {
    in_namespace_with(tuning(), test);
}

pub(super) fn in_namespace_with(tuning: Tuning, test: impl FnOnce(&mut Lab) + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this test makes a network namespace and therefore needs root");
        for line in [
            "link set lo up",
            "link add a0 type veth peer name b0",
            "link add a1 type veth peer name b1",
            "link set a0 up",
            "link set b0 up",
            "link set a1 up",
            "link set b1 up",
            "address add 192.0.2.1/24 dev a0",
            "address add 198.51.100.1/24 dev a1",
            "address add 2001:db8:1::1/64 dev a0 nodad",
            "address add 2001:db8:2::1/64 dev a1 nodad",
        ] {
            ip(line);
        }
        let (sender, events) = mpsc::unbounded_channel();
        let mut lab = Lab {
            fib: None,
            events,
            hops: BTreeMap::new(),
            problems: Vec::new(),
            used: Vec::new(),
            path_mtu: None,
            rooms: 0,
            readdressed: 0,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
            netlink: Netlink::open(1 << 20).expect("a socket"),
            sets: BTreeMap::new(),
        };
        lab.fib = Some(Fib::start_with(CONFIG, sender, tuning).expect("it starts"));
        test(&mut lab);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` of iproute2.
pub(super) fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output();
    let output = output.expect("`ip` of the package iproute2 runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {error}");
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Lab {
    pub(super) fn fib(&self) -> &Fib {
        self.fib.as_ref().expect("it runs")
    }

    /// Another life of the thread; the kernel stays as it is.
    pub(super) fn restart(&mut self) {
        self.stop();
        let (sender, events) = mpsc::unbounded_channel();
        self.events = events;
        self.fib = Some(Fib::start_with(CONFIG, sender, tuning()).expect("it starts"));
        self.summary(); // it has adopted
    }

    pub(super) fn stop(&mut self) {
        if let Some(fib) = self.fib.take() {
            self.runtime.block_on(fib.shutdown());
        }
    }

    pub(super) fn set(&mut self, hops: &[&str]) -> Arc<NextHopSet> {
        let mut hops: Vec<IpAddr> = hops.iter().map(|hop| address(hop)).collect();
        hops.sort_unstable();
        let id = self.sets.len() as u32;
        let new = || {
            Arc::new(NextHopSet {
                id,
                hops: hops.clone(),
                backups: Vec::new(),
            })
        };
        self.sets.entry(hops.clone()).or_insert_with(new).clone()
    }

    /// Wants these routes; no next hops: none any more.
    pub(super) fn apply(&mut self, routes: &[(&str, &[&str])]) {
        let changes = routes.iter().map(|(text, hops)| FibChange {
            prefix: prefix(text),
            next_hops: (!hops.is_empty()).then(|| self.set(hops)),
        });
        let changes: Vec<FibChange> = changes.collect();
        self.apply_all(changes);
    }

    pub(super) fn apply_all(&mut self, changes: Vec<FibChange>) {
        for batch in changes.chunks(4096) {
            let mut batch = batch.to_vec();
            let start = Instant::now();
            while let Err(refused) = self.fib().try_apply(batch) {
                batch = refused;
                let rooms = self.rooms;
                while self.rooms == rooms {
                    let event = self.runtime.block_on(self.events.recv());
                    self.hear(event.expect("it runs"));
                    assert!(start.elapsed() < DEADLINE, "no room");
                }
            }
        }
    }

    /// `count` routes `11.x.y.0/24`.
    pub(super) fn many(&mut self, count: u32, hops: &[&str]) -> Vec<FibChange> {
        let set = (!hops.is_empty()).then(|| self.set(hops));
        let nth = |number: u32| std::net::Ipv4Addr::from(0x0B00_0000 + (number << 8));
        let change = |number| FibChange {
            prefix: Prefix::new(nth(number).into(), 24),
            next_hops: set.clone(),
        };
        (0..count).map(change).collect()
    }

    fn hear(&mut self, event: FibEvent) {
        match event {
            FibEvent::NextHop { address, state } => {
                self.hops.insert(address, state);
            }
            FibEvent::Room => self.rooms += 1,
            FibEvent::Addresses => self.readdressed += 1,
            FibEvent::Problems(problems) => self.problems = problems,
            FibEvent::SubnetsUsed(used) => self.used = used,
            FibEvent::PathMtu(mtu) => self.path_mtu = mtu,
        }
    }

    pub(super) fn summary(&mut self) -> FibSummary {
        let fib = self.fib.as_ref().expect("it runs");
        let summary = self.runtime.block_on(fib.summary());
        while let Ok(event) = self.events.try_recv() {
            self.hear(event);
        }
        summary
    }

    pub(super) fn state(&mut self, text: &str) -> KernelState {
        let fib = self.fib.as_ref().expect("it runs");
        let mut states = self.runtime.block_on(fib.states(vec![prefix(text)]));
        states.pop().expect("an answer for each prefix")
    }

    /// Asks again and again until `condition` holds; each question is answered by the thread in the
    /// order of its work.
    pub(super) fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Lab) -> bool) {
        let start = Instant::now();
        loop {
            let summary = self.summary();
            if condition(self) {
                return;
            }
            if start.elapsed() > DEADLINE {
                let (routes, objects) = (self.ours(), self.objects());
                let routes: Vec<_> = routes.values().take(20).map(|r| format!("{r:?}")).collect();
                let objects: Vec<_> = objects.iter().map(|o| format!("{o:?}")).collect();
                panic!(
                    "waited in vain: {what}\n{summary:#?}\nroutes of ours: {routes:#?}\n\
                     objects: {objects:#?}\nnext hops: {:#?}",
                    self.hops
                );
            }
            thread::yield_now();
        }
    }

    pub(super) fn wait_for_installed(&mut self, count: u64) {
        self.wait_for(&format!("{count} routes installed"), |lab| {
            let summary = lab.summary();
            (summary.installed, summary.pending) == (count, 0)
        });
    }

    pub(super) fn all_routes(&mut self, table: u32) -> Vec<Route> {
        let mut netlink = Netlink::open(1 << 20).expect("a socket");
        let mut list = RouteList::start(&mut netlink, table).expect("a list");
        let mut routes = Vec::new();
        while list
            .step(&mut netlink, |route| routes.push(route))
            .expect("routes")
            == Progress::More
        {}
        routes
    }

    /// Routes of our protocol in our table, by prefix.
    pub(super) fn ours(&mut self) -> BTreeMap<Prefix, Route> {
        let mut routes = self.all_routes(CONFIG.table);
        routes.retain(|route| route.owner.protocol == CONFIG.protocol);
        let count = routes.len();
        let by_prefix: BTreeMap<_, _> = routes
            .into_iter()
            .map(|route| (prefix_of(route.destination), route))
            .collect();
        assert_eq!(by_prefix.len(), count, "a prefix of ours is there twice");
        by_prefix
    }

    /// Gateways of our route, sorted.
    pub(super) fn gateways(&mut self, text: &str) -> Vec<String> {
        let routes = self.ours();
        let paths = routes.get(&prefix(text)).map(|route| &route.paths);
        let gateways = paths.into_iter().flatten().filter_map(|path| path.gateway);
        let mut gateways: Vec<String> = gateways.map(|gateway| gateway.to_string()).collect();
        gateways.sort();
        gateways
    }

    /// Nexthop objects of ours.
    pub(super) fn objects(&mut self) -> Vec<NextHop> {
        let mut objects = list::next_hops(&mut self.netlink).expect("nexthop objects");
        objects.retain(|object| object.protocol == CONFIG.protocol);
        objects
    }

    /// Hears everything from now on but what the test itself does through [`Lab::netlink`].
    pub(super) fn witness(&self) -> Monitor {
        Monitor::open(&self.netlink, 32 << 20).expect("a monitor")
    }
}

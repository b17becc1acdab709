//! The speaker's one loop: it owns the engine, and everything else talks to it over channels.
//!
//! ```text
//!   connection tasks ──Note──►┐                            ┌──► connection tasks  (one buffer each)
//!   listening tasks  ──Note──►│ Transport                  │
//!                             │                            │
//!   desired.rs ───────Offer──►│                            ├──► answer: in force, or why not
//!     controller's stream,    │        ┌───────────┐       │
//!     disk, or files          ├───────►│  Engine   │───────┤
//!                             │        └───────────┘       ├──► fib.rs, a thread: batches of routes
//!   fib.rs ─────────FibEvent─►│         one task, one      │      and next hops to watch
//!     next hops, room         │         turn per event     │
//!   bfd.rs ─────────BfdEvent─►│                            ├──► bfd.rs: sessions wanted (watch)
//!   leases.rs ──────changed()►│                            │
//!   cni_conf.rs ────changed()►│                            ├──► cni_conf.rs: files wanted (watch)
//!   host.rs ────────changed()►│                            ├──► host.rs: nftables, sysctls (watch)
//!   admin.rs ───────Question─►│                            ├──► watchers (broadcast, may lag)
//!   metrics.rs ─────Question─►│                            └──► NodeReport (watch) ──► desired.rs
//! ```
//!
//! The loop never waits for anything but its next event: queues towards it are bounded, what it hands
//! out is pulled by whoever has room, and a turn does a bounded piece of work.
//!
//! # Start and stop
//!
//! The copy on disk is offered first, so a node needs nobody to come back. With the first
//! configuration the kernel's side starts and adopts the routes of our last life, then sessions are
//! opened. When the last life ended only a moment ago, this start is a restart (`restart.rs`): the
//! peers are told so, and the engine holds everything back until they have spoken. Adopted routes that nobody has announced again are swept when every peer that is not shut
//! down is Established and has sent End-of-RIB for every family negotiated, or after
//! [`CONVERGENCE`]. Stopping leaves kernel routes in place.

mod kernel_side;
mod peer_keys;
mod pods;
mod question;
mod restart;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bgp::engine::{Command, Engine, Input, Output, RouteChange};
use bgp::query::PeerStatus;
use bgp::types::{PeerId, Prefix};
use bytes::BytesMut;
use plan::NodeConfig;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::bfd::{Bfd, BfdEvent, Failure};
use crate::cni_conf::CniConf;
use crate::desired::{self, Desired, Offer, Source};
use crate::fib::{FibEvent, FibProblem};
use crate::host::Host;
use crate::keys::{KeyRing, Vault};
use crate::last_life::Note;
use crate::leases::{self, Leases};
use crate::names::Names;
use crate::report::Reporter;
use crate::transport::{Event, Transport};
use kernel_side::KernelSide;
pub(crate) use question::{Asker, Questions, Stopping, questions};
use restart::LastLife;

/// How long after the first configuration adopted kernel routes wait for somebody to announce them.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// How often we look at what changes without an event of its own: counters, End-of-RIB.
const LOOK: Duration = Duration::from_secs(1);
/// How often we look whether pods may start, until they may.
const LOOK_FOR_PODS: Duration = Duration::from_millis(100);
/// How soon the controller is told of a change that comes after a quiet time.
const PROMPT: Duration = Duration::from_millis(50);
/// What a connection that is to be closed may still send: a NOTIFICATION and what goes before it.
const LAST: usize = 256 * 1024;
/// Changes a watcher may be behind before it is told that it missed some.
const BEHIND: usize = 4096;

/// Why the speaker stops, which decides what its peers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Departure {
    /// It will be back soon, perhaps as another build: connections are closed without NOTIFICATION,
    /// which would cancel graceful restart (RFC 4724 §4).
    ComingBack,
    /// It leaves for good: peers hear Cease/Administrative Shutdown (RFC 4486), so that they stop
    /// sending here at once.
    Leaving,
}

/// A configuration in force, and which way it came.
#[derive(Clone)]
pub(crate) struct InForce {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) source: Source,
}

/// A peer, the BFD session beside it where one is wanted, and its key where it has one.
pub(crate) type WatchedPeer = (
    PeerStatus,
    Option<proto::bfd::v1::Session>,
    Option<proto::speaker::v1::Key>,
);

/// What serves the node's pods.
pub(crate) struct ForPods {
    pub(crate) cni_conf: CniConf,
    pub(crate) names: Names,
    pub(crate) leases: Leases,
    pub(crate) host: Host,
}

/// The loop's state. Questions read it and give commands; only the loop changes it otherwise.
pub(crate) struct Daemon {
    pub(crate) engine: Engine,
    pub(crate) transport: Transport,
    pub(crate) kernel: KernelSide,
    pub(crate) in_force: Option<InForce>,
    /// How the configuration's source fares.
    pub(crate) desired: desired::Status,
    /// As the kernel's side told last.
    pub(crate) kernel_problems: Vec<FibProblem>,
    /// Addresses in use of each of our subnets, as the kernel's side told last.
    pub(crate) subnets_used: HashMap<Prefix, u64>,
    /// BFD sessions wanted, and how they are.
    pub(crate) bfd: Bfd,
    /// Keys of peers, as their files were read last.
    pub(crate) keys: KeyRing,
    /// The files by which pods get their network.
    pub(crate) cni_conf: CniConf,
    /// The resolver for names of containers.
    pub(crate) names: Names,
    /// Which container has which address.
    pub(crate) leases: Leases,
    /// What the host does for pods.
    pub(crate) host: Host,
    /// Session changes, for watchers.
    pub(crate) peer_changes: broadcast::Sender<PeerId>,
    listen: Vec<IpAddr>,
    route_changes: broadcast::Sender<RouteChange>,
    states: HashMap<PeerId, &'static str>,
    /// What was logged of peers near or above their prefix limits.
    limits: crate::limits::Logged,
    reporter: Reporter,
    look_at: Instant,
    /// When to look whether pods may start; `None` once they may.
    pods_at: Option<Instant>,
    /// Until when adopted routes are kept; `None` before the first configuration and after the
    /// sweep.
    sweep_by: Option<Instant>,
    last_life: LastLife,
}

impl Daemon {
    /// A loop that listens on `listen` (on every address when empty) once it is configured, and what
    /// its kernel's side will tell.
    pub(crate) fn new(
        listen: Vec<IpAddr>,
        bfd: Bfd,
        reporter: Reporter,
        note: Note,
        vault: Arc<Vault>,
        for_pods: ForPods,
    ) -> (Daemon, mpsc::UnboundedReceiver<FibEvent>) {
        let ForPods {
            cni_conf,
            names,
            leases,
            host,
        } = for_pods;
        let (kernel, kernel_events) = KernelSide::new();
        let everywhere = || vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let daemon = Daemon {
            engine: Engine::new(rand::random()),
            transport: Transport::new(),
            kernel,
            in_force: None,
            desired: desired::Status::default(),
            kernel_problems: Vec::new(),
            subnets_used: HashMap::new(),
            bfd,
            keys: KeyRing::start(vault),
            cni_conf,
            names,
            leases,
            host,
            peer_changes: broadcast::Sender::new(256),
            listen: if listen.is_empty() {
                everywhere()
            } else {
                listen
            },
            route_changes: broadcast::Sender::new(BEHIND),
            states: HashMap::new(),
            limits: crate::limits::Logged::default(),
            reporter,
            look_at: Instant::now(),
            pods_at: Some(Instant::now()),
            sweep_by: None,
            last_life: LastLife::new(note),
        };
        (daemon, kernel_events)
    }

    /// Runs until `stop` says how to go.
    pub(crate) async fn run(
        mut self,
        mut desired: Desired,
        mut questions: Questions,
        (mut kernel_events, mut bfd_events): (
            mpsc::UnboundedReceiver<FibEvent>,
            mpsc::Receiver<BfdEvent>,
        ),
        stop: impl Future<Output = Departure>,
    ) {
        let mut stop = std::pin::pin!(stop);
        let departure = loop {
            let more = self.carry_out();
            let deadline = self.deadline();
            tokio::select! {
                event = self.transport.next() => self.on_transport(event),
                Some(event) = kernel_events.recv() => self.on_kernel(event),
                Some(event) = bfd_events.recv() => self.on_bfd(event),
                () = self.keys.changed() => self.on_keys(),
                () = self.cni_conf.changed() => self.changed(),
                () = self.leases.changed() => self.on_leases(),
                () = self.host.changed() => self.changed(),
                Some(offer) = desired.offers.recv() => self.on_offer(offer).await,
                Ok(()) = desired.status.changed() => {
                    self.desired = desired.status.borrow_and_update().clone();
                    self.changed();
                }
                Some(question) = questions.next() => question(&mut self),
                () = sleep_until(deadline) => self.on_time(),
                // Something could be handed out at once: look only at what is there already.
                () = std::future::ready(()), if more => {}
                departure = &mut stop => break departure,
            }
        };
        if departure == Departure::Leaving {
            self.bfd.leave(&mut bfd_events).await;
        }
        self.depart(departure).await;
    }

    /// Hands out what the engine wants done. Returns whether there is more that could go at once.
    fn carry_out(&mut self) -> bool {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Connect {
                    conn,
                    remote,
                    local,
                    ..
                } => {
                    self.transport.connect(conn, remote, local);
                }
                Output::Close { conn } => {
                    let mut last = BytesMut::new();
                    while self.engine.poll_send(now(), conn, &mut last) && last.len() < LAST {}
                    self.transport.close(conn, last);
                }
                Output::Send { conn } => self.transport.want_to_send(conn),
                Output::TrackNextHop(address) => self.kernel.track(address),
                Output::UntrackNextHop(address) => self.kernel.untrack(address),
                Output::NextHopsDown { hops, last_set } => self.kernel.hops_down(hops, last_set),
                Output::FibPending => self.kernel.pending(),
                Output::SessionChanged(peer) => self.on_session(peer),
                Output::BestChanged(change) => self.on_best(change),
            }
        }
        let engine = &mut self.engine;
        let sends = self
            .transport
            .flush(|conn, buf| engine.poll_send(now(), conn, buf));
        let routes = self.kernel.pump(engine);
        sends || routes
    }

    /// When [`Self::on_time`] has something to do.
    fn deadline(&self) -> Instant {
        let engine = self.engine.poll_timeout().map(Instant::from_std);
        let others = [Some(self.look_at), self.kernel.retry_at(), self.pods_at];
        others
            .into_iter()
            .chain([engine])
            .flatten()
            .min()
            .unwrap_or(self.look_at)
    }

    fn on_time(&mut self) {
        let time = Instant::now();
        if self
            .engine
            .poll_timeout()
            .is_some_and(|at| at <= time.into_std())
        {
            self.engine.handle_timeout(time.into_std());
        }
        if self.kernel.retry_at().is_some_and(|at| at <= time)
            && let Some(in_force) = &self.in_force
        {
            self.kernel.configure(&in_force.config);
            self.changed();
        }
        if self.pods_at.is_some_and(|at| at <= time) {
            self.pods_at = self.look_at_pods().then(|| time + LOOK_FOR_PODS);
        }
        if self.look_at <= time {
            self.look_at = time + LOOK;
            self.sweep_if_converged(time);
            self.note_life();
            self.report();
        }
    }

    fn on_transport(&mut self, event: Event) {
        match event {
            Event::Accepted {
                conn,
                local,
                remote,
            } => {
                self.engine.handle(
                    now(),
                    Input::Accepted {
                        conn,
                        local,
                        remote,
                    },
                );
            }
            Event::Connected {
                conn,
                local,
                remote,
            } => {
                self.engine.handle(
                    now(),
                    Input::Connected {
                        conn,
                        local,
                        remote,
                    },
                );
            }
            Event::ConnectFailed { conn, error } => {
                self.engine
                    .handle(now(), Input::ConnectFailed { conn, error });
            }
            Event::Received { conn, mut data } => {
                self.engine.receive(now(), conn, &mut data);
                self.transport.give_back(conn, data);
            }
            Event::Closed { conn, error } => {
                self.engine.handle(now(), Input::Closed { conn, error });
            }
            Event::Sent => {}
            Event::Problems => self.changed(),
        }
    }

    fn on_kernel(&mut self, event: FibEvent) {
        match event {
            FibEvent::NextHop { address, state } => {
                self.kernel.answered(address);
                self.engine.handle(now(), Input::NextHop { address, state });
            }
            FibEvent::Room => self.kernel.room(),
            FibEvent::Addresses => {
                self.names.readdressed();
                for (conn, local) in self.transport.readdress() {
                    tracing::info!(?conn, ?local, "our addresses on a connection changed");
                    let input = Input::Readdressed { conn, local };
                    self.engine.handle(now(), input);
                }
            }
            FibEvent::Problems(problems) => {
                for problem in problems
                    .iter()
                    .filter(|new| !self.kernel_problems.contains(new))
                {
                    tracing::warn!(reason = problem.reason, "{}", problem.message);
                }
                self.kernel_problems = problems;
                self.changed();
            }
            FibEvent::PathMtu(mtu) => self.cni_conf.path_mtu(mtu),
            FibEvent::SubnetsUsed(used) => {
                self.subnets_used = used.into_iter().collect();
                self.changed();
            }
        }
    }

    /// Containers came or went. The kernel's side counts their addresses together with host routes.
    fn on_leases(&mut self) {
        let leases = self.leases.known();
        self.kernel
            .leased(leases.in_use().map(leases::host).collect());
        self.changed();
    }

    /// A path that is down takes its session down at once. RFC 5882.
    fn on_bfd(&mut self, event: BfdEvent) {
        for failure in self.bfd.on_event(event) {
            let Failure { peer, reason, .. } = &failure;
            self.engine.path_down(now(), *peer, reason);
            if failure.forwarding {
                self.engine.forwarding_down(now(), *peer);
            }
            let after_millis = failure.ago.as_millis();
            tracing::warn!(%peer, reason, after_millis, "the path is down");
        }
        self.reporter.changed();
    }

    async fn on_offer(&mut self, offer: Offer) {
        let Offer {
            config,
            source,
            answer,
        } = offer;
        if self.in_force.is_none() {
            self.look_back(&config).await;
        }
        let result = self
            .configure(config, source)
            .map_err(|error| error.to_string());
        self.changed();
        // Whoever offered waits for nothing else.
        let _ = answer.send(result);
    }

    /// Puts a configuration in force; an error changes nothing.
    fn configure(
        &mut self,
        config: NodeConfig,
        source: Source,
    ) -> Result<(), bgp::config::ConfigError> {
        config.bgp.check()?;
        // Before the sessions, so that what our last life left is adopted, not written again.
        self.kernel.configure(&config);
        self.engine.configure(now(), config.bgp.clone())?;
        self.keys.want(peer_keys::sources(&config));
        self.listen(&config);
        self.names.configure(config.pods.names.as_ref());
        let keys = &self.keys;
        self.bfd.configure(&config.bfd, |source| keys.path(source));
        self.cni_conf.configure(&config);
        self.host.configure(&config);
        if self.in_force.is_none() {
            self.sweep_by = Some(Instant::now() + CONVERGENCE);
        }
        tracing::info!(
            version = config.version,
            %source,
            asn = %config.bgp.asn,
            router_id = %config.bgp.router_id,
            peers = config.bgp.peers.len(),
            subnets = config.subnets.len(),
            "configuration in force"
        );
        self.in_force = Some(InForce {
            config: Arc::new(config),
            source,
        });
        Ok(())
    }

    fn on_session(&mut self, id: PeerId) {
        self.changed();
        // Nobody may be watching.
        let _ = self.peer_changes.send(id);
        let Some(peer) = self.engine.peer(now(), id) else {
            self.states.remove(&id);
            self.limits.forget(id);
            return;
        };
        self.limits.look(&peer);
        let was = self.states.insert(id, peer.state).unwrap_or("Idle");
        if was == peer.state {
            return;
        }
        let (name, address, asn) = (&peer.name, peer.address, peer.remote_asn);
        self.last_life.changed();
        if peer.state == ESTABLISHED {
            tracing::info!(peer = %name, %address, %asn, state = peer.state, "session established");
        } else if was == ESTABLISHED {
            let reason = peer
                .last_error
                .as_ref()
                .map_or("", |(_, text)| text.as_str());
            tracing::warn!(peer = %name, %address, %asn, state = peer.state, reason, "session down");
        } else {
            tracing::debug!(peer = %name, %address, %asn, state = peer.state, was, "session");
        }
    }

    fn on_best(&mut self, change: RouteChange) {
        if self.route_changes.send(change).is_err() {
            self.engine.watch_routes(false); // the last watcher has gone
        }
    }

    /// Every peer, and what goes with it.
    pub(crate) fn peers(&self) -> Vec<WatchedPeer> {
        let peers = self.engine.peers(now()).into_iter();
        peers.map(|peer| self.watched(peer)).collect()
    }

    /// One peer, and what goes with it.
    pub(crate) fn peer(&self, id: PeerId) -> Option<WatchedPeer> {
        self.engine.peer(now(), id).map(|peer| self.watched(peer))
    }

    fn watched(&self, peer: PeerStatus) -> WatchedPeer {
        let bfd = self.bfd.session(peer.address);
        let (peer, key) = self.with_key(peer);
        (peer, bfd, key)
    }

    /// The node's name.
    pub(crate) fn node(&self) -> String {
        self.reporter.node()
    }

    /// The NodeConfig version in force; 0 when there is none.
    pub(crate) fn version(&self) -> u64 {
        self.in_force
            .as_ref()
            .map_or(0, |in_force| in_force.config.version)
    }

    /// Every change of a best route from now on.
    pub(crate) fn watch_routes(&mut self) -> broadcast::Receiver<RouteChange> {
        self.engine.watch_routes(true);
        self.route_changes.subscribe()
    }

    /// Something worth telling the controller happened.
    fn changed(&mut self) {
        self.reporter.changed();
        if self.reporter.may_be_prompt() {
            self.look_at = self.look_at.min(Instant::now() + PROMPT);
        }
    }

    /// Tells the controller what changed: soon after a quiet time, else at most once per [`LOOK`].
    fn report(&mut self) {
        let report = self.reporter.due().then(|| crate::report::build(self));
        if let Some(report) = report {
            self.reporter.send(report);
        }
    }

    fn sweep_if_converged(&mut self, time: Instant) {
        let Some(by) = self.sweep_by else { return };
        if self.engine.deferral().is_some() {
            // What it holds back has to get to the kernel first.
            self.sweep_by = Some(by.max(time + LOOK * 2));
            return;
        }
        let converged = self.is_converged();
        if converged || by <= time {
            tracing::info!(
                converged,
                "sweeping kernel routes that nobody announces any more"
            );
            self.kernel.sweep();
            self.sweep_by = None;
        }
    }

    /// Whether every peer that should speak has said all it has, and all of it is handed on.
    fn is_converged(&self) -> bool {
        let peers = self.engine.peers(now());
        let engine_done = self.engine.poll_timeout().is_none_or(|at| at > now());
        // What was decided a moment ago: nobody has been told yet that it is there to be taken.
        let all_taken = self.engine.status().fib_pending == 0;
        engine_done
            && all_taken
            && !self.kernel.is_behind()
            && peers
                .iter()
                .filter(|peer| peer.shutdown.is_none())
                .all(|peer| {
                    let mut families = peer.families.iter().filter(|family| family.negotiated);
                    peer.state == ESTABLISHED && families.all(|family| family.end_of_rib_received)
                })
    }

    async fn depart(mut self, departure: Departure) {
        tracing::info!(?departure, "stopping; kernel routes stay");
        self.note_departure(departure);
        if departure == Departure::Leaving {
            for peer in self.engine.peers(now()) {
                let message = "leaving".to_owned();
                // Fails for a peer that is shut down already.
                let _ = self.engine.command(
                    now(),
                    Command::Shutdown {
                        peer: peer.name,
                        message,
                    },
                );
            }
            self.carry_out();
        }
        let Daemon {
            transport, kernel, ..
        } = self;
        tokio::join!(transport.stop(), kernel.stop());
    }
}

/// The state in which routes are exchanged. RFC 4271 §8.2.2.
pub(crate) const ESTABLISHED: &str = "Established";

/// The engine's time.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;

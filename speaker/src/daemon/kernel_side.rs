//! The kernel's side as the loop sees it: when it starts, and what waits for it to have room.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp::engine::{Engine, FibChange};
use bgp::types::Prefix;
use plan::NodeConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::fib::{Fib, FibEvent, FibProblem};

/// How often starting is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Routes handed over at once, and how many times in one turn.
const BATCH: usize = 512;
const BATCHES: usize = 8;
/// How long it may take to finish what it has begun when we stop.
const FINISH: Duration = Duration::from_secs(5);

/// Starts the kernel's side with the first configuration and feeds it.
pub(crate) struct KernelSide {
    fib: Option<Arc<Fib>>,
    problem: Option<FibProblem>,
    retry_at: Option<Instant>,
    events: mpsc::UnboundedSender<FibEvent>,
    /// The engine has changes.
    pending: bool,
    /// A batch that was not taken; waits for [`FibEvent::Room`].
    held: Option<Vec<FibChange>>,
    /// Behind it: the newest set told before a next hop went down.
    last_set: Option<u32>,
    /// Next hops that are watched, or will be once it has started.
    tracked: BTreeSet<IpAddr>,
    /// Told to the kernel's side when it starts.
    leased: BTreeSet<Prefix>,
    /// Those of which nothing has been heard yet.
    unanswered: BTreeSet<IpAddr>,
}

impl KernelSide {
    /// Not started yet, and the end at which its events arrive.
    pub(super) fn new() -> (KernelSide, mpsc::UnboundedReceiver<FibEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let side = KernelSide {
            fib: None,
            problem: None,
            retry_at: None,
            events,
            pending: false,
            held: None,
            last_set: None,
            tracked: BTreeSet::new(),
            leased: BTreeSet::new(),
            unanswered: BTreeSet::new(),
        };
        (side, receiver)
    }

    /// For questions that the kernel's side answers; `None` until it has started.
    pub(crate) fn fib(&self) -> Option<Arc<Fib>> {
        self.fib.clone()
    }

    /// Why it has not started.
    pub(crate) fn problem(&self) -> Option<&FibProblem> {
        self.problem.as_ref()
    }

    /// When [`Self::configure`] is to be called again because it could not start.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Starts it if need be, and tells it the node's configuration.
    pub(super) fn configure(&mut self, config: &NodeConfig) {
        self.retry_at = None;
        if self.fib.is_none() {
            match Fib::start(config.kernel, self.events.clone()) {
                Ok(fib) => self.started(fib),
                Err(error) => self.failed(&error),
            }
        }
        if let Some(fib) = &self.fib {
            let subnets: Vec<Prefix> = config.subnets.iter().map(|subnet| subnet.prefix).collect();
            fib.configure(config.kernel, subnets);
            let peers = (config.bgp.peers.iter()).filter(|peer| peer.shutdown.is_none());
            fib.follow_peers(peers.map(|peer| peer.address).collect());
        }
    }

    /// Addresses that containers have, all of them.
    pub(super) fn leased(&mut self, addresses: BTreeSet<Prefix>) {
        if let Some(fib) = &self.fib {
            fib.leased(addresses.clone());
        }
        self.leased = addresses;
    }

    fn started(&mut self, fib: Fib) {
        for address in &self.tracked {
            fib.track(*address);
        }
        fib.leased(self.leased.clone());
        self.fib = Some(Arc::new(fib));
        self.problem = None;
    }

    fn failed(&mut self, error: &crate::fib::FibError) {
        let cause =
            std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
        let message = format!(
            "{error}{cause}; no next hop can be resolved and no route installed until this works, \
             trying again every {} s. Does the speaker have CAP_NET_ADMIN?",
            RETRY.as_secs()
        );
        tracing::error!("{message}");
        self.problem = Some(FibProblem {
            reason: "KernelUnavailable",
            prefix: None,
            message,
        });
        self.retry_at = Some(Instant::now() + RETRY);
    }

    pub(super) fn track(&mut self, address: IpAddr) {
        self.tracked.insert(address);
        self.unanswered.insert(address);
        if let Some(fib) = &self.fib {
            fib.track(address);
        }
    }

    pub(super) fn untrack(&mut self, address: IpAddr) {
        self.tracked.remove(&address);
        self.unanswered.remove(&address);
        if let Some(fib) = &self.fib {
            fib.untrack(address);
        }
    }

    /// It is known how a next hop is reached, or that it is not.
    pub(super) fn answered(&mut self, address: IpAddr) {
        self.unanswered.remove(&address);
    }

    /// The engine has changes for us.
    pub(super) fn pending(&mut self) {
        self.pending = true;
    }

    /// A batch that was refused can be handed over now.
    pub(super) fn room(&mut self) {
        if let (Some(fib), Some(batch)) = (&self.fib, self.held.take()) {
            self.held = fib.try_apply(batch).err();
        }
        self.tell_handed_over();
    }

    /// No packets can go to these next hops, whatever is still to be handed over; see
    /// [`Output::NextHopsDown`](bgp::engine::Output::NextHopsDown).
    pub(super) fn hops_down(&mut self, hops: Vec<IpAddr>, last_set: u32) {
        if let Some(fib) = &self.fib {
            fib.hops_down(hops, last_set);
            self.last_set = Some(last_set);
            self.tell_handed_over();
        }
    }

    fn tell_handed_over(&mut self) {
        if self.held.is_none()
            && let (Some(fib), Some(last_set)) = (&self.fib, self.last_set.take())
        {
            fib.handed_over(last_set);
        }
    }

    /// Whether routes wait to be handed over, or cannot be chosen yet because nothing is known about
    /// their next hops.
    pub(super) fn is_behind(&self) -> bool {
        self.pending || self.held.is_some() || !self.unanswered.is_empty()
    }

    /// Hands changes over while there is room, a bounded number. Returns whether there are more that
    /// could go at once.
    pub(super) fn pump(&mut self, engine: &mut Engine) -> bool {
        let Some(fib) = &self.fib else { return false };
        for _ in 0..BATCHES {
            if !self.pending || self.held.is_some() {
                return false;
            }
            let mut batch = Vec::with_capacity(BATCH);
            engine.poll_fib(BATCH, &mut batch);
            self.pending = batch.len() >= BATCH;
            if !batch.is_empty() {
                self.held = fib.try_apply(batch).err();
            }
        }
        self.pending && self.held.is_none()
    }

    /// Everything wanted has been handed over: what was adopted beyond that goes away.
    pub(super) fn sweep(&self) {
        if let Some(fib) = &self.fib {
            fib.sweep();
        }
    }

    /// Lets it finish what it has begun. Routes stay.
    pub(super) async fn stop(mut self) {
        // Somebody may still be waiting for an answer of it; then it ends with them.
        if let Some(fib) = self.fib.take().and_then(Arc::into_inner)
            && timeout(FINISH, fib.shutdown()).await.is_err()
        {
            tracing::warn!(
                "the kernel's side did not finish in time; the next start puts it right"
            );
        }
    }
}

//! Best routes → kernel routes.
//!
//! The daemon hands over changes in batches ([`Fib::try_apply`]) and hears back how next hops are
//! reached ([`FibEvent`]). All the work is done by one thread of its own, so that it runs beside
//! the engine:
//!
//! ```text
//!  daemon ── queue.rs ──► driver.rs ── kernel ──► routes, nexthop objects
//!     ▲        bounded      │    ▲
//!     │                     │    └── changes made by others (monitor), lists (now and then)
//!     └────── FibEvent ─────┘
//! ```
//!
//! | file | |
//! |---|---|
//! | `driver.rs` | the thread: what it has, its turn, what it hears |
//! | `write.rs`, `leave.rs`, `subnets.rs` | changes and repairs → route messages |
//! | `down.rs` | next hops out of groups at once, before any route changes |
//! | `neighbours.rs` | gateways that do not answer |
//! | `follow.rs`, `../nexthops.rs` | how each next hop is reached, and nexthop objects after it |
//! | `relist.rs` | what the kernel has: adopted, compared, swept |
//! | `report.rs` | what a person is told |
//! | `table.rs`, `groups.rs`, `objects.rs`, `foreign.rs` | what it knows: prefixes, sets of next hops and their objects, routes of others |
//! | `plan.rs` and the plans of `groups.rs` | desired and actual → steps; pure |
//!
//! What is ours in the kernel carries our protocol number. Routes stay when the thread ends.

mod down;
mod driver;
mod follow;
mod foreign;
mod groups;
mod leave;
mod neighbours;
mod objects;
mod plan;
mod queue;
mod relist;
mod report;
mod subnets;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use ::plan::KernelConfig;
use bgp::engine::{FibChange, NextHopState};
use bgp::types::Prefix;
use kernel::{Destination, LinksError, NetlinkError};
use tokio::sync::{mpsc, oneshot};

use self::driver::{Driver, Tuning};
use self::queue::{Down, Queue, Request};

/// The kernel's side of the speaker. Dropping it ends the thread and leaves the routes in place.
#[derive(Debug)]
pub(crate) struct Fib {
    queue: Arc<Queue>,
}

/// What the daemon is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FibEvent {
    /// How a tracked next hop is reached; at first as soon as it is known, then on each change.
    NextHop {
        /// Which.
        address: IpAddr,
        /// How; `None` when it cannot be reached.
        state: Option<NextHopState>,
    },
    /// Addresses of this host came, went or changed.
    Addresses,
    /// [`Fib::try_apply`] takes batches again, after it has refused one.
    Room,
    /// All problems there are now, the first hundred of them; told when they change.
    Problems(Vec<FibProblem>),
    /// Each of our subnets, and how many of its addresses are used: leased to a container, or with a
    /// route of their own that is not ours, as those of pods have; told when that changes.
    SubnetsUsed(Vec<(Prefix, u64)>),
    /// The smallest MTU of the links towards our peers and the next hops of routes; `None` when none
    /// of them can be reached. Told when that changes.
    PathMtu(Option<u32>),
}

/// Something that keeps the kernel from doing what we want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FibProblem {
    /// `ForeignRoute`, `KernelRefused` or `KernelUnavailable`.
    pub(crate) reason: &'static str,
    /// The route it is about.
    pub(crate) prefix: Option<Prefix>,
    /// For a person.
    pub(crate) message: String,
}

/// What became of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteState {
    /// It stands in the kernel as wanted.
    Installed,
    /// It will be written as soon as one of its next hops can be reached.
    Pending,
    /// The kernel does not take it.
    Refused,
    /// A route of somebody else holds its place.
    Foreign,
    /// Nothing is wanted, or nothing is to be installed at all.
    NotInstalled,
}

/// What the kernel holds for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelState {
    /// Which.
    pub(crate) prefix: Prefix,
    /// What became of it.
    pub(crate) state: RouteState,
    /// More about it, for a person; may be empty.
    pub(crate) text: String,
    /// Ways out in words, such as `via 192.0.2.1 dev eth0`.
    pub(crate) next_hops: Vec<String>,
    /// Where it stands or would stand.
    pub(crate) kernel: KernelConfig,
}

/// Numbers for status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FibSummary {
    /// Routes that stand in the kernel as wanted.
    pub(crate) installed: u64,
    /// Routes that wait for a next hop, or for their turn to be written or removed.
    pub(crate) pending: u64,
    /// Routes that the kernel does not take, or whose place a foreign route holds.
    pub(crate) refused: u64,
    /// Adopted routes that nobody has asked for yet.
    pub(crate) stale: u64,
    /// Routes adopted at the start, IPv4 and IPv6.
    pub(crate) adopted: [u64; 2],
    /// Nexthop groups in use.
    pub(crate) groups: u64,
    /// How often something of ours was put right that somebody else had removed or changed.
    pub(crate) repaired: u64,
    /// How often changes were lost and everything was listed again.
    pub(crate) overruns: u64,
    /// As last told.
    pub(crate) problems: Vec<FibProblem>,
}

/// Why the kernel's side cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FibError {
    /// No socket to the kernel.
    #[error("cannot talk to the kernel about routes")]
    Netlink(#[from] NetlinkError),
    /// No socket for interfaces.
    #[error("cannot ask the kernel about interfaces")]
    Links(#[from] LinksError),
    /// No thread, or nothing to wake it with.
    #[error("cannot start the thread that writes kernel routes")]
    Thread(#[from] io::Error),
}

impl Fib {
    /// Starts the thread, in the network namespace of the caller. What carries our protocol number
    /// in the table is adopted: a route asked for that stands there already costs nothing, and one
    /// that nobody asks for stays until [`Fib::sweep`].
    ///
    /// # Errors
    ///
    /// When the sockets cannot be opened (no CAP_NET_ADMIN) or the thread cannot start.
    pub(crate) fn start(
        config: KernelConfig,
        events: mpsc::UnboundedSender<FibEvent>,
    ) -> Result<Fib, FibError> {
        Fib::start_with(config, events, Tuning::default())
    }

    fn start_with(
        config: KernelConfig,
        events: mpsc::UnboundedSender<FibEvent>,
        tuning: Tuning,
    ) -> Result<Fib, FibError> {
        let (queue, wakes) = Queue::new()?;
        let queue = Arc::new(queue);
        let driver = Driver::open(config, queue.clone(), wakes, events, tuning)?;
        let thread = thread::Builder::new().name("fib".into());
        thread.spawn(move || {
            let _together = Together;
            driver.run();
        })?;
        Ok(Fib { queue })
    }

    /// From now on routes go where `config` says, and those elsewhere go away. `own_subnets` are
    /// all the subnets of this node: what no other route of the node covers in them is unreachable.
    pub(crate) fn configure(&self, config: KernelConfig, own_subnets: Vec<Prefix>) {
        self.queue.push(Request::Configure(config, own_subnets));
    }

    /// Takes a batch of changes to be written, in order.
    ///
    /// # Errors
    ///
    /// The batch, when enough others wait already. [`FibEvent::Room`] tells when to try again.
    pub(crate) fn try_apply(&self, batch: Vec<FibChange>) -> Result<(), Vec<FibChange>> {
        self.queue.try_push_batch(batch)
    }

    /// Everything that is wanted has been asked for: removes what was adopted and is not wanted.
    pub(crate) fn sweep(&self) {
        self.queue.push(Request::Sweep);
    }

    /// Tells from now on how `address` is reached.
    pub(crate) fn track(&self, address: IpAddr) {
        self.queue.push(Request::Track(address));
    }

    /// All peers of the node, from now on: how they are reached says what the MTU of the path is.
    pub(crate) fn follow_peers(&self, peers: BTreeSet<IpAddr>) {
        self.queue.push(Request::Peers(peers));
    }

    /// All addresses that containers have leased, from now on: they count as used, with or without a
    /// route of their own.
    pub(crate) fn leased(&self, addresses: BTreeSet<Prefix>) {
        self.queue.push(Request::Leased(addresses));
    }

    /// Ends [`Fib::track`].
    pub(crate) fn untrack(&self, address: IpAddr) {
        self.queue.push(Request::Untrack(address));
    }

    /// No packets can go to these next hops: takes them out of every group that has others, before
    /// all that waits. That concerns the sets up to number `last_set`; [`Fib::handed_over`] must tell
    /// when the last of these has been handed over.
    pub(crate) fn hops_down(&self, hops: Vec<IpAddr>, last_set: u32) {
        self.queue.push_down(Down { hops, last_set });
    }

    /// No batch after this one has a set with this number or one before it.
    pub(crate) fn handed_over(&self, last_set: u32) {
        self.queue.push(Request::HandedOver(last_set));
    }

    /// What the kernel holds for each of `prefixes`, in their order; none if the thread has ended.
    pub(crate) async fn states(&self, prefixes: Vec<Prefix>) -> Vec<KernelState> {
        let (answer, answered) = oneshot::channel();
        self.queue.push(Request::States(prefixes, answer));
        answered.await.unwrap_or_default()
    }

    /// What became of each of `prefixes`, in their order, and nothing more about them; none if the
    /// thread has ended.
    pub(crate) async fn route_states(&self, prefixes: Vec<Prefix>) -> Vec<RouteState> {
        let (answer, answered) = oneshot::channel();
        self.queue.push(Request::RouteStates(prefixes, answer));
        answered.await.unwrap_or_default()
    }

    /// Numbers as of now.
    pub(crate) async fn summary(&self) -> FibSummary {
        let (answer, answered) = oneshot::channel();
        self.queue.push(Request::Summary(answer));
        answered.await.unwrap_or_default()
    }

    /// Works off the batches taken, then ends. All routes stay.
    pub(crate) async fn shutdown(self) {
        let (answer, answered) = oneshot::channel();
        self.queue.push(Request::Shutdown(Some(answer)));
        // An error means that the thread has ended already.
        let _ = answered.await;
    }
}

/// A speaker without this thread would announce what it does not forward, and answer nothing: a
/// panic here ends the whole program, to be started again by whoever watches it. Routes stay.
struct Together;

impl Drop for Together {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort(); // the panic's message is out already
        }
    }
}

impl Drop for Fib {
    fn drop(&mut self) {
        self.queue.push(Request::Shutdown(None));
    }
}

fn prefix_of(destination: Destination) -> Prefix {
    Prefix::new(destination.address, destination.length)
}

fn destination_of(prefix: Prefix) -> Destination {
    Destination {
        address: prefix.address(),
        length: prefix.length(),
    }
}

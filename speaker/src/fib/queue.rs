//! From the daemon to the thread that writes: requests in order, batches bounded in number, and a
//! file descriptor that wakes the thread while it waits for the kernel.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bgp::engine::FibChange;
use bgp::types::Prefix;
use plan::KernelConfig;
use tokio::sync::oneshot;

use super::{FibSummary, KernelState, RouteState};

/// Changes that may wait: 1 MiB of them, some 40 ms of work, so that the thread is busy while the
/// engine is busy with something else.
const CHANGES: usize = 32 * 1024;

/// What the daemon wants.
#[derive(Debug)]
pub(super) enum Request {
    Configure(KernelConfig, Vec<Prefix>),
    Apply(Vec<FibChange>),
    Sweep,
    Track(IpAddr),
    Untrack(IpAddr),
    /// All addresses that containers have leased.
    Leased(BTreeSet<Prefix>),
    /// All peers of the node.
    Peers(BTreeSet<IpAddr>),
    /// Every set with this number or one before it has been handed over.
    HandedOver(u32),
    States(Vec<Prefix>, oneshot::Sender<Vec<KernelState>>),
    RouteStates(Vec<Prefix>, oneshot::Sender<Vec<RouteState>>),
    Summary(oneshot::Sender<FibSummary>),
    Shutdown(Option<oneshot::Sender<()>>),
}

/// Next hops that no packets can go to, and the newest set told before that was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Down {
    pub(super) hops: Vec<IpAddr>,
    pub(super) last_set: u32,
}

/// The daemon's end, shared with the thread's.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: UnixStream,
}

/// Becomes readable when something was put into the queue.
#[derive(Debug)]
pub(super) struct Wakes(UnixStream);

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Goes before all requests.
    down: Vec<Down>,
    /// In all batches together.
    changes: usize,
    /// A batch was refused; its owner waits to be told.
    refused: bool,
}

impl Queue {
    pub(super) fn new() -> io::Result<(Queue, Wakes)> {
        let (wake, wakes) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let queue = Queue {
            waiting: Mutex::default(),
            wake,
        };
        Ok((queue, Wakes(wakes)))
    }

    pub(super) fn push(&self, request: Request) {
        self.lock().requests.push_back(request);
        self.wake();
    }

    /// Tells before everything else that waits.
    pub(super) fn push_down(&self, down: Down) {
        self.lock().down.push(down);
        self.wake();
    }

    pub(super) fn take_down(&self) -> Vec<Down> {
        std::mem::take(&mut self.lock().down)
    }

    /// Gives the batch back when [`CHANGES`] wait already.
    pub(super) fn try_push_batch(&self, batch: Vec<FibChange>) -> Result<(), Vec<FibChange>> {
        let mut waiting = self.lock();
        if waiting.changes >= CHANGES {
            waiting.refused = true;
            return Err(batch);
        }
        waiting.changes += batch.len();
        waiting.requests.push_back(Request::Apply(batch));
        drop(waiting);
        self.wake();
        Ok(())
    }

    /// The next request, and whether there is room again for which somebody waits. None while
    /// something goes before all requests.
    pub(super) fn pop(&self) -> (Option<Request>, bool) {
        self.lock().pop()
    }

    /// [`Queue::pop`], but only a batch.
    pub(super) fn pop_batch(&self) -> (Option<Vec<FibChange>>, bool) {
        let mut waiting = self.lock();
        if !matches!(waiting.requests.front(), Some(Request::Apply(_))) {
            return (None, false);
        }
        match waiting.pop() {
            (Some(Request::Apply(batch)), room) => (Some(batch), room),
            (_, room) => (None, room), // unreachable: it was looked at
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.requests.is_empty() && waiting.down.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; the content is whole in any case.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // When the pipe is full the thread is awake or will be.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Waiting {
    fn pop(&mut self) -> (Option<Request>, bool) {
        if !self.down.is_empty() {
            return (None, false);
        }
        let request = self.requests.pop_front();
        if let Some(Request::Apply(batch)) = &request {
            self.changes -= batch.len();
        }
        // Half empty: not one refusal for each batch.
        let room = self.refused && self.changes <= CHANGES / 2;
        self.refused &= !room;
        (request, room)
    }
}

impl Wakes {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Forgets what woke us. Must be called before the queue is looked at.
    pub(super) fn clear(&self) {
        let mut buffer = [0; 256];
        while matches!((&self.0).read(&mut buffer), Ok(read) if read == buffer.len()) {}
    }
}

//! The thread that packets go through. It owns the engine and every socket, waits in one place
//! ([`wait`]), and depends on nobody: whoever wants something leaves an [`Order`] and wakes it.
//!
//! ```text
//!   3784, 4784 ──► Receiver ──┐                  ┌──► Sender, one a session
//!                             ├──►  Engine  ─────┤
//!   control.rs ───── Order ───┘                  ├──► Told ──► control.rs
//!                                                └──► Store, for the next process
//! ```
//!
//! What has arrived is read before a timer may say that nothing did: a host that was busy for a
//! while is no dead neighbour.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver as Orders, Sender as OrderSender, channel};
use std::time::{Duration, Instant};

use bfd::{Change, Datagram, Engine, Output, SessionConfig, SessionId, SessionKey, Status};
use tokio::sync::{mpsc, oneshot};

use crate::echo::Echoes;
use crate::last_life::{Record, Store};
use crate::realtime;
use crate::udp::{Receiver, Room, Sender};

/// Datagrams taken from one socket before the others and the timers have their turn.
const AT_ONCE: usize = 1024;

/// What is asked of the thread.
#[derive(Debug)]
pub(crate) enum Order {
    /// The sessions wanted, all of them. Answered by [`Told::Sessions`].
    Configure(Vec<SessionConfig>),
    /// All sessions as they are. Answered by [`Told::Sessions`].
    Tell,
    /// How things are.
    List(oneshot::Sender<Vec<Shown>>),
    /// End. The other sides are told nothing (the next process goes on with the sessions), or with
    /// `leaving` AdminDown.
    Stop { leaving: bool },
}

/// What the thread tells, in the order in which it happened.
#[derive(Debug)]
pub(crate) enum Told {
    /// All sessions; `configured`: because they were configured in this moment.
    Sessions {
        sessions: Vec<Shown>,
        configured: bool,
    },
    /// A session's state is another; it as it is now.
    Changed(Change, Box<Shown>),
}

/// A session and what is wrong with it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) status: Status,
    /// Why nothing can be sent.
    pub(crate) error: Option<String>,
    /// Why no Echo packet can be.
    pub(crate) echo_error: Option<String>,
}

/// The thread, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    orders: OrderSender<Order>,
    waker: std::sync::Arc<UnixStream>,
    /// What priority it has, in words.
    pub(crate) priority: String,
}

impl Handle {
    /// Leaves an order; after the thread's end it is lost.
    pub(crate) fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            // A full pipe has woken it already.
            let _ = (&*self.waker).write(&[1]);
        }
    }
}

/// Starts the thread. `records` are of the process before this one; `store` is for the one after it.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn start(
    receivers: Vec<Receiver>,
    priority: u8,
    control_plane_independent: bool,
    records: &[Record],
    store: Option<Store>,
) -> io::Result<(
    Handle,
    mpsc::UnboundedReceiver<Told>,
    std::thread::JoinHandle<()>,
)> {
    let (waker, woken) = UnixStream::pair()?;
    waker.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let (order_sender, orders) = channel();
    let (tell, told) = mpsc::unbounded_channel();
    let (report, priority_reached) = std::sync::mpsc::sync_channel(1);
    let mut engine = Engine::new(rand::random(), control_plane_independent);
    engine.recall(records.iter().map(|it| it.memory));
    let mut hot = Hot {
        engine,
        ports: records.iter().map(|it| (it.memory.key, it.port)).collect(),
        store,
        receivers,
        senders: Vec::new(),
        orders,
        woken,
        tell,
        room: Box::new(Room::new()),
        echoes: None,
    };
    let thread = std::thread::Builder::new()
        .name("bfd".into())
        .spawn(move || {
            // The one who started us waits for this; if it has gone, so shall we soon.
            let _ = report.send(realtime::claim(priority));
            hot.run();
        })?;
    let priority = priority_reached.recv().map_err(io::Error::other)?;
    tracing::info!(%priority, "ready");
    let handle = Handle {
        orders: order_sender,
        waker: std::sync::Arc::new(waker),
        priority,
    };
    Ok((handle, told, thread))
}

struct Hot {
    engine: Engine,
    /// Source ports that sessions had in the process before this one.
    ports: HashMap<SessionKey, u16>,
    store: Option<Store>,
    receivers: Vec<Receiver>,
    /// By session number.
    senders: Vec<Option<Sender>>,
    orders: Orders<Order>,
    woken: UnixStream,
    tell: mpsc::UnboundedSender<Told>,
    room: Box<Room>,
    /// Once a session wants Echo packets; why they cannot be had.
    echoes: Option<Result<Echoes, String>>,
}

impl Hot {
    /// What is waited for: the ports, orders, and what Echo packets need.
    fn fds(&self) -> Vec<libc::pollfd> {
        let ports = self.receivers.iter().map(Receiver::fd);
        let echoes = self.echoes.iter().flatten().flat_map(Echoes::fds);
        let fds = ports.chain([self.woken.as_raw_fd()]).chain(echoes);
        fds.map(poll_for).collect()
    }

    fn run(&mut self) {
        let mut fds = self.fds();
        loop {
            if self.echoes.is_some() && fds.len() == self.receivers.len() + 1 {
                fds = self.fds();
            }
            let deadline = self.engine.poll_timeout();
            if let Err(error) = wait(&mut fds, deadline) {
                tracing::error!(%error, "cannot wait for packets");
                return;
            }
            let now = Instant::now();
            let (ports, others) = fds.split_at(self.receivers.len());
            for (index, fd) in ports.iter().enumerate() {
                if fd.revents != 0 {
                    self.read(index, now);
                }
            }
            let woken = others.first().is_some_and(|fd| fd.revents != 0);
            if others.iter().skip(1).any(|fd| fd.revents != 0) {
                self.read_echoes(now);
            }
            if woken && !self.take_orders(now) {
                return;
            }
            self.engine.handle_timeout(now);
            self.carry_out(now);
        }
    }

    fn read(&mut self, index: usize, now: Instant) {
        for _ in 0..AT_ONCE {
            let received = match self.receivers[index].receive(&mut self.room) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive");
                    return;
                }
            };
            let datagram = Datagram {
                remote: received.remote,
                local: received.local,
                ttl: received.ttl,
                hops: received.hops,
                bytes: received.bytes,
            };
            if let Err(reason) = self.engine.handle(now, datagram) {
                tracing::debug!(remote = %received.remote, %reason, "packet refused");
            }
            self.carry_out(now);
        }
    }

    fn read_echoes(&mut self, now: Instant) {
        let Some(Ok(echoes)) = &mut self.echoes else {
            return;
        };
        let engine = &mut self.engine;
        echoes.read(&mut self.room, |bytes| {
            if let Err(reason) = engine.handle_echo(now, bytes) {
                tracing::trace!(%reason, "Echo packet");
            }
        });
        self.carry_out(now);
    }

    /// Opens what Echo packets need with the first session that wants them.
    fn configure_echoes(&mut self, wanted: &[SessionConfig]) {
        let echoed = |it: &&SessionConfig| it.echo_tx.is_some() || it.echo_rx.is_some();
        let remotes: Vec<IpAddr> = (wanted.iter().filter(echoed))
            .map(|it| it.key_of.remote)
            .collect();
        if !matches!(self.echoes, Some(Ok(_))) && !remotes.is_empty() {
            self.echoes = Some(Echoes::open().map_err(|error| error.to_string()));
        }
        if let Some(Ok(echoes)) = &mut self.echoes {
            echoes.configure(remotes);
        }
    }

    /// Returns whether to go on.
    fn take_orders(&mut self, now: Instant) -> bool {
        let mut sink = [0; 64];
        while matches!((&self.woken).read(&mut sink), Ok(count) if count > 0) {}
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Configure(wanted) => {
                    self.configure_echoes(&wanted);
                    self.engine.configure(now, wanted);
                    self.carry_out(now);
                    if let Some(store) = &mut self.store {
                        store.publish();
                    }
                    self.tell_all(true);
                }
                Order::Tell => self.tell_all(false),
                Order::List(answer) => {
                    let _ = answer.send(self.list());
                }
                Order::Stop { leaving } => {
                    if leaving {
                        self.engine.configure(now, Vec::new());
                        self.carry_out(now);
                    }
                    return false;
                }
            }
        }
        true
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { session, packet } => {
                    if let Some(Some(sender)) = self.senders.get_mut(session.0 as usize) {
                        sender.send(now, packet.as_bytes());
                    }
                }
                Output::Echo { session, packet } => {
                    let sender = self.senders.get(session.0 as usize);
                    if let Some(Ok(echoes)) = &self.echoes
                        && let Some(Some(sender)) = sender
                    {
                        echoes.send(sender.remote(), &packet);
                    }
                }
                Output::Open { session, key } => {
                    let at = session.0 as usize;
                    if self.senders.len() <= at {
                        self.senders.resize_with(at + 1, || None);
                    }
                    let port = self.ports.remove(&key).unwrap_or(0);
                    self.senders[at] = Some(Sender::open(now, key, port));
                    if let Some(store) = &mut self.store {
                        store.reserve(at + 1);
                    }
                }
                Output::Close { session } => {
                    self.senders[session.0 as usize] = None;
                    self.remember(session);
                }
                Output::Changed(change) => self.changed(change),
                Output::Remember { session } => self.remember(session),
            }
        }
    }

    /// For the next process.
    fn remember(&mut self, session: SessionId) {
        let Some(store) = &mut self.store else { return };
        let at = session.0 as usize;
        let port = self.senders.get(at).and_then(Option::as_ref);
        let port = port.map_or(0, Sender::port);
        let memory = self.engine.memory(session);
        store.write(at, memory.map(|memory| Record { memory, port }));
    }

    /// Logging it is left to others: writing may wait.
    fn changed(&self, change: Change) {
        if let Some(status) = self.engine.session(&change.key) {
            let shown = Box::new(self.show(status));
            let _ = self.tell.send(Told::Changed(change, shown));
        }
    }

    fn tell_all(&self, configured: bool) {
        let sessions = self.list();
        // Who asked may have gone.
        let _ = self.tell.send(Told::Sessions {
            sessions,
            configured,
        });
    }

    fn list(&self) -> Vec<Shown> {
        self.engine.sessions().map(|it| self.show(it)).collect()
    }

    fn show(&self, status: Status) -> Shown {
        let sender = self.senders.get(status.session.0 as usize);
        let sender = sender.and_then(Option::as_ref);
        Shown {
            status,
            error: sender.and_then(Sender::error),
            echo_error: match &self.echoes {
                Some(Err(error)) if status.echo.is_some() => Some(error.clone()),
                _ => None,
            },
        }
    }
}

fn poll_for(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits until something can be read or `deadline` is there.
fn wait(fds: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    let left = left.map(|left| left.min(Duration::from_secs(3600)));
    let timeout = left.map(|left| libc::timespec {
        tv_sec: left.as_secs() as libc::time_t,
        tv_nsec: left.subsec_nanos().into(),
    });
    let pointer = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is a whole slice of pollfd, `timeout` lives until the call returns, and a null
    // signal mask means: none.
    let ready = unsafe {
        libc::ppoll(
            fds.as_mut_ptr(),
            fds.len() as libc::nfds_t,
            pointer,
            std::ptr::null(),
        )
    };
    if ready >= 0 {
        return Ok(());
    }
    for fd in fds {
        fd.revents = 0;
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

//! TCP: listening, connecting, bytes in and bytes out. The daemon's loop owns the [`Transport`].
//!
//! Every connection is a task of its own (`transport/connection.rs`) and shares nothing with the
//! others. Exactly one buffer per direction is on its way between the task and the loop:
//!
//! - in: the task reads into a buffer and hands it over as [`Event::Received`]; it reads on when the
//!   loop has given the buffer back ([`Transport::give_back`]). So a peer that sends without pause
//!   has one chunk in the queue, like every other peer, and starves none of them.
//! - out: the loop pulls bytes out of the engine only for a connection whose last buffer is in the
//!   socket ([`Transport::flush`]). So a peer that does not read costs one buffer.
//!
//! `transport/listen.rs` accepts; `transport/terms.rs` has what is asked of each peer,
//! `transport/distance.rs` what TTLs have to do with it; `transport/addresses.rs` finds our address of the other family.

mod addresses;
mod connection;
mod distance;
mod listen;
mod terms;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bgp::engine::LocalAddresses;
use bgp::types::ConnId;
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use connection::{Handle, OpenError};
pub(crate) use distance::Distance;
pub(crate) use listen::{ListenProblem, Refusals};
pub(crate) use terms::{Known, Signing, Terms};

/// How long a connection that the engine has closed may take to send what is pending and to hear
/// the other side's FIN.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a connection attempt may take; the engine's ConnectRetryTimer usually gives up sooner.
const CONNECT: Duration = Duration::from_secs(60);

/// Connections accepted from one address that may exist at once. A peer needs two for a moment
/// (RFC 4271 §6.8) and a third while an old one is draining.
const ACCEPTED_PER_ADDRESS: usize = 4;

/// Connections that [`Transport::flush`] serves in one turn of the loop.
const FLUSH: usize = 16;

/// Empty send buffers kept for reuse.
const SPARE: usize = 8;

/// Connections accepted by us are numbered from here. See [`ConnId`].
const ACCEPTED: u64 = 1 << 63;

/// What the loop must tell the engine. All but `Problems` are about one connection, in the order in
/// which they happened; nothing comes for a connection after [`Event::Closed`] or after the loop
/// has closed it.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody whose address is configured has connected.
    Accepted {
        conn: ConnId,
        local: LocalAddresses,
        remote: SocketAddr,
    },
    /// A connection that the engine asked for is there.
    Connected {
        conn: ConnId,
        local: LocalAddresses,
        remote: SocketAddr,
    },
    /// It could not be made.
    ConnectFailed { conn: ConnId, error: String },
    /// Bytes arrived. Whole messages are to be taken from the front; the rest goes back to
    /// [`Transport::give_back`].
    Received { conn: ConnId, data: BytesMut },
    /// The last buffer is in the socket; there is room again.
    Sent,
    /// The other side closed (`None`) or the connection broke.
    Closed { conn: ConnId, error: Option<String> },
    /// What [`Transport::problems`] answers has changed.
    Problems,
}

/// What tasks tell the transport.
enum Note {
    Accepted {
        stream: TcpStream,
        local: LocalAddresses,
        remote: SocketAddr,
    },
    Opened {
        conn: ConnId,
        result: Result<(TcpStream, LocalAddresses, SocketAddr), String>,
    },
    Received {
        conn: ConnId,
        data: BytesMut,
    },
    Sent {
        conn: ConnId,
        spare: BytesMut,
    },
    Closed {
        conn: ConnId,
        error: Option<String>,
    },
    Listening {
        address: SocketAddr,
        problem: Option<ListenProblem>,
    },
}

/// All connections of one speaker.
pub(crate) struct Transport {
    connections: HashMap<ConnId, Connection>,
    /// Connections whose engine side has something to send and whose socket has room.
    ready: BTreeSet<ConnId>,
    last_served: ConnId,
    spare: Vec<BytesMut>,
    notes: mpsc::Receiver<Note>,
    notes_tx: mpsc::Sender<Note>,
    accepted: u64,
    known: watch::Sender<Arc<Known>>,
    listeners: Vec<listen::Listener>,
    problems: HashMap<SocketAddr, ListenProblem>,
    refusals: Arc<Refusals>,
    tasks: TaskTracker,
}

struct Connection {
    remote: IpAddr,
    state: State,
}

enum State {
    /// Dropping the handle ends the attempt.
    Opening { _attempt: connection::Attempt },
    Open {
        handle: Handle,
        local: LocalAddresses,
        /// A buffer is on its way to the socket.
        sending: bool,
        /// The engine has something to send.
        wanted: bool,
    },
    /// Closed by the engine; it still counts among those of its address.
    Draining,
}

impl Transport {
    /// Without listeners and connections.
    pub(crate) fn new() -> Transport {
        let (notes_tx, notes) = mpsc::channel(256);
        Transport {
            connections: HashMap::new(),
            ready: BTreeSet::new(),
            last_served: ConnId(0),
            spare: Vec::new(),
            notes,
            notes_tx,
            accepted: 0,
            known: watch::Sender::new(Arc::new(Known::new())),
            listeners: Vec::new(),
            problems: HashMap::new(),
            refusals: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Listens on these addresses and on no others, and accepts from those that are `known` only.
    /// A listener that cannot start is a problem ([`Transport::problems`]) and keeps trying.
    pub(crate) fn listen(&mut self, addresses: &[SocketAddr], known: Known) {
        self.known.send_replace(Arc::new(known));
        self.listeners
            .retain(|listener| addresses.contains(&listener.address));
        self.problems
            .retain(|address, _| addresses.contains(address));
        for address in addresses {
            if self
                .listeners
                .iter()
                .all(|listener| listener.address != *address)
            {
                self.listeners.push(listen::start(
                    *address,
                    self.known.subscribe(),
                    Arc::clone(&self.refusals),
                    self.notes_tx.clone(),
                ));
            }
        }
    }

    /// Why we do not listen, by address.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &ListenProblem> {
        self.problems.values()
    }

    /// Connections that nobody configured, counted.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Addresses of this host came or went: the connections whose end has others now.
    pub(crate) fn readdress(&mut self) -> Vec<(ConnId, LocalAddresses)> {
        let host = addresses::Host::now();
        let mut changed = Vec::new();
        for (conn, connection) in &mut self.connections {
            if let State::Open { local, .. } = &mut connection.state {
                let now = host.complete(local.address);
                if std::mem::replace(local, now) != now {
                    changed.push((*conn, now));
                }
            }
        }
        changed
    }

    /// Starts connecting to one that is known. The outcome is [`Event::Connected`] or [`Event::ConnectFailed`].
    pub(crate) fn connect(&mut self, conn: ConnId, remote: SocketAddr, local: Option<IpAddr>) {
        let notes = self.notes_tx.clone();
        let mut known = self.known.subscribe();
        let attempt = connection::attempt(async move {
            let opened = async {
                let decided = |known: &Arc<Known>| {
                    let terms = known.get(&remote.ip());
                    terms.is_none_or(|terms| terms.signing != Signing::NotYet)
                };
                // Fails only when the transport is gone.
                let known = known
                    .wait_for(decided)
                    .await
                    .map(|known| Arc::clone(&known));
                let known = known.unwrap_or_default();
                let terms = known.get(&remote.ip());
                let terms = terms.ok_or(OpenError::Unknown { remote })?;
                connection::open(remote, local, terms).await
            };
            let result = match tokio::time::timeout(CONNECT, opened).await {
                Ok(Ok(opened)) => Ok(opened),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!(
                    "no answer from {remote} within {} s",
                    CONNECT.as_secs()
                )),
            };
            // The receiver is gone only when the whole speaker is.
            let _ = notes.send(Note::Opened { conn, result }).await;
        });
        let state = State::Opening { _attempt: attempt };
        self.connections.insert(
            conn,
            Connection {
                remote: remote.ip(),
                state,
            },
        );
    }

    /// The engine has something to send.
    pub(crate) fn want_to_send(&mut self, conn: ConnId) {
        if let Some(Connection {
            state: State::Open {
                sending, wanted, ..
            },
            ..
        }) = self.connections.get_mut(&conn)
        {
            *wanted = true;
            if !*sending {
                self.ready.insert(conn);
            }
        }
    }

    /// Fills the buffers of connections that have room, by asking `pull` for at most one buffer
    /// each; it says whether there is more. Serves a bounded number, in turn.
    ///
    /// Returns whether connections are left that could be served at once.
    pub(crate) fn flush(&mut self, mut pull: impl FnMut(ConnId, &mut BytesMut) -> bool) -> bool {
        for _ in 0..FLUSH.min(self.ready.len()) {
            let after = (
                std::ops::Bound::Excluded(self.last_served),
                std::ops::Bound::Unbounded,
            );
            let next = self
                .ready
                .range(after)
                .next()
                .or_else(|| self.ready.first());
            let Some(conn) = next.copied() else { break };
            self.last_served = conn;
            self.ready.remove(&conn);
            let Some(Connection {
                state:
                    State::Open {
                        handle,
                        sending,
                        wanted,
                        ..
                    },
                ..
            }) = self.connections.get_mut(&conn)
            else {
                continue;
            };
            let mut data = self.spare.pop().unwrap_or_default();
            *wanted = pull(conn, &mut data);
            if data.is_empty() {
                self.spare.push(data);
                if *wanted {
                    self.ready.insert(conn);
                }
            } else {
                *sending = true;
                handle.send(data);
            }
        }
        !self.ready.is_empty()
    }

    /// Gives back the buffer of [`Event::Received`], with the bytes that are no whole message yet.
    pub(crate) fn give_back(&mut self, conn: ConnId, data: BytesMut) {
        if let Some(Connection {
            state: State::Open { handle, .. },
            ..
        }) = self.connections.get(&conn)
        {
            handle.give_back(data);
        }
    }

    /// Closes a connection after `last` (and what is on its way) is sent, within [`DRAIN`]. No more
    /// events come for it.
    pub(crate) fn close(&mut self, conn: ConnId, last: BytesMut) {
        self.ready.remove(&conn);
        if let Some(Connection {
            remote,
            state: State::Open { handle, .. },
        }) = self.connections.remove(&conn)
        {
            handle.close(last);
            let state = State::Draining;
            self.connections.insert(conn, Connection { remote, state });
        }
    }

    /// The next thing to tell the engine. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            // `self.notes_tx` lives as long as we do, so the channel never ends.
            let Some(note) = self.notes.recv().await else {
                std::future::pending().await
            };
            if let Some(event) = self.take(note) {
                return event;
            }
        }
    }

    /// Stops listening and waits until closed connections are drained, which is bounded by
    /// [`DRAIN`]. Connections that are still open are closed as they are.
    pub(crate) async fn stop(mut self) {
        self.listeners.clear();
        for conn in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(conn, BytesMut::new());
        }
        self.tasks.close();
        // A task may be waiting for room in our queue.
        self.notes.close();
        while self.notes.recv().await.is_some() {}
        self.tasks.wait().await;
    }

    fn take(&mut self, note: Note) -> Option<Event> {
        match note {
            Note::Accepted {
                stream,
                local,
                remote,
            } => self.admit(stream, local, remote),
            Note::Opened { conn, result } => {
                // Closed by the engine in the meantime: the socket goes with the note.
                let remote = self.connections.remove(&conn)?.remote;
                match result {
                    Ok((stream, local, peer)) => {
                        self.open(conn, remote, local, stream);
                        Some(Event::Connected {
                            conn,
                            local,
                            remote: peer,
                        })
                    }
                    Err(error) => Some(Event::ConnectFailed { conn, error }),
                }
            }
            Note::Received { conn, data } => {
                let state = &self.connections.get(&conn)?.state;
                matches!(state, State::Open { .. }).then_some(Event::Received { conn, data })
            }
            Note::Sent { conn, spare } => {
                self.keep(spare);
                let Connection {
                    state:
                        State::Open {
                            sending, wanted, ..
                        },
                    ..
                } = self.connections.get_mut(&conn)?
                else {
                    return None;
                };
                *sending = false;
                if *wanted {
                    self.ready.insert(conn);
                }
                Some(Event::Sent)
            }
            Note::Closed { conn, error } => {
                self.ready.remove(&conn);
                match self.connections.remove(&conn)?.state {
                    State::Draining => None,
                    _ => Some(Event::Closed { conn, error }),
                }
            }
            Note::Listening { address, problem } => {
                // A listener that is gone may still have spoken.
                self.listeners
                    .iter()
                    .find(|listener| listener.address == address)?;
                match problem {
                    Some(problem) => self.problems.insert(address, problem),
                    None => self.problems.remove(&address),
                };
                Some(Event::Problems)
            }
        }
    }

    fn admit(
        &mut self,
        stream: TcpStream,
        local: LocalAddresses,
        remote: SocketAddr,
    ) -> Option<Event> {
        let from = remote.ip();
        let same = |conn: &ConnId, open: &Connection| conn.0 >= ACCEPTED && open.remote == from;
        if self
            .connections
            .iter()
            .filter(|(conn, open)| same(conn, open))
            .count()
            >= ACCEPTED_PER_ADDRESS
        {
            self.refusals.too_many(from);
            listen::reset(&stream);
            return None;
        }
        let conn = ConnId(ACCEPTED + self.accepted);
        self.accepted += 1;
        self.open(conn, from, local, stream);
        Some(Event::Accepted {
            conn,
            local,
            remote,
        })
    }

    fn open(&mut self, conn: ConnId, remote: IpAddr, local: LocalAddresses, stream: TcpStream) {
        let terms = self.known.borrow().get(&remote).cloned();
        let is_signed = terms.is_some_and(|terms| terms.signing != Signing::Plain);
        let follow = is_signed.then(|| (remote, self.known.subscribe()));
        let handle = connection::start(conn, stream, self.notes_tx.clone(), follow, &self.tasks);
        let state = State::Open {
            handle,
            local,
            sending: false,
            wanted: false,
        };
        self.connections.insert(conn, Connection { remote, state });
    }

    fn keep(&mut self, mut spare: BytesMut) {
        if self.spare.len() < SPARE {
            spare.clear();
            self.spare.push(spare);
        }
    }
}

#[cfg(test)]
mod tests;

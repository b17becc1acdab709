//! Takes questions and sees that each gets its answer: from the zone, from others, or a refusal.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::counts::{Counts, Outcome};
use super::forward::{self, Upstream};
use super::limits::{Account, Good, Limits, Taken};
use super::message::{self, LARGEST, NoQuery, Query};
use super::zone::{Asker, Found, Zone};

/// No question of ours is larger; of one that is, the rest is lost.
const LARGEST_QUESTION: usize = 4096;
/// How long a connection may be quiet, and how long a message may take.
const QUIET: Duration = Duration::from_secs(10);
/// How long who has just been attached may wait until we have heard of it.
const ATTACHING: Duration = Duration::from_millis(500);

/// Everything that answering needs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) zone: watch::Sender<Arc<Zone>>,
    pub(crate) upstream: Upstream,
    /// Addresses we answer at: questions from there are the host's.
    pub(crate) own: Own,
    pub(crate) limits: Limits,
    pub(crate) counts: Arc<Counts>,
    /// Somebody asks whom the zone does not have: read again.
    pub(crate) reread: Notify,
}

/// Addresses we answer at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Own {
    pub(crate) fn replace(&self, addresses: BTreeSet<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.contains(&address)
    }
}

/// Who asks.
enum Who {
    Container(Asker),
    /// Its address is that of several containers.
    Ambiguous,
    Host,
    Stranger,
}

/// What is to be done about a message.
enum Turn {
    Silence,
    Reply(Vec<u8>),
    /// Others are asked.
    Forward(Taken),
    /// Nobody knows who asks: it may have been attached a moment ago.
    Unknown(Taken),
}

/// How a message came, which decides how long its answer may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Datagram,
    Stream,
}

impl Server {
    /// Answers what comes in datagrams, until the task is ended.
    pub(crate) async fn datagrams(self: Arc<Server>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; LARGEST_QUESTION];
        loop {
            let (length, source) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "a datagram for the resolver is lost");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let bytes = &buffer[..length];
            match self.turn(bytes, source.ip(), Way::Datagram, true) {
                Turn::Silence => {}
                // When there is no room it is lost, as datagrams are.
                Turn::Reply(reply) => drop(socket.try_send_to(&reply, source)),
                turn @ (Turn::Forward(_) | Turn::Unknown(_)) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    let bytes = bytes.to_vec();
                    tokio::spawn(async move {
                        let reply = server.carry_out(turn, &bytes, source.ip(), Way::Datagram);
                        if let Some(reply) = reply.await {
                            // As above.
                            let _ = socket.try_send_to(&reply, source);
                        }
                    });
                }
            }
        }
    }

    /// Answers what comes over connections, until the task is ended.
    pub(crate) async fn connections(self: Arc<Server>, listener: TcpListener) {
        loop {
            let (stream, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection to the resolver is lost");
                    // No file descriptor left, for example: others may give some back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let account = self.account(&self.who(source.ip()), source.ip());
            let taken = self.limits.take(account, Good::Connection, Instant::now());
            let Some(taken) = taken else {
                self.counts.count(Outcome::Limited);
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                // Whatever ends it: who asks sees that it is closed.
                let _ = server.connection(stream, source).await;
                drop(taken);
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream, source: SocketAddr) -> std::io::Result<()> {
        loop {
            let bytes = timeout(QUIET, forward::read_message(&mut stream)).await??;
            let turn = self.turn(&bytes, source.ip(), Way::Stream, true);
            let reply = self.carry_out(turn, &bytes, source.ip(), Way::Stream).await;
            let Some(reply) = reply else { return Ok(()) };
            timeout(QUIET, forward::write_message(&mut stream, &reply)).await??;
        }
    }

    /// Looks at a message. `wait` says whether who is not known may wait to be.
    fn turn(&self, bytes: &[u8], source: IpAddr, way: Way, wait: bool) -> Turn {
        let now = Instant::now();
        let who = self.who(source);
        let account = self.account(&who, source);
        if wait && !self.limits.may_ask(account, now) {
            self.counts.count(Outcome::Limited);
            return Turn::Silence;
        }
        let query = match message::read(bytes) {
            Ok(query) => query,
            Err(problem) => {
                self.counts.count(Outcome::Malformed);
                return match problem {
                    NoQuery::Reply(reply) => Turn::Reply(reply),
                    NoQuery::Silence => Turn::Silence,
                };
            }
        };
        let asker = match who {
            Who::Container(asker) => asker,
            Who::Host => self.zone.borrow().host(),
            Who::Ambiguous => Asker::default(),
            Who::Stranger if wait => {
                return match self.limits.take(account, Good::Forwarded, now) {
                    Some(taken) => Turn::Unknown(taken),
                    None => self.refuse(&query),
                };
            }
            Who::Stranger => return self.refuse(&query),
        };
        let zone = Arc::clone(&self.zone.borrow());
        let found = zone.find(&asker, &query.name, query.kind);
        if found == Found::Elsewhere {
            // Who asks for the host would ask the host's resolvers, which may have sent it here; so may one
            // that is a container.
            if matches!(account, Account::Host) || self.upstream.is_asked(source.to_canonical()) {
                return self.refuse(&query);
            }
            return match self.limits.take(account, Good::Forwarded, now) {
                Some(taken) => Turn::Forward(taken),
                None => {
                    self.counts.count(Outcome::Limited);
                    Turn::Reply(query.fail(message::Outcome::ServerFailure))
                }
            };
        }
        self.counts.count(match found {
            Found::NoName => Outcome::NoName,
            Found::NoData => Outcome::NoData,
            _ => Outcome::Answered,
        });
        let limit = match way {
            Way::Datagram => query.datagram,
            Way::Stream => LARGEST,
        };
        Turn::Reply(query.answer(&found, zone.domain(), limit))
    }

    /// Does what takes its time. `None`: nothing is said.
    async fn carry_out(
        &self,
        mut turn: Turn,
        bytes: &[u8],
        source: IpAddr,
        way: Way,
    ) -> Option<Vec<u8>> {
        if let Turn::Unknown(taken) = turn {
            let mut zones = self.zone.subscribe();
            self.reread.notify_one();
            let known = zones.wait_for(|zone| zone.asker(source).is_some());
            // If it is not known then, it is refused.
            let _ = timeout(ATTACHING, known).await;
            drop(taken);
            turn = self.turn(bytes, source, way, false);
        }
        match turn {
            Turn::Silence | Turn::Unknown(_) => None,
            Turn::Reply(reply) => Some(reply),
            Turn::Forward(_taken) => Some(self.forward(bytes, way).await?),
        }
    }

    async fn forward(&self, bytes: &[u8], way: Way) -> Option<Vec<u8>> {
        let query = message::read(bytes).ok()?;
        let stream = way == Way::Stream;
        let reply = self.upstream.ask(&query, bytes, stream).await;
        let outcome = match reply {
            Ok(_) => Outcome::Forwarded,
            Err(_) => Outcome::Unanswered,
        };
        self.counts.count(outcome);
        Some(match reply {
            // Whom we asked was told what who asks can take, and so this is rare.
            Ok(reply) if way == Way::Datagram && reply.len() > query.datagram_asked => {
                message::cut(&query, &reply)
            }
            Ok(reply) => reply,
            Err(_) => query.fail(message::Outcome::ServerFailure),
        })
    }

    fn refuse(&self, query: &Query<'_>) -> Turn {
        self.counts.count(Outcome::Refused);
        Turn::Reply(query.fail(message::Outcome::Refused))
    }

    fn who(&self, source: IpAddr) -> Who {
        let source = source.to_canonical();
        if source.is_loopback() || self.own.contains(source) {
            return Who::Host;
        }
        match self.zone.borrow().asker(source) {
            Some(Some(asker)) => Who::Container(asker.clone()),
            Some(None) => Who::Ambiguous,
            None => Who::Stranger,
        }
    }

    fn account(&self, who: &Who, source: IpAddr) -> Account {
        match who {
            Who::Container(_) | Who::Ambiguous => Account::Container(source),
            Who::Host => Account::Host,
            Who::Stranger => Account::Strangers,
        }
    }
}

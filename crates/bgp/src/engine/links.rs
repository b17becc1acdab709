//! The peers' sessions, their TCP connections, and what waits to be sent on them.
//!
//! Between the engine's interface, which speaks of connections, and [`Session`], which knows one
//! peer each. The engine calls a method, then takes every [`Event`] before it calls another.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;

use super::{Command, CommandError, LocalAddresses, Output};
use crate::codec;
use crate::config::{Config, PeerConfig};
use crate::message::{Message, Notification, RefreshKind};
use crate::query::{FamilyStatus, PeerStatus};
use crate::session::{Action, Negotiated, Received, Session};
use crate::types::{ConnId, Family, PeerId, RouterId};

/// What the tables have to know of the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A session is Established.
    Up {
        /// Whose.
        peer: PeerId,
        /// Its connection.
        conn: ConnId,
        /// The addresses of our end.
        local: LocalAddresses,
        /// What was agreed.
        negotiated: Box<Negotiated>,
    },
    /// A session is no longer Established.
    Down {
        /// Whose.
        peer: PeerId,
    },
}

/// What the next message of a connection is to the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// No whole message is left.
    Done,
    /// The session's business; there may be more messages, and events.
    Session,
    /// Routes.
    Update {
        /// From.
        peer: PeerId,
        /// The message without its header.
        body: Bytes,
    },
    /// ROUTE-REFRESH for a family in use.
    Refresh {
        /// From.
        peer: PeerId,
        /// Of which routes.
        family: Family,
        /// Asks, begins or ends.
        kind: RefreshKind,
    },
}

/// One peer's session.
pub(super) struct Link {
    pub(super) config: PeerConfig,
    session: Session,
    /// Its entry in [`Links::timers`].
    timer: Option<Instant>,
}

/// One TCP connection.
struct Connection {
    peer: PeerId,
    /// Known once the connection stands.
    local: Option<LocalAddresses>,
    /// OPEN, KEEPALIVE, NOTIFICATION and ROUTE-REFRESH to be sent, ahead of UPDATEs.
    control: BytesMut,
    /// [`Output::Send`] was given out and `poll_send` has not said "nothing more" since.
    told: bool,
    /// The session has done with it; it lives until `control` is empty.
    closing: bool,
}

/// All peers.
pub(super) struct Links {
    seed: u64,
    router_id: Option<RouterId>,
    next_peer: u32,
    /// In the order of the configuration.
    order: Vec<PeerId>,
    peers: HashMap<PeerId, Link>,
    conns: HashMap<ConnId, Connection>,
    timers: BTreeSet<(Instant, PeerId)>,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
}

impl Links {
    /// No peers; `seed` is where the timers' jitter comes from.
    pub(super) fn new(seed: u64) -> Links {
        Links {
            seed,
            router_id: None,
            next_peer: 1,
            order: Vec::new(),
            peers: HashMap::new(),
            conns: HashMap::new(),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Puts a checked configuration in force. A peer is the same one as long as its name is.
    pub(super) fn configure(&mut self, now: Instant, config: &Config) {
        self.router_id = Some(config.router_id);
        let wanted = |link: &Link| {
            config
                .peers
                .iter()
                .any(|peer| peer.name == link.config.name)
        };
        for id in std::mem::take(&mut self.order) {
            if self.peers.get(&id).is_some_and(wanted) {
                self.order.push(id);
            } else {
                self.act(id, |session| session.deconfigure(now));
                self.remove(id);
            }
        }
        let mut order = Vec::with_capacity(config.peers.len());
        for peer in &config.peers {
            let id = match self.find_name(&peer.name) {
                Some(id) => {
                    if let Some(link) = self.peers.get_mut(&id) {
                        link.config = peer.clone();
                    }
                    self.act(id, |session| {
                        session.reconfigure(now, peer, config.router_id);
                    });
                    id
                }
                None => self.add(now, peer, config.router_id),
            };
            order.push(id);
        }
        self.order = order;
    }

    fn add(&mut self, now: Instant, peer: &PeerConfig, router_id: RouterId) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        let seed = self.seed ^ u64::from(id.0) << 32;
        let link = Link {
            config: peer.clone(),
            session: Session::new(id, peer, router_id, seed),
            timer: None,
        };
        self.peers.insert(id, link);
        self.act(id, |session| session.start(now));
        id
    }

    fn remove(&mut self, id: PeerId) {
        if let Some(timer) = self.peers.remove(&id).and_then(|link| link.timer) {
            self.timers.remove(&(timer, id));
        }
    }

    /// The other side opened a connection. From an address that nobody configured, or to another
    /// address of ours than configured, it is closed without a word.
    pub(super) fn accepted(
        &mut self,
        now: Instant,
        conn: ConnId,
        local: LocalAddresses,
        remote: SocketAddr,
    ) {
        let here = |peer: &PeerConfig| peer.local_address.is_none_or(|own| own == local.address);
        let peer = self.find_address(remote.ip().to_canonical());
        let peer = peer.filter(|id| self.config(*id).is_some_and(here));
        let Some(peer) = peer else {
            return self.outputs.push_back(Output::Close { conn });
        };
        self.conns.insert(conn, Connection::new(peer, Some(local)));
        self.act(peer, |session| session.accepted(now, conn));
    }

    /// A connection that a session asked for stands.
    pub(super) fn connected(&mut self, now: Instant, conn: ConnId, local: LocalAddresses) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.local = Some(local);
            let peer = connection.peer;
            self.act(peer, |session| session.connected(now, conn));
        }
    }

    /// A connection did not come about, or is gone.
    pub(super) fn closed(&mut self, now: Instant, conn: ConnId, error: Option<String>) {
        if let Some(connection) = self.conns.remove(&conn) {
            let peer = connection.peer;
            self.act(peer, |session| session.closed(now, conn, error));
        }
    }

    /// Takes the next whole message from `data`; what a dead connection sends is thrown away.
    pub(super) fn next(&mut self, now: Instant, conn: ConnId, data: &mut BytesMut) -> Next {
        let connection = self.conns.get(&conn).filter(|known| !known.closing);
        let Some(peer) = connection.map(|connection| connection.peer) else {
            data.clear();
            return Next::Done;
        };
        let Some(link) = self.peers.get_mut(&peer) else {
            return Next::Done;
        };
        let length = data.len();
        match codec::next_message(data, link.session.max_message(conn)) {
            Ok(None) => Next::Done,
            Ok(Some(message)) => {
                let length = (length - data.len()) as u64;
                link.session.counters_mut().received.bytes += length;
                let mut received = Received::Nothing;
                self.act(peer, |session| {
                    received = session.receive(now, conn, message);
                });
                match received {
                    Received::Nothing => Next::Session,
                    Received::Update(body) => Next::Update { peer, body },
                    Received::RouteRefresh { family, kind } => Next::Refresh { peer, family, kind },
                }
            }
            Err(error) => {
                link.session.counters_mut().received.bytes += length as u64;
                data.clear();
                self.fail(now, conn, error.notification, &error.reason);
                Next::Session
            }
        }
    }

    /// What came on `conn` cannot be borne: the peer is told, and the session ends. `why` is for
    /// our own people.
    pub(super) fn fail(&mut self, now: Instant, conn: ConnId, notice: Notification, why: &str) {
        if let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) {
            self.act(peer, |session| session.fail(now, conn, notice, why));
        }
    }

    /// Runs the timers that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, peer)) = self.timers.first().copied()
            && deadline <= now
        {
            self.act(peer, |session| session.handle_timeout(now));
        }
    }

    /// When the next timer is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// The next thing for the tables.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to be done outside.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Appends what goes ahead of UPDATEs to `buf`. The peer whose UPDATEs may follow; none while
    /// the connection is not Established.
    pub(super) fn poll_control(&mut self, conn: ConnId, buf: &mut BytesMut) -> Option<PeerId> {
        let connection = self.conns.get_mut(&conn)?;
        let peer = connection.peer;
        buf.extend_from_slice(&connection.control);
        let sent = connection.control.len() as u64;
        connection.control.clear();
        let link = self.peers.get_mut(&peer)?;
        link.session.counters_mut().sent.bytes += sent;
        link.session.sent(conn);
        Links::schedule(&mut self.timers, peer, link);
        (link.session.conn() == Some(conn)).then_some(peer)
    }

    /// UPDATEs left for the transport.
    pub(super) fn count_updates(&mut self, peer: PeerId, updates: u64, bytes: u64) {
        if let Some(link) = self.peers.get_mut(&peer) {
            let sent = &mut link.session.counters_mut().sent;
            sent.update += updates;
            sent.bytes += bytes;
        }
    }

    /// `poll_send` says that there is nothing more for now.
    pub(super) fn nothing_more(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.told = false;
            if connection.closing {
                self.conns.remove(&conn);
            }
        }
    }

    /// There is something to be sent to an Established peer.
    pub(super) fn wake(&mut self, peer: PeerId) {
        let conn = self.peers.get(&peer).and_then(|link| link.session.conn());
        if let Some((conn, connection)) =
            conn.and_then(|conn| Some((conn, self.conns.get_mut(&conn)?)))
        {
            connection.tell(conn, &mut self.outputs);
        }
    }

    /// Sends a ROUTE-REFRESH to an Established peer that understands it.
    pub(super) fn send_refresh(&mut self, peer: PeerId, family: Family, kind: RefreshKind) {
        let Some(link) = self.peers.get_mut(&peer) else {
            return;
        };
        let conn = link.session.conn();
        if let Some(conn) = conn
            && let Some(connection) = self.conns.get_mut(&conn)
        {
            link.session.counters_mut().sent.route_refresh += 1;
            codec::encode_route_refresh(family, kind, &mut connection.control);
            connection.tell(conn, &mut self.outputs);
        }
    }

    /// Carries out a command of a person as far as sessions go; the peer, and the answer.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub(super) fn command(
        &mut self,
        now: Instant,
        command: &Command,
    ) -> Result<(PeerId, String), CommandError> {
        let (Command::Reset { peer, .. }
        | Command::SoftReset { peer }
        | Command::Shutdown { peer, .. }
        | Command::Enable { peer }) = command;
        let id = self.find(peer).ok_or_else(|| CommandError::NoPeer {
            peer: peer.clone(),
            known: self.names().join(", "),
        })?;
        let Some(link) = self.peers.get(&id) else {
            return Ok((id, String::new()));
        };
        let name = link.config.name.clone();
        let answer = match command {
            Command::Reset { message, .. } => {
                self.act(id, |session| session.reset(now, message));
                format!("session with `{name}` reset")
            }
            Command::Shutdown { message, .. } => {
                self.act(id, |session| session.shutdown(now, message));
                format!("session with `{name}` shut down")
            }
            Command::Enable { .. } if link.config.shutdown.is_some() => {
                return Err(CommandError::ShutDownByConfig { peer: name });
            }
            Command::Enable { .. } => {
                self.act(id, |session| session.enable(now));
                format!("session with `{name}` enabled")
            }
            Command::SoftReset { .. } => {
                let Some(negotiated) = link.session.negotiated() else {
                    let state = link.session.state().name().into();
                    return Err(CommandError::NotEstablished { peer: name, state });
                };
                let refresh = negotiated.route_refresh;
                for family in negotiated.families.clone() {
                    if refresh {
                        self.send_refresh(id, family, RefreshKind::Request);
                    }
                }
                match refresh {
                    true => format!("asked `{name}` for its routes again, and sending ours"),
                    false => format!(
                        "sending our routes to `{name}` again; it cannot be asked for its own \
                         (no route refresh)"
                    ),
                }
            }
        };
        Ok((id, answer))
    }

    /// All peers, in the order of the configuration.
    pub(super) fn ids(&self) -> &[PeerId] {
        &self.order
    }

    /// What a peer was configured to be.
    pub(super) fn config(&self, peer: PeerId) -> Option<&PeerConfig> {
        self.peers.get(&peer).map(|link| &link.config)
    }

    /// The connection of an Established session.
    pub(super) fn conn(&self, peer: PeerId) -> Option<ConnId> {
        self.peers.get(&peer)?.session.conn()
    }

    /// What an Established session agreed on.
    pub(super) fn negotiated(&self, peer: PeerId) -> Option<&Negotiated> {
        self.peers.get(&peer)?.session.negotiated()
    }

    /// By name, else by address.
    pub(super) fn find(&self, peer: &str) -> Option<PeerId> {
        let by_address = || self.find_address(peer.parse().ok()?);
        self.find_name(peer).or_else(by_address)
    }

    /// How many sessions are Established.
    pub(super) fn established(&self) -> u64 {
        let up = |link: &&Link| link.session.conn().is_some();
        self.peers.values().filter(up).count() as u64
    }

    /// A peer as far as its session goes; counts of routes and faults are the tables' to add.
    pub(super) fn status(&self, id: PeerId) -> Option<PeerStatus> {
        let Link {
            config, session, ..
        } = self.peers.get(&id)?;
        let negotiated = session.negotiated();
        let connection = session.conn().and_then(|conn| self.conns.get(&conn));
        let local = connection.and_then(|connection| connection.local);
        let hold = negotiated.and_then(|agreed| agreed.hold_time);
        let families = config.families.iter().map(|family| FamilyStatus {
            family: *family,
            negotiated: negotiated.is_some_and(|agreed| agreed.families.contains(family)),
            received: 0,
            accepted: 0,
            best: 0,
            advertised: 0,
            pending: 0,
            end_of_rib_received: false,
            end_of_rib_sent: false,
            extended_next_hop: negotiated
                .is_some_and(|agreed| agreed.extended_next_hop.contains(family)),
        });
        Some(PeerStatus {
            id,
            name: config.name.clone(),
            description: config.description.clone(),
            address: config.address,
            port: config.port,
            local_address: local.map(|local| local.address).or(config.local_address),
            remote_asn: config.remote_asn,
            local_asn: config.local_asn,
            remote_router_id: negotiated.map(|agreed| agreed.remote_router_id),
            state: session.state().name(),
            since: session.since(),
            hold,
            keepalive: session.keepalive_time(),
            families: families.collect(),
            capabilities_sent: session.our_capabilities().names(),
            capabilities_received: negotiated
                .map(|agreed| agreed.remote_capabilities.names())
                .unwrap_or_default(),
            sent: session.counters().sent,
            received: session.counters().received,
            established_count: session.times_established(),
            last_error: session.last_error(),
            faults: Default::default(),
            last_fault: None,
            passive: config.passive,
            shutdown: session.shutdown_text().map(str::to_owned),
            import: config.import.clone(),
            export: config.export.clone(),
            retry_at: session.retry_at(),
        })
    }

    fn names(&self) -> Vec<&str> {
        let links = self.order.iter().filter_map(|id| self.peers.get(id));
        links.map(|link| link.config.name.as_str()).collect()
    }

    fn find_name(&self, name: &str) -> Option<PeerId> {
        self.find_by(|config| config.name == name)
    }

    fn find_address(&self, address: IpAddr) -> Option<PeerId> {
        self.find_by(|config| config.address == address)
    }

    fn find_by(&self, is_it: impl Fn(&PeerConfig) -> bool) -> Option<PeerId> {
        let mut ids = self.order.iter().copied();
        ids.find(|id| self.peers.get(id).is_some_and(|link| is_it(&link.config)))
    }

    /// Does something with a session and everything the session wants for it.
    fn act(&mut self, peer: PeerId, act: impl FnOnce(&mut Session)) {
        let Some(link) = self.peers.get_mut(&peer) else {
            return;
        };
        act(&mut link.session);
        let mut changed = false;
        while let Some(action) = link.session.poll_action() {
            match action {
                Action::Connect { conn } => {
                    self.conns.insert(conn, Connection::new(peer, None));
                    self.outputs.push_back(Output::Connect {
                        conn,
                        peer,
                        remote: SocketAddr::new(link.config.address, link.config.port),
                        local: link.config.local_address,
                        ttl: link.config.ttl,
                    });
                }
                Action::Send { conn, message } => {
                    if let Some(connection) = self.conns.get_mut(&conn) {
                        connection.queue(&message);
                        connection.tell(conn, &mut self.outputs);
                    }
                }
                Action::Close { conn } => {
                    if let Some(connection) = self.conns.get_mut(&conn) {
                        connection.closing = true;
                        if connection.control.is_empty() {
                            self.conns.remove(&conn);
                        }
                        self.outputs.push_back(Output::Close { conn });
                    }
                }
                Action::Up { conn, negotiated } => {
                    let connection = self.conns.get(&conn);
                    if let Some(local) = connection.and_then(|connection| connection.local) {
                        self.events.push_back(Event::Up {
                            peer,
                            conn,
                            local,
                            negotiated: Box::new(negotiated),
                        });
                    }
                }
                Action::Down { .. } => self.events.push_back(Event::Down { peer }),
                Action::Changed => changed = true,
            }
        }
        if changed {
            self.outputs.push_back(Output::SessionChanged(peer));
        }
        Links::schedule(&mut self.timers, peer, link);
    }

    /// Keeps the table of timers in step with the session.
    fn schedule(timers: &mut BTreeSet<(Instant, PeerId)>, peer: PeerId, link: &mut Link) {
        let timer = link.session.poll_timeout();
        if timer != link.timer {
            if let Some(old) = link.timer {
                timers.remove(&(old, peer));
            }
            timers.extend(timer.map(|new| (new, peer)));
            link.timer = timer;
        }
    }
}

impl Connection {
    fn new(peer: PeerId, local: Option<LocalAddresses>) -> Connection {
        Connection {
            peer,
            local,
            control: BytesMut::new(),
            told: false,
            closing: false,
        }
    }

    fn queue(&mut self, message: &Message) {
        match message {
            Message::Open(open) => codec::encode_open(open, &mut self.control),
            Message::Keepalive => codec::encode_keepalive(&mut self.control),
            Message::Notification(notification) => {
                codec::encode_notification(notification, &mut self.control);
            }
            // These never come from a session.
            Message::Update(_) | Message::RouteRefresh { .. } => {}
        }
    }

    fn tell(&mut self, conn: ConnId, outputs: &mut VecDeque<Output>) {
        if !std::mem::replace(&mut self.told, true) {
            outputs.push_back(Output::Send { conn });
        }
    }
}

//! The sessions' side of the engine: connections, what comes over them and what goes out, and what
//! becomes of the tables when a session begins or ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::graceful::Stale;
use super::{Command, CommandError, Engine, LocalAddresses, Output, SEND_AT_ONCE};
use crate::codec::{self, Context, Nlri, Update};
use crate::config::{PeerConfig, Source};
use crate::message::{Cease, Message, Notification, RefreshKind};
use crate::query::Fault;
use crate::rib::adj_in::{Faults, hex};
use crate::rib::table::SourceId;
use crate::rib::{Counts, Origin};
use crate::session::{Action, DownReason, Negotiated, Session, State};
use crate::types::{ConnId, Family, PeerId};

/// A configured peer.
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    /// While the session is Established.
    pub(super) up: Option<Up>,
    /// Routes of its last session, while they are kept.
    pub(super) stale: Option<Stale>,
    pub(super) faults: Faults,
}

/// An Established session.
pub(super) struct Up {
    pub(super) conn: ConnId,
    pub(super) source: SourceId,
    pub(super) context: Context,
    pub(super) negotiated: Negotiated,
    pub(super) local: LocalAddresses,
    /// Families whose End-of-RIB has come.
    pub(super) end_of_rib: [bool; 2],
    /// Families in which long-lived stale routes had to go before that. RFC 9494 §4.2.
    pub(super) long_lived_expired: [bool; 2],
    /// How each family's prefixes stood to their limit when last looked at: 0 well below, 1 near, 2
    /// above.
    pub(super) limit_level: [u8; 2],
}

/// A connection, or an attempt at one.
pub(super) struct Conn {
    pub(super) peer: PeerId,
    /// Once it stands.
    pub(super) local: Option<LocalAddresses>,
    /// Messages of the session, which go before UPDATEs.
    control: BytesMut,
    /// [`Output::Send`] was given, and `poll_send` has not said that there is nothing more.
    pub(super) told: bool,
    /// It is to be closed once `control` is sent.
    pub(super) closing: bool,
}

impl Conn {
    fn new(peer: PeerId, local: Option<LocalAddresses>) -> Conn {
        Conn {
            peer,
            local,
            control: BytesMut::new(),
            told: false,
            closing: false,
        }
    }

    /// The peer whose session wants to hear of this connection.
    pub(super) fn listening(&self) -> Option<PeerId> {
        (!self.closing).then_some(self.peer)
    }
}

impl Engine {
    pub(super) fn accepted(
        &mut self,
        now: Instant,
        conn: ConnId,
        local: LocalAddresses,
        remote: IpAddr,
    ) {
        let id = self.by_address.get(&remote).copied();
        let own = |own: Option<IpAddr>| own.is_none_or(|own| own == local.address);
        let known = id.and_then(|id| Some((id, self.peers.get_mut(&id)?)));
        let Some((id, peer)) = known.filter(|(_, peer)| own(peer.config.local_address)) else {
            // Nobody configured, or another address of ours: there is no session that could answer.
            return self.outputs.push_back(Output::Close { conn });
        };
        self.conns.insert(conn, Conn::new(id, Some(local)));
        peer.session.accepted(now, conn);
        self.carry_out(now, id);
    }

    pub(super) fn connected(&mut self, now: Instant, conn: ConnId, local: LocalAddresses) {
        let Some(this) = self.conns.get_mut(&conn) else {
            return;
        };
        this.local = Some(local);
        let id = this.peer;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.session.connected(now, conn);
        }
        self.carry_out(now, id);
    }

    /// Our next hops towards a peer are others from now on.
    pub(super) fn readdressed(&mut self, conn: ConnId, local: LocalAddresses) {
        let Some(this) = self.conns.get_mut(&conn) else {
            return;
        };
        this.local = Some(local);
        let id = this.peer;
        let peer = self.peers.get_mut(&id);
        let up = peer.and_then(|peer| peer.up.as_mut());
        if let Some(up) = up.filter(|up| up.conn == conn && up.local != local) {
            up.local = local;
            self.add_own_addresses(local);
            self.regroup(id);
        }
    }

    /// A connection is gone or did not come about.
    pub(super) fn lost(&mut self, now: Instant, conn: ConnId, tell: impl FnOnce(&mut Session)) {
        let Some(this) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&this.peer) {
            tell(&mut peer.session);
        }
        self.carry_out(now, this.peer);
    }

    /// Does what a session asks for.
    pub(super) fn carry_out(&mut self, now: Instant, id: PeerId) {
        while let Some(peer) = self.peers.get_mut(&id)
            && let Some(action) = peer.session.poll_action()
        {
            match action {
                Action::Connect { conn } => {
                    self.outputs.push_back(Output::Connect {
                        conn,
                        peer: id,
                        remote: SocketAddr::new(peer.config.address, peer.config.port),
                        local: peer.config.local_address,
                    });
                    self.conns.insert(conn, Conn::new(id, None));
                }
                Action::Close { conn } => self.close(conn),
                Action::Send { conn, message } => self.queue(conn, &message),
                Action::Up { conn, negotiated } => self.up(now, id, conn, negotiated),
                Action::Down { reason, .. } => self.down(now, id, &reason),
                Action::Changed => {
                    self.outputs.push_back(Output::SessionChanged(id));
                }
            }
        }
        // Of a peer that we do not want to have back nothing is kept.
        let ended =
            |session: &Session| session.shutdown_text().is_some() || session.is_over_limit();
        let unwanted = |peer: &Peer| peer.up.is_none() && ended(&peer.session);
        if self.peers.get(&id).is_some_and(unwanted) {
            self.give_up_stale(id);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(this) = self.conns.get_mut(&conn) {
            this.closing = true;
            if this.control.is_empty() {
                self.conns.remove(&conn);
            }
            self.outputs.push_back(Output::Close { conn });
        }
    }

    fn queue(&mut self, conn: ConnId, message: &Message) {
        let Some(this) = self.conns.get_mut(&conn) else {
            return;
        };
        match message {
            Message::Open(open) => codec::encode_open(open, &mut this.control),
            Message::Keepalive => codec::encode_keepalive(&mut this.control),
            Message::Notification(notification) => {
                codec::encode_notification(notification, &mut this.control);
            }
            Message::RouteRefresh {
                family: Some(family),
                kind,
            } => codec::encode_route_refresh(*family, *kind, &mut this.control),
            // UPDATEs are the tables' to send.
            Message::Update(_) | Message::RouteRefresh { family: None, .. } => {}
        }
        self.tell_to_send(conn);
    }

    /// What is to be sent next; false: nothing is left.
    pub(super) fn send(&mut self, conn: ConnId, buf: &mut BytesMut) -> bool {
        let Some(this) = self.conns.get_mut(&conn) else {
            return false;
        };
        buf.extend_from_slice(&std::mem::take(&mut this.control));
        if this.closing {
            return false;
        }
        let id = this.peer;
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        peer.session.sent(conn);
        let Some(up) = peer.up.as_ref().filter(|up| up.conn == conn) else {
            return false;
        };
        let start = buf.len();
        let mut more = false;
        for family in &up.negotiated.families {
            let limit = start + SEND_AT_ONCE;
            let shared = &mut self.shared;
            more |= match family {
                Family::Ipv4 => self.v4.poll_updates(shared, id, buf, limit),
                Family::Ipv6 => self.v6.poll_updates(shared, id, buf, limit),
            };
        }
        count_sent(&buf[start..], peer.session.counters_mut());
        more
    }

    /// A session is Established: its routes may come, and ours go out.
    fn up(&mut self, now: Instant, id: PeerId, conn: ConnId, negotiated: Negotiated) {
        let local = self.conns.get(&conn).and_then(|conn| conn.local);
        let (Some(peer), Some(local)) = (self.peers.get(&id), local) else {
            return; // a session has no connection that never stood
        };
        let ebgp = peer.config.is_ebgp();
        let origin = Origin {
            peer: Some(id),
            name: peer.name.clone(),
            kind: if ebgp { Source::Ebgp } else { Source::Ibgp },
            local_asn: peer.config.local_asn,
            router_id: negotiated.remote_router_id,
            address: peer.config.address,
            connected: ebgp && peer.config.hops() == 1,
            long_lived: (peer.config.graceful_restart).is_some_and(|gr| gr.long_lived.is_some()),
            reflector_client: peer.config.reflector_client,
            allow_own_as: peer.config.allow_own_as,
            import: Arc::new(self.import_chain(&peer.config)),
            counts: [Counts::default(); 2],
            gone: false,
            leaving: 2,
        };
        let source = (self.welcome_back(now, id, &negotiated, &origin))
            .or_else(|| self.shared.add_source(origin));
        let Some(source) = source else {
            // 65,535 sessions are being cleared away.
            let notification = Notification::cease(Cease::OutOfResources, "");
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.session
                    .fail(now, conn, notification, "too many sessions");
            }
            return;
        };
        let context = Context {
            ebgp,
            four_octet_as: negotiated.four_octet_as,
            families: negotiated.families.iter().copied().collect(),
            extended_next_hop: negotiated.extended_next_hop.iter().copied().collect(),
            max_message: negotiated.max_message,
        };
        let up = Up {
            conn,
            source,
            context,
            negotiated,
            local,
            end_of_rib: [false; 2],
            long_lived_expired: [false; 2],
            limit_level: [0; 2],
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.up = Some(up);
        }
        self.add_own_addresses(local);
        self.join_groups(id, [None, None]);
        self.outputs.push_back(Output::SessionChanged(id));
    }

    /// A session is over: nothing more goes out, and its routes are removed bit by bit, or kept for
    /// a while where graceful restart asks for it.
    fn down(&mut self, now: Instant, id: PeerId, reason: &DownReason) {
        let Some(up) = self.peers.get_mut(&id).and_then(|peer| peer.up.take()) else {
            return;
        };
        self.v4.leave(id);
        self.v6.leave(id);
        self.keep_or_remove(now, id, &up, reason);
        if self.peers.values().all(|peer| peer.up.is_none()) {
            self.shared.forget_all();
        }
        self.outputs.push_back(Output::SessionChanged(id));
    }

    /// One UPDATE of an Established session, from the peer's words to our tables. RFC 4271 §9.
    pub(super) fn on_update(&mut self, now: Instant, id: PeerId, conn: ConnId, body: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(up) = &mut peer.up else { return };
        let update = match Update::decode(body, &up.context) {
            Ok(update) => update,
            Err(error) => {
                let text = format!("{} (UPDATE begins {})", error.reason, hex(body));
                peer.faults.note(Fault::SessionReset, text);
                return peer
                    .session
                    .fail(now, conn, error.notification, &error.reason);
            }
        };
        for fault in &update.faults {
            let text = crate::rib::adj_in::describe(fault, body);
            peer.faults.note(Fault::FamilyNotNegotiated, text);
        }
        let (source, shared) = (up.source, &mut self.shared);
        for nlri in update.withdrawn {
            match nlri {
                Nlri::V4(prefixes) => self.v4.withdraw_all(shared, source, prefixes),
                Nlri::V6(prefixes) => self.v6.withdraw_all(shared, source, prefixes),
            }
        }
        let decoded: SmallVec<[_; 2]> = (update.announced.iter())
            .map(|a| shared.decode(&a.attributes, &up.context, &mut peer.faults))
            .collect();
        // RFC 7606 §2, treat-as-withdraw: all of the UPDATE's prefixes.
        let malformed = decoded.iter().any(Option::is_none);
        for (announced, decoded) in update.announced.into_iter().zip(decoded) {
            let (nlri, faults) = (announced.nlri, &mut peer.faults);
            match (&decoded, nlri) {
                (Some((set, fresh)), Nlri::V4(prefixes)) if !malformed => {
                    let rib = &mut self.v4;
                    rib.announce_all(shared, source, *set, fresh.as_ref(), prefixes, faults);
                }
                (Some((set, fresh)), Nlri::V6(prefixes)) if !malformed => {
                    let rib = &mut self.v6;
                    rib.announce_all(shared, source, *set, fresh.as_ref(), prefixes, faults);
                }
                (_, Nlri::V4(prefixes)) => self.v4.withdraw_all(shared, source, prefixes),
                (_, Nlri::V6(prefixes)) => self.v6.withdraw_all(shared, source, prefixes),
            }
            if let Some((set, _)) = decoded {
                shared.attrs.release(set, &mut shared.hops);
            }
        }
        self.check_limits(now, id);
        let Some(up) = self.peers.get_mut(&id).and_then(|peer| peer.up.as_mut()) else {
            return;
        };
        if let Some(family) = update.end_of_rib {
            let was = std::mem::replace(&mut up.end_of_rib[family as usize], true);
            up.long_lived_expired[family as usize] = false;
            if !was {
                self.outputs.push_back(Output::SessionChanged(id));
            }
            self.end_stale(id, family);
        }
    }

    /// RFC 2918, RFC 7313.
    pub(super) fn on_refresh(&mut self, id: PeerId, family: Family, kind: RefreshKind) {
        let Some(up) = self.peers.get(&id).and_then(|peer| peer.up.as_ref()) else {
            return;
        };
        let (source, mark) = (up.source, up.negotiated.enhanced_route_refresh);
        match kind {
            RefreshKind::Request => self.for_family(
                family,
                |rib, shared| rib.refresh(shared, id, mark),
                |rib, shared| rib.refresh(shared, id, mark),
            ),
            RefreshKind::Begin if mark => self.for_family(
                family,
                |rib, _| rib.begin_refresh(source),
                |rib, _| rib.begin_refresh(source),
            ),
            RefreshKind::End if mark => self.for_family(
                family,
                |rib, _| rib.end_refresh(source),
                |rib, _| rib.end_refresh(source),
            ),
            RefreshKind::Begin | RefreshKind::End => {} // not agreed on: ignored
        }
    }

    /// The path to a peer carries packets no longer, says somebody who watches it (`why`, in words):
    /// an Established session ends at once instead of when the hold time does. RFC 5882 §3.2,
    /// RFC 9384. An address that is no peer's changes nothing.
    pub fn path_down(&mut self, now: Instant, address: IpAddr, why: &str) {
        self.tick(now);
        let Some(id) = self.by_address.get(&address).copied() else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(up) = &peer.up
        {
            // The other side is not to send packets over this path either.
            let notification = Notification::cease(Cease::BfdDown, "");
            let notification = up.negotiated.for_good(notification);
            peer.session.fail(now, up.conn, notification, why);
        }
        self.carry_out(now, id);
        self.settle();
    }

    /// Carries out a command; the answer is a sentence for the person who gave it.
    ///
    /// # Errors
    ///
    /// See [`CommandError`]; nothing was done then.
    pub fn command(&mut self, now: Instant, command: Command) -> Result<String, CommandError> {
        self.tick(now);
        let answer = self.obey(now, command);
        // Also what is refused has been looked at.
        self.settle();
        answer
    }

    fn obey(&mut self, now: Instant, command: Command) -> Result<String, CommandError> {
        let (Command::Reset { peer: name, .. }
        | Command::SoftReset { peer: name }
        | Command::Shutdown { peer: name, .. }
        | Command::Enable { peer: name }) = &command;
        let id = self.find_peer(name).ok_or_else(|| CommandError::NoPeer {
            peer: name.clone(),
            known: self.peer_names(),
        })?;
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(String::new());
        };
        let name = peer.name.clone();
        let answer = match command {
            Command::Reset { message, .. } => {
                let connected = peer.session.state() >= State::OpenSent;
                peer.session.reset(now, &message);
                match connected {
                    true => {
                        format!("The session with {name} was reset; it comes up again by itself.")
                    }
                    false if peer.session.shutdown_text().is_some() => {
                        format!("The session with {name} stays shut down.")
                    }
                    false => format!("There was no session with {name}; it is sought again now."),
                }
            }
            Command::Shutdown { message, .. } => {
                peer.session.shutdown(now, &message);
                format!("The session with {name} is shut down until `enable {name}`.")
            }
            Command::Enable { .. } if peer.config.shutdown.is_some() => {
                return Err(CommandError::ShutDownByConfig {
                    peer: name.to_string(),
                });
            }
            Command::Enable { .. } => {
                peer.session.enable(now);
                format!("The session with {name} is enabled.")
            }
            Command::SoftReset { .. } => self.soft_reset(id)?,
        };
        self.carry_out(now, id);
        Ok(answer)
    }

    fn soft_reset(&mut self, id: PeerId) -> Result<String, CommandError> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(String::new());
        };
        let name = peer.name.clone();
        let Some(up) = &peer.up else {
            return Err(CommandError::NotEstablished {
                peer: name.to_string(),
                state: peer.session.state().to_string(),
            });
        };
        let (conn, families) = (up.conn, up.negotiated.families.clone());
        let asks = up.negotiated.route_refresh;
        if asks {
            peer.session.counters_mut().sent.route_refresh += families.len() as u64;
        }
        for family in families {
            if asks {
                let message = Message::RouteRefresh {
                    family: Some(family),
                    kind: RefreshKind::Request,
                };
                self.queue(conn, &message);
            }
            self.on_refresh(id, family, RefreshKind::Request);
        }
        Ok(match asks {
            true => format!("{name} was asked for its routes, and is sent ours again."),
            false => {
                format!(
                    "{name} cannot be asked for its routes (no route refresh); ours are sent again."
                )
            }
        })
    }

    /// By name or address.
    pub(super) fn find_peer(&self, name: &str) -> Option<PeerId> {
        let mut peers = self.peers.iter();
        if let Some((id, _)) = peers.find(|(_, peer)| *peer.name == *name) {
            return Some(*id);
        }
        self.by_address.get(&name.parse::<IpAddr>().ok()?).copied()
    }

    /// Names of all peers, for messages.
    pub(super) fn peer_names(&self) -> String {
        let names = self.order.iter().filter_map(|id| self.peers.get(id));
        let names: Vec<&str> = names.map(|peer| &*peer.name).collect();
        if names.is_empty() {
            return "none".into();
        }
        names.join(", ")
    }
}

/// Counts messages that the tables made.
fn count_sent(mut bytes: &[u8], counters: &mut crate::session::Counters) {
    // The length of a message is in octets 16 and 17, its type in 18. RFC 4271 §4.1.
    while let Some(&[high, low, kind]) = bytes.get(16..19).and_then(|h| h.first_chunk::<3>()) {
        match kind {
            5 => counters.sent.route_refresh += 1,
            _ => counters.sent.update += 1,
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        bytes = bytes.get(length.max(19)..).unwrap_or_default();
    }
}

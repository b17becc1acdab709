//! All sessions of one system.
//!
//! ```text
//!   configure(sessions wanted) ─┐                 ┌─► Output::Open, Close   a session's socket
//!   handle(datagram) ───────────┼──► Engine ──────┼─► Output::Send          a packet for it
//!   handle_timeout(now) ────────┘                 └─► Output::Changed       for whoever asked for it
//! ```
//!
//! [`Engine::poll_output`] is to be drained after every call.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::{AuthFault, Key};
use crate::due::Due;
use crate::echo::{EchoKey, EchoStatus, EchoWire};
use crate::memory::Memory;
use crate::packet::{Diagnostic, Malformed, Packet, State, Wire};
use crate::session::{Counts, Session, splitmix};

/// How far the other side is; packets of the two arrive on different ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hops {
    /// On the same link: port 3784, and the TTL must arrive as 255. RFC 5881.
    Single,
    /// Anywhere: port 4784. RFC 5883.
    Multi,
}

/// What tells a session from others before the discriminators are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// The other side.
    pub remote: IpAddr,
    /// Our side; `None`: any, the kernel chooses what we send from.
    pub local: Option<IpAddr>,
    /// How far it is.
    pub hops: Hops,
}

/// A session wanted. Intervals outside 1 ms to 4,294 s are brought inside, a multiplier of 0 is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Which.
    pub key_of: SessionKey,
    /// Desired Min TX Interval while Up; 1 s at least is used otherwise.
    pub min_tx: Duration,
    /// Required Min RX Interval.
    pub min_rx: Duration,
    /// Detect Mult: how many of our packets the other side may miss.
    pub detect_mult: u8,
    /// Held in AdminDown.
    pub admin_down: bool,
    /// With which packets are authenticated; `None`: they are not.
    pub key: Option<Key>,
    /// How often we would send Echo packets; `None`: we send none. They are sent while the session is
    /// Up on both sides and the other side says that it loops them; never over several hops.
    pub echo_tx: Option<Duration>,
    /// How often the other side may send Echo packets that this host loops; `None`: it loops none.
    pub echo_rx: Option<Duration>,
}

impl SessionConfig {
    pub(crate) fn min_tx_micros(&self) -> u32 {
        clamp(self.min_tx)
    }

    pub(crate) fn min_rx_micros(&self) -> u32 {
        clamp(self.min_rx)
    }

    /// 0: none.
    pub(crate) fn echo_tx_micros(&self) -> u32 {
        self.echo(self.echo_tx)
    }

    pub(crate) fn echo_rx_micros(&self) -> u32 {
        self.echo(self.echo_rx)
    }

    /// RFC 5883 §3: not over several hops.
    fn echo(&self, interval: Option<Duration>) -> u32 {
        let interval = interval.filter(|_| self.key_of.hops == Hops::Single);
        interval.map_or(0, clamp)
    }
}

fn clamp(interval: Duration) -> u32 {
    let micros = interval.as_micros().clamp(1_000, u32::MAX.into());
    u32::try_from(micros).unwrap_or(u32::MAX)
}

/// The number of a session while it is open, from 0 without large gaps; used again after
/// [`Output::Close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// What arrived on one of the two ports.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub remote: IpAddr,
    /// Which of our addresses it was sent to.
    pub local: IpAddr,
    /// The TTL or Hop Limit it arrived with.
    pub ttl: u8,
    /// On which port.
    pub hops: Hops,
    /// The UDP payload.
    pub bytes: &'a [u8],
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A session begins; packets will be sent for it.
    Open {
        /// Its number.
        session: SessionId,
        /// Where to and from.
        key: SessionKey,
    },
    /// A session has ended, and its number is free.
    Close {
        /// Its number.
        session: SessionId,
    },
    /// Send this now.
    Send {
        /// For which session.
        session: SessionId,
        /// The UDP payload.
        packet: Wire,
    },
    /// Send this now as an Echo packet: to our own address, by way of the other side.
    Echo {
        /// For which session.
        session: SessionId,
        /// The UDP payload.
        packet: EchoWire,
    },
    /// A session's state is another.
    Changed(Change),
    /// What [`Engine::memory`] says of this session is to be written down, for the next process.
    Remember {
        /// Its number.
        session: SessionId,
    },
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which session.
    pub key: SessionKey,
    /// Its state before.
    pub from: State,
    /// Its state now.
    pub to: State,
    /// Why.
    pub diagnostic: Diagnostic,
    /// The state the other side is in, as far as we know.
    pub remote_state: State,
    /// The C bit of what the other side said last before: its BFD does not share the fate of its
    /// control plane. RFC 5882 §4.3.
    pub remote_independent: bool,
}

impl Change {
    /// Whether this says that the path no longer carries packets, or that the other side thinks so:
    /// an Up session fell, and no person on either side asked for it. RFC 5882 §3.2, §4.2.
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote_state != State::AdminDown
    }
}

/// Why a packet was refused. RFC 5880 §6.8.6, RFC 5881 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Discard {
    /// It is no Control packet.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// It came over a router where it must not (RFC 5082).
    #[error("TTL {0}; a packet from the same link arrives with 255")]
    Ttl(u8),
    /// Nobody asked for this session, or Your Discriminator names none.
    #[error("no such session")]
    NoSession,
    /// Your Discriminator is zero although the sender is in Init or Up.
    #[error("the sender names no session although it has one")]
    NoDiscriminator,
    /// The authentication is wrong.
    #[error("{0}")]
    Auth(AuthFault),
    /// An Echo packet that is none of ours, or comes a second time.
    #[error("an Echo packet that is not awaited")]
    Echo,
    /// The session is held in AdminDown.
    #[error("the session is administratively down")]
    AdminDown,
}

/// A session as a person is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub session: SessionId,
    /// Which.
    pub key: SessionKey,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it last left Up.
    pub diagnostic: Diagnostic,
    /// Our name for it.
    pub discriminator: u32,
    /// Their name for it; 0: not known.
    pub remote_discriminator: u32,
    /// Their state as they told last.
    pub remote_state: State,
    /// Why their side last left Up.
    pub remote_diagnostic: Diagnostic,
    /// Their C bit.
    pub remote_control_plane_independent: bool,
    /// Between our packets, before jitter; `None`: none are sent periodically.
    pub tx_interval: Option<Duration>,
    /// How long silence may last; meaningless while nothing is heard.
    pub detection_time: Duration,
    /// Packets.
    pub counts: Counts,
    /// Why a packet was last refused.
    pub last_discard: Option<Discard>,
    /// The Echo function; `None`: it is not wanted.
    pub echo: Option<EchoStatus>,
}

/// All sessions of one system.
#[derive(Debug)]
pub struct Engine {
    /// By [`SessionId`].
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    by_key: HashMap<SessionKey, u32>,
    by_discriminator: HashMap<u32, u32>,
    due: Due,
    /// Sessions with a packet to send.
    ready: VecDeque<u32>,
    /// Sessions to be remembered anew.
    touched: VecDeque<u32>,
    /// Of another process's sessions, until the first configuration.
    memories: HashMap<SessionKey, Memory>,
    outputs: VecDeque<Output>,
    control_plane_independent: bool,
    echo_key: EchoKey,
    random: u64,
}

impl Engine {
    /// No sessions. `seed` makes discriminators, sequence numbers and jitter, and has to be
    /// unpredictable; `control_plane_independent` is what the C bit says: whether sessions go on
    /// when the one that wants them stops.
    pub fn new(seed: u64, control_plane_independent: bool) -> Engine {
        let mut random = seed;
        Engine {
            echo_key: EchoKey::new(splitmix(&mut random)),
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            by_discriminator: HashMap::new(),
            due: Due::default(),
            ready: VecDeque::new(),
            touched: VecDeque::new(),
            memories: HashMap::new(),
            outputs: VecDeque::new(),
            control_plane_independent,
            random,
        }
    }

    /// What another process, which this one takes the place of, wrote down of its sessions. Those of
    /// them that the first configuration wants go on.
    pub fn recall(&mut self, memories: impl IntoIterator<Item = Memory>) {
        self.memories = memories.into_iter().map(|it| (it.key, it)).collect();
    }

    /// What the next process has to know of a session; `None`: nothing, it has gone or is about to.
    pub fn memory(&self, session: SessionId) -> Option<Memory> {
        self.slots.get(session.0 as usize)?.as_ref()?.memory()
    }

    /// The sessions wanted, all of them. Those that are there already are changed without being
    /// taken down; those not listed say so to the other side and end a little later. Of two with one
    /// key the first counts.
    pub fn configure(&mut self, now: Instant, wanted: Vec<SessionConfig>) {
        let mut gone: HashMap<SessionKey, u32> = self.by_key.clone();
        let mut seen = std::collections::HashSet::new();
        for config in wanted {
            let key = config.key_of;
            if !seen.insert(key) {
                continue;
            }
            match gone.remove(&key) {
                None => self.open(now, config),
                Some(slot) => self.with(slot, |session| {
                    if session.config != config || session.leaves_at.is_some() {
                        session.reconfigure(now, config);
                    }
                }),
            }
        }
        for slot in gone.into_values() {
            self.with(slot, |session| {
                if session.leaves_at.is_none() {
                    session.leave(now);
                }
            });
        }
        self.memories = HashMap::new();
    }

    /// A datagram arrived.
    ///
    /// # Errors
    ///
    /// [`Discard`] says why it changes nothing.
    ///
    /// RFC 5880 §6.8.6.
    pub fn handle(&mut self, now: Instant, datagram: Datagram<'_>) -> Result<(), Discard> {
        if datagram.hops == Hops::Single && datagram.ttl != 255 {
            return Err(Discard::Ttl(datagram.ttl));
        }
        let (packet, section) = Packet::decode(datagram.bytes).map_err(Discard::Malformed)?;
        let slot = self.find(&datagram, &packet)?;
        let mut result = Ok(());
        self.with(slot, |session| {
            result = session.receive(now, datagram.bytes, &packet, section);
            if let Err(discard) = result {
                session.counts.discarded += 1;
                session.last_discard = Some(discard);
            }
        });
        result
    }

    /// A packet arrived that may be one of our Echo packets, looped by the other side.
    ///
    /// # Errors
    ///
    /// [`Discard`] when it is none, or comes a second time or much too late.
    pub fn handle_echo(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Discard> {
        let (name, number) = self.echo_key.read(bytes).ok_or(Discard::Echo)?;
        let slot = self.by_discriminator.get(&name).copied();
        let mut result = Err(Discard::NoSession);
        if let Some(slot) = slot {
            self.with(slot, |session| {
                let mult = session.config.detect_mult;
                let fresh = session.echo.came_back(now, number, mult);
                result = fresh.then_some(()).ok_or(Discard::Echo);
            });
        }
        result
    }

    fn find(&self, datagram: &Datagram<'_>, packet: &Packet) -> Result<u32, Discard> {
        let key = SessionKey {
            remote: datagram.remote,
            local: Some(datagram.local),
            hops: datagram.hops,
        };
        let any = SessionKey { local: None, ..key };
        if packet.your_discriminator != 0 {
            let slot = self.by_discriminator.get(&packet.your_discriminator);
            let session = slot.and_then(|slot| self.slots[*slot as usize].as_ref());
            // A name that was guessed, or heard by somebody else, is of no use from elsewhere.
            let same = session.is_some_and(|it| [key, any].contains(&it.config.key_of));
            return slot.filter(|_| same).copied().ok_or(Discard::NoSession);
        }
        if !matches!(packet.state, State::Down | State::AdminDown) {
            return Err(Discard::NoDiscriminator);
        }
        let slot = self.by_key.get(&key).or_else(|| self.by_key.get(&any));
        slot.copied().ok_or(Discard::NoSession)
    }

    /// Sessions whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, slot)) = self.due.first()
            && deadline <= now
        {
            let session = self.slots[slot as usize].as_ref();
            if session.is_some_and(|it| it.leaves_at.is_some_and(|at| at <= now)) {
                self.close(slot);
            } else {
                self.with(slot, |session| session.handle_timeout(now));
            }
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(deadline, _)| deadline)
    }

    /// What is to be done next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        while let Some(slot) = self.ready.front().copied() {
            if let Some(session) = &mut self.slots[slot as usize] {
                if let Some(packet) = session.transmit() {
                    let session = SessionId(slot);
                    self.touch(slot);
                    return Some(Output::Send { session, packet });
                }
                if let Some(number) = session.echo.transmit() {
                    let packet = self.echo_key.write(session.discriminator, number);
                    let session = SessionId(slot);
                    return Some(Output::Echo { session, packet });
                }
                session.queued = false;
            }
            self.ready.pop_front();
        }
        let slot = self.touched.pop_front()?;
        if let Some(session) = &mut self.slots[slot as usize] {
            session.touched = false;
        }
        let session = SessionId(slot);
        Some(Output::Remember { session })
    }

    /// Every session but those being taken away.
    pub fn sessions(&self) -> impl Iterator<Item = Status> {
        let sessions = self.slots.iter().enumerate();
        sessions.filter_map(|(slot, it)| status(slot as u32, it.as_ref()?))
    }

    /// One session, unless it is being taken away.
    pub fn session(&self, key: &SessionKey) -> Option<Status> {
        let slot = *self.by_key.get(key)?;
        status(slot, self.slots[slot as usize].as_ref()?)
    }

    fn open(&mut self, now: Instant, config: SessionConfig) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1 // far below 2^32: each has a socket
        });
        // Everything that packets and timers need is there before the first of them.
        self.due.reserve(self.slots.len());
        for queue in [&mut self.ready, &mut self.touched] {
            queue.reserve(self.slots.len().saturating_sub(queue.len()));
        }
        let (key, seed) = (config.key_of, splitmix(&mut self.random));
        let independent = self.control_plane_independent;
        let memory = self.memories.remove(&key);
        let memory = memory.filter(|it| !self.is_taken(it.discriminator));
        let session = match memory {
            Some(memory) => Session::recalled(now, config, &memory, independent, seed),
            None => {
                let discriminator = self.free_discriminator();
                Session::new(now, config, discriminator, independent, seed)
            }
        };
        let discriminator = session.discriminator;
        self.slots[slot as usize] = Some(session);
        self.by_key.insert(key, slot);
        self.by_discriminator.insert(discriminator, slot);
        let session = SessionId(slot);
        self.outputs.push_back(Output::Open { session, key });
        self.with(slot, |_| {});
    }

    fn is_taken(&self, discriminator: u32) -> bool {
        discriminator == 0 || self.by_discriminator.contains_key(&discriminator)
    }

    /// One that no session has, also none of those remembered.
    fn free_discriminator(&mut self) -> u32 {
        loop {
            let random = splitmix(&mut self.random) as u32;
            let mut memories = self.memories.values();
            if !self.is_taken(random) && memories.all(|it| it.discriminator != random) {
                return random;
            }
        }
    }

    fn close(&mut self, slot: u32) {
        self.due.set(slot, None);
        let Some(session) = self.slots[slot as usize].take() else {
            return;
        };
        self.by_key.remove(&session.config.key_of);
        self.by_discriminator.remove(&session.discriminator);
        self.ready.retain(|other| *other != slot);
        self.touched.retain(|other| *other != slot);
        self.free.push(slot);
        let session = SessionId(slot);
        self.outputs.push_back(Output::Close { session });
    }

    fn touch(&mut self, slot: u32) {
        if let Some(session) = &mut self.slots[slot as usize]
            && !session.touched
        {
            session.touched = true;
            self.touched.push_back(slot);
        }
    }

    /// Calls `work` on a session, and sees to what follows from it.
    fn with(&mut self, slot: u32, work: impl FnOnce(&mut Session)) {
        let Some(session) = &mut self.slots[slot as usize] else {
            return;
        };
        let from = session.state;
        let remote_independent = session.remote.control_plane_independent;
        work(session);
        self.due.set(slot, session.deadline());
        if !session.touched {
            session.touched = true;
            self.touched.push_back(slot);
        }
        if session.wants_to_send() && !session.queued {
            session.queued = true;
            self.ready.push_back(slot);
        }
        if session.state != from {
            self.outputs.push_back(Output::Changed(Change {
                key: session.config.key_of,
                from,
                to: session.state,
                diagnostic: session.diagnostic,
                remote_state: session.remote.state,
                remote_independent,
            }));
        }
    }
}

fn status(slot: u32, it: &Session) -> Option<Status> {
    it.leaves_at.is_none().then(|| Status {
        session: SessionId(slot),
        key: it.config.key_of,
        state: it.state,
        since: it.since,
        diagnostic: it.diagnostic,
        discriminator: it.discriminator,
        remote_discriminator: it.remote.discriminator,
        remote_state: it.remote.state,
        remote_diagnostic: it.remote.diagnostic,
        remote_control_plane_independent: it.remote.control_plane_independent,
        tx_interval: it.tx_interval(),
        detection_time: it.detection_time(),
        counts: it.counts,
        last_discard: it.last_discard,
        echo: (it.config.echo_tx_micros() > 0).then(|| it.echo.status(it.remote.min_echo_rx > 0)),
    })
}

//! Two systems, and the packets between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bfd::{
    Change, Datagram, Discard, EchoWire, Engine, Hops, Memory, Output, SessionConfig, SessionId,
    SessionKey, State, Wire,
};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// Two systems, a and b (0 and 1), with any number of sessions between them.
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) engines: [Engine; 2],
    pub(crate) sockets: [BTreeMap<SessionId, SessionKey>; 2],
    /// On the way: when it arrives, where, from and to which address, how far, what.
    pub(crate) flying: Vec<(Instant, usize, SessionKey, Wire)>,
    pub(crate) delay: Duration,
    pub(crate) ttl: u8,
    /// Packets from this side are lost.
    pub(crate) cut: [bool; 2],
    /// Of 1,000 packets how many are lost.
    pub(crate) loss: u64,
    pub(crate) random: u64,
    pub(crate) changes: Vec<(Duration, usize, Change)>,
    pub(crate) start: Instant,
    pub(crate) sent: [u64; 2],
    pub(crate) discards: Vec<Discard>,
    /// What the next process of a side will read.
    pub(crate) written: [BTreeMap<SessionId, Memory>; 2],
    /// Whether this side's forwarding plane loops Echo packets.
    pub(crate) loops: [bool; 2],
    pub(crate) looped: Vec<(Instant, usize, EchoWire)>,
    pub(crate) echoes: [u64; 2],
}

pub(crate) fn address(side: usize, session: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | (side as u32) << 16 | session as u32).into()
}

pub(crate) fn wanted(
    side: usize,
    count: usize,
    interval: Duration,
    detect_mult: u8,
) -> Vec<SessionConfig> {
    let one = |session| SessionConfig {
        key_of: SessionKey {
            remote: address(1 - side, session),
            local: Some(address(side, session)),
            hops: Hops::Single,
        },
        min_tx: interval,
        min_rx: interval,
        detect_mult,
        admin_down: false,
        key: None,
        echo_tx: None,
        echo_rx: None,
    };
    (0..count).map(one).collect()
}

impl Net {
    pub(crate) fn new(count: usize, interval: Duration, detect_mult: u8) -> Net {
        let start = Instant::now();
        let mut net = Net {
            now: start,
            engines: [Engine::new(1, true), Engine::new(2, true)],
            sockets: Default::default(),
            flying: Vec::new(),
            delay: MS,
            ttl: 255,
            cut: [false; 2],
            loss: 0,
            random: 42,
            changes: Vec::new(),
            start,
            sent: [0; 2],
            discards: Vec::new(),
            written: Default::default(),
            loops: [true; 2],
            looped: Vec::new(),
            echoes: [0; 2],
        };
        for side in [0, 1] {
            net.configure(side, wanted(side, count, interval, detect_mult));
        }
        net
    }

    /// Every session Up at the intervals configured.
    pub(crate) fn up(count: usize, interval: Duration, detect_mult: u8) -> Net {
        let mut net = Net::new(count, interval, detect_mult);
        net.advance(5000 * MS);
        assert!(net.all(State::Up), "{:?}", net.states(0));
        net.changes.clear();
        net
    }

    pub(crate) fn configure(&mut self, side: usize, wanted: Vec<SessionConfig>) {
        self.engines[side].configure(self.now, wanted);
        self.drain(side);
    }

    pub(crate) fn states(&self, side: usize) -> Vec<State> {
        self.engines[side].sessions().map(|it| it.state).collect()
    }

    pub(crate) fn all(&self, state: State) -> bool {
        let both = [0, 1].into_iter().flat_map(|side| self.states(side));
        both.into_iter().all(|it| it == state)
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrivals = self.flying.iter().map(|it| it.0);
            let arrival = arrivals.chain(self.looped.iter().map(|it| it.0)).min();
            let timers = self.engines.iter().filter_map(Engine::poll_timeout);
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            // What arrived is read before a timer may say that nothing did.
            while let Some(at) = self.flying.iter().position(|it| it.0 <= self.now) {
                let (_, to, from, wire) = self.flying.swap_remove(at);
                self.deliver(to, from, wire.as_bytes());
            }
            while let Some(at) = self.looped.iter().position(|it| it.0 <= self.now) {
                let (_, side, wire) = self.looped.swap_remove(at);
                if let Err(discard) = self.engines[side].handle_echo(self.now, wire.as_bytes()) {
                    self.discards.push(discard);
                }
                self.drain(side);
            }
            for side in [0, 1] {
                self.engines[side].handle_timeout(self.now);
                self.drain(side);
            }
        }
        self.now = end;
    }

    pub(crate) fn deliver(&mut self, to: usize, from: SessionKey, bytes: &[u8]) {
        let datagram = Datagram {
            remote: from.local.unwrap(),
            local: from.remote,
            ttl: self.ttl,
            hops: from.hops,
            bytes,
        };
        if let Err(discard) = self.engines[to].handle(self.now, datagram) {
            self.discards.push(discard);
        }
        self.drain(to);
    }

    pub(crate) fn drain(&mut self, side: usize) {
        while let Some(output) = self.engines[side].poll_output() {
            match output {
                Output::Open { session, key } => {
                    assert_eq!(self.sockets[side].insert(session, key), None);
                }
                Output::Close { session } => {
                    assert!(self.sockets[side].remove(&session).is_some());
                }
                Output::Send { session, packet } => {
                    let from = self.sockets[side][&session];
                    self.sent[side] += 1;
                    self.random = self
                        .random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let lost = (self.random >> 33) % 1000 < self.loss;
                    if !self.cut[side] && !lost {
                        self.flying
                            .push((self.now + self.delay, 1 - side, from, packet));
                    }
                }
                Output::Changed(change) => {
                    self.changes.push((self.now - self.start, side, change));
                }
                Output::Echo { packet, .. } => {
                    self.echoes[side] += 1;
                    // Over the other side's forwarding plane, whatever its BFD does.
                    if self.loops[1 - side] {
                        let at = self.now + 2 * self.delay;
                        self.looped.push((at, side, packet));
                    }
                }
                Output::Remember { session } => {
                    match self.engines[side].memory(session) {
                        Some(memory) => self.written[side].insert(session, memory),
                        None => self.written[side].remove(&session),
                    };
                }
            }
        }
    }

    /// The process of this side dies; after a while another one takes its place.
    pub(crate) fn replace(&mut self, side: usize, wanted: Vec<SessionConfig>, after: Duration) {
        self.cut[1 - side] = true; // nobody is there to hear
        self.engines[side] = Engine::new(0, true);
        self.sockets[side].clear();
        self.advance(after);
        self.cut[1 - side] = false;
        let seed = 7 + self.changes.len() as u64;
        self.engines[side] = Engine::new(seed, true);
        let written = std::mem::take(&mut self.written[side]).into_values();
        let octets = written.map(|it| it.encode(|at| (at - self.start).as_nanos() as u64));
        let at = |nanos| Some(self.start + Duration::from_nanos(nanos));
        let memories = octets.map(|it| Memory::decode(&it, at).unwrap());
        self.engines[side].recall(memories);
        self.configure(side, wanted);
    }
}

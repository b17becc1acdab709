//! A virtual network: engines, links with delay and loss, TCP as far as BGP can see it, one clock.
//!
//! Nothing here waits: the clock jumps to the next thing that happens. One seed gives one run.
//!
//! TCP is a pair of byte streams in order. Loss is a retransmission, so a delay; a link that is cut
//! holds everything back until it is mended; a receiver that does not read fills the window, and
//! then the sender may not send. What ends a connection abruptly is [`Net::reset_connections`].

mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::codec::{EXTENDED_MESSAGE, next_message};
use bgp::config::Config;
use bgp::engine::{Engine, Input, LocalAddresses, NextHopState, Output, Restart};
use bgp::message::Message;
use bgp::types::{ConnId, Prefix};
use bytes::{Bytes, BytesMut};

/// Bytes on the way that a receiver has not read; more are not taken from the sender.
const WINDOW: usize = 64 * 1024;

/// The first retransmission of something lost comes after this, each further one after twice that.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// How often something may happen without time going on before it counts as an endless loop.
const MOST_AT_ONCE: usize = 200_000;

/// A speaker of the network, by number.
pub(crate) type Id = usize;

/// The way between two speakers; the same in both directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// One way.
    pub(crate) delay: Duration,
    /// Up to so much more, differently each time.
    pub(crate) jitter: Duration,
    /// Probability that something sent is lost and must be sent again.
    pub(crate) loss: f64,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
        }
    }
}

/// A message on its way, as a listener on the wire sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    /// Time since the network began.
    pub(crate) at: Duration,
    pub(crate) from: Id,
    pub(crate) to: Id,
    pub(crate) message: Message,
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) random: Random,
    pub(crate) speakers: Vec<Speaker>,
    links: BTreeMap<(Id, Id), Wire>,
    tcps: Vec<Tcp>,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    /// Everything ever sent.
    pub(crate) sent: Vec<Sent>,
}

/// One engine and what a daemon would hold for it.
pub(crate) struct Speaker {
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// Connections are refused otherwise.
    pub(crate) listening: bool,
    /// Received bytes are left in the socket otherwise.
    pub(crate) reading: bool,
    /// What its kernel would forward.
    pub(crate) fib: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Of each prefix, what its kernel keeps ready.
    pub(crate) backups: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Next hops that its kernel's side was told to be down, in order.
    pub(crate) down: Vec<IpAddr>,
    /// What its last process left in the kernel, until it is swept: when nothing is deferred.
    pub(crate) adopted: BTreeMap<Prefix, Vec<IpAddr>>,
    /// How often it tried to connect.
    pub(crate) attempts: usize,
    ends: BTreeMap<ConnId, (usize, usize)>,
    sendable: BTreeSet<ConnId>,
    tracked: BTreeSet<IpAddr>,
}

struct Wire {
    link: Link,
    cut: bool,
    /// What arrived while it was cut.
    held: Vec<Event>,
}

struct Tcp {
    ends: [End; 2],
    streams: [Stream; 2],
}

/// One end of a connection; the first is the one that connects.
struct End {
    speaker: Id,
    conn: ConnId,
    state: EndState,
    /// Arrived, and left over from messages that are not whole yet.
    inbox: BytesMut,
    /// Bytes of it that the engine has not seen.
    fresh: usize,
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndState {
    Opening,
    Open,
    Closed,
}

/// From the end of the same number to the other.
struct Stream {
    unread: usize,
    last_arrival: Instant,
    tap: BytesMut,
}

#[derive(Clone, Debug)]
struct Event {
    tcp: usize,
    /// The end it happens to.
    end: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// The first end wishes to connect; happens to the second.
    Syn,
    /// The second end's answer.
    SynAck,
    /// The second end's other answer.
    Refused,
    /// The connection stands for the second end too.
    Ack,
    Data(Bytes),
    Fin,
    Reset,
}

/// A small generator of our own, so that a run depends on its seed and on nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    fn chance(&mut self, probability: f64) -> bool {
        (self.below(1 << 20) as f64) < probability * f64::from(1 << 20)
    }

    fn up_to(&mut self, time: Duration) -> Duration {
        time / 1024 * u32::try_from(self.below(1024)).unwrap()
    }
}

/// How a kernel reaches a neighbour.
fn connected() -> NextHopState {
    NextHopState {
        metric: 0,
        via: None,
        interface: "eth0".into(),
    }
}

impl Net {
    pub(crate) fn new(seed: u64) -> Net {
        let now = Instant::now();
        Net {
            now,
            start: now,
            random: Random::new(seed),
            speakers: Vec::new(),
            links: BTreeMap::new(),
            tcps: Vec::new(),
            events: BTreeMap::new(),
            sequence: 0,
            sent: Vec::new(),
        }
    }

    /// Adds a speaker that has not been told its configuration yet.
    pub(crate) fn add(&mut self, config: Config, v4: Ipv4Addr, v6: Ipv6Addr) -> Id {
        let seed = self.random.below(usize::MAX) as u64;
        self.speakers.push(Speaker {
            engine: Engine::new(seed),
            config,
            v4,
            v6,
            listening: true,
            reading: true,
            fib: BTreeMap::new(),
            backups: BTreeMap::new(),
            down: Vec::new(),
            adopted: BTreeMap::new(),
            attempts: 0,
            ends: BTreeMap::new(),
            sendable: BTreeSet::new(),
            tracked: BTreeSet::new(),
        });
        self.speakers.len() - 1
    }

    pub(crate) fn link(&mut self, a: Id, b: Id, link: Link) {
        let wire = Wire {
            link,
            cut: false,
            held: Vec::new(),
        };
        self.links.insert((a.min(b), a.max(b)), wire);
    }

    /// Time since the network began.
    pub(crate) fn time(&self) -> Duration {
        self.now - self.start
    }

    /// Nothing passes any more; TCP stays up.
    pub(crate) fn cut(&mut self, a: Id, b: Id) {
        self.wire(a, b).cut = true;
    }

    /// Everything held back passes now.
    pub(crate) fn mend(&mut self, a: Id, b: Id) {
        let delay = self.wire(a, b).link.delay;
        self.wire(a, b).cut = false;
        for event in std::mem::take(&mut self.wire(a, b).held) {
            self.schedule(self.now + delay, event);
        }
    }

    /// Both ends of every connection between the two see a reset.
    pub(crate) fn reset_connections(&mut self, a: Id, b: Id) {
        for tcp in 0..self.tcps.len() {
            let ends = [0, 1].map(|end| self.tcps[tcp].ends[end].speaker);
            if ends == [a, b] || ends == [b, a] {
                for end in [0, 1] {
                    let what = What::Reset;
                    self.schedule(self.now, Event { tcp, end, what });
                }
            }
        }
    }

    /// Bytes that `from` never meant to send arrive at `to` among those that it did.
    pub(crate) fn inject(&mut self, from: Id, to: Id, bytes: &[u8]) {
        for tcp in 0..self.tcps.len() {
            for end in [0, 1] {
                let [here, there] = [end, 1 - end].map(|end| &self.tcps[tcp].ends[end]);
                let open = here.state == EndState::Open && there.state == EndState::Open;
                if open && (here.speaker, there.speaker) == (from, to) {
                    self.send_on(tcp, end, What::Data(Bytes::copy_from_slice(bytes)));
                }
            }
        }
    }

    /// The process ends without a word and another one starts in its place, with the same
    /// configuration; the kernel it left behind resets its connections.
    pub(crate) fn restart(&mut self, id: Id) {
        self.kill(id);
        self.speakers[id].fib.clear();
        self.start_again(id, None);
    }

    /// The process ends without a word; its kernel resets its connections, and forwards on.
    pub(crate) fn kill(&mut self, id: Id) {
        for (tcp, end) in self.vanish(id) {
            self.send_on(tcp, end, What::Reset);
        }
    }

    /// The whole machine ends without a word, not even a reset. Its connections.
    pub(crate) fn vanish(&mut self, id: Id) -> Vec<(usize, usize)> {
        let seed = self.random.below(usize::MAX) as u64;
        let speaker = &mut self.speakers[id];
        speaker.engine = Engine::new(seed);
        speaker.listening = false;
        speaker.tracked.clear();
        speaker.sendable.clear();
        let ends: Vec<_> = std::mem::take(&mut speaker.ends).into_values().collect();
        for (tcp, end) in &ends {
            self.tcps[*tcp].ends[*end].state = EndState::Closed;
        }
        ends
    }

    /// Another process starts in the place of one that ended; `restart` is what it finds of it.
    pub(crate) fn start_again(&mut self, id: Id, restart: Option<Restart>) {
        let speaker = &mut self.speakers[id];
        speaker.listening = true;
        if let Some(restart) = restart {
            speaker.adopted = std::mem::take(&mut speaker.fib);
            speaker.engine.restarted(restart);
        }
        self.configure(id, |_| {});
    }

    /// Whether a speaker's kernel has a route to this prefix.
    pub(crate) fn forwards(&self, id: Id, prefix: Prefix) -> bool {
        let speaker = &self.speakers[id];
        speaker.fib.contains_key(&prefix) || speaker.adopted.contains_key(&prefix)
    }

    /// Changes a speaker's configuration and puts it in force.
    pub(crate) fn configure(&mut self, id: Id, change: impl FnOnce(&mut Config)) {
        let speaker = &mut self.speakers[id];
        change(&mut speaker.config);
        let config = speaker.config.clone();
        speaker.engine.configure(self.now, config).unwrap();
        self.flush(id);
    }

    /// Something that a daemon would do with the engine.
    pub(crate) fn with<T>(&mut self, id: Id, act: impl FnOnce(&mut Engine, Instant) -> T) -> T {
        let result = act(&mut self.speakers[id].engine, self.now);
        self.flush(id);
        result
    }

    /// The kernel of a speaker has a route to this next hop, or none any more.
    pub(crate) fn set_next_hop(&mut self, id: Id, address: IpAddr, reachable: bool) {
        if self.speakers[id].tracked.contains(&address) {
            let state = reachable.then(connected);
            let input = Input::NextHop { address, state };
            self.with(id, |engine, now| engine.handle(now, input));
        }
    }

    /// A speaker begins, or stops, to take received bytes from its sockets.
    pub(crate) fn set_reading(&mut self, id: Id, reading: bool) {
        self.speakers[id].reading = reading;
        let ends: Vec<_> = self.speakers[id].ends.values().copied().collect();
        for (tcp, end) in ends {
            self.read(tcp, end);
        }
    }

    /// Lets time pass, and everything happen that happens in it.
    pub(crate) fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut at_once = 0;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            at_once = if next > self.now { 0 } else { at_once + 1 };
            assert!(at_once < MOST_AT_ONCE, "an endless loop: time stands still");
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }
}

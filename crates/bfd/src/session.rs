//! One session. RFC 5880 §6.
//!
//! The [engine](crate::engine) finds the session a packet belongs to and calls [`Session::receive`],
//! calls [`Session::handle_timeout`] when [`Session::deadline`] is reached, and sends
//! [`Session::transmit`] while that gives something. Variables of RFC 5880 §6.8.1 stand beside the
//! fields that hold them.

use std::time::{Duration, Instant};

use crate::echo::Echo;
use crate::engine::{Discard, SessionConfig};
use crate::memory::Memory;
use crate::packet::{AuthSection, Diagnostic, Packet, State, Wire};

/// A session that is not Up sends no faster, in microseconds. RFC 5880 §6.8.3.
const SLOW: u32 = 1_000_000;

/// Packets of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent.
    pub sent: u64,
    /// Received and accepted.
    pub received: u64,
    /// Received and refused.
    pub discarded: u64,
    /// How often the session came Up.
    pub ups: u64,
    /// How often it left Up, whatever the reason.
    pub downs: u64,
    /// Received while Up after more than half of the detection time: the path, the other side or this
    /// host is near to a false alarm.
    pub late_received: u64,
    /// Sent more than a quarter of the interval after they were due: this host is busy.
    pub late_sent: u64,
    /// The longest silence since the present detection time was agreed on, in microseconds.
    pub longest_silence: u64,
}

/// What the other side said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// bfd.RemoteDiscr; 0: not known.
    pub(crate) discriminator: u32,
    /// bfd.RemoteSessionState.
    pub(crate) state: State,
    /// Desired Min TX Interval, microseconds.
    pub(crate) min_tx: u32,
    /// bfd.RemoteMinRxInterval, microseconds; 0: it wants no periodic packets.
    pub(crate) min_rx: u32,
    pub(crate) detect_mult: u8,
    /// bfd.RemoteDemandMode.
    pub(crate) demand: bool,
    /// How often it loops Echo packets back at most, microseconds; 0: not at all.
    pub(crate) min_echo_rx: u32,
    /// Its C bit.
    pub(crate) control_plane_independent: bool,
    /// Its diagnostic.
    pub(crate) diagnostic: Diagnostic,
}

impl Remote {
    /// Nothing is known of it. RFC 5880 §6.8.1.
    const UNKNOWN: Remote = Remote {
        discriminator: 0,
        state: State::Down,
        min_tx: 0,
        min_rx: 1,
        detect_mult: 1,
        demand: false,
        min_echo_rx: 0,
        control_plane_independent: false,
        diagnostic: Diagnostic::NONE,
    };
}

/// A Poll Sequence. RFC 5880 §6.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    /// P is set until F comes; `again`: something changed since, so another one has to follow.
    Active {
        again: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) config: SessionConfig,
    /// bfd.LocalDiscr.
    pub(crate) discriminator: u32,
    /// bfd.SessionState.
    pub(crate) state: State,
    pub(crate) since: Instant,
    /// bfd.LocalDiag.
    pub(crate) diagnostic: Diagnostic,
    pub(crate) remote: Remote,
    pub(crate) counts: Counts,
    pub(crate) last_discard: Option<Discard>,
    /// While it is being taken away: until when it says so.
    pub(crate) leaves_at: Option<Instant>,
    /// Whether the engine has it in its queue of sessions with something to send.
    pub(crate) queued: bool,
    /// Whether it is in the queue of those to be remembered.
    pub(crate) touched: bool,
    /// C bit of what we send.
    independent: bool,
    /// bfd.DesiredMinTxInterval as we tell it, and as we go by until a Poll Sequence ends.
    desired_min_tx: u32,
    tx_in_use: u32,
    /// bfd.RequiredMinRxInterval, likewise.
    required_min_rx: u32,
    rx_in_use: u32,
    poll: Poll,
    /// Between periodic packets, before jitter, in microseconds; `None`: none are sent.
    interval: Option<u32>,
    last_tx: Instant,
    next_tx: Option<Instant>,
    last_rx: Option<Instant>,
    /// The detection time when it was heard last.
    judged_by: Duration,
    detect_at: Option<Instant>,
    pub(crate) echo: Echo,
    /// A packet is to be sent now; an answer to a P is.
    send_due: bool,
    final_due: bool,
    /// bfd.XmitAuthSeq.
    sent_sequence: u32,
    /// bfd.RcvAuthSeq; `None`: bfd.AuthSeqKnown is 0.
    received_sequence: Option<u32>,
    random: u64,
}

impl Session {
    /// In Down (or AdminDown), and ready to send its first packet.
    pub(crate) fn new(
        now: Instant,
        config: SessionConfig,
        discriminator: u32,
        independent: bool,
        seed: u64,
    ) -> Session {
        let mut session = Session {
            discriminator,
            state: State::Down,
            since: now,
            diagnostic: Diagnostic::NONE,
            remote: Remote::UNKNOWN,
            counts: Counts::default(),
            last_discard: None,
            leaves_at: None,
            queued: false,
            touched: false,
            independent,
            desired_min_tx: SLOW.max(config.min_tx_micros()),
            tx_in_use: SLOW.max(config.min_tx_micros()),
            required_min_rx: config.min_rx_micros(),
            rx_in_use: config.min_rx_micros(),
            poll: Poll::Idle,
            interval: None,
            last_tx: now,
            next_tx: None,
            last_rx: None,
            judged_by: Duration::ZERO,
            detect_at: None,
            echo: Echo::default(),
            send_due: true,
            final_due: false,
            sent_sequence: seed as u32,
            received_sequence: None,
            random: seed,
            config,
        };
        if session.config.admin_down {
            session.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
        }
        session.pace(now);
        session
    }

    /// As [`Self::new`], in the place of a process that had this session before. If that one was
    /// heard so lately that the other side cannot have missed it, the session goes on in Up; else
    /// it begins anew, but with its name and sequence numbers: those the other side may remember.
    pub(crate) fn recalled(
        now: Instant,
        config: SessionConfig,
        memory: &Memory,
        independent: bool,
        seed: u64,
    ) -> Session {
        let mut session = Session::new(now, config, memory.discriminator, independent, seed);
        session.counts = memory.counts;
        // The last packet may have gone out without being remembered.
        session.sent_sequence = memory.sent_sequence.wrapping_add(1);
        let noticed = memory.noticed_at() <= now;
        if noticed || memory.state != State::Up || session.state == State::AdminDown {
            return session;
        }
        session.state = State::Up;
        session.since = memory.since;
        session.diagnostic = memory.diagnostic;
        session.remote = memory.remote;
        session.desired_min_tx = memory.desired_min_tx;
        session.required_min_rx = memory.required_min_rx;
        session.tx_in_use = memory.tx_in_use;
        session.rx_in_use = memory.rx_in_use;
        if memory.polling {
            session.poll = Poll::Active { again: false };
        }
        session.received_sequence = memory.received_sequence;
        // What the other side sent in between nobody could hear: its silence begins now.
        session.last_rx = Some(now);
        session.detect_at = Some(now + session.detection_time());
        session.negotiate();
        session.pace(now);
        session
    }

    /// What the next process has to know; `None` while the session is being taken away.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.leaves_at.is_none().then(|| Memory {
            key: self.config.key_of,
            discriminator: self.discriminator,
            state: self.state,
            diagnostic: self.diagnostic,
            since: self.since,
            remote: self.remote,
            detect_mult: self.config.detect_mult.max(1),
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.required_min_rx,
            tx_in_use: self.tx_in_use,
            rx_in_use: self.rx_in_use,
            polling: self.poll != Poll::Idle,
            sent_sequence: self.sent_sequence,
            received_sequence: self.received_sequence,
            last_tx: self.last_tx,
            last_rx: self.last_rx,
            counts: self.counts,
        })
    }

    /// Puts another configuration of the same session in force, without taking it down.
    pub(crate) fn reconfigure(&mut self, now: Instant, config: SessionConfig) {
        let was_down = self.state == State::AdminDown;
        if config.key != self.config.key {
            self.received_sequence = None;
        }
        let other_mult = config.detect_mult != self.config.detect_mult;
        self.config = config;
        self.leaves_at = None;
        match (self.config.admin_down, was_down) {
            (true, false) => {
                self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
            }
            (false, true) => self.enter(now, State::Down, Diagnostic::NONE),
            _ => self.negotiate(),
        }
        self.send_due |= other_mult; // §6.8.7: tell at once what changed
        self.pace(now);
    }

    /// The session is wanted no more: says so for as long as the other side needs to hear it.
    /// RFC 5880 §6.8.16.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.state != State::AdminDown {
            self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
        }
        let between = micros(SLOW.max(self.remote.min_rx).into());
        self.leaves_at = Some(now + between * u32::from(self.config.detect_mult));
        self.pace(now);
    }

    /// A packet of this session that is well-formed. RFC 5880 §6.8.6, from the authentication on.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        bytes: &[u8],
        packet: &Packet,
        section: Option<AuthSection<'_>>,
    ) -> Result<(), Discard> {
        self.authenticate(now, bytes, packet, section)?;
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            min_tx: packet.desired_min_tx,
            min_rx: packet.required_min_rx,
            detect_mult: packet.detect_mult,
            demand: packet.demand,
            min_echo_rx: packet.required_min_echo_rx,
            control_plane_independent: packet.control_plane_independent,
            diagnostic: packet.diagnostic,
        };
        if packet.final_ {
            self.end_poll();
        }
        if self.state == State::AdminDown {
            self.pace(now);
            return Err(Discard::AdminDown);
        }
        match (self.state, packet.state) {
            (State::Down, State::AdminDown) => {}
            (_, State::AdminDown) | (State::Up, State::Down) => {
                self.enter(now, State::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
            }
            (State::Down, State::Down) => self.enter(now, State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(now, State::Up, Diagnostic::NONE);
            }
            (State::Down | State::Up, State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init)
            | (State::AdminDown, _) => {}
        }
        self.final_due |= packet.poll;
        self.counts.received += 1;
        self.note_silence(now);
        self.last_rx = Some(now);
        self.detect_at = Some(now + self.detection_time());
        self.pace(now);
        Ok(())
    }

    /// How near it was to the detection time, before `last_rx` moves on.
    fn note_silence(&mut self, now: Instant) {
        let detection = self.detection_time();
        let last = self.last_rx.filter(|_| self.state == State::Up);
        let same = std::mem::replace(&mut self.judged_by, detection) == detection;
        let Some(last) = last.filter(|_| same) else {
            self.counts.longest_silence = 0; // it was sent to at another pace
            return;
        };
        let silence = now.saturating_duration_since(last);
        if 2 * silence > detection {
            self.counts.late_received += 1;
        }
        let silence = u64::try_from(silence.as_micros()).unwrap_or(u64::MAX);
        self.counts.longest_silence = self.counts.longest_silence.max(silence);
    }

    /// RFC 5880 §6.7.
    fn authenticate(
        &mut self,
        now: Instant,
        bytes: &[u8],
        packet: &Packet,
        section: Option<AuthSection<'_>>,
    ) -> Result<(), Discard> {
        use crate::auth::AuthFault;
        let (key, section) = match (&self.config.key, section) {
            (None, None) => return Ok(()),
            (Some(key), Some(section)) => (key, section),
            _ => return Err(Discard::Auth(AuthFault::Mode)),
        };
        // bfd.AuthSeqKnown: another life of the other side begins with a number of its own.
        let forgotten = 2 * self.detection_time();
        let heard = self.last_rx.is_some_and(|at| now < at + forgotten);
        let last = self.received_sequence.filter(|_| heard);
        let sequence = key
            .verify(bytes, section, packet.detect_mult, last)
            .map_err(Discard::Auth)?;
        self.received_sequence = Some(sequence);
        Ok(())
    }

    /// What is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            self.remote = Remote::UNKNOWN; // §6.8.1, bfd.RemoteDiscr
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED); // §6.8.4
            }
            self.pace(now);
        }
        if self.echo.has_failed(now) {
            self.enter(now, State::Down, Diagnostic::ECHO_FAILED); // §6.8.5
            self.pace(now);
        }
        let random = splitmix(&mut self.random);
        let mult = self.config.detect_mult;
        let jittered = |interval| jittered(interval, mult, random);
        self.echo.handle_timeout(now, jittered);
        if let Some(due) = self.next_tx.filter(|at| *at <= now) {
            let patience = self.interval.map_or(0, |interval| interval / 4);
            if now.saturating_duration_since(due) > micros(patience.into()) {
                self.counts.late_sent += 1;
            }
            self.send_due = true;
            self.sent_at(now);
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let echo = self.echo.deadline();
        let deadlines = [self.next_tx, self.detect_at, self.leaves_at, echo];
        deadlines.into_iter().flatten().min()
    }

    /// Whether [`Self::transmit`] has something.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.send_due || self.final_due || self.echo.due
    }

    /// The next packet to be sent now.
    pub(crate) fn transmit(&mut self) -> Option<Wire> {
        // P and F are never in one packet, §6.5.
        let final_ = std::mem::take(&mut self.final_due);
        if !final_ && !std::mem::take(&mut self.send_due) {
            return None;
        }
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: !final_ && self.poll != Poll::Idle,
            final_,
            control_plane_independent: self.independent,
            demand: false,
            detect_mult: self.config.detect_mult.max(1),
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.required_min_rx,
            required_min_echo_rx: self.config.echo_rx_micros(),
        };
        self.counts.sent += 1;
        let Some(key) = &self.config.key else {
            return Some(Wire::plain(&packet));
        };
        self.sent_sequence = self.sent_sequence.wrapping_add(1);
        Some(key.sign(&packet, self.sent_sequence))
    }

    /// Between our packets before jitter; `None`: none are sent periodically.
    pub(crate) fn tx_interval(&self) -> Option<Duration> {
        self.interval.map(|interval| micros(interval.into()))
    }

    /// How long silence may last. RFC 5880 §6.8.4.
    pub(crate) fn detection_time(&self) -> Duration {
        let between = self.rx_in_use.max(self.remote.min_tx);
        micros(u64::from(self.remote.detect_mult) * u64::from(between))
    }

    fn enter(&mut self, now: Instant, state: State, diagnostic: Diagnostic) {
        if self.state == State::Up && state != State::Up {
            self.counts.downs += 1;
        }
        self.state = state;
        self.diagnostic = diagnostic;
        self.since = now;
        if state == State::Up {
            self.counts.ups += 1;
        }
        if state == State::AdminDown {
            self.detect_at = None;
        }
        self.send_due = true; // §6.8.7: tell at once what changed
        self.negotiate();
    }

    /// What we tell of our intervals follows the state and the configuration. RFC 5880 §6.8.3.
    fn negotiate(&mut self) {
        let mut min_tx = self.config.min_tx_micros();
        if self.state != State::Up {
            min_tx = min_tx.max(SLOW);
        }
        let min_rx = self.config.min_rx_micros();
        if (min_tx, min_rx) == (self.desired_min_tx, self.required_min_rx) {
            return;
        }
        // Who is Up goes on with what the other side knows, where that is the stricter, until the
        // other side has heard of the change.
        let up = self.state == State::Up;
        if !(up && min_tx > self.tx_in_use) {
            self.tx_in_use = min_tx;
        }
        if !(up && min_rx < self.rx_in_use) {
            self.rx_in_use = min_rx;
        }
        self.desired_min_tx = min_tx;
        self.required_min_rx = min_rx;
        self.poll = match self.poll {
            Poll::Idle => Poll::Active { again: false },
            Poll::Active { .. } => Poll::Active { again: true },
        };
        self.send_due = true;
    }

    fn end_poll(&mut self) {
        match self.poll {
            Poll::Idle => {}
            Poll::Active { again: true } => {
                self.poll = Poll::Active { again: false };
                self.send_due = true;
            }
            Poll::Active { again: false } => {
                self.poll = Poll::Idle;
                self.tx_in_use = self.desired_min_tx;
                self.rx_in_use = self.required_min_rx;
            }
        }
    }

    /// Finds how often packets are to be sent, and moves the next one where that changed.
    /// RFC 5880 §6.8.2, §6.8.7.
    fn pace(&mut self, now: Instant) {
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        let demanded = self.remote.demand && both_up && self.poll == Poll::Idle;
        let echo = self.config.echo_tx_micros().max(self.remote.min_echo_rx);
        let echoed = both_up && self.config.echo_tx_micros() > 0 && self.remote.min_echo_rx > 0;
        self.echo.pace(now, echoed.then_some(echo));
        let silent = self.remote.min_rx == 0 || demanded;
        let interval = (!silent).then_some(self.tx_in_use.max(self.remote.min_rx));
        if interval == self.interval {
            return;
        }
        self.interval = interval;
        self.sent_at(self.last_tx);
        self.next_tx = self.next_tx.map(|at| at.max(now));
    }

    /// A periodic packet goes out at `at`: when does the next one?
    fn sent_at(&mut self, at: Instant) {
        self.last_tx = at;
        let random = splitmix(&mut self.random);
        let mult = self.config.detect_mult;
        let jittered = |interval| at + jittered(interval, mult, random);
        self.next_tx = self.interval.map(jittered);
    }
}

/// 75 to 100 percent, so that sessions do not fall into step; 75 to 90 where a single packet late would
/// be one too many. RFC 5880 §6.8.7.
fn jittered(interval: u32, detect_mult: u8, random: u64) -> Duration {
    let span = if detect_mult == 1 { 15 } else { 25 };
    let interval = u64::from(interval);
    micros(interval * 3 / 4 + random % (interval * span / 100 + 1))
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// Numbers without an evident pattern: enough for jitter, and for names nobody has to guess.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

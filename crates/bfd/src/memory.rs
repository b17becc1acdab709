//! What of a session has to outlive the process that keeps it, so that the next one goes on with it
//! and the other side notices nothing.
//!
//! The caller writes it down whenever [`Output::Remember`](crate::Output::Remember) says so, and
//! gives it to [`Engine::recall`](crate::Engine::recall) in the next process. Keys are not in it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::engine::{Hops, SessionKey};
use crate::packet::{Diagnostic, State};
use crate::session::{Counts, Remote};

/// Octets of a [`Memory`] written down.
pub const LENGTH: usize = 192;

/// One session, as it was at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Which.
    pub key: SessionKey,
    pub(crate) discriminator: u32,
    pub(crate) state: State,
    pub(crate) diagnostic: Diagnostic,
    pub(crate) since: Instant,
    pub(crate) remote: Remote,
    /// Detect Mult, Desired Min TX and Required Min RX Interval as the other side was told last.
    pub(crate) detect_mult: u8,
    pub(crate) desired_min_tx: u32,
    pub(crate) required_min_rx: u32,
    /// The intervals that we went by.
    pub(crate) tx_in_use: u32,
    pub(crate) rx_in_use: u32,
    /// Whether a Poll Sequence ran.
    pub(crate) polling: bool,
    pub(crate) sent_sequence: u32,
    pub(crate) received_sequence: Option<u32>,
    pub(crate) last_tx: Instant,
    pub(crate) last_rx: Option<Instant>,
    pub(crate) counts: Counts,
}

impl Memory {
    /// When the other side takes the session for dead if it hears nothing from us. RFC 5880 §6.8.4.
    pub fn noticed_at(&self) -> Instant {
        let between = self.desired_min_tx.max(self.remote.min_rx);
        let micros = u64::from(self.detect_mult) * u64::from(between);
        self.last_tx + Duration::from_micros(micros)
    }

    /// When its last periodic packet was sent.
    pub fn last_sent(&self) -> Instant {
        self.last_tx
    }

    /// Its octets. `nanos` says when an instant is, in nanoseconds on a clock that the next process
    /// has too.
    pub fn encode(&self, nanos: impl Fn(Instant) -> u64) -> [u8; LENGTH] {
        let mut to = Writer {
            bytes: [0; LENGTH],
            at: 0,
        };
        to.address(Some(self.key.remote));
        to.address(self.key.local);
        to.put([u8::from(self.key.hops == Hops::Multi)]);
        to.put([self.state as u8, self.diagnostic.0]);
        to.put(self.discriminator.to_be_bytes());
        to.put(nanos(self.since).to_be_bytes());
        let remote = &self.remote;
        to.put([remote.state as u8, remote.diagnostic.0, remote.detect_mult]);
        to.put([remote.demand, remote.control_plane_independent].map(u8::from));
        for word in [
            remote.discriminator,
            remote.min_tx,
            remote.min_rx,
            remote.min_echo_rx,
        ] {
            to.put(word.to_be_bytes());
        }
        to.put([self.detect_mult, self.polling.into()]);
        for word in [
            self.desired_min_tx,
            self.required_min_rx,
            self.tx_in_use,
            self.rx_in_use,
            self.sent_sequence,
            self.received_sequence.unwrap_or(0),
        ] {
            to.put(word.to_be_bytes());
        }
        to.put([self.received_sequence.is_some().into()]);
        to.put(nanos(self.last_tx).to_be_bytes());
        to.put(self.last_rx.map_or(0, nanos).to_be_bytes());
        to.put([self.last_rx.is_some().into()]);
        let counts = &self.counts;
        for count in [
            counts.sent,
            counts.received,
            counts.discarded,
            counts.ups,
            counts.downs,
            counts.late_received,
            counts.late_sent,
            counts.longest_silence,
        ] {
            to.put(count.to_be_bytes());
        }
        to.bytes
    }

    /// What [`Self::encode`] wrote. `at` is the other way round; `None`: this clock cannot say.
    pub fn decode(bytes: &[u8; LENGTH], at: impl Fn(u64) -> Option<Instant>) -> Option<Memory> {
        let mut from = Reader { bytes, at: 0 };
        let key = SessionKey {
            remote: from.address()??,
            local: from.address()?,
            hops: match from.flag()? {
                true => Hops::Multi,
                false => Hops::Single,
            },
        };
        let state = State::of(from.octet()?);
        let diagnostic = Diagnostic(from.octet()?);
        let discriminator = from.word()?;
        let since = at(from.long()?)?;
        let (remote_state, remote_diagnostic) = (State::of(from.octet()?), from.octet()?);
        let remote = Remote {
            state: remote_state,
            diagnostic: Diagnostic(remote_diagnostic),
            detect_mult: from.octet()?,
            demand: from.flag()?,
            control_plane_independent: from.flag()?,
            discriminator: from.word()?,
            min_tx: from.word()?,
            min_rx: from.word()?,
            min_echo_rx: from.word()?,
        };
        let (detect_mult, polling) = (from.octet()?, from.flag()?);
        let (desired_min_tx, required_min_rx) = (from.word()?, from.word()?);
        let (tx_in_use, rx_in_use) = (from.word()?, from.word()?);
        let (sent_sequence, received) = (from.word()?, from.word()?);
        let received_sequence = from.flag()?.then_some(received);
        let (last_tx, last_rx) = (at(from.long()?)?, from.long()?);
        let last_rx = match from.flag()? {
            true => Some(at(last_rx)?),
            false => None,
        };
        let counts = Counts {
            sent: from.long()?,
            received: from.long()?,
            discarded: from.long()?,
            ups: from.long()?,
            downs: from.long()?,
            late_received: from.long()?,
            late_sent: from.long()?,
            longest_silence: from.long()?,
        };
        Some(Memory {
            key,
            discriminator,
            state,
            diagnostic,
            since,
            remote,
            detect_mult,
            desired_min_tx,
            required_min_rx,
            tx_in_use,
            rx_in_use,
            polling,
            sent_sequence,
            received_sequence,
            last_tx,
            last_rx,
            counts,
        })
    }
}

struct Writer {
    bytes: [u8; LENGTH],
    at: usize,
}

impl Writer {
    fn put<const N: usize>(&mut self, octets: [u8; N]) {
        // All of a Memory fits: a test fills every field.
        self.bytes[self.at..self.at + N].copy_from_slice(&octets);
        self.at += N;
    }

    /// The family (0: none) and 16 octets.
    fn address(&mut self, address: Option<IpAddr>) {
        let (family, octets) = match address {
            None => (0, [0; 16]),
            Some(IpAddr::V4(address)) => (4, address.to_ipv6_mapped().octets()),
            Some(IpAddr::V6(address)) => (6, address.octets()),
        };
        self.put([family]);
        self.put(octets);
    }
}

struct Reader<'a> {
    bytes: &'a [u8; LENGTH],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let octets = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(octets)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take().map(|[octet]| octet)
    }

    fn flag(&mut self) -> Option<bool> {
        self.octet().map(|octet| octet != 0)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Option<Option<IpAddr>> {
        let family = self.octet()?;
        let address = std::net::Ipv6Addr::from(self.take::<16>()?);
        match family {
            0 => Some(None),
            4 => Some(Some(address.to_ipv4_mapped()?.into())),
            6 => Some(Some(address.into())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_read_again() {
        let base = Instant::now();
        let nanos = |at: Instant| (at - base).as_nanos() as u64;
        let at = |nanos: u64| Some(base + Duration::from_nanos(nanos));
        for (local, hops, last_rx) in [
            (Some("192.0.2.1"), Hops::Single, Some(base)),
            (None, Hops::Multi, None),
        ] {
            let memory = Memory {
                key: SessionKey {
                    remote: "2001:db8::1".parse().unwrap(),
                    local: local.map(|it| it.parse().unwrap()),
                    hops,
                },
                discriminator: 1,
                state: State::Up,
                diagnostic: Diagnostic(3),
                since: base + Duration::from_nanos(2),
                remote: Remote {
                    discriminator: 4,
                    state: State::Init,
                    min_tx: 5,
                    min_rx: 6,
                    min_echo_rx: 24,
                    detect_mult: 7,
                    demand: true,
                    control_plane_independent: false,
                    diagnostic: Diagnostic(8),
                },
                detect_mult: 9,
                desired_min_tx: 10,
                required_min_rx: 11,
                tx_in_use: 12,
                rx_in_use: 13,
                polling: true,
                sent_sequence: 14,
                received_sequence: last_rx.map(|_| 15),
                last_tx: base + Duration::from_nanos(16),
                last_rx,
                counts: Counts {
                    sent: 17,
                    received: 18,
                    discarded: 19,
                    ups: 20,
                    downs: u64::MAX,
                    late_received: 21,
                    late_sent: 22,
                    longest_silence: 23,
                },
            };
            let bytes = memory.encode(nanos);
            assert_eq!(Memory::decode(&bytes, at), Some(memory));
            assert_eq!(Memory::decode(&bytes, |_| None), None);
        }
        assert_eq!(Memory::decode(&[0; LENGTH], at), None, "never written");
    }
}

//! The Echo function: packets of ours that the other side's forwarding plane sends back to us, so that
//! it is tested rather than the program that speaks BFD there. RFC 5880 §6.4, §6.8.5, §6.8.8, §6.8.9.
//!
//! The other side says that it loops such packets; whether its kernel does so is another question
//! (forwarding is off, or it takes our own address for a forgery). So silence means something only
//! after as many packets as may be missed have come back in a row: until then nothing relies on them.

use std::time::{Duration, Instant};

use ring::hmac;

/// Octets of an Echo packet: whose it is, which one it is, and that it is ours.
pub const LENGTH: usize = 4 + 4 + TAG;
const TAG: usize = 16;

/// An Echo packet's octets. What is in them is nobody's business but ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoWire(pub(crate) [u8; LENGTH]);

impl EchoWire {
    /// What is to be sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Tells our Echo packets from those that others made up.
#[derive(Debug)]
pub(crate) struct EchoKey(hmac::Key);

impl EchoKey {
    /// `secret` is as unpredictable as the key.
    pub(crate) fn new(secret: u64) -> EchoKey {
        EchoKey(hmac::Key::new(hmac::HMAC_SHA256, &secret.to_be_bytes()))
    }

    pub(crate) fn write(&self, discriminator: u32, number: u32) -> EchoWire {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&discriminator.to_be_bytes());
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        let tag = hmac::sign(&self.0, &bytes[..8]);
        bytes[8..].copy_from_slice(&tag.as_ref()[..TAG]);
        EchoWire(bytes)
    }

    /// The session's discriminator and the packet's number, if we wrote it.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<(u32, u32)> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| {
            bytes[at..at + 4]
                .iter()
                .fold(0, |w, b| w << 8 | u32::from(*b))
        };
        let (discriminator, number) = (word(0), word(4));
        (self.write(discriminator, number).0 == *bytes).then_some((discriminator, number))
    }
}

/// The Echo function of a session as a person is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoStatus {
    /// Between our Echo packets before jitter; `None`: none are sent now.
    pub interval: Option<Duration>,
    /// Whether the other side says that it loops them.
    pub looped: bool,
    /// Whether silence takes the session down: enough have come back.
    pub relied_on: bool,
    /// Sent since they are sent.
    pub sent: u64,
    /// Come back.
    pub returned: u64,
}

/// One session's Echo packets.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// Microseconds between packets before jitter, while they are sent.
    pub(crate) interval: Option<u32>,
    /// When the next one is due.
    next_tx: Option<Instant>,
    /// One is to be sent now.
    pub(crate) due: bool,
    /// The number of the last one sent, and of the last that came back.
    number: u32,
    back: u32,
    /// How many came back without one missing.
    in_row: u32,
    /// When silence has lasted too long.
    detect_at: Option<Instant>,
    pub(crate) sent: u64,
    pub(crate) returned: u64,
}

impl Echo {
    /// Begins, ends, or goes on at another pace.
    pub(crate) fn pace(&mut self, now: Instant, interval: Option<u32>) {
        if interval == self.interval {
            return;
        }
        let number = self.number; // those on their way stay known
        *self = Echo {
            interval,
            next_tx: interval.map(|_| now),
            number,
            back: number,
            ..Echo::default()
        };
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.next_tx, self.detect_at].into_iter().flatten().min()
    }

    /// Whether enough silence has passed for the session to be down.
    pub(crate) fn has_failed(&self, now: Instant) -> bool {
        self.detect_at.is_some_and(|at| at <= now)
    }

    /// A packet becomes due; `jittered` is how long after it the next one does.
    pub(crate) fn handle_timeout(&mut self, now: Instant, jittered: impl FnOnce(u32) -> Duration) {
        if let Some(interval) = self.interval
            && self.next_tx.is_some_and(|at| at <= now)
        {
            self.due = true;
            self.next_tx = Some(now + jittered(interval));
        }
    }

    /// The number of the packet that is to be sent now.
    pub(crate) fn transmit(&mut self) -> Option<u32> {
        if !std::mem::take(&mut self.due) {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        self.sent += 1;
        Some(self.number)
    }

    /// One came back; `false`: it did so before, or belongs to another time.
    pub(crate) fn came_back(&mut self, now: Instant, number: u32, detect_mult: u8) -> bool {
        let Some(interval) = self.interval else {
            return false;
        };
        let ahead = number.wrapping_sub(self.back);
        let sent = self.number.wrapping_sub(self.back);
        if ahead == 0 || ahead > sent {
            return false;
        }
        self.in_row = if ahead == 1 { self.in_row + 1 } else { 1 };
        self.back = number;
        self.returned += 1;
        let mult = u32::from(detect_mult.max(1));
        if self.detect_at.is_some() || self.in_row >= mult {
            let patience = u64::from(interval) * u64::from(mult);
            self.detect_at = Some(now + Duration::from_micros(patience));
        }
        true
    }

    pub(crate) fn status(&self, looped: bool) -> EchoStatus {
        EchoStatus {
            interval: self.interval.map(|it| Duration::from_micros(it.into())),
            looped,
            relied_on: self.detect_at.is_some(),
            sent: self.sent,
            returned: self.returned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_our_own_packets_are_read_again() {
        let ours = EchoKey::new(1);
        let wire = ours.write(7, 9);
        assert_eq!(ours.read(wire.as_bytes()), Some((7, 9)));
        assert_eq!(EchoKey::new(2).read(wire.as_bytes()), None);
        for at in 0..LENGTH {
            let mut bytes = wire.0;
            bytes[at] ^= 1;
            assert_eq!(ours.read(&bytes), None, "octet {at}");
        }
        assert_eq!(ours.read(&wire.0[1..]), None);
    }

    #[test]
    fn silence_counts_only_after_enough_have_come_back_in_a_row() {
        let start = Instant::now();
        let mut echo = Echo::default();
        echo.pace(start, Some(50_000));
        let mut now = start;
        let mut send = |echo: &mut Echo| {
            now += 50 * MS;
            echo.handle_timeout(now, |interval| Duration::from_micros(interval.into()));
            (now, echo.transmit().unwrap())
        };
        let come_back = |echo: &mut Echo, (at, number): (Instant, u32)| {
            assert!(echo.came_back(at + MS, number, 3));
            assert!(!echo.came_back(at + MS, number, 3), "the same once more");
        };
        for _ in 0..2 {
            let packet = send(&mut echo);
            come_back(&mut echo, packet);
        }
        let lost = send(&mut echo);
        for _ in 0..2 {
            let packet = send(&mut echo);
            come_back(&mut echo, packet);
        }
        assert!(!echo.status(true).relied_on);
        assert!(!echo.came_back(lost.0 + 99 * MS, lost.1, 3), "too late");
        let packet = send(&mut echo);
        come_back(&mut echo, packet);
        assert!(echo.status(true).relied_on);
        let heard = packet.0 + MS;
        assert!(!echo.has_failed(heard + 149 * MS));
        assert!(echo.has_failed(heard + 150 * MS));
        // At another pace it has to prove itself again.
        echo.pace(heard, Some(60_000));
        assert!(!echo.has_failed(heard + 1000 * MS));
        echo.pace(heard, None);
        assert_eq!((echo.deadline(), echo.transmit()), (None, None));
        assert!(!echo.came_back(heard, packet.1, 3));
    }
}

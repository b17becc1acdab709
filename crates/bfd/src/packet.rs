//! The Control packet. RFC 5880 §4.

use std::fmt;

/// Octets of a packet without authentication.
pub const PLAIN: usize = 24;
/// Octets of a packet with either kind of SHA-1 authentication.
pub const SIGNED: usize = PLAIN + 28;

/// A session's state. RFC 5880 §4.1, §6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Taken down by a person: says nothing about the path.
    AdminDown = 0,
    /// Nothing is heard of the other side, or it is only beginning.
    Down = 1,
    /// The other side is heard, but does not hear us yet as far as we know.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

impl State {
    /// As RFC 5880 writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::AdminDown => "AdminDown",
            State::Down => "Down",
            State::Init => "Init",
            State::Up => "Up",
        }
    }

    pub(crate) fn of(bits: u8) -> State {
        match bits & 3 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a session left Up. Values that no RFC names are kept as they are. RFC 5880 §4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No Diagnostic.
    pub const NONE: Diagnostic = Diagnostic(0);
    /// Control Detection Time Expired.
    pub const DETECTION_TIME_EXPIRED: Diagnostic = Diagnostic(1);
    /// Echo Function Failed.
    pub const ECHO_FAILED: Diagnostic = Diagnostic(2);
    /// Neighbor Signaled Session Down.
    pub const NEIGHBOR_SIGNALED_DOWN: Diagnostic = Diagnostic(3);
    /// Administratively Down.
    pub const ADMINISTRATIVELY_DOWN: Diagnostic = Diagnostic(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "nothing was heard for the detection time",
            2 => "the echo function failed",
            3 => "the other side signalled the session down",
            4 => "the forwarding plane was reset",
            5 => "the path is down",
            6 => "a concatenated path is down",
            7 => "administratively down",
            8 => "a reverse concatenated path is down",
            9 => "misconnectivity defect", // RFC 6428
            code => return write!(f, "diagnostic code {code}"),
        })
    }
}

/// The fields every Control packet has. Intervals are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: the sender wants an answer with F.
    pub poll: bool,
    /// F: the answer to a P.
    pub final_: bool,
    /// C: the sender's BFD does not share fate with its control plane.
    pub control_plane_independent: bool,
    /// D: the sender wants no periodic packets while both are Up.
    pub demand: bool,
    /// Packets that may be missed before the session is down; at least 1.
    pub detect_mult: u8,
    /// The sender's name for the session; not 0.
    pub my_discriminator: u32,
    /// The receiver's name for the session as the sender knows it; 0: not known.
    pub your_discriminator: u32,
    /// The sender would like to send no faster.
    pub desired_min_tx: u32,
    /// The sender can receive no faster; 0: it wants no periodic packets at all.
    pub required_min_rx: u32,
    /// The sender can loop Echo packets back no faster; 0: not at all.
    pub required_min_echo_rx: u32,
}

/// The Authentication Section as it lies in a received packet. RFC 5880 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthSection<'a> {
    /// Auth Type.
    pub kind: u8,
    /// What follows Auth Type and Auth Len.
    pub data: &'a [u8],
}

/// Why octets are no Control packet. RFC 5880 §6.8.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Version is not 1.
    #[error("version {0}; allowed: 1")]
    Version(u8),
    /// Fewer octets than the header has, or than Length says, or Length is too small.
    #[error("the length does not fit")]
    Length,
    /// Detect Mult is zero.
    #[error("Detect Mult is zero")]
    DetectMult,
    /// The Multipoint bit is set.
    #[error("the Multipoint bit is set")]
    Multipoint,
    /// My Discriminator is zero.
    #[error("My Discriminator is zero")]
    MyDiscriminator,
    /// P and F are both set.
    #[error("Poll and Final are both set")]
    PollAndFinal,
}

impl Packet {
    /// Reads a packet and its Authentication Section, if it has one. Octets after the packet's own
    /// Length are not looked at.
    ///
    /// # Errors
    ///
    /// [`Malformed`]: the packet is to be discarded.
    ///
    /// RFC 5880 §4.1, §6.8.6.
    pub fn decode(bytes: &[u8]) -> Result<(Packet, Option<AuthSection<'_>>), Malformed> {
        let head = bytes.first_chunk::<PLAIN>().ok_or(Malformed::Length)?;
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let version = head[0] >> 5;
        if version != 1 {
            return Err(Malformed::Version(version));
        }
        let bit = |mask: u8| head[1] & mask != 0;
        let (authenticated, multipoint) = (bit(0x04), bit(0x01));
        let shortest = if authenticated { PLAIN + 2 } else { PLAIN };
        let length = usize::from(head[3]);
        if length < shortest || length > bytes.len() {
            return Err(Malformed::Length);
        }
        let packet = Packet {
            diagnostic: Diagnostic(head[0] & 0x1f),
            state: State::of(head[1] >> 6),
            poll: bit(0x20),
            final_: bit(0x10),
            control_plane_independent: bit(0x08),
            demand: bit(0x02),
            detect_mult: head[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx: word(12),
            required_min_rx: word(16),
            required_min_echo_rx: word(20),
        };
        if packet.detect_mult == 0 {
            return Err(Malformed::DetectMult);
        }
        if multipoint {
            return Err(Malformed::Multipoint);
        }
        if packet.my_discriminator == 0 {
            return Err(Malformed::MyDiscriminator);
        }
        if packet.poll && packet.final_ {
            return Err(Malformed::PollAndFinal); // §6.5
        }
        let section = match authenticated {
            false => None,
            true => {
                let section = &bytes[PLAIN..length];
                // Auth Len counts Auth Type and itself.
                if usize::from(section[1]) != section.len() {
                    return Err(Malformed::Length);
                }
                Some(AuthSection {
                    kind: section[0],
                    data: &section[2..],
                })
            }
        };
        Ok((packet, section))
    }

    /// The header; `length` is the whole packet's. `authenticated` sets the A bit.
    pub(crate) fn encode(&self, length: usize, authenticated: bool, out: &mut [u8; SIGNED]) {
        let bit = |on: bool, mask: u8| if on { mask } else { 0 };
        out[0] = 1 << 5 | self.diagnostic.0 & 0x1f;
        out[1] = (self.state as u8) << 6
            | bit(self.poll, 0x20)
            | bit(self.final_, 0x10)
            | bit(self.control_plane_independent, 0x08)
            | bit(authenticated, 0x04)
            | bit(self.demand, 0x02);
        out[2] = self.detect_mult;
        out[3] = length as u8; // at most SIGNED
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (to, word) in out[4..PLAIN].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// A packet's octets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    pub(crate) bytes: [u8; SIGNED],
    pub(crate) length: usize,
}

impl Wire {
    /// A packet without authentication.
    pub fn plain(packet: &Packet) -> Wire {
        let mut bytes = [0; SIGNED];
        packet.encode(PLAIN, false, &mut bytes);
        Wire {
            bytes,
            length: PLAIN,
        }
    }

    /// What is to be sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({:02x?})", self.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
            state: State::Up,
            poll: true,
            final_: false,
            control_plane_independent: true,
            demand: false,
            detect_mult: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0x0506_0708,
            desired_min_tx: 300_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    #[test]
    fn the_fields_lie_where_the_rfc_has_them() {
        let expected = [
            0x21, 0xe8, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 4, 0x93, 0xe0, 0, 0, 0xc3, 0x50, 0, 0, 0,
            0,
        ];
        assert_eq!(Wire::plain(&packet()).as_bytes(), expected);
    }

    #[test]
    fn what_the_rfc_tells_to_discard_is_malformed() {
        let good = *Wire::plain(&packet())
            .as_bytes()
            .first_chunk::<PLAIN>()
            .unwrap();
        let with = |at: usize, octet: u8| {
            let mut bytes = good;
            bytes[at] = octet;
            Packet::decode(&bytes).map(|_| ())
        };
        assert_eq!(Packet::decode(&good), Ok((packet(), None)));
        assert_eq!(with(0, 0x01), Err(Malformed::Version(0)));
        assert_eq!(with(0, 0x41), Err(Malformed::Version(2)));
        assert_eq!(with(2, 0), Err(Malformed::DetectMult));
        assert_eq!(with(3, 23), Err(Malformed::Length), "shorter than a header");
        assert_eq!(with(3, 25), Err(Malformed::Length), "longer than what came");
        assert_eq!(with(1, 0xe9), Err(Malformed::Multipoint));
        assert_eq!(with(1, 0xf8), Err(Malformed::PollAndFinal));
        assert_eq!(with(1, 0xec), Err(Malformed::Length), "A without a section");
        assert_eq!(Packet::decode(&good[..23]), Err(Malformed::Length));
        let mut nameless = good;
        nameless[4..8].fill(0);
        assert_eq!(Packet::decode(&nameless), Err(Malformed::MyDiscriminator));
    }

    #[test]
    fn a_section_whose_length_is_not_the_rest_is_malformed() {
        let mut bytes = [0; SIGNED];
        packet().encode(SIGNED, true, &mut bytes);
        bytes[PLAIN] = 4;
        for length in [0, 1, 2, 27, 29, 255] {
            bytes[PLAIN + 1] = length;
            assert_eq!(Packet::decode(&bytes), Err(Malformed::Length), "{length}");
        }
        bytes[PLAIN + 1] = 28;
        let (_, section) = Packet::decode(&bytes).unwrap();
        assert_eq!(section.unwrap().data.len(), 26);
    }

    proptest! {
        #[test]
        fn any_octets_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Packet::decode(&bytes);
        }

        #[test]
        fn decoded_is_what_was_encoded(
            diagnostic in 0u8..32, state in 0u8..4, bits in any::<[bool; 4]>(), mult in 1u8..,
            mine in 1u32.., words in any::<[u32; 4]>(),
        ) {
            let packet = Packet {
                diagnostic: Diagnostic(diagnostic),
                state: State::of(state),
                poll: bits[0] && !bits[1],
                final_: bits[1],
                control_plane_independent: bits[2],
                demand: bits[3],
                detect_mult: mult,
                my_discriminator: mine,
                your_discriminator: words[0],
                desired_min_tx: words[1],
                required_min_rx: words[2],
                required_min_echo_rx: words[3],
            };
            let wire = Wire::plain(&packet);
            prop_assert_eq!(Packet::decode(wire.as_bytes()), Ok((packet, None)));
        }
    }
}

//! Keyed SHA1 and Meticulous Keyed SHA1. RFC 5880 §4.4, §6.7.4.

use std::fmt;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::packet::{AuthSection, PLAIN, Packet, SIGNED, Wire};

/// Octets of a SHA-1 digest, and the longest key.
const DIGEST: usize = 20;
/// Where the digest lies in a packet.
const DIGEST_AT: usize = SIGNED - DIGEST;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthKind {
    /// Keyed SHA1: a packet may be repeated by somebody for a while.
    KeyedSha1 = 4,
    /// Meticulous Keyed SHA1: every packet has a number of its own.
    MeticulousKeyedSha1 = 5,
}

/// A key that both sides have. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    kind: AuthKind,
    id: u8,
    /// Padded with zeros.
    secret: [u8; DIGEST],
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key has {0} octets; allowed: 1 to 20")]
pub struct KeyLength(pub usize);

/// What is wrong with a packet's authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthFault {
    /// The packet has it and the session does not, or the other way round.
    #[error("one side authenticates and the other does not")]
    Mode,
    /// Another kind than the session's.
    #[error("authentication type {0} is not the session's")]
    Kind(u8),
    /// Another key id than the session's.
    #[error("key id {0} is not the session's")]
    KeyId(u8),
    /// The section is not 28 octets long.
    #[error("the authentication section has a wrong length")]
    Length,
    /// The sequence number was used before, or is too far ahead.
    #[error("the sequence number is not the next")]
    Sequence,
    /// The digest is not the packet's.
    #[error("the digest is wrong: another key, or a packet that was changed")]
    Digest,
}

impl Key {
    /// A key of 1 to 20 octets and the number by which both sides call it.
    ///
    /// # Errors
    ///
    /// [`KeyLength`] when it is empty or longer.
    pub fn new(kind: AuthKind, id: u8, secret: &[u8]) -> Result<Key, KeyLength> {
        if secret.is_empty() || secret.len() > DIGEST {
            return Err(KeyLength(secret.len()));
        }
        let mut padded = [0; DIGEST];
        padded[..secret.len()].copy_from_slice(secret);
        Ok(Key {
            kind,
            id,
            secret: padded,
        })
    }

    /// The packet with its Authentication Section.
    pub(crate) fn sign(&self, packet: &Packet, sequence: u32) -> Wire {
        let mut bytes = [0; SIGNED];
        packet.encode(SIGNED, true, &mut bytes);
        bytes[PLAIN] = self.kind as u8;
        bytes[PLAIN + 1] = (SIGNED - PLAIN) as u8;
        bytes[PLAIN + 2] = self.id;
        bytes[PLAIN + 4..DIGEST_AT].copy_from_slice(&sequence.to_be_bytes());
        let digest = self.digest(bytes);
        bytes[DIGEST_AT..].copy_from_slice(&digest);
        Wire {
            bytes,
            length: SIGNED,
        }
    }

    /// The sequence number of a packet that is authentic.
    ///
    /// `last` is the number received last, `None` when there is none to go by.
    pub(crate) fn verify(
        &self,
        bytes: &[u8],
        section: AuthSection<'_>,
        detect_mult: u8,
        last: Option<u32>,
    ) -> Result<u32, AuthFault> {
        if section.kind != self.kind as u8 {
            return Err(AuthFault::Kind(section.kind));
        }
        let Some(data) = section.data.first_chunk::<26>() else {
            return Err(AuthFault::Length);
        };
        if section.data.len() != data.len() {
            return Err(AuthFault::Length);
        }
        if data[0] != self.id {
            return Err(AuthFault::KeyId(data[0]));
        }
        let sequence = u32::from_be_bytes([data[2], data[3], data[4], data[5]]);
        if let Some(last) = last {
            let first = match self.kind {
                AuthKind::KeyedSha1 => 0,
                AuthKind::MeticulousKeyedSha1 => 1,
            };
            let ahead = sequence.wrapping_sub(last);
            if ahead < first || ahead > 3 * u32::from(detect_mult) {
                return Err(AuthFault::Sequence);
            }
        }
        let whole = *bytes.first_chunk::<SIGNED>().ok_or(AuthFault::Length)?;
        let expected = self.digest(whole);
        // Every octet is compared, so that the time taken tells nothing.
        let differs = expected
            .iter()
            .zip(&whole[DIGEST_AT..])
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        match differs {
            0 => Ok(sequence),
            _ => Err(AuthFault::Digest),
        }
    }

    /// Over the packet with the key in the digest's place.
    fn digest(&self, mut bytes: [u8; SIGNED]) -> [u8; DIGEST] {
        bytes[DIGEST_AT..].copy_from_slice(&self.secret);
        let mut out = [0; DIGEST];
        out.copy_from_slice(digest(&SHA1_FOR_LEGACY_USE_ONLY, &bytes).as_ref());
        out
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, id {})", self.kind, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Diagnostic, State};

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state: State::Up,
            poll: false,
            final_: false,
            control_plane_independent: true,
            demand: false,
            detect_mult: 3,
            my_discriminator: 1,
            your_discriminator: 2,
            desired_min_tx: 50_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    fn verify(key: &Key, bytes: &[u8], last: Option<u32>) -> Result<u32, AuthFault> {
        let (packet, section) = Packet::decode(bytes).unwrap();
        key.verify(bytes, section.unwrap(), packet.detect_mult, last)
    }

    #[test]
    fn only_the_same_key_of_the_same_id_and_kind_verifies() {
        let key = |kind, id, secret: &str| Key::new(kind, id, secret.as_bytes()).unwrap();
        let ours = key(AuthKind::KeyedSha1, 7, "secret");
        let wire = ours.sign(&packet(), 100);
        assert_eq!(wire.as_bytes().len(), 52);
        let check = |key: &Key| verify(key, wire.as_bytes(), None);
        assert_eq!(check(&ours), Ok(100));
        let other = key(AuthKind::KeyedSha1, 7, "Secret");
        assert_eq!(check(&other), Err(AuthFault::Digest));
        let other = key(AuthKind::KeyedSha1, 8, "secret");
        assert_eq!(check(&other), Err(AuthFault::KeyId(7)));
        let other = key(AuthKind::MeticulousKeyedSha1, 7, "secret");
        assert_eq!(check(&other), Err(AuthFault::Kind(4)));
    }

    #[test]
    fn any_octet_changed_is_found() {
        let key = Key::new(AuthKind::MeticulousKeyedSha1, 1, &[9; 20]).unwrap();
        let wire = key.sign(&packet(), 5);
        for at in 0..SIGNED {
            let mut bytes = wire.bytes;
            bytes[at] ^= 0x40;
            if let Ok((packet, Some(section))) = Packet::decode(&bytes) {
                let verified = key.verify(&bytes, section, packet.detect_mult, None);
                assert!(verified.is_err(), "octet {at}");
            }
        }
    }

    #[test]
    fn sequence_numbers_go_forwards_and_not_far_also_past_the_end() {
        let accepts = |kind, last: u32, ahead: u32| {
            let key = Key::new(kind, 1, b"k").unwrap();
            let wire = key.sign(&packet(), last.wrapping_add(ahead));
            verify(&key, wire.as_bytes(), Some(last)).is_ok()
        };
        for last in [0, 77, u32::MAX, u32::MAX - 4] {
            assert!(accepts(AuthKind::KeyedSha1, last, 0));
            assert!(!accepts(AuthKind::MeticulousKeyedSha1, last, 0), "a replay");
            for kind in [AuthKind::KeyedSha1, AuthKind::MeticulousKeyedSha1] {
                assert!(accepts(kind, last, 1));
                assert!(accepts(kind, last, 9), "three times Detect Mult");
                assert!(!accepts(kind, last, 10));
                assert!(!accepts(kind, last, u32::MAX), "one back");
            }
        }
    }

    #[test]
    fn a_key_is_never_printed_and_has_1_to_20_octets() {
        let key = Key::new(AuthKind::KeyedSha1, 1, b"hidden").unwrap();
        assert_eq!(format!("{key:?}"), "Key(KeyedSha1, id 1)");
        assert_eq!(
            Key::new(AuthKind::KeyedSha1, 1, b"").err(),
            Some(KeyLength(0))
        );
        assert_eq!(
            Key::new(AuthKind::KeyedSha1, 1, &[0; 21]).err(),
            Some(KeyLength(21))
        );
    }
}

//! Keys for one receiver: X25519 (RFC 7748), HKDF-SHA-256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).
//!
//! The receiver makes a key pair for one answer and shows the public half. Who answers makes a pair of
//! its own; what both halves agree on seals the keys of that answer and is then forgotten by both
//! sides. Who the two are is not said here: that is the connection's business (TLS, tokens).

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SystemRandom;

/// What keys are derived for; another use of the same method derives others.
const PURPOSE: &[u8] = b"routeshare keys of peers 1";

/// Why something cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// This system gives no random numbers.
    #[error("no random numbers for a key")]
    NoRandom,
    /// The other side's half is no public key.
    #[error("the other side's public key is none")]
    BadPublicKey,
    /// It was sealed for somebody else, or changed on its way.
    #[error("sealed for another receiver, or changed on its way")]
    NotForUs,
}

/// Who can open one answer.
pub struct Receiver {
    private: EphemeralPrivateKey,
    public: Vec<u8>,
}

/// Opens what one answer holds.
pub struct Opener(LessSafeKey);

/// Seals what one answer holds.
pub struct Sealer(LessSafeKey);

impl Receiver {
    /// A new one, for one answer.
    ///
    /// # Errors
    ///
    /// [`SealError::NoRandom`].
    pub fn new() -> Result<Receiver, SealError> {
        let (private, public) = pair()?;
        Ok(Receiver { private, public })
    }

    /// What the sealing side has to know.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Ready to open what was sealed by the owner of `theirs`.
    ///
    /// # Errors
    ///
    /// [`SealError::BadPublicKey`].
    pub fn opener(self, theirs: &[u8]) -> Result<Opener, SealError> {
        let Receiver { private, public } = self;
        Ok(Opener(agree(private, theirs, &public, theirs)?))
    }
}

/// Ready to seal for the receiver of this public key. The second is what it has to know.
///
/// # Errors
///
/// [`SealError::BadPublicKey`], [`SealError::NoRandom`].
pub fn seal(receiver: &[u8]) -> Result<(Sealer, Vec<u8>), SealError> {
    let (private, public) = pair()?;
    let sealer = Sealer(agree(private, receiver, receiver, &public)?);
    Ok((sealer, public))
}

impl Sealer {
    /// Seals `key` under a number that no other one of this answer has, for this use alone. The result
    /// is [`crate::OVERHEAD`] longer.
    pub fn seal(&self, number: u32, name: &[u8], key: &[u8]) -> Vec<u8> {
        // Room for all of it at once: a buffer that grows would leave a copy behind.
        let mut sealed = Vec::with_capacity(key.len() + crate::OVERHEAD);
        sealed.extend_from_slice(key);
        self.0
            .seal_in_place_append_tag(nonce(number), Aad::from(name), &mut sealed)
            .expect("a key is shorter than what can be sealed at once");
        sealed
    }
}

impl Opener {
    /// Opens in place what was sealed under this number for this use. Gives the length of what stands at
    /// the beginning of `sealed` then.
    ///
    /// # Errors
    ///
    /// [`SealError::NotForUs`].
    pub fn open(&self, number: u32, name: &[u8], sealed: &mut [u8]) -> Result<usize, SealError> {
        let opened = self.0.open_in_place(nonce(number), Aad::from(name), sealed);
        opened
            .map(|opened| opened.len())
            .map_err(|_| SealError::NotForUs)
    }
}

fn pair() -> Result<(EphemeralPrivateKey, Vec<u8>), SealError> {
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())
        .map_err(|_| SealError::NoRandom)?;
    let public = private
        .compute_public_key()
        .map_err(|_| SealError::NoRandom)?;
    Ok((private, public.as_ref().to_vec()))
}

fn agree(
    private: EphemeralPrivateKey,
    theirs: &[u8],
    receiver: &[u8],
    sender: &[u8],
) -> Result<LessSafeKey, SealError> {
    let theirs = UnparsedPublicKey::new(&X25519, theirs);
    agree_ephemeral(private, &theirs, |shared| {
        let extracted = Salt::new(HKDF_SHA256, PURPOSE).extract(shared);
        let info = [receiver, sender];
        let derived = extracted
            .expand(&info, &CHACHA20_POLY1305)
            .expect("a key of this length can be derived");
        LessSafeKey::new(UnboundKey::from(derived))
    })
    .map_err(|_| SealError::BadPublicKey)
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_receiver_can_open_what_is_sealed_for_it() {
        let (us, others) = (Receiver::new().unwrap(), Receiver::new().unwrap());
        let (sealer, public) = seal(us.public()).unwrap();
        let sealed = sealer.seal(0, b"bgp-keys/tor", b"hunter2");
        assert_eq!(sealed.len(), 7 + crate::OVERHEAD);
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        let open = |opener: &Opener, number, name: &[u8]| {
            let mut bytes = sealed.clone();
            let length = opener.open(number, name, &mut bytes)?;
            Ok(bytes[..length].to_vec())
        };
        let opener = us.opener(&public).unwrap();
        assert_eq!(open(&opener, 0, b"bgp-keys/tor"), Ok(b"hunter2".to_vec()));
        assert_eq!(open(&opener, 1, b"bgp-keys/tor"), Err(SealError::NotForUs));
        assert_eq!(
            open(&opener, 0, b"bgp-keys/spine"),
            Err(SealError::NotForUs)
        );
        let opener = others.opener(&public).unwrap();
        assert_eq!(open(&opener, 0, b"bgp-keys/tor"), Err(SealError::NotForUs));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for wrong in [&b""[..], b"short", &[0; 32], &[1; 33]] {
            assert_eq!(
                seal(wrong).map(drop),
                Err(SealError::BadPublicKey),
                "{wrong:?}"
            );
        }
    }
}

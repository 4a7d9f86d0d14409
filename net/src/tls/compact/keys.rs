//! Keys of the two directions, and how they follow from traffic secrets.
//!
//! *Spec*: RFC 8446 sections 5.3, 7.1, 7.2 and 7.3.

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, KeyType, Prk};
use zeroize::{Zeroize, Zeroizing};

use super::capture::SECRET_BYTES_MAX;
use super::fault::RecordFault;

/// Length of the IV of every suite of TLS 1.3.
pub(super) const IV_LEN: usize = aead::NONCE_LEN;
/// Length of the tag of every suite that we offer.
pub(super) const TAG_LEN: usize = 16;

/// A cipher suite of TLS 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256.
    ChaCha20Poly1305,
}

impl Suite {
    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hash(self) -> hkdf::Algorithm {
        match self {
            Self::Aes256Gcm => hkdf::HKDF_SHA384,
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// What the peer sends.
    Receive,
    /// What we send.
    Send,
}

/// The keys of both directions for a secret of `S` bytes and a key of `K` bytes.
pub(super) struct Pair<const S: usize, const K: usize> {
    receive: OneWay<S, K>,
    send: OneWay<S, K>,
}

struct OneWay<const S: usize, const K: usize> {
    secret: [u8; S],
    key: [u8; K],
    iv: [u8; IV_LEN],
}

/// The same for every size, so that the record layer is compiled once.
pub(super) trait Keys {
    /// Which suite the sizes stand for.
    fn suite(&self) -> Suite;
    /// The parts of one direction: secret, key, IV.
    fn parts(&self, direction: Direction) -> (&[u8], &[u8], &[u8; IV_LEN]);
    /// The same, to be overwritten.
    fn parts_mut(&mut self, direction: Direction) -> (&mut [u8], &mut [u8], &mut [u8; IV_LEN]);
}

impl<const S: usize, const K: usize> Pair<S, K> {
    /// Zeroes, to be filled where they will stay: a filled one that is moved leaves a copy behind.
    pub const fn empty() -> Self {
        const { assert!(S <= SECRET_BYTES_MAX) };
        Self { receive: OneWay::empty(), send: OneWay::empty() }
    }

    const fn one(&self, direction: Direction) -> &OneWay<S, K> {
        match direction {
            Direction::Receive => &self.receive,
            Direction::Send => &self.send,
        }
    }
}

impl<const S: usize, const K: usize> OneWay<S, K> {
    const fn empty() -> Self {
        Self { secret: [0; S], key: [0; K], iv: [0; IV_LEN] }
    }
}

impl<const S: usize, const K: usize> Drop for OneWay<S, K> {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl<const S: usize, const K: usize> Keys for Pair<S, K> {
    fn suite(&self) -> Suite {
        const {
            match (S, K) {
                (32, 16) => Suite::Aes128Gcm,
                (48, 32) => Suite::Aes256Gcm,
                (32, 32) => Suite::ChaCha20Poly1305,
                _ => panic!("no suite has these sizes"),
            }
        }
    }

    fn parts(&self, direction: Direction) -> (&[u8], &[u8], &[u8; IV_LEN]) {
        let one = self.one(direction);
        (&one.secret, &one.key, &one.iv)
    }

    fn parts_mut(&mut self, direction: Direction) -> (&mut [u8], &mut [u8], &mut [u8; IV_LEN]) {
        let one = match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        };
        (&mut one.secret, &mut one.key, &mut one.iv)
    }
}

impl dyn Keys + '_ {
    /// Takes a traffic secret over and derives key and IV from it.
    pub fn install(&mut self, direction: Direction, secret: &[u8]) -> Result<(), RecordFault> {
        let suite = self.suite();
        let (to, key, iv) = self.parts_mut(direction);
        if to.len() != secret.len() {
            return Err(RecordFault::Internal);
        }
        to.copy_from_slice(secret);
        expand_label(suite, to, b"key", key)?;
        expand_label(suite, to, b"iv", iv)
    }

    /// Goes on to the next traffic secret, after which record numbers begin at 0 again.
    pub fn update(&mut self, direction: Direction) -> Result<(), RecordFault> {
        let (secret, _, _) = self.parts(direction);
        let mut next = Zeroizing::new([0; SECRET_BYTES_MAX]);
        let next = next.get_mut(..secret.len()).ok_or(RecordFault::Internal)?;
        expand_label(self.suite(), secret, b"traffic upd", next)?;
        self.install(direction, next)
    }

    /// Builds a cipher from the key of a direction.
    ///
    /// *Cost*: an AES key schedule and an allocation of the C library, some 0.2 µs.
    pub fn cipher(&self, direction: Direction) -> Result<Cipher, RecordFault> {
        let (_, key, iv) = self.parts(direction);
        let key = UnboundKey::new(self.suite().aead(), key).map_err(|_| RecordFault::Internal)?;
        Ok(Cipher { key: LessSafeKey::new(key), iv: *iv })
    }
}

/// A cipher ready for use; it lives for one call.
pub(super) struct Cipher {
    pub key: LessSafeKey,
    iv: [u8; IV_LEN],
}

impl Cipher {
    /// The nonce of a record: unique as long as each number is used once.
    pub fn nonce(&self, sequence: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(sequence.to_le_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context.
pub(super) fn expand_label(
    suite: Suite,
    secret: &[u8],
    label: &[u8],
    out: &mut [u8],
) -> Result<(), RecordFault> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).map_err(|_| RecordFault::Internal)?.to_be_bytes();
    let label_len = [u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordFault::Internal)?];
    let info: [&[u8]; 5] = [&length, &label_len, PREFIX, label, &[0]];
    Prk::new_less_safe(suite.hash(), secret)
        .expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| RecordFault::Internal)
}

#[cfg(test)]
mod tests;

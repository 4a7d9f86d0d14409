//! Cipher suites of TLS 1.3 whose keys rest as bytes.
//!
//! The library's own keep an expanded cipher context for each direction: 1,370 bytes of a connection
//! that has nothing to say. These keep the key and build a context for each record, as the compact
//! record layer does; it is dearer by some 0.1 µs when one connection is busy, and cheaper when many
//! take turns (`docs/adr/0008-keys-rest-as-bytes.md`). All else is the library's: hash, key schedule,
//! record numbers, limits, padding.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};
use zeroize::Zeroizing;

/// TLS_AES_128_GCM_SHA256.
pub(super) static AES_128_GCM: SupportedCipherSuite = SupportedCipherSuite::Tls13(&AES_128);
/// TLS_AES_256_GCM_SHA384.
pub(super) static AES_256_GCM: SupportedCipherSuite = SupportedCipherSuite::Tls13(&AES_256);
/// TLS_CHACHA20_POLY1305_SHA256.
pub(super) static CHACHA20_POLY1305: SupportedCipherSuite = SupportedCipherSuite::Tls13(&CHACHA20);

static AES_128: Tls13CipherSuite =
    resting(&cipher_suite::TLS13_AES_128_GCM_SHA256, &Aead::Aes128Gcm);
static AES_256: Tls13CipherSuite =
    resting(&cipher_suite::TLS13_AES_256_GCM_SHA384, &Aead::Aes256Gcm);
static CHACHA20: Tls13CipherSuite =
    resting(&cipher_suite::TLS13_CHACHA20_POLY1305_SHA256, &Aead::ChaCha20Poly1305);

/// A suite of the library with another keeper of its keys.
const fn resting(of: &SupportedCipherSuite, aead_alg: &'static Aead) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(of) = of else { panic!("not a suite of TLS 1.3") };
    Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: of.common.suite,
            hash_provider: of.common.hash_provider,
            confidentiality_limit: of.common.confidentiality_limit,
        },
        hkdf_provider: of.hkdf_provider,
        aead_alg,
        quic: None,
    }
}

#[derive(Debug, Clone, Copy)]
enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Aead {
    const fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

impl Tls13AeadAlgorithm for Aead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        match self {
            Self::Aes128Gcm => Box::new(Resting::<16>::new(*self, &key, iv)),
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => {
                Box::new(Resting::<32>::new(*self, &key, iv))
            }
        }
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        match self {
            Self::Aes128Gcm => Box::new(Resting::<16>::new(*self, &key, iv)),
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => {
                Box::new(Resting::<32>::new(*self, &key, iv))
            }
        }
    }

    fn key_len(&self) -> usize {
        self.algorithm().key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(match self {
            Self::Aes128Gcm => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            Self::Aes256Gcm => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Self::ChaCha20Poly1305 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        })
    }
}

/// The key of one direction, of `K` bytes; it is overwritten when it is dropped.
struct Resting<const K: usize> {
    aead: Aead,
    key: Zeroizing<[u8; K]>,
    iv: Iv,
}

impl<const K: usize> Resting<K> {
    /// The library gives as many bytes as [`Tls13AeadAlgorithm::key_len`] says.
    fn new(aead: Aead, key: &AeadKey, iv: Iv) -> Self {
        let mut resting = Self { aead, key: Zeroizing::new([0; K]), iv };
        resting.key.copy_from_slice(key.as_ref());
        resting
    }

    fn awake(&self) -> Option<LessSafeKey> {
        UnboundKey::new(self.aead.algorithm(), &self.key[..]).ok().map(LessSafeKey::new)
    }

    /// The library gives every number once to each key (RFC 8446 section 5.3).
    fn nonce(&self, sequence: u64) -> aead::Nonce {
        aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, sequence).0)
    }
}

impl<const K: usize> MessageEncrypter for Resting<K> {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let key = self.awake().ok_or(Error::EncryptError)?;
        let aad = Aad::from(make_tls13_aad(length));
        key.seal_in_place_append_tag(self.nonce(sequence), aad, &mut payload)
            .map_err(|_| Error::EncryptError)?;
        // RFC 8446 section 5.2: the outer type and version are always these.
        let version = ProtocolVersion::TLSv1_2;
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, version, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + self.aead.algorithm().tag_len()
    }
}

impl<const K: usize> MessageDecrypter for Resting<K> {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let aad = Aad::from(make_tls13_aad(payload.len()));
        let key = self.awake().ok_or(Error::DecryptError)?;
        let plain = key
            .open_in_place(self.nonce(sequence), aad, payload)
            .map_err(|_| Error::DecryptError)?;
        let length = plain.len();
        payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}

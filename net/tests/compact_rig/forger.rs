//! A peer that has valid keys and may put anything into a record.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, KeyType, Prk};
use rustls::{CipherSuite, SupportedCipherSuite};

/// Content types.
pub mod contents {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// One direction: an implementation of the key schedule that shares nothing with the one under test.
struct Stream {
    aead: &'static aead::Algorithm,
    hash: hkdf::Algorithm,
    secret: Vec<u8>,
    sequence: u64,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Stream {
    fn new(suite: SupportedCipherSuite, secret: &[u8]) -> Self {
        let (aead, hash) = match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            _ => (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256),
        };
        Self { aead, hash, secret: secret.to_vec(), sequence: 0 }
    }

    fn expand(&self, label: &str, length: usize) -> Vec<u8> {
        let label = format!("tls13 {label}");
        let mut info = vec![0, length as u8, label.len() as u8];
        info.extend(label.bytes());
        info.push(0);
        let mut out = vec![0; length];
        let prk = Prk::new_less_safe(self.hash, &self.secret);
        prk.expand(&[&info], Length(length)).unwrap().fill(&mut out).unwrap();
        out
    }

    fn key(&self) -> LessSafeKey {
        let key = self.expand("key", self.aead.key_len());
        LessSafeKey::new(UnboundKey::new(self.aead, &key).unwrap())
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce: [u8; 12] = self.expand("iv", 12).try_into().unwrap();
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn update(&mut self) {
        self.secret = self.expand("traffic upd", self.secret.len());
        self.sequence = 0;
    }
}

/// What the session under test has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub kind: u8,
    pub content: Vec<u8>,
}

pub struct Forger {
    /// What the forger sends.
    send: Stream,
    /// What the session sends.
    receive: Stream,
}

impl Forger {
    pub fn new(suite: SupportedCipherSuite, own: &[u8], of_session: &[u8]) -> Self {
        Self { send: Stream::new(suite, own), receive: Stream::new(suite, of_session) }
    }

    /// A record with this content and no padding.
    pub fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.raw(&[content, &[kind]].concat())
    }

    /// A record with this inner plaintext: content, type, padding.
    pub fn raw(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut body = inner.to_vec();
        let length = u16::try_from(body.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let (key, nonce) = (self.send.key(), self.send.nonce());
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
        [&header[..], &body].concat()
    }

    /// Goes on to the next key for sending, as after a KeyUpdate.
    pub fn update(&mut self) {
        self.send.update();
    }

    pub fn key_update(&mut self, ask: u8) -> Vec<u8> {
        let record = self.record(contents::HANDSHAKE, &[24, 0, 0, 1, ask]);
        self.update();
        record
    }

    /// Decrypts everything that the session has sent, following its KeyUpdates.
    pub fn open(&mut self, mut wire: &[u8]) -> Vec<Opened> {
        let mut opened = Vec::new();
        while !wire.is_empty() {
            let (header, rest) = wire.split_first_chunk::<5>().expect("a whole header");
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            assert_eq!(header[..3], [23, 3, 3]);
            let (body, rest) = rest.split_at(length);
            wire = rest;
            let mut body = body.to_vec();
            let (key, nonce) = (self.receive.key(), self.receive.nonce());
            let text = key.open_in_place(nonce, Aad::from(header), &mut body);
            let text = text.expect("it decrypts under the key that is due");
            assert!(text.len() <= (1 << 14) + 1);
            let (&kind, content) = text.split_last().expect("a content type");
            let content = content.to_vec();
            if kind == contents::HANDSHAKE && content.first() == Some(&24) {
                self.receive.update();
            }
            opened.push(Opened { kind, content });
        }
        opened
    }
}

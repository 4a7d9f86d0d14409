//! Session tickets that every shard, every configuration and the next process can open.
//!
//! Keys are derived from one secret and the hour, so there is nothing to share, to lock or to rotate.
//! A ticket is `epoch (4) || nonce (12) || AES-256-GCM ciphertext and tag`; the epoch is authenticated.
//!
//! Invariant: a key seals for one hour only, with random nonces, which keeps the number of tickets per
//! key far below 2^32.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// Length of one key epoch, in seconds.
const EPOCH_S: u64 = 3600;
/// Epochs before the current one whose tickets are still taken.
const EPOCHS_BACK: u64 = 12;
/// How long clients are told to keep a ticket, in seconds.
const LIFETIME_S: u32 = (EPOCH_S * EPOCHS_BACK) as u32;
const EPOCH_LEN: usize = 4;
const HEADER_LEN: usize = EPOCH_LEN + NONCE_LEN;

/// The secret from which the keys of session tickets are derived.
///
/// As precious as the key of the certificate: who has it can pose as the server to a client that
/// resumes. One per process (later: per cluster), the same for all shards and across reloads of the
/// certificate. It is wiped when dropped and never printed.
#[derive(Clone)]
pub struct TicketSecret(Zeroizing<[u8; 32]>);

impl TicketSecret {
    /// Takes a secret that was made elsewhere.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Makes a new secret from the random source of the TLS library.
    ///
    /// *Errors*: when the operating system gives no randomness; then TLS cannot run at all.
    pub fn generate() -> Result<Self, RandomUnavailable> {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(secret.as_mut_slice()).map_err(|_| RandomUnavailable)?;
        Ok(Self(secret))
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomUnavailable;

impl fmt::Display for RandomUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operating system gave no random bytes")
    }
}

impl std::error::Error for RandomUnavailable {}

/// Seals and opens tickets; holds no state that changes.
pub(crate) struct EpochTickets {
    root: hkdf::Prk,
    application: &'static [u8],
    /// What else a ticket has to have in common with its listener.
    scope: Box<[u8]>,
}

impl EpochTickets {
    /// Tickets of one `application` are not taken by another, nor those of another `scope`: it is empty,
    /// or of one length.
    pub(crate) fn new(secret: &TicketSecret, application: &'static [u8], scope: &[u8]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"petrel session ticket 1")
            .extract(secret.0.as_slice());
        Self { root, application, scope: scope.into() }
    }

    fn key(&self, epoch: [u8; EPOCH_LEN]) -> Option<LessSafeKey> {
        let info = [self.application, &self.scope, &epoch];
        let okm = self.root.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }

    fn seal(&self, plain: &[u8], epoch: u64) -> Option<Vec<u8>> {
        let epoch = u32::try_from(epoch).ok()?.to_be_bytes();
        let key = self.key(epoch)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(HEADER_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&epoch);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(epoch),
                ticket.get_mut(HEADER_LEN..)?,
            )
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (epoch, rest) = ticket.split_first_chunk::<EPOCH_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let age = u64::from(u32::from_be_bytes(*epoch));
        // One epoch ahead is taken: another process's clock may be a little faster.
        if age > now + 1 || age + EPOCHS_BACK < now {
            return None;
        }
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length =
            self.key(*epoch)?.open_in_place(nonce, Aad::from(*epoch), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

fn current_epoch() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs() / EPOCH_S)
}

impl ProducesTickets for EpochTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, current_epoch()?)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, current_epoch()?)
    }
}

impl fmt::Debug for EpochTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochTickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: u8, application: &'static [u8]) -> EpochTickets {
        EpochTickets::new(&TicketSecret::new([secret; 32]), application, b"")
    }

    #[test]
    fn a_ticket_opens_under_the_same_secret_in_another_instance() {
        let ticket = tickets(1, b"mqtt").seal(b"session", 1000).unwrap();
        assert_eq!(tickets(1, b"mqtt").open(&ticket, 1000).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_is_refused_under_another_secret_or_application() {
        let ticket = tickets(1, b"mqtt").seal(b"session", 1000).unwrap();
        assert_eq!(tickets(2, b"mqtt").open(&ticket, 1000), None);
        assert_eq!(tickets(1, b"http").open(&ticket, 1000), None);
        let scoped = EpochTickets::new(&TicketSecret::new([1; 32]), b"mqtt", &[7; 32]);
        assert_eq!(scoped.open(&ticket, 1000), None);
        let ticket = scoped.seal(b"session", 1000).unwrap();
        assert_eq!(scoped.open(&ticket, 1000).unwrap(), b"session");
        assert_eq!(tickets(1, b"mqtt").open(&ticket, 1000), None);
    }

    #[test]
    fn a_ticket_lives_twelve_epochs_and_forgives_one_ahead() {
        let t = tickets(1, b"mqtt");
        let ticket = t.seal(b"session", 1000).unwrap();
        assert!(t.open(&ticket, 999).is_some());
        assert!(t.open(&ticket, 1012).is_some());
        assert_eq!(t.open(&ticket, 998), None);
        assert_eq!(t.open(&ticket, 1013), None);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_refused() {
        let t = tickets(1, b"mqtt");
        let ticket = t.seal(b"session", 1000).unwrap();
        for at in 0..ticket.len() {
            for bit in 0..8 {
                let mut changed = ticket.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(t.open(&changed, 1000), None, "byte {at} bit {bit}");
            }
            assert_eq!(t.open(&ticket[..at], 1000), None, "cut at {at}");
        }
    }

    #[test]
    fn two_tickets_of_one_session_differ() {
        let t = tickets(1, b"mqtt");
        assert_ne!(t.encrypt(b"session").unwrap(), t.encrypt(b"session").unwrap());
        assert_eq!(t.decrypt(&t.encrypt(b"session").unwrap()).unwrap(), b"session");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = TicketSecret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "TicketSecret(..)");
    }
}

//! A record layer for TLS 1.3 that keeps some 150 bytes per connection; for both roles.
//!
//! The handshake is rustls' own. When it is complete, a [`CompactSession`] takes over what the two
//! directions need: traffic secret, key, IV and record number. Ciphers and HKDF are those of
//! aws-lc-rs; a cipher context is built for a call and dropped after it. Why this is safe, and what
//! it does not do, is argued in `docs/adr/0006-compact-tls-record-layer.md`.
//!
//! Invariants:
//! - key state is moved, never copied: no `Clone`, no `Debug` that shows it, no serialisation; it is
//!   overwritten when it is dropped;
//! - a record number is used once per key: it is advanced by the function that seals;
//! - nothing of the peer is kept but a partial record and the head of a partial message, both bounded;
//! - whatever the peer sends ends in bytes, in silence or in one fatal alert, never in a panic.

mod capture;
mod fault;
mod handover;
mod keys;
mod receive;
mod send;
mod session;

pub use capture::{TrafficSecrets, prepare_client, prepare_server};
pub use fault::RecordFault;
pub use handover::HandoverError;
pub use session::{CompactSession, RECORD_BYTES_MAX};

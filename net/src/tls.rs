//! TLS on the server side, as a state machine over bytes.
//!
//! Owns everything that knows rustls: the next version of that library replaces the interface used
//! here, and only this module may notice. It has no sockets and does not block; the clock is read only
//! to choose the key of a session ticket.
//!
//! Invariants:
//! - no plaintext leaves a session before its handshake is complete;
//! - an idle session holds the state of the library, or in its place that of [`compact`], and no
//!   buffer of ours;
//! - a session holds at most [`TAIL_BYTES_MAX`] bytes of input that it could not use yet.

mod clients;
pub mod compact;
mod config;
mod error;
mod policy;
mod secret_file;
mod session;
mod sni;
mod suites;
mod tickets;

#[cfg(test)]
mod client_tests;
#[cfg(test)]
#[path = "tls/tests.rs"]
#[allow(clippy::duplicate_mod, reason = "the same tests hold for the other record layer")]
mod compact_tests;
#[cfg(test)]
mod tests;

pub use clients::{ClientCertificates, ClientFault, Demand};
pub use config::{
    CertificateFiles, RecordLayer, TlsApplication, TlsConfig, TlsSettings, for_streams,
};
pub use error::{NotTls, ProtocolFault, TlsError};
pub use policy::{PolicyError, TlsPolicy, TlsVersion};
pub use secret_file::SecretFileError;
pub use session::{Handshake, TAIL_BYTES_MAX, TlsProgress, TlsSession};
pub use tickets::{RandomUnavailable, TicketSecret};

pub use crate::certificate::{CertificateWarning, TlsConfigError};

//! Why a TLS session ended.

use std::fmt;

use rustls::CertificateError;

use super::clients::ClientFault;
use super::compact::{HandoverError, RecordFault};

/// A session cannot go on; the connection has to be closed after what is in `wire_out` was sent.
///
/// The text of every variant is ours or the TLS library's; none repeats bytes of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// The first byte cannot begin a TLS connection.
    NotTls(NotTls),
    /// The peer broke the protocol, shares no version or suite with us, or sent an alert.
    Protocol(ProtocolFault),
    /// The peer broke the protocol after the handshake, or sent an alert; found by our own record layer.
    Record(RecordFault),
    /// The client's certificate is no good, found when the handshake was complete.
    Client(ClientFault),
    /// The connection could not go over to our own record layer.
    Handover(HandoverError),
    /// A record or handshake message would need more than [`super::TAIL_BYTES_MAX`] bytes to be held.
    TooLarge,
    /// The caller wrote before the handshake was complete, or after `close_notify`.
    NotWritable,
    /// The session has failed before.
    Failed,
}

/// What the first byte of a connection looks like, when it is not TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTls {
    /// An MQTT CONNECT packet.
    Mqtt,
    /// An HTTP request.
    Http,
    /// Anything else.
    Other,
}

impl NotTls {
    /// Judges the first byte of a connection; `None` when it may be a TLS record.
    pub(super) fn judge(first: u8) -> Option<Self> {
        match first {
            // change_cipher_spec, alert, handshake, application_data: the library judges further.
            20..=23 => None,
            0x10 => Some(Self::Mqtt),
            b'A'..=b'Z' => Some(Self::Http),
            _ => Some(Self::Other),
        }
    }
}

/// What the TLS library found wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolFault(pub(super) rustls::Error);

impl Eq for ProtocolFault {}

impl ProtocolFault {
    /// Whether the peer ended the session with an alert of its own.
    pub fn is_peer_alert(&self) -> bool {
        matches!(self.0, rustls::Error::AlertReceived(_))
    }
}

impl fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            rustls::Error::InvalidCertificate(CertificateError::Other(own)) => own.0.fmt(f),
            rustls::Error::NoCertificatesPresented => f.write_str("the client has no certificate"),
            other => other.fmt(f),
        }
    }
}

impl TlsError {
    /// Whether what is wrong is the certificate of the client, or that it has none.
    #[must_use]
    pub fn is_about_certificate(&self) -> bool {
        use rustls::Error::{InvalidCertificate, NoCertificatesPresented};
        match self {
            Self::Client(_) => true,
            Self::Protocol(ProtocolFault(fault)) => {
                matches!(fault, InvalidCertificate(_) | NoCertificatesPresented)
            }
            _ => false,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls(NotTls::Mqtt) => f.write_str("the client spoke plain MQTT on a TLS port"),
            Self::NotTls(NotTls::Http) => f.write_str("the client spoke plain HTTP on a TLS port"),
            Self::NotTls(NotTls::Other) => f.write_str("the client does not speak TLS"),
            Self::Protocol(fault) => fault.fmt(f),
            Self::Record(fault) => fault.fmt(f),
            Self::Client(fault) => fault.fmt(f),
            Self::Handover(error) => error.fmt(f),
            Self::TooLarge => f.write_str("a TLS record or handshake message is too large"),
            Self::NotWritable => f.write_str("TLS is not ready for application data"),
            Self::Failed => f.write_str("the TLS session has failed before"),
        }
    }
}

impl From<RecordFault> for TlsError {
    fn from(fault: RecordFault) -> Self {
        match fault {
            RecordFault::NotWritable => Self::NotWritable,
            RecordFault::Failed => Self::Failed,
            fault => Self::Record(fault),
        }
    }
}

impl std::error::Error for TlsError {}

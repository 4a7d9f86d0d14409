//! What ends a compact session, and the alert that says so to the peer.

use std::fmt;

/// Why a compact session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFault {
    /// A record that is not encrypted: an alert or handshake record in the clear, a
    /// change_cipher_spec, or no TLS at all.
    OuterType(u8),
    /// A record that names another version than the one every TLS 1.3 record names.
    Version,
    /// More than 2^14 + 256 bytes of ciphertext, or more than 2^14 of plaintext.
    Overflow,
    /// A record that was not made with the right key at the right place.
    BadMac,
    /// A record without a content type: nothing but padding.
    AllZero,
    /// A content type that does not belong into an encrypted record.
    InnerType(u8),
    /// Another content type between the parts of a handshake message.
    Interleaved,
    /// A record with no handshake byte in it.
    EmptyHandshake,
    /// A handshake message that has no place after the handshake.
    Message(u8),
    /// A KeyUpdate or NewSessionTicket of an impossible length.
    MessageLength,
    /// A KeyUpdate that asks for something unknown.
    UpdateRequest(u8),
    /// A KeyUpdate that does not end its record.
    UpdateUnaligned,
    /// Too many records in a row without application data: empty ones, KeyUpdates, tickets.
    Flood,
    /// An alert that is not two bytes long.
    AlertForm,
    /// The peer has ended the session with this alert.
    PeerAlert(u8),
    /// The cipher failed, or record numbers ran out.
    Internal,
    /// The caller wrote after `close_notify`.
    NotWritable,
    /// The session has failed before.
    Failed,
}

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;

impl RecordFault {
    /// The description of the alert that is owed to the peer; `None` when none is.
    ///
    /// *Spec*: RFC 8446 sections 5 and 6.2.
    pub const fn alert(self) -> Option<u8> {
        match self {
            Self::OuterType(_)
            | Self::AllZero
            | Self::InnerType(_)
            | Self::Interleaved
            | Self::EmptyHandshake
            | Self::Message(_)
            | Self::UpdateUnaligned
            | Self::Flood => Some(UNEXPECTED_MESSAGE),
            Self::Version => Some(PROTOCOL_VERSION),
            Self::Overflow => Some(RECORD_OVERFLOW),
            Self::BadMac => Some(BAD_RECORD_MAC),
            Self::MessageLength | Self::AlertForm => Some(DECODE_ERROR),
            Self::UpdateRequest(_) => Some(ILLEGAL_PARAMETER),
            // The state of our keys is in doubt: nothing more is encrypted with them.
            Self::Internal => None,
            Self::PeerAlert(_) | Self::NotWritable | Self::Failed => None,
        }
    }
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OuterType(kind) => write!(f, "a record of type {kind} after the handshake"),
            Self::Version => f.write_str("a TLS record names a wrong version"),
            Self::Overflow => f.write_str("a TLS record is too long"),
            Self::BadMac => f.write_str("a TLS record cannot be decrypted"),
            Self::AllZero => f.write_str("a TLS record has no content type"),
            Self::InnerType(kind) => write!(f, "a TLS record of unknown content type {kind}"),
            Self::Interleaved => f.write_str("a TLS handshake message was interrupted"),
            Self::EmptyHandshake => f.write_str("a TLS handshake record is empty"),
            Self::Message(kind) => write!(f, "a handshake message of type {kind} out of place"),
            Self::MessageLength => f.write_str("a TLS handshake message has a wrong length"),
            Self::UpdateRequest(value) => write!(f, "a TLS KeyUpdate asks for {value}"),
            Self::UpdateUnaligned => f.write_str("a TLS KeyUpdate does not end its record"),
            Self::Flood => f.write_str("too many TLS records without application data"),
            Self::AlertForm => f.write_str("a TLS alert is malformed"),
            Self::PeerAlert(description) => write!(f, "the peer sent TLS alert {description}"),
            Self::Internal => f.write_str("TLS encryption failed"),
            Self::NotWritable => f.write_str("TLS is closed for writing"),
            Self::Failed => f.write_str("the TLS session has failed before"),
        }
    }
}

impl std::error::Error for RecordFault {}

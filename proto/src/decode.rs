//! Bytes to packets.

use bytes::Bytes;

use crate::{DecodeError, Packet, Version};

/// What the start of a byte stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed before anything can be said, or before the packet is whole. The
    /// number is the length of the whole packet once it is known.
    Incomplete(Option<usize>),
    /// The first `n` bytes are one whole packet.
    Complete(usize),
}

/// Looks at the fixed header only; refuses a packet that is too large before its body arrives.
///
/// # Errors
/// Packet too large (0x95) over `packet_bytes_max`; malformed for a bad length.
pub fn frame(input: &[u8], packet_bytes_max: u32) -> Result<Frame, DecodeError> {
    let _ = (input, packet_bytes_max);
    Err(DecodeError::malformed("not written yet"))
}

/// Decodes one whole packet, as [`frame`] delimited it. `version` is `None` until a CONNECT has
/// named it; then only CONNECT is accepted ([MQTT5-3.1.0-1]).
///
/// # Errors
/// The reason code that the peer is owed, with what was wrong.
pub fn decode(packet: &Bytes, version: Option<Version>) -> Result<Packet, DecodeError> {
    let _ = (packet, version);
    Err(DecodeError::malformed("not written yet"))
}

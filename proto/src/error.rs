//! What can be wrong with one packet.

use std::fmt;

use crate::ReasonCode;

/// Why bytes are not an acceptable packet. Maps to exactly one reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    /// The code for CONNACK or DISCONNECT.
    pub reason: ReasonCode,
    /// What was wrong, in words for a log line; names the statement where there is one.
    pub what: &'static str,
}

impl DecodeError {
    /// 0x81: the bytes do not follow the grammar.
    #[must_use]
    pub const fn malformed(what: &'static str) -> Self {
        Self { reason: ReasonCode::MalformedPacket, what }
    }

    /// 0x82: the grammar holds, a rule of the protocol does not.
    #[must_use]
    pub const fn protocol(what: &'static str) -> Self {
        Self { reason: ReasonCode::ProtocolError, what }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.what, self.reason as u8)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_its_words_and_its_code() {
        assert_eq!(DecodeError::protocol("a rule").to_string(), "a rule (0x82)");
        assert_eq!(DecodeError::malformed("bytes").to_string(), "bytes (0x81)");
    }
}

//! UTF-8 strings as MQTT allows them, kept as slices of the frame they came from.

use std::fmt;

use bytes::Bytes;

use crate::error::DecodeError;

/// A UTF-8 string of at most 65,535 bytes without U+0000 ([MQTT5-1.5.4-1], [MQTT5-1.5.4-2]).
///
/// A byte order mark is kept ([MQTT5-1.5.4-3]).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(Bytes);

/// A client identifier.
pub type ClientId = Text;

impl Text {
    /// The empty string.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Checks and takes over the bytes, without a copy.
    ///
    /// # Errors
    /// Malformed Packet if the bytes are not well-formed UTF-8, hold U+0000 or are too long.
    pub fn new(bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > usize::from(u16::MAX) {
            return Err(DecodeError::malformed("a string is longer than 65,535 bytes"));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) if !text.as_bytes().contains(&0) => Ok(Self(bytes)),
            Ok(_) => Err(DecodeError::malformed("a string holds U+0000 [MQTT5-1.5.4-2]")),
            Err(_) => Err(DecodeError::malformed("a string is not UTF-8 [MQTT5-1.5.4-1]")),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked in `new`; re-checking keeps the crate free of `unsafe`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The bytes, without a check.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The underlying shared bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// True if there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A copy that owns its bytes and pins no frame.
    #[must_use]
    pub fn to_owned_text(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

impl std::borrow::Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&str> for Text {
    type Error = DecodeError;
    fn try_from(text: &str) -> Result<Self, DecodeError> {
        Self::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

//! UTF-8 strings as MQTT allows them, kept as slices of the frame they came from.

use std::fmt;

use bytes::Bytes;

use crate::error::DecodeError;

/// A UTF-8 string of at most 65,535 bytes without U+0000 ([MQTT5-1.5.4-1], [MQTT5-1.5.4-2]).
///
/// A byte order mark is kept ([MQTT5-1.5.4-3]). The twins before MQTT 5 are [MQTT311-1.5.3-1],
/// [MQTT311-1.5.3-2] and [MQTT311-1.5.3-3].
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &'static [u8]) -> Result<Text, DecodeError> {
        Text::new(Bytes::from_static(bytes))
    }

    /// [MQTT5-1.5.4-1], [MQTT311-1.5.3-1]
    #[test]
    fn ill_formed_utf8_is_malformed() {
        let surrogates: [&[u8]; 2] = [b"\xed\xa0\x80", b"\xed\xbf\xbf"];
        let overlong: [&[u8]; 3] = [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf"];
        let others: [&[u8]; 4] = [b"\x80", b"\xc3", b"\xfe", b"\xf4\x90\x80\x80"];
        for bytes in surrogates.into_iter().chain(overlong).chain(others) {
            let error = text(bytes).unwrap_err();
            assert_eq!(error.reason, crate::ReasonCode::MalformedPacket, "{bytes:02x?}");
        }
    }

    /// [MQTT5-1.5.4-2], [MQTT311-1.5.3-2]
    #[test]
    fn a_null_character_is_malformed() {
        assert!(text(b"\0").is_err());
        assert!(text(b"abc\0def").is_err());
    }

    /// [MQTT5-1.5.4-3], [MQTT311-1.5.3-3]
    #[test]
    fn a_byte_order_mark_is_kept() {
        assert_eq!(text(b"\xef\xbb\xbfa").unwrap().as_bytes(), b"\xef\xbb\xbfa");
    }

    #[test]
    fn control_characters_and_noncharacters_are_allowed() {
        assert!(text(b"\x01\x1f\x7f\xc2\x80\xef\xbf\xbf").is_ok());
    }

    #[test]
    fn a_length_that_two_bytes_cannot_say_is_malformed() {
        assert!(Text::new(Bytes::from(vec![b'a'; 65_535])).is_ok());
        assert!(Text::new(Bytes::from(vec![b'a'; 65_536])).is_err());
    }

    #[test]
    fn an_owned_copy_does_not_share_the_frame() {
        let frame = Bytes::from(b"some frame".to_vec());
        let slice = Text::new(frame.slice(5..)).unwrap();
        let copy = slice.to_owned_text();
        assert_eq!(slice, copy);
        assert!(frame.as_ptr_range().contains(&slice.as_bytes().as_ptr()));
        assert!(!frame.as_ptr_range().contains(&copy.as_bytes().as_ptr()));
    }

    /// What `Borrow` promises: a map keyed by texts can be asked with bytes.
    #[test]
    fn a_text_hashes_and_orders_as_its_bytes() {
        let words = ["", "b", "a/b", "\u{e9}"].map(|word| Text::try_from(word).unwrap());
        let hashed: std::collections::HashSet<Text> = words.iter().cloned().collect();
        let ordered: std::collections::BTreeSet<Text> = words.iter().cloned().collect();
        for word in &words {
            assert_eq!(hashed.get(word.as_bytes()), Some(word));
            assert_eq!(ordered.get(word.as_bytes()), Some(word));
        }
        assert!(!hashed.contains(b"a".as_slice()) && !ordered.contains(b"a".as_slice()));
    }
}

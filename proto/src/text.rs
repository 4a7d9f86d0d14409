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
        check_text(&bytes)?;
        Ok(Self(bytes))
    }

    /// A slice of a frame that has been checked.
    pub(crate) const fn checked(bytes: Bytes) -> Self {
        Self(bytes)
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

    /// The same text in other memory, where someone has copied it to.
    pub(crate) fn moved_to(&self, copy: Bytes) -> Self {
        // A copy that differs is a mistake of ours; it is checked, so that it cannot break the type.
        if copy == self.0 { Self(copy) } else { self.clone() }
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

/// Refuses what is not well-formed UTF-8 or holds U+0000.
///
/// *Cost*: some 8 instructions per 8 bytes for ASCII.
#[inline]
pub(crate) fn check_text(bytes: &[u8]) -> Result<(), DecodeError> {
    // A byte from 1 to 127 has its top bit clear, and so has what is one less.
    let is_plain = |word: u64| (word | word.wrapping_sub(ONES)) & TOPS == 0;
    if all_words(bytes, is_plain) { Ok(()) } else { check_slowly(bytes) }
}

#[cold]
fn check_slowly(bytes: &[u8]) -> Result<(), DecodeError> {
    match std::str::from_utf8(bytes) {
        Ok(_) if !bytes.contains(&0) => Ok(()),
        Ok(_) => Err(DecodeError::malformed("a string holds U+0000 [MQTT5-1.5.4-2]")),
        Err(_) => Err(DecodeError::malformed("a string is not UTF-8 [MQTT5-1.5.4-1]")),
    }
}

/// Whether bytes are ASCII without U+0000 and without a wildcard character, as nearly all topic names are.
///
/// *Cost*: some 16 instructions per 8 bytes.
#[inline]
pub(crate) fn is_plain_topic(bytes: &[u8]) -> bool {
    all_words(bytes, |word| {
        // The two wildcards are `#` and the same with one bit more.
        let wildcard = (word | ONES.wrapping_mul(0x08)) ^ ONES.wrapping_mul(0x2b);
        // The top bit stays clear unless a byte is above 127 or 0, or is a wildcard. With a byte above 127
        // what else there is does not matter.
        (word | word.wrapping_sub(ONES) | wildcard.wrapping_sub(ONES)) & TOPS == 0
    })
}

/// Whether a topic name's bytes hold a wildcard character.
#[inline]
pub(crate) fn has_wildcard(bytes: &[u8]) -> bool {
    let holds = |word: u64, byte: u8| {
        let zero_where_found = word ^ ONES.wrapping_mul(u64::from(byte));
        zero_where_found.wrapping_sub(ONES) & !zero_where_found & TOPS != 0
    };
    !all_words(bytes, |word| !holds(word, b'+') && !holds(word, b'#'))
}

const ONES: u64 = u64::MAX / 255;
const TOPS: u64 = ONES << 7;

/// Whether a condition holds for all bytes, looked at eight at a time. Some are looked at twice, and a
/// text of less than eight is filled up with spaces.
#[inline]
fn all_words(bytes: &[u8], mut holds: impl FnMut(u64) -> bool) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        let spaces = ONES.wrapping_mul(u64::from(b' '));
        return holds(bytes.iter().fold(spaces, |word, &byte| word << 8 | u64::from(byte)));
    };
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().all(|word| holds(u64::from_le_bytes(*word))) && holds(u64::from_le_bytes(*last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// [MQTT5-1.5.4-1], [MQTT5-1.5.4-2], [MQTT311-1.5.3-1], [MQTT311-1.5.3-2]
        #[test]
        fn texts_are_checked_eight_bytes_at_a_time_as_one_by_one(
            text in "[a-z/]{0,40}",
            strange in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = text.into_bytes();
            if let Some((at, byte)) = strange.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let good = std::str::from_utf8(&bytes).is_ok() && !bytes.contains(&0);
            prop_assert_eq!(check_text(&bytes).is_ok(), good);
            let plain = bytes.iter().all(|byte| !matches!(byte, 0 | b'+' | b'#' | 128..));
            prop_assert_eq!(is_plain_topic(&bytes), plain);
            let wild = bytes.iter().any(|byte| matches!(byte, b'+' | b'#'));
            prop_assert_eq!(has_wildcard(&bytes), wild);
        }
    }

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

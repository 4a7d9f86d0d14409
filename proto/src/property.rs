//! MQTT 5 properties: the blocks that packets carry.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::{PayloadFormat, Text, decode, encode};

mod id;

pub(crate) use id::PropertyId;

/// The properties of PUBLISH and of a will message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishProperties {
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Topic Alias; 0 is refused by the receiver with 0x94, not by the decoder.
    pub topic_alias: Option<u16>,
    /// Subscription Identifiers; only a server sends them ([MQTT5-3.3.4-6]).
    pub subscription_identifiers: SmallVec<[u32; 2]>,
    /// Those that every receiver gets as they are.
    pub message: MessageProperties,
}

/// The properties of a message that a server hands on unaltered ([MQTT5-3.3.2-4], [MQTT5-3.3.2-15],
/// [MQTT5-3.3.2-16], [MQTT5-3.3.2-17], [MQTT5-3.3.2-20]).
///
/// Kept as they stand on the wire, checked once when decoded, so that forwarding them is a copy of
/// bytes. They compare by their bytes: the same fields in another order are not equal.
#[derive(Clone, Default)]
pub struct MessageProperties {
    /// From the first of them to the last. Others may stand between them.
    pub(crate) block: Bytes,
    /// Bytes of the block that are theirs.
    pub(crate) bytes: usize,
}

/// [`MessageProperties`] taken apart, in the order in which they are put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageFields {
    /// Payload Format Indicator.
    pub payload_format: Option<PayloadFormat>,
    /// Content Type.
    pub content_type: Option<Text>,
    /// Response Topic, without wildcards ([MQTT5-3.3.2-14]).
    pub response_topic: Option<Text>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
}

impl MessageProperties {
    /// No property at all.
    pub const EMPTY: Self = Self { block: Bytes::new(), bytes: 0 };

    /// The properties that [`Self::put`] has written.
    #[must_use]
    pub const fn whole(block: Bytes) -> Self {
        Self { bytes: block.len(), block }
    }

    /// Puts fields together; `None` if one of them is longer than two bytes can say.
    #[must_use]
    pub fn of(fields: &MessageFields) -> Option<Self> {
        encode::message_properties(fields).map(Self::whole)
    }

    /// Takes them apart. *Cost*: shares the memory.
    #[must_use]
    pub fn fields(&self) -> MessageFields {
        decode::message_fields(&self.block)
    }

    /// True if there is no property.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Length of the wire form, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Appends the wire form: every property with its identifier byte.
    #[inline]
    pub fn put(&self, out: &mut impl BufMut) {
        if self.bytes == self.block.len() {
            out.put_slice(&self.block);
        } else {
            self.pieces().for_each(|piece| out.put_slice(piece));
        }
    }

    /// The same properties in other memory, where someone has put them.
    #[must_use]
    pub fn moved_to(&self, copy: Bytes) -> Self {
        let moved = Self::whole(copy);
        if moved == *self { moved } else { self.clone() }
    }

    /// The properties one by one, without those that stand between them.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        pieces(&self.block).filter(|(id, _)| id.is_of_message()).map(|(_, piece)| piece)
    }
}

/// A block of properties, one by one; ends where it is not well formed.
pub(crate) fn pieces(mut block: &[u8]) -> impl Iterator<Item = (PropertyId, &[u8])> {
    std::iter::from_fn(move || {
        let id = PropertyId::from_u8(*block.first()?)?;
        let (piece, after) = block.split_at_checked(id.length(block)?)?;
        block = after;
        Some((id, piece))
    })
}

impl PartialEq for MessageProperties {
    fn eq(&self, other: &Self) -> bool {
        let plain = |it: &Self| it.bytes == it.block.len();
        if plain(self) && plain(other) {
            return self.block == other.block;
        }
        self.bytes == other.bytes && self.pieces().flatten().eq(other.pieces().flatten())
    }
}

impl Eq for MessageProperties {}

impl fmt::Debug for MessageProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

/// What every acknowledgement may carry: a Reason String and user properties.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReasonProperties {
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties.
    pub user_properties: UserProperties,
}

impl ReasonProperties {
    /// No property at all.
    pub const EMPTY: Self =
        Self { reason_string: None, user_properties: UserProperties(Bytes::new()) };

    /// True if there is nothing to encode.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

/// User properties: name and value pairs, in order, duplicates allowed ([MQTT5-3.3.2-18]).
///
/// Kept as they stand on the wire (identifier 0x26, name, value, repeated), checked once when
/// decoded, so that forwarding them is a copy of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserProperties(pub(crate) Bytes);

impl UserProperties {
    /// Builds the block from pairs of valid strings.
    #[must_use]
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a Text, &'a Text)>) -> Self {
        let mut out = BytesMut::new();
        for (name, value) in pairs {
            out.put_u8(PropertyId::UserProperty as u8);
            for text in [name, value] {
                // A `Text` is never longer than a u16 can say.
                out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
                out.put_slice(text.as_bytes());
            }
        }
        Self(out.freeze())
    }

    /// Those in a block that a decoder has checked: a slice of it if they are neighbours, else a copy.
    pub(crate) fn among(block: &Bytes) -> Self {
        let pairs = || pieces(block).filter(|(id, _)| *id == PropertyId::UserProperty);
        let bytes = pairs().map(|(_, pair)| pair.len()).fold(0, usize::saturating_add);
        if bytes == block.len() {
            return Self(block.clone());
        }
        let mut copy = BytesMut::with_capacity(bytes);
        pairs().for_each(|(_, pair)| copy.put_slice(pair));
        Self(copy.freeze())
    }

    /// True if there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The wire form: every pair with its identifier byte.
    #[must_use]
    pub const fn wire(&self) -> &Bytes {
        &self.0
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (_, after) = rest.split_first()?;
            let (name, after) = split_string(after)?;
            let (value, after) = split_string(after)?;
            rest = after;
            Some((name, value))
        })
    }

    /// A copy that owns its bytes and pins no frame.
    #[must_use]
    pub fn to_owned_properties(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

fn split_string(input: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = input.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::try_from(text).unwrap()
    }

    /// [MQTT5-3.3.2-18]
    #[test]
    fn user_properties_come_out_in_the_order_they_went_in() {
        let pairs = [(text("b"), text("1")), (text("a"), text("")), (text("b"), text("2"))];
        let block = UserProperties::from_pairs(pairs.iter().map(|(name, value)| (name, value)));
        assert_eq!(block.iter().collect::<Vec<_>>(), [("b", "1"), ("a", ""), ("b", "2")]);
        assert_eq!(block.wire().len(), 7 + 6 + 7);
        assert_eq!(block.to_owned_properties(), block);
    }

    #[test]
    fn no_pair_is_no_byte() {
        assert!(UserProperties::from_pairs([]).is_empty());
        assert!(ReasonProperties::EMPTY.is_empty());
    }
}

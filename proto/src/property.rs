//! MQTT 5 properties: the blocks that packets carry.

use bytes::{BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::{PayloadFormat, Text};

mod id;

pub(crate) use id::PropertyId;

/// The properties of PUBLISH and of a will message, in the order that the encoder writes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishProperties {
    /// Payload Format Indicator.
    pub payload_format: Option<PayloadFormat>,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Topic Alias; 0 is refused by the receiver with 0x94, not by the decoder.
    pub topic_alias: Option<u16>,
    /// Response Topic, without wildcards ([MQTT5-3.3.2-14]).
    pub response_topic: Option<Text>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Subscription Identifiers; only a server sends them ([MQTT5-3.3.4-6]).
    pub subscription_identifiers: SmallVec<[u32; 2]>,
    /// Content Type.
    pub content_type: Option<Text>,
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

//! PUBLISH (section 3.3).

use bytes::{BufMut, BytesMut};

use super::sink::{Counter, Section, Sink, Writer, with_length};
use crate::decode::{DUP, PacketType, RETAIN};
use crate::property::PropertyId;
use crate::{MessageProperties, PacketId, Publish, Qos, Version, varint};

/// A PUBLISH without its payload, borrowed, with the fields that differ per receiver apart from
/// the message's own properties.
#[derive(Debug, Clone, Copy)]
pub struct PublishHead<'a> {
    /// Set on a retransmission; left out at QoS 0 ([MQTT5-3.3.1-2]).
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty if the alias stands in for it.
    pub topic: &'a [u8],
    /// Present exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Length of the payload that follows, in bytes.
    pub payload_bytes: usize,
    /// Message Expiry Interval, in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Topic Alias.
    pub topic_alias: Option<u16>,
    /// Subscription Identifiers.
    pub subscription_identifiers: &'a [u32],
    /// The properties that do not depend on who receives the message.
    pub properties: &'a MessageProperties,
}

/// How a PUBLISH was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the whole packet, payload included, in bytes.
    pub packet_bytes: usize,
    /// Where in the head the packet identifier stands, if it has one.
    pub packet_id_at: usize,
}

/// The head of a PUBLISH that several receivers share, and what one of them has instead of its packet
/// identifier.
#[derive(Debug, Clone, Copy)]
pub struct SharedHead<'a> {
    /// The head.
    pub bytes: &'a [u8],
    /// The packet identifier and where it stands; `None` if the bytes are right as they are.
    pub packet_id: Option<(usize, PacketId)>,
}

/// A head, or any other bytes, that are right as they are.
impl<'a> From<&'a [u8]> for SharedHead<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, packet_id: None }
    }
}

impl SharedHead<'_> {
    /// Appends the head as its receiver gets it.
    #[inline]
    pub fn put(&self, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(self.bytes);
        if let Some((at, packet_id)) = self.packet_id
            && let Some(place) = out.get_mut(start.saturating_add(at)..)
            && let Some(place) = place.first_chunk_mut::<2>()
        {
            *place = packet_id.get().to_be_bytes();
        }
    }
}

impl<'a> PublishHead<'a> {
    /// The head of a publish as it stands.
    #[must_use]
    pub fn of(publish: &'a Publish) -> Self {
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.as_bytes(),
            packet_id: publish.packet_id,
            payload_bytes: publish.payload.len(),
            message_expiry_interval_s: publish.properties.message_expiry_interval_s,
            topic_alias: publish.properties.topic_alias,
            subscription_identifiers: &publish.properties.subscription_identifiers,
            properties: &publish.properties.message,
        }
    }

    /// Length of the whole packet on the wire, payload included, in bytes; `None` if no packet
    /// can be that long, or if QoS and packet identifier contradict each other.
    #[must_use]
    pub fn packet_bytes(&self, version: Version) -> Option<usize> {
        with_length(self.remaining_length(version)?)?.checked_add(1)
    }

    /// Appends everything up to the payload; nothing if [`Self::packet_bytes`] is `None`.
    ///
    /// *Cost*: no allocation of its own.
    pub fn encode(&self, version: Version, out: &mut impl BufMut) {
        self.encode_within(version, usize::MAX, out);
    }

    /// The same for a receiver that takes packets of so many bytes at most, payload included; `None`,
    /// and nothing is appended, if it is longer.
    #[inline]
    pub fn encode_within(
        &self,
        version: Version,
        packet_bytes_max: usize,
        out: &mut impl BufMut,
    ) -> Option<Written> {
        let remaining = self.remaining_length(version)?;
        let packet_bytes = with_length(remaining)?.checked_add(1)?;
        if packet_bytes > packet_bytes_max {
            return None;
        }
        let length_bytes = packet_bytes.wrapping_sub(remaining).wrapping_sub(1);
        let before_topic = length_bytes.wrapping_add(3);
        // `with_length` has seen that the length fits, and `remaining_length` that the topic does.
        let start = start(self.first_byte(), remaining as u32, self.topic.len() as u16);
        out.put_slice(start.get(..before_topic).unwrap_or_default());
        out.put_slice(self.topic);
        if let Some(packet_id) = self.packet_id {
            out.put_u16(packet_id.get());
        }
        if version.is_v5() {
            if self.has_properties() {
                Writer(out).counted(&Properties(self));
            } else {
                out.put_u8(0);
            }
        }
        let packet_id_at = before_topic.wrapping_add(self.topic.len());
        Some(Written { packet_bytes, packet_id_at })
    }

    fn has_properties(&self) -> bool {
        self.message_expiry_interval_s.is_some()
            || self.topic_alias.is_some()
            || !self.subscription_identifiers.is_empty()
            || !self.properties.is_empty()
    }

    #[inline]
    fn remaining_length(&self, version: Version) -> Option<usize> {
        if (self.qos == Qos::AtMostOnce) != self.packet_id.is_none()
            || self.topic.len() > usize::from(u16::MAX)
        {
            return None;
        }
        let properties = match version.is_v5() {
            false => 0,
            true if self.has_properties() => with_length(Counter::count(&Properties(self))?)?,
            true => 1,
        };
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        // Each is below 2^29.
        let head =
            self.topic.len().wrapping_add(2).wrapping_add(packet_id).wrapping_add(properties);
        head.checked_add(self.payload_bytes)
    }

    fn first_byte(&self) -> u8 {
        let dup = if self.dup && self.qos != Qos::AtMostOnce { DUP } else { 0 };
        let retain = if self.retain { RETAIN } else { 0 };
        PacketType::Publish.first_byte() | dup | ((self.qos as u8) << 1) | retain
    }
}

/// What a PUBLISH begins with, up to the topic: the first byte, the remaining length and that of the topic.
#[inline]
fn start(first: u8, remaining: u32, topic_bytes: u16) -> [u8; 7] {
    let [high, low] = topic_bytes.to_be_bytes();
    let seven = |at: u32| (remaining.wrapping_shr(at) & 0x7f) as u8;
    match varint::len(remaining) {
        1 => [first, seven(0), high, low, 0, 0, 0],
        2 => [first, seven(0) | 0x80, seven(7), high, low, 0, 0],
        3 => [first, seven(0) | 0x80, seven(7) | 0x80, seven(14), high, low, 0],
        _ => [first, seven(0) | 0x80, seven(7) | 0x80, seven(14) | 0x80, seven(21), high, low],
    }
}

struct Properties<'a>(&'a PublishHead<'a>);

impl Section for Properties<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        let Self(head) = self;
        out.four_byte_property(PropertyId::MessageExpiryInterval, head.message_expiry_interval_s);
        out.two_byte_property(PropertyId::TopicAlias, head.topic_alias);
        for &identifier in head.subscription_identifiers {
            out.varint_property(PropertyId::SubscriptionIdentifier, Some(identifier));
        }
        out.message_properties(head.properties);
    }
}

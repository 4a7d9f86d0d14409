//! PUBLISH (section 3.3).

use bytes::{BufMut, BytesMut};

use super::sink::{Counter, Section, Sink, Writer, with_length};
use crate::decode::{DUP, PacketType, RETAIN};
use crate::property::PropertyId;
use crate::{MessageProperties, PacketId, Publish, Qos, Version};

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
        let mut out = Writer(out);
        out.u8(self.first_byte());
        // `with_length` has seen that it fits.
        out.varint(u32::try_from(remaining).unwrap_or_default());
        Variable { head: self, version }.put(&mut out);
        let before_topic = packet_bytes.saturating_sub(remaining).saturating_add(2);
        let packet_id_at = before_topic.saturating_add(self.topic.len());
        Some(Written { packet_bytes, packet_id_at })
    }

    fn remaining_length(&self, version: Version) -> Option<usize> {
        if (self.qos == Qos::AtMostOnce) != self.packet_id.is_none() {
            return None;
        }
        Counter::count(&Variable { head: self, version })?.checked_add(self.payload_bytes)
    }

    fn first_byte(&self) -> u8 {
        let dup = if self.dup && self.qos != Qos::AtMostOnce { DUP } else { 0 };
        let retain = if self.retain { RETAIN } else { 0 };
        PacketType::Publish.first_byte() | dup | ((self.qos as u8) << 1) | retain
    }
}

/// Topic name, packet identifier and properties.
struct Variable<'a> {
    head: &'a PublishHead<'a>,
    version: Version,
}

impl Section for Variable<'_> {
    fn put<S: Sink>(&self, out: &mut S) {
        out.prefixed(self.head.topic);
        if let Some(packet_id) = self.head.packet_id {
            out.u16(packet_id.get());
        }
        if self.version.is_v5() {
            out.counted(&Properties(self.head));
        }
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

//! Messages that go to another shard as a copy.
//!
//! Whoever carries them puts their bytes one behind the other, so that nothing of them is shared by two shards.
//! The receiver looks at them where they are, and copies what it keeps.

use bytes::{Bytes, BytesMut};
use petrel_proto::{MessageProperties, Qos, TopicName};

use crate::Message;
use crate::deliver::Body;
use crate::pool::Copied;

/// Longer messages are held by several shards instead of being copied for each.
const BYTES_MAX: usize = 1024;

/// A message without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedHead {
    publisher: u64,
    expires_at_ms: u64,
    payload_bytes: u32,
    properties_bytes: u32,
    topic_bytes: u16,
    qos: Qos,
    retain: bool,
}

/// A message in memory that is somebody else's.
#[derive(Debug, Clone, Copy)]
pub struct Passed<'a> {
    head: PassedHead,
    pub(crate) topic: &'a [u8],
    properties: &'a [u8],
    payload: &'a [u8],
}

impl Message {
    /// Whether the message is so short that it goes to another shard as a copy, which costs less than memory
    /// that both hold.
    #[inline]
    pub(crate) fn is_passed(&self) -> bool {
        self.cost_bytes() <= BYTES_MAX
    }

    /// Appends the message's bytes to memory where somebody else finds them by the head.
    #[inline]
    pub fn pass(&self, memory: &mut Vec<u8>) -> PassedHead {
        let (topic, payload) = (self.topic.as_bytes(), &self.payload[..]);
        memory.extend_from_slice(topic);
        if !self.properties.is_empty() {
            put_properties(&self.properties, memory);
        }
        memory.extend_from_slice(payload);
        PassedHead {
            publisher: self.publisher,
            expires_at_ms: self.expires_at_ms,
            // No packet is longer than 2^28 bytes, and no name than 2^16.
            payload_bytes: payload.len() as u32,
            properties_bytes: self.properties.len() as u32,
            topic_bytes: topic.len() as u16,
            qos: self.qos,
            retain: self.retain,
        }
    }
}

/// Out of the way of messages that have none.
#[inline(never)]
fn put_properties(properties: &MessageProperties, memory: &mut Vec<u8>) {
    properties.put(memory);
}

impl PassedHead {
    /// Bytes of the message.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.topic_bytes as usize + self.properties_bytes as usize + self.payload_bytes as usize
    }

    /// The message, whose bytes come first in `memory`, and what comes behind them; `None` if there is not as
    /// much.
    #[inline]
    #[must_use]
    pub fn find<'a>(&self, memory: &'a [u8]) -> Option<(Passed<'a>, &'a [u8])> {
        let (topic, rest) = memory.split_at_checked(usize::from(self.topic_bytes))?;
        let (properties, rest) = rest.split_at_checked(self.properties_bytes as usize)?;
        let (payload, rest) = rest.split_at_checked(self.payload_bytes as usize)?;
        Some((Passed { head: *self, topic, properties, payload }, rest))
    }
}

impl Passed<'_> {
    /// QoS at which the message was published.
    #[inline]
    #[must_use]
    pub const fn qos(&self) -> Qos {
        self.head.qos
    }

    #[inline]
    pub(crate) const fn retain(&self) -> bool {
        self.head.retain
    }

    /// Keyed hash of the publisher's client identifier.
    pub(crate) const fn publisher(&self) -> u64 {
        self.head.publisher
    }

    /// Whether it has properties that are forwarded.
    #[inline]
    pub(crate) const fn has_properties(&self) -> bool {
        !self.properties.is_empty()
    }

    /// The message in memory of its own. *Cost*: an allocation.
    #[must_use]
    pub fn message(&self) -> Message {
        self.into_new_memory()
    }
}

impl Copied for Passed<'_> {
    fn bytes(&self) -> usize {
        self.head.bytes()
    }

    fn into_memory(self, mut copy: BytesMut) -> Message {
        copy.extend_from_slice(self.topic);
        // It was a topic name before it was copied; one that is none matches nothing.
        let topic = TopicName::from_bytes(copy.split().freeze()).unwrap_or(TopicName::EMPTY);
        let properties = if self.properties.is_empty() {
            MessageProperties::EMPTY
        } else {
            copy.extend_from_slice(self.properties);
            MessageProperties::whole(copy.split().freeze())
        };
        copy.extend_from_slice(self.payload);
        let PassedHead { publisher, expires_at_ms, qos, retain, .. } = self.head;
        let payload = copy.freeze();
        Message { topic, payload, qos, retain, properties, publisher, expires_at_ms }
    }
}

/// One without properties.
impl Body for Passed<'_> {
    fn topic(&self) -> &[u8] {
        self.topic
    }

    fn payload(&self) -> &[u8] {
        self.payload
    }

    fn whole(&self) -> Option<&Bytes> {
        None
    }

    fn properties(&self) -> &MessageProperties {
        static NONE: MessageProperties = MessageProperties::EMPTY;
        &NONE
    }

    fn expires_at_ms(&self) -> u64 {
        self.head.expires_at_ms
    }
}

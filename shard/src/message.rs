//! Application messages on their way from one publisher to many receivers.

use bytes::{Bytes, BytesMut};
use petrel_proto::{MessageProperties, Publish, Qos, TopicName};

/// An application message as the broker routes, queues and retains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: TopicName,
    /// The application's bytes.
    pub payload: Bytes,
    /// QoS at which it was published.
    pub qos: Qos,
    /// RETAIN as the publisher set it.
    pub retain: bool,
    /// The properties that are forwarded unaltered.
    pub properties: MessageProperties,
    /// Keyed hash of the publisher's client identifier, for No Local.
    pub publisher: u64,
    /// When it expires, on the monotonic clock in milliseconds; `u64::MAX` never.
    pub expires_at_ms: u64,
}

impl Message {
    /// The message inside a PUBLISH, still slices of the read buffer. `topic` stands for the
    /// packet's own, which may have been an alias.
    #[must_use]
    pub fn from_publish(publish: Publish, topic: TopicName, publisher: u64, now_ms: u64) -> Self {
        let expires_at_ms = expiry(publish.properties.message_expiry_interval_s, now_ms);
        Self {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties.message,
            publisher,
            expires_at_ms,
        }
    }

    /// The same message in memory of its own, pinning no read buffer. One allocation for topic,
    /// properties and payload together.
    #[must_use]
    pub fn into_owned(self) -> Self {
        let memory = BytesMut::with_capacity(self.cost_bytes());
        self.into_memory(memory)
    }

    /// The same message in memory that is empty and has room for it.
    #[must_use]
    pub(crate) fn into_memory(self, mut copy: BytesMut) -> Self {
        copy.extend_from_slice(self.topic.as_bytes());
        let topic = self.topic.moved_to(copy.split().freeze());
        self.properties.put(&mut copy);
        let properties = self.properties.moved_to(copy.split().freeze());
        copy.extend_from_slice(&self.payload);
        Self { topic, payload: copy.freeze(), properties, ..self }
    }

    /// Bytes that the message counts for against a queue's bound.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.topic.as_bytes().len() + self.payload.len() + self.properties.len()
    }

    /// True once the Message Expiry Interval has passed ([MQTT5-3.3.2-5]).
    #[must_use]
    pub const fn expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms <= now_ms
    }

    /// The Message Expiry Interval to forward: what is left, in whole seconds, rounded up so that
    /// it is never more than was received ([MQTT5-3.3.2-6]).
    #[must_use]
    pub const fn remaining_expiry_s(&self, now_ms: u64) -> Option<u32> {
        remaining_s(self.expires_at_ms, now_ms)
    }
}

/// What is left until then, as an expiry interval.
pub(crate) const fn remaining_s(expires_at_ms: u64, now_ms: u64) -> Option<u32> {
    if expires_at_ms == u64::MAX {
        return None;
    }
    let left_s = expires_at_ms.saturating_sub(now_ms).div_ceil(1000);
    Some(if left_s > u32::MAX as u64 { u32::MAX } else { left_s as u32 })
}

/// The moment at which an expiry interval ends, on the monotonic clock in milliseconds.
#[must_use]
pub fn expiry(interval_s: Option<u32>, now_ms: u64) -> u64 {
    interval_s.map_or(u64::MAX, |s| now_ms.saturating_add(u64::from(s) * 1000))
}

/// The message of a will, as it is published at `now_ms`; its expiry counts from there.
#[must_use]
pub fn will_message(will: &petrel_proto::Will, publisher: u64, now_ms: u64) -> Message {
    Message {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        properties: will.properties.message.clone(),
        publisher,
        expires_at_ms: expiry(will.properties.message_expiry_interval_s, now_ms),
    }
}

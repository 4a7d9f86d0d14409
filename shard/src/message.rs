//! Application messages on their way from one publisher to many receivers.

use bytes::{Bytes, BytesMut};
use petrel_proto::{Publish, PublishProperties, Qos, Text, TopicName};

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
    /// The properties that are forwarded unaltered; `None` if there are none. Message expiry,
    /// topic alias and subscription identifiers are never in here.
    pub properties: Option<Box<PublishProperties>>,
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
            properties: forwarded(publish.properties),
            publisher,
            expires_at_ms,
        }
    }

    /// The same message in memory of its own, pinning no read buffer. One allocation for topic
    /// and payload together.
    #[must_use]
    pub fn into_owned(self) -> Self {
        let topic_bytes = self.topic.as_bytes().len();
        let mut copy = BytesMut::with_capacity(topic_bytes + self.payload.len());
        copy.extend_from_slice(self.topic.as_bytes());
        copy.extend_from_slice(&self.payload);
        let payload = copy.split_off(topic_bytes).freeze();
        let topic = Text::new(copy.freeze()).and_then(TopicName::new).unwrap_or_default();
        Self { topic, payload, properties: self.properties.map(own_properties), ..self }
    }

    /// Bytes that the message counts for against a queue's bound.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, |properties| {
            let text = |text: &Option<Text>| text.as_ref().map_or(0, Text::len);
            properties.user_properties.wire().len()
                + text(&properties.response_topic)
                + text(&properties.content_type)
                + properties.correlation_data.as_ref().map_or(0, Bytes::len)
        });
        self.topic.as_bytes().len() + self.payload.len() + properties
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
        if self.expires_at_ms == u64::MAX {
            return None;
        }
        let left_s = self.expires_at_ms.saturating_sub(now_ms).div_ceil(1000);
        Some(if left_s > u32::MAX as u64 { u32::MAX } else { left_s as u32 })
    }
}

/// The moment at which an expiry interval ends, on the monotonic clock in milliseconds.
#[must_use]
pub fn expiry(interval_s: Option<u32>, now_ms: u64) -> u64 {
    interval_s.map_or(u64::MAX, |s| now_ms.saturating_add(u64::from(s) * 1000))
}

/// Boxes what is forwarded unaltered, or nothing if there is nothing ([MQTT5-3.3.2-4]).
#[must_use]
pub fn forwarded(mut properties: PublishProperties) -> Option<Box<PublishProperties>> {
    properties.message_expiry_interval_s = None;
    properties.topic_alias = None;
    properties.subscription_identifiers.clear();
    (properties != PublishProperties::default()).then(|| Box::new(properties))
}

fn own_properties(mut properties: Box<PublishProperties>) -> Box<PublishProperties> {
    let own = |text: &mut Option<Text>| *text = text.as_ref().map(Text::to_owned_text);
    own(&mut properties.response_topic);
    own(&mut properties.content_type);
    properties.user_properties = properties.user_properties.to_owned_properties();
    properties.correlation_data =
        properties.correlation_data.as_deref().map(Bytes::copy_from_slice);
    properties
}

/// The message of a will, as it is published at `now_ms`; its expiry counts from there.
#[must_use]
pub fn will_message(will: &petrel_proto::Will, publisher: u64, now_ms: u64) -> Message {
    Message {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        properties: forwarded(will.properties.clone()),
        publisher,
        expires_at_ms: expiry(will.properties.message_expiry_interval_s, now_ms),
    }
}

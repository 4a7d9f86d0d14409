//! Messages of one turn to one shard.
//!
//! Messages that are passed on are copied one behind the other, so that nothing of them is shared by two
//! shards: whoever counts the holders of their memory is the receiver alone.

use bytes::{Bytes, BytesMut};
use petrel_proto::{MessageProperties, Qos, TopicName};
use petrel_shard::{Message, PeerMessage};

/// Messages in their order; the memory is used again once it has been given back.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<Item>,
    told: Vec<PeerMessage>,
    passed: BytesMut,
    bytes: u64,
    /// Where those begin that have not been taken out: among the items, among what is told, and the bytes.
    next: usize,
    next_told: usize,
    rest: Bytes,
}

#[derive(Debug, Clone, Copy)]
enum Item {
    /// The next that is told.
    Told,
    /// The next that is passed on.
    Passed(Head),
}

/// A message without its bytes.
#[derive(Debug, Clone, Copy)]
struct Head {
    publisher: u64,
    expires_at_ms: u64,
    payload_bytes: u32,
    properties_bytes: u32,
    topic_bytes: u16,
    qos: Qos,
    retain: bool,
}

/// What has more than this is not used again.
const ITEMS_MAX: usize = 1024;
const TOLD_MAX: usize = 256;
const PASSED_BYTES_MAX: usize = 128 << 10;

impl Batch {
    /// Puts a message behind the others.
    #[inline]
    pub fn push(&mut self, message: PeerMessage) {
        match message {
            PeerMessage::Passed(message) => self.copy(&message),
            message => {
                self.bytes += message.bytes() as u64;
                self.told.push(message);
                self.items.push(Item::Told);
            }
        }
    }

    #[inline]
    fn copy(&mut self, message: &Message) {
        let before = self.passed.len();
        let topic = message.topic.as_bytes();
        self.passed.extend_from_slice(topic);
        if !message.properties.is_empty() {
            message.properties.put(&mut self.passed);
        }
        self.passed.extend_from_slice(&message.payload);
        self.bytes += (self.passed.len() - before) as u64;
        self.items.push(Item::Passed(Head {
            publisher: message.publisher,
            expires_at_ms: message.expires_at_ms,
            // What is longer is not passed on.
            payload_bytes: message.payload.len() as u32,
            properties_bytes: message.properties.len() as u32,
            topic_bytes: topic.len() as u16,
            qos: message.qos,
            retain: message.retain,
        }));
    }

    /// How many messages there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len() - self.next
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all messages that were put in, as queues count them.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next message out. Nothing is put in from then on until it has been given back.
    #[inline]
    pub fn pop(&mut self) -> Option<PeerMessage> {
        let item = *self.items.get(self.next)?;
        self.next += 1;
        match item {
            Item::Told => {
                let told = self.told.get_mut(self.next_told)?;
                self.next_told += 1;
                Some(std::mem::replace(told, PeerMessage::Rejoined))
            }
            Item::Passed(head) => {
                if !self.passed.is_empty() {
                    self.rest = self.passed.split().freeze();
                }
                head.message(&mut self.rest).map(PeerMessage::Passed)
            }
        }
    }

    /// Drops all messages.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.told.clear();
        self.passed.clear();
        (self.bytes, self.next, self.next_told, self.rest) = (0, 0, 0, Bytes::new());
        // Takes back what was handed out, if nothing of it is held any more.
        let _ = self.passed.try_reclaim(self.passed.capacity() + 1);
    }

    /// Whether its memory is worth keeping.
    pub(crate) fn is_small(&self) -> bool {
        self.items.capacity() <= ITEMS_MAX
            && self.told.capacity() <= TOLD_MAX
            && self.passed.capacity() <= PASSED_BYTES_MAX
    }
}

impl Head {
    /// Cuts the message off whose bytes come first.
    #[inline]
    fn message(self, rest: &mut Bytes) -> Option<Message> {
        let (topic, properties) = (usize::from(self.topic_bytes), self.properties_bytes as usize);
        let payload = self.payload_bytes as usize;
        if rest.len() < topic + properties + payload {
            return None;
        }
        // It was a topic name before it was copied.
        let topic = TopicName::from_bytes(rest.split_to(topic)).ok()?;
        let properties = match properties {
            0 => MessageProperties::EMPTY,
            bytes => MessageProperties::whole(rest.split_to(bytes)),
        };
        Some(Message {
            topic,
            payload: rest.split_to(payload),
            qos: self.qos,
            retain: self.retain,
            properties,
            publisher: self.publisher,
            expires_at_ms: self.expires_at_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use petrel_proto::{MessageFields, Text};
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Vec<(Message, bool)>> {
        let message = ("[a-zé/]{1,20}", 0_usize..200, 0..3_u8, any::<bool>(), any::<u64>());
        let message = message.prop_map(|(topic, payload, qos, with_fields, number)| {
            let text = |text: &str| Text::try_from(text).unwrap();
            let content_type = with_fields.then(|| text(&topic));
            let fields = MessageFields { content_type, ..MessageFields::default() };
            Message {
                topic: TopicName::new(text(&topic)).unwrap(),
                payload: vec![payload as u8; payload].into(),
                qos: [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)],
                retain: number.is_multiple_of(2),
                properties: MessageProperties::of(&fields).unwrap(),
                publisher: number,
                expires_at_ms: !number,
            }
        });
        prop::collection::vec((message, any::<bool>()), 0..20)
    }

    proptest! {
        #[test]
        fn all_come_out_as_they_went_in(rounds in prop::collection::vec(messages(), 0..4)) {
            let mut batch = Batch::default();
            let mut held = Vec::new();
            for messages in &rounds {
                for (message, passed) in messages {
                    batch.push(match passed {
                        true => PeerMessage::Passed(message.clone()),
                        false => PeerMessage::Publish(Arc::new(message.clone())),
                    });
                }
                prop_assert_eq!(batch.len(), messages.len());
                let bytes: usize = messages.iter().map(|(message, _)| message.cost_bytes()).sum();
                prop_assert_eq!(batch.bytes(), bytes as u64);
                let got: Vec<_> = std::iter::from_fn(|| batch.pop())
                    .map(|it| it.published().unwrap().clone())
                    .collect();
                prop_assert!(got.iter().eq(messages.iter().map(|(message, _)| message)));
                prop_assert!(batch.is_empty());
                // What is still held stays what it is, whatever comes next.
                held.extend(got.into_iter().zip(messages).step_by(3));
                batch.clear();
            }
            prop_assert!(held.iter().all(|(got, (message, _))| got == message));
        }
    }
}

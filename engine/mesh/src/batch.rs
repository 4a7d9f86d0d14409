//! Messages of one turn to one shard.
//!
//! Messages that are passed on are copied one behind the other, so that nothing of them is shared by two
//! shards.

use petrel_shard::{Message, Passed, PassedHead, PeerMessage};

use crate::Stamp;

/// Messages in their order; the memory is used again once it has been given back.
#[derive(Debug, Default)]
pub struct Batch {
    items: Vec<Item>,
    told: Vec<PeerMessage>,
    /// The bytes of all that is passed on.
    passed: Vec<u8>,
    told_bytes: u64,
    /// Where those begin that have not been taken out: among the items, what is told, and the bytes.
    next: usize,
    next_told: usize,
    next_byte: usize,
    since: Stamp,
}

#[derive(Debug, Clone, Copy)]
enum Item {
    /// The next that is told.
    Told,
    /// The next that is passed on.
    Passed(PassedHead),
}

/// A message that is taken out of a [`Batch`].
#[derive(Debug)]
pub enum Taken<'a> {
    /// One that may be kept.
    Told(PeerMessage),
    /// One that lies in the batch.
    Passed(Passed<'a>),
}

/// What has more than this is not used again.
const ITEMS_MAX: usize = 1024;
const TOLD_MAX: usize = 256;
const PASSED_BYTES_MAX: usize = 128 << 10;

impl Batch {
    /// Puts a message behind the others.
    pub fn push(&mut self, message: PeerMessage) {
        match message {
            PeerMessage::Passed(message) => self.pass(&message),
            message => {
                self.told_bytes += message.bytes() as u64;
                self.told.push(message);
                self.items.push(Item::Told);
            }
        }
    }

    /// Puts a copy of a message behind the others.
    #[inline]
    pub fn pass(&mut self, message: &Message) {
        self.items.push(Item::Passed(message.pass(&mut self.passed)));
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
        self.told_bytes + self.passed.len() as u64
    }

    /// When the first of what caused these messages could be read, as the sender has said.
    #[must_use]
    pub const fn since(&self) -> Stamp {
        self.since
    }

    pub(crate) const fn set_since(&mut self, since: Stamp) {
        self.since = since;
    }

    /// Takes the next message out. Nothing is put in from then on until it has been given back.
    #[inline]
    pub fn pop(&mut self) -> Option<Taken<'_>> {
        let item = self.items.get(self.next)?;
        self.next += 1;
        match item {
            Item::Told => {
                let told = self.told.get_mut(self.next_told)?;
                self.next_told += 1;
                Some(Taken::Told(std::mem::replace(told, PeerMessage::Rejoined)))
            }
            Item::Passed(head) => {
                let (passed, _) = head.find(self.passed.get(self.next_byte..)?)?;
                self.next_byte += head.bytes();
                Some(Taken::Passed(passed))
            }
        }
    }

    /// Drops all messages.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.told.clear();
        self.passed.clear();
        (self.told_bytes, self.next, self.next_told, self.next_byte) = (0, 0, 0, 0);
    }

    /// Whether its memory is worth keeping.
    pub(crate) fn is_small(&self) -> bool {
        self.items.capacity() <= ITEMS_MAX
            && self.told.capacity() <= TOLD_MAX
            && self.passed.capacity() <= PASSED_BYTES_MAX
    }
}

impl Taken<'_> {
    /// The message by itself. *Cost*: a copy.
    #[must_use]
    pub fn message(self) -> PeerMessage {
        match self {
            Self::Told(message) => message,
            Self::Passed(passed) => PeerMessage::Passed(passed.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use petrel_proto::{MessageFields, MessageProperties, Qos, Text, TopicName};
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Vec<(Message, bool)>> {
        let message = ("[a-zé/]{1,20}", 0_usize..1100, 0..3_u8, any::<bool>(), any::<u64>());
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
                let got: Vec<_> = std::iter::from_fn(|| batch.pop().map(Taken::message))
                    .map(|it| it.published().unwrap().clone())
                    .collect();
                prop_assert!(got.iter().eq(messages.iter().map(|(message, _)| message)));
                prop_assert!(batch.is_empty());
                batch.clear();
            }
        }
    }
}

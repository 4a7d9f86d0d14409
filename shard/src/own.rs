//! Messages that no client publishes: those of the broker itself, and those that an operator has it publish.

use petrel_proto::{Publish, Qos, ReasonCode, TopicName};

use crate::event::DropReason;
use crate::ledger::refuse_message;
use crate::shard::{Shard, Turn};
use crate::traced::{NOBODY, Note, topic_text};
use crate::{Message, Now, Outbox};

/// Whether a topic is one of the broker's own, where clients must not publish and whose values mean nothing to the
/// next process.
pub(crate) fn is_of_the_broker(topic: &TopicName) -> bool {
    topic.is_system() && topic.levels().next() == Some(b"$SYS")
}

impl Shard {
    /// Publishes a message that no client has sent, as [`crate::Input::Publish`] does, and returns what a client
    /// would be told of it: Success, No matching subscribers, Topic Name invalid, or Quota exceeded while what is
    /// published is refused for want of memory or storage.
    pub fn publish_own(&mut self, now: Now, publish: Publish, out: &mut Outbox) -> ReasonCode {
        if self.is_watched {
            return self.publish_own_watched(now, publish, out);
        }
        self.on_own_publish(&mut Turn { now_ms: now.mono_ms, out }, publish)
    }

    /// The message goes the way of any other, but for what holds for clients alone: rights, the topics that are the
    /// broker's, and its Maximum QoS.
    pub(crate) fn on_own_publish(&mut self, turn: &mut Turn<'_>, publish: Publish) -> ReasonCode {
        turn.out.ledger.own += 1;
        if let Err(violation) = self.check_levels(&publish.topic) {
            refuse_own(turn, &publish.topic, DropReason::NotAuthorized);
            return violation.reason;
        }
        if self.full {
            refuse_own(turn, &publish.topic, DropReason::MemoryFull);
            return ReasonCode::QuotaExceeded;
        }
        if self.refuses && publish.qos > Qos::AtMostOnce {
            refuse_own(turn, &publish.topic, DropReason::StorageFull);
            return ReasonCode::QuotaExceeded;
        }
        // No client has an empty identifier, so none of them is the publisher.
        let publisher = self.key.hash(b"");
        let topic = publish.topic.clone();
        let message = Message::from_publish(publish, topic, publisher, turn.now_ms);
        self.keep.begin();
        if self.route(turn, message, None, None) {
            ReasonCode::Success
        } else {
            turn.out.ledger.unmatched += 1;
            ReasonCode::NoMatchingSubscribers
        }
    }
}

fn refuse_own(turn: &mut Turn<'_>, topic: &TopicName, reason: DropReason) {
    refuse_message(turn, reason);
    let topic = topic.as_bytes();
    turn.out.notes.add(|| Note::Refused { session: NOBODY, topic: topic_text(topic), reason });
}

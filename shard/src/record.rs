//! What must outlive the process, in the words of the shard.
//!
//! A shard puts [`Record`]s into its outbox in the order in which they hold; whoever keeps them may
//! lose a suffix of that order when the process or the machine fails, and nothing else. It says with
//! [`crate::Input::Kept`] how far it has come.

use std::sync::Arc;

use petrel_proto::{
    ClientId, PacketId, Qos, SubscriptionOptions, Text, TopicFilter, TopicName, Will,
};
use smallvec::SmallVec;

use crate::peer::GroupKey;
use crate::{Author, Message, Slot};

/// Bits of an [`Incarnation`] that count within one process.
const COUNT_BITS: u32 = 32;
/// Bits of the slot.
const SLOT_BITS: u32 = 12;

/// One life of a session, from the CONNECT that made it to its end, or of a shared group, from its
/// first kept member to its last member. No other has the same, not even after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The `count`th life that a shard began in the process with this epoch.
    ///
    /// *Bounds*: of the epoch, 20 bits are used: a million starts.
    #[must_use]
    pub const fn new(epoch: u32, slot: Slot, count: u32) -> Self {
        let epoch = (epoch as u64) << (SLOT_BITS + COUNT_BITS);
        Self(epoch | (slot.0 as u64) << COUNT_BITS | count as u64)
    }

    /// The slot of its client identifier: who is home to it, and what keeps its records.
    #[must_use]
    pub const fn slot(self) -> Slot {
        Slot((self.0 >> COUNT_BITS) as u16 & ((1 << SLOT_BITS) - 1))
    }

    /// As a number, in the order of the lives.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// From what [`Self::to_u64`] gave.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// Where a QoS 2 message came from, so that it can be told after a crash whether its receipt was kept:
/// if not, its publisher sends it again, and what was queued of it must not be delivered as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream(u64);

impl Stream {
    /// The publishers of one shard, of one process, whose receipts are kept in one lane.
    #[must_use]
    pub const fn new(epoch: u32, shard: u16, lane: u16) -> Self {
        Self((epoch as u64) << 32 | (shard as u64) << 16 | lane as u64)
    }

    /// The process.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The shard.
    #[must_use]
    pub const fn shard(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The lane.
    #[must_use]
    pub const fn lane(self) -> u16 {
        self.0 as u16
    }

    /// As a number.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// From what [`Self::to_u64`] gave.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// A QoS 2 message that counts once the receipts of its stream have come to this number: that of its
/// publisher, or one that says that a shared group has it no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Provided {
    /// Whose receipt.
    pub stream: Stream,
    /// Which of them.
    pub number: u64,
}

/// One thing to be kept, or to be kept no longer.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A session as it is from now on, without what has records of its own.
    Session(Box<SessionRecord>),
    /// A shared group keeps what waits in it from now on, as a session does.
    Group {
        /// Which life.
        incarnation: Incarnation,
        /// Of which group.
        key: Arc<GroupKey>,
    },
    /// A session or a group is over, with everything that belongs to it.
    Ended {
        /// Which.
        incarnation: Incarnation,
    },
    /// A session has this subscription from now on.
    Subscribed(Box<SubscriptionRecord>),
    /// A session has this subscription no longer.
    Unsubscribed {
        /// Whose.
        incarnation: Incarnation,
        /// The filter as the client wrote it.
        filter: TopicFilter,
    },
    /// A message waits for a session.
    Queued {
        /// Whose.
        incarnation: Incarnation,
        /// Its place in the session's order, never used again.
        sequence: u64,
        /// What waits.
        delivery: Box<DeliveryRecord>,
    },
    /// The client has what was queued, or never will.
    Done {
        /// Whose.
        incarnation: Incarnation,
        /// Its place.
        sequence: u64,
    },
    /// The client has the QoS 2 message that was queued, and has not yet completed it
    /// ([MQTT5-4.3.3-5]).
    Released {
        /// Whose.
        incarnation: Incarnation,
        /// Its place.
        sequence: u64,
    },
    /// What waited for a group waits for one of its members instead, to whose session it was queued
    /// under this condition, which is fulfilled.
    Moved {
        /// The group.
        incarnation: Incarnation,
        /// Its place there.
        sequence: u64,
        /// The receipts of this stream have come so far.
        provided: Provided,
    },
    /// A QoS 2 message was received ([MQTT5-4.3.3-8]), and all that was queued of it counts.
    Received {
        /// From whom.
        incarnation: Incarnation,
        /// As what.
        packet_id: PacketId,
        /// The receipts of this stream have come so far.
        provided: Provided,
    },
    /// A QoS 2 message that was received has been released ([MQTT5-4.3.3-11]).
    Forgotten {
        /// From whom.
        incarnation: Incarnation,
        /// As what.
        packet_id: PacketId,
    },
    /// The retained message of its topic from now on, and who published it, if that is known.
    Retained(Arc<Message>, Option<Arc<Author>>),
    /// A topic has no retained message any more.
    Cleared(TopicName),
}

/// What is kept of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which life.
    pub incarnation: Incarnation,
    /// Whose.
    pub client_id: ClientId,
    /// Session Expiry Interval, in seconds; 0 if nothing is left of it but its will when the
    /// connection ends.
    pub expiry_interval_s: u32,
    /// When it ends, on the monotonic clock in milliseconds; `None` while it has a connection,
    /// `u64::MAX` for never.
    pub expires_at_ms: Option<u64>,
    /// The will, if it has not been published.
    pub will: Option<Box<Will>>,
    /// When the will is published, on the monotonic clock in milliseconds; `u64::MAX` while there is
    /// a connection.
    pub will_at_ms: u64,
    /// Wills that have been published, until what was queued of them is kept; oldest first.
    pub leaving: Vec<Will>,
    /// The user whose session it is, if one has proved to be its client.
    pub user: Option<Text>,
}

/// What is kept of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// Whose.
    pub incarnation: Incarnation,
    /// The filter as the client wrote it, with `$share/…` if shared.
    pub filter: TopicFilter,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Subscription Identifier; 0 for none.
    pub identifier: u32,
    /// Its SUBACK promised retained messages, and not all of them have been queued or sent.
    pub awaits_retained: bool,
}

/// What is kept of a message that waits for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRecord {
    /// The message.
    pub message: Arc<Message>,
    /// QoS at which it is delivered.
    pub qos: Qos,
    /// RETAIN flag with which it is delivered.
    pub retain: bool,
    /// Subscription Identifiers of all subscriptions that matched.
    pub identifiers: SmallVec<[u32; 1]>,
    /// It answers a SUBSCRIBE from what was retained, as opposed to live.
    pub stored: bool,
    /// What it depends on; `None` if on nothing.
    pub provided: Option<Provided>,
}

/// Something that waits for a session, as it is given back.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its place in the session's order.
    pub sequence: u64,
    /// The message; `None` if the client has it and has not completed it.
    pub delivery: Option<DeliveryRecord>,
}

impl Record {
    /// The slot that decides where it is kept.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Self::Session(session) => session.incarnation.slot(),
            Self::Subscribed(subscription) => subscription.incarnation.slot(),
            Self::Ended { incarnation }
            | Self::Group { incarnation, .. }
            | Self::Moved { incarnation, .. }
            | Self::Unsubscribed { incarnation, .. }
            | Self::Queued { incarnation, .. }
            | Self::Done { incarnation, .. }
            | Self::Released { incarnation, .. }
            | Self::Received { incarnation, .. }
            | Self::Forgotten { incarnation, .. } => incarnation.slot(),
            Self::Retained(message, _) => Slot::of(message.topic.as_bytes()),
            Self::Cleared(topic) => Slot::of(topic.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_knows_its_slot_and_later_ones_have_higher_numbers() {
        let first = Incarnation::new(1, Slot(4095), u32::MAX);
        let later = Incarnation::new(2, Slot(0), 0);
        assert_eq!((first.slot(), later.slot()), (Slot(4095), Slot(0)));
        assert!(first < later);
        assert_eq!(Incarnation::from_u64(first.to_u64()), first);
    }

    #[test]
    fn a_stream_knows_its_parts() {
        let stream = Stream::new(7, 300, 3);
        assert_eq!((stream.epoch(), stream.shard(), stream.lane()), (7, 300, 3));
        assert_eq!(Stream::from_u64(stream.to_u64()), stream);
    }
}

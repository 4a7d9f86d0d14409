//! What shards say to each other.
//!
//! Lanes in rank order: *route* (a message looks for its receivers), *deliver* (it goes to one
//! session), *return* (it could not be delivered). Handling a message of one lane emits only
//! messages of later lanes; a returned shared message is routed again at most
//! [`GROUP_ATTEMPTS_MAX`] times, then it waits in its group, and a message that a member asks for is
//! answered once. So rings cannot deadlock.

use std::sync::Arc;

use petrel_proto::{Text, TopicFilter};

use crate::record::{Incarnation, Provided};
use crate::{Author, Message, SessionRef};

/// How often a shared message is offered to members before it waits in the group's queue.
pub const GROUP_ATTEMPTS_MAX: u8 = 4;

/// Names a shared subscription group in the whole process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// Share name.
    pub share: Text,
    /// The filter without `$share/{name}/`.
    pub filter: TopicFilter,
}

impl GroupKey {
    /// The filter as clients write it.
    pub(crate) fn written(&self) -> String {
        let filter = std::str::from_utf8(self.filter.as_bytes()).unwrap_or_default();
        format!("$share/{}/{filter}", self.share.as_str())
    }
}

/// What the owner of a group knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// The member has a connection.
    pub online: bool,
    /// The member's session takes more without queueing.
    pub ready: bool,
}

/// A message from one shard to another. Peers of one shard are trusted.
#[derive(Debug, Clone)]
pub enum PeerMessage {
    /// Route: deliver to your subscriptions and to the groups that you own. The message may be part of a read
    /// buffer, so whoever carries it to the other shard copies it, and who gets it keeps no part of it.
    Passed(Message),
    /// Route: the same with a message that may be kept as it is.
    Publish(Arc<Message>),
    /// Route: deliver, but to sessions that are kept only once the receipt of the message is.
    PublishOnce(Arc<Message>, Provided),
    /// Route: set, replace or clear the retained message of this topic, which you own. Its author, where
    /// there may be rules.
    Retain(Arc<Message>, Option<Arc<Author>>),
    /// Route: send what you retain and this filter matches.
    RetainedQuery(Box<RetainedQuery>),
    /// Deliver: an answer to a query.
    RetainedBatch(Box<RetainedBatch>),
    /// Route: a session joins a group that you own.
    GroupJoin {
        /// The group.
        group: Arc<GroupKey>,
        /// The session.
        member: SessionRef,
        /// State of the member.
        readiness: Readiness,
        /// Tells the session's joins apart.
        join: u32,
        /// The session outlives the process.
        kept: bool,
    },
    /// Route: the sender's sessions that were brought back have joined their groups again.
    Rejoined,
    /// Deliver: the join has taken effect, its SUBACK may leave.
    GroupJoined {
        /// The session.
        member: SessionRef,
        /// Which of its joins.
        join: u32,
    },
    /// Route: a session leaves a group that you own.
    GroupLeave {
        /// The group.
        group: Arc<GroupKey>,
        /// The session.
        member: SessionRef,
    },
    /// Route: a member came, went, filled up or drained.
    GroupReadiness {
        /// The group.
        group: Arc<GroupKey>,
        /// The session.
        member: SessionRef,
        /// Its new state.
        readiness: Readiness,
    },
    /// Deliver: a message of a group goes to this member.
    GroupDeliver(Box<GroupDelivery>),
    /// Deliver: a QoS 2 message that was asked for belongs to the member, under this condition.
    GroupMove(Box<GroupClaim>, Provided),
    /// Deliver: a QoS 2 message that was asked for is the group's no longer.
    GroupTaken(Box<GroupClaim>),
    /// Deliver: the group of a QoS 2 message that was asked for has ended meanwhile, and the message with
    /// it.
    GroupGone(Box<GroupClaim>),
    /// Deliver: the receipts of your peer's QoS 2 messages are kept up to this number.
    Committed {
        /// Those in this lane.
        lane: u16,
        /// This number.
        number: u64,
    },
    /// Return: so many of your messages of QoS 1 and 2 have been dealt with, and what had to be kept of
    /// them is.
    Kept {
        /// Since the beginning.
        count: u64,
    },
    /// Return: the member could not take it, or ended before it acknowledged.
    GroupReturn(Box<GroupDelivery>),
    /// Return: the member could send this QoS 2 message now, if it were its own.
    GroupTake(Box<GroupClaim>),
    /// Return: members have these messages, or nobody will.
    GroupDone(Vec<Lent>),
}

impl PeerMessage {
    /// The message that is to be delivered, for one that looks for its receivers.
    #[must_use]
    pub fn published(&self) -> Option<&Message> {
        match self {
            Self::Passed(message) => Some(message),
            Self::Publish(message) | Self::PublishOnce(message, _) => Some(message),
            _ => None,
        }
    }

    /// Bytes of the message that it carries, as queues count them; 0 if it carries none, or many.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Passed(message) => message.cost_bytes(),
            Self::Publish(message) | Self::PublishOnce(message, _) | Self::Retain(message, _) => {
                message.cost_bytes()
            }
            Self::GroupDeliver(delivery) | Self::GroupReturn(delivery) => {
                delivery.message.cost_bytes()
            }
            _ => 0,
        }
    }
}

/// Asks the owner of retained messages for those that a filter matches.
#[derive(Debug, Clone)]
pub struct RetainedQuery {
    /// Who asks.
    pub asker: SessionRef,
    /// Tells the asker's queries apart.
    pub query: u32,
    /// What to match.
    pub filter: TopicFilter,
    /// Resume behind this topic name; `None` at the start.
    pub after: Option<Text>,
}

/// Some of the retained messages that a query asked for.
#[derive(Debug, Clone)]
pub struct RetainedBatch {
    /// Who asked.
    pub asker: SessionRef,
    /// Which of its queries.
    pub query: u32,
    /// Matching messages, in topic order.
    pub messages: Vec<Arc<Message>>,
    /// Ask again behind this name for more; `None` at the end.
    pub next: Option<Text>,
}

/// A message of a shared group on its way to or back from a member.
#[derive(Debug, Clone)]
pub struct GroupDelivery {
    /// The group.
    pub group: Arc<GroupKey>,
    /// The member chosen.
    pub member: SessionRef,
    /// The message.
    pub message: Arc<Message>,
    /// How many members were tried, this one included.
    pub attempt: u8,
    /// The member's home answers with the member's readiness, for more wait.
    pub more: bool,
    /// The record that the group has of it; `None` if it has none.
    pub lent: Option<Lent>,
    /// What the member has asked for it.
    pub asked: Asked,
}

/// A message of a kept group, which keeps it while a member has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// The group.
    pub incarnation: Incarnation,
    /// Its place there.
    pub sequence: u64,
}

/// What the home of a member has asked the owner of the group about a QoS 2 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// Nothing.
    #[default]
    Nothing,
    /// To have it for a session that is kept.
    ToMove,
    /// To forget it, for a session that is not.
    ToForget,
}

/// A member wants a QoS 2 message that it was lent for itself: it goes to no other from then on
/// ([MQTT5-4.8.2-4], [MQTT5-4.8.2-5]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupClaim {
    /// The message.
    pub lent: Lent,
    /// The member.
    pub member: SessionRef,
    /// Its session is kept.
    pub kept: bool,
}

//! What is said while somebody watches: packets, and what was decided about them.
//!
//! Each input is handled as it always is; what it was and what came of it is said around that, from the packets,
//! the outbox and the ledger before and after. Only what cannot be told from those is noted where it is decided
//! ([`Note`]). It must never change what the shard does.

mod say;

use petrel_proto::{ClientId, Packet, Qos, ReasonCode, Text, TopicFilter, TopicName};
use smallvec::SmallVec;

use crate::event::{DropReason, EndedBy};
use crate::look::Rights;
use crate::shard::Turn;
use crate::watch::{Watchers, Whence};
use crate::{ConnId, ShardIndex};

/// What one input leads to that is said, at most: a message to very many would hold up the shard otherwise.
const TRACED_PER_INPUT_MAX: usize = 1_024;

/// Something that one recording or several want.
#[derive(Debug, Clone)]
pub struct Traced {
    /// Which.
    pub to: Watchers,
    /// The connection that it is about.
    pub conn: Option<ConnId>,
    /// Where that came from, if it is watched and that is known.
    pub whence: Option<Whence>,
    /// The client that it is about.
    pub client_id: Option<ClientId>,
    /// The topic of the message that it is about.
    pub topic: Option<Text>,
    /// What happened.
    pub what: What,
}

/// What happened, or was decided.
#[derive(Debug, Clone)]
pub enum What {
    /// The client has sent a packet. Its bytes may be slices of a shared read buffer.
    Came(Box<Packet>),
    /// A packet was given to the client's socket.
    Sent {
        /// The packet.
        packet: Box<Packet>,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The client has sent what is no packet, or none that it may send.
    Malformed {
        /// The reason it is told.
        reason: ReasonCode,
        /// What is wrong, in words.
        what: &'static str,
    },
    /// It was found out who the client is; without a user if nobody says who it is.
    Verified {
        /// The user that it is.
        user: Option<Text>,
    },
    /// It was found out that the client is not who it says.
    Unverified {
        /// The reason it is told.
        reason: ReasonCode,
    },
    /// The client has its session.
    Connected {
        /// Which was there before.
        session_present: bool,
    },
    /// What the client may do with the topic of its message, or with a filter.
    Right {
        /// With which filter it wants to subscribe; `None` if it publishes.
        filter: Option<TopicFilter>,
        /// At which QoS, if it may.
        allowed: Option<Qos>,
        /// Which rules say so.
        rights: Rights,
    },
    /// The message came from another shard.
    FromShard(ShardIndex),
    /// The message has receivers.
    Routed {
        /// So many in this shard.
        copies: u64,
        /// And some in these.
        shards: SmallVec<[u16; 4]>,
        /// The shard that retains it, if it is to be retained.
        retained_in: Option<u16>,
    },
    /// No subscription matches the message.
    Unmatched {
        /// The shard that retains it, if it is to be retained.
        retained_in: Option<u16>,
    },
    /// The message goes no further.
    Refused(DropReason),
    /// The message was delivered but not retained.
    NotRetained,
    /// The broker itself publishes the message, or an operator.
    Own,
    /// The message is the client's will.
    Will,
    /// The message waits in the session's queue, which holds so many with it.
    Queued(u64),
    /// The message waits in a shared group.
    QueuedInGroup {
        /// The group as clients write it.
        group: String,
    },
    /// A shared group gives the message to one of its members.
    Lent {
        /// The group as clients write it.
        group: String,
        /// The home of the member.
        shard: ShardIndex,
    },
    /// The message does not reach this client, or nobody in a group.
    Dropped {
        /// Why.
        reason: DropReason,
        /// How many messages.
        copies: u64,
    },
    /// The client has acknowledged the message, which is delivered by that.
    Delivered,
    /// The connection has ended.
    Ended {
        /// By whom it was ended.
        by: EndedBy,
        /// Why.
        reason: ReasonCode,
        /// What was wrong in words, if something was; empty otherwise.
        what: &'static str,
    },
    /// The session has ended.
    SessionEnded,
}

/// In the place of a session where there is none.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What has to be noted where it is decided.
#[derive(Debug)]
pub(crate) enum Note {
    Lost { session: u32, topic: Option<Text>, reason: DropReason, copies: u64 },
    LostInGroup { topic: Text, reason: DropReason },
    Refused { session: u32, topic: Text, reason: DropReason },
    NotRetained { topic: Text },
    Will { session: u32, topic: Text },
    Routed { session: u32, topic: Text, copies: u64, matched: bool },
    Queued { session: u32, topic: Text, waiting: u64 },
    QueuedInGroup { topic: Text, group: String },
    Lent { topic: Text, group: String, shard: ShardIndex },
}

impl Note {
    pub(crate) fn lost(session: u32, topic: &[u8], reason: DropReason, copies: u64) -> Self {
        let topic = (!topic.is_empty()).then(|| topic_text(topic));
        Self::Lost { session, topic, reason, copies }
    }
}

/// Notes, while somebody watches.
#[derive(Debug, Default)]
pub(crate) struct Notes(Option<Noted>);

/// What has been noted of one input.
#[derive(Debug, Default)]
struct Noted {
    notes: Vec<Note>,
    /// The topics of PUBLISHes that go out with an alias alone, by the places of their writes.
    aliases: Vec<(usize, Text)>,
    /// How much there was no room for.
    left_out: u64,
    /// How much had been said before the input.
    said_before: usize,
}

impl Noted {
    /// So much that is said of this input makes it enough.
    const fn enough(&self) -> usize {
        self.said_before + TRACED_PER_INPUT_MAX
    }
}

impl Notes {
    /// Notes something, if somebody watches.
    #[inline]
    pub(crate) fn add(&mut self, note: impl FnOnce() -> Note) {
        if let Some(noted) = &mut self.0 {
            let Noted { notes, left_out, .. } = noted;
            add((notes, left_out), note);
        }
    }

    /// Notes the topic of the PUBLISH in this place of the writes, which does not name it.
    pub(crate) fn add_alias(&mut self, write: usize, topic: &[u8]) {
        if let Some(Noted { aliases, left_out, .. }) = &mut self.0 {
            add((aliases, left_out), || (write, topic_text(topic)));
        }
    }
}

/// Adds to a list that has a bound of its own.
#[cold]
fn add<T>((list, left_out): (&mut Vec<T>, &mut u64), of: impl FnOnce() -> T) {
    match list.len() < TRACED_PER_INPUT_MAX {
        true => list.push(of()),
        false => *left_out += 1,
    }
}

/// Counts a copy that nobody in a shared group gets, and notes why.
pub(crate) fn lose_in_group(turn: &mut Turn<'_>, topic: &TopicName, reason: DropReason) {
    crate::ledger::drop_message(turn, reason);
    turn.out.notes.add(|| Note::LostInGroup { topic: topic_text(topic.as_bytes()), reason });
}

/// A topic name from the bytes of one, in memory of its own.
pub(crate) fn topic_text(topic: &[u8]) -> Text {
    Text::new(bytes::Bytes::copy_from_slice(topic)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_noted_is_counted_and_notes_leave_room_for_topics() {
        let mut notes = Notes(Some(Noted::default()));
        for write in 0..TRACED_PER_INPUT_MAX + 5 {
            notes.add(|| Note::NotRetained { topic: Text::EMPTY });
            if write > 10 {
                notes.add_alias(write, b"t");
            }
        }
        let noted = notes.0.expect("somebody watches");
        assert_eq!((noted.notes.len(), noted.left_out), (TRACED_PER_INPUT_MAX, 5));
        assert_eq!(noted.aliases.len(), TRACED_PER_INPUT_MAX - 6);
    }
}

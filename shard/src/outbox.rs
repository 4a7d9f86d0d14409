//! Everything that a shard asks the world to do.

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    ClientId, Packet, PacketId, PublishHead, SharedHead, Text, Version, encode, encoded_len,
};

use crate::event::Limited;
use crate::input::Origin;
use crate::ledger::Ledger;
use crate::losses::Losses;
use crate::record::{Incarnation, Record};
use crate::traced::{Notes, Traced};
use crate::{ConnId, Event, PeerMessage, SessionRef, ShardIndex};

/// Payloads up to this many bytes are copied beside their header; larger ones are shared.
const INLINE_PAYLOAD_BYTES_MAX: usize = 1024;

/// What one or more calls of [`crate::Shard::handle`] produced, in order.
///
/// The caller carries everything out at the end of its turn and calls [`Outbox::clear`]. Writes
/// to one connection leave in their order; a close comes after all writes to that connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Bytes for sockets.
    pub writes: Vec<Write>,
    /// Messages for other shards. Those to one shard arrive there in this order. One addressed to
    /// the shard itself comes back to it as [`crate::Input::Peer`] in a later turn.
    pub peers: Vec<(ShardIndex, PeerMessage)>,
    /// Connections to close once their writes have left. The shard has forgotten them.
    pub closes: Vec<ConnId>,
    /// Questions to other threads; each is answered by [`crate::Input::Verdict`].
    pub questions: Vec<Question>,
    /// Records to keep, in order.
    pub records: Vec<Record>,
    /// The position of the last record that was ever put here.
    pub records_upto: u64,
    /// Somebody waits for the records up to there.
    pub urgent: bool,
    /// Questions for what is kept; each is answered by [`crate::Input::Loaded`], after everything that
    /// was recorded before it.
    pub loads: Vec<Load>,
    /// Questions for how much waits; each is answered by [`crate::Input::Counted`].
    pub counts: Vec<Count>,
    /// What happened, for logs and counters.
    pub events: Vec<Event>,
    /// What has become of messages, until the caller takes the numbers.
    pub ledger: Ledger,
    /// Limits that clients have met, until the caller takes the numbers.
    pub limited: Limited,
    /// What sessions have lately lost.
    pub losses: Losses,
    /// What they have lately published that was refused.
    pub refusals: Losses,
    /// What is said while somebody watches. The caller takes it after each input.
    pub traced: Vec<Traced>,
    /// How much was not said, there being too much of it, until the caller takes the number.
    pub untraced: u64,
    pub(crate) notes: Notes,
    arena: Vec<u8>,
    /// Payloads that are shared instead of being copied.
    payloads: Vec<Bytes>,
}

/// Bytes for one socket: a piece of the outbox's arena, which others may share, then perhaps a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// For this connection.
    pub conn: ConnId,
    head: (u32, u32),
    /// Which payload follows, or [`NO_PAYLOAD`].
    payload: u32,
    packet_id_at: u32,
    /// Stands in the place of the head's, if there is one.
    packet_id: Option<PacketId>,
}

impl Write {
    /// The packet identifier, where the receivers of a form have one each.
    pub(crate) const fn packet_id(&self) -> Option<PacketId> {
        self.packet_id
    }

    /// True if both are the same bytes but for the packet identifier.
    pub(crate) fn is_same_form(&self, other: &Self) -> bool {
        self.head == other.head && self.payload == other.payload
    }
}

/// A PUBLISH that was encoded for one receiver and that others may get as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoded {
    head: (u32, u32),
    payload: u32,
    packet_id_at: u32,
    /// Of the whole packet, payload included.
    pub(crate) packet_bytes: usize,
}

/// The payload, if any, is part of the head.
const NO_PAYLOAD: u32 = u32::MAX;

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first part of a write.
    #[inline]
    #[must_use]
    pub fn head(&self, write: &Write) -> SharedHead<'_> {
        let bytes = &self.arena[write.head.0 as usize..write.head.1 as usize];
        SharedHead { bytes, packet_id: write.packet_id.map(|id| (write.packet_id_at as usize, id)) }
    }

    /// What follows the head of a write; empty if the payload was small enough to be part of it.
    #[inline]
    #[must_use]
    pub fn payload(&self, write: &Write) -> &Bytes {
        static NOTHING: Bytes = Bytes::new();
        self.payloads.get(write.payload as usize).unwrap_or(&NOTHING)
    }

    /// Appends all bytes of a write.
    pub fn copy_to(&self, write: &Write, out: &mut BytesMut) {
        self.head(write).put(out);
        out.extend_from_slice(self.payload(write));
    }

    /// True if there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.peers.is_empty()
            && self.closes.is_empty()
            && self.questions.is_empty()
            && self.records.is_empty()
            && self.loads.is_empty()
            && self.counts.is_empty()
            && self.events.is_empty()
    }

    /// Bytes held for the writes, shared payloads not counted; a caller that sees much of it flushes early.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Forgets everything but what is counted, keeping the memory for the next turn.
    pub fn clear(&mut self) {
        self.clear_writes();
        self.peers.clear();
        self.closes.clear();
        self.questions.clear();
        self.records.clear();
        self.loads.clear();
        self.counts.clear();
        self.urgent = false;
        self.events.clear();
        self.traced.clear();
    }

    /// Forgets the writes only.
    pub fn clear_writes(&mut self) {
        self.writes.clear();
        self.arena.clear();
        self.payloads.clear();
    }

    /// Time has passed: half of the memory is given back where there is much. What is needed again is asked for
    /// once more.
    pub fn rest(&mut self) {
        halve(&mut self.writes);
        halve(&mut self.peers);
        halve(&mut self.records);
        halve(&mut self.events);
        halve(&mut self.arena);
        halve(&mut self.payloads);
    }

    /// Encodes a packet for a connection. Returns its length in bytes, `None` if that is more than
    /// `bytes_max`; then nothing is written.
    pub(crate) fn packet(
        &mut self,
        conn: ConnId,
        version: Version,
        packet: &Packet,
        bytes_max: usize,
    ) -> Option<usize> {
        let packet_bytes = encoded_len(packet, version).filter(|&bytes| bytes <= bytes_max)?;
        let start = self.arena.len();
        encode(packet, version, &mut self.arena);
        debug_assert_eq!(self.arena.len() - start, packet_bytes);
        let head = (start as u32, self.arena.len() as u32);
        let encoded = Encoded { head, payload: NO_PAYLOAD, packet_id_at: 0, packet_bytes };
        self.send(conn, &encoded, None);
        Some(packet_bytes)
    }

    /// Encodes a PUBLISH of at most so many bytes, for as many receivers as [`Self::send`] names. A long payload
    /// is held instead of being copied, if there is something to hold.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        version: Version,
        head: &PublishHead<'_>,
        (payload, whole): (&[u8], Option<&Bytes>),
        bytes_max: usize,
    ) -> Option<Encoded> {
        let start = self.arena.len();
        let written = head.encode_within(version, bytes_max, &mut self.arena)?;
        let shared = match whole {
            Some(whole) if payload.len() > INLINE_PAYLOAD_BYTES_MAX => {
                self.payloads.push(whole.clone());
                (self.payloads.len() - 1) as u32
            }
            _ => {
                self.arena.extend_from_slice(payload);
                NO_PAYLOAD
            }
        };
        Some(Encoded {
            // An arena of 4 GiB would mean that the caller never flushes.
            head: (start as u32, self.arena.len() as u32),
            payload: shared,
            // Behind a topic name of at most 65,535 bytes.
            packet_id_at: written.packet_id_at as u32,
            packet_bytes: written.packet_bytes,
        })
    }

    /// Writes what has been encoded to a connection, with its own packet identifier.
    #[inline]
    pub(crate) fn send(&mut self, conn: ConnId, encoded: &Encoded, packet_id: Option<PacketId>) {
        let Encoded { head, payload, packet_id_at, .. } = *encoded;
        self.writes.push(Write { conn, head, payload, packet_id_at, packet_id });
    }
}

/// Lists of no more bytes keep their memory.
const KEPT_BYTES: usize = 64 << 10;

fn halve<T>(list: &mut Vec<T>) {
    if list.capacity() * size_of::<T>() > KEPT_BYTES {
        list.shrink_to(list.capacity() / 2);
    }
}

/// Asks for what waits for a session and is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Who asks.
    pub session: SessionRef,
    /// Whose messages.
    pub incarnation: Incarnation,
    /// From this place in the session's order on.
    pub from: u64,
    /// The place that the next message gets which is not recorded yet.
    pub upto: u64,
    /// At most so many.
    pub messages_max: usize,
    /// No more once they have this many bytes.
    pub bytes_max: usize,
}

/// Asks how much waits for sessions from before this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Who asks.
    pub shard: ShardIndex,
    /// The lane that keeps them.
    pub lane: u16,
    /// Whose messages, in the order of the lane.
    pub sessions: Vec<Incarnation>,
    /// What this process has queued has this place or a later one, and does not count.
    pub before: u64,
    /// The shard will not ask this lane again.
    pub last: bool,
}

/// A question to whoever knows who clients are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The connection that waits for the answer.
    pub conn: ConnId,
    /// Who the client says it is.
    pub client_id: ClientId,
    /// What is asked.
    pub asks: Asks,
}

/// Of whom somebody is asked who that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who the client says it is.
    pub client_id: ClientId,
    /// The user that it says it is, if it says so in its CONNECT.
    pub user: Option<Text>,
    /// Position of its listener.
    pub listener: u16,
}

/// What is asked about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    /// What a step of an exchange means ([MQTT5-4.12]).
    Step {
        /// Authentication Method.
        method: Text,
        /// Position of the client's listener.
        listener: u16,
        /// Authentication Data of this step.
        data: Option<Bytes>,
        /// True for the first step of an exchange, false for those that continue it.
        starts: bool,
    },
    /// Whether it is who its CONNECT says.
    Credentials(Box<Credentials>),
}

/// By what a client says who it is, in memory of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Where it came from.
    pub origin: Origin,
    /// User Name.
    pub user_name: Option<Text>,
    /// Password; shown to nobody.
    pub password: Option<Bytes>,
}

/// Without the password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let password = self.password.as_ref().map(|_| "..");
        f.debug_struct("Credentials")
            .field("origin", &self.origin)
            .field("user_name", &self.user_name)
            .field("password", &password)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_needed_is_given_back() {
        let mut out = Outbox::new();
        out.events.reserve(100_000);
        out.arena.resize(1 << 20, 7);
        (0..20).for_each(|_| out.rest());
        assert!(out.events.capacity() * size_of::<Event>() <= KEPT_BYTES);
        assert!(out.arena.len() == 1 << 20 && out.arena.iter().all(|byte| *byte == 7));
        out.clear();
        (0..20).for_each(|_| out.rest());
        assert!(out.arena.capacity() <= KEPT_BYTES);
    }
}

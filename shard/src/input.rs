//! Everything that can happen to a shard.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Connect, DecodeError, Packet, Publish, ReasonCode, Text};

use crate::access::AddressRange;
use crate::{ConnId, PeerMessage, ShardIndex};

/// The time of an input. All shards of a process share the origin of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Monotonic, in milliseconds.
    pub mono_ms: u64,
}

/// Where a connection came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Position of its listener in the configuration.
    pub listener: u16,
    /// Whether the listener lets in clients that prove nothing.
    pub allow_anonymous: bool,
    /// Somebody there knows who clients are, and is asked for those who say so.
    pub authenticates: bool,
    /// The other end.
    pub address: SocketAddr,
    /// The user whom its certificate names, in memory of its own; the transport has verified that.
    pub certificate: Option<Text>,
}

/// One input of [`crate::Shard::handle`].
#[derive(Debug)]
pub enum Input {
    /// A CONNECT whose client identifier is homed here, or is empty. The connection is new to the
    /// shard; its first packet is never delivered as [`Input::Packet`].
    Connect {
        /// The connection, alive until the shard closes it or [`Input::Closed`] arrives.
        conn: ConnId,
        /// The packet.
        connect: Box<Connect>,
        /// Where it came from.
        origin: Origin,
    },
    /// Any later packet, also a second CONNECT.
    Packet {
        /// From this connection.
        conn: ConnId,
        /// The packet. Its bytes may be slices of a shared read buffer.
        packet: Packet,
    },
    /// Bytes that are not an acceptable packet.
    Violation {
        /// From this connection.
        conn: ConnId,
        /// What is wrong with them.
        error: DecodeError,
    },
    /// The transport ended without the shard's doing.
    Closed {
        /// This connection; the identifier may be reused with another generation from now on.
        conn: ConnId,
    },
    /// A write to the socket went through, in part or whole.
    Flushed {
        /// This connection.
        conn: ConnId,
        /// Bytes that still wait for the socket; 0 if it took everything.
        pending_bytes: usize,
    },
    /// Another shard speaks. Messages of one peer arrive in the order they were sent.
    Peer {
        /// Who sent it.
        from: ShardIndex,
        /// What it says.
        message: PeerMessage,
    },
    /// The broker itself publishes a message, or an operator through it. Topic, payload, QoS, RETAIN, Message Expiry
    /// Interval and what is forwarded unaltered count; no client's rights do. What has become of it is what
    /// [`crate::Shard::publish_own`] returns. All messages of one topic are to go to the same shard, or they have no
    /// order.
    Publish(Box<Publish>),
    /// The answer to a [`crate::Question`].
    Verdict {
        /// The connection that was asked about.
        conn: ConnId,
        /// The answer.
        verdict: Verdict,
    },
    /// Records have been kept, all up to this position ([`crate::Outbox::records_upto`]).
    Kept {
        /// This position; never less than before.
        upto: u64,
    },
    /// The answer to a [`crate::outbox::Load`].
    Loaded(Box<Loaded>),
    /// The answer to a [`crate::outbox::Count`].
    Counted(Box<Counted>),
    /// What clients may do from now on; everything if there are no rules.
    Rules(Option<Arc<crate::access::Rules>>),
    /// From now on QoS 1 and 2 messages of MQTT 5 clients are refused, or no longer: what they would be
    /// kept in is full or fails.
    Refuse(bool),
    /// The process has all the memory that it may have, or no longer. Meanwhile nothing that is published is taken
    /// and no subscription granted: MQTT 5 clients are told 0x97 at QoS 1 and 2; before MQTT 5 these are not
    /// acknowledged, and their clients should be disconnected when there is room, so that they send them again.
    /// What clients acknowledge is heard, which makes room.
    Full(bool),
    /// From now on QoS 0 messages to a client are dropped when a sixteenth waits for its socket of what may, or no
    /// longer: there is too much to do.
    Shed(bool),
    /// Other limits from now on; what clients were told stays theirs.
    Limits(Box<crate::Limits>),
    /// What is said from now on of what happens, in [`crate::Outbox::traced`]; nothing for none.
    Watch(Option<Arc<crate::Watched>>),
    /// Time has passed; sent at least every quarter of a second while anything can expire.
    Timer,
    /// The broker will stop as soon as all shards have handled this and what follows from it: the
    /// wills that its end sets free are published. CONNECTs are refused from now on.
    LastWills,
    /// The broker stops: DISCONNECT 0x8B to MQTT 5 clients, then close.
    Shutdown,
    /// Whoever this is about is disconnected, with 0x98. That nobody comes back is for others to see to.
    Ban(Banned),
    /// The operator ends a session, with its connection if it has one; its will is published.
    EndSession(petrel_proto::ClientId),
    /// A client is sent to another server, or away for now: DISCONNECT 0x9C with the reference, or 0x8B without one,
    /// to MQTT 5 clients, then close. Its session stays.
    SendAway {
        /// Its connection.
        conn: ConnId,
        /// Server Reference.
        server_reference: Option<Text>,
    },
    /// The operator ends one connection.
    Kick {
        /// This connection.
        conn: ConnId,
        /// The reason it is told.
        reason: ReasonCode,
    },
}

/// Who is shut out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Banned {
    /// Who uses this client identifier.
    ClientId(Text),
    /// Who has proved to be this user. The shard knows it as far as [`crate::Access::is_on`].
    User(Text),
    /// Who comes from one of these addresses. The same holds.
    Addresses(AddressRange),
}

/// What waits for a session, as far as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The question.
    pub load: crate::outbox::Load,
    /// What waits, in order.
    pub messages: Vec<crate::record::Stored>,
    /// Places of what does not count, since the receipt of its message was lost.
    pub void: Vec<u64>,
    /// Where to go on; `None` if nothing waits behind them that had been recorded before the question.
    pub next: Option<u64>,
}

/// How much waits for some sessions from before this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The question.
    pub count: crate::outbox::Count,
    /// Those for which anything is kept, in order.
    pub waiting: Vec<Waits>,
}

/// How much waits for one session from before this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Which.
    pub incarnation: crate::record::Incarnation,
    /// Bytes of all its messages, as a queue counts them.
    pub bytes: u64,
    /// Their places, in order. None if what is kept does not count, since its receipt was lost, or is no
    /// message any more, since the client has it and has not completed it.
    pub runs: Vec<Run>,
}

/// Messages of one QoS whose places follow on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first place.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// QoS at which they are delivered.
    pub qos: petrel_proto::Qos,
}

impl Run {
    /// The place behind the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    /// Forgets what is before a place; of a run that ends there, nothing is left.
    pub fn cut_before(&mut self, place: u64) {
        let gone = place.saturating_sub(self.first).min(u64::from(self.count));
        self.first += gone;
        // Not above the count.
        self.count -= gone as u32;
    }
}

/// What is said to a [`crate::Question`].
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Send this to the client and wait for its next step.
    Continue {
        /// Authentication Data.
        data: Option<Bytes>,
    },
    /// The client is who it says.
    Accept {
        /// Authentication Data to send along.
        data: Option<Bytes>,
        /// Who that is; `None` if nobody has asked for it.
        identity: Option<Arc<crate::Identity>>,
    },
    /// It is not.
    Refuse {
        /// The reason it is told; an error code.
        reason: ReasonCode,
    },
}

//! The one vocabulary of what happens, for logs, counters and traces.

use petrel_proto::{ClientId, ReasonCode, Version};

use crate::ConnId;

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The client, with a DISCONNECT.
    Client,
    /// The broker, for the reason given.
    Broker,
    /// The transport closed or failed.
    Network,
    /// An operator, or a ban.
    Admin,
}

impl EndedBy {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Client, Self::Broker, Self::Network, Self::Admin];

    /// What it is called in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Broker => "broker",
            Self::Network => "network",
            Self::Admin => "admin",
        }
    }
}

/// Why a message did not reach a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The session's queue was full.
    QueueFull,
    /// QoS 0 and the socket does not take bytes fast enough.
    SlowReader,
    /// QoS 0 and the client is not connected.
    NotConnected,
    /// Larger than the receiver's Maximum Packet Size.
    TooLarge,
    /// Its Message Expiry Interval passed.
    Expired,
    /// No member of a shared group could take it.
    NoGroupMember,
    /// It was delivered but not retained, since there are too many retained messages.
    RetainedFull,
    /// What it would have to be kept in is full or fails; its publisher was told.
    StorageFull,
    /// Its publisher may not publish it.
    NotAuthorized,
    /// The process has all the memory that it may have.
    MemoryFull,
    /// The session that it waited for, or whose client had not acknowledged it, has ended.
    SessionEnded,
}

impl DropReason {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::QueueFull,
        Self::SlowReader,
        Self::NotConnected,
        Self::TooLarge,
        Self::Expired,
        Self::NoGroupMember,
        Self::RetainedFull,
        Self::StorageFull,
        Self::NotAuthorized,
        Self::MemoryFull,
        Self::SessionEnded,
    ];

    /// What it is called in a line of the log.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::QueueFull => "queue full",
            Self::SlowReader => "slow reader",
            Self::NotConnected => "not connected",
            Self::TooLarge => "too large for the receiver",
            Self::Expired => "expired",
            Self::NoGroupMember => "no member of the group",
            Self::RetainedFull => "not retained",
            Self::StorageFull => "not kept",
            Self::NotAuthorized => "not authorised",
            Self::MemoryFull => "no memory",
            Self::SessionEnded => "session ended",
        }
    }
}

/// How many messages did not reach a receiver, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one.
    pub(crate) const fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many for this reason.
    #[must_use]
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many in all.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, more)| *sum += more);
    }

    /// All numbers, in the order of [`DropReason::ALL`].
    #[must_use]
    pub const fn numbers(&self) -> [u64; DropReason::ALL.len()] {
        self.0
    }

    /// From what [`Self::numbers`] gave.
    #[must_use]
    pub const fn from_numbers(numbers: [u64; DropReason::ALL.len()]) -> Self {
        Self(numbers)
    }

    /// Those that came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] - before.0[at]))
    }
}

/// A limit that a client met and that it was told of, or that made it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// A filter of SUBSCRIBE was refused, for want of a right as well.
    FiltersRefused,
    /// A CONNECT was refused, its client identifier being too long.
    ClientIdsRefused,
    /// A CONNECT was refused whose Keep Alive is too long, and whose client cannot be given another.
    KeepAlivesRefused,
    /// A client was given another Keep Alive than it has asked for.
    KeepAlivesChanged,
    /// A session is to end earlier after its connection than its client has asked for.
    SessionExpiriesCapped,
    /// A message had to wait in the session's queue, since as much was in flight as may be.
    InflightFull,
    /// A client was not read for a while, having published more than its rate.
    HeldByRate,
    /// A client was not read for a while, having published its share of a shard that has too much to do.
    HeldByLoad,
}

impl Limit {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::FiltersRefused,
        Self::ClientIdsRefused,
        Self::KeepAlivesRefused,
        Self::KeepAlivesChanged,
        Self::SessionExpiriesCapped,
        Self::InflightFull,
        Self::HeldByRate,
        Self::HeldByLoad,
    ];
}

/// How often clients have met their limits, by limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limited([u64; Limit::ALL.len()]);

impl Limited {
    /// Counts one.
    #[inline]
    pub const fn count(&mut self, limit: Limit) {
        self.0[limit as usize] += 1;
    }

    /// How often it was this limit.
    #[must_use]
    pub const fn of(&self, limit: Limit) -> u64 {
        self.0[limit as usize]
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, more)| *sum += more);
    }

    /// All numbers, in the order of [`Limit::ALL`].
    #[must_use]
    pub const fn numbers(&self) -> [u64; Limit::ALL.len()] {
        self.0
    }

    /// From what [`Self::numbers`] gave.
    #[must_use]
    pub const fn from_numbers(numbers: [u64; Limit::ALL.len()]) -> Self {
        Self(numbers)
    }
}

/// Something that happened in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A CONNECT was accepted.
    Connected {
        /// The connection.
        conn: ConnId,
        /// Who.
        client_id: ClientId,
        /// With which version.
        version: Version,
        /// Whether an earlier session goes on.
        session_present: bool,
        /// The keep alive that holds, in seconds; 0 for none.
        keep_alive_s: u16,
        /// The user that it has proved to be, if that was asked.
        user: Option<petrel_proto::Text>,
    },
    /// A CONNECT was refused.
    Refused {
        /// The connection.
        conn: ConnId,
        /// Who.
        client_id: ClientId,
        /// The reason it was given.
        reason: ReasonCode,
        /// Why, in words.
        what: &'static str,
    },
    /// A client that was there has come again; its earlier connection is ended.
    TakenOver {
        /// The connection that ends.
        conn: ConnId,
        /// The one that takes its place.
        by: ConnId,
        /// Who.
        client_id: ClientId,
    },
    /// A subscription ended, since its client may not have it, or not any more.
    Revoked {
        /// Who.
        client_id: ClientId,
        /// To what.
        filter: petrel_proto::TopicFilter,
    },
    /// The session of a client that is away has ended.
    SessionEnded {
        /// Whose.
        client_id: ClientId,
        /// Why, in words.
        what: &'static str,
    },
    /// A connection ended.
    Disconnected {
        /// The connection.
        conn: ConnId,
        /// Who.
        client_id: ClientId,
        /// By whom it was ended.
        by: EndedBy,
        /// Why.
        reason: ReasonCode,
        /// What was wrong in words, if something was; empty otherwise.
        what: &'static str,
    },
}

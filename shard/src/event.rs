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
    },
    /// A CONNECT was refused.
    Refused {
        /// The connection.
        conn: ConnId,
        /// Who.
        client_id: ClientId,
        /// The reason it was given.
        reason: ReasonCode,
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
    /// A message was not delivered to one receiver.
    Dropped {
        /// Why.
        reason: DropReason,
    },
}

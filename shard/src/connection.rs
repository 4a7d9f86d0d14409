//! What the broker keeps for one network connection.

use petrel_proto::{Connect, ReasonCode, Text, TopicName, Version};

use crate::ConnId;
use crate::alias::OutgoingAliases;

/// A connection from its CONNECT to its end. Nothing here outlives it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) version: Version,
    /// Position of its session; meaningless while authenticating.
    pub(crate) session: u32,
    /// One and a half times the keep alive, in milliseconds; 0 if it is off.
    pub(crate) silence_ms_max: u32,
    pub(crate) last_packet_ms: u64,
    /// QoS 1 and 2 messages that may still be sent; the client's Receive Maximum at first.
    pub(crate) send_quota: u16,
    pub(crate) receive_maximum: u16,
    /// QoS 2 publishes of this connection that are not released.
    pub(crate) inbound_inflight: u16,
    /// Largest packet that the client accepts, in bytes.
    pub(crate) maximum_packet_size: u32,
    /// Bytes given to the socket and not yet taken.
    pub(crate) pending_bytes: usize,
    pub(crate) problem_information: bool,
    /// What was in flight on the last connection is not yet all sent again.
    pub(crate) resending: bool,
    pub(crate) state: State,
    /// Topic names behind the client's aliases; grows as they are used ([MQTT5-3.3.2-12]).
    pub(crate) incoming_aliases: Vec<TopicName>,
    pub(crate) outgoing_aliases: OutgoingAliases,
    /// The enhanced authentication that its CONNECT named.
    pub(crate) auth: Option<Box<AuthExchange>>,
}

/// How far a connection is.
#[derive(Debug)]
pub(crate) enum State {
    /// The CONNECT waits for its authentication exchange.
    Authenticating(Box<PendingConnect>),
    /// CONNACK has been sent.
    Live,
}

/// A CONNECT that waits.
#[derive(Debug)]
pub(crate) struct PendingConnect {
    pub(crate) connect: Box<Connect>,
    pub(crate) assigned: bool,
}

/// An authentication exchange ([MQTT5-4.12.0-1]).
#[derive(Debug)]
pub(crate) struct AuthExchange {
    pub(crate) method: Text,
    /// A question is out; the client may not speak of it meanwhile.
    pub(crate) asked: bool,
    /// An exchange goes on: the first one, or a re-authentication.
    pub(crate) running: bool,
}

impl Connection {
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, State::Live)
    }
}

/// Why a connection ends, in the words of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason: ReasonCode,
    pub(crate) what: &'static str,
}

impl Violation {
    pub(crate) const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self { reason, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, what)
    }
}

//! What the broker keeps for one network connection.

use petrel_proto::{ClientId, Connect, Packet, ReasonCode, Text, TopicName, Version};

use crate::alias::OutgoingAliases;
use crate::input::Origin;
use crate::{ConnId, Limits};

/// A connection from its CONNECT to its end. Nothing here outlives it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Which use of its position it is.
    pub(crate) generation: u32,
    /// Position of its session; meaningless while authenticating.
    pub(crate) session: u32,
    /// Keyed hash of the client identifier.
    pub(crate) client_hash: u64,
    /// One and a half times the keep alive, in milliseconds; 0 if it is off.
    pub(crate) silence_ms_max: u32,
    /// When the last packet came, in milliseconds, without the upper half: it is looked at long
    /// before it would come round.
    last_packet_ms: u32,
    /// Largest packet that the client accepts, in bytes.
    pub(crate) maximum_packet_size: u32,
    /// Bytes given to the socket and not yet taken.
    pending_bytes: u32,
    /// QoS 1 and 2 messages that may still be sent; the client's Receive Maximum at first.
    pub(crate) send_quota: u16,
    pub(crate) receive_maximum: u16,
    /// Topic aliases that the client takes, at most.
    pub(crate) alias_maximum: u16,
    pub(crate) version: Version,
    flags: u8,
    /// What few connections have.
    extras: Option<Box<Extras>>,
}

/// The state that few connections have, kept apart so that the others do not pay for it.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The CONNECT that waits for its authentication exchange; CONNACK has been sent if there is
    /// none.
    pub(crate) pending: Option<Box<PendingConnect>>,
    /// The CONNACK that waits to be allowed to leave.
    pub(crate) awaited: Option<Box<AwaitedConnAck>>,
    /// Topic names behind the client's aliases; grows as they are used ([MQTT5-3.3.2-12]).
    pub(crate) incoming_aliases: Vec<TopicName>,
    pub(crate) outgoing_aliases: OutgoingAliases,
    /// The enhanced authentication that its CONNECT named.
    pub(crate) auth: Option<AuthExchange>,
}

/// Bit of [`Connection::problem_information`].
const PROBLEM_INFORMATION: u8 = 1;
/// Bit of [`Connection::resending`].
const RESENDING: u8 = 2;

/// A CONNECT that waits.
#[derive(Debug)]
pub(crate) struct PendingConnect {
    pub(crate) connect: Box<Connect>,
    pub(crate) assigned: bool,
    pub(crate) origin: Origin,
    /// Somebody was asked who the client is; what it has sent meanwhile ([MQTT5-3.1.4-6] lets it).
    pub(crate) asked: Option<Vec<Packet>>,
}

/// A CONNACK that leaves when what it promises is kept.
#[derive(Debug)]
pub(crate) struct AwaitedConnAck {
    pub(crate) packet: Packet,
    pub(crate) client_id: ClientId,
    pub(crate) session_present: bool,
    /// What the client has sent meanwhile ([MQTT5-3.1.4-6] lets it).
    pub(crate) early: Vec<Packet>,
}

/// An authentication exchange ([MQTT5-4.12.0-1]).
#[derive(Debug)]
pub(crate) struct AuthExchange {
    pub(crate) method: Text,
    pub(crate) listener: u16,
    /// A question is out; the client may not speak of it meanwhile.
    pub(crate) asked: bool,
    /// An exchange goes on: the first one, or a re-authentication.
    pub(crate) running: bool,
}

impl Connection {
    /// A connection that has sent this CONNECT and nothing else.
    pub(crate) fn new(
        conn: ConnId,
        connect: &Connect,
        client_hash: u64,
        limits: &Limits,
        now_ms: u64,
    ) -> Self {
        let properties = &connect.properties;
        let problem_information = properties.request_problem_information.unwrap_or(true);
        let receive_maximum =
            properties.receive_maximum.unwrap_or(u16::MAX).min(limits.outgoing_inflight_maximum);
        let alias_maximum =
            properties.topic_alias_maximum.unwrap_or(0).min(limits.outgoing_topic_alias_maximum);
        Self {
            generation: conn.generation,
            session: u32::MAX,
            client_hash,
            silence_ms_max: 0,
            last_packet_ms: now_ms as u32,
            maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
            pending_bytes: 0,
            send_quota: receive_maximum,
            receive_maximum,
            alias_maximum,
            version: connect.version,
            flags: RESENDING | if problem_information { PROBLEM_INFORMATION } else { 0 },
            extras: None,
        }
    }

    /// It has got its CONNACK.
    pub(crate) fn is_live(&self) -> bool {
        self.extras().is_none_or(|extras| extras.pending.is_none() && extras.awaited.is_none())
    }

    /// It has a session, and perhaps not yet its CONNACK.
    pub(crate) fn has_session(&self) -> bool {
        self.extras().is_none_or(|extras| extras.pending.is_none())
    }

    /// The CONNACK that waits, if one does.
    pub(crate) fn awaited_mut(&mut self) -> Option<&mut AwaitedConnAck> {
        self.extras.as_deref_mut()?.awaited.as_deref_mut()
    }

    /// Takes the CONNACK that waits, if one does.
    pub(crate) fn take_awaited(&mut self) -> Option<Box<AwaitedConnAck>> {
        self.extras.as_deref_mut()?.awaited.take()
    }

    /// The client wants to be told why.
    pub(crate) const fn problem_information(&self) -> bool {
        self.flags & PROBLEM_INFORMATION != 0
    }

    /// What was in flight on the last connection is not yet all sent again.
    pub(crate) const fn resending(&self) -> bool {
        self.flags & RESENDING != 0
    }

    /// What was in flight on the last connection has been sent again.
    pub(crate) const fn resent(&mut self) {
        self.flags &= !RESENDING;
    }

    /// The keep alive that holds, in seconds; 0 if it is off.
    pub(crate) const fn keep_alive_s(&self) -> u16 {
        // It was multiplied by that.
        (self.silence_ms_max / 1500) as u16
    }

    /// A packet came.
    pub(crate) const fn heard(&mut self, now_ms: u64) {
        self.last_packet_ms = now_ms as u32;
    }

    /// How long nothing came, in milliseconds; right for seven weeks.
    pub(crate) const fn silence_ms(&self, now_ms: u64) -> u32 {
        (now_ms as u32).wrapping_sub(self.last_packet_ms)
    }

    /// It has got its CONNACK, and its socket does not owe so many bytes.
    #[inline]
    pub(crate) fn takes(&self, outgoing_bytes_maximum: u32) -> bool {
        self.pending_bytes < outgoing_bytes_maximum && self.is_live()
    }

    pub(crate) const fn pending_bytes(&self) -> usize {
        self.pending_bytes as usize
    }

    /// Bounds: the socket's queue is cut off long before 4 GiB.
    pub(crate) fn set_pending_bytes(&mut self, bytes: usize) {
        self.pending_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    pub(crate) fn extras(&self) -> Option<&Extras> {
        self.extras.as_deref()
    }

    pub(crate) fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// The enhanced authentication that its CONNECT named, if it did.
    pub(crate) fn auth_mut(&mut self) -> Option<&mut AuthExchange> {
        self.extras.as_deref_mut()?.auth.as_mut()
    }

    /// Where packets wait for somebody to say who the client is, if somebody was asked.
    pub(crate) fn asked_mut(&mut self) -> Option<&mut Vec<Packet>> {
        self.extras.as_deref_mut()?.pending.as_deref_mut()?.asked.as_mut()
    }

    /// Takes the CONNECT that waits for its authentication, if it does.
    pub(crate) fn take_pending(&mut self) -> Option<Box<PendingConnect>> {
        self.extras.as_deref_mut()?.pending.take()
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

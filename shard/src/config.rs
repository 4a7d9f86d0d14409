//! What a shard is told once, at its start.

use std::sync::Arc;

use crate::access::Rules;
use crate::{Keeping, ShardIndex, SlotMap};

/// Everything a shard needs to know before its first input.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Which shard this is.
    pub index: ShardIndex,
    /// Where everything lives.
    pub slots: SlotMap,
    /// The limits of the protocol and of the broker.
    pub limits: Limits,
    /// Names of the enhanced authentication methods that the broker answers for; a CONNECT with
    /// another is refused with 0x8C ([MQTT5-4.12.0-1]).
    pub auth_methods: Vec<String>,
    /// Who may do what.
    pub access: Access,
    /// Seed for assigned client identifiers; secret, different for each shard and process.
    pub seed: u64,
    /// Key for every keyed hash of the process; the same as in the process before, if anything is
    /// kept.
    pub hash_key: [u64; 2],
    /// Whether anything is kept when the process ends.
    pub keeping: Option<Keeping>,
}

/// Who may do what.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// It is kept of clients who they are and where they come from, since rules may ask for it.
    pub is_on: bool,
    /// What clients may publish and subscribe to; everything if there are none.
    pub rules: Option<Arc<Rules>>,
    /// A client identifier may be used by whoever comes, not just by the user whose session it is.
    pub shares_client_ids: bool,
    /// A client that publishes what it may not, and cannot be told so, is disconnected.
    pub disconnects: bool,
}

/// What to do when a session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueFull {
    /// The message that waited longest makes room.
    DropOldest,
    /// The message that arrives is dropped.
    #[default]
    DropNewest,
}

/// The limits of the protocol and of the broker; each is a key of `[limits]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// QoS 1 and 2 messages that a client may have in flight towards the broker. 1 to 65,535.
    pub receive_maximum: u16,
    /// Largest packet that the broker accepts, in bytes, fixed header included.
    pub maximum_packet_size_bytes: u32,
    /// Topic aliases that a client may use towards the broker, per connection; 0 forbids them.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the broker uses towards a client, at most, per connection; the client's
    /// own maximum caps it too. 0 turns them off.
    pub outgoing_topic_alias_maximum: u16,
    /// Keep alive that the broker imposes, in seconds; 0 leaves the client's own.
    pub server_keep_alive_s: u16,
    /// Shortest keep alive of an MQTT 5 client, in seconds; one that asks for less is told this.
    pub keep_alive_min_s: u16,
    /// Longest keep alive, in seconds, which then none is above; 0 for no bound. An MQTT 5 client that asks for
    /// more, or for none, is told this, others are refused.
    pub keep_alive_max_s: u16,
    /// Longest session expiry interval granted, in seconds; `u32::MAX` grants any.
    pub session_expiry_max_s: u32,
    /// Highest QoS that a client may publish with: 0, 1 or 2.
    pub maximum_qos: u8,
    /// Whether retained messages are available.
    pub retain_available: bool,
    /// Messages queued for one session beyond those in flight.
    pub session_queue_messages: u32,
    /// Bytes of topic, payload and properties queued for one session.
    pub session_queue_bytes: u64,
    /// What to do when a session's queue is full.
    pub session_queue_full: QueueFull,
    /// QoS 1 and 2 messages in flight towards one client, at most; its Receive Maximum caps it too.
    pub outgoing_inflight_maximum: u16,
    /// Bytes of the QoS 1 and 2 messages in flight towards one client; what is beyond waits in the
    /// session's queue. One message is always let through.
    pub outgoing_inflight_bytes_maximum: u64,
    /// Bytes that may wait for one slow socket before QoS 0 messages to it are dropped and QoS 1
    /// and 2 messages wait in the session's queue.
    pub outgoing_bytes_maximum: u32,
    /// Levels that a topic name or filter may have.
    pub topic_levels_maximum: u16,
    /// Bytes that a topic name or filter may have.
    pub topic_bytes_maximum: u16,
    /// Bytes that a client identifier may have.
    pub client_id_bytes_maximum: u16,
    /// Subscriptions that one session may hold.
    pub session_subscriptions_maximum: u32,
    /// Filters that one SUBSCRIBE may have.
    pub filters_per_subscribe_maximum: u32,
    /// Topics with a retained message in this process. Each shard keeps an even part of them.
    pub retained_messages_maximum: u32,
    /// Bytes of the topics, payloads and properties of the retained messages in this process. Each
    /// shard keeps an even part of them.
    pub retained_bytes_maximum: u64,
    /// Receivers of one message that are served before other input is handled, at least 1. Few keep others from
    /// waiting, many are served with fewer turns.
    pub receivers_per_turn: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_maximum: 1024,
            maximum_packet_size_bytes: 1_048_576,
            topic_alias_maximum: 32,
            outgoing_topic_alias_maximum: 32,
            server_keep_alive_s: 0,
            keep_alive_min_s: 0,
            keep_alive_max_s: 0,
            session_expiry_max_s: u32::MAX,
            maximum_qos: 2,
            retain_available: true,
            session_queue_messages: 1000,
            session_queue_bytes: 16 << 20,
            session_queue_full: QueueFull::DropNewest,
            outgoing_inflight_maximum: 1024,
            outgoing_inflight_bytes_maximum: 16 << 20,
            outgoing_bytes_maximum: 2 << 20,
            topic_levels_maximum: 128,
            topic_bytes_maximum: 65_535,
            client_id_bytes_maximum: 65_535,
            session_subscriptions_maximum: 100_000,
            filters_per_subscribe_maximum: 10_000,
            retained_messages_maximum: 10_000_000,
            retained_bytes_maximum: 4 << 30,
            receivers_per_turn: 1024,
        }
    }
}

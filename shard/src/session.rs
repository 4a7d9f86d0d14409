//! What the broker keeps for one client identifier, connected or not.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use petrel_proto::{ClientId, PacketId, Qos, SubscriptionOptions, Text, TopicFilter, TopicName};
use smallvec::SmallVec;

use crate::Message;
use crate::matcher::FilterId;
use crate::packet_ids::PacketIds;
use crate::peer::{GroupKey, Readiness};
use crate::sabotage::{self, Sabotage};

/// No connection.
pub(crate) const OFFLINE: u32 = u32::MAX;

/// A session and its state ([MQTT5-4.1.0-1]).
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: ClientId,
    /// Keyed hash of the client identifier.
    pub(crate) client_hash: u64,
    /// Position of its connection, or [`OFFLINE`].
    pub(crate) conn: u32,
    /// Session Expiry Interval, in seconds, as it counts when the connection ends.
    pub(crate) expiry_interval_s: u32,
    /// When it ends while offline; `u64::MAX` never.
    pub(crate) expires_at_ms: u64,
    /// The nearest moment at which the timer looks at this session; `u64::MAX` if none is set.
    pub(crate) timer_at_ms: u64,
    pub(crate) packet_ids: PacketIds,
    /// Sorted by filter.
    pub(crate) subscriptions: SmallVec<[Subscription; 1]>,
    /// Sent or to be sent again, oldest first.
    pub(crate) inflight: VecDeque<Inflight>,
    /// Bytes of the messages in flight.
    pub(crate) inflight_bytes: u64,
    pub(crate) queue: Queue,
    /// QoS 2 publishes received and not yet released, sorted by packet identifier.
    pub(crate) incoming: Vec<Incoming>,
    /// What few sessions have.
    pub(crate) rare: Option<Box<Rare>>,
}

/// The state that few sessions have, kept apart so that the others do not pay for it.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    pub(crate) will: Option<Box<PendingWill>>,
    pub(crate) shared: BTreeMap<Arc<GroupKey>, SharedSubscription>,
    /// Oldest first; only the first few are asked for.
    pub(crate) retained: VecDeque<RetainedPull>,
    pub(crate) subacks: Vec<PendingSubAck>,
    /// What the owners of its groups were last told.
    pub(crate) told: Readiness,
}

/// A will, armed when the connection has ended without a DISCONNECT 0x00.
#[derive(Debug)]
pub(crate) struct PendingWill {
    pub(crate) will: Box<petrel_proto::Will>,
    /// When to publish it; `u64::MAX` while the connection lives.
    pub(crate) fires_at_ms: u64,
}

/// One subscription that is not shared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    pub(crate) filter: FilterId,
    /// Position in the filter's list of receivers.
    pub(crate) position: u32,
}

/// One subscription through a shared group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedSubscription {
    pub(crate) options: SubscriptionOptions,
    pub(crate) identifier: u32,
}

/// Retained messages that a subscription still waits for.
#[derive(Debug)]
pub(crate) struct RetainedPull {
    pub(crate) query: u32,
    pub(crate) filter: TopicFilter,
    pub(crate) options: SubscriptionOptions,
    pub(crate) identifier: u32,
    /// Shards still to be asked, or asked and not finished: position, continuation, asked.
    pub(crate) sources: Vec<RetainedSource>,
    /// Hashes of the topics that this subscription got live with RETAIN since it was made: an
    /// answer for one of them may be older, and is left out.
    pub(crate) overtaken: HashSet<u64>,
}

/// One shard that a pull asks.
#[derive(Debug)]
pub(crate) struct RetainedSource {
    pub(crate) shard: crate::ShardIndex,
    pub(crate) after: Option<Text>,
    pub(crate) asked: bool,
}

/// A SUBACK that waits for groups on other shards.
#[derive(Debug)]
pub(crate) struct PendingSubAck {
    pub(crate) packet_id: PacketId,
    pub(crate) reasons: SmallVec<[petrel_proto::ReasonCode; 4]>,
    /// The joins that have not been answered.
    pub(crate) waiting: BTreeSet<u32>,
}

/// One message for one session.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// QoS at which it is delivered.
    pub(crate) qos: Qos,
    /// RETAIN flag with which it is delivered.
    pub(crate) retain: bool,
    /// Subscription Identifiers of all subscriptions that matched.
    pub(crate) identifiers: SmallVec<[u32; 1]>,
    /// The shared group through which it came.
    pub(crate) group: Option<Arc<GroupKey>>,
    /// It answers a SUBSCRIBE from what was retained, as opposed to live.
    pub(crate) stored: bool,
}

/// Where an outgoing QoS 1 or 2 delivery stands.
#[derive(Debug)]
pub(crate) struct Inflight {
    pub(crate) packet_id: PacketId,
    pub(crate) stage: Stage,
    /// It takes one of the client's Receive Maximum on this connection.
    pub(crate) charged: bool,
    /// It was sent on this connection.
    pub(crate) sent: bool,
}

/// The step that an outgoing delivery waits for.
#[derive(Debug)]
pub(crate) enum Stage {
    /// PUBLISH sent, PUBACK or PUBREC is awaited.
    Published(Delivery),
    /// PUBREL sent, PUBCOMP is awaited; the message itself is no longer needed ([MQTT5-4.3.3-5]).
    Released,
}

impl Stage {
    /// What is held for it.
    fn bytes(&self) -> u64 {
        match self {
            Self::Published(delivery) => cost(delivery),
            Self::Released => 0,
        }
    }
}

/// A QoS 2 publish received and not yet released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) packet_id: PacketId,
    /// It counts against our Receive Maximum on this connection.
    pub(crate) counted: bool,
}

/// Messages that wait to be sent, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) bytes: u64,
    /// Deliveries that answer a SUBSCRIBE.
    stored: u32,
    /// No delivery expires before this moment; 0 if that is not known.
    expires_first_ms: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        let expires_at_ms = delivery.message.expires_at_ms;
        self.expires_first_ms = match self.is_empty() {
            true => expires_at_ms,
            false => self.expires_first_ms.min(expires_at_ms),
        };
        self.bytes += cost(&delivery);
        self.stored += u32::from(delivery.stored);
        match sabotage::on(Sabotage::QueueReversed) {
            true => self.deliveries.push_front(delivery),
            false => self.deliveries.push_back(delivery),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= cost(&delivery);
        self.stored -= u32::from(delivery.stored);
        if self.deliveries.is_empty() {
            // An idle session holds no buffer.
            self.deliveries = VecDeque::new();
        }
        Some(delivery)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Takes out what has expired. Cost: O(1) unless something has.
    pub(crate) fn extract_expired(&mut self, now_ms: u64) -> usize {
        if now_ms < self.expires_first_ms {
            return 0;
        }
        let expired = self.extract(|waiting| waiting.message.expired(now_ms)).len();
        let left = self.deliveries.iter().map(|waiting| waiting.message.expires_at_ms);
        self.expires_first_ms = left.min().unwrap_or(u64::MAX);
        expired
    }

    /// Takes out all deliveries that `condition` picks, in order.
    pub(crate) fn extract(&mut self, condition: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        if !self.deliveries.iter().any(&condition) {
            return Vec::new();
        }
        let (out, keep): (Vec<_>, VecDeque<_>) = {
            let mut out = Vec::new();
            let mut keep = VecDeque::new();
            for delivery in self.deliveries.drain(..) {
                if condition(&delivery) { out.push(delivery) } else { keep.push_back(delivery) }
            }
            (out, keep)
        };
        self.deliveries = keep;
        self.bytes -= out.iter().map(cost).sum::<u64>();
        self.stored -= out.iter().map(|delivery| u32::from(delivery.stored)).sum::<u32>();
        out
    }

    /// Takes out what answers a SUBSCRIBE with an older message of this topic. Cost: O(1) unless
    /// such answers wait.
    pub(crate) fn extract_stored(&mut self, topic: &TopicName) {
        if self.stored > 0 {
            self.extract(|waiting| waiting.stored && waiting.message.topic == *topic);
        }
    }
}

fn cost(delivery: &Delivery) -> u64 {
    delivery.message.cost_bytes() as u64
}

impl Session {
    pub(crate) fn new(client_id: ClientId, client_hash: u64) -> Self {
        Self {
            client_id,
            client_hash,
            conn: OFFLINE,
            expiry_interval_s: 0,
            expires_at_ms: u64::MAX,
            timer_at_ms: u64::MAX,
            packet_ids: PacketIds::default(),
            subscriptions: SmallVec::new(),
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            queue: Queue::default(),
            incoming: Vec::new(),
            rare: None,
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.conn != OFFLINE
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives back the memory of rare state that is over.
    pub(crate) fn trim_rare(&mut self) {
        let Some(rare) = self.rare.as_deref_mut() else { return };
        if rare.retained.is_empty() {
            rare.retained = VecDeque::new();
        }
        if rare.subacks.is_empty() {
            rare.subacks = Vec::new();
        }
        let over = rare.will.is_none()
            && rare.shared.is_empty()
            && rare.retained.is_empty()
            && rare.subacks.is_empty();
        if over {
            self.rare = None;
        }
    }

    pub(crate) fn will(&self) -> Option<&PendingWill> {
        self.rare.as_deref()?.will.as_deref()
    }

    /// How many shared subscriptions it has.
    pub(crate) fn shared_count(&self) -> usize {
        self.rare.as_deref().map_or(0, |rare| rare.shared.len())
    }

    /// Its subscription through a group.
    pub(crate) fn find_shared(&self, group: &GroupKey) -> Option<&SharedSubscription> {
        self.rare.as_deref()?.shared.get(group)
    }

    /// True while a subscription waits for retained messages.
    pub(crate) fn waits_for_retained(&self) -> bool {
        self.rare.as_deref().is_some_and(|rare| !rare.retained.is_empty())
    }

    /// An identifier for the next message to this client.
    pub(crate) fn allocate_packet_id(&mut self) -> Option<PacketId> {
        self.packet_ids.allocate(self.inflight.iter().map(|entry| entry.packet_id))
    }

    /// Position of an outgoing delivery. Clients acknowledge in order, so it is mostly the first.
    pub(crate) fn find_inflight(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|entry| entry.packet_id == packet_id)
    }

    /// Notes a delivery that was sent for the first time.
    pub(crate) fn push_inflight(&mut self, packet_id: PacketId, delivery: Delivery, charged: bool) {
        self.inflight_bytes += cost(&delivery);
        let stage = Stage::Published(delivery);
        self.inflight.push_back(Inflight { packet_id, stage, charged, sent: true });
    }

    /// The client has the message of an outgoing delivery, which awaits PUBCOMP from now on; the
    /// message is no longer needed ([MQTT5-4.3.3-5]).
    pub(crate) fn release_inflight(&mut self, position: usize) {
        let Some(entry) = self.inflight.get_mut(position) else { return };
        entry.sent = true;
        let before = std::mem::replace(&mut entry.stage, Stage::Released);
        self.inflight_bytes -= before.bytes();
    }

    /// Ends an outgoing delivery. Returns it, and whether the client's Receive Maximum grows.
    pub(crate) fn remove_inflight(&mut self, position: usize) -> Option<Inflight> {
        let entry =
            if position == 0 { self.inflight.pop_front() } else { self.inflight.remove(position) };
        self.inflight_bytes -= entry.as_ref().map_or(0, |entry| entry.stage.bytes());
        if self.inflight.is_empty() {
            self.inflight = VecDeque::new();
        }
        entry
    }

    /// Position of a received QoS 2 publish, or where it would be.
    pub(crate) fn find_incoming(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.incoming.binary_search_by_key(&packet_id, |incoming| incoming.packet_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session and its connection are most of what an idle client costs in the shard.
    #[test]
    fn an_idle_client_stays_small() {
        assert!(size_of::<Session>() <= 288, "session: {}", size_of::<Session>());
        let connection = size_of::<crate::connection::Connection>();
        assert!(connection <= 176, "connection: {connection}");
    }
}

//! What is under way between the broker and one client: queued, in flight, or received and not
//! released. Few sessions have any of it at a given moment.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use petrel_proto::{PacketId, Qos, TopicName};
use smallvec::SmallVec;

use crate::Message;
use crate::keep::{Hold, Owed};
use crate::peer::{Asked, GroupDelivery, Lent};
use crate::sabotage::{self, Sabotage};

/// Everything under way for one session.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Sent or to be sent again, oldest first.
    pub(crate) inflight: VecDeque<Inflight>,
    /// The places of `inflight` may not grow.
    is_mixed: bool,
    /// Bytes of the messages in flight.
    pub(crate) inflight_bytes: u64,
    pub(crate) queue: Queue,
    /// QoS 2 publishes received and not yet released, sorted by packet identifier.
    pub(crate) incoming: Vec<Incoming>,
    /// How many of them count against our Receive Maximum.
    pub(crate) counted: u16,
    /// What the client is told when it is kept, oldest first.
    pub(crate) owed: VecDeque<Owed>,
    /// What some of `queue` wait for, by their places, in their order; use [`Flow::hold`].
    pub(crate) holds: VecDeque<(u64, Hold)>,
}

/// Flows that nobody needs at the moment, so that a message to an idle client costs no allocation.
///
/// *Bounds*: [`SPARE_MAX`], each with buffers of [`ENTRIES_KEPT`], of which what is not used is given back
/// while time passes.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    #[allow(clippy::vec_box, reason = "boxes are what is spared")]
    spare: Vec<Box<Flow>>,
    /// The least that there were since the last [`Flows::rest`].
    idle: usize,
}

const SPARE_MAX: usize = 1024;

/// Places that are less far apart than this have identifiers of their own.
const NEAR: u64 = 60_000;

/// A buffer for more than this many entries does not outlive them.
const ENTRIES_KEPT: usize = 64;

impl Flows {
    /// The flow of a session, a new one if it has none.
    pub(crate) fn of<'a>(&mut self, flow: &'a mut Option<Box<Flow>>) -> &'a mut Flow {
        let Self { spare, idle } = self;
        flow.get_or_insert_with(|| {
            let taken = spare.pop().unwrap_or_default();
            *idle = spare.len().min(*idle);
            taken
        })
    }

    /// Time has passed: half of what was not needed meanwhile is given back.
    pub(crate) fn rest(&mut self) {
        self.spare.truncate(self.spare.len() - self.idle.div_ceil(2));
        self.idle = self.spare.len();
        if self.spare.is_empty() {
            self.spare = Vec::new();
        }
    }

    /// Takes back a flow in which nothing is left.
    pub(crate) fn settle(&mut self, flow: &mut Option<Box<Flow>>) {
        if let Some(mut idle) = flow.take_if(|flow| flow.is_idle())
            && self.spare.len() < SPARE_MAX
        {
            idle.holds.clear();
            debug_assert_eq!((idle.counted, idle.inflight_bytes, idle.queue.bytes), (0, 0, 0));
            self.spare.push(idle);
        }
    }
}

impl Flow {
    fn is_idle(&self) -> bool {
        self.inflight.is_empty()
            && self.queue.is_empty()
            && self.incoming.is_empty()
            && self.owed.is_empty()
    }

    /// Position of an outgoing delivery. Clients acknowledge in order, so it is mostly the first.
    pub(crate) fn find_inflight(&self, packet_id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|entry| entry.packet_id == packet_id)
    }

    /// Messages in flight that the client has not said to have.
    pub(crate) fn published(&self) -> usize {
        let stages = self.inflight.iter().map(|entry| &entry.stage);
        stages.filter(|stage| matches!(stage, Stage::Published(_))).count()
    }

    /// Notes a delivery that was sent for the first time.
    pub(crate) fn push_inflight(&mut self, packet_id: PacketId, delivery: Delivery, charged: bool) {
        self.inflight_bytes += cost(&delivery);
        let stage = Stage::Published(delivery);
        self.put_in_flight(Inflight { packet_id, stage, charged, sent: true });
    }

    /// Puts a delivery behind those in flight.
    pub(crate) fn put_in_flight(&mut self, entry: Inflight) {
        let sequence = entry.stage.place().sequence();
        self.is_mixed = self
            .inflight
            .back()
            .is_some_and(|last| self.is_mixed || last.stage.place().sequence() >= sequence);
        self.inflight.push_back(entry);
    }

    /// True if no delivery in flight can have the identifier that follows from a place, since their places
    /// are all near below it. Cost: O(1).
    pub(crate) fn is_next(&self, sequence: u64) -> bool {
        let place = |entry: &Inflight| entry.stage.place().sequence();
        match (self.inflight.front(), self.inflight.back()) {
            (Some(first), Some(last)) => {
                !self.is_mixed
                    && place(first) > 0
                    && place(last) < sequence
                    && sequence - place(first) < NEAR
            }
            _ => true,
        }
    }

    /// The client has the message of an outgoing delivery, which awaits PUBCOMP from now on; the
    /// message is no longer needed ([MQTT5-4.3.3-5]).
    pub(crate) fn release_inflight(&mut self, position: usize, record: u64) {
        let Some(entry) = self.inflight.get_mut(position) else { return };
        entry.sent = true;
        let place = entry.stage.place();
        let before = std::mem::replace(&mut entry.stage, Stage::Released { place, record });
        self.inflight_bytes -= before.bytes();
    }

    /// Notes what the message at a place waits for.
    pub(crate) fn hold(&mut self, sequence: u64, hold: Hold) {
        let at = self.holds.partition_point(|(other, _)| *other < sequence);
        self.holds.insert(at, (sequence, hold));
    }

    /// What the message at a place waits for, if anything.
    pub(crate) fn held(&mut self, sequence: u64) -> Option<Hold> {
        if self.holds.len() > 2 * self.queue.len() {
            // What left the queue in another way has left these behind.
            let places: HashSet<u64> =
                self.queue.deliveries.iter().map(|waiting| waiting.place.sequence()).collect();
            self.holds.retain(|(other, _)| places.contains(other));
        }
        let at = self.holds.binary_search_by_key(&sequence, |(other, _)| *other).ok()?;
        self.holds.get(at).map(|(_, hold)| *hold)
    }

    /// True if the message at a place has waited for something when that was looked at last.
    pub(crate) fn is_held(&self, sequence: u64) -> bool {
        self.holds.binary_search_by_key(&sequence, |(other, _)| *other).is_ok()
    }

    /// The message at a place waits for nothing any more.
    pub(crate) fn release(&mut self, sequence: u64) {
        if let Ok(at) = self.holds.binary_search_by_key(&sequence, |(other, _)| *other) {
            self.holds.remove(at);
        }
    }

    /// Ends an outgoing delivery and returns it.
    pub(crate) fn remove_inflight(&mut self, position: usize) -> Option<Inflight> {
        let entry =
            if position == 0 { self.inflight.pop_front() } else { self.inflight.remove(position) };
        self.inflight_bytes -= entry.as_ref().map_or(0, |entry| entry.stage.bytes());
        if self.inflight.is_empty() && self.inflight.capacity() > ENTRIES_KEPT {
            self.inflight = VecDeque::new();
        }
        entry
    }

    /// Position of a received QoS 2 publish, or where it would be.
    pub(crate) fn find_incoming(&self, packet_id: PacketId) -> Result<usize, usize> {
        self.incoming.binary_search_by_key(&packet_id, |incoming| incoming.packet_id)
    }

    /// Ends a received QoS 2 publish and returns it.
    pub(crate) fn forget_incoming(&mut self, packet_id: PacketId) -> Option<Incoming> {
        let at = self.find_incoming(packet_id).ok()?;
        let incoming = self.incoming.remove(at);
        self.counted -= u16::from(incoming.counted);
        if self.incoming.is_empty() && self.incoming.capacity() > ENTRIES_KEPT {
            self.incoming = Vec::new();
        }
        Some(incoming)
    }
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
    /// The shared group through which it came, and how it stands with that.
    pub(crate) group: Option<Box<GroupDelivery>>,
    /// It answers a SUBSCRIBE from what was retained, as opposed to live.
    pub(crate) stored: bool,
    /// Where it stands in the order of a kept session.
    pub(crate) place: Place,
}

/// A place in the order of a kept session, in 8 bytes with what is to be known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place(u64);

/// Bit of [`Place::recorded`].
const RECORDED: u64 = 1 << 63;
/// Bit of [`Place::resent`].
const RESENT: u64 = 1 << 62;

impl Place {
    /// In a session that is not kept.
    pub(crate) const NONE: Self = Self(0);

    /// A place; *bounds*: below 2^62.
    pub(crate) const fn new(sequence: u64, recorded: bool, resent: bool) -> Self {
        let recorded = if recorded { RECORDED } else { 0 };
        Self(sequence | recorded | if resent { RESENT } else { 0 })
    }

    /// Its number; 0 for none.
    pub(crate) const fn sequence(self) -> u64 {
        self.0 & !(RECORDED | RESENT)
    }

    /// Its number, if there is a record of what stands there.
    pub(crate) const fn recorded(self) -> Option<NonZeroU64> {
        if self.0 & RECORDED == 0 { None } else { NonZeroU64::new(self.sequence()) }
    }

    /// What stands there may have been sent by a process before this one.
    pub(crate) const fn resent(self) -> bool {
        self.0 & RESENT != 0
    }
}

impl Delivery {
    /// A delivery that has no place in the session's order yet.
    pub(crate) fn new(
        message: Arc<Message>,
        (qos, retain): (Qos, bool),
        identifiers: SmallVec<[u32; 1]>,
    ) -> Self {
        Self { message, qos, retain, identifiers, group: None, stored: false, place: Place::NONE }
    }

    /// The record that a group has of it, if one has.
    pub(crate) fn lent(&self) -> Option<Lent> {
        self.group.as_deref().and_then(|group| group.lent)
    }

    /// True if it goes to this client exactly once, and the record of it is a group's.
    pub(crate) fn is_claimable(&self) -> bool {
        self.qos == Qos::ExactlyOnce && self.lent().is_some()
    }
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
    /// PUBREL sent, PUBCOMP is awaited; the message itself is no longer needed ([MQTT5-4.3.3-5]). The
    /// position of the record of it; 0 if there is none, or it is kept for sure.
    Released { place: Place, record: u64 },
}

impl Stage {
    /// Where it stands in the order of a kept session.
    pub(crate) const fn place(&self) -> Place {
        match self {
            Self::Published(delivery) => delivery.place,
            Self::Released { place, .. } => *place,
        }
    }

    /// What is held for it.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Published(delivery) => cost(delivery),
            Self::Released { .. } => 0,
        }
    }
}

/// A QoS 2 publish received and not yet released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) packet_id: PacketId,
    /// It counts against our Receive Maximum on this connection.
    pub(crate) counted: bool,
    /// It has a record, or will have one.
    pub(crate) recorded: bool,
}

/// Messages that wait to be sent, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) bytes: u64,
    /// Deliveries that answer a SUBSCRIBE.
    stored: u32,
    /// Deliveries that have to be asked for before they are sent ([`Delivery::is_claimable`]).
    claimable: u32,
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
        self.claimable += u32::from(delivery.is_claimable());
        match sabotage::on(Sabotage::QueueReversed) {
            true => self.deliveries.push_front(delivery),
            false => self.deliveries.push_back(delivery),
        }
    }

    /// Puts what was kept elsewhere where its place is, before all that a group has lent: the client may
    /// have had it, with an identifier that something newer has as well.
    pub(crate) fn push_loaded(&mut self, delivery: Delivery) {
        let sequence = delivery.place.sequence();
        let is_later =
            |other: &Delivery| other.group.is_some() || other.place.sequence() > sequence;
        let before = self.deliveries.iter().rposition(|other| !is_later(other));
        let at = before.map_or(0, |before| before + 1);
        if at == self.deliveries.len() {
            return self.push(delivery);
        }
        self.expires_first_ms = self.expires_first_ms.min(delivery.message.expires_at_ms);
        self.stored += u32::from(delivery.stored);
        self.put_back(at, delivery);
    }

    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= cost(&delivery);
        self.stored -= u32::from(delivery.stored);
        self.claimable -= u32::from(delivery.is_claimable());
        if self.deliveries.is_empty() && self.deliveries.capacity() > ENTRIES_KEPT {
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

    /// Takes out what has expired, but for what has been sent, up to a place. Cost: O(1) unless something
    /// has.
    pub(crate) fn extract_expired(&mut self, now_ms: u64, sent_upto: u64) -> Vec<Delivery> {
        if now_ms < self.expires_first_ms {
            return Vec::new();
        }
        let was_sent = |place: Place| place.recorded().is_some_and(|it| it.get() <= sent_upto);
        let expired =
            self.extract(|waiting| waiting.message.expired(now_ms) && !was_sent(waiting.place));
        let left = self.deliveries.iter().filter(|waiting| !was_sent(waiting.place));
        let left = left.map(|waiting| waiting.message.expires_at_ms);
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
        self.claimable -=
            out.iter().map(|delivery| u32::from(delivery.is_claimable())).sum::<u32>();
        out
    }

    /// True if something has to be asked for before it is sent.
    pub(crate) const fn has_claimable(&self) -> bool {
        self.claimable > 0
    }

    /// Notes that what of the first `most` has to be asked for is asked for. Returns it.
    pub(crate) fn ask(&mut self, most: usize, how: Asked) -> Vec<Lent> {
        let first = self.deliveries.iter_mut().take(most);
        let open = first.filter(|delivery| delivery.is_claimable());
        open.filter_map(|delivery| {
            let group = delivery.group.as_deref_mut()?;
            let asked = std::mem::replace(&mut group.asked, how);
            group.lent.filter(|_| asked == Asked::Nothing)
        })
        .collect()
    }

    /// Takes out what was asked for, with its position.
    pub(crate) fn take_asked(&mut self, lent: Lent) -> Option<(usize, Delivery)> {
        let is_it = |delivery: &Delivery| {
            delivery.group.as_deref().is_some_and(|group| group.lent == Some(lent))
        };
        let at = self.deliveries.iter().position(is_it)?;
        let delivery = self.deliveries.remove(at)?;
        self.bytes -= cost(&delivery);
        self.claimable -= u32::from(delivery.is_claimable());
        Some((at, delivery))
    }

    /// Puts a live delivery at a position, where it was.
    pub(crate) fn put_back(&mut self, at: usize, delivery: Delivery) {
        self.bytes += cost(&delivery);
        self.claimable += u32::from(delivery.is_claimable());
        self.deliveries.insert(at, delivery);
    }

    /// Takes out what answers a SUBSCRIBE with an older message of this topic, but for what the client may
    /// have had from a process before: it would take the next with that identifier for it. Cost: O(1)
    /// unless such answers wait.
    pub(crate) fn extract_stored(&mut self, topic: &TopicName) -> Vec<Delivery> {
        if self.stored == 0 {
            return Vec::new();
        }
        self.extract(|waiting| {
            waiting.stored && !waiting.place.resent() && waiting.message.topic == *topic
        })
    }
}

fn cost(delivery: &Delivery) -> u64 {
    delivery.message.cost_bytes() as u64
}

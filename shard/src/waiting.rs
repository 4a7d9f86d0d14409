//! What waits for a kept session: recorded when it is admitted, asked for when it is not in memory, and
//! done with when the client has it.

use std::num::NonZeroU64;
use std::sync::Arc;

use petrel_proto::{Ack, Packet, PacketId, Qos, ReasonCode};

use crate::ConnId;
use crate::config::QueueFull;
use crate::deliver::READY_QUEUE_MAX;
use crate::event::DropReason;
use crate::flow::{Delivery, Flow, Inflight, Place, Stage};
use crate::input::Loaded;
use crate::keep::{Hold, Needs};
use crate::losses::lose;
use crate::outbox::Load;
use crate::record::{DeliveryRecord, Provided, Record, Stored};
use crate::sabotage::{self, Sabotage};
use crate::session::{Oldest, Session, identifier_of};
use crate::shard::{Shard, Turn};

/// Bytes of messages that one answer brings, about.
pub(crate) const LOAD_BYTES: usize = 256 << 10;
/// What a session that is away keeps in memory, at most; of more it keeps nothing.
pub(crate) const HEAD_MESSAGES: usize = 4;
const HEAD_BYTES: u64 = 1_024;

impl Shard {
    /// Gives a delivery its place in the order of a kept session, and a record. What a shared group has
    /// lent has none: the group has it; and if it is of QoS 2, no place, until it is the session's own.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        delivery: &mut Delivery,
        provided: Option<Provided>,
    ) {
        if self.keep.is_on() && delivery.qos > Qos::AtMostOnce && delivery.place == Place::NONE {
            self.give_place(turn, index, delivery, provided);
        }
    }

    fn give_place(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        delivery: &mut Delivery,
        provided: Option<Provided>,
    ) {
        self.forget_freed(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(first) = session.kept_whole().map(|kept| kept.next_sequence) else { return };
        // A place whose identifier is in flight is left out ([MQTT5-2.2.1-4]), but not for ever: all
        // identifiers may be.
        let mut places = first..first + 1_024;
        let sequence = places.find(|&place| session.identifier_is_free(place)).unwrap_or(first);
        let Some(kept) = session.kept_whole() else { return };
        let is_group = delivery.group.is_some();
        if delivery.is_claimable() {
            return;
        }
        delivery.place = Place::new(sequence, !is_group, false);
        kept.next_sequence = sequence + 1;
        if is_group {
            return;
        }
        let incarnation = kept.incarnation;
        let is_away = !session.is_online();
        if is_away && sabotage::on(Sabotage::OfflineUnrecorded) {
            return;
        }
        let record = Record::Queued {
            incarnation,
            sequence,
            delivery: Box::new(DeliveryRecord {
                message: Arc::clone(&delivery.message),
                qos: delivery.qos,
                retain: delivery.retain,
                identifiers: delivery.identifiers.clone(),
                stored: delivery.stored,
                provided: provided.filter(|_| !sabotage::on(Sabotage::ReceiptNotNeeded)),
            }),
        };
        self.record(turn, record);
        if delivery.qos == Qos::ExactlyOnce {
            turn.out.urgent = true;
            let hold = match provided {
                Some(provided) => Hold::Provided(provided),
                None => Hold::Kept(self.keep.position()),
            };
            // What is not in memory is asked for with what it depends on.
            if let Some(session) = self.sessions.get_mut(index)
                && !session.waits_in_store()
            {
                self.flows.of(&mut session.flow).hold(sequence, hold);
            }
        }
    }

    /// A delivery is dropped that waited. If its client may have it, what they have begun is ended too.
    pub(crate) fn drop_waiting(&mut self, turn: &mut Turn<'_>, index: u32, delivery: &Delivery) {
        match delivery.place.recorded() {
            Some(sequence)
                if delivery.qos == Qos::ExactlyOnce
                    && self.may_have_left(index, sequence.get()) =>
            {
                self.record_released(turn, index, sequence);
                if let Some(packet_id) = identifier_of(sequence.get()) {
                    let position = self.keep.position();
                    self.restore_release(turn, index, (sequence.get(), packet_id), position);
                }
            }
            _ => self.done_with(turn, index, delivery),
        }
    }

    /// What waits at a place and is not in memory is dropped; the same holds.
    pub(crate) fn drop_stored(&mut self, turn: &mut Turn<'_>, index: u32, dropped: Oldest) {
        let Some(sequence) = NonZeroU64::new(dropped.sequence) else { return };
        if dropped.qos == Qos::ExactlyOnce && self.may_have_left(index, dropped.sequence) {
            // It takes part in nothing but the PUBREL that the client gets when this is loaded.
            self.record_released(turn, index, sequence);
        } else {
            self.record_done(turn, index, sequence);
        }
    }

    /// True if the client may have been sent what waits at a place, by a process before this one or on
    /// an earlier connection. If that is of QoS 2, the client may keep its identifier, and would take
    /// another message with that for the same ([MQTT5-4.3.3-10]). It was not sent while something before
    /// it has the identifier, which a PUBREL would release.
    fn may_have_left(&self, index: u32, sequence: u64) -> bool {
        if sabotage::on(Sabotage::ExchangeForgotten) {
            return false;
        }
        let Some(session) = self.sessions.get(index) else { return false };
        let has_sent = session.kept.as_deref().is_some_and(|kept| kept.has_sent(sequence));
        (sequence < self.keep.first_sequence() || has_sent) && !session.has_before(sequence)
    }

    /// A delivery is over: its record goes.
    pub(crate) fn done_with(&mut self, turn: &mut Turn<'_>, index: u32, delivery: &Delivery) {
        if let Some(sequence) = delivery.place.recorded() {
            self.record_done(turn, index, sequence);
        } else if let Some(lent) = delivery.lent() {
            self.lent_is_done(turn, lent);
        }
    }

    /// The record at a place goes.
    pub(crate) fn record_done(&mut self, turn: &mut Turn<'_>, index: u32, sequence: NonZeroU64) {
        let sequence = sequence.get();
        let Some(incarnation) = self.sessions.get(index).and_then(|s| s.incarnation()) else {
            return;
        };
        self.record(turn, Record::Done { incarnation, sequence });
        // Of one process, messages with one identifier are too far apart to matter.
        if sequence >= self.keep.first_sequence() {
            return;
        }
        self.forget_freed(index);
        // What nobody waits for counts as kept when it is written, and may be lost after that.
        turn.out.urgent = true;
        let freed = identifier_of(sequence).map(|id| (self.keep.position(), id));
        if let Some(kept) = self.sessions.get_mut(index).and_then(|s| s.kept_whole()) {
            kept.freed.get_or_insert_default().extend(freed);
        }
    }

    /// Identifiers are free for sure of which that is kept. Returns true if some are not.
    ///
    /// A client that has completed a message forgets its identifier. Were another message sent with that,
    /// and did the process fail before the first's end is kept, the first's PUBREL would come again and
    /// release the other, which would then come twice.
    pub(crate) fn forget_freed(&mut self, index: u32) -> bool {
        let Some(kept) = self.sessions.get_mut(index).and_then(|s| s.kept.as_deref_mut()) else {
            return false;
        };
        let Some(freed) = kept.freed.as_deref_mut() else { return false };
        while freed.pop_front_if(|(position, _)| self.keep.has_kept(*position)).is_some() {}
        if freed.is_empty() {
            kept.freed = None;
        }
        kept.freed.is_some()
    }

    /// The client has the message at a place and has not completed it.
    pub(crate) fn record_released(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        sequence: NonZeroU64,
    ) {
        if let Some(incarnation) = self.sessions.get(index).and_then(|s| s.incarnation()) {
            self.record(turn, Record::Released { incarnation, sequence: sequence.get() });
            // The PUBREL waits for it, on whatever connection.
            turn.out.urgent = true;
        }
    }

    /// PUBREL ([MQTT5-4.3.3-4]), which makes the client forget the identifier: it leaves when it is kept
    /// that the client has the message, which was recorded at this position; 0 if it was not.
    pub(crate) fn owe_release(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        (packet_id, reason): (PacketId, ReasonCode),
        position: u64,
    ) {
        if !self.keep.is_on() {
            return self.send(turn, conn, &Packet::PubRel(Ack::new(packet_id, reason)));
        }
        let awaited = !sabotage::on(Sabotage::ReleaseUnawaited);
        let needs = Needs::position(if awaited { position } else { 0 });
        self.owe(turn, conn, Packet::PubRel(Ack::new(packet_id, reason)), &needs);
    }

    /// The client is away: what waits for it needs no memory, since it is kept. Up to so many messages
    /// stay, if they are small, for clients that come back at once.
    pub(crate) fn evict(&mut self, index: u32, messages_max: usize) {
        let with_runs = self.limits().session_queue_full == QueueFull::DropOldest;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Session { kept: Some(kept), flow: Some(flow), .. } = session else { return };
        let waiting = flow.queue.deliveries.iter().map(|waiting| waiting.place);
        let places = flow.inflight.iter().map(|entry| entry.stage.place()).chain(waiting);
        let recorded = places.filter(|place| place.recorded().is_some()).count();
        let bytes = flow.inflight_bytes + flow.queue.bytes;
        if !kept.whole || recorded == 0 || (recorded <= messages_max && bytes <= HEAD_BYTES) {
            return;
        }
        let mut gone: Vec<(u64, Qos, u64)> = Vec::new();
        let Flow { inflight, inflight_bytes, queue, holds, .. } = &mut **flow;
        inflight.retain(|entry| {
            let Some(sequence) = entry.stage.place().recorded() else { return true };
            kept.sent_upto = kept.sent_upto.max(sequence.get());
            *inflight_bytes -= entry.stage.bytes();
            match &entry.stage {
                Stage::Published(delivery) => {
                    gone.push((sequence.get(), delivery.qos, entry.stage.bytes()));
                }
                // No message waits there any more.
                Stage::Released { .. } => kept.stored_from = kept.stored_from.min(sequence.get()),
            }
            false
        });
        for waiting in queue.extract(|waiting| waiting.place.recorded().is_some()) {
            let bytes = waiting.message.cost_bytes() as u64;
            gone.push((waiting.place.sequence(), waiting.qos, bytes));
        }
        holds.clear();
        gone.sort_unstable_by_key(|(sequence, ..)| *sequence);
        // What was there before lies behind all this.
        let behind = kept.runs.take();
        for (sequence, qos, bytes) in gone {
            kept.store(sequence, qos, bytes, with_runs);
        }
        if let (Some(runs), Some(behind)) = (&mut kept.runs, behind) {
            runs.extend(*behind);
        }
    }

    /// Asks for what waits and is not in memory, if there is room for it.
    #[inline]
    pub(crate) fn load_more(&mut self, turn: &mut Turn<'_>, index: u32) {
        if self.keep.is_on() {
            self.ask_for_more(turn, index);
        }
    }

    fn ask_for_more(&mut self, turn: &mut Turn<'_>, index: u32) {
        let named = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow.as_deref();
        let first = flow.and_then(|flow| flow.queue.deliveries.front());
        // What a group has lent may wait for what is asked for here.
        let is_next = first.is_some_and(|first| first.group.is_some());
        let has_room = is_next || session.queued_in_memory() < READY_QUEUE_MAX / 2;
        let room = session.is_online() && has_room;
        let Some(kept) = session.kept_whole().filter(|_| room) else { return };
        if kept.stored_from == u64::MAX || kept.loading {
            return;
        }
        kept.loading = true;
        turn.out.loads.push(Load {
            session: named,
            incarnation: kept.incarnation,
            from: kept.stored_from,
            upto: kept.next_sequence,
            messages_max: READY_QUEUE_MAX,
            bytes_max: LOAD_BYTES,
        });
    }

    /// What was asked for, at the pace of the client.
    pub(crate) fn on_loaded(&mut self, turn: &mut Turn<'_>, loaded: Loaded) {
        if let Some(&group) = self.groups.by_life.get(&loaded.load.incarnation) {
            return self.on_group_loaded(turn, group, loaded);
        }
        let Loaded { load, messages, void, next } = loaded;
        let Some(index) = self.resolve(load.session) else { return };
        let inflight_max = usize::from(self.limits().outgoing_inflight_maximum);
        let with_runs = self.limits().session_queue_full == QueueFull::DropOldest;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let is_online = session.is_online();
        let Some(kept) = session.kept_whole() else { return };
        kept.loading = false;
        if !is_online {
            return;
        }
        if kept.stored_from != load.from {
            // The client went and came back meanwhile, and what it had in flight is asked for as well.
            return self.drain(turn, index);
        }
        let counted_before = kept.uncounted_from;
        let first_sequence = self.keep.first_sequence();
        let counts = |sequence| sequence < counted_before || sequence >= first_sequence;
        // What has made room since the question is among the answer.
        let places = messages.iter().map(|stored| stored.sequence);
        let dropped: Vec<u64> =
            places.filter(|&place| with_runs && counts(place) && kept.has_dropped(place)).collect();
        kept.answered(&load, next);
        let sent_upto = kept.sent_upto;
        kept.pass_uncounted();
        let mut released = Vec::new();
        for Stored { sequence, delivery } in messages {
            let Some(session) = self.sessions.get_mut(index) else { return };
            let Some(kept) = session.kept_whole() else { return };
            let Some(record) = delivery else {
                released.extend(identifier_of(sequence).map(|id| (sequence, id, 0)));
                continue;
            };
            if dropped.binary_search(&sequence).is_ok() {
                if record.qos == Qos::ExactlyOnce && self.may_have_left(index, sequence) {
                    // Its record may have come after what was asked for.
                    let position = self.keep.position();
                    released.extend(identifier_of(sequence).map(|id| (sequence, id, position)));
                }
                continue;
            }
            let is_counted = counts(sequence);
            turn.out.ledger.restored += u64::from(!is_counted);
            kept.stored = kept.stored.saturating_sub(u32::from(is_counted));
            let bytes = record.message.cost_bytes() as u64;
            kept.stored_bytes =
                kept.stored_bytes.saturating_sub(if is_counted { bytes } else { 0 });
            let mut delivery =
                Delivery::new(record.message, (record.qos, record.retain), record.identifiers);
            delivery.stored = record.stored;
            let flow = self.flows.of(&mut session.flow);
            let inflight = flow.inflight.len() + flow.queue.len();
            let earlier = sequence < first_sequence && inflight < inflight_max;
            let resent = earlier || sequence <= sent_upto;
            delivery.place = Place::new(sequence, true, resent);
            if delivery.qos == Qos::ExactlyOnce
                && let Some(provided) = record.provided
            {
                flow.hold(sequence, Hold::Provided(provided));
            }
            flow.queue.push_loaded(delivery);
        }
        if let Some(kept) = self.sessions.get_mut(index).and_then(|s| s.kept_whole())
            && kept.stored_from == u64::MAX
        {
            // What has expired where it was kept.
            for _ in 0..std::mem::take(&mut kept.stored) {
                lose(turn, index, b"", DropReason::Expired);
            }
            kept.stored_bytes = 0;
        }
        for sequence in void.into_iter().filter_map(NonZeroU64::new) {
            self.record_done(turn, index, sequence);
        }
        for (sequence, packet_id, position) in released {
            self.restore_release(turn, index, (sequence, packet_id), position);
        }
        self.drain(turn, index);
        self.settle(index);
    }

    /// A QoS 2 message that the client has, or shall not get any more, and has not completed is in flight
    /// again. This was recorded at that position; 0 if it is kept.
    fn restore_release(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        (sequence, packet_id): (u64, PacketId),
        record: u64,
    ) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = self.flows.of(&mut session.flow);
        flow.put_in_flight(Inflight {
            packet_id,
            stage: Stage::Released { place: Place::new(sequence, true, true), record },
            charged: false,
            sent: true,
        });
        if let Some(conn) = self.conn_of(index) {
            self.owe_release(turn, conn, (packet_id, ReasonCode::Success), record);
        } else if let Some(flow) =
            self.sessions.get_mut(index).and_then(|session| session.flow.as_deref_mut())
            && let Some(entry) = flow.inflight.back_mut()
        {
            entry.sent = false;
        }
    }
}

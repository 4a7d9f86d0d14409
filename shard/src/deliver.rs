//! From the shard to one client: in flight, queued, or dropped for a reason ([MQTT5-4.3],
//! [MQTT5-4.6], [MQTT5-4.9]).

use bytes::Bytes;
use petrel_proto::{MessageProperties, PacketId, PublishHead, Qos, ReasonCode};

use crate::alias::{OutgoingAliases, TopicForm};
use crate::config::QueueFull;
use crate::connection::Connection;
use crate::event::{DropReason, Limit};
use crate::flow::{Delivery, Flow, Inflight, Place, Stage};
use crate::forms::Forms;
use crate::level_hash::HashKey;
use crate::losses::lose;
use crate::message::remaining_s;
use crate::record::Provided;
use crate::sabotage::{self, Sabotage};
use crate::session::{Kept, Session};
use crate::shard::{Shard, Turn};
use crate::traced::{Note, topic_text};
use crate::waiting::HEAD_MESSAGES;
use crate::{ConnId, Message};

/// A session takes no further retained messages or group messages while it holds this many.
pub(crate) const READY_QUEUE_MAX: usize = 64;

/// Messages that wait for one kept session in memory, at most; what is beyond stays where it is kept.
pub(crate) const MEMORY_QUEUE_MAX: usize = 2 * READY_QUEUE_MAX;

/// Packet identifiers that there are. What was released before a resume keeps its identifier without
/// counting against the client's Receive Maximum, so a client can have all of them in use.
const IDENTIFIERS: usize = 65_535;

/// A message, wherever it lies.
pub(crate) trait Body {
    fn topic(&self) -> &[u8];
    fn payload(&self) -> &[u8];
    /// The payload, if it may be held.
    fn whole(&self) -> Option<&Bytes>;
    fn properties(&self) -> &MessageProperties;
    fn expires_at_ms(&self) -> u64;
}

impl Body for Message {
    fn topic(&self) -> &[u8] {
        self.topic.as_bytes()
    }

    fn payload(&self) -> &[u8] {
        &self.payload
    }

    fn whole(&self) -> Option<&Bytes> {
        Some(&self.payload)
    }

    fn properties(&self) -> &MessageProperties {
        &self.properties
    }

    fn expires_at_ms(&self) -> u64 {
        self.expires_at_ms
    }
}

/// How a PUBLISH goes to one connection.
pub(crate) struct Outgoing<'a, B = Message> {
    pub(crate) message: &'a B,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) identifiers: &'a [u32],
}

impl Shard {
    /// Delivers at QoS 0: now, or not at all, and after what is due. Returns whether it was sent.
    #[inline(always)]
    pub(crate) fn deliver_at_most_once<B: Body>(
        &mut self,
        turn: &mut Turn<'_>,
        session: u32,
        message: &B,
        retain: bool,
        identifiers: &[u32],
    ) -> bool {
        self.give_due(turn, session);
        self.send_at_most_once(turn, session, message, retain, identifiers)
    }

    /// The same, whatever else is due.
    pub(crate) fn send_at_most_once<B: Body>(
        &mut self,
        turn: &mut Turn<'_>,
        session: u32,
        message: &B,
        retain: bool,
        identifiers: &[u32],
    ) -> bool {
        let Self { sessions, conns, scratch, at_most_once_bytes_max, key, .. } = self;
        let online = sessions.get(session).filter(|session| session.is_online());
        let conn = online.and_then(|session| Some((session.conn, conns.get_mut(session.conn)?)));
        let Some((index, connection)) = conn else {
            lose(turn, session, message.topic(), DropReason::NotConnected);
            return false;
        };
        if !connection.takes(*at_most_once_bytes_max) {
            lose(turn, session, message.topic(), DropReason::SlowReader);
            return false;
        }
        if message.expires_at_ms() <= turn.now_ms {
            lose(turn, session, message.topic(), DropReason::Expired);
            return false;
        }
        let (qos, dup, packet_id) = (Qos::AtMostOnce, false, None);
        let outgoing = Outgoing { message, qos, retain, dup, packet_id, identifiers };
        let conn = ConnId { index, generation: connection.generation };
        let forms = &mut scratch.forms;
        let is_sent = forms
            .send(turn, (conn, connection), &outgoing)
            .unwrap_or_else(|| encode(key, forms, turn, (conn, connection), &outgoing));
        turn.out.ledger.delivered[0] += u64::from(is_sent);
        is_sent
    }

    /// Delivers at QoS 1 or 2 what a group has lent: now if the client has room, else through the session's
    /// queue, and after what is due.
    pub(crate) fn deliver_lent(&mut self, turn: &mut Turn<'_>, session: u32, lent: Delivery) {
        self.give_due(turn, session);
        self.send_or_queue(turn, session, lent, None);
    }

    /// Delivers at QoS 1 or 2: now if the client has room, else through the session's queue.
    ///
    /// What `provided` says is for a session that is kept.
    pub(crate) fn send_or_queue(
        &mut self,
        turn: &mut Turn<'_>,
        session: u32,
        mut delivery: Delivery,
        provided: Option<Provided>,
    ) {
        if self.has_room(session, &delivery) {
            if delivery.message.expired(turn.now_ms) {
                lose(turn, session, delivery.message.topic.as_bytes(), DropReason::Expired);
                return self.done_with(turn, session, &delivery);
            }
            self.admit(turn, session, &mut delivery, provided);
            return self.send_delivery(turn, session, delivery);
        }
        if self.has_window_full(session, &delivery.message) {
            turn.out.limited.count(Limit::InflightFull);
        }
        let held = delivery.qos == Qos::ExactlyOnce && self.keep.is_on();
        self.enqueue(turn, session, delivery, provided);
        if held {
            // It may wait for nothing but its record, and has to be looked at when that is kept.
            self.drain(turn, session);
        }
        self.settle(session);
        self.tell_groups(turn, session);
    }

    /// True if the session's next QoS 1 or 2 message may go out at once.
    fn has_room(&self, index: u32, delivery: &Delivery) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        // A QoS 2 message to a session that is kept waits for its record.
        if let Some(kept) = session.kept.as_deref()
            && (kept.stored_from != u64::MAX || (kept.whole && delivery.qos == Qos::ExactlyOnce))
        {
            return false;
        }
        if delivery.is_claimable() {
            return false;
        }
        let Some(conn) = self.conn_of(index) else { return false };
        session
            .flow
            .as_deref()
            .is_none_or(|flow| flow.queue.is_empty() && self.window_takes(flow, &delivery.message))
            && self.connection(conn).is_some_and(|c| c.send_quota > 0 && !c.resending())
            && self.socket_takes(conn)
    }

    /// Whether one more message fits beside those in flight, by number and by bytes.
    fn window_takes(&self, flow: &Flow, message: &Message) -> bool {
        let held = flow.inflight_bytes;
        flow.inflight.len() < IDENTIFIERS
            && (held == 0
                || held + message.cost_bytes() as u64
                    <= self.limits().outgoing_inflight_bytes_maximum)
    }

    /// True if the client is there and has as much in flight as it may have.
    fn has_window_full(&self, index: u32, message: &Message) -> bool {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_deref());
        let conn = self.conn_of(index).and_then(|conn| self.connection(conn));
        conn.is_some_and(|conn| conn.send_quota == 0)
            || conn.is_some() && flow.is_some_and(|flow| !self.window_takes(flow, message))
    }

    fn socket_takes(&self, conn: ConnId) -> bool {
        let bytes_max = self.limits().outgoing_bytes_maximum;
        self.connection(conn).is_some_and(|connection| connection.takes(bytes_max))
    }

    /// What would be in flight by now, did the first not wait for a record, a receipt or an answer of the
    /// storage: so many messages, and so many bytes, count as if they were.
    fn window_left(&self, index: u32, qos: Qos) -> (usize, u64) {
        let Some(session) = self.sessions.get(index) else { return (0, 0) };
        let Some(kept) = session.kept.as_deref().filter(|kept| kept.whole) else { return (0, 0) };
        let flow = session.flow.as_deref();
        let first = flow.and_then(|flow| flow.queue.deliveries.front());
        let is_held = match first {
            _ if kept.stored_from != u64::MAX => kept.stored_from >= self.keep.first_sequence(),
            Some(first) => flow.is_some_and(|flow| flow.is_held(first.place.sequence())),
            None => qos == Qos::ExactlyOnce,
        };
        let Some(conn) = self.conn_of(index).filter(|_| is_held) else { return (0, 0) };
        let quota = self.connection(conn).map_or(0, |connection| connection.send_quota);
        if quota == 0 || !self.socket_takes(conn) {
            return (0, 0);
        }
        let inflight_bytes = flow.map_or(0, |flow| flow.inflight_bytes);
        let bytes = self.limits().outgoing_inflight_bytes_maximum.saturating_sub(inflight_bytes);
        (usize::from(quota), bytes)
    }

    /// Puts a delivery into the queue, within its bounds.
    pub(crate) fn enqueue(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        mut delivery: Delivery,
        provided: Option<Provided>,
    ) {
        let limits = self.limits();
        let (in_window, bytes_in_window) = self.window_left(index, delivery.qos);
        let messages_max = limits.session_queue_messages as usize + in_window;
        let bytes_max = limits.session_queue_bytes.saturating_add(bytes_in_window);
        let policy = limits.session_queue_full;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let (stored, stored_bytes) = session.stored();
        let sent_upto = session.kept.as_deref().map_or(0, |kept| kept.sent_upto);
        let queue = &mut self.flows.of(&mut session.flow).queue;
        let bytes = delivery.message.cost_bytes() as u64;
        let full = |len: usize, held: u64| {
            len + stored as usize + 1 > messages_max || held + stored_bytes + bytes > bytes_max
        };
        let (mut gone, mut stored_gone) = (Vec::new(), Vec::new());
        if full(queue.len(), queue.bytes) {
            for expired in queue.extract_expired(turn.now_ms, sent_upto) {
                lose(turn, index, expired.message.topic.as_bytes(), DropReason::Expired);
                gone.push(expired);
            }
        }
        // Nothing makes room for what is larger than the whole queue.
        while policy == QueueFull::DropOldest
            && bytes <= bytes_max
            && full(queue.len(), queue.bytes)
            && let Some(oldest) = queue.pop()
        {
            lose(turn, index, oldest.message.topic.as_bytes(), DropReason::QueueFull);
            gone.push(oldest);
        }
        let (len, held) = (queue.len(), queue.bytes);
        if policy == QueueFull::DropOldest && bytes <= bytes_max {
            let fits = |(count, in_store): (u32, u64)| {
                len + (count as usize) < messages_max && held + in_store + bytes <= bytes_max
            };
            while !fits(session.stored())
                && let Some(oldest) = session.kept_whole().and_then(Kept::drop_oldest)
            {
                lose(turn, index, b"", DropReason::QueueFull);
                stored_gone.push(oldest);
            }
        }
        let (stored, stored_bytes) = session.stored();
        let queue = &mut self.flows.of(&mut session.flow).queue;
        let full = |len: usize, held: u64| {
            len + stored as usize + 1 > messages_max || held + stored_bytes + bytes > bytes_max
        };
        let (len, is_full) = (queue.len(), full(queue.len(), queue.bytes));
        for dropped in gone {
            self.drop_waiting(turn, index, &dropped);
        }
        for dropped in stored_gone {
            self.drop_stored(turn, index, dropped);
        }
        if is_full {
            lose(turn, index, delivery.message.topic.as_bytes(), DropReason::QueueFull);
            return self.drop_waiting(turn, index, &delivery);
        }
        self.admit(turn, index, &mut delivery, provided);
        let waiting = (len + stored as usize + 1) as u64;
        let topic = &delivery.message.topic;
        turn.out.notes.add(|| {
            let topic = topic_text(topic.as_bytes());
            Note::Queued { session: index, topic, waiting }
        });
        self.queue_up(index, delivery);
    }

    /// Puts a delivery that has been admitted behind what waits: in memory, or only where it is kept if
    /// what is before it is there as well, or if there is much of it. A client that is away has then
    /// nothing in memory.
    pub(crate) fn queue_up(&mut self, index: u32, delivery: Delivery) {
        let with_runs = self.limits().session_queue_full == QueueFull::DropOldest;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let in_memory = session.queued_in_memory();
        let is_away = !session.is_online();
        let most = if is_away { HEAD_MESSAGES } else { MEMORY_QUEUE_MAX };
        if let Some(sequence) = delivery.place.recorded()
            && let Some(kept) = session.kept.as_deref_mut()
            && (kept.stored_from != u64::MAX || in_memory >= most)
        {
            let bytes = delivery.message.cost_bytes() as u64;
            if is_away && in_memory > 0 {
                self.evict(index, 0);
            }
            if let Some(session) = self.sessions.get_mut(index) {
                if let Some(kept) = session.kept.as_deref_mut() {
                    kept.store(sequence.get(), delivery.qos, bytes, with_runs);
                }
                self.flows.settle(&mut session.flow);
            }
            return;
        }
        let queue = &mut self.flows.of(&mut session.flow).queue;
        if sabotage::on(Sabotage::QueuedMessageLost) && queue.len() == 3 {
            queue.pop();
        }
        queue.push(delivery);
    }

    /// Sends what a session has waiting, as far as its client and its socket take it: first what
    /// was in flight when the last connection ended, in order and with its old identifiers
    /// ([MQTT5-4.4.0-1], [MQTT5-4.6.0-1]), then the queue, then retained messages.
    pub(crate) fn drain(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(conn) = self.conn_of(index) else { return };
        if self.is_served(index, conn) {
            return self.settle(index);
        }
        // Nothing comes before CONNACK, which may wait for something to be kept.
        if self.keep.is_on() && !self.connection(conn).is_some_and(Connection::is_live) {
            return;
        }
        if !self.resend(turn, index, conn) {
            return;
        }
        while self.socket_takes(conn) {
            let quota = self.connection(conn).map_or(0, |c| c.send_quota);
            let Some(session) = self.sessions.get(index) else { return };
            let Some(flow) = session.flow.as_deref() else { break };
            let Some(next) = flow.queue.deliveries.front() else { break };
            let stuck = quota == 0 || !self.window_takes(flow, &next.message);
            let (qos, place) = (next.qos, next.place);
            if next.is_claimable() || (next.group.is_some() && self.lent_waits(session)) {
                break;
            }
            if qos > Qos::AtMostOnce && (stuck || !self.may_send(index, place.sequence())) {
                break;
            }
            let Some(session) = self.sessions.get_mut(index) else { return };
            let Some(delivery) = session.flow.as_deref_mut().and_then(|flow| flow.queue.pop())
            else {
                break;
            };
            let is_expired = delivery.message.expired(turn.now_ms);
            if (is_expired || self.has_lost(index, &delivery.message.topic))
                && !self.has_sent(index, place)
            {
                let lost = DropReason::NotAuthorized;
                let reason = if is_expired { DropReason::Expired } else { lost };
                lose(turn, index, delivery.message.topic.as_bytes(), reason);
                self.drop_waiting(turn, index, &delivery);
            } else if delivery.qos == Qos::AtMostOnce {
                let Delivery { message, retain, identifiers, .. } = delivery;
                self.deliver_at_most_once(turn, index, &*message, retain, &identifiers);
            } else {
                self.send_delivery(turn, index, delivery);
            }
        }
        self.claim_lent(turn, index);
        self.settle(index);
        self.tell_groups(turn, index);
        self.load_more(turn, index);
        self.pull_retained(turn, index);
    }

    /// True if nothing at all waits for a session: nothing is queued, resent or kept, and it is in no group and
    /// asks for no retained messages.
    #[inline]
    fn is_served(&self, index: u32, conn: ConnId) -> bool {
        self.sessions.get(index).is_some_and(|session| {
            session.rare.is_none()
                && session.kept.is_none()
                && session.flow.as_deref().is_none_or(|flow| flow.queue.is_empty())
        }) && self.connection(conn).is_some_and(|connection| !connection.resending())
    }

    /// True if what a group has lent has to wait: its identifier may be that of a message that the client
    /// has been sent, and that is not in memory yet ([MQTT5-2.2.1-4]).
    fn lent_waits(&self, session: &Session) -> bool {
        self.keep.is_on()
            && session.waits_for_sent(self.keep.first_sequence())
            && !sabotage::on(Sabotage::LentBeforeLoaded)
    }

    /// True if what waits at a place has been sent on an earlier connection.
    fn has_sent(&self, index: u32, place: Place) -> bool {
        let kept = self.sessions.get(index).and_then(|session| session.kept.as_deref());
        place.recorded().is_some_and(|at| kept.is_some_and(|kept| kept.has_sent(at.get())))
    }

    /// Sends again what is in flight and was not sent on this connection. Returns true when
    /// nothing of it is left.
    fn resend(&mut self, turn: &mut Turn<'_>, index: u32, conn: ConnId) -> bool {
        if !self.connection(conn).is_some_and(|c| c.resending()) {
            return true;
        }
        let mut at = 0;
        while let Some(entry) = self.inflight_mut(index, at) {
            let packet_id = entry.packet_id;
            match &entry.stage {
                _ if entry.sent => {}
                &Stage::Released { record, .. } => {
                    entry.sent = true;
                    if sabotage::on(Sabotage::PubRelForgotten) {
                        continue;
                    }
                    self.owe_release(turn, conn, (packet_id, ReasonCode::Success), record);
                }
                Stage::Published(delivery) => {
                    let delivery = delivery.clone();
                    if !self.socket_takes(conn) || !self.charge(conn) {
                        return false;
                    }
                    self.mark_sent(index, at);
                    let outgoing = Outgoing {
                        message: &*delivery.message,
                        qos: delivery.qos,
                        retain: delivery.retain,
                        // [MQTT5-3.3.1-1]
                        dup: true,
                        packet_id: Some(packet_id),
                        identifiers: &delivery.identifiers,
                    };
                    let lost = self.has_lost(index, &delivery.message.topic);
                    if lost {
                        let topic = delivery.message.topic.as_bytes();
                        lose(turn, index, topic, DropReason::NotAuthorized);
                    }
                    if lost || !self.send_publish(turn, conn, &outgoing) {
                        self.give_up(turn, (index, conn), (at, packet_id), &delivery);
                        continue;
                    }
                }
            }
            at += 1;
        }
        if let Some(connection) = self.connection_mut(conn) {
            connection.resent();
        }
        true
    }

    /// Takes one from the client's Receive Maximum ([MQTT5-4.9.0-1], [MQTT5-3.3.4-9]).
    fn charge(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connection_mut(conn) else { return false };
        if connection.send_quota == 0 {
            return false;
        }
        let extra = sabotage::on(Sabotage::ReceiveMaximumOffByOne) && connection.send_quota == 2;
        connection.send_quota -= if extra { 0 } else { 1 };
        true
    }

    fn mark_sent(&mut self, index: u32, at: usize) {
        if let Some(entry) = self.inflight_mut(index, at) {
            entry.sent = true;
            entry.charged = true;
        }
    }

    fn inflight_mut(&mut self, index: u32, at: usize) -> Option<&mut Inflight> {
        self.sessions.get_mut(index)?.flow.as_deref_mut()?.inflight.get_mut(at)
    }

    /// Sends a QoS 1 or 2 delivery for the first time.
    fn send_delivery(&mut self, turn: &mut Turn<'_>, index: u32, delivery: Delivery) {
        let Some(conn) = self.conn_of(index) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(packet_id) = session.allocate_packet_id(delivery.place.sequence()) else {
            if self.keep.is_on() {
                self.look_again(index);
            }
            return self.enqueue(turn, index, delivery, None);
        };
        let outgoing = Outgoing {
            message: &*delivery.message,
            qos: delivery.qos,
            retain: delivery.retain,
            dup: delivery.place.resent(),
            packet_id: Some(packet_id),
            identifiers: &delivery.identifiers,
        };
        // What is too large counts as delivered ([MQTT5-3.1.2-25]).
        if self.send_publish(turn, conn, &outgoing) {
            let charged = self.charge(conn);
            debug_assert!(charged);
            if let Some(session) = self.sessions.get_mut(index) {
                let flow = self.flows.of(&mut session.flow);
                flow.push_inflight(packet_id, delivery, charged);
            }
        } else {
            self.drop_waiting(turn, index, &delivery);
        }
    }

    /// Gives up a delivery in flight that cannot be sent to the client that is connected now. At QoS 2 the
    /// client may have it all the same, and is told that it may forget its identifier.
    fn give_up(
        &mut self,
        turn: &mut Turn<'_>,
        (index, conn): (u32, ConnId),
        (at, packet_id): (usize, PacketId),
        delivery: &Delivery,
    ) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.send_quota = (connection.send_quota + 1).min(connection.receive_maximum);
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(flow) = session.flow.as_deref_mut() else { return };
        if delivery.qos != Qos::ExactlyOnce {
            flow.remove_inflight(at);
            return self.done_with(turn, index, delivery);
        }
        let record = match delivery.place.recorded() {
            Some(sequence) => {
                self.record_released(turn, index, sequence);
                self.keep.position()
            }
            None => 0,
        };
        if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_deref_mut()) {
            flow.release_inflight(at, record);
        }
        if let Some(entry) = self.inflight_mut(index, at) {
            entry.charged = false;
        }
        self.owe_release(turn, conn, (packet_id, ReasonCode::Success), record);
    }

    /// Encodes a PUBLISH for a connection. Returns false, and sends nothing, if it is larger than
    /// the client accepts ([MQTT5-3.1.2-24], [MQTT5-3.1.2-25]).
    fn send_publish(&mut self, turn: &mut Turn<'_>, conn: ConnId, outgoing: &Outgoing<'_>) -> bool {
        let Self { conns, scratch, key, .. } = self;
        let connection = conns.get_mut(conn.index).filter(|c| c.generation == conn.generation);
        let Some(connection) = connection else { return false };
        let forms = &mut scratch.forms;
        forms
            .send(turn, (conn, connection), outgoing)
            .unwrap_or_else(|| encode(key, forms, turn, (conn, connection), outgoing))
    }

    /// The socket took bytes, or not all of them.
    pub(crate) fn on_flushed(&mut self, turn: &mut Turn<'_>, conn: ConnId, pending: usize) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let shrank = pending < connection.pending_bytes();
        connection.set_pending_bytes(pending);
        if !shrank {
            return;
        }
        let Some(index) = self.session_of(conn) else { return };
        let resending = self.connection(conn).is_some_and(|c| c.resending());
        let waits = resending
            || self
                .sessions
                .get(index)
                .is_some_and(|session| session.queued() > 0 || session.waits_for_retained());
        if waits {
            self.drain(turn, index);
        }
    }
}

/// Encodes a PUBLISH for a connection and sends it. Returns false, and sends nothing, if it is larger than the
/// client accepts ([MQTT5-3.1.2-24], [MQTT5-3.1.2-25]).
fn encode<B: Body>(
    key: &HashKey,
    forms: &mut Forms,
    turn: &mut Turn<'_>,
    (conn, connection): (ConnId, &mut Connection),
    outgoing: &Outgoing<'_, B>,
) -> bool {
    let message = outgoing.message;
    let (topic, payload, whole) = (message.topic(), message.payload(), message.whole());
    let version = connection.version;
    let aliases = connection.extras().map(|extras| &extras.outgoing_aliases);
    let maximum = connection.alias_maximum;
    let form = match maximum {
        0 => TopicForm::Full,
        _ => OutgoingAliases::form(aliases, maximum, topic, || key.hash(topic)),
    };
    let (sent_topic, topic_alias) = match form {
        TopicForm::Full => (topic, None),
        TopicForm::Introduced(alias) => (topic, Some(alias)),
        TopicForm::Known(alias) => {
            note_alias(turn, topic);
            (&[][..], Some(alias))
        }
    };
    let mut head = PublishHead {
        dup: outgoing.dup,
        qos: outgoing.qos,
        retain: outgoing.retain,
        topic: sent_topic,
        packet_id: outgoing.packet_id,
        payload_bytes: payload.len(),
        message_expiry_interval_s: remaining_s(message.expires_at_ms(), turn.now_ms)
            .map(|s| s + u32::from(sabotage::on(Sabotage::ExpiryTooLong))),
        topic_alias,
        subscription_identifiers: match outgoing.identifiers {
            [_, rest @ ..] if sabotage::on(Sabotage::IdentifierLost) => rest,
            all => all,
        },
        properties: message.properties(),
    };
    let bytes_max = connection.maximum_packet_size as usize;
    let mut encoded = turn.out.publish(version, &head, (payload, whole), bytes_max);
    if encoded.is_none() && matches!(form, TopicForm::Introduced(_)) {
        head.topic_alias = None;
        encoded = turn.out.publish(version, &head, (payload, whole), bytes_max);
    }
    let Some(encoded) = encoded else {
        lose(turn, connection.session, message.topic(), DropReason::TooLarge);
        return false;
    };
    if let (TopicForm::Introduced(alias), Some(_)) = (form, head.topic_alias) {
        connection.extras_mut().outgoing_aliases.introduced(topic, alias);
    }
    forms.put(connection, outgoing, encoded);
    connection.set_pending_bytes(connection.pending_bytes() + encoded.packet_bytes);
    turn.out.send(conn, &encoded, outgoing.packet_id);
    true
}

/// The packet that is written next does not name its topic.
#[cold]
#[inline(never)]
fn note_alias(turn: &mut Turn<'_>, topic: &[u8]) {
    let write = turn.out.writes.len();
    turn.out.notes.add_alias(write, topic);
}

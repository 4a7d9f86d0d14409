//! Sessions where they are kept: what is recorded of them, and how they come back after a restart.

use std::collections::VecDeque;
use std::sync::Arc;

use petrel_proto::{PacketId, Will};

use crate::connect::client_hash;
use crate::event::DropReason;
use crate::flow::Incoming;
use crate::keep::Then;
use crate::ledger::refuse_message;
use crate::message::will_message;
use crate::peer::PeerMessage;
use crate::record::{Incarnation, Record, SessionRecord, SubscriptionRecord};
use crate::restored::Restored;
use crate::retained::Room;
use crate::sabotage::{self, Sabotage};
use crate::session::{Kept, PendingWill, Session, SharedSubscription};
use crate::shard::{Shard, Turn};
use crate::standing::Standing;
use crate::timers::Tick;
use crate::traced::{Note, topic_text};
use crate::{Author, Message, Now, Outbox, Slot};

/// What is only known while sessions come back, and until what waits for them has been counted.
#[derive(Debug, Default)]
pub(crate) struct Restoring {
    /// The positions of the sessions.
    pub(crate) places: Restored,
    /// Those of which nothing comes back but a will.
    over: Vec<SessionRecord>,
    /// Wills that were published, and may have been lost.
    leaving: Vec<(Incarnation, Will)>,
    /// By lane: shared groups of which nobody has been asked yet, in order.
    pub(crate) groups: Vec<VecDeque<Incarnation>>,
    /// By lane: the sessions of the question that has not been answered.
    pub(crate) asked: Vec<Vec<(Incarnation, u32)>>,
    /// Lanes that have not counted everything.
    pub(crate) uncounted: u16,
}

impl Shard {
    /// Records a session that begins or goes on with a new connection, if anything of it is to be kept.
    pub(crate) fn keep_session(&mut self, turn: &mut Turn<'_>, index: u32) {
        if !self.keep.is_on() {
            return;
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.kept.is_none() {
            let whole = session.expiry_interval_s > 0;
            if !whole && session.will().is_none() {
                return;
            }
            let slot = Slot::of(session.client_id.as_bytes());
            let Some(incarnation) = self.keep.begin_life(slot) else { return };
            let next_sequence = self.keep.first_sequence();
            session.kept = Some(Box::new(Kept::new(incarnation, whole, next_sequence)));
        }
        self.record_session(turn, index);
    }

    /// Records a session as it is, if anything of it is kept.
    pub(crate) fn record_session(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(session) = self.sessions.get(index) else { return };
        let Some(kept) = session.kept.as_deref() else { return };
        let pending = session.will();
        let record = SessionRecord {
            incarnation: kept.incarnation,
            client_id: session.client_id(),
            expiry_interval_s: session.expiry_interval_s,
            expires_at_ms: (!session.is_online()).then(|| session.expires_at.ms()),
            will: pending.map(|pending| pending.will.clone()),
            will_at_ms: pending.map_or(u64::MAX, |pending| pending.fires_at_ms),
            leaving: kept.leaving.iter().flat_map(|all| &**all).map(|(_, w)| w.clone()).collect(),
            user: session.standing.as_deref().and_then(|standing| standing.user().cloned()),
        };
        self.record(turn, Record::Session(Box::new(record)));
    }

    /// Publishes the will of a session, once. What is kept of the session has its will until what was
    /// queued of that is kept.
    pub(crate) fn publish_will(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let publisher = self.key.hash(session.client_id.as_bytes());
        let generation = session.generation;
        let Some(pending) = session.rare.as_deref_mut().and_then(|rare| rare.will.take()) else {
            return;
        };
        let message = will_message(&pending.will, publisher, turn.now_ms);
        let number = self.keep.next_token();
        let is_kept = session.kept.is_some();
        if let Some(kept) = session.kept.as_deref_mut() {
            kept.leaving.get_or_insert_default().push((number, *pending.will));
        }
        let since = self.keep.begin();
        turn.out.ledger.wills += 1;
        let topic = message.topic.clone();
        let said = || topic_text(topic.as_bytes());
        turn.out.notes.add(|| Note::Will { session: index, topic: said() });
        let due_before = turn.out.ledger.due;
        // It may have lost the right since its CONNECT.
        if self.may_leave_will(index, &message.topic, message.qos, message.retain) {
            let matched = self.route(turn, message, None, Some(index));
            turn.out.ledger.unmatched += u64::from(!matched);
            let copies = turn.out.ledger.due - due_before;
            let routed = || Note::Routed { session: index, topic: said(), copies, matched };
            turn.out.notes.add(routed);
        } else {
            let reason = DropReason::NotAuthorized;
            refuse_message(turn, reason);
            turn.out.notes.add(|| Note::Refused { session: index, topic: said(), reason });
        }
        if is_kept {
            let needs = self.keep.needs(since);
            self.after(turn, &needs, Then::WillOut { session: index, generation, number });
        }
    }

    /// What was queued of a session's will is kept: the session has it no longer.
    pub(crate) fn will_is_out(
        &mut self,
        turn: &mut Turn<'_>,
        (index, generation): (u32, u32),
        number: u64,
    ) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.generation == generation
            && let Some(kept) = session.kept.as_deref_mut()
        {
            if let Some(leaving) = &mut kept.leaving {
                leaving.retain(|(other, _)| *other != number);
            }
            kept.leaving.take_if(|leaving| leaving.is_empty());
            self.record_session(turn, index);
        }
    }

    /// Records that a session ends. With a will, it is at first one of which only the will is left.
    pub(crate) fn record_end(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(incarnation) = session.incarnation() else { return };
        let leaving = session.kept.as_deref().is_some_and(|kept| kept.leaving.is_some());
        if session.will().is_none() && !leaving {
            if sabotage::on(Sabotage::EndUnrecorded) {
                return;
            }
            return self.record(turn, Record::Ended { incarnation });
        }
        session.expiry_interval_s = 0;
        session.expires_at = Tick::after(turn.now_ms);
        self.record_session(turn, index);
        self.publish_will(turn, index);
        let needs = self.keep.needs_everything();
        self.after(turn, &needs, Then::Ended(incarnation));
    }

    /// Brings back a session, without a connection. Called for all that are kept, before any input.
    ///
    /// Of two sessions of one client, which an end of the process can leave, the later one counts. One
    /// that has expired meanwhile, or that would not have outlived its connection, ends when all are
    /// back ([`Shard::finish_restore`]), and its will is published.
    pub fn restore_session(&mut self, now: Now, record: SessionRecord) {
        let expired = record.expires_at_ms.is_some_and(|at_ms| at_ms <= now.mono_ms);
        if record.expiry_interval_s == 0 || expired {
            self.restoring.over.push(record);
            return;
        }
        if let Some(other) = self.find_session(&record.client_id) {
            let Some(session) = self.sessions.get(other) else { return };
            if session.incarnation() > Some(record.incarnation) {
                self.restoring.over.push(record);
                return;
            }
            self.replace_restored(other);
        }
        self.generation = self.generation.wrapping_add(1);
        let mut session = Session::new(&record.client_id, self.generation);
        session.expiry_interval_s = record.expiry_interval_s;
        if self.config.access.is_on {
            session.standing = Some(Box::new(Standing::restored(record.user)));
        }
        let was_online = record.expires_at_ms.is_none();
        session.expires_at = match (record.expires_at_ms, record.expiry_interval_s) {
            (Some(u64::MAX), _) | (None, u32::MAX) => Tick::NEVER,
            (Some(at_ms), _) => Tick::after(at_ms),
            (None, expiry_s) => Tick::after(now.mono_ms + u64::from(expiry_s) * 1000),
        };
        let wills = record.leaving.into_iter();
        self.restoring.leaving.extend(wills.map(|will| (record.incarnation, will)));
        if let Some(will) = record.will.filter(|_| !sabotage::on(Sabotage::WillUnrestored)) {
            let delay_ms = u64::from(will.delay_interval_s.unwrap_or(0)) * 1000;
            let fires_at_ms = if was_online { now.mono_ms + delay_ms } else { record.will_at_ms };
            session.rare().will = Some(Box::new(PendingWill { will, fires_at_ms }));
        }
        let mut kept = Kept::new(record.incarnation, true, self.keep.first_sequence());
        // Whether anything waits is found out when the client comes, or asked for at leisure.
        (kept.stored_from, kept.uncounted_from) = (0, 0);
        session.kept = Some(Box::new(kept));
        let index = self.sessions.insert(session);
        let hash = self.key.hash(record.client_id.as_bytes());
        let (key, sessions) = (&self.key, &self.sessions);
        self.by_client.insert(hash, index, |other| client_hash(key, sessions, other));
        self.restoring.places.insert(
            self.keep.lane_of(record.incarnation),
            record.incarnation,
            index,
        );
    }

    /// The position of a session that was brought back.
    fn restored(&mut self, incarnation: Incarnation) -> Option<u32> {
        self.restoring.places.find(self.keep.lane_of(incarnation), incarnation)
    }

    /// Takes back a session that was restored, since a later one of its client is there.
    fn replace_restored(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(incarnation) = session.incarnation() else { return };
        let will = session.rare.as_deref_mut().and_then(|rare| rare.will.take());
        let leaving = self.restoring.leaving.extract_if(.., |(of, _)| *of == incarnation);
        let leaving = leaving.map(|(_, will)| will).collect();
        self.restoring.over.push(SessionRecord {
            incarnation,
            client_id: session.client_id(),
            expiry_interval_s: 0,
            expires_at_ms: Some(0),
            will_at_ms: will.as_deref().map_or(u64::MAX, |pending| pending.fires_at_ms),
            will: will.map(|pending| pending.will),
            leaving,
            user: session.standing.as_deref().and_then(|standing| standing.user().cloned()),
        });
        let hash = self.key.hash(session.client_id.as_bytes());
        let (key, sessions) = (&self.key, &self.sessions);
        self.by_client.remove(hash, index, |other| client_hash(key, sessions, other));
        self.sessions.remove(index);
        self.restoring.places.remove(self.keep.lane_of(incarnation), incarnation);
    }

    /// Brings back a subscription of a session that was brought back; of another it does nothing.
    pub fn restore_subscription(&mut self, record: &SubscriptionRecord) {
        let Some(index) = self.restored(record.incarnation) else { return };
        match record.filter.shared() {
            None => {
                self.add_subscription(index, &record.filter, record.options, record.identifier);
                if record.awaits_retained {
                    // From the beginning: what had come of the answer may come again.
                    let filter = record.filter.clone();
                    self.start_pull(index, filter, record.options, record.identifier);
                }
            }
            Some(shared) => {
                let group = Arc::new(crate::peer::GroupKey {
                    share: shared.share.text().to_owned_text(),
                    filter: shared.filter.clone(),
                });
                let (options, identifier) = (record.options, record.identifier);
                if let Some(session) = self.sessions.get_mut(index) {
                    let subscription = SharedSubscription { options, identifier };
                    session.rare().shared.insert(group, subscription);
                }
            }
        }
    }

    /// Brings back that a QoS 2 message was received and not released ([MQTT5-4.1.0-1]).
    pub fn restore_receipt(&mut self, incarnation: Incarnation, packet_id: PacketId) {
        let Some(index) = self.restored(incarnation) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = self.flows.of(&mut session.flow);
        if let Err(at) = flow.find_incoming(packet_id) {
            flow.incoming.insert(at, Incoming { packet_id, counted: false, recorded: true });
        }
    }

    /// Brings back a retained message whose topic is homed here, and who published it.
    pub fn restore_retained(&mut self, now: Now, message: Message, author: Option<&Author>) {
        // What was kept within the limits is not lost to a division among fewer or more shards.
        let limits = self.limits();
        let room = Room {
            messages: limits.retained_messages_maximum as usize,
            bytes: limits.retained_bytes_maximum,
        };
        self.retained.apply(&Arc::new(message), author, now.mono_ms, room);
    }

    /// All that was kept is back: shared subscriptions are joined again, and what ended while the process
    /// was away, or with it, is over now.
    pub fn finish_restore(&mut self, now: Now, out: &mut Outbox) {
        let turn = &mut Turn { now_ms: now.mono_ms, out };
        let over = std::mem::take(&mut self.restoring.over);
        for (incarnation, will) in std::mem::take(&mut self.restoring.leaving) {
            let Some(index) = self.restored(incarnation) else { continue };
            self.publish_again(turn, index, will);
        }
        let all: Vec<u32> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in all {
            self.rejoin_groups(turn, index);
            // A client that comes back at once would take back what is due.
            let session = self.sessions.get(index);
            let will = session.and_then(Session::will);
            if will.is_some_and(|will| will.fires_at_ms <= turn.now_ms) {
                self.publish_will(turn, index);
            }
            self.arm_session(turn, index);
        }
        self.tell_rejoined(turn);
        for record in over {
            let since = self.keep.begin();
            for will in record.leaving.iter().chain(record.will.as_deref()) {
                let publisher = self.key.hash(record.client_id.as_bytes());
                let message = will_message(will, publisher, turn.now_ms);
                turn.out.ledger.wills += 1;
                let matched = self.route(turn, message, None, None);
                turn.out.ledger.unmatched += u64::from(!matched);
            }
            let needs = self.keep.needs(since);
            self.after(turn, &needs, Then::Ended(record.incarnation));
        }
        self.begin_counting(turn);
    }

    /// Publishes a will that was published before, and may have been lost.
    fn publish_again(&mut self, turn: &mut Turn<'_>, index: u32, will: Will) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let waiting = session.rare().will.take();
        let pending = PendingWill { will: Box::new(will), fires_at_ms: 0 };
        session.rare().will = Some(Box::new(pending));
        self.publish_will(turn, index);
        if let Some(session) = self.sessions.get_mut(index) {
            session.rare().will = waiting;
        }
        self.trim(index);
    }

    fn rejoin_groups(&mut self, turn: &mut Turn<'_>, index: u32) {
        let member = self.session_ref(index);
        let readiness = self.readiness(index);
        let Some(rare) = self.sessions.get_mut(index).and_then(|s| s.rare.as_deref_mut()) else {
            return;
        };
        rare.told = readiness;
        let groups: Vec<_> = rare.shared.keys().map(Arc::clone).collect();
        for group in groups {
            let join = self.next_query();
            let owner = self.group_owner(&group);
            let kept = true;
            let joins = PeerMessage::GroupJoin { group, member, readiness, join, kept };
            self.tell(turn, owner, joins);
        }
    }
}

//! SUBSCRIBE and UNSUBSCRIBE ([MQTT5-3.8] to [MQTT5-3.11]).

use std::sync::Arc;

use petrel_proto::{
    Packet, PacketId, ReasonCode, ReasonProperties, RetainHandling, SharedFilter, SubAck,
    Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter, Unsubscribe,
};
use smallvec::SmallVec;

use crate::ConnId;
use crate::connection::Violation;
use crate::event::Limit;
use crate::keep::Needs;
use crate::peer::{GroupKey, PeerMessage};
use crate::record::{Incarnation, Record, SubscriptionRecord};
use crate::sabotage::{self, Sabotage};
use crate::session::{PendingSubAck, Session, SharedSubscription};
use crate::shard::{Shard, Turn};

impl Shard {
    pub(crate) fn on_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: &Subscribe,
    ) -> Result<(), Violation> {
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        let identifier = packet.subscription_identifier.unwrap_or(0);
        let mut reasons: SmallVec<[ReasonCode; 4]> = SmallVec::new();
        let mut retained: SmallVec<[(&SubscribeFilter, SubscriptionOptions); 1]> = SmallVec::new();
        let mut replaced = Vec::new();
        let mut waiting = Vec::new();
        let too_many = self.full
            || packet.filters.len() > self.limits().filters_per_subscribe_maximum as usize;
        let first_join = self.sessions.get(index).is_some_and(|s| s.shared_count() == 0);
        for asked in &packet.filters {
            let refused = match too_many {
                true => Some(ReasonCode::QuotaExceeded),
                false => self.refuse_filter(index, &asked.filter),
            };
            if let Some(refused) = refused {
                reasons.push(refused);
                turn.out.limited.count(Limit::FiltersRefused);
                continue;
            }
            let Some(most) = self.may_subscribe(index, &asked.filter) else {
                reasons.push(ReasonCode::NotAuthorized);
                turn.out.limited.count(Limit::FiltersRefused);
                continue;
            };
            let options = SubscriptionOptions { qos: asked.options.qos.min(most), ..asked.options };
            reasons.push(ReasonCode::granted(options.qos));
            // The SUBACK waits for its record, from now on or from when a group has answered.
            turn.out.urgent |= self.keeps_subscriptions(index).is_some();
            if let Some(shared) = asked.filter.shared() {
                let subscription = (own_filter(&asked.filter), options, identifier);
                self.record_subscription(turn, index, subscription, false);
                waiting.push(self.join(index, shared, options, identifier));
                continue;
            }
            let filter = own_filter(&asked.filter);
            let new = self.add_subscription(index, &filter, options, identifier);
            if !new {
                replaced.push(&asked.filter);
            }
            // [MQTT5-3.3.1-9] to [MQTT5-3.3.1-11]
            let sends = match asked.options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => new,
                RetainHandling::DoNotSend => false,
            };
            if sends {
                retained.push((asked, options));
            }
            self.record_subscription(turn, index, (filter, options, identifier), sends);
        }
        if waiting.is_empty() {
            self.send_suback(turn, conn, packet.packet_id, reasons);
        } else {
            self.await_groups(turn, index, first_join, packet.packet_id, reasons, waiting);
        }
        self.cancel_pulls(index, replaced);
        for (asked, options) in retained {
            self.start_pull(index, own_filter(&asked.filter), options, identifier);
        }
        self.pull_retained(turn, index);
        Ok(())
    }

    /// Why a well-formed filter is not granted, if it is not.
    fn refuse_filter(&self, index: u32, filter: &TopicFilter) -> Option<ReasonCode> {
        let limits = self.limits();
        if filter.levels().count() > usize::from(limits.topic_levels_maximum)
            || filter.as_bytes().len() > usize::from(limits.topic_bytes_maximum)
        {
            return Some(ReasonCode::TopicFilterInvalid);
        }
        let session = self.sessions.get(index)?;
        let held = session.subscriptions.len() + session.shared_count();
        if held < limits.session_subscriptions_maximum as usize {
            return None;
        }
        let replaces = match filter.shared() {
            Some(shared) => session.find_shared(&group_of(&shared)).is_some(),
            None => self.find_subscription(index, filter).is_some(),
        };
        (!replaces).then_some(ReasonCode::QuotaExceeded)
    }

    fn send_suback(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet_id: PacketId,
        reasons: SmallVec<[ReasonCode; 4]>,
    ) {
        let properties = ReasonProperties::EMPTY;
        let suback = SubAck { packet_id, reasons, properties };
        self.owe_suback(turn, conn, Packet::SubAck(Box::new(suback)));
    }

    /// SUBACK or UNSUBACK, which leaves when what it says is kept.
    fn owe_suback(&mut self, turn: &mut Turn<'_>, conn: ConnId, packet: Packet) {
        let index = self.session_of(conn);
        let kept =
            index.and_then(|index| self.sessions.get(index)).is_some_and(Session::is_kept_whole);
        let needs = if kept { self.keep.needs_all() } else { Needs::default() };
        self.owe(turn, conn, packet, &needs);
    }

    /// Records a subscription, if its session's are kept: filter, options and identifier, and whether
    /// it still waits for retained messages.
    pub(crate) fn record_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        (filter, options, identifier): (TopicFilter, SubscriptionOptions, u32),
        awaits_retained: bool,
    ) {
        let Some(incarnation) = self.keeps_subscriptions(index) else { return };
        let awaits_retained = awaits_retained && !sabotage::on(Sabotage::PullForgotten);
        let record =
            SubscriptionRecord { incarnation, filter, options, identifier, awaits_retained };
        self.record(turn, Record::Subscribed(Box::new(record)));
    }

    /// The session's incarnation, if its subscriptions are kept.
    pub(crate) fn keeps_subscriptions(&self, index: u32) -> Option<Incarnation> {
        self.sessions.get(index).filter(|session| session.is_kept_whole())?.incarnation()
    }

    /// Notes a shared subscription in the session. Returns its group.
    fn join(
        &mut self,
        index: u32,
        shared: SharedFilter,
        options: SubscriptionOptions,
        identifier: u32,
    ) -> Arc<GroupKey> {
        let share = shared.share.text().to_owned_text();
        let group = Arc::new(GroupKey { share, filter: own_filter(&shared.filter) });
        let Some(session) = self.sessions.get_mut(index) else { return group };
        let subscription = SharedSubscription { options, identifier };
        session.rare().shared.insert(Arc::clone(&group), subscription);
        group
    }

    /// Sends the joins; the SUBACK leaves when the last owner has answered, so that no message
    /// published after it is missed.
    fn await_groups(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        first_join: bool,
        packet_id: PacketId,
        reasons: SmallVec<[ReasonCode; 4]>,
        waiting: Vec<Arc<GroupKey>>,
    ) {
        let member = self.session_ref(index);
        let readiness = self.readiness(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let kept = session.is_kept_whole();
        if first_join {
            session.rare().told = readiness;
        }
        // Each join has its own answer: one for a SUBSCRIBE of the last connection, or for a
        // membership that has ended since, says nothing about this one.
        let joins: Vec<u32> = waiting.iter().map(|_| self.next_query()).collect();
        let numbers = joins.iter().copied().collect();
        let pending = PendingSubAck { packet_id, reasons, waiting: numbers };
        if let Some(session) = self.sessions.get_mut(index) {
            session.rare().subacks.push(pending);
        }
        for (group, join) in waiting.into_iter().zip(joins) {
            let owner = self.group_owner(&group);
            let joins = PeerMessage::GroupJoin { group, member, readiness, join, kept };
            self.tell(turn, owner, joins);
        }
    }

    /// A group answered: its SUBACK leaves if nothing else holds it back.
    pub(crate) fn on_group_joined(
        &mut self,
        turn: &mut Turn<'_>,
        member: crate::SessionRef,
        join: u32,
    ) {
        let Some(index) = self.resolve(member) else { return };
        let Some(conn) = self.conn_of(index) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let subacks = &mut session.rare().subacks;
        for pending in subacks.iter_mut() {
            pending.waiting.remove(&join);
        }
        let mut done = Vec::new();
        while let Some(at) = subacks.iter().position(|pending| pending.waiting.is_empty()) {
            done.push(subacks.remove(at));
        }
        for pending in done {
            self.send_suback(turn, conn, pending.packet_id, pending.reasons);
        }
    }

    pub(crate) fn on_unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: &Unsubscribe,
    ) -> Result<(), Violation> {
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        // Nothing comes behind UNSUBACK.
        self.give_due(turn, index);
        let mut reasons: SmallVec<[ReasonCode; 4]> = SmallVec::new();
        for filter in &packet.filters {
            reasons.push(if self.unsubscribe(turn, index, filter) {
                ReasonCode::Success
            } else {
                ReasonCode::NoSubscriptionExisted
            });
        }
        self.cancel_pulls(index, packet.filters.iter().collect());
        let (packet_id, properties) = (packet.packet_id, ReasonProperties::EMPTY);
        let unsuback = SubAck { packet_id, reasons, properties };
        self.owe_suback(turn, conn, Packet::UnsubAck(Box::new(unsuback)));
        Ok(())
    }

    /// Ends a shared subscription. Returns false if there was none.
    pub(crate) fn leave(&mut self, turn: &mut Turn<'_>, index: u32, shared: &SharedFilter) -> bool {
        let member = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let Some(rare) = session.rare.as_deref_mut() else { return false };
        let Some((group, _)) = rare.shared.remove_entry(&group_of(shared)) else { return false };
        let waiting = session.flow.as_deref_mut().map_or(Vec::new(), |flow| {
            flow.queue.extract(|delivery| {
                delivery.group.as_deref().is_some_and(|lent| lent.group == group)
            })
        });
        self.flows.settle(&mut session.flow);
        let owner = self.group_owner(&group);
        self.tell(turn, owner, PeerMessage::GroupLeave { group, member });
        self.return_to_groups(turn, member, waiting);
        self.trim(index);
        true
    }
}

/// The group that a filter names, for looking it up.
fn group_of(shared: &SharedFilter) -> GroupKey {
    GroupKey { share: shared.share.text().clone(), filter: shared.filter.clone() }
}

/// A copy of a filter that pins no read buffer.
pub(crate) fn own_filter(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::new(filter.text().to_owned_text()).unwrap_or_else(|_| filter.clone())
}

//! From a publisher to everything that wants its message ([MQTT5-3.3.4], [MQTT5-4.5]).

use std::sync::Arc;

use petrel_proto::{Qos, TopicName};

use crate::deliver::Body;
use crate::flow::Delivery;
use crate::forms::Forms;
use crate::interest::ShardMask;
use crate::level_hash::TopicLevels;
use crate::matcher::FilterId;
use crate::peer::PeerMessage;
use crate::receivers::{Receiver, Receivers, Target};
use crate::record::Provided;
use crate::routes::Routes;
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};
use crate::wanted::{Wanted, WantedSessions};
use crate::{Message, Passed, ShardIndex};

/// Scratch memory of [`Shard::route`], kept from one message to the next.
#[derive(Default)]
pub(crate) struct RouteScratch {
    levels: TopicLevels,
    routes: Routes,
    /// The filters of this shard that match the message at hand.
    filters: Vec<FilterId>,
    pub(crate) wanted: WantedSessions,
    groups: Vec<u32>,
    pub(crate) forms: Forms,
}

impl RouteScratch {
    /// Time has passed: what was not used meanwhile is given back.
    pub(crate) fn rest(&mut self) {
        self.routes.rest();
    }
}

impl Shard {
    /// Sends a message on its way: to this shard's sessions and groups, to the shards whose bit
    /// stands in the interest table, and to the owner of its retained topic. The one point where a
    /// message enters the order of its publisher. Returns false if nobody at all wants it.
    ///
    /// What `provided` says is for sessions that are kept: see [`crate::keep`]. `author` is the session of its
    /// publisher, if there is one.
    pub(crate) fn route(
        &mut self,
        turn: &mut Turn<'_>,
        message: Message,
        provided: Option<Provided>,
        author: Option<u32>,
    ) -> bool {
        if sabotage::on(Sabotage::AllocationPerMessage) {
            drop(std::hint::black_box(Box::new(turn.now_ms)));
        }
        let mask = self.find(message.topic.as_bytes(), true);
        let own = self.config.index;
        let shards = self.config.slots.shards();
        let local = mask.contains(own.0);
        let mut remote = mask.has_other(own.0, shards);
        if remote && !message.retain && provided.is_none() && message.is_passed() {
            if !local {
                self.pass(turn, mask, message);
                return true;
            }
            self.pass(turn, mask, message.clone());
            remote = false;
        }
        if !remote && !message.retain {
            if local && !self.deliver_to_one(turn, &message, (message.qos, false)) {
                self.deliver_found(turn, message, provided);
            }
            return local;
        }
        if local {
            self.collect(&message);
        }
        let message = self.pool.own(message);
        let counts = message.qos > Qos::AtMostOnce;
        if message.retain {
            let owner = self.retained_owner(&message.topic);
            if counts && owner != own {
                self.keep.sent(owner);
            }
            let author = author.and_then(|session| self.author(session, &message.topic));
            self.tell(turn, owner, PeerMessage::Retain(Arc::clone(&message), author));
        }
        if remote {
            for shard in mask.iter(shards).filter(|&shard| shard != own.0) {
                let publish = match provided {
                    Some(provided) => PeerMessage::PublishOnce(Arc::clone(&message), provided),
                    None => PeerMessage::Publish(Arc::clone(&message)),
                };
                if counts {
                    self.keep.sent(ShardIndex(shard));
                }
                turn.out.peers.push((ShardIndex(shard), publish));
            }
        }
        if local {
            self.deliver_collected(turn, &message, provided);
        }
        !mask.is_empty()
    }

    /// Has other shards deliver a message, as one that they may keep no part of.
    fn pass(&mut self, turn: &mut Turn<'_>, mask: ShardMask, message: Message) {
        let own = self.config.index;
        let counts = message.qos > Qos::AtMostOnce;
        let mut to = None;
        for shard in mask.iter(self.config.slots.shards()).filter(|&shard| shard != own.0) {
            if counts {
                self.keep.sent(ShardIndex(shard));
            }
            if let Some(before) = to.replace(ShardIndex(shard)) {
                turn.out.peers.push((before, PeerMessage::Passed(message.clone())));
            }
        }
        turn.out.peers.extend(to.map(|last| (last, PeerMessage::Passed(message))));
    }

    /// Delivers a message of this QoS and RETAIN, if its filters have one receiver alone and it is of QoS 0.
    #[inline(always)]
    fn deliver_to_one<B: Body>(
        &mut self,
        turn: &mut Turn<'_>,
        message: &B,
        (qos, retain): (Qos, bool),
    ) -> bool {
        if qos == Qos::AtMostOnce
            && !retain
            && let Some((session, receiver)) = self.lone_receiver()
        {
            let identifier = [receiver.identifier()];
            let identifiers = if identifier == [0] { &[][..] } else { &identifier };
            turn.out.ledger.due += 1;
            self.deliver_at_most_once(turn, session, message, false, identifiers);
            return true;
        }
        false
    }

    /// Delivers a message to the receivers in this shard, whose filters have been found.
    fn deliver_found(&mut self, turn: &mut Turn<'_>, message: Message, provided: Option<Provided>) {
        self.collect(&message);
        if self.is_for_all_at_most_once(&message) {
            return self.deliver_collected_at_most_once(turn, &message);
        }
        let message = self.pool.own(message);
        self.deliver_collected(turn, &message, provided);
    }

    /// A message that another shard has passed on.
    pub(crate) fn on_passed(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardIndex,
        message: &Passed<'_>,
    ) {
        let (qos, since) = (message.qos(), self.keep.position());
        self.find(message.topic, false);
        let goes_to_one = !message.has_properties()
            && self.deliver_to_one(turn, message, (qos, message.retain()));
        if !goes_to_one && !self.scratch.filters.is_empty() {
            let message = self.pool.own(*message);
            self.collect(&message);
            if self.is_for_all_at_most_once(&message) {
                self.deliver_collected_at_most_once(turn, &message);
            } else {
                self.deliver_collected(turn, &message, None);
            }
        }
        self.note_received(from, qos, since);
    }

    /// A message that another shard routed here.
    fn on_peer_publish(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        self.find(message.topic.as_bytes(), false);
        self.collect(message);
        self.deliver_collected(turn, message, provided);
    }

    /// Finds the filters of this shard that match a topic, and if it is asked for the shards that may want it;
    /// then filters only if this shard is one of them.
    #[inline]
    fn find(&mut self, topic: &[u8], with_shards: bool) -> ShardMask {
        let Self { matcher, interest, scratch, key, config, .. } = self;
        let RouteScratch { levels, routes, filters, .. } = scratch;
        let (hash, epoch) = (key.hash(topic), interest.epoch());
        filters.clear();
        if let Some(route) = routes.get(hash, epoch, topic)
            && (!with_shards || route.shards.is_some())
        {
            filters.extend_from_slice(&route.filters);
            return route.shards.unwrap_or_default();
        }
        levels.assign(key, topic);
        let shards = with_shards.then(|| interest.shards(levels));
        if shards.is_none_or(|shards| shards.contains(config.index.0)) {
            matcher.matches(topic, levels, &mut |filter| filters.push(filter));
        }
        routes.put((hash, epoch), topic, shards, filters);
        shards.unwrap_or_default()
    }

    /// The session behind the only filter that matches, if that has one receiver and this is whose message it
    /// does not matter to.
    #[inline]
    fn lone_receiver(&self) -> Option<(u32, Receiver)> {
        let [filter] = self.scratch.filters[..] else { return None };
        let Some(Receivers::One(receiver)) = self.receivers.get(filter.0) else { return None };
        match receiver.target() {
            Target::Session(session) if !receiver.options().no_local() => {
                Some((session, *receiver))
            }
            _ => None,
        }
    }

    /// Finds the receivers of a message in this shard. A session with several subscriptions that
    /// match gets one copy, at the highest QoS, with all identifiers ([MQTT5-3.3.4-2] to
    /// [MQTT5-3.3.4-5], [MQTT311-3.3.5-1]).
    #[inline]
    fn collect(&mut self, message: &Message) {
        let Self { receivers, sessions, scratch, key, .. } = self;
        let RouteScratch { filters, wanted, groups, .. } = scratch;
        wanted.begin();
        groups.clear();
        for filter in &*filters {
            for receiver in receivers.get(filter.0).map_or(&[][..], Receivers::as_slice) {
                match receiver.target() {
                    Target::Group(group) => groups.push(group),
                    Target::Session(index) => {
                        let Some(session) = sessions.get_mut(index) else { continue };
                        // [MQTT5-3.8.3-3]
                        let own = !sabotage::on(Sabotage::NoLocalIgnored)
                            && receiver.options().no_local()
                            && key.hash(session.client_id.as_bytes()) == message.publisher;
                        if !own {
                            wanted.add(index, *receiver, session.subscriptions.seen());
                        }
                    }
                }
            }
        }
    }

    /// Whether some collected session gets the message at QoS 1 or 2.
    fn is_reliable(&self, message: &Message) -> bool {
        self.scratch.wanted.reliable && message.qos > Qos::AtMostOnce
    }

    fn deliver_collected_at_most_once(&mut self, turn: &mut Turn<'_>, message: &Message) {
        self.give_due_to_many(turn);
        let wanted = std::mem::take(&mut self.scratch.wanted);
        let alone = self.fanouts.is_empty();
        if wanted.sessions.len() > 1 {
            self.scratch.forms.begin(message);
        }
        turn.out.ledger.due += wanted.sessions.len() as u64;
        for one in &wanted.sessions {
            if !alone {
                self.give_due(turn, one.session);
            }
            let retain = message.retain && one.retain_as_published;
            let identifiers = one.identifiers(&wanted.identifiers);
            self.send_at_most_once(turn, one.session, message, retain, identifiers);
        }
        self.scratch.forms.end();
        self.scratch.wanted = wanted;
    }

    /// Delivers to the receivers that were collected: now, or in parts if there are many.
    fn deliver_collected(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        let mut groups = std::mem::take(&mut self.scratch.groups);
        if self.goes_in_parts(message) {
            self.begin_fanout(turn, Arc::clone(message));
        } else {
            self.give_due_to_many(turn);
            let wanted = std::mem::take(&mut self.scratch.wanted);
            if wanted.sessions.len() > 1 {
                self.scratch.forms.begin(message);
            }
            let alone = self.fanouts.is_empty();
            turn.out.ledger.due += wanted.sessions.len() as u64;
            for one in &wanted.sessions {
                if !alone {
                    self.give_due(turn, one.session);
                }
                let identifiers = one.identifiers(&wanted.identifiers);
                self.deliver_to(turn, one, identifiers, message, provided);
            }
            self.scratch.forms.end();
            self.scratch.wanted = wanted;
        }
        for group in groups.drain(..) {
            self.deliver_to_group(turn, group, message, provided);
        }
        self.scratch.groups = groups;
    }

    /// Delivers to one session that wants a message, whatever else is due to it.
    #[inline]
    pub(crate) fn deliver_to(
        &mut self,
        turn: &mut Turn<'_>,
        one: &Wanted,
        identifiers: &[u32],
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        // [MQTT5-3.3.1-12], [MQTT5-3.3.1-13], [MQTT311-3.3.1-9]
        let retain = message.retain && one.retain_as_published;
        // [MQTT5-3.8.4-8]
        let capped = !sabotage::on(Sabotage::QosNotCapped);
        let qos = if capped { one.qos.min(message.qos) } else { message.qos };
        let taken = if qos == Qos::AtMostOnce {
            self.send_at_most_once(turn, one.session, &**message, retain, identifiers)
        } else {
            let message = Arc::clone(message);
            let delivery = Delivery::new(message, (qos, retain), identifiers.into());
            self.send_or_queue(turn, one.session, delivery, provided);
            true
        };
        if message.retain && taken {
            self.note_overtaken(turn, one.session, &message.topic);
        }
    }

    /// Whether all who were collected get it at QoS 0, now.
    #[inline]
    fn is_for_all_at_most_once(&self, message: &Message) -> bool {
        self.scratch.groups.is_empty() && !self.is_reliable(message) && !self.goes_in_parts(message)
    }

    /// Whether a message is for so many that they get it in parts. What is kept of a message has to be told
    /// before it is acknowledged, and what is retained before it is replaced.
    #[inline]
    fn goes_in_parts(&self, message: &Message) -> bool {
        self.scratch.wanted.sessions.len() > self.limits().receivers_per_turn as usize
            && !message.retain
            && !(self.keep.is_on() && self.is_reliable(message))
    }

    /// Sends a message to the shard that owns something, which may be this one.
    pub(crate) fn tell(&mut self, turn: &mut Turn<'_>, to: ShardIndex, message: PeerMessage) {
        if to == self.config.index {
            self.on_peer(turn, to, message);
        } else {
            turn.out.peers.push((to, message));
        }
    }

    /// One message of another shard, or of this one to itself.
    pub(crate) fn on_peer(&mut self, turn: &mut Turn<'_>, from: ShardIndex, message: PeerMessage) {
        match message {
            PeerMessage::Passed(message) => {
                // Whoever carries many puts their bytes together: see [`Shard::handle_passed`].
                let mut memory = Vec::with_capacity(message.cost_bytes());
                if let Some((message, _)) = message.pass(&mut memory).find(&memory) {
                    self.on_passed(turn, from, &message);
                }
            }
            PeerMessage::Publish(message) => {
                let since = self.keep.position();
                self.on_peer_publish(turn, &message, None);
                self.note_received(from, message.qos, since);
            }
            PeerMessage::PublishOnce(message, provided) => {
                let since = self.keep.position();
                self.on_peer_publish(turn, &message, Some(provided));
                self.note_received(from, message.qos, since);
            }
            PeerMessage::Retain(message, author) => {
                let since = self.keep.position();
                self.on_retain(turn, &message, author);
                self.note_received(from, message.qos, since);
            }
            PeerMessage::Kept { count } => self.on_peer_kept(turn, from, count),
            PeerMessage::Committed { lane, number } => {
                self.on_peer_committed(turn, from, lane, number);
            }
            PeerMessage::RetainedQuery(query) => self.on_retained_query(turn, *query),
            PeerMessage::RetainedBatch(batch) => self.on_retained_batch(turn, from, *batch),
            PeerMessage::GroupJoin { group, member, readiness, join, kept } => {
                self.on_group_join(turn, group, (member, join), readiness, kept);
            }
            PeerMessage::Rejoined => self.on_rejoined(turn),
            PeerMessage::GroupJoined { member, join } => self.on_group_joined(turn, member, join),
            PeerMessage::GroupLeave { group, member } => self.on_group_leave(turn, &group, member),
            PeerMessage::GroupReadiness { group, member, readiness } => {
                self.on_group_readiness(turn, &group, member, readiness);
            }
            PeerMessage::GroupDeliver(delivery) => self.on_group_deliver(turn, delivery),
            PeerMessage::GroupReturn(delivery) => self.on_group_return(turn, &delivery),
            PeerMessage::GroupTake(claim) => self.on_group_take(turn, claim),
            PeerMessage::GroupMove(claim, provided) => {
                self.on_group_move(turn, from, &claim, provided);
            }
            PeerMessage::GroupTaken(claim) => self.on_group_taken(turn, &claim),
            PeerMessage::GroupGone(claim) => self.on_group_gone(turn, &claim),
            PeerMessage::GroupDone(all) => {
                for lent in all {
                    self.on_lent_done(turn, lent);
                }
            }
        }
    }

    /// Counts a message of another shard that has been dealt with.
    fn note_received(&mut self, from: ShardIndex, qos: Qos, since: u64) {
        if from != self.config.index && qos > Qos::AtMostOnce {
            self.keep.received(from, since);
        }
    }

    /// The owner of the retained message of a topic.
    pub(crate) fn retained_owner(&self, topic: &TopicName) -> ShardIndex {
        self.config.slots.home_of(topic.as_bytes())
    }
}

//! Retained messages: one owner per topic, read through cursors ([MQTT5-3.3.1-5] to -11).

mod block;
mod pages;
mod pattern;
mod store;
mod value;

use std::collections::HashSet;
use std::sync::Arc;

use petrel_proto::{SubscriptionOptions, TopicFilter, TopicName};

pub use self::store::{Answer, Applied, Judge, Retained, Room};

use crate::deliver::READY_QUEUE_MAX;
use crate::event::DropReason;
use crate::flow::Delivery;
use crate::own::is_of_the_broker;
use crate::peer::{PeerMessage, RetainedBatch, RetainedQuery};
use crate::record::Record;
use crate::sabotage::{self, Sabotage};
use crate::session::{RetainedPull, RetainedSource};
use crate::shard::{Shard, Turn};
use crate::traced::{Note, topic_text};
use crate::{Author, Message, ShardIndex};

/// Subscriptions of one session that wait for answers at the same time.
const PULLS_MAX: usize = 8;
/// Topics that a pull remembers as overtaken, at most; beyond, an older value may follow a newer.
const OVERTAKEN_MAX: usize = 4096;

impl Shard {
    /// Keeps a message for a topic whose home is here, or clears the topic.
    pub(crate) fn on_retain(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Arc<Message>,
        author: Option<Arc<Author>>,
    ) {
        let limits = self.limits();
        let shards = u32::from(self.config.slots.shards());
        let room = Room {
            messages: limits.retained_messages_maximum.div_ceil(shards) as usize,
            bytes: limits.retained_bytes_maximum.div_ceil(u64::from(shards)),
        };
        let applied = self.retained.apply(message, author.as_deref(), turn.now_ms, room);
        if applied == Applied::NoRoom {
            turn.out.ledger.not_retained += 1;
            turn.out.ledger.drops.count(DropReason::RetainedFull);
            let topic = message.topic.as_bytes();
            turn.out.notes.add(|| Note::NotRetained { topic: topic_text(topic) });
        }
        let is_kept = self.keep.is_on() && !is_of_the_broker(&message.topic);
        if is_kept && !sabotage::on(Sabotage::RetainedUnrecorded) {
            let record = match applied {
                Applied::Kept => Record::Retained(Arc::clone(message), author),
                Applied::Cleared | Applied::NoRoom => Record::Cleared(message.topic.clone()),
            };
            self.record(turn, record);
        }
    }

    /// Notes that a subscription wants the retained messages its filter matches.
    pub(crate) fn start_pull(
        &mut self,
        index: u32,
        filter: TopicFilter,
        options: SubscriptionOptions,
        identifier: u32,
    ) {
        let shards: Vec<ShardIndex> = if filter.has_wildcard() {
            (0..self.config.slots.shards()).map(ShardIndex).collect()
        } else {
            vec![self.config.slots.home_of(filter.as_bytes())]
        };
        let sources = shards
            .into_iter()
            .map(|shard| RetainedSource { shard, after: None, asked: false })
            .collect();
        let query = self.next_query();
        let Some(session) = self.sessions.get_mut(index) else { return };
        let rare = session.rare();
        let overtaken = HashSet::new();
        let pull = RetainedPull { query, filter, options, identifier, sources, overtaken };
        rare.retained.push_back(pull);
    }

    /// Subscriptions ended, or were made again: their earlier pulls end.
    pub(crate) fn cancel_pulls(&mut self, index: u32, mut filters: Vec<&TopicFilter>) {
        let Some(rare) = self.sessions.get_mut(index).and_then(|s| s.rare.as_deref_mut()) else {
            return;
        };
        if filters.is_empty() || rare.retained.is_empty() {
            return;
        }
        filters.sort_unstable();
        rare.retained.retain(|pull| filters.binary_search(&&pull.filter).is_err());
    }

    /// Asks for more retained messages if the session has room for them. A question to this very
    /// shard goes through the outbox too: what a cursor finds is the work of a later turn.
    pub(crate) fn pull_retained(&mut self, turn: &mut Turn<'_>, index: u32) {
        let asker = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let room = session.is_online() && session.queued() < READY_QUEUE_MAX;
        let Some(rare) = session.rare.as_deref_mut().filter(|_| room) else { return };
        let is_asked = |pull: &&mut RetainedPull| pull.sources.iter().any(|source| source.asked);
        for pull in rare.retained.iter_mut().take(PULLS_MAX).filter(|pull| !is_asked(pull)) {
            let Some(source) = pull.sources.first_mut() else { continue };
            source.asked = true;
            let (query, filter, after) = (pull.query, pull.filter.clone(), source.after.clone());
            let ask = RetainedQuery { asker, query, filter, after };
            turn.out.peers.push((source.shard, PeerMessage::RetainedQuery(Box::new(ask))));
        }
    }

    /// Answers another shard, or this one.
    pub(crate) fn on_retained_query(&mut self, turn: &mut Turn<'_>, query: RetainedQuery) {
        let RetainedQuery { asker, query, filter, after } = query;
        let rules = self.config.access.rules.as_deref();
        // Its author might when it came, and may have lost the right since.
        let judge = |message: &Message, epoch: u32, author: &[u8]| {
            let topic = message.topic.text().as_str();
            epoch == self.rules_epoch
                || rules.is_none_or(|rules| rules.allow_still(author, topic))
                || sabotage::on(Sabotage::AuthorIgnored)
        };
        let Answer { messages, next, .. } =
            self.retained.answer(&filter, after.as_ref(), turn.now_ms, &judge);
        let batch = RetainedBatch { asker, query, messages, next };
        self.tell(turn, asker.shard, PeerMessage::RetainedBatch(Box::new(batch)));
    }

    /// An answer: queued for the client, always with RETAIN set ([MQTT311-3.3.1-8]).
    pub(crate) fn on_retained_batch(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardIndex,
        batch: RetainedBatch,
    ) {
        let key = self.key;
        let Some(index) = self.resolve(batch.asker) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let client_id = &session.client_id;
        let Some(rare) = session.rare.as_deref_mut() else { return };
        // What has been asked for never moves back.
        let mut asked = rare.retained.iter().take(PULLS_MAX);
        let Some(at) = asked.position(|pull| pull.query == batch.query) else { return };
        let pull = &mut rare.retained[at];
        let Some(source) = pull.sources.iter_mut().find(|s| s.shard == from && s.asked) else {
            return;
        };
        source.asked = false;
        source.after = batch.next;
        let ended = source.after.is_none();
        let (options, identifier) = (pull.options, pull.identifier);
        let mut deliveries = Vec::new();
        for message in batch.messages {
            let own = options.no_local && message.publisher == key.hash(client_id.as_bytes());
            if own || pull.overtaken.contains(&key.hash(message.topic.as_bytes())) {
                continue;
            }
            let qos = options.qos.min(message.qos);
            let identifiers = (identifier != 0).then_some(identifier).into_iter().collect();
            let mut delivery = Delivery::new(message, (qos, true), identifiers);
            delivery.stored = true;
            deliveries.push(delivery);
        }
        if ended {
            pull.sources.retain(|source| source.shard != from);
        }
        let finished = pull.sources.is_empty().then(|| rare.retained.remove(at)).flatten();
        if !sabotage::on(Sabotage::ReplyUncounted) {
            turn.out.ledger.due += deliveries.len() as u64;
        }
        for mut delivery in deliveries {
            self.admit(turn, index, &mut delivery, None);
            self.queue_up(index, delivery);
        }
        if let Some(RetainedPull { filter, options, identifier, .. }) = finished {
            // Behind the records of what has been queued, so that nothing is missing between both.
            self.record_subscription(turn, index, (filter, options, identifier), false);
        }
        self.drain(turn, index);
        self.trim(index);
    }

    /// Remembers that a live message with RETAIN went to a session that still waits for retained
    /// messages of that topic, and takes back those that are queued, so that an older answer does
    /// not follow it.
    pub(crate) fn note_overtaken(&mut self, turn: &mut Turn<'_>, index: u32, topic: &TopicName) {
        let key = self.key;
        if sabotage::on(Sabotage::RetainedStale) {
            return;
        }
        let flow = self.sessions.get_mut(index).and_then(|session| session.flow.as_deref_mut());
        if let Some(flow) = flow {
            let overtaken = flow.queue.extract_stored(topic);
            self.settle(index);
            turn.out.ledger.replaced += overtaken.len() as u64;
            for delivery in overtaken {
                self.drop_waiting(turn, index, &delivery);
            }
        }
        let Some(rare) = self.sessions.get_mut(index).and_then(|s| s.rare.as_deref_mut()) else {
            return;
        };
        for pull in &mut rare.retained {
            if pull.overtaken.len() < OVERTAKEN_MAX && pull.filter.matches(topic) {
                pull.overtaken.insert(key.hash(topic.as_bytes()));
            }
        }
    }
}

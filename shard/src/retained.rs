//! Retained messages: one owner per topic, read through cursors ([MQTT5-3.3.1-5] to -11).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use petrel_proto::{SubscriptionOptions, Text, TopicFilter, TopicName};

use crate::deliver::{READY_QUEUE_MAX, drop_message};
use crate::event::DropReason;
use crate::flow::Delivery;
use crate::peer::{PeerMessage, RetainedBatch, RetainedQuery};
use crate::record::Record;
use crate::sabotage::{self, Sabotage};
use crate::session::{RetainedPull, RetainedSource};
use crate::shard::{Shard, Turn};
use crate::{Message, ShardIndex};

/// Messages in one answer, at most.
const BATCH_MESSAGES_MAX: usize = 32;
/// Subscriptions of one session that wait for answers at the same time.
const PULLS_MAX: usize = 8;
/// Topics that a pull remembers as overtaken, at most; beyond, an older value may follow a newer.
const OVERTAKEN_MAX: usize = 4096;
/// Topics that one answer looks at, at most, so that a filter that matches little cannot hold up
/// the shard.
const BATCH_TOPICS_MAX: usize = 1024;
/// Expired messages that are discarded at once.
const EXPIRED_MAX: usize = 256;

/// The retained messages of the topics whose home is this shard.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    by_topic: BTreeMap<Text, Arc<Message>>,
    /// Those that expire, by moment.
    expiring: BTreeSet<(u64, Text)>,
}

impl Retained {
    /// Sets or replaces the message of a topic; an empty payload clears it and is never stored
    /// ([MQTT5-3.3.1-5] to [MQTT5-3.3.1-7]). Returns false if there is no room for one topic more.
    pub(crate) fn apply(&mut self, message: &Arc<Message>, now_ms: u64, maximum: usize) -> bool {
        let topic = message.topic.text().clone();
        if let Some(old) = self.by_topic.remove(&topic)
            && old.expires_at_ms != u64::MAX
        {
            self.expiring.remove(&(old.expires_at_ms, topic.clone()));
        }
        let cleared = message.payload.is_empty() && !sabotage::on(Sabotage::RetainedNotCleared);
        if cleared || message.expired(now_ms) {
            return true;
        }
        if self.by_topic.len() >= maximum {
            return false;
        }
        if message.expires_at_ms != u64::MAX {
            self.expiring.insert((message.expires_at_ms, topic.clone()));
        }
        self.by_topic.insert(topic, Arc::clone(message));
        true
    }

    /// Discards what has expired ([MQTT5-3.3.2-5]), at most [`EXPIRED_MAX`] messages; nobody gets
    /// the rest either. True if that was all.
    pub(crate) fn expire(&mut self, now_ms: u64) -> bool {
        for _ in 0..EXPIRED_MAX {
            if self.expiring.first().is_none_or(|(at, _)| *at > now_ms) {
                return true;
            }
            if let Some((_, topic)) = self.expiring.pop_first() {
                self.by_topic.remove(&topic);
            }
        }
        false
    }

    /// The message of a topic.
    fn get(&self, topic: &TopicName) -> Option<&Arc<Message>> {
        self.by_topic.get(topic.text())
    }

    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// The messages behind `after` that the filter matches, and where to go on.
    fn batch(
        &self,
        filter: &TopicFilter,
        after: Option<&Text>,
        now_ms: u64,
    ) -> (Vec<Arc<Message>>, Option<Text>) {
        let mut found = Vec::new();
        if !filter.has_wildcard() {
            let live = |message: &&Arc<Message>| !message.expired(now_ms);
            found.extend(self.by_topic.get(filter.text()).filter(live).cloned());
            return (found, None);
        }
        let prefix = literal_prefix(filter);
        let start = match after {
            Some(after) => Bound::Excluded(after.as_bytes()),
            None => Bound::Included(prefix),
        };
        let range = self.by_topic.range::<[u8], _>((start, Bound::Unbounded));
        for (looked, (topic, message)) in range.enumerate() {
            if !topic.as_bytes().starts_with(prefix) {
                break;
            }
            if found.len() == BATCH_MESSAGES_MAX || looked == BATCH_TOPICS_MAX {
                // Everything before this topic has been seen; it is looked at again.
                return (found, previous(&self.by_topic, topic));
            }
            if filter.matches(&message.topic) && !message.expired(now_ms) {
                found.push(Arc::clone(message));
            }
        }
        (found, None)
    }
}

/// The name before `topic`; a cursor may stand on any name, also on one that goes away.
fn previous(by_topic: &BTreeMap<Text, Arc<Message>>, topic: &Text) -> Option<Text> {
    let before = (Bound::Unbounded, Bound::Excluded(topic.as_bytes()));
    by_topic.range::<[u8], _>(before).next_back().map(|(name, _)| name.clone())
}

/// What every match of a wildcard filter starts with. `a/#` also matches `a`, so the separator
/// before a `#` does not count.
fn literal_prefix(filter: &TopicFilter) -> &[u8] {
    let bytes = filter.as_bytes();
    let wild = bytes.iter().position(|&byte| byte == b'+' || byte == b'#').unwrap_or(bytes.len());
    let prefix = bytes.get(..wild).unwrap_or_default();
    match bytes.get(wild) {
        Some(b'#') => prefix.strip_suffix(b"/").unwrap_or(prefix),
        _ => prefix,
    }
}

impl Shard {
    /// Keeps a message for a topic whose home is here, or clears the topic.
    pub(crate) fn on_retain(&mut self, turn: &mut Turn<'_>, message: &Arc<Message>) {
        let maximum = self.limits().retained_messages_maximum;
        let share = maximum.div_ceil(u32::from(self.config.slots.shards()));
        if !self.retained.apply(message, turn.now_ms, share as usize) {
            drop_message(turn, DropReason::RetainedFull);
        }
        if self.keep.is_on() && !sabotage::on(Sabotage::RetainedUnrecorded) {
            let record = match self.retained.get(&message.topic) {
                Some(kept) => Record::Retained(Arc::clone(kept)),
                None => Record::Cleared(message.topic.clone()),
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
        let (messages, next) = self.retained.batch(&filter, after.as_ref(), turn.now_ms);
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
        let finished = source.after.is_none();
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
        if finished {
            pull.sources.retain(|source| source.shard != from);
            if pull.sources.is_empty() {
                rare.retained.remove(at);
            }
        }
        for mut delivery in deliveries {
            self.admit(turn, index, &mut delivery, None);
            self.queue_up(index, delivery);
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
            for delivery in overtaken {
                self.done_with(turn, index, &delivery);
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

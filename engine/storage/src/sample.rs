//! Records for tests.

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Qos, Text, TopicName};
use petrel_shard::record::{DeliveryRecord, Record, SessionRecord};
use petrel_shard::{Incarnation, Message, ShardIndex, Slot};

use crate::{Clock, Lane, LaneSettings, Store, SyncLevel};

pub(crate) fn life(number: u32) -> Incarnation {
    Incarnation::new(1, Slot(number as u16), number)
}

/// The session of "client 007" and so on, for ever.
pub(crate) fn session(number: u32) -> Record {
    Record::Session(Box::new(SessionRecord {
        incarnation: life(number),
        client_id: Text::try_from(format!("client {number:03}").as_str()).unwrap(),
        expiry_interval_s: u32::MAX,
        expires_at_ms: None,
        will: None,
        will_at_ms: u64::MAX,
        leaving: Vec::new(),
        user: None,
    }))
}

pub(crate) fn message(topic: &str, payload: impl Into<Bytes>) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new(Text::try_from(topic).unwrap()).unwrap(),
        payload: payload.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        properties: petrel_proto::MessageProperties::EMPTY,
        publisher: 1,
        expires_at_ms: u64::MAX,
    })
}

pub(crate) fn delivery(message: &Arc<Message>) -> DeliveryRecord {
    DeliveryRecord {
        message: Arc::clone(message),
        qos: Qos::AtLeastOnce,
        retain: false,
        identifiers: Default::default(),
        stored: false,
        provided: None,
    }
}

pub(crate) fn queued(number: u32, sequence: u64, message: &Arc<Message>) -> Record {
    let delivery = Box::new(delivery(message));
    Record::Queued { incarnation: life(number), sequence, delivery }
}

/// The only lane, opened and not begun.
pub(crate) fn open<S: Store>(store: S, window_bytes_max: usize) -> Lane<S> {
    let settings = LaneSettings { lane: 0, lanes: 1, sync: SyncLevel::Commit, window_bytes_max };
    Lane::open(store, Clock::default(), settings).unwrap()
}

/// The only lane, used by a process.
pub(crate) fn lane<S: Store>(store: S, window_bytes_max: usize) -> Lane<S> {
    let mut lane = open(store, window_bytes_max);
    crate::begin(std::slice::from_mut(&mut lane)).unwrap();
    lane
}

pub(crate) fn commit<S: Store>(lane: &mut Lane<S>, records: impl IntoIterator<Item = Record>) {
    lane.gather(ShardIndex(0), 1, true, records.into_iter().collect::<Vec<_>>());
    lane.commit().unwrap();
}

/// Folds until the log is within its bound.
pub(crate) fn fold<S: Store>(lane: &mut Lane<S>) {
    while lane.wants_folding() {
        lane.fold().unwrap();
    }
}

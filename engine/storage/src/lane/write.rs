//! Records as operations of a batch.

use std::collections::BTreeMap;

use petrel_shard::Incarnation;
use petrel_shard::record::{Record, Stream};

use crate::codec::{self, Clock};
use crate::log::Writer;
use crate::shared::Shared;
use crate::store::Space;
use crate::window::session_key;

/// Appends a record; how far a stream has come is left to the end of the batch. `shared` stands for its
/// message, if that has been appended for several.
pub(super) fn write_record(
    writer: &mut Writer,
    record: &Record,
    shared: Option<Shared>,
    clock: Clock,
    streams: &mut BTreeMap<Stream, u64>,
) {
    match record {
        Record::Session(session) => {
            writer.put(Space::Session, &session_key(session.incarnation), |out| {
                codec::put_session(out, session, clock);
            });
        }
        Record::Group { incarnation, key } => {
            writer
                .put(Space::Session, &session_key(*incarnation), |out| codec::put_group(out, key));
        }
        Record::Ended { incarnation } => writer.ended(*incarnation),
        Record::Subscribed(subscription) => {
            let key = subscription_key(subscription.incarnation, subscription.filter.as_bytes());
            writer.put(Space::Subscription, &key, |out| {
                codec::put_subscription(out, subscription);
            });
        }
        Record::Unsubscribed { incarnation, filter } => {
            writer.remove(Space::Subscription, &subscription_key(*incarnation, filter.as_bytes()));
        }
        Record::Queued { incarnation, sequence, delivery } => {
            writer.queued((*incarnation, *sequence), |out| {
                codec::put_delivery(out, delivery, shared, clock);
            });
        }
        Record::Done { incarnation, sequence } => writer.done(*incarnation, *sequence),
        Record::Moved { incarnation, sequence, provided } => {
            writer.done(*incarnation, *sequence);
            streams.insert(provided.stream, provided.number);
        }
        Record::Released { incarnation, sequence } => {
            writer.released((*incarnation, *sequence), codec::put_released);
        }
        Record::Received { incarnation, packet_id, provided } => {
            writer.put(Space::Receipt, &receipt_key(*incarnation, *packet_id), |_| {});
            streams.insert(provided.stream, provided.number);
        }
        Record::Forgotten { incarnation, packet_id } => {
            writer.remove(Space::Receipt, &receipt_key(*incarnation, *packet_id));
        }
        Record::Retained(message, author) => {
            writer.put(Space::Retained, message.topic.as_bytes(), |out| {
                codec::put_retained(out, message, author.as_deref(), clock);
            });
        }
        Record::Cleared(topic) => writer.remove(Space::Retained, topic.as_bytes()),
    }
}

fn subscription_key(incarnation: Incarnation, filter: &[u8]) -> Vec<u8> {
    [&session_key(incarnation), filter].concat()
}

fn receipt_key(incarnation: Incarnation, packet_id: petrel_proto::PacketId) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session_key(incarnation));
    key[8..].copy_from_slice(&packet_id.get().to_be_bytes());
    key
}

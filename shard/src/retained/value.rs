//! A retained message without its topic, as bytes.
//!
//! Small ones without properties are written out; of the others only the place in a table is.

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{MessageProperties, Qos, Text, TopicName};

use super::pattern::SEPARATOR;
use crate::Message;
use crate::table::Table;

/// Payloads of up to so many bytes are written out.
const SMALL_BYTES_MAX: usize = 256;

/// In the first byte, above the two bits of the QoS.
const RETAIN: u8 = 4;
const EXPIRES: u8 = 8;
const LARGE: u8 = 16;

/// A value, read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Small { qos: Qos, retain: bool, publisher: u64, expires_at_ms: u64, payload: &'a [u8] },
    Large(&'a Arc<Message>),
}

/// Writes a message to `out`; a large one goes into the table.
pub(super) fn write(message: &Arc<Message>, large: &mut Table<Arc<Message>>, out: &mut Vec<u8>) {
    out.clear();
    if !message.properties.is_empty() || message.payload.len() > SMALL_BYTES_MAX {
        out.push(LARGE);
        out.extend_from_slice(&large.insert(Arc::clone(message)).to_le_bytes());
        return;
    }
    let expires = message.expires_at_ms != u64::MAX;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(message.qos as u8 | flag(message.retain, RETAIN) | flag(expires, EXPIRES));
    out.extend_from_slice(&message.publisher.to_le_bytes());
    if expires {
        out.extend_from_slice(&message.expires_at_ms.to_le_bytes());
    }
    out.extend_from_slice(&message.payload);
}

/// Takes the place of a large message back. `bytes` is a value that goes away.
pub(super) fn discard(bytes: &[u8], large: &mut Table<Arc<Message>>) {
    if let Some(index) = large_index(bytes) {
        large.remove(index);
    }
}

/// Reads what [`write`] wrote.
pub(super) fn read<'a>(bytes: &'a [u8], large: &'a Table<Arc<Message>>) -> Option<Value<'a>> {
    if let Some(index) = large_index(bytes) {
        return large.get(index).map(Value::Large);
    }
    let (&flags, rest) = bytes.split_first()?;
    let (publisher, mut payload) = rest.split_first_chunk()?;
    let mut expires_at_ms = u64::MAX;
    if flags & EXPIRES != 0 {
        let (at, rest) = payload.split_first_chunk()?;
        (expires_at_ms, payload) = (u64::from_le_bytes(*at), rest);
    }
    Some(Value::Small {
        qos: Qos::from_u8(flags & 3)?,
        retain: flags & RETAIN != 0,
        publisher: u64::from_le_bytes(*publisher),
        expires_at_ms,
        payload,
    })
}

fn large_index(bytes: &[u8]) -> Option<u32> {
    let (&flags, rest) = bytes.split_first()?;
    let index = rest.first_chunk().filter(|_| flags & LARGE != 0)?;
    Some(u32::from_le_bytes(*index))
}

impl Value<'_> {
    /// When it expires.
    pub(super) fn expires_at_ms(&self) -> u64 {
        match self {
            Self::Small { expires_at_ms, .. } => *expires_at_ms,
            Self::Large(message) => message.expires_at_ms,
        }
    }

    /// What it counts for, as [`Message::cost_bytes`] says.
    pub(super) fn cost_bytes(&self, key: &[u8]) -> u64 {
        match self {
            Self::Small { payload, .. } => (key.len() + payload.len()) as u64,
            Self::Large(message) => message.cost_bytes() as u64,
        }
    }

    /// The message. Cost: a copy of topic and payload, if it is small.
    pub(super) fn message(&self, key: &[u8]) -> Option<Arc<Message>> {
        let (qos, retain, publisher, expires_at_ms, payload) = match *self {
            Self::Large(message) => return Some(Arc::clone(message)),
            Self::Small { qos, retain, publisher, expires_at_ms, payload } => {
                (qos, retain, publisher, expires_at_ms, payload)
            }
        };
        let mut copy = Vec::with_capacity(key.len() + payload.len());
        copy.extend_from_slice(key);
        name_in_place(&mut copy);
        copy.extend_from_slice(payload);
        let mut topic = Bytes::from(copy);
        let payload = topic.split_off(key.len());
        let topic = TopicName::new(Text::new(topic).ok()?).ok()?;
        let properties = MessageProperties::EMPTY;
        Some(Arc::new(Message {
            topic,
            payload,
            qos,
            retain,
            properties,
            publisher,
            expires_at_ms,
        }))
    }
}

/// Makes a topic name of a key.
pub(super) fn name_in_place(key: &mut [u8]) {
    for byte in key {
        *byte = if *byte == SEPARATOR { b'/' } else { *byte };
    }
}

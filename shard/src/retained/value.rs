//! A retained message without its topic, as bytes.
//!
//! Small ones without properties are written out; of the others only the place in a table is.

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{MessageProperties, Qos, Text, TopicName};

use super::pattern::SEPARATOR;
use crate::table::Table;
use crate::{Author, Message};

/// Payloads of up to so many bytes are written out.
const SMALL_BYTES_MAX: usize = 256;

/// In the first byte, above the two bits of the QoS.
const RETAIN: u8 = 4;
const EXPIRES: u8 = 8;
const LARGE: u8 = 16;
const AUTHORED: u8 = 32;

/// The rules by which somebody might, and who it was; `None` if that is not known.
type Written<'a> = Option<(u32, &'a [u8])>;

/// A value, read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    /// Its author.
    pub(super) author: Written<'a>,
    kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Small { qos: Qos, retain: bool, publisher: u64, expires_at_ms: u64, payload: &'a [u8] },
    Large(&'a Arc<Message>),
}

/// Writes a message to `out`; a large one goes into the table.
pub(super) fn write(
    (message, author): (&Arc<Message>, Option<&Author>),
    large: &mut Table<Arc<Message>>,
    out: &mut Vec<u8>,
) {
    out.clear();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let authored = flag(author.is_some(), AUTHORED);
    let put_author = |out: &mut Vec<u8>| {
        if let Some(author) = author {
            let bytes = author.as_bytes();
            out.extend_from_slice(&author.epoch().to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    };
    if !message.properties.is_empty() || message.payload.len() > SMALL_BYTES_MAX {
        out.push(LARGE | authored);
        out.extend_from_slice(&large.insert(Arc::clone(message)).to_le_bytes());
        put_author(out);
        return;
    }
    let expires = message.expires_at_ms != u64::MAX;
    let (retain, expiring) = (flag(message.retain, RETAIN), flag(expires, EXPIRES));
    out.push(message.qos as u8 | retain | expiring | authored);
    out.extend_from_slice(&message.publisher.to_le_bytes());
    if expires {
        out.extend_from_slice(&message.expires_at_ms.to_le_bytes());
    }
    put_author(out);
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
    let (&flags, rest) = bytes.split_first()?;
    if flags & LARGE != 0 {
        let (index, rest) = rest.split_first_chunk()?;
        let kind = Kind::Large(large.get(u32::from_le_bytes(*index))?);
        return Some(Value { author: read_author(flags, rest)?.0, kind });
    }
    let (publisher, mut rest) = rest.split_first_chunk()?;
    let mut expires_at_ms = u64::MAX;
    if flags & EXPIRES != 0 {
        let (at, behind) = rest.split_first_chunk()?;
        (expires_at_ms, rest) = (u64::from_le_bytes(*at), behind);
    }
    let (author, payload) = read_author(flags, rest)?;
    let kind = Kind::Small {
        qos: Qos::from_u8(flags & 3)?,
        retain: flags & RETAIN != 0,
        publisher: u64::from_le_bytes(*publisher),
        expires_at_ms,
        payload,
    };
    Some(Value { author, kind })
}

/// Reads the author, if there is one, and what is behind.
fn read_author(flags: u8, bytes: &[u8]) -> Option<(Written<'_>, &[u8])> {
    if flags & AUTHORED == 0 {
        return Some((None, bytes));
    }
    let (epoch, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (author, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((Some((u32::from_le_bytes(*epoch), author)), rest))
}

fn large_index(bytes: &[u8]) -> Option<u32> {
    let (&flags, rest) = bytes.split_first()?;
    let index = rest.first_chunk().filter(|_| flags & LARGE != 0)?;
    Some(u32::from_le_bytes(*index))
}

impl Value<'_> {
    /// When it expires.
    pub(super) fn expires_at_ms(&self) -> u64 {
        match self.kind {
            Kind::Small { expires_at_ms, .. } => expires_at_ms,
            Kind::Large(message) => message.expires_at_ms,
        }
    }

    /// What it counts for: as [`cost_bytes`] says.
    pub(super) fn cost_bytes(&self, key: &[u8]) -> u64 {
        let message = match self.kind {
            Kind::Small { payload, .. } => key.len() + payload.len(),
            Kind::Large(message) => message.cost_bytes(),
        };
        (message + self.author.map_or(0, |(_, author)| author.len())) as u64
    }

    /// The message. Cost: a copy of topic and payload, if it is small.
    pub(super) fn message(&self, key: &[u8]) -> Option<Arc<Message>> {
        let (qos, retain, publisher, expires_at_ms, payload) = match self.kind {
            Kind::Large(message) => return Some(Arc::clone(message)),
            Kind::Small { qos, retain, publisher, expires_at_ms, payload } => {
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

/// Bytes that a message counts for: its own, as [`Message::cost_bytes`] says, and its author's.
pub(super) fn cost_bytes(message: &Message, author: Option<&Author>) -> u64 {
    (message.cost_bytes() + author.map_or(0, |author| author.as_bytes().len())) as u64
}

/// Makes a topic name of a key.
pub(super) fn name_in_place(key: &mut [u8]) {
    for byte in key {
        *byte = if *byte == SEPARATOR { b'/' } else { *byte };
    }
}

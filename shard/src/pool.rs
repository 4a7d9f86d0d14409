//! Messages whose memory is used again, so that a message that is soon delivered costs no allocation.
//!
//! A message may have many holders, on other shards too, and whoever lets go of it last is not this pool. So the
//! pool is one more holder: it keeps the messages that it gave out in order, and when it finds itself the only
//! holder of one, that one's memory is free. Nobody has to give anything back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use petrel_proto::{MessageProperties, TopicName};

use crate::Message;

/// Owned messages, by how much memory their bytes have.
///
/// *Bounds*: [`MESSAGES_MAX`] of each class, some 8 MB in all, of which what is not used is given back while
/// time passes. Messages of more than [`BYTES_MAX`] are not kept.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    classes: [Class; CLASSES],
}

/// Messages with memory for so many bytes each.
#[derive(Debug, Default)]
struct Class {
    /// The first was given out first.
    given: VecDeque<Arc<Message>>,
    /// How many were given out since the last [`Pool::rest`].
    uses: usize,
}

/// The smallest class has memory for so many bytes, each further one for twice as many.
const BYTES_MIN: usize = 128;
const CLASSES: usize = 6;
const BYTES_MAX: usize = BYTES_MIN << (CLASSES - 1);

const MESSAGES_MAX: usize = 1024;

/// Messages that are looked at before memory is asked for. Some may have holders for long.
const LOOKS_MAX: usize = 2;

impl Pool {
    /// The same message in memory of its own, pinning no read buffer.
    ///
    /// *Cost*: a copy; an allocation unless enough time has passed since memory of the class was given out.
    pub(crate) fn own<C: Copied>(&mut self, message: C) -> Arc<Message> {
        let Some((class, bytes)) = class_of(message.bytes()) else {
            return Arc::new(message.into_new_memory());
        };
        let Some(class) = self.classes.get_mut(class) else {
            return Arc::new(message.into_new_memory());
        };
        class.uses += 1;
        let owned = match class.free() {
            Some(mut free) => {
                if let Some(place) = Arc::get_mut(&mut free) {
                    let memory = memory_of(place, bytes);
                    *place = message.into_memory(memory);
                }
                free
            }
            None => Arc::new(message.into_memory(BytesMut::with_capacity(bytes))),
        };
        if class.given.len() == MESSAGES_MAX {
            class.given.pop_front();
        }
        class.given.push_back(Arc::clone(&owned));
        owned
    }

    /// Time has passed: half of what was not needed meanwhile is given back.
    pub(crate) fn rest(&mut self) {
        for class in &mut self.classes {
            let idle = class.given.len().saturating_sub(std::mem::take(&mut class.uses));
            class.given.drain(..idle.div_ceil(2));
            if class.given.is_empty() {
                class.given = VecDeque::new();
            }
        }
    }
}

/// What becomes a message in memory of its own.
pub(crate) trait Copied: Sized {
    /// Bytes of topic, properties and payload.
    fn bytes(&self) -> usize;

    /// Copies them to memory that is empty and has room for them.
    fn into_memory(self, memory: BytesMut) -> Message;

    #[inline]
    fn into_new_memory(self) -> Message {
        let memory = BytesMut::with_capacity(self.bytes());
        self.into_memory(memory)
    }
}

impl Copied for Message {
    fn bytes(&self) -> usize {
        self.cost_bytes()
    }

    fn into_memory(self, memory: BytesMut) -> Message {
        Message::into_memory(self, memory)
    }
}

impl Class {
    /// A message that nobody else holds any more, taken out.
    fn free(&mut self) -> Option<Arc<Message>> {
        for _ in 0..LOOKS_MAX {
            let mut first = self.given.pop_front()?;
            if Arc::get_mut(&mut first).is_some() {
                return Some(first);
            }
            // It goes behind those that were given out after it.
            self.given.push_back(first);
        }
        None
    }
}

/// Takes the memory out of a message; new memory if something else still has a part of it.
fn memory_of(message: &mut Message, bytes: usize) -> BytesMut {
    message.topic = TopicName::EMPTY;
    message.properties = MessageProperties::EMPTY;
    match std::mem::take(&mut message.payload).try_into_mut() {
        Ok(mut memory) => {
            memory.clear();
            // It is the only part, so this takes back what was cut off before it.
            memory.reserve(bytes);
            memory
        }
        Err(_) => BytesMut::with_capacity(bytes),
    }
}

/// The class for so many bytes, and how many it has.
const fn class_of(bytes: usize) -> Option<(usize, usize)> {
    if bytes > BYTES_MAX {
        return None;
    }
    let most = if bytes <= BYTES_MIN { BYTES_MIN } else { bytes.next_power_of_two() };
    Some(((most / BYTES_MIN).trailing_zeros() as usize, most))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use petrel_proto::{MessageFields, Qos, Text};

    use super::*;

    fn message(topic: &str, payload: usize) -> Message {
        let text = |text: &str| Text::try_from(text).unwrap();
        let fields = MessageFields { content_type: Some(text("x")), ..MessageFields::default() };
        Message {
            topic: TopicName::new(text(topic)).unwrap(),
            payload: Bytes::from(vec![payload as u8; payload]),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: MessageProperties::of(&fields).unwrap(),
            publisher: payload as u64,
            expires_at_ms: u64::MAX,
        }
    }

    #[test]
    fn every_length_has_the_least_class_that_holds_it() {
        assert_eq!(class_of(0), Some((0, 128)));
        assert_eq!(class_of(129), Some((1, 256)));
        assert_eq!(class_of(BYTES_MAX), Some((CLASSES - 1, BYTES_MAX)));
        assert_eq!(class_of(BYTES_MAX + 1), None);
    }

    #[test]
    fn memory_is_used_again_once_nobody_holds_it() {
        let mut pool = Pool::default();
        let first = pool.own(message("a", 10));
        let (at, bytes_at) = (Arc::as_ptr(&first), first.topic.as_bytes().as_ptr());
        let second = pool.own(message("b/c", 0));
        assert_ne!(Arc::as_ptr(&second), at);
        drop(first);
        let third = pool.own(message("d/e/f", 100));
        assert_eq!((Arc::as_ptr(&third), third.topic.as_bytes().as_ptr()), (at, bytes_at));
        assert_eq!((&*second, &*third), (&message("b/c", 0), &message("d/e/f", 100)));
    }

    #[test]
    fn what_a_socket_still_has_of_a_message_stays_what_it_is() {
        let mut pool = Pool::default();
        let first = pool.own(message("a", 50));
        let payload = first.payload.clone();
        drop(first);
        assert_eq!(*pool.own(message("b", 60)), message("b", 60));
        assert_eq!(payload, vec![50; 50]);
    }

    #[test]
    fn those_that_stay_do_not_keep_the_others_from_being_used_again() {
        let mut pool = Pool::default();
        let stay: Vec<_> = (0..100).map(|n| pool.own(message("stay", n % 90))).collect();
        let mut places = std::collections::HashSet::new();
        for n in 0..10_000 {
            places.insert(Arc::as_ptr(&pool.own(message("go", n % 90))));
        }
        assert!(places.len() <= MESSAGES_MAX, "{} places", places.len());
        assert!(stay.iter().enumerate().all(|(n, it)| **it == message("stay", n % 90)));
    }

    #[test]
    fn what_is_not_needed_is_given_back() {
        let mut pool = Pool::default();
        let all: Vec<_> = (0..5000).map(|_| pool.own(message("a", 1))).collect();
        assert_eq!(pool.classes[0].given.len(), MESSAGES_MAX);
        drop(all);
        for _ in 0..20 {
            pool.rest();
        }
        assert_eq!(pool.classes[0].given.capacity(), 0);
    }
}

//! The retained messages of the topics whose home is one shard.
//!
//! They are kept in the order of their levels, in pages whose keys and values are packed. There are
//! no nodes: a subtree is a range of keys, and a filter with wildcards is answered by going through
//! the ranges in which it may match, from one to the next. Invariants: `len` and `bytes` are those
//! of the entries; a page in which something expires stands in `expiring` under its earliest moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Text, TopicFilter, TopicName};

use super::block::{Block, Place, Reader};
use super::pages::{At, Page, Pages};
use super::pattern::{Judgement, Pattern, SEPARATOR};
use super::value;
use crate::sabotage::{self, Sabotage};
use crate::table::Table;
use crate::{Author, Message};

/// Bytes of a page, unless one entry has more. Few in unit tests, so that there are many pages.
const PAGE_BYTES_MAX: usize = if cfg!(test) { 100 } else { 2048 };
/// Messages in one answer, at most.
const ANSWER_MESSAGES_MAX: usize = if cfg!(test) { 5 } else { 32 };
/// What one answer looks at, so that a filter that matches little cannot hold up the shard: topics,
/// and [`SEARCH_LOOKS`] for each search. It may be a page more.
const ANSWER_LOOKS_MAX: usize = if cfg!(test) { 64 } else { 1024 };
/// A search for a page, and a message that is judged, count for so many topics.
const SEARCH_LOOKS: usize = 16;
/// Pages that are freed of expired messages at once.
const EXPIRED_PAGES_MAX: usize = 4;

/// How much may be retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Messages, at most.
    pub messages: usize,
    /// Bytes of topics, payloads, properties and authors, at most.
    pub bytes: u64,
}

/// What has become of the message of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is retained.
    Kept,
    /// The topic has none now, as was asked for.
    Cleared,
    /// The topic has none now, for there is no room.
    NoRoom,
}

/// Some of the messages that a filter matches.
#[derive(Debug, Default)]
pub struct Answer {
    /// The messages, in the order of their levels.
    pub messages: Vec<Arc<Message>>,
    /// Ask again behind this name for more; `None` at the end.
    pub next: Option<Text>,
    /// What it has cost: topics looked at, and 16 for each search.
    pub looks: usize,
}

/// Whether a message that was retained under the rules of an epoch may still be delivered, by its author.
pub type Judge<'a> = dyn Fn(&Message, u32, &[u8]) -> bool + 'a;

/// Retained messages by topic.
#[derive(Debug, Default)]
pub struct Retained {
    pages: Pages,
    /// Pages in which something expires, by when, and their floors.
    expiring: BTreeSet<(u64, Box<[u8]>)>,
    /// Messages that are too large to be copied into a page, or have properties.
    large: Table<Arc<Message>>,
    len: usize,
    bytes: u64,
    /// Scratch.
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Retained {
    /// Topics that have a message.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if no topic has a message.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the topics, payloads, properties and authors.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets or replaces the message of a topic; an empty payload clears it and is never stored
    /// ([MQTT5-3.3.1-5] to [MQTT5-3.3.1-7]). One for which there is no room clears it too, since
    /// the one before is no longer what the topic retains.
    ///
    /// *Cost*: two bisections and a walk over half a page.
    pub fn apply(
        &mut self,
        message: &Arc<Message>,
        author: Option<&Author>,
        now_ms: u64,
        room: Room,
    ) -> Applied {
        let mut key = std::mem::take(&mut self.key);
        assign_key(&mut key, message.topic.as_bytes());
        let applied = self.apply_key(&key, (message, author), now_ms, room);
        self.key = key;
        applied
    }

    fn apply_key(
        &mut self,
        key: &[u8],
        (message, author): (&Arc<Message>, Option<&Author>),
        now_ms: u64,
        room: Room,
    ) -> Applied {
        self.pages.begin();
        let at = self.pages.find(key);
        let page = self.pages.get_mut(at);
        let place = page.block.find(key);
        let mut old_bytes = 0;
        if place.found {
            let old = page.block.value(place);
            old_bytes = value::read(old, &self.large).map_or(0, |old| old.cost_bytes(key));
            value::discard(old, &mut self.large);
            (self.len, self.bytes) = (self.len - 1, self.bytes - old_bytes);
        }
        let cleared = message.payload.is_empty() && !sabotage::on(Sabotage::RetainedNotCleared);
        let cleared = cleared || message.expired(now_ms);
        let bytes = value::cost_bytes(message, author);
        // One that takes no more than the one before always has room.
        let full = self.bytes + bytes > room.bytes && bytes > old_bytes
            || self.len >= room.messages && !place.found;
        if cleared || full {
            if place.found {
                page.block.remove(place);
                if page.block.entries() == 0 {
                    self.remove_page(at);
                }
            }
            return if cleared { Applied::Cleared } else { Applied::NoRoom };
        }
        (self.len, self.bytes) = (self.len + 1, self.bytes + bytes);
        value::write((message, author), &mut self.large, &mut self.value);
        let behind_all = page.block.is_end(place);
        match place.found {
            true => page.block.replace(place, &self.value),
            false => page.block.insert(place, key, &self.value),
        }
        let (expires_at_ms, page_bytes) = (message.expires_at_ms, page.block.len());
        self.note_expiry(at, expires_at_ms);
        if page_bytes > PAGE_BYTES_MAX {
            self.split_page(at, behind_all);
        }
        Applied::Kept
    }

    /// Something in a page expires at some moment.
    fn note_expiry(&mut self, at: At, expires_at_ms: u64) {
        let page = self.pages.get_mut(at);
        if expires_at_ms >= page.earliest_ms {
            return;
        }
        let mut entry = (page.earliest_ms, page.floor.clone());
        self.expiring.remove(&entry);
        page.earliest_ms = expires_at_ms;
        entry.0 = expires_at_ms;
        self.expiring.insert(entry);
    }

    /// Makes two of a page that has grown too large by a key, which may be the last in it.
    fn split_page(&mut self, at: At, by_last: bool) {
        // What comes in ascending order fills its pages.
        let by_last = by_last && self.pages.get(self.pages.next(at)).is_none();
        let page = self.pages.get_mut(at);
        let Some((floor, block)) = page.block.split(by_last) else { return };
        let earliest_ms = page.earliest_ms;
        if earliest_ms != u64::MAX {
            // Which of both it is shows when the moment comes.
            self.expiring.insert((earliest_ms, floor.clone()));
        }
        self.pages.insert_behind(at, Page { floor, earliest_ms, block });
    }

    /// Takes an empty page away.
    fn remove_page(&mut self, at: At) {
        let page = self.pages.get_mut(at);
        let earliest_ms = std::mem::replace(&mut page.earliest_ms, u64::MAX);
        if earliest_ms != u64::MAX {
            let entry = (earliest_ms, page.floor.clone());
            self.expiring.remove(&entry);
        }
        self.pages.remove(at);
    }

    /// Discards what has expired ([MQTT5-3.3.2-5]), of a few pages; nobody gets the rest either.
    /// True if that was all.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        for _ in 0..EXPIRED_PAGES_MAX {
            match self.expiring.first() {
                Some((earliest_ms, _)) if *earliest_ms <= now_ms => {}
                _ => return true,
            }
            let Some((_, floor)) = self.expiring.pop_first() else { return true };
            self.expire_page(self.pages.find(&floor), floor, now_ms);
        }
        false
    }

    /// Discards what has expired of one page, which does not stand in `expiring` now.
    fn expire_page(&mut self, at: At, floor: Box<[u8]>, now_ms: u64) {
        let page = self.pages.get_mut(at);
        let (mut key, mut last, mut earliest_ms) = (Vec::new(), Vec::new(), u64::MAX);
        let mut live = Block::with_capacity(page.block.len());
        let mut reader = Reader::new(&page.block);
        while reader.advance(&mut key) {
            let bytes = reader.value();
            let Some(value) = value::read(bytes, &self.large) else { continue };
            if value.expires_at_ms() <= now_ms {
                self.len -= 1;
                self.bytes -= value.cost_bytes(&key);
                value::discard(bytes, &mut self.large);
                continue;
            }
            earliest_ms = earliest_ms.min(value.expires_at_ms());
            live.push(&last, &key, bytes);
            last.clone_from(&key);
        }
        live.give_back();
        (page.block, page.earliest_ms) = (live, earliest_ms);
        if page.block.entries() == 0 {
            self.pages.remove(at);
        } else if earliest_ms != u64::MAX {
            self.expiring.insert((earliest_ms, floor));
        }
    }

    /// The message of a topic. Cost: two bisections and a walk over half a page.
    #[must_use]
    pub fn get(&self, topic: &TopicName, now_ms: u64) -> Option<Arc<Message>> {
        self.look_up(topic.as_bytes(), now_ms, &|_, _, _| true, &mut 0)
    }

    fn look_up(
        &self,
        topic: &[u8],
        now_ms: u64,
        judge: &Judge<'_>,
        looks: &mut usize,
    ) -> Option<Arc<Message>> {
        let mut key = Vec::with_capacity(topic.len());
        assign_key(&mut key, topic);
        let page = self.pages.get(self.pages.find(&key))?;
        let place: Place = page.block.find(&key);
        if !place.found {
            return None;
        }
        self.open(&key, page.block.value(place), now_ms, judge, looks)
    }

    /// The message of an entry, if it has not expired and its author may.
    fn open(
        &self,
        key: &[u8],
        bytes: &[u8],
        now_ms: u64,
        judge: &Judge<'_>,
        looks: &mut usize,
    ) -> Option<Arc<Message>> {
        let value = value::read(bytes, &self.large)?;
        let message = (value.expires_at_ms() > now_ms).then(|| value.message(key)).flatten()?;
        if let Some((epoch, author)) = value.author {
            *looks += SEARCH_LOOKS;
            return judge(&message, epoch, author).then_some(message);
        }
        Some(message)
    }

    /// The messages behind `after` that the filter matches, as many as one answer takes, and where
    /// to go on. A topic that has a message all the time is in exactly one of the answers that
    /// follow from one another, whatever comes and goes meanwhile.
    ///
    /// `judge` is asked about those whose author is known; who may not is left out.
    ///
    /// *Cost*: 32 messages or 1,024 looks, whichever is first, and a page more.
    #[must_use]
    pub fn answer(
        &self,
        filter: &TopicFilter,
        after: Option<&Text>,
        now_ms: u64,
        judge: &Judge<'_>,
    ) -> Answer {
        let mut answer = Answer::default();
        if self.len == 0 {
            return answer;
        }
        if !filter.has_wildcard() {
            answer.looks = SEARCH_LOOKS;
            let found = self.look_up(filter.as_bytes(), now_ms, judge, &mut answer.looks);
            answer.messages.extend(found);
            return answer;
        }
        let pattern = Pattern::new(filter);
        let mut bound = Vec::with_capacity(128);
        pattern.first(&mut bound);
        if let Some(after) = after {
            let mut next = Vec::with_capacity(after.len() + 1);
            assign_key(&mut next, after.as_bytes());
            next.push(SEPARATOR);
            bound = bound.max(next);
        }
        self.walk(&pattern, &mut bound, (now_ms, judge), &mut answer);
        answer
    }

    /// Goes through what the pattern may match from `bound` on.
    fn walk(
        &self,
        pattern: &Pattern<'_>,
        bound: &mut Vec<u8>,
        (now_ms, judge): (u64, &Judge<'_>),
        answer: &mut Answer,
    ) {
        let mut key = Vec::with_capacity(128);
        let mut at = self.search(bound, answer);
        let mut below = true;
        while let Some(page) = self.pages.get(at) {
            let next = self.pages.next(at);
            let (mut reader, mut to) = (Reader::new(&page.block), next);
            while reader.advance(&mut key) {
                answer.looks += 1;
                if below && key < *bound {
                    continue;
                }
                below = false;
                match pattern.judge(&key, bound) {
                    Judgement::Match => {
                        let Answer { messages, looks, .. } = &mut *answer;
                        messages.extend(self.open(&key, reader.value(), now_ms, judge, looks));
                    }
                    Judgement::Skip => below = true,
                    Judgement::End => return,
                }
                if answer.messages.len() == ANSWER_MESSAGES_MAX || answer.looks >= ANSWER_LOOKS_MAX
                {
                    answer.next = name_of(&key);
                    return;
                }
                let reached = |at: At| self.pages.get(at).is_some_and(|p| *p.floor <= **bound);
                if below && reached(next) {
                    to = match reached(self.pages.next(next)) {
                        true => self.search(bound, answer),
                        false => next,
                    };
                    break;
                }
            }
            at = to;
        }
    }

    /// The page to read from a bound on.
    fn search(&self, bound: &[u8], answer: &mut Answer) -> At {
        answer.looks += SEARCH_LOOKS;
        self.pages.find(bound)
    }
}

/// Makes the key of a topic name.
fn assign_key(key: &mut Vec<u8>, topic: &[u8]) {
    key.clear();
    key.extend_from_slice(topic);
    for byte in key {
        *byte = if *byte == b'/' { SEPARATOR } else { *byte };
    }
}

/// The name that a key was made of.
fn name_of(key: &[u8]) -> Option<Text> {
    let mut name = key.to_vec();
    value::name_in_place(&mut name);
    Text::new(Bytes::from(name)).ok()
}

#[cfg(test)]
mod tests;

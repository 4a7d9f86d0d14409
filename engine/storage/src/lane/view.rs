//! What the log and the maps say together.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use petrel_shard::peer::GroupKey;
use petrel_shard::record::{Provided, Record, SessionRecord, Stored, SubscriptionRecord};
use petrel_shard::{Author, Incarnation, Message};

use super::{Lane, LaneSettings, damaged};
use crate::codec::{self, Source, Unreadable, Waiting};
use crate::page;
use crate::store::{Space, Store, StoreError};
use crate::view::View;
use crate::window::{Backlog, session_key};

/// A part of what waits for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In order.
    pub messages: Vec<Stored>,
    /// Places of what does not count, since its receipt was lost; of no use to anybody.
    pub void: Vec<u64>,
    /// Where to go on; `None` if nothing was left out.
    pub next: Option<u64>,
}

impl<S: Store> Lane<S> {
    /// What waits for a session at these places of its order. What has not been committed is not among
    /// it.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn load(
        &self,
        incarnation: Incarnation,
        places: Range<u64>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Page, StoreError> {
        let none = Backlog::default();
        let backlog = self.window.backlog(incarnation).unwrap_or(&none);
        let most = usize::try_from(places.end.saturating_sub(places.start)).unwrap_or(usize::MAX);
        let mut waiting: Vec<(u64, Bytes)> = Vec::with_capacity(most.min(messages_max).min(64) + 1);
        let mut bytes = 0;
        let mut broken = Ok(());
        // Beyond this nothing has been looked at in the pages.
        let mut seen_upto = u64::MAX;
        let prefix = session_key(incarnation);
        let from = page::key(incarnation, places.start);
        self.store.scan_prefix(Space::Queue, prefix, &from, &mut |_, value| {
            if page::first(value) >= places.end {
                return ControlFlow::Break(());
            }
            for entry in page::entries(value) {
                let (sequence, entry) = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        broken = Err(error);
                        return ControlFlow::Break(());
                    }
                };
                if !places.contains(&sequence) || backlog.gone.contains(&sequence) {
                    continue;
                }
                if waiting.len() > messages_max || bytes > bytes_max {
                    seen_upto = sequence;
                    return ControlFlow::Break(());
                }
                bytes += codec::weight(entry);
                waiting.push((sequence, value.slice_ref(entry)));
            }
            ControlFlow::Continue(())
        })?;
        broken?;
        let last = waiting.last().map_or(0, |(last, _)| *last);
        let of_pages = waiting.len();
        let mut more = seen_upto < places.end;
        for (sequence, place) in backlog.live.from(places.start) {
            let enough = waiting.len() > messages_max && sequence > last;
            if sequence >= places.end.min(seen_upto) || enough {
                more |= sequence < places.end;
                break;
            }
            waiting.push((sequence, self.window.value(place)));
        }
        if waiting.get(of_pages).is_some_and(|(first, _)| *first <= last) {
            // What the log says is newer.
            waiting.rotate_left(of_pages);
            waiting.sort_by_key(|(sequence, _)| *sequence);
            waiting.dedup_by_key(|(sequence, _)| *sequence);
        }
        let most = waiting.len().min(messages_max);
        let (mut messages, mut void) = (Vec::with_capacity(most), Vec::new());
        let mut bytes = 0;
        let mut next = places.start;
        for (sequence, value) in waiting {
            if messages.len() == messages_max || bytes > bytes_max {
                return Ok(Page { messages, void, next: Some(next) });
            }
            bytes += codec::weight(&value);
            next = sequence + 1;
            match self.stored(incarnation, sequence, value)? {
                Some(stored) => messages.push(stored),
                None => void.push(sequence),
            }
        }
        Ok(Page { messages, void, next: more.then_some(next) })
    }

    /// The same while nothing can be committed, up to the first place of which something is not known to
    /// survive; `None` if that is the first.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn load_kept(
        &self,
        incarnation: Incarnation,
        places: Range<u64>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Page>, StoreError> {
        if !self.is_whole {
            return Ok(None);
        }
        let mut done = BTreeSet::new();
        let mut end = places.end;
        for record in self.gathered.iter().flatten() {
            match record {
                Record::Done { incarnation: of, sequence } if *of == incarnation => {
                    done.insert(*sequence);
                }
                Record::Queued { incarnation: of, sequence, .. }
                | Record::Released { incarnation: of, sequence }
                    if *of == incarnation =>
                {
                    end = end.min(*sequence);
                }
                _ => {}
            }
        }
        let live = self.window.backlog(incarnation).into_iter().flat_map(|it| it.live.from(0));
        let unsafe_ones = live.filter(|(_, place)| place.batch >= self.durable);
        end = unsafe_ones.map(|(sequence, _)| sequence).min().map_or(end, |first| first.min(end));
        if end <= places.start && end < places.end {
            return Ok(None);
        }
        let mut page = self.load(incarnation, places.start..end, messages_max, bytes_max)?;
        page.messages.retain(|stored| !done.contains(&stored.sequence));
        if end < places.end {
            page.next = page.next.or(Some(end));
        }
        Ok(Some(page))
    }

    /// Reads what waits; `None` if it does not count, since its receipt was lost, or has expired.
    pub(super) fn stored(
        &self,
        incarnation: Incarnation,
        sequence: u64,
        value: Bytes,
    ) -> Result<Option<Stored>, StoreError> {
        let what = |Unreadable { expected }| StoreError::Damaged {
            what: format!(
                "message {sequence} of session {:#x}: {expected} was expected",
                incarnation.to_u64()
            ),
        };
        let (mut queued, source) = match codec::waiting(value).map_err(what)? {
            Waiting::Released => return Ok(Some(Stored { sequence, delivery: None })),
            Waiting::Queued(queued, source) => (queued, source),
        };
        if let Some(provided) = queued.provided
            && provided.stream.epoch() < self.epoch
        {
            if !self.counts(provided) {
                return Ok(None);
            }
            queued.provided = None;
        }
        let message = match source {
            Source::Here(bytes) => {
                // A slice would keep all of its batch or page in memory while a client is slow.
                let bytes = Bytes::copy_from_slice(&bytes);
                Arc::new(codec::message(bytes, self.clock).map_err(what)?)
            }
            Source::Shared(shared) => match self.shared_message(shared)? {
                Some(message) => message,
                None => return Ok(None),
            },
        };
        Ok(Some(Stored { sequence, delivery: Some(queued.with(message)) }))
    }

    pub(super) fn counts(&self, provided: Provided) -> bool {
        self.settled.get(&provided.stream).is_some_and(|&upto| provided.number <= upto)
    }

    /// Shows what the log and the maps say together of a space, in the order of the keys.
    pub(super) fn each(
        &self,
        space: Space,
        visit: impl FnMut(&Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.window.merge(space, |show| self.store.scan(space, &[], show), visit)
    }

    /// Everything that has been committed, as it is now, for somebody else to read.
    ///
    /// *Cost*: nothing is copied or read.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn view(&self) -> Result<View, StoreError> {
        let (first, batches) = self.window.batches();
        let LaneSettings { lane, lanes, .. } = self.settings;
        let maps = self.store.maps()?;
        let _held = self.alive.hold();
        let is_salvaged = false;
        Ok(View { lane, lanes, epoch: self.epoch, maps, first, batches, is_salvaged, _held })
    }

    /// Shows every session.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn sessions(&self, mut visit: impl FnMut(SessionRecord)) -> Result<(), StoreError> {
        self.each(Space::Session, |key, value| {
            let incarnation = incarnation_of(key)?;
            if codec::is_group(value) {
                return Ok(());
            }
            let session = codec::session(incarnation, value.clone(), self.clock);
            visit(session.map_err(|unreadable| damaged(Space::Session, key, unreadable))?);
            Ok(())
        })
    }

    /// Shows every shared group.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn groups(&self, mut visit: impl FnMut(Incarnation, GroupKey)) -> Result<(), StoreError> {
        self.each(Space::Session, |key, value| {
            if !codec::is_group(value) {
                return Ok(());
            }
            let group = codec::group(value.clone());
            let group = group.map_err(|unreadable| damaged(Space::Session, key, unreadable))?;
            visit(incarnation_of(key)?, group);
            Ok(())
        })
    }

    /// Shows every subscription, also of sessions that are over.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn subscriptions(
        &self,
        mut visit: impl FnMut(SubscriptionRecord),
    ) -> Result<(), StoreError> {
        self.each(Space::Subscription, |key, value| {
            let incarnation = incarnation_of(key)?;
            let bad = |unreadable| damaged(Space::Subscription, key, unreadable);
            let (options, identifier, awaits_retained) = codec::subscription(value).map_err(bad)?;
            let filter = codec::filter(&key[8..]).map_err(bad)?;
            visit(SubscriptionRecord { incarnation, filter, options, identifier, awaits_retained });
            Ok(())
        })
    }

    /// Shows every QoS 2 message that was received and not released, also of sessions that are over.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn receipts(
        &self,
        mut visit: impl FnMut(Incarnation, petrel_proto::PacketId),
    ) -> Result<(), StoreError> {
        self.each(Space::Receipt, |key, _| {
            let bad =
                || damaged(Space::Receipt, key, Unreadable { expected: "a packet identifier" });
            let number = key[8..].try_into().map(u16::from_be_bytes).map_err(|_| bad())?;
            visit(incarnation_of(key)?, petrel_proto::PacketId::new(number).ok_or_else(bad)?);
            Ok(())
        })
    }

    /// Shows every retained message, and its author.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn retained(
        &self,
        mut visit: impl FnMut(Message, Option<Author>),
    ) -> Result<(), StoreError> {
        self.each(Space::Retained, |key, value| {
            let retained = codec::retained(value.clone(), self.clock);
            let (message, author) =
                retained.map_err(|unreadable| damaged(Space::Retained, key, unreadable))?;
            visit(message, author);
            Ok(())
        })
    }
}

pub(crate) fn incarnation_of(key: &[u8]) -> Result<Incarnation, StoreError> {
    let bytes = key.first_chunk::<8>().ok_or_else(|| StoreError::Damaged {
        what: format!("a key is too short for a session: {key:?}"),
    })?;
    Ok(Incarnation::from_u64(u64::from_be_bytes(*bytes)))
}

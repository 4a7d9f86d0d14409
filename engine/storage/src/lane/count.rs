//! How much waits for sessions, a piece at a time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use petrel_proto::Qos;
use petrel_shard::Incarnation;
use petrel_shard::input::{Counted, Run, Waits};
use petrel_shard::outbox::Count;

use super::Lane;
use crate::codec::{self, Waiting};
use crate::page;
use crate::store::{Space, Store, StoreError};
use crate::window::Backlog;

/// Pages of other sessions in a row, before they are passed over.
const OTHERS_MAX: u32 = 16;

/// A question for numbers that is being answered.
#[derive(Debug)]
pub struct Walk {
    count: Count,
    /// The session that is being counted, by its position in the question.
    at: usize,
    /// Everything of it before this place has been counted.
    from: u64,
    found: Vec<Waits>,
    /// So much may still be looked at in this piece.
    left: u32,
}

impl Walk {
    /// The beginning of an answer.
    #[must_use]
    pub const fn new(count: Count) -> Self {
        Self { count, at: 0, from: 0, found: Vec::new(), left: 0 }
    }

    /// The answer, once [`Lane::count`] has said that it is complete.
    #[must_use]
    pub fn finish(self) -> Counted {
        Counted { count: self.count, waiting: self.found }
    }

    /// Goes on with the next session, also if the one that is being counted cannot be read.
    pub fn pass(&mut self) {
        (self.at, self.from) = (self.at + 1, 0);
    }

    /// Counts the session anew.
    fn again(&mut self) {
        self.found.pop_if(|waits| self.count.sessions.get(self.at) == Some(&waits.incarnation));
        self.from = 0;
    }

    fn session(&self) -> Option<Incarnation> {
        self.count.sessions.get(self.at).copied()
    }

    /// Something waits at a place, of a QoS and so many bytes, or does not count there.
    fn add(&mut self, incarnation: Incarnation, sequence: u64, weight: Option<(Qos, u64)>) {
        if self.found.last().is_none_or(|waits| waits.incarnation != incarnation) {
            self.found.push(Waits { incarnation, bytes: 0, runs: Vec::new() });
        }
        self.from = sequence + 1;
        self.left = self.left.saturating_sub(1);
        let (Some(waits), Some((qos, bytes))) = (self.found.last_mut(), weight) else { return };
        waits.bytes += bytes;
        match waits.runs.last_mut().filter(|run| run.end() == sequence && run.qos == qos) {
            Some(run) => run.count += 1,
            _ => waits.runs.push(Run { first: sequence, count: 1, qos }),
        }
    }
}

impl<S: Store> Lane<S> {
    /// Goes on counting what waits for the sessions of a question: so many messages, or a page more.
    /// Returns whether that was all.
    ///
    /// # Errors
    /// The store fails or is damaged; it may be tried again, or without the session ([`Walk::pass`]).
    pub fn count(&mut self, walk: &mut Walk, messages_max: u32) -> Result<bool, StoreError> {
        if walk.from > 0 && self.counting != walk.session() {
            // What has been folded meanwhile may stand in another page than before.
            walk.again();
        }
        walk.left = messages_max;
        let done = self.count_piece(walk)?;
        self.counting = walk.session();
        Ok(done)
    }

    fn count_piece(&self, walk: &mut Walk) -> Result<bool, StoreError> {
        let Some(session) = walk.session() else { return Ok(true) };
        let mut others = 0;
        let mut stopped = Ok(false);
        self.store.scan(Space::Queue, &page::key(session, walk.from), &mut |key, value| {
            stopped = self.step(walk, &mut others, key, value);
            if let Ok(false) = stopped { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !stopped? {
            // No page is left.
            while walk.session().is_some() && walk.left > 0 {
                self.end_session(walk)?;
            }
        }
        Ok(walk.session().is_none())
    }

    /// Looks at a page. Returns true if the piece is over.
    fn step(
        &self,
        walk: &mut Walk,
        others: &mut u32,
        key: &[u8],
        value: &Bytes,
    ) -> Result<bool, StoreError> {
        let owner = super::incarnation_of(key)?;
        let before = walk.count.before;
        let is_new = page::first(value) >= before;
        let is_over = |walk: &Walk| {
            let done = is_new || walk.from >= before;
            walk.session().is_some_and(|it| it < owner || it == owner && done)
        };
        while is_over(walk) {
            if walk.left == 0 {
                return Ok(true);
            }
            self.end_session(walk)?;
        }
        *others = if walk.session() == Some(owner) { 0 } else { *others + 1 };
        if walk.session().is_none() || walk.left == 0 || *others > OTHERS_MAX {
            return Ok(true);
        }
        walk.left -= 1;
        if *others == 0 {
            self.count_page(walk, owner, value)?;
        }
        Ok(false)
    }

    /// Counts what is left of a session of which no page is left.
    fn end_session(&self, walk: &mut Walk) -> Result<(), StoreError> {
        if self.count_window(walk, walk.count.before)? {
            walk.left = walk.left.saturating_sub(1);
            walk.pass();
        }
        Ok(())
    }

    fn count_page(
        &self,
        walk: &mut Walk,
        session: Incarnation,
        page: &Bytes,
    ) -> Result<(), StoreError> {
        let mut entries = page::read(page)?;
        let (Some(&(first, _)), Some(&(last, _))) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let end = (last + 1).min(walk.count.before);
        if !self.count_window(walk, first.min(end))? {
            return Ok(());
        }
        let from = walk.from;
        let none = Backlog::default();
        let backlog = self.window.backlog(session).unwrap_or(&none);
        entries.retain(|(sequence, _)| {
            (from..end).contains(sequence) && !backlog.gone.contains(sequence)
        });
        let newer = backlog.live.from(from).take_while(|(sequence, _)| *sequence < end);
        let newer: Vec<_> = newer.map(|(at, place)| (at, self.window.value(place))).collect();
        if !newer.is_empty() {
            let all: BTreeMap<u64, Bytes> = entries.into_iter().chain(newer).collect();
            entries = all.into_iter().collect();
        }
        for (sequence, value) in entries {
            walk.add(session, sequence, self.weight(session, sequence, value)?);
        }
        walk.from = walk.from.max(end);
        Ok(())
    }

    /// Counts what the window has of the session before a place. Returns false if the piece is over.
    fn count_window(&self, walk: &mut Walk, end: u64) -> Result<bool, StoreError> {
        let Some(session) = walk.session() else { return Ok(true) };
        let Some(backlog) = self.window.backlog(session) else { return Ok(true) };
        for (sequence, place) in backlog.live.from(walk.from) {
            if sequence >= end {
                break;
            }
            if walk.left == 0 {
                return Ok(false);
            }
            let value = self.window.value(place);
            walk.add(session, sequence, self.weight(session, sequence, value)?);
        }
        Ok(true)
    }

    /// The QoS of a message that waits, and its bytes as a queue counts them; `None` if there is none that
    /// counts.
    fn weight(
        &self,
        incarnation: Incarnation,
        sequence: u64,
        value: Bytes,
    ) -> Result<Option<(Qos, u64)>, StoreError> {
        if let Some(shared) = codec::shared(&value)
            && let Ok(Waiting::Queued(queued, _)) = codec::waiting(value.clone())
        {
            // The message itself, which may be long, is not read.
            let old = queued.provided.filter(|it| it.stream.epoch() < self.epoch);
            let counts = old.is_none_or(|provided| self.counts(provided));
            return Ok(counts.then_some((queued.qos, u64::from(shared.cost_bytes))));
        }
        let stored = self.stored(incarnation, sequence, value)?;
        let delivery = stored.and_then(|stored| stored.delivery);
        Ok(delivery.map(|delivery| (delivery.qos, delivery.message.cost_bytes() as u64)))
    }
}

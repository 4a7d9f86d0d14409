//! The oldest part of the log goes into the maps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use petrel_shard::Incarnation;

use super::{FOLDED, Lane, damaged};
use crate::codec::{self, Unreadable};
use crate::log::{Operation, Reader};
use crate::page;
use crate::shared::{Named, SharedId};
use crate::store::{Batch, Space, Store, StoreError};
use crate::window::{Backlog, Latest, Taken, session_key};

/// Changes of one step of folding, at most: so long others wait for it.
const FOLD_CHANGES_MAX: usize = 512;
/// Bytes of one step of folding, about.
pub(super) const FOLD_BYTES_MAX: usize = 256 << 10;

/// What one step of folding changes.
#[derive(Debug, Default)]
struct Step {
    batch: Batch,
    /// By how much the messages in pages that name a shared one become more, and when that
    /// may be swept.
    names: BTreeMap<SharedId, (i64, u64)>,
    /// Bytes of what they name, of those that become more.
    shared: usize,
    /// Sessions that are over once all this is written.
    ended: Vec<Incarnation>,
    /// A part of what waits for a session was enough; its pages are as they were until it is written.
    is_full: bool,
    /// What the window said of it.
    taken: Taken,
}

impl Step {
    /// What waits comes into a page, or goes from one.
    fn named(&mut self, value: &[u8], more: i64) {
        let Some(shared) = codec::shared(value) else { return };
        let (sum, _) = self.names.entry(shared.id).or_insert_with(|| {
            if more > 0 {
                self.shared += shared.cost_bytes as usize;
            }
            (0, shared.goes_at_wall_ms())
        });
        *sum += more;
    }
}

impl<S: Store> Lane<S> {
    /// True if the log has grown over its bound.
    #[must_use]
    pub const fn wants_folding(&self) -> bool {
        self.window.bytes() > self.settings.window_bytes_max
    }

    /// Bytes of the log, which are in memory.
    #[must_use]
    pub const fn log_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// True if anything stands in the log.
    #[must_use]
    pub const fn has_log(&self) -> bool {
        self.window.bytes() > 0
    }

    /// Gives back what the disk has of what is over, once all of the log has been folded.
    ///
    /// *Cost*: rewrites tables.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn shrink(&mut self) -> Result<(), StoreError> {
        self.store.shrink()
    }

    /// Folds, while the log is over its bound, as much of it as the last [`Lane::commit`] has written, and
    /// at least a part of a batch; so the log does not grow beyond its bound by more than a batch.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn keep_bound(&mut self) -> Result<(), StoreError> {
        let left = |lane: &Self| lane.window.bytes().saturating_sub(lane.folded as usize);
        let enough = left(self).saturating_sub(std::mem::take(&mut self.fresh_bytes));
        while self.wants_folding() {
            self.fold()?;
            if left(self) <= enough {
                break;
            }
        }
        Ok(())
    }

    /// Folds a part of the oldest batch.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn fold(&mut self) -> Result<(), StoreError> {
        // The maps must never know what the log has lost.
        self.sync()?;
        let Some((number, bytes)) = self.window.oldest() else { return Ok(()) };
        let reader = Reader::new(number, bytes, self.folded);
        let mut step = Step::default();
        let (reader, finished) = match self.fold_step(number, reader, &mut step) {
            Ok(done) => done,
            Err(error) => {
                // It can be read until the store is opened again, which may take a while.
                self.window.take_back(step.taken);
                return Err(error);
            }
        };
        // Before that, the sweep could take pages of which is not known yet what they name.
        step.ended.into_iter().for_each(|incarnation| self.alive.end(incarnation));
        self.folded = reader.position();
        drop(reader);
        if finished {
            if let Some(batch) = self.window.pop() {
                self.writer.reuse(batch);
            }
            self.folded = 0;
            self.store.release_log(number + 1)?;
        }
        Ok(())
    }

    /// Writes what a part of a batch changes in the maps. Returns how far that goes, and whether to the
    /// end.
    fn fold_step(
        &mut self,
        number: u64,
        mut reader: Reader,
        step: &mut Step,
    ) -> Result<(Reader, bool), StoreError> {
        let mut size = 0;
        let mut finished = false;
        while !step.is_full
            && step.batch.changes.len() < FOLD_CHANGES_MAX
            && size + step.shared < self.fold_bytes_max
        {
            let Some(operation) = reader.next()? else {
                finished = true;
                break;
            };
            let before = step.batch.changes.len();
            self.fold_operation(number, operation, step)?;
            size += step.batch.changes[before..]
                .iter()
                .map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len))
                .sum::<usize>();
        }
        self.fold_shared(step)?;
        if finished {
            step.batch.put(Space::Meta, FOLDED, (number + 1).to_be_bytes().to_vec());
        }
        self.store.write(std::mem::take(&mut step.batch), false)?;
        Ok((reader, finished))
    }

    fn fold_operation(
        &mut self,
        number: u64,
        operation: Operation,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        match operation {
            Operation::Put { space, key, value } => {
                if self.window.latest(space, &key) == Some(Latest::Put(value)) {
                    step.batch.put(space, copy(&key), copy(&self.window.value(value)));
                    self.window.forget(space, &key, &mut step.taken);
                }
            }
            Operation::Remove { space, key } => {
                if self.window.latest(space, &key) == Some(Latest::Removed(number)) {
                    step.batch.remove(space, copy(&key));
                    self.window.forget(space, &key, &mut step.taken);
                }
            }
            Operation::Queued { incarnation, sequence, value }
            | Operation::Released { incarnation, sequence, value } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.live.get(sequence) == Some(value)) {
                    self.fold_backlog(incarnation, sequence, step)?;
                }
            }
            Operation::Done { incarnation, sequence } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.gone.contains(&sequence)) {
                    self.fold_backlog(incarnation, sequence, step)?;
                }
            }
            Operation::Ended { incarnation } => self.fold_end(number, incarnation, step)?,
            // It goes where those go that name it.
            Operation::Shared { .. } => {}
        }
        Ok(())
    }

    fn fold_end(
        &mut self,
        number: u64,
        incarnation: Incarnation,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let key = session_key(incarnation);
        if self.window.latest(Space::Session, &key) == Some(Latest::Removed(number)) {
            step.batch.remove(Space::Session, key.to_vec());
            self.window.forget(Space::Session, &key, &mut step.taken);
        }
        for space in [Space::Subscription, Space::Receipt] {
            for key in self.of_session(space, incarnation)? {
                step.batch.remove(space, key);
            }
        }
        let mut broken = Ok(());
        self.store.scan_prefix(Space::Queue, key, &key, &mut |key, value| {
            step.batch.remove(Space::Queue, key.clone());
            broken = page::entries(value)
                .try_for_each(|entry| entry.map(|(_, value)| step.named(value, -1)));
            if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        step.ended.push(incarnation);
        broken
    }

    /// Stores what pages name from now on, and removes what none names any longer.
    fn fold_shared(&self, step: &mut Step) -> Result<(), StoreError> {
        for (id, (more, goes_at_wall_ms)) in std::mem::take(&mut step.names) {
            if more == 0 {
                continue;
            }
            let (key, count_key) = (id.key(), id.count_key());
            let found = self.store.get(Space::Shared, &count_key)?;
            let before = match &found {
                Some(bytes) => Named::read(bytes).ok_or_else(|| {
                    damaged(Space::Shared, &count_key, Unreadable { expected: "a count" })
                })?,
                None => Named { count: 0, goes_at_wall_ms },
            };
            let count = before.count.saturating_add_signed(more);
            if count == 0 {
                step.batch.remove(Space::Shared, count_key);
                step.batch.remove(Space::Shared, key);
                continue;
            }
            if before.count == 0 {
                let message = self.window.shared(id).ok_or_else(|| {
                    damaged(Space::Shared, &key, Unreadable { expected: "a message in the log" })
                })?;
                step.batch.put(Space::Shared, key, copy(&message));
            }
            let named = Named { count, ..before };
            step.batch.put(Space::Shared, count_key, named.to_bytes());
        }
        Ok(())
    }

    /// The keys of a space that belong to a session, in the maps.
    fn of_session(&self, space: Space, incarnation: Incarnation) -> Result<Vec<Bytes>, StoreError> {
        let prefix = session_key(incarnation);
        let mut found = Vec::new();
        self.store.scan_prefix(space, prefix, &prefix, &mut |key, _| {
            found.push(key.clone());
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The first pages of a session that may have messages of these sequence numbers: all, or as
    /// much as a step takes.
    fn pages(
        &self,
        incarnation: Incarnation,
        from: u64,
        upto: u64,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let prefix = session_key(incarnation);
        let (mut found, mut bytes) = (Vec::new(), 0);
        let from = page::key(incarnation, from);
        self.store.scan_prefix(Space::Queue, prefix, &from, &mut |key, page| {
            if page::first(page) > upto {
                return ControlFlow::Break(());
            }
            found.push((key.clone(), page.clone()));
            bytes += page.len();
            if bytes < self.fold_bytes_max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(found)
    }

    /// Writes what waits for a session and is in the window into pages, and takes out of them what waits no
    /// longer: all of it, or if that is much, its first part with a place. A page of which nothing has
    /// changed stays as it is.
    fn fold_backlog(
        &mut self,
        incarnation: Incarnation,
        place: u64,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        let backlog = self.window.take_backlog(incarnation, place, self.fold_bytes_max);
        let Some(backlog) = backlog else { return Ok(()) };
        step.is_full |= self.window.backlog(incarnation).is_some();
        let folded = self.write_pages(incarnation, &backlog, step);
        step.taken.backlogs.push((incarnation, backlog));
        folded
    }

    fn write_pages(
        &self,
        incarnation: Incarnation,
        backlog: &Backlog,
        step: &mut Step,
    ) -> Result<(), StoreError> {
        if step.ended.contains(&incarnation) {
            // A word that came after its end: its pages go with this step already.
            return Ok(());
        }
        let Backlog { live, gone, overlaps } = backlog;
        let last_live = live.last().filter(|_| *overlaps).unwrap_or(0);
        let last_gone = gone.last().copied().unwrap_or(0);
        let mut live = live.from(0).peekable();
        let within = live.peek().filter(|_| *overlaps).map(|(first, _)| *first);
        let changed = gone.first().copied().into_iter().chain(within).min();
        let mut from = changed;
        let mut pages = Vec::new().into_iter();
        loop {
            let mut page = pages.next();
            if let (None, Some(from)) = (&page, from) {
                pages = self.pages(incarnation, from, last_live.max(last_gone))?.into_iter();
                page = pages.next();
            }
            let end = page.as_ref().map(|(key, _)| page::last(key));
            from = end.and_then(|end| end.checked_add(1));
            let mut waiting: BTreeMap<u64, Bytes> = BTreeMap::new();
            while let Some((sequence, at)) =
                live.next_if(|(sequence, _)| end.is_none_or(|end| *sequence <= end))
            {
                waiting.insert(sequence, self.window.value(at));
            }
            if let Some((key, value)) = &page {
                let first = page::first(value);
                let none_gone = gone.range(first..=page::last(key)).next().is_none();
                if waiting.is_empty() && none_gone {
                    continue;
                }
                for entry in page::entries(value) {
                    let (sequence, entry) = entry?;
                    step.named(entry, -1);
                    if !gone.contains(&sequence) {
                        // What the log says is newer.
                        waiting.entry(sequence).or_insert_with(|| value.slice_ref(entry));
                    }
                }
            }
            waiting.values().for_each(|value| step.named(value, 1));
            let written = page::write(waiting.iter().map(|(at, value)| (*at, value)));
            // A page that ends where one ended is one change, not two.
            if let Some((key, _)) =
                page.filter(|_| written.last().is_none_or(|(at, _)| Some(*at) != end))
            {
                step.batch.remove(Space::Queue, key);
            }
            for (last, value) in written {
                step.batch.put(Space::Queue, page::key(incarnation, last), value);
            }
            if end.is_none() {
                return Ok(());
            }
        }
    }
}

/// A copy that does not keep a whole batch in memory.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

//! The oldest part of the log goes into the maps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use petrel_shard::Incarnation;

use super::{FOLDED, Lane};
use crate::log::{Operation, Reader};
use crate::page;
use crate::store::{Batch, Space, Store, StoreError};
use crate::window::{Backlog, Latest, session_key};

/// Changes of one step of folding, at most: so long others wait for it.
const FOLD_CHANGES_MAX: usize = 512;
/// Bytes of one step of folding, about.
const FOLD_BYTES_MAX: usize = 1 << 20;

impl<S: Store> Lane<S> {
    /// True if the log has grown over its bound.
    #[must_use]
    pub const fn wants_folding(&self) -> bool {
        self.window.bytes() > self.settings.window_bytes_max
    }

    /// Folds a part of the oldest batch.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn fold(&mut self) -> Result<(), StoreError> {
        // The maps must never know what the log has lost.
        self.sync()?;
        let Some((number, bytes)) = self.window.oldest() else { return Ok(()) };
        let mut reader = Reader::new(number, bytes, self.folded);
        let mut batch = Batch::default();
        let mut size = 0;
        let mut ended = false;
        while batch.changes.len() < FOLD_CHANGES_MAX && size < FOLD_BYTES_MAX {
            let Some(operation) = reader.next()? else {
                ended = true;
                break;
            };
            let before = batch.changes.len();
            self.fold_operation(number, operation, &mut batch)?;
            size += batch.changes[before..]
                .iter()
                .map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len))
                .sum::<usize>();
        }
        self.folded = reader.position();
        if ended {
            batch.put(Space::Meta, FOLDED, (number + 1).to_be_bytes().to_vec());
        }
        self.store.write(batch, false)?;
        if ended {
            self.window.pop();
            self.folded = 0;
            self.store.release_log(number + 1)?;
        }
        Ok(())
    }

    fn fold_operation(
        &mut self,
        number: u64,
        operation: Operation,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        match operation {
            Operation::Put { space, key, value } => {
                if self.window.latest(space, &key) == Some(Latest::Put(value)) {
                    batch.put(space, copy(&key), copy(&self.window.value(value)));
                    self.window.forget(space, &key);
                }
            }
            Operation::Remove { space, key } => {
                if self.window.latest(space, &key) == Some(Latest::Removed(number)) {
                    batch.remove(space, copy(&key));
                    self.window.forget(space, &key);
                }
            }
            Operation::Queued { incarnation, sequence, value }
            | Operation::Released { incarnation, sequence, value } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.live.get(sequence) == Some(value)) {
                    self.fold_backlog(incarnation, batch)?;
                }
            }
            Operation::Done { incarnation, sequence } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.gone.contains(&sequence)) {
                    self.fold_backlog(incarnation, batch)?;
                }
            }
            Operation::Ended { incarnation } => {
                self.alive.end(incarnation);
                let key = session_key(incarnation);
                if self.window.latest(Space::Session, &key) == Some(Latest::Removed(number)) {
                    batch.remove(Space::Session, key.to_vec());
                    self.window.forget(Space::Session, &key);
                }
                for space in [Space::Subscription, Space::Receipt, Space::Queue] {
                    for (key, _) in self.of_session(space, incarnation)? {
                        batch.remove(space, key);
                    }
                }
            }
        }
        Ok(())
    }

    /// The keys of a space that belong to a session, in the maps.
    fn of_session(
        &self,
        space: Space,
        incarnation: Incarnation,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let prefix = session_key(incarnation);
        let mut found = Vec::new();
        self.store.scan(space, &prefix, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return ControlFlow::Break(());
            }
            found.push((key.clone(), value.clone()));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Writes all that waits for a session and is in the window into pages.
    fn fold_backlog(
        &mut self,
        incarnation: Incarnation,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let Some(backlog) = self.window.take_backlog(incarnation) else { return Ok(()) };
        self.counting.take_if(|counting| *counting == incarnation);
        let Backlog { live, gone, overlaps } = backlog;
        let mut waiting: BTreeMap<u64, Bytes> = BTreeMap::new();
        let mut replaced = Vec::new();
        let touched = gone.first().copied().into_iter().chain(live.first().filter(|_| overlaps));
        if let Some(from) = touched.min() {
            for (key, value) in self.of_session(Space::Queue, incarnation)? {
                let entries = page::read(&value)?;
                if entries.last().is_some_and(|(last, _)| *last >= from) {
                    replaced.push(key);
                    let left = entries.into_iter().filter(|(sequence, _)| !gone.contains(sequence));
                    waiting.extend(left);
                }
            }
        }
        waiting.extend(live.from(0).map(|(sequence, at)| (sequence, self.window.value(at))));
        for (first, value) in page::write(&waiting) {
            let key = page::key(incarnation, first);
            // A page that begins where one began is one change, not two.
            replaced.retain(|replaced| *replaced != key);
            batch.put(Space::Queue, key, value);
        }
        replaced.into_iter().for_each(|key| batch.remove(Space::Queue, key));
        Ok(())
    }
}

/// A copy that does not keep a whole batch in memory.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

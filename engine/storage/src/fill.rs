//! Writes many entries into a store that nobody else uses.

use bytes::Bytes;

use crate::store::{Batch, Space, Store, StoreError};

/// Bytes of one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Changes of one batch, at most.
const BATCH_CHANGES: usize = 4_096;

/// Puts entries into a store, many at a time.
pub(crate) struct Filler<'s, S> {
    store: &'s mut S,
    batch: Batch,
    bytes: usize,
}

impl<'s, S: Store> Filler<'s, S> {
    pub(crate) fn new(store: &'s mut S) -> Self {
        Self { store, batch: Batch::default(), bytes: 0 }
    }

    /// Adds an entry.
    pub(crate) fn put(&mut self, space: Space, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        self.bytes += key.len() + value.len();
        self.batch.put(space, key, value);
        if self.bytes < BATCH_BYTES && self.batch.changes.len() < BATCH_CHANGES {
            return Ok(());
        }
        self.bytes = 0;
        self.store.write(std::mem::take(&mut self.batch), false)
    }

    /// Writes what is left, and makes all of it survive the machine.
    pub(crate) fn finish(self) -> Result<(), StoreError> {
        self.store.write(self.batch, true)
    }
}

//! Writes many entries into a store that nobody else uses.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::shared::{Named, SharedId};
use crate::store::{Batch, Space, Store, StoreError};
use crate::{codec, page};

/// Bytes of one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Changes of one batch, at most.
const BATCH_CHANGES: usize = 4_096;

/// Puts entries into a store, many at a time.
pub(crate) struct Filler<'s, S> {
    store: &'s mut S,
    batch: Batch,
    bytes: usize,
    /// How many of the messages in pages name one that several sessions share.
    names: BTreeMap<SharedId, Named>,
}

impl<'s, S: Store> Filler<'s, S> {
    pub(crate) fn new(store: &'s mut S) -> Self {
        Self { store, batch: Batch::default(), bytes: 0, names: BTreeMap::new() }
    }

    /// Adds an entry, unless it says how many name a message: that is counted here.
    pub(crate) fn put(&mut self, space: Space, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        match space {
            Space::Shared if SharedId::of_key(&key).is_some_and(|(_, is_it)| !is_it) => {
                return Ok(());
            }
            Space::Queue => {
                for shared in page::read(&value)?.iter().filter_map(|(_, it)| codec::shared(it)) {
                    let none = Named { count: 0, goes_at_wall_ms: shared.goes_at_wall_ms() };
                    self.names.entry(shared.id).or_insert(none).count += 1;
                }
            }
            _ => {}
        }
        self.add(space, key, value)
    }

    fn add(&mut self, space: Space, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        self.bytes += key.len() + value.len();
        self.batch.put(space, key, value);
        if self.bytes < BATCH_BYTES && self.batch.changes.len() < BATCH_CHANGES {
            return Ok(());
        }
        self.bytes = 0;
        self.store.write(std::mem::take(&mut self.batch), false)
    }

    /// Writes what is left, and makes all of it survive the machine.
    pub(crate) fn finish(mut self) -> Result<(), StoreError> {
        for (id, named) in std::mem::take(&mut self.names) {
            self.add(Space::Shared, id.count_key(), named.to_bytes())?;
        }
        self.store.write(self.batch, true)
    }
}

//! A store in memory that fails like a disk, for simulations and tests.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::store::{Batch, Maps, Space, Store, StoreError, Usage, Visitor};

type MapsInMemory = BTreeMap<Space, BTreeMap<Bytes, Bytes>>;

/// What goes wrong with the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails; how much of what was not synchronised survives is decided by the next
    /// [`MemoryStore::crash`] or [`Store::reopen`].
    Write,
    /// The batch is written and its synchronisation fails.
    Sync,
    /// There is no room until [`MemoryStore::mend`].
    Full,
}

/// Maps in memory: what has been synchronised, and what has been written since.
#[derive(Debug, Default)]
pub struct MemoryStore {
    durable: MapsInMemory,
    /// Written and not synchronised, oldest first.
    written: Vec<Batch>,
    /// What a reader sees.
    current: MapsInMemory,
    fault: Option<Fault>,
    failed: bool,
    /// How much of `written` survives the next [`Store::reopen`], in thousandths.
    survives: u32,
    syncs: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next write go wrong.
    pub const fn break_next(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// There is room again.
    pub const fn mend(&mut self) {
        self.fault = None;
    }

    /// How often something was made durable.
    #[must_use]
    pub const fn syncs(&self) -> u64 {
        self.syncs
    }

    /// How much of what is not synchronised survives the next failure, in thousandths of the
    /// batches; the batch at the edge is torn and goes.
    pub const fn set_survival(&mut self, thousandths: u32) {
        self.survives = thousandths;
    }

    /// The machine fails and starts again. A prefix of what was not synchronised survives.
    pub fn crash(&mut self) {
        let survivors = self.written.len() * self.survives.min(1000) as usize / 1000;
        for batch in self.written.drain(..).take(survivors) {
            apply(&mut self.durable, &batch);
        }
        self.current = self.durable.clone();
        self.failed = false;
    }

    fn fail(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.failed = true;
        Err(error)
    }

    fn make_durable(&mut self) {
        for batch in self.written.drain(..) {
            apply(&mut self.durable, &batch);
        }
        self.syncs += 1;
    }
}

impl Store for MemoryStore {
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        assert!(!self.failed, "a store that failed is opened again before it is used");
        match self.fault {
            Some(Fault::Full) => {
                return self.fail(StoreError::Full { why: "the simulated disk is full".into() });
            }
            Some(Fault::Write) => {
                self.fault = None;
                return self.fail(StoreError::Failed { why: "a simulated write".into() });
            }
            _ => {}
        }
        apply(&mut self.current, &batch);
        self.written.push(batch);
        if sync { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        assert!(!self.failed, "a store that failed is opened again before it is used");
        if self.fault == Some(Fault::Sync) {
            self.fault = None;
            return self.fail(StoreError::Failed { why: "a simulated fsync".into() });
        }
        self.make_durable();
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.current.get(&space).and_then(|map| map.get(key)).cloned())
    }

    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        Maps::scan(&self.current, space, from, visit)
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        self.crash();
        Ok(())
    }

    fn maps(&self) -> Result<Box<dyn Maps>, StoreError> {
        Ok(Box::new(self.current.clone()))
    }
}

impl Maps for MapsInMemory {
    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let Some(map) = self.get(&space) else { return Ok(()) };
        for (key, value) in map.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage { spaces: Space::ALL.map(|space| (space, 0)), journal_bytes: 0, log_batches: 0 })
    }
}

fn apply(maps: &mut MapsInMemory, batch: &Batch) {
    for change in &batch.changes {
        let map = maps.entry(change.space).or_default();
        match &change.value {
            Some(value) => map.insert(change.key.clone(), value.clone()),
            None => map.remove(&change.key),
        };
    }
}

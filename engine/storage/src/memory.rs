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
    /// The log cannot be read the next time that it is asked for.
    ReadLog,
}

/// Log and maps in memory: what has been synchronised, and what has been written since.
#[derive(Debug, Default)]
pub struct MemoryStore {
    durable_log: BTreeMap<u64, Bytes>,
    /// Appended and not synchronised.
    appended: BTreeMap<u64, Bytes>,
    durable: MapsInMemory,
    /// Written and not synchronised, oldest first.
    written: Vec<Batch>,
    /// What a reader sees.
    current: MapsInMemory,
    fault: Option<Fault>,
    failed: bool,
    /// How much of `written` and of `appended` survives the next [`Store::reopen`], in thousandths.
    survives: (u32, u32),
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

    /// How much of what is not synchronised in the maps and in the log survives the next failure, in
    /// thousandths of the batches; the batch at the edge is torn and goes.
    pub const fn set_survival(&mut self, maps: u32, log: u32) {
        self.survives = (maps, log);
    }

    /// The machine fails and starts again. A prefix of what was not synchronised survives.
    pub fn crash(&mut self) {
        let part = |count: usize, survives: u32| count * survives.min(1000) as usize / 1000;
        let survivors = part(self.written.len(), self.survives.0);
        for batch in self.written.drain(..).take(survivors) {
            apply(&mut self.durable, &batch);
        }
        let survivors = part(self.appended.len(), self.survives.1);
        let appended = std::mem::take(&mut self.appended);
        self.durable_log.extend(appended.into_iter().take(survivors));
        self.current = self.durable.clone();
        self.failed = false;
    }

    fn fail(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.failed = true;
        Err(error)
    }

    /// Fails if it is to, before something is written.
    fn fail_before(&mut self) -> Result<(), StoreError> {
        assert!(!self.failed, "a store that failed is opened again before it is used");
        match self.fault {
            Some(Fault::Full) => {
                self.fail(StoreError::Full { why: "the simulated disk is full".into() })
            }
            Some(Fault::Write) => {
                self.fault = None;
                self.fail(StoreError::Failed { why: "a simulated write".into() })
            }
            _ => Ok(()),
        }
    }

    /// Fails if it is to, when something is synchronised.
    fn fail_sync(&mut self) -> Result<(), StoreError> {
        assert!(!self.failed, "a store that failed is opened again before it is used");
        if self.fault == Some(Fault::Sync) {
            self.fault = None;
            return self.fail(StoreError::Failed { why: "a simulated fsync".into() });
        }
        self.syncs += 1;
        Ok(())
    }

    fn sync_maps(&mut self) -> Result<(), StoreError> {
        self.fail_sync()?;
        for batch in self.written.drain(..) {
            apply(&mut self.durable, &batch);
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn read_log(&mut self, from: u64, below: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
        if self.fault == Some(Fault::ReadLog) {
            self.fault = None;
            return Err(StoreError::Failed { why: "the log cannot be read".into() });
        }
        self.durable_log.append(&mut self.appended);
        self.durable_log.split_off(&below);
        let batches =
            self.durable_log.range(from..).map(|(number, batch)| (*number, batch.clone()));
        let batches: Vec<_> = batches.collect();
        for (expected, (number, _)) in (from..).zip(&batches) {
            assert_eq!(expected, *number, "a batch of the log has gone");
        }
        Ok(batches)
    }

    fn append(&mut self, number: u64, batch: &Bytes, sync: bool) -> Result<(), StoreError> {
        self.fail_before()?;
        let last = self.durable_log.last_key_value().into_iter();
        let last = last.chain(self.appended.last_key_value()).map(|(last, _)| *last).max();
        assert!(last.is_none_or(|last| last + 1 == number), "batch {number} comes after {last:?}");
        self.appended.insert(number, batch.clone());
        if sync { self.sync_log() } else { Ok(()) }
    }

    fn sync_log(&mut self) -> Result<(), StoreError> {
        self.fail_sync()?;
        self.durable_log.append(&mut self.appended);
        Ok(())
    }

    fn release_log(&mut self, below: u64) -> Result<(), StoreError> {
        // As files go, of which each has some batches.
        let below = below / 4 * 4;
        if self.durable_log.first_key_value().is_some_and(|(first, _)| *first < below) {
            self.sync_maps()?;
            self.durable_log = self.durable_log.split_off(&below);
        }
        Ok(())
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        self.fail_before()?;
        apply(&mut self.current, &batch);
        self.written.push(batch);
        if sync { self.sync_maps() } else { Ok(()) }
    }

    fn shrink(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.current.get(&space).and_then(|map| map.get(key)).cloned())
    }

    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        Maps::scan(&self.current, space, from, visit)
    }

    fn scan_prefix(
        &self,
        space: Space,
        prefix: [u8; 8],
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        self.scan(space, from, &mut |key, value| match key.starts_with(&prefix) {
            true => visit(key, value),
            false => ControlFlow::Break(()),
        })
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
        Ok(Usage { spaces: Space::ALL.map(|space| (space, 0)), journal_bytes: 0, log_bytes: 0 })
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

//! Which shards may want a topic: one read-mostly table for the whole process.
//!
//! A filter is reduced to its mask and a 64-bit keyed fingerprint of its literal levels; the table
//! maps the fingerprint to a set of shards. Texts are not kept, so an answer may name a shard too
//! many (a collision, or a filter recorded under a coarser mask), never one too few.
//!
//! Invariants:
//! - From the return of [`InterestWriter::add`] until the call of the matching
//!   [`InterestWriter::remove`] every reader sees the shard, whatever other writers do.
//! - Readers take no lock and write no memory that another shard reads in its hot path.
//! - Each entry that is in the table for more than one reason (several filters under one coarse
//!   mask, several shards behind one bit) is counted, and leaves with the last of them.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::level_hash::{HashKey, TopicLevels};
use crate::mask::{Mask, MaskRegistry, MaskTable, Shape};

mod table;

use table::{Look, Reader, Table};

/// Looks of one round; beyond that another round begins.
const LOOKS: usize = 256;

/// A set of shards: bit i stands for every shard whose index modulo 64 is i.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardMask(pub u64);

/// Which shards may want a topic; shared by all threads of the process.
///
/// *Bounds*: at most 32 B per distinct filter of the process beside a fixed 32 KiB or so.
#[derive(Debug)]
pub struct Interest {
    key: HashKey,
    table: Table,
    masks: MaskTable,
    registry: Mutex<MaskRegistry>,
    epoch: Epoch,
}

/// Read for every message and written only when filters come or go: on a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Epoch(AtomicU64);

/// One shard's side for writing to an [`Interest`].
///
/// Every `add` is to be balanced by one `remove` of the same filter; what was added is not
/// removed when the writer goes.
#[derive(Debug)]
pub struct InterestWriter {
    table: Arc<Interest>,
    bit: u8,
}

/// How full an [`Interest`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterestStats {
    /// Distinct fingerprints; one that shards below and above 32 want counts twice.
    pub entries: usize,
    /// Masks that topics are probed with.
    pub masks: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
}

impl ShardMask {
    /// Whether the shard may want the topic.
    #[inline]
    #[must_use]
    pub const fn contains(self, shard: u16) -> bool {
        self.0 >> (shard % 64) & 1 == 1
    }

    /// True if no shard wants the topic.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether another shard than this one, among the first `shards`, may want the topic.
    #[inline]
    #[must_use]
    pub fn has_other(self, own: u16, shards: u16) -> bool {
        if shards <= 64 {
            return self.0 & !(1 << (own % 64)) != 0;
        }
        self.iter(shards).any(|shard| shard != own)
    }

    /// The shards among the first `shards` that may want the topic, in order.
    pub fn iter(self, shards: u16) -> impl Iterator<Item = u16> {
        (0..shards).step_by(64).flat_map(move |base| {
            let mut rest = self.0;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as u16;
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(base + bit)
            })
            .take_while(move |shard| *shard < shards)
        })
    }
}

impl Interest {
    /// No interest in anything.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            table: Table::new(),
            masks: MaskTable::new(),
            registry: Mutex::new(MaskRegistry::default()),
            epoch: Epoch(AtomicU64::new(1)),
        }
    }

    /// A number that changes with every filter that is added or removed, after the table has. What was read
    /// from the table after the number is right for as long as the number stays.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.0.load(Ordering::Acquire)
    }

    /// The shards that may want the topic of `levels`, taken by the key of this table.
    ///
    /// *Spec*: [MQTT5-4.7.2-1], [MQTT311-4.7.2-1].
    /// *Cost*: one probe for the whole topic and one per mask in use that fits it.
    #[inline]
    #[must_use]
    pub fn shards(&self, levels: &TopicLevels) -> ShardMask {
        let reader = self.table.read();
        let mut shards = reader.get(self.exact(levels));
        self.masks.probes(levels, |_, fingerprint| shards |= reader.get(masked(fingerprint)));
        ShardMask(shards)
    }

    /// The same for several topics at a time: the memory that one waits for is fetched for the others
    /// too. `shards` is as long as `topics`.
    ///
    /// *Cost*: some more instructions than one by one, and fewer cache misses that are waited for.
    pub fn shards_of_many(&self, topics: &[&TopicLevels], shards: &mut [ShardMask]) {
        let reader = self.table.read();
        let mut looks: SmallVec<[(usize, Look); LOOKS]> = SmallVec::new();
        shards.fill(ShardMask::default());
        for (topic, levels) in topics.iter().enumerate() {
            let mut look = |fingerprint: u64| {
                if looks.len() == LOOKS {
                    reader.resolve(&looks, shards);
                    looks.clear();
                }
                looks.push((topic, reader.look(fingerprint)));
            };
            look(self.exact(levels));
            self.masks.probes(levels, |_, fingerprint| look(masked(fingerprint)));
        }
        reader.resolve(&looks, shards);
    }

    /// How full the table is; takes every lock in turn.
    #[must_use]
    pub fn stats(&self) -> InterestStats {
        let (entries, table_bytes) = self.table.usage();
        let registry_bytes = self.registry().memory_bytes();
        InterestStats {
            entries,
            masks: self.masks.len(),
            memory_bytes: table_bytes + registry_bytes + size_of::<Self>() + MaskTable::HEAP_BYTES,
        }
    }

    fn registry(&self) -> MutexGuard<'_, MaskRegistry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, filter: &[u8], bit: u8) {
        let levels = TopicLevels::of(&self.key, filter);
        let fingerprint = match Shape::of(filter) {
            Shape::Exact => self.exact(&levels),
            Shape::Masked(mask) => self.masked(&self.acquire(&mask), &levels),
            Shape::Deep(mask) => {
                let coarse = mask.coarse();
                self.registry().acquire(&self.masks, &self.key, &coarse);
                self.masked(&coarse, &levels)
            }
        };
        self.table.add(fingerprint, bit);
        // Nothing that this thread does from now on overtakes the stores.
        fence(Ordering::SeqCst);
    }

    /// The fingerprint of a filter without wildcards, and of a topic.
    #[inline]
    fn exact(&self, levels: &TopicLevels) -> u64 {
        levels.whole().wrapping_add(self.key.exact_salt()) & !MASKED
    }

    /// The fingerprint of a filter of this mask.
    fn masked(&self, mask: &Mask, levels: &TopicLevels) -> u64 {
        masked(mask.fingerprint_of(&self.key, levels))
    }

    /// Counts a filter of this mask; the mask to record it under.
    fn acquire(&self, mask: &Mask) -> Mask {
        let mut registry = self.registry();
        if registry.acquire(&self.masks, &self.key, mask) {
            return *mask;
        }
        let coarse = mask.coarse();
        registry.acquire(&self.masks, &self.key, &coarse);
        coarse
    }

    fn remove(&self, filter: &[u8], bit: u8) {
        let levels = TopicLevels::of(&self.key, filter);
        let (mask, probed) = match Shape::of(filter) {
            Shape::Exact => {
                self.table.remove(self.exact(&levels), bit);
                return;
            }
            Shape::Masked(mask) => (mask, self.registry().is_probed(&self.key, &mask)),
            Shape::Deep(mask) => (mask.coarse(), true),
        };
        // The mask's state cannot change before this filter is released.
        let recorded = if probed { mask } else { mask.coarse() };
        if !self.table.remove(self.masked(&recorded, &levels), bit) {
            return;
        }
        let mut registry = self.registry();
        registry.release(&self.masks, &self.key, &mask);
        if !probed {
            registry.release(&self.masks, &self.key, &recorded);
        }
    }
}

impl Reader {
    /// Adds the shards of some looks to those of their topics.
    fn resolve(&self, looks: &[(usize, Look)], shards: &mut [ShardMask]) {
        for (topic, look) in looks {
            if let Some(shards) = shards.get_mut(*topic) {
                shards.0 |= self.answer(*look);
            }
        }
    }
}

/// Among the bits that choose the part of the table: filters with wildcards are apart, for they are
/// fewer and are looked for more often.
const MASKED: u64 = 1 << 31;

#[inline]
const fn masked(fingerprint: u64) -> u64 {
    fingerprint | MASKED
}

impl InterestWriter {
    /// The writing side of shard number `shard`.
    #[must_use]
    pub fn new(table: Arc<Interest>, shard: u16) -> Self {
        Self { table, bit: (shard % 64) as u8 }
    }

    /// Records that the shard wants what the filter matches; in force when it returns.
    ///
    /// The filter of a shared subscription is to be given without `$share` and its name.
    pub fn add(&mut self, filter: &[u8]) {
        self.table.add(filter, self.bit);
        self.table.epoch.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one `add` of the same filter back; one that was never added is ignored as far as
    /// the table can tell.
    pub fn remove(&mut self, filter: &[u8]) {
        self.table.remove(filter, self.bit);
        self.table.epoch.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The table for reading.
    #[must_use]
    pub const fn interest(&self) -> &Arc<Interest> {
        &self.table
    }
}

#[cfg(test)]
mod tests;

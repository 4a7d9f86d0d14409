//! Fingerprint to set of shards: open addressing on atomics, in parts that grow on their own.
//!
//! A part has its buckets in blocks of one size, so that what one growth frees is what the next one
//! asks for, on whichever thread that is. Writers of a part hold its lock; they change entries in
//! place, and when the part is too full, too empty or has too many marks, they copy it and publish a
//! new directory. A reader keeps the directory it started with, so it may miss what was added after it
//! started and nothing else.
//!
//! An entry is a check and 32 shards; the free bit of the check says which half of the 64. A
//! fingerprint that both halves want has two entries.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashTable;

use crate::buckets::{self, Bucket, Buckets, CHECK, Density, Fill, First, Key, PARTS, Place};

#[derive(Debug)]
pub(super) struct Table {
    directory: ArcSwap<Directory>,
    parts: Box<[Mutex<Part>]>,
    /// Held while a new directory is made from the current one.
    publishing: Mutex<()>,
}

/// A view of the table, for the probes of one topic.
pub(super) struct Reader(Guard<Arc<Directory>>);

/// A look at the first bucket of a fingerprint, of which several are under way together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    key: Key,
    /// What that bucket says.
    tags: u64,
}

#[derive(Debug, Clone)]
struct Directory {
    parts: [Blocks; PARTS],
}

/// The buckets of a part, in blocks.
#[derive(Debug, Clone)]
struct Blocks(Arc<[Box<Block>]>);

type Block = [Bucket; BLOCK];

/// What the writers of a part know about it.
#[derive(Debug, Default)]
struct Part {
    fill: Fill,
    /// For an entry's bit that was added more than once: how often more.
    more: HashTable<More>,
}

#[derive(Debug)]
struct More {
    /// The bits that are kept of it.
    fingerprint: u64,
    bit: u8,
    count: u32,
}

/// Buckets of a block; together a size class of the allocator.
const BLOCK: usize = 8;
const DENSITY: Density = Density { full: 13, aim: 12, sparse: 9 };
/// The lower half of an entry.
const SHARDS: u64 = u32::MAX as u64;

impl Table {
    pub(super) fn new() -> Self {
        let empty = Blocks(Arc::from(Vec::new()));
        let directory = Directory { parts: std::array::from_fn(|_| empty.clone()) };
        Self {
            directory: ArcSwap::from_pointee(directory),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            publishing: Mutex::new(()),
        }
    }

    #[inline]
    pub(super) fn read(&self) -> Reader {
        Reader(self.directory.load())
    }

    /// Sets one bit of an entry, or counts that it was set once more.
    pub(super) fn add(&self, fingerprint: u64, bit: u8) {
        let key = Key::of(fingerprint);
        let mut part = lock(&self.parts[key.part()]);
        let mut blocks = self.blocks(key);
        let shard = 1 << (bit % 32);
        let place = find(&blocks, key, bit);
        if let Some(entry) = place.and_then(|place| buckets::entry(&blocks, place)) {
            let before = entry.fetch_or(shard, Ordering::Release);
            if before & shard != 0 {
                part.count_more(fingerprint, bit);
            }
            return;
        }
        if part.fill.is_full(DENSITY, blocks.len()) {
            blocks = self.rebuild(key, &mut part, &blocks);
        }
        buckets::insert(&blocks, &mut part.fill, key, check(key, bit) | shard);
    }

    /// Takes one [`Self::add`] back; false if there was none.
    pub(super) fn remove(&self, fingerprint: u64, bit: u8) -> bool {
        let key = Key::of(fingerprint);
        let mut part = lock(&self.parts[key.part()]);
        let blocks = self.blocks(key);
        let Some(place) = find(&blocks, key, bit) else { return false };
        let Some(entry) = buckets::entry(&blocks, place) else { return false };
        let shard = 1 << (bit % 32);
        let before = entry.load(Ordering::Relaxed);
        if before & shard == 0 {
            return false;
        }
        if part.count_less(fingerprint, bit) {
            return true;
        }
        if before & SHARDS == shard {
            buckets::remove(&blocks, &mut part.fill, place);
            let sparse = part.fill.is_sparse(DENSITY, blocks.len());
            if sparse && blocks_for(part.fill) * BLOCK < blocks.len() {
                self.rebuild(key, &mut part, &blocks);
            }
        } else {
            entry.fetch_and(!shard, Ordering::Release);
        }
        true
    }

    /// Distinct fingerprints, and bytes on the heap.
    pub(super) fn usage(&self) -> (usize, usize) {
        let directory = self.directory.load();
        let mut bytes = PARTS * size_of::<Mutex<Part>>() + size_of::<Directory>();
        let mut entries = 0;
        for (part, blocks) in self.parts.iter().zip(&directory.parts) {
            let part = lock(part);
            entries += part.fill.live;
            bytes += blocks.bytes() + part.more.allocation_size();
        }
        (entries, bytes)
    }

    /// The buckets of the part of a key, whose lock is held.
    fn blocks(&self, key: Key) -> Blocks {
        self.directory.load().parts[key.part()].clone()
    }

    /// Copies a part into as many buckets as suit it, with room for one more, and publishes it.
    fn rebuild(&self, key: Key, part: &mut Part, old: &Blocks) -> Blocks {
        let new = Blocks::new(blocks_for(part.fill));
        buckets::copy(old, &new, &mut part.fill);
        let _publishing = lock(&self.publishing);
        let mut directory = Directory::clone(&self.directory.load());
        directory.parts[key.part()] = new.clone();
        self.directory.store(Arc::new(directory));
        new
    }
}

impl Reader {
    /// The shards of a fingerprint; zero if there is no entry.
    #[inline]
    pub(super) fn get(&self, fingerprint: u64) -> u64 {
        let key = Key::of(fingerprint);
        let blocks = &self.0.parts[key.part()];
        match buckets::first(blocks, key) {
            First::Lacks => 0,
            First::Only(entry) => shards_of(entry, key),
            First::Unclear => blocks.shards(key),
        }
    }
}

impl Reader {
    /// Begins to look for a fingerprint.
    #[inline]
    pub(super) fn look(&self, fingerprint: u64) -> Look {
        let key = Key::of(fingerprint);
        Look { key, tags: buckets::tags(&self.0.parts[key.part()], key) }
    }

    /// The shards of what was looked for.
    #[inline]
    pub(super) fn answer(&self, look: Look) -> u64 {
        let Look { key, tags } = look;
        if buckets::tell_lack(tags, key) { 0 } else { self.0.parts[key.part()].shards(key) }
    }
}

impl Blocks {
    fn new(blocks: usize) -> Self {
        let block = || Box::new(std::array::from_fn(|_| Bucket::new()));
        Self((0..blocks).map(|_| block()).collect())
    }

    #[inline(never)]
    fn shards(&self, key: Key) -> u64 {
        let mut shards = 0;
        buckets::search(self, key, |_, entry| {
            shards |= shards_of(entry, key);
            false
        });
        shards
    }

    fn bytes(&self) -> usize {
        self.0.len() * (size_of::<Block>() + size_of::<Box<Block>>())
    }
}

impl Buckets for Blocks {
    #[inline]
    fn len(&self) -> usize {
        self.0.len() * BLOCK
    }

    #[inline]
    fn at(&self, index: usize) -> Option<&Bucket> {
        self.0.get(index / BLOCK).map(|block| &block[index % BLOCK])
    }
}

impl Part {
    fn count_more(&mut self, fingerprint: u64, bit: u8) {
        let fingerprint = fingerprint & Key::KEPT;
        let same = |more: &More| more.fingerprint == fingerprint && more.bit == bit;
        if let Some(more) = self.more.find_mut(spread(fingerprint), same) {
            more.count += 1;
        } else {
            let more = More { fingerprint, bit, count: 1 };
            self.more.insert_unique(spread(fingerprint), more, |more| spread(more.fingerprint));
        }
    }

    /// Takes one count back; false if the bit was added only once.
    fn count_less(&mut self, fingerprint: u64, bit: u8) -> bool {
        let fingerprint = fingerprint & Key::KEPT;
        let same = |more: &More| more.fingerprint == fingerprint && more.bit == bit;
        let Ok(mut found) = self.more.find_entry(spread(fingerprint), same) else { return false };
        found.get_mut().count -= 1;
        if found.get().count == 0 {
            found.remove();
            if self.more.len() * 4 < self.more.capacity() {
                self.more.shrink_to(self.more.len() * 2, |more| spread(more.fingerprint));
            }
        }
        true
    }
}

/// The shards of an entry; zero if it is of another key.
#[inline]
const fn shards_of(entry: u64, key: Key) -> u64 {
    if entry & CHECK == key.check() { (entry & SHARDS) << ((entry >> 32 & 1) * 32) } else { 0 }
}

/// The upper half of the entry that has a bit.
const fn check(key: Key, bit: u8) -> u64 {
    key.check() | (bit as u64 / 32) << 32
}

/// Where the entry that has a bit is.
fn find(blocks: &Blocks, key: Key, bit: u8) -> Option<Place> {
    let mut found = None;
    buckets::search(blocks, key, |place, entry| {
        let same = entry & !SHARDS == check(key, bit);
        found = same.then_some(place);
        same
    });
    found
}

/// The bits that are kept of a fingerprint, those that differ within a part at both ends.
const fn spread(kept: u64) -> u64 {
    kept >> 33 ^ kept << 57
}

/// How many blocks suit so many entries and one more.
fn blocks_for(fill: Fill) -> usize {
    fill.buckets(DENSITY).div_ceil(BLOCK)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

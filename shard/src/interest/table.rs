//! Fingerprint to set of shards: open addressing on atomics, in parts that grow on their own.
//!
//! A bucket is one cache line of four entries; a part has its buckets in blocks of one size, so that
//! what one growth frees is what the next one asks for, on whichever thread that is. An entry that finds its bucket full goes to the next
//! one and marks the full one as spilled; readers go on only past marked buckets. Writers of a part
//! hold its lock; they change entries in place, and when the part is too full, too empty or has too
//! many marks, they copy it and publish a new directory. A reader keeps the directory it started
//! with, so it may miss what was added after it started and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use hashbrown::HashTable;

#[derive(Debug)]
pub(super) struct Table {
    directory: ArcSwap<Directory>,
    parts: Box<[Mutex<Part>]>,
    /// Held while a new directory is made from the current one.
    publishing: Mutex<()>,
}

/// A view of the table, for the probes of one topic.
pub(super) struct Reader(Guard<Arc<Directory>>);

#[derive(Debug, Clone)]
struct Directory {
    parts: [Buckets; PARTS],
}

/// The buckets of a part, in blocks.
#[derive(Debug, Clone)]
struct Buckets(Arc<[Box<Block>]>);

type Block = [Bucket; BLOCK];

#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    fingerprints: [AtomicU64; WAYS],
    shards: [AtomicU64; WAYS],
}

/// What the writers of a part know about it.
#[derive(Debug, Default)]
struct Part {
    live: usize,
    /// How many buckets are marked as spilled; marks go when the part is copied.
    spilled: usize,
    /// For an entry's bit that was added more than once: how often more.
    more: HashTable<More>,
}

#[derive(Debug)]
struct More {
    fingerprint: u64,
    bit: u8,
    count: u32,
}

const PARTS: usize = 256;
const WAYS: usize = 4;
/// Buckets of a block; together a size class of the allocator.
const BLOCK: usize = 8;

/// The value of an entry that is not in use.
const EMPTY: u64 = 0;
/// Beside the first fingerprint of a bucket: an entry went past it.
const SPILLED: u64 = 1 << 63;

/// Fill levels, in twelfths of the entries: grow above the first, shrink below the last, and aim
/// at the one between. At the lowest an entry costs 31 B, at the highest 22 B,
/// and a part has a block at least.
const FULL: usize = 9;
const AIM: usize = 8;
const SPARSE: usize = 6;

impl Table {
    pub(super) fn new() -> Self {
        let empty = Buckets(Arc::from(Vec::new()));
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
        let fingerprint = real(fingerprint);
        let index = part_of(fingerprint);
        let mut part = lock(&self.parts[index]);
        let mut buckets = self.buckets(index);
        if let Some((at, way)) = find(&buckets, fingerprint) {
            let shards = &buckets.get(at).shards[way];
            let before = shards.fetch_or(1 << bit, Ordering::Release);
            if before >> bit & 1 == 1 {
                part.count_more(fingerprint, bit);
            }
            return;
        }
        let full = (part.live + 1) * 12 > buckets.len() * WAYS * FULL;
        if full || part.spilled * 5 > buckets.len() * 2 {
            buckets = self.rebuild(index, &mut part, &buckets);
        }
        part.spilled += insert(&buckets, fingerprint, 1 << bit);
        part.live += 1;
    }

    /// Takes one [`Self::add`] back; false if there was none.
    pub(super) fn remove(&self, fingerprint: u64, bit: u8) -> bool {
        let fingerprint = real(fingerprint);
        let index = part_of(fingerprint);
        let mut part = lock(&self.parts[index]);
        let buckets = self.buckets(index);
        let Some((at, way)) = find(&buckets, fingerprint) else { return false };
        let bucket = buckets.get(at);
        if bucket.shards[way].load(Ordering::Relaxed) >> bit & 1 == 0 {
            return false;
        }
        if part.count_less(fingerprint, bit) {
            return true;
        }
        let before = bucket.shards[way].fetch_and(!(1 << bit), Ordering::Release);
        if before == 1 << bit {
            // Keeps the mark and nothing else.
            bucket.fingerprints[way].fetch_and(SPILLED, Ordering::Release);
            part.live -= 1;
            let sparse = part.live * 12 < buckets.len() * WAYS * SPARSE;
            if sparse && blocks_for(part.live) * BLOCK < buckets.len() {
                self.rebuild(index, &mut part, &buckets);
            }
        }
        true
    }

    /// Distinct fingerprints, and bytes on the heap.
    pub(super) fn usage(&self) -> (usize, usize) {
        let directory = self.directory.load();
        let mut bytes = PARTS * size_of::<Mutex<Part>>() + size_of::<Directory>();
        let mut entries = 0;
        for (part, buckets) in self.parts.iter().zip(&directory.parts) {
            let part = lock(part);
            entries += part.live;
            bytes += buckets.bytes() + part.more.allocation_size();
        }
        (entries, bytes)
    }

    /// The buckets of a part whose lock is held.
    fn buckets(&self, index: usize) -> Buckets {
        self.directory.load().parts[index].clone()
    }

    /// Copies a part into as many buckets as suit it, with room for one more, and publishes it.
    fn rebuild(&self, index: usize, part: &mut Part, old: &Buckets) -> Buckets {
        let new = Buckets::new(blocks_for(part.live));
        part.spilled = 0;
        for (fingerprint, shards) in old.iter().flat_map(Bucket::ways) {
            if fingerprint != EMPTY {
                part.spilled += insert(&new, fingerprint, shards);
            }
        }
        let _publishing = lock(&self.publishing);
        let mut directory = Directory::clone(&self.directory.load());
        directory.parts[index] = new.clone();
        self.directory.store(Arc::new(directory));
        new
    }
}

impl Reader {
    /// The shards of an entry; zero if there is none.
    #[inline]
    pub(super) fn get(&self, fingerprint: u64) -> u64 {
        let fingerprint = real(fingerprint);
        let buckets = &self.0.parts[part_of(fingerprint)];
        match find(buckets, fingerprint) {
            Some((at, way)) => buckets.get(at).shards[way].load(Ordering::Acquire),
            None => 0,
        }
    }
}

impl Buckets {
    fn new(blocks: usize) -> Self {
        let block = || Box::new(std::array::from_fn(|_| Bucket::new()));
        Self((0..blocks).map(|_| block()).collect())
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.len() * BLOCK
    }

    #[inline]
    fn get(&self, at: usize) -> &Bucket {
        &self.0[at / BLOCK][at % BLOCK]
    }

    fn iter(&self) -> impl Iterator<Item = &Bucket> {
        self.0.iter().flat_map(|block| &**block)
    }

    fn bytes(&self) -> usize {
        self.0.len() * (size_of::<Block>() + size_of::<Box<Block>>())
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            fingerprints: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
            shards: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The fingerprints without the mark, and the shards.
    fn ways(&self) -> impl Iterator<Item = (u64, u64)> {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let ways = self.fingerprints.iter().zip(&self.shards);
        ways.map(move |(fingerprint, shards)| (value(fingerprint) & !SPILLED, value(shards)))
    }
}

impl Part {
    fn count_more(&mut self, fingerprint: u64, bit: u8) {
        let same = |more: &More| more.fingerprint == fingerprint && more.bit == bit;
        if let Some(more) = self.more.find_mut(fingerprint, same) {
            more.count += 1;
        } else {
            let more = More { fingerprint, bit, count: 1 };
            self.more.insert_unique(fingerprint, more, |more| more.fingerprint);
        }
    }

    /// Takes one count back; false if the bit was added only once.
    fn count_less(&mut self, fingerprint: u64, bit: u8) -> bool {
        let same = |more: &More| more.fingerprint == fingerprint && more.bit == bit;
        let Ok(mut found) = self.more.find_entry(fingerprint, same) else { return false };
        found.get_mut().count -= 1;
        if found.get().count == 0 {
            found.remove();
            if self.more.len() * 4 < self.more.capacity() {
                self.more.shrink_to(self.more.len() * 2, |more| more.fingerprint);
            }
        }
        true
    }
}

/// The 63 bits that are kept, and never the value of an empty entry.
#[inline]
const fn real(fingerprint: u64) -> u64 {
    let kept = fingerprint & !SPILLED;
    if kept == EMPTY { 1 } else { kept }
}

#[inline]
const fn part_of(fingerprint: u64) -> usize {
    (fingerprint >> 55) as usize % PARTS
}

/// The bucket to start from, by the bits below those that chose the part.
#[inline]
const fn home(fingerprint: u64, buckets: usize) -> usize {
    (((fingerprint << 9) as u128 * buckets as u128) >> 64) as usize
}

#[inline]
fn find(buckets: &Buckets, fingerprint: u64) -> Option<(usize, usize)> {
    let mut at = home(fingerprint, buckets.len());
    for _ in 0..buckets.len() {
        // Pairs with the store in `insert`: the shards seen are this entry's or younger.
        let found =
            buckets.get(at).fingerprints.each_ref().map(|cell| cell.load(Ordering::Acquire));
        let spilled = found[0] & SPILLED != 0;
        // One branch for all four: which of them it is cannot be predicted.
        let hits = u32::from(found[0] & !SPILLED == fingerprint)
            | u32::from(found[1] == fingerprint) << 1
            | u32::from(found[2] == fingerprint) << 2
            | u32::from(found[3] == fingerprint) << 3;
        if hits != 0 {
            return Some((at, hits.trailing_zeros() as usize));
        }
        if !spilled {
            return None;
        }
        at = if at + 1 == buckets.len() { 0 } else { at + 1 };
    }
    None
}

/// Puts an entry that is not there yet into the first place that is free; how many buckets it
/// marked on the way.
///
/// At least a quarter of the entries is empty, so there is a place.
fn insert(buckets: &Buckets, fingerprint: u64, shards: u64) -> usize {
    let mut at = home(fingerprint, buckets.len());
    let mut marked = 0;
    loop {
        let bucket = buckets.get(at);
        if let Some(way) = bucket.ways().position(|(fingerprint, _)| fingerprint == EMPTY) {
            bucket.shards[way].store(shards, Ordering::Relaxed);
            bucket.fingerprints[way].fetch_or(fingerprint, Ordering::Release);
            return marked;
        }
        let before = bucket.fingerprints[0].fetch_or(SPILLED, Ordering::Release);
        marked += usize::from(before & SPILLED == 0);
        at = if at + 1 == buckets.len() { 0 } else { at + 1 };
    }
}

/// How many blocks suit so many entries and one more.
const fn blocks_for(live: usize) -> usize {
    ((live + 1) * 12).div_ceil(WAYS * AIM * BLOCK)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

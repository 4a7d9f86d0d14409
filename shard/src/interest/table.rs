//! Fingerprint to set of shards: open addressing on atomics, in parts that grow on their own.
//!
//! A bucket is one cache line of four entries. Readers go from the fingerprint's bucket onwards
//! until they meet the fingerprint or an empty entry. Writers of a part hold its lock; they change
//! entries in place, and when the part is too full or too empty they copy it and publish a new
//! directory. A reader keeps the directory it started with, so it may miss what was added after
//! it started and nothing else.
//!
//! A removed entry leaves a grave if its bucket is full (readers may have to go past it), else an
//! empty entry: then nobody ever went past this bucket.

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
    parts: [Arc<[Bucket]>; PARTS],
}

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
    graves: usize,
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

/// Values of `fingerprints` that are no fingerprint.
const EMPTY: u64 = 0;
const GRAVE: u64 = 1;

/// Fill levels, in twelfths of the entries: grow above the first, shrink below the last, and aim
/// at the one between. At the lowest an entry costs 30 B, at the highest 21 B.
const FULL: usize = 9;
const AIM: usize = 8;
const SPARSE: usize = 6;
/// A part of so few buckets is not shrunk.
const BUCKETS_KEPT: usize = 2;

impl Table {
    pub(super) fn new() -> Self {
        let empty: Arc<[Bucket]> = Arc::from(Vec::new());
        let directory = Directory { parts: std::array::from_fn(|_| Arc::clone(&empty)) };
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
            let shards = &buckets[at].shards[way];
            let before = shards.fetch_or(1 << bit, Ordering::Release);
            if before >> bit & 1 == 1 {
                part.count_more(fingerprint, bit);
            }
            return;
        }
        if (part.live + part.graves + 1) * 12 > buckets.len() * WAYS * FULL {
            buckets = self.rebuild(index, &mut part, &buckets);
        }
        part.graves -= usize::from(insert(&buckets, fingerprint, 1 << bit));
        part.live += 1;
    }

    /// Takes one [`Self::add`] back; false if there was none.
    pub(super) fn remove(&self, fingerprint: u64, bit: u8) -> bool {
        let fingerprint = real(fingerprint);
        let index = part_of(fingerprint);
        let mut part = lock(&self.parts[index]);
        let buckets = self.buckets(index);
        let Some((at, way)) = find(&buckets, fingerprint) else { return false };
        let bucket = &buckets[at];
        if bucket.shards[way].load(Ordering::Relaxed) >> bit & 1 == 0 {
            return false;
        }
        if part.count_less(fingerprint, bit) {
            return true;
        }
        let before = bucket.shards[way].fetch_and(!(1 << bit), Ordering::Release);
        if before == 1 << bit {
            let has_empty = bucket.ways().any(|(fingerprint, _)| fingerprint == EMPTY);
            let left = if has_empty { EMPTY } else { GRAVE };
            bucket.fingerprints[way].store(left, Ordering::Release);
            part.live -= 1;
            part.graves += usize::from(!has_empty);
            if buckets.len() > BUCKETS_KEPT && part.live * 12 < buckets.len() * WAYS * SPARSE {
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
            bytes += size_of_val::<[Bucket]>(buckets) + part.more.allocation_size();
        }
        (entries, bytes)
    }

    /// The buckets of a part whose lock is held.
    fn buckets(&self, index: usize) -> Arc<[Bucket]> {
        Arc::clone(&self.directory.load().parts[index])
    }

    /// Copies a part into as many buckets as suit it, with room for one more, and publishes it.
    fn rebuild(&self, index: usize, part: &mut Part, old: &[Bucket]) -> Arc<[Bucket]> {
        let wanted = ((part.live + 1) * 12).div_ceil(WAYS * AIM);
        let new: Arc<[Bucket]> = (0..wanted).map(|_| Bucket::new()).collect();
        for (fingerprint, shards) in old.iter().flat_map(Bucket::ways) {
            if fingerprint != EMPTY && fingerprint != GRAVE {
                insert(&new, fingerprint, shards);
            }
        }
        part.graves = 0;
        let _publishing = lock(&self.publishing);
        let mut directory = Directory::clone(&self.directory.load());
        directory.parts[index] = Arc::clone(&new);
        self.directory.store(Arc::new(directory));
        new
    }
}

impl Reader {
    /// The shards of an entry; zero if there is none.
    #[inline]
    pub(super) fn get(&self, fingerprint: u64) -> u64 {
        let fingerprint = real(fingerprint);
        let buckets = &*self.0.parts[part_of(fingerprint)];
        match find(buckets, fingerprint) {
            Some((at, way)) => buckets[at].shards[way].load(Ordering::Acquire),
            None => 0,
        }
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            fingerprints: std::array::from_fn(|_| AtomicU64::new(EMPTY)),
            shards: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn ways(&self) -> impl Iterator<Item = (u64, u64)> {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        self.fingerprints
            .iter()
            .zip(&self.shards)
            .map(move |(left, right)| (value(left), value(right)))
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

/// Moves the fingerprints that mean something else out of the way.
#[inline]
const fn real(fingerprint: u64) -> u64 {
    if fingerprint <= GRAVE { fingerprint + 2 } else { fingerprint }
}

#[inline]
const fn part_of(fingerprint: u64) -> usize {
    (fingerprint >> 56) as usize
}

/// The bucket to start from, by the bits below those that chose the part.
#[inline]
const fn home(fingerprint: u64, buckets: usize) -> usize {
    (((fingerprint << 8) as u128 * buckets as u128) >> 64) as usize
}

#[inline]
fn find(buckets: &[Bucket], fingerprint: u64) -> Option<(usize, usize)> {
    let mut at = home(fingerprint, buckets.len());
    for _ in 0..buckets.len() {
        let bucket = &buckets[at];
        let mut ended = false;
        for way in 0..WAYS {
            // Pairs with the store in `insert`: the shards seen are this entry's or younger.
            let found = bucket.fingerprints[way].load(Ordering::Acquire);
            if found == fingerprint {
                return Some((at, way));
            }
            ended |= found == EMPTY;
        }
        if ended {
            return None;
        }
        at = if at + 1 == buckets.len() { 0 } else { at + 1 };
    }
    None
}

/// Puts an entry that is not there yet into the first place that is free; true for a grave.
///
/// At least a quarter of the entries is empty, so there is a place.
fn insert(buckets: &[Bucket], fingerprint: u64, shards: u64) -> bool {
    let mut at = home(fingerprint, buckets.len());
    loop {
        let bucket = &buckets[at];
        for way in 0..WAYS {
            let found = bucket.fingerprints[way].load(Ordering::Relaxed);
            if found == EMPTY || found == GRAVE {
                bucket.shards[way].store(shards, Ordering::Relaxed);
                bucket.fingerprints[way].store(fingerprint, Ordering::Release);
                return found == GRAVE;
            }
        }
        at = if at + 1 == buckets.len() { 0 } else { at + 1 };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

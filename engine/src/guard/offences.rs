//! How often somebody has done something lately.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by hash, so that a long name takes no more room than a short one.
///
/// *Bounds*: [`ENTRIES_MAX`] of 16 bytes in each of 64 parts. Where a part is full those whose time is over are
/// forgotten, and if there are none all are.
#[derive(Debug)]
pub(super) struct Offences<K> {
    parts: Box<[Mutex<HashMap<u64, Count>>]>,
    hasher: RandomState,
    of: PhantomData<fn(&K)>,
}

/// How many since when.
#[derive(Debug, Clone, Copy)]
struct Count {
    since_s: u32,
    count: u32,
}

const PARTS: usize = 64;
const ENTRIES_MAX: usize = 1024;

impl<K> Default for Offences<K> {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { parts, hasher: RandomState::new(), of: PhantomData }
    }
}

impl<K: Hash> Offences<K> {
    fn part(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Count>> {
        self.parts[hash as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more. True if that are more than so many within so many seconds; then they begin anew.
    pub(super) fn is_too_often(&self, key: &K, (most, within_s): (u32, u32), now_ms: u64) -> bool {
        let now_s = u32::try_from(now_ms / 1000).unwrap_or(u32::MAX);
        let hash = self.hasher.hash_one(key);
        let mut part = self.part(hash);
        if part.len() >= ENTRIES_MAX && !part.contains_key(&hash) {
            part.retain(|_, count| now_s.saturating_sub(count.since_s) < within_s);
            if part.len() >= ENTRIES_MAX {
                part.clear();
            }
        }
        let count = part.entry(hash).or_insert(Count { since_s: now_s, count: 0 });
        // Another shard may be a little ahead.
        if now_s.saturating_sub(count.since_s) >= within_s {
            *count = Count { since_s: now_s, count: 0 };
        }
        count.count += 1;
        let is_too_often = count.count > most;
        if is_too_often {
            part.remove(&hash);
        }
        is_too_often
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().map_or(0, |part| part.len())).sum()
    }
}

//! Which session a client identifier has.

use hashbrown::HashTable;

/// Positions of sessions by the keyed hash of their client identifier.
///
/// *Bounds*: 5 to 12 B per session. It grows part by part, so that no single growth takes long.
#[derive(Debug)]
pub(crate) struct ByClient {
    parts: Box<[HashTable<u32>; PARTS]>,
}

const PARTS: usize = 64;

impl Default for ByClient {
    fn default() -> Self {
        Self { parts: Box::new(std::array::from_fn(|_| HashTable::new())) }
    }
}

impl ByClient {
    /// The position with this hash that `same` accepts.
    pub(crate) fn find(&self, hash: u64, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[part_of(hash)].find(hash, |&index| same(index)).copied()
    }

    /// Adds a position that is not there; `hash_of` gives the hash of any that is.
    pub(crate) fn insert(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        self.parts[part_of(hash)].insert_unique(hash, index, |&index| hash_of(index));
    }

    /// Takes a position out.
    pub(crate) fn remove(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        let part = &mut self.parts[part_of(hash)];
        if let Ok(entry) = part.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        if part.len() * 4 < part.capacity() {
            part.shrink_to(part.len() * 2, |&index| hash_of(index));
        }
    }
}

/// By bits that the table itself uses neither for its slot nor for its tag.
#[inline]
const fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

//! Masks: which levels of a filter are wildcards, how long it is, and whether it ends in `#`.
//!
//! Filters of one mask that match a topic all have the same literal levels, so one probe with the
//! topic's own levels finds them. [`MaskTable`] holds the masks in use for readers on any thread;
//! [`MaskRegistry`] counts the filters of each mask and decides, within fixed bounds, which masks
//! are probed. A mask is either probed or not for as long as any filter has it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;

use crate::level_hash::{HashKey, LEVELS_KEPT, TopicLevels};

/// The wildcards of a filter of at most [`LEVELS_KEPT`] levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// Bit i: level i is `+`.
    plus: u64,
    /// Twice the number of levels, a `#` not counted, and one more if a `#` follows.
    extent: u16,
}

/// What a filter looks like to a matcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// No wildcard, any number of levels.
    Exact,
    /// Wildcards, and a mask that holds them all.
    Masked(Mask),
    /// Wildcards and too many levels; the mask holds the first ones and says `#` for the rest.
    Deep(Mask),
}

/// How many masks without `#` are probed per number of levels.
const PLAIN_PER_ROW: usize = 16;
/// How many masks with `#` can be probed; the first [`FIXED_TAILS`] belong to fixed masks.
const TAILS: usize = 64;
/// The masks `literal levels/#` and `one literal level after +, then #`, for short ones.
const FIXED_TAILS: usize = FIXED_PREFIXES + FIXED_SINGLES;
const FIXED_PREFIXES: usize = 16;
const FIXED_SINGLES: usize = 15;

impl Shape {
    /// Reads the wildcards of a filter.
    #[must_use]
    pub fn of(filter: &[u8]) -> Self {
        let (mut plus_levels, mut len, mut tail) = (0, 0, false);
        let (mut wild, mut deep) = (false, false);
        for (position, level) in filter.split(|&byte| byte == b'/').enumerate() {
            let plus = level == b"+";
            if level == b"#" {
                tail = true;
            } else if position < LEVELS_KEPT {
                plus_levels |= u64::from(plus) << position;
                len = position + 1;
            } else {
                deep = true;
            }
            wild |= plus || tail;
        }
        let mask = Mask::new(plus_levels, len, tail || deep);
        match (wild, deep) {
            (false, _) => Self::Exact,
            (true, false) => Self::Masked(mask),
            (true, true) => Self::Deep(mask),
        }
    }
}

impl Mask {
    #[inline]
    const fn new(plus: u64, len: usize, tail: bool) -> Self {
        Self { plus, extent: (len as u16) << 1 | tail as u16 }
    }

    /// How many levels, a `#` not counted.
    #[inline]
    const fn len(&self) -> usize {
        (self.extent >> 1) as usize
    }

    /// Whether a `#` follows.
    #[inline]
    const fn has_tail(&self) -> bool {
        self.extent & 1 == 1
    }

    fn salt(&self, key: &HashKey) -> u64 {
        key.salt(self.plus, self.extent)
    }

    /// Whether it begins with a wildcard.
    #[inline]
    pub(crate) const fn is_leading(&self) -> bool {
        self.plus & 1 == 1 || self.len() == 0
    }

    /// Its literal levels, a bit for each.
    pub(crate) const fn literals(&self) -> u64 {
        !self.plus & first_bits(self.len())
    }

    /// The fingerprint of a filter of this mask, from the levels of its own text.
    #[must_use]
    pub fn fingerprint_of(&self, key: &HashKey, levels: &TopicLevels) -> u64 {
        without(self.plus, levels.prefix(self.len()), levels).wrapping_add(self.salt(key))
    }

    /// Whether `filter` is spelled exactly as the topic with this mask's wildcards put in.
    ///
    /// *Cost*: one comparison of bytes per run of literal levels.
    #[inline(always)]
    #[must_use]
    pub fn spells(&self, filter: &[u8], topic: &[u8], levels: &TopicLevels) -> bool {
        let (mut rest, mut level, len) = (filter, 0, self.len());
        if self.plus == 0 && self.has_tail() && len > 0 {
            let Some((prefix, b"/#")) = filter.split_last_chunk() else { return false };
            return topic.get(..levels.end(len - 1)) == Some(prefix);
        }
        while level < len {
            let literals = ((self.plus >> level).trailing_zeros() as usize).min(len - level);
            let behind = match literals {
                0 => rest.strip_prefix(b"+"),
                _ => {
                    let run = levels.start(level)..levels.end(level + literals - 1);
                    topic.get(run).and_then(|run| rest.strip_prefix(run))
                }
            };
            let Some(behind) = behind else { return false };
            rest = behind;
            level += literals.max(1);
            if level < len || self.has_tail() {
                let [b'/', behind @ ..] = rest else { return false };
                rest = behind;
            }
        }
        if self.has_tail() { rest == b"#" } else { rest.is_empty() }
    }

    /// A mask that is always probed and matches whatever this one matches.
    #[must_use]
    pub fn coarse(&self) -> Self {
        let literals = (self.plus.trailing_zeros() as usize).min(self.len());
        let pluses = self.plus.trailing_ones() as usize;
        if literals > 0 {
            Self::new(0, literals.min(FIXED_PREFIXES - 1), true)
        } else if pluses < self.len() && pluses <= FIXED_SINGLES {
            Self::new((1 << pluses) - 1, pluses + 1, true)
        } else {
            Self::new(0, 0, true)
        }
    }

    /// The slot that belongs to this mask alone, if it is one of the fixed ones.
    fn fixed_slot(&self) -> Option<usize> {
        let len = self.len();
        if !self.has_tail() {
            None
        } else if self.plus == 0 {
            (len < FIXED_PREFIXES).then_some(len)
        } else {
            let single = len >= 2 && len - 1 <= FIXED_SINGLES && self.plus == (1 << (len - 1)) - 1;
            single.then(|| FIXED_PREFIXES + len - 2)
        }
    }
}

/// The lowest bits of a word, as many as `len`, which is at most 64.
#[inline]
const fn first_bits(len: usize) -> u64 {
    match len {
        0 => 0,
        _ => u64::MAX >> (64 - len),
    }
}

/// A sum of levels without those that are wildcards.
#[inline]
fn without(plus: u64, sum: u64, levels: &TopicLevels) -> u64 {
    let (mut plus, mut sum) = (plus, sum);
    while plus != 0 {
        sum = sum.wrapping_sub(levels.level(plus.trailing_zeros() as usize));
        plus &= plus - 1;
    }
    sum
}

/// The masks in use, as readers see them.
///
/// *Bounds*: a topic is probed with at most 16 masks without `#` and 64 with it.
#[derive(Debug)]
pub struct MaskTable {
    /// Masks without `#`, by number of levels.
    plain: Box<[Row; LEVELS_KEPT + 1]>,
    /// For each number of levels the masks with `#` that are not longer, one bit each.
    fitting: [AtomicU64; LEVELS_KEPT + 1],
    /// Those of them that begin with a wildcard.
    leading: AtomicU64,
    tails: [Slot; TAILS],
}

#[derive(Debug, Default)]
struct Row {
    used: AtomicU64,
    leading: AtomicU64,
    /// The levels that are literal in all masks in use, and perhaps less.
    literal: AtomicU64,
    slots: [Slot; PLAIN_PER_ROW],
}

#[derive(Debug, Default)]
struct Slot {
    plus: AtomicU64,
    salt: AtomicU64,
    /// The first two levels that are `+`; [`LEVELS_KEPT`] for none.
    first: AtomicU32,
    second: AtomicU32,
    /// How many more there are.
    more: AtomicU32,
    len: AtomicU32,
}

impl MaskTable {
    /// What it holds beside its own size.
    pub(crate) const HEAP_BYTES: usize = size_of::<[Row; LEVELS_KEPT + 1]>();

    /// No mask in use.
    #[must_use]
    pub fn new() -> Self {
        Self {
            plain: Box::new(std::array::from_fn(|_| Row::default())),
            fitting: std::array::from_fn(|_| AtomicU64::new(0)),
            leading: AtomicU64::new(0),
            tails: std::array::from_fn(|_| Slot::default()),
        }
    }

    /// Calls `probe` with each mask in use that fits the topic, and the fingerprint to look for.
    ///
    /// A mask with a leading wildcard does not fit a `$` topic ([MQTT5-4.7.2-1]).
    ///
    /// *Cost*: about 15 instructions per mask and 3 per `+` in it.
    #[inline]
    pub fn probes(&self, levels: &TopicLevels, probe: impl FnMut(Mask, u64)) {
        self.probes_without(0, levels, probe);
    }

    /// The same without the masks that have a level literal which `absent` has a bit for.
    ///
    /// *Cost*: about 10 instructions for a mask that is left out.
    #[inline(always)]
    pub(crate) fn probes_without(
        &self,
        absent: u64,
        levels: &TopicLevels,
        mut probe: impl FnMut(Mask, u64),
    ) {
        let count = levels.count();
        if let Some(row) = self.plain.get(count) {
            let mut used = row.used.load(Ordering::Acquire);
            if levels.is_system() {
                used &= !row.leading.load(Ordering::Relaxed);
            }
            if row.literal.load(Ordering::Relaxed) & absent != 0 {
                used = 0;
            }
            while used != 0 {
                let slot = &row.slots[used.trailing_zeros() as usize % PLAIN_PER_ROW];
                used &= used - 1;
                let plus = slot.plus.load(Ordering::Relaxed);
                if !plus & absent & first_bits(count) != 0 {
                    continue;
                }
                let mask = Mask::new(plus, count, false);
                probe(mask, slot.without(levels.whole(), levels));
            }
        }
        let most = count.min(LEVELS_KEPT);
        let mut used = self.fitting[most].load(Ordering::Acquire);
        if levels.is_system() {
            used &= !self.leading.load(Ordering::Relaxed);
        }
        while used != 0 {
            let index = used.trailing_zeros() as usize;
            used &= used - 1;
            let slot = &self.tails[index];
            let len = slot.len.load(Ordering::Relaxed) as usize;
            // A slot that another thread re-uses just now may hold a longer mask.
            if len <= most {
                let plus = slot.plus.load(Ordering::Relaxed);
                if !plus & absent & first_bits(len) != 0 {
                    continue;
                }
                let mask = Mask::new(plus, len, true);
                probe(mask, slot.without(levels.prefix(len), levels));
            }
        }
    }

    /// How many masks are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        let tails = self.fitting[LEVELS_KEPT].load(Ordering::Relaxed).count_ones();
        let plain: u32 =
            self.plain.iter().map(|row| row.used.load(Ordering::Relaxed).count_ones()).sum();
        (tails + plain) as usize
    }

    /// True if no mask is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a mask to use, in its own slot or the first free one; `None` if there is none.
    fn publish(&self, key: &HashKey, mask: &Mask) -> Option<usize> {
        let len = mask.len();
        let leading = |slot: usize| u64::from(mask.is_leading()) << slot;
        if !mask.has_tail() {
            let row = &self.plain[len];
            let used = row.used.load(Ordering::Relaxed);
            let free = used.trailing_ones() as usize;
            row.slots.get(free)?.set(key, mask);
            row.literal.store(row.literals(used | 1 << free, len), Ordering::Relaxed);
            row.leading.fetch_and(!(1 << free), Ordering::Relaxed);
            row.leading.fetch_or(leading(free), Ordering::Relaxed);
            row.used.store(used | 1 << free, Ordering::Release);
            return Some(free);
        }
        let used = self.fitting[LEVELS_KEPT].load(Ordering::Relaxed);
        let slot = match mask.fixed_slot() {
            Some(slot) => slot,
            None => (used | ((1 << FIXED_TAILS) - 1)).trailing_ones() as usize,
        };
        self.tails.get(slot)?.set(key, mask);
        self.leading.fetch_and(!(1 << slot), Ordering::Relaxed);
        self.leading.fetch_or(leading(slot), Ordering::Relaxed);
        for fitting in &self.fitting[len..] {
            fitting.fetch_or(1 << slot, Ordering::Release);
        }
        Some(slot)
    }

    /// Takes a mask out of use.
    fn withdraw(&self, mask: &Mask, slot: usize) {
        let keep = !(1 << slot);
        if mask.has_tail() {
            for fitting in &self.fitting[mask.len()..] {
                fitting.fetch_and(keep, Ordering::Release);
            }
        } else {
            let row = &self.plain[mask.len()];
            let used = row.used.fetch_and(keep, Ordering::Release) & keep;
            row.literal.store(row.literals(used, mask.len()), Ordering::Relaxed);
        }
    }
}

impl Default for MaskTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Row {
    /// The levels that are literal in all masks of these slots.
    fn literals(&self, used: u64, len: usize) -> u64 {
        let slots = self.slots.iter().enumerate().filter(|(slot, _)| used >> slot & 1 == 1);
        slots.fold(first_bits(len), |all, (_, slot)| all & !slot.plus.load(Ordering::Relaxed))
    }
}

impl Slot {
    fn set(&self, key: &HashKey, mask: &Mask) {
        let mut rest = mask.plus;
        let mut next = || {
            let level = (rest.trailing_zeros() as usize).min(LEVELS_KEPT);
            rest &= rest.wrapping_sub(1);
            level as u32
        };
        self.first.store(next(), Ordering::Relaxed);
        self.second.store(next(), Ordering::Relaxed);
        self.more.store(rest.count_ones(), Ordering::Relaxed);
        self.len.store(mask.len() as u32, Ordering::Relaxed);
        self.plus.store(mask.plus, Ordering::Relaxed);
        self.salt.store(mask.salt(key), Ordering::Relaxed);
    }

    /// The fingerprint that all filters of this mask share which match a topic, from the sum of as many
    /// of its levels.
    #[inline]
    fn without(&self, sum: u64, levels: &TopicLevels) -> u64 {
        let first = levels.level(self.first.load(Ordering::Relaxed) as usize);
        let second = levels.level(self.second.load(Ordering::Relaxed) as usize);
        let salt = self.salt.load(Ordering::Relaxed);
        let sum = sum.wrapping_add(salt).wrapping_sub(first).wrapping_sub(second);
        if self.more.load(Ordering::Relaxed) == 0 {
            return sum;
        }
        let plus = self.plus.load(Ordering::Relaxed);
        let plus = plus & plus.wrapping_sub(1);
        without(plus & plus.wrapping_sub(1), sum, levels)
    }
}

/// How many filters have each mask, and which masks are probed.
#[derive(Debug, Default)]
pub struct MaskRegistry {
    masks: HashTable<Use>,
}

#[derive(Debug)]
struct Use {
    mask: Mask,
    /// Where it is probed from; `None`: it came when there was no room.
    slot: Option<u8>,
    filters: u32,
}

impl MaskRegistry {
    /// Counts one more filter of the mask; true if the mask is probed.
    pub fn acquire(&mut self, table: &MaskTable, key: &HashKey, mask: &Mask) -> bool {
        let hash = |mask: &Mask| mask.salt(key);
        if let Some(found) = self.masks.find_mut(hash(mask), |entry| entry.mask == *mask) {
            found.filters += 1;
            return found.slot.is_some();
        }
        let slot = table.publish(key, mask).map(|slot| slot as u8);
        let entry = Use { mask: *mask, slot, filters: 1 };
        self.masks.insert_unique(hash(mask), entry, |entry| hash(&entry.mask));
        slot.is_some()
    }

    /// Whether the filters of this mask are found by probing.
    #[must_use]
    pub fn is_probed(&self, key: &HashKey, mask: &Mask) -> bool {
        self.masks
            .find(mask.salt(key), |entry| entry.mask == *mask)
            .is_some_and(|entry| entry.slot.is_some())
    }

    /// Counts one filter of the mask less; true if the mask was probed.
    ///
    /// A mask that no filter has leaves its slot to the next one.
    pub fn release(&mut self, table: &MaskTable, key: &HashKey, mask: &Mask) -> bool {
        let hash = |mask: &Mask| mask.salt(key);
        let Ok(mut found) = self.masks.find_entry(hash(mask), |entry| entry.mask == *mask) else {
            return false;
        };
        let entry = found.get_mut();
        entry.filters -= 1;
        let slot = entry.slot;
        if entry.filters == 0 {
            found.remove();
            if let Some(slot) = slot {
                table.withdraw(mask, usize::from(slot));
            }
            if self.masks.len() * 4 < self.masks.capacity() {
                self.masks.shrink_to(self.masks.len() * 2, |entry| hash(&entry.mask));
            }
        }
        slot.is_some()
    }

    /// True if no filter is counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.masks.is_empty()
    }

    /// Bytes of memory behind the registry.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.masks.allocation_size()
    }
}

#[cfg(test)]
mod tests;

//! Masks: which levels of a filter are wildcards, how long it is, and whether it ends in `#`.
//!
//! Filters of one mask that match a topic all have the same literal levels, so one probe with the
//! topic's own levels finds them. [`MaskTable`] holds the masks in use for readers on any thread;
//! [`MaskRegistry`] counts the filters of each mask and decides, within fixed bounds, which masks
//! are probed. A mask is either probed or not for as long as any filter has it.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;

use crate::level_hash::{HashKey, LEVELS_KEPT, TopicLevels};

/// The wildcards of a filter of at most [`LEVELS_KEPT`] levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// Bit i: level i is `+`.
    plus: u64,
    /// How many levels, a `#` not counted.
    len: u8,
    /// Whether a `#` follows.
    tail: bool,
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
        let mut mask = Mask { plus: 0, len: 0, tail: false };
        let (mut wild, mut deep) = (false, false);
        for (position, level) in filter.split(|&byte| byte == b'/').enumerate() {
            let plus = level == b"+";
            if level == b"#" {
                mask.tail = true;
            } else if position < LEVELS_KEPT {
                mask.plus |= u64::from(plus) << position;
                mask.len = position as u8 + 1;
            } else {
                deep = true;
            }
            wild |= plus || mask.tail;
        }
        match (wild, deep) {
            (false, _) => Self::Exact,
            (true, false) => Self::Masked(mask),
            (true, true) => Self::Deep(Mask { tail: true, ..mask }),
        }
    }
}

impl Mask {
    /// The fingerprint that all filters of this mask share which match the topic of `levels`.
    #[inline]
    fn fingerprint(plus: u64, len: usize, salt: u64, levels: &TopicLevels) -> u64 {
        let mut sum = salt.wrapping_add(levels.prefix(len));
        let mut rest = plus;
        while rest != 0 {
            sum = sum.wrapping_sub(levels.level(rest.trailing_zeros() as usize));
            rest &= rest - 1;
        }
        sum
    }

    /// The sum over the levels that are literal under this mask, of a text that is long enough.
    pub(crate) fn literals(&self, levels: &TopicLevels) -> u64 {
        Self::fingerprint(self.plus, usize::from(self.len), 0, levels)
    }

    /// Whether a filter of this mask with this sum of literal levels is likely to match.
    ///
    /// Never false for one that does. True for another one only by a collision of hashes, or if
    /// the mask stands for the first levels of a longer filter.
    pub(crate) fn may_match(&self, literals: u64, levels: &TopicLevels) -> bool {
        let (len, count) = (usize::from(self.len), levels.count());
        let long_enough = if self.tail { len <= count } else { len == count };
        long_enough && self.literals(levels) == literals
    }

    /// The fingerprint of a filter of this mask, from the levels of its own text.
    #[must_use]
    pub fn fingerprint_of(&self, key: &HashKey, levels: &TopicLevels) -> u64 {
        let salt = key.salt(self.plus, self.len, self.tail);
        Self::fingerprint(self.plus, usize::from(self.len), salt, levels)
    }

    /// Whether `filter` is spelled exactly as the topic with this mask's wildcards put in.
    ///
    /// *Cost*: one comparison of bytes per run of literal levels.
    #[must_use]
    pub fn spells(&self, filter: &[u8], topic: &[u8], levels: &TopicLevels) -> bool {
        self.spelled(filter, topic, levels).is_some()
    }

    #[inline]
    fn spelled(&self, filter: &[u8], topic: &[u8], levels: &TopicLevels) -> Option<()> {
        let (mut filter, mut from, mut plus) = (filter, 0, self.plus);
        while plus != 0 {
            let position = plus.trailing_zeros() as usize;
            plus &= plus - 1;
            filter = filter.strip_prefix(topic.get(from..levels.start(position))?)?;
            filter = filter.strip_prefix(b"+")?;
            from = levels.end(position);
        }
        let len = usize::from(self.len);
        let to = if len == 0 { 0 } else { levels.end(len - 1) };
        filter = filter.strip_prefix(topic.get(from..to)?)?;
        let tail: &[u8] = match (self.tail, len) {
            (false, _) => b"",
            (true, 0) => b"#",
            (true, _) => b"/#",
        };
        (filter == tail).then_some(())
    }

    /// A mask that is always probed and matches whatever this one matches.
    #[must_use]
    pub fn coarse(&self) -> Self {
        let literals = (self.plus.trailing_zeros() as u8).min(self.len);
        let pluses = self.plus.trailing_ones() as u8;
        if literals > 0 {
            let len = literals.min(FIXED_PREFIXES as u8 - 1);
            Self { plus: 0, len, tail: true }
        } else if pluses < self.len && usize::from(pluses) <= FIXED_SINGLES {
            Self { plus: (1 << pluses) - 1, len: pluses + 1, tail: true }
        } else {
            Self { plus: 0, len: 0, tail: true }
        }
    }

    /// The slot that belongs to this mask alone, if it is one of the fixed ones.
    fn fixed_slot(&self) -> Option<usize> {
        let len = usize::from(self.len);
        if !self.tail {
            None
        } else if self.plus == 0 {
            (len < FIXED_PREFIXES).then_some(len)
        } else {
            let single = len >= 2 && len - 1 <= FIXED_SINGLES && self.plus == (1 << (len - 1)) - 1;
            single.then(|| FIXED_PREFIXES + len - 2)
        }
    }
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
    tails: [Slot; TAILS],
}

#[derive(Debug, Default)]
struct Row {
    used: AtomicU64,
    slots: [PlainSlot; PLAIN_PER_ROW],
}

#[derive(Debug, Default)]
struct PlainSlot {
    plus: AtomicU64,
    salt: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    plus: AtomicU64,
    salt: AtomicU64,
    len: AtomicU64,
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
            tails: std::array::from_fn(|_| Slot::default()),
        }
    }

    /// Calls `probe` with each mask in use that fits the topic, and the fingerprint to look for.
    ///
    /// A mask with a leading wildcard does not fit a `$` topic ([MQTT5-4.7.2-1]).
    ///
    /// *Cost*: about 15 instructions per mask and 3 per `+` in it.
    #[inline]
    pub fn probes(&self, levels: &TopicLevels, mut probe: impl FnMut(Mask, u64)) {
        let count = levels.count();
        let system = levels.is_system();
        if let Some(row) = self.plain.get(count) {
            row.probes(levels, count, system, &mut probe);
        }
        let mut used = self.fitting[count.min(LEVELS_KEPT)].load(Ordering::Acquire);
        while used != 0 {
            let slot = &self.tails[used.trailing_zeros() as usize];
            used &= used - 1;
            let (plus, len) = (slot.plus.load(Ordering::Relaxed), slot.len());
            // A slot that another thread re-uses just now may hold a longer mask.
            if (system && (plus & 1 != 0 || len == 0)) || len > count {
                continue;
            }
            let salt = slot.salt.load(Ordering::Relaxed);
            let mask = Mask { plus, len: len as u8, tail: true };
            probe(mask, Mask::fingerprint(plus, len, salt, levels));
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
        let salt = key.salt(mask.plus, mask.len, mask.tail);
        let len = usize::from(mask.len);
        if !mask.tail {
            let row = &self.plain[len];
            let used = row.used.load(Ordering::Relaxed);
            let free = used.trailing_ones() as usize;
            let slot = row.slots.get(free)?;
            slot.plus.store(mask.plus, Ordering::Relaxed);
            slot.salt.store(salt, Ordering::Relaxed);
            row.used.store(used | 1 << free, Ordering::Release);
            return Some(free);
        }
        let used = self.fitting[LEVELS_KEPT].load(Ordering::Relaxed);
        let slot = match mask.fixed_slot() {
            Some(slot) => slot,
            None => (used | ((1 << FIXED_TAILS) - 1)).trailing_ones() as usize,
        };
        self.tails.get(slot)?.set(mask, salt);
        for fitting in &self.fitting[len..] {
            fitting.fetch_or(1 << slot, Ordering::Release);
        }
        Some(slot)
    }

    /// Takes a mask out of use.
    fn withdraw(&self, mask: &Mask, slot: usize) {
        let keep = !(1 << slot);
        if mask.tail {
            for fitting in &self.fitting[usize::from(mask.len)..] {
                fitting.fetch_and(keep, Ordering::Release);
            }
        } else {
            self.plain[usize::from(mask.len)].used.fetch_and(keep, Ordering::Release);
        }
    }
}

impl Default for MaskTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Row {
    #[inline]
    fn probes(
        &self,
        levels: &TopicLevels,
        count: usize,
        system: bool,
        probe: &mut impl FnMut(Mask, u64),
    ) {
        let mut used = self.used.load(Ordering::Acquire);
        while used != 0 {
            let slot = &self.slots[used.trailing_zeros() as usize];
            used &= used - 1;
            let plus = slot.plus.load(Ordering::Relaxed);
            if system && plus & 1 != 0 {
                continue;
            }
            let salt = slot.salt.load(Ordering::Relaxed);
            let mask = Mask { plus, len: count as u8, tail: false };
            probe(mask, Mask::fingerprint(plus, count, salt, levels));
        }
    }
}

impl Slot {
    fn set(&self, mask: &Mask, salt: u64) {
        self.plus.store(mask.plus, Ordering::Relaxed);
        self.len.store(u64::from(mask.len), Ordering::Relaxed);
        self.salt.store(salt, Ordering::Relaxed);
    }

    #[inline]
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
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
        let hash = |mask: &Mask| key.salt(mask.plus, mask.len, mask.tail);
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
        let hash = key.salt(mask.plus, mask.len, mask.tail);
        self.masks.find(hash, |entry| entry.mask == *mask).is_some_and(|entry| entry.slot.is_some())
    }

    /// Counts one filter of the mask less; true if the mask was probed.
    ///
    /// A mask that no filter has leaves its slot to the next one.
    pub fn release(&mut self, table: &MaskTable, key: &HashKey, mask: &Mask) -> bool {
        let hash = |mask: &Mask| key.salt(mask.plus, mask.len, mask.tail);
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

    /// Bytes of memory behind the registry.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.masks.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey::new([5, 6]);

    fn masked(filter: &str) -> Mask {
        match Shape::of(filter.as_bytes()) {
            Shape::Masked(mask) => mask,
            other => panic!("{filter} has the shape {other:?}"),
        }
    }

    fn probed(table: &MaskTable, topic: &str) -> Vec<Mask> {
        let mut masks = Vec::new();
        table.probes(&TopicLevels::of(&KEY, topic.as_bytes()), |mask, _| masks.push(mask));
        masks
    }

    #[test]
    fn shape_tells_exact_masked_and_deep_filters_apart() {
        assert_eq!(Shape::of(b"a/b"), Shape::Exact);
        assert_eq!(Shape::of("/".repeat(70).as_bytes()), Shape::Exact);
        assert_eq!(masked("#"), Mask { plus: 0, len: 0, tail: true });
        assert_eq!(masked("+/a/+"), Mask { plus: 0b101, len: 3, tail: false });
        assert_eq!(masked("/+/#"), Mask { plus: 0b10, len: 2, tail: true });
        let deep = format!("{}+", "a/".repeat(LEVELS_KEPT));
        let whole = Mask { plus: 0, len: LEVELS_KEPT as u8, tail: true };
        assert_eq!(Shape::of(deep.as_bytes()), Shape::Deep(whole));
        assert_eq!(masked(&format!("{}#", "a/".repeat(LEVELS_KEPT))), whole);
    }

    #[test]
    fn coarse_masks_have_fixed_slots() {
        for (filter, coarse) in [
            ("a/b/+/c/+", "a/b/#"),
            ("+/+/c/+/d", "+/+/c/#"),
            ("+/+/+", "#"),
            ("a/+", "a/#"),
            ("+/#", "#"),
        ] {
            assert_eq!(masked(filter).coarse(), masked(coarse), "{filter}");
        }
        let long = format!("{}+", "a/".repeat(40));
        assert_eq!(usize::from(masked(&long).coarse().len), FIXED_PREFIXES - 1);
        let late = format!("{}a", "+/".repeat(40));
        assert_eq!(masked(&late).coarse(), masked("#"));
        let mut slots = std::collections::HashSet::new();
        for filter in 0..FIXED_PREFIXES {
            assert!(slots.insert(masked(&format!("{}#", "a/".repeat(filter))).fixed_slot()));
        }
        for filter in 1..=FIXED_SINGLES {
            assert!(slots.insert(masked(&format!("{}a/#", "+/".repeat(filter))).fixed_slot()));
        }
        assert_eq!(slots.len(), FIXED_TAILS);
        assert!(!slots.contains(&None));
        assert!(slots.iter().flatten().all(|&slot| slot < FIXED_TAILS));
        assert_eq!(masked("+/+/#").fixed_slot(), None);
    }

    /// [MQTT5-4.7.2-1], [MQTT311-4.7.2-1]
    #[test]
    fn leading_wildcards_are_not_probed_for_system_topics() {
        let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
        for filter in ["#", "+/a", "+/#", "$SYS/#", "$SYS/+"] {
            assert!(registry.acquire(&table, &KEY, &masked(filter)));
        }
        assert_eq!(probed(&table, "$SYS/a"), [masked("$SYS/+"), masked("$SYS/#")]);
        assert_eq!(probed(&table, "x/a").len(), 5);
    }

    #[test]
    fn masks_beyond_the_bound_are_not_probed_and_slots_are_used_again() {
        let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
        let filters: Vec<Mask> = (1..64_u32)
            .map(|bits| {
                let levels: Vec<_> =
                    (0..6).map(|bit| if bits >> bit & 1 == 1 { "+" } else { "x" }).collect();
                masked(&levels.join("/"))
            })
            .collect();
        let probed_of = |registry: &mut MaskRegistry| {
            filters.iter().filter(|mask| registry.acquire(&table, &KEY, mask)).count()
        };
        assert_eq!(probed_of(&mut registry), PLAIN_PER_ROW);
        assert_eq!(probed(&table, "a/b/c/d/e/f").len(), PLAIN_PER_ROW);
        assert_eq!(probed(&table, "a/b/c/d/e").len(), 0);
        for (index, mask) in filters.iter().enumerate() {
            assert_eq!(registry.release(&table, &KEY, mask), index < PLAIN_PER_ROW);
        }
        assert!(table.is_empty());
        // The same masks in another order: those that come first are probed now.
        assert!(registry.acquire(&table, &KEY, &filters[40]));
        assert!(registry.is_probed(&KEY, &filters[40]));
    }

    #[test]
    fn masks_with_a_tail_fit_topics_that_are_not_shorter() {
        let (table, mut registry) = (MaskTable::new(), MaskRegistry::default());
        for filter in ["a/b/#", "+/+/+/#", "#"] {
            registry.acquire(&table, &KEY, &masked(filter));
        }
        assert_eq!(probed(&table, "a").len(), 1);
        assert_eq!(probed(&table, "a/b").len(), 2);
        assert_eq!(probed(&table, "a/b/c").len(), 3);
        assert_eq!(probed(&table, &"a/".repeat(100)).len(), 3);
        assert_eq!(table.len(), 3);
    }
}

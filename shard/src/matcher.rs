//! Which filters of this shard match a topic, exactly.
//!
//! A filter lives in one of two places. One without wildcards, or with a mask that is probed, is
//! in a table from fingerprint to filter: a topic looks once for its own text and once per mask
//! that fits. All others are in a [`Trie`], but for `#`, for which nobody has to look. Whatever a
//! hash finds is compared with the filter's text, so hashes decide the cost and never the answer.

mod edges;
mod many;
#[cfg(test)]
mod tests;
mod texts;
mod trie;

use petrel_proto::TopicFilter;

use crate::buckets::{self, Bucket, Buckets, CHECK, Density, Fill, First, Key, PARTS};
use crate::level_hash::{HashKey, KnownLevels, TopicLevels};
use crate::mask::{Mask, MaskRegistry, MaskTable, Shape};
use texts::Texts;
use trie::Trie;
pub(crate) use trie::matches as filter_matches;

/// A distinct filter of one [`Matcher`]; ids are small and used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// The distinct filters of one shard.
///
/// *Bounds*: 2^32 filters; about 17 B each beyond the text.
#[derive(Debug)]
pub struct Matcher {
    key: HashKey,
    texts: Texts,
    /// Filters without wildcards.
    exact: Parts,
    /// Those with a mask that is probed, apart: they are fewer and are looked for more often.
    masked: Parts,
    masks: MaskTable,
    registry: MaskRegistry,
    /// The literal levels of all filters with wildcards.
    literals: Box<KnownLevels>,
    trie: Trie,
    /// The filter `#`, which needs no look.
    all: Option<FilterId>,
}

/// One part of the table, which grows on its own, so that no single growth takes long.
///
/// An entry is the check of a fingerprint, [`USED`] and the id of the filter behind it.
#[derive(Debug, Default)]
struct Part {
    buckets: Box<[Bucket]>,
    fill: Fill,
}

const EXACT: Density = Density { full: 12, aim: 11, sparse: 8 };
/// Of nine looks one finds something, so those that find nothing must be cheap.
const MASKED: Density = Density { full: 10, aim: 9, sparse: 6 };

/// The filter that matches every topic but those of the system.
const ALL: &[u8] = b"#";

/// So that no entry is zero.
const USED: u64 = 1 << 32;

type Parts = Box<[Part; PARTS]>;

/// Where a filter belongs.
#[derive(Clone, Copy)]
enum Place {
    All,
    Exact(Key),
    Masked(Key),
    Trie,
}

impl Matcher {
    /// No filters.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            texts: Texts::default(),
            exact: Box::new(std::array::from_fn(|_| Part::default())),
            masked: Box::new(std::array::from_fn(|_| Part::default())),
            masks: MaskTable::new(),
            registry: MaskRegistry::default(),
            literals: Box::new(KnownLevels::new()),
            trie: Trie::new(key),
            all: None,
        }
    }

    /// The id of a filter, and whether it is new; copies the text of a new one.
    ///
    /// Interning counts nothing: one [`Self::remove`] removes the filter. The filter of a shared
    /// subscription is to be given without `$share` and its name.
    pub fn intern(&mut self, filter: &TopicFilter) -> (FilterId, bool) {
        let text = filter.as_bytes();
        let (shape, levels) = (Shape::of(text), TopicLevels::of(&self.key, text));
        if let Some(id) = self.find_at(self.place(text, shape, &levels), text) {
            return (id, false);
        }
        let id = self.texts.insert(text);
        if let Some(mask) = counted_mask(text, shape) {
            self.registry.acquire(&self.masks, &self.key, &mask);
        }
        match self.place(text, shape, &levels) {
            Place::All => self.all = Some(FilterId(id)),
            Place::Exact(key) => self.exact[key.part()].insert(key, id, EXACT),
            Place::Masked(key) => self.masked[key.part()].insert(key, id, MASKED),
            Place::Trie => self.trie.insert(id, &self.texts, &self.literals),
        }
        if let Shape::Masked(mask) | Shape::Deep(mask) = shape {
            let mut literals = mask.literals();
            while literals != 0 {
                let level = literals.trailing_zeros() as usize;
                literals &= literals - 1;
                self.literals.add(level, levels.level(level));
            }
        }
        (FilterId(id), true)
    }

    /// The id of a filter that was interned.
    #[must_use]
    pub fn find(&self, filter: &[u8]) -> Option<FilterId> {
        let levels = TopicLevels::of(&self.key, filter);
        self.find_at(self.place(filter, Shape::of(filter), &levels), filter)
    }

    fn find_at(&self, place: Place, filter: &[u8]) -> Option<FilterId> {
        let right = |text: &[u8]| text == filter;
        match place {
            Place::All => self.all,
            Place::Exact(key) => self.find_key(&self.exact, key, right),
            Place::Masked(key) => self.find_key(&self.masked, key, right),
            Place::Trie => self.trie.find(filter, &self.texts).map(FilterId),
        }
    }

    /// Forgets a filter and frees its id for another; an id that is not in use is ignored.
    pub fn remove(&mut self, id: FilterId) {
        let text = self.texts.get(id.0);
        if text.is_empty() {
            return;
        }
        let (shape, levels) = (Shape::of(text), TopicLevels::of(&self.key, text));
        match self.place(text, shape, &levels) {
            Place::All => self.all = None,
            Place::Exact(key) => self.exact[key.part()].remove(key, id.0, EXACT),
            Place::Masked(key) => self.masked[key.part()].remove(key, id.0, MASKED),
            Place::Trie => self.trie.remove(id.0, &self.texts),
        }
        if let Some(mask) = counted_mask(text, shape) {
            self.registry.release(&self.masks, &self.key, &mask);
        }
        if self.registry.is_empty() && self.trie.is_empty() {
            *self.literals = KnownLevels::new();
        }
        self.texts.remove(id.0);
    }

    /// The text of a filter; empty for an id that is not in use.
    #[must_use]
    pub fn filter(&self, id: FilterId) -> &[u8] {
        self.texts.get(id.0)
    }

    /// Calls `found` with every filter that matches the topic, each once, in no given order.
    ///
    /// `levels` are those of `topic`, by the key of this matcher.
    ///
    /// *Spec*: [MQTT5-4.7.2-1], [MQTT5-4.7.3-4], [MQTT311-4.7.2-1], [MQTT311-4.7.3-4].
    /// *Cost*: one probe for the whole text and one per mask that fits; then the trie's, if any
    /// filter is there. No allocation for topics of up to 64 levels.
    #[inline]
    pub fn matches(&self, topic: &[u8], levels: &TopicLevels, found: &mut impl FnMut(FilterId)) {
        let whole = Key::of(levels.whole().wrapping_add(self.key.exact_salt()));
        let id = match first(&self.exact, whole) {
            First::Lacks => None,
            First::Only(entry) if entry & CHECK != whole.check() => None,
            First::Only(entry) => self.verified(whole, entry as u32, topic),
            First::Unclear => self.spelled(whole, topic),
        };
        id.map(&mut *found);
        if self.all.is_some() {
            self.find_all(levels, found);
        }
        if self.trie.is_empty() {
            self.probe(0, topic, levels, found);
        } else {
            self.probe_and_walk(topic, levels, found);
        }
    }

    /// Calls `found` with the filter `#`, if it is there and matches.
    #[inline(never)]
    fn find_all(&self, levels: &TopicLevels, found: &mut impl FnMut(FilterId)) {
        if !levels.is_system() {
            self.all.map(found);
        }
    }

    /// Calls `found` with every filter that matches under a mask that is probed, as
    /// [`MaskTable::probes_without`] does.
    #[inline(always)]
    fn probe(
        &self,
        absent: u64,
        topic: &[u8],
        levels: &TopicLevels,
        found: &mut impl FnMut(FilterId),
    ) {
        self.masks.probes_without(absent, levels, |mask: Mask, fingerprint| {
            let key = Key::of(fingerprint);
            let id = match first(&self.masked, key) {
                First::Lacks => None,
                First::Only(entry) if entry & CHECK != key.check() => None,
                First::Only(entry) => self.verified_with(key, entry as u32, mask, topic, levels),
                First::Unclear => self.spelled_with(key, mask, topic, levels),
            };
            id.map(&mut *found);
        });
    }

    /// The same with those of the trie. That there are any says that masks are many, so that it is worth
    /// a look at each level to leave some out.
    #[inline(never)]
    fn probe_and_walk(&self, topic: &[u8], levels: &TopicLevels, found: &mut impl FnMut(FilterId)) {
        let known = self.literals.among(levels);
        self.probe(!known, topic, levels, found);
        self.trie.matches(topic, levels, known, &self.texts, found);
    }

    /// How many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// True if there are no filters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many masks are probed.
    #[must_use]
    pub fn masks(&self) -> usize {
        self.masks.len()
    }

    /// The filter of a key that is the topic itself.
    #[inline(never)]
    fn spelled(&self, key: Key, topic: &[u8]) -> Option<FilterId> {
        self.verified(key, candidate(&self.exact, key)?, topic)
    }

    /// The same, with the first filter of the key.
    #[inline(never)]
    fn verified(&self, key: Key, id: u32, topic: &[u8]) -> Option<FilterId> {
        if self.texts.get(id) == topic {
            return Some(FilterId(id));
        }
        self.other(key, topic)
    }

    /// The same, if it is not the first.
    #[cold]
    fn other(&self, key: Key, topic: &[u8]) -> Option<FilterId> {
        self.find_key(&self.exact, key, |text| text == topic)
    }

    /// The filter of a key that is the topic with a mask's wildcards put in.
    #[inline(never)]
    fn spelled_with(
        &self,
        key: Key,
        mask: Mask,
        topic: &[u8],
        levels: &TopicLevels,
    ) -> Option<FilterId> {
        self.verified_with(key, candidate(&self.masked, key)?, mask, topic, levels)
    }

    /// The same, with the first filter of the key.
    #[inline(never)]
    fn verified_with(
        &self,
        key: Key,
        id: u32,
        mask: Mask,
        topic: &[u8],
        levels: &TopicLevels,
    ) -> Option<FilterId> {
        if mask.spells(self.texts.get(id), topic, levels) {
            return Some(FilterId(id));
        }
        self.other_with(key, mask, topic, levels)
    }

    /// The same, if it is not the first.
    #[cold]
    fn other_with(
        &self,
        key: Key,
        mask: Mask,
        topic: &[u8],
        levels: &TopicLevels,
    ) -> Option<FilterId> {
        self.find_key(&self.masked, key, |text| mask.spells(text, topic, levels))
    }

    /// The one filter of a key whose text is right.
    fn find_key(&self, parts: &Parts, key: Key, right: impl Fn(&[u8]) -> bool) -> Option<FilterId> {
        let mut found = None;
        buckets::search(&*parts[key.part()].buckets, key, |_, entry| {
            let same = entry & CHECK == key.check() && right(self.texts.get(entry as u32));
            found = same.then_some(FilterId(entry as u32));
            same
        });
        found
    }

    fn place(&self, filter: &[u8], shape: Shape, levels: &TopicLevels) -> Place {
        match shape {
            _ if filter == ALL => Place::All,
            Shape::Exact => {
                Place::Exact(Key::of(levels.whole().wrapping_add(self.key.exact_salt())))
            }
            Shape::Masked(mask) if self.registry.is_probed(&self.key, &mask) => {
                Place::Masked(Key::of(mask.fingerprint_of(&self.key, levels)))
            }
            _ => Place::Trie,
        }
    }
}

/// The mask that a filter is counted for, all but `#`.
fn counted_mask(filter: &[u8], shape: Shape) -> Option<Mask> {
    match shape {
        Shape::Masked(mask) if filter != ALL => Some(mask),
        _ => None,
    }
}

/// What one look tells of a key.
#[inline]
fn first(parts: &Parts, key: Key) -> First {
    buckets::first(&*parts[key.part()].buckets, key)
}

/// The first filter of a key.
#[inline(never)]
fn candidate(parts: &Parts, key: Key) -> Option<u32> {
    let mut found = None;
    buckets::search(&*parts[key.part()].buckets, key, |_, entry| {
        let same = entry & CHECK == key.check();
        found = same.then_some(entry as u32);
        same
    });
    found
}

impl Part {
    fn insert(&mut self, key: Key, id: u32, density: Density) {
        if self.fill.is_full(density, self.buckets.len()) {
            self.rebuild(density);
        }
        let entry = key.check() | USED | u64::from(id);
        buckets::insert(&*self.buckets, &mut self.fill, key, entry);
    }

    fn remove(&mut self, key: Key, id: u32, density: Density) {
        let mut found = None;
        buckets::search(&*self.buckets, key, |place, entry| {
            let same = entry as u32 == id;
            found = same.then_some(place);
            same
        });
        let Some(place) = found else { return };
        buckets::remove(&*self.buckets, &mut self.fill, place);
        if self.fill.live == 0 {
            *self = Self::default();
        } else if self.fill.is_sparse(density, self.buckets.len()) {
            self.rebuild(density);
        }
    }

    fn rebuild(&mut self, density: Density) {
        let new: Box<[Bucket]> = (0..self.fill.buckets(density)).map(|_| Bucket::new()).collect();
        buckets::copy(&*self.buckets, &*new, &mut self.fill);
        self.buckets = new;
    }
}

impl Buckets for [Bucket] {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn at(&self, index: usize) -> Option<&Bucket> {
        self.get(index)
    }
}

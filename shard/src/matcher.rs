//! Which filters of this shard match a topic, exactly.
//!
//! A filter lives in one of two places. One without wildcards, or with a mask that is probed, is
//! in a table from fingerprint to filter: a topic looks once for its own text and once per mask
//! that fits. All others are in a [`Trie`]. Whatever a hash finds is compared with the filter's
//! text, so hashes decide the cost and never the answer.

#[cfg(test)]
mod tests;
mod texts;
mod trie;

use hashbrown::HashTable;
use petrel_proto::TopicFilter;

use crate::level_hash::{HashKey, TopicLevels};
use crate::mask::{Mask, MaskRegistry, MaskTable, Shape};
use texts::Texts;
use trie::Trie;

/// A distinct filter of one [`Matcher`]; ids are small and used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// The distinct filters of one shard.
///
/// *Bounds*: 2^32 filters; about 32 B each beyond the text.
#[derive(Debug)]
pub struct Matcher {
    key: HashKey,
    texts: Texts,
    parts: Box<[HashTable<Entry>; PARTS]>,
    masks: MaskTable,
    registry: MaskRegistry,
    trie: Trie,
}

/// Part of the fingerprint and the filter behind it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u32,
    id: u32,
}

/// The table grows part by part, so that no single growth takes long.
const PARTS: usize = 256;

/// Where a filter belongs.
enum Place {
    Table(u64),
    Trie,
}

impl Matcher {
    /// No filters.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            texts: Texts::default(),
            parts: Box::new(std::array::from_fn(|_| HashTable::new())),
            masks: MaskTable::new(),
            registry: MaskRegistry::default(),
            trie: Trie::new(key),
        }
    }

    /// The id of a filter, and whether it is new; copies the text of a new one.
    ///
    /// Interning counts nothing: one [`Self::remove`] removes the filter. The filter of a shared
    /// subscription is to be given without `$share` and its name.
    pub fn intern(&mut self, filter: &TopicFilter) -> (FilterId, bool) {
        let text = filter.as_bytes();
        if let Some(id) = self.find(text) {
            return (id, false);
        }
        let id = self.texts.insert(text);
        let shape = Shape::of(text);
        let beyond = match &shape {
            Shape::Exact => None,
            Shape::Masked(mask) => {
                let probed = self.registry.acquire(&self.masks, &self.key, mask);
                (!probed).then_some(*mask)
            }
            Shape::Deep(mask) => Some(*mask),
        };
        if let Some(mask) = beyond {
            self.trie.insert(id, mask, &self.texts);
        } else {
            let (part, tag) = split(self.fingerprint(&shape, text));
            let entry = Entry { tag, id };
            self.parts[part].insert_unique(spread(tag), entry, |entry| spread(entry.tag));
        }
        (FilterId(id), true)
    }

    /// The id of a filter that was interned.
    #[must_use]
    pub fn find(&self, filter: &[u8]) -> Option<FilterId> {
        let id = match self.place(filter) {
            Place::Table(fingerprint) => {
                let (part, tag) = split(fingerprint);
                let same = |entry: &&Entry| entry.tag == tag && self.texts.get(entry.id) == filter;
                self.parts[part].iter_hash(spread(tag)).find(same)?.id
            }
            Place::Trie => self.trie.find(filter, &self.texts)?,
        };
        Some(FilterId(id))
    }

    /// Forgets a filter and frees its id for another; an id that is not in use is ignored.
    pub fn remove(&mut self, id: FilterId) {
        let text = self.texts.get(id.0);
        if text.is_empty() {
            return;
        }
        match self.place(text) {
            Place::Table(fingerprint) => {
                let (part, tag) = split(fingerprint);
                let table = &mut self.parts[part];
                if let Ok(found) = table.find_entry(spread(tag), |entry| entry.id == id.0) {
                    found.remove();
                }
                if table.len() * 4 < table.capacity() {
                    table.shrink_to(table.len() * 2, |entry| spread(entry.tag));
                }
            }
            Place::Trie => self.trie.remove(id.0, &self.texts),
        }
        if let Shape::Masked(mask) = Shape::of(text) {
            self.registry.release(&self.masks, &self.key, &mask);
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
    /// filter is there. No allocation for topics of up to 60 levels.
    #[inline]
    pub fn matches(&self, topic: &[u8], levels: &TopicLevels, found: &mut impl FnMut(FilterId)) {
        let whole = levels.whole().wrapping_add(self.key.exact_salt());
        self.probe(whole, |text| text == topic, found);
        self.masks.probes(levels, |mask: Mask, fingerprint| {
            self.probe(fingerprint, |text| mask.spells(text, topic, levels), found);
        });
        if !self.trie.is_empty() {
            self.trie.matches(topic, levels, &self.texts, &mut |id| found(FilterId(id)));
        }
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

    #[inline]
    fn probe(
        &self,
        fingerprint: u64,
        verify: impl Fn(&[u8]) -> bool,
        found: &mut impl FnMut(FilterId),
    ) {
        let (part, tag) = split(fingerprint);
        for entry in self.parts[part].iter_hash(spread(tag)) {
            if entry.tag == tag && verify(self.texts.get(entry.id)) {
                found(FilterId(entry.id));
            }
        }
    }

    fn place(&self, filter: &[u8]) -> Place {
        let shape = Shape::of(filter);
        let probed = match &shape {
            Shape::Exact => true,
            Shape::Masked(mask) => self.registry.is_probed(&self.key, mask),
            Shape::Deep(_) => false,
        };
        if probed { Place::Table(self.fingerprint(&shape, filter)) } else { Place::Trie }
    }

    fn fingerprint(&self, shape: &Shape, filter: &[u8]) -> u64 {
        let levels = TopicLevels::of(&self.key, filter);
        match shape {
            Shape::Exact => levels.whole().wrapping_add(self.key.exact_salt()),
            Shape::Masked(mask) | Shape::Deep(mask) => mask.fingerprint_of(&self.key, &levels),
        }
    }
}

/// Which part of the table, and what is kept of the fingerprint there.
#[inline]
const fn split(fingerprint: u64) -> (usize, u32) {
    ((fingerprint >> 32) as usize % PARTS, fingerprint as u32)
}

/// The table takes its slot from the low bits and its own tag from the top ones.
#[inline]
const fn spread(tag: u32) -> u64 {
    ((tag as u64) << 32) | tag as u64
}

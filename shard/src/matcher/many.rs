//! Several topics at a time, so that the memory that one waits for is fetched for the others too.
//!
//! Step by step for all of them: the buckets, then the filters that these lead to, then their texts.
//! Within a step no look depends on another, so the processor has as many under way as it can.

use smallvec::SmallVec;

use super::{FilterId, Matcher};
use crate::buckets::{self, Key};
use crate::level_hash::TopicLevels;
use crate::mask::Mask;

/// Looks of one round; beyond that another round begins.
const LOOKS: usize = 256;

/// A look at the first bucket of a key.
#[derive(Clone, Copy)]
struct Look {
    key: Key,
    /// What that bucket says.
    tags: u64,
    topic: usize,
    /// `None`: for the topic's own text.
    mask: Option<Mask>,
}

impl Matcher {
    /// Calls `found` as [`Self::matches`] does, with the position of the topic, for several topics.
    ///
    /// *Cost*: a fifth more instructions than one by one, and fewer cache misses that are waited for.
    /// Allocates as little.
    pub fn matches_many(
        &self,
        topics: &[(&[u8], &TopicLevels)],
        found: &mut impl FnMut(usize, FilterId),
    ) {
        let mut looks: SmallVec<[Look; LOOKS]> = SmallVec::new();
        for (topic, (_, levels)) in topics.iter().enumerate() {
            let mut look = |key: Key, mask: Option<Mask>| {
                if looks.len() == LOOKS {
                    self.resolve(topics, &looks, found);
                    looks.clear();
                }
                let parts = if mask.is_some() { &self.masked } else { &self.exact };
                let tags = buckets::tags(&*parts[key.part()].buckets, key);
                looks.push(Look { key, tags, topic, mask });
            };
            look(Key::of(levels.whole().wrapping_add(self.key.exact_salt())), None);
            self.masks.probes(levels, |mask, fingerprint| look(Key::of(fingerprint), Some(mask)));
        }
        self.resolve(topics, &looks, found);
        if self.all.is_some() {
            for (topic, (_, levels)) in topics.iter().enumerate() {
                self.find_all(levels, &mut |id| found(topic, id));
            }
        }
        if !self.trie.is_empty() {
            for (topic, (name, levels)) in topics.iter().enumerate() {
                let found = &mut |id| found(topic, id);
                let known = self.literals.among(levels);
                self.trie.matches(name, levels, known, &self.texts, found);
            }
        }
    }

    fn resolve(
        &self,
        topics: &[(&[u8], &TopicLevels)],
        looks: &[Look],
        found: &mut impl FnMut(usize, FilterId),
    ) {
        let mut promising: SmallVec<[(Look, u32); LOOKS]> = SmallVec::new();
        for look in looks.iter().filter(|look| !buckets::tell_lack(look.tags, look.key)) {
            let parts = if look.mask.is_some() { &self.masked } else { &self.exact };
            if let Some(id) = super::candidate(parts, look.key) {
                promising.push((*look, id));
            }
        }
        let fetched = promising.iter().fold(0, |sum, (_, id)| sum ^ self.texts.touch(*id));
        std::hint::black_box(fetched);
        for (look, id) in &promising {
            let (name, levels) = topics[look.topic];
            let id = match look.mask {
                Some(mask) => self.verified_with(look.key, *id, mask, name, levels),
                None => self.verified(look.key, *id, name),
            };
            if let Some(id) = id {
                found(look.topic, id);
            }
        }
    }
}

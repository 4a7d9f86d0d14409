//! A trie of filters for those that no probed mask covers.
//!
//! Edges are hashed: one table for the whole trie, from (node, hash of a level) to the child; the
//! `+` child hangs on its node. A node keeps the filters that got as far as it in a bucket and
//! splits when the bucket is full, so a long filter costs no more nodes than it shares with others.
//! A filter is in the bucket of the deepest node on its path; hence in exactly one.
//!
//! Matching visits each node at most once: the work is bounded by the nodes whose path fits the
//! topic, however many `+` there are, and there is no recursion.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::texts::Texts;
use crate::level_hash::{HashKey, LEVELS_KEPT, TopicLevels};
use crate::mask::Mask;

#[derive(Debug)]
pub(super) struct Trie {
    key: HashKey,
    nodes: Vec<Node>,
    free: Vec<u32>,
    edges: HashTable<u32>,
    len: usize,
}

#[derive(Debug, Default)]
struct Node {
    parent: u32,
    /// The `+` child, or [`NONE`].
    plus: u32,
    /// How many children there are, the `+` child included.
    children: u32,
    /// A bit for the level of each other child, and perhaps of some that have gone.
    literals: u64,
    depth: u32,
    /// The hash of the level that leads here; unused for a `+`.
    level: u64,
    is_plus: bool,
    bucket: Vec<Held>,
}

/// A filter in a bucket, with enough of it that few texts have to be looked at.
#[derive(Debug, Clone, Copy)]
struct Held {
    mask: Mask,
    /// The sum of its literal levels from here on, as far as the mask goes.
    literals: u64,
    id: u32,
    /// The first of these levels, at the top, and the low bits of its hash; [`LEVELS_KEPT`] and zeros
    /// if there is none.
    next: u32,
}

/// Bits of [`Held::next`] that are a hash.
const HASH_BITS: u32 = 25;

/// How a filter goes on from a node.
#[derive(Clone, Copy)]
enum Way {
    /// Not at all.
    End,
    /// With a `#`, which is the end too.
    Tail,
    Plus,
    /// With a literal level of this hash.
    Level(u64),
}

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// A node splits when more filters than this want to go deeper.
const BUCKET: usize = 16;

impl Trie {
    pub(super) fn new(key: HashKey) -> Self {
        let root = Node { parent: NONE, plus: NONE, ..Node::default() };
        Self { key, nodes: vec![root], free: Vec::new(), edges: HashTable::new(), len: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter that is not there yet; `mask` is that of its shape.
    pub(super) fn insert(&mut self, id: u32, mask: Mask, texts: &Texts) {
        self.len += 1;
        let filter = texts.get(id);
        let (node, _) = self.descend(filter);
        self.hold(node, id, mask, &self.front(filter));
        // At most two filters end at a node: the path itself and the path with a `#`.
        if self.nodes[node as usize].bucket.len() > BUCKET + 2 {
            self.split(node, texts);
        }
    }

    /// The id of a filter with this text.
    pub(super) fn find(&self, filter: &[u8], texts: &Texts) -> Option<u32> {
        let (node, _) = self.descend(filter);
        let bucket = &self.nodes[node as usize].bucket;
        bucket.iter().map(|held| held.id).find(|&id| texts.get(id) == filter)
    }

    /// Removes a filter and the nodes that nothing needs any more.
    pub(super) fn remove(&mut self, id: u32, texts: &Texts) {
        let (mut at, _) = self.descend(texts.get(id));
        let bucket = &mut self.nodes[at as usize].bucket;
        let Some(index) = bucket.iter().position(|held| held.id == id) else { return };
        bucket.swap_remove(index);
        if bucket.len() * 4 < bucket.capacity() {
            bucket.shrink_to(bucket.len() * 2);
        }
        self.len -= 1;
        while at != ROOT {
            let node = &self.nodes[at as usize];
            if node.children > 0 || !node.bucket.is_empty() {
                break;
            }
            at = self.unlink(at);
        }
        if self.len == 0 {
            *self = Self::new(self.key);
        }
    }

    /// Calls `found` with every filter that matches the topic.
    pub(super) fn matches(
        &self,
        topic: &[u8],
        levels: &TopicLevels,
        texts: &Texts,
        found: &mut impl FnMut(u32),
    ) {
        // Each visit pushes at most two nodes for the one it took: depth + 1 at most.
        let mut stack: SmallVec<[(u32, usize); 96]> = SmallVec::new();
        stack.push((ROOT, 0));
        while let Some((node, at)) = stack.pop() {
            let place = &self.nodes[node as usize];
            let depth = place.depth as usize;
            for held in &place.bucket {
                if held.may_match(depth, levels) && held.matches(texts, topic, levels) {
                    found(held.id);
                }
            }
            if at > topic.len() || place.children == 0 {
                continue;
            }
            let (level, end) = if depth < LEVELS_KEPT {
                (levels.level(depth), levels.end(depth))
            } else {
                self.key.level(depth, topic, at)
            };
            if place.plus != NONE && !(depth == 0 && levels.is_system()) {
                stack.push((place.plus, end + 1));
            }
            if place.literals >> (level % 64) & 1 == 1
                && let Some(child) = self.child(node, level)
            {
                stack.push((child, end + 1));
            }
        }
    }

    /// The deepest node on the way of a filter, and where in its text the next level starts.
    fn descend(&self, filter: &[u8]) -> (u32, usize) {
        let (mut node, mut at) = (ROOT, 0);
        loop {
            let (way, next) = self.way(node, filter, at);
            let Some(child) = self.next(node, way) else { return (node, at) };
            (node, at) = (child, next);
        }
    }

    /// How a filter goes on from a node, and where the level after that starts.
    fn way(&self, node: u32, filter: &[u8], at: usize) -> (Way, usize) {
        if at > filter.len() {
            return (Way::End, at);
        }
        let (level, end) = self.key.level(self.nodes[node as usize].depth as usize, filter, at);
        let way = match &filter[at..end] {
            b"#" => Way::Tail,
            b"+" => Way::Plus,
            _ => Way::Level(level),
        };
        (way, end + 1)
    }

    /// The child that lies that way, if there is one.
    fn next(&self, node: u32, way: Way) -> Option<u32> {
        match way {
            Way::End | Way::Tail => None,
            Way::Plus => Some(self.nodes[node as usize].plus).filter(|&plus| plus != NONE),
            Way::Level(level) => self.child(node, level),
        }
    }

    /// The levels of a filter that a mask can tell apart.
    fn front(&self, filter: &[u8]) -> TopicLevels {
        let slashes = filter.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let end = slashes.map(|(at, _)| at).nth(LEVELS_KEPT - 1).unwrap_or(filter.len());
        TopicLevels::of(&self.key, &filter[..end])
    }

    /// Puts a filter with these levels into the bucket of a node.
    fn hold(&mut self, node: u32, id: u32, mask: Mask, levels: &TopicLevels) {
        let node = &mut self.nodes[node as usize];
        let depth = node.depth as usize;
        let level = mask.literal_from(depth);
        let hash = level.map_or(0, |level| levels.level(level) as u32 & ((1 << HASH_BITS) - 1));
        let next = (level.unwrap_or(LEVELS_KEPT) as u32) << HASH_BITS | hash;
        if node.bucket.len() == node.bucket.capacity() {
            // Buckets stay short: doubling would waste more than it saves.
            node.bucket.reserve_exact(2);
        }
        let literals = mask.literals_from(depth, levels);
        node.bucket.push(Held { mask, literals, id, next });
    }

    /// Moves the filters of a full bucket on to children, as far down as all go the same way.
    fn split(&mut self, mut node: u32, texts: &Texts) {
        let depth = self.nodes[node as usize].depth as usize;
        let bucket = std::mem::take(&mut self.nodes[node as usize].bucket);
        let start = |held: Held| {
            let filter = texts.get(held.id);
            (held, self.offset(depth, filter), self.front(filter))
        };
        let mut moving: Vec<_> = bucket.into_iter().map(start).collect();
        loop {
            let (mut last, mut together) = (NONE, true);
            for (index, (held, at, levels)) in moving.iter_mut().enumerate() {
                let filter = texts.get(held.id);
                let (way, next) = self.way(node, filter, *at);
                let place = match way {
                    Way::End | Way::Tail => node,
                    _ => {
                        *at = next;
                        self.next(node, way).unwrap_or_else(|| self.link(node, way))
                    }
                };
                self.hold(place, held.id, held.mask, levels);
                together &= index == 0 || place == last;
                last = place;
            }
            if !together {
                return;
            }
            node = last;
            self.nodes[node as usize].bucket = Vec::new();
        }
    }

    /// Where the level after the first `depth` levels starts.
    fn offset(&self, depth: usize, filter: &[u8]) -> usize {
        (0..depth).fold(0, |at, position| self.key.level(position, filter, at).1 + 1)
    }

    #[inline]
    fn child(&self, parent: u32, level: u64) -> Option<u32> {
        let hash = self.key.pair(level, u64::from(parent));
        let same = |&id: &u32| {
            let node = &self.nodes[id as usize];
            node.parent == parent && node.level == level
        };
        self.edges.find(hash, same).copied()
    }

    fn link(&mut self, parent: u32, way: Way) -> u32 {
        let depth = self.nodes[parent as usize].depth + 1;
        let (level, is_plus) = match way {
            Way::Level(level) => (level, false),
            _ => (0, true),
        };
        let node = Node { parent, plus: NONE, depth, level, is_plus, ..Node::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.nodes[parent as usize].children += 1;
        if is_plus {
            self.nodes[parent as usize].plus = id;
        } else {
            self.nodes[parent as usize].literals |= 1 << (level % 64);
            let (key, nodes) = (&self.key, &self.nodes);
            let hash = |id: &u32| {
                let node = &nodes[*id as usize];
                key.pair(node.level, u64::from(node.parent))
            };
            self.edges.insert_unique(hash(&id), id, hash);
        }
        id
    }

    /// Frees a node without children; its parent.
    fn unlink(&mut self, id: u32) -> u32 {
        let node = std::mem::take(&mut self.nodes[id as usize]);
        let parent = &mut self.nodes[node.parent as usize];
        parent.children -= 1;
        if node.is_plus {
            parent.plus = NONE;
        } else {
            let hash = self.key.pair(node.level, u64::from(node.parent));
            if let Ok(found) = self.edges.find_entry(hash, |&other| other == id) {
                found.remove();
            }
        }
        self.free.push(id);
        node.parent
    }
}

impl Held {
    /// Whether it is likely to match, if what is above its node at this depth does. Never false for
    /// one that matches.
    #[inline]
    fn may_match(&self, depth: usize, levels: &TopicLevels) -> bool {
        let hash = levels.level((self.next >> HASH_BITS) as usize) as u32;
        (hash ^ self.next) << (32 - HASH_BITS) == 0
            && self.mask.may_match(depth, self.literals, levels)
    }

    /// Whether it matches the topic, by its text.
    #[inline(never)]
    fn matches(&self, texts: &Texts, topic: &[u8], levels: &TopicLevels) -> bool {
        let filter = texts.get(self.id);
        if self.mask.may_be_deep() {
            return matches(filter, topic);
        }
        self.mask.spells_own(filter, topic, levels)
            && !(levels.is_system() && self.mask.is_leading())
    }
}

/// Whether the filter matches the topic, by their bytes.
///
/// A topic holds neither wildcards nor zeros, so a run of equal bytes ends at a wildcard, at a
/// difference, or where one of the texts ends.
fn matches(filter: &[u8], topic: &[u8]) -> bool {
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let (mut at, mut name_at) = (0, 0);
    loop {
        let (left, right) = (word(filter, at), word(topic, name_at));
        let equal = (left ^ right).trailing_zeros() as usize / 8;
        if equal == 8 {
            if left >> 56 == 0 {
                return true;
            }
            at += 8;
            name_at += 8;
            continue;
        }
        at += equal;
        name_at += equal;
        match filter.get(at..).unwrap_or_default() {
            [b'#', ..] => return true,
            // `a/#` matches `a` as well.
            b"/#" => return name_at >= topic.len(),
            [b'+', ..] => {
                at += 1;
                let rest = topic.get(name_at..).unwrap_or_default();
                name_at += rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            }
            _ => return false,
        }
    }
}

/// The 8 bytes from `at` on, with zeros behind the end.
#[inline]
fn word(text: &[u8], at: usize) -> u64 {
    let rest = text.get(at..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => last_word(text, rest),
    }
}

/// What is left at the end of a text.
fn last_word(text: &[u8], rest: &[u8]) -> u64 {
    match text.last_chunk::<8>() {
        _ if rest.is_empty() => 0,
        Some(word) => u64::from_le_bytes(*word) >> ((8 - rest.len()) * 8),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

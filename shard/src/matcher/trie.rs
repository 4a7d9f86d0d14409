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
    depth: u32,
    /// The hash of the level that leads here; unused for a `+`.
    level: u64,
    is_plus: bool,
    bucket: Vec<u32>,
}

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// A node splits when more filters than this want to go deeper.
const BUCKET: usize = 8;

impl Trie {
    pub(super) fn new(key: HashKey) -> Self {
        let root = Node { parent: NONE, plus: NONE, ..Node::default() };
        Self { key, nodes: vec![root], free: Vec::new(), edges: HashTable::new(), len: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter that is not there yet.
    pub(super) fn insert(&mut self, id: u32, texts: &Texts) {
        self.len += 1;
        let (node, _) = self.descend(texts.get(id));
        self.nodes[node as usize].bucket.push(id);
        // At most two filters end at a node: the path itself and the path with a `#`.
        if self.nodes[node as usize].bucket.len() > BUCKET + 2 {
            self.split(node, texts);
        }
    }

    /// The id of a filter with this text.
    pub(super) fn find(&self, filter: &[u8], texts: &Texts) -> Option<u32> {
        let (node, _) = self.descend(filter);
        let bucket = &self.nodes[node as usize].bucket;
        bucket.iter().copied().find(|&id| texts.get(id) == filter)
    }

    /// Removes a filter and the nodes that nothing needs any more.
    pub(super) fn remove(&mut self, id: u32, texts: &Texts) {
        let (mut at, _) = self.descend(texts.get(id));
        let bucket = &mut self.nodes[at as usize].bucket;
        let Some(index) = bucket.iter().position(|&other| other == id) else { return };
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
        let mut stack: SmallVec<[(u32, usize); LEVELS_KEPT + 4]> = SmallVec::new();
        stack.push((ROOT, 0));
        while let Some((node, at)) = stack.pop() {
            let place = &self.nodes[node as usize];
            for &id in &place.bucket {
                if matches(texts.get(id), topic) {
                    found(id);
                }
            }
            if place.children == 0 || at > topic.len() {
                continue;
            }
            let depth = place.depth as usize;
            let (level, end) = if depth < LEVELS_KEPT {
                (levels.level(depth), levels.end(depth))
            } else {
                self.key.level(depth, topic, at)
            };
            if place.plus != NONE && !(depth == 0 && levels.is_system()) {
                stack.push((place.plus, end + 1));
            }
            if let Some(child) = self.child(node, level) {
                stack.push((child, end + 1));
            }
        }
    }

    /// The deepest node on the way of a filter, and where in its text the next level starts.
    fn descend(&self, filter: &[u8]) -> (u32, usize) {
        let (mut node, mut at) = (ROOT, 0);
        while let Some((_, Some(child), next)) = self.step(node, filter, at) {
            (node, at) = (child, next);
        }
        (node, at)
    }

    /// The next level of a filter: its edge, the child there, and where the level after it starts.
    ///
    /// `None` if the filter ends at the node, be it with a `#`.
    fn step(&self, node: u32, filter: &[u8], at: usize) -> Option<(Edge, Option<u32>, usize)> {
        let place = &self.nodes[node as usize];
        if at > filter.len() {
            return None;
        }
        let (level, end) = self.key.level(place.depth as usize, filter, at);
        match &filter[at..end] {
            b"#" => None,
            b"+" => Some((Edge::Plus, (place.plus != NONE).then_some(place.plus), end + 1)),
            _ => Some((Edge::Level(level), self.child(node, level), end + 1)),
        }
    }

    /// Moves the filters of a full bucket on to children, as far down as all go the same way.
    fn split(&mut self, mut node: u32, texts: &Texts) {
        let depth = self.nodes[node as usize].depth as usize;
        let bucket = std::mem::take(&mut self.nodes[node as usize].bucket);
        let mut moving: SmallVec<[(u32, usize); BUCKET + 3]> =
            bucket.into_iter().map(|id| (id, self.offset(depth, texts.get(id)))).collect();
        loop {
            let mut last = NONE;
            let mut together = true;
            for (index, (id, at)) in moving.iter_mut().enumerate() {
                let place = match self.step(node, texts.get(*id), *at) {
                    None => node,
                    Some((edge, child, next)) => {
                        *at = next;
                        child.unwrap_or_else(|| self.link(node, edge))
                    }
                };
                together &= index == 0 || place == last;
                last = place;
                self.nodes[place as usize].bucket.push(*id);
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

    fn link(&mut self, parent: u32, edge: Edge) -> u32 {
        let depth = self.nodes[parent as usize].depth + 1;
        let (level, is_plus) = match edge {
            Edge::Plus => (0, true),
            Edge::Level(level) => (level, false),
        };
        let bucket = Vec::new();
        let node = Node { parent, plus: NONE, children: 0, depth, level, is_plus, bucket };
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

enum Edge {
    Plus,
    Level(u64),
}

/// Whether the filter matches the topic, by their bytes.
fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let mut names = topic.split(|&byte| byte == b'/');
    for (position, level) in filter.split(|&byte| byte == b'/').enumerate() {
        let wild = level == b"+" || level == b"#";
        if position == 0 && wild && topic.first() == Some(&b'$') {
            return false;
        }
        match (level, names.next()) {
            (b"#", _) => return true,
            (b"+", Some(_)) => {}
            (literal, Some(name)) if literal == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

//! A trie of filters for those that no probed mask covers.
//!
//! A filter's way through it goes by its literal levels alone: a [`Step`] is a level and the position it
//! has, so a run of `+` between two of them costs nothing. All edges are in one table, from (node, step)
//! to the child, and an edge holds its level's text: a topic that has come to a node has every literal
//! level on the way, and a filter that ends there matches without a look at its text.
//!
//! A node holds up to [`HELD`] filters. A filter ends there, or it has come no further since nothing
//! pressed it on: then two of its next steps tell nearly always that it does not match, and its text
//! whether it does. Hence there are never more nodes than there were filters, however long these are.
//!
//! A way of more than [`LEVELS_KEPT`] levels is cut in stretches of so many, each with positions of its
//! own. Matching visits a node at most once. It looks at the filters of one that do not end where the
//! topic does only if a bit of [`Node::steps`] says that the topic may have a level that is ahead of them.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::FilterId;
use super::edges::Edges;
use super::texts::Texts;
use crate::level_hash::{HashKey, KnownLevels, LEVELS_KEPT, TopicLevels};

#[derive(Debug)]
pub(super) struct Trie {
    key: HashKey,
    nodes: Vec<Node>,
    free: Vec<u32>,
    edges: Edges,
    /// The levels that lead to nodes and are too long for a word.
    long: HashTable<(u32, Box<[u8]>)>,
    last: Last,
    /// Nodes and filters that have gone since [`Node::steps`] were made.
    gone: usize,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The parent and, in the lowest byte, the code of the step that leads here.
    from: u64,
    /// The word of that step.
    word: u64,
    /// A bit for the step to each child, for the first of those that each filter here has ahead, and
    /// perhaps for some that have gone.
    steps: u64,
    held: [Held; HELD],
    children: u32,
}

/// A filter at a node, or none.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Two of its next steps, by [`Steps::ahead`]; [`NONE`] for one that there is not.
    ahead: [u32; 2],
    filter: u32,
}

/// One step on the way of a filter.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    /// A level's position in its stretch; or [`END`], [`TAIL`] or [`DEEPER`].
    code: u8,
    /// What tells its level from others, all but for long ones.
    word: u64,
    hash: u64,
    /// The level, if it is long.
    long: &'a [u8],
}

/// The steps of a filter; the last one is an end or a `#`.
struct Steps<'a> {
    key: HashKey,
    filter: &'a [u8],
    at: usize,
    /// How many levels of the stretch are behind.
    position: usize,
    ended: bool,
}

/// Which steps there are that are no levels, and perhaps some that there were: 64 bits for ends, for `#`
/// and for [`DEEPER`].
type Last = [u64; 3];

/// What one stretch of a topic has for the edges.
struct Offers<'a> {
    topic: &'a [u8],
    levels: &'a TopicLevels,
    /// As [`Node::steps`].
    steps: u64,
    /// For each of these bits its first offer, or [`LAST`].
    first: [u8; 64],
    offers: SmallVec<[Offer; 32]>,
    /// What a filter has ahead that ends where the topic does.
    end: u32,
    /// How many levels there are in this stretch.
    count: u32,
    /// Whether there are more behind it.
    more: bool,
}

#[derive(Clone, Copy)]
struct Offer {
    word: u64,
    /// [`HashKey::left`] of it.
    part: u64,
    /// As [`Node::steps`], of the offers for what comes behind it.
    later: u64,
    code: u8,
    /// The next offer of the same bit, or [`LAST`].
    next: u8,
}

/// The filter ends after so many levels, less one, of the stretch.
const END: u8 = 64;
/// A `#` follows these levels.
const TAIL: u8 = 128;
/// There is another stretch.
const DEEPER: u8 = 192;

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;
/// Filters that a node holds: as many as make it one cache line.
const HELD: usize = 3;
/// The bit of filters that end in a `#` or go on to another stretch, and of some levels.
const OTHERS: u32 = 63;
/// Behind the last offer of a bit.
const LAST: u8 = u8::MAX;
/// The word of a step that is no level.
const NO_LEVEL: u64 = 1;
/// How many nodes there is room for whose children wait to be looked for.
const WAITING: usize = 12;

impl Trie {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            key,
            nodes: vec![Node::new(u64::MAX, 0)],
            free: Vec::new(),
            edges: Edges::default(),
            long: HashTable::new(),
            last: [0; 3],
            gone: 0,
            len: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter that is not there yet, and not a lone `#`, which needs no look.
    pub(super) fn insert(&mut self, id: u32, texts: &Texts, known: &KnownLevels) {
        self.len += 1;
        let (mut id, mut node, mut taken) = (id, ROOT, 0);
        let mut steps = Steps::of(self.key, texts.get(id));
        loop {
            let held = Held { ahead: steps.ahead(known), filter: id };
            let Some(pressed_on) = self.nodes[node as usize].hold(held) else { return };
            if pressed_on.filter != id {
                id = pressed_on.filter;
                steps = Steps::of(self.key, texts.get(id));
                steps.by_ref().take(taken).for_each(drop);
            }
            let Some(step) = steps.next() else { return };
            node = match self.next(node, &step) {
                Some(child) => child,
                None => self.link(edge(node, step.code), &step),
            };
            taken += 1;
            if step.code >= END && step.code != DEEPER {
                // There is no other filter of the same steps.
                self.nodes[node as usize].hold(pressed_on);
                return;
            }
        }
    }

    /// How many nodes are in use beside the root.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.edges.len()
    }

    /// The id of a filter with this text.
    pub(super) fn find(&self, filter: &[u8], texts: &Texts) -> Option<u32> {
        let (node, way) = self.node_of(filter, texts)?;
        Some(self.nodes[node as usize].held[way].filter)
    }

    /// Removes a filter and the nodes that nothing needs any more.
    pub(super) fn remove(&mut self, id: u32, texts: &Texts) {
        let Some((mut at, way)) = self.node_of(texts.get(id), texts) else { return };
        self.nodes[at as usize].held[way] = Held::NONE;
        self.len -= 1;
        self.gone += 1;
        if self.len == 0 {
            *self = Self::new(self.key);
            return;
        }
        while at != ROOT {
            let node = &self.nodes[at as usize];
            if node.children > 0 || node.held.iter().any(|held| held.filter != NONE) {
                break;
            }
            at = self.unlink(at);
        }
        if self.gone > self.nodes.len() {
            self.forget();
        }
    }

    /// Calls `found` with every filter that matches the topic; `known` has a bit for each of its levels
    /// that a filter may have.
    pub(super) fn matches(
        &self,
        topic: &[u8],
        levels: &TopicLevels,
        known: u64,
        texts: &Texts,
        found: &mut impl FnMut(FilterId),
    ) {
        let mut offers = Offers::new(topic, levels);
        offers.fill(self, known);
        let mut visit = Visit { trie: self, texts, topic, deeper: Vec::new(), found };
        if levels.is_system() {
            visit.system(&offers);
        } else {
            visit.stretch(&offers, ROOT);
        }
        if !visit.deeper.is_empty() {
            visit.deeper_stretches();
        }
    }

    /// The node that holds a filter, and which of its filters that is.
    fn node_of(&self, filter: &[u8], texts: &Texts) -> Option<(u32, usize)> {
        let mut steps = Steps::of(self.key, filter);
        let mut node = ROOT;
        loop {
            let held = &self.nodes[node as usize].held;
            if let Some(way) = held.iter().position(|held| texts.get(held.filter) == filter) {
                return Some((node, way));
            }
            let step = steps.next()?;
            node = self.next(node, &step)?;
        }
    }

    /// The child at the end of an edge with this hash; `level` is looked at if it is long.
    #[inline(always)]
    fn child(&self, hash: u64, edge: u64, word: u64, level: &[u8]) -> Option<(u32, &Node)> {
        if is_long(word) {
            self.long_child(hash, edge, word, level)
        } else {
            self.short_child(hash, edge, word)
        }
    }

    /// The same, if the level is not long.
    #[inline(always)]
    fn short_child(&self, hash: u64, edge: u64, word: u64) -> Option<(u32, &Node)> {
        self.edges.find(hash, |id| {
            let node = self.nodes.get(id as usize)?;
            (node.from == edge && node.word == word).then_some((id, node))
        })
    }

    /// The same, if it is.
    #[inline(never)]
    fn long_child(&self, hash: u64, edge: u64, word: u64, level: &[u8]) -> Option<(u32, &Node)> {
        self.edges.find(hash, |id| {
            let node = self.nodes.get(id as usize)?;
            let same = node.from == edge && node.word == word && self.is_long(id, level);
            same.then_some((id, node))
        })
    }

    /// The child that a step leads to.
    fn next(&self, node: u32, step: &Step) -> Option<u32> {
        let edge = edge(node, step.code);
        let hash = self.key.pair(step.word, edge);
        let child = self.child(hash, edge, step.word, step.long);
        child.map(|(child, _)| child)
    }

    /// Whether the long level that leads to a node is this one.
    #[inline(never)]
    fn is_long(&self, node: u32, level: &[u8]) -> bool {
        let found = self.long.find(self.key.pair(u64::from(node), 0), |(of, _)| *of == node);
        found.is_some_and(|(_, text)| **text == *level)
    }

    fn link(&mut self, edge: u64, step: &Step) -> u32 {
        let node = Node::new(edge, step.word);
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                if self.nodes.len() == self.nodes.capacity() {
                    // Doubling would waste more than it saves.
                    self.nodes.reserve_exact(self.nodes.len() / 4 + 4);
                }
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        let parent = &mut self.nodes[(edge >> 8) as usize];
        parent.children += 1;
        parent.steps |= step.bit();
        step.note(&mut self.last);
        let key = self.key;
        self.edges.insert(node.hash(&key), id);
        if is_long(step.word) {
            let hash = |(node, _): &(u32, Box<[u8]>)| key.pair(u64::from(*node), 0);
            self.long.insert_unique(hash(&(id, Box::default())), (id, step.long.into()), hash);
        }
        id
    }

    /// Frees a node without children; its parent.
    fn unlink(&mut self, id: u32) -> u32 {
        let (key, nodes) = (self.key, &mut self.nodes);
        let node = std::mem::replace(&mut nodes[id as usize], Node::new(u64::MAX, 0));
        self.edges.remove(node.hash(&key), id);
        if is_long(node.word) {
            let hash = key.pair(u64::from(id), 0);
            if let Ok(found) = self.long.find_entry(hash, |(of, _)| *of == id) {
                found.remove();
            }
        }
        let parent = (node.from >> 8) as u32;
        nodes[parent as usize].children -= 1;
        self.free.push(id);
        self.gone += 1;
        parent
    }

    /// Forgets the steps that there are no more.
    fn forget(&mut self) {
        self.gone = 0;
        self.last = [0; 3];
        for node in &mut self.nodes {
            node.steps = node.held.iter().fold(0, |steps, held| steps | held.bit());
        }
        for index in 1..self.nodes.len() {
            let node = self.nodes[index];
            if node.from != u64::MAX {
                let step = node.step(&self.key);
                step.note(&mut self.last);
                self.nodes[(node.from >> 8) as usize].steps |= step.bit();
            }
        }
        let key = self.key;
        self.long.shrink_to(0, |(node, _)| key.pair(u64::from(*node), 0));
    }
}

/// What one topic finds.
struct Visit<'a, F> {
    trie: &'a Trie,
    texts: &'a Texts,
    topic: &'a [u8],
    /// Where filters that match go on to another stretch.
    deeper: Vec<u32>,
    found: &'a mut F,
}

impl<'a, F: FnMut(FilterId)> Visit<'a, F> {
    /// Visits a node and what lies below it within a stretch.
    #[inline(always)]
    fn stretch(&mut self, offers: &Offers, start: u32) {
        if let Some(node) = self.trie.nodes.get(start as usize) {
            let steps = self.node(node, offers, offers.steps);
            if steps != 0 {
                self.below(offers, start, steps);
            }
        }
    }

    /// Visits what lies below a node by these of its steps; there is one at least.
    ///
    /// It calls itself only for a node that there is no room for to wait, which is a level further on: so
    /// at most [`LEVELS_KEPT`] calls are within each other.
    #[inline(never)]
    fn below(&mut self, offers: &Offers, start: u32, start_steps: u64) {
        let list = &*offers.offers;
        let mut waiting = [[0; 2]; WAITING];
        let mut waits = 0;
        let (mut from, mut steps) = (edge(start, 0), start_steps);
        loop {
            while steps != 0 {
                let mut next = offers.first[steps.trailing_zeros() as usize % 64];
                steps &= steps - 1;
                while let Some(offer) = list.get(usize::from(next)) {
                    if let Some((child, steps)) = self.look(offers, from, offer) {
                        match waiting.get_mut(waits) {
                            Some(place) => {
                                *place = [edge(child, 0), steps];
                                waits += 1;
                            }
                            None => self.crowded(offers, child, steps),
                        }
                    }
                    next = offer.next;
                }
            }
            waits = waits.wrapping_sub(1);
            let Some(&next) = waiting.get(waits) else { return };
            [from, steps] = next;
        }
    }

    /// Visits the child that an offer leads to; it and its steps that the topic has, if there are any.
    ///
    /// `from` is the edge from the node without a step.
    #[inline(always)]
    fn look(&mut self, offers: &Offers, from: u64, offer: &Offer) -> Option<(u32, u64)> {
        let trie = self.trie;
        let edge = from | u64::from(offer.code);
        let hash = trie.key.with_right(offer.part, edge);
        let (child, node) = if offer.word as u8 > NO_LEVEL as u8 {
            trie.short_child(hash, edge, offer.word)?
        } else {
            self.rare_child(offers, hash, edge, offer)?
        };
        let steps = self.node(node, offers, offer.later);
        (steps != 0).then_some((child, steps))
    }

    /// The same child, if the level may be long or the step no level; one at the end of filters is visited.
    #[inline(never)]
    fn rare_child(
        &mut self,
        offers: &Offers,
        hash: u64,
        edge: u64,
        offer: &Offer,
    ) -> Option<(u32, &'a Node)> {
        let trie = self.trie;
        if is_long(offer.word) {
            return trie.long_child(hash, edge, offer.word, offers.level(offer.code));
        }
        let (child, node) = trie.short_child(hash, edge, offer.word)?;
        if offer.code < END {
            return Some((child, node));
        }
        self.last(child, node, offer.code);
        None
    }

    /// Finds the filters at a node that match; its steps that are among those to come.
    #[inline(always)]
    fn node(&mut self, node: &Node, offers: &Offers, later: u64) -> u64 {
        // There is no other filter of the same steps.
        if let Some(held) = node.held.iter().find(|held| held.ahead[0] == offers.end) {
            (self.found)(FilterId(held.filter));
        }
        let steps = node.steps & later;
        if steps != 0 {
            for held in &node.held {
                if steps >> (held.ahead[0] % 64) & 1 == 1
                    && self.is_right(held.ahead, held.filter, offers)
                {
                    (self.found)(FilterId(held.filter));
                }
            }
        }
        steps
    }

    /// Goes on below a node for which there is no room to wait.
    #[cold]
    #[inline(never)]
    fn crowded(&mut self, offers: &Offers, node: u32, steps: u64) {
        self.below(offers, node, steps);
    }

    /// Whether a filter matches that does not end here together with the topic.
    #[inline(never)]
    fn is_right(&self, [first, second]: [u32; 2], filter: u32, offers: &Offers) -> bool {
        offers.allow(first)
            && (is_last(first)
                || (second == NONE || second == offers.end || offers.allow(second))
                    && matches(self.texts.get(filter), self.topic))
    }

    /// What lies at the end of an edge that is no level.
    #[inline(never)]
    fn last(&mut self, id: u32, node: &Node, code: u8) {
        if code == DEEPER {
            self.deeper.push(id);
        } else {
            let held = node.held.iter().filter(|held| held.filter != NONE);
            held.for_each(|held| (self.found)(FilterId(held.filter)));
        }
    }

    /// The same as [`Self::stretch`] from the root on, for a topic that no leading wildcard matches.
    #[cold]
    fn system(&mut self, offers: &Offers) {
        let root = &self.trie.nodes[ROOT as usize];
        for held in root.held.iter().filter(|held| held.filter != NONE) {
            if matches(self.texts.get(held.filter), self.topic) {
                (self.found)(FilterId(held.filter));
            }
        }
        if let Some(offer) = offers.offers.iter().find(|offer| offer.code == 0) {
            let edge = edge(ROOT, 0);
            let hash = self.trie.key.pair(offer.word, edge);
            if let Some((child, _)) = self.trie.child(hash, edge, offer.word, offers.level(0)) {
                self.stretch(offers, child);
            }
        }
    }

    /// Goes on with the levels behind those that are kept.
    #[cold]
    fn deeper_stretches(&mut self) {
        let mut rest = self.topic;
        while !self.deeper.is_empty() {
            let starts = std::mem::take(&mut self.deeper);
            let mut slashes = (0..rest.len()).filter(|&at| rest[at] == b'/');
            let Some(end) = slashes.nth(LEVELS_KEPT - 1) else { return };
            rest = &rest[end + 1..];
            let levels = TopicLevels::of(&self.trie.key, rest);
            let mut offers = Offers::new(rest, &levels);
            offers.fill(self.trie, u64::MAX >> (64 - offers.count));
            starts.into_iter().for_each(|start| self.stretch(&offers, start));
        }
    }
}

impl<'a> Offers<'a> {
    /// Without an offer.
    #[inline]
    fn new(topic: &'a [u8], levels: &'a TopicLevels) -> Self {
        let count = levels.count().clamp(1, LEVELS_KEPT) as u32;
        let more = levels.count() > LEVELS_KEPT;
        let end = if more { NONE - 1 } else { (u32::from(END) + count - 1) << 24 };
        let (first, offers) = ([LAST; 64], SmallVec::new());
        Self { topic, levels, steps: 1 << OTHERS, first, offers, end, count, more }
    }

    /// Offers what the topic has of the levels in `known`, the last first, and of what else there is.
    #[inline]
    fn fill(&mut self, trie: &Trie, known: u64) {
        let [ends, tails, deeper] = trie.last;
        let up_to_last = u64::MAX >> (64 - self.count);
        let last = match self.more {
            true => [0, tails, deeper],
            false => [ends & !(up_to_last >> 1), tails, 0],
        };
        let last = last.map(|steps| steps & up_to_last);
        let any = last[0] | last[1] | last[2];
        self.steps |= any;
        let (levels, first) = (self.levels, &mut self.first);
        let (mut known, mut steps, mut index) = (known, self.steps, 0);
        self.offers.extend(std::iter::from_fn(|| {
            if known == 0 {
                return None;
            }
            let position = 63 - known.leading_zeros() as u8;
            known ^= 1 << position;
            let word = levels.word(usize::from(position));
            let bit = (levels.level(usize::from(position)) % 64) as usize;
            let offer = Offer::new(&trie.key, position, word, steps, first[bit]);
            first[bit] = index;
            steps |= 1 << bit;
            index += 1;
            Some(offer)
        }));
        self.steps = steps;
        if any != 0 {
            self.fill_last(trie, last);
        }
    }

    /// Offers these steps that are no levels.
    #[inline(never)]
    fn fill_last(&mut self, trie: &Trie, last: Last) {
        for (steps, kind) in last.into_iter().zip([END, TAIL, DEEPER]) {
            let mut steps = steps;
            while steps != 0 {
                let bit = steps.trailing_zeros() as u8;
                steps &= steps - 1;
                let first = &mut self.first[usize::from(bit % 64)];
                // There are no steps behind these.
                let offer = Offer::new(&trie.key, kind + bit, NO_LEVEL, 0, *first);
                *first = self.offers.len() as u8;
                self.offers.push(offer);
            }
        }
    }

    /// Whether the topic has a step that a filter has ahead, or looks like it; not told of ends.
    #[inline]
    fn allow(&self, ahead: u32) -> bool {
        match (ahead >> 24) as u8 {
            code @ 0..END => (self.levels.level(usize::from(code)) as u32 ^ ahead) << 8 == 0,
            END..TAIL => false,
            code @ TAIL..DEEPER => u32::from(code - TAIL) < self.count,
            code => code == DEEPER && self.more,
        }
    }

    /// The level at a position.
    fn level(&self, position: u8) -> &'a [u8] {
        let position = usize::from(position);
        let span = self.levels.start(position)..self.levels.end(position);
        self.topic.get(span).unwrap_or_default()
    }
}

impl Offer {
    #[inline]
    const fn new(key: &HashKey, code: u8, word: u64, later: u64, next: u8) -> Self {
        Self { word, part: key.left(word), later, code, next }
    }
}

impl Node {
    const fn new(from: u64, word: u64) -> Self {
        Self { from, word, steps: 0, held: [Held::NONE; HELD], children: 0 }
    }

    /// Holds a filter; the one that has to go on because there is no room, if there is none.
    ///
    /// One that ends here presses on one that does not.
    fn hold(&mut self, held: Held) -> Option<Held> {
        let way = match self.held.iter().position(|other| other.filter == NONE) {
            None if is_last(held.ahead[0]) => {
                self.held.iter().position(|other| !is_last(other.ahead[0]))
            }
            free => free,
        };
        let Some(way) = way else { return Some(held) };
        self.steps |= held.bit();
        let other = std::mem::replace(&mut self.held[way], held);
        (other.filter != NONE).then_some(other)
    }

    /// Under which it is in the table of edges.
    #[inline]
    fn hash(&self, key: &HashKey) -> u64 {
        key.pair(self.word, self.from)
    }

    /// The step that leads to it.
    fn step(&self, key: &HashKey) -> Step<'static> {
        let (code, word) = (self.from as u8, self.word);
        let hash = match code {
            END.. => u64::from(code % 64),
            _ if is_long(word) => word >> 8,
            _ => key.level_of_word(usize::from(code), word),
        };
        Step { code, word, hash, long: &[] }
    }
}

impl Held {
    const NONE: Self = Self { ahead: [NONE; 2], filter: NONE };

    /// In [`Node::steps`].
    const fn bit(&self) -> u64 {
        match (self.ahead[0] >> 24) as u8 {
            END..TAIL => 0,
            _ if self.filter == NONE => 0,
            _ => 1 << (self.ahead[0] % 64),
        }
    }
}

impl Step<'_> {
    const fn last(code: u8) -> Self {
        Self { code, word: NO_LEVEL, hash: code as u64 % 64, long: &[] }
    }

    /// In [`Node::steps`].
    const fn bit(&self) -> u64 {
        1 << (self.hash % 64)
    }

    /// In [`Held::ahead`].
    const fn ahead(&self) -> u32 {
        let hash = match self.code {
            0..END => self.hash as u32 & 0xff_ffff,
            END..TAIL => 0,
            _ => OTHERS,
        };
        (self.code as u32) << 24 | hash
    }

    /// Adds it to those that there are.
    const fn note(&self, last: &mut Last) {
        if self.code >= END {
            last[self.code as usize / 64 - 1] |= self.bit();
        }
    }
}

impl<'a> Steps<'a> {
    const fn of(key: HashKey, filter: &'a [u8]) -> Self {
        Self { key, filter, at: 0, position: 0, ended: false }
    }

    /// Two of the steps to come in this stretch, as in [`Held::ahead`]: if one is a level, the first
    /// is the last level that is not known yet, or the last one, for that is likely to be the rarest.
    fn ahead(&self, known: &KnownLevels) -> [u32; 2] {
        let rest = Self { ..*self };
        let (mut next, mut rare, mut is_rare) = (NONE, NONE, false);
        for step in rest {
            let ahead = step.ahead();
            if step.code >= END {
                return match next {
                    NONE => [ahead, NONE],
                    _ if next == rare => [rare, if step.code == DEEPER { NONE } else { ahead }],
                    _ => [rare, next],
                };
            }
            next = if next == NONE { ahead } else { next };
            let is_unknown = !known.has(usize::from(step.code), step.hash);
            if is_unknown || !is_rare {
                (rare, is_rare) = (ahead, is_unknown);
            }
        }
        [NONE; 2]
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        while !self.ended {
            let last = (self.position as u8).saturating_sub(1);
            if self.at > self.filter.len() {
                self.ended = true;
                return Some(Step::last(END + last));
            }
            if self.filter[self.at..] == *b"#" {
                self.ended = true;
                return Some(Step::last(TAIL + last));
            }
            if self.position == LEVELS_KEPT {
                self.position = 0;
                return Some(Step::last(DEEPER));
            }
            let (hash, end) = self.key.level(self.position, self.filter, self.at);
            let level = &self.filter[self.at..end];
            let code = self.position as u8;
            self.at = end + 1;
            self.position += 1;
            if level != b"+" {
                let word = word_of(level, hash);
                let long = if is_long(word) { level } else { &[] };
                return Some(Step { code, word, hash, long });
            }
        }
        None
    }
}

/// An edge from a node by a step of this code.
#[inline]
const fn edge(node: u32, code: u8) -> u64 {
    (node as u64) << 8 | code as u64
}

/// Whether a filter ends with the step that it has ahead.
#[inline]
const fn is_last(ahead: u32) -> bool {
    matches!((ahead >> 24) as u8, END..DEEPER)
}

/// A level as it is compared: its bytes with a slash behind, or its hash above a zero if it is too long.
#[inline]
fn word_of(level: &[u8], hash: u64) -> u64 {
    if level.len() > 7 { hash << 8 } else { HashKey::word(level) }
}

/// Whether a word stands for more levels than one.
#[inline]
const fn is_long(word: u64) -> bool {
    word as u8 == 0
}

/// Whether the filter matches the topic, by their bytes.
///
/// A topic holds neither wildcards nor zeros, so a run of equal bytes ends at a wildcard, at a
/// difference, or where one of the texts ends.
pub(crate) fn matches(filter: &[u8], topic: &[u8]) -> bool {
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

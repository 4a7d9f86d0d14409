//! One hashed timer wheel per shard, in virtual milliseconds.
//!
//! An entry goes into the slot of the first tick at or after its deadline, modulo the number of
//! slots; entries of later rounds wait in the same slot. The wheel cannot cancel: the owner looks
//! at the real deadline when an entry fires, and inserts again if it has moved. It never reads a
//! clock. No entry fires early; each fires in the first [`Wheel::expire`] of a later tick.

/// Entries of type `T` by deadline.
///
/// *Units*: milliseconds since whatever origin the owner chose.
/// *Bounds*: 8 bytes per entry beside the item itself, and at most three entries unused for each
/// one in use.
#[derive(Debug)]
pub struct Wheel<T: Copy> {
    slots: Box<[Slot]>,
    nodes: Nodes<T>,
    tick_ms: u64,
    /// The first tick that has not been expired.
    cursor: u64,
    /// The earliest tick that any entry waits for; `NEVER` if there is none.
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The newest entry, or [`NONE`].
    head: u32,
    /// The earliest tick in this slot; `NEVER` if it is empty.
    first: u64,
}

/// All entries, linked by slot; in chunks, so that growing copies nothing.
#[derive(Debug)]
struct Nodes<T> {
    chunks: Vec<Box<[Node<T>]>>,
    /// The first free one, or [`NONE`].
    free: u32,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Node<T> {
    item: T,
    /// Which round of the wheel it waits for: with the slot, that is its tick.
    round: u32,
    next: u32,
}

const NEVER: u64 = u64::MAX;
const NONE: u32 = u32::MAX;

/// Entries that are allocated together.
const CHUNK: usize = 64;

/// So few chunks are kept even if they are empty.
const CHUNKS_KEPT: usize = 4;

impl<T: Copy> Wheel<T> {
    /// An empty wheel that begins at `now_ms`.
    ///
    /// *Bounds*: `tick_ms` and `slots` of zero count as one. A deadline beyond `tick_ms * slots`
    /// is fine, it is only looked at once per round.
    #[must_use]
    pub fn new(now_ms: u64, tick_ms: u64, slots: usize) -> Self {
        let tick_ms = tick_ms.max(1);
        Self {
            slots: vec![Slot { head: NONE, first: NEVER }; slots.max(1)].into(),
            nodes: Nodes::new(),
            tick_ms,
            cursor: now_ms / tick_ms,
            next: NEVER,
        }
    }

    /// Adds an entry; one whose deadline has passed fires with the next tick, one that is more than
    /// 2^32 rounds away in the last of them.
    pub fn insert(&mut self, at_ms: u64, item: T) {
        // NEVER marks emptiness, so the last tick of all is not used.
        let tick = at_ms.div_ceil(self.tick_ms).max(self.cursor).min(NEVER - 1);
        let slots = self.slots.len() as u64;
        let round = u32::try_from(tick / slots).unwrap_or(u32::MAX);
        let tick = u64::from(round) * slots + tick % slots;
        let slot = &mut self.slots[(tick % slots) as usize];
        slot.head = self.nodes.insert(Node { item, round, next: slot.head });
        slot.first = slot.first.min(tick);
        self.next = self.next.min(tick);
    }

    /// Moves every entry that is due at `now_ms` into `due`, each once.
    ///
    /// The order is the same in every run with the same inputs, and is not the deadlines' order
    /// within a tick or when more than one round went by.
    ///
    /// *Cost*: constant while nothing is due; else at most one visit to each slot.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<T>) {
        let now = (now_ms / self.tick_ms).min(NEVER - 1);
        if now < self.cursor {
            return;
        }
        if self.next <= now {
            let slots = self.slots.len() as u64;
            // Nothing waits before `next`, so ticks up to it need no visit.
            let from = self.next.max(self.cursor);
            for step in 0..=(now - from).min(slots - 1) {
                self.take((from + step) % slots, now, due);
            }
            self.cursor = now + 1;
            self.next = self.earliest();
            self.shrink();
        } else {
            self.cursor = now + 1;
        }
    }

    /// The earliest time at which [`Self::expire`] will yield an entry; `None` if there is none.
    ///
    /// At or after the earliest deadline, by less than one tick (unless it had already passed
    /// when it was inserted).
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        (self.next != NEVER).then(|| self.next.saturating_mul(self.tick_ms))
    }

    /// How many entries wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len
    }

    /// True if no entry waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.len == 0
    }

    /// Looks for the earliest tick from the cursor on: the first slot of this round ends it.
    fn earliest(&self) -> u64 {
        if self.is_empty() {
            return NEVER;
        }
        let slots = self.slots.len() as u64;
        let mut best = NEVER;
        for tick in (self.cursor..).take(self.slots.len()) {
            best = best.min(self.slots[(tick % slots) as usize].first);
            if best <= tick {
                break;
            }
        }
        best
    }

    /// Moves what is due in a slot into `due`, oldest last.
    fn take(&mut self, slot: u64, now: u64, due: &mut Vec<T>) {
        let slots = self.slots.len() as u64;
        let place = &mut self.slots[slot as usize];
        if place.first > now {
            return;
        }
        let (mut at, mut kept, mut first) = (place.head, NONE, NEVER);
        while at != NONE {
            let node = *self.nodes.get(at);
            let tick = u64::from(node.round) * slots + slot;
            if tick <= now {
                due.push(node.item);
                self.nodes.remove(at);
            } else {
                first = first.min(tick);
                self.nodes.get_mut(at).next = kept;
                kept = at;
            }
            at = node.next;
        }
        *place = Slot { head: kept, first };
    }

    /// Gives memory back when most of it is unused, by moving what is left together.
    fn shrink(&mut self) {
        if self.nodes.len * 4 >= self.nodes.chunks.len() * CHUNK
            || self.nodes.chunks.len() <= CHUNKS_KEPT
        {
            return;
        }
        let mut packed = Nodes::new();
        for slot in &mut self.slots {
            let mut at = std::mem::replace(&mut slot.head, NONE);
            while at != NONE {
                let node = *self.nodes.get(at);
                slot.head = packed.insert(Node { next: slot.head, ..node });
                at = node.next;
            }
        }
        self.nodes = packed;
    }
}

impl<T: Copy> Nodes<T> {
    const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }

    fn insert(&mut self, node: Node<T>) -> u32 {
        if self.free == NONE {
            // All are in use: the new chunk's first is this one, the others are free.
            let first = (self.chunks.len() * CHUNK) as u32;
            let link = |nth| if nth + 1 == CHUNK as u32 { NONE } else { first + nth + 1 };
            let chunk = (0..CHUNK as u32).map(|nth| Node { next: link(nth), ..node });
            self.chunks.push(chunk.collect());
            self.free = first;
        }
        let at = self.free;
        let place = self.get_mut(at);
        let free = std::mem::replace(place, node).next;
        self.free = free;
        self.len += 1;
        at
    }

    fn remove(&mut self, at: u32) {
        self.get_mut(at).next = self.free;
        self.free = at;
        self.len -= 1;
    }

    fn get(&self, at: u32) -> &Node<T> {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn get_mut(&mut self, at: u32) -> &mut Node<T> {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What the wheel must do, by a map from the tick of firing to the items.
    struct Model {
        waiting: BTreeMap<(u64, u32), ()>,
        tick_ms: u64,
        cursor: u64,
    }

    impl Model {
        fn insert(&mut self, at_ms: u64, item: u32) {
            let tick = at_ms.div_ceil(self.tick_ms).max(self.cursor);
            self.waiting.insert((tick, item), ());
        }

        fn expire(&mut self, now_ms: u64) -> Vec<u32> {
            let now = now_ms / self.tick_ms;
            let later = self.waiting.split_off(&(now + 1, 0));
            self.cursor = self.cursor.max(now + 1);
            std::mem::replace(&mut self.waiting, later).into_keys().map(|key| key.1).collect()
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_000_u64).prop_map(Step::Insert),
            1 => (0..1_000_000_u64).prop_map(Step::Insert),
            4 => (0..40_u64).prop_map(Step::Advance),
            1 => (0..5_000_u64).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn wheel_fires_what_the_ordered_map_fires(
            start in 0..10_000_u64,
            tick_ms in 1..50_u64,
            slots in 1..70_usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut wheel = Wheel::new(start, tick_ms, slots);
            let mut model = Model { waiting: BTreeMap::new(), tick_ms, cursor: start / tick_ms };
            let mut deadlines = BTreeMap::new();
            let mut now = start;
            let mut due = Vec::new();
            for (item, step) in steps.iter().enumerate() {
                match *step {
                    Step::Insert(after) => {
                        // Some deadlines have passed when they are inserted.
                        let at = (now + after).saturating_sub(50);
                        wheel.insert(at, item as u32);
                        model.insert(at, item as u32);
                        deadlines.insert(item as u32, at);
                    }
                    Step::Advance(by) => {
                        now += by;
                        due.clear();
                        wheel.expire(now, &mut due);
                        for item in &due {
                            prop_assert!(deadlines[item] <= now, "fired early");
                        }
                        due.sort_unstable();
                        let mut expected = model.expire(now);
                        expected.sort_unstable();
                        prop_assert_eq!(&due, &expected);
                    }
                }
                prop_assert_eq!(wheel.len(), model.waiting.len());
                let next = model.waiting.keys().next().map(|key| key.0 * tick_ms);
                prop_assert_eq!(wheel.next_ms(), next);
            }
        }
    }

    #[test]
    fn entries_fire_at_most_one_tick_late_and_never_early() {
        let mut wheel = Wheel::new(0, 10, 8);
        let mut due = Vec::new();
        wheel.insert(25, 'a');
        wheel.expire(25, &mut due);
        assert!(due.is_empty());
        assert_eq!(wheel.next_ms(), Some(30));
        wheel.expire(30, &mut due);
        assert_eq!(due, ['a']);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn the_end_of_time_is_harmless() {
        let mut wheel = Wheel::new(0, 1, 16);
        let mut due = Vec::new();
        wheel.insert(u64::MAX, 1);
        wheel.insert(5, 2);
        wheel.expire((15 << 32) - 2, &mut due);
        assert_eq!(due, [2]);
        wheel.expire(u64::MAX, &mut due);
        assert_eq!(due, [2, 1]);
        wheel.insert(7, 3);
        assert_eq!(wheel.len(), 1);
    }

    #[test]
    fn time_that_runs_backwards_fires_nothing() {
        let mut wheel = Wheel::new(1_000, 10, 8);
        let mut due = Vec::new();
        wheel.insert(0, 1);
        wheel.expire(500, &mut due);
        assert!(due.is_empty());
        wheel.expire(1_000, &mut due);
        assert_eq!(due, [1]);
    }

    #[test]
    fn entries_that_are_gone_give_their_memory_back() {
        let mut wheel = Wheel::new(0, 1, 4);
        for at in 0..10_000 {
            wheel.insert(at, at);
        }
        let mut due = Vec::new();
        wheel.expire(9_899, &mut due);
        let held = wheel.nodes.chunks.len() * CHUNK;
        assert!(held <= 400, "{held} entries' worth for {} entries", wheel.len());
        wheel.expire(10_000, &mut due);
        assert_eq!(due.len(), 10_000);
        assert!(wheel.nodes.chunks.len() <= CHUNKS_KEPT);
    }
}

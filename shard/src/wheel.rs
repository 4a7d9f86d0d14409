//! One hashed timer wheel per shard, in virtual milliseconds.
//!
//! An entry goes into the slot of the first tick at or after its deadline, modulo the number of
//! slots; entries of later rounds wait in the same slot. The wheel cannot cancel: the owner looks
//! at the real deadline when an entry fires, and inserts again if it has moved. It never reads a
//! clock. No entry fires early; each fires in the first [`Wheel::expire`] of a later tick.

/// Entries of type `T` by deadline.
///
/// *Units*: milliseconds since whatever origin the owner chose.
#[derive(Debug)]
pub struct Wheel<T: Copy> {
    slots: Box<[Slot<T>]>,
    tick_ms: u64,
    /// The first tick that has not been expired.
    cursor: u64,
    /// The earliest tick that any entry waits for; `NEVER` if there is none.
    next: u64,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    entries: Vec<Entry<T>>,
    /// The earliest tick in this slot; `NEVER` if it is empty.
    first: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry<T> {
    tick: u64,
    item: T,
}

const NEVER: u64 = u64::MAX;

/// A slot that keeps this few entries' worth of memory is left alone.
const CAPACITY_KEPT: usize = 16;

impl<T: Copy> Wheel<T> {
    /// An empty wheel that begins at `now_ms`.
    ///
    /// *Bounds*: `tick_ms` and `slots` of zero count as one. A deadline beyond `tick_ms * slots`
    /// is fine, it is only looked at once per round.
    #[must_use]
    pub fn new(now_ms: u64, tick_ms: u64, slots: usize) -> Self {
        let tick_ms = tick_ms.max(1);
        Self {
            slots: (0..slots.max(1)).map(|_| Slot { entries: Vec::new(), first: NEVER }).collect(),
            tick_ms,
            cursor: now_ms / tick_ms,
            next: NEVER,
            len: 0,
        }
    }

    /// Adds an entry; one whose deadline has passed fires with the next tick.
    pub fn insert(&mut self, at_ms: u64, item: T) {
        // NEVER marks emptiness, so the last tick of all is not used.
        let tick = at_ms.div_ceil(self.tick_ms).max(self.cursor).min(NEVER - 1);
        let index = (tick % self.slots.len() as u64) as usize;
        let slot = &mut self.slots[index];
        slot.entries.push(Entry { tick, item });
        slot.first = slot.first.min(tick);
        self.next = self.next.min(tick);
        self.len += 1;
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
                let taken = self.slots[((from + step) % slots) as usize].take(now, due);
                self.len -= taken;
            }
            self.cursor = now + 1;
            self.next = self.earliest();
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
        self.len
    }

    /// True if no entry waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Looks for the earliest tick from the cursor on: the first slot of this round ends it.
    fn earliest(&self) -> u64 {
        if self.len == 0 {
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
}

impl<T: Copy> Slot<T> {
    /// Moves what is due into `due` and gives memory back; how many entries left.
    fn take(&mut self, now: u64, due: &mut Vec<T>) -> usize {
        if self.first > now {
            return 0;
        }
        let before = self.entries.len();
        let mut first = NEVER;
        self.entries.retain(|entry| {
            if entry.tick <= now {
                due.push(entry.item);
            } else {
                first = first.min(entry.tick);
            }
            entry.tick > now
        });
        self.first = first;
        let len = self.entries.len();
        if self.entries.capacity() > CAPACITY_KEPT.max(len * 4) {
            self.entries.shrink_to(len * 2);
        }
        if len == 0 {
            self.entries = Vec::new();
        }
        before - len
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
        wheel.expire(u64::MAX - 2, &mut due);
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
    fn empty_slots_give_their_memory_back() {
        let mut wheel = Wheel::new(0, 1, 4);
        for at in 0..10_000 {
            wheel.insert(at, at);
        }
        let mut due = Vec::new();
        wheel.expire(9_899, &mut due);
        let held: usize = wheel.slots.iter().map(|slot| slot.entries.capacity()).sum();
        assert!(held <= 400, "{held} entries' worth for 100 entries");
        wheel.expire(10_000, &mut due);
        assert_eq!(due.len(), 10_000);
        assert!(wheel.slots.iter().all(|slot| slot.entries.capacity() == 0));
    }
}

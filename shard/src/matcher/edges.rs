//! The edges of a trie by their hashes: open addressing with no gaps left behind.

/// The nodes that edges lead to, by the hash of the edge.
///
/// *Bounds*: 16 to 24 bytes for each, and 64 bytes.
#[derive(Debug, Default)]
pub(super) struct Edges {
    slots: Box<[Slot]>,
    len: usize,
}

/// The upper half of a hash, and a node, which is not zero; or zeros.
type Slot = [u32; 2];

const SLOTS_MIN: usize = 8;

impl Edges {
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// What `right` says of the first node of a hash that it knows; it may be asked for zero too.
    #[inline(always)]
    pub(super) fn find<T>(&self, hash: u64, right: impl Fn(u32) -> Option<T>) -> Option<T> {
        let upper = upper(hash);
        let mut at = self.home(upper);
        loop {
            let slot = self.slots.get(at)?;
            if slot[0] == upper {
                let found = right(slot[1]);
                if found.is_some() {
                    return found;
                }
            }
            if slot[1] == 0 {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Adds a node that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, node: u32) {
        if (self.len + 1) * 2 > self.slots.len() {
            self.resize((self.slots.len() + self.slots.len() / 4).max(SLOTS_MIN));
        }
        self.len += 1;
        self.put([upper(hash), node]);
    }

    /// Removes a node, if it is there.
    pub(super) fn remove(&mut self, hash: u64, node: u32) {
        let slot = [upper(hash), node];
        let mut at = self.home(slot[0]);
        while self.slots.get(at).is_some_and(|&other| other != slot && other[1] != 0) {
            at = self.after(at);
        }
        if self.slots.get(at).is_none_or(|&slot| slot[1] == 0) {
            return;
        }
        self.len -= 1;
        // What follows without a gap moves up, unless that were in front of its home.
        let (mut gap, slots) = (at, self.slots.len());
        let steps = |from: usize, to: usize| if to < from { to + slots - from } else { to - from };
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot[1] == 0 {
                break;
            }
            if steps(self.home(slot[0]), at) >= steps(gap, at) {
                self.slots[gap] = slot;
                gap = at;
            }
        }
        self.slots[gap] = [0; 2];
        if self.len * 3 < self.slots.len() && self.slots.len() > SLOTS_MIN {
            self.resize((self.slots.len() - self.slots.len() / 4).max(SLOTS_MIN));
        }
    }

    /// Copies everything to so many slots.
    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![[0; 2]; slots].into());
        old.into_iter().filter(|slot| slot[1] != 0).for_each(|slot| self.put(slot));
    }

    fn put(&mut self, slot: Slot) {
        let mut at = self.home(slot[0]);
        while self.slots[at][1] != 0 {
            at = self.after(at);
        }
        self.slots[at] = slot;
    }

    /// Where the nodes of a hash begin, by its upper half.
    #[inline]
    const fn home(&self, upper: u32) -> usize {
        ((upper as u64 * self.slots.len() as u64) >> 32) as usize
    }

    #[inline]
    const fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots.len() { at + 1 } else { 0 }
    }
}

#[inline]
const fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few hashes, so that nodes push each other on, over the end too.
        #[test]
        fn edges_are_a_set_of_pairs(
            steps in prop::collection::vec((any::<bool>(), 0..24_u64, 1..40_u32), 1..400),
        ) {
            let (mut edges, mut model) = (Edges::default(), BTreeSet::new());
            let hash = |of: u64| of.wrapping_mul(u64::MAX / 23);
            for (add, of, node) in steps {
                if !add {
                    edges.remove(hash(of), node);
                    model.remove(&(of, node));
                } else if model.insert((of, node)) {
                    edges.insert(hash(of), node);
                }
                prop_assert_eq!(edges.len(), model.len());
                for of in 0..24 {
                    for node in 1..40 {
                        let found = edges.find(hash(of), |other| (other == node).then_some(())).is_some();
                        prop_assert_eq!(found, model.contains(&(of, node)));
                    }
                }
            }
            prop_assert!(edges.slots.len() <= (edges.len() * 3 + 3).max(SLOTS_MIN));
        }
    }
}

//! Who is who: connections, sessions, shards and the slots that say where things live.

/// The number of slots. Client identifiers, topic names and share groups hash to a slot, and the
/// [`SlotMap`] says which shard is home; so the number of shards may change over a restart.
pub const SLOTS: u16 = 4096;

/// A connection of one shard. The index is dense and reused, the generation tells uses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Position in the shard's table.
    pub index: u32,
    /// Which use of that position.
    pub generation: u32,
}

/// The number of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardIndex(pub u16);

/// A session somewhere in the process. A stale reference is recognised by its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    /// The session's home.
    pub shard: ShardIndex,
    /// Position in the home's table.
    pub index: u32,
    /// Which use of that position.
    pub generation: u32,
}

/// A slot, below [`SLOTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot of a client identifier, a topic name or a share group, given as bytes.
    ///
    /// The hash has a fixed key and must never change: stored records are keyed by it.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = fnv1a(bytes);
        // Folded, since the low bits of FNV alone are weak on short inputs.
        let folded = hash ^ (hash >> 29) ^ (hash >> 47);
        Self((folded % u64::from(SLOTS)) as u16)
    }
}

/// Which shard is home to each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMap {
    shards: u16,
}

impl SlotMap {
    /// Spreads the slots evenly over `shards` shards, at least one and at most [`SLOTS`].
    #[must_use]
    pub fn even(shards: u16) -> Self {
        Self { shards: shards.clamp(1, SLOTS) }
    }

    /// The number of shards.
    #[must_use]
    pub const fn shards(&self) -> u16 {
        self.shards
    }

    /// The home of a slot.
    #[must_use]
    pub const fn home(&self, slot: Slot) -> ShardIndex {
        ShardIndex(slot.0 % self.shards)
    }

    /// The home of a client identifier, a topic name or a share group, given as bytes.
    #[must_use]
    pub fn home_of(&self, bytes: &[u8]) -> ShardIndex {
        self.home(Slot::of(bytes))
    }
}

/// FNV-1a with 64 bits: short, and the same on every machine and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_sequential_names_spread_over_the_shards() {
        let map = SlotMap::even(8);
        let mut per_shard = [0u32; 8];
        for n in 0..80_000 {
            let home = map.home_of(format!("device-{n}").as_bytes());
            per_shard[usize::from(home.0)] += 1;
        }
        assert!(per_shard.iter().all(|&count| (9_000..11_000).contains(&count)), "{per_shard:?}");
    }

    #[test]
    fn the_slot_of_a_name_never_changes() {
        assert_eq!([Slot::of(b"a"), Slot::of(b"client-1")], [Slot(47), Slot(1187)]);
    }
}

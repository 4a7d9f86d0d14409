//! Keyed hashes of topic levels, taken once per topic and combined for every mask.
//!
//! The hash of a level depends on a secret key, on the bytes and on the level's position. The
//! fingerprint of a set of levels is the sum of their hashes, so running sums over the topic give
//! the fingerprint of any prefix at once, and a `+` costs one subtraction.
//!
//! The key is chosen by the owner of the process, at random and once: whoever does not know it
//! cannot aim collisions. Nothing here may leave the process; the hashes are no checksums.

/// The secret that all hashes of one process depend on.
#[derive(Clone, Copy)]
pub struct HashKey {
    seed: u64,
    first: u64,
    second: u64,
    salt: u64,
}

/// How many levels of a topic are kept for masks; deeper ones are only summed up.
pub const LEVELS_KEPT: usize = 60;

/// The hashes of one topic's levels: scratch that is filled once per topic and never allocates.
///
/// *Bounds*: any topic; the first [`LEVELS_KEPT`] levels are kept one by one, the rest as a sum.
#[derive(Clone)]
pub struct TopicLevels {
    /// `sums[i]` is the sum of the hashes of the first `i` levels.
    sums: [u64; LEVELS_KEPT + 1],
    /// Where each level ends in the topic's bytes.
    ends: [u32; LEVELS_KEPT],
    /// The sum over all levels, kept or not.
    whole: u64,
    count: u32,
    is_system: bool,
}

/// Odd, so that each position starts from another state.
const POSITION_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl HashKey {
    /// Spreads 128 secret bits over the constants of the hash.
    #[must_use]
    pub const fn new(key: [u64; 2]) -> Self {
        let [low, high] = key;
        Self {
            seed: spread(low),
            first: spread(high) | 1,
            second: spread(low ^ high.rotate_left(32) ^ POSITION_STEP) | 1,
            salt: spread(low.wrapping_add(POSITION_STEP) ^ spread(high.wrapping_add(1))),
        }
    }

    /// The hash of the level that starts at byte `at`, and where it ends: at a slash or at the end.
    ///
    /// *Cost*: two multiplications for a level of up to 7 bytes, one more per further 8 bytes.
    #[inline(always)]
    #[must_use]
    pub fn level(&self, position: usize, text: &[u8], at: usize) -> (u64, usize) {
        let mut state = self.seed.wrapping_add((position as u64).wrapping_mul(POSITION_STEP));
        let mut at = at;
        loop {
            let word = load(text, at);
            let slashes = slashes(word);
            if slashes == 0 {
                state = fold(state ^ word, self.first);
                at += 8;
                continue;
            }
            let taken = slashes.trailing_zeros() / 8;
            let before_slash = ((slashes & slashes.wrapping_neg()) >> 7) - 1;
            // The top byte is free, so the count of bytes makes the padding unambiguous.
            let last = (word & before_slash) | (u64::from(taken) << 56);
            let hash = fold(fold(state ^ last, self.first) ^ self.salt, self.second);
            return (hash, at + taken as usize);
        }
    }

    /// What is added to the sum of the literal levels, so that each mask has its own fingerprints.
    #[must_use]
    pub fn salt(&self, plus: u64, len: u8, tail: bool) -> u64 {
        let shape = (u64::from(len) << 1) | u64::from(tail);
        fold(fold(plus ^ self.salt, self.first) ^ shape ^ self.seed, self.second)
    }

    /// Added to the sum of all levels of a filter without wildcards.
    #[inline]
    #[must_use]
    pub const fn exact_salt(&self) -> u64 {
        self.salt
    }

    /// A keyed hash of any bytes.
    ///
    /// *Cost*: one multiplication per 8 bytes and two more.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let step = |state: u64, word: &[u8; 8]| fold(state ^ u64::from_le_bytes(*word), self.first);
        let state = words.iter().fold(self.seed ^ bytes.len() as u64, step);
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        fold(fold(state ^ u64::from_le_bytes(last), self.first) ^ self.salt, self.second)
    }

    /// A keyed hash of two numbers.
    #[inline]
    #[must_use]
    pub fn pair(&self, left: u64, right: u64) -> u64 {
        fold((left ^ self.seed).wrapping_add(right.wrapping_mul(POSITION_STEP)), self.first)
    }
}

/// Hides the secret.
impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl TopicLevels {
    /// Empty scratch, to be filled by [`Self::assign`].
    #[must_use]
    pub const fn new() -> Self {
        Self {
            sums: [0; LEVELS_KEPT + 1],
            ends: [0; LEVELS_KEPT],
            whole: 0,
            count: 0,
            is_system: false,
        }
    }

    /// The levels of one topic; on a hot path keep one and [`Self::assign`] to it.
    #[must_use]
    pub fn of(key: &HashKey, topic: &[u8]) -> Self {
        let mut levels = Self::new();
        levels.assign(key, topic);
        levels
    }

    /// Replaces what is held by the levels of `topic`.
    ///
    /// *Cost*: one pass over the bytes, about 20 instructions per short level, no allocation.
    pub fn assign(&mut self, key: &HashKey, topic: &[u8]) {
        let (mut at, mut position, mut sum) = (0, 0, 0_u64);
        loop {
            let (hash, end) = key.level(position, topic, at);
            sum = sum.wrapping_add(hash);
            if position < LEVELS_KEPT {
                self.sums[position + 1] = sum;
                self.ends[position] = end as u32;
            }
            position += 1;
            if end >= topic.len() {
                break;
            }
            at = end + 1;
        }
        self.whole = sum;
        self.count = position as u32;
        self.is_system = topic.first() == Some(&b'$');
    }

    /// How many levels the topic has; at least one once it was assigned.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// True for a topic that no leading wildcard matches ([MQTT5-4.7.2-1], [MQTT311-4.7.2-1]).
    #[inline]
    #[must_use]
    pub const fn is_system(&self) -> bool {
        self.is_system
    }

    /// The sum over all levels.
    #[inline]
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.whole
    }

    /// The sum over the first `len` levels; `len` is at most [`LEVELS_KEPT`] and the count.
    #[inline]
    pub(crate) fn prefix(&self, len: usize) -> u64 {
        self.sums[len]
    }

    /// The hash of a kept level.
    #[inline]
    pub(crate) fn level(&self, position: usize) -> u64 {
        self.sums[position + 1].wrapping_sub(self.sums[position])
    }

    /// Where a kept level starts.
    #[inline]
    pub(crate) fn start(&self, position: usize) -> usize {
        if position == 0 { 0 } else { self.ends[position - 1] as usize + 1 }
    }

    /// Where a kept level ends.
    #[inline]
    pub(crate) fn end(&self, position: usize) -> usize {
        self.ends[position] as usize
    }
}

impl Default for TopicLevels {
    fn default() -> Self {
        Self::new()
    }
}

/// Multiplies to 128 bits and folds the halves together.
#[inline]
const fn fold(left: u64, right: u64) -> u64 {
    let product = left as u128 * right as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// A bijection in which every bit of the input reaches every bit of the output.
const fn spread(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

const ONES: u64 = u64::MAX / 255;
const SLASH: u64 = b'/' as u64;

/// The 8 bytes from `at` on; where the text ends, a slash and zeros follow.
#[inline(always)]
fn load(text: &[u8], at: usize) -> u64 {
    if let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        return u64::from_le_bytes(*word);
    }
    last(text, at)
}

#[inline(never)]
fn last(text: &[u8], at: usize) -> u64 {
    let left = text.len().saturating_sub(at);
    if left == 0 {
        return SLASH;
    }
    // Near the end of a longer text the last 8 bytes hold what is left, without a loop.
    let word = match text.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word) >> ((8 - left) * 8),
        None => text[at..].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    word | SLASH << (left * 8)
}

/// The top bit of the first byte that is a slash, and perhaps of later ones; zero if there is none.
#[inline]
const fn slashes(word: u64) -> u64 {
    let zero_where_slash = word ^ (ONES * SLASH);
    zero_where_slash.wrapping_sub(ONES) & !zero_where_slash & (ONES << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: HashKey = HashKey::new([1, 2]);

    fn split(topic: &[u8]) -> Vec<&[u8]> {
        topic.split(|&byte| byte == b'/').collect()
    }

    fn hash(position: usize, level: &[u8]) -> u64 {
        KEY.level(position, level, 0).0
    }

    proptest! {
        #[test]
        fn levels_are_cut_at_slashes_and_hash_like_lone_ones(
            topic in "[a-c/é0-9]{0,40}|/{0,200}|[a-z]{20,30}(/[a-z]{0,20}){0,5}",
        ) {
            let topic = topic.as_bytes();
            let levels = TopicLevels::of(&KEY, topic);
            let expected = split(topic);
            prop_assert_eq!(levels.count(), expected.len());
            let mut sum = 0_u64;
            for (position, level) in expected.iter().enumerate() {
                let lone = hash(position, level);
                sum = sum.wrapping_add(lone);
                if position < LEVELS_KEPT {
                    prop_assert_eq!(levels.level(position), lone);
                    prop_assert_eq!(levels.prefix(position + 1), sum);
                    prop_assert_eq!(&topic[levels.start(position)..levels.end(position)], *level);
                }
            }
            prop_assert_eq!(levels.whole(), sum);
        }
    }

    #[test]
    fn hash_depends_on_bytes_position_and_key() {
        let words: [&[u8]; 9] =
            [b"", b"a", b"aa", b"a\x01", b"1234567", b"12345678", b"123456789", b"b", b"\x01a"];
        let mut seen = std::collections::HashSet::new();
        for position in 0..70 {
            for word in words {
                assert!(seen.insert(hash(position, word)));
                assert!(seen.insert(HashKey::new([1, 3]).level(position, word, 0).0));
                assert!(seen.insert(HashKey::new([2, 2]).level(position, word, 0).0));
            }
        }
    }

    #[test]
    fn sums_of_related_levels_do_not_collide() {
        // Numbered devices and sensors: what one level gains another loses.
        let mut seen = std::collections::HashSet::new();
        for left in 0..300 {
            for right in 0..300 {
                let topic = format!("{left}/{right}");
                assert!(seen.insert(TopicLevels::of(&KEY, topic.as_bytes()).whole()));
            }
        }
    }

    #[test]
    fn the_deepest_topic_is_one_pass() {
        let topic = vec![b'/'; 65_535];
        let levels = TopicLevels::of(&KEY, &topic);
        assert_eq!(levels.count(), 65_536);
    }

    #[test]
    fn dollar_topics_are_system_topics() {
        assert!(TopicLevels::of(&KEY, b"$SYS/a").is_system());
        assert!(!TopicLevels::of(&KEY, b"a/$SYS").is_system());
    }
}

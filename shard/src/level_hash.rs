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
pub const LEVELS_KEPT: usize = 64;

/// The hashes of one topic's levels: scratch that is filled once per topic and never allocates.
///
/// *Bounds*: any topic; the first [`LEVELS_KEPT`] levels are kept one by one, the rest as a sum.
#[derive(Clone)]
pub struct TopicLevels {
    /// `sums[i]` is the sum of the hashes of the first `i` levels.
    sums: [u64; LEVELS_KEPT + 1],
    /// The hash of each level, and zero for one that there is not.
    hashes: [u64; 2 * LEVELS_KEPT],
    /// The word of each level; what is behind them is of other topics.
    words: [u64; LEVELS_KEPT],
    /// Where each level starts in the topic's bytes, and one after the last.
    starts: [u32; LEVELS_KEPT + 1],
    /// The sum over all levels, kept or not.
    whole: u64,
    count: u32,
    is_system: bool,
}

/// Which levels there are at each position, and perhaps some more: a set that forgets nothing.
///
/// By six bits of the hash that begin where a byte does, so that they need no shift, and that the trie
/// does not look at in its nodes.
#[derive(Debug)]
pub(crate) struct KnownLevels([u64; LEVELS_KEPT]);

/// Odd, so that what is multiplied by it stays as many.
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
    /// A level is hashed with the slash behind it and zeros up to a whole word. Texts have no zeros
    /// ([MQTT5-1.5.4-2], [MQTT311-1.5.3-2]), so no two levels look the same.
    ///
    /// *Cost*: one multiplication per 16 bytes.
    #[inline]
    #[must_use]
    pub fn level(&self, position: usize, text: &[u8], at: usize) -> (u64, usize) {
        let factor = self.salt.wrapping_add(self.second.wrapping_mul(position as u64));
        let ending = ending(text);
        let even = word(text, at, ending);
        match slashes(even) {
            0 => self.long_level(factor, even, text, at + 8, ending),
            slashes => (fold(level_of(even, slashes), factor), at + bytes(slashes)),
        }
    }

    /// The hash of a level that fits in a word with its slash.
    pub(crate) const fn level_of_word(&self, position: usize, word: u64) -> u64 {
        fold(word, self.salt.wrapping_add(self.second.wrapping_mul(position as u64)))
    }

    /// The bytes of a level of up to 7 with a slash behind, as it is hashed.
    pub(crate) fn word(level: &[u8]) -> u64 {
        word(level, 0, ending(level))
    }

    /// The hash of a level that begins with the eight bytes `even` and goes on at byte `at`, and where it
    /// ends; with the factor of its position and the ending of the text.
    #[inline(always)]
    fn long_level(
        &self,
        factor: u64,
        even: u64,
        text: &[u8],
        at: usize,
        ending: u64,
    ) -> (u64, usize) {
        let odd = word(text, at, ending);
        match slashes(odd) {
            0 => {
                let state = fold(even ^ self.seed, odd ^ factor);
                self.longer_level(state, factor, text, at + 8)
            }
            slashes => {
                let hash = fold(even ^ self.seed, level_of(odd, slashes) ^ factor);
                (hash, at + bytes(slashes))
            }
        }
    }

    /// What is left of a level that has 16 bytes at least.
    #[inline(never)]
    fn longer_level(&self, state: u64, factor: u64, text: &[u8], at: usize) -> (u64, usize) {
        let ending = ending(text);
        let (mut state, mut at) = (state, at);
        loop {
            let word = word(text, at, ending);
            let slashes = slashes(word);
            if slashes != 0 {
                return (fold(state ^ level_of(word, slashes), factor), at + bytes(slashes));
            }
            state = fold(state ^ word, factor);
            at += 8;
        }
    }

    /// What is added to the sum of the literal levels, so that each mask has its own fingerprints.
    #[must_use]
    pub fn salt(&self, plus: u64, extent: u16) -> u64 {
        fold(fold(plus ^ self.salt, self.first) ^ u64::from(extent) ^ self.seed, self.second)
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
    pub(crate) const fn pair(&self, left: u64, right: u64) -> u64 {
        self.with_right(self.left(left), right)
    }

    /// What there is of [`Self::pair`] without the one on the right.
    #[inline]
    pub(crate) const fn left(&self, left: u64) -> u64 {
        left.wrapping_add(self.seed)
    }

    /// The rest of it.
    #[inline]
    pub(crate) const fn with_right(&self, left: u64, right: u64) -> u64 {
        fold(left.wrapping_add(right.wrapping_mul(self.second)), self.first)
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
            hashes: [0; 2 * LEVELS_KEPT],
            words: [0; LEVELS_KEPT],
            starts: [0; LEVELS_KEPT + 1],
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
    /// *Cost*: one pass over the bytes, about 30 instructions per level, no allocation.
    pub fn assign(&mut self, key: &HashKey, topic: &[u8]) {
        let (mut at, mut sum, mut factor) = (0, 0_u64, key.salt);
        self.is_system = topic.first() == Some(&b'$');
        for position in 0..LEVELS_KEPT {
            let Some(even) = whole_word(topic, at) else {
                return self.assign_last(key, topic, at, position, sum, factor);
            };
            let slashes = slashes(even);
            let hash;
            if slashes != 0 {
                // The slash is one of the topic's, so there is another level.
                let word = level_of(even, slashes);
                self.words[position] = word;
                hash = fold(word, factor);
                at += bytes(slashes) + 1;
            } else {
                let end;
                (hash, end) = key.long_level(factor, even, topic, at + 8, ending(topic));
                self.words[position] = hash << 8;
                at = end + 1;
            }
            self.hashes[position] = hash;
            sum = sum.wrapping_add(hash);
            self.sums[position + 1] = sum;
            self.starts[position + 1] = at as u32;
            factor = factor.wrapping_add(key.second);
            if slashes == 0 && at > topic.len() {
                self.whole = sum;
                self.count = position as u32 + 1;
                return;
            }
        }
        self.assign_deep(key, topic, at);
    }

    /// The same for the levels from `position` on, which begin within the last word.
    #[inline(always)]
    fn assign_last(
        &mut self,
        key: &HashKey,
        topic: &[u8],
        at: usize,
        position: usize,
        sum: u64,
        factor: u64,
    ) {
        let (mut at, mut sum, mut factor) = (at, sum, factor);
        let mut left = last_word(topic, at, ending(topic));
        for position in position..LEVELS_KEPT {
            let slashes = slashes(left);
            let word = level_of(left, slashes);
            let hash = fold(word, factor);
            let bytes = bytes(slashes) + 1;
            at += bytes;
            sum = sum.wrapping_add(hash);
            self.words[position] = word;
            self.hashes[position] = hash;
            self.sums[position + 1] = sum;
            self.starts[position + 1] = at as u32;
            if at > topic.len() {
                self.whole = sum;
                self.count = position as u32 + 1;
                return;
            }
            left >>= 8 * bytes;
            factor = factor.wrapping_add(key.second);
        }
        self.assign_deep(key, topic, at);
    }

    /// Sums up the levels behind those that are kept, from byte `at` on.
    #[cold]
    fn assign_deep(&mut self, key: &HashKey, topic: &[u8], at: usize) {
        let (mut at, mut position) = (at, LEVELS_KEPT);
        self.whole = self.sums[LEVELS_KEPT];
        while at <= topic.len() {
            let (hash, end) = key.level(position, topic, at);
            self.whole = self.whole.wrapping_add(hash);
            position += 1;
            at = end + 1;
        }
        self.count = position as u32;
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
    pub(crate) const fn prefix(&self, len: usize) -> u64 {
        self.sums[len]
    }

    /// The hash of a kept level; zero from [`LEVELS_KEPT`] on.
    #[inline]
    pub(crate) const fn level(&self, position: usize) -> u64 {
        self.hashes[position % (2 * LEVELS_KEPT)]
    }

    /// The bytes of a kept level with the slash behind it; if they are more than a word, its hash above a
    /// zero.
    #[inline]
    pub(crate) const fn word(&self, position: usize) -> u64 {
        self.words[position]
    }

    /// Where a kept level starts.
    #[inline]
    pub(crate) const fn start(&self, position: usize) -> usize {
        self.starts[position] as usize
    }

    /// Where a kept level ends.
    #[inline]
    pub(crate) const fn end(&self, position: usize) -> usize {
        self.starts[position + 1] as usize - 1
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

impl KnownLevels {
    pub(crate) const fn new() -> Self {
        Self([0; LEVELS_KEPT])
    }

    /// Adds a level with this hash.
    pub(crate) const fn add(&mut self, position: usize, hash: u64) {
        self.0[position] |= 1 << (hash >> 8 & 63);
    }

    /// Whether a level is there or looks to be.
    #[inline]
    pub(crate) const fn has(&self, position: usize, hash: u64) -> bool {
        self.0[position] >> (hash >> 8 & 63) & 1 == 1
    }

    /// Which of a topic's kept levels are there or look to be, a bit for each.
    #[inline]
    pub(crate) fn among(&self, levels: &TopicLevels) -> u64 {
        let hashes = levels.hashes.iter().zip(&self.0).take(levels.count());
        hashes.rev().fold(0, |among, (hash, known)| among << 1 | known >> (hash >> 8 & 63) & 1)
    }
}

/// The 8 bytes that a text ends with; those in front of a shorter one are zeros.
#[inline]
fn ending(text: &[u8]) -> u64 {
    match text.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => text.iter().fold(0, |word, &byte| word >> 8 | u64::from(byte) << 56),
    }
}

/// The 8 bytes from `at` on of a text with that ending; behind its end a slash and zeros.
#[inline(always)]
fn word(text: &[u8], at: usize, ending: u64) -> u64 {
    whole_word(text, at).unwrap_or_else(|| last_word(text, at, ending))
}

/// The same, if there are fewer than 8.
#[inline(always)]
const fn last_word(text: &[u8], at: usize, ending: u64) -> u64 {
    let left = text.len().saturating_sub(at) * 8;
    (ending >> 8) >> (56 - left) | SLASH << left
}

/// The same, if there are 8.
#[inline(always)]
fn whole_word(text: &[u8], at: usize) -> Option<u64> {
    // So that the end cannot be beyond all numbers, which costs a look.
    let at = at as u32 as usize;
    let word = text.get(at..at + 8)?;
    Some(u64::from_le_bytes(word.try_into().unwrap_or_default()))
}

/// The top bit of the first byte that is a slash, and perhaps of later ones; zero if there is none.
#[inline]
const fn slashes(word: u64) -> u64 {
    let zero_where_slash = word ^ (ONES * SLASH);
    zero_where_slash.wrapping_sub(ONES) & !zero_where_slash & (ONES << 7)
}

/// How many bytes are in front of the first slash.
#[inline]
const fn bytes(slashes: u64) -> usize {
    slashes.trailing_zeros() as usize / 8
}

/// The bytes of a word up to its first slash, that included: its top bit is zero.
#[inline]
const fn level_of(word: u64, slashes: u64) -> u64 {
    word & slashes.wrapping_sub(1)
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
            topic in "[a-c/é0-9]{0,40}|/{0,200}|[a-z]{20,30}(/[a-z]{0,20}){0,5}\
                |([a-zé]{0,2}/){62,66}[a-z]{0,9}|(([é水]{2}|[a-z]{6,9}|[a-z]{15,17})?/){1,20}[é水a]{0,9}",
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
                    let word = (level.len() < 8).then(|| HashKey::word(level));
                    prop_assert_eq!(levels.word(position), word.unwrap_or(lone << 8));
                    if let Some(word) = word {
                        prop_assert_eq!(KEY.level_of_word(position, word), lone);
                    }
                }
            }
            prop_assert_eq!(levels.whole(), sum);
        }
    }

    #[test]
    fn known_levels_are_among_those_of_a_topic() {
        let mut known = KnownLevels::new();
        for (position, level) in [(0, "a"), (2, "c"), (63, "z")] {
            known.add(position, hash(position, level.as_bytes()));
        }
        let among = |topic: &str| known.among(&TopicLevels::of(&KEY, topic.as_bytes()));
        assert_eq!(among("a/b/c") & 0b101, 0b101);
        assert_eq!(among("a/b"), 1);
        assert_eq!(among(&format!("b/{}z/z", "/".repeat(62))), 1 << 63);
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

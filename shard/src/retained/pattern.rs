//! A filter with wildcards, against keys in order: does this one match, and if not, which is the
//! next that may?
//!
//! A key is a topic name with a zero byte for each separator. No topic name holds U+0000
//! ([MQTT5-1.5.4-2]), so keys stand in the order of their levels: a name, then all that is below it,
//! then the next name of the same level.

use petrel_proto::TopicFilter;
use smallvec::SmallVec;

/// Stands between two levels; smaller than whatever a level holds.
pub(super) const SEPARATOR: u8 = 0;

/// The lowest bit of each byte.
const LOW_BITS: u64 = u64::from_le_bytes([1; 8]);

/// The levels of a filter.
#[derive(Debug)]
pub(super) struct Pattern<'a> {
    /// Those before a `#`; `None` for `+`.
    levels: SmallVec<[Option<&'a [u8]>; 16]>,
    /// It ends with `#`.
    tail: bool,
}

/// What a key is to a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It matches.
    Match,
    /// It does not, and nothing before the bound that was noted does.
    Skip,
    /// It does not, and nothing behind it does.
    End,
}

impl<'a> Pattern<'a> {
    pub(super) fn new(filter: &'a TopicFilter) -> Self {
        let name = |level: &'a [u8]| (level != b"+").then_some(level);
        let mut levels: SmallVec<_> = filter.levels().map(name).collect();
        let tail = levels.last() == Some(&Some(b"#".as_slice()));
        if tail {
            levels.pop();
        }
        Self { levels, tail }
    }

    /// Where the first match may stand.
    pub(super) fn first(&self, bound: &mut Vec<u8>) {
        bound.clear();
        self.descend(0, bound);
    }

    /// Compares a key. After [`Judgement::Skip`] nothing below `bound` matches that has not been
    /// judged before, and `bound` is above the key.
    ///
    /// *Cost*: its bytes.
    pub(super) fn judge(&self, key: &[u8], bound: &mut Vec<u8>) -> Judgement {
        // [MQTT5-4.7.2-1]
        if key.first() == Some(&b'$') && self.levels.first().is_none_or(|level| level.is_none()) {
            bound.clear();
            bound.push(b'$' + 1);
            return Judgement::Skip;
        }
        let (mut start, mut wild) = (0, None);
        for (at, level) in self.levels.iter().enumerate() {
            if start > key.len() {
                // The key ends above this level; what is below it comes next.
                assign(bound, key);
                self.descend(at, bound);
                return Judgement::Skip;
            }
            let rest = &key[start..];
            let end = match level {
                None => {
                    let end = start + name_bytes(rest);
                    wild = Some(end);
                    end
                }
                Some(wanted) => {
                    // No byte of a name is below the separator, so what follows it does not count.
                    let next = rest.strip_prefix(*wanted).map(<[u8]>::first);
                    if !matches!(next, Some(None | Some(&SEPARATOR))) {
                        if rest > *wanted {
                            return leave(key, wild, bound);
                        }
                        assign(bound, &key[..start.saturating_sub(1)]);
                        self.descend(at, bound);
                        return Judgement::Skip;
                    }
                    start + wanted.len()
                }
            };
            start = end + 1;
        }
        match self.tail || start > key.len() {
            true => Judgement::Match,
            false => leave(key, wild, bound),
        }
    }

    /// Appends the names that follow from level `at` on, up to a wildcard.
    fn descend(&self, at: usize, bound: &mut Vec<u8>) {
        for (level, name) in self.levels.iter().enumerate().skip(at) {
            if level > 0 {
                bound.push(SEPARATOR);
            }
            let Some(name) = name else { return };
            bound.extend_from_slice(name);
        }
    }
}

/// Goes to the next name in the last level that a wildcard took, which ends at `wild`.
fn leave(key: &[u8], wild: Option<usize>, bound: &mut Vec<u8>) -> Judgement {
    let Some(end) = wild else { return Judgement::End };
    assign(bound, &key[..end]);
    bound.push(SEPARATOR + 1);
    Judgement::Skip
}

/// How long the name is that a part of a key begins with.
fn name_bytes(rest: &[u8]) -> usize {
    let (words, _) = rest.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest set bit is that of the first byte that is zero.
        let zeros = word.wrapping_sub(LOW_BITS) & !word & (LOW_BITS << 7);
        if zeros != 0 {
            return at * 8 + zeros.trailing_zeros() as usize / 8;
        }
    }
    let from = words.len() * 8;
    let end = rest[from..].iter().position(|&byte| byte == SEPARATOR);
    end.map_or(rest.len(), |end| from + end)
}

fn assign(bound: &mut Vec<u8>, bytes: &[u8]) {
    bound.clear();
    bound.extend_from_slice(bytes);
}

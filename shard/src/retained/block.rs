//! Some dozens of keys in order, packed, each with a value of bytes.
//!
//! A key is written as how much of it the key before has too, and the rest; so the levels that
//! neighbours share stand there once. Knows no meaning of keys or values. Invariants: keys ascend
//! strictly; `shared` of an entry is exactly what it has in common with the one before.

use std::ops::Range;

use smallvec::SmallVec;

/// Memory is asked for in steps of so many bytes, so that a block that grows wastes little of it.
const GROWTH_BYTES: usize = 64;

/// A run of keys and values.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Entries one after another: `shared`, bytes of the rest and of the value as variable length
    /// numbers; then the rest, then the value.
    bytes: Vec<u8>,
    entries: u32,
}

/// Where the parts of an entry are.
#[derive(Debug, Clone)]
struct Entry {
    /// Bytes that its key has in common with the key before.
    shared: usize,
    rest: Range<usize>,
    value: Range<usize>,
}

/// Where a key is, or where it belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Where its entry begins, or would begin.
    at: usize,
    /// It is there.
    pub(super) found: bool,
    /// Bytes that it has in common with the key before.
    before: usize,
    /// Bytes that it has in common with the key that stands there now, if it is another one.
    after: usize,
}

impl Entry {
    #[inline]
    fn read(bytes: &[u8], at: usize) -> Self {
        if let Some(&[shared, rest, value]) = bytes.get(at..at + 3)
            && (shared | rest | value) < 0x80
        {
            let (shared, rest, value) = (shared.into(), usize::from(rest), usize::from(value));
            let end = at + 3 + rest;
            return Self { shared, rest: at + 3..end, value: end..end + value };
        }
        let (shared, at) = number(bytes, at);
        let (rest, at) = number(bytes, at);
        let (value, at) = number(bytes, at);
        Self { shared, rest: at..at + rest, value: at + rest..at + rest + value }
    }
}

impl Block {
    /// An empty block with room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), entries: 0 }
    }

    /// Bytes that the entries take.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many keys there are.
    pub(super) const fn entries(&self) -> u32 {
        self.entries
    }

    /// Looks for a key. Cost: a look at each entry before it; those that share more with the one
    /// before them than that has in common with the key are not compared.
    pub(super) fn find(&self, key: &[u8]) -> Place {
        let (mut at, mut before) = (0, 0);
        while at < self.bytes.len() {
            // Most entries are passed by without a look at their names.
            while let Some(&[shared, rest, value]) = self.bytes.get(at..at + 3)
                && (shared | rest | value) < 0x80
                && usize::from(shared) > before
            {
                at += 3 + usize::from(rest) + usize::from(value);
            }
            if at == self.bytes.len() {
                break;
            }
            let entry = Entry::read(&self.bytes, at);
            if entry.shared < before {
                return Place { at, found: false, before, after: entry.shared };
            }
            if entry.shared == before {
                let (rest, wanted) = (&self.bytes[entry.rest.clone()], &key[before..]);
                let same = common(rest, wanted);
                match (rest.get(same), wanted.get(same)) {
                    (None, None) => return Place { at, found: true, before, after: key.len() },
                    (Some(is), Some(wanted)) if is > wanted => {
                        return Place { at, found: false, before, after: before + same };
                    }
                    (Some(_), None) => {
                        return Place { at, found: false, before, after: before + same };
                    }
                    _ => before += same,
                }
            }
            at = entry.value.end;
        }
        Place { at, found: false, before, after: 0 }
    }

    /// True if a place is behind all keys.
    pub(super) const fn is_end(&self, place: Place) -> bool {
        place.at == self.bytes.len()
    }

    /// The value of a key that was found.
    pub(super) fn value(&self, place: Place) -> &[u8] {
        &self.bytes[Entry::read(&self.bytes, place.at).value]
    }

    /// Puts in a key that was not found.
    pub(super) fn insert(&mut self, place: Place, key: &[u8], value: &[u8]) {
        let mut with = Scratch::new();
        write_head(&mut with, place.before, key.len() - place.before, value.len());
        with.extend_from_slice(&key[place.before..]);
        with.extend_from_slice(value);
        let mut end = place.at;
        if place.at < self.bytes.len() {
            // The next has more in common with this key than with the one before it.
            let next = Entry::read(&self.bytes, place.at);
            let more = place.after - next.shared;
            write_head(&mut with, place.after, next.rest.len() - more, next.value.len());
            end = next.rest.start + more;
        }
        self.splice(place.at..end, &with);
        self.entries += 1;
    }

    /// Gives a key that was found another value.
    pub(super) fn replace(&mut self, place: Place, value: &[u8]) {
        let entry = Entry::read(&self.bytes, place.at);
        if entry.value.len() == value.len() {
            self.bytes[entry.value].copy_from_slice(value);
            return;
        }
        let mut with = Scratch::new();
        write_head(&mut with, entry.shared, entry.rest.len(), value.len());
        with.extend_from_slice(&self.bytes[entry.rest.clone()]);
        with.extend_from_slice(value);
        self.splice(place.at..entry.value.end, &with);
        self.give_back();
    }

    /// Takes out a key that was found.
    pub(super) fn remove(&mut self, place: Place) {
        let entry = Entry::read(&self.bytes, place.at);
        let (mut with, mut end) = (Scratch::new(), entry.value.end);
        if end < self.bytes.len() {
            let next = Entry::read(&self.bytes, end);
            if next.shared > entry.shared {
                // What the next had from this key it must say itself.
                let more = next.shared - entry.shared;
                write_head(&mut with, entry.shared, next.rest.len() + more, next.value.len());
                let from = entry.rest.start;
                with.extend_from_slice(&self.bytes[from..from + more]);
                end = next.rest.start;
            }
        }
        self.splice(place.at..end, &with);
        self.entries -= 1;
        self.give_back();
    }

    /// Adds a key behind all others. `last` is the key before it.
    pub(super) fn push(&mut self, last: &[u8], key: &[u8], value: &[u8]) {
        let shared = if self.entries == 0 { 0 } else { common(last, key) };
        let mut with = Scratch::new();
        write_head(&mut with, shared, key.len() - shared, value.len());
        with.extend_from_slice(&key[shared..]);
        with.extend_from_slice(value);
        let end = self.bytes.len();
        self.splice(end..end, &with);
        self.entries += 1;
    }

    /// Takes the upper part away: half of the bytes, or the last entry if `last` is set. Returns it
    /// with the shortest string that is above all keys that stay and not above any that goes; `None`
    /// if there is but one entry.
    pub(super) fn split(&mut self, last: bool) -> Option<(Box<[u8]>, Self)> {
        let half = self.bytes.len() / 2;
        let (mut at, mut key, mut stay) = (0, Vec::new(), 0);
        while at < self.bytes.len() {
            let entry = Entry::read(&self.bytes, at);
            key.truncate(entry.shared);
            key.extend_from_slice(&self.bytes[entry.rest.clone()]);
            let is_here = if last { stay + 1 == self.entries } else { at >= half };
            if stay > 0 && (is_here || entry.value.end == self.bytes.len()) {
                let mut upper = Self::default();
                upper.push(&[], &key, &self.bytes[entry.value.clone()]);
                let more = self.bytes.split_off(entry.value.end);
                let end = upper.bytes.len();
                upper.splice(end..end, &more);
                upper.entries = self.entries - stay;
                self.bytes.truncate(at);
                self.entries = stay;
                self.give_back();
                return Some((key[..=entry.shared].into(), upper));
            }
            stay += 1;
            at = entry.value.end;
        }
        None
    }

    /// Puts other bytes in the place of some.
    fn splice(&mut self, range: Range<usize>, with: &[u8]) {
        let (len, end) = (self.bytes.len(), range.start + with.len());
        let new_len = len - range.len() + with.len();
        if new_len > len {
            if new_len > self.bytes.capacity() {
                self.bytes.reserve_exact(new_len.next_multiple_of(GROWTH_BYTES) - len);
            }
            self.bytes.resize(new_len, 0);
        }
        self.bytes.copy_within(range.end..len, end);
        self.bytes.truncate(new_len);
        self.bytes[range.start..end].copy_from_slice(with);
    }

    /// Gives back memory that is not used, if that is much.
    pub(super) fn give_back(&mut self) {
        if self.bytes.capacity() - self.bytes.len() >= 4 * GROWTH_BYTES {
            self.bytes.shrink_to(self.bytes.len().next_multiple_of(GROWTH_BYTES));
        }
    }
}

/// Reads a block from its beginning.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    value: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(block: &'a Block) -> Self {
        Self { bytes: &block.bytes, at: 0, value: &[] }
    }

    /// Goes on by one entry and makes `key`, which nobody else changes meanwhile, its key. False at
    /// the end.
    pub(super) fn advance(&mut self, key: &mut Vec<u8>) -> bool {
        if self.at == self.bytes.len() {
            return false;
        }
        let entry = Entry::read(self.bytes, self.at);
        key.truncate(entry.shared);
        key.extend_from_slice(&self.bytes[entry.rest]);
        self.at = entry.value.end;
        self.value = &self.bytes[entry.value];
        true
    }

    /// The value of the entry.
    pub(super) const fn value(&self) -> &'a [u8] {
        self.value
    }
}

/// What is put together before it goes in.
type Scratch = SmallVec<[u8; 256]>;

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    let (words, others) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    for (at, (a, b)) in words.iter().zip(others).enumerate() {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return at * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let from = words.len().min(others.len()) * 8;
    let rest = one[from..].iter().zip(&other[from..]);
    from + rest.take_while(|(a, b)| a == b).count()
}

fn write_head(out: &mut Scratch, shared: usize, rest: usize, value: usize) {
    for mut number in [shared, rest, value] {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }
}

/// A number of variable length, and where it ends.
fn number(bytes: &[u8], at: usize) -> (usize, usize) {
    let first = bytes[at];
    if first < 0x80 {
        return (usize::from(first), at + 1);
    }
    let (mut value, mut at) = (usize::from(first & 0x7f), at + 1);
    for shift in [7, 14, 21] {
        value |= usize::from(bytes[at] & 0x7f) << shift;
        at += 1;
        if bytes[at - 1] < 0x80 {
            break;
        }
    }
    (value, at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entries(block: &Block) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut reader, mut key, mut all) = (Reader::new(block), Vec::new(), Vec::new());
        while reader.advance(&mut key) {
            all.push((key.clone(), reader.value().to_vec()));
        }
        all
    }

    /// Every entry is as short as it can be.
    fn assert_packed(block: &Block) {
        let mut again = Block::default();
        let mut last = Vec::new();
        for (key, value) in entries(block) {
            assert!(again.entries == 0 || last < key, "{last:?} stands before {key:?}");
            again.push(&last, &key, &value);
            last = key;
        }
        assert_eq!((&again.bytes, again.entries), (&block.bytes, block.entries));
    }

    fn step() -> impl Strategy<Value = (Vec<u8>, Option<Vec<u8>>)> {
        let key = prop::collection::vec(1u8..4, 0..8);
        let long = prop::collection::vec(Just(2u8), 200..300);
        let value = prop::collection::vec(any::<u8>(), 0..200);
        (prop_oneof![9 => key, 1 => long], prop::option::weighted(0.7, value))
    }

    proptest! {
        #[test]
        fn a_block_is_a_map(steps in prop::collection::vec(step(), 1..120), last: bool) {
            let (mut block, mut model) = (Block::default(), BTreeMap::new());
            for (key, value) in steps {
                let place = block.find(&key);
                prop_assert_eq!(place.found, model.contains_key(&key));
                match value {
                    Some(value) => {
                        match place.found {
                            true => block.replace(place, &value),
                            false => block.insert(place, &key, &value),
                        }
                        prop_assert_eq!(block.value(block.find(&key)), &value[..]);
                        model.insert(key, value);
                    }
                    None if place.found => {
                        block.remove(place);
                        model.remove(&key);
                    }
                    None => {}
                }
                assert_packed(&block);
            }
            let expected: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(&entries(&block), &expected);
            match block.split(last) {
                None => prop_assert!(expected.len() < 2),
                Some((floor, upper)) => {
                    assert_packed(&block);
                    assert_packed(&upper);
                    let (low, high) = (entries(&block), entries(&upper));
                    prop_assert!(low.iter().all(|(key, _)| key[..] < floor[..]));
                    prop_assert!(high.iter().all(|(key, _)| key[..] >= floor[..]));
                    prop_assert!(!low.is_empty() && !high.is_empty());
                    prop_assert!(!last || high.len() == 1);
                    prop_assert_eq!([low, high].concat(), expected);
                }
            }
        }
    }
}

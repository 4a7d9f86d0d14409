//! The texts of filters by id, side by side in chunks.

use std::collections::BTreeMap;

/// Texts by id; freed ids are given out again.
///
/// *Bounds*: about 4 bytes for each beside its own, and an eighth of its chunk in reserve.
#[derive(Debug, Default)]
pub(super) struct Texts {
    chunks: Vec<Chunk>,
    /// The chunks with room; texts go into the last of them.
    open: Vec<u32>,
    /// Those that are too long for a chunk.
    long: BTreeMap<u32, Box<[u8]>>,
    len: usize,
}

/// Where each of [`IDS`] texts ends, two bytes each, then the texts; or nothing if there is none.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    used: usize,
}

/// Texts of a chunk.
const IDS: usize = 32;
/// Where the texts begin.
const HEAD: usize = 2 * IDS;
/// Ends are below [`LONG`], which says that the text is elsewhere.
const BYTES_MAX: usize = (LONG as usize - 1) / IDS;
const LONG: u16 = 1 << 15;

impl Texts {
    /// Copies a text of at least one byte and gives it an id.
    pub(super) fn insert(&mut self, text: &[u8]) -> u32 {
        let number = match self.open.last() {
            Some(&number) => number,
            None => {
                self.chunks.push(Chunk::default());
                let number = self.chunks.len() as u32 - 1;
                self.open.push(number);
                number
            }
        };
        let chunk = &mut self.chunks[number as usize];
        let place = chunk.vacancy();
        let id = number * IDS as u32 + place as u32;
        if text.len() > BYTES_MAX {
            chunk.insert(place, &[], LONG);
            self.long.insert(id, text.into());
        } else {
            chunk.insert(place, text, 0);
        }
        if chunk.used == IDS {
            self.open.pop();
        }
        self.len += 1;
        id
    }

    /// The text of an id; empty if the id is not in use.
    #[inline]
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Some(chunk) = self.chunks.get(id as usize / IDS) else { return &[] };
        let (start, end) = chunk.span(id as usize % IDS);
        if end & LONG != 0 {
            return self.long.get(&id).map(|text| &**text).unwrap_or_default();
        }
        chunk.bytes.get(HEAD + usize::from(start)..HEAD + usize::from(end)).unwrap_or_default()
    }

    /// Any byte of the head of the text's chunk, so that it is in the cache when the text is asked for.
    #[inline]
    pub(super) fn touch(&self, id: u32) -> u8 {
        let chunk = self.chunks.get(id as usize / IDS);
        let byte = chunk.and_then(|chunk| chunk.bytes.get(2 * (id as usize % IDS)));
        byte.copied().unwrap_or_default()
    }

    /// Drops a text and frees its id.
    pub(super) fn remove(&mut self, id: u32) {
        let (number, place) = (id as usize / IDS, id as usize % IDS);
        let Some(chunk) = self.chunks.get_mut(number) else { return };
        if !chunk.remove(place) {
            return;
        }
        self.long.remove(&id);
        if chunk.used + 1 == IDS {
            self.open.push(number as u32);
        }
        self.len -= 1;
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

impl Chunk {
    /// Where a text starts and ends behind the head; the end has the mark of a long one.
    #[inline]
    fn span(&self, place: usize) -> (u16, u16) {
        let Some(ends) = self.bytes.first_chunk::<HEAD>() else { return (0, 0) };
        let end = |place: usize| u16::from_le_bytes([ends[2 * place], ends[2 * place + 1]]);
        let start = if place == 0 { 0 } else { end(place - 1) & !LONG };
        (start, end(place))
    }

    fn set_end(&mut self, place: usize, end: u16) {
        self.bytes[2 * place..2 * place + 2].copy_from_slice(&end.to_le_bytes());
    }

    /// The first place without a text.
    fn vacancy(&self) -> usize {
        if self.bytes.is_empty() {
            return 0;
        }
        let mut start = 0;
        let ends = self.bytes.first_chunk::<HEAD>().map_or(&[][..], |head| head.as_chunks::<2>().0);
        let is_free = |end: &[u8; 2]| {
            let end = u16::from_le_bytes(*end);
            let free = end == start;
            start = end & !LONG;
            free
        };
        ends.iter().position(is_free).unwrap_or(0)
    }

    /// Puts a text into a place that has none.
    fn insert(&mut self, place: usize, text: &[u8], mark: u16) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEAD, 0);
        }
        self.used += 1;
        let needed = self.bytes.len() + text.len();
        if needed > self.bytes.capacity() {
            // As much as if the texts to come were like those that are there.
            let likely = HEAD + (needed - HEAD) * IDS / self.used;
            self.bytes.reserve_exact(likely - self.bytes.len());
        }
        let at = HEAD + usize::from(self.span(place).0);
        let behind = self.bytes.len() - at;
        self.bytes.extend_from_slice(text);
        self.bytes[at..].rotate_left(behind);
        self.shift(place, |end| end.wrapping_add(text.len() as u16));
        let end = self.span(place).1;
        self.set_end(place, end | mark);
        if self.used == IDS {
            self.shrink();
        }
    }

    /// Takes a text out; false if there is none.
    fn remove(&mut self, place: usize) -> bool {
        let (start, end) = self.span(place);
        if start == end {
            return false;
        }
        self.set_end(place, end & !LONG);
        let bytes = (end & !LONG) - start;
        let at = HEAD + usize::from(start);
        self.bytes.drain(at..at + usize::from(bytes));
        self.shift(place, |end| end.wrapping_sub(bytes));
        self.used -= 1;
        if self.used == 0 {
            self.bytes = Vec::new();
        } else {
            self.shrink();
        }
        true
    }

    /// Moves the ends from a place on, which leaves their marks alone.
    fn shift(&mut self, place: usize, by: impl Fn(u16) -> u16) {
        let ends = self.bytes.get_mut(2 * place..HEAD).unwrap_or_default();
        for end in ends.as_chunks_mut::<2>().0 {
            *end = by(u16::from_le_bytes(*end)).to_le_bytes();
        }
    }

    /// Gives back what is more than an eighth too much.
    fn shrink(&mut self) {
        let most = self.bytes.len() + self.bytes.len() / 8;
        if self.used == IDS || self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to(most);
        }
    }
}

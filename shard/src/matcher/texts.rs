//! The texts of filters by id, in chunks, so that growing never copies them.

/// Texts by id; freed ids are given out again, the last freed one first.
#[derive(Debug, Default)]
pub(super) struct Texts {
    chunks: Vec<Vec<Option<Box<[u8]>>>>,
    free: Vec<u32>,
    len: usize,
}

const CHUNK: usize = 1024;

impl Texts {
    /// Copies a text and gives it an id.
    pub(super) fn insert(&mut self, text: &[u8]) -> u32 {
        self.len += 1;
        let text = Some(Box::from(text));
        if let Some(id) = self.free.pop() {
            let (chunk, index) = split(id);
            self.chunks[chunk][index] = text;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first chunk grows by doubling, since few filters are common.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let chunk = self.chunks.len() - 1;
        let index = self.chunks[chunk].len();
        self.chunks[chunk].push(text);
        (chunk * CHUNK + index) as u32
    }

    /// The text of an id; empty if the id is not in use.
    #[inline]
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let (chunk, index) = split(id);
        let text = self.chunks.get(chunk).and_then(|chunk| chunk.get(index));
        text.and_then(|text| text.as_deref()).unwrap_or_default()
    }

    /// Drops a text and frees its id.
    pub(super) fn remove(&mut self, id: u32) {
        let (chunk, index) = split(id);
        let text = self.chunks.get_mut(chunk).and_then(|chunk| chunk.get_mut(index));
        if text.and_then(Option::take).is_some() {
            self.len -= 1;
            self.free.push(id);
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

#[inline]
const fn split(id: u32) -> (usize, usize) {
    (id as usize / CHUNK, id as usize % CHUNK)
}

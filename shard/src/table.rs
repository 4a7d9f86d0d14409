//! A dense table whose positions are reused under a new generation.

/// Entries that are allocated together. A table grows by one chunk at a time: doubling a vector
/// would leave up to as much memory unused as is in use, and copy every session to do so.
const CHUNK: usize = 256;

/// Values at stable positions; a freed position is used again with the next generation, so that
/// an old reference never finds a new value.
#[derive(Debug)]
pub(crate) struct Table<T> {
    chunks: Vec<Vec<Entry<T>>>,
    free: Vec<u32>,
    /// Positions ever used.
    positions: usize,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), positions: 0 }
    }
}

impl<T> Table<T> {
    /// Puts a value at a free position. Returns the position and its generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entry_mut(index)
        {
            entry.value = Some(value);
            return (index, entry.generation);
        }
        if self.positions.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Entry { generation: 0, value: Some(value) });
        }
        self.positions += 1;
        ((self.positions - 1) as u32, 0)
    }

    /// Takes a value out; its generation ends.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entry_mut(index)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entry(index)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entry_mut(index)?.value.as_mut()
    }

    /// The generation that the position has now.
    pub(crate) fn generation(&self, index: u32) -> Option<u32> {
        self.entry(index).map(|entry| entry.generation)
    }

    pub(crate) fn len(&self) -> usize {
        self.positions - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, entry)| entry.value.as_ref().map(|value| (index as u32, value)))
    }

    fn entry(&self, index: u32) -> Option<&Entry<T>> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_position_has_another_generation() {
        let mut table = Table::default();
        let (index, first) = table.insert('a');
        assert_eq!(table.remove(index), Some('a'));
        assert_eq!(table.remove(index), None);
        let (again, second) = table.insert('b');
        assert_eq!(again, index);
        assert_ne!(first, second);
        assert_eq!((table.len(), table.get(again)), (1, Some(&'b')));
    }

    #[test]
    fn positions_run_on_from_chunk_to_chunk() {
        let mut table = Table::default();
        for n in 0..1000u32 {
            assert_eq!(table.insert(n), (n, 0));
        }
        assert!(table.iter().all(|(index, &value)| index == value));
        assert_eq!((table.len(), table.get(999), table.get(1000)), (1000, Some(&999), None));
    }
}

//! A dense table whose positions are reused under a new generation.

/// Values at stable positions; a freed position is used again with the next generation, so that
/// an old reference never finds a new value.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts a value at a free position. Returns the position and its generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return (index, entry.generation);
        }
        self.entries.push(Entry { generation: 0, value: Some(value) });
        ((self.entries.len() - 1) as u32, 0)
    }

    /// Takes a value out; its generation ends.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.value.as_mut()
    }

    /// The generation that the position has now.
    pub(crate) fn generation(&self, index: u32) -> Option<u32> {
        self.entries.get(index as usize).map(|entry| entry.generation)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| entry.value.as_ref().map(|value| (index as u32, value)))
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
}

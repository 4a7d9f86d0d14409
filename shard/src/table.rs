//! A dense table that chooses the positions itself.

use crate::places::Places;

/// Values at stable positions; a freed position is used again.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Places<T>,
    /// The chunks with room; values go into the last of them.
    open: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: Places::default(), open: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Puts a value at a free position and returns that.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let chunk = match self.open.last() {
            Some(&chunk) => chunk,
            None => {
                let chunk = self.places.chunks() as u32;
                self.open.push(chunk);
                chunk
            }
        };
        let index = self.places.vacancy(chunk);
        self.places.insert(index, value);
        if self.places.used(chunk) == Places::<T>::CHUNK {
            self.open.pop();
        }
        index
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.places.remove(index)?;
        let chunk = index / Places::<T>::CHUNK as u32;
        if self.places.used(chunk) + 1 == Places::<T>::CHUNK {
            self.open.push(chunk);
        }
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.places.get(index)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index)
    }

    pub(crate) const fn len(&self) -> usize {
        self.places.len()
    }

    /// All positions in use are below this one.
    pub(crate) fn end(&self) -> u32 {
        (self.places.chunks() * Places::<T>::CHUNK) as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_is_a_map_with_small_keys(steps in prop::collection::vec(any::<u16>(), 0..600)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let mut most = 0;
            for step in steps {
                if step % 5 < 3 {
                    let index = table.insert(step);
                    prop_assert_eq!(model.insert(index, step), None);
                } else {
                    let nth = usize::from(step) % model.len().max(1);
                    let index = model.keys().nth(nth).copied().unwrap_or(0);
                    prop_assert_eq!(table.remove(index), model.remove(&index));
                }
                most = most.max(model.len());
                prop_assert_eq!(table.len(), model.len());
                prop_assert!(table.iter().map(|(index, &value)| (index, value)).eq(model.clone()));
                prop_assert!(model.keys().all(|&index| (index as usize) < most));
            }
        }
    }
}

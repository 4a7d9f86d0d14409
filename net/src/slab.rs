//! A table whose keys tell one use of a place from the next.

/// Names a connection of one [`crate::Wire`]. The index is dense and reused, the generation is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnKey {
    /// Position in the table.
    pub index: u32,
    /// Which use of that position; never 0.
    pub generation: u32,
}

impl ConnKey {
    /// Both numbers in one, as epoll carries them.
    pub(crate) const fn pack(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The reverse of [`ConnKey::pack`].
    pub(crate) const fn unpack(data: u64) -> Self {
        Self { index: data as u32, generation: (data >> 32) as u32 }
    }
}

/// A growing table of values with reused places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// The number of values held.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnKey {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            // Skips 0, which marks what is not a connection.
            place.generation = place.generation.checked_add(1).unwrap_or(1);
            place.value = Some(value);
            return ConnKey { index, generation: place.generation };
        }
        // The table is bounded by the open files of a process, far below 2^32.
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 1, value: Some(value) });
        ConnKey { index, generation: 1 }
    }

    pub(crate) fn get(&self, key: ConnKey) -> Option<&T> {
        let place = self.places.get(key.index as usize)?;
        if place.generation == key.generation { place.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: ConnKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation { place.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        self.free.push(key.index);
        Some(value)
    }

    /// The keys of all values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ConnKey> {
        self.places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.value.is_some())
            .map(|(index, place)| ConnKey { index: index as u32, generation: place.generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_use_finds_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(second.index, first.index);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&'b')));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_key_survives_its_way_through_epoll() {
        let key = ConnKey { index: 7, generation: u32::MAX };
        assert_eq!(ConnKey::unpack(key.pack()), key);
    }
}

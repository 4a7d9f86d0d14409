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

/// Places that are allocated together. The table grows by one chunk at a time: doubling a vector
/// would leave up to as much memory unused as is in use.
const CHUNK: usize = 256;

/// A growing table of values with reused places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Place<T>>>,
    free: Vec<u32>,
    /// Places ever used.
    places: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), places: 0 }
    }

    /// The number of values held.
    pub(crate) fn len(&self) -> usize {
        self.places - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> ConnKey {
        if let Some(index) = self.free.pop()
            && let Some(place) = self.place_mut(index)
        {
            // Skips 0, which marks what is not a connection.
            place.generation = place.generation.checked_add(1).unwrap_or(1);
            place.value = Some(value);
            return ConnKey { index, generation: place.generation };
        }
        // The table is bounded by the open files of a process, far below 2^32.
        let index = self.places as u32;
        if self.places.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Place { generation: 1, value: Some(value) });
        }
        self.places += 1;
        ConnKey { index, generation: 1 }
    }

    pub(crate) fn get(&self, key: ConnKey) -> Option<&T> {
        let place = self.place(key.index)?;
        if place.generation == key.generation { place.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: ConnKey) -> Option<&mut T> {
        let place = self.place_mut(key.index)?;
        if place.generation == key.generation { place.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<T> {
        let place = self.place_mut(key.index)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        self.free.push(key.index);
        Some(value)
    }

    fn place(&self, index: u32) -> Option<&Place<T>> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    /// The keys of all values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ConnKey> {
        self.chunks
            .iter()
            .flatten()
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

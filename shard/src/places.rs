//! Values by a small number, in chunks that come and go.
//!
//! Owns no order and knows no meaning. Growing never copies what is there, and doubles nothing: the
//! memory in reserve is one chunk at most. A chunk that holds nothing any more is given back, so what
//! a storm of clients needed does not stay after it.

/// Values at positions that the owner chooses.
///
/// *Cost*: a lookup is a division by a constant and two loads.
#[derive(Debug)]
pub(crate) struct Places<T> {
    chunks: Vec<Chunk<T>>,
    /// A chunk that was emptied last, so that one client who comes and goes costs no allocation.
    spare: Option<Box<[Option<T>]>>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// Empty until the first value comes, and after the last one has gone.
    places: Box<[Option<T>]>,
    used: u32,
}

/// Places of a chunk, at most.
const CHUNK_MAX: usize = 64;

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), spare: None, len: 0 }
    }
}

impl<T> Places<T> {
    /// Places of a chunk: as many as fill a size class of the allocator.
    pub(crate) const CHUNK: usize = fitting(size_of::<Option<T>>());

    /// Puts a value at a position; returns what was there.
    pub(crate) fn insert(&mut self, index: u32, value: T) -> Option<T> {
        let (at, place) = split::<T>(index);
        if self.chunks.len() <= at {
            self.chunks.resize_with(at + 1, || Chunk { places: Box::default(), used: 0 });
        }
        let chunk = &mut self.chunks[at];
        if chunk.places.is_empty() {
            let fresh = || (0..Self::CHUNK).map(|_| None).collect();
            chunk.places = self.spare.take().unwrap_or_else(fresh);
        }
        let old = chunk.places[place].replace(value);
        if old.is_none() {
            chunk.used += 1;
            self.len += 1;
        }
        old
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let (at, place) = split::<T>(index);
        let chunk = self.chunks.get_mut(at)?;
        let value = chunk.places.get_mut(place)?.take()?;
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 {
            self.spare = Some(std::mem::take(&mut chunk.places));
        }
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (at, place) = split::<T>(index);
        self.chunks.get(at)?.places.get(place)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (at, place) = split::<T>(index);
        self.chunks.get_mut(at)?.places.get_mut(place)?.as_mut()
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Chunks that there are, those without memory included.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// How many values a chunk holds.
    pub(crate) fn used(&self, chunk: u32) -> usize {
        self.chunks.get(chunk as usize).map_or(0, |chunk| chunk.used as usize)
    }

    /// The first free position of a chunk that is not full.
    pub(crate) fn vacancy(&self, chunk: u32) -> u32 {
        let places = self.chunks.get(chunk as usize).map_or(&[][..], |chunk| &*chunk.places);
        let place = places.iter().position(Option::is_none).unwrap_or(0);
        (chunk as usize * Self::CHUNK + place) as u32
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let first = (at * Self::CHUNK) as u32;
            let values = (first..).zip(&chunk.places);
            values.filter_map(|(index, value)| value.as_ref().map(|value| (index, value)))
        })
    }
}

#[inline]
const fn split<T>(index: u32) -> (usize, usize) {
    (index as usize / Places::<T>::CHUNK, index as usize % Places::<T>::CHUNK)
}

/// How many values of a size go into the largest block that the allocator does not round up and
/// that [`CHUNK_MAX`] of them would fill: there are four sizes of block to each power of two.
const fn fitting(size: usize) -> usize {
    let most = CHUNK_MAX * size;
    if most < 256 {
        return CHUNK_MAX;
    }
    let step = 1 << (most.ilog2() - 2);
    most / step * step / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_were_put() {
        let mut places = Places::default();
        for n in (0..1000u32).rev() {
            assert_eq!(places.insert(n, n), None);
        }
        assert_eq!(places.insert(5, 5), Some(5));
        assert!(places.iter().all(|(index, &value)| index == value));
        assert_eq!((places.len(), places.get(999), places.get(1000)), (1000, Some(&999), None));
        assert_eq!((places.remove(7), places.remove(7), places.get(7)), (Some(7), None, None));
    }

    #[test]
    fn an_empty_chunk_is_given_back() {
        let mut places = Places::default();
        for n in 0..1000u32 {
            places.insert(n, [n; 4]);
        }
        for n in 10..1000 {
            places.remove(n);
        }
        let held = places.chunks.iter().filter(|chunk| !chunk.places.is_empty()).count();
        assert_eq!((held, places.len()), (1, 10));
        places.insert(900, [0; 4]);
        assert_eq!(places.get(900), Some(&[0; 4]));
    }

    #[test]
    fn chunks_fill_the_blocks_of_the_allocator() {
        assert_eq!([16, 24, 48, 80].map(fitting), [64; 4]);
        assert_eq!((fitting(88), 88 * fitting(88)), (58, 5104));
    }
}

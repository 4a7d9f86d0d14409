//! Connections that have said CONNECT, by listener and version.

use petrel_proto::Version;

/// Listeners that are counted; there are no more.
const LISTENERS: usize = 64;
/// Versions, in the order of [`Doors::VERSIONS`].
const VERSIONS: usize = 3;

/// How many connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors([[u64; VERSIONS]; LISTENERS]);

impl Default for Doors {
    fn default() -> Self {
        Self([[0; VERSIONS]; LISTENERS])
    }
}

impl Doors {
    /// Numbers of [`Self::numbers`].
    pub const NUMBERS: usize = LISTENERS * VERSIONS;

    /// The versions, in the order of the numbers of a listener.
    pub const VERSIONS: [Version; VERSIONS] = [Version::V3_1, Version::V3_1_1, Version::V5];

    fn of(&mut self, listener: u16, version: Version) -> Option<&mut u64> {
        let version = Self::VERSIONS.iter().position(|it| *it == version)?;
        self.0.get_mut(usize::from(listener))?.get_mut(version)
    }

    /// One more.
    pub(crate) fn enter(&mut self, listener: u16, version: Version) {
        self.of(listener, version).into_iter().for_each(|count| *count += 1);
    }

    /// One less.
    pub(crate) fn leave(&mut self, listener: u16, version: Version) {
        self.of(listener, version).into_iter().for_each(|count| *count -= 1);
    }

    /// How many of each version one listener has.
    #[must_use]
    pub fn listener(&self, listener: usize) -> [u64; VERSIONS] {
        self.0.get(listener).copied().unwrap_or_default()
    }

    /// All numbers, in an order of their own.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.into_iter().flatten()
    }

    /// From what [`Self::numbers`] gave.
    #[must_use]
    pub fn from_numbers(numbers: &[u64; Self::NUMBERS]) -> Self {
        let mut doors = Self::default();
        doors.0.iter_mut().flatten().zip(numbers).for_each(|(count, number)| *count = *number);
        doors
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        let others = others.0.into_iter().flatten();
        self.0.iter_mut().flatten().zip(others).for_each(|(sum, more)| *sum += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_goes_is_counted_where_it_came_in() {
        let mut doors = Doors::default();
        doors.enter(0, Version::V5);
        doors.enter(63, Version::V3_1);
        doors.enter(63, Version::V3_1);
        doors.enter(64, Version::V5);
        doors.leave(63, Version::V3_1);
        let numbers: Vec<_> = doors.numbers().collect();
        let mut again = Doors::from_numbers(&numbers.try_into().expect("as many"));
        assert_eq!(again, doors);
        again.add(&doors);
        assert_eq!((again.listener(0), again.listener(63)), ([0, 0, 2], [2, 0, 0]));
        assert_eq!(again.listener(64), [0; 3]);
    }
}

//! Connections that can be read, in their order, and since when that is known.

use std::collections::VecDeque;

use crate::ConnKey;

/// Those that wait to be read.
///
/// Nothing is kept for each of them: those that were put in between two looks at the clock share a mark.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    pub(super) keys: VecDeque<ConnKey>,
    /// How many were ever put in and taken out.
    put: u64,
    taken: u64,
    /// How many had been put in when it was how late, as long as some of them wait.
    marks: VecDeque<(u64, u64)>,
    now_ns: u64,
}

impl ReadyList {
    /// It is so late by the clock of the caller: those that were put in since the last call can be read since now.
    pub(super) fn tell(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if self.marks.back().map_or(self.taken, |(put, _)| *put) < self.put {
            self.marks.push_back((self.put, now_ns));
        }
    }

    /// What was told last.
    pub(super) const fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn push_back(&mut self, key: ConnKey) {
        self.put += 1;
        self.keys.push_back(key);
    }

    /// The first, and since when it is known that it can be read.
    pub(super) fn pop_front(&mut self) -> Option<(ConnKey, u64)> {
        let key = self.keys.pop_front()?;
        while self.marks.front().is_some_and(|(put, _)| *put <= self.taken) {
            self.marks.pop_front();
        }
        self.taken += 1;
        Some((key, self.marks.front().map_or(self.now_ns, |(_, at)| *at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(index: u32) -> ConnKey {
        ConnKey { index, generation: 0 }
    }

    #[test]
    fn who_waits_since_an_earlier_turn_is_told_from_who_came_later() {
        let mut list = ReadyList::default();
        (0..3).for_each(|index| list.push_back(key(index)));
        list.tell(10);
        assert_eq!(list.pop_front(), Some((key(0), 10)));
        // It is put in again, and taken in the next turn.
        list.push_back(key(0));
        list.push_back(key(3));
        list.tell(20);
        list.tell(30);
        let all: Vec<_> = std::iter::from_fn(|| list.pop_front()).collect();
        assert_eq!(all, [(key(1), 10), (key(2), 10), (key(0), 20), (key(3), 20)]);
        list.push_back(key(4));
        assert_eq!(list.pop_front(), Some((key(4), 30)), "in the turn in which it was put in");
        list.tell(40);
        list.push_back(key(5));
        list.tell(50);
        assert_eq!(list.pop_front(), Some((key(5), 50)));
    }
}

//! Where the sessions are that have come back, by their incarnations.
//!
//! A lane shows what it has in the order of incarnations: sessions, then what belongs to them. So a
//! sorted list for each lane is made by appending, and who is asked for is mostly who was found last,
//! or the next. Any other order gives the same answers, later.

use crate::record::Incarnation;

/// Positions of sessions.
///
/// *Bounds*: 16 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    lanes: Vec<InOrder>,
}

/// The sessions of one lane.
#[derive(Debug, Default)]
struct InOrder {
    list: Vec<(Incarnation, u32)>,
    /// Where the last one was found.
    found: usize,
    /// Which of them comes next.
    next: usize,
}

/// Instead of the position of a session that is not there any more.
const GONE: u32 = u32::MAX;

impl Restored {
    /// Notes where a session is.
    pub(crate) fn insert(&mut self, lane: usize, incarnation: Incarnation, index: u32) {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, InOrder::default);
        }
        let list = &mut self.lanes[lane].list;
        if list.last().is_none_or(|(last, _)| *last < incarnation) {
            return list.push((incarnation, index));
        }
        match list.binary_search_by_key(&incarnation, |(other, _)| *other) {
            Ok(at) => list[at].1 = index,
            Err(at) => list.insert(at, (incarnation, index)),
        }
    }

    /// Where a session is.
    pub(crate) fn find(&mut self, lane: usize, incarnation: Incarnation) -> Option<u32> {
        let InOrder { list, found, .. } = self.lanes.get_mut(lane)?;
        let is_at = |at: usize| list.get(at).is_some_and(|(other, _)| *other == incarnation);
        let at = match (is_at(*found), is_at(*found + 1)) {
            (true, _) => *found,
            (_, true) => *found + 1,
            _ => list.binary_search_by_key(&incarnation, |(other, _)| *other).ok()?,
        };
        *found = at;
        list.get(at).map(|(_, index)| *index).filter(|index| *index != GONE)
    }

    /// The next session of a lane, in order. With the last of them, all of the lane are forgotten.
    pub(crate) fn next(&mut self, lane: usize) -> Option<(Incarnation, u32)> {
        let InOrder { list, next, .. } = self.lanes.get_mut(lane)?;
        let session = list.get(*next).copied();
        *next += 1;
        if session.is_none() {
            *list = Vec::new();
        }
        session
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, lane: usize, incarnation: Incarnation) {
        let Some(InOrder { list, .. }) = self.lanes.get_mut(lane) else { return };
        if let Ok(at) = list.binary_search_by_key(&incarnation, |(other, _)| *other) {
            list[at].1 = GONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;

    #[test]
    fn a_session_is_found_in_whatever_order_it_came() {
        let name = |count: u32| Incarnation::new(1, Slot((count % 7) as u16), count);
        let mut restored = Restored::default();
        for count in (1..200).step_by(2).chain((0..200).step_by(2)) {
            restored.insert((count % 3) as usize, name(count), count);
        }
        for count in (0..200).rev().chain(0..200) {
            assert_eq!(restored.find((count % 3) as usize, name(count)), Some(count));
        }
        restored.remove(0, name(3));
        assert_eq!(restored.find(0, name(3)), None);
        assert_eq!((restored.find(0, name(201)), restored.find(9, name(3))), (None, None));
        restored.insert(0, name(3), 77);
        assert_eq!(restored.find(0, name(3)), Some(77));
        let mut shown = Vec::new();
        while let Some((session, _)) = restored.next(1) {
            shown.push(session);
        }
        assert!(shown.is_sorted() && shown.len() == 67, "{shown:?}");
        assert_eq!(restored.find(1, name(1)), None);
    }
}

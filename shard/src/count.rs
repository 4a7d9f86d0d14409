//! How much waits for sessions, and in shared groups, from before this process.
//!
//! A session comes back without its messages and without their number, so that a start need not read
//! them. While the broker serves, the shard asks each lane for the numbers, some sessions at a time, in
//! the order in which the lane has them; then limits hold for all that waits, and a session for which
//! nothing waits has what comes next in memory.
//!
//! A session may have a client before its number has come, and get a part of what waits. Places tell
//! what counts: what was read into memory lies before [`Kept::uncounted_from`], and what this process has
//! queued lies behind all that is asked about.

use std::collections::VecDeque;

use petrel_proto::ClientId;

use crate::config::QueueFull;
use crate::input::{Counted, Waits};
use crate::outbox::Count;
use crate::record::Incarnation;
use crate::sabotage::{self, Sabotage};
use crate::session::Kept;
use crate::shard::{Shard, Turn};

/// Sessions of one question, or groups.
const TOGETHER: usize = 256;
/// Instead of the position of a session.
const NO_SESSION: u32 = u32::MAX;

/// What is known of what waits for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which life of the session.
    pub incarnation: Option<Incarnation>,
    /// It has a connection.
    pub online: bool,
    /// Messages in its queue, in memory or not; in flight from an earlier connection, in part.
    pub queued: u64,
    /// Messages in flight that are in memory, without those that the client has and has not completed.
    pub inflight: u64,
    /// Bytes of both.
    pub bytes: u64,
}

impl Shard {
    /// Asks every lane for the first sessions.
    pub(crate) fn begin_counting(&mut self, turn: &mut Turn<'_>) {
        let lanes = self.keep.lanes();
        self.restoring.asked.resize(usize::from(lanes), Vec::new());
        self.restoring.uncounted = lanes;
        self.restoring.groups.resize(usize::from(lanes), VecDeque::new());
        let mut groups: Vec<Incarnation> = self.groups.by_life.keys().copied().collect();
        groups.sort_unstable();
        if sabotage::on(Sabotage::GroupsUncounted) {
            groups.clear();
        }
        for incarnation in groups {
            self.restoring.groups[self.keep.lane_of(incarnation)].push_back(incarnation);
        }
        for lane in 0..lanes {
            self.ask_for_counts(turn, lane);
        }
    }

    /// Asks a lane for the next sessions that are still there and have not read everything themselves.
    fn ask_for_counts(&mut self, turn: &mut Turn<'_>, lane: u16) {
        let mut sessions = Vec::new();
        let mut ended = false;
        // Looks at so many only, whatever is left of them.
        for _ in 0..TOGETHER {
            let Some((incarnation, index)) = self.restoring.places.next(usize::from(lane)) else {
                ended = true;
                break;
            };
            let kept = self.sessions.get(index).and_then(|session| session.kept.as_deref());
            let counts =
                |kept: &&Kept| kept.incarnation == incarnation && kept.uncounted_from < u64::MAX;
            if kept.filter(counts).is_some() {
                sessions.push((incarnation, index));
            }
        }
        let groups = self.restoring.groups.get_mut(usize::from(lane));
        let mut last = ended;
        if let Some(groups) = groups.filter(|groups| ended && !groups.is_empty()) {
            // They have the next question, so that each is in the order of the lane.
            if sessions.is_empty() {
                let next = groups.drain(..groups.len().min(TOGETHER));
                sessions.extend(next.map(|incarnation| (incarnation, NO_SESSION)));
            }
            last = groups.is_empty();
        }
        let asked = sessions.iter().map(|(incarnation, _)| *incarnation).collect();
        self.restoring.asked[usize::from(lane)] = sessions;
        let shard = self.config.index;
        turn.out.counts.push(Count {
            shard,
            lane,
            sessions: asked,
            before: self.keep.first_sequence(),
            last,
        });
    }

    /// A lane has counted what waits for the sessions that it was asked about.
    pub(crate) fn on_counted(&mut self, turn: &mut Turn<'_>, counted: Counted) {
        let Counted { count, waiting } = counted;
        let with_runs = self.limits().session_queue_full == QueueFull::DropOldest;
        let mut waiting = waiting.into_iter().peekable();
        let asked = self.restoring.asked.get_mut(usize::from(count.lane));
        for (incarnation, index) in asked.map(std::mem::take).unwrap_or_default() {
            let waits = waiting.next_if(|waits| waits.incarnation == incarnation);
            let kept = match self.groups.by_life.get(&incarnation) {
                Some(&group) => {
                    self.groups.groups.get_mut(group).and_then(|group| group.kept.as_deref_mut())
                }
                None => self.sessions.get_mut(index).and_then(|session| session.kept_whole()),
            };
            let Some(kept) = kept.filter(|kept| kept.incarnation == incarnation) else { continue };
            if !sabotage::on(Sabotage::CountForgotten) {
                let restored = kept.count_in(waits, with_runs);
                if !sabotage::on(Sabotage::RestoredUncounted) {
                    turn.out.ledger.restored += restored;
                }
            }
        }
        match count.last {
            true => self.restoring.uncounted = self.restoring.uncounted.saturating_sub(1),
            false => self.ask_for_counts(turn, count.lane),
        }
    }

    /// True if the number of what waits has come for all sessions.
    #[must_use]
    pub const fn has_counted(&self) -> bool {
        self.restoring.uncounted == 0
    }

    /// Messages that are known to wait in a shared group, and their bytes, if it is kept and owned here.
    #[must_use]
    pub fn waiting_in_group(&self, incarnation: Incarnation) -> Option<(u64, u64)> {
        let group = self.groups.groups.get(*self.groups.by_life.get(&incarnation)?)?;
        Some((group.waiting() as u64, group.waiting_bytes()))
    }

    /// What is known of what waits for the session of a client, if it has one.
    #[must_use]
    pub fn waiting(&self, client_id: &ClientId) -> Option<Waiting> {
        let session = self.sessions.get(self.find_session(client_id)?)?;
        let (stored, stored_bytes) = session.stored();
        let flow = session.flow.as_deref();
        Some(Waiting {
            incarnation: session.incarnation(),
            online: session.is_online(),
            queued: u64::from(stored) + flow.map_or(0, |flow| flow.queue.len()) as u64,
            inflight: flow.map_or(0, |flow| flow.published()) as u64,
            bytes: stored_bytes + flow.map_or(0, |flow| flow.queue.bytes + flow.inflight_bytes),
        })
    }
}

impl Kept {
    /// What has come into memory is not counted any more.
    pub(crate) fn pass_uncounted(&mut self) {
        if self.uncounted_from < u64::MAX {
            self.uncounted_from = self.uncounted_from.max(self.stored_from);
        }
    }

    /// So much waits from before this process; `None` if nothing does. What has been read into memory
    /// meanwhile is among it. Returns how much is not.
    fn count_in(&mut self, waits: Option<Waits>, with_runs: bool) -> u64 {
        let from = std::mem::replace(&mut self.uncounted_from, u64::MAX);
        if from == u64::MAX {
            return 0;
        }
        let Some(mut waits) = waits else {
            if self.stored == 0 && !self.loading {
                self.stored_from = u64::MAX;
            }
            return 0;
        };
        let count = |waits: &Waits| waits.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        let all = count(&waits);
        if !sabotage::on(Sabotage::CountedTwice) {
            waits.runs.iter_mut().for_each(|run| run.cut_before(from));
            waits.runs.retain(|run| run.count > 0);
        }
        let left = count(&waits);
        let share = u128::from(waits.bytes) * u128::from(left) / u128::from(all.max(1));
        self.stored = self.stored.saturating_add(u32::try_from(left).unwrap_or(u32::MAX));
        // Not more than the bytes of all of it.
        self.stored_bytes += share as u64;
        if with_runs && left > 0 {
            let runs = self.runs.get_or_insert_default();
            runs.extend(waits.runs);
            runs.make_contiguous().sort_unstable_by_key(|run| run.first);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;
    use crate::input::Run;
    use petrel_proto::Qos;

    /// A session that has come back, in whose order this process begins at place 100.
    fn restored() -> Kept {
        let mut kept = Kept::new(Incarnation::new(1, Slot(7), 1), true, 100);
        (kept.stored_from, kept.uncounted_from) = (0, 0);
        kept
    }

    fn waits(runs: &[(u64, u32)]) -> Option<Waits> {
        let count: u32 = runs.iter().map(|(_, count)| *count).sum();
        let incarnation = Incarnation::new(1, Slot(7), 1);
        let runs = runs.iter().map(|&(first, count)| Run { first, count, qos: Qos::AtLeastOnce });
        Some(Waits { incarnation, bytes: u64::from(count) * 10, runs: runs.collect() })
    }

    #[test]
    fn what_waits_is_added_to_what_has_come_since() {
        let mut kept = restored();
        kept.store(100, Qos::AtLeastOnce, 7, true);
        kept.count_in(waits(&[(3, 2), (9, 1)]), true);
        assert_eq!((kept.stored, kept.stored_bytes, kept.stored_from), (4, 37, 0));
        let oldest: Vec<u64> =
            std::iter::from_fn(|| kept.drop_oldest()).map(|oldest| oldest.sequence).collect();
        assert_eq!(oldest, [3, 4, 9, 100]);
        // A second answer would be another's.
        kept.count_in(waits(&[(3, 2)]), true);
        assert_eq!(kept.stored, 0);
    }

    #[test]
    fn what_has_come_into_memory_is_not_counted_again() {
        let mut kept = restored();
        (kept.stored_from, kept.uncounted_from) = (5, 5);
        kept.count_in(waits(&[(3, 4), (9, 2)]), false);
        assert_eq!((kept.stored, kept.stored_bytes), (4, 40));
    }

    #[test]
    fn a_session_for_which_nothing_waits_has_all_of_it_in_memory() {
        let mut kept = restored();
        kept.count_in(None, false);
        assert_eq!(kept.stored_from, u64::MAX);
        let mut kept = restored();
        kept.store(100, Qos::AtLeastOnce, 7, false);
        kept.count_in(None, false);
        assert_eq!((kept.stored_from, kept.stored), (0, 1), "this process has queued something");
        let mut kept = restored();
        kept.loading = true;
        kept.count_in(None, false);
        assert_eq!(kept.stored_from, 0, "the answer to the question is awaited");
    }
}

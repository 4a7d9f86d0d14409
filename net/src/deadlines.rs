//! When connections are due to be looked at, in steps of a quarter of a second.
//!
//! Owns a small wheel of keys. It knows no reasons: whoever is due is asked for its own deadline
//! again, so a deadline that moved costs nothing until its old time comes.

use crate::ConnKey;

/// Length of one step, in milliseconds.
pub(crate) const STEP_MS: u64 = 250;
const STEPS: usize = 512;

/// No entry in the wheel.
pub(crate) const NEVER: u32 = u32::MAX;

/// The wheel.
#[derive(Debug)]
pub(crate) struct Deadlines {
    steps: Vec<Vec<ConnKey>>,
    /// The next step to be looked at.
    cursor: u32,
    /// What is left of the step before it.
    due: std::vec::IntoIter<ConnKey>,
}

impl Deadlines {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            steps: vec![Vec::new(); STEPS],
            cursor: step_of(now_ms),
            due: Vec::new().into_iter(),
        }
    }

    /// Looks at `key` at `deadline_ms`, never before it unless it is further away than the
    /// wheel reaches. Returns the step, or `None` if the earlier look at step `planned` covers it.
    pub(crate) fn plan(&mut self, key: ConnKey, deadline_ms: u64, planned: u32) -> Option<u32> {
        let step = step_of(deadline_ms.saturating_add(STEP_MS - 1));
        let step = step.clamp(self.cursor, self.cursor + STEPS as u32 - 1);
        if planned != NEVER && planned <= step && planned >= self.cursor {
            return None;
        }
        self.steps[step as usize % STEPS].push(key);
        Some(step)
    }

    /// Takes the next key of a step that has come, with the step's number; `None` when all are done.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<(u32, ConnKey)> {
        loop {
            if let Some(key) = self.due.next() {
                return Some((self.cursor - 1, key));
            }
            if self.cursor > step_of(now_ms) {
                return None;
            }
            self.due = std::mem::take(&mut self.steps[self.cursor as usize % STEPS]).into_iter();
            self.cursor += 1;
        }
    }

    /// True if keys of a step that has begun are left.
    pub(crate) fn is_overdue(&self) -> bool {
        !self.due.as_slice().is_empty()
    }
}

/// 2^32 steps are 34 years.
const fn step_of(now_ms: u64) -> u32 {
    (now_ms / STEP_MS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ConnKey = ConnKey { index: 3, generation: 1 };

    fn due_at(deadlines: &mut Deadlines, now_ms: u64) -> Vec<ConnKey> {
        std::iter::from_fn(|| deadlines.due(now_ms)).map(|(_, key)| key).collect()
    }

    #[test]
    fn a_key_is_due_at_its_deadline_and_not_before() {
        let mut deadlines = Deadlines::new(1_000);
        deadlines.plan(KEY, 2_010, NEVER);
        assert_eq!(due_at(&mut deadlines, 2_009), []);
        assert_eq!(due_at(&mut deadlines, 2_250), [KEY]);
        assert_eq!(due_at(&mut deadlines, 200_000), []);
    }

    #[test]
    fn an_earlier_look_makes_a_second_one_needless() {
        let mut deadlines = Deadlines::new(0);
        let planned = deadlines.plan(KEY, 500, NEVER).expect("nothing was planned");
        assert_eq!(deadlines.plan(KEY, 900, planned), None);
        assert!(deadlines.plan(KEY, 100, planned).is_some());
    }

    #[test]
    fn a_far_deadline_is_looked_at_on_the_way() {
        let mut deadlines = Deadlines::new(0);
        deadlines.plan(KEY, 1 << 40, NEVER);
        assert_eq!(due_at(&mut deadlines, STEP_MS * STEPS as u64), [KEY]);
    }
}

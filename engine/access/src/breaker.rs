//! When a back end that fails is left alone, and when it is tried again.
//!
//! Pure: time is what the caller says. While it is open nobody waits for a back end that would only fail; then one
//! client at a time finds out whether it is back.

/// The last answers that are looked at together.
const LAST: u32 = 32;
/// How many failures among them are too many, though others stand between them.
const FAILURES_OF_LAST: u32 = LAST / 2;
/// The longest pause, in milliseconds, unless the first is longer.
const PAUSE_MS_MAX: u64 = 30_000;

/// When it opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Failures one after the other.
    pub failures: u32,
    /// The first pause in milliseconds. Each that ends with another failure makes the next twice as long.
    pub pause_ms: u64,
}

/// The state of one back end.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    /// Failures one after the other.
    in_a_row: u32,
    /// The last answers, the latest in the lowest bit; a failure is a one.
    last: u32,
    /// How many of them there are.
    answers: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    /// Nobody asks before `until_ms`; then one does, and the next not before another pause.
    Open {
        until_ms: u64,
        pause_ms: u64,
    },
}

/// Leave to ask, and what it was given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The back end is well.
    Usual,
    /// To find out whether it is again.
    Probe,
}

/// What an answer has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nobody asks for so many milliseconds.
    Opened(u64),
    /// All ask again.
    Closed,
}

impl Breaker {
    /// One that is closed.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed, in_a_row: 0, last: 0, answers: 0 }
    }

    /// Leave to ask; `None` if the back end is to be left alone.
    pub fn leave(&mut self, now_ms: u64) -> Option<Leave> {
        match &mut self.state {
            State::Closed => Some(Leave::Usual),
            State::Open { until_ms, .. } if *until_ms > now_ms => None,
            State::Open { until_ms, pause_ms } => {
                // Whoever has leave may never come back with an answer; then the next one gets it.
                *until_ms = now_ms + *pause_ms;
                Some(Leave::Probe)
            }
        }
    }

    /// True if [`Breaker::leave`] would give none.
    #[must_use]
    pub fn is_open(&self, now_ms: u64) -> bool {
        matches!(self.state, State::Open { until_ms, .. } if until_ms > now_ms)
    }

    /// Somebody with leave has got an answer, or has not.
    pub fn heard(&mut self, leave: Leave, now_ms: u64, is_well: bool) -> Option<Change> {
        match (self.state, leave) {
            (State::Open { .. }, Leave::Probe) if is_well => {
                *self = Self::new(self.limits);
                Some(Change::Closed)
            }
            (State::Open { pause_ms, .. }, Leave::Probe) => {
                let longest_ms = PAUSE_MS_MAX.max(self.limits.pause_ms);
                Some(self.open(now_ms, (pause_ms * 2).min(longest_ms)))
            }
            // It was asked before all that.
            (State::Open { .. }, Leave::Usual) => None,
            (State::Closed, _) => {
                self.last = self.last << 1 | u32::from(!is_well);
                self.answers = (self.answers + 1).min(LAST);
                self.in_a_row = if is_well { 0 } else { self.in_a_row + 1 };
                let too_often = self.answers == LAST && self.last.count_ones() >= FAILURES_OF_LAST;
                let opens = !is_well && (self.in_a_row >= self.limits.failures || too_often);
                opens.then(|| self.open(now_ms, self.limits.pause_ms))
            }
        }
    }

    fn open(&mut self, now_ms: u64, pause_ms: u64) -> Change {
        self.state = State::Open { until_ms: now_ms + pause_ms, pause_ms };
        Change::Opened(pause_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Limits { failures: 3, pause_ms: 1000 })
    }

    fn answers(breaker: &mut Breaker, now_ms: u64, answers: &[bool]) -> Vec<Option<Change>> {
        let one = |&is_well: &bool| {
            let leave = breaker.leave(now_ms).expect("leave");
            breaker.heard(leave, now_ms, is_well)
        };
        answers.iter().map(one).collect()
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = breaker();
        let well = answers(&mut breaker, 0, &[false, false, true, false, false]);
        assert!(well.iter().all(Option::is_none));
        assert_eq!(answers(&mut breaker, 5, &[false]), [Some(Change::Opened(1000))]);
        assert!(breaker.is_open(1004) && breaker.leave(1004).is_none());
        assert_eq!(breaker.leave(1005), Some(Leave::Probe));
        assert_eq!(breaker.leave(1005), None, "one at a time");
        assert_eq!(breaker.heard(Leave::Probe, 1010, true), Some(Change::Closed));
        assert!(answers(&mut breaker, 1010, &[false, false]).iter().all(Option::is_none));
    }

    #[test]
    fn pauses_get_longer_up_to_a_bound() {
        let mut breaker = breaker();
        answers(&mut breaker, 0, &[false; 3]);
        let (mut now_ms, mut pauses) = (1000, Vec::new());
        for _ in 0..7 {
            assert_eq!(breaker.leave(now_ms), Some(Leave::Probe));
            let Some(Change::Opened(pause_ms)) = breaker.heard(Leave::Probe, now_ms, false) else {
                panic!("it stays open");
            };
            assert!(breaker.leave(now_ms + pause_ms - 1).is_none());
            now_ms += pause_ms;
            pauses.push(pause_ms);
        }
        assert_eq!(pauses, [2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn half_of_many_answers_failing_opens_it() {
        let mut breaker = breaker();
        let mut opened = None;
        for at in 0..LAST {
            let leave = breaker.leave(0).expect("leave");
            assert_eq!(opened, None, "{at}");
            opened = breaker.heard(leave, 0, at % 2 == 0).or(opened);
        }
        assert_eq!(opened, Some(Change::Opened(1000)));
    }

    #[test]
    fn answers_from_before_change_nothing_and_a_lost_probe_is_not_the_last() {
        let mut breaker = breaker();
        let early = breaker.leave(0).expect("leave");
        answers(&mut breaker, 0, &[false; 3]);
        assert_eq!(breaker.heard(early, 10, true), None);
        assert!(breaker.is_open(10));
        assert_eq!(breaker.leave(1000), Some(Leave::Probe));
        assert_eq!(breaker.leave(1999), None);
        assert_eq!(breaker.leave(2000), Some(Leave::Probe));
    }
}

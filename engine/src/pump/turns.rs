//! How long the turns of a shard take.

use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "admin")]
use std::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;

/// The longest turn that is told from longer ones, in microseconds.
const LONGEST_US: u64 = 60_000_000;
/// Within a tenth.
const DIGITS: u8 = 1;

/// The times of all turns so far, in microseconds, for those who watch.
#[derive(Debug, Clone)]
pub struct TurnTimes(Arc<Mutex<Histogram<u64>>>);

impl Default for TurnTimes {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(empty())))
    }
}

impl TurnTimes {
    /// A copy of what has been noted so far. *Cost*: some kilobytes; a shard waits for it at most once in a tick.
    #[must_use]
    pub fn all(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Times of turns since the last tick.
#[derive(Debug)]
pub(super) struct Turns {
    since: Instant,
    lately: Histogram<u64>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { since: Instant::now(), lately: empty() }
    }
}

impl Turns {
    /// A turn begins: what it waited for has come.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// It has ended. *Cost*: with its begin two looks at the clock, and a count.
    #[inline]
    pub(super) fn end(&mut self) {
        let us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(LONGEST_US);
        self.lately.saturating_record(us.min(LONGEST_US));
    }

    /// Shows them to those who watch.
    pub(super) fn publish(&mut self, all: &TurnTimes) {
        let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Both have the same bounds.
        let _ = all.add(&self.lately);
        self.lately.reset();
    }
}

fn empty() -> Histogram<u64> {
    // The bounds are good ones.
    Histogram::new_with_max(LONGEST_US, DIGITS).unwrap_or_else(|_| unreachable!())
}

/// How many turns took no longer than each of these bounds and longer than the one before, and how many longer
/// than all.
#[cfg(feature = "admin")]
pub(crate) fn buckets(times: &Histogram<u64>, bounds: &[Duration]) -> Vec<(f64, u64)> {
    let mut from = 0;
    let mut buckets = Vec::new();
    for bound in bounds {
        let upto = u64::try_from(bound.as_micros()).unwrap_or(LONGEST_US);
        buckets.push((bound.as_secs_f64(), times.count_between(from, upto)));
        // A value stands for those that are told from it no more.
        from = times.next_non_equivalent(upto);
    }
    let others = times.len() - buckets.iter().map(|(_, count)| count).sum::<u64>();
    buckets.push((f64::INFINITY, others));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_noted_for_those_who_watch() {
        let times = TurnTimes::default();
        let mut turns = Turns::default();
        for us in [5, 50, 50, 5_000, u64::MAX] {
            turns.lately.saturating_record(us.min(LONGEST_US));
        }
        turns.publish(&times);
        turns.begin();
        turns.end();
        turns.publish(&times);
        let all = times.all();
        assert_eq!(all.len(), 6);
        #[cfg(feature = "admin")]
        {
            let bounds = [10, 100, 10_000].map(Duration::from_micros);
            let buckets = buckets(&all, &bounds);
            let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
            assert_eq!(counts.iter().sum::<u64>(), 6);
            assert!((2..=3).contains(&counts[1]) && counts[3] >= 1, "{counts:?}");
        }
    }
}

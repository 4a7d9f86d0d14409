//! How long the turns of a shard take, and how long what it sends has been in the broker.
//!
//! The clock is that of the process, the same for all shards, in nanoseconds: parcels carry since when what caused them
//! could be read.

use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "admin")]
use std::time::Duration;

use hdrhistogram::Histogram;
use petrel_mesh::Stamp;

/// The longest time that is told from longer ones, in microseconds.
const LONGEST_US: u64 = 60_000_000;
/// Within a tenth.
const DIGITS: u8 = 1;

/// All times so far, in microseconds, for those who watch.
#[derive(Debug, Clone)]
pub struct Times(Arc<Mutex<Histogram<u64>>>);

impl Default for Times {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(empty())))
    }
}

impl Times {
    /// A copy of what has been noted so far. *Cost*: some kilobytes; a shard waits for it at most once in a tick.
    #[must_use]
    pub fn all(&self) -> Histogram<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what has been noted lately, which is nothing from then on.
    fn take(&self, lately: &mut Histogram<u64>) {
        // Both have the same bounds.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).add(&*lately);
        lately.reset();
    }
}

/// What has been noted since the last tick.
#[derive(Debug)]
pub(super) struct Lately {
    began: Stamp,
    turns: Histogram<u64>,
    /// Since when what is handled now could be read.
    since: Stamp,
    /// The same of what has been handled and whose packets and messages are not sent yet.
    causes: Vec<Cause>,
    residency: Histogram<u64>,
}

/// How much is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Gathered {
    /// Packets to clients.
    pub(super) packets: usize,
    /// Messages to other shards.
    pub(super) messages: usize,
}

/// What is handled from some moment on.
#[derive(Debug, Clone, Copy)]
struct Cause {
    /// What had been gathered before.
    before: Gathered,
    since: Stamp,
}

impl Default for Lately {
    fn default() -> Self {
        Self { began: 0, turns: empty(), since: 0, causes: Vec::new(), residency: empty() }
    }
}

impl Lately {
    /// A turn begins: what it waited for has come.
    #[inline]
    pub(super) fn begin_turn(&mut self, now: Stamp) {
        self.began = now;
        self.since = now;
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.causes.clear();
        self.causes.push(Cause { before: Gathered::default(), since: self.since });
    }

    /// It has ended.
    #[inline]
    pub(super) fn end_turn(&mut self, now: Stamp) {
        self.turns.saturating_record(us_between(self.began, now));
    }

    /// What is handled from now on could be read since then; so much has been gathered before.
    /// *Cost*: a comparison where neighbours came together.
    #[inline]
    pub(super) fn handles(&mut self, since: Stamp, before: impl FnOnce() -> Gathered) {
        if self.since != since {
            self.since = since;
            self.causes.push(Cause { before: before(), since });
        }
    }

    /// What is handled from now on comes of this turn itself.
    pub(super) fn handles_its_own(&mut self, before: impl FnOnce() -> Gathered) {
        self.handles(self.began, before);
    }

    /// Since when the first of what these messages come of could be read, all that are gathered for other shards. What has
    /// led to none of them says nothing of them: it may have come from another shard itself, and its time would go round.
    pub(super) fn since_of_messages(&self, messages: usize) -> Stamp {
        let (mut upto, mut first) = (messages, None);
        for Cause { before, since } in self.causes.iter().rev() {
            if upto > before.messages {
                first = Some(first.unwrap_or(*since).min(*since));
            }
            upto = upto.min(before.messages);
        }
        first.unwrap_or(self.since)
    }

    /// So many packets have been given to their sockets: all that were gathered, as the messages were sent.
    pub(super) fn sent(&mut self, packets: usize, now: Stamp) {
        let mut upto = packets;
        for Cause { before, since } in self.causes.iter().rev() {
            if upto > before.packets {
                // A count of packets of a turn.
                let count = (upto - before.packets) as u64;
                self.residency.saturating_record_n(us_between(*since, now), count);
            }
            upto = upto.min(before.packets);
        }
        self.begin_round();
    }

    /// Shows all that to those who watch.
    pub(super) fn publish(&mut self, turns: &Times, residency: &Times) {
        turns.take(&mut self.turns);
        residency.take(&mut self.residency);
    }
}

const fn us_between(from: Stamp, to: Stamp) -> u64 {
    let us = to.saturating_sub(from) / 1000;
    if us < LONGEST_US { us } else { LONGEST_US }
}

fn empty() -> Histogram<u64> {
    // The bounds are good ones.
    Histogram::new_with_max(LONGEST_US, DIGITS).unwrap_or_else(|_| unreachable!())
}

/// How many took no longer than each of these bounds and longer than the one before, and how many longer
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
        let (times, residency) = (Times::default(), Times::default());
        let mut lately = Lately::default();
        for us in [5, 50, 50, 5_000, u64::MAX / 1000 - 1] {
            lately.begin_turn(1000);
            lately.end_turn(1000 + us * 1000);
        }
        lately.publish(&times, &residency);
        lately.begin_turn(9_000);
        lately.end_turn(8_000);
        lately.publish(&times, &residency);
        let all = times.all();
        assert_eq!((all.len(), residency.all().len()), (6, 0));
        #[cfg(feature = "admin")]
        {
            let bounds = [10, 100, 10_000].map(Duration::from_micros);
            let buckets = buckets(&all, &bounds);
            let counts: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
            assert_eq!(counts, [2, 2, 1, 1]);
        }
    }

    #[test]
    fn each_packet_counts_from_when_its_cause_could_be_read() {
        let times = Times::default();
        let mut lately = Lately::default();
        let us = |us: u64| us * 1000;
        let gathered = |packets, messages| move || Gathered { packets, messages };
        lately.begin_turn(us(100));
        // Another shard could read at 40 what two packets come of, and a socket at 90 what three and a message do.
        lately.handles(us(40), gathered(0, 0));
        lately.handles(us(90), gathered(2, 0));
        lately.handles(us(90), gathered(4, 1));
        // What causes no packet.
        lately.handles(us(1), gathered(5, 1));
        assert_eq!(lately.since_of_messages(1), us(90), "what came last did not lead to it");
        lately.handles_its_own(gathered(5, 1));
        assert_eq!(
            lately.since_of_messages(1),
            us(90),
            "what came from the other shard did not lead to it"
        );
        lately.sent(6, us(110));
        // What is sent in the same turn later.
        assert_eq!(lately.since_of_messages(3), us(100));
        lately.sent(4, us(200));
        lately.publish(&Times::default(), &times);
        let all = times.all();
        let counts: Vec<_> = all.iter_recorded().map(|it| it.count_at_value()).collect();
        assert_eq!(counts, [1, 3, 2, 4]);
        assert!((69..=71).contains(&all.value_at_quantile(0.5)), "{}", all.value_at_quantile(0.5));
    }
}

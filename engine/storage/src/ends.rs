//! The shard's end of the lanes: which record goes to which, and how far all of them together have come.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use petrel_proto::Will;
use petrel_shard::outbox::{Count, Load};
use petrel_shard::record::SessionRecord;
use petrel_shard::{Record, ShardIndex};

use crate::view::View;

/// What a shard asks of a lane. Orders of one shard are carried out in their order.
#[derive(Debug)]
pub enum Order {
    /// Keep this.
    Keep {
        /// Who asks.
        from: ShardIndex,
        /// The position of the shard's last record so far.
        upto: u64,
        /// Somebody waits for it.
        urgent: bool,
        /// What, in order.
        records: Vec<Record>,
        /// The bytes of the messages in it. One that many sessions get counts for each.
        bytes: u64,
    },
    /// Answer this when everything before it is kept.
    Load(Load),
    /// Give this what is kept when everything before it is.
    View(Sender<View>),
    /// Answer this at leisure.
    Count(Count),
}

/// Splits the records of one shard between lanes and joins their answers.
#[derive(Debug)]
pub struct Ends {
    shard: ShardIndex,
    /// What each lane has been given and has not answered: positions of the first and last record.
    given: Vec<VecDeque<(u64, u64)>>,
    /// By lane: up to where it has been told that somebody waits.
    urged: Vec<u64>,
    /// The position of the last record.
    upto: u64,
    /// Up to here everything is kept.
    kept: u64,
}

impl Ends {
    /// The end of a shard that has recorded nothing.
    #[must_use]
    pub fn new(shard: ShardIndex, lanes: u16) -> Self {
        let given = (0..lanes).map(|_| VecDeque::new()).collect();
        Self { shard, given, urged: vec![0; usize::from(lanes)], upto: 0, kept: 0 }
    }

    /// The lane that keeps what belongs to a slot.
    #[must_use]
    pub fn lane_of(&self, slot: petrel_shard::Slot) -> usize {
        usize::from(slot.0) % self.given.len()
    }

    /// Turns the records of a turn, of which the last has the position `upto`, into orders. With one
    /// lane, the records are passed on as they are.
    pub fn split(&mut self, records: Vec<Record>, upto: u64, urgent: bool) -> Vec<(usize, Order)> {
        let from = self.shard;
        let first = self.upto + 1;
        debug_assert_eq!(upto, self.upto + records.len() as u64);
        self.upto = upto;
        let mut parts: Vec<Vec<Record>> = self.given.iter().map(|_| Vec::new()).collect();
        let mut firsts = vec![0; parts.len()];
        let mut lasts = vec![0; parts.len()];
        if let [only] = &mut parts[..] {
            (firsts[0], lasts[0]) = (first, upto);
            *only = records;
        } else {
            for (record, position) in records.into_iter().zip(first..) {
                let lane = self.lane_of(record.slot());
                if parts[lane].is_empty() {
                    firsts[lane] = position;
                }
                lasts[lane] = position;
                parts[lane].push(record);
            }
        }
        let mut orders = Vec::new();
        for (lane, records) in parts.into_iter().enumerate() {
            if !records.is_empty() {
                self.given[lane].push_back((firsts[lane], lasts[lane]));
            }
            let upto = self.given[lane].back().map_or(0, |(_, last)| *last);
            // A lane with nothing new may hold back what somebody waits for.
            let urges = urgent && upto > self.urged[lane];
            if urges {
                self.urged[lane] = upto;
            }
            if !records.is_empty() || urges {
                let bytes = weight(&records);
                orders.push((lane, Order::Keep { from, upto, urgent, records, bytes }));
            }
        }
        orders
    }

    /// A lane has kept what it was given up to a position. Returns how far all of them have come, if
    /// that is farther than before.
    pub fn answered(&mut self, lane: usize, upto: u64) -> Option<u64> {
        let given = &mut self.given[lane];
        while given.pop_front_if(|(_, last)| *last <= upto).is_some() {}
        let open = self.given.iter().filter_map(|given| given.front().map(|(first, _)| first - 1));
        let kept = open.min().unwrap_or(self.upto);
        (kept > self.kept).then(|| {
            self.kept = kept;
            kept
        })
    }
}

/// About the bytes of records and what is in them. A message that many sessions get counts for each.
fn weight(records: &[Record]) -> u64 {
    let bytes = |record: &Record| match record {
        Record::Queued { delivery, .. } => delivery.message.cost_bytes(),
        Record::Retained(message, author) => {
            message.cost_bytes() + author.as_deref().map_or(0, |author| author.as_bytes().len())
        }
        Record::Session(session) => {
            let wills = session.will.as_deref().into_iter().chain(&session.leaving);
            size_of::<SessionRecord>() + wills.map(weight_of_will).sum::<usize>()
        }
        Record::Subscribed(subscription) => subscription.filter.as_bytes().len(),
        Record::Unsubscribed { filter, .. } => filter.as_bytes().len(),
        _ => 0,
    };
    records.iter().map(|record| (size_of::<Record>() + bytes(record)) as u64).sum()
}

fn weight_of_will(will: &Will) -> usize {
    let properties = will.properties.message.len();
    will.topic.as_bytes().len() + will.payload.len() + properties
}

#[cfg(test)]
mod tests {
    use petrel_shard::{Incarnation, Slot};

    use super::*;

    fn done(slot: u16) -> Record {
        Record::Done { incarnation: Incarnation::new(1, Slot(slot), 1), sequence: 1 }
    }

    #[test]
    fn what_is_kept_is_what_all_lanes_have_kept() {
        let mut ends = Ends::new(ShardIndex(0), 2);
        let orders = ends.split(vec![done(0), done(1), done(2)], 3, false);
        assert_eq!(orders.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(), [0, 1]);
        // Position 2 is with lane 1, which has not answered.
        assert_eq!(ends.answered(0, 3), Some(1));
        ends.split(vec![done(4)], 4, false);
        assert_eq!(ends.answered(1, 2), Some(3));
        assert_eq!(ends.answered(0, 4), Some(4));
        assert_eq!(ends.answered(0, 4), None);
    }

    #[test]
    fn whoever_waits_waits_for_every_lane_that_has_something() {
        let mut ends = Ends::new(ShardIndex(0), 3);
        ends.split(vec![done(0)], 1, false);
        let orders = ends.split(vec![done(1)], 2, true);
        let urgent: Vec<usize> = orders
            .iter()
            .filter(|(_, order)| matches!(order, Order::Keep { urgent: true, .. }))
            .map(|(lane, _)| *lane)
            .collect();
        assert_eq!(urgent, [0, 1]);
    }

    #[test]
    fn one_lane_gets_everything_as_it_is() {
        let mut ends = Ends::new(ShardIndex(0), 1);
        let orders = ends.split(vec![done(7), done(9)], 2, true);
        assert_eq!(orders.len(), 1);
        assert!(matches!(&orders[0].1, Order::Keep { upto: 2, records, .. } if records.len() == 2));
        assert_eq!(ends.answered(0, 2), Some(2));
    }
}

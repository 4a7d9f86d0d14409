//! Where every message has gone: a ledger that adds up.
//!
//! It has two pages. The first is about *messages*, as publishers send them: each that is received, each will that is
//! published, and each message of the broker's own, is refused for a reason, or nobody wants it, or it goes on its way. The second is about
//! *copies*, one for each receiver: each that is due is delivered, or dropped for a reason, or replaced by a newer
//! message of its topic, or held: queued, in flight, in a shared group, on its way to many, or in
//! storage.
//!
//! What a shared group gives to a member on another shard, and gets back, is handed over there and taken here, so
//! that the ledger of each shard adds up by itself, and those of all shards together once nothing is on its way
//! between them. What waits from before this process is restored.
//!
//! *Cost*: three additions for a message of QoS 0 to one receiver.

use crate::event::{DropReason, Drops};
use crate::sabotage::{self, Sabotage};
use crate::shard::Turn;

/// What has become of the messages of a shard since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Messages that clients have published, by QoS; one of QoS 2 that is sent again counts once.
    pub received: [u64; 3],
    /// Copies that receivers have, by the QoS of the delivery: sent at QoS 0, acknowledged otherwise.
    pub delivered: [u64; 3],
    /// Wills that were published.
    pub wills: u64,
    /// Messages that no client has published: the broker's own, and those of an operator.
    pub own: u64,
    /// Messages, wills and the broker's own included, that went no further, for a reason that is in `drops`.
    pub refused: u64,
    /// Messages that no subscription of the broker matches.
    pub unmatched: u64,
    /// Copies for receivers.
    pub due: u64,
    /// Copies that waited in storage when the process began.
    pub restored: u64,
    /// Copies that came from another place of a shared group.
    pub taken: u64,
    /// Copies that went to another place of a shared group.
    pub handed: u64,
    /// Copies that a receiver does not get, for a reason that is in `drops`.
    pub dropped: u64,
    /// Retained messages that waited for a subscriber, and had to give way to a newer message of their topic.
    pub replaced: u64,
    /// Messages that were not retained for want of room; they were delivered.
    pub not_retained: u64,
    /// Why messages were refused, copies dropped, and messages not retained.
    pub drops: Drops,
}

impl Ledger {
    /// Numbers of [`Self::numbers`].
    pub const NUMBERS: usize = 17 + DropReason::ALL.len();

    /// Messages that went on their way to some receiver.
    #[must_use]
    pub fn routed(&self) -> u64 {
        let received: u64 = self.received.iter().sum();
        (received + self.wills + self.own).saturating_sub(self.refused + self.unmatched)
    }

    /// Copies that are held: queued, in flight, in a shared group or in storage. What has been handed over and not
    /// been taken yet is in none of two ledgers. Never below 0, though numbers of several moments may say so.
    #[must_use]
    pub fn held(&self) -> u64 {
        let come = self.due + self.restored + self.taken;
        let delivered: u64 = self.delivered.iter().sum();
        come.saturating_sub(delivered + self.dropped + self.replaced + self.handed)
    }

    /// The same of all shards together, with what is on its way from one to the other.
    #[must_use]
    pub fn held_by_all(&self) -> u64 {
        let delivered: u64 = self.delivered.iter().sum();
        let over = delivered + self.dropped + self.replaced;
        (self.due + self.restored).saturating_sub(over)
    }

    /// All numbers, in an order of their own.
    #[must_use]
    pub fn numbers(&self) -> [u64; Self::NUMBERS] {
        let Self { received, delivered, wills, own, refused, unmatched, due, .. } = *self;
        let Self { restored, taken, handed, dropped, replaced, not_retained, drops, .. } = *self;
        let single = [
            wills,
            own,
            refused,
            unmatched,
            due,
            restored,
            taken,
            handed,
            dropped,
            replaced,
            not_retained,
        ];
        let by_qos = received.into_iter().chain(delivered);
        let mut all = by_qos.chain(single).chain(drops.numbers());
        std::array::from_fn(|_| all.next().unwrap_or_default())
    }

    /// From what [`Self::numbers`] gave.
    #[must_use]
    pub fn from_numbers(numbers: [u64; Self::NUMBERS]) -> Self {
        let [
            r0,
            r1,
            r2,
            d0,
            d1,
            d2,
            wills,
            own,
            refused,
            unmatched,
            due,
            restored,
            taken,
            handed,
            dropped,
            replaced,
            not_retained,
            drops @ ..,
        ] = numbers;
        Self {
            received: [r0, r1, r2],
            delivered: [d0, d1, d2],
            wills,
            own,
            refused,
            unmatched,
            due,
            restored,
            taken,
            handed,
            dropped,
            replaced,
            not_retained,
            drops: Drops::from_numbers(drops),
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        let (mut sum, other) = (self.numbers(), other.numbers());
        sum.iter_mut().zip(other).for_each(|(sum, more)| *sum += more);
        *self = Self::from_numbers(sum);
    }
}

/// Counts a copy that one receiver does not get.
pub(crate) fn drop_message(turn: &mut Turn<'_>, reason: DropReason) {
    turn.out.ledger.dropped += u64::from(!sabotage::on(Sabotage::DropUncounted));
    turn.out.ledger.drops.count(reason);
}

/// Counts a message that goes no further.
pub(crate) fn refuse_message(turn: &mut Turn<'_>, reason: DropReason) {
    turn.out.ledger.refused += 1;
    turn.out.ledger.drops.count(reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_ledger_and_add_up() {
        let numbers: [u64; Ledger::NUMBERS] = std::array::from_fn(|at| at as u64 + 1);
        let mut ledger = Ledger::from_numbers(numbers);
        assert_eq!(ledger.numbers(), numbers);
        ledger.add(&Ledger::from_numbers(numbers));
        assert_eq!(ledger.numbers(), numbers.map(|number| 2 * number));
    }

    #[test]
    fn what_is_held_is_never_below_zero() {
        let one = Ledger { due: 3, taken: 1, handed: 2, delivered: [1, 0, 0], ..Ledger::default() };
        assert_eq!((one.held(), one.held_by_all()), (1, 2));
        // Another shard has said earlier what was due, and this one what it has delivered since.
        let later = Ledger { delivered: [9, 0, 0], refused: 1, ..one };
        assert_eq!((later.held(), later.held_by_all(), later.routed()), (0, 0, 0));
    }
}

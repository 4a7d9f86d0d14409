//! When every other shard has done what it had begun.
//!
//! A publisher's shard looks up who wants a retained message, and the message is then on its way to
//! the owner of its topic. A SUBSCRIBE on another shard that comes in between is not in the answer of
//! that look-up; and if its question reached the owner before the message, it would never get the
//! message at all. So a question waits until each shard has ended the turn in which it was when the
//! question was put, and has given away all that came of it. Whoever looks up after that finds the
//! subscription, which was made before.
//!
//! Nobody is asked: shards write down where they are, and whoever has a question reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use petrel_shard::ShardIndex;

/// Where one shard is. In a cache line of its own, since it writes with every turn.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Mark {
    /// The turn that it has begun.
    begun: AtomicU64,
    /// The turn up to which everything is done and given away.
    done: AtomicU64,
}

/// Where all shards are.
#[derive(Debug, Clone)]
pub struct Marks(Arc<[Mark]>);

impl Marks {
    /// For this many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| Mark::default()).collect())
    }

    /// The marks as one shard writes them.
    #[must_use]
    pub fn of(&self, shard: ShardIndex) -> OwnMark {
        OwnMark { marks: self.clone(), shard: usize::from(shard.0), turn: 0 }
    }
}

/// The mark of one shard, and its view of the others.
#[derive(Debug)]
pub struct OwnMark {
    marks: Marks,
    shard: usize,
    turn: u64,
}

/// The turns of others that have to end first: shard and turn.
pub type Grace = Vec<(usize, u64)>;

impl OwnMark {
    /// A turn begins. Call it before the shard handles anything.
    pub fn begin(&mut self) {
        self.turn += 1;
        self.marks.0[self.shard].begun.store(self.turn, Ordering::Relaxed);
        // Pairs with the fence in `grace`: either the asker sees this turn, or this turn sees what the
        // asker has subscribed to.
        fence(Ordering::SeqCst);
    }

    /// A turn is over and everything that came of it is in the rings.
    pub fn end(&self) {
        self.marks.0[self.shard].done.store(self.turn, Ordering::Release);
    }

    /// What has to end before a question that is put now may go out. Call it after the shard has made
    /// the subscription.
    #[must_use]
    pub fn grace(&self) -> Grace {
        fence(Ordering::SeqCst);
        let others = self.marks.0.iter().enumerate().filter(|(shard, _)| *shard != self.shard);
        let begun = others.map(|(shard, mark)| (shard, mark.begun.load(Ordering::Relaxed)));
        let mut grace = begun.collect();
        self.is_over(&mut grace);
        grace
    }

    /// Forgets the turns that have ended; true if none is left.
    pub fn is_over(&self, grace: &mut Grace) -> bool {
        // Whoever sees that a turn has ended also sees what it has put into the rings.
        grace.retain(|&(shard, turn)| self.marks.0[shard].done.load(Ordering::Acquire) < turn);
        grace.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn only_turns_that_have_begun_and_not_ended_are_waited_for() {
        let marks = Marks::new(3);
        let asker = marks.of(ShardIndex(0));
        let mut busy = marks.of(ShardIndex(1));
        assert_eq!(asker.grace(), []);
        busy.begin();
        let mut grace = asker.grace();
        assert_eq!(grace, [(1, 1)]);
        assert!(!asker.is_over(&mut grace));
        busy.end();
        assert!(asker.is_over(&mut grace));
        busy.begin();
        assert!(asker.is_over(&mut grace), "a later turn does not count");
    }

    #[test]
    fn a_shard_does_not_wait_for_itself() {
        let marks = Marks::new(2);
        let mut own = marks.of(ShardIndex(0));
        own.begin();
        assert_eq!(own.grace(), []);
    }

    /// One publishes what it finds nobody subscribed to, the other subscribes and asks: the message is
    /// found in the one way or in the other.
    #[test]
    fn after_the_grace_what_was_overlooked_has_been_given_away() {
        for _ in 0..2_000 {
            let marks = Marks::new(2);
            let (subscribed, stored) = (AtomicBool::new(false), AtomicBool::new(false));
            let (live, answer) = std::thread::scope(|scope| {
                let publisher = scope.spawn(|| {
                    let mut mark = marks.of(ShardIndex(1));
                    mark.begin();
                    let live = subscribed.load(Ordering::Relaxed);
                    stored.store(true, Ordering::Relaxed);
                    mark.end();
                    live
                });
                let asker = marks.of(ShardIndex(0));
                subscribed.store(true, Ordering::Relaxed);
                let mut grace = asker.grace();
                while !asker.is_over(&mut grace) {
                    std::thread::yield_now();
                }
                let answer = stored.load(Ordering::Relaxed);
                (publisher.join().expect("no panic"), answer)
            });
            assert!(live || answer);
        }
    }
}

//! Messages for very many receivers, which get them in parts, so that nobody else waits for all of them.
//!
//! Each receiver gets everything in the order in which it was routed: whoever is about to be sent something
//! else, or has ended a subscription, gets what is due first. What a session that has ended was still to get
//! is dropped, as if it had ended before.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::Message;
use crate::event::DropReason;
use crate::losses::lose;
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};
use crate::wanted::{Several, Wanted};

/// The messages that are on their way to their receivers, the oldest first.
///
/// *Bounds*: [`FANOUTS_MAX`], with 12 bytes for each receiver; a byte for each session while there is one.
#[derive(Debug, Default)]
pub(crate) struct Fanouts {
    under_way: VecDeque<Fanout>,
    /// How many of them each session is still to get, by its position.
    due: Vec<u8>,
    /// Messages that have ever gone in parts.
    number: u64,
    /// Memory for the receivers of the next.
    spare: Vec<Wanted>,
    /// Receivers that were looked at for what is due to one session, since the last part.
    looks: usize,
}

#[derive(Debug)]
struct Fanout {
    number: u64,
    message: Arc<Message>,
    receivers: Vec<Wanted>,
    several: Several,
    /// How many receivers have had their turn.
    done: usize,
}

/// One receiver's turn.
struct Due {
    message: Arc<Message>,
    one: Wanted,
    identifiers: Identifiers,
}

type Identifiers = SmallVec<[u32; 4]>;

/// With more of them the oldest is delivered to all that are left.
const FANOUTS_MAX: usize = 16;

/// Sessions of one message that are looked for one by one, at most, before everything is delivered.
const DUE_MAX: usize = 8;
/// The same in receivers that are looked at between two parts.
const LOOKS_MAX: usize = 100_000;

/// In the place of a session that is not to get the message any more.
const GONE: u32 = u32::MAX;

impl Fanouts {
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(crate) const fn begun(&self) -> u64 {
        self.number
    }

    /// All up to this number are done.
    pub(crate) fn done(&self) -> u64 {
        self.under_way.front().map_or(self.number, |oldest| oldest.number - 1)
    }

    fn is_due(&self, session: u32) -> bool {
        self.due.get(session as usize).is_some_and(|due| *due > 0)
    }

    fn begin(&mut self, message: Arc<Message>, receivers: Vec<Wanted>, several: Several) {
        for one in &receivers {
            let at = one.session as usize;
            if at >= self.due.len() {
                self.due.resize((at + 1).next_power_of_two(), 0);
            }
            self.due[at] += 1;
        }
        self.number += 1;
        let number = self.number;
        self.under_way.push_back(Fanout { number, message, receivers, several, done: 0 });
    }

    /// The next receiver of the oldest message, if that has this number.
    #[inline]
    fn next(&mut self, number: u64) -> Option<(Wanted, Identifiers)> {
        let fanout = self.under_way.front_mut().filter(|fanout| fanout.number == number)?;
        while let Some(one) = fanout.receivers.get(fanout.done) {
            fanout.done += 1;
            if one.session != GONE {
                self.due[one.session as usize] -= 1;
                return Some((*one, one.identifiers(&fanout.several).into()));
            }
        }
        self.spare = self.under_way.pop_front().map(|fanout| fanout.receivers).unwrap_or_default();
        self.spare.clear();
        None
    }

    /// Receivers that are still to get something, each as often as it is.
    pub(crate) fn held(&self) -> u64 {
        let left = self.under_way.iter().flat_map(|fanout| &fanout.receivers[fanout.done..]);
        left.filter(|one| one.session != GONE).count() as u64
    }

    /// The oldest message that is due to a session, which it does not get again.
    fn take(&mut self, session: u32) -> Option<Due> {
        let due = self.due.get_mut(session as usize).filter(|due| **due > 0)?;
        *due -= 1;
        let looks = &mut self.looks;
        self.under_way.iter_mut().find_map(|fanout| {
            let left = fanout.receivers.get_mut(fanout.done..)?;
            let at = left.iter().position(|one| one.session == session);
            *looks += at.unwrap_or(left.len());
            let one = left.get_mut(at?)?;
            let taken = *one;
            one.session = GONE;
            let identifiers = taken.identifiers(&fanout.several).into();
            Some(Due { message: Arc::clone(&fanout.message), one: taken, identifiers })
        })
    }

    /// Time has passed: memory that is not used is given back.
    pub(crate) fn rest(&mut self) {
        if self.under_way.is_empty() {
            (self.under_way, self.due, self.spare) = Default::default();
        }
    }
}

impl Shard {
    /// Sends a message to the first of those who were collected, and to the others while other input is
    /// handled.
    pub(crate) fn begin_fanout(&mut self, turn: &mut Turn<'_>, message: Arc<Message>) {
        if self.fanouts.under_way.len() == FANOUTS_MAX {
            self.deliver_part(turn, usize::MAX);
        }
        let spare = std::mem::take(&mut self.fanouts.spare);
        let receivers = std::mem::replace(&mut self.scratch.wanted.sessions, spare);
        let several = std::mem::take(&mut self.scratch.wanted.identifiers);
        turn.out.ledger.due += receivers.len() as u64;
        self.fanouts.begin(message, receivers, several);
        self.carry_on(turn);
    }

    /// Delivers the oldest of the messages under way to some more of its receivers.
    pub(crate) fn carry_on(&mut self, turn: &mut Turn<'_>) {
        self.deliver_part(turn, self.limits().receivers_per_turn as usize);
    }

    fn deliver_part(&mut self, turn: &mut Turn<'_>, receivers_max: usize) {
        let Some(fanout) = self.fanouts.under_way.front() else { return };
        let (number, message) = (fanout.number, Arc::clone(&fanout.message));
        if sabotage::on(Sabotage::PartLost) && fanout.done > 1 {
            while self.fanouts.next(number).is_some() {}
            return;
        }
        self.scratch.forms.begin(&message);
        self.fanouts.looks = 0;
        // What delivering leads to may deliver more of it.
        for _ in 0..receivers_max {
            let Some((one, identifiers)) = self.fanouts.next(number) else { break };
            self.deliver_to(turn, &one, &identifiers, &message, None);
        }
        self.scratch.forms.end();
    }

    /// Delivers all that is under way.
    pub(crate) fn finish_fanouts(&mut self, turn: &mut Turn<'_>) {
        while !self.fanouts.is_empty() {
            self.deliver_part(turn, usize::MAX);
        }
    }

    /// Delivers to a session what is due to it, before it gets something else.
    #[inline]
    pub(crate) fn give_due(&mut self, turn: &mut Turn<'_>, session: u32) {
        if self.fanouts.is_due(session) && !sabotage::on(Sabotage::DueOvertaken) {
            self.give_all_due(turn, session);
        }
    }

    #[cold]
    fn give_all_due(&mut self, turn: &mut Turn<'_>, session: u32) {
        if self.fanouts.looks > LOOKS_MAX {
            return self.finish_fanouts(turn);
        }
        while let Some(Due { message, one, identifiers }) = self.fanouts.take(session) {
            self.deliver_to(turn, &one, &identifiers, &message, None);
        }
    }

    /// A session ends: what is due to it is dropped.
    pub(crate) fn drop_due(&mut self, turn: &mut Turn<'_>, session: u32) {
        if self.fanouts.looks > LOOKS_MAX && !sabotage::on(Sabotage::DueInherited) {
            return self.finish_fanouts(turn);
        }
        while !sabotage::on(Sabotage::DueInherited)
            && let Some(due) = self.fanouts.take(session)
        {
            lose(turn, session, due.message.topic.as_bytes(), DropReason::NotConnected);
        }
    }

    /// Delivers all that is due, if much of it is to those who were collected. A few get it one by one.
    pub(crate) fn give_due_to_many(&mut self, turn: &mut Turn<'_>) {
        if self.fanouts.is_empty() {
            return;
        }
        let wanted = self.scratch.wanted.sessions.iter();
        if wanted.filter(|one| self.fanouts.is_due(one.session)).nth(DUE_MAX).is_some() {
            self.finish_fanouts(turn);
        }
    }
}

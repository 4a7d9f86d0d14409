//! The clients of one shard: they knock, lose patience and knock again.
//!
//! Owns what the clients know. All times are those of the server: a client's deed counts from the
//! moment at which it arrives there. Since all are equally patient, whatever waits for a span of time
//! waits in a queue of that span, and no heap is needed: 4 bytes and a state per client, and two
//! entries of 8 bytes in such queues.

use std::collections::VecDeque;

use crate::rng::Rng;

/// When Linux sends a SYN again that was not answered, in microseconds since the first.
const SYN_AGAIN_US: [u32; 6] = [0, 1_000_000, 3_000_000, 7_000_000, 15_000_000, 31_000_000];

/// Where a client's attempt stands, as far as the client is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No SYN of it has been answered.
    Knocking,
    /// It has a connection, and waits.
    Inside,
    /// It is connected.
    Back,
}

/// A SYN that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Knock {
    pub(crate) client: u32,
    /// When this attempt's first SYN came, in microseconds.
    pub(crate) began_us: u32,
    /// Which of the attempt's SYNs it is, from 0.
    nth: u8,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    client: u32,
    began_us: u32,
}

/// The clients of one shard.
#[derive(Debug)]
pub(crate) struct Fleet {
    patience_us: u32,
    endless: bool,
    /// When each client knocks first, in order, so that first attempts need no queue.
    starts_us: Vec<u32>,
    /// How many of them have come.
    started: u32,
    states: Vec<State>,
    /// One queue for each time at which a SYN is sent again, and one for the end of patience.
    again: Vec<VecDeque<Waiting>>,
    last: VecDeque<Waiting>,
    /// When the next of all comes.
    next_us: u64,
    pub(crate) attempts: u64,
    /// Attempts that ended without one SYN answered.
    pub(crate) refused: u64,
}

impl Fleet {
    /// So many clients that notice the cut within `spread_us`, evenly.
    pub(crate) fn new(clients: u32, patience_us: u32, spread_us: u32, rng: &mut Rng) -> Self {
        let spread_us = u64::from(spread_us);
        let mut starts_us: Vec<u32> =
            (0..clients).map(|_| rng.between(0, spread_us) as u32).collect();
        starts_us.sort_unstable();
        let in_time = SYN_AGAIN_US.iter().skip(1).filter(|after_us| **after_us < patience_us);
        let mut fleet = Self {
            patience_us,
            endless: false,
            starts_us,
            started: 0,
            states: vec![State::Knocking; clients as usize],
            again: in_time.map(|_| VecDeque::new()).collect(),
            last: VecDeque::new(),
            next_us: 0,
            attempts: 0,
            refused: 0,
        };
        fleet.next_us = fleet.earliest();
        fleet
    }

    /// Who is back is cut again when its patience would have ended.
    pub(crate) const fn endless(mut self, endless: bool) -> Self {
        self.endless = endless;
        self
    }

    /// When the next SYN comes or the next client loses patience, in microseconds.
    pub(crate) const fn next_us(&self) -> u64 {
        self.next_us
    }

    fn earliest(&self) -> u64 {
        let first = self.starts_us.get(self.started as usize).map(|at| u64::from(*at));
        let again = self.again.iter().zip(&SYN_AGAIN_US[1..]).filter_map(|(queue, after_us)| {
            queue.front().map(|it| u64::from(it.began_us) + u64::from(*after_us))
        });
        let last = self.last.front().map(|it| u64::from(it.began_us) + u64::from(self.patience_us));
        again.chain(first).chain(last).min().unwrap_or(u64::MAX)
    }

    /// Takes the next event; `None` if it was nothing that the kernel sees, or there is none.
    pub(crate) fn step(&mut self) -> Option<Knock> {
        let now_us = self.next_us;
        let knock = self.take(now_us);
        self.next_us = self.earliest();
        knock
    }

    fn take(&mut self, now_us: u64) -> Option<Knock> {
        let due =
            |it: &Waiting, after_us: u32| u64::from(it.began_us) + u64::from(after_us) == now_us;
        if self.last.front().is_some_and(|it| due(it, self.patience_us)) {
            let Waiting { client, .. } = self.last.pop_front()?;
            return self.lose_patience(client, now_us as u32);
        }
        for (nth, after_us) in SYN_AGAIN_US.iter().enumerate().skip(1).take(self.again.len()) {
            if self.again[nth - 1].front().is_some_and(|it| due(it, *after_us)) {
                let Waiting { client, began_us } = self.again[nth - 1].pop_front()?;
                return Some(Knock { client, began_us, nth: nth as u8 });
            }
        }
        if (self.started as usize) < self.starts_us.len() {
            self.started += 1;
            return Some(self.begin(self.started - 1, now_us as u32));
        }
        None
    }

    fn lose_patience(&mut self, client: u32, now_us: u32) -> Option<Knock> {
        match self.states[client as usize] {
            State::Back if !self.endless => return None,
            State::Knocking => self.refused += 1,
            State::Back | State::Inside => {}
        }
        Some(self.begin(client, now_us))
    }

    fn begin(&mut self, client: u32, began_us: u32) -> Knock {
        self.attempts += 1;
        self.states[client as usize] = State::Knocking;
        self.last.push_back(Waiting { client, began_us });
        Knock { client, began_us, nth: 0 }
    }

    /// A SYN was answered.
    pub(crate) fn let_in(&mut self, knock: Knock) {
        self.states[knock.client as usize] = State::Inside;
    }

    /// A SYN found no place; it is sent again if there is time for that.
    pub(crate) fn refuse(&mut self, knock: Knock) {
        if let Some(queue) = self.again.get_mut(usize::from(knock.nth)) {
            queue.push_back(Waiting { client: knock.client, began_us: knock.began_us });
        }
    }

    /// A CONNACK reaches a client that waits for it.
    pub(crate) fn welcome(&mut self, client: u32) {
        self.states[client as usize] = State::Back;
    }

    /// Attempts under way of which no SYN was answered yet.
    pub(crate) fn knocking(&self) -> u64 {
        let begun = &self.states[..self.started as usize];
        begun.iter().filter(|state| **state == State::Knocking).count() as u64
    }
}

//! What became of the attempts, and where the CPU time went.

use hdrhistogram::Histogram;

use super::setting::{Costs, SECOND};

/// Width of a step of the curve of who is back, in nanoseconds.
const STEP_NS: u64 = SECOND / 100;

/// Longest residency told apart.
const RESIDENCY_NS_MAX: u64 = 600 * SECOND;

/// The account of a simulation: of one shard, or of several together.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Clients that were cut.
    pub clients: u64,
    /// Attempts to connect that were begun.
    pub attempts: u64,
    /// Attempts that ended with a CONNACK to a client that still waited.
    pub back: u64,
    /// Attempts that ended since no SYN found a place in the kernel's queue.
    pub refused: u64,
    /// Attempts whose client was found gone before its handshake had begun.
    pub gone_before: u64,
    /// Attempts whose client was gone when its handshake had begun.
    pub gone_within: u64,
    /// Attempts whose CONNACK came to nobody.
    pub late: u64,
    /// Attempts that had not ended when the simulation did.
    pub open: u64,
    /// SYNs that found no place.
    pub syns_refused: u64,
    /// CPU time spent on those who wanted to connect, in nanoseconds.
    pub connecting_ns: u64,
    /// CPU time spent on messages of those who were connected, and on turns.
    pub other_ns: u64,
    /// CPU time not used while somebody was away.
    pub idle_ns: u64,
    /// Handshakes begun and not ended, at most, in one shard.
    pub handshakes_max: u64,
    /// Connections accepted that wait for their handshake, at most, in one shard.
    pub accepted_max: u64,
    /// Readable to written, of messages of those who were connected, in nanoseconds.
    pub residency: Histogram<u32>,
    /// How many came back in each step of the time.
    curve: Vec<u64>,
}

impl Tally {
    pub(crate) fn new(clients: u64) -> Self {
        Self {
            clients,
            attempts: 0,
            back: 0,
            refused: 0,
            gone_before: 0,
            gone_within: 0,
            late: 0,
            open: 0,
            syns_refused: 0,
            connecting_ns: 0,
            other_ns: 0,
            idle_ns: 0,
            handshakes_max: 0,
            accepted_max: 0,
            residency: Histogram::new_with_max(RESIDENCY_NS_MAX, 2).expect("the bounds are good"),
            curve: Vec::new(),
        }
    }

    pub(crate) fn came_back(&mut self, at_ns: u64) {
        self.back += 1;
        let step = (at_ns / STEP_NS) as usize;
        if self.curve.len() <= step {
            self.curve.resize(step + 1, 0);
        }
        self.curve[step] += 1;
    }

    pub(crate) fn stayed(&mut self, stay_ns: u64) {
        self.residency.saturating_record(stay_ns);
    }

    /// Adds the account of another shard.
    pub(crate) fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.attempts += other.attempts;
        self.back += other.back;
        self.refused += other.refused;
        self.gone_before += other.gone_before;
        self.gone_within += other.gone_within;
        self.late += other.late;
        self.open += other.open;
        self.syns_refused += other.syns_refused;
        self.connecting_ns += other.connecting_ns;
        self.other_ns += other.other_ns;
        self.idle_ns += other.idle_ns;
        self.handshakes_max = self.handshakes_max.max(other.handshakes_max);
        self.accepted_max = self.accepted_max.max(other.accepted_max);
        self.residency.add(&other.residency).expect("both grow as they must");
        if self.curve.len() < other.curve.len() {
            self.curve.resize(other.curve.len(), 0);
        }
        for (sum, more) in self.curve.iter_mut().zip(&other.curve) {
            *sum += more;
        }
    }

    /// How the attempts ended, those that did not included; equals [`Tally::attempts`].
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.back + self.refused + self.gone_before + self.gone_within + self.late + self.open
    }

    /// Seconds until this share of the clients was back, to a hundredth; `None` if it never was.
    #[must_use]
    pub fn back_after_s(&self, share: f64) -> Option<f64> {
        let wanted = (self.clients as f64 * share).ceil() as u64;
        let mut back = 0;
        for (step, more) in self.curve.iter().enumerate() {
            back += more;
            if back >= wanted {
                return Some((step + 1) as f64 * STEP_NS as f64 / SECOND as f64);
            }
        }
        None
    }

    /// Clients that came back from one second to another.
    #[must_use]
    pub fn back_between(&self, from_s: u64, to_s: u64) -> u64 {
        let step = |at_s: u64| ((at_s * SECOND / STEP_NS) as usize).min(self.curve.len());
        self.curve[step(from_s)..step(to_s)].iter().sum()
    }

    /// CPU time spent on attempts that came to nothing, in nanoseconds.
    #[must_use]
    pub const fn wasted_ns(&self, costs: &Costs) -> u64 {
        self.connecting_ns.saturating_sub(self.back * costs.client())
    }

    /// Its share of what was spent on connecting.
    #[must_use]
    pub fn wasted(&self, costs: &Costs) -> f64 {
        self.wasted_ns(costs) as f64 / self.connecting_ns.max(1) as f64
    }

    /// Residency that this share of the messages did not exceed, in microseconds.
    #[must_use]
    pub fn residency_us(&self, share: f64) -> f64 {
        self.residency.value_at_quantile(share) as f64 / 1e3
    }
}

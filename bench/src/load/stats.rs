//! What a run counts.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;

/// Counters of one group on one thread, read while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Clients that are ready now.
    pub ready: AtomicU64,
    /// Connections begun.
    pub attempts: AtomicU64,
    /// CONNACKs that let in.
    pub accepted: AtomicU64,
    /// Of them, those with Session Present.
    pub present: AtomicU64,
    /// Connections given up because they took too long.
    pub impatient: AtomicU64,
    /// Connections that failed or were refused.
    pub failed: AtomicU64,
    /// Connections that were lost once they were ready.
    pub lost: AtomicU64,
    /// Messages sent.
    pub published: AtomicU64,
    /// Messages that were due while their client was not ready.
    pub unsent: AtomicU64,
    /// Messages acknowledged by the broker.
    pub acknowledged: AtomicU64,
    /// Messages received.
    pub received: AtomicU64,
    /// PINGRESPs.
    pub pongs: AtomicU64,
}

/// The same as numbers, of all threads together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Counters`")]
pub struct Counts {
    pub ready: u64,
    pub attempts: u64,
    pub accepted: u64,
    pub present: u64,
    pub impatient: u64,
    pub failed: u64,
    pub lost: u64,
    pub published: u64,
    pub unsent: u64,
    pub acknowledged: u64,
    pub received: u64,
    pub pongs: u64,
}

/// Adds one. A counter has one writer.
pub fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Takes one off.
pub fn drop_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
}

impl Counts {
    /// Adds the counters of one thread.
    pub fn add(&mut self, counters: &Counters) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.ready += of(&counters.ready);
        self.attempts += of(&counters.attempts);
        self.accepted += of(&counters.accepted);
        self.present += of(&counters.present);
        self.impatient += of(&counters.impatient);
        self.failed += of(&counters.failed);
        self.lost += of(&counters.lost);
        self.published += of(&counters.published);
        self.unsent += of(&counters.unsent);
        self.acknowledged += of(&counters.acknowledged);
        self.received += of(&counters.received);
        self.pongs += of(&counters.pongs);
    }
}

/// Ten minutes; what took longer counts as this.
const LONGEST_NS: u64 = 600_000_000_000;

/// Times of one group, in nanoseconds.
#[derive(Debug, Clone)]
pub struct Times {
    /// From the moment at which a message was due to its arrival.
    pub delivery: Histogram<u64>,
    /// From the moment at which a message was due until the load came to it.
    pub late: Histogram<u64>,
    /// From the moment at which a client was told to connect until it was ready, attempts included.
    pub ready: Histogram<u64>,
    /// Inside the broker, from just before a message's `send` to the kernel's stamp at its receiver.
    pub residency: Histogram<u64>,
    /// The same from the return of `send`.
    pub residency_least: Histogram<u64>,
    /// Messages of timed groups whose residency is not known.
    pub untimed: u64,
}

/// Records a time; what is not between 1 ns and ten minutes counts as the nearer of these.
pub fn record(times: &mut Histogram<u64>, took_ns: u64) {
    // It grows, and the time is bounded: there is nothing to fail.
    let _ = times.record(took_ns.clamp(1, LONGEST_NS));
}

impl Times {
    /// None yet. Three digits; each grows to what it is given, so that what is not measured takes
    /// nothing.
    ///
    /// # Errors
    /// None for these bounds.
    pub fn new() -> Result<Self, String> {
        let empty = || Histogram::new(3).map_err(|error| format!("{error:?}"));
        Ok(Self {
            delivery: empty()?,
            late: empty()?,
            ready: empty()?,
            residency: empty()?,
            residency_least: empty()?,
            untimed: 0,
        })
    }

    /// What is timed, with names for a log.
    #[must_use]
    pub fn series(&self) -> [(&'static str, &Histogram<u64>); 5] {
        [
            ("delivery", &self.delivery),
            ("late", &self.late),
            ("ready", &self.ready),
            ("residency", &self.residency),
            ("residency_least", &self.residency_least),
        ]
    }

    /// Adds those of another thread.
    ///
    /// # Errors
    /// None for equal bounds.
    pub fn add(&mut self, other: &Self) -> Result<(), String> {
        self.untimed += other.untimed;
        for (sum, more) in [
            (&mut self.delivery, &other.delivery),
            (&mut self.late, &other.late),
            (&mut self.ready, &other.ready),
            (&mut self.residency, &other.residency),
            (&mut self.residency_least, &other.residency_least),
        ] {
            sum.add(more).map_err(|error| format!("{error:?}"))?;
        }
        Ok(())
    }
}

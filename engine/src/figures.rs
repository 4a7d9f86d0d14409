//! What a running broker counts, for those who watch it.
//!
//! Each shard counts for itself in plain numbers and puts them into its [`Counters`] at every tick, so
//! no counting is shared between cores; what is read here is a quarter of a second old at most.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use petrel_net::stages::{Census, Stage, State};

use crate::certificates::Ends;

/// Where a shard puts what it has counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections of the shard, after every turn.
    pub connections: AtomicU64,
    /// Connections that came from another shard.
    pub adopted: AtomicU64,
    /// Connections that were to come from another shard and for which there was no descriptor.
    pub stranded: AtomicU64,
    /// How much the shard has to do: 0 to 3.
    pub level: AtomicU64,
    admitted: AtomicU64,
    refused: AtomicU64,
    sessions: AtomicU64,
    retained: [AtomicU64; 3],
    storage: [AtomicU64; 3],
    census: [AtomicU64; Census::NUMBERS],
}

impl Counters {
    /// Makes the numbers of the shard known.
    pub fn publish(
        &self,
        census: &Census,
        decided: Decided,
        sessions: usize,
        retained: RetainedFigures,
        storage: StorageFigures,
    ) {
        for (into, number) in self.census.iter().zip(census.numbers()) {
            into.store(number, Ordering::Relaxed);
        }
        self.admitted.store(decided.admitted, Ordering::Relaxed);
        self.refused.store(decided.refused, Ordering::Relaxed);
        self.sessions.store(sessions as u64, Ordering::Relaxed);
        let RetainedFigures { messages, bytes, dropped } = retained;
        for (into, number) in self.retained.iter().zip([messages, bytes, dropped]) {
            into.store(number, Ordering::Relaxed);
        }
        let StorageFigures { in_trouble, troubles, refused } = storage;
        for (into, number) in self.storage.iter().zip([in_trouble, troubles, refused]) {
            into.store(number, Ordering::Relaxed);
        }
    }

    fn figures(&self) -> Figures {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Figures {
            certificate_ends_in_s: None,
            census: Census::from_numbers(self.census.iter().map(get)),
            decided: Decided { admitted: get(&self.admitted), refused: get(&self.refused) },
            adopted: get(&self.adopted),
            stranded: get(&self.stranded),
            sessions: get(&self.sessions),
            retained: RetainedFigures {
                messages: get(&self.retained[0]),
                bytes: get(&self.retained[1]),
                dropped: get(&self.retained[2]),
            },
            storage: StorageFigures {
                in_trouble: get(&self.storage[0]),
                troubles: get(&self.storage[1]),
                refused: get(&self.storage[2]),
            },
        }
    }
}

/// What became of CONNECTs that were good packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decided {
    /// Let in.
    pub admitted: u64,
    /// Refused with a reason, such as a missing authorisation.
    pub refused: u64,
}

/// Retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetainedFigures {
    /// Those that are there.
    pub messages: u64,
    /// Bytes of their topics, payloads and properties.
    pub bytes: u64,
    /// Those since the start that were delivered but not retained, for want of room.
    pub dropped: u64,
}

/// What outlives the process, where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorageFigures {
    /// Lanes whose disk fails or has no room at the moment.
    pub in_trouble: u64,
    /// How often that has begun since the start.
    pub troubles: u64,
    /// Messages since the start that were refused for it.
    pub refused: u64,
}

/// The numbers of all shards together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Seconds until the certificate ends that ends first of those that clients are shown, below 0 if it
    /// has; `None` if there is none.
    pub certificate_ends_in_s: Option<i64>,
    /// How far connections got since the start, and the states of those that are there.
    pub census: Census,
    /// What became of CONNECTs since the start.
    pub decided: Decided,
    /// Connections that moved from one shard to another since the start.
    pub adopted: u64,
    /// Connections that were lost on the way, since their home shard had no descriptor for them.
    pub stranded: u64,
    /// Sessions, with a connection or without.
    pub sessions: u64,
    /// Retained messages.
    pub retained: RetainedFigures,
    /// What outlives the process.
    pub storage: StorageFigures,
}

impl Figures {
    /// Sessions whose client is away. Counted from two numbers of different moments, so it may be off
    /// by those who came and went meanwhile.
    #[must_use]
    pub fn sessions_offline(&self) -> u64 {
        let connected = [State::Plain, State::Tls, State::TlsCompact, State::Ws, State::Wss];
        let online: u64 = connected.into_iter().map(|state| self.census.state(state)).sum();
        self.sessions.saturating_sub(online)
    }

    /// The way to CONNECT in one line of `name=number`.
    pub fn stages(&self) -> impl fmt::Display {
        let Self { census, decided, adopted, stranded, .. } = *self;
        Line(move |f: &mut fmt::Formatter<'_>| {
            f.write_str("stages:")?;
            for stage in Stage::ALL {
                write!(f, " {}={}", stage.name(), census.stage(stage))?;
            }
            let Decided { admitted, refused } = decided;
            write!(f, " connect_denied={refused} admitted={admitted}")?;
            write!(f, " adopted={adopted} stranded={stranded}")?;
            write!(f, " handshakes_in_flight_most={}", census.handshakes_most)
        })
    }

    /// The connections by state, and the sessions, in one line of `name=number`.
    pub fn connections(&self) -> impl fmt::Display {
        let this = *self;
        Line(move |f: &mut fmt::Formatter<'_>| {
            f.write_str("connections:")?;
            for state in State::ALL {
                write!(f, " {}={}", state.name(), this.census.state(state))?;
            }
            write!(f, " sessions={} ", this.sessions)?;
            write!(f, "sessions_offline={}", this.sessions_offline())
        })
    }
}

impl fmt::Display for RetainedFigures {
    /// One line of `name=number`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, dropped } = self;
        write!(f, "retained: messages={messages} bytes={bytes} dropped={dropped}")
    }
}

impl fmt::Display for StorageFigures {
    /// One line of `name=number`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_trouble, troubles, refused } = self;
        write!(f, "storage: in_trouble={in_trouble} troubles={troubles} refused={refused}")
    }
}

struct Line<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Line<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// Reads the figures of a broker, also after it has ended.
#[derive(Debug, Clone)]
pub struct Watch {
    shards: Vec<Arc<Counters>>,
    ends: Ends,
}

impl Watch {
    pub(crate) fn new(shards: impl IntoIterator<Item = Arc<Counters>>, ends: Ends) -> Self {
        Self { shards: shards.into_iter().collect(), ends }
    }

    /// The numbers of all shards together, a quarter of a second old at most.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let certificate_ends_in_s = self.ends.in_s();
        let mut all = Figures { certificate_ends_in_s, ..Figures::default() };
        for shard in &self.shards {
            let one = shard.figures();
            all.census.add(&one.census);
            all.decided.admitted += one.decided.admitted;
            all.decided.refused += one.decided.refused;
            all.adopted += one.adopted;
            all.stranded += one.stranded;
            all.sessions += one.sessions;
            all.retained.messages += one.retained.messages;
            all.retained.bytes += one.retained.bytes;
            all.retained.dropped += one.retained.dropped;
            // All shards see the same lanes.
            all.storage.in_trouble = all.storage.in_trouble.max(one.storage.in_trouble);
            all.storage.troubles = all.storage.troubles.max(one.storage.troubles);
            all.storage.refused += one.storage.refused;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up_and_written_by_name() {
        let census = Census::from_numbers(1..);
        let counters: Vec<_> = (0..2).map(|_| Arc::new(Counters::default())).collect();
        for counters in &counters {
            let retained = RetainedFigures { messages: 5, bytes: 60, dropped: 1 };
            let storage = StorageFigures { in_trouble: 1, troubles: 3, refused: 4 };
            let decided = Decided { admitted: 7, refused: 2 };
            counters.publish(&census, decided, 100, retained, storage);
            counters.adopted.store(3, Ordering::Relaxed);
            counters.stranded.store(4, Ordering::Relaxed);
        }
        let figures = Watch::new(counters, Ends::default()).figures();
        assert_eq!(figures.certificate_ends_in_s, None);
        assert_eq!(
            figures.stages().to_string(),
            "stages: accepted=2 refused_by_rate=4 refused_by_ban=6 proxy_untrusted=8 \
             proxy_refused=10 accept_failed=12 gone_before_handshake=14 silent=16 \
             handshake_not_begun=18 handshake_begun=20 handshake_displaced=22 \
             handshake_timed_out=24 handshake_refused=26 handshake_gone=28 \
             handshake_full=30 handshake_resumed=32 handshake_retried=34 \
             connect_timed_out=36 connect_gone=38 connect_refused=40 connect=42 \
             connect_denied=4 admitted=14 adopted=6 stranded=8 handshakes_in_flight_most=30"
        );
        assert_eq!(
            figures.connections().to_string(),
            "connections: handshaking=44 greeting=46 plain=48 tls=50 tls_compact=52 ws=54 \
             wss=56 closing=58 sessions=200 sessions_offline=0"
        );
        assert_eq!(figures.retained.to_string(), "retained: messages=10 bytes=120 dropped=2");
        assert_eq!(figures.storage.to_string(), "storage: in_trouble=1 troubles=3 refused=8");
    }

    #[test]
    fn sessions_without_a_connection_are_offline() {
        let counters = Arc::new(Counters::default());
        let plain = Stage::ALL.len() + State::Plain as usize;
        let census = Census::from_numbers((0..).map(|at| if at == plain { 40 } else { 0 }));
        let (retained, storage) = (RetainedFigures::default(), StorageFigures::default());
        counters.publish(&census, Decided::default(), 100, retained, storage);
        assert_eq!(Watch::new([counters], Ends::default()).figures().sessions_offline(), 60);
    }
}

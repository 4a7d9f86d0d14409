//! What a running broker counts, for those who watch it.
//!
//! Each shard counts for itself in plain numbers and puts them into its [`Counters`] at every tick, so
//! no counting is shared between cores; what is read here is a quarter of a second old at most.

mod by_reason;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use petrel_net::doors::Doors;
use petrel_net::stages::{Census, Stage, State};
use petrel_net::traffic::Traffic;
use petrel_shard::{DropReason, Ledger, Limit, Limited, Totals};

pub use self::by_reason::{ByReason, Name};
use crate::certificates::Ends;
use crate::pump::times::Times;

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
    sessions: AtomicU64,
    totals: Numbers<3>,
    traffic: Numbers<{ Traffic::NUMBERS }>,
    doors: Numbers<{ Doors::NUMBERS }>,
    between: Numbers<{ Between::NUMBERS }>,
    gone: Numbers<4>,
    /// How long turns have taken.
    pub turns: Times,
    /// How long packets were in the broker.
    pub residency: Times,
    retained: Numbers<3>,
    storage: Numbers<4>,
    limited: Numbers<{ Limit::ALL.len() }>,
    ledger: Numbers<{ Ledger::NUMBERS }>,
    denied: Numbers<{ ByReason::NUMBERS }>,
    ended: Numbers<{ ByReason::NUMBERS }>,
    census: Numbers<{ Census::NUMBERS }>,
}

/// Numbers of one kind.
#[derive(Debug)]
struct Numbers<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Numbers<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Numbers<N> {
    fn store(&self, numbers: impl IntoIterator<Item = u64>) {
        for (into, number) in self.0.iter().zip(numbers) {
            into.store(number, Ordering::Relaxed);
        }
    }

    fn load(&self) -> [u64; N] {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }
}

/// What a shard has counted.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// How far connections got, and the states of those that are there.
    pub census: &'a Census,
    /// What became of CONNECTs.
    pub decided: Decided,
    /// Sessions, with a connection or without.
    pub sessions: usize,
    /// What sessions have.
    pub totals: Totals,
    /// Retained messages.
    pub retained: RetainedFigures,
    /// What outlives the process.
    pub storage: StorageFigures,
    /// Limits that clients have met.
    pub limited: Limited,
    /// What has become of messages.
    pub ledger: &'a Ledger,
    /// Connections that the broker has ended.
    pub ended: ByReason,
    /// Connections that have ended, by who ended them: client, broker, network.
    pub gone: [u64; 4],
    /// Packets and bytes.
    pub traffic: &'a Traffic,
    /// Connections by listener and version.
    pub doors: &'a Doors,
    /// What goes on between shards, and between them and storage.
    pub between: Between,
}

/// What goes on between a shard, the others and storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Between {
    /// What it has sent to other shards since the start.
    pub sent: u64,
    /// What waits since the ring of its receiver is full.
    pub waiting: u64,
    /// Times that it was woken by another thread.
    pub woken: u64,
    /// Records that it has given to the lanes and that are not kept yet.
    pub unkept: u64,
    /// Sessions of which another connection has taken possession: one that this shard had accepted, or another.
    pub taken_over: [u64; 2],
}

impl Between {
    const NUMBERS: usize = 6;

    const fn numbers(self) -> [u64; Self::NUMBERS] {
        let [here, moved] = self.taken_over;
        [self.sent, self.waiting, self.woken, self.unkept, here, moved]
    }

    const fn from_numbers(numbers: [u64; Self::NUMBERS]) -> Self {
        let [sent, waiting, woken, unkept, here, moved] = numbers;
        Self { sent, waiting, woken, unkept, taken_over: [here, moved] }
    }

    fn add(&mut self, others: &Self) {
        let (mut sum, others) = (self.numbers(), others.numbers());
        sum.iter_mut().zip(others).for_each(|(sum, more)| *sum += more);
        *self = Self::from_numbers(sum);
    }
}

impl Counters {
    /// Makes the numbers of the shard known.
    pub fn publish(&self, counted: Counted<'_>) {
        let Counted {
            gone,
            traffic,
            doors,
            between,
            census,
            decided,
            sessions,
            totals,
            retained,
            storage,
            limited,
            ledger,
            ended,
        } = counted;
        self.census.store(census.numbers());
        self.admitted.store(decided.admitted, Ordering::Relaxed);
        self.denied.store(*decided.denied.numbers());
        self.sessions.store(sessions as u64, Ordering::Relaxed);
        self.totals.store([totals.subscriptions, totals.queued, totals.inflight]);
        self.retained.store([retained.messages, retained.bytes, retained.dropped]);
        self.storage.store([
            storage.in_trouble,
            storage.troubles,
            storage.refused,
            storage.commits,
        ]);
        self.limited.store(limited.numbers());
        self.ledger.store(ledger.numbers());
        self.ended.store(*ended.numbers());
        self.gone.store(gone);
        self.traffic.store(traffic.numbers());
        self.doors.store(doors.numbers());
        self.between.store(between.numbers());
    }

    fn figures(&self) -> Figures {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let [messages, bytes, not_retained] = self.retained.load();
        let [subscriptions, queued, inflight] = self.totals.load();
        let [in_trouble, troubles, refused, commits] = self.storage.load();
        let denied = ByReason::from_numbers(self.denied.load().into_iter());
        Figures {
            certificate_ends_in_s: None,
            census: Census::from_numbers(self.census.load()),
            decided: Decided { admitted: get(&self.admitted), denied },
            adopted: get(&self.adopted),
            stranded: get(&self.stranded),
            sessions: get(&self.sessions),
            totals: Totals { subscriptions, queued, inflight },
            retained: RetainedFigures { messages, bytes, dropped: not_retained },
            storage: StorageFigures { in_trouble, troubles, refused, commits },
            limited: Limited::from_numbers(self.limited.load()),
            ledger: Ledger::from_numbers(self.ledger.load()),
            ended: ByReason::from_numbers(self.ended.load().into_iter()),
            gone: self.gone.load(),
            traffic: Traffic::from_numbers(self.traffic.load()),
            doors: Doors::from_numbers(&self.doors.load()),
            between: Between::from_numbers(self.between.load()),
        }
    }
}

/// What became of CONNECTs that were good packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decided {
    /// Let in.
    pub admitted: u64,
    /// Refused with a reason, such as a missing authorisation.
    pub denied: ByReason,
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
    /// Times since the start that a lane has written what had come: one batch, and what waits for it goes on.
    pub commits: u64,
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
    /// What they have, where they are many as of some seconds or minutes ago.
    pub totals: Totals,
    /// Retained messages.
    pub retained: RetainedFigures,
    /// What outlives the process.
    pub storage: StorageFigures,
    /// Limits that clients have met.
    pub limited: Limited,
    /// What has become of messages.
    pub ledger: Ledger,
    /// Connections that the broker has ended.
    pub ended: ByReason,
    /// Connections that have ended, by who ended them: client, broker, network.
    pub gone: [u64; 4],
    /// Packets and bytes.
    pub traffic: Traffic,
    /// Connections by listener and version.
    pub doors: Doors,
    /// What goes on between shards, and between them and storage.
    pub between: Between,
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
            let Decided { admitted, denied } = &decided;
            write!(f, " connect_denied={} admitted={admitted}", denied.all())?;
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
            write!(f, "sessions_offline={} ", this.sessions_offline())?;
            let Totals { subscriptions, queued, inflight } = this.totals;
            write!(f, "subscriptions={subscriptions} queued={queued} inflight={inflight}")
        })
    }

    /// CONNECTs that were refused, by reason, in one line of `name=number`.
    pub fn denied(&self) -> impl fmt::Display {
        let denied = self.decided.denied;
        Line(move |f: &mut fmt::Formatter<'_>| write!(f, "denied:{denied}"))
    }

    /// Limits that clients have met, in one line of `name=number`.
    pub fn limits(&self) -> impl fmt::Display {
        let limited = self.limited;
        Line(move |f: &mut fmt::Formatter<'_>| {
            f.write_str("limits:")?;
            let mut all = Limit::ALL.into_iter();
            all.try_for_each(|limit| write!(f, " {}={}", Name(limit), limited.of(limit)))
        })
    }

    /// What has become of messages, in one line of `name=number`.
    pub fn ledger(&self) -> impl fmt::Display {
        let ledger = self.ledger;
        Line(move |f: &mut fmt::Formatter<'_>| {
            let Ledger { received, wills, own, refused, unmatched, due, restored, .. } = ledger;
            let Ledger { taken, handed, dropped, replaced, .. } = ledger;
            let received: u64 = received.iter().sum();
            let delivered: u64 = ledger.delivered.iter().sum();
            write!(f, "ledger: received={received} wills={wills} own={own} refused={refused} ")?;
            write!(f, "unmatched={unmatched} routed={} due={due} ", ledger.routed())?;
            write!(f, "restored={restored} delivered={delivered} dropped={dropped} ")?;
            write!(f, "replaced={replaced} ")?;
            write!(f, "handed={handed} taken={taken} held={}", ledger.held_by_all())
        })
    }

    /// Why messages were refused, not retained, or not delivered to some receiver, in one line of `name=number`.
    pub fn drops(&self) -> impl fmt::Display {
        let dropped = self.ledger.drops;
        Line(move |f: &mut fmt::Formatter<'_>| {
            f.write_str("dropped:")?;
            let mut all = DropReason::ALL.into_iter();
            all.try_for_each(|reason| write!(f, " {}={}", Name(reason), dropped.of(reason)))
        })
    }

    /// Connections that the broker has ended, by reason, in one line of `name=number`.
    pub fn ends(&self) -> impl fmt::Display {
        let ended = self.ended;
        Line(move |f: &mut fmt::Formatter<'_>| write!(f, "ended:{ended}"))
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
        let Self { in_trouble, troubles, refused, commits } = self;
        write!(
            f,
            "storage: in_trouble={in_trouble} troubles={troubles} refused={refused} commits={commits}"
        )
    }
}

struct Line<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Line<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// Some numbers of one shard.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardFigures {
    /// Connections.
    pub connections: u64,
    /// How much it has to do: 0 to 3.
    pub level: u64,
    /// What has become of messages.
    pub ledger: Ledger,
    /// What goes on between it and others.
    pub between: Between,
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

    /// How long the turns of each shard have taken, in microseconds.
    pub fn turns(&self) -> impl Iterator<Item = Histogram<u64>> {
        self.shards.iter().map(|shard| shard.turns.all())
    }

    /// How long the packets that each shard has sent were in the broker, in microseconds: from when what caused
    /// them could be read, by whichever shard, until they were given to their sockets.
    pub fn residency(&self) -> impl Iterator<Item = Histogram<u64>> {
        self.shards.iter().map(|shard| shard.residency.all())
    }

    /// Some numbers of each shard, a quarter of a second old at most.
    pub fn shards(&self) -> impl Iterator<Item = ShardFigures> {
        self.shards.iter().map(|shard| ShardFigures {
            connections: shard.connections.load(Ordering::Relaxed),
            level: shard.level.load(Ordering::Relaxed),
            ledger: Ledger::from_numbers(shard.ledger.load()),
            between: Between::from_numbers(shard.between.load()),
        })
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
            all.decided.denied.add(&one.decided.denied);
            all.adopted += one.adopted;
            all.stranded += one.stranded;
            all.sessions += one.sessions;
            all.totals.subscriptions += one.totals.subscriptions;
            all.totals.queued += one.totals.queued;
            all.totals.inflight += one.totals.inflight;
            all.retained.messages += one.retained.messages;
            all.retained.bytes += one.retained.bytes;
            all.retained.dropped += one.retained.dropped;
            // All shards see the same lanes.
            all.storage.in_trouble = all.storage.in_trouble.max(one.storage.in_trouble);
            all.storage.troubles = all.storage.troubles.max(one.storage.troubles);
            all.storage.refused += one.storage.refused;
            all.storage.commits = all.storage.commits.max(one.storage.commits);
            all.limited.add(&one.limited);
            all.ledger.add(&one.ledger);
            all.ended.add(&one.ended);
            all.gone.iter_mut().zip(one.gone).for_each(|(sum, more)| *sum += more);
            all.traffic.add(&one.traffic);
            all.doors.add(&one.doors);
            all.between.add(&one.between);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use petrel_proto::ReasonCode;
    use petrel_shard::Drops;

    use super::*;

    #[test]
    fn shards_are_added_up_and_written_by_name() {
        let census = Census::from_numbers(1..);
        let counters: Vec<_> = (0..2).map(|_| Arc::new(Counters::default())).collect();
        for counters in &counters {
            let retained = RetainedFigures { messages: 5, bytes: 60, dropped: 1 };
            let storage = StorageFigures { in_trouble: 1, troubles: 3, refused: 4, commits: 5 };
            let limited = Limited::from_numbers([1, 2, 3, 4, 5, 6, 7, 8]);
            let ledger = Ledger {
                received: [10, 4, 2],
                delivered: [9, 3, 1],
                wills: 1,
                own: 2,
                refused: 2,
                unmatched: 3,
                due: 20,
                restored: 2,
                taken: 1,
                handed: 1,
                dropped: 4,
                replaced: 1,
                not_retained: 0,
                drops: Drops::from_numbers(std::array::from_fn(|at| at as u64)),
            };
            let (mut denied, mut ended) = (ByReason::default(), ByReason::default());
            denied.count(ReasonCode::Banned);
            denied.count(ReasonCode::ServerBusy);
            ended.count(ReasonCode::PacketTooLarge);
            counters.publish(Counted {
                census: &census,
                decided: Decided { admitted: 7, denied },
                sessions: 100,
                totals: Totals { subscriptions: 30, queued: 3, inflight: 1 },
                retained,
                storage,
                limited,
                ledger: &ledger,
                ended,
                gone: [1, 2, 3, 4],
                traffic: &Traffic::default(),
                doors: &Doors::default(),
                between: Between::default(),
            });
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
             write_timed_out=44 connect_denied=4 admitted=14 adopted=6 stranded=8 \
             handshakes_in_flight_most=31"
        );
        assert_eq!(
            figures.connections().to_string(),
            "connections: handshaking=46 greeting=48 plain=50 tls=52 tls_compact=54 ws=56 \
             wss=58 closing=60 sessions=200 sessions_offline=0 \
             subscriptions=60 queued=6 inflight=2"
        );
        assert_eq!(figures.retained.to_string(), "retained: messages=10 bytes=120 dropped=2");
        assert_eq!(
            figures.storage.to_string(),
            "storage: in_trouble=1 troubles=3 refused=8 commits=5"
        );
        assert_eq!(figures.denied().to_string(), "denied: server_busy=2 banned=2");
        assert_eq!(
            figures.limits().to_string(),
            "limits: filters_refused=2 client_ids_refused=4 keep_alives_refused=6 \
             keep_alives_changed=8 session_expiries_capped=10 inflight_full=12 held_by_rate=14 \
             held_by_load=16"
        );
        assert_eq!(figures.ends().to_string(), "ended: packet_too_large=2");
        assert_eq!(
            figures.drops().to_string(),
            "dropped: queue_full=0 slow_reader=2 not_connected=4 too_large=6 expired=8 \
             no_group_member=10 retained_full=12 storage_full=14 not_authorized=16 memory_full=18 \
             session_ended=20"
        );
        assert_eq!(
            figures.ledger().to_string(),
            "ledger: received=32 wills=2 own=4 refused=4 unmatched=6 routed=28 due=40 restored=4 \
             delivered=26 dropped=8 replaced=2 handed=2 taken=2 held=8"
        );
    }

    #[test]
    fn sessions_without_a_connection_are_offline() {
        let counters = Arc::new(Counters::default());
        let plain = Stage::ALL.len() + State::Plain as usize;
        let census = Census::from_numbers((0..).map(|at| if at == plain { 40 } else { 0 }));
        counters.publish(Counted {
            census: &census,
            decided: Decided::default(),
            sessions: 100,
            totals: Totals::default(),
            retained: RetainedFigures::default(),
            storage: StorageFigures::default(),
            limited: Limited::default(),
            ledger: &Ledger::default(),
            ended: ByReason::default(),
            gone: [0; 4],
            traffic: &Traffic::default(),
            doors: &Doors::default(),
            between: Between::default(),
        });
        assert_eq!(Watch::new([counters], Ends::default()).figures().sessions_offline(), 60);
    }
}

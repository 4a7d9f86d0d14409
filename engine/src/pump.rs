//! Where mind and wire meet: one turn after another.
//!
//! A turn drains the rings from the peers, reads the sockets as far as there is room, has the shard
//! handle each input, and carries out what the shard asks for. It never blocks and holds no lock. It
//! does not know what runs it: [`crate::executor`] does.

mod arrivals;
pub mod callers;
mod commands;
mod drain;
pub mod held;
pub mod history;
pub mod load;
mod pace;
mod peers;
pub mod rate;
pub mod times;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use crossbeam_channel::Receiver;
use petrel_access::Desk;
use petrel_access::scram::Scram;
use petrel_mesh::{Batch, Handover, MeshEnd, Stamp};
use petrel_net::volume::Volume;
use petrel_net::{Bell, ConnKey, Wire, WireEvent};
use petrel_proto::{Packet, ReasonCode};
use petrel_shard::{
    ConnId, DropReason, Event, Input, Now, Outbox, PeerMessage, Shard, ShardIndex, SlotMap, Totals,
    Walk,
};

use crate::auth::AuthMethods;
use crate::doorway::{Causes, Doorway};
use crate::figures::{Between, Counted, Counters, RetainedFigures, StorageFigures};
use crate::grace::{Grace, OwnMark};
use crate::guard::{Guard, Seat, Target};
use crate::keeper::StorageEnd;
use crate::log::{self, Area};
use crate::memory::{self, GivesBack};
use crate::report::{Names, Report};
use crate::trace::Tracer;
use crate::watchdog::Pulse;
use callers::Callers;
pub use commands::Command;
use drain::Drain;
use held::{Held, Why};
use history::History;
use load::{Level, Load, ProcessLoad, Signals};
use peers::PeerLoad;
use rate::{Pace, PublishRate, Rates};
use times::{Gathered, Lately};

/// What the sockets bring is taken in one turn up to so much work, in packets of some 0.3 µs, so that neither a
/// flood of them nor a crowd that comes or goes keeps the others waiting.
const WORK_PER_TURN_MAX: usize = 4096;
/// What a session that begins or ends takes.
const WORK_OF_A_SESSION: usize = 32;
/// A turn with no more inputs is a quiet one.
const INPUTS_OF_A_QUIET_TURN: usize = 16;
/// So many receivers of a message, or so many who do not get it, take as much as one packet.
const RECEIVERS_OF_A_PACKET: usize = 4;
/// What a SUBSCRIBE takes, or an UNSUBSCRIBE.
const WORK_OF_A_SUBSCRIPTION: usize = 8;
/// Questions about retained messages that a shard asks in a turn, at most.
const QUESTIONS_PER_TURN_MAX: usize = 16;

/// Connections that are let in, in a turn, at most, when lanes have written what they had: each may
/// bring a packet of the largest size.
const LET_IN_PER_TURN_MAX: usize = 16;

/// The shard's output is carried out early once it holds this much, in bytes and in messages.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
const OUTBOX_MESSAGES_MAX: usize = 16_384;

/// A packet that is written to more connections than this at once is a large fan-out.
const FANOUT_LARGE: usize = 128;
/// The shard's output is carried out once it holds so many messages, if there is a large fan-out among them.
const OUTBOX_FANOUT_MAX: usize = 4096;
/// Whoever causes large fan-outs is not read while so many bytes wait to be sent, and read again when a quarter
/// of them do.
const STAGED_BYTES_MAX: usize = 8 << 20;
/// The same in records, while a lane is in trouble.
const OUTBOX_RECORDS_IN_TROUBLE: usize = 16;

/// How often output that leads to more output is carried out before the next turn goes on with it.
const ROUNDS_MAX: usize = 8;

/// After so long it is looked once more for who was banned, who may have waited to be let in.
const BANNED_AGAIN_MS: [u64; 4] = [1_000, 5_000, 20_000, 60_000];

/// How often time is looked at.
const TICK_MS: u64 = 250;

/// From this level on new sessions are refused, and QoS 0 to slow readers is dropped sooner.
const LEVEL_THAT_REFUSES: Level = 2;
const LEVEL_THAT_SHEDS: Level = 3;

/// How often a shard gives memory back while the process has most of what it may have.
const GIVE_BACK_MS: u64 = 1_000;
/// Sessions that are looked at in a tick, to know what all of them have.
const SESSIONS_PER_WALK: u32 = 2_048;

/// How long a shard that stops takes what others still have for its clients.
const LAST_PARCELS_MS_MAX: u64 = 1_000;

/// How long a shard that stops waits for its connections to take their last bytes.
const STOP_MS_MAX: u64 = 5_000;

/// The monotonic clock of a process.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono_ms: u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }

    /// The same in nanoseconds.
    #[must_use]
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The same in microseconds.
    #[must_use]
    pub fn micros(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// What a turn says about the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// There is more to do at once.
    Busy,
    /// Something has happened and all of it is done.
    Done,
    /// Nothing has happened.
    Idle,
    /// Something waits for other shards, which will not ring when they are ready.
    Waiting,
    /// The shard has ended.
    Over,
}

/// Whom a listener lets in.
#[derive(Debug, Clone, Copy, Default)]
pub struct LetsIn {
    /// Clients that prove nothing.
    pub anonymous: bool,
    /// Somebody is asked about those who say who they are.
    pub asks: bool,
}

/// Everything that a pump joins.
#[derive(Debug)]
pub struct Parts {
    /// Which shard it is.
    pub index: ShardIndex,
    /// Where everything lives.
    pub slots: SlotMap,
    /// Its sockets.
    pub wire: Wire,
    /// Its way to the other shards.
    pub mesh: MeshEnd,
    /// What wakes it.
    pub bell: Arc<Bell>,
    /// What the process says.
    pub commands: Receiver<Command>,
    /// Whether each listener lets in clients that prove nothing, and whether it asks the desk, by its
    /// position.
    pub lets_in: Vec<LetsIn>,
    /// What listeners are called, and those whom they ask.
    pub names: Arc<Names>,
    /// Where it asks who clients are, if anybody knows.
    pub desk: Option<Desk>,
    /// Who answers for enhanced authentication.
    pub auth: AuthMethods,
    /// And for SCRAM, if some listener has users of it.
    pub scram: Option<Scram>,
    /// Who knows how many may come, and who must not.
    pub guard: Arc<Guard>,
    /// How much each client may publish.
    pub rate: PublishRate,
    /// How much the process has to do.
    pub process_load: Arc<ProcessLoad>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Where it is, for the others.
    pub mark: OwnMark,
    /// Its signs of life.
    pub pulse: Arc<Pulse>,
    /// The clock of the process.
    pub clock: Clock,
    /// Its way to what outlives the process, if anything does.
    pub storage: Option<StorageEnd>,
    /// Its way to those who watch.
    pub tracer: Tracer,
    /// What the shard wanted done before it served.
    pub begun: Outbox,
}

/// Drives one shard.
pub struct Pump {
    shard: Shard,
    parts: Parts,
    outbox: Outbox,
    now: Now,
    held: Held,
    /// Which of the outbox's writes go to many at once, in order.
    fanouts: Vec<Range<usize>>,
    /// The last message of peers that went in parts.
    peers_parts: u64,
    /// What the receivers of messages have taken, in packets, since it was looked at last.
    receivers_work: usize,
    /// Inputs of this turn.
    handled: usize,
    gives_back: GivesBack,
    /// What messages of peers cost.
    load: PeerLoad,
    /// Not all sockets that had something were read in the last turn.
    sockets_wait: bool,
    turns_without_peers: u32,
    /// So much waits to be sent that peers have to wait.
    much_staged: bool,
    /// What was not taken of a parcel, and who sent it.
    receiving: Option<(ShardIndex, Batch)>,
    /// Connections that are not read because lanes have more to write than they may have.
    doorway: Doorway,
    /// Those who can be told are told that what they send cannot be kept.
    refuses: bool,
    flushed: Vec<(ConnKey, usize)>,
    /// The places of those who are counted.
    seats: HashMap<ConnKey, Box<Seat>>,
    rates: Rates,
    /// To collect those in who wait for their rate.
    rate_owed: Vec<(ConnKey, u64)>,
    /// The process has all the memory that it may have.
    full: bool,
    /// Whose messages were not acknowledged for that.
    unanswered: HashSet<ConnKey>,
    /// Who was banned lately, and when it is looked for once more: it may have been on its way in.
    banned: Vec<(Target, u64)>,
    overload: Load,
    signals: Signals,
    gave_back_ms: u64,
    /// What the thread had taken of its core at the last tick.
    cpu_ms: u64,
    /// When a publisher that has had its share is read again.
    next_tick_ms: u64,
    /// Questions about retained messages that go out when everybody has given away what was begun
    /// before: see [`crate::grace`].
    questions: VecDeque<(Grace, ShardIndex, PeerMessage)>,
    /// Who wants to know when the last wills are given away.
    last_wills: Vec<mpsc::Sender<()>>,
    /// The shard is to stop when it has taken what was in the rings by then, at the latest at this time.
    stop_after: Option<(Stamp, u64)>,
    packet: BytesMut,
    report: Report,
    /// What lines about connections say of them.
    callers: Callers,
    /// A walk over all sessions, and what the last one has found.
    walk: Walk,
    totals: Totals,
    times: Lately,
    /// Sessions of which another connection has taken possession: one that this shard had accepted, or another.
    taken_over: [u64; 2],
    history: History,
    /// Everybody is sent away.
    drain: Option<Drain>,
    /// Until when a shard that stops waits.
    stop_at_ms: Option<u64>,
}

impl Pump {
    /// Joins a shard with everything around it.
    #[must_use]
    pub fn new(shard: Shard, mut parts: Parts) -> Self {
        let mut rates = Rates::default();
        rates.set(parts.rate);
        let (index, names) = (parts.index, Arc::clone(&parts.names));
        let overload = Load::new(Arc::clone(&parts.process_load));
        let mut pump = Self {
            shard,
            overload,
            signals: Signals::default(),
            gave_back_ms: 0,
            cpu_ms: 0,
            next_tick_ms: 0,
            held: Held::new(parts.mesh.shards()),
            load: PeerLoad::new(parts.mesh.shards()),
            now: parts.clock.now(),
            outbox: std::mem::take(&mut parts.begun),
            parts,
            fanouts: Vec::new(),
            peers_parts: 0,
            receivers_work: 0,
            handled: 0,
            gives_back: GivesBack::default(),
            sockets_wait: false,
            turns_without_peers: 0,
            much_staged: false,
            receiving: None,
            doorway: Doorway::default(),
            refuses: false,
            flushed: Vec::new(),
            seats: HashMap::new(),
            rates,
            rate_owed: Vec::new(),
            full: false,
            unanswered: HashSet::new(),
            banned: Vec::new(),
            questions: VecDeque::new(),
            last_wills: Vec::new(),
            stop_after: None,
            packet: BytesMut::new(),
            report: Report::new(index, names),
            callers: Callers::default(),
            walk: Walk::default(),
            totals: Totals::default(),
            times: Lately::default(),
            taken_over: [0; 2],
            history: History::default(),
            drain: None,
            stop_at_ms: None,
        };
        pump.look_at_the_log();
        pump
    }

    /// The sockets.
    #[must_use]
    pub const fn wire(&self) -> &Wire {
        &self.parts.wire
    }

    /// The sockets, to add listeners.
    pub const fn wire_mut(&mut self) -> &mut Wire {
        &mut self.parts.wire
    }

    /// What wakes the pump.
    #[must_use]
    pub fn bell(&self) -> &Arc<Bell> {
        &self.parts.bell
    }

    /// Its signs of life.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.parts.pulse
    }

    /// True if there is work that the epoll instance does not announce. Looked at after the bell
    /// has been armed.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.parts.wire.has_work()
            || self.parts.mesh.has_mail()
            || self.receiving.is_some()
            || !self.parts.commands.is_empty()
            || !self.outbox.is_empty()
            || self.shard.is_overdue()
            || self.parts.storage.as_ref().is_some_and(StorageEnd::has_mail)
            || self.parts.desk.as_ref().is_some_and(Desk::has_mail)
            || self.lets_in().is_some()
            || self.held.may_release(|to| self.parts.mesh.room(to))
    }

    /// One turn. Looks for what has happened first, waiting at most `timeout`.
    ///
    /// # Errors
    /// The epoll instance is broken; the shard cannot go on.
    pub fn turn(&mut self, timeout: Option<Duration>) -> std::io::Result<Turned> {
        let happened = self.parts.wire.poll(timeout)?;
        let began = self.parts.clock.nanos();
        self.now = Now { mono_ms: began / 1_000_000 };
        self.times.begin_turn(began);
        self.parts.wire.tell_time(began);
        self.gives_back.did(self.handled);
        (self.handled, self.receivers_work) = (0, 0);
        self.parts.bell.disarm();
        self.parts.mark.begin();
        self.parts.pulse.beat();
        let ticked = self.parts.wire.advance(self.now.mono_ms);
        self.obey();
        if ticked {
            self.look_at_the_log();
            self.report.tick(self.now.mono_ms, self.parts.wire.census(), &self.outbox.ledger.drops);
            self.parts.mesh.rest();
            self.outbox.rest();
            self.load.tick();
            self.look_at_the_load();
            if let Some(back) = self.gives_back.tick(self.now.mono_ms) {
                memory::give_back(back);
            }
            self.publish();
        } else {
            self.look_at_the_memory();
        }
        if ticked {
            self.rates.rest(self.now.mono_ms);
            self.look_for_the_banned();
            self.send_some_away();
            self.let_those_go_who_have_gone();
            for conn in self.held.connections() {
                self.shard.excuse(self.now, id_of(conn));
            }
            self.look_at_the_doorway();
        }
        self.receive();
        self.times.handles_its_own(|| gathered(&self.outbox));
        self.hear_storage();
        self.hear_desk();
        self.let_in();
        self.read();
        self.times.handles_its_own(|| gathered(&self.outbox));
        // After what has been read: who has sent something meanwhile has not been silent.
        if ticked || self.shard.is_overdue() {
            self.feed(Input::Timer);
        }
        self.stop_if_ripe();
        self.carry_out();
        self.release();
        if self.parts.tracer.is_on() {
            self.parts.tracer.flush();
        }
        let is_kept = self.parts.storage.as_ref().is_none_or(|storage| !storage.is_spilling());
        if self.outbox.is_empty() && self.parts.mesh.is_flushed() && is_kept {
            self.parts.mark.end();
            if !self.shard.is_overdue() {
                for asked in self.last_wills.drain(..) {
                    // Whoever asked may have lost patience.
                    let _ = asked.send(());
                }
            }
        }
        self.signals.turns = self.signals.turns.saturating_add(1);
        let connections = self.parts.wire.connections() as u64;
        self.parts.counters.connections.store(connections, Ordering::Relaxed);
        if self.stop_at_ms.is_some_and(|at| connections == 0 || at <= self.now.mono_ms) {
            self.parts.wire.drop_all();
            if let Some(storage) = &mut self.parts.storage {
                storage.finish();
            }
            self.publish();
            return Ok(Turned::Over);
        }
        let waiting = !self.questions.is_empty();
        self.times.end_turn(self.parts.clock.nanos());
        Ok(match (self.has_work(), happened) {
            (true, _) => Turned::Busy,
            (false, _) if waiting => Turned::Waiting,
            (false, true) => Turned::Done,
            (false, false) => Turned::Idle,
        })
    }

    /// Shows what has been counted to those who watch.
    fn publish(&mut self) {
        let walked = self.shard.walk_on(&mut self.walk, SESSIONS_PER_WALK);
        self.totals = walked.unwrap_or(self.totals);
        self.times.publish(&self.parts.counters.turns, &self.parts.counters.residency);
        let (census, decided) = (self.parts.wire.census(), self.report.decided());
        let (messages, bytes) = self.shard.retained();
        let ledger = &self.outbox.ledger;
        let (messages, dropped) = (messages as u64, ledger.not_retained);
        let retained = RetainedFigures { messages, bytes, dropped };
        let lanes = self.parts.storage.as_ref().map(StorageEnd::troubles);
        let (in_trouble, troubles) = lanes.unwrap_or_default();
        let refused = ledger.drops.of(DropReason::StorageFull);
        let commits = self.parts.storage.as_ref().map_or(0, StorageEnd::commits);
        let storage = StorageFigures { in_trouble, troubles, refused, commits };
        let mesh = self.parts.mesh.figures();
        let between = Between {
            sent: mesh.sent,
            waiting: mesh.waiting,
            woken: self.parts.bell.rung(),
            unkept: self.parts.storage.as_ref().map_or(0, StorageEnd::unkept),
            taken_over: self.taken_over,
        };
        let mut limited = self.report.limited();
        limited.add(&self.outbox.limited);
        self.parts.counters.publish(Counted {
            census,
            decided,
            sessions: self.shard.sessions(),
            totals: self.totals,
            retained,
            storage,
            limited,
            ledger,
            ended: self.report.ended(),
            gone: self.report.gone(),
            traffic: self.parts.wire.traffic(),
            doors: self.parts.wire.doors(),
            between,
        });
    }

    /// True if the last turn had more to do than a few packets.
    #[must_use]
    pub const fn was_busy(&self) -> bool {
        self.handled > INPUTS_OF_A_QUIET_TURN
    }

    #[inline]
    fn feed(&mut self, input: Input) {
        self.work_on(|shard, now, out| shard.handle(now, input, out));
    }

    /// Has the shard handle something, and sees what that costs.
    #[inline]
    fn work_on(&mut self, handle: impl FnOnce(&mut Shard, Now, &mut Outbox)) {
        self.handled += 1;
        let (before, dropped_before) = (self.outbox.writes.len(), self.outbox.ledger.dropped);
        handle(&mut self.shard, self.now, &mut self.outbox);
        if self.parts.tracer.is_on() {
            self.take_traced();
        }
        let after = self.outbox.writes.len();
        if after - before > FANOUT_LARGE {
            self.fanouts.push(before..after);
        }
        let dropped = self.outbox.ledger.dropped - dropped_before;
        let work = (after - before + dropped as usize) / RECEIVERS_OF_A_PACKET;
        self.receivers_work += work;
        self.load.did(work);
    }

    /// Takes what was said to those who watch.
    #[cold]
    #[inline(never)]
    fn take_traced(&mut self) {
        let at_us = self.parts.clock.micros();
        self.parts.tracer.take(at_us, &mut self.outbox);
    }

    /// Sends those away whose turn it is.
    fn send_some_away(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let connected = self.parts.wire.connections();
        let going = drain.next(&self.shard, self.now.mono_ms, connected);
        let reference = drain.server_reference.clone();
        for conn in going {
            self.feed(Input::SendAway { conn, server_reference: reference.clone() });
            if self.is_full() {
                self.carry_out();
            }
        }
    }

    /// True if all has been handled that peers had sent until then.
    fn has_taken_all_until(&self, then: Stamp) -> bool {
        self.receiving.is_none() && self.parts.mesh.has_taken_all_until(then)
    }

    /// Takes leave of the clients once they have what the other shards had for them.
    fn stop_if_ripe(&mut self) {
        let ripe = self.stop_after.is_some_and(|(then, deadline_ms)| {
            self.has_taken_all_until(then) || deadline_ms <= self.now.mono_ms
        });
        if ripe {
            self.stop_after = None;
            // What they have published meanwhile still leaves.
            self.carry_out();
            self.parts.wire.stop_listening();
            self.parts.wire.drop_unknown();
            for (conn, event) in self.doorway.take_if(|_| true) {
                if let WireEvent::Connect { .. } = event {
                    self.parts.wire.close(conn);
                }
            }
            self.feed(Input::Shutdown);
            self.stop_at_ms = Some(self.now.mono_ms + STOP_MS_MAX);
        }
    }

    /// Takes what the lanes of the storage have said.
    fn hear_storage(&mut self) {
        let Some(storage) = &mut self.parts.storage else { return };
        storage.flush();
        let refuses = storage.refuses();
        if refuses != self.refuses {
            self.set_refuses(refuses);
        }
        let Some(storage) = &mut self.parts.storage else { return };
        if let Some(upto) = storage.kept() {
            self.feed(Input::Kept { upto });
        }
        while let Some(answer) = self.parts.storage.as_mut().and_then(StorageEnd::answer) {
            self.feed(answer);
            if self.is_full() {
                self.carry_out();
            }
        }
    }

    /// Publishers who can be told that their messages cannot be kept are told from now on, or no longer.
    fn set_refuses(&mut self, refuses: bool) {
        self.refuses = refuses;
        self.feed(Input::Refuse(refuses));
        if refuses {
            let (shard, wire) = (&self.shard, &mut self.parts.wire);
            self.held.retain_by_storage(|&conn| {
                let refuses = shard.can_refuse(id_of(conn));
                if refuses {
                    wire.resume(conn);
                }
                !refuses
            });
            let shard = &self.shard;
            for (conn, event) in self.doorway.take_if(|conn| shard.can_refuse(id_of(conn))) {
                self.parts.wire.resume(conn);
                self.on_event(event);
            }
        }
    }

    /// Sends the questions of this shard that have waited long enough, some in a turn: each has an answer
    /// that somebody has to look for.
    fn ask(&mut self) {
        for _ in 0..QUESTIONS_PER_TURN_MAX {
            let Some((mut grace, to, question)) = self.questions.pop_front() else { return };
            if !self.parts.mark.is_over(&mut grace) {
                self.questions.push_front((grace, to, question));
                return;
            }
            self.parts.mesh.send(to, question);
        }
    }

    /// Takes what the sockets have brought.
    fn read(&mut self) {
        let mut left = WORK_PER_TURN_MAX;
        self.sockets_wait = false;
        while left > 0 && !self.is_full() {
            let Some(event) = self.parts.wire.next_event() else { return };
            let outbox = &self.outbox;
            self.times.handles(self.parts.wire.readable_since_ns(), || gathered(outbox));
            let work = match &event {
                WireEvent::Connect { .. } | WireEvent::Closed { .. } => WORK_OF_A_SESSION,
                WireEvent::Packet {
                    packet: Packet::Subscribe(_) | Packet::Unsubscribe(_), ..
                } => WORK_OF_A_SUBSCRIPTION,
                _ => 1,
            };
            self.on_event(event);
            left = left.saturating_sub(work + std::mem::take(&mut self.receivers_work));
        }
        // The rest of the turn's input waits, and who has been read last comes last.
        self.sockets_wait = true;
        self.parts.wire.let_others_go_first();
    }

    fn is_full(&self) -> bool {
        self.outbox.arena_bytes() > OUTBOX_BYTES_MAX
            || self.outbox.writes.len() > OUTBOX_MESSAGES_MAX
            || (!self.fanouts.is_empty() && self.outbox.writes.len() > OUTBOX_FANOUT_MAX)
            || self.outbox.peers.len() > OUTBOX_MESSAGES_MAX
            || self.outbox.events.len() > OUTBOX_MESSAGES_MAX
            // Lanes are given it before more is looked at.
            || self.outbox.records.len() > OUTBOX_RECORDS_IN_TROUBLE
                && self.is_in_trouble()
    }

    fn on_event(&mut self, event: WireEvent) {
        match event {
            WireEvent::Packet { conn, packet } => {
                let sent_before = self.outbox.peers.len();
                let fanouts_before = self.fanouts.len();
                // What such a packet causes is to be kept; acknowledgements make room.
                let records_before = self.outbox.records.len();
                let (promises, refusable) = match &packet {
                    Packet::Publish(it) => {
                        (it.packet_id.is_some() || it.retain, it.packet_id.is_some())
                    }
                    Packet::Subscribe(_) | Packet::Unsubscribe(_) => (true, false),
                    _ => (false, false),
                };
                let is_publish = matches!(&packet, Packet::Publish(_));
                if is_publish
                    && promises
                    && (self.is_laden(Causes::Much) || self.is_in_trouble())
                    && !(refusable && self.refuses && self.shard.can_refuse(id_of(conn)))
                {
                    return self.keep_waiting(conn, WireEvent::Packet { conn, packet });
                }
                if self.full && refusable && !self.shard.can_refuse(id_of(conn)) {
                    self.unanswered.insert(conn);
                }
                let pace = match &packet {
                    // It is not taken, and what comes behind it may make room.
                    Packet::Publish(it) if !self.full => {
                        let properties = it.properties.message.len();
                        self.pace(conn, it.topic.as_bytes().len() + it.payload.len() + properties)
                    }
                    _ => Pace::GoOn,
                };
                let parts_before = self.shard.begun_in_parts();
                self.feed(Input::Packet { conn: id_of(conn), packet });
                let stores = promises && (is_publish || self.outbox.records.len() > records_before);
                if pace == Pace::End {
                    let reason = ReasonCode::MessageRateTooHigh;
                    return self.feed(Input::Kick { conn: id_of(conn), reason });
                }
                // One reason is enough; a connection that is read again meets the others.
                let parts = self.shard.begun_in_parts();
                let why = if let Some(to) = self.clogged_since(sent_before) {
                    Why::Shard(to)
                } else if parts > parts_before && parts > self.shard.done_in_parts() {
                    Why::Parts(parts)
                } else if self.fanouts.len() > fanouts_before
                    && self.parts.wire.staged_bytes() > STAGED_BYTES_MAX
                {
                    Why::Fanout
                } else if stores
                    && self.parts.storage.as_ref().is_some_and(StorageEnd::is_clogged)
                    && !(refusable && self.refuses && self.shard.can_refuse(id_of(conn)))
                {
                    Why::Storage
                } else if let Pace::WaitUntil(until_ms) = pace {
                    Why::Rate(until_ms)
                } else {
                    return;
                };
                self.held.push(conn, why);
                self.parts.wire.pause(conn);
                if self.parts.tracer.is_on() {
                    let of = self.shard.watchers_of(id_of(conn));
                    let at_us = self.parts.clock.micros();
                    self.parts.tracer.held(at_us, id_of(conn), of, why.words());
                }
            }
            WireEvent::Connect { conn, connect, listener, peer } => {
                let home = match connect.client_id.is_empty() {
                    true => self.parts.index,
                    false => self.parts.slots.home_of(connect.client_id.as_bytes()),
                };
                if home == self.parts.index {
                    self.welcome(conn, connect, listener, peer);
                } else if let Some(moving) = self.parts.wire.detach(conn) {
                    let handover = Handover { conn: moving, connect, peer, ticket: 0 };
                    self.parts.mesh.hand_over(home, Box::new(handover));
                }
            }
            WireEvent::Flushed { conn, pending_bytes } => {
                self.feed(Input::Flushed { conn: id_of(conn), pending_bytes });
            }
            WireEvent::Violation { conn, error } => {
                let address = self.seats.get(&conn).and_then(|seat| seat.address());
                self.malformed(address, &error);
                self.feed(Input::Violation { conn: id_of(conn), error });
            }
            WireEvent::Closed { conn, volume } => {
                self.unanswered.remove(&conn);
                self.forget(conn, volume);
                self.feed(Input::Closed { conn: id_of(conn) });
            }
            WireEvent::Refused { conn, version, error } => self.refuse(conn, version, &error),
            WireEvent::Unproven { peer, error } => {
                self.report.unproven(peer, &error);
            }
            WireEvent::AcceptFailed { error, .. } => {
                self.report.accept_failed(error);
            }
        }
    }

    /// A connection has ended.
    fn forget(&mut self, conn: ConnKey, volume: Option<Volume>) {
        if self.callers.is_on() {
            self.callers.end(conn, volume);
        }
        if !self.seats.is_empty() {
            self.seats.remove(&conn);
        }
        if self.rates.is_on() {
            self.rates.forget(conn);
        }
        if let Some(scram) = &mut self.parts.scram {
            scram.forget(id_of(conn));
        }
    }

    /// Keeps what lines about clients say of connections, as long as such lines are wanted.
    fn look_at_the_log(&mut self) {
        let is_on = log::is_on(Area::Clients, log::Level::Info);
        self.callers.set(is_on);
        self.parts.wire.count_volumes(is_on);
    }

    /// Has the log say what somebody has lost.
    fn sample_losses(&mut self) {
        let dropped = self.outbox.ledger.drops.all();
        for (client_id, loss) in self.shard.last_losses(&mut self.outbox).into_iter().flatten() {
            self.report.dropped(self.now.mono_ms, &client_id, &loss, dropped);
        }
    }

    /// A shard that cannot take more and has been told something.
    fn clogged_since(&self, sent_before: usize) -> Option<ShardIndex> {
        let told = self.outbox.peers.get(sent_before..).unwrap_or_default();
        told.iter().map(|(to, _)| *to).find(|&to| self.parts.mesh.is_clogged(to))
    }

    /// Reads the connections again whose receiver has caught up, and lets peers know how much this shard has
    /// room for.
    fn release(&mut self) {
        // At the end of the turn: the shard may sleep now, and nobody would ask again.
        let takes = self.takes_from_peers();
        self.parts.mesh.set_room(if takes { self.load.room() } else { 0 });
        let Self { held, parts, shard, now, rates, rate_owed, overload, next_tick_ms, .. } = self;
        let Parts { wire, mesh, storage, .. } = parts;
        let has_sent_most = wire.staged_bytes() <= STAGED_BYTES_MAX / 4;
        let mut owing = std::mem::take(rate_owed);
        // Who waited for something else may have published more than its share as well.
        let waits_until = |conn| {
            let owes = || overload.has_had_its_share(conn).then_some(*next_tick_ms);
            rates.waits_until(conn, now.mono_ms).or_else(owes)
        };
        let mut read_again = |conn| match waits_until(conn) {
            Some(until_ms) => owing.push((conn, until_ms)),
            None => wire.resume(conn),
        };
        if storage.as_ref().is_none_or(|storage| !storage.is_clogged()) {
            held.release(Why::Storage, &mut read_again);
        }
        held.release(Why::Parts(shard.done_in_parts()), &mut read_again);
        held.release(Why::Rate(now.mono_ms), &mut read_again);
        if has_sent_most {
            held.release(Why::Fanout, &mut read_again);
        }
        held.release_by_shard(|to| mesh.room(to), &mut read_again);
        for (conn, until_ms) in owing.drain(..) {
            held.push(conn, Why::Rate(until_ms));
        }
        *rate_owed = owing;
    }

    /// Does what the shard has asked for: to peers, to sockets, closes, in this order; then what
    /// that leads to.
    fn carry_out(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.shard.end_turn(&mut self.outbox);
            let since = self.times.since_of_messages(self.outbox.peers.len());
            self.parts.mesh.set_since(since);
            if let Some(storage) = &mut self.parts.storage {
                storage.take(&mut self.outbox);
            }
            let mut grace = None;
            let Self { outbox, parts: Parts { mesh, mark, .. }, questions, .. } = self;
            mesh.send_all(&mut outbox.peers, |to, message| {
                if !matches!(message, PeerMessage::RetainedQuery(_)) {
                    return Some(message);
                }
                let grace = grace.get_or_insert_with(|| mark.grace()).clone();
                questions.push_back((grace, to, message));
                None
            });
            outbox.peers.clear();
            self.ask();
            self.parts.mesh.flush();
            self.write();
            for at in 0..self.outbox.closes.len() {
                let key = key_of(self.outbox.closes[at]);
                let volume = self.parts.wire.volume(key);
                self.forget(key, volume);
                self.parts.wire.close(key);
            }
            self.outbox.closes.clear();
            let mut too_often = Vec::new();
            for event in self.outbox.events.drain(..) {
                self.report.event(self.now.mono_ms, &event, &self.callers);
                self.history.note(&event, SystemTime::now());
                if let Event::TakenOver { by, .. } = &event {
                    self.taken_over[usize::from(self.parts.wire.has_moved(key_of(*by)))] += 1;
                }
                if let Event::Connected { client_id, .. } = event
                    && self.parts.guard.connected(&client_id, self.now.mono_ms)
                {
                    too_often.push(client_id);
                }
            }
            self.callers.forget_gone();
            if self.report.samples(self.now.mono_ms) {
                self.sample_losses();
            }
            for question in std::mem::take(&mut self.outbox.questions) {
                self.answer(question);
            }
            let mut flushed = std::mem::take(&mut self.flushed);
            for (conn, pending_bytes) in flushed.drain(..) {
                self.feed(Input::Flushed { conn: id_of(conn), pending_bytes });
            }
            self.flushed = flushed;
            for client_id in too_often {
                self.report.banned_client(&client_id);
                self.feed(Input::Ban(Target::ClientId(client_id)));
            }
            if self.outbox.is_empty() {
                return;
            }
        }
    }

    fn write(&mut self) {
        let Self { outbox, parts, flushed, fanouts, times, .. } = self;
        let packets = outbox.writes.len();
        let mut urgent_from = 0;
        let whole = outbox.writes.len()..outbox.writes.len();
        for fanout in fanouts.drain(..).chain([whole]) {
            for write in &outbox.writes[urgent_from..fanout.start] {
                parts.wire.write(key_of(write.conn), outbox.head(write), outbox.payload(write));
            }
            for write in &outbox.writes[fanout.clone()] {
                let (head, payload) = (outbox.head(write), outbox.payload(write));
                parts.wire.write_as_one_of_many(key_of(write.conn), head, payload);
            }
            urgent_from = fanout.end;
        }
        outbox.clear_writes();
        parts.wire.flush(|conn, pending_bytes| flushed.push((conn, pending_bytes)));
        // Who sends nothing need not know how late it is.
        times.sent(packets, if packets > 0 { parts.clock.nanos() } else { 0 });
    }
}

/// What an outbox holds.
const fn gathered(outbox: &Outbox) -> Gathered {
    Gathered { packets: outbox.writes.len(), messages: outbox.peers.len() }
}

const fn id_of(key: ConnKey) -> ConnId {
    ConnId { index: key.index, generation: key.generation }
}

pub(crate) const fn key_of(id: ConnId) -> ConnKey {
    ConnKey { index: id.index, generation: id.generation }
}

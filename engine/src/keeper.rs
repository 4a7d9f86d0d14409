//! The threads behind the shards that keep records: one for each lane, fed by a bounded channel.
//!
//! A shard never waits for them. What does not fit into a lane's channel stays with the shard, and the
//! sockets that feed it are not read until it has gone. A lane writes what has come while it wrote before
//! (group commit), says how far each shard's records are kept, and rings its bell.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError,
};
use petrel_net::Bell;
use petrel_shard::input::{Counted, Loaded};
use petrel_shard::outbox::Load;
use petrel_shard::{Input, Outbox, Record, ShardIndex};
use petrel_storage::{Ends, Lane, Order, Page, Store, StoreError, View, Walk, Written};

use crate::config::WhenFull;
use crate::doorway::Causes;
use crate::log::{self, Event, Level, Value};
use crate::memory::{self, Back};
use crate::pump::load::ProcessLoad;
use crate::storage::Room;

/// Turns of shards that wait for a lane, at most.
const ORDERS_MAX: usize = 1_024;
/// Above this many a lane counts as clogged.
const ORDERS_CLOGGED: usize = ORDERS_MAX * 3 / 4;
/// Above this many bytes that wait to be written, lanes count as clogged, and as laden.
const PENDING_BYTES_CLOGGED: u64 = 64 << 20;
/// Above this many, those wait as well who come for what waits for them.
const PENDING_BYTES_MAX: u64 = 128 << 20;
/// Orders that a lane takes before it writes.
const GATHER_MAX: usize = 4_096;
/// Records that are worth a synchronisation of their own.
const TOGETHER: usize = 256;
/// A lane that has written so short a time ago waits this long for more, if it has fewer.
const BUSY: Duration = Duration::from_millis(4);
const GATHER_TIME: Duration = Duration::from_millis(1);
/// How long something that nobody waits for may wait to be written.
const IDLE_WRITE: Duration = Duration::from_millis(100);
/// How often a lane looks whether too much of the disk is taken.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a lane that has no room gives back what the disk has of what is over.
const SHRINK_EVERY: Duration = Duration::from_secs(5);
/// How long a lane waits before it tries a disk again that has failed.
const RETRY: Duration = Duration::from_millis(500);
/// Questions that a lane answers before it looks for orders again, and before it wakes who has asked.
const LOADS_MAX: usize = 16;
/// How often who waits for a lane is asked whether to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Messages that a lane counts at once: less than a millisecond, by which an order may be late.
const COUNT_MAX: u32 = 512;

/// What a lane has of its log in memory while the process has most of the memory that it may have.
const LOG_BYTES_SMALL: usize = 4 << 20;
/// How often a lane gives back what it has freed meanwhile.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// What lanes say to shards without a message.
#[derive(Debug)]
struct Board {
    /// By shard, then lane: how far its records are kept.
    kept: Vec<Vec<AtomicU64>>,
    /// Shards that hold back what does not fit into a channel.
    spilling: AtomicUsize,
    /// By lane: its disk has failed.
    failing: Vec<AtomicBool>,
    /// Bytes that lanes have been given and have not written.
    pending_bytes: AtomicU64,
    /// How often that has begun.
    troubles: AtomicU64,
    /// How often lanes have written what had come.
    commits: AtomicU64,
    /// Lanes that try to open their store again.
    recovering: AtomicUsize,
}

/// The lanes of a process.
pub struct Keeper {
    orders: Vec<Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    board: Arc<Board>,
}

/// A way to what the lanes keep.
pub struct Viewer {
    orders: Vec<Sender<Order>>,
    board: Arc<Board>,
}

/// A shard's way to the lanes.
pub struct StorageEnd {
    shard: ShardIndex,
    ends: Ends,
    orders: Vec<Sender<Order>>,
    /// By lane: what did not fit.
    spill: Vec<VecDeque<Order>>,
    is_spilling: bool,
    board: Arc<Board>,
    /// By lane: how much of what it has kept is known here.
    seen: Vec<u64>,
    answers: Receiver<Answer>,
    /// For the records that come next.
    empty: Vec<Record>,
    when_full: WhenFull,
    /// The position of the last record that was given to lanes, and of the last that is known to be kept.
    given: u64,
    known: u64,
}

/// What a lane says to one shard.
enum Answer {
    Loaded(Loaded),
    Counted(Counted),
    /// Records that it needs no more, to be dropped where their memory comes from.
    Spent(Vec<Record>),
}

impl std::fmt::Debug for StorageEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageEnd").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// Starts a thread for each lane. Returns an end for each shard, by its bell.
///
/// # Errors
/// The system allows no more threads.
pub fn start<S: Store + Send + 'static>(
    lanes: Vec<Lane<S>>,
    bells: &[Arc<Bell>],
    sync_every: Option<Duration>,
    room: &Room,
    process_load: &Arc<ProcessLoad>,
) -> io::Result<(Keeper, Vec<StorageEnd>)> {
    let count = lanes.len();
    let board = Arc::new(Board {
        kept: bells.iter().map(|_| (0..count).map(|_| AtomicU64::new(0)).collect()).collect(),
        spilling: AtomicUsize::new(0),
        failing: (0..count).map(|_| AtomicBool::new(false)).collect(),
        pending_bytes: AtomicU64::new(0),
        troubles: AtomicU64::new(0),
        commits: AtomicU64::new(0),
        recovering: AtomicUsize::new(0),
    });
    let answers: Vec<_> = bells.iter().map(|_| crossbeam_channel::unbounded()).collect();
    let mut orders = Vec::new();
    let mut threads = Vec::new();
    for (index, mut lane) in lanes.into_iter().enumerate() {
        lane.return_spent();
        let (sender, receiver) = crossbeam_channel::bounded(ORDERS_MAX);
        orders.push(sender);
        let worker = Worker {
            lane,
            index,
            orders: receiver,
            board: Arc::clone(&board),
            bells: bells.to_vec(),
            answers: answers.iter().map(|(sender, _)| sender.clone()).collect(),
            loads: VecDeque::new(),
            answered: Vec::new(),
            viewers: Vec::new(),
            counting: Counting::new(bells.len()),
            sync_every,
            written_at: Instant::now(),
            synced_at: Instant::now(),
            room: room.clone(),
            looked_at: Instant::now(),
            is_full: false,
            shrunk_at: None,
            gathered_bytes: 0,
            process_load: Arc::clone(process_load),
            gave_back_at: None,
        };
        let name = format!("storage-{index}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || worker.run())?);
    }
    let ends = answers.into_iter().enumerate().map(|(index, (_, answers))| {
        let shard = ShardIndex(index as u16);
        StorageEnd {
            shard,
            ends: Ends::new(shard, count as u16),
            orders: orders.clone(),
            spill: (0..count).map(|_| VecDeque::new()).collect(),
            is_spilling: false,
            board: Arc::clone(&board),
            seen: vec![0; count],
            answers,
            empty: Vec::new(),
            when_full: room.when_full,
            given: 0,
            known: 0,
        }
    });
    let ends = ends.collect();
    Ok((Keeper { orders, threads, board }, ends))
}

impl Keeper {
    /// A way to what the lanes keep.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        Viewer { orders: self.orders.clone(), board: Arc::clone(&self.board) }
    }

    /// Ends the lanes when they have kept everything that was given to them. All ends and viewers must
    /// be gone.
    pub fn stop(self) {
        drop(self.orders);
        for thread in self.threads {
            // A lane that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

impl Viewer {
    /// What each lane keeps: everything that was acknowledged before this is called is in it, and
    /// survives the machine if it does at all. `goes_on` is asked while it waits.
    ///
    /// # Errors
    /// What `goes_on` says, or a lane has ended.
    pub fn views(
        &self,
        goes_on: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Vec<View>, String> {
        let gone = || "the broker stops".to_owned();
        let mut answers = Vec::new();
        // All are asked before one is waited for, so that they are of about the same moment.
        for lane in &self.orders {
            let (given, taken) = mpsc::channel();
            let mut order = Order::View(given);
            while let Err(error) = lane.send_timeout(order, LOOK_AGAIN) {
                let SendTimeoutError::Timeout(again) = error else { return Err(gone()) };
                order = again;
                goes_on()?;
            }
            answers.push(taken);
        }
        let mut views = Vec::new();
        for taken in answers {
            views.push(loop {
                match taken.recv_timeout(LOOK_AGAIN) {
                    Ok(view) => break view,
                    Err(mpsc::RecvTimeoutError::Timeout) => goes_on()?,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone()),
                }
            });
        }
        Ok(views)
    }

    /// True if a lane has to open its store again. It cannot while anybody holds a view.
    #[must_use]
    pub fn must_let_go(&self) -> bool {
        self.board.recovering.load(Ordering::Relaxed) > 0
    }
}

impl StorageEnd {
    /// Takes the records and questions out of an outbox.
    pub fn take(&mut self, out: &mut Outbox) {
        if !out.records.is_empty() || out.urgent {
            let empty = std::mem::take(&mut self.empty);
            let records = std::mem::replace(&mut out.records, empty);
            let upto = out.records_upto;
            self.given = upto;
            for (lane, order) in self.ends.split(records, upto, out.urgent) {
                self.send(lane, order);
            }
            out.urgent = false;
        }
        for load in out.loads.drain(..) {
            let lane = self.ends.lane_of(load.incarnation.slot());
            self.send(lane, Order::Load(load));
        }
        for count in out.counts.drain(..) {
            self.send(usize::from(count.lane), Order::Count(count));
        }
    }

    fn send(&mut self, lane: usize, order: Order) {
        if let Order::Keep { bytes, .. } = &order {
            self.board.pending_bytes.fetch_add(*bytes, Ordering::Relaxed);
        }
        if !self.spill[lane].is_empty() {
            return self.spill[lane].push_back(order);
        }
        match self.orders[lane].try_send(order) {
            // A lane ends only when nobody needs it.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(order)) => {
                self.spill[lane].push_back(order);
                self.note_spilling();
            }
        }
    }

    /// Sends what did not fit before, as far as it fits now.
    pub fn flush(&mut self) {
        if !self.is_spilling {
            return;
        }
        for (lane, spill) in self.spill.iter_mut().enumerate() {
            while let Some(order) = spill.pop_front() {
                if let Err(TrySendError::Full(order)) = self.orders[lane].try_send(order) {
                    spill.push_front(order);
                    break;
                }
            }
        }
        self.note_spilling();
    }

    fn note_spilling(&mut self) {
        let is_spilling = self.spill.iter().any(|spill| !spill.is_empty());
        if is_spilling != self.is_spilling {
            self.is_spilling = is_spilling;
            match is_spilling {
                true => self.board.spilling.fetch_add(1, Ordering::Relaxed),
                false => self.board.spilling.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }

    /// True if whoever causes records should wait: lanes do not keep up, or a disk has failed.
    #[must_use]
    pub fn is_clogged(&self) -> bool {
        self.board.spilling.load(Ordering::Relaxed) > 0
            || self.board.pending_bytes.load(Ordering::Relaxed) > PENDING_BYTES_CLOGGED
            || self.orders.iter().any(|orders| orders.len() > ORDERS_CLOGGED)
            || self.board.failing.iter().any(|failing| failing.load(Ordering::Relaxed))
    }

    /// True if lanes have all that they may have to write: what would cause so much more is not to be
    /// looked at.
    #[must_use]
    pub fn is_laden(&self, causes: Causes) -> bool {
        let pending_bytes = self.board.pending_bytes.load(Ordering::Relaxed);
        match causes {
            Causes::Nothing => false,
            Causes::Little => pending_bytes > PENDING_BYTES_MAX,
            Causes::Much => pending_bytes > PENDING_BYTES_CLOGGED,
        }
    }

    /// Lanes whose disk has failed or has no room, and how often that has begun.
    #[must_use]
    pub fn troubles(&self) -> (u64, u64) {
        let failing = self.board.failing.iter().filter(|failing| failing.load(Ordering::Relaxed));
        (failing.count() as u64, self.board.troubles.load(Ordering::Relaxed))
    }

    /// How often lanes have written what had come.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.board.commits.load(Ordering::Relaxed)
    }

    /// True if publishers are to be refused at the moment.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.when_full == WhenFull::Refuse && self.troubles().0 > 0
    }

    /// True if something has not been given to a lane yet.
    #[must_use]
    pub const fn is_spilling(&self) -> bool {
        self.is_spilling
    }

    /// How far the records of this shard are kept, if that is farther than when it was asked last.
    pub fn kept(&mut self) -> Option<u64> {
        let mut farthest = None;
        let board = &self.board.kept[usize::from(self.shard.0)];
        for (lane, mark) in board.iter().enumerate() {
            let kept = mark.load(Ordering::Acquire);
            if kept > self.seen[lane] {
                self.seen[lane] = kept;
                farthest = self.ends.answered(lane, kept).or(farthest);
            }
        }
        self.known = farthest.unwrap_or(self.known);
        farthest
    }

    /// Records that were given to lanes and are not known to be kept.
    #[must_use]
    pub const fn unkept(&self) -> u64 {
        self.given.saturating_sub(self.known)
    }

    /// The next answer of a lane.
    pub fn answer(&mut self) -> Option<Input> {
        loop {
            match self.answers.try_recv().ok()? {
                Answer::Loaded(loaded) => return Some(Input::Loaded(Box::new(loaded))),
                Answer::Counted(counted) => return Some(Input::Counted(Box::new(counted))),
                Answer::Spent(mut records) => {
                    records.clear();
                    if records.capacity() <= GATHER_MAX {
                        self.empty = records;
                    }
                }
            }
        }
    }

    /// True if a lane has said something that has not been heard.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        let board = &self.board.kept[usize::from(self.shard.0)];
        !self.answers.is_empty()
            || board.iter().zip(&self.seen).any(|(mark, seen)| mark.load(Ordering::Relaxed) > *seen)
    }

    /// Gives away what is left, whatever time that takes: nothing is read any more.
    pub fn finish(&mut self) {
        for (lane, spill) in self.spill.iter_mut().enumerate() {
            for order in spill.drain(..) {
                // A lane ends only when nobody needs it.
                let _ = self.orders[lane].send(order);
            }
        }
        self.note_spilling();
    }
}

/// What a lane counts while it has nothing better to do, with half of its time at most.
struct Counting {
    walks: VecDeque<Walk>,
    begun_at: Instant,
    /// When the last piece ended, and for how long it is not followed by another.
    piece_at: Instant,
    rest: Duration,
    /// Shards that have not asked for the last time.
    shards: usize,
    sessions: u64,
    messages: u64,
    bytes: u64,
}

impl Counting {
    fn new(shards: usize) -> Self {
        let now = Instant::now();
        let (sessions, messages, bytes) = (0, 0, 0);
        let walks = VecDeque::new();
        let rest = Duration::ZERO;
        Self { walks, begun_at: now, piece_at: now, rest, shards, sessions, messages, bytes }
    }

    /// How long until there is something to count; `None` if there is nothing.
    fn due(&self) -> Option<Duration> {
        let due = || self.rest.saturating_sub(self.piece_at.elapsed());
        (!self.walks.is_empty()).then(due)
    }

    /// Adds up what was counted. True if it was the last of all.
    fn note(&mut self, counted: &Counted) -> bool {
        for waits in &counted.waiting {
            self.sessions += 1;
            self.messages += waits.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
            self.bytes += waits.bytes;
        }
        self.shards = self.shards.saturating_sub(usize::from(counted.count.last));
        counted.count.last && self.shards == 0
    }
}

/// A lane on its thread.
struct Worker<S> {
    lane: Lane<S>,
    index: usize,
    orders: Receiver<Order>,
    board: Arc<Board>,
    bells: Vec<Arc<Bell>>,
    answers: Vec<Sender<Answer>>,
    /// Questions that wait until what was asked before them is written.
    loads: VecDeque<Load>,
    /// Shards that have been answered and not been woken.
    answered: Vec<usize>,
    /// Who waits for a view of everything, just so.
    viewers: Vec<mpsc::Sender<View>>,
    counting: Counting,
    sync_every: Option<Duration>,
    written_at: Instant,
    synced_at: Instant,
    /// How much of the disk may be taken, when that was looked at, and whether too much is.
    room: Room,
    looked_at: Instant,
    /// Bytes that have been gathered and not written.
    gathered_bytes: u64,
    is_full: bool,
    /// When the disk was given back what is over, while there was no room.
    shrunk_at: Option<Instant>,
    /// Whether the process has most of the memory that it may have.
    process_load: Arc<ProcessLoad>,
    /// When memory was given back last.
    gave_back_at: Option<Instant>,
}

impl<S: Store> Worker<S> {
    fn run(mut self) {
        while self.gather() {
            if let Err(error) = self.work() {
                self.recover(&error);
            }
            if self.looked_at.elapsed() >= LOOK_EVERY {
                self.look_for_room();
            }
            if self.process_load.wants_memory()
                && self.gave_back_at.is_none_or(|at| at.elapsed() >= GIVE_BACK_EVERY)
            {
                memory::give_back(Back::All);
                self.gave_back_at = Some(Instant::now());
            }
        }
        // Everybody has gone: what is left is kept, and survives.
        while let Err(error) = self.lane.commit().and_then(|_| self.lane.sync()) {
            say(self.index, Level::Error, format_args!("{error}"));
            if self.lane.recover().is_err() {
                say(self.index, Level::Error, format_args!("the last records are lost"));
                return;
            }
        }
        let Written { messages, batches, bytes, syncs } = self.lane.written();
        say(
            self.index,
            Level::Info,
            format_args!("messages={messages} batches={batches} bytes={bytes} syncs={syncs}"),
        );
    }

    /// Takes what shards want; waits for it if there is nothing else to do. False when they are gone.
    fn gather(&mut self) -> bool {
        let busy = self.wants_folding() || !self.loads.is_empty() || !self.viewers.is_empty();
        if !busy {
            let wait = match self.lane.gathered() {
                0 => self.sync_every.unwrap_or(Duration::from_secs(1)),
                _ => IDLE_WRITE.saturating_sub(self.written_at.elapsed()),
            };
            let wait = self.counting.due().map_or(wait, |due| wait.min(due));
            match self.orders.recv_timeout(wait) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        let goes_on = self.drain();
        let since_last = self.written_at.elapsed();
        if goes_on && self.lane.is_urgent() && self.lane.gathered() < TOGETHER && since_last < BUSY
        {
            // Under load more is on its way, and to make a few durable costs as much as to make many.
            std::thread::park_timeout(GATHER_TIME);
            return self.drain();
        }
        goes_on
    }

    /// Takes what has come. False when nobody is left to send anything.
    fn drain(&mut self) -> bool {
        for _ in 0..GATHER_MAX {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !self.loads.is_empty(),
            }
        }
        true
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Keep { from, upto, urgent, records, bytes } => {
                self.gathered_bytes += bytes;
                self.lane.gather(from, upto, urgent, records);
            }
            Order::Load(load) => self.loads.push_back(load),
            Order::View(viewer) => self.viewers.push(viewer),
            Order::Count(count) => self.counting.walks.push_back(Walk::new(count)),
        }
    }

    fn work(&mut self) -> Result<(), StoreError> {
        let must_come_first =
            |load: &Load| self.lane.must_commit_before(load.incarnation, load.from);
        let due = self.lane.is_urgent()
            || self.loads.iter().take(LOADS_MAX).any(must_come_first)
            || !self.viewers.is_empty()
            || (self.lane.gathered() > 0 && self.written_at.elapsed() >= IDLE_WRITE)
            || self.lane.gathered() >= GATHER_MAX;
        if due {
            let kept = self.lane.commit()?;
            self.board.commits.fetch_add(1, Ordering::Relaxed);
            self.tell(kept);
        }
        if !self.viewers.is_empty() {
            self.lane.sync()?;
            while !self.viewers.is_empty() {
                let view = self.lane.view()?;
                // Who asked may have given up.
                let _ = self.viewers.pop().map(|viewer| viewer.send(view));
            }
        }
        for _ in 0..LOADS_MAX {
            let Some(load) = self.loads.front() else { break };
            let places = load.from..load.upto;
            let (messages_max, bytes_max) = (load.messages_max, load.bytes_max);
            let page = self.lane.load(load.incarnation, places, messages_max, bytes_max);
            let answered = self.answer(page);
            if answered.is_err() {
                self.ring();
                return answered;
            }
        }
        self.ring();
        if self.lane.wants_folding() {
            self.lane.keep_bound()?;
        } else if self.wants_folding() {
            self.lane.fold()?;
        } else if self.is_full && self.shrunk_at.is_none_or(|at| at.elapsed() >= SHRINK_EVERY) {
            self.lane.shrink()?;
            self.shrunk_at = Some(Instant::now());
        }
        if self.sync_every.is_some_and(|every| self.synced_at.elapsed() >= every) {
            self.lane.sync()?;
            self.synced_at = Instant::now();
        }
        if self.counting.due().is_some_and(|due| due.is_zero()) { self.count() } else { Ok(()) }
    }

    /// Answers the first question. One that cannot be answered at the moment stays.
    fn answer(&mut self, page: Result<Page, StoreError>) -> Result<(), StoreError> {
        let page = match page {
            Err(StoreError::Damaged { what }) => {
                // Its session stays as it is; the others go on.
                say(
                    self.index,
                    Level::Error,
                    format_args!(
                        "the data is damaged: {what}; a session cannot get what waits \
                     for it"
                    ),
                );
                self.loads.pop_front();
                return Ok(());
            }
            page => page?,
        };
        let Some(load) = self.loads.pop_front() else { return Ok(()) };
        let shard = usize::from(load.session.shard.0);
        let Page { messages, void, next } = page;
        let loaded = Loaded { load, messages, void, next };
        // A shard that has ended asks for nothing.
        let _ = self.answers[shard].send(Answer::Loaded(loaded));
        if !self.answered.contains(&shard) {
            self.answered.push(shard);
        }
        Ok(())
    }

    /// Wakes the shards that have been answered.
    fn ring(&mut self) {
        for shard in self.answered.drain(..) {
            self.bells[shard].ring();
        }
    }

    /// Answers questions while nothing can be committed, as far as that is possible.
    fn answer_kept(&mut self) {
        for _ in 0..self.loads.len() {
            let Some(load) = self.loads.front() else { break };
            let places = load.from..load.upto;
            let (messages_max, bytes_max) = (load.messages_max, load.bytes_max);
            let page = self.lane.load_kept(load.incarnation, places, messages_max, bytes_max);
            let answered = match page.transpose() {
                Some(page) => self.answer(page).is_ok(),
                None => false,
            };
            if !answered {
                // It waits, behind those that can be answered.
                self.loads.rotate_left(1);
            }
        }
        self.ring();
    }

    /// True if the log is too long, or has to go since there is no room for it, on the disk or in memory.
    fn wants_folding(&self) -> bool {
        self.lane.wants_folding()
            || self.is_full && self.lane.has_log()
            || self.lane.log_bytes() > LOG_BYTES_SMALL && self.process_load.wants_memory()
    }

    /// Counts some of what waits from before this process.
    fn count(&mut self) -> Result<(), StoreError> {
        let begun_at = Instant::now();
        let Some(walk) = self.counting.walks.front_mut() else { return Ok(()) };
        let is_done = match self.lane.count(walk, COUNT_MAX) {
            Err(StoreError::Damaged { what }) => {
                say(
                    self.index,
                    Level::Error,
                    format_args!(
                        "the data is damaged: {what}; nobody knows how much waits for \
                     a session"
                    ),
                );
                walk.pass();
                false
            }
            result => result?,
        };
        (self.counting.piece_at, self.counting.rest) = (Instant::now(), begun_at.elapsed());
        if is_done && let Some(walk) = self.counting.walks.pop_front() {
            let counted = walk.finish();
            if self.counting.note(&counted) {
                let Counting { begun_at, sessions, messages, bytes, .. } = &self.counting;
                say(
                    self.index,
                    Level::Info,
                    format_args!(
                        "all that waits has been counted after {} ms: {messages} \
                     messages, {bytes} bytes, for {sessions} sessions",
                        begun_at.elapsed().as_millis()
                    ),
                );
            }
            let shard = usize::from(counted.count.shard.0);
            // A shard that has ended asks for nothing.
            let _ = self.answers[shard].send(Answer::Counted(counted));
            self.bells[shard].ring();
        }
        Ok(())
    }

    fn tell(&mut self, kept: Vec<(ShardIndex, u64)>) {
        self.written_at = Instant::now();
        let written = std::mem::take(&mut self.gathered_bytes);
        self.board.pending_bytes.fetch_sub(written, Ordering::Relaxed);
        for (shard, records) in self.lane.take_spent() {
            // A shard that has ended needs nothing.
            let _ = self.answers[usize::from(shard.0)].send(Answer::Spent(records));
        }
        for (shard, upto) in kept {
            let shard = usize::from(shard.0);
            self.board.kept[shard][self.index].store(upto, Ordering::Release);
            self.bells[shard].ring();
        }
    }

    /// Has publishers wait while too much of the disk is taken. What has been given is still written.
    fn look_for_room(&mut self) {
        self.looked_at = Instant::now();
        let trouble = self.room.trouble();
        if trouble.is_some() == self.is_full {
            return;
        }
        self.is_full = trouble.is_some();
        self.note_trouble(self.is_full);
        match trouble {
            Some(trouble) => {
                say(
                    self.index,
                    Level::Error,
                    format_args!("{trouble}; {} until there is room", self.consequence()),
                );
            }
            None => {
                say(self.index, Level::Warn, format_args!("there is room again"));
                self.bells.iter().for_each(|bell| bell.ring());
            }
        }
    }

    /// What trouble means for publishers.
    const fn consequence(&self) -> &'static str {
        match self.room.when_full {
            WhenFull::Wait => "publishers of QoS 1 and 2 wait",
            WhenFull::Refuse => {
                "publishers of QoS 1 and 2 are refused, or wait if they use MQTT 3,"
            }
        }
    }

    /// Tells all shards whether this lane keeps anything at the moment.
    fn note_trouble(&self, trouble: bool) {
        let before = self.board.failing[self.index].swap(trouble, Ordering::Relaxed);
        if trouble && !before {
            self.board.troubles.fetch_add(1, Ordering::Relaxed);
        }
        if trouble != before {
            self.bells.iter().for_each(|bell| bell.ring());
        }
    }

    /// Tries again until the disk is well. Nobody is told that anything is kept meanwhile.
    fn recover(&mut self, error: &StoreError) {
        self.note_trouble(true);
        say(
            self.index,
            Level::Error,
            format_args!("{error}; {} until it can be written again", self.consequence()),
        );
        self.board.recovering.fetch_add(1, Ordering::Relaxed);
        let mut no_room = matches!(error, StoreError::Full { .. });
        loop {
            // While there is surely no room, what is open can be read, and would not be opened again.
            let hopeless = no_room && self.room.is_scarce();
            let recovered = if hopeless { None } else { Some(self.lane.recover()) };
            match recovered {
                None => {}
                Some(Ok(kept)) => {
                    self.board.recovering.fetch_sub(1, Ordering::Relaxed);
                    say(self.index, Level::Warn, format_args!("it can be written again"));
                    self.note_trouble(self.is_full);
                    self.tell(kept);
                    return self.bells.iter().for_each(|bell| bell.ring());
                }
                Some(Err(StoreError::Damaged { what })) => {
                    // Going on would lose what is there.
                    say(
                        self.index,
                        Level::Error,
                        format_args!("the data is damaged: {what}; Petrel stops"),
                    );
                    log::last_words(None);
                    std::process::exit(1);
                }
                Some(Err(error)) => no_room = matches!(error, StoreError::Full { .. }),
            }
            if !self.wait_for_retry() {
                self.board.recovering.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Takes orders and answers what can be answered until it is time to try again. False if nobody is
    /// left who would give any.
    fn wait_for_retry(&mut self) -> bool {
        let retry_at = Instant::now() + RETRY;
        loop {
            self.answer_kept();
            match self.orders.recv_deadline(retry_at) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            self.drain();
        }
    }
}

/// Writes a line about a lane.
fn say(lane: usize, level: Level, text: fmt::Arguments<'_>) {
    let fields = [("lane", Value::Number(lane as u64))];
    log::say(Event::Storage, level, &fields, format_args!("storage lane {lane}: {text}"));
}

//! One lane: everything that is kept of the slots that it has.
//!
//! What shards want kept is gathered, written as one batch at the end of a log, and indexed in
//! memory (the window). What the client has before its batch is written never reaches the disk. When
//! the log has grown over its bound, its oldest batch is folded into ordered maps: what still counts
//! goes there, with all that waits for a session in pages of many messages, and the batch is removed.
//! So a message costs one copy into a log while it is young, and a part of a page when it is old.
//!
//! A lane is driven from outside, one call at a time, and has no thread and no clock of its own; so
//! it runs under the simulator over a disk that fails.

mod count;
mod fold;
mod share;
mod view;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use hashbrown::HashMap;
use petrel_shard::record::{Record, Stream};
use petrel_shard::{Incarnation, ShardIndex};

pub use self::count::Walk;
use self::fold::FOLD_BYTES_MAX;
pub use self::share::SHARED_BYTES_MIN;
use self::share::{Reads, Sharing, long};
pub use self::view::Page;
pub(crate) use self::view::incarnation_of;
use self::write::write_record;
use crate::codec::{Clock, Unreadable};
use crate::disk::Alive;
use crate::log::Writer;
use crate::shared::SharedId;
use crate::store::{Batch, Space, Store, StoreError};
use crate::window::{Latest, Window};

/// The version of everything that is written.
const FORMAT: u32 = 3;

/// A batch ends when it has so many bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Room that is kept for records between commits, in records; and for what goes back to a shard.
const GATHERED_KEPT_MAX: usize = 16 << 10;
const SPENT_KEPT_MAX: usize = 1_024;
/// So many vectors in which records came are kept to take some back.
const VECTORS_KEPT_MAX: usize = 4;

/// The name under which it is noted from which batch on the log counts.
pub(crate) const FOLDED: &[u8] = b"folded";

/// The name under which it is noted which process used the folder last.
const EPOCH: &[u8] = b"epoch";

/// The name under which the log says which process wrote it.
pub(crate) const LOGGED: &[u8] = b"logged";

/// When what was written is made to survive the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncLevel {
    /// With each batch, before anybody is told.
    #[default]
    Commit,
    /// From time to time, by [`Lane::sync`].
    Interval,
    /// When the system likes.
    Never,
}

/// What a lane is told once.
#[derive(Debug, Clone, Copy)]
pub struct LaneSettings {
    /// Which lane.
    pub lane: u16,
    /// Of how many.
    pub lanes: u16,
    /// See [`SyncLevel`].
    pub sync: SyncLevel,
    /// The log may have this many bytes before its oldest part is folded.
    pub window_bytes_max: usize,
}

/// What a lane has written since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Messages that wait, of those that were not done with before.
    pub messages: u64,
    /// Batches.
    pub batches: u64,
    /// Bytes of the batches.
    pub bytes: u64,
    /// Synchronisations of the log.
    pub syncs: u64,
}

/// Everything that is kept of the slots of one lane.
#[derive(Debug)]
pub struct Lane<S> {
    store: S,
    settings: LaneSettings,
    clock: Clock,
    epoch: u32,
    /// The log says it as well.
    epoch_logged: bool,
    window: Window,
    /// How far into the oldest batch it has been folded.
    folded: u32,
    gathered: Vec<Option<Record>>,
    /// Up to which of them they came from which shard.
    origins: Vec<(usize, ShardIndex)>,
    /// Messages that are of no use any more, by the shard that they came from, if it wants them back.
    spent: Option<Vec<(ShardIndex, Vec<Record>)>>,
    /// Empty, with room.
    vectors: Vec<Vec<Record>>,
    /// Positions in `gathered` of what waits, so that what is done with at once is never written.
    waiting: HashMap<(Incarnation, u64), usize>,
    /// The last place of each session of which `gathered` says that it is done with.
    done_upto: HashMap<Incarnation, u64>,
    /// `gathered` says something else.
    says_more: bool,
    /// How far each shard's records are kept when `gathered` is written.
    promised: HashMap<ShardIndex, u64>,
    /// How far they will be kept when what failed has been written again.
    owed: BTreeMap<ShardIndex, u64>,
    /// Something gathered is waited for.
    urgent: bool,
    /// See [`BATCH_BYTES_MAX`].
    batch_bytes_max: usize,
    /// See [`SHARED_BYTES_MIN`].
    shared_bytes_min: usize,
    /// See [`FOLD_BYTES_MAX`].
    fold_bytes_max: usize,
    /// How many messages have been stored once for several since the process began.
    shared: u64,
    reads: Reads,
    /// The batch that is being written; empty between commits.
    writer: Writer,
    /// The window belongs to the maps as they are; not while the store has been opened again and the log
    /// has not been read.
    is_whole: bool,
    /// An attempt to recover has failed: what was not durable may be missing in the store.
    is_recovering: bool,
    /// All batches below this number are known to survive.
    durable: u64,
    /// Batches from there on, by number; none with [`SyncLevel::Never`].
    unsynced: Vec<(u64, Bytes)>,
    /// How far the receipts of the streams of this lane have come.
    streams: HashMap<Stream, u64>,
    /// How far those of all lanes had come when this process began.
    settled: Arc<HashMap<Stream, u64>>,
    /// Says to the store whose keys may be dropped.
    alive: Alive,
    /// The session of which a part has been counted, while its pages stay as they are.
    counting: Option<Incarnation>,
    written: Written,
    /// What has been written since the last commit began or the log was folded.
    fresh_bytes: usize,
}

impl<S: Store> Lane<S> {
    /// Opens what is in a store.
    ///
    /// # Errors
    /// The store fails, is damaged, or was made for other settings.
    pub fn open(store: S, clock: Clock, settings: LaneSettings) -> Result<Self, StoreError> {
        let mut lane = Self {
            store,
            settings,
            clock,
            epoch: 0,
            epoch_logged: false,
            window: Window::default(),
            folded: 0,
            gathered: Vec::new(),
            origins: Vec::new(),
            spent: None,
            vectors: Vec::new(),
            waiting: HashMap::new(),
            done_upto: HashMap::new(),
            says_more: false,
            promised: HashMap::new(),
            owed: BTreeMap::new(),
            urgent: false,
            is_whole: true,
            is_recovering: false,
            durable: 0,
            batch_bytes_max: BATCH_BYTES_MAX,
            shared_bytes_min: SHARED_BYTES_MIN,
            fold_bytes_max: FOLD_BYTES_MAX,
            shared: 0,
            reads: Reads::default(),
            writer: Writer::default(),
            unsynced: Vec::new(),
            streams: HashMap::new(),
            settled: Arc::default(),
            alive: Alive::default(),
            counting: None,
            written: Written::default(),
            fresh_bytes: 0,
        };
        let is_new = !lane.check_origin()?;
        lane.read_log(u64::MAX)?;
        if is_new && lane.window.next() > 1 {
            let what = "there is a log, and what the folder says of itself is missing; a journal \
                        may have been removed";
            return Err(StoreError::Damaged { what: what.into() });
        }
        let logged = match lane.window.latest(Space::Meta, LOGGED) {
            Some(Latest::Put(place)) => Some(lane.window.value(place)),
            _ => lane.store.get(Space::Meta, LOGGED)?,
        };
        if logged.is_some_and(|logged| number(&logged) > lane.epoch) {
            let what = "the log is of a later process than what the folder says of itself; a journal \
                        may have been removed";
            return Err(StoreError::Damaged { what: what.into() });
        }
        lane.read_streams()?;
        Ok(lane)
    }

    /// Compares what the folder says of itself with the settings. Returns false if it says nothing.
    fn check_origin(&mut self) -> Result<bool, StoreError> {
        let LaneSettings { lane, lanes, .. } = self.settings;
        let number = |value: Option<Bytes>| value.map(|bytes| number(&bytes));
        let format = number(self.store.get(Space::Meta, b"format")?);
        let Some(format) = format else { return Ok(false) };
        if format != FORMAT {
            let what = format!(
                "the data has format {format}, and this version reads format {FORMAT} only; \
                 start the version that wrote it"
            );
            return Err(StoreError::Foreign { what });
        }
        let found = number(self.store.get(Space::Meta, b"lane")?).unwrap_or(0);
        let expected = u32::from(lane) << 16 | u32::from(lanes);
        if found != expected {
            let (was, of) = (found >> 16, found & 0xffff);
            let what = format!(
                "the data is lane {was} of {of}, and lane {lane} of {lanes} was expected; \
                 set storage.lanes to {of}"
            );
            return Err(StoreError::Foreign { what });
        }
        self.epoch = number(self.store.get(Space::Meta, EPOCH)?).unwrap_or(0);
        Ok(true)
    }

    /// The process that used the folder last; 0 if none did.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    fn begin(&mut self, epoch: u32, settled: Arc<HashMap<Stream, u64>>) -> Result<(), StoreError> {
        let LaneSettings { lane, lanes, .. } = self.settings;
        self.store.write(origin(lane, lanes, epoch), true)?;
        self.epoch = epoch;
        self.epoch_logged = false;
        self.settled = settled;
        Ok(())
    }

    /// Says to the store from now on which sessions there are, so that it may drop what belongs to
    /// others.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn sweep(&mut self, alive: Alive) -> Result<(), StoreError> {
        let mut sessions = Vec::new();
        self.sessions(|session| sessions.push(session.incarnation))?;
        self.groups(|incarnation, _| sessions.push(incarnation))?;
        self.sweep_of(sessions, alive)
    }

    /// The same, where all sessions and groups have been read already and nothing has been written since.
    pub(crate) fn sweep_of(
        &mut self,
        mut sessions: Vec<Incarnation>,
        alive: Alive,
    ) -> Result<(), StoreError> {
        // What is over must be over after any failure.
        self.sync()?;
        // What they share with others is looked up when their end is folded.
        for (key, latest) in self.window.keys(Space::Session) {
            if let Latest::Removed(_) = latest {
                sessions.push(incarnation_of(key)?);
            }
        }
        let gathered = self.gathered.iter().flatten();
        sessions.extend(gathered.filter_map(|record| match record {
            Record::Session(session) => Some(session.incarnation),
            Record::Group { incarnation, .. } => Some(*incarnation),
            _ => None,
        }));
        alive.fill(sessions);
        self.alive = alive;
        Ok(())
    }

    /// What is noted of the folder as a whole under a name.
    ///
    /// # Errors
    /// The store fails.
    pub fn note(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.get(Space::Meta, name.as_bytes())
    }

    /// Notes something of the folder as a whole, for good.
    ///
    /// # Errors
    /// The store fails.
    pub fn set_note(&mut self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(Space::Meta, name.as_bytes().to_vec(), value);
        self.store.write(batch, true)
    }

    /// Reads the log again, without what stands there from `below` on.
    fn read_log(&mut self, below: u64) -> Result<(), StoreError> {
        let from = match self.store.get(Space::Meta, FOLDED)? {
            None => 1,
            Some(bytes) => bytes[..].try_into().map(u64::from_be_bytes).map_err(|_| {
                damaged(Space::Meta, FOLDED, Unreadable { expected: "the number of a batch" })
            })?,
        };
        let mut window = Window::new(from);
        for (_, batch) in self.store.read_log(from, below)? {
            window.push(batch, true)?;
        }
        // If that fails, the window says still which batches there are.
        self.window = window;
        self.folded = 0;
        self.durable = self.window.next();
        Ok(())
    }

    fn read_streams(&mut self) -> Result<(), StoreError> {
        let mut streams = HashMap::new();
        self.each(Space::Stream, |key, value| {
            let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
            let (Ok(stream), Ok(number)) = (number(key), number(value)) else {
                let expected = "how far a stream has come";
                return Err(damaged(Space::Stream, key, Unreadable { expected }));
            };
            streams.insert(Stream::from_u64(stream), number);
            Ok(())
        })?;
        self.streams = streams;
        Ok(())
    }

    /// The store.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Stores messages once for several sessions from this length of the payload on, in bytes, instead of
    /// [`SHARED_BYTES_MIN`].
    pub const fn share_from(&mut self, payload_bytes: usize) {
        self.shared_bytes_min = payload_bytes;
    }

    /// Folds in steps of so many bytes instead of 256 KiB.
    pub const fn fold_in_steps_of(&mut self, bytes: usize) {
        self.fold_bytes_max = bytes;
    }

    /// Gives the store back, for tests that open it again.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Takes what a shard wants kept, up to a position in the order of that shard; `urgent` if
    /// somebody waits for it.
    ///
    /// *Cost*: no encoding; what is done with before [`Lane::commit`] is forgotten.
    pub fn gather(
        &mut self,
        from: ShardIndex,
        upto: u64,
        urgent: bool,
        records: impl Into<Vec<Record>>,
    ) {
        self.urgent |= urgent;
        let begin = self.gathered.len();
        let mut records = records.into();
        self.gathered.extend(records.drain(..).map(Some));
        let has_room = 0 < records.capacity() && records.capacity() <= SPENT_KEPT_MAX;
        if self.spent.is_some() && has_room && self.vectors.len() < VECTORS_KEPT_MAX {
            self.vectors.push(records);
        }
        for at in begin..self.gathered.len() {
            match &self.gathered[at] {
                Some(Record::Queued { incarnation, sequence, .. }) => {
                    self.waiting.insert((*incarnation, *sequence), at);
                    self.says_more = true;
                }
                Some(Record::Done { incarnation, sequence }) => {
                    if !self.says_more {
                        let upto = self.done_upto.entry(*incarnation).or_default();
                        *upto = (*upto).max(*sequence);
                    }
                    if let Some(queued) = self.waiting.remove(&(*incarnation, *sequence)) {
                        self.gathered[at] = None;
                        self.forget(from, queued);
                    }
                }
                Some(Record::Released { incarnation, sequence }) => {
                    // What is left of it stands for it.
                    if let Some(queued) = self.waiting.get_mut(&(*incarnation, *sequence)) {
                        let before = std::mem::replace(queued, at);
                        self.forget(from, before);
                    }
                    self.says_more = true;
                }
                _ => self.says_more = true,
            }
        }
        let end = self.gathered.len();
        match self.origins.last_mut() {
            Some((upto, shard)) if *shard == from => *upto = end,
            _ => self.origins.push((end, from)),
        }
        self.promised.insert(from, upto);
    }

    /// Collects the messages of which it needs no more, for [`Lane::take_spent`]: to give memory back is
    /// much cheaper for the thread that has asked for it.
    pub fn return_spent(&mut self) {
        if self.spent.is_none() {
            self.spent = Some(Vec::new());
        }
    }

    /// What it needs no more, by the shard from which it came.
    pub fn take_spent(&mut self) -> Vec<(ShardIndex, Vec<Record>)> {
        self.spent.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What was gathered needs not be written.
    fn forget(&mut self, from: ShardIndex, at: usize) {
        if let Some(record) = self.gathered[at].take() {
            self.spend(from, record);
        }
    }

    fn spend(&mut self, from: ShardIndex, record: Record) {
        let Some(spent) = &mut self.spent else { return };
        if let Record::Queued { .. } = record {
            match spent.iter_mut().find(|(shard, _)| *shard == from) {
                Some((_, records)) => records.push(record),
                None => {
                    let mut records = self.vectors.pop().unwrap_or_default();
                    records.push(record);
                    spent.push((from, records));
                }
            }
        }
    }

    /// True if somebody waits for what has been gathered.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// True unless [`Lane::load`] shows what waits for a session from a place on as it would show it if
    /// what has been gathered were written.
    #[must_use]
    pub fn must_commit_before(&self, incarnation: Incarnation, from: u64) -> bool {
        self.says_more || self.done_upto.get(&incarnation).is_some_and(|upto| *upto >= from)
    }

    /// What has been written so far.
    #[must_use]
    pub const fn written(&self) -> Written {
        self.written
    }

    /// How many records have been gathered.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.gathered.len()
    }

    /// Writes what has been gathered. Returns how far each shard's records are kept now.
    ///
    /// # Errors
    /// The store fails. Then what has been gathered since is safe in memory, and
    /// [`Lane::recover`] tries again.
    pub fn commit(&mut self) -> Result<Vec<(ShardIndex, u64)>, StoreError> {
        let mut streams: BTreeMap<Stream, u64> = BTreeMap::new();
        let urgent = std::mem::take(&mut self.urgent);
        self.waiting.clear();
        self.done_upto.clear();
        self.says_more = false;
        self.fresh_bytes = 0;
        self.owed.extend(self.promised.drain());
        let mut written = Ok(());
        let mut sharing: Option<Sharing> = None;
        let mut origins = std::mem::take(&mut self.origins).into_iter().peekable();
        let mut gathered = std::mem::take(&mut self.gathered);
        let mut records = gathered.drain(..);
        let mut at = 0;
        while let Some(record) = records.next() {
            at += 1;
            while origins.next_if(|(end, _)| *end < at).is_some() {}
            let Some(record) = record else { continue };
            match &record {
                Record::Session(session) => self.alive.begin(session.incarnation),
                Record::Group { incarnation, .. } => self.alive.begin(*incarnation),
                Record::Queued { .. } => self.written.messages += 1,
                _ => {}
            }
            let shared = long(&record, self.shared_bytes_min).and_then(|message| {
                let rest = records.as_slice().iter().flatten();
                let bytes_min = self.shared_bytes_min;
                let rest = rest.filter_map(|record| long(record, bytes_min));
                let all = std::iter::once(message).chain(rest);
                let sharing = sharing.get_or_insert_with(|| Sharing::of(all));
                let next = || {
                    self.shared += 1;
                    SharedId::new(self.epoch, self.shared)
                };
                sharing.stand_in(message, &mut self.writer, next, self.clock)
            });
            write_record(&mut self.writer, &record, shared, self.clock, &mut streams);
            if let Some((_, from)) = origins.peek() {
                self.spend(*from, record);
            }
            if self.writer.len() >= self.batch_bytes_max {
                sharing.iter_mut().for_each(Sharing::end_batch);
                written = self.put_batch(&mut streams, written);
                while written.is_ok() && self.window.bytes() > 2 * self.settings.window_bytes_max {
                    written = self.fold();
                }
            }
        }
        drop(records);
        gathered.shrink_to(GATHERED_KEPT_MAX);
        self.gathered = gathered;
        if !self.writer.is_empty() {
            written = self.put_batch(&mut streams, written);
        }
        written?;
        if self.settings.sync == SyncLevel::Never {
            self.unsynced.clear();
        } else if urgent && self.settings.sync == SyncLevel::Commit {
            // What is waited for may have been written by an earlier call that nobody waited for.
            self.sync()?;
        }
        Ok(std::mem::take(&mut self.owed).into_iter().collect())
    }

    /// Ends a batch, which is in memory then whatever becomes of it on the disk.
    fn put_batch(
        &mut self,
        streams: &mut BTreeMap<Stream, u64>,
        before: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // How far a stream has come stands in the batch that has its receipts.
        for (stream, number) in std::mem::take(streams) {
            let key = stream.to_u64().to_be_bytes();
            self.writer.put(Space::Stream, &key, |out| out.put_u64(number));
            self.streams.insert(stream, number);
        }
        if !self.epoch_logged {
            let epoch = self.epoch;
            self.writer.put(Space::Meta, LOGGED, |out| out.put_u32(epoch));
            self.epoch_logged = true;
        }
        let bytes = self.writer.take();
        let number = self.window.next();
        self.window.push_marked(bytes.clone(), self.writer.marks())?;
        self.unsynced.push((number, bytes.clone()));
        before?;
        // Some that come before it may be missing.
        self.must_have_recovered()?;
        self.store.append(number, &bytes, false)?;
        self.written.batches += 1;
        self.written.bytes += bytes.len() as u64;
        self.fresh_bytes += bytes.len();
        Ok(())
    }

    /// Makes everything that was written survive the machine.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.must_have_recovered()?;
        if self.durable < self.window.next() {
            self.store.sync_log()?;
            self.written.syncs += 1;
            self.durable = self.window.next();
            self.unsynced.clear();
        }
        Ok(())
    }

    fn must_have_recovered(&self) -> Result<(), StoreError> {
        if self.is_recovering {
            let why = "the store has not been opened again after an error".into();
            return Err(StoreError::Failed { why });
        }
        Ok(())
    }

    /// Opens the store again after an error and writes what may have been lost. Returns how far each
    /// shard's records are kept now.
    ///
    /// # Errors
    /// It failed again; it may be tried later.
    pub fn recover(&mut self) -> Result<Vec<(ShardIndex, u64)>, StoreError> {
        // What a failed synchronisation has left may be read again and yet not be on the disk.
        let below = self.unsynced.first().map_or(self.window.next(), |(number, _)| *number);
        (self.is_whole, self.is_recovering) = (false, true);
        self.store.reopen()?;
        self.counting = None;
        self.read_log(below)?;
        for (_, bytes) in &self.unsynced {
            self.window.push(bytes.clone(), true)?;
        }
        self.is_whole = true;
        self.read_streams()?;
        for (number, bytes) in &self.unsynced {
            self.store.append(*number, bytes, false)?;
        }
        self.store.sync_log()?;
        self.is_recovering = false;
        self.durable = self.window.next();
        self.unsynced.clear();
        Ok(std::mem::take(&mut self.owed).into_iter().collect())
    }
}

/// The number that an entry of what is known of the folder has.
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// The names of what a folder says of its making; whoever makes another of its entries says that anew.
pub(crate) const ORIGIN: [&str; 3] = ["format", "lane", "epoch"];

/// What a folder says of its making, and of the process that used it last.
pub(crate) fn origin(lane: u16, lanes: u16, epoch: u32) -> Batch {
    let lane = u32::from(lane) << 16 | u32::from(lanes);
    let mut batch = Batch::default();
    for (name, number) in ORIGIN.into_iter().zip([FORMAT, lane, epoch]) {
        batch.put(Space::Meta, name.as_bytes(), number.to_be_bytes().to_vec());
    }
    batch
}

/// Begins the use of all lanes of a folder by a process. Returns its epoch: they are counted from 1.
///
/// # Errors
/// A store fails.
pub fn begin<S: Store>(lanes: &mut [Lane<S>]) -> Result<u32, StoreError> {
    let epoch = 1 + lanes.iter().map(|lane| lane.epoch).max().unwrap_or(0);
    let is_used = |lane: &Lane<S>| lane.epoch > 1 || lane.has_log();
    if let (Some(empty), true) =
        (lanes.iter().find(|lane| lane.epoch == 0), lanes.iter().any(is_used))
    {
        let what = format!(
            "there is nothing in lane {}, and there is in others: what it kept is missing; bring its \
             folder back, or remove those of all lanes to begin anew",
            empty.settings.lane
        );
        return Err(StoreError::Damaged { what });
    }
    let streams = lanes.iter().flat_map(|lane| &lane.streams);
    let settled = Arc::new(streams.map(|(stream, upto)| (*stream, *upto)).collect());
    for lane in lanes {
        lane.begin(epoch, Arc::clone(&settled))?;
    }
    Ok(epoch)
}

fn damaged(space: Space, key: &[u8], unreadable: Unreadable) -> StoreError {
    let key = key.escape_ascii();
    let (space, expected) = (space.name(), unreadable.expected);
    StoreError::Damaged { what: format!("{space} {key}: {expected} was expected") }
}

#[cfg(test)]
mod tests;

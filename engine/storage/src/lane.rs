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

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use hashbrown::HashMap;
use petrel_shard::record::{Provided, Record, SessionRecord, Stored, Stream, SubscriptionRecord};
use petrel_shard::{Incarnation, Message, ShardIndex};

use crate::codec::{self, Clock, Unreadable, Waiting};
use crate::disk::Alive;
use crate::log::{Operation, Reader, Writer};
use crate::page;
use crate::store::{Batch, Space, Store, StoreError};
use crate::view::View;
use crate::window::{Backlog, Latest, Window, session_key};

/// The version of everything that is written.
const FORMAT: u32 = 1;

/// Changes of one step of folding, at most: so long others wait for it.
const FOLD_CHANGES_MAX: usize = 512;
/// Bytes of one step of folding, about.
const FOLD_BYTES_MAX: usize = 1 << 20;

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

/// A part of what waits for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In order.
    pub messages: Vec<Stored>,
    /// Places of what does not count, since its receipt was lost; of no use to anybody.
    pub void: Vec<u64>,
    /// Where to go on; `None` if nothing was left out.
    pub next: Option<u64>,
}

/// Everything that is kept of the slots of one lane.
#[derive(Debug)]
pub struct Lane<S> {
    store: S,
    settings: LaneSettings,
    clock: Clock,
    epoch: u32,
    window: Window,
    /// How far into the oldest batch it has been folded.
    folded: u32,
    gathered: Vec<Option<Record>>,
    /// Positions in `gathered` of what waits, so that what is done with at once is never written.
    waiting: HashMap<(Incarnation, u64), usize>,
    /// How far each shard's records are kept when `gathered` is written.
    promised: HashMap<ShardIndex, u64>,
    /// How far they will be kept when what failed has been written again.
    owed: BTreeMap<ShardIndex, u64>,
    /// Something gathered is waited for.
    urgent: bool,
    /// Batches that are not known to survive, by number.
    unsynced: Vec<(u64, Bytes)>,
    /// How far the receipts of the streams of this lane have come.
    streams: HashMap<Stream, u64>,
    /// How far those of all lanes had come when this process began.
    settled: Arc<HashMap<Stream, u64>>,
    /// Says to the store whose keys may be dropped.
    alive: Alive,
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
            window: Window::default(),
            folded: 0,
            gathered: Vec::new(),
            waiting: HashMap::new(),
            promised: HashMap::new(),
            owed: BTreeMap::new(),
            urgent: false,
            unsynced: Vec::new(),
            streams: HashMap::new(),
            settled: Arc::default(),
            alive: Alive::default(),
        };
        lane.check_origin()?;
        lane.read_log()?;
        Ok(lane)
    }

    /// Compares what the folder says of itself with the settings.
    fn check_origin(&mut self) -> Result<(), StoreError> {
        let LaneSettings { lane, lanes, .. } = self.settings;
        let number = |value: Option<Bytes>| {
            value.map(|bytes| {
                let four = bytes.first_chunk::<4>().copied().unwrap_or_default();
                u32::from_be_bytes(four)
            })
        };
        let Some(format) = number(self.store.get(Space::Meta, b"format")?) else { return Ok(()) };
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
        self.epoch = number(self.store.get(Space::Meta, b"epoch")?).unwrap_or(0);
        Ok(())
    }

    /// The process that used the folder last; 0 if none did.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    fn begin(&mut self, epoch: u32, settled: Arc<HashMap<Stream, u64>>) -> Result<(), StoreError> {
        let LaneSettings { lane, lanes, .. } = self.settings;
        let lane = u32::from(lane) << 16 | u32::from(lanes);
        let mut batch = Batch::default();
        for (name, number) in [("format", FORMAT), ("lane", lane), ("epoch", epoch)] {
            batch.put(Space::Meta, name.as_bytes(), number.to_be_bytes().to_vec());
        }
        self.store.write(batch, true)?;
        self.epoch = epoch;
        self.settled = settled;
        Ok(())
    }

    /// Says to the store from now on which sessions there are, so that it may drop what belongs to
    /// others.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn sweep(&mut self, alive: Alive) -> Result<(), StoreError> {
        // What is over must be over after any failure.
        self.store.sync()?;
        let mut sessions = Vec::new();
        self.sessions(|session| sessions.push(session.incarnation))?;
        let gathered = self.gathered.iter().flatten();
        sessions.extend(gathered.filter_map(|record| match record {
            Record::Session(session) => Some(session.incarnation),
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

    fn read_log(&mut self) -> Result<(), StoreError> {
        let mut batches = Vec::new();
        self.store.scan(Space::Log, &[], &mut |key, value| {
            batches.push((key.clone(), value.clone()));
            ControlFlow::Continue(())
        })?;
        let none = self.unsynced.first().map_or(1, |(number, _)| *number);
        let first = batches.first().map_or(Ok(none), |(key, _)| batch_number(key))?;
        self.window = Window::new(first);
        self.folded = 0;
        for (key, value) in batches {
            let number = batch_number(&key)?;
            if number != self.window.next() {
                let missing = self.window.next();
                let what =
                    format!("batch {missing} of the log is missing, batch {number} is there");
                return Err(StoreError::Damaged { what });
            }
            self.window.push(value, true)?;
        }
        self.read_streams()
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
        records: impl IntoIterator<Item = Record>,
    ) {
        self.urgent |= urgent;
        for record in records {
            let at = self.gathered.len();
            match &record {
                Record::Queued { incarnation, sequence, .. } => {
                    self.waiting.insert((*incarnation, *sequence), at);
                }
                Record::Done { incarnation, sequence } => {
                    if let Some(queued) = self.waiting.remove(&(*incarnation, *sequence)) {
                        self.gathered[queued] = None;
                        continue;
                    }
                }
                Record::Released { incarnation, sequence } => {
                    // What is left of it stands for it.
                    if let Some(queued) = self.waiting.get_mut(&(*incarnation, *sequence)) {
                        self.gathered[*queued] = None;
                        *queued = at;
                    }
                }
                _ => {}
            }
            self.gathered.push(Some(record));
        }
        self.promised.insert(from, upto);
    }

    /// True if somebody waits for what has been gathered.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
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
        let mut writer = Writer::default();
        let mut streams: BTreeMap<Stream, u64> = BTreeMap::new();
        for record in self.gathered.drain(..).flatten() {
            if let Record::Session(session) = &record {
                self.alive.begin(session.incarnation);
            }
            write_record(&mut writer, &record, self.clock, &mut streams);
        }
        for (stream, number) in streams {
            writer.put(Space::Stream, &stream.to_u64().to_be_bytes(), |out| out.put_u64(number));
            self.streams.insert(stream, number);
        }
        self.waiting.clear();
        let urgent = std::mem::take(&mut self.urgent);
        self.owed.extend(self.promised.drain());
        let sync = urgent && self.settings.sync == SyncLevel::Commit;
        if writer.is_empty() {
            if sync {
                // What is waited for may have been written by an earlier call that nobody waited for.
                self.sync()?;
            }
        } else {
            let bytes = writer.take();
            let number = self.window.next();
            self.window.push(bytes.clone(), false)?;
            self.unsynced.push((number, bytes.clone()));
            let mut batch = Batch::default();
            batch.put(Space::Log, number.to_be_bytes().to_vec(), bytes);
            self.store.write(batch, sync)?;
            if sync || self.settings.sync == SyncLevel::Never {
                self.unsynced.clear();
            }
        }
        Ok(std::mem::take(&mut self.owed).into_iter().collect())
    }

    /// Makes everything that was written survive the machine.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if !self.unsynced.is_empty() {
            self.store.sync()?;
            self.unsynced.clear();
        }
        Ok(())
    }

    /// Opens the store again after an error and writes what may have been lost. Returns how far each
    /// shard's records are kept now.
    ///
    /// # Errors
    /// It failed again; it may be tried later.
    pub fn recover(&mut self) -> Result<Vec<(ShardIndex, u64)>, StoreError> {
        self.store.reopen()?;
        self.read_log()?;
        let mut batch = Batch::default();
        for (number, bytes) in &self.unsynced {
            if *number >= self.window.next() {
                self.window.push(bytes.clone(), true)?;
                batch.put(Space::Log, number.to_be_bytes().to_vec(), bytes.clone());
            }
        }
        self.read_streams()?;
        if batch.is_empty() {
            self.store.sync()?;
        } else {
            self.store.write(batch, true)?;
        }
        self.unsynced.clear();
        Ok(std::mem::take(&mut self.owed).into_iter().collect())
    }

    /// True if the log has grown over its bound.
    #[must_use]
    pub const fn wants_folding(&self) -> bool {
        self.window.bytes() > self.settings.window_bytes_max
    }

    /// Folds a part of the oldest batch.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn fold(&mut self) -> Result<(), StoreError> {
        let Some((number, bytes)) = self.window.oldest() else { return Ok(()) };
        let mut reader = Reader::new(number, bytes, self.folded);
        let mut batch = Batch::default();
        let mut size = 0;
        let mut ended = false;
        while batch.changes.len() < FOLD_CHANGES_MAX && size < FOLD_BYTES_MAX {
            let Some(operation) = reader.next()? else {
                ended = true;
                break;
            };
            let before = batch.changes.len();
            self.fold_operation(number, operation, &mut batch)?;
            size += batch.changes[before..]
                .iter()
                .map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len))
                .sum::<usize>();
        }
        self.folded = reader.position();
        if ended {
            batch.remove(Space::Log, number.to_be_bytes().to_vec());
        }
        self.store.write(batch, false)?;
        if ended {
            self.window.pop();
            self.folded = 0;
        }
        Ok(())
    }

    fn fold_operation(
        &mut self,
        number: u64,
        operation: Operation,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        match operation {
            Operation::Put { space, key, value } => {
                if self.window.latest(space, &key) == Some(Latest::Put(value)) {
                    batch.put(space, copy(&key), copy(&self.window.value(value)));
                    self.window.forget(space, &key);
                }
            }
            Operation::Remove { space, key } => {
                if self.window.latest(space, &key) == Some(Latest::Removed(number)) {
                    batch.remove(space, copy(&key));
                    self.window.forget(space, &key);
                }
            }
            Operation::Queued { incarnation, sequence, value }
            | Operation::Released { incarnation, sequence, value } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.live.get(sequence) == Some(value)) {
                    self.fold_backlog(incarnation, batch)?;
                }
            }
            Operation::Done { incarnation, sequence } => {
                let backlog = self.window.backlog(incarnation);
                if backlog.is_some_and(|backlog| backlog.gone.contains(&sequence)) {
                    self.fold_backlog(incarnation, batch)?;
                }
            }
            Operation::Ended { incarnation } => {
                // It must be over after any failure before the store drops what it had.
                if self.unsynced.first().is_some_and(|(unsynced, _)| *unsynced <= number) {
                    self.sync()?;
                }
                self.alive.end(incarnation);
                let key = session_key(incarnation);
                if self.window.latest(Space::Session, &key) == Some(Latest::Removed(number)) {
                    batch.remove(Space::Session, key.to_vec());
                    self.window.forget(Space::Session, &key);
                }
                for space in [Space::Subscription, Space::Receipt, Space::Queue] {
                    for (key, _) in self.of_session(space, incarnation)? {
                        batch.remove(space, key);
                    }
                }
            }
        }
        Ok(())
    }

    /// The keys of a space that belong to a session, in the maps.
    fn of_session(
        &self,
        space: Space,
        incarnation: Incarnation,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let prefix = session_key(incarnation);
        let mut found = Vec::new();
        self.store.scan(space, &prefix, &mut |key, value| {
            if !key.starts_with(&prefix) {
                return ControlFlow::Break(());
            }
            found.push((key.clone(), value.clone()));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Writes all that waits for a session and is in the window into pages.
    fn fold_backlog(
        &mut self,
        incarnation: Incarnation,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let Some(backlog) = self.window.take_backlog(incarnation) else { return Ok(()) };
        let Backlog { live, gone, overlaps } = backlog;
        let mut waiting: BTreeMap<u64, Bytes> = BTreeMap::new();
        let mut replaced = Vec::new();
        let touched = gone.first().copied().into_iter().chain(live.first().filter(|_| overlaps));
        if let Some(from) = touched.min() {
            for (key, value) in self.of_session(Space::Queue, incarnation)? {
                let entries = page::read(&value)?;
                if entries.last().is_some_and(|(last, _)| *last >= from) {
                    replaced.push(key);
                    let left = entries.into_iter().filter(|(sequence, _)| !gone.contains(sequence));
                    waiting.extend(left);
                }
            }
        }
        waiting.extend(live.from(0).map(|(sequence, at)| (sequence, self.window.value(at))));
        for (first, value) in page::write(&waiting) {
            let key = page::key(incarnation, first);
            // A page that begins where one began is one change, not two.
            replaced.retain(|replaced| *replaced != key);
            batch.put(Space::Queue, key, value);
        }
        replaced.into_iter().for_each(|key| batch.remove(Space::Queue, key));
        Ok(())
    }

    /// What waits for a session at these places of its order. What has not been committed is not among
    /// it.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn load(
        &self,
        incarnation: Incarnation,
        places: Range<u64>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Page, StoreError> {
        let none = Backlog::default();
        let backlog = self.window.backlog(incarnation).unwrap_or(&none);
        let mut waiting: BTreeMap<u64, Bytes> = BTreeMap::new();
        let mut bytes = 0;
        let mut broken = Ok(());
        // Beyond this nothing has been looked at in the pages.
        let mut seen_upto = u64::MAX;
        let prefix = session_key(incarnation);
        self.store.scan(Space::Queue, &prefix, &mut |key, value| {
            if !key.starts_with(&prefix) || page::first(key) >= places.end {
                return ControlFlow::Break(());
            }
            if waiting.len() > messages_max || bytes > bytes_max {
                seen_upto = page::first(key);
                return ControlFlow::Break(());
            }
            match page::read(value) {
                Ok(entries) => {
                    for (sequence, value) in entries {
                        if places.contains(&sequence) && !backlog.gone.contains(&sequence) {
                            bytes += value.len();
                            waiting.insert(sequence, value);
                        }
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    broken = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        broken?;
        for (sequence, place) in backlog.live.from(places.start) {
            if sequence >= places.end {
                break;
            }
            let enough = waiting.len() > messages_max
                && waiting.last_key_value().is_some_and(|(last, _)| *last < sequence);
            if sequence >= seen_upto || enough {
                break;
            }
            waiting.insert(sequence, self.window.value(place));
        }
        let (mut messages, mut void) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut next = places.start;
        for (sequence, value) in waiting {
            if messages.len() == messages_max || bytes > bytes_max {
                return Ok(Page { messages, void, next: Some(next) });
            }
            bytes += value.len();
            next = sequence + 1;
            match self.stored(incarnation, sequence, value)? {
                Some(stored) => messages.push(stored),
                None => void.push(sequence),
            }
        }
        let more = seen_upto < places.end
            || backlog.live.from(next).next().is_some_and(|(first, _)| first < places.end);
        Ok(Page { messages, void, next: more.then_some(next) })
    }

    /// Reads what waits; `None` if it does not count, since its receipt was lost.
    fn stored(
        &self,
        incarnation: Incarnation,
        sequence: u64,
        value: Bytes,
    ) -> Result<Option<Stored>, StoreError> {
        let what = |Unreadable { expected }| StoreError::Damaged {
            what: format!(
                "message {sequence} of session {:#x}: {expected} was expected",
                incarnation.to_u64()
            ),
        };
        let mut delivery = match codec::waiting(value, self.clock).map_err(what)? {
            Waiting::Released => return Ok(Some(Stored { sequence, delivery: None })),
            Waiting::Queued(delivery) => delivery,
        };
        if let Some(provided) = delivery.provided
            && provided.stream.epoch() < self.epoch
        {
            if !self.counts(provided) {
                return Ok(None);
            }
            delivery.provided = None;
        }
        Ok(Some(Stored { sequence, delivery: Some(delivery) }))
    }

    fn counts(&self, provided: Provided) -> bool {
        self.settled.get(&provided.stream).is_some_and(|&upto| provided.number <= upto)
    }

    /// Shows what the log and the maps say together of a space, in the order of the keys.
    fn each(
        &self,
        space: Space,
        visit: impl FnMut(&Bytes, &Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.window.merge(space, |show| self.store.scan(space, &[], show), visit)
    }

    /// Everything that has been committed, as it is now, for somebody else to read.
    ///
    /// *Cost*: nothing is copied or read.
    ///
    /// # Errors
    /// The store fails; see [`Lane::recover`].
    pub fn view(&self) -> Result<View, StoreError> {
        let (first, batches) = self.window.batches();
        let LaneSettings { lane, lanes, .. } = self.settings;
        let maps = self.store.maps()?;
        Ok(View { lane, lanes, epoch: self.epoch, maps, first, batches, _held: self.alive.hold() })
    }

    /// Shows every session.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn sessions(&self, mut visit: impl FnMut(SessionRecord)) -> Result<(), StoreError> {
        self.each(Space::Session, |key, value| {
            let incarnation = incarnation_of(key)?;
            let session = codec::session(incarnation, value.clone(), self.clock);
            visit(session.map_err(|unreadable| damaged(Space::Session, key, unreadable))?);
            Ok(())
        })
    }

    /// Shows every subscription, also of sessions that are over.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn subscriptions(
        &self,
        mut visit: impl FnMut(SubscriptionRecord),
    ) -> Result<(), StoreError> {
        self.each(Space::Subscription, |key, value| {
            let incarnation = incarnation_of(key)?;
            let bad = |unreadable| damaged(Space::Subscription, key, unreadable);
            let (options, identifier) = codec::subscription(value).map_err(bad)?;
            let filter = codec::filter(&key[8..]).map_err(bad)?;
            visit(SubscriptionRecord { incarnation, filter, options, identifier });
            Ok(())
        })
    }

    /// Shows every QoS 2 message that was received and not released, also of sessions that are over.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn receipts(
        &self,
        mut visit: impl FnMut(Incarnation, petrel_proto::PacketId),
    ) -> Result<(), StoreError> {
        self.each(Space::Receipt, |key, _| {
            let bad =
                || damaged(Space::Receipt, key, Unreadable { expected: "a packet identifier" });
            let number = key[8..].try_into().map(u16::from_be_bytes).map_err(|_| bad())?;
            visit(incarnation_of(key)?, petrel_proto::PacketId::new(number).ok_or_else(bad)?);
            Ok(())
        })
    }

    /// Shows every retained message.
    ///
    /// # Errors
    /// The store fails or is damaged.
    pub fn retained(&self, mut visit: impl FnMut(Message)) -> Result<(), StoreError> {
        self.each(Space::Retained, |key, value| {
            let message = codec::message(value.clone(), self.clock);
            visit(message.map_err(|unreadable| damaged(Space::Retained, key, unreadable))?);
            Ok(())
        })
    }
}

/// Begins the use of all lanes of a folder by a process. Returns its epoch: they are counted from 1.
///
/// # Errors
/// A store fails.
pub fn begin<S: Store>(lanes: &mut [Lane<S>]) -> Result<u32, StoreError> {
    let epoch = 1 + lanes.iter().map(|lane| lane.epoch).max().unwrap_or(0);
    let streams = lanes.iter().flat_map(|lane| &lane.streams);
    let settled = Arc::new(streams.map(|(stream, upto)| (*stream, *upto)).collect());
    for lane in lanes {
        lane.begin(epoch, Arc::clone(&settled))?;
    }
    Ok(epoch)
}

fn write_record(
    writer: &mut Writer,
    record: &Record,
    clock: Clock,
    streams: &mut BTreeMap<Stream, u64>,
) {
    match record {
        Record::Session(session) => {
            writer.put(Space::Session, &session_key(session.incarnation), |out| {
                codec::put_session(out, session, clock);
            });
        }
        Record::Ended { incarnation } => writer.ended(*incarnation),
        Record::Subscribed(subscription) => {
            let key = subscription_key(subscription.incarnation, subscription.filter.as_bytes());
            writer.put(Space::Subscription, &key, |out| {
                codec::put_subscription(out, subscription);
            });
        }
        Record::Unsubscribed { incarnation, filter } => {
            writer.remove(Space::Subscription, &subscription_key(*incarnation, filter.as_bytes()));
        }
        Record::Queued { incarnation, sequence, delivery } => {
            writer.queued((*incarnation, *sequence), |out| {
                codec::put_delivery(out, delivery, clock);
            });
        }
        Record::Done { incarnation, sequence } => writer.done(*incarnation, *sequence),
        Record::Released { incarnation, sequence } => {
            writer.released((*incarnation, *sequence), codec::put_released);
        }
        Record::Received { incarnation, packet_id, provided } => {
            writer.put(Space::Receipt, &receipt_key(*incarnation, *packet_id), |_| {});
            streams.insert(provided.stream, provided.number);
        }
        Record::Forgotten { incarnation, packet_id } => {
            writer.remove(Space::Receipt, &receipt_key(*incarnation, *packet_id));
        }
        Record::Retained(message) => {
            writer.put(Space::Retained, message.topic.as_bytes(), |out| {
                codec::put_message(out, message, clock);
            });
        }
        Record::Cleared(topic) => writer.remove(Space::Retained, topic.as_bytes()),
    }
}

fn subscription_key(incarnation: Incarnation, filter: &[u8]) -> Vec<u8> {
    [&session_key(incarnation), filter].concat()
}

fn receipt_key(incarnation: Incarnation, packet_id: petrel_proto::PacketId) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session_key(incarnation));
    key[8..].copy_from_slice(&packet_id.get().to_be_bytes());
    key
}

fn batch_number(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Damaged {
        what: format!("the log has a batch without a number: {key:?}"),
    })
}

pub(crate) fn incarnation_of(key: &[u8]) -> Result<Incarnation, StoreError> {
    let bytes = key.first_chunk::<8>().ok_or_else(|| StoreError::Damaged {
        what: format!("a key is too short for a session: {key:?}"),
    })?;
    Ok(Incarnation::from_u64(u64::from_be_bytes(*bytes)))
}

fn damaged(space: Space, key: &[u8], unreadable: Unreadable) -> StoreError {
    let key = key.escape_ascii();
    let (space, expected) = (space.name(), unreadable.expected);
    StoreError::Damaged { what: format!("{space} {key}: {expected} was expected") }
}

/// A copy that does not keep a whole batch in memory.
fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests;

//! Recordings of what happens to a client or a topic, for whoever has to find out why.
//!
//! Shards say what is watched while somebody does ([`petrel_shard::traced`]), and one thread puts it where it
//! belongs, in memory, within the bounds of each recording and of all together. Everything here may be called
//! from any thread but a shard's. It must never make a shard wait.

mod describe;
mod entry;
mod recording;
mod tracer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{RecvTimeoutError, Sender};
use petrel_shard::{Subject, WATCHES_MAX, Watched};
use serde_json::Value as Json;

use self::entry::{Entry, View};
use self::recording::Recording;
pub use self::recording::{About, State};
use self::tracer::{Batch, Told};
pub(crate) use self::tracer::{Comer, Ends, Inbox, channel};
pub use self::tracer::{Tracer, Watch};
use crate::pump::Clock;

/// Recordings that are held, running or not.
pub const RECORDINGS_MAX: usize = 32;
/// Seconds that one runs, at most.
pub const SECONDS_MAX: u32 = 86_400;
/// Bytes that one holds, at least and at most.
pub const BYTES_MIN: u64 = 4 << 10;
/// See [`BYTES_MIN`].
pub const BYTES_MAX: u64 = 64 << 20;
/// Bytes that all hold together.
pub const ALL_BYTES_MAX: u64 = 256 << 20;
/// Bytes of each payload that are held, at most.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 10;
/// Entries that are read at once, at most.
pub const READ_MAX: usize = 10_000;
/// A name is no longer than that, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// How often recordings are looked at while one runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// For people.
    pub name: String,
    /// Whom or what it is about.
    pub subject: Subject,
    /// How long.
    pub seconds: u32,
    /// How much.
    pub bytes: u64,
    /// Bytes of each payload that are held.
    pub payload_bytes: u32,
    /// What happens when that is reached.
    pub when_full: WhenFull,
}

/// What happens when a recording is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It ends.
    #[default]
    Stop,
    /// The oldest entries make room for the newest.
    DropOldest,
}

impl WhenFull {
    /// The names of both.
    pub const NAMES: [&'static str; 2] = ["stop", "drop_oldest"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The one with a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Stop, Self::DropOldest].into_iter().find(|it| it.name() == name)
    }
}

impl Spec {
    /// One with the bounds that few want to change: ten minutes, 4 MiB, 64 bytes of each payload.
    #[must_use]
    pub const fn new(name: String, subject: Subject) -> Self {
        let when_full = WhenFull::Stop;
        Self { name, subject, seconds: 600, bytes: 4 << 20, payload_bytes: 64, when_full }
    }

    /// Whether it is within the bounds.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { name, subject, seconds, bytes, payload_bytes, when_full: _ } = self;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("the name must have 1 to {NAME_BYTES_MAX} bytes"));
        }
        if *seconds == 0 || *seconds > SECONDS_MAX {
            return Err(format!("a recording runs for 1 to {SECONDS_MAX} seconds"));
        }
        if !(BYTES_MIN..=BYTES_MAX).contains(bytes) {
            return Err(format!("a recording holds {BYTES_MIN} to {BYTES_MAX} bytes"));
        }
        if *payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("of each payload {PAYLOAD_BYTES_MAX} bytes are held at most"));
        }
        match subject {
            Subject::Topic(filter) if filter.shared().is_some() => {
                Err("name the topic filter without $share and the name of the group".into())
            }
            _ => Ok(()),
        }
    }
}

/// Speaks to all shards.
pub(crate) trait TellWatch: Send + Sync {
    /// This is watched from now on, or nothing.
    fn watch(&self, watch: Option<Watch>);
}

/// The recordings of a broker.
pub struct Traces {
    inner: Arc<Inner>,
    sender: Sender<Told>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    book: Mutex<Book>,
    shards: Box<dyn TellWatch>,
    clock: Clock,
    /// When the process began, in microseconds since 1970.
    begin_us: u64,
    listeners: Vec<String>,
}

/// All recordings.
#[derive(Debug, Default)]
struct Book {
    recordings: BTreeMap<u64, Recording>,
    next_id: u64,
    /// What shards have been told.
    watched: Watched,
}

impl Traces {
    /// Begins without any.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        inbox: Inbox,
        shards: Box<dyn TellWatch>,
        clock: Clock,
        listeners: Vec<String>,
    ) -> std::io::Result<Self> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begin = since_1970.saturating_sub(Duration::from_micros(clock.micros()));
        let begin_us = u64::try_from(begin.as_micros()).unwrap_or_default();
        let book = Mutex::new(Book { next_id: 1, ..Book::default() });
        let inner = Arc::new(Inner { book, shards, clock, begin_us, listeners });
        let Inbox { sender, receiver } = inbox;
        let hands = Arc::clone(&inner);
        let run = move || {
            let mut told = receiver.recv().map_err(|_| RecvTimeoutError::Disconnected);
            loop {
                match told {
                    Ok(Told::Batch(batch)) => hands.take(batch),
                    Ok(Told::Look) | Err(RecvTimeoutError::Timeout) => {}
                    Ok(Told::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                }
                told = match hands.look() {
                    true => receiver.recv_timeout(LOOK_EVERY),
                    false => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
            }
        };
        let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(run)?;
        Ok(Self { inner, sender, thread: Some(thread) })
    }

    /// Begins a recording. Returns its number.
    ///
    /// # Errors
    /// What is wrong with it, or that there are too many, as a sentence.
    pub fn begin(&self, spec: Spec) -> Result<u64, String> {
        spec.check()?;
        let now_us = self.inner.clock.micros();
        let mut book = self.inner.book();
        book.look(now_us);
        if book.recordings.len() >= RECORDINGS_MAX {
            return Err(format!("there are {RECORDINGS_MAX} recordings; delete one first"));
        }
        let held: u64 = book.recordings.values().map(Recording::bytes_max).sum();
        if held + spec.bytes > ALL_BYTES_MAX {
            return Err(format!(
                "all recordings together would hold more than {ALL_BYTES_MAX} bytes; delete one first, \
                 or ask for less"
            ));
        }
        let taken = |place: usize| {
            book.recordings.values().any(|it| it.place == place && !it.is_settled(now_us))
        };
        let Some(place) = (0..WATCHES_MAX).find(|&place| !taken(place)) else {
            return Err(format!("{WATCHES_MAX} recordings run at once at most; stop one first"));
        };
        let id = book.next_id;
        book.next_id += 1;
        let since = book.watched.number + 1;
        book.recordings.insert(id, Recording::new(id, spec, place, since, now_us));
        self.inner.tell(&mut book);
        drop(book);
        // A thread that is busy looks anyway.
        let _ = self.sender.try_send(Told::Look);
        Ok(id)
    }

    /// All recordings.
    #[must_use]
    pub fn list(&self) -> Vec<About> {
        self.inner.look();
        let book = self.inner.book();
        book.recordings.values().map(|it| it.about(self.inner.begin_us)).collect()
    }

    /// One of them.
    #[must_use]
    pub fn about(&self, id: u64) -> Option<About> {
        self.inner.look();
        self.inner.book().recordings.get(&id).map(|it| it.about(self.inner.begin_us))
    }

    /// Ends a recording, which can be read for as long as it is not deleted. `None` if there is none.
    #[must_use]
    pub fn stop(&self, id: u64) -> Option<About> {
        let now_us = self.inner.clock.micros();
        {
            let mut book = self.inner.book();
            book.recordings.get_mut(&id)?.end(State::Stopped, now_us);
            self.inner.tell(&mut book);
        }
        self.about(id)
    }

    /// Ends a recording and forgets it; false if there is none.
    #[must_use]
    pub fn delete(&self, id: u64) -> bool {
        let mut book = self.inner.book();
        let was_there = book.recordings.remove(&id).is_some();
        self.inner.tell(&mut book);
        was_there
    }

    /// Entries of a recording from a position on, as lines for people, and the position behind them. Those of the
    /// last fifth of a second are not there yet. Fewer than `most` if they are large, none only if there are none. `None`
    /// if there is no such recording.
    #[must_use]
    pub fn text(&self, id: u64, from: u64, most: usize) -> Option<(Vec<String>, u64)> {
        self.read(id, from, most, Entry::text)
    }

    /// The same as objects.
    #[must_use]
    pub fn json(&self, id: u64, from: u64, most: usize) -> Option<(Vec<Json>, u64)> {
        self.read(id, from, most, Entry::json)
    }

    fn read<T>(
        &self,
        id: u64,
        from: u64,
        most: usize,
        show: impl Fn(&Entry, &View<'_>) -> T,
    ) -> Option<(Vec<T>, u64)> {
        self.inner.look();
        let (entries, next, payload_bytes) = {
            let book = self.inner.book();
            let recording = book.recordings.get(&id)?;
            let (entries, next) = recording.read(from, most.min(READ_MAX));
            (entries, next, recording.spec.payload_bytes as usize)
        };
        let begin = Duration::from_micros(self.inner.begin_us);
        let view = View { begin, listeners: &self.inner.listeners, payload_bytes };
        Some((entries.iter().map(|entry| show(entry, &view)).collect(), next))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // The thread takes what is there before.
        let _ = self.sender.send(Told::Stop);
        if let Some(thread) = self.thread.take() {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, batch: Batch) {
        let mut book = self.book();
        let Batch { number, entries, left_out, .. } = batch;
        let entries: Vec<_> = entries.into_iter().map(Arc::new).collect();
        for recording in book.recordings.values_mut() {
            for (number, count) in &left_out {
                recording.note_left_out(*number, *count);
            }
            entries.iter().for_each(|entry| recording.take(number, entry));
        }
    }

    /// Looks what is over. True if something is still to be looked at.
    fn look(&self) -> bool {
        let now_us = self.clock.micros();
        let mut book = self.book();
        book.look(now_us);
        self.tell(&mut book);
        book.recordings.values().any(|it| !it.is_settled(now_us))
    }

    /// Tells the shards what is watched, if that is something else than before.
    fn tell(&self, book: &mut Book) {
        let mut subjects = std::array::from_fn(|_| None);
        let running = || book.recordings.values().filter(|it| it.is_running());
        for recording in running() {
            subjects[recording.place] = Some(recording.spec.subject.clone());
        }
        let payload_bytes = running().map(|it| it.spec.payload_bytes as usize).max();
        // A recording that begins needs a number of its own, whatever was watched in its place before.
        let begins = running().any(|it| it.since > book.watched.number);
        if subjects == book.watched.subjects && !begins {
            return;
        }
        let number = book.watched.number + 1;
        book.watched = Watched { number, subjects };
        let watched = Arc::new(book.watched.clone());
        let payload_bytes = payload_bytes.unwrap_or(0);
        let watch = Some(Watch { watched, payload_bytes });
        self.shards.watch(watch.filter(|watch| !watch.watched.is_nothing()));
    }
}

impl Book {
    fn look(&mut self, now_us: u64) {
        self.recordings.values_mut().for_each(|it| it.settle(now_us));
    }
}

#[cfg(test)]
mod tests;

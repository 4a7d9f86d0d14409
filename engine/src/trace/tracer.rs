//! A shard's end: what it says while somebody watches goes to the recordings in batches.
//!
//! A shard never waits for them: what finds the channel full is left out and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{ConnId, Outbox, ShardIndex, Watched, Watchers, Whence};

use super::describe::{Fields, describe};
use super::entry::Entry;

/// Batches that may wait for the recordings.
const BATCHES_MAX: usize = 256;
/// Entries of a batch.
const BATCH_MAX: usize = 512;
/// Bytes of a batch, but for its last entry.
const BATCH_BYTES_MAX: u64 = 256 << 10;
/// Bytes of all batches that wait, of all shards.
const WAITING_BYTES_MAX: u64 = 32 << 20;

/// What is watched, as shards are told.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// By whom and what.
    pub(crate) watched: Arc<Watched>,
    /// Bytes of a payload that somebody wants, at most.
    pub(super) payload_bytes: usize,
}

/// What recordings are told.
#[derive(Debug)]
pub(super) enum Told {
    Batch(Batch),
    /// Something is recorded from now on.
    Look,
    Stop,
}

/// What a shard has said.
#[derive(Debug)]
pub(super) struct Batch {
    /// Which watch it is of.
    pub(super) number: u64,
    pub(super) entries: Vec<Entry>,
    /// What was left out before these, for whomever: of which watch, and how much.
    pub(super) left_out: Vec<(u64, u64)>,
    /// Room for the entries, until they are where they belong.
    _room: Room,
}

/// Bytes that wait, which are given back when it is dropped.
#[derive(Debug)]
struct Room {
    waiting: Arc<AtomicU64>,
    bytes: u64,
}

impl Room {
    fn take(waiting: &Arc<AtomicU64>, bytes: u64) -> Option<Self> {
        let more = |before: u64| Some(before + bytes).filter(|all| *all <= WAITING_BYTES_MAX);
        let waiting = Arc::clone(waiting);
        let taken = waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Self { waiting, bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way to the recordings, and their end of it.
pub(crate) fn channel() -> (Ends, Inbox) {
    let (sender, receiver) = bounded(BATCHES_MAX);
    let ends = Ends { sender: sender.clone(), waiting: Arc::default() };
    (ends, Inbox { sender, receiver })
}

/// Makes the ends of shards.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    sender: Sender<Told>,
    /// Bytes that are on their way.
    waiting: Arc<AtomicU64>,
}

/// Where everything arrives.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(super) sender: Sender<Told>,
    pub(super) receiver: Receiver<Told>,
}

impl Ends {
    /// That of one shard.
    pub(crate) fn of(&self, shard: ShardIndex) -> Tracer {
        let Self { sender, waiting } = self.clone();
        let (entries, left_out) = (Vec::new(), Vec::new());
        Tracer { sender, waiting, shard: shard.0, watch: None, entries, bytes: 0, left_out }
    }
}

/// The end of one shard.
#[derive(Debug)]
pub struct Tracer {
    sender: Sender<Told>,
    waiting: Arc<AtomicU64>,
    shard: u16,
    watch: Option<Watch>,
    entries: Vec<Entry>,
    /// What the entries take.
    bytes: u64,
    /// By watch, since recordings that begin later have missed nothing.
    left_out: Vec<(u64, u64)>,
}

impl Tracer {
    /// Whether anything is watched.
    #[inline]
    #[must_use]
    pub(crate) const fn is_on(&self) -> bool {
        self.watch.is_some()
    }

    /// Something else is watched from now on.
    pub(crate) fn set(&mut self, watch: Option<Watch>) {
        self.flush();
        self.watch = watch;
    }

    /// Takes what the shard has said of one input.
    pub(crate) fn take(&mut self, at_us: u64, out: &mut Outbox) {
        let Some(watch) = &self.watch else { return };
        let payload_bytes = watch.payload_bytes;
        self.leave_out(watch.watched.number, std::mem::take(&mut out.untraced));
        for traced in out.traced.drain(..) {
            self.push(describe(traced, at_us, self.shard, payload_bytes));
        }
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.cost_bytes();
        self.entries.push(entry);
        if self.entries.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    fn leave_out(&mut self, number: u64, count: u64) {
        match self.left_out.last_mut() {
            _ if count == 0 => {}
            Some((of, left_out)) if *of == number => *left_out += count,
            _ => self.left_out.push((number, count)),
        }
    }

    /// Who wants to hear of somebody that has not come as far as a shard.
    pub(crate) fn watchers(&self, about: &Comer<'_>) -> Watchers {
        let address = about.whence.map(|whence| whence.address.ip());
        let watch = self.watch.as_ref();
        watch.map_or(Watchers::NONE, |it| it.watched.of_comer(about.client_id, about.user, address))
    }

    /// Says that somebody is turned away before it comes to a shard.
    pub(crate) fn denied(
        &mut self,
        at_us: u64,
        conn: ConnId,
        about: &Comer<'_>,
        (reason, what): (ReasonCode, &'static str),
    ) {
        let to = self.watchers(about);
        if to.is_none() {
            return;
        }
        let mut fields = Fields::new();
        fields.reason(reason);
        fields.word("what", what);
        self.push(Entry {
            at_us,
            shard: self.shard,
            to,
            conn: Some(conn),
            whence: about.whence,
            client_id: Some(about.client_id.to_owned()),
            topic: None,
            event: "denied",
            fields: fields.fields,
        });
    }

    /// Says that a connection is not read for a while.
    pub(crate) fn held(
        &mut self,
        at_us: u64,
        conn: ConnId,
        (to, client_id): (Watchers, Option<Text>),
        why: &'static str,
    ) {
        if to.is_none() {
            return;
        }
        let mut fields = Fields::new();
        fields.word("why", why);
        self.push(Entry {
            at_us,
            shard: self.shard,
            to,
            conn: Some(conn),
            whence: None,
            client_id: client_id.map(|id| id.as_str().to_owned()),
            topic: None,
            event: "held",
            fields: fields.fields,
        });
    }

    /// Gives away what there is.
    pub(crate) fn flush(&mut self) {
        if self.entries.is_empty() && self.left_out.is_empty() {
            return;
        }
        let Some(watch) = &self.watch else { return };
        let number = watch.watched.number;
        let entries = std::mem::take(&mut self.entries);
        let (count, bytes) = (entries.len() as u64, std::mem::take(&mut self.bytes));
        let Some(_room) = Room::take(&self.waiting, bytes) else {
            return self.leave_out(number, count);
        };
        let left_out = std::mem::take(&mut self.left_out);
        match self.sender.try_send(Told::Batch(Batch { number, entries, left_out, _room })) {
            Ok(()) => {}
            // Full, or nobody is there any more.
            Err(TrySendError::Full(told) | TrySendError::Disconnected(told)) => {
                if let Told::Batch(batch) = told {
                    self.left_out = batch.left_out;
                }
                self.leave_out(number, count);
            }
        }
    }
}

/// Somebody who comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comer<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) whence: Option<Whence>,
}

//! A shard's end: what it says while somebody watches goes to the recordings in batches.
//!
//! A shard never waits for them: what finds the channel full is left out and counted.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{ConnId, Outbox, ShardIndex, Watched, Watchers, Whence};

use super::describe::{Fields, describe};
use super::entry::Entry;

/// Batches that may wait for the recordings.
const BATCHES_MAX: usize = 256;
/// Entries of a batch.
const BATCH_MAX: usize = 512;

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
    /// What was left out before these, for whomever.
    pub(super) left_out: u64,
}

/// The way to the recordings, and their end of it.
pub(crate) fn channel() -> (Ends, Inbox) {
    let (sender, receiver) = bounded(BATCHES_MAX);
    (Ends(sender.clone()), Inbox { sender, receiver })
}

/// Makes the ends of shards.
#[derive(Debug, Clone)]
pub(crate) struct Ends(Sender<Told>);

/// Where everything arrives.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(super) sender: Sender<Told>,
    pub(super) receiver: Receiver<Told>,
}

impl Ends {
    /// That of one shard.
    pub(crate) fn of(&self, shard: ShardIndex) -> Tracer {
        let (sender, shard) = (self.0.clone(), shard.0);
        Tracer { sender, shard, watch: None, entries: Vec::new(), left_out: 0 }
    }
}

/// The end of one shard.
#[derive(Debug)]
pub struct Tracer {
    sender: Sender<Told>,
    shard: u16,
    watch: Option<Watch>,
    entries: Vec<Entry>,
    left_out: u64,
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
        self.left_out += std::mem::take(&mut out.untraced);
        for traced in out.traced.drain(..) {
            self.entries.push(describe(traced, at_us, self.shard, watch.payload_bytes));
        }
        if self.entries.len() >= BATCH_MAX {
            self.flush();
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
        self.entries.push(Entry {
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
        self.entries.push(Entry {
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
        if self.entries.is_empty() && self.left_out == 0 {
            return;
        }
        let Some(watch) = &self.watch else { return };
        let (entries, left_out) = (std::mem::take(&mut self.entries), self.left_out);
        let count = entries.len() as u64;
        let batch = Batch { number: watch.watched.number, entries, left_out };
        self.left_out = match self.sender.try_send(Told::Batch(batch)) {
            Ok(()) => 0,
            // Full, or nobody is there any more.
            Err(_) => left_out + count,
        };
    }
}

/// Somebody who comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comer<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) whence: Option<Whence>,
}

//! Which of the messages that are being written wait for several sessions.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use hashbrown::HashMap;
use petrel_proto::Qos;
use petrel_shard::Message;
use petrel_shard::record::Record;

use super::Lane;
use crate::codec::{self, Clock, Unreadable};
use crate::log::Writer;
use crate::shared::{Shared, SharedId};
use crate::store::{Space, Store, StoreError};

/// A message whose payload has so many bytes is stored once for all sessions of a lane for which it is
/// written together; a shorter one is stored for each, where it is read with what waits beside it.
pub const SHARED_BYTES_MIN: usize = 1024;

/// Names are looked over for such that nobody uses when there are so many, and then at each doubling.
const READ_MIN: usize = 256;

/// Messages that are long enough to be stored once, of what is written together.
#[derive(Debug)]
pub(super) struct Sharing {
    /// By their place in memory, where they stay until all is written: for how many they wait, and what
    /// stands for them in the present batch.
    messages: HashMap<*const Message, (u32, Option<Shared>)>,
}

/// The message that waits, if it has so many bytes.
pub(super) fn long(record: &Record, bytes_min: usize) -> Option<&Arc<Message>> {
    match record {
        Record::Queued { delivery, .. } => {
            Some(&delivery.message).filter(|message| message.payload.len() >= bytes_min)
        }
        _ => None,
    }
}

impl Sharing {
    /// Counts for how many each message waits.
    pub(super) fn of<'r>(messages: impl Iterator<Item = &'r Arc<Message>>) -> Self {
        let mut found: HashMap<_, (u32, _)> = HashMap::new();
        for message in messages {
            found.entry(Arc::as_ptr(message)).or_default().0 += 1;
        }
        Self { messages: found }
    }

    /// What stands for a message that waits for several, which is written before the first of them.
    pub(super) fn stand_in(
        &mut self,
        message: &Arc<Message>,
        writer: &mut Writer,
        next: impl FnOnce() -> SharedId,
        clock: Clock,
    ) -> Option<Shared> {
        let (_, shared) =
            self.messages.get_mut(&Arc::as_ptr(message)).filter(|(count, _)| *count > 1)?;
        if shared.is_none() {
            let id = next();
            writer.shared(id, |out| codec::put_message(out, message, clock));
            *shared = Some(Shared {
                id,
                expires_at_wall_ms: clock.to_wall(message.expires_at_ms),
                // A packet has at most 256 MiB.
                cost_bytes: message.cost_bytes() as u32,
                stays: message.qos == Qos::ExactlyOnce,
            });
        }
        *shared
    }

    /// A batch ends; what the next one names it holds itself.
    pub(super) fn end_batch(&mut self) {
        self.messages.values_mut().for_each(|(_, shared)| *shared = None);
    }
}

/// Messages that were read for one session, while any still uses them.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    messages: HashMap<SharedId, Weak<Message>>,
    /// There were so many in use when that was looked at.
    used: usize,
}

impl Reads {
    fn get(&self, id: SharedId) -> Option<Arc<Message>> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.messages.get(&id)?.upgrade()
    }

    fn insert(&self, id: SharedId, message: &Arc<Message>) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.messages.len() >= READ_MIN.max(2 * read.used) {
            read.messages.retain(|_, message| message.strong_count() > 0);
            read.used = read.messages.len();
            let room = 2 * read.used;
            read.messages.shrink_to(room);
        }
        read.messages.insert(id, Arc::downgrade(message));
    }
}

impl<S: Store> Lane<S> {
    /// Reads a message that several sessions share; `None` if it has expired and is gone.
    pub(super) fn shared_message(
        &self,
        shared: Shared,
    ) -> Result<Option<Arc<Message>>, StoreError> {
        if let Some(message) = self.reads.get(shared.id) {
            return Ok(Some(message));
        }
        let bytes = match self.window.shared(shared.id) {
            Some(bytes) => Some(bytes),
            None => self.store.get(Space::Shared, &shared.id.key())?,
        };
        let name = shared.id.to_u64();
        let Some(bytes) = bytes else {
            // Nobody but the sweep takes what is still named.
            if shared.goes_at_wall_ms() < u64::MAX {
                return Ok(None);
            }
            let what = format!("message {name:#x} that several sessions share is missing");
            return Err(StoreError::Damaged { what });
        };
        let message = codec::message(bytes, self.clock).map_err(|Unreadable { expected }| {
            StoreError::Damaged { what: format!("shared {name:#x}: {expected} was expected") }
        })?;
        let message = Arc::new(message.into_owned());
        self.reads.insert(shared.id, &message);
        Ok(Some(message))
    }
}

#[cfg(test)]
pub(super) mod tests;

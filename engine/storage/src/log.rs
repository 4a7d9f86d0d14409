//! The operations of which a batch in the log consists.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use petrel_shard::Incarnation;

use crate::shared::SharedId;
use crate::store::{Space, StoreError};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const QUEUED: u8 = 3;
const RELEASED: u8 = 4;
const DONE: u8 = 5;
const ENDED: u8 = 6;
const SHARED: u8 = 7;

/// A writer keeps so much memory at most.
const KEEP_BYTES_MAX: usize = 4 << 20;
/// And so many buffers for batches, of so many bytes each.
const BUFFERS_KEPT_MAX: usize = 4;
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// And room for so many marks.
const MARKS_KEPT_MAX: usize = 16 << 10;

/// Where a value lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of its batch.
    pub(crate) batch: u64,
    /// Its first byte.
    pub(crate) start: u32,
    /// How many there are.
    pub(crate) bytes: u32,
}

/// One operation, with values by their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A key has this value.
    Put { space: Space, key: Bytes, value: Place },
    /// A key is gone.
    Remove { space: Space, key: Bytes },
    /// Something waits for a session.
    Queued { incarnation: Incarnation, sequence: u64, value: Place },
    /// What waits has been replaced by what is left of it.
    Released { incarnation: Incarnation, sequence: u64, value: Place },
    /// It waits no longer.
    Done { incarnation: Incarnation, sequence: u64 },
    /// A session is over.
    Ended { incarnation: Incarnation },
    /// A message that what follows in the batch names.
    Shared { id: SharedId, value: Place },
}

/// Where an operation stands in a batch that is being written, so that it needs not be read again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    /// Something waits for a session.
    Queued { incarnation: Incarnation, sequence: u64, start: u32, bytes: u32 },
    /// It waits no longer.
    Done { incarnation: Incarnation, sequence: u64 },
    /// One that is rarer, which begins here.
    Other { at: u32 },
}

/// A batch that is being written.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: BytesMut,
    marks: Vec<Mark>,
    /// Empty, for what is taken, oldest first.
    buffers: VecDeque<BytesMut>,
}

impl Writer {
    pub(crate) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn put(&mut self, space: Space, key: &[u8], value: impl FnOnce(&mut BytesMut)) {
        self.other(PUT);
        self.key(space, key);
        self.value(value);
    }

    pub(crate) fn remove(&mut self, space: Space, key: &[u8]) {
        self.other(REMOVE);
        self.key(space, key);
    }

    pub(crate) fn queued(
        &mut self,
        (incarnation, sequence): (Incarnation, u64),
        value: impl FnOnce(&mut BytesMut),
    ) {
        self.out.put_u8(QUEUED);
        self.waits(incarnation, sequence);
        let (start, bytes) = self.value(value);
        self.marks.push(Mark::Queued { incarnation, sequence, start, bytes });
    }

    pub(crate) fn shared(&mut self, id: SharedId, value: impl FnOnce(&mut BytesMut)) {
        self.other(SHARED);
        self.out.put_u64(id.to_u64());
        self.value(value);
    }

    pub(crate) fn released(
        &mut self,
        (incarnation, sequence): (Incarnation, u64),
        value: impl FnOnce(&mut BytesMut),
    ) {
        self.other(RELEASED);
        self.waits(incarnation, sequence);
        self.value(value);
    }

    pub(crate) fn done(&mut self, incarnation: Incarnation, sequence: u64) {
        self.out.put_u8(DONE);
        self.waits(incarnation, sequence);
        self.marks.push(Mark::Done { incarnation, sequence });
    }

    pub(crate) fn ended(&mut self, incarnation: Incarnation) {
        self.other(ENDED);
        self.out.put_u64(incarnation.to_u64());
    }

    /// What was written, with at most twice the memory that it needs; the writer is empty again but for
    /// the marks ([`Writer::marks`]), and keeps its own memory unless that is much.
    pub(crate) fn take(&mut self) -> Bytes {
        let bytes = self.out.len();
        let fits = |buffer: &BytesMut| (bytes..=2 * bytes).contains(&buffer.capacity());
        let buffer = self.buffers.iter().position(fits).and_then(|at| self.buffers.remove(at));
        let mut batch = buffer.unwrap_or_else(|| BytesMut::with_capacity(bytes));
        batch.extend_from_slice(&self.out);
        self.out.clear();
        if self.out.capacity() > KEEP_BYTES_MAX {
            self.out = BytesMut::new();
        }
        batch.freeze()
    }

    /// Writes into the memory of a batch again, if nobody else has it.
    ///
    /// *Cost*: a batch has mostly more than the allocator keeps, and memory that comes from the system is
    /// made page by page.
    pub(crate) fn reuse(&mut self, batch: Bytes) {
        if batch.len() <= BUFFER_BYTES_MAX
            && let Ok(mut buffer) = batch.try_into_mut()
        {
            buffer.clear();
            // The oldest may be of a size that is not wanted now.
            if self.buffers.len() == BUFFERS_KEPT_MAX {
                self.buffers.pop_front();
            }
            self.buffers.push_back(buffer);
        }
    }

    /// Where everything is that was written since this was last called, in order.
    pub(crate) fn marks(&mut self) -> impl Iterator<Item = Mark> + '_ {
        self.marks.shrink_to(MARKS_KEPT_MAX.max(self.marks.len()));
        self.marks.drain(..)
    }

    fn other(&mut self, tag: u8) {
        // A batch is never longer than a u32 can say.
        self.marks.push(Mark::Other { at: self.out.len() as u32 });
        self.out.put_u8(tag);
    }

    fn key(&mut self, space: Space, key: &[u8]) {
        self.out.put_u8(space as u8);
        // Client identifiers and topics have at most 65,535 bytes, and 8 of an incarnation.
        self.out.put_u32(key.len() as u32);
        self.out.put_slice(key);
    }

    fn waits(&mut self, incarnation: Incarnation, sequence: u64) {
        self.out.put_u64(incarnation.to_u64());
        self.out.put_u64(sequence);
    }

    /// Returns where it begins, and its length.
    fn value(&mut self, value: impl FnOnce(&mut BytesMut)) -> (u32, u32) {
        let at = self.out.len();
        self.out.put_u32(0);
        value(&mut self.out);
        // A value is a packet of at most 256 MiB and a little more.
        let bytes = (self.out.len() - at - 4) as u32;
        self.out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
        (at as u32 + 4, bytes)
    }
}

/// Reads the operations of a batch from a position on.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    batch: u64,
    whole: u32,
    rest: Bytes,
}

impl Reader {
    /// Bounds: batches stay far below 4 GiB.
    pub(crate) fn new(batch: u64, bytes: &Bytes, from: u32) -> Self {
        Self { batch, whole: bytes.len() as u32, rest: bytes.slice(from as usize..) }
    }

    /// How far it has read.
    pub(crate) fn position(&self) -> u32 {
        self.whole - self.rest.len() as u32
    }

    /// The next operation; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Operation>, StoreError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.position();
        self.operation().map(Some).ok_or_else(|| StoreError::Damaged {
            what: format!("batch {} of the log cannot be read at byte {at}", self.batch),
        })
    }

    fn operation(&mut self) -> Option<Operation> {
        Some(match self.rest.try_get_u8().ok()? {
            PUT => {
                let (space, key) = self.key()?;
                Operation::Put { space, key, value: self.value()? }
            }
            REMOVE => {
                let (space, key) = self.key()?;
                Operation::Remove { space, key }
            }
            QUEUED => {
                let (incarnation, sequence) = self.waits()?;
                Operation::Queued { incarnation, sequence, value: self.value()? }
            }
            RELEASED => {
                let (incarnation, sequence) = self.waits()?;
                Operation::Released { incarnation, sequence, value: self.value()? }
            }
            DONE => {
                let (incarnation, sequence) = self.waits()?;
                Operation::Done { incarnation, sequence }
            }
            ENDED => {
                let incarnation = Incarnation::from_u64(self.rest.try_get_u64().ok()?);
                Operation::Ended { incarnation }
            }
            SHARED => {
                let id = SharedId::from_u64(self.rest.try_get_u64().ok()?);
                Operation::Shared { id, value: self.value()? }
            }
            _ => return None,
        })
    }

    fn key(&mut self) -> Option<(Space, Bytes)> {
        let space = Space::from_u8(self.rest.try_get_u8().ok()?)?;
        let bytes = self.rest.try_get_u32().ok()? as usize;
        (self.rest.len() >= bytes).then(|| (space, self.rest.split_to(bytes)))
    }

    fn waits(&mut self) -> Option<(Incarnation, u64)> {
        let incarnation = Incarnation::from_u64(self.rest.try_get_u64().ok()?);
        Some((incarnation, self.rest.try_get_u64().ok()?))
    }

    fn value(&mut self) -> Option<Place> {
        let bytes = self.rest.try_get_u32().ok()?;
        let place = Place { batch: self.batch, start: self.position(), bytes };
        (self.rest.len() >= bytes as usize).then(|| {
            self.rest.advance(bytes as usize);
            place
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Bytes {
        let life = Incarnation::from_u64(7);
        let mut writer = Writer::default();
        writer.put(Space::Session, b"key", |out| out.put_slice(b"value"));
        writer.remove(Space::Retained, b"a/b");
        writer.queued((life, 1), |out| out.put_slice(b"message"));
        writer.released((life, 1), |out| out.put_u8(9));
        writer.done(life, 1);
        writer.ended(life);
        writer.shared(SharedId::new(1, 2), |out| out.put_slice(b"for many"));
        writer.take()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let mut reader = Reader::new(3, &bytes, 0);
        let mut values = Vec::new();
        let mut count = 0;
        while let Some(operation) = reader.next().unwrap() {
            count += 1;
            if let Operation::Put { value, .. }
            | Operation::Queued { value, .. }
            | Operation::Shared { value, .. }
            | Operation::Released { value, .. } = operation
            {
                assert_eq!(value.batch, 3);
                let start = value.start as usize;
                values.push(bytes.slice(start..start + value.bytes as usize));
            }
        }
        assert_eq!(count, 7);
        assert_eq!(values, [&b"value"[..], b"message", &[9], b"for many"]);
    }

    #[test]
    fn marks_say_what_reading_says() {
        let life = Incarnation::from_u64(7);
        let mut writer = Writer::default();
        writer.put(Space::Session, b"key", |out| out.put_slice(b"value"));
        writer.queued((life, 1), |out| out.put_slice(b"message"));
        writer.done(life, 1);
        writer.ended(life);
        let bytes = writer.take();
        let mut reader = Reader::new(3, &bytes, 0);
        for mark in writer.marks() {
            let operation = match mark {
                Mark::Queued { incarnation, sequence, start, bytes } => {
                    let value = Place { batch: 3, start, bytes };
                    Operation::Queued { incarnation, sequence, value }
                }
                Mark::Done { incarnation, sequence } => Operation::Done { incarnation, sequence },
                Mark::Other { at } => Reader::new(3, &bytes, at).next().unwrap().unwrap(),
            };
            assert_eq!(reader.next().unwrap(), Some(operation));
        }
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(writer.marks().count(), 0);
    }

    #[test]
    fn half_an_operation_is_damage() {
        let whole = sample();
        for end in 0..whole.len() {
            let mut reader = Reader::new(0, &whole.slice(..end), 0);
            let mut read = 0;
            let damaged = loop {
                match reader.next() {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => break false,
                    Err(error) => break matches!(error, StoreError::Damaged { .. }),
                }
            };
            assert!(read < 7, "{end}");
            let mut whole_ones = Reader::new(0, &whole, 0);
            let mut ends = vec![0];
            while whole_ones.next().unwrap().is_some() {
                ends.push(whole_ones.position() as usize);
            }
            assert_eq!(damaged, !ends.contains(&end), "{end}");
        }
    }
}
